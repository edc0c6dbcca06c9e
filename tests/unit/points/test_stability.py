"""samlib.points.stability against what is known by other means, on functions made to measure.

Near x_h and near its image x⁺ the functions here are quadratics that can be chosen freely, so that
A = H_*(I + (ρ/‖g‖)(I − uuᵀ)H_h), its spectrum and SAM's map itself are known independently.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.sparse.linalg import LinearOperator

from samlib.errors import BadInput
from samlib.points.stability import (
    Classification,
    _extremes,
    _minres,
    _verdict,
    classify,
    critical_kind,
)

RHO = 1.5


class Glued:
    """g·v + ½vᵀHv with v = x near 0, and ½wᵀH_*w with w = x − x⁺ near x⁺ = ρg/‖g‖."""

    def __init__(self, g: Any, here: Any, there: Any, products: bool = False) -> None:
        self.g, self.here, self.there = (np.asarray(v, dtype=float) for v in (g, here, there))
        self.dim = len(self.g)
        self.image = RHO * self.g / np.linalg.norm(self.g)
        if products:
            self.hvp = lambda x, v: (self.here if self._first(x) else self.there) @ v

    def _first(self, x: Any) -> Any:
        return np.linalg.norm(x, axis=-1) < np.linalg.norm(x - self.image, axis=-1)

    def grad(self, x: Any) -> Any:
        x = np.asarray(x)
        near, far = self.g + x @ self.here, (x - self.image) @ self.there
        return np.where(self._first(x)[..., None], near, far)

    def hess(self, x: Any) -> Any:
        x = np.asarray(x)
        return np.where(self._first(x)[..., None, None], self.here, self.there)

    def step(self, x: Any, eta: float) -> Any:
        """One step of SAM."""
        g = self.grad(x)
        return x - eta * self.grad(x + RHO * g / np.linalg.norm(g))


def jacobian(f: Glued, eta: float) -> Any:
    """The Jacobian of SAM's map at 0, by central differences."""
    h = 1e-6
    columns = [(f.step(h * e, eta) - f.step(-h * e, eta)) / (2 * h) for e in np.eye(f.dim)]
    return np.array(columns).T


def symmetric(rng: np.random.Generator, d: int) -> Any:
    m = rng.normal(size=(d, d))
    return (m + m.T) / 2


# ---- the matrices -------------------------------------------------------------------------------


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_jacobian_is_that_of_the_map(seed: int, products: bool) -> None:
    rng = np.random.default_rng(seed)
    f = Glued(rng.normal(size=4), symmetric(rng, 4), symmetric(rng, 4) + np.eye(4), products)
    c = classify(f, np.zeros(4), RHO)
    np.testing.assert_allclose(c.jacobian(0.3), jacobian(f, 0.3), atol=1e-7)
    np.testing.assert_allclose(np.eye(4) - 0.3 * c.A, c.jacobian(0.3), atol=1e-14)
    np.testing.assert_allclose(c.image, f.image, atol=1e-12)
    np.testing.assert_array_equal(c.grad, f.g)
    np.testing.assert_array_equal(c.x, np.zeros(4))
    assert c.grad_norm == pytest.approx(math.sqrt(float(f.g @ f.g)))
    assert c.rho == RHO


