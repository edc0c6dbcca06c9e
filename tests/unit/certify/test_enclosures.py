"""The enclosures against exact rationals and many bits: each theorem restated by itself."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

flint = pytest.importorskip("flint")
from flint import arb, fmpq  # noqa: E402

from samlib.certify.ball_arithmetic import ball, balls, precision  # noqa: E402
from samlib.certify.enclosures import (  # noqa: E402
    Discs,
    Inertia,
    ShiftedGradient,
    _eigenbasis,
    contraction,
    defect,
    discs,
    inertia,
    krawczyk,
    plain,
    two_norm,
)
from samlib.errors import BadInput  # noqa: E402


@pytest.fixture(autouse=True)
def bits() -> Any:
    with precision(128):
        yield


def exactly(values: Any) -> Any:
    """Balls around fractions."""
    raw = np.asarray(values, dtype=object)
    out = np.empty(raw.size, dtype=object)
    out[:] = [ball(Fraction(v)) for v in raw.ravel()]
    return out.reshape(raw.shape)


def wide(values: Any, radius: Any) -> Any:
    """Balls of one radius, or of one each."""
    middle = exactly(values)
    radii = np.broadcast_to(np.asarray(radius, dtype=float), middle.shape)
    out = np.empty(middle.size, dtype=object)
    out[:] = [m + arb(0, float(r)) for m, r in zip(middle.ravel(), radii.ravel(), strict=True)]
    return out.reshape(middle.shape)


def holds(enclosure: Any, exact: Any) -> bool:
    """Whether all balls hold their number, a fraction or a narrower ball."""
    numbers = np.asarray(exact, dtype=object).ravel()
    numbers = [v if isinstance(v, arb) else ball(Fraction(v)) for v in numbers]
    pairs = zip(np.asarray(enclosure, dtype=object).ravel(), numbers, strict=True)
    return all(a.contains(b.mid()) for a, b in pairs)


def radii(enclosure: Any) -> Any:
    return np.array([float(v.rad()) for v in np.asarray(enclosure, dtype=object).ravel()])


def numbers(enclosure: Any) -> Any:
    a = np.asarray(enclosure, dtype=object)
    return np.array([float(v.mid()) for v in a.ravel()]).reshape(a.shape)


# ---- kinds --------------------------------------------------------------------------------------


def test_an_inertia_names_the_critical_point() -> None:
    assert Inertia(2, 0).kind == "minimizer"
    assert Inertia(0, 2).kind == "maximizer"
    assert Inertia(1, 1).kind == "saddle"
    assert Inertia(3, 1).kind == "saddle"
    assert tuple(Inertia(2, 1)) == (2, 1, 0)


# ---- F over a box -------------------------------------------------------------------------------


class Cubic:
    """x³/3 + x²y + y² + 2x − y/2 + xy, its derivatives written out; sums of them are exact."""

    @staticmethod
    def ball_grad(z: Any) -> Any:
        x, y = z
        return [x * x + 2 * x * y + 2 + y, x * x + 2 * y - arb(fmpq(1, 2)) + x]

    @staticmethod
    def ball_hess(z: Any) -> Any:
        x, y = z
        return [[2 * x + 2 * y, 2 * x + 1], [2 * x + 1, arb(2)]]


def at_point(x: Any, rho: Any) -> dict[str, Any]:
    """Everything at one exact point, at 300 bits."""
    with precision(300):
        g, h = np.array(Cubic.ball_grad(x)), np.array(Cubic.ball_hess(x))
        norm = (g[0] * g[0] + g[1] * g[1]).sqrt()
        u = g / norm
        image = np.array([x[0] + rho * u[0], x[1] + rho * u[1]])
        across = np.array([[1 - u[0] * u[0], -u[0] * u[1]], [-u[0] * u[1], 1 - u[1] * u[1]]])
        shift = np.array([[rho / norm * sum(across[i, k] * h[k, j] for k in (0, 1)) + int(i == j)
                           for j in (0, 1)] for i in (0, 1)])  # fmt: skip
        there = np.array(Cubic.ball_hess(image))
        product = np.array(
            [[sum(there[i, k] * shift[k, j] for k in (0, 1)) for j in (0, 1)] for i in (0, 1)]
        )
        return {"norm": np.array([norm]), "M": shift, "image": image, "H_image": there,
                "A": product, "value": np.array(Cubic.ball_grad(image))}  # fmt: skip


NAMES = ("norm", "M", "image", "H_image", "A")


@pytest.mark.parametrize("radius", [0.0, 1e-12, 1e-4, 1e-2, 0.05])
@pytest.mark.parametrize("seed", range(4))
def test_the_enclosures_over_a_box_hold_at_its_points(seed: int, radius: float) -> None:
    rng = np.random.default_rng(seed)
    middle = [Fraction(int(v), 1000) for v in rng.integers(-2000, 2000, 2)]
    rho = Fraction(int(rng.integers(1, 3000)), 1000)
    f = ShiftedGradient(Cubic(), ball(rho))
    found = f.over(exactly(middle), radius)
    steps = [(s, t) for s in (-1, 0, 1) for t in (-1, 0, 1)]  # corners, sides and the middle
    steps += [tuple(rng.uniform(-1, 1, 2)) for _ in range(4)]
    for step in steps:
        x = [ball(m + Fraction(radius) * Fraction(s)) for m, s in zip(middle, step, strict=True)]
        exact = at_point(x, ball(rho))
        for name in NAMES:
            assert holds(getattr(found, name), exact[name]), (name, step)
    # not by being wide: in proportion to the box, and to the rounding
    for name in NAMES if radius < 0.02 else ():
        assert radii(getattr(found, name)).max() < 3000 * radius + 1e-30


def test_a_mean_value_form_is_narrow() -> None:
    """The image of a box of radius r is |M| r wide, to first order."""
    x, r = [Fraction(1), Fraction(0)], 1e-6
    f = ShiftedGradient(Cubic(), arb(1))
    found = f.over(exactly(x), r)
    slope = np.abs(numbers(f.over(exactly(x), 0.0).M)).sum(1)
    np.testing.assert_allclose(radii(found.image), slope * r, rtol=1e-4)
    g = np.array([3, 1.5])  # and the norm's at most |uᵀH|
    turned = np.abs(g / np.linalg.norm(g) @ [[2, 3], [3, 2]]).sum()
    assert radii([found.norm])[0] <= 2 * turned * r


def test_the_value_is_the_gradient_at_the_shifted_point() -> None:
    f = ShiftedGradient(Cubic(), ball(Fraction(7, 5)))
    for x in ([Fraction(1), Fraction(1, 3)], [Fraction(-3, 2), Fraction(2)]):
        exact = at_point(exactly(x), ball(Fraction(7, 5)))
        for found, name in ((f.shifted(exactly(x)), "image"), (f.value(exactly(x)), "value")):
            assert holds(found, exact[name])
            assert radii(found).max() < 1e-30


@pytest.mark.parametrize("rho", [0, -1, math.nan, "ball"])
def test_a_radius_is_positive(rho: Any) -> None:
    rho = arb(1, 1) if rho == "ball" else rho
    with pytest.raises(BadInput, match=r"rho = .* is not a number in \(0, ∞\)"):
        ShiftedGradient(Cubic(), rho)
    assert ShiftedGradient(Cubic(), 0.5).rho == 0.5


# ---- zeros --------------------------------------------------------------------------------------


def random_fractions(rng: np.random.Generator, *shape: int) -> Any:
    return np.array([Fraction(int(v), 64) for v in rng.integers(-99, 99, shape).ravel()]).reshape(
        shape
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_defect_is_the_exact_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    w, a = random_fractions(rng, 3, 3), random_fractions(rng, 3, 3)
    found = defect(w.astype(float), exactly(a))
    assert holds(found, np.abs(np.eye(3, dtype=int) - w @ a))
    assert radii(found).max() < 1e-30


def test_krawczyk_is_sharp() -> None:
    """|W·F| + |I − W·DF|·r < r in each coordinate, and not in one that just fails."""
    w = np.diag([0.5, 0.25])
    a = [[Fraction(5, 2), Fraction(1, 2)], [Fraction(-1), 4]]  # defect [[1/4, 1/4], [1/4, 0]]

    def test(x: Any, y: Any, r: float) -> bool:
        return krawczyk(exactly([x, y]), exactly(a), w, r)

    tiny = Fraction(1, 10**9)
    for r in (1.0, 0.5, 8.0):
        x, y = Fraction(r), 3 * Fraction(r)  # |W·F| of r/2 and 3r/4: both at the edge
        assert test(x - tiny, y - tiny, r)
        assert test(-x + tiny, -y + tiny, r)
        assert not test(x + tiny, y - tiny, r)
        assert not test(x - tiny, y + tiny, r)
        assert not test(-x - tiny, 0, r)
        assert not test(0, -y - tiny, r)
        assert not test(x, 0, r)  # equality is no proof: the zero may lie on the boundary
    assert not test(0, 0, 0.0)


def test_krawczyk_needs_a_regular_derivative() -> None:
    """x ↦ x² − 1/4 on ±1 has two zeros, and x ↦ 0 has all."""
    two = wide([[0]], 2.0)
    assert not krawczyk(exactly([Fraction(-1, 4)]), two, np.array([[1.0]]), 1.0)
    assert not krawczyk(exactly([0]), exactly([[0]]), np.array([[1.0]]), 1.0)
    assert not krawczyk(exactly([0]), wide([[1]], 1.5), np.array([[1.0]]), 1.0)
    assert krawczyk(exactly([0]), wide([[1]], 0.5), np.array([[1.0]]), 1.0)


@pytest.mark.parametrize("seed", range(6))
def test_krawczyk_finds_the_one_zero_of_a_linear_map(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, zero = random_fractions(rng, 3, 3) + 3 * np.eye(3, dtype=int), random_fractions(rng, 3)
    w = np.linalg.inv(a.astype(float))
    value = exactly(-(a @ zero))  # F(0) for F(x) = A(x − zero)
    size = float(np.abs(zero.astype(float)).max())
    assert krawczyk(value, exactly(a), w, size * 1.001)
    assert not krawczyk(value, exactly(a), w, size * 0.999)


def perron(d: Any) -> float:
    return float(np.abs(np.linalg.eigvals(d)).max())


@pytest.mark.parametrize("seed", range(8))
def test_the_contraction_is_the_perron_root(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 6))
    d = rng.uniform(0.1, 1, (n, n)) * 2.0 ** rng.integers(-3, 3, (n, n))
    d *= rng.uniform(0.5, 2) / perron(d)
    signs = rng.choice([-1.0, 1.0], (n, n))
    j = np.eye(n) - d * signs
    found = contraction(np.eye(n), balls(j))
    root = perron(np.abs(np.eye(n) - j))
    assert root <= found <= 1.02 * root
    # the same spread over a middle and a radius
    found = contraction(np.eye(n), wide(np.eye(n) + d * signs / 4, 3 * d / 4))
    assert perron(d) * (1 - 1e-6) <= found <= 1.02 * perron(d)


def test_the_contraction_of_uneven_scales() -> None:
    """[[1/10, 4], [1/16, 1/10]] has the root 3/5, and a row sum of 4.1."""
    j = np.array([[0.9, -4], [-0.0625, 0.9]])
    assert 0.6 <= contraction(np.eye(2), balls(j)) < 0.61
    w = np.array([[0.5, 0.25], [0.0, 0.125]])
    assert contraction(w, balls(np.linalg.inv(w))) < 1e-12


def test_the_contraction_where_only_the_radii_are_uneven() -> None:
    """|I − J| is at most the matrix above: the sum of [[.1, 2], [1/32, .1]] and the radii."""
    j = [[0.9, -2], [-0.03125, 0.9]]
    found = contraction(np.eye(2), wide(np.array(j), [[0, 2.0], [0.03125, 0]]))
    assert 0.6 <= found < 0.61


@pytest.mark.parametrize("seed", range(40))
def test_the_contraction_is_a_bound_where_the_powers_turn_around(seed: int) -> None:
    """Near a permutation of the axes, uneven in scale, no vector is found near Perron's."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 6))
    turn = np.roll(np.eye(n), 1, 0) if seed % 2 else rng.permutation(np.eye(n))
    d = turn * 2.0 ** rng.integers(-6, 6, (n, n))
    d += (rng.random((n, n)) < 0.15) * rng.uniform(0, 0.1, (n, n))
    assert contraction(np.eye(n), balls(np.eye(n) - d)) >= perron(d) * (1 - 1e-9)


