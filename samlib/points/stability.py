"""Does SAM stay at a hallucinated point? DT = I − ηA there, and A decides (theory §2)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samlib.errors import BadInput, check_point, check_rho
from samlib.landscapes.protocol import Array, operator
from samlib.points.lagrange import stationary_image
from samlib.points.linearisation import Linearisation, linearise
from samlib.points.solvers import symmetric_solve

_ZERO = 1e-10  # eigenvalues this small relative to the largest count as zero


@dataclass(frozen=True, eq=False)
class Classification(Linearisation):
    """What SAM's map T(x) = x − η∇f(x⁺) does near a hallucinated point: see also its base.

    Attributes
    ----------
    eigenvalues
        Those of A, by real part: all of them up to 300 variables. Above, two each of largest
        modulus, of those nearest 0 and, where they stand apart, of smallest real part: enough for
        ``kind`` as a rule, and ``eta_max`` is then what they allow, an upper bound.
    kind
        "attracting": every Re λ > 0, SAM converges from nearby for 0 < η < ``eta_max``;
        "repelling": no direction attracts, whatever η; "saddle": some do; "neutral": some λ = 0,
        all others Re λ > 0.
    eta_max
        min 2 Re λ/|λ|², or None where there is none.
    image_kind
        "minimizer", "saddle", "maximizer" or "degenerate" (singular H(x⁺)).
    normally_attracting
        Of a neutral point, whether 0 is semisimple, so that a manifold of hallucinated points
        through it attracts, again for η < ``eta_max``, which then leaves the zeros out.
    """

    eigenvalues: NDArray[Any]
    eta_max: float | None
    kind: str
    image_kind: str
    normally_attracting: bool


def critical_kind(eigenvalues: Array) -> str:
    """Name a critical point after the eigenvalues of its Hessian."""
    size = float(np.max(np.abs(eigenvalues)))
    if np.min(np.abs(eigenvalues)) <= 1e-9 * size:
        return "degenerate"
    if np.all(eigenvalues > 0):
        return "minimizer"
    return "maximizer" if np.all(eigenvalues < 0) else "saddle"


def classify(
    landscape: Any, x_h: ArrayLike | None = None, rho: float | None = None
) -> Classification:
    """Classify a hallucinated point: ``classify(point)`` or ``classify(landscape, x_h, rho)``.

    Parameters
    ----------
    landscape
        A landscape, or a point that :func:`samlib.find_hallucinated` found and that knows its own.
    x_h
        The point, (d,).
    rho
        Its radius ρ.

    Raises
    ------
    BadInput
        If ``x_h`` is not hallucinated (∇f(x_h) is zero to 1e-8, or x⁺ is not a critical point to
        1e-6), has the wrong shape or is not finite, or ρ is not in (0, ∞).
    """
    if x_h is None and rho is None:
        landscape, x_h, rho = landscape.landscape, landscape.x, landscape.rho
    rho, x = check_rho(rho), check_point("x_h", x_h, landscape.dim)
    near = linearise(landscape, x, rho)
    if not near.grad_norm > 1e-8:  # NaN too
        raise BadInput(
            f"x_h = {x} is not hallucinated: ‖∇f(x_h)‖ = {near.grad_norm:.3g} must be positive; "
            "it is a critical point of f itself"
        )
    try:
        near = replace(near, image=stationary_image(landscape, near.image, "x⁺"))
    except BadInput as error:
        raise BadInput(
            f"x_h = {x} is not hallucinated for rho = {rho}: {error}; or use find_hallucinated"
        ) from None
    eigenvalues, curvatures, zero, semisimple = _spectrum(near)
    kind, eta_max, normally = _verdict(eigenvalues, zero, semisimple)
    return Classification(
        **{k.name: getattr(near, k.name) for k in fields(near)},
        eigenvalues=eigenvalues,
        eta_max=eta_max,
        kind=kind,
        image_kind=critical_kind(curvatures),
        normally_attracting=normally,
    )


def _spectrum(near: Linearisation) -> tuple[NDArray[Any], Array, NDArray[np.bool_], bool]:
    """Eigenvalues of A and of H(x⁺), which of A's count as zero, and whether 0 is semisimple."""
    a, there = near.A, near.H_image
    if not isinstance(a, np.ndarray):
        eigenvalues = _extremes(a, operator(len(near.u), lambda v: _inverse(near, v)))
        ends = _extremes(there, operator(len(near.u), lambda v: _minres(there, v))).real
        return eigenvalues, ends, np.abs(eigenvalues) <= 1e-9 * np.abs(eigenvalues).max(), False
    eigenvalues = np.sort_complex(np.linalg.eigvals(a))
    if not np.any(eigenvalues.imag):
        eigenvalues = eigenvalues.real
    left, singular, right = np.linalg.svd(a)
    empty = singular <= 1e-11 * singular[0]
    # 0 is semisimple iff no left null vector is orthogonal to all right ones
    pairing = left[:, empty].T @ right[empty].T
    semisimple = bool(np.linalg.svd(pairing, compute_uv=False).min(initial=1.0) > 1e-6)
    # a defective zero of multiplicity m comes out of rounding as a ring of radius eps^(1/m)
    size = np.abs(eigenvalues)
    count = int(empty.sum()) if semisimple else int(np.sum(size <= 1e-5 * singular[0]))
    zero = np.zeros(len(size), dtype=bool)
    zero[np.argsort(size)[:count]] = True
    return eigenvalues, np.linalg.eigvalsh(there), zero, semisimple