@pytest.mark.parametrize("seed", range(3))
def test_s_is_the_hessian_on_the_sphere_around_the_image(seed: int) -> None:
    """Along a great circle through x_h, f has the second derivative (‖g‖/ρ) vᵀSv."""
    rng = np.random.default_rng(seed)
    f = Glued(rng.normal(size=3), symmetric(rng, 3), np.eye(3))
    c = classify(f, np.zeros(3), RHO)
    u, norm = f.g / np.linalg.norm(f.g), np.linalg.norm(f.g)
    across = np.linalg.svd(u[None])[2][1:]  # rows: another basis of the tangent space

    def along(v: Any, t: float) -> float:
        x = f.image + RHO * (-u * math.cos(t / RHO) + v * math.sin(t / RHO))
        return float(f.g @ x + x @ f.here @ x / 2)

    def curved(v: Any) -> float:
        h = 1e-3
        return (along(v, h) - 2 * along(v, 0) + along(v, -h)) / h**2

    second = np.empty((2, 2))
    for i, v in enumerate(across):
        for j, w in enumerate(across):
            plus, minus = curved((v + w) / np.sqrt(2)), curved((v - w) / np.sqrt(2))
            second[i, j] = curved(v) if i == j else (plus - minus) / 2
    assert c.S.shape == (2, 2)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(c.S), np.linalg.eigvalsh(RHO / norm * second), atol=1e-5
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_eigenvalues_are_sorted_and_those_of_the_map(seed: int) -> None:
    rng = np.random.default_rng(seed)
    f = Glued(rng.normal(size=5), symmetric(rng, 5), symmetric(rng, 5))
    c = classify(f, np.zeros(5), RHO)
    expected = np.linalg.eigvals((np.eye(5) - jacobian(f, 0.5)) / 0.5)
    assert len(c.eigenvalues) == 5
    assert (np.diff(c.eigenvalues.real) >= 0).all()
    for value in expected:
        assert np.abs(c.eigenvalues - value).min() < 1e-6
    if not np.any(np.abs(expected.imag) > 1e-6):
        assert c.eigenvalues.dtype == float


# ---- kinds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eigenvalues", "kind"),
    [
        ([1, 2], "minimizer"),
        ([-1, -2], "maximizer"),
        ([-1, 2], "saddle"),
        ([2, -1], "saddle"),
        ([0, 1], "degenerate"),
        ([0, -1, 1], "degenerate"),
        ([0, 0], "degenerate"),
        ([1.1e-9, -1], "saddle"),  # just above and just below 1e-9 of the largest
        ([0.9e-9, -1], "degenerate"),
        ([1.1e-9, 1], "minimizer"),
        ([0.9e-9, 1], "degenerate"),
        ([-1.1e-9, -1], "maximizer"),
        ([1.1e-6, 1e3], "minimizer"),  # relative
        ([0.9e-6, 1e3], "degenerate"),
        ([1e-12, 1e-10], "minimizer"),
        ([0.5, 0.7], "minimizer"),
    ],
)
def test_a_critical_point_is_named_after_its_eigenvalues(eigenvalues: Any, kind: str) -> None:
    assert critical_kind(np.array(eigenvalues, dtype=float)) == kind


def verdict(values: Any, zero: Any = None, semisimple: bool = True) -> Any:
    values = np.array(values)
    mask = np.zeros(len(values), dtype=bool)
    mask[[] if zero is None else zero] = True
    return _verdict(values, mask, semisimple)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 2.0], "attracting"),
        ([0.2 + 5j, 0.2 - 5j, 3], "attracting"),
        ([-1.0, -0.5], "repelling"),
        ([-1.0, 2.0], "saddle"),
        ([-1.0, 0.5], "saddle"),
        ([1j, -1j], "repelling"),  # |1 − iη| > 1 for each η > 0
        ([1j, -1j, 1.0], "saddle"),
        ([1.1e-10, 1.0], "attracting"),  # the edge is at 1e-10 of the largest
        ([0.9e-10, 1.0], "saddle"),
        ([1.1e-8, 100.0], "attracting"),
        ([0.9e-8, 100.0], "saddle"),
        ([1e-12, 3e-12], "attracting"),
    ],
)
def test_kinds_without_a_zero(values: Any, kind: str) -> None:
    found, eta_max, normally = verdict(values)
    assert found == kind
    assert normally is False
    if kind == "attracting":
        assert eta_max == pytest.approx(min(2 * v.real / abs(v) ** 2 for v in np.array(values)))
        for v in values:  # what the bound means
            assert abs(1 - 0.999 * eta_max * v) < 1
        assert max(abs(1 - 1.001 * eta_max * v) for v in values) > 1
    else:
        assert eta_max is None


