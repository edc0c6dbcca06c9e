"""Chapter 9: what becomes of hallucinated points under variants of SAM."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from numpy.typing import NDArray

from samlib.dynamics import rules
from samlib.dynamics.trajectories import trajectory
from samlib.landscapes import symbolic
from samlib.landscapes.symbolic import Landscape
from samlib.points import search, stability

R = sp.Rational
X, Y, Z = sp.symbols("x y z", real=True)
ETA, RHO = sp.symbols("eta rho", positive=True)
WELL = (X**2 - 1) ** 2 / 4
SHIFTED = ((X - 3) ** 2 - 1) ** 2 / 4

Array = NDArray[np.float64]


# ---- ASAM -----------------------------------------------------------------------------------


def test_asam_points_of_the_shifted_well_are_exact_and_complete() -> None:
    df = SHIFTED.diff(X)
    found = {}
    for image in sp.solve(df, X):
        for sign in (1, -1):
            x = image / (1 + sign * R(2, 5))
            if sp.sign(df.subs(X, x)) == sign:
                plus = x + R(2, 5) * abs(x) * sp.sign(df.subs(X, x))
                assert plus == image
                found[x] = (image, 1 - ETA * df.diff(X).subs(X, image) * image / x)
    assert found == {
        R(10, 3): (2, 1 - R(6, 5) * ETA),
        R(20, 7): (4, 1 - R(14, 5) * ETA),
        R(15, 7): (3, 1 + R(7, 5) * ETA),
    }


@pytest.mark.parametrize(
    ("x", "slope"), [(10 / 3, -1.2), (20 / 7, -2.8), (15 / 7, 1.4)], ids=["10/3", "20/7", "15/7"]
)
def test_asam_multipliers_of_the_package(x: float, slope: float) -> None:
    """d/dx of ∇f(x⁺) by differences of the rule is the number before η."""
    f, h = symbolic.landscape("shifted-well"), 1e-6
    ends = rules.asam(f, np.array([[x + h], [x - h]]), 0.4)[0][:, 0]
    assert (ends[0] - ends[1]) / (2 * h) == pytest.approx(-slope, rel=1e-8)
    at, plus, *_ = rules.asam(f, np.array([x]), 0.4)
    assert abs(at[0]) < 1e-14
    assert plus[0] == pytest.approx({-1.2: 2, -2.8: 4, 1.4: 3}[slope], abs=1e-14)
    assert abs(f.grad(np.array([x]))[0]) > 0.1


def test_asam_converges_to_its_attracting_points_only() -> None:
    starts = np.linspace(0.51, 4.6, 200)[:, None]
    end = trajectory(symbolic.landscape("shifted-well"), starts, 0.4, 0.1, 3000, "asam")[-1, :, 0]
    assert set(end.round(6)) == {round(10 / 3, 6), round(20 / 7, 6)}


def test_asam_point_is_critical_on_the_ellipsoid() -> None:
    """At a limit of ASAM in the plane −∇f is an outward normal of the frozen ellipsoid."""
    f = Landscape(SHIFTED + (Y - 2) ** 2 / 2 + R(3, 4) * (X - 3) * (Y - 2), (X, Y))
    x = trajectory(f, [2.75, 1.97], 0.7, 0.1, 4000, "asam")[-1]
    image = np.array([17 / 4, 17 / 16])
    assert np.linalg.norm(f.grad(image)) < 1e-15
    assert np.linalg.norm((x - image) / np.abs(x)) == pytest.approx(0.7, rel=1e-10)
    normal, g = (x - image) / x**2, f.grad(x)
    assert np.linalg.norm(g) > 0.2
    assert -g @ normal == pytest.approx(np.linalg.norm(g) * np.linalg.norm(normal), rel=1e-10)
    assert abs(g @ (x - image)) < 0.99 * np.linalg.norm(g) * np.linalg.norm(x - image)  # no sphere


def test_asam_jacobian_in_any_dimension() -> None:
    """Part 3 of thm-ellipsoid against differences of the map, at its points in d = 1, 2."""
    plane = Landscape(SHIFTED + (Y - 2) ** 2 / 2 + R(3, 4) * (X - 3) * (Y - 2), (X, Y))
    line = Landscape(SHIFTED, (X,))
    for f, start, rho in ((plane, [2.75, 1.97], 0.7), (line, [2.9], 0.4)):
        x = trajectory(f, start, rho, 0.1, 4000, "asam")[-1]
        g, h, image = f.grad(x), f.hess(x), rules.asam(f, x, rho)[1]
        w, r = x**2 * g, np.linalg.norm(x * g)
        inner = np.diag(x**2) @ h + 2 * np.diag(x * g) - np.outer(w, h @ w + x * g**2) / r**2
        a = f.hess(image) @ (np.eye(len(x)) + rho / r * inner)
        shifts = 1e-6 * np.eye(len(x))
        ahead, behind = (rules.asam(f, x + s * shifts, rho)[0] for s in (1, -1))
        np.testing.assert_allclose((ahead - behind).T / 2e-6, a, rtol=1e-6, atol=1e-7)
        eta_max = min(2 * v.real / abs(v) ** 2 for v in np.linalg.eigvals(a))
        for part, arrives in ((0.98, True), (1.02, False)):
            end = trajectory(f, x + 1e-6, rho, part * eta_max, 3000, "asam")[-1]
            assert (np.linalg.norm(end - x) < 1e-9) == arrives


def test_asam_below_radius_one_stays_in_the_orthant() -> None:
    rng = np.random.default_rng(0)
    f = symbolic.landscape("himmelblau")
    x = rng.uniform(-4, 4, (5000, 2))
    x[:50, 0] = 0
    plus = rules.asam(f, x, 0.999)[1]
    assert np.array_equal(np.sign(plus), np.sign(x))
    assert np.all(np.abs(plus - x) <= 0.999 * np.abs(x) * (1 + 1e-12))
    beyond = rules.asam(f, x, 3.0)[1]
    assert np.any(np.sign(beyond) != np.sign(x))


# ---- without the normalisation --------------------------------------------------------------


def test_unnormalised_equations_factor() -> None:
    df = WELL.diff(X)
    assert sp.expand(X + RHO * df + 1 - (X + 1) * (RHO * X**2 - RHO * X + 1)) == 0
    assert sp.expand(X + RHO * df - X * (RHO * X**2 - RHO + 1)) == 0
    assert sp.discriminant(RHO * X**2 - RHO * X + 1, X).factor() == RHO * (RHO - 4)
    surrogate = WELL + (X + 1) ** 2 / (2 * RHO)
    assert sp.expand(RHO * surrogate.diff(X) - (X + RHO * df + 1)) == 0


@pytest.mark.parametrize("rho", [R(9, 2), R(5), R(8)])
def test_unnormalised_multipliers(rho: sp.Rational) -> None:
    df = WELL.diff(X)
    for sign in (1, -1):
        x = (1 + sign * sp.sqrt(1 - 4 / rho)) / 2
        slope = 2 * (1 + rho * df.diff(X).subs(X, x))
        claimed = 2 * (rho / 2 - 2 + sign * R(3, 2) * sp.sqrt(rho**2 - 4 * rho))
        assert sp.simplify(slope - claimed) == 0
        assert sp.sign(claimed) == sign  # the upper one attracts, the lower one repels
    top = sp.sqrt(1 - 1 / rho)
    assert sp.simplify(-(1 + rho * df.diff(X).subs(X, top)) + 2 * (rho - 1)) == 0


@pytest.mark.parametrize(("rho", "count"), [(0.99, 0), (1.01, 2), (3.99, 2), (4.01, 6)])
def test_unnormalised_hallucination_starts_at_one_and_at_four(rho: float, count: int) -> None:
    """All fixed points of the package's rule with f' ≠ 0, by sign changes on a fine grid."""
    f = symbolic.landscape("double-well")
    x = np.linspace(-1.5, 1.5, 300_001)[:, None] + 1e-7
    look = rules.unnormalised(f, x, rho)[0][:, 0]
    at = np.flatnonzero(look[:-1] * look[1:] < 0)
    assert np.sum(np.abs(f.grad(x[at])[:, 0]) > 1e-3) == count


def test_unnormalised_sam_converges_to_the_upper_root() -> None:
    end = trajectory(symbolic.landscape("double-well"), [0.6], 5.0, 0.02, 5000, "unnormalised")[
        -1, 0
    ]
    assert end == pytest.approx((1 + np.sqrt(1 - 4 / 5)) / 2, abs=1e-12)


# ---- GSAM -----------------------------------------------------------------------------------

PLANE_POINT = np.array([0.2, 0.0])


def gsam_ends(eta: float, alpha: float, steps: int) -> Array:
    """Distances to the hallucinated point of the last 50 iterates of 20 starts."""
    f = symbolic.landscape("double-well-2d")
    x = PLANE_POINT + 0.02 * np.random.default_rng(1).standard_normal((20, 2))
    far = []
    for k in range(steps):
        x = x - eta * rules.gsam(f, x, 1.2, alpha=alpha)[0]
        if k >= steps - 50:
            far.append(np.linalg.norm(x - PLANE_POINT, axis=1))
    return np.array(far)


def test_gsam_in_one_dimension_is_sam() -> None:
    f = symbolic.landscape("double-well")
    x = np.linspace(-2, 2, 401)[:, None] + 1e-4
    assert np.allclose(rules.gsam(f, x, 1.2, alpha=0.7)[0], rules.sam(f, x, 1.2)[0], atol=1e-14)


def test_gsam_is_discontinuous_at_the_point() -> None:
    """The limits along rays are α(⟨v, g⟩v − g), v the direction of A e."""
    f, g, a = symbolic.landscape("double-well-2d"), np.array([-0.192, 0.0]), np.diag([2, 7.25])
    for angle in np.linspace(0.1, 6.2, 15):
        e = np.array([np.cos(angle), np.sin(angle)])
        v = a @ e / np.linalg.norm(a @ e)
        direction = rules.gsam(f, PLANE_POINT + 1e-7 * e, 1.2, alpha=0.3)[0]
        assert np.allclose(direction, 0.3 * (v * (v @ g) - g), atol=1e-5)


@pytest.mark.parametrize("eta", [0.025, 0.1, 0.2])
def test_gsam_hovers_on_the_cycle_of_the_theorem(eta: float) -> None:
    """Distance over ηα‖g‖ tends to √((κ/2a)² + ηκ/(4(2−ηκ))), a = 2, κ = 29/4, linearly in α."""
    theory = np.sqrt((29 / 16) ** 2 + eta * 7.25 / (4 * (2 - eta * 7.25)))
    errors = []
    for alpha in (0.002, 0.001):
        far = gsam_ends(eta, alpha, 400 + int(20 / eta)) / (eta * alpha * 0.192)
        assert np.ptp(far) < 1e-6
        errors.append(far.mean() / theory - 1)
        assert abs(errors[-1]) < 0.2 * alpha
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.1)


def test_gsam_never_comes_closer_however_long() -> None:
    assert gsam_ends(0.1, 0.2, 4000).min() > 1.7 * 0.1 * 0.2 * 0.192


def test_gsam_cycle_is_exact_in_the_model() -> None:
    a, kappa, gamma = 2.0, 7.25, 0.192
    for eta, alpha in ((0.05, 0.3), (0.1, 1.0), (0.25, 0.01)):
        s = eta * alpha * gamma * kappa / (2 * a)
        t = eta * alpha * gamma / 2 * np.sqrt(eta * kappa / (2 - eta * kappa))
        w = np.array([a * s, kappa * t])
        v = w / np.linalg.norm(w)
        g = np.array([gamma, 0.0])
        step = np.array([s, t]) - eta * w + eta * alpha * (g - v * (v @ g))
        assert np.allclose(step, [s, -t], rtol=1e-13)


def test_gsam_cycle_is_stable_under_the_stated_conditions() -> None:
    """Trace and determinant of the folded step, and Jury's conditions, over random p and q."""
    rng = np.random.default_rng(0)
    p, q = rng.uniform(0.01, 1.99, 5000), rng.uniform(0.01, 0.99, 5000)
    p, q = p[q <= 2 * p], q[q <= 2 * p]
    trace, det = 2 - 3 * q + q * p + p**2 - 2 * p, (1 - p) * (1 + q - p)
    root = np.sqrt(trace.astype(complex) ** 2 / 4 - det)
    assert np.all(np.maximum(abs(trace / 2 + root), abs(trace / 2 - root)) < 1)


