"""Find critical points, and hallucinated points of a given image and radius.

The search is constrained optimisation (:mod:`samlib.points.lagrange`): the points with image x_*
are the critical points of f on the sphere S_ρ(x_*) at which the gradient points inward. Everything
here takes a :class:`samlib.Landscape` or any object of the same kind, such as
:class:`samlib.training.torch_loss.TorchLoss`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samlib.errors import BadInput, check_box, check_point, check_rho, check_whole
from samlib.landscapes.protocol import Array, Smooth, hessian, is_dense
from samlib.points.lagrange import Lagrange, Stationary, circle_candidates, stationary_image
from samlib.points.linearisation import ascend
from samlib.points.solvers import levenberg, solve, symmetric_solve
from samlib.points.stability import critical_kind

#: A point counts as found when ‖∇f(x⁺)‖ is at most this, or as small as float64 can make it.
TOLERANCE = 1e-10
#: ... and ‖∇f(x)‖ is more than this: below, the direction of ascent has no digits left.
MIN_GRAD = 1e-6


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """∇f(x) = 0: ``kind`` is minimizer, saddle, maximizer or degenerate."""

    x: Array
    value: float
    kind: str
    eigenvalues: Array


@dataclass(frozen=True, eq=False)
class HallucinatedPoint:
    """``x`` (d,) with x + ρ∇f/‖∇f‖ = ``image`` (d,); ``residual`` is ‖∇f(x⁺)‖ as computed."""

    x: Array
    image: Array
    rho: float
    grad_norm: float
    residual: float
    landscape: Any = field(default=None, repr=False)


def critical_points(
    landscape: Smooth, box: ArrayLike | None = None, starts: int | ArrayLike | None = None
) -> list[CriticalPoint]:
    """The critical points of f in ``box``, sorted by coordinates; its Hessians must be formed.

    Damped Newton from many starts at once; a critical point whose basin holds no start is missed.
    On a curve or surface of critical points the starts land at different points, all returned.

    Parameters
    ----------
    box
        d pairs (low, high), by default ``landscape.box``.
    starts
        A number of starts spread over the box (default 400 per variable, at most 2000), or an
        array (n, d) of them.

    Raises
    ------
    BadInput
        For a box that is missing or not d increasing pairs, or starts of the wrong shape.
    """
    dim = landscape.dim
    low, high = check_box(getattr(landscape, "box", None) if box is None else box, dim).T
    number = min(400 * dim, 2000) if starts is None else starts
    seeds = _starts(number, dim, lambda n: low + (high - low) * _spread(n, dim))
    found = levenberg(Stationary(landscape), seeds, 150)
    slack = 1e-9 * (high - low)
    force = np.linalg.norm(landscape.grad(found), axis=-1)
    stiff = np.linalg.norm(np.nan_to_num(landscape.hess(found)), axis=(-2, -1))
    rounding = 1e-14 * stiff * (1 + np.linalg.norm(found, axis=-1))
    good = np.all((found >= low - slack) & (found <= high + slack), axis=-1)
    good &= force <= np.maximum(TOLERANCE, rounding)
    good &= np.isfinite(landscape.f(found))  # derivatives can outlive f: log x, x < 0
    keep = _distinct(found[good], force[good], 1e-6 * float(np.max(high - low)))
    found = found[good][keep]
    values, spectra = landscape.f(found), np.linalg.eigvalsh(landscape.hess(found))
    return [
        CriticalPoint(x, float(value), critical_kind(eigenvalues), eigenvalues)
        for x, value, eigenvalues in zip(found, values, spectra, strict=True)
    ]


def find_hallucinated(
    landscape: Smooth, image: ArrayLike, rho: float, *, starts: int | ArrayLike | None = None
) -> list[HallucinatedPoint]:
    """The hallucinated points of radius ``rho`` whose image is ``image``, by coordinates.

    d = 1: the two points of the sphere. d = 2: the zeros of the tangential derivative on a fine
    grid of the circle, with those that touch zero between two grid points. d ≥ 3, and wherever
    ``starts`` are given: damped Newton on Lagrange's system from many points of the sphere, always
    the same ones; some may be missed.
    Each point is solved for to the limit of float64 and then checked by taking SAM's ascent
    step: ‖∇f(x)‖ > 1e-6 and ‖∇f(x⁺)‖ ≤ 1e-10, or where rounding alone makes ∇f(x⁺) larger, as
    small as any neighbour's. Where all of the sphere is hallucinated a sample is returned.

    Parameters
    ----------
    landscape, rho
        f and the radius ρ.
    image
        A critical point x_* of f, (d,), correct to 1e-6; it is polished.
    starts
        A number of starts on the sphere (for d ≥ 3 by default 256, and 8 above 300 variables), or
        an array (n, d) of points to start from.

    Raises
    ------
    BadInput
        If ``image`` is not stationary, has the wrong shape or is not finite, or ρ is not in (0, ∞).
    """
    rho, dim, dense = check_rho(rho), landscape.dim, is_dense(landscape)
    centre = stationary_image(landscape, image)
    system = Lagrange(landscape, centre, rho)
    if starts is None and dim == 1:
        ends = centre + rho * np.array([[-1.0], [1.0]])
    else:
        if starts is None and dim == 2:
            starts = circle_candidates(landscape, centre, rho)
        number = (256 if dense else 8) if starts is None else starts
        lifted = system.lift(_starts(number, dim, lambda n: centre + rho * _directions(n, dim)))
        solved = levenberg(system, lifted) if dense else [solve(system, z) for z in lifted]
        ends = np.array(solved)[:, :-1]
    candidates = ends[np.isfinite(ends).all(-1)]
    found = [p for x in candidates if (p := _checked(system, x)) is not None]
    keep = _distinct([p.x for p in found], [p.residual for p in found], 1e-6 * max(1.0, rho))
    return [found[i] for i in keep]


def refine(landscape: Smooth, x: ArrayLike, image: ArrayLike, rho: float) -> HallucinatedPoint:
    """The hallucinated point that Newton's method reaches from the guess ``x`` (d,).

    Raises
    ------
    BadInput
        If it reaches none, or for unusable arguments, as in :func:`find_hallucinated`.
    """
    start = check_point("x", x, landscape.dim)
    found = find_hallucinated(landscape, image, rho, starts=start[None])
    if not found:
        raise BadInput(
            f"no hallucinated point near x = {start} for rho = {rho}: Newton's method reaches none "
            "from there; start closer, or search with find_hallucinated"
        )
    return found[0]


def two_point_guess(landscape: Smooth, x_c: ArrayLike, image: ArrayLike, rho: float) -> Array:
    """The first-order hallucinated point x_c + (ρ − D)H_c⁻¹n/q near the critical point x_c.

    D = ‖x_c − x_*‖, n = (x_c − x_*)/D, q = nᵀH_c⁻¹n (theory §1, two critical points suffice). It
    exists for ρ near D, above D if q < 0 and below if q > 0, with ‖∇f‖ ≈ |ρ − D|/|q|.

    Raises
    ------
    BadInput
        If either point is not stationary, both are the same, H_c is singular, q = 0 or ρ is on the
        wrong side of D.
    """
    rho = check_rho(rho)
    start = stationary_image(landscape, x_c, "x_c")
    end = stationary_image(landscape, image)
    distance = float(np.linalg.norm(start - end))
    if distance <= 1e-6:
        raise BadInput(f"x_c = {start} is the image itself; pass another critical point")
    normal = (start - end) / distance
    curved = hessian(landscape, start)
    step = symmetric_solve(curved, normal)
    left = np.linalg.norm(curved @ step - normal)
    q = float(normal @ step)
    if not (left < 1e-6 and abs(q) > 1e-12 * float(np.linalg.norm(step))):
        raise BadInput(
            f"x_c = {start}: H_c is singular or q = {q:.3g} is 0; no branch starts there"
        )
    if (rho - distance) * q >= 0:
        side = "above" if q < 0 else "below"
        raise BadInput(f"rho = {rho} must lie {side} D = {distance:.17g}, where the branch exists")
    return np.asarray(start + (rho - distance) / q * step, dtype=float)


def _starts(starts: int | ArrayLike, dim: int, draw: Callable[[int], Array]) -> Array:
    """The array (n, d) given, or what ``draw`` makes of the number given."""
    if np.ndim(starts) == 0:
        return draw(check_whole("starts", starts))
    seeds = np.array(starts, dtype=float)
    if seeds.ndim != 2 or seeds.shape[1] != dim or not np.isfinite(seeds).all():
        raise BadInput(f"starts has shape {seeds.shape}; pass a number or finite points (n, {dim})")
    return seeds


def _spread(number: int, dim: int) -> Array:
    """At least ``number`` points of the unit cube, the same ones each time, (n, d)."""
    if dim <= 2:  # a regular grid leaves no gaps
        side = np.linspace(0, 1, int(np.ceil(number ** (1 / dim))) + 2)[1:-1]
        return np.stack(np.meshgrid(*[side] * dim, indexing="ij"), -1).reshape(-1, dim)
    return np.random.default_rng(0).random((number, dim))


def _directions(number: int, dim: int) -> Array:
    """``number`` points of the unit sphere, the same ones each time, (n, d)."""
    directions = np.random.default_rng(0).standard_normal((number, dim))
    return np.asarray(directions / np.linalg.norm(directions, axis=-1, keepdims=True))


def _checked(system: Lagrange, x: Array) -> HallucinatedPoint | None:
    """Take SAM's ascent step from ``x``: the hallucinated point, or None if it is not one.

    Rounding in ∇f(x), divided by a small ‖∇f(x)‖, can move x⁺ by more than the tolerance. Then the
    best of some neighbours a few units in the last place away is taken, and ‖∇f(x⁺)‖ must be no
    larger than the spread that rounding makes among them.
    """
    f, rho, rng = system.landscape, system.rho, np.random.default_rng(0)

    def step(cloud: Array) -> tuple[Array, Array, Array]:
        norm, plus = ascend(f, cloud, rho)
        return norm, plus, np.linalg.norm(f.grad(plus), axis=-1)

    cloud, allowed, best = x[None], TOLERANCE, 0
    norm, plus, residual = step(cloud)
    # written so that NaN fails
    if not (norm[0] > MIN_GRAD and np.linalg.norm(plus[0] - system.image) <= 1e-6 * rho):
        return None
    # in two variables a large enough cloud nearly always holds a point within the tolerance
    for reach, number in ((8, 2**8), (64, 2**14))[: 2 if x.size <= 2 else 1]:
        if residual[best] > TOLERANCE:
            ulps = rng.integers(-reach, reach + 1, (number, x.size))
            cloud = np.vstack([x, x + ulps * np.spacing(np.abs(x))])
            norm, _, residual = step(cloud)
            best = int(np.argmin(residual))
            allowed = max(allowed, float(np.max(residual) - residual[best]))
    if not (norm[best] > MIN_GRAD and residual[best] <= allowed):
        return None
    if not np.isfinite(f.f(cloud[best])):  # outside its domain
        return None
    return HallucinatedPoint(
        cloud[best].copy(), system.image.copy(), rho, float(norm[best]), float(residual[best]), f
    )


def _distinct(points: Any, badness: Any, distance: float) -> list[int]:
    """Which points to keep, the best of each cluster, in the order of their coordinates."""
    kept: list[int] = []
    for i in np.argsort(badness, kind="stable"):
        if all(np.linalg.norm(points[j] - points[i]) > distance for j in kept):
            kept.append(int(i))
    return sorted(kept, key=lambda i: tuple(np.round(points[i], 9)))