def test_kinds_with_zeros() -> None:
    assert verdict([0.0, 4.0, 1.0], [0]) == ("neutral", 0.5, True)
    assert verdict([0.0, 0.0, 4.0], [0, 1]) == ("neutral", 0.5, True)
    assert verdict([0.0, 4.0], [0], semisimple=False) == ("neutral", None, False)
    assert verdict([0.0, -4.0], [0]) == ("repelling", None, False)
    assert verdict([0.0, -4.0, 1.0], [0]) == ("saddle", None, False)
    assert verdict([0.0, 0.0], [0, 1]) == ("neutral", None, False)  # nothing attracts
    # what counts as zero is the mask's to say, and is left out of the bound
    assert verdict([1e-9, 2.0], [0]) == ("neutral", 1.0, True)
    assert verdict([-1e-9, 2.0], [0]) == ("neutral", 1.0, True)


def along_x(here: Any, there: Any, products: bool = False) -> Classification:
    """With ∇f = (ρ, 0, …) the matrix A is H_*(I + (I − e₁e₁ᵀ)H_h)."""
    return classify(
        Glued([RHO, *[0.0] * (len(here) - 1)], here, there, products), [0.0] * len(here), RHO
    )


@pytest.mark.parametrize("products", [False, True])
def test_kinds_of_points(products: bool) -> None:
    two, one = np.diag([2.0, 4.0]), np.eye(2)
    c = along_x(np.zeros((2, 2)), two, products)
    assert (c.kind, c.image_kind, c.normally_attracting) == ("attracting", "minimizer", False)
    assert c.eta_max == pytest.approx(0.5)
    c = along_x(np.diag([7.0, -3.0]), np.diag([2.0, -4.0]), products)  # A = diag(2, 8)
    assert (c.kind, c.image_kind) == ("attracting", "saddle")
    assert c.eta_max == pytest.approx(0.25)
    c = along_x(np.diag([7.0, -3.0]), two, products)  # A = diag(2, -8)
    assert (c.kind, c.image_kind, c.eta_max) == ("saddle", "minimizer", None)
    c = along_x(np.zeros((2, 2)), -two, products)
    assert (c.kind, c.image_kind, c.eta_max) == ("repelling", "maximizer", None)
    c = along_x(np.diag([0.0, -1.0]), one, products)  # A = diag(1, 0)
    assert (c.kind, c.image_kind, c.normally_attracting) == ("neutral", "minimizer", True)
    assert c.eta_max == pytest.approx(2)
    c = along_x(np.zeros((2, 2)), np.diag([1.0, 0.0]), products)
    assert (c.kind, c.image_kind, c.normally_attracting) == ("neutral", "degenerate", True)


def test_a_defective_zero_attracts_nothing() -> None:
    here, there = np.diag([0.0, -1, 0]), np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])
    c = along_x(here, there)
    np.testing.assert_allclose(c.A, [[1, 0, 0], [0, 0, 1], [0, 0, 0]], atol=1e-15)
    assert (c.kind, c.normally_attracting, c.eta_max) == ("neutral", False, None)
    # SAM's map does not settle: along a Jordan block it drifts
    x = np.linalg.matrix_power(c.jacobian(0.1), 1000) @ [0, 0, 1.0]
    assert x[1] == pytest.approx(-100)


@pytest.mark.parametrize("seed", range(5))
def test_a_defective_zero_is_found_in_any_basis(seed: int) -> None:
    """Rotated, its rounded eigenvalues lie on a ring of radius about 1e-8, and not at 0."""
    rng = np.random.default_rng(seed)
    d = 5
    q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    here, there = np.zeros((d, d)), np.diag(rng.uniform(1, 2, d))
    here[2, 2] = -1.0
    there[2:4, 2:4] = [[0, 1], [1, 0]]
    f = Glued(RHO * q[0], q.T @ here @ q, q.T @ there @ q)
    c = classify(f, np.zeros(d), RHO)
    assert (c.kind, c.normally_attracting, c.eta_max) == ("neutral", False, None)
    here[2, 2], there[2:4, 2:4] = -1.0, np.eye(2)  # the same with a semisimple 0
    c = classify(Glued(RHO * q[0], q.T @ here @ q, q.T @ there @ q), np.zeros(d), RHO)
    assert (c.kind, c.normally_attracting) == ("neutral", True)
    smallest = np.diag(there)[[0, 1, 3, 4]]
    assert c.eta_max == pytest.approx(2 / smallest.max())