def test_the_contraction_of_the_inverse_itself_is_zero() -> None:
    assert 0 <= contraction(np.eye(3), balls(np.eye(3))) < 1e-300
    assert contraction(np.diag([0.5, 2.0]), balls(np.diag([2.0, 0.5]))) < 1e-300


def test_a_contraction_below_one_excludes_the_singular() -> None:
    for r in (0.4, 0.49, 0.5, 0.51, 0.6):
        m = wide([[1, 0], [0, 1]], r)  # holds [[1/2, 1/2], [1/2, 1/2]] from r = 1/2 on
        assert (contraction(np.eye(2), m) < 1) == (r < 0.5)
    assert contraction(np.eye(2), balls([[1.0, math.nan], [0, 1]])) == math.inf
    assert contraction(np.eye(2), balls([[1.0, math.inf], [0, 1]])) == math.inf


# ---- inertia ------------------------------------------------------------------------------------


@pytest.mark.parametrize("signs", [(1, 1, 1), (1, -1, 1), (-1, -1, 1), (-1, -1, -1)])
@pytest.mark.parametrize("seed", range(3))
def test_the_inertia_of_a_congruence(signs: Any, seed: int) -> None:
    """PᵀDP has the signs of D (Sylvester); P is an integer matrix, so this is exact."""
    rng = np.random.default_rng(seed)
    p = np.tril(rng.integers(-3, 4, (3, 3)), -1) + np.eye(3, dtype=int)
    d = np.diag([Fraction(s * int(rng.integers(1, 9)), 16) for s in signs])
    found = inertia(exactly(p.T @ d @ p))
    assert found == Inertia(signs.count(1), signs.count(-1))
    assert all(type(v) is int for v in found)


