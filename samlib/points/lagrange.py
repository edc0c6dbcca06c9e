"""Hallucinated points as critical points of f on a sphere.

x_h is hallucinated with image x_* (x_h + ρ∇f(x_h)/‖∇f(x_h)‖ = x_*, ∇f(x_*) = 0, ∇f(x_h) ≠ 0) iff

    ∇f(x) + μ(x − x_*)/ρ = 0,   ‖x − x_*‖ = ρ,   μ > 0,

that is, iff it is a critical point of f on the sphere S_ρ(x_*) where the gradient points inward;
then μ = ‖∇f(x_h)‖ (theory §1, sphere characterisation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from samlib.errors import BadInput, check_number
from samlib.landscapes.protocol import Array, Smooth, hvp
from samlib.points.solvers import solve

_SAMPLE = 24  # points returned where a whole circle is critical


@dataclass(eq=False)
class Stationary:
    """∇f(x) = 0, a system for :mod:`samlib.points.solvers`."""

    landscape: Smooth

    def residual(self, z: Array) -> Array:
        """∇f."""
        return np.asarray(self.landscape.grad(z), dtype=float)

    def jacobian(self, z: Array) -> Array:
        """Return the Hessian."""
        return np.asarray(self.landscape.hess(z), dtype=float)

    def product(self, z: Array, v: Array) -> Array:
        """Hessian times vector."""
        return hvp(self.landscape, z, v)


@dataclass(eq=False)
class Lagrange:
    """∇f(x) + μn = 0 and ρ(‖n‖² − 1)/2 = 0 with n = (x − x_*)/ρ, in z = (x, μ)."""

    landscape: Smooth
    image: Array
    rho: float

    def lift(self, x: Array) -> Array:
        """Append to ``x`` (..., d) the multiplier μ = −⟨∇f, n⟩ that fits it best."""
        normal = (x - self.image) / self.rho
        mu = -np.sum(np.asarray(self.landscape.grad(x), dtype=float) * normal, -1, keepdims=True)
        return np.concatenate([x, mu], -1)

    def residual(self, z: Array) -> Array:
        """Return both left-hand sides, (..., d + 1)."""
        normal = (z[..., :-1] - self.image) / self.rho
        top = np.asarray(self.landscape.grad(z[..., :-1]), dtype=float) + z[..., -1:] * normal
        gap = self.rho * (np.sum(normal * normal, -1, keepdims=True) - 1) / 2
        return np.concatenate([top, gap], -1)

    def jacobian(self, z: Array) -> Array:
        """Return the symmetric matrix [[H + (μ/ρ)I, n], [nᵀ, 0]]."""
        d = self.landscape.dim
        matrix = np.zeros((*z.shape[:-1], d + 1, d + 1))
        matrix[..., :d, :d] = self.landscape.hess(z[..., :-1])
        matrix[..., range(d), range(d)] += z[..., -1:] / self.rho
        matrix[..., :d, d] = matrix[..., d, :d] = (z[..., :-1] - self.image) / self.rho
        return matrix

    def product(self, z: Array, v: Array) -> Array:
        """Return the same matrix times ``v``, from one Hessian-vector product."""
        normal = (z[:-1] - self.image) / self.rho
        top = hvp(self.landscape, z[:-1], v[:-1]) + z[-1] / self.rho * v[:-1] + v[-1] * normal
        return np.append(top, normal @ v[:-1])


def as_point(landscape: Smooth, value: ArrayLike, name: str) -> Array:
    """Return ``value`` as a finite float64 vector (d,), or raise BadInput."""
    try:
        point = np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise BadInput(f"{name} = {value!r} is not a vector of {landscape.dim} numbers") from None
    if point.ndim == 0 and landscape.dim == 1:
        point = point[None]
    if point.shape != (landscape.dim,):
        raise BadInput(
            f"{name} has shape {point.shape}; pass one point of shape ({landscape.dim},), "
            "a number for each variable of the landscape"
        )
    if not np.isfinite(point).all():
        raise BadInput(f"{name} = {point} is not finite; pass {landscape.dim} finite numbers")
    return point


def check_rho(rho: float) -> float:
    """Return ρ as a float; BadInput unless it is finite and positive."""
    return check_number("rho", rho, strict=True, remedy="pass the radius of SAM's ascent step")


def stationary_image(landscape: Smooth, image: ArrayLike, name: str = "image") -> Array:
    """Return ``image`` polished to the limit of float64; BadInput unless it is stationary."""
    given = as_point(landscape, image, name)
    point = solve(Stationary(landscape), given)
    moved = float(np.linalg.norm(point - given))
    # what one unit in the last place of the coordinates changes in ∇f, with room
    stiff = np.linalg.norm(hvp(landscape, point, np.ones(landscape.dim)))
    allowed = max(1e-8, 1e-13 * float(stiff) * (1 + float(np.linalg.norm(point))))
    force = float(np.linalg.norm(landscape.grad(point)))
    # written so that NaN fails
    if not (moved <= 1e-6 * (1 + np.linalg.norm(given)) and force <= allowed):
        slope = float(np.linalg.norm(landscape.grad(given)))
        raise BadInput(
            f"{name} = {given} is not stationary: ‖∇f‖ = {slope:.3g} there and 0 is needed; "
            "pass a critical point of f to 6 digits or more, such as critical_points returns"
        )
    return point


def circle_candidates(landscape: Smooth, centre: Array, rho: float, size: int = 2048) -> Array:
    """Return the critical points (n, 2) of f on a circle, from a scan of ``size`` points.

    They are the zeros of h(θ) = ⟨∇f, τ⟩, τ the unit tangent. Two zeros between neighbours of the
    grid, or a double one, are found through the zero of h′ between them. Where h vanishes on the
    whole circle, 24 points of it are returned.
    """

    def at(theta: Array) -> tuple[Array, Array, Array]:
        normal = np.stack([np.cos(theta), np.sin(theta)], -1)
        return centre + rho * normal, normal, np.stack([-normal[..., 1], normal[..., 0]], -1)

    def slope(theta: Array) -> Array:
        x, _, tangent = at(theta)
        return np.asarray(np.sum(landscape.grad(x) * tangent, -1))

    def bend(theta: Array) -> Array:
        x, normal, tangent = at(theta)
        along = np.einsum("ni,nij,nj->n", tangent, landscape.hess(x), tangent)
        return np.asarray(rho * along - np.sum(landscape.grad(x) * normal, -1))

    grid = 0.1 + 2 * np.pi * np.arange(size + 1) / size  # 0.1: keeps symmetry axes off the grid
    h, dh = slope(grid), bend(grid)
    scale = float(np.max(np.abs(np.nan_to_num(landscape.grad(at(grid)[0])))))
    if np.max(np.abs(h)) <= 1e-11 * scale:
        return at(0.1 + 2 * np.pi * np.arange(_SAMPLE) / _SAMPLE)[0]
    low, high = grid[:-1], grid[1:]
    # h keeps its sign but turns round on its way to 0: it may cross twice, or touch, in between
    turn = (h[:-1] * h[1:] > 0) & (h[:-1] * dh[:-1] < 0) & (h[1:] * dh[1:] > 0)
    middle = bisect(bend, low[turn], high[turn])
    low = np.concatenate([low[~turn], low[turn], middle])
    high = np.concatenate([high[~turn], middle, high[turn]])
    change = np.signbit(slope(low)) != np.signbit(slope(high))
    roots = bisect(slope, low[change], high[change])
    touch = middle[np.abs(slope(middle)) <= 1e-9 * scale]
    return at(np.concatenate([roots, touch]))[0]


def bisect(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Halve many brackets (n,) of a change of sign at once, to the limit of float64."""
    sign = np.signbit(function(low))
    for _ in range(52):
        middle = (low + high) / 2
        left = np.signbit(function(middle)) == sign
        low, high = np.where(left, middle, low), np.where(left, high, middle)
    return np.asarray((low + high) / 2)
