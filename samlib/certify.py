"""Computer-assisted proofs that a point is a hallucinated minimizer, and certificates to keep.

``certify`` proves, in ball arithmetic from the exact loss, that F(x) = ∇f(x + ρu(x)) has exactly
one zero x_h in a box, that ∇f is not zero there, what kind of critical point its image is, and
whether SAM is attracted to it. It needs det H_* ≠ 0 and det S ≠ 0, and says so where they fail.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from samlib import identity
from samlib.balls import ball, balls, fraction, mm, precision
from samlib.enclosures import Floats, Inertia, ShiftedGradient
from samlib.errors import BadInput, check_number
from samlib.proof import Basin, Claims, NotCertified, Proof

__all__ = ["Basin", "Certificate", "Inertia", "NotCertified", "certify"]

SINGULAR = 1e-11  # a smallest singular value below this times the largest is taken for 0
FAR = 1e-2  # a point with ‖∇f(x⁺)‖ above this times ‖∇f(x)‖ is no hallucinated point at all


@dataclass(frozen=True, eq=False)
class Certificate(Claims):
    """A proved hallucinated point, with all that is needed to prove it again; see also its base.

    Attributes
    ----------
    landscape, rho : the loss, and ρ as an exact fraction.
    centre : the point in decimals. x_h differs from them by at most ``radius`` in each coordinate.
    box_radius : x_h is the only hallucinated point with |x − centre| ≤ box_radius everywhere.
    bits : the working precision of the proof.
    seconds : CPU time of search and proof.
    """

    landscape: Any
    rho: Fraction
    centre: tuple[str, ...]
    radius: float
    box_radius: float
    bits: int
    seconds: float

    @property
    def x_h(self) -> Floats:
        """The centre in float64, shape (d,)."""
        return np.array([float(v) for v in self.centre])

    @property
    def image(self) -> Floats:
        """x⁺ in float64, shape (d,)."""
        g = np.asarray(self.landscape.grad(self.x_h))
        return np.asarray(self.x_h + float(self.rho) * g / np.linalg.norm(g))

    @property
    def digits(self) -> int:
        """How many decimals of each coordinate of x_h are proved."""
        return int(-np.log10(self.radius))

    def recheck(self) -> bool:
        """Repeat the whole proof from what is stored; True, or :class:`NotCertified` is raised."""
        with precision(self.bits):
            f = ShiftedGradient(self.landscape, ball(self.rho))
            centre = np.array([ball(Fraction(v)) for v in self.centre], dtype=object)
            if len(centre) != self.landscape.dim or not 0 < self.radius <= self.box_radius:
                raise NotCertified("not reproduced", "the stored point does not fit its loss")
            basin_box = None if self.basin is None else self.basin.box
            shown = Proof(f, centre, self.radius).claims(self.box_radius, basin_box)
        if lost := shown.missing(self):
            raise NotCertified("not reproduced", f"not proved again: {', '.join(lost)}")
        return True

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file that holds the proof's every input, the data of a network included."""
        stored = {k.name: getattr(self, k.name) for k in fields(self)}
        stored |= {
            "format": 1,
            "landscape": identity.describe(self.landscape),
            "rho": str(self.rho),
            "proved": sorted(self.proved),
            "basin": None if self.basin is None else asdict(self.basin),
        }
        Path(path).write_text(json.dumps(stored, separators=(",", ":"), sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a saved certificate. It claims; only :meth:`recheck` proves.

        Raises
        ------
        BadInput
            If the file is no certificate.
        """
        try:
            stored = json.loads(Path(path).read_text())
            if stored.pop("format") != 1:
                raise BadInput(f"{path} has an unknown format; make it again with certify")
            basin, signs = stored["basin"], stored["inertia"]
            stored |= {
                "landscape": identity.restore(stored["landscape"]),
                "rho": fraction("rho", stored["rho"]),
                "centre": tuple(stored["centre"]),
                "proved": frozenset(stored["proved"]),
                "inertia": None if signs is None else Inertia(*signs),
                "basin": None if basin is None else Basin(**basin),
            }
            return cls(**stored)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise BadInput(f"{path} is no certificate: {error!r}; save one first") from error

    def __str__(self) -> str:
        few = ", ".join(f"{float(v):.10g}" for v in self.centre)
        where = f"({few})" if len(self.centre) <= 4 else f"a point of R^{len(self.centre)}"
        lines = [
            f"{identity.title(self.landscape)}, ρ = {self.rho}",
            f"x_h = {where}, {self.digits} decimals proved",
            f"the only one within {self.box_radius:.3g} in each coordinate",
            f"‖∇f(x_h)‖ ≥ {self.grad_norm:.6g}",
        ]
        if self.inertia is not None:
            signs = f"{self.inertia.positive} positive, {self.inertia.negative} negative"
            lines.append(f"image: {self.inertia.kind}, eigenvalues of H_*: {signs}")
        if self.eta_max is not None:
            lines.append(
                f"attracts: Re λ(A) ≥ {self.min_real_part:.6g}, η_max ≥ {self.eta_max:.6g}"
            )
        elif "does not attract" in self.proved:
            lines.append("does not attract: A has an eigenvalue with negative real part")
        if self.basin is not None:
            near = f"{self.basin.radius:.1e} (Euclidean)"
            lines.append(f"converges from within {near} for every η ≤ {self.basin.eta:.3g}")
        return "\n".join([*lines, f"proved with {self.bits} bits"])


def certify(
    landscape: Any, x_h: ArrayLike, rho: Any, *, bits: int = 128, tol: float = 1e-7
) -> Certificate:
    """Prove that there is a hallucinated point at ``x_h`` and what it is, or refuse.

    Parameters
    ----------
    landscape
        A smooth :class:`samlib.Landscape`, a :class:`samlib.networks.NetworkLoss`, or any object
        with their ``grad``, ``hess``, ``ball_grad``, ``ball_hess`` and ``dim``.
    x_h : array (d,)
        A point computed in float64, to about ``tol`` · ρ.
    rho : number
        A float stands for its shortest decimal (1.2 is 6/5); the proof is for that exact value.
    bits
        Working precision, 53 to 1024. x_h is proved to about a fifth as many decimals.
    tol
        How far from ``x_h``, in each coordinate and in units of ρ, the proved point may lie.

    Raises
    ------
    NotCertified
        If there is no proof; it says why.
    BadInput
        If an argument is unusable.
    """
    start = time.process_time()
    exact = fraction("rho", rho)
    if exact <= 0:
        raise BadInput(f"rho = {rho!r} is not a number in (0, ∞)")
    check_number("tol", tol, 0, 1, strict=True)
    check_number("bits", bits, 53, 1024)
    x = _point(landscape, x_h)
    root, inverse = _newton(landscape, x, float(exact))
    digits = int(0.22 * bits)
    radius = float(f"1e-{digits}")
    with precision(int(bits)):
        f = ShiftedGradient(landscape, ball(exact))
        decimals = _decimals(f, root, inverse, radius, digits + 8)
        _near(x, decimals, radius, tol * float(exact))
        centre = np.array([ball(Fraction(v)) for v in decimals], dtype=object)
        proof = Proof(f, centre, radius)
        box = proof.widest_box(float(exact))
        claims = proof.claims(box, proof.widest_basin(box)).stated()
    values = {k.name: getattr(claims, k.name) for k in fields(claims)}
    seconds = round(time.process_time() - start, 2)
    return Certificate(
        **values,
        landscape=landscape,
        rho=exact,
        centre=decimals,
        radius=radius,
        box_radius=box,
        bits=int(bits),
        seconds=seconds,
    )


def _point(landscape: Any, x_h: ArrayLike) -> Floats:
    """``x_h`` as a finite float64 vector that fits a smooth landscape."""
    if not getattr(landscape, "smooth", True):
        raise NotCertified("kink", "the loss has kinks (Abs, Max, Piecewise, …), so no Hessian")
    if not all(hasattr(landscape, n) for n in ("ball_grad", "ball_hess", "dim")):
        raise BadInput(f"{landscape!r} has no ball arithmetic; give a Landscape or a NetworkLoss")
    try:
        x = np.array(x_h, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"x_h = {x_h!r} is no array of numbers") from None
    if x.shape != (landscape.dim,):
        raise BadInput(f"x_h has shape {x.shape}; it must be ({landscape.dim},)")
    if not np.isfinite(x).all():
        raise BadInput(f"x_h = {x} has entries that are not finite")
    return x


def _newton(landscape: Any, x: Floats, rho: float) -> tuple[Floats, Floats]:
    """The float64 root of F next to x, and A⁻¹ there; refuses with the reason there is none."""
    first, size = x, np.inf
    for step in range(12):
        g, h = np.asarray(landscape.grad(x)), np.asarray(landscape.hess(x))
        norm, scale = float(np.linalg.norm(g)), float(np.linalg.norm(h, 2))
        if not norm > 1e-12 * scale * rho:
            raise NotCertified("stationary", f"‖∇f‖ = {norm:.3g} at x_h: it is a critical point")
        u = g / norm
        residual = np.asarray(landscape.grad(x + rho * u))
        ratio = float(np.linalg.norm(residual)) / norm
        # Next to a critical point ‖∇f‖ is small and rounding alone makes the ratio large.
        if step == 0 and not (ratio <= FAR or ratio * norm <= 1e-9 * scale * rho):
            raise NotCertified(
                "image not stationary", f"‖∇f(x⁺)‖ is {ratio:.3g} times ‖∇f(x)‖ at x_h"
            )
        image = np.asarray(landscape.hess(x + rho * u))
        shift = np.eye(len(x)) + rho / norm * (h - np.outer(u, u @ h))
        if step == 0 or size < 1e-6 * rho:
            _regular("degenerate image", "H_*", image, scale)
            _regular("singular S", "M, whose determinant is det S,", shift, 0.0)
        inverse = np.asarray(np.linalg.inv(image @ shift), dtype=np.float64)
        move = inverse @ residual
        if not np.linalg.norm(move) < min(size, 0.1 * rho):
            break  # no progress: rounding, or not a root at all, which the proof will find out
        x, size = x - move, float(np.linalg.norm(move))
    if np.linalg.norm(x - first) > 0.1 * rho or not np.isfinite(x).all():
        raise NotCertified("image not stationary", "Newton's iteration finds no root near x_h")
    return x, inverse


def _regular(reason: str, name: str, matrix: Floats, scale: float) -> None:
    values = np.linalg.svd(matrix, compute_uv=False)
    if not values[-1] > SINGULAR * max(values[0], scale):
        raise NotCertified(
            reason, f"{name} has singular values from {values[-1]:.3g} to {values[0]:.3g}"
        )


def _decimals(
    f: ShiftedGradient, root: Floats, inverse: Floats, radius: float, digits: int
) -> tuple[str, ...]:
    """The root to the working precision, in decimals, by Newton with a fixed inverse."""
    x, y = balls(root), balls(inverse)
    for _ in range(40):
        move = np.array([v.mid() for v in mm(y, f.value(x)[:, None])[:, 0]], dtype=object)
        x = np.array([v.mid() for v in x - move], dtype=object)
        if all(bool(abs(v) < radius / 64) for v in move):
            return tuple(v.str(digits, radius=False) for v in x)
    raise NotCertified("precision", "Newton's iteration does not settle; raise bits")


def _near(x: Floats, decimals: tuple[str, ...], radius: float, allowed: float) -> None:
    """Refuse a root that is not where the caller said."""
    distance = float(np.abs(np.array([float(v) for v in decimals]) - x).max())
    if not distance + radius <= allowed:
        raise NotCertified(
            "too far",
            f"the nearest root is {distance:.3g} away, more than tol · ρ = {allowed:.3g}; "
            "certify that root, or raise tol",
        )
