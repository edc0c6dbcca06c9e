"""Chapter 2: where hallucinated minimizers are; exact where the numbers are rational."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sympy as sp
from exact import (
    HIMMELBLAU,
    Numeric,
    X,
    Y,
    gradient,
    himmelblau_points,
    local,
    on_circle,
    ordered_pairs,
)

R = sp.Rational
WELL = (X**2 - 1) ** 2 / 4


@pytest.fixture(scope="module")
def himmelblau() -> tuple[Numeric, list[np.ndarray]]:
    fn = Numeric(HIMMELBLAU, (X, Y))
    return fn, himmelblau_points(fn)


# ---- the sphere ---------------------------------------------------------------------------------


def test_sphere_critical_points_are_the_fixed_points(himmelblau: Any) -> None:
    """All critical points on a circle, from one polynomial: inward ⟺ x + ρu = x_*."""
    fn, _ = himmelblau
    centre, rho, t = (3, 2), 5, sp.symbols("t")
    gx, gy = gradient(HIMMELBLAU, (X, Y))
    cross = gx * (Y - centre[1]) - gy * (X - centre[0])
    circle = {X: 3 + rho * (1 - t**2) / (1 + t**2), Y: 2 + rho * 2 * t / (1 + t**2)}
    numerator = sp.Poly(sp.numer(sp.together(cross.subs(circle))), t)
    roots = numerator.nroots(n=30, maxsteps=500)
    inward = []
    for root in (r for r in roots if abs(sp.im(r)) < 1e-20):
        x = np.array([float(sp.re(circle[s].subs(t, root))) for s in (X, Y)])
        g = fn.grad(x)
        u = g / np.linalg.norm(g)
        sign = 1 if g @ (np.array(centre) - x) > 0 else -1
        assert np.allclose(x + sign * rho * u, centre, atol=1e-10)
        if sign == 1:
            inward.append(x)
    assert len(inward) == len(on_circle(fn, np.array(centre, float), rho))
    # SAM itself: whatever stops with its shifted point at the centre stops at one of these points
    x = np.random.default_rng(0).uniform(-6, 6, (2, 200))
    for _ in range(3000):
        g = np.array(fn._g(*x))
        x = x - 0.001 * np.array(fn._g(*(x + rho * g / np.linalg.norm(g, axis=0))))
    for end in x.T:
        if np.allclose(fn.shifted(end, rho), centre, atol=1e-9):
            assert min(np.linalg.norm(end - p) for p in inward) < 1e-7


def test_gradient_norm_is_at_most_lipschitz_times_rho() -> None:
    """f = cos x + cos(2y)/4 has a 1-Lipschitz gradient, so ‖g‖ ≤ ρ at every hallucinated point."""
    fn = Numeric(sp.cos(X) + sp.cos(2 * Y) / 4, (X, Y))
    seen = 0
    for image in [(0.0, 0.0), (np.pi, 0.0), (0.0, np.pi / 2), (np.pi, np.pi / 2)]:
        for rho in (0.3, 1.0, 2.0, 3.5):
            for x in on_circle(fn, np.array(image), rho, n=1500):
                seen += 1
                assert np.linalg.norm(fn.grad(x)) <= rho + 1e-12
    assert seen > 10


# ---- from a maximizer ---------------------------------------------------------------------------


def test_maximizer_interval_of_the_double_well_is_exact() -> None:
    """B = [−1 + ε, 1]: {f > m} = {|x| < 1 − ε}, (d, ρ̄) = (1, 2 − ε); none outside (1, 2)."""
    eps = sp.symbols("epsilon", positive=True)
    m = WELL.subs(X, -1 + eps)
    assert (
        sp.factor(WELL - m - (X - 1 + eps) * (X + 1 - eps) * (X**2 - 1 - eps * (2 - eps)) / 4) == 0
    )
    slope = sp.diff(WELL, X)
    for rho in (R(101, 100), R(6, 5), R(3, 2), R(199, 100)):
        assert slope.subs(X, rho - 1) < 0  # x_h = −1 + ρ, gradient toward −1
    for rho in (R(1, 2), R(9, 10), R(1), R(2), R(5, 2)):
        assert slope.subs(X, rho - 1) >= 0  # −1 + ρ: outward or stationary
        assert slope.subs(X, -1 - rho) < 0  # −1 − ρ: outward


def test_maximizer_interval_of_the_ring() -> None:
    """B the disc of radius r ≤ 1 at 0, x_* = (−1, 0): {f > m} is the open disc, ρ̄ = 1 + r."""
    s, r, angle = sp.symbols("s r theta", positive=True)
    profile = (s**2 - 1) ** 2 / 4
    above = profile - profile.subs(s, r)
    # with s ≤ r ≤ 1 the second factor is negative, so f > m exactly where s < r
    assert sp.simplify(above - (s**2 - r**2) * (s**2 + r**2 - 2) / 4) == 0
    square = (1 + r * sp.cos(angle)) ** 2 + (r * sp.sin(angle)) ** 2
    assert sp.simplify((1 + r) ** 2 - square - 2 * r * (1 - sp.cos(angle))) == 0


def test_maximizer_interval_on_himmelblau(himmelblau: Any) -> None:
    """For the maximizer and all nine critical points as image, a point exists on (d, ρ̄)."""
    from scipy import ndimage

    fn, points = himmelblau
    kinds = [np.linalg.eigvalsh(fn.hess(p)) for p in points]
    top = next(p for p, k in zip(points, kinds, strict=True) if k.max() < 0)
    m = max(
        fn.f(p) for p, k in zip(points, kinds, strict=True) if k[0] * k[1] < 0
    )  # the highest saddle
    xs, ys = np.linspace(-3, 3, 1201), np.linspace(-3, 3, 1201)
    gx, gy = np.meshgrid(xs, ys, indexing="ij")
    labels, _ = ndimage.label(fn._f(gx, gy) > m)
    cell = labels[np.abs(xs - top[0]).argmin(), np.abs(ys - top[1]).argmin()]
    inside = np.stack([gx[labels == cell], gy[labels == cell]], -1)
    assert np.abs(inside).max() < 2.9  # the component is compact, well inside the grid
    for image in points:
        d, rho_bar = np.linalg.norm(top - image), np.linalg.norm(inside - image, axis=1).max()
        assert rho_bar > d + 0.05
        for share in (0.02, 0.5, 0.97):
            rho = d + share * (rho_bar - d)
            hits = on_circle(fn, image, rho)
            assert any(fn.f(x) > m and np.linalg.norm(x - top) < 3 for x in hits)


def test_maximizer_itself_as_image() -> None:
    """The same argument with x_* = x_•: on (0, ρ̄) = (0, 1) the double well has ±ρ with image 0."""
    for rho in (R(1, 10), R(1, 2), R(99, 100)):
        slope = sp.diff(WELL, X)
        assert slope.subs(X, rho) < 0 < slope.subs(X, -rho)


# ---- the counterexample -------------------------------------------------------------------------


def test_counterexample_is_c2_and_has_no_point_at_one_plus_one_over_k_pi() -> None:
    x = sp.symbols("x", positive=True)
    right, left = -(x**3) * sp.sin(1 / x) ** 2, -(X**3) * (X + 1)
    assert sp.limit(sp.diff(right, x), x, 0, "+") == 0 == sp.diff(left, X).subs(X, 0)
    assert left.subs(X, -1) == 0
    assert sp.diff(left, X).subs(X, -1) == 1  # x_* = −1 is a nondegenerate minimizer
    assert sp.solveset(left, X, sp.Interval.open(-1, 0)) == sp.EmptySet
    assert left.subs(X, R(-1, 2)) > 0 > left.subs(X, -2)  # uphill to 0; outward left of −1
    for k in range(1, 40):
        assert right.subs(x, 1 / (k * sp.pi)) == 0  # x_* + ρ is stationary: not hallucinated
        between = 2 / ((2 * k + 1) * sp.pi)
        assert right.subs(x, between) == -(between**3)  # and between two such ρ it is hallucinated


# ---- sets of maximizers -------------------------------------------------------------------------


def test_maximizer_set_needs_the_largest_distance() -> None:
    """f = −(r² − 1)²‖x − x_*‖²/4, x_* = (3, 0): left of x_* none for 2 + 2/√3 ≤ ρ ≤ 4."""
    f = -((X**2 + Y**2 - 1) ** 2) * ((X - 3) ** 2 + Y**2) / 4
    g = gradient(f, (X, Y))
    assert g.subs({X: 3, Y: 0}) == sp.zeros(2, 1)
    # on a circle about x_* the last factor is constant: f is critical on the axis and the ring only
    rho, th = sp.symbols("rho theta", positive=True)
    circle = {X: 3 + rho * sp.cos(th), Y: rho * sp.sin(th)}
    r2 = (X**2 + Y**2).subs(circle)
    assert sp.simplify(sp.diff(f.subs(circle), th) - 3 * rho**3 * sp.sin(th) * (r2 - 1)) == 0
    assert sp.rem(sp.Poly(g[0], Y), sp.Poly(X**2 + Y**2 - 1, Y)).is_zero  # ∇f = 0 on the ring
    slope = sp.factor(g[0].subs({X: 3 - rho, Y: 0}))  # > 0: toward (3, 0)
    ends = sorted(sp.real_roots(sp.Poly(slope, rho)))
    gaps = [0, 2 - 2 * sp.sqrt(3) / 3, 2, 2 + 2 * sp.sqrt(3) / 3, 4]
    assert sorted(set(ends)) == gaps
    signs = {
        R(1, 2): 1,
        R(3, 2): -1,
        R(5, 2): 1,
        R(3): 1,
        R(7, 2): -1,
        R(39, 10): -1,
        R(401, 100): 1,
        R(50): 1,
    }
    assert {v: sp.sign(slope.subs(rho, v)) for v in signs} == signs
    # the point (3 + ρ, 0) belongs to the maximizer x_* itself: it is there for every ρ
    assert all(g[0].subs({X: 3 + v, Y: 0}) < 0 for v in (R(1, 10), 1, 4))
    fn = Numeric(f, (X, Y))
    for v, count in {2.5: 1, 3.3: 0, 3.7: 0, 4.2: 1}.items():
        assert sum(h[0] < 3 for h in on_circle(fn, np.array([3.0, 0.0]), v, 800)) == count


# ---- two critical points ------------------------------------------------------------------------


def test_two_critical_points_all_72_pairs_of_himmelblau(himmelblau: Any) -> None:
    fn, points = himmelblau
    assert len(points) == 9
    predicted_side, other_side, eps = 0, 0, 1e-4
    for c, s, dist, n in ordered_pairs(points):
        q = n @ np.linalg.solve(fn.hess(c), n)
        assert abs(q) > 1e-3
        x, mu = fn.from_pair(c, s, dist - np.sign(q) * eps)
        assert np.linalg.norm(x - c) < 0.1
        assert np.linalg.norm(fn.grad(fn.shifted(x, dist - np.sign(q) * eps))) < 1e-8
        predicted_side += mu > 0 and np.linalg.norm(fn.grad(x)) > 1e-6
        _, mu = fn.from_pair(c, s, dist + np.sign(q) * eps)
        other_side += mu > 0
    assert (predicted_side, other_side) == (72, 0)


def test_two_critical_points_expansion_is_second_order(himmelblau: Any) -> None:
    fn, points = himmelblau
    for c, s in [(points[0], points[5]), (points[3], points[1]), (points[8], points[2])]:
        dist = np.linalg.norm(c - s)
        n = (c - s) / dist
        w = np.linalg.solve(fn.hess(c), n)
        q = n @ w
        errors, norms = [], []
        for eps in (2e-4, 1e-4):
            rho = dist - np.sign(q) * eps
            x, mu = fn.from_pair(c, s, rho)
            errors.append(np.linalg.norm(x - c - (rho - dist) * w / q))
            norms.append(abs(mu - eps / abs(q)))
            assert np.linalg.norm(fn.grad(x)) == pytest.approx(mu, rel=1e-6)
        assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
        assert norms[0] / norms[1] == pytest.approx(4, rel=0.05)


def test_bordered_determinant() -> None:
    """det [[H, n], [nᵀ, 0]] = −q det H: what the implicit function theorem needs."""
    a, b, c, d, e, f = sp.symbols("a:f")
    h = sp.Matrix([[a, b, c], [b, d, e], [c, e, f]])
    n = sp.Matrix(sp.symbols("n1:4"))
    bordered = sp.Matrix(sp.BlockMatrix([[h, n], [n.T, sp.zeros(1, 1)]]))
    assert sp.simplify(bordered.det() + (n.T * h.adjugate() * n)[0]) == 0


# ---- tanh networks ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tanh_net() -> tuple[Numeric, np.ndarray]:
    """Two hidden units on five points with weight decay, and a minimizer of its loss."""
    w1, b1, v1, w2, b2, v2, c = names = sp.symbols("w1 b1 v1 w2 b2 v2 c")
    data = zip((-2, -1, 0, 1, 2), (R(-1), R(1, 2), R(0), R(3, 2), R(1)), strict=True)
    fit = sum((v1 * sp.tanh(w1 * t + b1) + v2 * sp.tanh(w2 * t + b2) + c - y) ** 2 for t, y in data)
    fn = Numeric(fit / 10 + sum(s**2 for s in names) / 200, names)
    x = np.array([0.5, 0.7, 0.9, 0.4, 0.4, 0.6, -0.2])
    for _ in range(3000):
        x = x - 0.5 * fn.grad(x)
    return fn, fn.newton(x)


@pytest.mark.parametrize("move", ["flip 1", "flip 2", "swap"])
def test_tanh_network_has_hallucinated_minimizers(tanh_net: Any, move: str) -> None:
    fn, x_s = tanh_net
    assert np.linalg.eigvalsh(fn.hess(x_s)).min() > 1e-3  # a nondegenerate minimizer
    x_c = x_s.copy()
    if move == "swap":
        x_c[:3], x_c[3:6] = x_s[3:6], x_s[:3]
        dist = np.sqrt(2) * np.linalg.norm(x_s[:3] - x_s[3:6])
    else:
        unit = slice(0, 3) if move == "flip 1" else slice(3, 6)
        x_c[unit] *= -1
        dist = 2 * np.linalg.norm(x_s[unit])
    assert fn.f(x_c) == pytest.approx(fn.f(x_s), abs=1e-14)
    assert np.linalg.norm(fn.grad(x_c)) < 1e-12
    assert np.linalg.norm(x_c - x_s) == pytest.approx(dist, abs=1e-12)
    n = (x_c - x_s) / dist
    assert n @ np.linalg.solve(fn.hess(x_c), n) > 0  # below D
    x, mu = fn.from_pair(x_c, x_s, dist - 1e-3)
    assert mu > 0
    assert np.linalg.norm(fn.shifted(x, dist - 1e-3) - x_s) < 1e-9
    assert np.linalg.norm(fn.grad(x)) == pytest.approx(mu, rel=1e-8)
    assert np.linalg.norm(fn.grad(x)) > 1e-7


# ---- none ---------------------------------------------------------------------------------------


def test_no_point_below_twice_lambda_over_l2_and_the_bound_is_sharp() -> None:
    lam, l2, rho = sp.symbols("lambda L2 rho", positive=True)
    f = lam * X**2 / 2 - l2 * X**3 / 6
    assert sp.diff(f, X, 3) == -l2  # the Hessian is exactly L₂-Lipschitz
    slope = sp.factor(sp.diff(f, X).subs(X, rho))
    assert sp.simplify(slope - rho * (lam - l2 * rho / 2)) == 0
    values = {lam: R(3, 2), l2: R(1, 2)}
    bound = 2 * values[lam] / values[l2]
    assert bound == 6
    assert slope.subs({**values, rho: bound}) == 0
    assert slope.subs({**values, rho: bound + R(1, 100)}) < 0  # x_h = ρ, image 0
    assert slope.subs({**values, rho: bound - R(1, 100)}) > 0
    assert sp.diff(f, X).subs({**values, X: -bound}) < 0  # x = −ρ points outward


def test_star_convex_at_its_minimizer_has_none() -> None:
    """Star-convex about 0 but not convex: no hallucinated point with image 0."""
    f = X**2 + Y**2 + 3 * X**2 * Y**2
    inner = sp.factor(gradient(f, (X, Y)).dot(sp.Matrix([X, Y])))
    assert sp.simplify(inner - 2 * X**2 - 2 * Y**2 - 12 * X**2 * Y**2) == 0  # ⟨∇f, x⟩ ≥ 0
    assert sp.hessian(f, (X, Y)).subs({X: 2, Y: 2}).det() < 0  # not convex
    fn = Numeric(f, (X, Y))
    assert all(on_circle(fn, np.zeros(2), rho, 800) == [] for rho in (0.1, 1.0, 3.0))


def test_first_rho_at_himmelblau_minimizers_is_above_the_bound(himmelblau: Any) -> None:
    """ρ ≤ 2λ/L₂, L₂ taken on the ball itself, has none at each of the four minimizers."""
    fn, points = himmelblau
    t = np.linspace(0, np.pi, 20001)
    c, s = np.cos(t), np.sin(t)
    for p in points:
        lam = np.linalg.eigvalsh(fn.hess(p)).min()
        if lam < 0:
            continue

        def lipschitz(rho: float, p: np.ndarray = p) -> float:
            cubic = np.abs(24 * (p[0] * c**3 + p[1] * s**3) + 12 * c * s * (c + s))
            return float((cubic + 24 * rho * np.sqrt(c**6 + s**6)).max())

        lo, hi = 0.0, 10.0
        for _ in range(60):
            mid = (lo + hi) / 2
            lo, hi = (mid, hi) if mid * lipschitz(mid) < 2 * lam else (lo, mid)
        assert lo > 0.3
        for share in (0.3, 0.7, 1.0):
            assert on_circle(fn, p, share * lo, 1000) == []


# ---- saddles and maximizers ---------------------------------------------------------------------


def test_saddles_have_points_at_every_small_rho(himmelblau: Any) -> None:
    """x_s ± ρv + O(ρ²) for each negative eigenvalue: the four saddles and the maximizer."""
    fn, points = himmelblau
    checked = 0
    for p in points:
        values, vectors = np.linalg.eigh(fn.hess(p))
        for value, v in zip(values, vectors.T, strict=True):
            if value > 0:
                continue
            for sign in (1, -1):
                gaps = []
                for rho in (2e-3, 1e-3):
                    hits = np.array(on_circle(fn, p, rho, 400))
                    away = np.linalg.norm(hits - p - sign * rho * v, axis=1)
                    x = hits[away.argmin()]
                    gaps.append(away.min())
                    assert fn.grad(x) @ v * sign < 0  # inward
                assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1)
                # they repel along v: A has an eigenvalue near the negative one
                eig = np.linalg.eigvals(fn.linearisation(x, 1e-3))
                assert np.abs(eig - value).min() < 0.05 * abs(value)
                checked += 1
    assert checked == 2 * (4 + 2)


def test_lowest_eigenvalue_needs_no_simplicity() -> None:
    """f = −‖x‖²/2 + x³, a double eigenvalue −1 at 0: a point at every ρ < 12/(7 L₂) = 2/7."""
    f = -(X**2 + Y**2) / 2 + X**3
    assert sp.diff(f, X, 3) == 6
    fn = Numeric(f, (X, Y))
    for rho in (0.01, 0.1, 0.2, 2 / 7):
        hits = on_circle(fn, np.zeros(2), rho, 1000)
        assert hits
        assert min(fn.f(h) for h in hits) <= fn.f(np.array([-rho, 0.0])) + 1e-12


def test_saddle_constants() -> None:
    s = sp.symbols("s", positive=True)
    assert sp.integrate(sp.Abs(2 * s - 1) * s, (s, 0, 1)) == R(1, 4)
    assert R(1, 3) + R(1, 4) == R(7, 12)


def test_saddle_traps_a_disc_of_radius_rho() -> None:
    """f = (x² − y²)/2, ρ = η = 1/10: (1e-6, 0.099) stays, (1e-6, 0.101) escapes."""
    fn = Numeric((X**2 - Y**2) / 2, (X, Y))
    ends = {}
    for y0 in (0.099, 0.101):
        x = np.array([1e-6, y0])
        for _ in range(400):
            x = fn.step(x, 0.1, 0.1)
        ends[y0] = x
    assert abs(ends[0.099][0]) == pytest.approx(0.01 / 1.9, abs=1e-12)
    assert abs(ends[0.099][1]) < 1e-12
    assert abs(ends[0.101][1]) > 1e6
    rng = np.random.default_rng(1)
    for rho, eta in [(0.1, 0.1), (1.0, 0.9), (0.5, 0.01), (2.0, 0.5)]:
        for angle, radius in rng.uniform([0, 0], [2 * np.pi, 1], (200, 2)):
            x = rho * radius * np.array([np.cos(angle), np.sin(angle)])
            r = np.linalg.norm(x)
            r_next = np.linalg.norm(fn.step(x, rho, eta))
            a = eta * rho / r
            assert r_next <= r * max(1 + eta - a, a + eta - 1) + 1e-15
            assert r_next < rho
            if r <= eta * rho:
                assert r_next <= eta * rho
        for x0, above in rng.uniform([-2, 1e-3], [2, 1], (50, 2)):
            x = np.array([x0, rho + above])
            assert fn.step(x, rho, eta)[1] >= x[1] + eta * (x[1] - rho) - 1e-14


def test_saddle_points_are_exact_on_the_quadratic() -> None:
    for rho in (R(1, 1000), R(1), R(50)):
        loc = local((X**2 - Y**2) / 2, (X, Y), (0, rho), rho)
        assert loc.image == sp.zeros(2, 1)
        assert sp.diag(2, -1) == loc.A  # repels along y with multiplier 1 + η


def test_fraction_arithmetic_agrees_on_the_double_well() -> None:
    """All hallucinated points of the line by rational arithmetic alone, for 299 radii."""

    def slope(x: Fraction) -> Fraction:
        return x**3 - x

    for k in range(1, 300):
        rho = Fraction(k, 100)
        found = {
            (x, c)
            for c in (Fraction(-1), Fraction(0), Fraction(1))
            for x, side in ((c + rho, -1), (c - rho, 1))
            if slope(x) * side > 0
        }
        if rho < 1:
            assert found == {(rho, Fraction(0)), (-rho, Fraction(0))}
        elif 1 < rho < 2:
            assert found == {(rho - 1, Fraction(-1)), (1 - rho, Fraction(1))}
        else:
            assert found == set()