# ---- momentum and Adam ----------------------------------------------------------------------


def inside(z: NDArray[np.complex128], beta: Array) -> NDArray[np.bool_]:
    return (z.real - 1 - beta) ** 2 / (1 + beta) ** 2 + z.imag**2 / (1 - beta) ** 2 < 1


def test_heavy_ball_ellipse_is_where_both_roots_are_inside() -> None:
    rng = np.random.default_rng(0)
    beta = rng.uniform(0, 0.999, 20_000)
    z = rng.uniform(-1, 5, 20_000) + 1j * rng.uniform(-1.5, 1.5, 20_000)
    small = [max(abs(np.roots([1, -(1 + b - s), b]))) < 1 for b, s in zip(beta, z, strict=True)]
    assert np.array_equal(inside(z, beta), small)
    assert 1000 < np.sum(small) < 19_000


def odd_point() -> tuple[Landscape, Array, NDArray[np.complex128]]:
    """The three-dimensional attracting point with a complex pair of eigenvalues."""
    blend = 6 * Z**5 - 15 * Z**4 + 10 * Z**3
    here = -(Z - 1) - X**2 + X * Y - R(3, 2) * Y**2 + (Z - 1) * (4 * X + 3 * Y)
    there = X**2 / 2 + X * Y + Y**2 + Y * Z + Z**2
    f = Landscape(here * blend + there * (1 - blend), (X, Y, Z))
    x = np.array([0.0, 0.0, 1.0])
    return f, x, stability.classify(f, x, 1.0).eigenvalues


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 0.3, 0.7])
def test_heavy_ball_threshold_with_complex_eigenvalues(beta: float) -> None:
    """Runs of SAM with momentum converge below the bound of the theorem and leave above it."""
    f, x_h, lam = odd_point()
    a, b = lam.real, lam.imag
    assert np.abs(b).max() > 0.7
    bound = 2 * a * (1 + beta) * (1 - beta) ** 2 / (a**2 * (1 - beta) ** 2 + b**2 * (1 + beta) ** 2)
    limit = bound.min()
    assert inside(0.999 * limit * lam, np.array(beta)).all()
    assert not inside(1.001 * limit * lam, np.array(beta)).all()
    eta = limit * np.array([[0.9], [1.1]])
    x = before = x_h + 1e-6 * np.ones((2, 3))
    sizes = []
    for _ in range(3000):
        x, before = x - eta * rules.sam(f, x, 1.0)[0] + beta * (x - before), x
        sizes.append(np.linalg.norm(x - x_h, axis=1))
    early, late = np.max(sizes[:300], axis=0), np.max(sizes[-300:], axis=0)
    assert late[0] < 0.5 * early[0]
    assert late[1] > 2 * early[1]


