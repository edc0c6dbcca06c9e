"""Measures of the loss around the end of a run: curvature, SAM's map, slices, ascent, symmetries.

Each is a function (run, f) → (metrics, arrays) as :mod:`samlib.experiments.measures` wants it.
Everything is computed in float64 on all training examples, whatever the run itself used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from samlib.experiments import lanczos, slices
from samlib.points.linearisation import linearise
from samlib.training.loop import descend, endpoints
from samlib.training.spec import Run, RunSpec
from samlib.training.stacked_loss import StackedLoss

Arrays: TypeAlias = dict[str, NDArray[Any]]
Measured: TypeAlias = tuple[dict[str, float], Arrays]

ZERO = 1e-6  # eigenvalues smaller than this times the spectral norm count as zero
TAUS = 10.0 ** -np.arange(13)  # the other thresholds at which eigenvalues are counted
DEPTH = 0.01  # hills and valleys of a slice count from this fraction of the baseline loss
CLIMBED = 100  # an ascent has escaped when the loss is this many times the baseline
ROWS = 128  # parameter vectors evaluated at once


@lru_cache(maxsize=1)  # so that all measures of a run share what is computed once
def doubled(f: StackedLoss) -> StackedLoss:
    """The same loss in float64."""
    return f.double()


def _values(f: StackedLoss, theta: NDArray[Any]) -> NDArray[np.float64]:
    """f at each row of ``theta`` (m, p), shape (m,)."""
    parts = torch.split(torch.as_tensor(theta).to(f.x), ROWS)
    return torch.cat([f.f(rows) for rows in parts]).cpu().numpy()


@lru_cache(maxsize=1)
def _minimizer(spec: RunSpec, f: StackedLoss) -> NDArray[np.float64]:
    """Where plain gradient descent ends from the run's start, (p,): trained again."""
    return descend(f.start([spec.twin()])).theta[0].double().cpu().numpy()


def hessian(run: Run, f: StackedLoss) -> Measured:
    """The Hessian of f at x and at x⁺: its ends, its inertia and its density.

    Metrics: ``hessian_min``, ``hessian_max``, and the numbers ``hessian_negative``, ``_zero`` and
    ``_positive`` of eigenvalues, those below 1e-6 of the spectral norm counting as zero. Arrays:
    ``hessian_counts`` (2, 13), how many lie below −τ and above τ times the norm for τ = 1, 0.1, …
    1e-12; ``hessian_density`` (2, 200), λ and density. The names of those at x⁺ begin with
    ``shifted_``. Above :data:`samlib.experiments.lanczos.DENSE` parameters the three numbers are
    missing and the counts are estimates, of no use where they call for single eigenvalues near 0 (τ
    ≪ 0.01).
    """
    f = doubled(f)
    out: dict[str, float] = {}
    arrays: Arrays = {}
    for name, theta in zip(("", "shifted_"), endpoints(run, f), strict=True):
        found = lanczos.spectrum(lanczos.hessian(f, theta), theta)
        out |= {f"{name}hessian_min": found.low, f"{name}hessian_max": found.high}
        if found.exact:
            below, above = (float(n) for n in found.count(ZERO))
            out[f"{name}hessian_negative"] = below
            out[f"{name}hessian_zero"] = found.dim - below - above
            out[f"{name}hessian_positive"] = above
        arrays[f"{name}hessian_counts"] = np.array(found.count(TAUS))
        arrays[f"{name}hessian_density"] = np.array(found.density(), dtype=np.float32)
    return out, arrays


def sam_map(run: Run, f: StackedLoss) -> Measured:
    """The spectral radius of DT = I − ηA of SAM's map at x, without momentum, at full ρ.

    Metrics: ``map_excess``, the radius minus 1, and the real and imaginary part ``map_real`` and
    ``map_imag`` of that eigenvalue of DT. Nothing for a rule other than ``sam`` and ``gd``.
    """
    spec = run.spec
    if spec.rule not in ("sam", "gd"):
        return {}, {}
    f = doubled(f)
    x, rho = endpoints(run, f)[0], 0.0 if spec.rule == "gd" else spec.rho
    top = lanczos.leading(linearise(f, x, rho, lanczos.hessian).jacobian(spec.lr), x)
    return {"map_excess": abs(top) - 1, "map_real": top.real, "map_imag": top.imag}, {}


def _picture(name: str, run: Run, f: StackedLoss) -> slices.Slice | None:
    """The slice of that name, of :data:`samlib.experiments.slices.POINTS`; None where x⁺ = x."""
    if run.spec.rule == "gd" or not run.spec.rho:
        return None
    f = doubled(f)
    x, plus = (t[0].cpu().numpy() for t in endpoints(run, f))
    start = f.initial(run.spec.seed).double().cpu().numpy()
    points = {"start": start, "x": x, "plus": plus, "minimizer": _minimizer(run.spec, f)}
    return slices.cut(lambda rows: _values(f, rows), {k: points[k] for k in slices.POINTS[name]})


def loss_slice(run: Run, f: StackedLoss) -> Measured:
    """The loss on the plane through gradient descent's end, x and x⁺.

    Arrays: ``slice`` (61, 61), ``slice_axes`` (2, 61), ``slice_marks`` (4, 2) with the coordinates
    of the minimizer, x, x⁺ and the start, and ``slice_off`` (4,), their distances from the plane.
    Nothing where x⁺ = x.
    """
    picture = _picture("slice", run, f)
    return {}, picture.arrays("slice") if picture else {}