def test_an_inertia_is_shared_by_the_whole_enclosure() -> None:
    for a in (Fraction(1, 4), Fraction(3)):
        for sign in (1, -1):
            below = inertia(wide([[sign * a]], float(a) * 0.999))
            assert below == (Inertia(1, 0) if sign > 0 else Inertia(0, 1))
            for factor in (1.0, 1.001, 1.5):
                assert inertia(wide([[sign * a]], float(a) * factor)) is None
    # each row by itself, and all of it: [[1, r], [r, 1]] is singular for r = 1
    assert inertia(wide(np.eye(3, dtype=int), np.diag([0.9, 0.9, 0.9]))) == Inertia(3, 0)
    square = np.eye(2, dtype=int)
    assert inertia(wide(square, [[0, 0.99], [0.99, 0]])) == Inertia(2, 0)
    assert inertia(wide(square, [[0, 1.01], [1.01, 0]])) is None
    assert inertia(wide(square, [[0.5, 0.51], [0.51, 0]])) is None
    assert inertia(wide([[2, 0], [0, -2]], [[0, 1.99], [1.99, 0]])) == Inertia(1, 1)


def test_an_inertia_of_the_singular_or_of_no_number_is_none() -> None:
    assert inertia(exactly([[1, 2], [2, 4]])) is None
    assert inertia(exactly([[0]])) is None
    assert inertia(exactly([[1, 0], [0, 0]])) is None
    assert inertia(balls([[1.0, 0], [0, math.nan]])) is None