def adam(f: Landscape, x: Array, rho: float, eta: float, steps: int, eps: float) -> Array:
    """Adam on ∇f(x⁺), the last iterate."""
    m = v = np.zeros_like(x)
    for k in range(1, steps + 1):
        g = rules.sam(f, x, rho)[0]
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - eta * m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.999**k)) + eps)
    return x


def test_adam_stays_at_a_hallucinated_point_and_nowhere_else() -> None:
    f = symbolic.landscape("double-well")
    there = np.array([[0.2], [-0.2]])
    assert np.allclose(adam(f, there, 1.2, 0.01, 50, 1e-8), there, atol=1e-6)
    x = np.array([[0.35], [0.8], [1.1], [-0.6]])
    assert np.all(np.abs(adam(f, x, 1.2, 0.01, 1, 1e-8) - x) > 9e-3)


def test_adam_converges_to_hallucinated_points() -> None:
    f = symbolic.landscape("double-well-2d")
    end = adam(f, np.array([[0.7, 0.9], [0.5, -0.6], [-0.8, -0.5]]), 1.2, 0.005, 4000, 1e-8)
    assert np.allclose(end, [[0.2, 0], [0.2, 0], [-0.2, 0]], atol=1e-6)


def test_adam_near_the_point_is_heavy_ball() -> None:
    """Bias correction aside, Adam is heavy ball with β = β₁ and step size (1 − β₁)η/ε."""
    f, x_h, eta, eps = symbolic.landscape("double-well-2d"), PLANE_POINT, 0.05, 0.1
    x = y = before = x_h + np.array([1e-7, -2e-7])
    m = v = np.zeros(2)
    for _ in range(60):
        g = rules.sam(f, x, 1.2)[0]
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - eta * m / (np.sqrt(v) + eps)
        y, before = y - 0.1 * eta / eps * rules.sam(f, y, 1.2)[0] + 0.9 * (y - before), y
        assert np.abs(x - y).max() < 1e-5 * 2e-7
    assert np.abs(x - x_h).max() > 1e-9  # the comparison was not of two zeros


