"""Enclosures enclose: a random box, an exact point in it, and the exact result lies in the ball.

The exact results come from elsewhere: for landscapes from SymPy's derivatives and 60 digits of
mpmath, for networks from the loss written out again and differences of it at 800 bits. What the
proof builds on the enclosures is tried on a function that has five hallucinated points in one box.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy

flint = pytest.importorskip("flint")
from flint import arb, fmpq  # noqa: E402

from samlib.certify.ball_arithmetic import ball, balls, precision  # noqa: E402
from samlib.certify.certificate import Certificate, prove  # noqa: E402
from samlib.certify.enclosures import (  # noqa: E402
    Discs,
    ShiftedGradient,
    contraction,
    discs,
    inertia,
    krawczyk,
    two_norm,
)
from samlib.certify.exact_network import NetworkLoss  # noqa: E402
from samlib.certify.proof import (  # noqa: E402
    Basin,
    NotCertified,
    Proof,
)
from samlib.errors import BadInput  # noqa: E402
from samlib.landscapes import symbolic  # noqa: E402
from samlib.landscapes.symbolic import Landscape  # noqa: E402

RADII = (1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2)
Exact = dict[str, Any]  # norm, M, image (x⁺), A, gradient, hessian


def rational(rng: np.random.Generator, scale: float = 1.0) -> Fraction:
    return Fraction(int(rng.integers(-(10**9), 10**9)), 10**9) * Fraction(scale)


def inside(rng: np.random.Generator, centre: list[Fraction], radius: float) -> list[Fraction]:
    """A point of the box, in half of the coordinates on its surface: there is the least slack."""
    steps = [rational(rng) for _ in centre]
    steps = [Fraction(1 if s > 0 else -1) if rng.random() < 0.5 else s for s in steps]
    return [c + Fraction(radius) * s for c, s in zip(centre, steps, strict=True)]


def misses(enclosure: Any, exact: np.ndarray) -> int:
    """How many exact results, given as balls of radius below 1e-40, lie outside the enclosure."""
    pairs = zip(np.ravel(np.asarray(enclosure, dtype=object)), exact.ravel(), strict=True)
    return sum(not a.overlaps(b) for a, b in pairs)


def compare(f: ShiftedGradient, centre: list[Fraction], radius: float, exact: Exact) -> int:
    """Check all enclosures over the box; 1 if they are finite and so say something."""
    middle = np.array([ball(c) for c in centre], dtype=object)
    wide = list(middle + arb(0, radius))
    assert misses(f.landscape.ball_grad(wide), exact["gradient"]) == 0
    assert misses(f.landscape.ball_hess(wide), exact["hessian"]) == 0
    assert misses([f.landscape.ball_f(wide)], exact["value"]) == 0
    found = f.over(middle, radius)
    for name in ("norm", "M", "image", "A"):
        assert misses(getattr(found, name), exact[name]) == 0, name
    assert misses(found.H_image, exact["hessian at image"]) == 0
    # not by being infinitely wide: the radius of x⁺ is of the size of the box's
    width = max(float(v.rad()) for v in found.image)
    return int(np.isfinite(width) and width < 1e4 * radius)


# ---- landscapes ---------------------------------------------------------------------------------

X, Y = sympy.symbols("x y")
TERMS = [
    *(X**2 * Y, X**3, Y**4, X * Y, sympy.sin(2 * X - Y), sympy.cos(X * Y + 1), sympy.exp(-(X**2))),
    *(sympy.tanh(X + 2 * Y), sympy.log(3 + X**2 + Y**2), sympy.sqrt(2 + X**2), sympy.atan(3 * Y)),
    *(1 / (4 + X * Y), sympy.exp(X / 2) * sympy.sinh(Y), 2**X, (5 + Y) ** sympy.Rational(3, 2)),
    *(sympy.asinh(X * Y), sympy.cosh(Y), sympy.pi * Y**2, sympy.acosh(9 + X), sympy.asin(Y / 9)),
]


def random_landscape(seed: int) -> Landscape:
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(TERMS), 6, replace=False)
    return Landscape(sum(sympy.Rational(int(rng.integers(1, 50)), 17) * TERMS[k] for k in chosen),
                     [X, Y], f"random-{seed}")  # fmt: skip


LANDSCAPES = [*map(symbolic.landscape, symbolic.names()), *map(random_landscape, range(8))]


def by_mpmath(landscape: Landscape) -> Callable[[list[Fraction], Fraction], Exact]:
    """Everything at an exact point, from SymPy's derivatives of the expression as it was given."""
    xs, n = landscape.symbols, landscape.dim
    value = sympy.lambdify(xs, landscape.expr, "mpmath")
    gradient = sympy.lambdify(xs, [landscape.expr.diff(s) for s in xs], "mpmath")
    hessian = sympy.lambdify(xs, sympy.hessian(landscape.expr, xs).tolist(), "mpmath")

    def exact(point: list[Fraction], rho: Fraction) -> Exact:
        with mpmath.workdps(60):
            at = [mpmath.mpf(v.numerator) / v.denominator for v in point]
            g, h = mpmath.matrix(gradient(*at)), mpmath.matrix(hessian(*at))
            norm = mpmath.norm(g, 2)
            r, u = mpmath.mpf(rho.numerator) / rho.denominator, g / norm
            shift = mpmath.eye(n) + r / norm * (mpmath.eye(n) - u * u.T) * h
            image = mpmath.matrix(at) + r * u
            there = mpmath.matrix(hessian(*image))
            raw = {"value": mpmath.matrix([value(*at)]), "gradient": g, "hessian": h,
                   "norm": mpmath.matrix([norm]), "M": shift, "image": image,
                   "hessian at image": there, "A": there * shift}  # fmt: skip
            size = max(mpmath.norm(m, 1) for m in raw.values())
            return {k: np.array([arb(mpmath.nstr(v, 58), float(size) * 1e-50) for v in m])
                    for k, m in raw.items()}  # fmt: skip

    return exact


