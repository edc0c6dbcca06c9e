"""Training of networks that cannot be stacked, one at a time, through :class:`samlib.SAM`.

The objective is as in :mod:`samlib.training.loop`, f(θ) = mean cross-entropy + (λ/2)‖θ‖², all
parameters decayed, and the penalty belongs to f: it enters both gradients of SAM.

A full-batch run is measured at every step. A mini-batch run is measured at LOOKS steps spread over
the run, on its first SAMPLE training examples: the loss, the gradient, x⁺ and the gradient there
are those of their mean loss, with the run's ρ of that step. BatchNorm then works as in training: it
normalises each batch by that batch's own statistics, so SAMPLE examples are taken in pieces of the
batch size, and the running statistics stay as they are. In training they update once a step, at x.
What SAM itself sees, the batch's gradients, is summed up in ``batch_grad_ratio``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samlib.diagnostics import verdicts
from samlib.errors import BadInput
from samlib.optim._foreach import norm_of
from samlib.optim.sam import SAM, freeze_batchnorm
from samlib.training import data, models, provenance
from samlib.training.schedules import Radius, batches
from samlib.training.spec import Run, RunSpec

LOOKS = 15
SAMPLE = 256
CHECK_EVERY = 20  # steps between looks for a run that diverged
FORMS = {"resnet18": "image", "transformer": "tokens", "gcn": "nodes"}  # what each model reads


def network(spec: RunSpec, dataset: data.Dataset) -> nn.Module:
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
    options = {k: getattr(spec, k) for k in ("width", "depth", "activation")}
    net = models.build_model(
        spec.model, seed=spec.seed, in_features=inputs, out_features=classes, **options
    )
    return net.to(getattr(torch, spec.dtype))


class Problem:
    """A network, its data and its optimizer; ``seen`` holds (f, ‖∇f‖) of each gradient asked for.

    On a GPU float32 runs use bfloat16 autocast and torch.compile, which gain nothing on a CPU.
    """

    def __init__(self, spec: RunSpec, dataset: data.Dataset, device: str) -> None:
        self.net, self.decay = network(spec, dataset).to(device), spec.weight_decay
        kind = getattr(torch, spec.dtype)
        self.x, self.x_test = (
            torch.as_tensor(x, dtype=kind, device=device) for x in (dataset.x_train, dataset.x_test)
        )
        if self.x.ndim == 4:
            self.x = self.x.to(memory_format=torch.channels_last)
        self.y, self.y_test = (
            torch.as_tensor(y, device=device) for y in (dataset.y_train, dataset.y_test)
        )
        self.params: list[Tensor] = list(self.net.parameters())
        self.size = min(spec.batch or len(self.x), len(self.x))
        self.noisy = self.size < len(self.x)
        rule = "sam" if spec.rule == "gd" else spec.rule
        options: dict[str, Any] = {"lr": spec.lr, "momentum": spec.momentum, "model": self.net}
        options |= {"rho": 0.0, "rule": rule, "gsam_alpha": 0.1}  # α as in samlib.dynamics.rules
        self.sam = SAM(self.params, torch.optim.SGD, **options)
        self.seen: list[tuple[float, float]] = []
        gpu = device != "cpu"
        self.call = torch.compile(self.net) if gpu else self.net
        self.low = gpu and spec.dtype == "float32"

    def logits(self, x: Tensor) -> Tensor:
        """The network's outputs (N, k) for inputs ``x``."""
        with torch.autocast(self.x.device.type, torch.bfloat16, self.low):
            out: Tensor = self.call(x)
        return out.to(self.x.dtype)

    def gradient(self, rows: Sequence[Tensor | None]) -> Tensor:
        """Leave ∇f of the mean over these batches of equal weight in ``.grad``; return f."""
        self.sam.zero_grad()
        value = torch.zeros((), dtype=self.x.dtype, device=self.x.device)
        for index in rows:
            x, y = (self.x, self.y) if index is None else (self.x[index], self.y[index])
            loss = F.cross_entropy(self.logits(x), y) / len(rows)
            torch.autograd.backward(loss)
            value += loss.detach()
        gradients = [cast(Tensor, p.grad) for p in self.params]
        if self.decay:
            with torch.no_grad():
                torch._foreach_add_(gradients, self.params, alpha=self.decay)
                value += self.decay / 2 * norm_of(self.params) ** 2
        self.seen.append((float(value), norm_of(gradients)))
        return value

    def step(self, rows: Tensor | None, rho: float) -> None:
        """One step of SAM with radius ``rho`` on a batch; its numbers are then in ``seen``."""
        self._radius(rho)
        self.sam.step(lambda: self.gradient([rows]))

    def look(self, rho: float) -> None:
        """Fill ``seen`` with the numbers at x and x⁺ on the sample; nothing moves."""
        self._radius(rho)
        with freeze_batchnorm(self.net):
            self.gradient(self.sample)
            if rho:
                with self.sam.perturbed():
                    self.gradient(self.sample)

    @property
    def sample(self) -> Sequence[Tensor | None]:
        """The batches on which a mini-batch run is measured; all the data for a full-batch run."""
        if not self.noisy:
            return [None]
        count = max(1, min(SAMPLE, len(self.x)) // self.size)
        return torch.split(torch.arange(count * self.size, device=self.x.device), self.size)

    def _radius(self, rho: float) -> None:
        self.seen.clear()
        self.sam.param_groups[0]["rho"] = rho

    def predictions(self) -> Tensor:
        """Class probabilities (N, k) on the sample, BatchNorm working as in training."""
        with torch.no_grad(), freeze_batchnorm(self.net):
            parts = [self.logits(self.x if rows is None else self.x[rows]) for rows in self.sample]
        return torch.cat(parts).double().softmax(1)

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """Fraction of ``x`` classified as ``y`` with BatchNorm's running statistics."""
        self.net.eval()
        with torch.no_grad():
            guess = torch.cat([self.logits(part).argmax(1) for part in torch.split(x, 500)])
        self.net.train()
        return float((guess == y).double().mean())


def image(problem: Problem, rho: float) -> dict[str, float]:
    """What the networks at x and at x⁺ predict on the sample, in nats.

    As :func:`samlib.experiments.measures.image` has it: ``entropy`` is the mean entropy of a
    prediction, ``spread`` the mean Kullback–Leibler divergence of a prediction from their mean; at
    x⁺ their names begin with ``shifted_``.
    """
    pairs = {"": problem.predictions()}
    problem.look(0.0)  # the gradient at x
    problem._radius(rho)
    with problem.sam.perturbed():
        pairs["shifted_"] = problem.predictions()
    out = {}
    for name, p in pairs.items():
        out[f"{name}entropy"] = float(torch.special.entr(p).sum(1).mean())
        out[f"{name}spread"] = float(torch.special.entr(p.mean(0)).sum()) - out[f"{name}entropy"]
    return out


def descend(spec: RunSpec, f: Problem, progress: Callable[[int], object]) -> tuple[Any, float]:
    """All steps: the trace (4, steps + 1), and the median GradRatio of the last 5 % of batches."""
    rows = batches(spec, len(f.x), str(f.x.device))
    radius, steps = Radius([spec], f.x), spec.steps
    every = max(1, steps // LOOKS)
    curves, ratios = np.full((4, steps + 1), np.nan), []
    now: tuple[float, ...] = ()
    for t in range(steps + 1):
        rho = float(radius.at(t))
        if (f.noisy and t % every == 0) or t == steps:
            f.look(rho)
            now = (*f.seen[0], *f.seen[-1])
        if t < steps:
            f.step(next(rows), rho)
            ratios.append(f.seen[-1][1] / (f.seen[0][1] + verdicts.EPSILON))
            radius.feedback(torch.tensor([ratios[-1]]))
            now = now if f.noisy else (*f.seen[0], *f.seen[-1])
        curves[:, t] = now
        if t % CHECK_EVERY == 0 or t == steps:
            progress(min(CHECK_EVERY, steps - t))
            if not all(np.isfinite(f.seen[0])):
                break
    return curves, float(np.median(ratios[-max(1, steps // 20) :]))


def _finish(spec: RunSpec, f: Problem, dataset: data.Dataset, trace: Any, seen: float) -> Any:
    """The metrics of a run at its end, and its parameters (p,)."""
    metrics = trace.summary()
    metrics["train_accuracy"] = f.accuracy(f.x, f.y)
    metrics["test_accuracy"] = f.accuracy(f.x_test, f.y_test)
    if f.noisy:
        metrics["batch_grad_ratio"] = seen
    theta = models.flat_parameters(f.net)
    if theta.isfinite().all():
        metrics |= image(f, spec.rho)
    return metrics, theta.double().cpu().numpy()


@lru_cache(maxsize=1)
def _data(name: str, root: str | None, seed: int, cut: tuple[tuple[str, Any], ...]) -> data.Dataset:
    # 60,000 colour images take seconds to read.
    return data.load_data(name, root, seed=seed, **dict(cut))


def _train(
    spec: RunSpec, device: str, data_root: str | None, progress: Callable[[int], object]
) -> Run:
    started = time.time()
    cut = tuple((k, getattr(spec, k)) for k in ("n", "classes", "features", "label_noise"))
    dataset = _data(spec.data, data_root, spec.data_seed, cut)
    f = Problem(spec, dataset, device)
    prior = np.bincount(dataset.y_train) / len(dataset.y_train)
    baseline = float(-(prior[prior > 0] * np.log(prior[prior > 0])).sum())
    curves, seen = descend(spec, f, progress)
    loss, norm, shifted_loss, shifted_norm = curves
    trace = verdicts.Trace(loss, norm, shifted_loss, shifted_norm, baseline)
    metrics, theta = _finish(spec, f, dataset, trace, seen)
    wall = {"wall_time_s": round(time.time() - started, 3)}
    where = provenance.provenance(started, device, torch.get_num_threads()) | wall | {"stack": 1}
    return Run(spec, "running", wall | metrics, trace, theta, dataset.describe(), where)


@lru_cache(maxsize=8)
def _remembered(spec: RunSpec, device: str, data_root: str | None) -> Run:
    return _train(spec, device, data_root, lambda _: None)


def train_each(
    specs: list[RunSpec], device: str, data_root: str | None, progress: Callable[[int], object]
) -> dict[RunSpec, Run]:
    """Train ``specs`` one after the other; verdicts come later.

    Gradient descent is remembered, since runs recorded one by one have their twins in common.
    """
    done = {}
    for spec in specs:
        if spec.rule == "gd":
            done[spec] = _remembered(spec, device, data_root)
            progress(spec.steps)
        else:
            done[spec] = _train(spec, device, data_root, progress)
    return done