def jordan(scale: float, ends: Any, seed: int = 0) -> Classification:
    """A defective zero, the other eigenvalues, and all that turned and scaled."""
    d = 2 + len(ends)
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]
    here, there = np.zeros((d, d)), np.diag([*ends, 0.0, 0.0])
    here[-2, -2] = -1.0
    there[-2:, -2:] = [[0, 1], [1, 0]]
    return classify(Glued(RHO * q[0], q.T @ here @ q, scale * q.T @ there @ q), np.zeros(d), RHO)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_zeros_are_counted_by_the_scale_of_the_matrix(scale: float) -> None:
    for ends, kind in (
        ([1.0, 2.0], "neutral"),
        ([-1.0, 2.0], "saddle"),
        ([-1.0, -2.0], "repelling"),
        ([1.0, 1e-2], "neutral"),
        ([1e-2, -1e-2], "saddle"),
    ):
        c = jordan(scale, ends)
        assert (c.kind, c.normally_attracting, c.eta_max) == (kind, False, None)


def test_where_all_is_zero_nothing_is_said() -> None:
    c = along_x(np.zeros((2, 2)), np.zeros((2, 2)))
    assert (c.kind, c.image_kind, c.normally_attracting) == ("neutral", "degenerate", False)
    assert c.eta_max is None


@pytest.mark.parametrize("seed", range(3))
def test_two_semisimple_zeros_attract_normally(seed: int) -> None:
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    here = np.diag([0, -1.0, -1.0, 1.0, 2.0])
    f = Glued(RHO * q[0], q.T @ here @ q, np.eye(5))
    c = classify(f, np.zeros(5), RHO)
    assert (c.kind, c.normally_attracting) == ("neutral", True)
    assert c.eta_max == pytest.approx(2 / 3)


def test_what_counts_as_a_zero_of_a() -> None:
    """1e-11 of the largest singular value, and in the signs 1e-10 of the largest modulus."""
    kinds = {
        8e-12: ("neutral", True),
        1.2e-11: ("saddle", False),  # too large for zero, too small for a sign
        9e-11: ("saddle", False),
        1.2e-10: ("attracting", False),
        1e-6: ("attracting", False),
        -8e-12: ("neutral", True),
        -1e-6: ("saddle", False),
    }
    for small, expected in kinds.items():
        c = along_x(np.zeros((2, 2)), np.diag([3.0, 3.0 * small]))
        assert (c.kind, c.normally_attracting) == expected, small


# ---- refusals -----------------------------------------------------------------------------------


def test_what_is_not_hallucinated_is_refused() -> None:
    f = Glued([0.0, 2.0], np.eye(2), 2 * np.eye(2))
    assert classify(f, [0.0, 0.0], RHO).kind == "attracting"
    with pytest.raises(BadInput, match=r"critical point of f itself"):
        classify(f, [0.0, RHO], RHO)
    with pytest.raises(BadInput, match=r"‖∇f\(x_h\)‖ = 1e-08 must be positive"):
        classify(f, [0.5e-8, RHO], RHO)
    with pytest.raises(BadInput, match=r"not hallucinated for rho = 1\.2: x⁺ = \[0\. +1\.2\]"):
        classify(f, [0.0, 0.0], 1.2)
    with pytest.raises(BadInput, match=r"rho = 0 is not a number in \(0, ∞\)"):
        classify(f, [0.0, 0.0], 0)
    with pytest.raises(BadInput, match=r"x_h has shape \(3,\)"):
        classify(f, [0.0, 0.0, 0.0], RHO)
    with pytest.raises(BadInput, match=r"x_h = \[nan  0\.\] is not finite"):
        classify(f, [math.nan, 0.0], RHO)


def test_a_small_gradient_is_enough() -> None:
    c = classify(Glued([0.0, 2e-8], np.zeros((2, 2)), np.eye(2)), [0.0, 0.0], RHO)
    assert c.kind == "attracting"
    with pytest.raises(BadInput, match=r"∇f\(x_h\)‖ = nan"):
        classify(Glued([0.0, math.nan], np.eye(2), np.eye(2)), [0.0, 0.0], RHO)