@pytest.mark.slow
@pytest.mark.parametrize("landscape", LANDSCAPES, ids=lambda f: f.name)
def test_enclosures_of_a_landscape_hold_the_exact_results(landscape: Landscape) -> None:
    rng, exact, telling = np.random.default_rng(1), by_mpmath(landscape), 0
    low, high = np.array(landscape.box).T
    for k, radius in enumerate(RADII):
        middle = [Fraction(v) for v in rng.uniform(low, high).round(6).tolist()]
        rho, bits = abs(rational(rng)) + Fraction(1, 10), (64, 128)[k % 2]
        with precision(bits):
            f = ShiftedGradient(landscape, ball(rho))
            for _ in range(3):
                point = inside(rng, middle, radius)
                telling += compare(f, middle, radius, exact(point, rho))
    assert telling >= 9  # of 18


# ---- networks -----------------------------------------------------------------------------------

OUTPUTS = {"ce": 3, "logistic": 1, "mse": 2}


def sample(loss: str) -> NetworkLoss:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(5, 2)).round(3)
    y = rng.normal(size=(5, 2)).round(2) if loss == "mse" else np.arange(5) % max(2, OUTPUTS[loss])
    return NetworkLoss(x, y, 2, loss=loss, decay="1/30")


def plain_loss(net: NetworkLoss, theta: list[Any]) -> Any:
    """The loss written out sample by sample, from what the network stores of itself."""
    stored, w = net.to_json(), iter(theta)
    h, d, k = stored["hidden"], len(stored["x"][0]), OUTPUTS[stored["loss"]]
    w1 = [[next(w) for _ in range(d)] for _ in range(h)]
    b1 = [next(w) for _ in range(h)]
    w2 = [[next(w) for _ in range(h)] for _ in range(k)]
    b2 = [next(w) for _ in range(k)]
    total = arb(0)
    for row, y in zip(stored["x"], stored["y"], strict=True):
        x = [arb(fmpq(v, stored["x_denominator"])) for v in row]
        t = [(sum(a * v for a, v in zip(w1[j], x, strict=True)) + b1[j]).tanh() for j in range(h)]
        z = [sum(a * v for a, v in zip(w2[c], t, strict=True)) + b2[c] for c in range(k)]
        if stored["loss"] == "ce":
            total += sum((v.exp() for v in z), arb(0)).log() - z[y]
        elif stored["loss"] == "logistic":
            sign = 1 if y[0] else -1
            total += -(1 / (1 + (-sign * z[0]).exp())).log()
        else:
            target = [arb(fmpq(v, stored["y_denominator"])) for v in y]
            total += sum((a - b) ** 2 for a, b in zip(z, target, strict=True)) / 2
    decay = Fraction(stored["decay"])
    penalty = arb(fmpq(decay.numerator, decay.denominator)) / 2 * sum(v * v for v in theta)
    return total / len(stored["x"]) + penalty


