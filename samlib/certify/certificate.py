"""Computer-assisted proofs that a point is a hallucinated minimizer, and certificates to keep.

:func:`prove` shows, in ball arithmetic from the exact loss, that F(x) = ∇f(x + ρu(x)) has exactly
one zero x_h in a box, that ∇f is not zero there, what kind of critical point its image is, and
whether SAM is attracted to it. It needs det H_* ≠ 0 and det S ≠ 0, and says so where they fail.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from samlib.certify import stored_loss
from samlib.certify.ball_arithmetic import (
    Array,
    Floats,
    ball,
    balls,
    finite,
    fraction,
    midpoints,
    mm,
    precision,
)
from samlib.certify.enclosures import Inertia, Linearisation, ShiftedGradient
from samlib.certify.proof import Basin, Claims, NotCertified, Proof, inverse
from samlib.errors import BadInput, check_number, check_point, check_whole
from samlib.points.linearisation import ascend

__all__ = ["Basin", "Certificate", "Inertia", "NotCertified", "prove"]

# The numbers of a certificate, and what each must be larger than.
NUMBERS = {
    **dict.fromkeys(("radius", "box_radius", "grad_norm", "eta_max"), 0.0),
    **dict.fromkeys(("seconds", "min_real_part"), -math.inf),
    **dict.fromkeys(("loss", "image_loss", "constant_loss"), -math.inf),
}
NEEDED = ("radius", "box_radius", "grad_norm", "seconds")  # all others may be None
# What reading a file that is no certificate may end in.
UNREADABLE = (
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError),
    RecursionError,  # brackets in brackets
)
DECIMAL = re.compile(r"-?\d{1,400}(\.\d{1,400})?(e[+-]?\d{1,3})?")
SINGULAR = 1e-11  # a smallest singular value below this times the largest is taken for 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Certificate(Claims):
    """A proved hallucinated point, with all that is needed to prove it again.

    Attributes
    ----------
    landscape : Landscape or NetworkLoss
        The loss.
    rho : Fraction
        ρ, exactly.
    centre : tuple of str
        The point in decimals. x_h differs from them by at most ``radius`` in each coordinate.
    radius : float
    box_radius : float
        x_h is the only hallucinated point with |x − centre| ≤ box_radius everywhere.
    bits : int
        The working precision of the proof.
    seconds : float
        CPU time of search and proof.
    data : dict or None
        What the data of a network are: set, classes and features as given to :func:`prove`, their
        number n, and the SHA-256 of x and y as they are stored. None for a landscape.
    proved, grad_norm, inertia, min_real_part, eta_max, basin, loss, image_loss, constant_loss
        and live_units, what is claimed: see :class:`samlib.certify.proof.Claims`.

    Raises
    ------
    BadInput
        If a value is impossible.
    """

    landscape: Any
    rho: Fraction
    centre: tuple[str, ...]
    radius: float
    box_radius: float
    bits: int
    seconds: float
    data: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if not all(isinstance(v, str) and DECIMAL.fullmatch(v) for v in self.centre):
            raise BadInput(f"centre = {self.centre!r} must be decimals, as texts")
        if not all(isinstance(claim, str) for claim in self.proved):
            raise BadInput(f"proved = {self.proved!r} must be names of claims")
        exact: dict[str, Any] = {"rho": _exact_radius(self.rho)}
        exact["bits"] = check_whole("bits", self.bits, 53, 1024)
        for name, low in NUMBERS.items():
            if (value := getattr(self, name)) is not None or name in NEEDED:
                exact[name] = check_number(name, value, low, strict=True)
        if self.basin is not None:
            sizes = asdict(self.basin).items()
            exact["basin"] = Basin(**{k: check_number(k, v, strict=True) for k, v in sizes})
        for name, value in exact.items():
            object.__setattr__(self, name, value)
        self._check_fit()

    def _check_fit(self) -> None:
        """Refuse a certificate whose parts are not of one size."""
        size = getattr(self.landscape, "dim", len(self.centre))
        if len(self.centre) != size or not np.isfinite(self.x_h).all():
            raise BadInput(f"centre must be {size} numbers that float64 can hold")
        if not self.radius <= self.box_radius:
            raise BadInput(f"radius = {self.radius} is larger than box_radius = {self.box_radius}")
        signs = [check_whole("inertia", v, 0) for v in self.inertia or ()]
        if signs and sum(signs) != size:
            raise BadInput(f"inertia = {signs} must count {size} eigenvalues")
        if self.live_units is not None:
            check_whole("live_units", self.live_units, 0, getattr(self.landscape, "hidden", 0))
        if self.data is not None:
            about = {key: self.data[key] for key in stored_loss.ABOUT}
            due = stored_loss.describe_data(self.landscape, about)
            if stored_loss.canonical(self.data) != stored_loss.canonical(due):
                raise BadInput(f"data = {self.data}, but they are {due}")

    @property
    def x_h(self) -> Floats:
        """The centre in float64, shape (d,)."""
        return np.array([float(v) for v in self.centre])

    @property
    def image(self) -> Floats:
        """x⁺ in float64, shape (d,)."""
        return ascend(self.landscape, self.x_h, float(self.rho))[1]

    @property
    def digits(self) -> int:
        """How many decimals of each coordinate of x_h are proved."""
        return int(-np.log10(self.radius))

    def recheck(self) -> bool:
        """Repeat the whole proof from what is stored, and compare all that is said with it.

        Returns
        -------
        bool
            True.

        Raises
        ------
        NotCertified
            If anything is not so; of the data see :mod:`samlib.certify.stored_loss`.
        """
        if not stored_loss.is_as_described(self.landscape, self.data):
            raise NotCertified("not reproduced", f"the data are not {self.data}")
        box = None if self.basin is None else self.basin.box
        with precision(self.bits):
            f = _shifted_gradient(self.landscape, self.rho)
            shown = _proof(f, self.centre, self.radius).claims(self.box_radius, box)
        if lost := shown.missing(self):
            raise NotCertified("not reproduced", f"not proved again: {', '.join(lost)}")
        return True

    def _to_json(self) -> dict[str, Any]:
        return vars(self) | {
            "format": 1,
            "landscape": stored_loss.to_json(self.landscape),
            "rho": str(self.rho),
            "proved": sorted(self.proved),
            "basin": None if self.basin is None else asdict(self.basin),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file that holds the proof's every input, the data of a network included."""
        Path(path).write_text(stored_loss.canonical(self._to_json()) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a saved certificate. It claims; only :meth:`recheck` proves.

        Raises
        ------
        BadInput
            If the file is no certificate, written as :meth:`save` writes it.
        """
        if not Path(path).is_file():
            raise BadInput(f"{path} is no file; give a certificate, a JSON file")
        try:
            return cls._from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except UNREADABLE as error:
            said = str(error) if isinstance(error, BadInput) else repr(error)
            raise BadInput(f"{path} is no certificate: {said}; make it with prove") from error

    @classmethod
    def _from_json(cls, stored: dict[str, Any]) -> Self:
        """The certificate of what :meth:`_to_json` gave, or one of many sorts of error."""
        basin, signs = stored["basin"], stored["inertia"]
        read = stored | {
            "landscape": stored_loss.from_json(stored["landscape"]),
            "rho": fraction("rho", stored["rho"]),
            "centre": tuple(stored["centre"]),
            "proved": frozenset(stored["proved"]),
            "basin": None if basin is None else Basin(**basin),
            "inertia": None if signs is None else Inertia(*signs),
        }
        del read["format"]
        certificate = cls(**read)
        due = certificate._to_json() | {"landscape": stored["landscape"]}
        stored = stored | {"proved": sorted(stored["proved"])}
        text = stored_loss.canonical
        if odd := [k for k, v in stored.items() if text(v) != text(due[k])]:
            raise BadInput(f"{', '.join(odd)}: not as it is saved")
        return certificate

    def __str__(self) -> str:
        return "\n".join([*self._lines_on_the_point(), *self._lines_on_the_dynamics()])

    def _lines_on_the_point(self) -> Iterator[str]:
        loss, size = self.landscape, len(self.centre)
        few = ", ".join(f"{v:.10g}" for v in self.x_h)
        yield f"{getattr(loss, 'name', '') or getattr(loss, 'expr', loss)}, ρ = {self.rho}"
        where = f"({few})" if size <= 4 else f"a point of R^{size}"
        yield f"x_h = {where}, {self.digits} decimals proved"
        yield f"the only one within {self.box_radius:.3g} in each coordinate"
        yield f"‖∇f(x_h)‖ ≥ {self.grad_norm:.7g}"
        losses = {"f(x_h) = ": self.loss, "f(x⁺) = ": self.image_loss}
        if known := [f"{name}{v:.6g}" for name, v in losses.items() if v is not None]:
            constant = self.constant_loss
            best = "" if constant is None else f"; the best constant output: {constant:.6g}"
            yield ", ".join(known) + best
        if self.live_units is not None:
            yield f"hidden units with weights that are not 0: {self.live_units} of {loss.hidden}"
        if (data := self.data) is not None:
            classes = f", classes {', '.join(map(str, data['classes']))}" if data["classes"] else ""
            features = f", {data['features']}" if data["features"] else ""
            what = f"{data['set'] or 'unnamed'}{classes}{features}"
            yield f"data: {what}, n = {data['n']}, SHA-256 {data['sha256'][:12]}…"

    def _lines_on_the_dynamics(self) -> Iterator[str]:
        if self.inertia is not None:
            signs = f"{self.inertia.positive} positive, {self.inertia.negative} negative"
            yield f"image: {self.inertia.kind}, eigenvalues of H_*: {signs}"
        if self.eta_max is not None:
            yield f"attracts: Re λ(A) ≥ {self.min_real_part:.7g}, η_max ≥ {self.eta_max:.7g}"
        elif "does not attract" in self.proved:
            yield "does not attract: A has an eigenvalue with negative real part"
        if self.basin is not None:
            near = f"{self.basin.radius:.2e} (Euclidean)"
            yield f"converges from within {near} for every η ≤ {self.basin.eta:.3g}"
        yield f"proved with {self.bits} bits"


def prove(
    landscape: Any,
    x_h: ArrayLike,
    rho: Any,
    *,
    bits: int = 128,
    tol: float = 1e-7,
    data: Mapping[str, Any] | None = None,
) -> Certificate:
    """Prove that there is a hallucinated point at ``x_h`` and what it is, or refuse.

    Parameters
    ----------
    landscape : Landscape or NetworkLoss
        A smooth loss; any object with their ``grad``, ``hess``, ``ball_grad``, ``ball_hess`` and
        ``dim`` will do.
    x_h : array (d,)
        A point computed in float64, to about ``tol`` · ρ.
    rho : number
        A float stands for its shortest decimal (1.2 is 6/5); the proof is for that exact value.
    bits : int
        Working precision, 53 to 1024. x_h is proved to about a fifth as many decimals.
    tol : float
        How far from ``x_h``, in each coordinate and in units of ρ, the proved point may lie.
    data : dict, optional
        What the data of a network are, for the reader of the certificate: ``set`` (a name),
        ``classes`` (a list of labels) and ``features``. Their number and SHA-256 are added.

    Returns
    -------
    Certificate

    Raises
    ------
    NotCertified
        If there is no proof; it says why.
    BadInput
        If an argument is unusable.
    """
    start = time.process_time()
    exact = _exact_radius(rho)
    check_number("tol", tol, 0, 1, strict=True)
    digits = int(0.22 * check_whole("bits", bits, 53, 1024))
    about = stored_loss.describe_data(landscape, data)
    radius = float(f"1e-{digits}")
    with precision(bits):
        f = _shifted_gradient(landscape, exact)
        x = check_point("x_h", x_h, landscape.dim)
        centre = _root(f, x, radius, digits + 8)
        _check_near(x, centre, radius, tol * float(exact))
        proof = _proof(f, centre, radius)
        box = proof.widest_box(float(exact))
        claims = proof.claims(box, proof.widest_basin(box)).stated()
    return Certificate(
        **vars(claims),
        landscape=landscape,
        rho=exact,
        centre=centre,
        radius=radius,
        box_radius=box,
        bits=bits,
        seconds=round(time.process_time() - start, 2),
        data=about,
    )


def _exact_radius(rho: Any) -> Fraction:
    exact = fraction("rho", rho)
    if not Fraction(1, 10**300) < exact < 10**300:
        raise BadInput(f"rho = {rho!r} is not a number in (0, ∞) that float64 can hold")
    return exact


def _shifted_gradient(landscape: Any, rho: Fraction) -> ShiftedGradient:
    """F in balls, of a loss that has a Hessian in balls."""
    if not getattr(landscape, "smooth", True):
        raise NotCertified("kink", "the loss has kinks (Abs, Max, Piecewise, …), so no Hessian")
    balls = hasattr(landscape, "derivatives") or hasattr(landscape, "ball_hess")
    if not (balls and hasattr(landscape, "dim")):
        raise BadInput(f"{landscape!r} has no ball arithmetic; give a Landscape or a NetworkLoss")
    return ShiftedGradient(landscape, ball(rho))


def _proof(f: ShiftedGradient, centre: tuple[str, ...], radius: float) -> Proof:
    return Proof(f, balls([Fraction(v) for v in centre]), radius)


def _root(f: ShiftedGradient, x_h: Floats, radius: float, digits: int) -> tuple[str, ...]:
    """The zero of F that Newton's method reaches from x_h, in decimals, or why there is none."""
    x, size, rho = balls(x_h), math.inf, float(f.rho.mid())
    for step in range(40):
        here, residual = f.over(x, 0.0), f.value(x)
        _check_regular(here, residual, rho)
        if step == 0:
            ratio = float(np.linalg.norm(midpoints(residual))) / float(here.norm.mid())
        move = _middles(mm(balls(inverse(here.A)), residual))
        x, last, size = _middles(x - move), size, float(np.linalg.norm(midpoints(move)))
        if size < radius / 64:
            return tuple(v.str(digits, radius=False) for v in x)
        if not size < last:
            break
    if size < 1e-6 * rho:
        raise NotCertified("precision", "Newton's iteration does not settle; raise bits")
    said = f"‖∇f(x⁺)‖ is {ratio:.3g} times ‖∇f(x)‖ at x_h"
    raise NotCertified("image not stationary", said)


def _middles(a: Array) -> Array:
    return np.array([v.mid() for v in a], dtype=object)


def _check_regular(here: Linearisation, residual: Array, rho: float) -> None:
    """Refuse a critical point, and one where H_* or S is singular."""
    if not (here.norm.is_finite() and finite(here.H)):
        raise NotCertified("not finite", "∇f or its derivative is not finite at x_h")
    scale = float(np.linalg.norm(midpoints(here.H), 2))
    if not here.norm > 1e-12 * scale * rho:
        norm = float(here.norm.mid())
        raise NotCertified("stationary", f"‖∇f‖ = {norm:.3g} at x_h: it is a critical point")
    if not (finite(residual) and finite(here.H_image)):
        raise NotCertified("not finite", "∇f or its derivative is not finite at x⁺")
    for reason, name, matrix, floor in (
        ("degenerate image", "H_*", here.H_image, scale),
        ("singular S", "M, whose determinant is det S,", here.M, 0.0),
    ):
        values = np.linalg.svd(midpoints(matrix), compute_uv=False)
        if not values[-1] > SINGULAR * max(values[0], floor):
            least = 0.0 if values[-1] < 1e-15 else values[-1]  # no more than x_h's rounding
            spread = f"from {least:.3g} to {values[0]:.3g}"
            raise NotCertified(reason, f"{name} has singular values {spread}")


def _check_near(x: Floats, centre: tuple[str, ...], radius: float, allowed: float) -> None:
    """Refuse a root that is not where the caller said."""
    distance = float(np.abs(np.array([float(v) for v in centre]) - x).max())
    if not distance + radius <= allowed:
        raise NotCertified(
            "too far",
            f"the nearest root is {distance:.3g} away, more than tol · ρ = {allowed:.3g}; "
            "certify that root, or raise tol",
        )
