"""What can be proved about a zero, a symmetric matrix and a spectrum in ball arithmetic.

Floating-point inverses and eigenvectors are preconditioners only: a bad one makes a proof fail, but
never lets a false one pass. Zeros: Krawczyk, *Computing* 4 (1969) 187–201; the rest follows Rump,
*Acta Numerica* 19 (2010) 287–449. All functions work at flint's present precision.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samlib.certify.ball_arithmetic import (
    Array,
    Floats,
    around_zero,
    ball,
    balls,
    finite,
    largest,
    lower,
    midpoints,
    mm,
    upper,
)
from samlib.errors import BadInput


class Inertia(NamedTuple):
    """How many eigenvalues of a symmetric matrix are positive, negative and zero."""

    positive: int
    negative: int
    zero: int = 0

    @property
    def kind(self) -> str:
        """What a critical point with this Hessian is: a minimizer, a maximizer or a saddle."""
        if self.positive and self.negative:
            return "saddle"
        return "maximizer" if self.negative else "minimizer"


@dataclass(frozen=True, eq=False)
class Linearisation:
    """F(x) = ∇f(x⁺), x⁺ = x + ρu(x), over a box: enclosures valid at every x of it.

    Attributes
    ----------
    norm : ball
        ‖g‖, where g = ∇f(x).
    image : balls (d,)
        x⁺.
    H, H_image : balls (d, d)
        ∇²f(x) and ∇²f(x⁺).
    M : balls (d, d)
        The derivative of x ↦ x⁺: I + (ρ/‖g‖)(I − uuᵀ)H.
    """

    norm: Any
    image: Array
    H: Array
    M: Array
    H_image: Array

    @cached_property
    def A(self) -> Array:
        """DF = H_image M, the matrix A of the SAM map's Jacobian I − ηA."""
        return mm(self.H_image, self.M)


class ShiftedGradient:
    """F(x) = ∇f(x + ρu(x)), u = ∇f/‖∇f‖, in balls. Its zeros are the hallucinated points.

    BadInput unless ρ, a number or a ball, is certainly positive.
    """

    def __init__(self, landscape: Any, rho: Any) -> None:
        if not rho > 0:
            raise BadInput(f"rho = {rho} is not a number in (0, ∞)")
        if not hasattr(landscape, "ball_grad"):  # SymPy loads only where it is needed
            from samlib.certify.ball_landscape import in_balls

            landscape = in_balls(landscape)
        self.landscape, self.rho = landscape, rho

    def _grad(self, x: Array) -> Array:
        return np.array(self.landscape.ball_grad(list(x)), dtype=object)

    def _hess(self, x: Array) -> Array:
        return np.array(self.landscape.ball_hess(list(x)), dtype=object)

    def shifted(self, x: Array) -> Array:
        """Balls around x⁺ = x + ρu(x)."""
        g = self._grad(x)
        return np.asarray(x + g * (self.rho / (g * g).sum().sqrt()))

    def value(self, x: Array) -> Array:
        """Balls around F(x)."""
        return self._grad(self.shifted(x))

    def over(self, centre: Array, radius: float) -> Linearisation:
        """Enclosures over the box of all x with |x − centre| ≤ radius in each coordinate.

        g and x⁺ are enclosed in mean-value form, value at the centre plus derivative times offset,
        which is far narrower than evaluating them at a wide ball.
        """
        offset = np.array([around_zero(radius)] * len(centre), dtype=object)
        hess = self._hess(centre + offset)
        g = self._grad(centre) + mm(hess, offset)
        norm = (g * g).sum().sqrt()
        u = g / norm
        shift = (hess - u[:, None] * mm(u[None], hess)) * (self.rho / norm)
        shift[np.diag_indices(len(g))] += 1
        image = self.shifted(centre) + mm(shift, offset)
        return Linearisation(norm, image, hess, shift, self._hess(image))


def defect(inverse: Floats, matrix: Array) -> Array:
    """|I − inverse · matrix|, entry by entry."""
    product = -mm(balls(inverse), matrix)
    product[np.diag_indices(len(product))] += 1
    return np.asarray(np.abs(product))


