"""The proof itself: from a box in exact numbers to what holds there, all in ball arithmetic.

Everything works at flint's present precision, which :mod:`samlib.certify.certificate` sets.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from samlib.certify.ball_arithmetic import Array, Floats, around_zero, ball, lower, midpoints
from samlib.certify.enclosures import (
    Inertia,
    ShiftedGradient,
    contraction,
    discs,
    inertia,
    krawczyk,
    plain,
    two_norm,
)


class NotCertified(Exception):
    """There is no proof; the message says why with numbers.

    Attributes
    ----------
    reason : str
        ``kink``, ``not finite``, ``stationary``, ``image not stationary``, ``degenerate image``,
        ``singular S``, ``too far``, ``precision``, or for stored certificates ``not reproduced``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


@dataclass(frozen=True)
class Basin:
    """Where SAM certainly converges to x_h.

    Attributes
    ----------
    radius, eta : float
        It does from any start with ‖x − x_h‖ ≤ radius (Euclidean), for every 0 < η ≤ eta.
    box : float
        Half-width of the box around the centre over which A was enclosed to prove it.
    """

    radius: float
    eta: float
    box: float


@dataclass(frozen=True)
class Claims:
    """What was proved. Bounds and values that are not known are None.

    Attributes
    ----------
    proved : frozenset of str
        Some of "exists", "unique", "gradient is nonzero", "image is minimizer" (or saddle, or
        maximizer), "attracts" or "does not attract", and "basin".
    grad_norm : float
        ‖∇f(x_h)‖ is at least this.
    inertia : Inertia or None
        The signs of the eigenvalues of H_*.
    min_real_part : float or None
        No eigenvalue of A has a smaller real part.
    eta_max : float or None
        SAM is attracted to x_h for every 0 < η < eta_max; None unless attraction is proved.
    basin : Basin or None
        Where SAM converges to x_h.
    loss, image_loss : float or None
        f(x_h) and f(x⁺), off by at most 1e-9 · max(1, |value|).
    constant_loss : float or None
        The same of the best constant output of a network, without weight decay.
    live_units : int or None
        How many hidden units of x_h have a weight that is not zero; the weights of all others are
        exactly zero. None for a landscape, or if it is not decided.
    """

    proved: frozenset[str]
    grad_norm: float
    inertia: Inertia | None
    min_real_part: float | None
    eta_max: float | None
    basin: Basin | None
    loss: float | None = None
    image_loss: float | None = None
    constant_loss: float | None = None
    live_units: int | None = None

    def stated(self) -> Claims:
        """These claims with a margin, so that another machine's rounding can prove them again.

        LAPACK's last bits, and with them the discs, change from machine to machine, and so does the
        basis that it picks in an eigenspace of several dimensions, which moves the basin's norm.
        """
        bounds = {name: getattr(self, name) for name in _BOUNDS}
        margin: dict[str, Any] = {k: _down(v) for k, v in bounds.items() if v is not None}
        if (b := self.basin) is not None:
            margin["basin"] = Basin(_down(b.radius / 2, 3), _down(0.95 * b.eta, 3), b.box)
        return replace(self, **margin)

    def missing(self, other: Claims) -> list[str]:
        """What ``other`` claims beyond this, in words."""
        lost = sorted(other.proved - self.proved)
        for name, implies in _IMPLIES.items():
            claimed, shown = getattr(other, name), getattr(self, name)
            if claimed is not None and (shown is None or not implies(shown, claimed)):
                lost.append(f"{name} = {claimed} (shown: {shown})")
        return lost


def _same_loss(shown: float, claimed: float) -> bool:
    return abs(claimed - shown) <= 5e-10 * max(1.0, abs(claimed))


def _holds(shown: Basin, claimed: Basin) -> bool:
    return shown.radius >= claimed.radius and shown.eta >= claimed.eta


_BOUNDS = ("grad_norm", "min_real_part", "eta_max")
# When what is shown implies what is claimed.
_IMPLIES: dict[str, Callable[[Any, Any], bool]] = {
    **dict.fromkeys(_BOUNDS, operator.ge),
    **dict.fromkeys(("inertia", "live_units"), operator.eq),
    **dict.fromkeys(("loss", "image_loss", "constant_loss"), _same_loss),
    "basin": _holds,
}


def _value(ball: Any) -> float | None:
    """A decimal within 1e-10 · max(1, |value|) of every number in the ball; None if it is wider."""
    middle = round(float(ball.mid()), 10) + 0.0
    return middle if bool(abs(ball - middle) < 1e-10 * max(1.0, abs(middle))) else None


