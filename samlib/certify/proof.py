"""The proof itself: from a box in exact numbers to what holds there, all in ball arithmetic.

Everything works at flint's present precision, which :mod:`samlib.certify.certificate` sets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from samlib.certify.ball_arithmetic import Array, ball, lower, midpoints
from samlib.certify.enclosures import (
    Discs,
    Floats,
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
    """There is no proof. ``reason`` is a short name for why; the message says it with numbers.

    Reasons: ``kink``, ``not finite``, ``stationary``, ``image not stationary``,
    ``degenerate image``, ``singular S``, ``too far``, ``precision``, and for stored certificates
    ``not reproduced``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


@dataclass(frozen=True)
class Basin:
    """Where SAM certainly converges to x_h.

    Any start with ‖x − x_h‖ ≤ ``radius`` (Euclidean) does so, for every 0 < η ≤ ``eta``. ``box`` is
    the half-width of the box around the centre over which A was enclosed to prove it.
    """

    radius: float
    eta: float
    box: float


@dataclass(frozen=True)
class Claims:
    """What was proved. Numbers are lower bounds, but losses are values, rounded.

    Attributes
    ----------
    proved : some of "exists", "unique", "gradient is nonzero", "image is minimizer" (or saddle, or
        maximizer), "attracts" or "does not attract", and "basin".
    grad_norm : ‖∇f(x_h)‖ is at least this.
    inertia : the signs of the eigenvalues of H_*, or None.
    min_real_part : no eigenvalue of A has a smaller real part; None where it cannot be bounded.
    eta_max : SAM is attracted to x_h for every 0 < η < eta_max; None unless attraction is proved.
    basin : see :class:`Basin`; None unless proved.
    loss, image_loss : f(x_h) and f(x⁺), off by at most 1e-9 · max(1, |value|); None if unknown.
    constant_loss : the same of the best constant output of a network, without weight decay.
    live_units : how many hidden units of x_h have a weight that is not zero; the weights of all
        others are exactly zero. None for a landscape, or if it is not decided.
    """

    proved: frozenset[str]
    grad_norm: float
    inertia: Inertia | None
    min_real_part: float | None
    eta_max: float | None
    basin: Basin | None
    loss: float | None
    image_loss: float | None
    constant_loss: float | None
    live_units: int | None

    def stated(self) -> Claims:
        """These claims with a margin, so that another machine's rounding can prove them again.

        LAPACK's last bits, and with them the discs, change from machine to machine, and so does the
        basis that it picks in an eigenspace of several dimensions, which moves the basin's norm.
        """
        basin = self.basin
        if basin is not None:
            basin = Basin(_down(basin.radius / 2, 3), _down(0.95 * basin.eta, 3), basin.box)
        part, eta = self.min_real_part, self.eta_max
        return replace(
            self,
            grad_norm=_down(self.grad_norm),
            min_real_part=None if part is None else _down(part),
            eta_max=None if eta is None else _down(eta),
            basin=basin,
        )

    def missing(self, other: Claims) -> list[str]:
        """What ``other`` claims beyond this."""
        lost = sorted(other.proved - self.proved)
        if other.inertia is not None and other.inertia != self.inertia:
            lost.append(f"inertia {tuple(other.inertia)}")
        for name in ("grad_norm", "min_real_part", "eta_max"):
            claimed, shown = getattr(other, name), getattr(self, name)
            if claimed is not None and (shown is None or not shown >= claimed):
                lost.append(f"{name} ≥ {claimed}")
        a, b = other.basin, self.basin
        if a is not None and (b is None or not (b.radius >= a.radius and b.eta >= a.eta)):
            lost.append(f"{a}")
        for name in ("loss", "image_loss", "constant_loss"):
            claimed, shown = getattr(other, name), getattr(self, name)
            if claimed is not None and (
                shown is None or not abs(claimed - shown) <= 5e-10 * max(1.0, abs(claimed))
            ):
                lost.append(f"{name} = {claimed} (it is {shown})")
        if other.live_units not in (None, self.live_units):
            lost.append(f"live_units = {other.live_units} (it is {self.live_units})")
        return lost


