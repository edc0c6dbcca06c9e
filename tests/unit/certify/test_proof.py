"""samlib.certify.proof on functions made to measure, whose A, losses and boxes are known exactly.

Near x_h and near its image x⁺ the functions are polynomials that can be chosen freely, so what is
provable about them can be worked out by hand.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

flint = pytest.importorskip("flint")
from flint import arb, fmpq  # noqa: E402

from samlib.certify.ball_arithmetic import balls, precision  # noqa: E402
from samlib.certify.enclosures import Inertia, ShiftedGradient  # noqa: E402
from samlib.certify.proof import Basin, Claims, NotCertified, Proof, _down, _value, inverse  # noqa: E402


@pytest.fixture(autouse=True)
def bits() -> Any:
    with precision(128):
        yield


class Glued:
    """Left of x = 1/2: x + xᵀHx/2; right of it: wᵀKw/2 + cubic·Σ w³/3 with w = x − (1, 0, …).

    With ρ = 1 the origin is a hallucinated point, its image is (1, 0, …), and there
    M = I + (I − e₁e₁ᵀ)H and A = KM. Nothing is known of a box that lies on both sides.
    """

    def __init__(self, here: Any, there: Any, cubic: float = 0.0, loss: bool = False) -> None:
        self.here, self.there = balls(np.array(here, float)), balls(np.array(there, float))
        self.n, self.cubic = len(self.here), arb(cubic)
        if loss:
            self.ball_f = self._loss

    def left(self, x: Any) -> bool:
        return bool(x[0] < 0.5)

    def astride(self, x: Any) -> bool:
        return not (x[0] < 0.5 or x[0] > 0.5)

    def offset(self, x: Any) -> Any:
        w = np.array(x, dtype=object)
        w[0] = w[0] - 1
        return w

    def _loss(self, x: Any) -> Any:
        if self.left(x):
            x = np.array(x, dtype=object)
            return x[0] + x @ self.here @ x / 2
        w = self.offset(x)
        return w @ self.there @ w / 2 + self.cubic * sum(v * v * v for v in w) / 3

    def ball_grad(self, x: Any) -> Any:
        if self.astride(x):
            return [arb("nan")] * self.n
        if self.left(x):
            g = self.here @ np.array(x, dtype=object)
            g[0] = g[0] + 1
            return list(g)
        w = self.offset(x)
        return list(self.there @ w + self.cubic * w * w)

    def ball_hess(self, x: Any) -> Any:
        if self.astride(x):
            return [[arb("nan")] * self.n] * self.n
        if self.left(x):
            return [list(row) for row in self.here]
        out = self.there.copy()
        out[np.diag_indices(self.n)] += 2 * self.cubic * self.offset(x)
        return [list(row) for row in out]


def proof_of(
    here: Any, there: Any, cubic: float = 0.0, radius: float = 1e-12, loss: bool = False
) -> Proof:
    f = Glued(here, there, cubic, loss)
    return Proof(ShiftedGradient(f, arb(1)), balls(np.zeros(f.n)), radius)


NONE = np.zeros((2, 2))
EXISTS = {"exists", "unique", "gradient is nonzero"}


def refused(proof: Proof, box: float, words: str) -> None:
    with pytest.raises(NotCertified, match=words) as error:
        proof.claims(box)
    assert error.value.reason == "precision"
    assert str(error.value).startswith("precision: ")


# ---- the whole proof ----------------------------------------------------------------------------


def test_an_attracting_point_with_a_minimizer() -> None:
    proof = proof_of(np.diag([9.0, 3.0]), np.diag([2.0, 0.5]), loss=True)  # A = diag(2, 2)
    c = proof.claims(1e-3, 1e-6)
    assert c.proved == EXISTS | {"image is minimizer", "attracts", "basin"}
    assert c.inertia == Inertia(2, 0)
    assert 0 < 1 - c.grad_norm < 1e-9
    assert c.min_real_part is not None
    assert 0 < 2 - c.min_real_part < 1e-9
    assert c.eta_max is not None
    assert 0 < 1 - c.eta_max < 1e-9
    assert (c.loss, c.image_loss, c.constant_loss, c.live_units) == (0.0, 0.0, None, None)
    assert c.basin is not None
    assert c.basin.box == 1e-6
    assert c.basin.eta == pytest.approx(1, abs=1e-3)
    assert c.basin.eta < c.eta_max
    assert c.basin.radius == pytest.approx(1e-6, rel=1e-5)  # A is diagonal
    assert c.basin.radius < 1e-6
    assert proof.claims(1e-3).basin is None
    assert "basin" not in proof.claims(1e-3).proved
    assert proof.claims(1e-3).proved >= EXISTS | {"attracts"}


@pytest.mark.parametrize(
    ("here", "there", "proved", "signs"),
    [
        (NONE, [[-2, 0], [0, -1]], {"image is maximizer", "does not attract"}, (0, 2)),
        (NONE, [[2, 0], [0, -1]], {"image is saddle", "does not attract"}, (1, 1)),
        ([[0, 0], [0, -3]], [[2, 0], [0, -1]], {"image is saddle", "attracts"}, (1, 1)),
        ([[0, 0], [0, -3]], [[2, 0], [0, 1]], {"image is minimizer", "does not attract"}, (2, 0)),
    ],
)
def test_every_kind(here: Any, there: Any, proved: Any, signs: Any) -> None:
    c = proof_of(here, there).claims(1e-9, 1e-9)
    assert c.proved - {"basin"} == EXISTS | proved
    assert c.inertia == Inertia(*signs)
    assert (c.eta_max is None) == ("attracts" not in proved)
    assert (c.basin is None) == ("attracts" not in proved)
    assert c.min_real_part is not None
    assert (c.min_real_part > 0) == ("attracts" in proved)
    assert (c.loss, c.image_loss) == (None, None)


def test_what_is_not_decided_is_not_claimed() -> None:
    # A has the eigenvalues ±i: no disc of positive radius keeps off the axis
    c = proof_of([[0, 0], [0, -2.0]], [[0, 1.0], [1.0, 0]], radius=1e-12).claims(1e-9, 1e-9)
    assert c.proved == EXISTS | {"image is saddle"}
    assert (c.eta_max, c.basin) == (None, None)


@pytest.mark.parametrize("box", [0.9e-12, 0.0, -1.0, math.inf, math.nan], ids=lambda b: f"{b}")
def test_a_box_is_finite_and_no_smaller_than_the_radius(box: float) -> None:
    proof = proof_of(NONE, np.eye(2))
    refused(proof, box, "is no radius from 1e-12 on")
    assert proof.claims(1e-12).proved >= EXISTS


def test_no_zero_no_proof() -> None:
    f = Glued(NONE, np.eye(2))
    off = balls(np.array([0.0, 1e-6]))
    refused(Proof(ShiftedGradient(f, arb(1)), off, 1e-9), 1e-3, "Krawczyk's test fails")
    refused(Proof(ShiftedGradient(f, arb(1)), off, 0.9e-6), 1e-3, "Krawczyk's test fails")
    assert Proof(ShiftedGradient(f, arb(1)), off, 1.1e-6).claims(1e-3).proved >= EXISTS
    # twice the same zero: DF is singular
    refused(proof_of(NONE, np.diag([1.0, 0.0])), 1e-3, "Krawczyk's test fails")
    refused(proof_of(np.diag([0.0, -1.0]), np.eye(2)), 1e-3, "Krawczyk's test fails")


def test_a_gradient_that_may_vanish_is_no_hallucination() -> None:
    class Flat(Glued):
        def ball_grad(self, x: Any) -> Any:
            g = super().ball_grad(x)
            return [v + arb(0, 2.0) for v in g] if self.left(x) else g

    f = ShiftedGradient(Flat(NONE, np.eye(2)), arb(1))
    refused(Proof(f, balls(np.zeros(2)), 1e-12), 1e-3, "Krawczyk's test fails")


def test_uniqueness_is_proved_or_refused() -> None:
    """∇f₂ = w + c w² has a second zero at w = −1/c, and so has F there: 1/4 away."""
    proof = proof_of(NONE, np.eye(2), cubic=4.0)
    assert proof.claims(0.05).proved >= EXISTS
    for box in (0.13, 0.2, 0.25, 0.26, 0.4):
        assert not proof.separation(box) < 1
        refused(proof, box, f"uniqueness is not proved for radius {box:g}")


# ---- one zero in a box --------------------------------------------------------------------------


def test_the_separation_of_a_linear_hessian_is_exact() -> None:
    """K(w) = 1 + 2cw over |w| ≤ r differs from 1 by 2cr; M does not change."""
    proof = proof_of(NONE, np.eye(2), cubic=4.0)
    for box in (1e-6, 1e-3, 0.01, 0.1):
        assert proof.separation(box) == pytest.approx(8 * box, rel=1e-2)
        assert proof.separation(box) >= 8 * box * (1 - 1e-9)
        assert proof.separation(box) == proof.separation(box)


class Quartic(Glued):
    """∇f₂ = w + cubic · w³: Hessians change with the square of the distance."""

    def ball_grad(self, x: Any) -> Any:
        if self.astride(x) or self.left(x):
            return super().ball_grad(x)
        w = self.offset(x)
        return list(w + self.cubic * w * w * w)

    def ball_hess(self, x: Any) -> Any:
        if self.astride(x) or self.left(x):
            return super().ball_hess(x)
        out, w = self.there.copy(), self.offset(x)
        out[np.diag_indices(self.n)] = 1 + 3 * self.cubic * w * w
        return [list(row) for row in out]


@pytest.mark.parametrize("scale", [0.3, 0.4])
def test_the_widest_box_where_the_bound_grows_with_the_square(scale: float) -> None:
    """12 r² < 1 up to r = .289; a first try far beyond that is taken back."""
    f = ShiftedGradient(Quartic(NONE, np.eye(2), 4.0), arb(1))
    proof = Proof(f, balls(np.zeros(2)), 1e-12)
    assert proof.separation(0.28) < 1
    assert not proof.separation(0.29) < 1
    assert 0.289 / 2 < proof.widest_box(scale) < 0.289


class Turning(Glued):
    """M changes over the box: f = x + k xy²/2 on the left, so H = [[0, ky], [ky, kx]]."""

    def __init__(self, k: float, there: Any) -> None:
        super().__init__(NONE, there)
        self.k = arb(k)

    def ball_grad(self, x: Any) -> Any:
        if not self.left(x):
            return super().ball_grad(x)
        return [1 + self.k * x[1] * x[1] / 2, self.k * x[0] * x[1]]

    def ball_hess(self, x: Any) -> Any:
        if not self.left(x):
            return super().ball_hess(x)
        return [[arb(0), self.k * x[1]], [self.k * x[1], self.k * x[0]]]


def test_a_shift_that_folds_the_box_separates_nothing() -> None:
    """M = diag(1, 1 + kx) to first order: singular from x = −1/k on."""
    proof = Proof(ShiftedGradient(Turning(10.0, np.eye(2)), arb(1)), balls(np.zeros(2)), 1e-12)
    assert proof.separation(0.02) < 1
    assert proof.separation(0.02) >= 10 * 0.02
    assert not proof.separation(0.1) < 1
    refused(proof, 0.1, "uniqueness")


def test_the_gradient_must_not_vanish_in_the_box() -> None:
    """f = x + 4x² on the left: ∇f = 0 at x = −1/8, inside the box, though H_* is constant."""
    proof = proof_of([[8.0, 0], [0, 0]], np.eye(2))
    assert proof.separation(0.001) < 1
    assert proof.separation(0.13) == math.inf
    assert proof.separation(0.3) == math.inf


@pytest.mark.parametrize("cubic", [1.0, 40.0, 1000.0])
def test_the_widest_box_is_most_of_what_can_be_proved(cubic: float) -> None:
    proof = proof_of(NONE, np.eye(2), cubic=cubic)
    box = proof.widest_box(1.0)
    assert box == proof.radius or proof.separation(box) < 1
    possible = min(1 / (2 * cubic), 0.25)  # beyond 1/4, x⁺ may reach across the seam
    assert 0.5 * possible < box < possible * 2
    assert proof.claims(box).proved >= EXISTS


def test_the_widest_box_knows_its_limits() -> None:
    proof = proof_of(NONE, np.eye(2), cubic=40.0)
    assert proof.widest_box(1e-4) <= 1e-3  # ten times the scale
    assert proof.widest_box(1e-4) > 1e-5
    singular = proof_of(NONE, np.diag([1.0, 0.0]))
    assert singular.widest_box(1.0) == singular.radius


# ---- basins -------------------------------------------------------------------------------------


def test_the_radius_of_a_basin() -> None:
    """The ball of ‖V⁻¹x‖ that the box holds, holds a Euclidean ball cond(V) times smaller."""
    here = [[0.0, 0.0], [0.0, 0.0]]
    here[1][0] = here[0][1] = 3.0  # M = [[1, 0], [3, 1]]
    proof = proof_of(here, np.diag([1.0, 2.0]))  # A = [[1, 0], [6, 2]]
    np.testing.assert_allclose(
        [[float(v.mid()) for v in row] for row in proof.near.A], [[1, 0], [6, 2]], atol=1e-15
    )
    cond = np.linalg.cond(np.linalg.eig(np.array([[1.0, 0], [6, 2]]))[1])
    assert cond > 10
    box = 1e-6
    real_part, basin = proof.basin(box)
    assert basin is not None
    assert basin.box == box
    assert 0.25 * box / cond < basin.radius <= box / cond
    assert 0.99 < real_part <= 1
    # within it, SAM stays in the box and converges; A is all but constant there
    a, angles = np.array([[1.0, 0], [6, 2]]), np.linspace(0, np.pi, 50)
    x = basin.radius * np.stack([np.cos(angles), np.sin(angles)])
    for eta in (0.1, 0.5, 0.99 * basin.eta):
        y, farthest = x, 0.0
        for _ in range(500):
            y = y - eta * a @ y
            farthest = max(farthest, np.abs(y).max())
        assert farthest <= box
        assert np.abs(y).max() < 1e-3 * box


def test_a_basin_counts_what_a_does_over_the_box() -> None:
    """A(w) = 1 + 2cw changes by 2cr: the real parts sink by as much, and η with them."""
    proof = proof_of(NONE, np.eye(2), cubic=4.0)
    for box in (1e-3, 0.01, 0.1):
        real_part, basin = proof.basin(box)
        r = 8 * box
        assert real_part == pytest.approx(1 - r, abs=0.02 * r)
        assert real_part <= 1 - r * (1 - 1e-9)
        assert basin is not None
        assert basin.eta == pytest.approx(2 * (1 - r) / (1 - r * r), rel=0.02)
        assert basin.eta <= 2 * (1 - r) / (1 - r * r) + 1e-9
        assert basin.radius == pytest.approx(box, rel=1e-6)
    for box in (0.125, 0.13, 0.2):
        assert proof.basin(box)[1] is None  # A(x) = 0 in the box
    assert proof.basin(1e-12)[1] is None  # no wider than where x_h may be
    assert proof.basin(1e-13)[1] is None
    assert proof.basin(2e-12)[1] is not None
    assert proof.basin(2e-12)[1] is proof.basin(2e-12)[1]
    wide = Proof(proof.f, proof.centre, 1e-3)
    basin = wide.basin(3e-3)[1]
    assert basin is not None
    assert basin.radius == pytest.approx(2e-3, rel=1e-4)
    assert basin.radius < 2e-3


def test_no_basin_without_attraction_or_discs() -> None:
    real_part, basin = proof_of(NONE, -np.eye(2)).basin(1e-3)
    assert basin is None
    assert real_part == pytest.approx(-1)
    bad = proof_of(NONE, np.eye(2))
    bad.spectrum = None
    assert bad.basin(1e-3) == (-math.inf, None)
    assert bad.widest_basin(1e-3) is None
    c = bad.claims(1e-6, 1e-6)
    assert (c.min_real_part, c.eta_max, c.basin) == (None, None, None)
    assert c.proved == EXISTS | {"image is minimizer"}


@pytest.mark.parametrize("cubic", [0.5, 4.0, 1e3, 1e5])
def test_the_widest_basin_keeps_half_of_the_real_part(cubic: float) -> None:
    proof = proof_of(NONE, 3 * np.eye(2), cubic=cubic)
    box = proof.widest_basin(0.2)
    assert box is not None
    assert proof.basin(box)[0] > 1.5
    half = 1.5 / (2 * cubic)  # where half of the real part is left
    assert min(0.2, 0.3 * half) <= box < half * 1.01
    assert proof.basin(box)[1] is not None


def test_the_widest_basin_does_not_reach_where_nothing_is_known() -> None:
    proof = proof_of(NONE, np.eye(2), cubic=1.0)
    box = proof.widest_basin(3.0)  # so wide that ∇f is not enclosed: the search comes down
    assert box is not None
    assert 1e-3 < box < 0.3
    assert proof_of(NONE, -np.eye(2)).widest_basin(0.1) is None
    assert proof.widest_basin(proof.radius) is None
    assert proof.widest_basin(2 * proof.radius) == 2 * proof.radius
    steep = proof_of(NONE, np.eye(2), cubic=1e11)  # half is left at 2.5e-12, twice the radius
    assert steep.widest_basin(0.1) is None


# ---- losses and units ---------------------------------------------------------------------------


def test_losses_are_values_at_both_ends() -> None:
    f = Glued(NONE, np.eye(2), loss=True)
    f.ball_f = lambda x: (arb(fmpq(7, 3)) if f.left(x) else arb(fmpq(-1, 7))) + x[1]
    c = Proof(ShiftedGradient(f, arb(1)), balls(np.zeros(2)), 1e-12).claims(1e-9)
    assert c.loss == pytest.approx(7 / 3, abs=1e-9)
    assert c.image_loss == pytest.approx(-1 / 7, abs=1e-9)
    assert c.constant_loss is None
    f.constant_loss = lambda: arb(fmpq(2, 3))
    c = Proof(ShiftedGradient(f, arb(1)), balls(np.zeros(2)), 1e-12).claims(1e-9)
    assert c.constant_loss == pytest.approx(2 / 3, abs=1e-9)
    c = Proof(ShiftedGradient(f, arb(1)), balls(np.zeros(2)), 1e-6).claims(1e-3)
    assert (c.loss, c.image_loss) == (None, None)  # x_h is not known well enough
    assert c.constant_loss == pytest.approx(2 / 3, abs=1e-9)


@pytest.mark.parametrize("value", [0, 1, -1, 0.25, 2.5, 1e3, -1e6, 1e-3])
def test_a_value_is_a_decimal_near_all_of_the_ball(value: float) -> None:
    size = max(1.0, abs(value))
    found = _value(arb(value, 0.9e-10 * size))
    assert found is not None
    assert abs(found - value) <= 1e-10 * size
    assert math.copysign(1, found) > 0 or value < 0
    assert _value(arb(value, 1.1e-10 * size)) is None
    assert _value(arb(value, 1.5 * size)) is None


def test_a_value_has_ten_decimals() -> None:
    assert _value(arb(fmpq(1, 3))) == 0.3333333333
    assert str(_value(arb(-1e-15))) == "0.0"
    assert _value(arb("nan")) is None


class Units(Glued):
    """Two hidden units of two weights each."""

    hidden = 2

    @staticmethod
    def parameters_of(j: int) -> list[int]:
        return [j, 2 + j]


def live(centre: Any, radius: float, box: float) -> int | None:
    proof = Proof.__new__(Proof)
    proof.f = ShiftedGradient(Units(NONE, NONE), arb(1))
    proof.centre, proof.radius = balls(np.array(centre, float)), radius
    return proof._live_units(box)


def test_live_units() -> None:
    tiny = 1e-12
    assert live([1, 1, 1, 1], tiny, 1e-3) == 2
    assert live([1, 0, 1, 0], tiny, 1e-3) == 1
    assert live([0, 0, 0, 0], tiny, 1e-3) == 0
    assert live([0, 1, -1, 0], tiny, 1e-3) == 2  # one weight suffices, of either sign
    assert live([0, 0, 0, -1], tiny, 1e-3) == 1
    # 0 is possible within the radius, and the mirror image, at most 2|w| + radius off, in the box
    assert live([0.25, 1, 0.25, 1], 0.25, 0.75) == 1
    assert live([0.25, 1, 0.25, 1], 0.25, 0.74) is None
    assert live([0.25, 1, 0.0, 1], 0.25, 0.74) is None
    assert live([1, 0.125, 1, 0.125], 0.25, 0.5) == 1
    assert live([1, 0.125, 1, 0.125], 0.25, 0.499) is None
    assert live([1, 0.26, 1, 0.125], 0.25, 0.1) == 2
    assert proof_of(NONE, np.eye(2))._live_units(1e-3) is None  # not a network


def test_live_units_and_losses_are_claimed() -> None:
    f = Units(np.zeros((4, 4)), np.eye(4))
    c = Proof(ShiftedGradient(f, arb(1)), balls(np.zeros(4)), 1e-12).claims(1e-3)
    assert c.live_units == 0
    c = Proof(ShiftedGradient(f, arb(1)), balls(np.zeros(4)), 1e-12).claims(1e-12)
    assert c.live_units == 0  # 2·0 + 1e-12 ≤ 1e-12


# ---- claims -------------------------------------------------------------------------------------

FULL = Claims(
    proved=frozenset(EXISTS | {"attracts", "basin"}),
    grad_norm=0.123456789,
    inertia=Inertia(2, 1),
    min_real_part=0.023456789,
    eta_max=1.987654321,
    basin=Basin(0.00123456, 1.23456789, 0.01),
    loss=0.25,
    image_loss=100.0,
    constant_loss=0.5,
    live_units=3,
)


@pytest.mark.parametrize("digits", [2, 3, 7])
def test_rounding_down(digits: int) -> None:
    rng = np.random.default_rng(0)
    for value in rng.normal(size=200) * 10.0 ** rng.integers(-9, 9, 200):
        down = _down(float(value), digits)
        unit = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
        assert down < value  # by one to two units of the last digit kept
        assert 0.999 * unit <= value - down <= 2.001 * unit
        assert float(f"{down:.{digits - 1}e}") == down or abs(down) < abs(value) / 9
    assert _down(0.0, digits) == 0
    assert _down(math.inf, digits) == math.inf


def test_rounding_down_by_example() -> None:
    assert _down(0.123456789) == 0.1234566
    assert _down(-0.123456789) == -0.1234569
    assert _down(1.0) == 0.9999999 or _down(1.0) == 0.999999
    assert _down(0.00123456, 3) == 0.00122
    assert _down(-math.inf) == -math.inf


def test_stated_claims_leave_a_margin() -> None:
    s = FULL.stated()
    assert (s.grad_norm, s.min_real_part, s.eta_max) == (0.1234566, 0.02345677, 1.987653)
    assert s.basin == Basin(0.000616, 1.16, 0.01)  # half of .00123456, .95 of 1.23456789
    kept = ("proved", "inertia", "loss", "image_loss", "constant_loss", "live_units")
    assert all(getattr(s, name) == getattr(FULL, name) for name in kept)
    bare = replace(FULL, min_real_part=None, eta_max=None, basin=None).stated()
    assert (bare.min_real_part, bare.eta_max, bare.basin) == (None, None, None)
    assert not FULL.missing(s)
    # also by a machine whose basis is a little worse
    worse = replace(FULL, grad_norm=FULL.grad_norm * (1 - 1e-8),
                    basin=Basin(0.00123456 * 0.6, 1.23456789 * 0.96, 0.01))  # fmt: skip
    assert not worse.missing(s)


def lost(**claimed: Any) -> list[str]:
    return FULL.missing(replace(FULL, **claimed))


def said(name: str, claimed: Any, shown: Any = ...) -> str:
    return f"{name} = {claimed} (shown: {getattr(FULL, name) if shown is ... else shown})"


def test_nothing_is_missing_from_the_same() -> None:
    assert FULL.missing(FULL) == []
    less = Claims(frozenset(EXISTS), 0.1, None, None, None, None, None, None, None, None)
    assert FULL.missing(less) == []


def test_each_claim_beyond_what_is_shown_is_named() -> None:
    assert lost(proved=FULL.proved | {"image is saddle", "a"}) == ["a", "image is saddle"]
    assert lost(inertia=Inertia(1, 2)) == [said("inertia", Inertia(1, 2))]
    assert lost(grad_norm=0.1234568) == [said("grad_norm", 0.1234568)]
    assert lost(min_real_part=0.03) == [said("min_real_part", 0.03)]
    assert lost(eta_max=2.0) == [said("eta_max", 2.0)]
    for name in ("grad_norm", "min_real_part", "eta_max"):
        assert lost(**{name: math.nan}) == [said(name, math.nan)]
        assert lost(**{name: 1e-9}) == []
        assert lost(**{name: None}) == []
    assert lost(live_units=2) == [said("live_units", 2)]
    assert lost(live_units=None) == []
    assert lost(inertia=None) == []
    assert lost(loss=0.3, live_units=2, inertia=Inertia(0, 0)) == [
        said("inertia", Inertia(0, 0)), said("live_units", 2), said("loss", 0.3)
    ]  # fmt: skip


def test_a_basin_is_missing_if_it_is_larger_or_faster() -> None:
    for radius, eta in ((0.0013, 1.2), (0.001, 1.3), (math.nan, 1.2), (0.001, math.nan)):
        assert lost(basin=Basin(radius, eta, 0.01)) == [said("basin", Basin(radius, eta, 0.01))]
    assert lost(basin=Basin(0.001, 1.2, 0.01)) == []
    assert lost(basin=None) == []
    assert replace(FULL, basin=None).missing(FULL) == [said("basin", FULL.basin, None)]


@pytest.mark.parametrize(
    ("name", "value"), [("loss", 0.25), ("image_loss", 100.0), ("constant_loss", 0.5)]
)
def test_a_loss_is_what_it_is_to_nine_digits(name: str, value: float) -> None:
    scale = max(1.0, value)
    for sign in (1, -1):
        assert lost(**{name: value + sign * 4e-10 * scale}) == []
        wrong = value + sign * 6e-10 * scale
        assert lost(**{name: wrong}) == [said(name, wrong)]
    assert lost(**{name: math.nan}) == [said(name, math.nan)]
    assert lost(**{name: None}) == []
    unknown = replace(FULL, **{name: None})
    assert unknown.missing(FULL) == [said(name, value, None)]


def test_what_is_not_shown_is_missing() -> None:
    for name in ("min_real_part", "eta_max"):
        claimed = getattr(FULL, name)
        assert replace(FULL, **{name: None}).missing(FULL) == [said(name, claimed, None)]


def test_a_reason_and_its_message() -> None:
    error = NotCertified("kink", "at 3")
    assert (error.reason, str(error)) == ("kink", "kink: at 3")


@pytest.mark.parametrize("seed", range(3))
def test_the_preconditioner_is_the_inverse(seed: int) -> None:
    a = np.random.default_rng(seed).normal(size=(3, 3))
    np.testing.assert_allclose(inverse(balls(a)) @ a, np.eye(3), atol=1e-12)
    np.testing.assert_array_equal(inverse(balls([[1.0, 2], [2, 4]])), np.zeros((2, 2)))


def test_a_comb_of_five_points() -> None:
    """f' = 1 left of 1, and 1 + 2 cos 100t from there on: F has five zeros in a box of ±0.08."""

    class Comb:
        def ball_grad(self, x: Any) -> Any:
            return [arb(1) if x[0] < 1 else 1 + 2 * (100 * x[0]).cos()]

        def ball_hess(self, x: Any) -> Any:
            return [[arb(0) if x[0] < 1 else -200 * (100 * x[0]).sin()]]

    rho, image = arb(fmpq(5, 2)), (63 * arb.pi() + arb.pi() / 3) / 100  # cos 100t = −1/2, f'' > 0
    proof = Proof(ShiftedGradient(Comb(), rho), np.array([(image - rho).mid()]), 1e-20)
    c = proof.claims(1e-3, 1e-3)
    assert c.proved == EXISTS | {"image is minimizer", "attracts", "basin"}
    gap = float(2 * arb.pi() / 300)  # to the nearest other zero
    for box in (0.03, 0.05, 0.08):
        assert box > gap
        refused(proof, box, "uniqueness")
        assert proof.basin(box)[1] is None
    assert 1e-4 < proof.widest_box(1.0) < gap
    widest = proof.widest_basin(0.1)
    assert widest is not None
    assert widest < gap
    assert isinstance(c.eta_max, float)
    assert Fraction(c.eta_max) < 2 / Fraction(173.2)