def _down(value: float, digits: int = 7) -> float:
    """``value`` rounded down to a few digits, and one unit of the last for other roundings."""
    if value == 0 or not math.isfinite(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    return float(f"{(math.floor(value / unit) - 1) * unit:.{digits - 1}e}")


class Proof:
    """All that can be shown about the hallucinated point within ``radius`` of ``centre`` (balls).

    Attributes
    ----------
    near : Linearisation
        Over the box centre ± radius.
    spectrum : Discs or None
        The spectrum of A in that box.
    separation, basin : functions of a box
        See :meth:`_separation` and :meth:`_basin`; they remember their results, so that a search
        for the widest box costs no second proof.
    """

    def __init__(self, f: ShiftedGradient, centre: Array, radius: float) -> None:
        self.f, self.centre, self.radius = f, centre, radius
        self.near = f.over(centre, radius)
        self.spectrum = discs(self.near.A)
        self.separation, self.basin = cache(self._separation), cache(self._basin)

    def claims(self, box: float, basin_box: float | None = None) -> Claims:
        """The proof: unique in centre ± ``box`` (≥ radius), convergence shown in ± ``basin_box``.

        Raises
        ------
        NotCertified
            If existence, uniqueness or ∇f ≠ 0 is not proved.
        """
        self._check_unique(box)
        proved = {"exists", "unique", "gradient is nonzero"}
        signs, spectrum, basin = inertia(self.near.H_image), self.spectrum, None
        real_part, eta = (spectrum.real_part, spectrum.eta_max) if spectrum else (None, None)
        if signs is not None:
            proved.add(f"image is {signs.kind}")
        if eta is not None:
            proved.add("attracts")
            basin = None if basin_box is None else self.basin(basin_box)[1]
        elif spectrum is not None and spectrum.left:
            proved.add("does not attract")
        if basin is not None:
            proved.add("basin")
        size, losses, live = lower(self.near.norm), self._losses(), self._live_units(box)
        return Claims(frozenset(proved), size, signs, real_part, eta, basin, *losses, live)

    def _check_unique(self, box: float) -> None:
        """F has a zero in the box of ``radius`` and no other in ``box``, and ∇f ≠ 0 there."""
        if not 0 < self.radius <= box < math.inf:
            raise NotCertified("precision", f"{box:g} is no radius from {self.radius:g} on")
        residual, a = self.f.value(self.centre), self.near.A
        if not (self.near.norm > 0 and krawczyk(residual, a, inverse(a), self.radius)):
            raise NotCertified(
                "precision",
                f"Krawczyk's test fails in the box of radius {self.radius:g}; raise bits",
            )
        if box > self.radius and not self.separation(box) < 1:
            raise NotCertified("precision", f"uniqueness is not proved for radius {box:g}")

    def _losses(self) -> tuple[float | None, float | None, float | None]:
        """f(x_h), f(x⁺) and the constant guess."""
        landscape = self.f.landscape
        if not hasattr(landscape, "ball_f"):
            return None, None, None
        here = landscape.ball_f(list(self.centre + around_zero(self.radius)))
        there = landscape.ball_f(list(self.near.image))
        constant = getattr(landscape, "constant_loss", None)
        return _value(here), _value(there), None if constant is None else _value(constant())

    def _live_units(self, box: float) -> int | None:
        """How many hidden units have a weight that is not zero, given uniqueness in the box.

        Changing the signs of all weights of one unit leaves f as it is, so it takes x_h to another
        hallucinated point. If the unit's weights are so small that this one lies in the box as
        well, it is x_h itself, and the weights are 0.
        """
        net = self.f.landscape
        if not hasattr(net, "parameters_of"):
            return None
        live = 0
        for j in range(net.hidden):
            sizes = np.abs(self.centre[net.parameters_of(j)])
            if any(bool(v > self.radius) for v in sizes):
                live += 1
            elif not all(bool(2 * v + self.radius <= box) for v in sizes):
                return None
        return live

    def _separation(self, box: float) -> float:
        """Below 1, F has at most one zero in the box centre ± box.

        F is x ↦ x⁺ followed by ∇f. The first is one-to-one on the box if M is regular there, the
        second on a box that holds all x⁺ if H is. Two interval matrices are narrower than their
        product DF: this admits boxes several times wider.
        """
        wide = self.f.over(self.centre, box)
        if not wide.norm > 0:
            return math.inf
        bound = contraction(inverse(self.near.M), wide.M)
        if bound < 1:
            bound = max(bound, contraction(inverse(self.near.H_image), wide.H_image))
        return bound

    def _basin(self, box: float) -> tuple[float, Basin | None]:
        """The least real part in the spectra of A(x), x in centre ± box, and what follows.

        In the basis V of :class:`Discs`, A(x) is off D by at most ‖E‖ + cond(V)·‖A(x) − A(x_h)‖.
        For η below the eta_max of discs that wide, SAM's map contracts towards x_h in the norm
        ‖V⁻¹x‖, on each ball of that norm in the box.
        """
        if self.spectrum is None:
            return -math.inf, None
        wide = self.spectrum.around(two_norm(self.f.over(self.centre, box).A - self.near.A))
        real_part, eta = wide.real_part, wide.eta_max
        if eta is None or not box > self.radius:
            return real_part, None
        reach = ball(Fraction(box) - Fraction(self.radius)) / wide.condition
        # Strictly below the bound: at the bound itself the map need not contract.
        return real_part, Basin(lower(reach), math.nextafter(eta, 0), box)

    def widest_box(self, scale: float) -> float:
        """The widest box found, in a few trials, in which the point is the only one."""
        best, r = self.radius, 1e-6 * scale
        for _ in range(9):
            q = self.separation(r)
            if q < 1:
                best = max(best, r)
                if q > 0.85:
                    break
            # The bound grows about in proportion to the radius.
            step = min(max(0.93 / q, 1e-3), 1e3) if q > 0 else 1e3
            r = float(f"{r * step:.2e}")
            if not self.radius < r < 10 * scale:
                break
        return best

    def widest_basin(self, box: float) -> float | None:
        """A half-width for ``basin`` that keeps most of min Re λ(A); None if none does."""
        real_part, r = -1.0 if self.spectrum is None else self.spectrum.real_part, box
        if not (real_part > 0 and box > self.radius):
            return None
        for _ in range(6):
            left = self.basin(r)[0]
            if left > 0.5 * real_part:
                return r
            step = 0.3 * real_part / (real_part - left) if math.isfinite(left) else 0.01
            r = float(f"{r * step:.2e}")
            if not r > 10 * self.radius:
                break
        return None


def inverse(matrix: Array) -> Floats:
    """The float64 inverse of the midpoints: a preconditioner. Zeros if there is none."""
    try:
        return plain(np.linalg.inv(midpoints(matrix)))
    except np.linalg.LinAlgError:
        return np.zeros(matrix.shape)