def _plus_minus(radius: float) -> Any:
    from flint import arb

    return arb(0, radius)


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

    Results for a box are remembered, so that a search for the widest costs no second proof.
    """

    def __init__(self, f: ShiftedGradient, centre: Array, radius: float) -> None:
        self.f, self.centre, self.radius = f, centre, radius
        self.near = f.over(centre, radius)
        self.derivative = self.near.derivative
        self.spectrum = discs(self.derivative)
        self._separations: dict[float, float] = {}
        self._basins: dict[float, tuple[float, Basin | None]] = {}

    def claims(self, box: float, basin_box: float | None = None) -> Claims:
        """The proof: unique in centre ± ``box`` (≥ radius), convergence shown in ± ``basin_box``.

        Raises
        ------
        NotCertified
            If existence, uniqueness or ∇f ≠ 0 is not proved.
        """
        if not 0 < self.radius <= box < math.inf:
            raise NotCertified("precision", f"{box:g} is no radius from {self.radius:g} on")
        near, a = self.near, self.derivative
        residual = self.f.value(self.centre)
        if not (near.norm > 0 and krawczyk(residual, a, inverse(a), self.radius)):
            raise NotCertified(
                "precision",
                f"Krawczyk's test fails in the box of radius {self.radius:g}; raise bits",
            )
        if box > self.radius and not self.separation(box) < 1:
            raise NotCertified("precision", f"uniqueness is not proved for radius {box:g}")
        proved = {"exists", "unique", "gradient is nonzero"}
        signs, around = inertia(near.hessian), self.spectrum
        if signs is not None:
            proved.add(f"image is {signs.kind}")
        eta = None if around is None else around.eta_max
        if eta is not None:
            proved.add("attracts")
        elif around is not None and around.left:
            proved.add("does not attract")
        basin = None if eta is None or basin_box is None else self.basin(basin_box)[1]
        if basin is not None:
            proved.add("basin")
        return Claims(
            frozenset(proved),
            lower(near.norm),
            signs,
            None if around is None else around.real_part,
            eta,
            basin,
            *self._losses(),
            self._live_units(box),
        )

    def _losses(self) -> tuple[float | None, float | None, float | None]:
        """f(x_h), f(x⁺) and the constant guess."""
        landscape = self.f.landscape
        if not hasattr(landscape, "ball_f"):
            return None, None, None
        here = landscape.ball_f(list(self.centre + _plus_minus(self.radius)))
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

    def separation(self, box: float) -> float:
        """Below 1, F has at most one zero in the box centre ± box.

        F is x ↦ x⁺ followed by ∇f. The first is one-to-one on the box if M is regular there, the
        second on a box that holds all x⁺ if H is. Two interval matrices are narrower than their
        product DF: this admits boxes several times wider.
        """
        if box not in self._separations:
            wide, bound = self.f.over(self.centre, box), math.inf
            if wide.norm > 0:
                bound = contraction(inverse(self.near.shift), wide.shift)
            if bound < 1:
                image = contraction(inverse(self.near.hessian), wide.hessian)
                bound = max(bound, image)
            self._separations[box] = bound
        return self._separations[box]

    def basin(self, box: float) -> tuple[float, Basin | None]:
        """The least real part in the spectra of A(x), x in centre ± box, and what follows.

        In the basis V of :class:`Discs`, A(x) is off D by at most ‖E‖ + cond(V)·‖A(x) − A(x_h)‖.
        For η below the eta_max of discs that wide, SAM's map contracts towards x_h in the norm
        ‖V⁻¹x‖, on each ball of that norm in the box.
        """
        if box not in self._basins:
            found: Discs | None = None
            if self.spectrum is not None:
                change = two_norm(self.f.over(self.centre, box).derivative - self.derivative)
                found = self.spectrum.around(change)
            eta, basin = None if found is None else found.eta_max, None
            if found is not None and eta is not None and box > self.radius:
                reach = ball(Fraction(box) - Fraction(self.radius)) / found.condition
                # Strictly below the bound: at the bound itself the map need not contract.
                basin = Basin(lower(reach), math.nextafter(eta, 0), box)
            self._basins[box] = (-math.inf if found is None else found.real_part, basin)
        return self._basins[box]

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
        """A half-width for :meth:`basin` that keeps most of min Re λ(A); None if none does."""
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
