"""Solve F(z) = 0 where the Jacobian of F is symmetric: many starts at once, or without matrices."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from samlib.landscapes.protocol import Array, Smooth, is_dense


class System(Protocol):
    """F: R^n → R^n on arrays (..., n), with a symmetric Jacobian J."""

    landscape: Smooth

    def residual(self, z: Array) -> Array:
        """F, (..., n)."""

    def jacobian(self, z: Array) -> Array:
        """J, (..., n, n)."""

    def product(self, z: Array, v: Array) -> Array:
        """J at ``z`` (n,) times ``v`` (n,)."""


def levenberg(system: System, z: Array, steps: int = 100) -> Array:
    """Solve F(z) = 0 from each row of ``z`` (B, n) at once; rows come back as far as they got.

    Levenberg–Marquardt through the eigenvectors of J: the step −J(J² + λ)⁻¹F is Newton's as
    λ → 0, and the shortest such step where J is singular.
    """
    z = z.copy()
    live = np.array(np.isfinite(z).all(-1))
    damping = np.full(len(z), 1e-3)
    forces, spectra, bases = np.empty_like(z), np.empty_like(z), np.empty((*z.shape, z.shape[-1]))
    moved = live.copy()  # a row that stayed where it was keeps its force and its eigenvectors
    for _ in range(steps):
        new = np.flatnonzero(live & moved)
        if new.size:
            force, matrix = system.residual(z[new]), system.jacobian(z[new])
            good = np.isfinite(force).all(-1) & np.isfinite(matrix).all((-2, -1))
            live[new[~good]] = False
            forces[new[good]] = force[good]
            spectra[new[good]], bases[new[good]] = np.linalg.eigh(matrix[good])
        rows = np.flatnonzero(live)
        if rows.size == 0:
            break
        force, values, vectors = forces[rows], spectra[rows], bases[rows]
        top = np.max(values**2, axis=-1, keepdims=True, initial=0)
        bottom = values**2 + damping[rows, None] * top
        inverse = np.divide(values, bottom, out=np.zeros_like(values), where=bottom > 0)
        inward = (force[:, None, :] @ vectors)[:, 0] * inverse
        step = -(vectors @ inward[..., None])[..., 0]
        trial = z[rows] + step
        size = np.linalg.norm(force, axis=-1)
        # False where the trial is not finite
        better = np.linalg.norm(system.residual(trial), axis=-1) < size
        z[rows[better]], moved[rows] = trial[better], better
        damping[rows] *= np.where(better, 0.1, 10.0)
        tiny = np.linalg.norm(step, axis=-1) <= 1e-16 * (1 + np.linalg.norm(trial, axis=-1))
        live[rows] = ~(tiny | (size == 0) | (damping[rows] > 1e8))
    return z


def newton_free(system: System, z: Array, steps: int = 40) -> Array:
    """Solve F(z) = 0 from ``z`` (n,) with products Jv only: Newton's method, damped, by MINRES."""
    size = float(np.linalg.norm(system.residual(z)))
    for _ in range(steps):
        step = symmetric_solve(system, z, -system.residual(z))
        for shrink in (1.0, 0.5, 0.1, 0.01):
            new = float(np.linalg.norm(system.residual(z + shrink * step)))
            if new < size:
                break
        else:
            break
        z, size = z + shrink * step, new
    return z


def solve(system: System, z: Array) -> Array:
    """Refine the root of ``system`` near ``z`` (n,) to the limit of float64."""
    if is_dense(system.landscape):
        return np.asarray(levenberg(system, z[None])[0])
    return newton_free(system, z)


def symmetric_solve(system: System, z: Array, right: Array) -> Array:
    """Return the least-squares solution of J(z)v = ``right``, by MINRES where J is not formed."""
    if is_dense(system.landscape):
        return np.asarray(np.linalg.lstsq(system.jacobian(z), right, rcond=None)[0])
    from scipy.sparse.linalg import LinearOperator, minres

    shape = (z.size, z.size)
    operator = LinearOperator(shape, matvec=lambda v: system.product(z, np.ravel(v)), dtype=float)
    return np.asarray(minres(operator, right, rtol=1e-12, maxiter=4 * z.size)[0])