def test_adam_with_the_customary_epsilon_is_thrown_off_again() -> None:
    """At a point reached to rounding Adam with ε = 1e-8 bursts; with ε = 0.1 it stays."""
    f = symbolic.landscape("himmelblau")
    found = search.find_hallucinated(f, [3, 2], 5.0)
    h = next(p for p in found if stability.classify(f, p.x, 5.0).kind == "attracting")
    x = np.tile(h.x + np.array([0.04, -0.05]), (2, 1))
    m = v = np.zeros_like(x)
    eps, far = np.array([[1e-8], [0.1]]), []
    for k in range(1, 12_001):
        g = rules.sam(f, x, 5.0)[0]
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - 0.005 * m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.999**k)) + eps)
        far.append(np.linalg.norm(x - h.x, axis=1))
    early, late = np.min(far[:4000], axis=0), np.max(far[-6000:], axis=0)
    assert np.all(early < 1e-9)
    assert late[0] > 1e-4
    assert late[1] < 1e-9


# ---- decaying radius ------------------------------------------------------------------------


def descend(x: Array, radii: Array, eta: float = 0.1) -> Array:
    """SAM on the double well with a radius a step: all iterates."""
    path = [x]
    for rho in radii:
        plus = x + rho * np.sign(x**3 - x)
        x = x - eta * (plus**3 - plus)
        path.append(x)
    return np.array(path)


