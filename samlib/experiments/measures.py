"""What can be measured at the end of a run, by name; an experiment's ``measure`` list asks for it.

A measure is a function (run, f) → (metrics, arrays), with f the run's objective: the metrics join
the run's own in its record, the arrays its curves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samlib.errors import BadInput, check_choice
from samlib.experiments import curvature, episodes, limits
from samlib.training import models
from samlib.training.loop import endpoints
from samlib.training.loss import confidence
from samlib.training.mlp import ACTIVATIONS
from samlib.training.spec import Run, RunSpec
from samlib.training.stacked_loss import StackedLoss

Measured: TypeAlias = tuple[dict[str, float], dict[str, NDArray[Any]]]


def image(run: Run, f: StackedLoss) -> Measured:
    """What the networks at x and, under names ``shifted_``, at x⁺ predict, in nats.

    ``entropy`` and ``spread`` as :func:`samlib.training.loss.confidence` has them, over the
    training set, and ``prior_gap``, the Kullback–Leibler divergence of the mean prediction from the
    class prior.
    """
    out: dict[str, float] = {}
    for name, theta in zip(("", "shifted_"), endpoints(run, f), strict=True):
        p = f.predict(theta)[0].double()  # (k, N)
        mean = p.mean(1)
        out |= {f"{name}{k}": v for k, v in confidence(p).items()}
        out[f"{name}prior_gap"] = float(torch.special.xlogy(mean, mean / f.prior).sum())
    return out, {}


def units(run: Run, f: StackedLoss) -> Measured:
    """How much of the hidden layers is switched off at x and at x⁺, over the training set.

    A unit is off for an example where its derivative |φ′| is below 0.02 (for tanh: |φ| > 0.99).
    ``off`` is the fraction of pairs (unit, example) that are, ``dead`` the fraction of units that
    are off for every example, ``blank`` the fraction of examples for which every unit of some
    layer is off. The names of those at x⁺ begin with ``shifted_``.
    """
    model = models.build_model(f.name, **f.options).to(f.x)
    layers = [m for m in model.modules() if isinstance(m, tuple(ACTIVATIONS.values()))]
    off: list[Tensor] = []  # a layer's, of shape (N, h)

    def look(layer: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        z = inputs[0].detach().requires_grad_()
        (slope,) = torch.autograd.grad(layer.forward(z).sum(), z)
        off.append(slope.abs() < 0.02)

    for layer in layers:
        layer.register_forward_pre_hook(look)
    out: dict[str, float] = {}
    for name, theta in zip(("", "shifted_"), endpoints(run, f), strict=True):
        off.clear()
        torch.nn.utils.vector_to_parameters(theta[0], model.parameters())
        model(f.x)
        out[f"{name}off"] = float(torch.cat(off, 1).double().mean())
        out[f"{name}dead"] = float(torch.cat([o.all(0) for o in off]).double().mean())
        out[f"{name}blank"] = float(torch.stack([o.all(1) for o in off]).any(0).double().mean())
    return out, {}


def norms(run: Run, f: StackedLoss) -> Measured:
    """‖θ‖ at the end and at the start, and how far the run has ``moved``, ‖θ − θ_start‖."""
    start = f.initial(run.spec.seed).double().cpu().numpy()
    sizes = {"norm": run.theta, "start_norm": start, "moved": run.theta - start}
    return {name: float(np.linalg.norm(v)) for name, v in sizes.items()}, {}


def perturbation(run: Run, f: StackedLoss) -> Measured:
    """How far the run's own rule looks at full ρ, ‖x⁺ − x‖: ``look`` at the end, ``look_start``."""
    first = replace(run, theta=f.initial(run.spec.seed).double().cpu().numpy())
    out = {}
    for name, at in (("look", run), ("look_start", first)):
        x, plus = endpoints(at, f)
        out[name] = float((plus - x).double().norm())
    return out, {}


_MEASURES: dict[str, Callable[[Run, StackedLoss], Measured]] = {
    m.__name__: m
    for m in (image, units, norms, perturbation, episodes.escape, limits.tail, limits.limit)
} | curvature.MEASURES


def check(names: object, specs: Iterable[RunSpec] = ()) -> list[str]:
    """The ``names`` as a list; BadInput if one is unknown, or a spec's runs cannot be measured.

    Measures work on a stacked objective, so runs of networks other than ``mlp`` have none.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        known = ", ".join(_MEASURES)
        raise BadInput(f"measure = {names!r} is no list of names; use some of {known}")
    found = list(names)
    for name in found:
        check_choice("measure", name, _MEASURES)
    others = {s.model for s in specs if s.model != "mlp"} if found else set()
    for model in sorted(others):
        remedy = "leave measure out, or give these runs an experiment of their own"
        raise BadInput(f"measure = {found!r} is for model 'mlp', not {model!r}; {remedy}")
    return found


def take(names: list[str], run: Run, f: StackedLoss) -> Measured:
    """All measures in ``names`` of one run, joined. BadInput lists the names that exist.

    A run that diverged is not measured.
    """
    metrics: dict[str, float] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for name in check(names):
        if np.isfinite(run.theta).all():
            more, curves = _MEASURES[name](run, f)
            metrics |= more
            arrays |= curves
    return metrics, arrays