def by_differences(net: NetworkLoss, point: list[Fraction], rho: Fraction) -> Exact:
    """Everything at an exact point, by central differences: h = 2⁻²⁰⁰, errors below 2⁻³⁰⁰."""
    step, p = arb(2) ** -200, len(point)

    def f(x: list[Any], **moved: Any) -> Any:
        y = list(x)
        for i, sign in moved.values():
            y[i] = y[i] + sign * step
        return plain_loss(net, y)

    def gradient(x: list[Any]) -> np.ndarray:
        return np.array([(f(x, a=(i, 1)) - f(x, a=(i, -1))) / (2 * step) for i in range(p)])

    def hessian(x: list[Any]) -> np.ndarray:
        out = np.empty((p, p), dtype=object)
        for i in range(p):
            for j in range(i + 1):
                corners = [(s * t, f(x, a=(i, s), b=(j, t))) for s in (1, -1) for t in (1, -1)]
                out[i, j] = out[j, i] = sum(s * v for s, v in corners) / (4 * step * step)
        return out

    with precision(800):
        at = [ball(v) for v in point]
        g, h = gradient(at), hessian(at)
        norm = sum(v * v for v in g).sqrt()
        u = g / norm
        image = np.array(at) + ball(rho) * u
        shift = ball(rho) / norm * (h - u[:, None] * (u @ h)[None])
        shift[np.diag_indices(p)] += 1
        # the balls' own radii grow when the image is differentiated: take their middles
        there = hessian([v.mid() for v in image])
        raw = {"value": np.array([plain_loss(net, at)]), "gradient": g, "hessian": h,
               "image": image, "norm": np.array([norm]), "M": shift,
               "hessian at image": there, "A": there @ shift}  # fmt: skip
        for values in raw.values():
            assert max(float(v.rad()) for v in values.ravel()) < 1e-60
        return {k: v + arb(0, 1e-50) for k, v in raw.items()}


@pytest.mark.slow
@pytest.mark.parametrize("loss", OUTPUTS)
def test_enclosures_of_a_network_hold_the_exact_results(loss: str) -> None:
    net, rng, telling = sample(loss), np.random.default_rng(2), 0
    for radius in RADII:
        middle = [rational(rng, 2.0) for _ in range(net.dim)]
        rho = abs(rational(rng)) + Fraction(1, 2)
        exact = by_differences(net, inside(rng, middle, radius), rho)
        with precision(128):
            telling += compare(ShiftedGradient(net, ball(rho)), middle, radius, exact)
    assert telling >= 5  # of 6


@pytest.mark.parametrize("loss", OUTPUTS)
def test_the_constant_guess_is_the_best_constant(loss: str) -> None:
    net = sample(loss)
    bare = NetworkLoss.from_json(net.to_json() | {"decay": "0"})
    theta = np.zeros(net.dim)
    for _ in range(20):  # Newton in the output biases alone
        g, h = bare.grad(theta), bare.hess(theta)
        k = net.outputs
        theta[-k:] -= np.linalg.lstsq(h[-k:, -k:], g[-k:], rcond=None)[0]
    assert float(net.constant_loss()) == pytest.approx(bare.f(theta), abs=1e-13)


# ---- five hallucinated points in one box --------------------------------------------------------

