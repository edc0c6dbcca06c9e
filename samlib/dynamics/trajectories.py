"""The SAM map T(x) = x − η∇f(x⁺) iterated on landscapes: trajectories and basins of attraction.

x⁺ = x + ρ∇f(x)/‖∇f(x)‖ (Foret et al. 2021); the other rules of ``samlib.dynamics.rules`` iterate
the same way. Everything is batched: starts have shape (..., d). An orbit that diverges ends as
infinities or NaN and stays so, without a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samlib.dynamics import rules
from samlib.errors import BadInput, check_whole

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DIVERGED, MOVING = -1, -2
"""Labels of the starts that reach no limit: out of every bound, or still moving at the end."""

_CHUNK = 1 << 14  # starts iterated together: their arrays fit into the cache
_EVERY = 10  # steps between two looks at who has arrived


def sam_map(
    landscape: Any, rho: Any, eta: Any, rule: str | rules.Rule = "sam"
) -> Callable[[Any], Any]:
    """The map x ↦ T(x): (..., d) → (..., d), NumPy or torch.

    Parameters
    ----------
    landscape
        What the rule asks of f.
    rho, eta
        The radius ρ and the learning rate η: numbers, or arrays (..., 1) that go with the points.
    rule
        A rule of :mod:`samlib.dynamics.rules` or its name.

    Raises
    ------
    BadInput
        Unless ρ and η are finite and ≥ 0, and there is such a rule.
    """
    function, oracle = rules.get(rule), _Slopes(landscape)
    for name, value in (("rho", rho), ("eta", eta)):
        numbers = np.asarray(value, dtype=np.float64)
        if not np.all(np.isfinite(numbers) & (numbers >= 0)):
            raise BadInput(f"{name} = {value!r} must be finite and ≥ 0; try {name} = 0.1")

    @np.errstate(all="ignore")
    def step(x: Any) -> Any:
        return x - eta * function(oracle, x, rho).direction

    return step


def trajectory(
    landscape: Any, x0: Any, rho: Any, eta: Any, steps: int, rule: str | rules.Rule = "sam"
) -> Floats:
    """The orbits x_0, …, x_steps of all starts ``x0`` (..., d): (steps + 1, ..., d), float64.

    Parameters and errors as for :func:`sam_map`; ``steps`` is a positive whole number.
    """
    step = sam_map(landscape, rho, eta, rule)
    x = np.array(x0, dtype=np.float64)
    out = np.empty((check_whole("steps", steps, remedy="try steps = 500") + 1, *x.shape))
    out[0] = x
    for k in range(1, len(out)):
        out[k] = x = step(x)
    return out


def grid(landscape: Any, n: int) -> Floats:
    """A regular n × … × n grid of starts over the landscape's box: (n, ..., n, d).

    In two dimensions entry [i, j] has the j-th x and the i-th y, the order of ``imshow``.
    """
    n = check_whole("n", n, remedy="try n = 100")
    axes = [np.linspace(low, high, n) for low, high in landscape.box]
    return np.stack(np.meshgrid(*axes), axis=-1)


@dataclass(frozen=True)
class Basins:
    """Where each start of a grid ends.

    Attributes
    ----------
    labels
        Integers (...), an index into the k limits, or ``DIVERGED`` (−1) or ``MOVING`` (−2).
    ends
        The last iterate of each start, (..., d).
    limits, images
        The fixed points reached and their x⁺, (k, d).
    grad_norms
        ‖∇f(limit)‖, (k,).
    hallucinated
        Whether ∇f vanishes at the image but not at the limit, (k,).
    """

    labels: Ints
    ends: Floats
    limits: Floats
    images: Floats
    grad_norms: Floats
    hallucinated: NDArray[np.bool_]


def basins(
    landscape: Any,
    starts: Any,
    rho: float,
    eta: float,
    steps: int,
    rule: str | rules.Rule = "sam",
    *,
    tol: float = 1e-8,
    merge: float = 1e-2,
) -> Basins:
    """Iterate from every start (..., d) and sort the starts by their limits.

    A start has arrived when a step moves no coordinate by more than ``tol``, and has diverged when
    a coordinate is not finite or exceeds 10⁶(1 + max |starts|). All others are ``MOVING``: not only
    slow starts, but all that approach an ordinary minimizer. SAM with fixed ρ does not converge
    there; it hovers at a distance of order ηρ, on a 2-cycle where f is symmetric. Limits connected
    by a chain with gaps below ``merge`` share a label, so a curve of limits is one. Other
    parameters and errors as for :func:`trajectory`.
    """
    step = sam_map(landscape, rho, eta, rule)
    steps = check_whole("steps", steps, remedy="try steps = 500")
    starts = np.asarray(starts, dtype=np.float64)
    points = starts.reshape(-1, starts.shape[-1])
    bound = 1e6 * (1 + np.abs(points).max(initial=0.0))
    ends, moved = np.empty(points.shape), np.empty(len(points))
    for i in range(0, len(points), _CHUNK):
        chunk = slice(i, i + _CHUNK)
        ends[chunk], moved[chunk] = _run(step, points[chunk], steps, tol, bound)
    labels = np.where(np.isinf(moved), DIVERGED, MOVING)
    settled = moved <= tol
    labels[settled], best = _cluster(ends[settled], moved[settled], merge)
    limits = ends[settled][best]
    for _ in range(steps):  # until they are good to rounding and not only to tol
        limits = step(limits)
    images = rules.get(rule)(_Slopes(landscape), limits, rho).x_plus
    norm, at_image = (np.linalg.norm(landscape.grad(p), axis=-1) for p in (limits, images))
    return Basins(
        labels.reshape(starts.shape[:-1]),
        ends.reshape(starts.shape),
        limits,
        images,
        grad_norms=norm,
        hallucinated=(norm > 1e-6) & (at_image < 1e-3 * norm),
    )


def _run(
    step: Callable[[Any], Any], x: Floats, steps: int, tol: float, bound: float
) -> tuple[Floats, Floats]:
    """Ends (n, d) of the starts x (n, d), and the lengths (n,) of the last steps: ∞ if lost."""
    ends, moved, alive = np.empty(x.shape), np.empty(len(x)), np.arange(len(x))
    for done in range(0, steps, _EVERY):
        for _ in range(min(_EVERY, steps - done)):
            last, x = x, step(x)
        with np.errstate(all="ignore"):
            move = np.abs(x - last).max(-1)
            move[~(np.abs(x).max(-1) <= bound)] = np.inf
        ends[alive], moved[alive] = x, move
        stay = (move > tol) & (move < np.inf)
        # Transposed copies keep each coordinate contiguous: the landscapes are fastest on those.
        alive, x = alive[stay], np.ascontiguousarray(x[stay].T).T
        if not len(alive):
            break
    return ends, moved


def _cluster(points: Floats, moved: Floats, merge: float) -> tuple[Ints, Ints]:
    """The component of each point (n,), and the member that moved least of each component (k,)."""
    if not len(points):
        return np.zeros(0, int), np.zeros(0, int)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    # One tree point a cell of side merge; touching cells are joined. Cells come in sorted order.
    cells, member = np.unique(np.round(points / merge), axis=0, return_inverse=True)
    i, j = cKDTree(cells).query_pairs(1.5, p=np.inf, output_type="ndarray").T
    links = coo_array((np.ones(len(i)), (i, j)), shape=(len(cells), len(cells)))
    labels = connected_components(links, directed=False)[1][member.ravel()]
    order = np.lexsort((moved, labels))
    return labels, order[np.unique(labels[order], return_index=True)[1]]


class _Slopes:
    """A landscape that leaves out its values: the map needs none, and they cost half a gradient."""

    def __init__(self, landscape: Any) -> None:
        self.landscape = landscape

    def value_and_grad(self, x: Any) -> tuple[None, Any]:
        return None, self.landscape.grad(x)

    def hvp(self, x: Any, v: Any) -> Any:
        return self.landscape.hvp(x, v)
