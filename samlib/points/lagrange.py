"""Hallucinated points as critical points of f on a sphere.

x_h is hallucinated with image x_* (x_h + ρ∇f(x_h)/‖∇f(x_h)‖ = x_*, ∇f(x_*) = 0, ∇f(x_h) ≠ 0) iff

    ∇f(x) + μ(x − x_*)/ρ = 0,   ‖x − x_*‖ = ρ,   μ > 0,

that is, iff it is a critical point of f on the sphere S_ρ(x_*) where the gradient points inward;
then μ = ‖∇f(x_h)‖ (theory §1, sphere characterisation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samlib.errors import BadInput, check_point
from samlib.landscapes.protocol import Array, Smooth, hessian, operator
from samlib.points.solvers import solve

_SAMPLE = 24  # points returned where a whole circle is critical


@dataclass(eq=False)
class Stationary:
    """∇f(x) = 0, a system for :mod:`samlib.points.solvers`."""

    landscape: Smooth

    def residual(self, z: Array) -> Array:
        """∇f."""
        return np.asarray(self.landscape.grad(z), dtype=float)

    def jacobian(self, z: Array) -> Any:
        """The Hessian."""
        return hessian(self.landscape, z)


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
        """Both left-hand sides, (..., d + 1)."""
        normal = (z[..., :-1] - self.image) / self.rho
        top = np.asarray(self.landscape.grad(z[..., :-1]), dtype=float) + z[..., -1:] * normal
        gap = self.rho * (np.sum(normal * normal, -1, keepdims=True) - 1) / 2
        return np.concatenate([top, gap], -1)

    def jacobian(self, z: Array) -> Any:
        """The symmetric matrix [[H + (μ/ρ)I, n], [nᵀ, 0]]."""
        d = self.landscape.dim
        normal, pull = (z[..., :-1] - self.image) / self.rho, z[..., -1:] / self.rho
        curved = hessian(self.landscape, z[..., :-1])
        if not isinstance(curved, np.ndarray):
            return operator(
                d + 1,
                lambda v: np.append(
                    curved @ v[:-1] + pull * v[:-1] + v[-1] * normal, normal @ v[:-1]
                ),
            )
        matrix = np.zeros((*z.shape[:-1], d + 1, d + 1))
        matrix[..., :d, :d] = curved
        matrix[..., range(d), range(d)] += pull
        matrix[..., :d, d] = matrix[..., d, :d] = normal
        return matrix


def stationary_image(landscape: Smooth, image: ArrayLike, name: str = "image") -> Array:
    """``image`` (d,) polished to the limit of float64.

    Raises
    ------
    BadInput
        Unless it is a critical point of f to 6 digits.
    """
    given, system = check_point(name, image, landscape.dim), Stationary(landscape)
    point = solve(system, given)
    moved = float(np.linalg.norm(point - given))
    # what one unit in the last place of the coordinates changes in ∇f, with room
    stiff = np.linalg.norm(system.jacobian(point) @ np.ones(landscape.dim))
    allowed = max(1e-8, 1e-13 * float(stiff) * (1 + float(np.linalg.norm(point))))
    force = float(np.linalg.norm(system.residual(point)))
    # written so that NaN fails
    if not (moved <= 1e-6 * (1 + np.linalg.norm(given)) and force <= allowed):
        slope = float(np.linalg.norm(system.residual(given)))
        raise BadInput(
            f"{name} = {given} is not stationary: ‖∇f‖ = {slope:.3g} there and 0 is needed; "
            "pass a critical point of f to 6 digits or more, such as critical_points returns"
        )
    return np.asarray(point)


def circle_candidates(landscape: Smooth, centre: Array, rho: float, size: int = 2048) -> Array:
    """The critical points (n, 2) of f on a circle, from a scan of ``size`` points.

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