RHO = Fraction(5, 2)


@pytest.fixture(scope="module")
def comb() -> tuple[Landscape, Certificate]:
    """f' ≈ 1 up to t = 1 and 1 + 2 cos 100t from t = 2 on; the certified point near t = −1/2."""
    f = Landscape("t + sin(100*t)/50*(1 + tanh(20*(t - 3/2)))/2", ["t"])
    t = np.array([-0.5 + 0.01])
    grid = np.linspace(-0.55, -0.45, 2001)
    force = f.grad((grid + 2.5)[:, None])[:, 0]
    rising = np.flatnonzero((force[:-1] < 0) & (force[1:] > 0))  # f'' > 0 there: SAM is attracted
    t = np.array([grid[rising[0]]])
    for _ in range(20):
        t = t - f.grad(t + 2.5) / f.hess(t + 2.5)[0]
    return f, prove(f, t, RHO)


def zeros(f: Landscape, low: float, high: float) -> int:
    signs = np.sign(f.grad((np.linspace(low, high, 20001) + 2.5)[:, None])[:, 0])
    return int((signs[1:] != signs[:-1]).sum())


def test_the_only_one_is_never_said_of_a_box_with_five(comb: tuple[Landscape, Certificate]) -> None:
    f, c = comb
    assert zeros(f, c.x_h[0] - 0.08, c.x_h[0] + 0.08) == 5
    assert 1e-4 < c.box_radius < 0.03
    assert zeros(f, c.x_h[0] - c.box_radius, c.x_h[0] + c.box_radius) == 1
    with precision(128):
        centre = np.array([ball(Fraction(v)) for v in c.centre], dtype=object)
        proof = Proof(ShiftedGradient(f, ball(RHO)), centre, c.radius)
        for box in (0.03, 0.05, 0.08, 0.1):
            assert not proof.separation(box) < 1
            with pytest.raises(NotCertified):
                proof.claims(box)
    with pytest.raises(NotCertified):
        dataclasses.replace(c, box_radius=0.08).recheck()


def test_no_basin_reaches_into_another(comb: tuple[Landscape, Certificate]) -> None:
    f, c = comb
    assert c.basin is not None
    eta = c.basin.eta

    def end(t: float) -> float:
        x = np.array([t])
        for _ in range(3000):
            x = x - eta * f.grad(x + 2.5)  # f' > 0 here, so u = 1
        return float(x[0])

    away = end(c.x_h[0] + 0.045)
    assert abs(f.grad([away + 2.5])[0]) < 1e-9  # hallucinated too, but another point
    assert abs(away - c.x_h[0]) > 0.05
    assert end(c.x_h[0] + 0.99 * c.basin.radius) == pytest.approx(c.x_h[0], abs=1e-12)
    with precision(128):
        centre = np.array([ball(Fraction(v)) for v in c.centre], dtype=object)
        proof = Proof(ShiftedGradient(f, ball(RHO)), centre, c.radius)
        assert proof.basin(c.basin.box)[1] is not None
        assert proof.basin(0.05)[1] is None
    for radius in (0.045, 0.05):
        with pytest.raises(NotCertified):
            dataclasses.replace(c, basin=Basin(radius, eta, 0.05)).recheck()


def test_sam_never_leaves_the_box_of_a_skew_basin() -> None:
    """A = [[1, 0], [100, 2]]: from a distance r across, SAM first moves away by about 50 r."""
    step = "(6*x**5 - 15*x**4 + 10*x**3)"
    f = Landscape(
        f"(-(x-1) + 100*(x-1)*y + y**2/2)*{step} + (x**2 + y**2)/2*(1 - {step})", ["x", "y"]
    )
    c = prove(f, [1.0, 0.0], 1)
    assert c.basin is not None
    with precision(128):
        centre = np.array([ball(Fraction(v)) for v in c.centre], dtype=object)
        proof = Proof(ShiftedGradient(f, ball(Fraction(1))), centre, c.radius)
        np.testing.assert_allclose(
            [[float(v.mid()) for v in row] for row in proof.near.A], [[1, 0], [100, 2]]
        )
        basin = proof.basin(c.basin.box)[1]
    assert basin is not None
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = c.x_h + 0.999 * basin.radius * np.stack([np.cos(angles), np.sin(angles)], -1)
    farthest = 0.0
    for _ in range(400):
        farthest = max(farthest, float(np.abs(x - c.x_h).max()))
        g = f.grad(x)
        x = x - 0.2 * f.grad(x + g / np.linalg.norm(g, axis=-1, keepdims=True))
    assert basin.eta > 0.2
    assert 5 * basin.radius < farthest <= basin.box
    np.testing.assert_allclose(x, np.tile(c.x_h, (64, 1)), atol=1e-10)


