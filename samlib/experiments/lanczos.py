"""Spectra of matrices that are known by their products with vectors: Hessians and SAM's Jacobian.

A *product* maps n vectors, the rows of an (n, p) tensor, to n vectors: v ↦ Av for each row. The
last argument ``like``, a tensor (1, p), gives p, dtype and device. Up to :data:`DENSE` parameters
the matrix is formed and decomposed; above, Lanczos' and Arnoldi's methods look at its ends, and
stochastic Lanczos quadrature at its density (Ghorbani, Krishnan and Xiao 2019; Papyan 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from samlib.errors import check_number, check_whole

Product: TypeAlias = Callable[[Tensor], Tensor]
Floats: TypeAlias = NDArray[np.float64]

DENSE = 3000  # up to this many parameters matrices are formed
CHUNK = 256  # rows of a matrix that are computed at once
STEPS = (32, 64, 128, 256)  # of Lanczos' method, one number after the other, for an end


class Smooth(Protocol):
    """What is asked of f: both functions act on the rows of (n, p) tensors."""

    def grad(self, theta: Tensor, /) -> Tensor:
        """∇f, (n, p)."""

    def hvp(self, theta: Tensor, v: Tensor, /) -> Tensor:
        """∇²f(θ)v, (n, p)."""


def hessian(f: Smooth, theta: Tensor) -> Product:
    """The Hessian of f at θ, shape (1, p), as a product."""
    return lambda v: f.hvp(theta.expand(len(v), -1), v)


def matrix(product: Product, like: Tensor) -> Tensor:
    """The matrix (p, p) of a product."""
    eye = torch.eye(like.shape[1], dtype=like.dtype, device=like.device)
    return torch.cat([product(rows) for rows in torch.split(eye, CHUNK)]).T


def lanczos(product: Product, start: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lanczos' method with full reorthogonalisation from each row of ``start`` (n, p).

    Returns Ritz values and the weight of each in ``start``, the squared first component of its
    vector, both (n, m), and the error bound ‖Ay − θy‖ of each, (n, m). m ≤ ``steps``: the method
    ends when every row's Krylov space is exhausted; what pads an earlier row has weight 0.
    """
    size = min(check_whole("steps", steps), start.shape[1])
    basis = start.new_zeros(len(start), size, start.shape[1])
    tri = start.new_zeros(len(start), size, size)
    q = start / torch.linalg.vector_norm(start, dim=1, keepdim=True)
    rest, scale = q.new_zeros(len(q)), q.new_zeros(len(q))
    for j in range(size):
        basis[:, j] = q
        w = product(q)
        tri[:, j, j] = (w * q).sum(1)
        for _ in range(2):  # once leaves rounding errors that bring back converged vectors
            overlap = basis[:, : j + 1] @ w[:, :, None]
            w = w - (basis[:, : j + 1].mT @ overlap)[:, :, 0]
        rest = torch.linalg.vector_norm(w, dim=1)
        scale = torch.maximum(scale, torch.maximum(tri[:, j, j].abs(), rest))
        rest = rest * (rest > 1e3 * torch.finfo(w.dtype).eps * scale)
        if j + 1 == size or not rest.any():
            break
        tri[:, j, j + 1] = tri[:, j + 1, j] = rest
        q = w / (rest + (rest == 0))[:, None] * (rest > 0)[:, None]
    values, vectors = torch.linalg.eigh(tri[:, : j + 1, : j + 1])
    return values, vectors[:, 0] ** 2, rest[:, None] * vectors[:, -1].abs()


