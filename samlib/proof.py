"""The proof itself: from a box in exact numbers to what holds there, all in ball arithmetic.

Everything works at flint's present precision; :mod:`samlib.certify` sets it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from samlib.balls import Array, ball, lower, midpoints
from samlib.enclosures import (
    Discs,
    Floats,
    Inertia,
    Linearised,
    ShiftedGradient,
    contraction,
    discs,
    inertia,
    krawczyk,
)


class NotCertified(Exception):
    """There is no proof. ``reason`` is a short name for why; the message says it with numbers.

    Reasons: ``kink``, ``stationary``, ``image not stationary``, ``degenerate image``,
    ``singular S``, ``too far``, ``precision``, and for stored certificates ``not reproduced``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


@dataclass(frozen=True)
class Basin:
    """Where SAM certainly converges to x_h.

    Any start with |x − x_h| ≤ ``radius`` in each coordinate does so, for every 0 < η ≤ ``eta``.
    ``box`` is the half-width of the box around the centre over which A was enclosed to prove it.
    """

    radius: float
    eta: float
    box: float


@dataclass(frozen=True)
class Claims:
    """What was proved. Numbers are lower bounds, rounded down to nine digits.

    Attributes
    ----------
    proved : some of "exists", "unique", "gradient is nonzero", "image is minimizer" (or saddle, or
        maximizer), "attracts" or "does not attract", and "basin".
    grad_norm : ‖∇f(x_h)‖ is at least this.
    inertia : the signs of the eigenvalues of H_*, or None.
    min_real_part : no eigenvalue of A has a smaller real part; None where it cannot be bounded.
    eta_max : SAM is attracted to x_h for every 0 < η < eta_max; None unless attraction is proved.
    basin : see :class:`Basin`; None unless proved.
    """

    proved: frozenset[str]
    grad_norm: float
    inertia: Inertia | None
    min_real_part: float | None
    eta_max: float | None
    basin: Basin | None

    def missing(self, other: Claims) -> list[str]:
        """What ``other`` claims beyond this."""
        lost = sorted(other.proved - self.proved)
        if other.inertia is not None and other.inertia != self.inertia:
            lost.append(f"inertia {tuple(other.inertia)}")
        for name in ("grad_norm", "min_real_part", "eta_max"):
            claimed, shown = getattr(other, name), getattr(self, name)
            if claimed is not None and (shown is None or shown < claimed):
                lost.append(f"{name} ≥ {claimed}")
        a, b = other.basin, self.basin
        if a is not None and (b is None or b.radius < a.radius or b.eta < a.eta):
            lost.append(f"{a}")
        return lost


def _down(value: float, digits: int = 9) -> float:
    """``value`` rounded down to a few digits, with room for another machine's last bits."""
    if value == 0 or not math.isfinite(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    return float(f"{(math.floor(value / unit) - 1) * unit:.{digits - 1}e}")


def prove(
    f: ShiftedGradient, centre: Array, radius: float, box: float, basin_box: float | None = None
) -> Claims:
    """Prove what can be proved about the hallucinated point within ``radius`` of ``centre``.

    ``box`` ≥ ``radius`` is where it shall be the only one, ``basin_box`` where to show convergence.

    Raises
    ------
    NotCertified
        If existence, uniqueness or ∇f ≠ 0 is not proved.
    """
    near = f.over(centre, radius)
    a = near.derivative
    move = f.value(centre)
    if not (near.norm > 0 and krawczyk(move, a, inverse(a), radius)):
        raise NotCertified("precision", f"Krawczyk's test fails in the box of radius {radius:g}")
    if box > radius and not separation(f, centre, box, near) < 1:
        raise NotCertified("precision", f"uniqueness is not proved in the box of radius {box:g}")
    proved = {"exists", "unique", "gradient is nonzero"}
    signs = inertia(near.hessian)
    if signs is not None:
        proved.add(f"image is {signs.kind}")
    around = discs(a)
    eta = None if around is None else around.eta_max
    if eta is not None:
        proved.add("attracts")
    elif around is not None and around.left:
        proved.add("does not attract")
    basin = None
    if eta is not None and basin_box is not None:
        basin = attraction(f, centre, radius, basin_box)
        proved |= {"basin"} if basin else set()
    return Claims(
        frozenset(proved),
        _down(lower(near.norm)),
        signs,
        None if around is None else _down(around.real_part),
        None if eta is None else _down(eta),
        basin,
    )


def inverse(matrix: Array) -> Floats:
    """The float64 inverse of the midpoints: a preconditioner. Zeros if there is none."""
    try:
        return np.asarray(np.linalg.inv(midpoints(matrix)), dtype=np.float64)
    except np.linalg.LinAlgError:
        return np.zeros(matrix.shape)


def separation(f: ShiftedGradient, centre: Array, box: float, near: Linearised) -> float:
    """Below 1, F has at most one zero in the box centre ± box.

    F is x ↦ x⁺ followed by ∇f. The first is one-to-one on the box, the second on a box that holds
    its image; this splits the interval matrices and allows boxes several times larger than DF does.
    """
    wide = f.over(centre, box)
    if not wide.norm > 0:
        return math.inf
    first = contraction(inverse(near.shift), wide.shift)
    return max(first, contraction(inverse(near.hessian), wide.hessian)) if first < 1 else first


def attraction(f: ShiftedGradient, centre: Array, radius: float, box: float) -> Basin | None:
    """A neighbourhood of x_h that SAM's map contracts into itself; None if ``box`` is too wide.

    If all of A(x), x in the box, has discs right of the axis in one basis V, then for η below their
    eta_max the map contracts towards x_h in the block norm of V⁻¹x, on each ball of it in the box.
    """
    found: Discs | None = discs(f.over(centre, box).derivative)
    eta = None if found is None else found.eta_max
    if found is None or eta is None or not box > radius:
        return None
    reach = ball(Fraction(box) - Fraction(radius)) / (found.outer * found.inner)
    return Basin(_down(lower(reach), 4), _down(eta * (1 - 1e-12)), box)


def widest_box(f: ShiftedGradient, centre: Array, radius: float, scale: float) -> float:
    """The largest box found, in a few trials, in which the point is proved to be the only one."""
    near, best, r = f.over(centre, radius), radius, 1e-6 * scale
    for _ in range(9):
        q = separation(f, centre, r, near)
        if q < 1:
            best = max(best, r)
            if q > 0.85:
                break
        # The bound grows in proportion to the radius, so aim at 0.93; overshoot by halves at most.
        step = 0.93 / q if math.isfinite(q) and q > 0 else 0.01
        r = float(f"{r * min(max(step, 1e-3), 1e3):.2e}")
        if not radius < r < 10 * scale:
            break
    return best


def widest_basin(
    f: ShiftedGradient, centre: Array, radius: float, box: float, real_part: float
) -> float | None:
    """A box for :func:`attraction` that leaves about half of ``real_part``; None if none found."""
    r = box
    for _ in range(6):
        found = discs(f.over(centre, r).derivative)
        left = -math.inf if found is None else found.real_part
        if left > 0.3 * real_part:
            return r
        step = 0.5 * real_part / (real_part - left) if math.isfinite(left) else 0.01
        r = float(f"{r * step:.2e}")
        if not r > 10 * radius:
            return None
    return None