def krawczyk(value: Array, derivative: Array, inverse: Floats, radius: float) -> bool:
    """Whether F has exactly one zero in the box centre ± radius, and DF is regular all over it.

    ``value`` encloses F(centre), ``derivative`` DF over the box. Krawczyk's test: the box is mapped
    into its interior by x ↦ x − inverse·F(x), whose derivative is the defect I − inverse·DF.
    """
    move = np.abs(mm(balls(inverse), value))
    reach = move + defect(inverse, derivative).sum(1) * radius
    return all(bool(v < radius) for v in reach)


def contraction(inverse: Floats, matrix: Array) -> float:
    """An upper bound of the spectral radius of |I − inverse·J| for all J in ``matrix``.

    Below 1 it proves every such J regular, and any map whose derivatives lie in ``matrix`` on a
    convex set one-to-one there. By Collatz and Wielandt the bound is max_i (Dw)_i / w_i for any
    w > 0; w is taken near the best, the Perron vector of D.
    """
    d = defect(inverse, matrix)
    if not finite(d):
        return math.inf
    sizes = midpoints(d) + np.array([float(v.rad()) for v in d.ravel()]).reshape(d.shape)
    w = np.ones(len(d))
    for _ in range(30):
        w = sizes @ w
        w /= w.max() or 1.0
        w += 1e-3  # positive, and no coordinate is left without a share
    weights = balls(w)
    return upper(largest(mm(d, weights) / weights))


def inertia(hessian: Array) -> Inertia | None:
    """The inertia shared by all symmetric matrices in the enclosure; None if it cannot be proved.

    A float congruence CᵀHC comes close to diag(±1), and Gershgorin's discs of that stay clear of 0.
    Sylvester's law carries the signs back to H (C is regular, or CᵀHC would be singular).
    """
    if not finite(hessian):
        return None
    middle = midpoints(hessian)
    values, vectors = np.linalg.eigh((middle + middle.T) / 2)
    if not np.abs(values).min() > 0:
        return None
    c = balls(plain(vectors / np.sqrt(np.abs(values))))
    near = mm(mm(c.T, hessian), c)
    signs = np.sign(values).astype(int)
    near[np.diag_indices(len(near))] -= signs
    if not all(bool(v < 1) for v in np.abs(near).sum(1)):
        return None
    return Inertia(int((signs > 0).sum()), int((signs < 0).sum()))


@dataclass(frozen=True, eq=False)
class Discs:
    """Discs that together hold the spectrum of every matrix in an enclosure, one for each block.

    A real basis V makes V⁻¹AV = D + E nearly block diagonal: D has 1×1 blocks (a) for real
    eigenvalues and 2×2 blocks ((a, b), (−b, a)) for pairs a ± ib. Both are normal, so Gershgorin's
    theorem holds block by block, with centre a ± ib and the sum of |E| over the block's rows as
    radius. ``error`` bounds ‖E‖ and ``condition`` ‖V‖‖V⁻¹‖, both in the 2-norm.
    """

    centres: NDArray[np.complex128]
    sizes: NDArray[np.int_]
    radii: Array
    error: Any
    condition: Any

    def around(self, change: Any) -> Discs:
        """Discs for A + C, for all C with ‖C‖ ≤ ``change`` in the 2-norm, in the same basis."""
        radius = self.error + self.condition * change
        return replace(self, radii=np.array([radius] * len(self.centres)), error=radius)

    @property
    def real_part(self) -> float:
        """A lower bound of all real parts."""
        if not finite(self.radii):
            return -math.inf
        return min(lower(c.real - r) for c, r in zip(self.centres, self.radii, strict=True))

    @property
    def left(self) -> int | None:
        """How many eigenvalues have negative real part; None if a disc meets the imaginary axis."""
        count = 0
        for c, size, r in zip(self.centres, self.sizes, self.radii, strict=True):
            if not r < abs(c.real):
                return None
            count += int(size) if c.real < 0 else 0
        return count

    @property
    def eta_max(self) -> float | None:
        """A lower bound of min 2 Re λ/|λ|²: for smaller η > 0 all |1 − ηλ| < 1.

        For a disc of centre c and radius r < Re c, |1 − ηc| + ηr < 1 if and only if
        η < 2(Re c − r)/(|c|² − r²). With ‖E‖ ≤ r in all discs, it makes ‖V⁻¹(I − ηA)V‖ < 1.
        """
        if not self.real_part > 0:
            return None
        bounds = []
        for c, r in zip(self.centres, self.radii, strict=True):
            a, b = ball(c.real), ball(c.imag)
            bounds.append(lower(2 * (a - r) / (a * a + b * b - r * r)))
        return min(bounds) if np.isfinite(bounds).all() else None


