"""The SAM map T(x) = x − η∇f(x⁺), linearised: the one place where M, A, S and DT are written.

With g = ∇f(x), u = g/‖g‖, x⁺ = x + ρu and the Hessian H (theory §2),

    M = ∂x⁺/∂x = I + (ρ/‖g‖)(I − uuᵀ)H(x),   A = H(x⁺)M,   DT = I − ηA,

and S is M between tangent vectors, those orthogonal to u. Each is a matrix where the Hessians are
matrices, and a product with vectors where they are known by their products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from samlib.landscapes import protocol
from samlib.landscapes.protocol import Array, Smooth


def ascend(f: Smooth, x: Array, rho: float) -> tuple[Array, Array]:
    """‖∇f(x)‖ (...) and x⁺ (..., d) of points x (..., d); x⁺ = x where ∇f(x) = 0."""
    g = np.asarray(f.grad(x), dtype=float)
    norm = np.linalg.norm(g, axis=-1)
    return norm, x + rho * g / np.where(norm > 0, norm, 1.0)[..., None]


@dataclass(frozen=True, eq=False)
class Linearisation:
    """The SAM map of radius ``rho`` near ``x``.

    Attributes
    ----------
    x, grad, u, image
        x, g = ∇f(x), u and x⁺, all of shape (d,).
    grad_norm
        ‖g‖. Where it is 0, x⁺ = x and M = I.
    H, H_image, M, A
        H(x), H(x⁺), M and A: matrices (d, d), or SciPy linear operators above 300 variables.
    S
        A matrix (d−1, d−1) in an orthonormal basis of the tangent space: (ρ/‖g‖) times the
        Riemannian Hessian of f on the sphere of radius ρ around x⁺. As an operator it acts on R^d
        and has an eigenvalue 1 along u.
    """

    landscape: Any
    x: Any
    rho: float
    grad: Any
    grad_norm: float
    image: Any
    hessian: Callable[[Any, Any], Any]

    @cached_property
    def H(self) -> Any:
        """H(x)."""
        return self.hessian(self.landscape, self.x)

    @cached_property
    def H_image(self) -> Any:
        """H(x⁺)."""
        return self.hessian(self.landscape, self.image)

    @property
    def u(self) -> Any:
        """The direction of ascent, 0 where ∇f(x) = 0."""
        return self.grad / (self.grad_norm or 1.0)

    @cached_property
    def M(self) -> Any:
        """∂x⁺/∂x."""
        u, scale = self.u, self.rho / self.grad_norm if self.grad_norm else 0.0
        if isinstance(self.H, np.ndarray):
            bent = scale * self.H
            return np.eye(len(u)) + bent - np.outer(u, u @ bent)

        def product(v: Any) -> Any:
            bent = scale * self.H(v)
            return v + bent - (bent @ u.T) * u

        return self._like(product)

    @cached_property
    def A(self) -> Any:
        """H(x⁺)M, the derivative of x ↦ ∇f(x⁺)."""
        if isinstance(self.H, np.ndarray):
            return self.H_image @ self.M
        return self._like(lambda v: self.H_image(self.M(v)))

    @cached_property
    def S(self) -> Any:
        """M on the tangent space."""
        u = self.u
        if isinstance(self.H, np.ndarray):
            # the columns of a complete QR of u after the first span the tangent space
            basis = np.linalg.qr(u[:, None], mode="complete")[0][:, 1:]
            bent = self.rho / self.grad_norm * self.H
            return np.eye(len(u) - 1) + basis.T @ bent @ basis

        def product(v: Any) -> Any:
            along = (v @ u.T) * u
            return along + self.M(v - along)

        return self._like(product)

    def jacobian(self, eta: float) -> Any:
        """DT = I − ηA, as A a matrix or an operator."""
        if isinstance(self.H, np.ndarray):
            return np.eye(len(self.u)) - eta * self.A
        return self._like(lambda v: v - eta * self.A(v))

    def _like(self, product: Callable[[Any], Any]) -> Any:
        """A product with vectors as the same sort of thing as the Hessians."""
        if hasattr(self.H, "matvec"):
            return protocol.operator(len(self.u), product)
        return product


def linearise(
    landscape: Any, x: Any, rho: float, hessian: Callable[[Any, Any], Any] = protocol.hessian
) -> Linearisation:
    """Linearise the SAM map of radius ``rho`` at ``x``.

    Parameters
    ----------
    landscape
        f: what has ``grad`` and what ``hessian`` asks for.
    x
        A point (d,). It need not be hallucinated, and its gradient may vanish.
    rho
        The radius ρ.
    hessian
        (f, x) ↦ H(x), by default a matrix or a SciPy operator. With
        :func:`samlib.experiments.lanczos.hessian`, x is a torch tensor (1, d), and M, A, S and DT
        are functions of tensors (n, d), applied to each row.
    """
    g = landscape.grad(x)
    norm = math.sqrt(float(g.ravel() @ g.ravel()))
    image = x + rho * g / (norm or 1.0)
    return Linearisation(landscape, x, rho, g, norm, image, hessian)