def persistence(run: Run, f: StackedLoss) -> Measured:
    """Hills and valleys of the slice through the start, x⁺ and gradient descent's end.

    Counted are those inside the square, with a persistence above 1 % of the baseline. Metrics:
    numbers of ``slice_minima`` and ``slice_maxima``; of the pairs of a maximum and a minimum, and
    of two minima, the number, how many are closer than ρ, and the least distance: ``slice_max_min``
    and ``slice_min_min``, each also with ``_within`` and ``_nearest``. Arrays as :func:`loss_slice`
    has them, named ``plane``, with marks start, x⁺, minimizer, x; and ``plane_minima`` and
    ``plane_maxima`` (m, 4): coordinates, value, persistence.
    """
    picture = _picture("plane", run, f)
    if picture is None:
        return {}, {}
    arrays: Arrays = {**picture.arrays("plane")}
    low, high = (find(picture, DEPTH * f.baseline) for find in (slices.minima, slices.maxima))
    for name, found in (("plane_minima", low), ("plane_maxima", high)):
        table = np.column_stack([found.places, found.values, found.persistence])
        arrays[name] = table.astype(np.float32)
    out = {"slice_minima": float(len(low.values)), "slice_maxima": float(len(high.values))}
    across = slices.distances(high.places, low.places).ravel()
    among = slices.distances(low.places, low.places)
    pairs = {"slice_max_min": across, "slice_min_min": among[np.triu_indices(len(among), 1)]}
    for name, far in pairs.items():
        out[name] = float(far.size)
        out[f"{name}_within"] = float((far < run.spec.rho).sum())
        if far.size:
            out[f"{name}_nearest"] = float(far.min())
    return out, arrays


def ascent(run: Run, f: StackedLoss) -> Measured:
    """Gradient ascent from the run's start, with its learning rate and number of steps.

    It ends early when the loss exceeds 100 times the baseline: ``ascent_escaped`` is then 1, else
    0. Metrics of the end: ``ascent_steps``, ``ascent_loss``, ``ascent_grad_norm``, the distance
    ``ascent_distance`` from the start, and the Hessian's ends ``ascent_hessian_min`` and ``_max``
    with the numbers ``ascent_hessian_negative`` and ``_positive`` of eigenvalues: at a local
    maximizer none is positive.
    """
    f = doubled(f)
    start = f.initial(run.spec.seed)[None]
    theta, ceiling, step = start, CLIMBED * f.baseline, 0
    for step in range(run.spec.steps):  # noqa: B007
        loss, g = f.value_and_grad(theta)
        if not float(loss) <= ceiling:  # NaN too
            break
        theta = theta + run.spec.lr * g
    loss, g = f.value_and_grad(theta)
    found = lanczos.spectrum(lanczos.hessian(f, theta), theta)
    below, above = found.count(ZERO)
    return {
        "ascent_escaped": float(loss > ceiling),
        "ascent_steps": float(step),
        "ascent_loss": float(loss),
        "ascent_grad_norm": float(torch.linalg.vector_norm(g)),
        "ascent_distance": float(torch.linalg.vector_norm(theta - start)),
        "ascent_hessian_min": found.low,
        "ascent_hessian_max": found.high,
        "ascent_hessian_negative": float(below),
        "ascent_hessian_positive": float(above),
    }, {}


def symmetry(run: Run, f: StackedLoss) -> Measured:
    """How far gradient descent's end is from its copies under the symmetries of a tanh layer.

    Arrays, for one hidden tanh layer of h units only: ``flips`` (h,), sorted, the distances
    2‖(w_j, b_j, v_j)‖ of the copies with unit j's signs changed, and ``swaps`` (h(h−1)/2,), sorted,
    those √2‖(w_i, b_i, v_i) − (w_j, b_j, v_j)‖ of the copies with two units exchanged. Metrics:
    ``flip_nearest`` and ``swap_nearest``, and ``minimizer_grad_norm`` and ``minimizer_zero``, the
    gradient norm and the number of zero eigenvalues there.
    """
    spec = run.spec
    if (spec.model, spec.depth, spec.activation) != ("mlp", 1, "tanh"):
        return {}, {}
    f = doubled(f)
    end = torch.as_tensor(_minimizer(spec, f)).to(f.x)[None]
    w, b, v, _ = (part[0] for part in f.stacked.parts(end))
    units = torch.cat([w, b[:, None], v.T], 1)
    flips = 2 * torch.linalg.vector_norm(units, dim=1).cpu().numpy()
    swaps = 2**0.5 * torch.nn.functional.pdist(units).cpu().numpy()
    norm = float(torch.linalg.vector_norm(f.grad(end)))
    found = lanczos.spectrum(lanczos.hessian(f, end), end)
    zero = found.dim - float(sum(found.count(ZERO)))
    out = {"minimizer_grad_norm": norm, "minimizer_zero": zero, "flip_nearest": float(flips.min())}
    if len(swaps):
        out["swap_nearest"] = float(swaps.min())
    return out, {"flips": np.sort(flips), "swaps": np.sort(swaps)}


MEASURES: dict[str, Callable[[Run, StackedLoss], Measured]] = {
    "hessian": hessian,
    "map": sam_map,
    "slice": loss_slice,
    "persistence": persistence,
    "ascent": ascent,
    "symmetry": symmetry,
}
