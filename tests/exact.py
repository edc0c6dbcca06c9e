"""The definitions of the theory chapters restated with SymPy, without samlib."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import sympy as sp


class Local(NamedTuple):
    """What SAM sees at a hallucinated point, exactly: g, u, the image x⁺, M, A and S."""

    g: sp.Matrix
    u: sp.Matrix
    image: sp.Matrix
    M: sp.Matrix
    A: sp.Matrix
    S: sp.Matrix


def at(expr: Any, symbols: Sequence[sp.Symbol], point: Any) -> Any:
    """Substitute a point into an expression or a matrix."""
    return sp.simplify(expr.subs(dict(zip(symbols, point, strict=True))))


def gradient(f: sp.Expr, symbols: Sequence[sp.Symbol]) -> sp.Matrix:
    """∇f as a column."""
    return sp.Matrix([sp.diff(f, s) for s in symbols])


def local(f: sp.Expr, symbols: Sequence[sp.Symbol], x: Any, rho: Any) -> Local:
    """M = I + (ρ/‖g‖) P H(x), A = H(x⁺) M, S = Eᵀ M E, E an orthonormal basis of u^⊥."""
    d = len(symbols)
    hess = sp.hessian(f, symbols)
    g = at(gradient(f, symbols), symbols, x)
    norm = sp.sqrt(sum(e**2 for e in g))
    u = g / norm
    image = sp.Matrix(list(x)) + rho * u
    m = sp.eye(d) + (rho / norm) * (sp.eye(d) - u * u.T) * at(hess, symbols, x)
    basis = sp.Matrix.hstack(*sp.GramSchmidt(u.T.nullspace(), True)) if d > 1 else sp.zeros(1, 0)
    a = at(hess, symbols, image) * m
    return Local(g, u, image, sp.simplify(m), sp.simplify(a), sp.simplify(basis.T * m * basis))


class Numeric:
    """f, ∇f and the Hessian of a SymPy expression on one float64 point at a time."""

    def __init__(self, f: sp.Expr, symbols: Sequence[sp.Symbol]) -> None:
        self.dim = len(symbols)
        self._f = sp.lambdify(symbols, f, cse=True)
        self._g = sp.lambdify(symbols, list(gradient(f, symbols)), cse=True)
        self._h = sp.lambdify(symbols, sp.hessian(f, symbols), cse=True)

    def f(self, x: np.ndarray) -> float:
        return float(self._f(*x))

    def grad(self, x: np.ndarray) -> np.ndarray:
        return np.array(self._g(*x), dtype=float)

    def hess(self, x: np.ndarray) -> np.ndarray:
        return np.array(self._h(*x), dtype=float)

    def shifted(self, x: np.ndarray, rho: float) -> np.ndarray:
        """x⁺ = x + ρ ∇f(x)/‖∇f(x)‖, and x itself where the gradient is zero."""
        g = self.grad(x)
        n = np.linalg.norm(g)
        return x + rho * g / n if n > 0 else x

    def step(self, x: np.ndarray, rho: float, eta: float) -> np.ndarray:
        """One SAM step, x − η∇f(x⁺)."""
        return x - eta * self.grad(self.shifted(x, rho))

    def linearisation(self, x: np.ndarray, rho: float) -> np.ndarray:
        """A = H(x⁺)(I + (ρ/‖g‖) P H(x))."""
        g = self.grad(x)
        n = np.linalg.norm(g)
        p = np.eye(self.dim) - np.outer(g, g) / n**2
        m = np.eye(self.dim) + (rho / n) * p @ self.hess(x)
        return self.hess(self.shifted(x, rho)) @ m

    def newton(self, x: np.ndarray) -> np.ndarray:
        """A critical point near x."""
        for _ in range(60):
            step = np.linalg.solve(self.hess(x), self.grad(x))
            x = x - step
            if np.linalg.norm(step) < 1e-15 * (1 + np.linalg.norm(x)):
                break
        return x

    def from_pair(self, x_c: np.ndarray, x_s: np.ndarray, rho: float) -> tuple[np.ndarray, float]:
        """Newton on ∇f(x) + μ(x − x_*)/ρ = 0, ‖x − x_*‖ = ρ from the expansion at x_c: (x, μ)."""
        dist = np.linalg.norm(x_c - x_s)
        n = (x_c - x_s) / dist
        w = np.linalg.solve(self.hess(x_c), n)
        q = n @ w
        z = np.append(x_c + (rho - dist) * w / q, -(rho - dist) / q)
        for _ in range(60):
            x, mu = z[:-1], z[-1]
            r = x - x_s
            length = np.linalg.norm(r)
            res = np.append(self.grad(x) + mu * r / rho, length - rho)
            jac = np.block(
                [
                    [self.hess(x) + mu / rho * np.eye(self.dim), r[:, None] / rho],
                    [r[None, :] / length, np.zeros((1, 1))],
                ]
            )
            step = np.linalg.solve(jac, res)
            z = z - step
            if np.linalg.norm(step) < 1e-15 * (1 + np.linalg.norm(z)):
                break
        return z[:-1], float(z[-1])


def on_circle(fn: Numeric, centre: np.ndarray, rho: float, n: int = 4000) -> list[np.ndarray]:
    """Critical points of f on a circle with ∇f pointing inward, by scan and bisection."""

    def place(t: float) -> np.ndarray:
        return centre + rho * np.array([np.cos(t), np.sin(t)])

    def tangential(t: float) -> float:
        return float(fn.grad(place(t)) @ np.array([-np.sin(t), np.cos(t)]))

    angles = np.linspace(0, 2 * np.pi, n + 1) + 0.123456
    values = [tangential(t) for t in angles]
    found = []
    for i in range(n):
        if values[i] * values[i + 1] >= 0:
            continue
        lo, hi = angles[i], angles[i + 1]
        for _ in range(60):
            mid = (lo + hi) / 2
            lo, hi = (mid, hi) if tangential(mid) * values[i] > 0 else (lo, mid)
        x = place((lo + hi) / 2)
        if fn.grad(x) @ (centre - x) > 1e-9 * rho:
            found.append(x)
    return found


X, Y = sp.symbols("x y", real=True)
HIMMELBLAU = (X**2 + Y - 11) ** 2 + (X + Y**2 - 7) ** 2


def himmelblau_points(fn: Numeric) -> list[np.ndarray]:
    """The nine critical points, by Newton from a coarse grid."""
    points: list[np.ndarray] = []
    for start in np.stack(np.meshgrid(np.linspace(-5, 5, 21), np.linspace(-5, 5, 21)), -1).reshape(
        -1, 2
    ):
        x = fn.newton(start)
        if np.linalg.norm(fn.grad(x)) < 1e-9 and all(np.linalg.norm(x - p) > 1e-6 for p in points):
            points.append(x)
    return points


def ordered_pairs(
    points: Sequence[np.ndarray],
) -> list[tuple[np.ndarray, np.ndarray, float, np.ndarray]]:
    """All (x_c, x_*, D, n) with D = ‖x_c − x_*‖ and n = (x_c − x_*)/D."""
    found = []
    for c, s in itertools.permutations(points, 2):
        dist = float(np.linalg.norm(c - s))
        found.append((c, s, dist, (c - s) / dist))
    return found
