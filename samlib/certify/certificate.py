"""Computer-assisted proofs that a point is a hallucinated minimizer, and certificates to keep.

``certify`` proves, in ball arithmetic from the exact loss, that F(x) = ∇f(x + ρu(x)) has exactly
one zero x_h in a box, that ∇f is not zero there, what kind of critical point its image is, and
whether SAM is attracted to it. It needs det H_* ≠ 0 and det S ≠ 0, and says so where they fail.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from samlib.certify import identity
from samlib.certify.ball_arithmetic import ball, balls, fraction, mm, precision
from samlib.certify.enclosures import Floats, Inertia, ShiftedGradient
from samlib.certify.proof import Basin, Claims, NotCertified, Proof
from samlib.errors import BadInput, check_number, check_point, check_whole
from samlib.points.linearisation import ascend, linearise

__all__ = ["Basin", "Certificate", "Inertia", "NotCertified", "prove"]

SINGULAR = 1e-11  # a smallest singular value below this times the largest is taken for 0
DECIMAL = re.compile(r"-?\d{1,400}(\.\d{1,400})?(e[+-]?\d{1,3})?")
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
    data : what the data of a network are: their set, classes and features as given to
        :func:`certify`, their number n, and the SHA-256 of x and y as they are stored. None for a
        landscape.

    A certificate of impossible values cannot be made: BadInput.
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
        check_whole("bits", self.bits, 53, 1024)
        if not (isinstance(self.rho, Fraction) and _usable(self.rho)):
            raise BadInput(f"rho = {self.rho!r} is not a fraction in (0, ∞) that float64 can hold")
        decimals = isinstance(self.centre, tuple) and all(map(_is_decimal, self.centre))
        if not decimals or len(self.centre) != getattr(self.landscape, "dim", len(self.centre)):
            raise BadInput("centre must be as many decimals as the loss has variables, as texts")
        for name in ("radius", "box_radius", "grad_norm"):
            _check_real(name, getattr(self, name), above=0)
        if not self.radius <= self.box_radius:
            raise BadInput(f"radius = {self.radius} is larger than box_radius = {self.box_radius}")
        _check_real("seconds", self.seconds)
        if not all(isinstance(claim, str) for claim in self.proved):
            raise BadInput(f"proved = {self.proved!r} must be names of claims")
        for name in ("min_real_part", "loss", "image_loss", "constant_loss"):
            if getattr(self, name) is not None:
                _check_real(name, getattr(self, name))
        if self.eta_max is not None:
            _check_real("eta_max", self.eta_max, above=0)
        if self.basin is not None:
            for key, value in asdict(self.basin).items():
                _check_real(f"{key} of the basin", value, above=0)
        signs = [check_whole("inertia", v, 0) for v in self.inertia or ()]
        if signs and sum(signs) != len(self.centre):
            raise BadInput(f"inertia {signs} must count {len(self.centre)} eigenvalues")
        if self.live_units is not None:
            check_whole("live_units", self.live_units, 0, getattr(self.landscape, "hidden", 0))
        if self.data is not None:
            _check_data(self.data)

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
        """Repeat the whole proof from what is stored; True, or :class:`NotCertified` is raised.

        The losses, the live units and the description of the data are compared with what the stored
        loss gives; see :func:`samlib.certify.identity.contradictions` for what is known of the
        data.
        """
        if wrong := identity.contradictions(self.landscape, self.data):
            raise NotCertified("not reproduced", f"the data contradict {', '.join(wrong)}")
        with precision(self.bits):
            shown = self._proof()
        if lost := shown.missing(self):
            raise NotCertified("not reproduced", f"not proved again: {', '.join(lost)}")
        return True

    def _proof(self) -> Claims:
        f = ShiftedGradient(self.landscape, ball(self.rho))
        centre = np.array([ball(Fraction(v)) for v in self.centre], dtype=object)
        basin_box = None if self.basin is None else self.basin.box
        return Proof(f, centre, self.radius).claims(self.box_radius, basin_box)

    def described(self, data: Mapping[str, Any] | None = None) -> Certificate:
        """The same certificate with all that it can say of its losses, live units and data.

        For files of an older samlib, which lack these; what they claim stays as it is. ``data`` as
        for :func:`certify`.
        """
        with precision(self.bits):
            shown = self._proof()
        names = ("loss", "image_loss", "constant_loss", "live_units")
        facts = {name: getattr(shown, name) for name in names}
        return replace(self, **facts, data=identity.describe_data(self.landscape, data))

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
        if not Path(path).is_file():
            raise BadInput(f"{path} is no file; give a certificate, a JSON file")
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(stored, dict) or stored.pop("format", None) != 1:
                raise BadInput(f"{path} is no certificate of format 1; make it with certify")
            return cls(**_arguments(stored))
        except (
            LookupError,
            TypeError,
            AttributeError,
            ValueError,
            RecursionError,
            OSError,
        ) as error:
            said = str(error) if isinstance(error, BadInput) else repr(error)
            raise BadInput(f"{path} is no certificate: {said}; make it with certify") from error

    def __str__(self) -> str:
        few = ", ".join(f"{float(v):.10g}" for v in self.centre)
        where = f"({few})" if len(self.centre) <= 4 else f"a point of R^{len(self.centre)}"
        lines = [
            f"{identity.title(self.landscape)}, ρ = {self.rho}",
            f"x_h = {where}, {self.digits} decimals proved",
            f"the only one within {self.box_radius:.3g} in each coordinate",
            f"‖∇f(x_h)‖ ≥ {self.grad_norm:.7g}",
            *self._said_of_loss(),
        ]
        if self.inertia is not None:
            signs = f"{self.inertia.positive} positive, {self.inertia.negative} negative"
            lines.append(f"image: {self.inertia.kind}, eigenvalues of H_*: {signs}")
        if self.eta_max is not None:
            lines.append(
                f"attracts: Re λ(A) ≥ {self.min_real_part:.7g}, η_max ≥ {self.eta_max:.7g}"
            )
        elif "does not attract" in self.proved:
            lines.append("does not attract: A has an eigenvalue with negative real part")
        if self.basin is not None:
            near = f"{self.basin.radius:.2e} (Euclidean)"
            lines.append(f"converges from within {near} for every η ≤ {self.basin.eta:.3g}")
        return "\n".join([*lines, f"proved with {self.bits} bits"])

    def _said_of_loss(self) -> list[str]:
        """Lines on the losses, the live units and the data, as far as they are known."""
        lines, values = [], {"f(x_h)": self.loss, "f(x⁺)": self.image_loss}
        if known := [f"{name} = {v:.6g}" for name, v in values.items() if v is not None]:
            lines.append(", ".join(known))
            if self.constant_loss is not None:
                lines[0] += f"; the best constant output: {self.constant_loss:.6g}"
        if self.live_units is not None:
            lines.append(
                f"hidden units with weights that are not 0: {self.live_units} of "
                f"{self.landscape.hidden}"
            )
        if self.data is not None:
            name = str(self.data["set"] or "unnamed")
            if self.data["classes"] is not None:
                name += f", classes {', '.join(map(str, self.data['classes']))}"
            if self.data["features"] is not None:
                name += f", {self.data['features']}"
            lines.append(f"data: {name}, n = {self.data['n']}, SHA-256 {self.data['sha256'][:12]}…")
        return lines


def _usable(rho: Fraction) -> bool:
    return Fraction(1, 10**300) < rho < 10**300


def _is_decimal(value: Any) -> bool:
    decimal = isinstance(value, str) and DECIMAL.fullmatch(value) is not None
    return decimal and math.isfinite(float(value))


def _check_real(name: str, value: Any, above: float = -math.inf) -> None:
    """Refuse words, booleans, infinities, NaN and what is not larger than ``above``."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and abs(value) <= 1e308 and value > above):
        raise BadInput(f"{name} = {value!r} is not a number in ({above:g}, ∞)")