def test_the_middle_of_an_enclosure_need_not_be_symmetric() -> None:
    found = inertia(wide([[1, Fraction(1, 2)], [Fraction(-1, 4), 1]], [[0, 0.3], [0.5, 0]]))
    assert found in (None, Inertia(2, 0))
    middle = [[Fraction(1), Fraction(2, 10)], [Fraction(1, 10), Fraction(-1)]]
    assert inertia(wide(middle, 0.1)) == Inertia(1, 1)


# ---- discs --------------------------------------------------------------------------------------


def some(centres: Any, radii: Any, sizes: Any = None, error: Any = 0, cond: Any = 1) -> Discs:
    size = np.ones(len(centres), int) if sizes is None else np.array(sizes)
    return Discs(
        np.array(centres, dtype=complex), size, exactly(radii), exactly(error).item(),
        exactly(cond).item(),
    )  # fmt: skip


def test_the_leftmost_point_of_discs() -> None:
    found = some([2 + 5j, 3, 1.5], [1, Fraction(5, 2), Fraction(1, 4)], [2, 1, 1])
    assert 0 <= Fraction(1, 2) - Fraction(found.real_part) < Fraction(1, 10**12)
    found = some([-2, 3], [1, 1])
    assert 0 <= -3 - Fraction(found.real_part) < Fraction(1, 10**12)
    bad = Discs(np.array([2 + 0j]), np.ones(1, int), balls([math.nan]), arb(0), arb(1))
    assert bad.real_part == -math.inf