# ---- what is known of a spectrum ----------------------------------------------------------------


def test_discs_allow_for_the_rounding_of_the_eigenvectors() -> None:
    """P diag(1, 2⁻²⁰, 2⁻³⁰) P⁻¹ with an integer P is exact in float64: its eigenvalues are known.

    The float inverse of the float eigenvectors is off by 1e-16, and so are the diagonal entries
    from the eigenvalues; in the row of 1 the entries beside it are often smaller than that.
    """
    rng = np.random.default_rng(0)
    for _ in range(100):
        p = np.eye(3, dtype=int)
        for _ in range(6):  # shears keep the determinant 1
            i, j = rng.choice(3, 2, replace=False)
            p[i] += int(rng.integers(1, 4)) * p[j]
        back = np.round(np.linalg.inv(p)).astype(int)
        if not (p @ back == np.eye(3)).all() or np.abs(p).max() * np.abs(back).max() > 2**20:
            continue  # not exact
        with precision(128):
            found = discs(balls(p @ np.diag([1.0, 2.0**-20, 2.0**-30]) @ back))
            assert found is not None
            for value in (1, arb(2) ** -20, arb(2) ** -30):
                assert held(found, value)
                assert held(found.around(arb(0)), value)


def held(found: Discs, value: Any) -> bool:
    gaps = [abs(arb(c.real) - value) for c in found.centres]
    return any(bool(g <= r) for g, r in zip(gaps, found.radii, strict=True))


# ---- numbers that are not finite ----------------------------------------------------------------


@pytest.mark.parametrize("odd", ["nan", "inf", "-inf", "0 +/- inf"])
@pytest.mark.parametrize("place", [(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)])
def test_nothing_is_proved_of_a_matrix_with_an_entry_that_is_not_finite(
    odd: str, place: tuple[int, int]
) -> None:
    with precision(128):
        matrix = balls(np.diag([3.0, 2.0, 1.0]))
        good = np.eye(3)
        assert inertia(matrix) is not None
        assert discs(matrix) is not None
        matrix[place] = arb(0, "inf") if odd.startswith("0") else arb(odd)
        assert inertia(matrix) is None
        assert discs(matrix) is None
        assert not contraction(good, matrix) < 1
        assert not krawczyk(balls(np.zeros(3)), matrix, good, 1.0)
        assert not two_norm(matrix) < 1e300
        vector = balls(np.zeros(3))
        vector[place[1]] = matrix[place]
        assert not krawczyk(vector, balls(good), good, 1.0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_radius_that_is_not_finite_bounds_nothing(order: tuple[int, ...]) -> None:
    with precision(128):
        for odd in (arb("nan"), arb("inf")):
            radii = np.array([arb("0.1"), arb("0.2"), odd], dtype=object)[list(order)]
            found = Discs(np.array([1, 2, 3], dtype=complex), np.ones(3, int), radii, odd, arb(1))
            assert found.eta_max is None
            assert found.left is None
            assert not found.real_part > -1e300
            assert found.around(arb(1)).eta_max is None


def test_a_radius_rho_that_is_not_positive_is_no_shift() -> None:
    f = symbolic.landscape("double-well")
    for rho in (0, -1, arb(0, 1), arb("nan"), arb(-1)):
        with pytest.raises(BadInput, match=r"not a number in \(0, ∞\)"):
            ShiftedGradient(f, rho)
