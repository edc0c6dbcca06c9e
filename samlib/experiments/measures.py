"""What can be measured at the end of a run, by name; an experiment's ``measure`` list asks for it.

A measure is a function (run, f) → (metrics, arrays), with f the run's objective: the metrics join
the run's own in its record, the arrays its curves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samlib.dynamics import rules
from samlib.errors import BadInput, check_choice
from samlib.experiments import curvature, episodes, limits
from samlib.training import activations, models
from samlib.training.spec import Run, RunSpec
from samlib.training.stacked_loss import Objective

Measured: TypeAlias = tuple[dict[str, float], dict[str, NDArray[Any]]]


def endpoints(run: Run, f: Objective) -> tuple[Tensor, Tensor]:
    """The run's final x and its x⁺ under the run's own rule at full ρ, each of shape (1, p)."""
    x = torch.as_tensor(run.theta).to(f.x)[None]
    f.batch(None)
    return x, rules.get(run.spec.rule)(f, x, run.spec.rho)[1]


def image(run: Run, f: Objective) -> Measured:
    """What the networks at x and at x⁺ predict, in nats, over the training set.

    ``entropy`` is the mean entropy of a prediction, ``spread`` the mean Kullback–Leibler divergence
    of a prediction from their mean (0: a constant predictor), ``prior_gap`` that of the mean
    prediction from the class prior. The names of those at x⁺ begin with ``shifted_``.
    """
    out: dict[str, float] = {}
    prior = torch.bincount(f.y, minlength=f.classes).double() / len(f.y)
    for name, theta in zip(("", "shifted_"), endpoints(run, f), strict=True):
        p = f.predictions(theta)[0].double()  # (k, N)
        mean = p.mean(1)
        out[f"{name}entropy"] = float(torch.special.entr(p).sum(0).mean())
        out[f"{name}spread"] = float(torch.special.entr(mean).sum()) - out[f"{name}entropy"]
        out[f"{name}prior_gap"] = float(torch.special.xlogy(mean, mean / prior).sum())
    return out, {}


def units(run: Run, f: Objective) -> Measured:
    """How much of the hidden layers is switched off at x and at x⁺, over the training set.

    A unit is off for an example where its derivative |φ′| is below 0.02 (for tanh: |φ| > 0.99).
    ``off`` is the fraction of pairs (unit, example) that are, ``dead`` the fraction of units that
    are off for every example, ``blank`` the fraction of examples for which every unit of some
    layer is off. The names of those at x⁺ begin with ``shifted_``.
    """
    model = models.build_model(f.name, **f.options).to(f.x)
    kinds = tuple(activations.ACTIVATIONS.values())
    layers = [m for m in model.modules() if isinstance(m, kinds)]
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


def norms(run: Run, f: Objective) -> Measured:
    """‖θ‖ at the end and at the start, and how far the run has ``moved``, ‖θ − θ_start‖."""
    start = f.initial(run.spec.seed).double().cpu().numpy()
    sizes = {"norm": run.theta, "start_norm": start, "moved": run.theta - start}
    return {name: float(np.linalg.norm(v)) for name, v in sizes.items()}, {}


def perturbation(run: Run, f: Objective) -> Measured:
    """How far the run's own rule looks at full ρ, ‖x⁺ − x‖: ``look`` at the end, ``look_start``."""
    rule, rho = rules.get(run.spec.rule), run.spec.rho
    x, plus = endpoints(run, f)
    start = f.initial(run.spec.seed)[None]
    looks = {"look": plus - x, "look_start": rule(f, start, rho)[1] - start}
    return {name: float(v.double().norm()) for name, v in looks.items()}, {}


_MEASURES: dict[str, Callable[[Run, Objective], Measured]] = {
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


def take(names: list[str], run: Run, f: Objective) -> Measured:
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