def discs(matrix: Array) -> Discs | None:
    """Discs for the spectra of all matrices in the enclosure; None without a usable eigenbasis."""
    if not finite(matrix):
        return None
    try:
        v, sizes = _eigenbasis(midpoints(matrix))
        v = plain(v)
        w = plain(np.linalg.inv(v))
    except np.linalg.LinAlgError:
        return None
    basis, inverse = balls(v), balls(w)
    lost = defect(w, basis)  # |F| for wv = I − F, so v⁻¹ = (I − F)⁻¹w
    gap = largest([*lost.sum(0), *lost.sum(1)])  # bounds ‖F‖ in every norm used here
    near = mm(inverse, mm(matrix, basis))
    if not (gap < 1 and finite(near)):
        return None
    # v⁻¹Av − wAv = F(I − F)⁻¹ wAv: each entry is at most ‖F‖/(1 − ‖F‖) times its column's largest.
    gap = gap / (1 - gap)
    slack = gap * sum(largest(column) for column in np.abs(near).T)
    error = gap * two_norm(near)
    starts, centres = np.cumsum([0, *sizes[:-1]]), []
    for j, size in zip(starts, sizes, strict=True):
        block = near[j : j + size, j : j + size]
        middle = midpoints(block)
        a = middle.trace() / size
        b = (middle[0, -1] - middle[-1, 0]) / 2  # 0 in a block of one
        block -= balls([[a, b], [-b, a]])[:size, :size]  # E is what remains
        centres.append(complex(a, b))
    rows = np.abs(near).sum(1) + slack
    condition = two_norm(mm(basis.T, basis)) * two_norm(mm(inverse, inverse.T))
    return Discs(
        np.array(centres),
        sizes,
        np.add.reduceat(rows, starts),
        two_norm(near) + error,
        condition.sqrt() * (1 + gap),
    )


def _eigenbasis(matrix: Floats) -> tuple[Floats, NDArray[np.int_]]:
    """A real basis of columns v, or pairs Re v, Im v, of eigenvectors, and the sizes 1 or 2.

    In an eigenspace of several dimensions, as dead hidden units make them, LAPACK's vectors may be
    almost parallel, and differ from machine to machine. There they are replaced by an orthonormal
    basis, made accurate by inverse iteration; the condition of the whole is then well defined.
    """
    values, vectors = np.linalg.eig(matrix)
    close = 1e-9 * float(np.abs(values).max())
    # A multiple real eigenvalue may come out as a pair with a tiny imaginary part.
    real = np.abs(values.imag) <= close
    flat = np.where(values.imag >= 0, vectors.real, vectors.imag)
    columns, sizes = [], []
    for kind, spans in ((real, flat), (values.imag > close, vectors)):
        left = np.flatnonzero(kind)
        while left.size:
            near = np.abs(values[left] - values[left[0]]) <= close
            group, left = left[near], left[~near]
            z = spans[:, group]
            if group.size > 1:
                middle = values[group].mean() + close
                shifted = matrix - (middle.real if kind is real else middle) * np.eye(len(matrix))
                for _ in range(2):
                    z = np.linalg.qr(np.linalg.solve(shifted, np.linalg.qr(z)[0]))[0]
            for vector in z.T:
                columns += [vector.real] if kind is real else [vector.real, vector.imag]
                sizes.append(1 if kind is real else 2)
    return np.array(columns).T, np.array(sizes)


def plain(matrix: NDArray[Any]) -> Floats:
    """A preconditioner without entries that are 0 but for rounding: products are faster so."""
    return np.asarray(np.where(np.abs(matrix) > 1e-30 * np.abs(matrix).max(), matrix, 0.0))


def two_norm(matrix: Array) -> Any:
    """A bound of the 2-norm: √(largest row sum · largest column sum) of the absolute values."""
    sizes = np.abs(matrix)
    rows, columns = (largest(sizes.sum(axis)) for axis in (1, 0))
    return (rows * columns).sqrt()