def test_how_many_eigenvalues_lie_to_the_left() -> None:
    assert some([-2, 3], [1, 1]).left == 1
    assert some([-2 + 1j, 3, -1], [1, 1, Fraction(1, 2)], [2, 1, 1]).left == 3
    assert some([2 + 1j, 3], [1, 1], [2, 1]).left == 0
    assert some([-2, 3], [1, 3]).left is None  # touches the axis
    assert some([-2, 3], [2, 1]).left is None
    assert some([-2, 3], [Fraction(5, 2), 1]).left is None
    assert some([-0.5, 0.5], [Fraction(1, 4), Fraction(1, 4)]).left == 1


@pytest.mark.parametrize(
    ("c", "r"), [(2 + 0j, 0), (2 + 3j, 1), (0.5 + 0.25j, Fraction(1, 4)), (1 - 2j, Fraction(3, 4))]
)
def test_the_largest_rate_for_a_disc(c: complex, r: Any) -> None:
    """Up to it, all of the disc is drawn in: |1 − ηz| < 1 for all |z − c| ≤ r."""
    found = some([c], [r], [2])
    a, b, r = Fraction(c.real), Fraction(c.imag), Fraction(r)
    exact = 2 * (a - r) / (a * a + b * b - r * r)
    assert found.eta_max is not None
    assert 0 <= exact - Fraction(found.eta_max) < Fraction(1, 10**12)
    rim = c + float(r) * np.exp(1j * np.linspace(0, 2 * np.pi, 2000))
    # the sharper norm bound |1 − ηc| + ηr is what the formula is for
    assert abs(1 - found.eta_max * c) + found.eta_max * float(r) == pytest.approx(1)
    assert np.abs(1 - 0.999 * found.eta_max * rim).max() < 1


def test_the_smallest_of_the_rates() -> None:
    found = some([1, 4, 2 + 2j], [0, 0, 0], [1, 1, 2])
    assert found.eta_max == pytest.approx(0.5)
    assert some([0.5, 0.25], [0, 0]).eta_max == pytest.approx(4)
    assert some([1, -4], [0, 0]).eta_max is None
    assert some([1, 4], [1, 0]).eta_max is None
    assert some([1, 4], [2, 0]).eta_max is None


def test_discs_around_a_change() -> None:
    found = some([1, 4 + 1j], [0, 1], [1, 2], Fraction(1, 4), 3).around(ball(Fraction(1, 2)))
    assert holds(found.radii, [Fraction(7, 4)] * 2)
    assert holds([found.error], [Fraction(7, 4)])
    assert holds([found.condition], [3])
    np.testing.assert_array_equal(found.centres, [1, 4 + 1j])
    np.testing.assert_array_equal(found.sizes, [1, 2])


