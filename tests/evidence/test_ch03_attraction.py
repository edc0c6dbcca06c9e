"""Chapter 3: which hallucinated minimizers attract; exact where the numbers are rational."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy as sp
from exact import HIMMELBLAU, Numeric, X, Y, at, gradient, himmelblau_points, local, ordered_pairs

R = sp.Rational
Z, ETA = sp.symbols("z eta", real=True)
LINE = (X**2 - 1) ** 2 / 4
NO_MAXIMIZER = LINE + Y**2 / 2
SADDLE_IMAGE = LINE - Y**2 / 2


def blend(t: sp.Symbol) -> sp.Expr:
    """0 at t = 0, 1 at t = 1, with two vanishing derivatives at both."""
    return 6 * t**5 - 15 * t**4 + 10 * t**3


TWIST = (-(X - 1) - 6 * (X - 1) * Y) * blend(X) + (X**2 + X * Y + Y**2) * (1 - blend(X))
# d = 3: a strict constrained maximum at (0, 0, 1) whose image 0 is a minimizer
ODD = (-(Z - 1) - X**2 + X * Y - R(3, 2) * Y**2 + (Z - 1) * (4 * X + 3 * Y)) * blend(Z) + (
    X**2 / 2 + X * Y + Y**2 + Y * Z + Z**2
) * (1 - blend(Z))
PLANE = [
    ("no maximizer", NO_MAXIMIZER, (R(1, 5), 0), R(6, 5)),
    ("saddle image", SADDLE_IMAGE, (R(1, 5), 0), R(6, 5)),
    ("twist", TWIST, (1, 0), 1),
]


def eta_max(a: sp.Matrix) -> sp.Expr | None:
    """min 2 Re λ/|λ|² exactly, None unless every real part is positive."""
    values = list(a.eigenvals())
    if not all(sp.re(v).is_positive for v in values):
        return None
    return sp.Min(*(sp.simplify(2 * sp.re(v) / sp.Abs(v) ** 2) for v in values))


# ---- the linearisation ----------------------------------------------------------------------


@pytest.mark.parametrize(("f", "x", "rho"), [row[1:] for row in PLANE], ids=[r[0] for r in PLANE])
def test_jacobian_of_the_map_is_identity_minus_eta_a(f: Any, x: Any, rho: Any) -> None:
    """Differentiate T(x) = x − η∇f(x + ρ∇f/‖∇f‖) symbolically and substitute."""
    g = gradient(f, (X, Y))
    shifted = sp.Matrix([X, Y]) + rho * g / sp.sqrt(g.dot(g))
    force = g.subs({X: shifted[0], Y: shifted[1]}, simultaneous=True)
    step = sp.Matrix([X, Y]) - ETA * force
    jacobian = step.jacobian([X, Y]).subs({X: x[0], Y: x[1]})
    assert sp.simplify(jacobian - sp.eye(2) + ETA * local(f, (X, Y), x, rho).A) == sp.zeros(2, 2)


def test_jacobian_at_a_point_of_himmelblau_to_ten_digits() -> None:
    """The same by differences in 50-digit arithmetic at points with no closed form."""
    fn = Numeric(HIMMELBLAU, (X, Y))
    points = himmelblau_points(fn)
    mpmath.mp.dps = 50

    def step(x: mpmath.matrix, rho: float, eta: float) -> mpmath.matrix:
        def grad(p: mpmath.matrix) -> mpmath.matrix:
            a, b = p[0] ** 2 + p[1] - 11, p[0] + p[1] ** 2 - 7
            return mpmath.matrix([4 * p[0] * a + 2 * b, 2 * a + 4 * p[1] * b])

        g = grad(x)
        return x - eta * grad(x + rho * g / mpmath.norm(g))

    for c, s in [(points[0], points[4]), (points[7], points[2])]:
        dist = np.linalg.norm(c - s)
        n = (c - s) / dist
        rho = float(dist - 0.05 * np.sign(n @ np.linalg.solve(fn.hess(c), n)))
        x, mu = fn.from_pair(c, s, rho)
        assert mu > 0
        base, h = mpmath.matrix(list(x)), mpmath.mpf(10) ** -20
        columns = []
        for i in range(2):
            e = mpmath.matrix([h if j == i else 0 for j in range(2)])
            diff = (step(base + e, rho, 0.01) - step(base - e, rho, 0.01)) / (2 * h)
            columns.append([float(v) for v in diff])
        expected = np.eye(2) - 0.01 * fn.linearisation(x, rho)
        assert np.allclose(np.array(columns).T, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("u", [(R(3, 5), R(4, 5)), (R(2, 3), R(2, 3), R(1, 3))])
def test_block_form_and_determinant(u: tuple[sp.Rational, ...]) -> None:
    """In a (tangent, u) basis M = [[S, b], [0, 1]], so det(H_* M) = det H_* det S."""
    d = len(u)
    n = sp.Matrix(u)
    t = sp.symbols("t", positive=True)  # ρ/‖g‖
    h = sp.Matrix(d, d, lambda i, j: sp.Symbol(f"h{min(i, j)}{max(i, j)}"))
    star = sp.Matrix(d, d, lambda i, j: sp.Symbol(f"s{min(i, j)}{max(i, j)}"))
    m = sp.eye(d) + t * (sp.eye(d) - n * n.T) * h
    e = sp.Matrix.hstack(*sp.GramSchmidt(n.T.nullspace(), True))
    basis = sp.Matrix.hstack(e, n)
    block = (basis.T * m * basis).applyfunc(sp.expand)
    s = sp.eye(d - 1) + t * e.T * h * e
    assert (block[:-1, :-1] - s).applyfunc(sp.expand) == sp.zeros(d - 1)
    assert (block[:-1, -1] - t * e.T * h * n).applyfunc(sp.expand) == sp.zeros(d - 1, 1)
    assert block[-1, :].applyfunc(sp.simplify) == sp.Matrix([[0] * (d - 1) + [1]])
    assert sp.expand((star * m).det() - star.det() * s.det()) == 0


@pytest.mark.parametrize(("f", "x", "rho"), [row[1:] for row in PLANE], ids=[r[0] for r in PLANE])
def test_s_is_the_second_derivative_along_the_sphere(f: Any, x: Any, rho: Any) -> None:
    """S = (ρ/‖g‖) d²/ds² f along the circle about the image, s the arclength."""
    loc = local(f, (X, Y), x, rho)
    norm, angle = sp.sqrt(loc.g.dot(loc.g)), sp.symbols("theta")
    out = -loc.u
    turn = sp.Matrix([-out[1], out[0]])
    place = loc.image + rho * (out * sp.cos(angle / rho) + turn * sp.sin(angle / rho))
    second = sp.diff(f.subs({X: place[0], Y: place[1]}, simultaneous=True), angle, 2)
    assert sp.simplify(rho / norm * second.subs(angle, 0) - loc.S[0]) == 0


# ---- the exact examples ---------------------------------------------------------------------


def test_example_without_a_maximizer() -> None:
    loc = local(NO_MAXIMIZER, (X, Y), (R(1, 5), 0), R(6, 5))
    assert loc.image == sp.Matrix([-1, 0])
    assert loc.g == sp.Matrix([R(-24, 125), 0])
    assert sp.diag(2, R(29, 4)) == loc.A
    assert sp.Matrix([[R(29, 4)]]) == loc.S
    assert eta_max(loc.A) == R(8, 29)
    critical = sp.solve(list(gradient(NO_MAXIMIZER, (X, Y))), [X, Y])
    assert sorted(critical) == [(-1, 0), (0, 0), (1, 0)]
    assert all(sp.hessian(NO_MAXIMIZER, (X, Y)).subs({X: a})[1, 1] == 1 for a, _ in critical)


def test_example_with_a_saddle_image_is_a_constrained_maximum_that_attracts() -> None:
    loc = local(SADDLE_IMAGE, (X, Y), (R(1, 5), 0), R(6, 5))
    assert at(sp.hessian(SADDLE_IMAGE, (X, Y)), (X, Y), (-1, 0)) == sp.diag(2, -1)
    assert sp.Matrix([[R(-21, 4)]]) == loc.S  # a strict maximum on the circle, and d = 2
    assert sp.diag(2, R(21, 4)) == loc.A
    assert eta_max(loc.A) == R(8, 21)


def test_twist_is_a_constrained_minimum_that_repels() -> None:
    loc = local(TWIST, (X, Y), (1, 0), 1)
    assert loc.image == sp.zeros(2, 1)
    assert sp.Matrix([[1]]) == loc.S
    assert at(sp.hessian(TWIST, (X, Y)), (X, Y), (0, 0)) == sp.Matrix([[2, 1], [1, 2]])
    assert sp.Matrix([[-4, 1], [-11, 2]]) == loc.A
    assert set(loc.A.eigenvals()) == {-1 + sp.sqrt(2) * sp.I, -1 - sp.sqrt(2) * sp.I}
    assert eta_max(loc.A) is None
    modulus = sp.expand((1 + ETA) ** 2 + 2 * ETA**2)  # |1 − ηλ|²
    assert modulus == 1 + 2 * ETA + 3 * ETA**2


def test_strict_constrained_maximum_can_attract_in_three_dimensions() -> None:
    """H_* ≻ 0 and S ≺ 0 and yet every Re λ(A) > 0: 'even' cannot be dropped."""
    names = (X, Y, Z)
    loc = local(ODD, names, (0, 0, 1), 1)
    assert loc.image == sp.zeros(3, 1)
    star = at(sp.hessian(ODD, names), names, (0, 0, 0))
    assert star == sp.Matrix([[1, 1, 0], [1, 2, 1], [0, 1, 2]])
    assert star.is_positive_definite
    assert loc.S.is_negative_definite
    assert sp.Matrix([[0, -1, 7], [1, -3, 11], [1, -2, 5]]) == loc.A
    lam = sp.symbols("lambda")
    assert loc.A.charpoly(lam).as_expr() == lam**3 - 2 * lam**2 + lam - 1
    roots = [complex(r) for r in sp.Poly(lam**3 - 2 * lam**2 + lam - 1).nroots(n=20)]
    assert min(r.real for r in roots) == pytest.approx(0.1225611669, abs=1e-10)
    assert min(2 * r.real / abs(r) ** 2 for r in roots) == pytest.approx(0.4301597090, abs=1e-10)
    fn = Numeric(ODD, names)
    x = np.array([2e-5, -1e-5, 1 + 3e-5])  # A is far from normal: the errors grow before they fall
    for _ in range(1500):
        x = fn.step(x, 1.0, 0.2)
    assert np.allclose(x, [0, 0, 1], atol=1e-10)


@pytest.mark.parametrize(
    ("f", "x", "rho", "bound"),
    [(NO_MAXIMIZER, (0.2, 0), 1.2, 8 / 29), (SADDLE_IMAGE, (0.2, 0), 1.2, 8 / 21)],
)
def test_eta_max_separates_staying_from_leaving(f: Any, x: Any, rho: float, bound: float) -> None:
    fn = Numeric(f, (X, Y))
    for factor, stays in ((0.97, True), (1.03, False)):
        p = np.array(x) + 1e-4
        for _ in range(1500):
            p = fn.step(p, rho, factor * bound)
        assert bool(np.linalg.norm(p - x) < 1e-8) is stays


# ---- sufficient and necessary conditions ----------------------------------------------------


def test_sufficient_condition_on_random_local_data() -> None:
    """H_* ≻ 0 and S − bbᵀ/4 ≻ 0 put every eigenvalue of A in the right half plane."""
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(4000):
        d = int(rng.integers(2, 6))
        root, b = rng.normal(size=(d, d)), rng.normal(size=d - 1)
        c = rng.normal(size=(d - 1, d - 1))
        s = c @ c.T * rng.uniform(0.2, 3)
        if np.linalg.eigvalsh(s - np.outer(b, b) / 4).min() <= 0:
            continue
        m = np.eye(d)
        m[:-1, :-1], m[:-1, -1] = s, b
        assert np.linalg.eigvals(root @ root.T @ m).real.min() > -1e-12
        seen += 1
    assert seen > 200


def test_scalar_image_attracts_iff_s_is_positive() -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        d = int(rng.integers(2, 6))
        c = rng.normal(size=(d - 1, d - 1))
        s, b = c + c.T, rng.normal(size=d - 1)
        m = np.eye(d)
        m[:-1, :-1], m[:-1, -1] = s, b
        attracts = np.linalg.eigvals(2.5 * m).real.min() > 0
        assert attracts == (np.linalg.eigvalsh(s).min() > 0)


def test_constrained_maximum_with_minimizer_image_never_attracts_in_even_dimension() -> None:
    rng = np.random.default_rng(2)
    for _ in range(500):
        d = int(rng.choice([2, 4, 6]))
        root, c = rng.normal(size=(d, d)), rng.normal(size=(d - 1, d - 1))
        m = np.eye(d)
        m[:-1, :-1], m[:-1, -1] = -c @ c.T, 5 * rng.normal(size=d - 1)
        eig = np.linalg.eigvals(root @ root.T @ m)
        assert np.prod(eig).real < 0
        assert (eig.real < 0).any()


def test_twenty_nine_of_seventy_two_from_two_hessians() -> None:
    """Near D a pair attracts iff k = tᵀH_cH_*t > 0 and q det H_c det H_* > 0 (d = 2)."""
    fn = Numeric(HIMMELBLAU, (X, Y))
    points = himmelblau_points(fn)
    predicted, observed, agree = 0, 0, 0
    for c, s, dist, n in ordered_pairs(points):
        t = np.array([-n[1], n[0]])
        hc, hs = fn.hess(c), fn.hess(s)
        q, k = n @ np.linalg.solve(hc, n), t @ hc @ hs @ t
        last = q * np.linalg.det(hc) * np.linalg.det(hs) / k
        rho = dist - np.sign(q) * 1e-4
        x, _ = fn.from_pair(c, s, rho)
        eig = np.linalg.eigvals(fn.linearisation(x, rho))
        small, large = sorted(eig, key=abs)
        scale = rho / np.linalg.norm(fn.grad(x))
        assert large.real == pytest.approx(k * scale, rel=0.05)
        assert small.real == pytest.approx(last, rel=0.05)
        predicted += k > 0 and last > 0
        observed += min(eig.real) > 0
        agree += (k > 0 and last > 0) == (min(eig.real) > 0)
    assert (predicted, observed, agree) == (29, 29, 72)


def test_sweep_window_of_the_plane_double_well() -> None:
    """x_h = (ρ − 1, 0): η_max = 2σ/(1 + σ), σ = s(1 − s), s = ρ − 1; η = 1/10 needs σ > 1/19."""
    s = sp.symbols("s", positive=True)
    for value in (R(1, 5), R(1, 2), R(9, 10), R(1, 19)):
        loc = local(NO_MAXIMIZER, (X, Y), (value, 0), 1 + value)
        sigma = value * (1 - value)
        assert sp.diag(2, 1 + 1 / sigma) == loc.A
        assert sp.Min(1, 2 * sigma / (1 + sigma)) == eta_max(loc.A)
    ends = sp.solve(s * (1 - s) - R(1, 19), s)
    assert {sp.simplify(e) for e in ends} == {
        R(1, 2) - sp.sqrt(R(15, 19)) / 2,
        R(1, 2) + sp.sqrt(R(15, 19)) / 2,
    }


# ---- manifolds ------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3])
def test_ring(d: int) -> None:
    """f = (‖x‖² − 1)²/4: for 1 < ρ < 2 the ring of radius ρ − 1 with A = 2 e_r e_rᵀ."""
    names = (X, Y, Z)[:d]
    f = (sum(v**2 for v in names) - 1) ** 2 / 4
    direction = sp.Matrix([R(3, 5), R(4, 5)] + [0] * (d - 2))
    for rho in (R(5, 4), R(3, 2), R(19, 10)):
        loc = local(f, names, (rho - 1) * direction, rho)
        assert loc.image == -direction
        assert 2 * direction * direction.T == loc.A
        assert (1 - rho / (rho - 1)) * sp.eye(d - 1) == loc.S
        assert loc.S.det() != 0
    for rho in (
        R(1, 4),
        R(3, 4),
    ):  # below R = 1 a ring with the maximizer as image
        loc = local(f, names, rho * direction, rho)
        assert loc.image == sp.zeros(d, 1)
        assert all(sp.re(v) < 0 for v in loc.A.eigenvals() if v != 0)
    for rho in (2, R(5, 2)):  # none with image on the minimum ring
        assert (
            gradient(f, names)
            .subs(dict(zip(names, (rho - 1) * direction, strict=True)))
            .dot(direction)
            >= 0
        )


def test_ring_attracts_normally() -> None:
    """Nearby starts converge to the ring, at the angle they came with, up to sign."""
    fn = Numeric((X**2 + Y**2 - 1) ** 2 / 4, (X, Y))
    rng = np.random.default_rng(0)
    for angle in rng.uniform(0, 2 * np.pi, 20):
        e = np.array([np.cos(angle), np.sin(angle)])
        x = 0.7 * e
        for _ in range(400):
            x = fn.step(x, 1.2, 0.1)
        assert np.allclose(x, 0.2 * e, atol=1e-12)
        assert np.linalg.norm(fn.grad(x)) == pytest.approx(0.192, abs=1e-10)


def test_zero_that_is_not_semisimple() -> None:
    """H_* = zzᵀ, S = 1, b = −2, z = (1, 1)/√2: A is nilpotent, so nothing attracts normally."""
    z = sp.Matrix([1, 1]) / sp.sqrt(2)
    a = z * z.T * sp.Matrix([[1, -2], [0, 1]])
    assert a != sp.zeros(2, 2)
    assert sp.simplify(a * a) == sp.zeros(2, 2)


# ---- the double well on the line ------------------------------------------------------------


def line_step(x: np.ndarray, rho: float = 1.2, eta: float = 0.1) -> np.ndarray:
    """SAM on (x² − 1)²/4, written out: ∇f(x⁺) with x⁺ = x ± ρ, or x at a critical point."""
    plus = x + rho * np.sign(x * x * x - x)
    return x - eta * (plus * plus * plus - plus)


def test_line_multipliers() -> None:
    second = sp.diff(LINE, X, 2)
    assert 1 - ETA * second.subs(X, 0) == 1 + ETA
    assert 1 - ETA * second.subs(X, -1) == 1 - 2 * ETA
    assert 1 - ETA * second.subs(X, 1) == 1 - 2 * ETA


def test_line_surrogate_pieces_and_where_it_jumps() -> None:
    rho = sp.symbols("rho", positive=True)
    for value in (0.3, 1.2, 1.7):
        for lo, hi, sign in [(-3, -1, -1), (-1, 0, 1), (0, 1, -1), (1, 3, 1)]:
            x = np.linspace(lo, hi, 101)[1:-1]
            plus = x + value * np.sign(x**3 - x)
            assert np.allclose((plus**2 - 1) ** 2, ((x + sign * value) ** 2 - 1) ** 2)
    left, right = LINE.subs(X, 1 - rho), LINE.subs(X, 1 + rho)
    assert sp.factor(right - left) == 2 * rho**3  # it jumps at ±1
    assert sp.expand(LINE.subs(X, rho) - LINE.subs(X, -rho)) == 0  # it does not jump at 0


def test_line_interval_01_flows_to_the_hallucinated_point() -> None:
    """T is increasing on (0, 1), maps it into [33/625, 613/625] and has the one fixed point 1/5."""
    rho, eta = R(6, 5), R(1, 10)
    step = X - eta * sp.diff(LINE, X).subs(X, X - rho)
    slope = sp.diff(step, X)
    assert slope.subs(X, 0) > 0
    assert slope.subs(X, 1) > 0  # concave in between: positive throughout
    assert sp.diff(slope, X, 2) < 0
    assert (step.subs(X, 0), step.subs(X, 1)) == (R(33, 625), R(613, 625))
    assert [r for r in sp.solve(step - X, X) if 0 < r < 1] == [R(1, 5)]


def test_line_thresholds() -> None:
    """a₁, a₂, a₃ and x_c as roots of cubics, 14 digits."""
    t = sp.symbols("t")

    def largest(poly: sp.Expr) -> sp.Float:
        return max(sp.Poly(poly, t).nroots(n=40), key=sp.re)

    # T(x) = 11t/10 − t³/10 − 6/5 with t = x + 6/5 on x > 1
    a, last = [], sp.Integer(0)
    for _ in range(12):
        last = largest(t**3 - 11 * t + 12 - 10 * last) - R(6, 5)
        a.append(last)
    known = ["1.2836116205439072", "2.1539960586019787", "2.4861937955576269"]
    for value, digits in zip(a, known, strict=False):
        assert abs(value - sp.Float(digits, 30)) < 1e-15
    x_c = largest(t**3 - 21 * t + 24) - R(6, 5)
    assert abs(x_c - sp.Float("2.6407268605529774", 30)) < 1e-15
    assert all(p < q < x_c for p, q in itertools.pairwise(a))
    assert x_c - a[-1] < 1e-5
    slope = R(11, 10) - R(3, 10) * (x_c + R(6, 5)) ** 2
    assert slope < -1  # ±x_c is a repelling 2-cycle


def test_line_portrait() -> None:
    a1, a2, a3, x_c = 1.2836116205439072, 2.1539960586019787, 2.4861937955576269, 2.6407268605529774
    bands = [(0, 1, 0.2), (1, a1, 0.2), (a1, a2, -0.2), (a2, a3, 0.2)]
    for lo, hi, end in bands:
        x = np.linspace(lo, hi, 2003)[1:-1]
        for sign in (1, -1):
            y = sign * x
            for _ in range(600):
                y = line_step(y)
            assert np.allclose(y, sign * end, atol=1e-9)
    x = np.random.default_rng(0).uniform(-x_c, x_c, 10000)
    for _ in range(800):
        x = line_step(x)
    assert np.allclose(np.abs(x), 0.2, atol=1e-9)
    out = np.array([x_c + 1e-6, -x_c - 1e-6])
    for _ in range(16):
        out = line_step(out)
    assert (np.abs(out) > 1e3).all()


def test_line_portrait_in_a_whole_region_of_radii_and_steps() -> None:
    """1 < ρ < 2, η(3ρ² − 1) < 1, ηρ(ρ + 1)(ρ + 2) < 2: ±(ρ − 1) inside (−x_c, x_c), ∞ outside."""
    rng = np.random.default_rng(3)
    tried = 0
    while tried < 60:
        rho, eta = rng.uniform(1.02, 1.98), rng.uniform(0.02, 0.5)
        if eta * (3 * rho**2 - 1) >= 1 or eta * rho * (rho + 1) * (rho + 2) >= 2:
            continue
        tried += 1
        roots = np.roots([eta, 0, -eta - 2, 2 * rho])  # η(t³ − t) = 2(t − ρ)
        above = roots[np.isreal(roots) & (roots.real > 1 + rho)].real
        assert len(above) == 1
        x_c = above[0] - rho
        x = rng.uniform(-x_c, x_c, 300)
        for _ in range(int(40 / eta)):
            x = line_step(x, rho, eta)
        assert np.allclose(np.abs(x), rho - 1, atol=1e-9)
        out = x_c * np.array([1 + 1e-6, 1.01, 1.3])
        for _ in range(300):
            bounded = np.abs(out) < 1e3
            out[bounded] = -line_step(out[bounded], rho, eta)
        assert (np.abs(out) >= 1e3).all()


def test_line_countably_many_starts_do_reach_a_true_minimizer() -> None:
    """T(x) = −1 for x + 6/5 the largest root of t³ − 11t + 2: 'no start' needs 'but countably'."""
    t = sp.symbols("t")
    root = max(sp.Poly(t**3 - 11 * t + 2, t).nroots(n=50), key=sp.re)
    x = root - R(6, 5)
    assert 1.2836116205439072 < x < 2.1539960586019787
    assert abs(x - R(1, 10) * ((x + R(6, 5)) ** 3 - (x + R(6, 5))) + 1) < 1e-40
    assert line_step(np.array([-1.0]))[0] == -1  # and there it stays


# ---- the exact gradient of the surrogate ----------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("f", "x", "rho"), [row[1:] for row in PLANE], ids=[r[0] for r in PLANE])
def test_exact_descent_attracts_where_h_star_and_det_s_allow(f: Any, x: Any, rho: Any) -> None:
    """Hess f^SAM(x_h) = MᵀH_*M, from two derivatives of f(x + ρ∇f/‖∇f‖) itself."""
    g = gradient(f, (X, Y))
    shifted = sp.Matrix([X, Y]) + rho * g / sp.sqrt(g.dot(g))
    surrogate = f.subs({X: shifted[0], Y: shifted[1]}, simultaneous=True)
    loc = local(f, (X, Y), x, rho)
    star = at(sp.hessian(f, (X, Y)), (X, Y), tuple(loc.image))
    first = [sp.diff(surrogate, v) for v in (X, Y)]
    place = {X: x[0], Y: x[1]}
    hess = sp.Matrix(2, 2, lambda i, j: sp.diff(first[i], (X, Y)[j]).subs(place))
    assert sp.simplify(sp.Matrix(first).subs(place)) == sp.zeros(2, 1)
    assert sp.simplify(hess - loc.M.T * star * loc.M) == sp.zeros(2, 2)
    assert hess.is_positive_definite == star.is_positive_definite


def test_exact_gradient_formula() -> None:
    """∇f^SAM = (I + (ρ/‖g‖) H P) ∇f(x⁺), symbolically, where ‖∇f‖ is rational."""
    f, rho = X - X**3 / 3 - Y**2 / 2 + X**2 * Y, R(1, 2)
    g = gradient(f, (X, Y))
    norm = sp.sqrt(g.dot(g))
    shifted = sp.Matrix([X, Y]) + rho * g / norm
    surrogate = f.subs({X: shifted[0], Y: shifted[1]}, simultaneous=True)
    correction = sp.eye(2) + rho / norm * sp.hessian(f, (X, Y)) * (sp.eye(2) - g * g.T / norm**2)
    formula = correction * g.subs({X: shifted[0], Y: shifted[1]}, simultaneous=True)
    for place in ({X: 0, Y: 0}, {X: 2, Y: 0}, {X: R(1, 2), Y: R(1, 3)}):
        direct = sp.Matrix([sp.diff(surrogate, v).subs(place) for v in (X, Y)])
        assert (direct - formula.subs(place)).norm().evalf(30) < 1e-25


def test_exact_descent_has_a_zero_of_its_own() -> None:
    """surrogate-trap at x = 0, ρ = 1: ∇f(x⁺) = (0, 1) and M = diag(1, 0), so ∇f^SAM = 0."""
    f = X - X**3 / 3 - Y**2 / 2 + X**2 * Y
    loc = local(f, (X, Y), (0, 0), 1)
    assert loc.image == sp.Matrix([1, 0])
    force = at(gradient(f, (X, Y)), (X, Y), tuple(loc.image))
    assert force == sp.Matrix([0, 1])
    assert sp.diag(1, 0) == loc.M
    assert loc.M.T * force == sp.zeros(2, 1)


def test_exact_descent_stays_at_the_twist_that_repels_sam() -> None:
    fn = Numeric(TWIST, (X, Y))

    def exact_step(x: np.ndarray) -> np.ndarray:
        g = fn.grad(x)
        n = np.linalg.norm(g)
        p = np.eye(2) - np.outer(g, g) / n**2
        return x - 0.03 * (np.eye(2) + fn.hess(x) @ p / n) @ fn.grad(x + g / n)

    x = np.array([1.001, 0.0005])
    for _ in range(8000):
        x = exact_step(x)
    assert np.allclose(x, [1, 0], atol=1e-7)
    y = np.array([1.001, 0.0005])
    for _ in range(500):
        y = fn.step(y, 1.0, 0.01)
        if np.linalg.norm(y - [1, 0]) > 0.05:
            break
    assert np.linalg.norm(y - [1, 0]) > 0.05
