"""The loss of one ``torch.nn.Module``, and its training through :class:`samlib.SAM`.

A full-batch run is measured at every step. A mini-batch run is measured on its first SAMPLE
training examples: the loss, the gradient, x⁺ and the gradient there are those of their mean loss,
with the run's ρ of that step. BatchNorm then works as in training: it normalises each batch by that
batch's own statistics, so SAMPLE examples are taken in pieces of the batch size, and the running
statistics stay as they are. In training they update once a step, at x. What SAM itself sees, the
batch's gradients, is summed up in the metric ``batch_grad_ratio``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samlib.errors import BadInput
from samlib.optim._foreach import norm_of
from samlib.optim.sam import SAM, freeze_batchnorm
from samlib.training import models
from samlib.training.data import Dataset
from samlib.training.loss import Iterate, Loss, confidence
from samlib.training.models import flat_parameters
from samlib.training.spec import RunSpec

FORMS = {"resnet18": "image", "transformer": "tokens", "gcn": "nodes"}  # what each model reads


def network(spec: RunSpec, dataset: Dataset) -> nn.Module:
    """The network of ``spec`` as initialised by its seed; BadInput if it cannot be had."""
    if dataset.features != (form := FORMS[spec.model]):
        found = f"model {spec.model!r} reads features {form!r}, not {dataset.features!r}"
        sets = {"image": "add features = 'image'", "nodes": "use data = 'karate'"}
        raise BadInput(f"{found}; {sets.get(form, 'use data = modular-addition-23, for example')}")
    if spec.loss != "ce":
        raise BadInput(f"loss {spec.loss!r} is for mlp; use ce with {spec.model}")
    if spec.rule == "exact":
        raise BadInput(f"rule 'exact' is for mlp; use another with {spec.model}")
    classes = dataset.num_classes
    inputs = classes if form == "tokens" else dataset.x_train.shape[1]
    sizes = {"in_features": inputs, "out_features": classes}
    net = models.build_model(spec.model, seed=spec.seed, **sizes, **spec.architecture)
    return net.to(getattr(torch, spec.dtype))


class ModuleLoss(Loss):
    """The loss f of :class:`samlib.training.loss.Loss` for one module: cross-entropy and penalty.

    BatchNorm normalises each batch by its own statistics; the methods of the common interface leave
    the running ones, and the module's parameters, as they are. On a GPU float32 runs use bfloat16
    autocast and torch.compile, which gain nothing on a CPU.

    Attributes
    ----------
    net : nn.Module
        The network, whose parameters are where training has come to.
    sample : sequence of Tensor or None
        The batches on which a mini-batch run is measured; all the data for a full-batch run.
    """

    LOOKS = 15
    CHECK_EVERY = 20
    SAMPLE = 256

    def __init__(self, spec: RunSpec, dataset: Dataset, device: str = "cpu") -> None:
        super().__init__(spec, dataset, device)
        self.net = network(spec, dataset).to(device)
        self.params: list[Tensor] = list(self.net.parameters())
        if self.x.ndim == 4:
            self.x = self.x.to(memory_format=torch.channels_last)
        gpu = device != "cpu"
        self._call = torch.compile(self.net) if gpu else self.net
        self._low = gpu and spec.dtype == "float32"
        self.sample: Sequence[Tensor | None] = [None]
        if spec.batch and spec.batch < len(self.x):
            count = max(1, min(self.SAMPLE, len(self.x)) // spec.batch)
            rows = torch.arange(count * spec.batch, device=self.x.device)
            self.sample = torch.split(rows, spec.batch)

    @property
    def baseline(self) -> float:
        """The loss of the best constant predictor: the entropy of the class prior, in nats."""
        prior = self.prior.cpu().numpy()
        # NumPy's sum, whose last digits the records have
        return float(-(prior[prior > 0] * np.log(prior[prior > 0])).sum())

    def start(self, specs: Sequence[RunSpec], theta: Tensor | None = None) -> ModuleIterate:
        """The run, one, where the network is, or at ``theta`` (1, p)."""
        if theta is not None:
            self._load(theta[0])
        return ModuleIterate(self, specs)

    def value_and_grad(self, theta: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Losses (E,) and gradients (E, p) for each row of θ; of all examples, or of ``rows``."""
        values, gradients = [], []
        for row in theta:
            with self._at(row):
                values.append(self.backward([rows])[0])
                pieces = [cast(Tensor, p.grad).reshape(-1) for p in self.params]
                gradients.append(torch.cat(pieces))
        return torch.stack(values), torch.stack(gradients)

    def hvp(self, theta: Tensor, v: Tensor, rows: Tensor | None = None) -> Tensor:
        """∇²f(θ)v for each row of θ and v, (E, p); of all examples, or of ``rows``."""
        products = []
        for row, direction in zip(theta, v, strict=True):
            with self._at(row):
                pieces = torch.autograd.grad(self._mean(rows), self.params, create_graph=True)
                slope = torch.cat([piece.reshape(-1) for piece in pieces]) @ direction
                second = torch.autograd.grad(slope, self.params)
            products.append(torch.cat([piece.reshape(-1) for piece in second]))
        return torch.stack(products) + self.decay * v

    @torch.no_grad()
    def predict(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """Class probabilities (E, k, N), float64, of training examples for each row of θ."""
        x, out = self.x if rows is None else self.x[rows], []
        for row in theta:
            with self._at(row):
                out.append(self._logits(x).double().softmax(1).T)
        return torch.stack(out)

    @torch.no_grad()
    def accuracy(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Fraction (E,) of ``x`` classified as ``y`` with BatchNorm's running statistics."""
        out = []
        for row in theta:
            with self._at(row):
                self.net.eval()
                guess = torch.cat([self._logits(part).argmax(1) for part in torch.split(x, 500)])
                self.net.train()
            out.append((guess == y).double().mean())
        return torch.stack(out)

    def backward(self, batches: Sequence[Tensor | None]) -> tuple[Tensor, float]:
        """Leave ∇f of the mean over batches of equal weight in the parameters' ``.grad``.

        Returns f there and ‖∇f‖, where the network is.
        """
        self.net.zero_grad()
        value = torch.zeros((), dtype=self.x.dtype, device=self.x.device)
        for rows in batches:
            loss = self._mean(rows) / len(batches)
            torch.autograd.backward(loss)
            value += loss.detach()
        gradients = [cast(Tensor, p.grad) for p in self.params]
        if self.decay:
            with torch.no_grad():
                torch._foreach_add_(gradients, self.params, alpha=self.decay)
                value += self.decay / 2 * norm_of(self.params) ** 2
        return value, norm_of(gradients)

    def _mean(self, rows: Tensor | None) -> Tensor:
        """The mean cross-entropy of some training examples."""
        x, y = (self.x, self.y) if rows is None else (self.x[rows], self.y[rows])
        return F.cross_entropy(self._logits(x), y)

    def _logits(self, x: Tensor) -> Tensor:
        """The network's outputs (N, k) for inputs ``x``."""
        with torch.autocast(self.x.device.type, torch.bfloat16, self._low):
            out: Tensor = self._call(x)
        return out.to(self.x.dtype)

    @contextmanager
    def _at(self, theta: Tensor) -> Iterator[None]:
        """The network at θ, (p,), for the time being, its BatchNorm statistics at rest."""
        before = flat_parameters(self.net)
        self._load(theta)
        try:
            with freeze_batchnorm(self.net):
                yield
        finally:
            self._load(before)

    @torch.no_grad()
    def _load(self, theta: Tensor) -> None:
        pieces = torch.split(theta, [p.numel() for p in self.params])
        for p, piece in zip(self.params, pieces, strict=True):
            p.copy_(piece.view_as(p))


class ModuleIterate(Iterate):
    """One run in training: the module of its loss, moved by :class:`samlib.SAM` over SGD."""

    loss: ModuleLoss
    differentiates = True

    def __init__(self, loss: ModuleLoss, specs: Sequence[RunSpec]) -> None:
        (spec,) = self.specs = specs
        self.loss = loss
        rule = "sam" if spec.rule == "gd" else spec.rule
        options: dict[str, Any] = {"lr": spec.lr, "momentum": spec.momentum, "model": loss.net}
        options |= {"rho": 0.0, "rule": rule, "gsam_alpha": 0.1}  # α as in samlib.dynamics.rules
        self.sam = SAM(loss.params, torch.optim.SGD, **options)

    @property
    def theta(self) -> Tensor:
        """A copy of the network's parameters, (1, p)."""
        return flat_parameters(self.loss.net)[None]

    def look(self, rho: Tensor) -> Tensor:
        """A reading (4, 1) with radius ``rho`` on the sample; nothing moves."""
        self._set(rho)
        with freeze_batchnorm(self.loss.net):
            here = there = self.loss.backward(self.loss.sample)
            if rho:
                with self.sam.perturbed():
                    there = self.loss.backward(self.loss.sample)
        return self._reading(here, there)

    def move(self, rho: Tensor, batches: Sequence[Tensor | None]) -> Tensor:
        """One step of the optimizer with radius ρ, its gradients on ``batches`` in turn."""
        self._set(rho)
        turns, passes = cycle(batches), list[tuple[Tensor, float]]()

        def closure() -> Tensor:
            passes.append(self.loss.backward([next(turns)]))
            return passes[-1][0]

        self.sam.step(closure)
        return self._reading(passes[0], passes[-1])

    def keep(self, rows: Tensor) -> None:
        """A single network has no rows to drop."""

    def image(self, rho: float) -> dict[str, float]:
        """What the networks at x and, under ``shifted_`` names, at x⁺ predict on the sample.

        See :func:`samlib.training.loss.confidence`.
        """
        self._set(rho)
        with freeze_batchnorm(self.loss.net):
            self.loss.backward(self.loss.sample)
            x = self.theta
            with self.sam.perturbed():
                plus = self.theta
        out: dict[str, float] = {}
        for name, theta in (("", x), ("shifted_", plus)):
            parts = [self.loss.predict(theta, rows)[0].T for rows in self.loss.sample]
            out |= {f"{name}{k}": v for k, v in confidence(torch.cat(parts).T).items()}
        return out

    def _set(self, rho: Tensor | float) -> None:
        self.sam.param_groups[0]["rho"] = float(rho)

    def _reading(self, *ends: tuple[Tensor, float]) -> Tensor:
        numbers = [number for value, norm in ends for number in (float(value), norm)]
        return self.loss.x.new_tensor(numbers)[:, None]