# ---- without matrices, above 300 variables ------------------------------------------------------

D = 301


def large(here: Any, there: Any) -> tuple[Glued, Classification]:
    """Diagonal Hessians, and a gradient along the diagonal of the first two axes."""
    f = Glued([3.0, 4.0, *[0.0] * (D - 2)], np.diag(here), np.diag(there), products=True)
    return f, classify(f, np.zeros(D), RHO)


def formed(f: Glued) -> tuple[Any, Any]:
    """A, and S with an eigenvalue 1 along the normal."""
    u = f.g / np.linalg.norm(f.g)
    across = np.eye(D) - np.outer(u, u)
    bent = RHO / np.linalg.norm(f.g) * f.here
    return f.there @ (np.eye(D) + across @ bent), np.eye(D) + across @ bent @ across


def test_operators_are_the_matrices() -> None:
    rng = np.random.default_rng(0)
    f, c = large(rng.uniform(-1, 1, D), rng.uniform(1, 2, D))
    a, s = formed(f)
    v = rng.normal(size=D)
    np.testing.assert_allclose(c.A @ v, a @ v, atol=1e-12)
    np.testing.assert_allclose(c.S @ v, s @ v, atol=1e-12)
    np.testing.assert_allclose(c.jacobian(0.2) @ v, v - 0.2 * (a @ v), atol=1e-12)
    np.testing.assert_allclose(c.A @ v[:, None], (a @ v)[:, None], atol=1e-12)
    for operator in (c.A, c.S, c.jacobian(0.2)):
        assert operator.shape == (D, D)
        assert operator.dtype == float
    np.testing.assert_allclose(c.image, f.image, atol=1e-12)
    np.testing.assert_array_equal(c.grad, f.g)
    assert (c.grad_norm, c.rho) == (5, RHO)
    np.testing.assert_array_equal(c.x, np.zeros(D))


def spread(*ends: float) -> Any:
    """Values between 1 and 2, with the first few replaced from the third axis on."""
    values = np.linspace(1, 2, D)
    values[2 : 2 + len(ends)] = ends
    return values


@pytest.mark.slow
def test_kinds_without_matrices() -> None:
    f, c = large(np.zeros(D), spread(5.0, 0.1))
    assert (c.kind, c.image_kind, c.normally_attracting) == ("attracting", "minimizer", False)
    assert c.eta_max == pytest.approx(0.4)
    for value in (5.0, 0.1):
        assert np.abs(c.eigenvalues - value).min() < 1e-8
    assert (np.diff(c.eigenvalues.real) >= 0).all()

    f, c = large(np.zeros(D), spread(5.0, -0.1))
    assert (c.kind, c.image_kind, c.eta_max) == ("saddle", "saddle", None)
    f, c = large(np.zeros(D), -spread(5.0))
    assert (c.kind, c.image_kind, c.eta_max) == ("repelling", "maximizer", None)
    bent = np.zeros(D)
    bent[3] = -5 / RHO * 2  # turns the sign of one coordinate of A
    f, c = large(bent, spread(5.0, -0.1))
    assert (c.kind, c.image_kind) == ("attracting", "saddle")
    np.testing.assert_allclose(formed(f)[0][3, 3], 0.1)
    f, c = large(bent, spread(5.0, 0.1))
    assert (c.kind, c.image_kind) == ("saddle", "minimizer")


def test_a_zero_without_matrices_is_neutral_and_no_more_is_said() -> None:
    _, c = large(np.zeros(D), spread(5.0, 0.0))
    assert (c.kind, c.image_kind, c.normally_attracting) == ("neutral", "degenerate", False)
    assert c.eta_max is None
    bent = np.zeros(D)
    bent[3] = -5 / RHO  # S is singular, H_* is not
    _, c = large(bent, spread(5.0, 0.5))
    assert (c.kind, c.image_kind, c.normally_attracting) == ("neutral", "minimizer", False)