def _inverse(near: Linearisation, v: Array) -> Array:
    """A⁻¹v = M⁻¹H(x⁺)⁻¹v; M passes the component along u on, and is S across it."""
    w = _minres(near.H_image, v)
    along = (near.u @ w) * near.u
    return np.asarray(along + _minres(near.S, w - near.M @ along))


def _minres(symmetric: Any, right: Array) -> Array:
    return symmetric_solve(symmetric, right, tol=1e-14)


def _extremes(matrix: Any, inverse: Any) -> NDArray[Any]:
    """Eigenvalues of largest modulus, nearest 0 and, if they stand apart, of smallest real part.

    0 stands for the nearest ones where the inverse cannot be applied: the operator is singular.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, eigs

    d = matrix.shape[0]
    start = np.random.default_rng(0).standard_normal(d)

    def few(of: Any, which: str, ncv: int, **options: Any) -> NDArray[Any]:
        ncv = min(d, ncv)
        return np.asarray(
            eigs(of, 2, which=which, v0=start, ncv=ncv, return_eigenvectors=False, **options)
        )

    found = [few(matrix, "LM", 40, tol=1e-10)]
    try:  # a few restarts show an eigenvalue far to the left; those crowded near 0 come next
        found.append(few(matrix, "SR", 40, tol=1e-6, maxiter=20))
    except ArpackNoConvergence as error:
        found.append(error.eigenvalues)
    back = matrix @ (inverse @ start)
    if np.linalg.norm(back - start) > 1e-3 * np.linalg.norm(start):
        found.append(np.zeros(1))
    else:
        found.append(1 / few(inverse, "LM", 12, tol=1e-6))
    return np.sort_complex(np.concatenate(found))


def _verdict(
    eigenvalues: NDArray[Any], zero: NDArray[np.bool_], semisimple: bool
) -> tuple[str, float | None, bool]:
    """Return kind, η_max and whether a neutral point attracts normally."""
    rest = eigenvalues[~zero]
    # |1 − ηλ| < 1 for some η > 0 iff Re λ > 0: an imaginary pair repels
    pulls = rest.real > _ZERO * np.abs(eigenvalues).max(initial=0.0)
    if rest.size and not pulls.all():
        return ("saddle" if pulls.any() else "repelling"), None, False
    normally = bool(zero.any() and rest.size and semisimple)
    if zero.any() and not normally:
        return "neutral", None, False
    eta_max = float(np.min(2 * rest.real / np.abs(rest) ** 2))
    return ("neutral" if normally else "attracting"), eta_max, normally