def similar(rng: np.random.Generator, blocks: Any, entries: int = 3) -> Any:
    """An exact matrix P D P⁻¹ in floats, P of integers with determinant 1."""
    n = len(blocks)
    p = np.eye(n, dtype=int)
    q = np.eye(n, dtype=int)
    for _ in range(2 * n):
        i, j = rng.choice(n, 2, replace=False)
        k = int(rng.integers(-entries, entries + 1))
        p[i] += k * p[j]
        q[:, j] -= k * q[:, i]
    assert (p @ q == np.eye(n)).all()
    return p @ np.asarray(blocks) @ q


PAIR = [[1.0, 2.0, 0, 0], [-2.0, 1.0, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, -0.5]]
CASES = {
    "real": (np.diag([1.0, 2.0, 4.0, -0.5]), [1, 2, 4, -0.5]),
    "pair": (np.array(PAIR), [1 + 2j, 3, -0.5]),
    "multiple": (np.diag([2.0, 2.0, 2.0, 1.0]), [2, 1]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(8))
def test_discs_hold_the_spectrum(name: str, seed: int) -> None:
    blocks, values = CASES[name]
    matrix = similar(np.random.default_rng(seed), blocks)
    found = discs(balls(matrix))
    assert found is not None
    assert found.sizes.sum() == 4
    assert sorted(found.sizes) == ([1, 1, 2] if name == "pair" else [1, 1, 1, 1])
    for value in values:
        gaps = np.abs(found.centres - value)
        assert gaps.min() < 1e-6
        k = int(gaps.argmin())
        offset = (arb(found.centres[k].real) - value.real) ** 2
        offset += (arb(found.centres[k].imag) - value.imag) ** 2
        assert bool(offset.sqrt() <= found.radii[k])
    assert all(bool(r < 1e-4) for r in found.radii)
    for c, size in zip(found.centres, found.sizes, strict=True):
        assert (c.imag > 0) == (size == 2)


def in_many_bits(matrix: Any) -> tuple[Any, Any, Any]:
    """V⁻¹AV to 400 bits for the float basis V that discs uses, V, and the sizes of its blocks."""
    from flint import arb_mat

    v, sizes = _eigenbasis(matrix)
    n = len(v)
    basis = arb_mat(n, n, [arb(t) for t in v.ravel().tolist()])
    back = basis.inv()
    near = back * arb_mat(n, n, [arb(t) for t in matrix.ravel().tolist()]) * basis
    return np.array(near.entries(), dtype=object).reshape(n, n), v, sizes


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(8))
def test_radii_error_and_condition_are_bounds(name: str, seed: int) -> None:
    """What is off the blocks, rounding of V⁻¹ included, is at most what is said of it."""
    matrix = similar(np.random.default_rng(seed), CASES[name][0])
    found = discs(balls(matrix))
    assert found is not None
    with precision(400):
        near, v, sizes = in_many_bits(matrix)
        start = 0
        for c, size, r in zip(found.centres, sizes, found.radii, strict=True):
            block = np.array([[c.real, c.imag], [-c.imag, c.real]])[:size, :size]
            near[start : start + size, start : start + size] -= balls(block)
            rows = np.abs(near[start : start + size]).sum()
            assert bool(rows.lower() <= r)
            start += int(size)
        # ‖E‖₂ is at least each column's length
        for column in near.T:
            assert bool(sum(v.abs_lower() ** 2 for v in column).sqrt() <= found.error)
        assert found.error < 1e-4
    cond = np.linalg.cond(v)
    assert float(found.condition.upper()) >= cond * (1 - 1e-9)
    assert float(found.condition.upper()) <= 4 * cond