def extremes(product: Product, like: Tensor, tol: float = 1e-6) -> tuple[float, float, float]:
    """The smallest and the largest eigenvalue of a symmetric matrix, by Lanczos' method.

    The third number bounds the error of both: it is below ``tol`` times the larger modulus unless
    the last of :data:`STEPS` did not suffice. (ARPACK's tolerance is relative to each eigenvalue,
    so it does not end at one near 0.)
    """
    check_number("tol", tol, 0, 1, strict=True)
    start = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(like)
    for steps in STEPS:
        values, _, bounds = lanczos(product, start, steps)
        low, high = float(values[0, 0]), float(values[0, -1])
        error = float(bounds[0, [0, -1]].max())
        if error <= tol * max(-low, high):
            break
    return low, high, error


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A symmetric matrix's spectrum: eigenvalues ``nodes`` with ``weights`` that sum to 1.

    Exact for ``exact``: all ``dim`` = p eigenvalues, each of weight 1/p. Otherwise the nodes and
    weights of a quadrature, and ``low`` and ``high`` alone are eigenvalues.
    """

    nodes: Floats
    weights: Floats
    low: float
    high: float
    dim: int
    exact: bool

    @property
    def size(self) -> float:
        """The spectral norm."""
        return max(abs(self.low), abs(self.high))

    def count(self, tol: ArrayLike) -> tuple[Floats, Floats]:
        """How many eigenvalues lie below −τ and above τ times the spectral norm, for each τ.

        Both have the shape of ``tol``; whole numbers if the spectrum is exact, else estimates.
        """
        edge = np.asarray(tol, dtype=float)[..., None] * self.size
        low, high = (
            np.where(beyond, self.weights * self.dim, 0).sum(-1)
            for beyond in (self.nodes < -edge, self.nodes > edge)
        )
        return (np.rint(low), np.rint(high)) if self.exact else (low, high)

    def density(self, points: int = 200, smooth: float = 0.01) -> tuple[Floats, Floats]:
        """The spectral density on a grid, smoothed with Gaussians: λ and density, both (points,).

        ``smooth`` is their standard deviation in units of the length of the spectrum.
        """
        check_number("smooth", smooth, 0, 1, strict=True)
        width = smooth * max(self.high - self.low, 1e-300)
        ends = self.low - 4 * width, self.high + 4 * width
        grid = np.linspace(*ends, check_whole("points", points, 2))
        bells = np.exp(-(((grid[:, None] - self.nodes) / width) ** 2) / 2)
        return grid, bells @ self.weights / (width * math.sqrt(2 * math.pi))


def spectrum(
    product: Product, like: Tensor, probes: int = 10, steps: int = 80, dense: int = DENSE
) -> Spectrum:
    """The spectrum of a symmetric matrix: exact up to ``dense`` parameters, else by quadrature.

    The quadrature averages ``probes`` random vectors of signs with ``steps`` Lanczos steps each
    (Ghorbani et al. 2019, algorithm 1).
    """
    dim = like.shape[1]
    if dim <= dense:
        full = matrix(product, like)
        nodes = torch.linalg.eigvalsh((full + full.T) / 2).double().cpu().numpy()
        return Spectrum(nodes, np.full(dim, 1 / dim), float(nodes[0]), float(nodes[-1]), dim, True)
    low, high, _ = extremes(product, like)
    draw = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (check_whole("probes", probes), dim), generator=draw).to(like)
    values, weights, _ = lanczos(product, 2 * signs - 1, steps)
    nodes, shares = (part.double().cpu().numpy().ravel() for part in (values, weights))
    return Spectrum(nodes, shares / probes, low, high, dim, False)


def leading(product: Product, like: Tensor, dense: int = DENSE) -> complex:
    """The eigenvalue of largest modulus of any real matrix: the spectral radius is its modulus.

    From all eigenvalues up to ``dense`` parameters, by Arnoldi's method above (NaN if that does not
    converge). Of a conjugate pair the one with positive imaginary part.
    """
    if like.shape[1] <= dense:
        values: Any = torch.linalg.eigvals(matrix(product, like)).cpu().numpy()
    else:
        values = _arnoldi(product, like)
    top = complex(values[np.argmax(np.abs(values))])
    return complex(top.real, abs(top.imag))


def _arnoldi(product: Product, like: Tensor) -> NDArray[Any]:
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs

    dim = like.shape[1]

    def once(v: Floats) -> Floats:
        out: Floats = product(torch.as_tensor(np.ravel(v)).to(like)[None])[0].double().cpu().numpy()
        return out

    operator = LinearOperator((dim, dim), matvec=once, dtype=float)
    start = np.random.default_rng(0).standard_normal(dim)
    # eigenvalues of DT crowd at 1, so a large space and a tight tolerance
    options = {"v0": start, "ncv": min(dim - 1, 120), "tol": 1e-9, "return_eigenvectors": False}
    try:
        return np.asarray(eigs(operator, 1, which="LM", **options))
    except ArpackNoConvergence:
        return np.array([np.nan])
