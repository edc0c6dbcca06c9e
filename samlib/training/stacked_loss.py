"""The training objective over many flat parameter vectors at once, a gradient oracle for SAM."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from samlib.errors import BadInput
from samlib.training import data, models
from samlib.training.spec import RunSpec


class Objective:
    """f(θ) = mean loss over the training set + (λ/2)‖θ‖² for each row of θ, shape (E, p).

    The loss is cross-entropy (``ce``), ½‖output − one-hot‖² (``mse``) or the logistic loss of one
    output (``logistic``, two classes). ``seen`` collects (f, ‖∇f‖), each of shape (E,), of every
    gradient asked for, in order.
    """

    def __init__(self, spec: RunSpec, dataset: data.Dataset, device: str = "cpu") -> None:
        self.loss, self.decay, self.name = spec.loss, spec.weight_decay, spec.model
        if self.loss == "logistic" and dataset.num_classes != 2:
            found = f"loss 'logistic' needs 2 classes, not {dataset.num_classes}"
            raise BadInput(f"{found}; choose two, for example --classes 3,8")
        self.options = {k: getattr(spec, k) for k in ("width", "depth", "activation")}
        self.classes = dataset.num_classes
        self.options["in_features"] = dataset.x_train.shape[1]
        self.options["out_features"] = 1 if self.loss == "logistic" else dataset.num_classes
        self.stacked = models.Stacked(models.build_model(self.name, **self.options))
        to = functools.partial(torch.as_tensor, device=device)
        kind = getattr(torch, spec.dtype)
        self.x, self.y = to(dataset.x_train, dtype=kind), to(dataset.y_train)
        self.x_test, self.y_test = to(dataset.x_test, dtype=kind), to(dataset.y_test)
        hot = F.one_hot(self.y, self.classes).to(self.x).T.contiguous()
        self.hot = hot[1:] if self.loss == "logistic" else hot  # the outputs aimed at, (k, N)
        self.batch(None)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def initial(self, seed: int) -> Tensor:
        """PyTorch's default initialisation for ``seed``, shape (p,)."""
        model = models.build_model(self.name, seed=seed, **self.options)
        return models.flat_parameters(model).to(self.x)

    @property
    def baseline(self) -> float:
        """The loss of the best constant predictor: the entropy of the class prior, or its MSE."""
        prior = torch.bincount(self.y).double() / len(self.y)
        if self.loss == "mse":
            return float((prior * (1 - prior)).sum()) / 2
        return float(torch.special.entr(prior).sum())

    def batch(self, index: Tensor | None) -> None:
        """Use the training rows ``index`` from now on, or all of them."""
        if index is None:
            self.xb, self.yb, self.target = self.x, self.y, self.hot
        else:
            self.xb, self.yb, self.target = self.x[index], self.y[index], self.hot[:, index]

    def row_bytes(self, steps: int) -> int:
        """About how much memory training for ``steps`` takes for each row, in bytes."""
        rows, hidden = max(len(self.x), len(self.x_test)), self.options["width"]
        images: int = 3 * hidden * self.options["depth"] + 4 * self.options["out_features"]
        parameters = 12 * sum(shape.numel() for shape in self.stacked.shapes)
        # Of the curves, four numbers a step, a second copy is in double precision.
        return self.x.element_size() * (images * rows + parameters + 4 * steps) + 64 * steps

    def _losses(self, out: Tensor) -> Tensor:
        """The members' mean losses (E,) at outputs (E, k, N)."""
        if self.loss == "ce":
            return F.cross_entropy(out, self.yb.expand(len(out), -1), reduction="none").mean(1)
        if self.loss == "logistic":
            target = self.target.expand_as(out)
            return F.binary_cross_entropy_with_logits(out, target, reduction="none").mean((1, 2))
        return ((out - self.target) ** 2).sum(1).mean(1) / 2

    def _slope(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`_losses` and their derivatives with respect to ``out`` (E, k, N)."""
        if self.loss == "ce":  # the losses are a by-product here
            logs = out.log_softmax(1)
            losses = logs.gather(1, self.yb.expand(len(out), 1, -1)).mean((1, 2)).neg_()
            return losses, logs.exp_().sub_(self.target).div_(out.shape[2])
        guess = out.sigmoid() if self.loss == "logistic" else out
        return self._losses(out), (guess - self.target).div_(out.shape[2])

    def grad(self, theta: Tensor) -> Tensor:
        """∇f for each row of ``theta`` (E, p); remembers losses and norms in ``seen``."""
        losses, g = self.stacked.gradient(theta, self.xb, self._slope)
        if self.decay:
            losses = losses + self.decay / 2 * (theta * theta).sum(1)
            g = g.add_(theta, alpha=self.decay)
        self.seen.append((losses, torch.linalg.vector_norm(g, dim=1)))
        return g

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        """Hessian-vector products for each row, all shapes (E, p)."""
        parts = [p.detach().requires_grad_() for p in self.stacked.parts(theta)]
        losses = self._losses(self.stacked.forward(parts, self.xb))
        pieces = torch.autograd.grad(losses.sum(), parts, create_graph=True)
        second = torch.autograd.grad(pieces, parts, grad_outputs=self.stacked.parts(v.detach()))
        return torch.cat([piece.flatten(1) for piece in second], 1) + self.decay * v

    def predictions(self, theta: Tensor) -> Tensor:
        """Class probabilities on the training set for each row of ``theta``, shape (E, k, N)."""
        with torch.no_grad():
            out = self.stacked.forward(self.stacked.parts(theta), self.x)
        if self.loss == "logistic":
            out = torch.cat([torch.zeros_like(out), out], 1)
        return out.softmax(1)

    def accuracy(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Fraction of ``x`` (N, d) that each row of ``theta`` classifies as ``y``, shape (E,)."""
        with torch.no_grad():
            out = self.stacked.forward(self.stacked.parts(theta), x)
        guess = (out[:, 0] > 0).long() if self.loss == "logistic" else out.argmax(1)
        return (guess == y).double().mean(1)