def test_a_small_scale_is_not_a_zero() -> None:
    _, c = large(np.zeros(D), 1e-4 * spread(5.0, 0.001))
    assert (c.kind, c.image_kind) == ("attracting", "minimizer")
    assert c.eta_max == pytest.approx(4000)


def test_three_hundred_variables_are_the_last_with_matrices() -> None:
    f = Glued([1.0, *[0.0] * 299], np.zeros((300, 300)), np.eye(300), products=True)
    assert isinstance(classify(f, np.zeros(300), RHO).A, np.ndarray)


# ---- eigenvalues of operators -------------------------------------------------------------------


def operator(matrix: Any) -> LinearOperator:
    return LinearOperator(matrix.shape, matvec=lambda v: matrix @ np.ravel(v), dtype=float)


def test_minres_solves_to_rounding() -> None:
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.normal(size=(60, 60)))[0]
    matrix = q.T @ np.diag(np.geomspace(1e-2, 1, 60) * (-1) ** np.arange(60)) @ q
    matrix = (matrix + matrix.T) / 2
    x = rng.normal(size=60)
    np.testing.assert_allclose(_minres(operator(matrix), matrix @ x), x, atol=1e-9)


def test_extremes_find_the_ends_of_a_spectrum() -> None:
    rng = np.random.default_rng(1)
    d = 120
    q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    values = np.linspace(1, 2, d)
    values[:4] = [9, 7, 0.01, 0.03]
    matrix = q.T @ np.diag(values) @ q
    found = _extremes(operator(matrix), operator(np.linalg.inv(matrix)))
    assert len(found) <= 6
    assert (np.diff(found.real) >= 0).all()
    for value in values[:4]:
        assert np.abs(found - value).min() < 1e-7
    assert all(np.abs(values - v).min() < 1e-5 for v in found)
    # far to the left, of neither the largest nor the smallest modulus
    values[4:6] = [-3, -4]
    matrix = q.T @ np.diag(values) @ q
    found = _extremes(operator(matrix), operator(np.linalg.inv(matrix)))
    for value in values[:6]:
        assert np.abs(found - value).min() < 1e-5
    # where the inverse is none, 0 is among them
    values[2] = 0
    matrix = q.T @ np.diag(values) @ q
    found = _extremes(operator(matrix), operator(np.linalg.pinv(matrix)))
    assert 0 in found
    for value in (9, 7, -3, -4):
        assert np.abs(found - value).min() < 1e-5


def diagonal(values: Any) -> LinearOperator:
    return LinearOperator((len(values),) * 2, matvec=lambda v: values * np.ravel(v), dtype=float)


def test_extremes_are_accurate_where_eigenvalues_crowd() -> None:
    values = np.linspace(1, 2, 200)
    found = _extremes(diagonal(values), diagonal(1 / values))
    np.testing.assert_allclose(found[-2:], values[-2:], atol=1e-7)
    for value in values[:2]:
        assert np.abs(found - value).min() < 1e-4
    values = np.linspace(-3, 5, 400)  # the leftmost are neither the largest nor the nearest to 0
    found = _extremes(diagonal(values), diagonal(1 / values))
    np.testing.assert_allclose(found[:2], values[:2], atol=1e-4)
    for value in (*values[-2:], *np.sort(np.abs(values))[:2]):
        assert np.abs(np.abs(found) - value).min() < 1e-4


def test_extremes_do_without_a_left_end_that_does_not_show() -> None:
    values = np.concatenate([np.geomspace(1e-4, 1, 600), [2.0, 3.0]])
    found = _extremes(diagonal(values), diagonal(1 / values))
    for value in (3.0, 2.0, *values[:2]):
        assert np.abs(found - value).min() < 1e-3 * value
    assert (np.diff(found.real) >= 0).all()


def test_extremes_take_an_inverse_that_is_one_to_three_digits() -> None:
    values = np.linspace(1, 2, 100)
    values[:2] = [0.1, 0.2]
    found = _extremes(diagonal(values), diagonal((1 + 1e-4) / values))
    assert found.real.min() == pytest.approx(0.1, rel=2e-4)
    found = _extremes(diagonal(values), diagonal(1.01 / values))
    assert 0 in found
