"""Solve F(z) = 0 where the Jacobian of F is symmetric: many starts at once, or without matrices.

A *system* has ``residual(z)``, F on arrays (..., n), and ``jacobian(z)``, its symmetric Jacobian: a
matrix (..., n, n), or a SciPy linear operator where the Hessians of its ``landscape`` are not
formed, z (n,).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from samlib.landscapes.protocol import Array, is_dense


def levenberg(system: Any, z: Array, steps: int = 100) -> Array:
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


def newton_free(system: Any, z: Array, steps: int = 40) -> Array:
    """Solve F(z) = 0 from ``z`` (n,) with products Jv only: Newton's method, damped, by MINRES."""
    size = float(np.linalg.norm(system.residual(z)))
    for _ in range(steps):
        step = symmetric_solve(system.jacobian(z), -system.residual(z))
        for shrink in (1.0, 0.5, 0.1, 0.01):
            new = float(np.linalg.norm(system.residual(z + shrink * step)))
            if new < size:
                break
        else:
            break
        z, size = z + shrink * step, new
    return z


def solve(system: Any, z: Array) -> Array:
    """Refine the root of ``system`` near ``z`` (n,) to the limit of float64."""
    if is_dense(system.landscape):
        return np.asarray(levenberg(system, z[None])[0])
    return newton_free(system, z)


def symmetric_solve(jacobian: Any, right: Array, tol: float = 1e-12) -> Array:
    """The least-squares solution v of Jv = ``right``, by MINRES where J is an operator."""
    if isinstance(jacobian, np.ndarray):
        return np.asarray(np.linalg.lstsq(jacobian, right, rcond=None)[0])
    from scipy.sparse.linalg import minres

    return np.asarray(minres(jacobian, right, rtol=tol, maxiter=4 * len(right))[0])