@pytest.mark.parametrize("seed", range(60))
def test_the_rounding_of_the_basis_is_allowed_for(seed: int) -> None:
    """A symmetric matrix of order 2: all bounds are sharp but for the rounding of V and V⁻¹."""
    matrix = np.random.default_rng(seed).normal(size=(2, 2))
    matrix += matrix.T
    found = discs(balls(matrix))
    assert found is not None
    with precision(400):
        near, v, sizes = in_many_bits(matrix)
        assert sizes.tolist() == [1, 1]
        near[np.diag_indices(2)] -= balls(found.centres.real)
        for row, r in zip(np.abs(near), found.radii, strict=True):
            assert bool(sum(e.abs_lower() for e in row) <= r)
        for column in near.T:
            assert bool(sum(e.abs_lower() ** 2 for e in column).sqrt() <= found.error)
        (a, b), (c, d) = balls(v)  # the two singular values from their squares' sum and product
        total, area = a * a + b * b + c * c + d * d, abs(a * d - b * c)
        cond = (total + (total * total - 4 * area * area).sqrt()) / (2 * area)
        assert bool(cond.mid() <= found.condition.upper())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_discs_hold_the_spectra_of_a_wide_enclosure(name: str, seed: int) -> None:
    rng, radius = np.random.default_rng(seed), 1e-3
    matrix = similar(rng, CASES[name][0], 1)
    found = discs(wide(matrix, radius))
    assert found is not None
    reach = np.array([float(r.upper()) for r in found.radii])
    for _ in range(60):
        step = radius * rng.choice([-1.0, 1.0], matrix.shape)
        for value in np.linalg.eigvals(matrix + step):
            value = complex(value.real, abs(value.imag))
            assert (np.abs(found.centres - value) <= reach * (1 + 1e-9)).any()
        size = np.linalg.norm(np.linalg.solve(v := _eigenbasis(matrix)[0], step @ v), 2)
        assert size <= float(found.error.upper())
    assert reach.max() < 1


def test_discs_of_a_symmetric_matrix_are_as_wide_as_the_matrix() -> None:
    """Over diag(1, 4) ± r each row of V⁻¹AV varies by 2r, and so does the norm."""
    found = discs(wide(np.diag([1, 4]), 0.125))
    assert found is not None
    np.testing.assert_allclose(sorted(found.centres.real), [1, 4], atol=1e-12)
    np.testing.assert_allclose([float(r.upper()) for r in found.radii], 0.25, rtol=1e-6)
    assert float(found.error.upper()) == pytest.approx(0.25, rel=1e-6)
    assert float(found.condition.upper()) == pytest.approx(1, rel=1e-6)
    turned = discs(wide([[1, 2], [-2, 1]], 0.125))
    assert turned is not None
    np.testing.assert_allclose(turned.centres, [1 + 2j], atol=1e-12)
    np.testing.assert_allclose(turned.sizes, [2])
    # both rows of a block are summed up; LAPACK's vectors have length 1 together
    assert 0.24 <= float(turned.radii[0].upper()) <= 0.51


def test_no_discs_without_a_basis_of_eigenvectors() -> None:
    assert discs(balls([[1.0, math.nan], [0, 1]])) is None
    jordan = discs(balls([[1.0, 1.0], [0, 1]]))  # discs allow for the 1 beside the diagonal
    assert jordan is None or all(bool(r >= 1) for r in jordan.radii[:1])


