"""The loss of many fully connected networks at once, from a few large matrix products."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from samlib.dynamics import rules
from samlib.errors import BadInput
from samlib.training import mlp, models
from samlib.training.data import Dataset
from samlib.training.loss import Iterate, Loss, OnBatches
from samlib.training.spec import RunSpec


class _Batch(NamedTuple):
    """Examples of the training set: inputs (N, d), classes (N,), outputs aimed at (k, N)."""

    x: Tensor
    y: Tensor
    target: Tensor


class StackedLoss(Loss):
    """The loss f of :class:`samlib.training.loss.Loss` for E networks as the rows of θ.

    The mean loss is cross-entropy (``ce``), ½‖output − one-hot‖² (``mse``) or the logistic loss of
    one output (``logistic``, two classes).

    Parameters
    ----------
    spec
        A run of ``model = "mlp"``; it gives the architecture, loss, weight decay and precision.
    dataset
        The data.
    device
        Where they are to lie.

    Raises
    ------
    BadInput
        If the loss is ``logistic`` and there are not two classes, or the network cannot be built.
    """

    LOOKS = 200
    CHECK_EVERY = 100

    def __init__(self, spec: RunSpec, dataset: Dataset, device: str = "cpu") -> None:
        super().__init__(spec, dataset, device)
        self.name, self.loss = spec.model, spec.loss
        if self.loss == "logistic" and self.classes != 2:
            found = f"loss 'logistic' needs 2 classes, not {self.classes}"
            raise BadInput(f"{found}; choose two, for example --classes 3,8")
        outputs = 1 if self.loss == "logistic" else self.classes
        sizes = {"in_features": dataset.x_train.shape[1], "out_features": outputs}
        self.options = spec.architecture | sizes
        self.stacked = mlp.Stacked(models.build_model(self.name, **self.options))
        hot = F.one_hot(self.y, self.classes).to(self.x).T.contiguous()
        self._whole = _Batch(self.x, self.y, hot[1:] if self.loss == "logistic" else hot)

    def double(self) -> StackedLoss:
        """The same loss in float64."""
        out = copy.copy(self)
        out.x, out.x_test = self.x.double(), self.x_test.double()
        out._whole = self._whole._replace(x=out.x)
        return out

    def start(self, specs: Sequence[RunSpec], theta: Tensor | None = None) -> StackedIterate:
        return StackedIterate(self, specs, theta)

    def initial(self, seed: int) -> Tensor:
        """PyTorch's default initialisation for ``seed``, shape (p,)."""
        model = models.build_model(self.name, seed=seed, **self.options)
        return models.flat_parameters(model).to(self.x)

    @property
    def baseline(self) -> float:
        """The loss of the best constant predictor: the entropy of the class prior, or its MSE."""
        if self.loss == "mse":
            return float((self.prior * (1 - self.prior)).sum()) / 2
        return super().baseline

    def row_bytes(self, steps: int) -> int:
        """About how much memory training for ``steps`` takes for each row, in bytes."""
        rows, hidden = max(len(self.x), len(self.x_test)), self.options["width"]
        images: int = 3 * hidden * self.options["depth"] + 4 * self.options["out_features"]
        parameters = 12 * sum(shape.numel() for shape in self.stacked.shapes)
        # Of the curves, four numbers a step, a second copy is in double precision.
        return self.x.element_size() * (images * rows + parameters + 4 * steps) + 64 * steps

    def value_and_grad(self, theta: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Losses (E,) and gradients (E, p) for each row of θ; of all examples, or of ``rows``."""
        batch = self._batch(rows)
        losses, g = self.stacked.gradient(theta, batch.x, lambda out: self._slope(out, batch))
        if self.decay:
            losses = losses + self.decay / 2 * (theta * theta).sum(1)
            g = g.add_(theta, alpha=self.decay)
        return losses, g

    def hvp(self, theta: Tensor, v: Tensor, rows: Tensor | None = None) -> Tensor:
        """∇²f(θ)v for each row of θ and v, (E, p); of all examples, or of ``rows``."""
        batch = self._batch(rows)
        parts = [p.detach().requires_grad_() for p in self.stacked.parts(theta)]
        losses = self._losses(self.stacked.forward(parts, batch.x), batch)
        pieces = torch.autograd.grad(losses.sum(), parts, create_graph=True)
        second = torch.autograd.grad(pieces, parts, grad_outputs=self.stacked.parts(v.detach()))
        return torch.cat([piece.flatten(1) for piece in second], 1) + self.decay * v

    def predict(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """Class probabilities (E, k, N) of training examples for each row of θ."""
        out = self._outputs(theta, self._batch(rows).x)
        if self.loss == "logistic":
            out = torch.cat([torch.zeros_like(out), out], 1)
        return out.softmax(1)

    def accuracy(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        out = self._outputs(theta, x)
        guess = (out[:, 0] > 0).long() if self.loss == "logistic" else out.argmax(1)
        return (guess == y).double().mean(1)

    @torch.no_grad()
    def _outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        """The networks' outputs (E, k, N) for inputs (N, d)."""
        return self.stacked.forward(self.stacked.parts(theta), x)

    def _batch(self, rows: Tensor | None) -> _Batch:
        if rows is None:
            return self._whole
        x, y, target = self._whole
        return _Batch(x[rows], y[rows], target[:, rows])

    def _losses(self, out: Tensor, batch: _Batch) -> Tensor:
        """The members' mean losses (E,) at outputs (E, k, N)."""
        if self.loss == "ce":
            return F.cross_entropy(out, batch.y.expand(len(out), -1), reduction="none").mean(1)
        if self.loss == "logistic":
            target = batch.target.expand_as(out)
            return F.binary_cross_entropy_with_logits(out, target, reduction="none").mean((1, 2))
        return ((out - batch.target) ** 2).sum(1).mean(1) / 2

    def _slope(self, out: Tensor, batch: _Batch) -> tuple[Tensor, Tensor]:
        """:meth:`_losses` and their derivatives with respect to ``out`` (E, k, N)."""
        if self.loss == "ce":  # the losses are a by-product here
            logs = out.log_softmax(1)
            losses = logs.gather(1, batch.y.expand(len(out), 1, -1)).mean((1, 2)).neg_()
            return losses, logs.exp_().sub_(batch.target).div_(out.shape[2])
        guess = out.sigmoid() if self.loss == "logistic" else out
        return self._losses(out, batch), (guess - batch.target).div_(out.shape[2])


class StackedIterate(Iterate):
    """Runs in training as the rows of one matrix, by a rule of :mod:`samlib.dynamics.rules`.

    The runs share their rule, or are gradient descent, which is SAM with ρ = 0. A run with
    mini-batches is measured on all training examples.
    """

    def __init__(self, loss: StackedLoss, specs: Sequence[RunSpec], theta: Tensor | None) -> None:
        self.loss, self.specs = loss, specs
        self.rule = rules.get(next((s.rule for s in specs if s.rule != "gd"), "sam"))
        self.differentiates = self.rule is rules.exact
        if theta is None:
            theta = torch.stack([loss.initial(s.seed) for s in specs])
        self._theta = theta
        self.lr = theta.new_tensor([s.lr for s in specs])[:, None]
        self.momentum = theta.new_tensor([s.momentum for s in specs])[:, None]
        self.velocity = torch.zeros_like(theta) if self.momentum.any() else None

    @property
    def theta(self) -> Tensor:
        return self._theta

    def look(self, rho: Tensor) -> Tensor:
        """A reading (4, E) with radii ``rho`` (E, 1) on all training examples."""
        return _reading(self.rule(self.loss, self._theta, rho))

    def move(self, rho: Tensor, batches: Sequence[Tensor | None]) -> Tensor:
        """One step of every row with radii ρ, the gradients on ``batches`` in turn."""
        step = self.rule(OnBatches(self.loss, batches), self._theta, rho)
        direction = step.direction
        if self.velocity is not None:
            direction = self.velocity = direction.addcmul(self.momentum, self.velocity)
        self._theta = torch.addcmul(self._theta, self.lr, direction, value=-1)
        return _reading(step)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows of θ alone."""
        self._theta, self.lr = self._theta[rows], self.lr[rows]
        self.momentum = self.momentum[rows]
        if self.velocity is not None:
            self.velocity = self.velocity[rows]


def _reading(step: rules.Step) -> Tensor:
    norm, shifted = (torch.linalg.vector_norm(g, dim=1) for g in (step.grad, step.shifted_grad))
    return torch.stack([step.loss, norm, step.shifted_loss, shifted])