def _check_data(data: Any) -> None:
    keys = ["classes", "features", "n", "set", "sha256"]
    if not isinstance(data, dict) or sorted(data) != keys:
        raise BadInput(f"data = {data!r} must say {', '.join(keys)}")
    check_whole("n", data["n"])
    texts = [data["sha256"], data["set"] or "", data["features"] or ""]
    classes = [] if data["classes"] is None else data["classes"]
    if not all(isinstance(t, str) for t in texts) or not isinstance(classes, list):
        raise BadInput(f"data = {data!r}: set, features and sha256 are texts, classes is a list")
    for label in classes:
        check_whole("a class", label, 0)


def _arguments(stored: dict[str, Any]) -> dict[str, Any]:
    """The fields of a certificate from its file, where some of what describes it may be missing."""
    told = dict.fromkeys(("data", "loss", "image_loss", "constant_loss", "live_units"))
    needed = {k.name for k in fields(Certificate)} - set(told)
    if wrong := sorted((needed - set(stored)) | (set(stored) - needed - set(told))):
        raise BadInput(f"{', '.join(wrong)}: missing or unknown")
    basin, signs = stored["basin"], stored["inertia"]
    if not all(isinstance(stored[k], list) for k in ("centre", "proved")):
        raise BadInput("centre and proved must be lists")
    return {
        **told,
        **stored,
        "landscape": identity.restore(stored["landscape"]),
        "rho": fraction("rho", stored["rho"]),
        "centre": tuple(stored["centre"]),
        "proved": frozenset(stored["proved"]),
        "inertia": None if signs is None else Inertia(*signs),
        "basin": None if basin is None else Basin(**basin),
    }


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
    landscape
        A smooth :class:`samlib.Landscape`, a :class:`samlib.certify.exact_network.NetworkLoss`, or
        any object with its ``grad``, ``hess``, ``ball_grad``, ``ball_hess`` and ``dim``.
    x_h : array (d,)
        A point computed in float64, to about ``tol`` · ρ.
    rho : number
        A float stands for its shortest decimal (1.2 is 6/5); the proof is for that exact value.
    bits
        Working precision, 53 to 1024. x_h is proved to about a fifth as many decimals.
    tol
        How far from ``x_h``, in each coordinate and in units of ρ, the proved point may lie.
    data
        What the data of a network are, for the reader of the certificate: ``set`` (a name),
        ``classes`` (a list of labels) and ``features``. Their number and SHA-256 are added.

    Raises
    ------
    NotCertified
        If there is no proof; it says why.
    BadInput
        If an argument is unusable.
    """
    start = time.process_time()
    exact = fraction("rho", rho)
    if not _usable(exact):
        raise BadInput(f"rho = {rho!r} is not a number in (0, ∞) that float64 can hold")
    check_number("tol", tol, 0, 1, strict=True)
    check_number("bits", bits, 53, 1024)
    about = identity.describe_data(landscape, data)
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
        data=about,
    )


def _point(landscape: Any, x_h: ArrayLike) -> Floats:
    """``x_h`` as a finite float64 vector that fits a smooth landscape."""
    if not getattr(landscape, "smooth", True):
        raise NotCertified("kink", "the loss has kinks (Abs, Max, Piecewise, …), so no Hessian")
    balls = hasattr(landscape, "derivatives") or hasattr(landscape, "ball_hess")
    if not (balls and hasattr(landscape, "dim")):
        raise BadInput(f"{landscape!r} has no ball arithmetic; give a Landscape or a NetworkLoss")
    return np.asarray(check_point("x_h", x_h, landscape.dim))


def _newton(landscape: Any, x: Floats, rho: float) -> tuple[Floats, Floats]:
    """The float64 root of F next to x, and A⁻¹ there; refuses with the reason there is none."""
    first, size = x, np.inf
    for step in range(12):
        near = linearise(landscape, x, rho)
        norm, h, image = near.grad_norm, near.H, near.H_image
        if not np.isfinite(h).all():
            raise NotCertified("not finite", "the Hessian of f is not finite at x_h")
        scale = float(np.linalg.norm(h, 2))
        if not norm > 1e-12 * scale * rho:
            raise NotCertified("stationary", f"‖∇f‖ = {norm:.3g} at x_h: it is a critical point")
        residual = np.asarray(landscape.grad(near.image))
        ratio = float(np.linalg.norm(residual)) / norm
        # Next to a critical point ‖∇f‖ is small and rounding alone makes the ratio large.
        if step == 0 and not (ratio <= FAR or ratio * norm <= 1e-9 * scale * rho):
            raise NotCertified(
                "image not stationary", f"‖∇f(x⁺)‖ is {ratio:.3g} times ‖∇f(x)‖ at x_h"
            )
        if not (np.isfinite(residual).all() and np.isfinite(image).all()):
            raise NotCertified("not finite", "∇f or the Hessian is not finite at x⁺")
        if step == 0 or size < 1e-6 * rho:
            _regular("degenerate image", "H_*", image, scale)
            _regular("singular S", "M, whose determinant is det S,", near.M, 0.0)
        inverse = np.asarray(np.linalg.inv(near.A), dtype=np.float64)
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