@pytest.mark.parametrize("seed", range(6))
def test_an_eigenspace_gets_an_orthonormal_basis(seed: int) -> None:
    """A double or triple eigenvalue, real or of pairs, with a well-conditioned basis at hand."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(7, 7)))[0]
    skew = np.eye(7) + 0.1 * rng.normal(size=(7, 7))
    blocks = np.diag([2.0, 2.0, 2.0, 5.0, 5.0, -1.0, 0.0])
    basis, sizes = _eigenbasis(q @ skew @ blocks @ np.linalg.inv(q @ skew))
    assert sizes.tolist() == [1] * 7
    assert np.linalg.cond(basis) < 5 * np.linalg.cond(skew)
    near = np.linalg.inv(basis) @ (q @ skew @ blocks @ np.linalg.inv(q @ skew)) @ basis
    np.testing.assert_allclose(near, np.diag(np.diag(near)), atol=1e-12)
    pairs = np.zeros((7, 7))
    for k in (0, 2):
        pairs[k : k + 2, k : k + 2] = [[1, 3], [-3, 1]]
    pairs[4:6, 4:6], pairs[6, 6] = [[0.5, 1], [-1, 0.5]], 2
    matrix = q @ skew @ pairs @ np.linalg.inv(q @ skew)
    basis, sizes = _eigenbasis(matrix)
    assert sorted(sizes) == [1, 2, 2, 2]
    assert np.linalg.cond(basis) < 20 * np.linalg.cond(skew)
    near, start = np.linalg.inv(basis) @ matrix @ basis, 0
    for size in sizes:
        block = near[start : start + size, start : start + size].copy()
        near[start : start + size, start : start + size] = 0
        if size == 2:
            np.testing.assert_allclose(block[0, 0], block[1, 1], atol=1e-11)
            np.testing.assert_allclose(block[0, 1], -block[1, 0], atol=1e-11)
        start += size
    np.testing.assert_allclose(near, 0, atol=1e-11)


def off_blocks(basis: Any, sizes: Any, matrix: Any) -> float:
    near, start = np.linalg.inv(basis) @ matrix @ basis, 0
    for size in sizes:
        near[start : start + size, start : start + size] = 0
        start += size
    return float(np.abs(near).max())


def test_an_eigenspace_is_accurate_where_the_eigenvectors_are_almost_parallel() -> None:
    """A triangle of 1e-15 beside equal eigenvalues: LAPACK's vectors differ in the last bits."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        a = np.diag([2.0, 2, 2, 5, -1, 0.5])
        a[:3, :3] += 1e-15 * np.triu(rng.uniform(1, 2, (3, 3)), 1)
        a[3:, :3] = rng.normal(size=(3, 3))
        basis, sizes = _eigenbasis(a)
        assert sizes.tolist() == [1] * 6
        assert off_blocks(basis, sizes, a) < 2e-14
        assert np.linalg.cond(basis) < 10
        a = np.zeros((6, 6))
        a[:2, :2] = a[2:4, 2:4] = [[1, 3], [-3, 1]]
        a[:2, 2:4] = 1e-15 * rng.uniform(0.5, 2) * a[:2, :2]
        a[4:, 4:] = np.diag([2, -1])
        a[4:, :4] = rng.normal(size=(2, 4))
        basis, sizes = _eigenbasis(a)
        assert sorted(sizes) == [1, 1, 2, 2]
        assert off_blocks(basis, sizes, a) < 2e-14
        assert np.linalg.cond(basis) < 10


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_what_is_one_eigenvalue_is_judged_by_the_scale(scale: float) -> None:
    rng = np.random.default_rng(0)
    s = np.eye(4) + 0.2 * rng.normal(size=(4, 4))
    matrix = scale * (s @ np.diag([1.0, 1.0, 1.001, -2.0]) @ np.linalg.inv(s))
    basis, sizes = _eigenbasis(matrix)
    assert off_blocks(basis, sizes, matrix) < 1e-10 * scale
    assert np.linalg.cond(basis) < 50
    turning = scale * (
        s[:3, :3] @ [[1, 1e-3, 0], [-1e-3, 1, 0], [0, 0, 2]] @ np.linalg.inv(s[:3, :3])
    )
    basis, sizes = _eigenbasis(turning)
    assert sorted(sizes) == [1, 2]
    assert off_blocks(basis, sizes, turning) < 1e-10 * scale


def test_a_preconditioner_has_no_entries_of_mere_rounding() -> None:
    for scale in (1.0, 1e-20, -1e20):
        given = scale * np.array([[1.0, -2e-31], [-0.25, 3e-30]])
        np.testing.assert_array_equal(plain(given), scale * np.array([[1, 0], [-0.25, 3e-30]]))


# ---- norms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_two_norm_is_bounded_by_rows_and_columns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = random_fractions(rng, 3, 4)
    rows = max(sum(abs(v) for v in row) for row in a)
    columns = max(sum(abs(v) for v in column) for column in a.T)
    found = two_norm(exactly(a))
    assert holds([found * found], [rows * columns])
    assert float(found.upper()) >= np.linalg.norm(a.astype(float), 2)
    # of every matrix in an enclosure
    found = two_norm(wide(a, 0.5))
    exact = (rows + 2) * (columns + Fraction(3, 2))
    assert float(found.upper()) == pytest.approx(math.sqrt(exact), rel=1e-6)
