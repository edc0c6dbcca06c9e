"""Does SAM stay at a hallucinated point? DT = I − ηA there, and A decides (theory §2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samlib.errors import BadInput
from samlib.landscapes.protocol import Array, Smooth, hvp, is_dense
from samlib.points.lagrange import as_point, check_rho, stationary_image

_ZERO = 1e-10  # eigenvalues this small relative to the largest count as zero


@dataclass(frozen=True, eq=False)
class Classification:
    """What SAM's map T(x) = x − η∇f(x⁺) does near the hallucinated point ``x``.

    Up to 300 variables ``A`` = H_*(I + (ρ/‖g‖)P H_h) is a matrix (d, d), ``eigenvalues`` holds all
    of its eigenvalues by real part, and ``S`` (d−1, d−1) is ρ/‖g‖ times the Riemannian Hessian of f
    on the sphere in an orthonormal basis of the tangent space. Above, ``A`` and ``S`` are SciPy
    linear operators on R^d (S with an eigenvalue 1 along the normal), and ``eigenvalues`` holds two
    each of largest modulus, of those nearest 0 and, where they stand apart, of smallest real part:
    enough for ``kind`` as a rule, and ``eta_max`` is then what they allow, an upper bound.

    ``kind`` is "attracting" (every Re λ > 0: SAM converges from nearby for 0 < η < ``eta_max``),
    "repelling" (no direction attracts, whatever η), "saddle" (some do), or "neutral" (some λ = 0,
    all others Re λ > 0). ``normally_attracting`` says of a neutral point that 0 is semisimple, so
    that a manifold of hallucinated points through it attracts, again for η < ``eta_max``, which
    then leaves the zeros out. ``eta_max`` = min 2 Re λ/|λ|² and None where there is none.
    ``image_kind`` is "minimizer", "saddle", "maximizer" or "degenerate" (singular H_*).
    """

    x: Array
    image: Array
    rho: float
    grad: Array
    grad_norm: float
    A: Any
    S: Any
    eigenvalues: NDArray[Any]
    eta_max: float | None
    kind: str
    image_kind: str
    normally_attracting: bool

    def jacobian(self, eta: float) -> Any:
        """DT = I − ηA, a matrix (d, d), or a linear operator above 300 variables."""
        if isinstance(self.A, np.ndarray):
            return np.eye(len(self.x)) - eta * self.A
        return _operator(len(self.x), lambda v: v - eta * self.A.matvec(v))


def critical_kind(eigenvalues: Array) -> str:
    """Name a critical point after the eigenvalues of its Hessian."""
    size = float(np.max(np.abs(eigenvalues)))
    if np.min(np.abs(eigenvalues)) <= 1e-9 * size:
        return "degenerate"
    if np.all(eigenvalues > 0):
        return "minimizer"
    return "maximizer" if np.all(eigenvalues < 0) else "saddle"


def classify(landscape: Smooth, x_h: ArrayLike, rho: float) -> Classification:
    """Classify the hallucinated point ``x_h`` (d,) of radius ρ.

    Raises
    ------
    BadInput
        If ``x_h`` is not hallucinated (∇f(x_h) is zero to 1e-8, or x⁺ is not a critical point to
        1e-6), has the wrong shape or is not finite, or ρ is not in (0, ∞).
    """
    rho, x = check_rho(rho), as_point(landscape, x_h, "x_h")
    grad = np.asarray(landscape.grad(x), dtype=float)
    norm = float(np.linalg.norm(grad))
    if not norm > 1e-8:  # NaN too
        raise BadInput(
            f"x_h = {x} is not hallucinated: ‖∇f(x_h)‖ = {norm:.3g} must be positive; "
            "it is a critical point of f itself"
        )
    try:
        image = stationary_image(landscape, x + rho * grad / norm, "x⁺")
    except BadInput as error:
        raise BadInput(
            f"x_h = {x} is not hallucinated for rho = {rho}: {error}; or use find_hallucinated"
        ) from None
    if is_dense(landscape):
        return _dense(landscape, x, image, rho, grad, norm)
    return _free(landscape, x, image, rho, grad, norm)


def _dense(
    landscape: Smooth, x: Array, image: Array, rho: float, grad: Array, norm: float
) -> Classification:
    here, there = np.asarray(landscape.hess(x)), np.asarray(landscape.hess(image))
    u = grad / norm
    bent = rho / norm * here
    a = there @ (np.eye(len(x)) + bent - np.outer(u, u @ bent))
    # the columns of a complete QR of u after the first span the tangent space
    basis = np.linalg.qr(u[:, None], mode="complete")[0][:, 1:]
    s = np.eye(len(x) - 1) + basis.T @ bent @ basis
    eigenvalues = np.sort_complex(np.linalg.eigvals(a))
    if not np.any(eigenvalues.imag):
        eigenvalues = eigenvalues.real
    left, singular, right = np.linalg.svd(a)
    empty = singular <= 1e-11 * singular[0]
    size = np.abs(eigenvalues)
    order = np.argsort(size)
    # 0 is semisimple iff no left null vector is orthogonal to all right ones
    pairing = left[:, empty].T @ right[empty].T
    semisimple = bool(np.linalg.svd(pairing, compute_uv=False).min(initial=1.0) > 1e-6)
    # a defective zero of multiplicity m comes out of rounding as a ring of radius eps^(1/m)
    count = int(empty.sum()) if semisimple else int(np.sum(size <= 1e-5 * singular[0]))
    zero = np.zeros(len(x), dtype=bool)
    zero[order[:count]] = True
    kind, eta_max, normally = _verdict(eigenvalues, zero, semisimple)
    return Classification(
        x=x, image=image, rho=rho, grad=grad, grad_norm=norm, A=a, S=s, eigenvalues=eigenvalues,
        eta_max=eta_max, kind=kind, image_kind=critical_kind(np.linalg.eigvalsh(there)),
        normally_attracting=normally,
    )  # fmt: skip


def _free(
    landscape: Smooth, x: Array, image: Array, rho: float, grad: Array, norm: float
) -> Classification:
    d, u = len(x), grad / norm

    def tangential(v: Array) -> Array:
        bent = rho / norm * hvp(landscape, x, v)
        return v + bent - u * (u @ bent)

    there = _operator(d, lambda v: hvp(landscape, image, v))
    a = _operator(d, lambda v: hvp(landscape, image, tangential(v)))
    s = _operator(d, lambda v: u * (u @ v) + tangential(v - u * (u @ v)))

    def inverse(v: Array) -> Array:
        """A⁻¹v = M⁻¹H_*⁻¹v; M passes the component along u on, and is S across it."""
        w = _minres(there, v)
        along = (u @ w) * u
        return along + _minres(s, w - tangential(along))

    eigenvalues = _extremes(a, _operator(d, inverse))
    ends = _extremes(there, _operator(d, lambda v: _minres(there, v))).real
    zero = np.abs(eigenvalues) <= 1e-9 * np.abs(eigenvalues).max()
    kind, eta_max, normally = _verdict(eigenvalues, zero, semisimple=False)
    return Classification(
        x=x, image=image, rho=rho, grad=grad, grad_norm=norm, A=a, S=s, eigenvalues=eigenvalues,
        eta_max=eta_max, kind=kind, image_kind=critical_kind(ends), normally_attracting=normally,
    )  # fmt: skip


def _minres(operator: Any, right: Array) -> Array:
    from scipy.sparse.linalg import minres

    return np.asarray(minres(operator, right, rtol=1e-14, maxiter=4 * len(right))[0])


def _extremes(operator: Any, inverse: Any) -> NDArray[Any]:
    """Eigenvalues of largest modulus, nearest 0 and, if they stand apart, of smallest real part.

    0 stands for the nearest ones where the inverse cannot be applied: the operator is singular.
    """
    from scipy.sparse.linalg import ArpackNoConvergence, eigs

    d = operator.shape[0]
    start = np.random.default_rng(0).standard_normal(d)
    plain = {"k": 2, "v0": start, "ncv": min(d, 40), "return_eigenvectors": False}
    found = [eigs(operator, which="LM", tol=1e-10, **plain)]
    try:  # a few restarts show an eigenvalue far to the left; those crowded near 0 come next
        found.append(eigs(operator, which="SR", tol=1e-6, maxiter=20, **plain))
    except ArpackNoConvergence as error:
        found.append(error.eigenvalues)
    back = operator @ (inverse @ start)
    if np.linalg.norm(back - start) > 1e-3 * np.linalg.norm(start):
        found.append(np.zeros(1))
    else:
        found.append(1 / eigs(inverse, which="LM", tol=1e-6, **plain | {"ncv": min(d, 12)}))
    return np.sort_complex(np.concatenate(found))


def _operator(dim: int, product: Callable[[Array], Array]) -> Any:
    from scipy.sparse.linalg import LinearOperator

    return LinearOperator((dim, dim), matvec=lambda v: product(np.ravel(v)), dtype=float)


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