def test_descent_identity() -> None:
    g, e = sp.symbols("g e", real=True)
    assert sp.expand(-g * (g + e) + (g + e) ** 2 / 2 - (e**2 - g**2) / 2) == 0


def test_mean_squared_gradient_is_bounded_as_stated() -> None:
    """f = cos x + cos y: L = 1, f ≥ −2, η = 1; radii 1/√k."""
    f = Landscape("cos(x) + cos(y)", ["x", "y"])
    x, total, radii = np.array([[0.3, 0.1], [2.0, -1.0], [0.01, 3.0]]), 0.0, []
    start = f.f(x)
    for k in range(1, 401):
        total = total + (f.grad(x) ** 2).sum(-1)
        radii.append(k**-0.5)
        x = x - rules.sam(f, x, radii[-1])[0]
        bound = 2 * (start + 2) / k + np.mean(np.square(radii))
        assert np.all(total / k <= bound + 1e-12)
    assert np.all(total / 400 < 0.05)


def test_the_run_from_0201_goes_to_the_maximizer() -> None:
    k = np.arange(1, 200_001)
    path = descend(np.array([0.201]), 1.2 * k**-0.5)[:, 0]
    assert abs(path[-1]) < 1e-4
    assert symbolic.landscape("double-well").hess(np.array([0.0]))[0, 0] == -1


def caught(eta: float, r: float, rho: float) -> bool:
    return eta < r and 1 / r - 1 <= (1 - eta / r) * (1 - rho**2)


@pytest.mark.parametrize(("eta", "r", "rho"), [(0.1, 0.65, 0.5), (0.3, 0.7, 0.4), (0.02, 0.9, 0.9)])
def test_slow_decay_keeps_the_trap_shut(eta: float, r: float, rho: float) -> None:
    assert caught(eta, r, rho)
    radii = rho * r ** np.arange(200)
    start = np.linspace(-1, 1, 201) * eta / r * rho
    path = descend(start, radii, eta)
    assert np.all(np.abs(path[:-1]) <= eta / r * radii[:, None] * (1 + 1e-12))


def test_halving_lets_go_and_the_threshold_is_sharp() -> None:
    """On the limit model f = −x²/2 the trap holds for r ≥ (1 + η)/2 and not below."""
    eta = 0.1
    for r, holds in ((0.56, True), (0.54, False)):
        c = np.linspace(-1, 1, 2001) * eta / r  # x/ρ_k
        for _ in range(400):
            c = np.where(np.abs(c) > 1, np.sign(c), ((1 + eta) * c - eta * np.sign(c)) / r)
        assert (np.abs(c).max() <= eta / r + 1e-12) == holds
    assert caught(eta, 0.56, 0.1)
    assert not caught(eta, 0.54, 0.1)


@pytest.mark.slow
def test_where_schedules_end() -> None:
    """Limits are stationary, whatever the schedule; slow ones end at the maximizer."""
    starts = np.linspace(-2, 2, 1000)
    k = np.arange(1, 4001)
    schedules = {"slow": 0.99 ** k[:1000], "fast": 0.5**k, "root": k**-0.5}
    ends = {name: descend(starts, 1.2 * radii)[-1] for name, radii in schedules.items()}
    for end in ends.values():
        assert np.all(np.minimum(np.abs(end), np.abs(np.abs(end) - 1)) < 0.05)
    assert np.all(np.abs(ends["slow"]) < 0.05)
    assert np.all(np.abs(ends["fast"]) > 0.9)
    assert 0.5 < np.mean(np.abs(ends["root"]) < 0.05) < 0.7
    released = descend(ends["slow"], np.zeros(2000))[-1]
    assert np.all(np.abs(np.abs(released) - 1) < 1e-6)
