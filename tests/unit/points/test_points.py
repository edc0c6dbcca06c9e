"""Hallucinated points found, followed and classified: the numbers of theory §1, §2, §5 and §6."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from samlib import Landscape
from samlib.certify.exact_network import NetworkLoss
from samlib.dynamics import trajectories
from samlib.errors import BadInput
from samlib.landscapes import protocol, symbolic
from samlib.points import lagrange, search
from samlib.points.continuation import continue_in_rho
from samlib.points.search import critical_points, find_hallucinated, refine, two_point_guess
from samlib.points.stability import classify, critical_kind
from samlib.training.torch_loss import TorchLoss

Array = Any
TEN_DIGITS = 1e-10


def ascend(landscape: Any, x: Array, rho: float) -> tuple[float, Array, float]:
    """‖∇f(x)‖, x⁺ and ‖∇f(x⁺)‖, from the definition."""
    g = landscape.grad(np.asarray(x))
    norm = float(np.sqrt(np.sum(g * g)))
    plus = x + rho * g / norm
    return norm, plus, float(np.sqrt(np.sum(landscape.grad(plus) ** 2)))


def assert_hallucinated(landscape: Any, p: search.HallucinatedPoint) -> None:
    norm, plus, residual = ascend(landscape, p.x, p.rho)
    assert norm > 1e-6
    assert residual <= 1e-10
    assert_allclose(plus, p.image, atol=1e-9)
    assert p.grad_norm == pytest.approx(norm, rel=1e-12)


def xs(found: list[search.HallucinatedPoint]) -> list[list[float]]:
    return [p.x.tolist() for p in found]


def only(found: list[search.HallucinatedPoint]) -> search.HallucinatedPoint:
    assert len(found) == 1
    return found[0]


# ---- on the line ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rho", "image", "expected"),
    [
        (0.5, 0, [-0.5, 0.5]),
        (0.5, 1, []),
        (1.0, 0, []),
        (1.0, -1, []),
        (1.2, -1, [0.2]),
        (1.2, 1, [-0.2]),
        (1.2, 0, []),
        (1.999, -1, [0.999]),
        (2.0, -1, []),
        (2.0, 1, []),
        (3.0, 1, []),
    ],
)
def test_double_well_is_complete(rho: float, image: int, expected: list[float]) -> None:
    """Theory §3: ±ρ with image 0 below 1, ±(ρ − 1) with image ∓1 between 1 and 2, none else."""
    found = find_hallucinated(symbolic.landscape("double-well"), [image], rho)
    assert_allclose([p.x[0] for p in found], expected, atol=1e-15)


def test_double_well_multipliers() -> None:
    """1 + η at ±ρ (repelling) and 1 − 2η at ±(ρ − 1) (attracting for η < 1)."""
    well = symbolic.landscape("double-well")
    c = classify(well, [0.5], 0.5)
    assert c.kind == "repelling"
    assert c.image_kind == "maximizer"
    assert c.eta_max is None
    assert_allclose(c.jacobian(0.3), [[1.3]], rtol=1e-15)
    c = classify(well, [0.2], 1.2)
    assert c.kind == "attracting"
    assert c.image_kind == "minimizer"
    assert c.eta_max == pytest.approx(1, rel=1e-15)
    assert_allclose(c.jacobian(0.3), [[0.4]], rtol=1e-14)
    assert c.S.shape == (0, 0)


@pytest.mark.parametrize("rho", np.linspace(1.01, 1.99, 15))
def test_maximizer_interval_is_all_of_1_to_2(rho: float) -> None:
    """d = 1 from the maximizer 0 to the image −1, ρ̄ → 2: one for every ρ in (1, 2)."""
    assert_allclose(
        xs(find_hallucinated(symbolic.landscape("double-well"), [-1], rho)), [[rho - 1]]
    )


class Counterexample:
    """f′ = −x³sin²(1/x) for x > 0, −x³(x + 1) for x ≤ 0: f is C² with maximizer 0."""

    dim = 1

    def grad(self, x: Array) -> Array:
        safe = np.where(x > 0, x, 1.0)
        return np.where(x > 0, -(safe**3) * np.sin(1 / safe) ** 2, -(x**3) * (x + 1))

    def hess(self, x: Array) -> Array:
        safe = np.where(x > 0, x, 1.0)
        right = -3 * safe**2 * np.sin(1 / safe) ** 2 + safe * np.sin(2 / safe)
        return np.where(x > 0, right, -4 * x**3 - 3 * x**2)[..., None]

    def f(self, x: Array) -> Array:
        return np.zeros(x.shape[:-1])  # not asked for


def test_counterexample_has_none_at_a_sequence_of_rho() -> None:
    """Theory §1: none with image −1 at ρ = 1 + 1/(kπ), though 0 is a maximizer at distance 1."""
    f = Counterexample()
    for k in range(1, 30):
        assert find_hallucinated(f, [-1.0], 1 + 1 / (k * np.pi)) == []
    for k in range(1, 6):  # between them there is one, at ρ − 1
        between = 1 / ((k + 0.5) * np.pi)
        p = only(find_hallucinated(f, [-1.0], 1 + between))
        assert p.x[0] == pytest.approx(between, abs=1e-15)
        assert p.grad_norm == pytest.approx(between**3, rel=1e-9)


# ---- exact examples ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "last", "image_kind", "eta_max"),
    [
        ("double-well-2d", 29 / 4, "minimizer", 8 / 29),
        ("double-well-saddle", 21 / 4, "saddle", 8 / 21),
    ],
)
def test_exact_examples_in_the_plane(
    name: str, last: float, image_kind: str, eta_max: float
) -> None:
    landscape = symbolic.landscape(name)
    p = next(p for p in find_hallucinated(landscape, [-1, 0], 6 / 5) if abs(p.x[1]) < 1e-9)
    assert_allclose(p.x, [1 / 5, 0], atol=1e-15)
    assert p.grad_norm == pytest.approx(24 / 125, rel=1e-14)
    c = classify(landscape, [1 / 5, 0], 6 / 5)
    assert_allclose(c.A, [[2, 0], [0, last]], atol=1e-13)
    assert_allclose(np.sort(c.eigenvalues), [2, last], rtol=1e-13)
    assert (c.kind, c.image_kind) == ("attracting", image_kind)
    assert c.eta_max == pytest.approx(eta_max, rel=1e-13)


def test_attracting_without_any_maximizer() -> None:
    found = critical_points(symbolic.landscape("double-well-2d"))
    assert sorted(c.kind for c in found) == ["minimizer", "minimizer", "saddle"]
    path = trajectories.trajectory(
        symbolic.landscape("double-well-2d"), np.array([0.5, 0.3]), 1.2, 0.1, 400
    )
    assert_allclose(path[-1], [0.2, 0], atol=1e-12)


def test_twist_is_a_constrained_minimum_that_repels_for_every_eta() -> None:
    twist = symbolic.landscape("twist")
    p = next(p for p in find_hallucinated(twist, [0, 0], 1) if p.x[0] > 0.999)
    assert_allclose(p.x, [1, 0], atol=1e-14)
    c = classify(twist, [1, 0], 1)
    assert_allclose(c.A, [[-4, 1], [-11, 2]], atol=1e-12)
    assert_allclose(c.eigenvalues, [-1 - 1j * 2**0.5, -1 + 1j * 2**0.5], rtol=1e-12)
    assert (c.kind, c.eta_max, c.image_kind) == ("repelling", None, "minimizer")
    assert c.S.shape == (1, 1)
    assert c.S[0, 0] > 0  # a minimum of f on the circle
    for eta in (1e-3, 0.1, 1.0):
        assert np.abs(np.linalg.eigvals(c.jacobian(eta))).min() > 1


def test_imaginary_eigenvalues_repel() -> None:
    """The twist with y²/2 more at x_h: A = [[−4, 2], [−11, 4]], λ = ±i√6, |1 − iη√6| > 1."""
    step = "(6*x**5 - 15*x**4 + 10*x**3)"
    expr = f"(-(x-1) - 6*(x-1)*y + y**2/2)*{step} + (x**2 + x*y + y**2)*(1 - {step})"
    c = classify(Landscape(expr, ["x", "y"]), [1, 0], 1)
    assert_allclose(c.A, [[-4, 2], [-11, 4]], atol=1e-12)
    assert (c.kind, c.eta_max) == ("repelling", None)


# ---- DT and A ------------------------------------------------------------------------------------

CUBIC = Landscape(
    "x**2 + y**2/2 + 3*z**2/4 + x*y*z - x**3/3 + y**2*z - x**4/20 - z**4/10 + x*z/2",
    ["x", "y", "z"],
)


def a_few_points() -> list[tuple[Any, search.HallucinatedPoint]]:
    """Hallucinated points in two and three variables, of images of several kinds."""
    himmelblau = symbolic.landscape("himmelblau")
    found = [
        (himmelblau, p)
        for c in critical_points(himmelblau)[::2]
        for p in find_hallucinated(himmelblau, c.x, 2.5)
    ]
    found += [(CUBIC, p) for rho in (2.0, 3.5) for p in find_hallucinated(CUBIC, [0, 0, 0], rho)]
    assert len({id(f) for f, _ in found}) == 2
    assert len(found) > 15
    return found


def test_jacobian_of_the_map() -> None:
    """DT(x_h) = I − ηA against torch's derivative of T and against differences."""
    eta = 0.07
    for landscape, p in a_few_points():
        c = classify(landscape, p.x, p.rho)

        def step(x: Array, f: Any = landscape, rho: float = p.rho) -> Array:
            g = f.grad(x)
            return x - eta * f.grad(x + rho * g / (g * g).sum() ** 0.5)

        exact = torch.autograd.functional.jacobian(step, torch.tensor(p.x)).numpy()
        size = np.abs(exact).max()
        assert_allclose(c.jacobian(eta), exact, atol=1e-9 * size)
        h = 1e-6 * min(1, p.grad_norm)
        eye = np.eye(landscape.dim)
        columns = [(step(p.x + h * e) - step(p.x - h * e)) / (2 * h) for e in eye]
        assert_allclose(c.jacobian(eta), np.transpose(columns), atol=1e-4 * size)


def test_determinant_and_eta_max() -> None:
    """det A = det H_* det S, and η_max is where the spectral radius of DT passes 1."""
    attracting = 0
    for landscape, p in a_few_points():
        c = classify(landscape, p.x, p.rho)
        expected = np.linalg.det(landscape.hess(p.image)) * np.linalg.det(c.S)
        assert np.linalg.det(c.A) == pytest.approx(expected, rel=1e-8)
        # S from its definition, in another basis: eigenvalues of I + (ρ/‖g‖) P H P on u^⊥
        u = landscape.grad(p.x) / p.grad_norm
        proj = np.eye(len(u)) - np.outer(u, u)
        full = proj + p.rho / p.grad_norm * proj @ landscape.hess(p.x) @ proj
        tangent = np.delete(np.linalg.eigvalsh(full), np.argmin(np.abs(np.linalg.eigvalsh(full))))
        assert_allclose(np.linalg.eigvalsh(c.S), tangent, rtol=1e-8, atol=1e-8)
        radius = {
            eta: np.abs(np.linalg.eigvals(c.jacobian(eta))).max() for eta in (1e-6, 1e-4, 1e-2)
        }
        if c.kind == "attracting":
            attracting += 1
            assert c.eta_max is not None
            below, above = (
                np.abs(np.linalg.eigvals(c.jacobian(s * c.eta_max))).max() for s in (0.999, 1.001)
            )
            assert below < 1 < above
        else:
            assert c.eta_max is None
            assert min(radius.values()) > 1
    assert attracting >= 3


def test_isotropic_image_attracts_iff_s_is_positive() -> None:
    """Theory §2, for H_* = αI."""
    f = Landscape("(x**2 + y**2)*(1 - x) - y**4 + x**2*y", ["x", "y"])
    kinds = set()
    for rho in np.linspace(0.8, 4, 15):
        for p in find_hallucinated(f, [0, 0], rho):
            c = classify(f, p.x, rho)
            kinds.add(c.kind)
            assert (c.kind == "attracting") == (c.S[0, 0] > 0)
    assert kinds == {"attracting", "saddle"}


def test_constrained_maximum_in_the_plane() -> None:
    """Never attracts if det H_* > 0 (det A < 0); with a saddle as image it can."""
    f = symbolic.landscape("himmelblau")
    nine = critical_points(f)
    top = next(c.x for c in nine if c.kind == "maximizer")
    for c in (c for c in nine if c.kind == "minimizer"):
        rho = float(np.linalg.norm(top - c.x)) + 0.01
        found = classify(f, refine(f, two_point_guess(f, top, c.x, rho), c.x, rho).x, rho)
        assert found.S[0, 0] < 0
        assert found.kind == "saddle"
    c = classify(symbolic.landscape("double-well-saddle"), [1 / 5, 0], 6 / 5)
    assert_allclose(c.S, [[-21 / 4]], rtol=1e-13)
    assert c.kind == "attracting"


# ---- two critical points suffice -----------------------------------------------------------------


@pytest.fixture(scope="module")
def nine() -> list[search.CriticalPoint]:
    return critical_points(symbolic.landscape("himmelblau"))


def test_himmelblau_has_nine_critical_points(nine: list[search.CriticalPoint]) -> None:
    kinds = [c.kind for c in nine]
    assert {k: kinds.count(k) for k in set(kinds)} == {"minimizer": 4, "saddle": 4, "maximizer": 1}
    known = [[3, 2], [-2.805118, 3.131312], [-3.779310, -3.283186], [3.584428, -1.848126]]
    minimizers = [c for c in nine if c.kind == "minimizer"]
    for point in known:
        assert min(np.linalg.norm(c.x - point) for c in minimizers) < 2e-6
    assert_allclose([c.value for c in minimizers], 0, atol=1e-20)
    for c in nine:
        assert np.linalg.norm(symbolic.landscape("himmelblau").grad(c.x)) < 1e-12


@pytest.mark.slow
def test_all_72_ordered_pairs_of_himmelblau(nine: list[search.CriticalPoint]) -> None:
    """On the predicted side at |ρ − D| = 1e-4, none on the other; 29 attract."""
    f, delta, attracting, pairs = symbolic.landscape("himmelblau"), 1e-4, 0, 0
    for centre in nine:
        for other in nine:
            if other is centre:
                continue
            distance = float(np.linalg.norm(other.x - centre.x))
            n = (other.x - centre.x) / distance
            column = np.linalg.solve(f.hess(other.x), n)
            q = n @ column
            side = -np.sign(q)
            rho = distance + side * delta
            predicted = other.x + side * delta * column / q
            assert_allclose(two_point_guess(f, other.x, centre.x, rho), predicted, atol=1e-12)
            near = [
                p
                for p in find_hallucinated(f, centre.x, rho)
                if np.linalg.norm(p.x - predicted) < 1e-5
            ]
            p = only(near)
            assert p.grad_norm == pytest.approx(delta / abs(q), rel=0.02)
            assert p.residual < 1e-9  # float64 has few digits left in ∇f/‖∇f‖ here
            attracting += classify(f, p.x, rho).kind == "attracting"
            pairs += 1
            wrong = distance - side * delta
            assert all(
                np.linalg.norm(p.x - other.x) > 1e-3 for p in find_hallucinated(f, centre.x, wrong)
            )
            with pytest.raises(BadInput, match="above" if q < 0 else "below"):
                two_point_guess(f, other.x, centre.x, wrong)
    assert (pairs, attracting) == (72, 29)


def test_expansion_is_second_order(nine: list[search.CriticalPoint]) -> None:
    f = symbolic.landscape("himmelblau")
    centre, other = nine[0].x, nine[4].x
    distance = float(np.linalg.norm(other - centre))
    errors = []
    for delta in (1e-2, 1e-3):
        for sign in (1, -1):
            try:
                guess = two_point_guess(f, other, centre, distance + sign * delta)
            except BadInput:
                continue
            found = refine(f, guess, centre, distance + sign * delta)
            errors.append(np.linalg.norm(found.x - guess))
    assert len(errors) == 2
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.2)


@pytest.fixture(scope="module")
def tanh_pair() -> tuple[Any, Array, Array]:
    """A 2-3-1 tanh network on 8 points, its trained minimizer, and that with unit 0 flipped."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(4)
    x, y = np.round(rng.standard_normal((8, 2)), 3), np.round(rng.standard_normal((8, 1)), 3)
    loss = NetworkLoss(x, y, 3, loss="mse", decay="1/100")
    start = np.random.default_rng(0).standard_normal(loss.dim)
    end = minimize(loss.f, start, jac=loss.grad, method="BFGS", options={"gtol": 1e-9}).x
    image = lagrange.stationary_image(loss, end)
    return loss, image, loss.flip_unit(image, 0)


def test_tanh_network_sign_flip(tanh_pair: Any) -> None:
    """Theory §1: D = 2‖(w_j, b_j, v_j)‖, and a hallucinated point on one side of it."""
    loss, image, flipped = tanh_pair
    assert np.all(np.linalg.eigvalsh(loss.hess(image)) > 0)
    distance = float(np.linalg.norm(flipped - image))
    assert distance == pytest.approx(2 * np.linalg.norm(image[[0, 1, 6, 9]]), rel=1e-14)
    n = (flipped - image) / distance
    q = n @ np.linalg.solve(loss.hess(flipped), n)
    rho = distance - 0.05 * np.sign(q)
    p = refine(loss, two_point_guess(loss, flipped, image, rho), image, rho)
    assert_hallucinated(loss, p)
    c = classify(loss, p.x, rho)
    assert c.image_kind == "minimizer"
    assert c.A.shape == (13, 13)


# ---- when there are none; saddles ----------------------------------------------------------------


def test_none_for_small_rho_and_the_bound_is_sharp() -> None:
    """None for ρ ≤ 2λ/L₂; λx²/2 − L₂x³/6 has x_h = ρ for every ρ above."""
    lam, third = 3.0, 2.0
    f = Landscape("3*x**2/2 - 2*x**3/6", "x")
    for rho in (0.1, 1.0, 2.9, 2 * lam / third):
        assert find_hallucinated(f, [0], rho) == []
    for rho in (2 * lam / third + 1e-3, 4.0, 50.0):
        p = only(find_hallucinated(f, [0], rho))
        assert_allclose(p.x, [rho], rtol=1e-15)


def test_himmelblau_has_none_below_its_bound(nine: list[search.CriticalPoint]) -> None:
    """λ and L₂ (a bound of ‖D³f‖ on the ball) at each minimizer."""
    f = symbolic.landscape("himmelblau")
    for c in (c for c in nine if c.kind == "minimizer"):
        lam = c.eigenvalues.min()
        # third derivatives: f_xxx = 24x, f_xxy = 4, f_xyy = 4, f_yyy = 24y; the operator norm is at
        # most that of diag(24x, 24y) plus that of the constant part, 4·√2
        rho = 0.0
        for _ in range(50):
            third = 24 * (np.abs(c.x).max() + rho) + 4 * 2**0.5 * 1.5
            rho = 2 * lam / third
        for r in (rho, rho / 2, rho / 10):
            assert find_hallucinated(f, c.x, r) == []


def test_convex_has_none() -> None:
    f = Landscape("exp(x/2 + y) + exp(-x) + x**2*3 + y**4", ["x", "y"])
    minimum = only(critical_points(f))  # type: ignore[arg-type]
    for rho in (0.01, 0.3, 1.0, 5.0):
        assert find_hallucinated(f, minimum.x, rho) == []


def test_saddles_have_them_at_every_small_rho(nine: list[search.CriticalPoint]) -> None:
    """x_s ± ρv_i + O(ρ²), v_i of a negative eigenvalue; they repel along v_i."""
    f = symbolic.landscape("himmelblau")
    for c in (c for c in nine if c.kind != "minimizer"):
        values, vectors = np.linalg.eigh(f.hess(c.x))
        down = vectors[:, values < 0].T
        errors = []
        for rho in (0.02, 0.002):
            found = find_hallucinated(f, c.x, rho)
            assert len(found) == 2 * len(down)
            gaps = [
                min(np.linalg.norm(p.x - c.x - s * rho * v) for p in found)
                for v in down
                for s in (1, -1)
            ]
            errors.append(max(gaps))
            assert all(classify(f, p.x, rho).kind != "attracting" for p in found)
        assert errors[0] < 50 * 0.02**2
        assert errors[0] / errors[1] == pytest.approx(100, rel=0.3)  # second order


def test_saddle_traps_and_lets_go() -> None:
    """On ½(x² − y²), ρ = η = 0.1: trapped from (1e-6, 0.099), escapes from (1e-6, 0.101)."""
    f = symbolic.landscape("saddle")
    found = find_hallucinated(f, [0, 0], 0.1)
    assert_allclose(xs(found), [[0, -0.1], [0, 0.1]], atol=1e-16)
    c = classify(f, found[1].x, 0.1)
    assert_allclose(c.A, [[2, 0], [0, -1]], atol=1e-14)
    assert (c.kind, c.image_kind, c.eta_max) == ("saddle", "saddle", None)
    for start, trapped in (([1e-6, 0.099], True), ([1e-6, 0.101], False)):
        x = np.array(start)
        for _ in range(200):
            g = np.array([x[0], -x[1]])
            plus = x + 0.1 * g / np.hypot(*g)
            x = x - 0.1 * np.array([plus[0], -plus[1]])
        assert (np.hypot(*x) < 0.2) == trapped
    path = trajectories.trajectory(f, np.array([[1e-6, 0.099], [1e-6, 0.101]]), 0.1, 0.1, 2000)
    # the direction that repels is weak near 0: trapped for good
    assert np.abs(path[-1, 0]).max() < 0.2
    assert np.abs(path[-1, 1]).max() > 1e3


# ---- manifolds -----------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 0.7, 2.5, 4.0])
@pytest.mark.parametrize("rho", [1.1, 1.5, 1.9])
def test_ring(angle: float, rho: float) -> None:
    """Theory §2: a hallucinated ring of radius ρ − 1 for 1 < ρ < 2, A = 2 e_r e_rᵀ."""
    ring = symbolic.landscape("ring")
    e = np.array([np.cos(angle), np.sin(angle)])
    p = only(find_hallucinated(ring, e, rho))
    assert_allclose(p.x, -(rho - 1) * e, atol=1e-14)
    c = classify(ring, p.x, rho)
    assert_allclose(c.A, 2 * np.outer(e, e), atol=1e-12)
    assert (c.kind, c.normally_attracting, c.image_kind) == ("neutral", True, "degenerate")
    assert c.eta_max == pytest.approx(1, rel=1e-12)
    path = trajectories.trajectory(ring, p.x + np.array([0.02, 0.01]), rho, 0.3, 300)
    assert np.linalg.norm(path[-1]) == pytest.approx(rho - 1, abs=1e-12)


def test_ring_outside_its_interval_and_from_its_centre() -> None:
    ring = symbolic.landscape("ring")
    for rho in (0.5, 1.0, 2.0, 2.5):
        assert find_hallucinated(ring, [1, 0], rho) == []
    whole = find_hallucinated(ring, [0, 0], 0.6)  # f is constant on the circle: all of it
    assert len(whole) == 24
    assert_allclose(np.linalg.norm([p.x for p in whole], axis=1), 0.6)
    for p in whole:
        assert_hallucinated(ring, p)
        assert classify(ring, p.x, 0.6).kind != "attracting"
    assert find_hallucinated(ring, [0, 0], 1.4) == []


def test_neutral_point_that_does_not_attract_normally() -> None:
    """H_* = [[1, −1], [−1, 1]], M = [[1, 0], [2, 1]]: A = [[−1, −1], [1, 1]] is nilpotent."""
    step = "(6*x**5 - 15*x**4 + 10*x**3)"
    f = Landscape(f"(-(x-1) + 2*(x-1)*y)*{step} + (x - y)**2/2*(1 - {step})", ["x", "y"])
    c = classify(f, [1, 0], 1)
    assert_allclose(c.A, [[-1, -1], [1, 1]], atol=1e-12)
    assert (c.kind, c.normally_attracting, c.eta_max) == ("neutral", False, None)


@pytest.mark.parametrize("coupling", [0, 2])
def test_a_zero_that_is_not_semisimple_does_not_attract_normally(coupling: int) -> None:
    """The two points above with a third variable that attracts: A ⊕ (1).

    Without the coupling M = I and A = H_* has the semisimple eigenvalue 0, beside 1 and 2.
    """
    step = "(6*x**5 - 15*x**4 + 10*x**3)"
    f = Landscape(
        f"(-(x-1) + {coupling}*(x-1)*y)*{step} + ((x - y)**2 + z**2)/2*(1 - {step})",
        ["x", "y", "z"],
    )
    c = classify(f, [1, 0, 0], 1)
    top = [[-1, -1, 0], [1, 1, 0]] if coupling else [[1, -1, 0], [-1, 1, 0]]
    assert_allclose(c.A, [*top, [0, 0, 1]], atol=1e-12)
    assert c.kind == "neutral"
    assert c.normally_attracting == (coupling == 0)
    if coupling:
        assert c.eta_max is None
    else:
        assert c.eta_max == pytest.approx(1)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.1e-9, 1.0], "minimizer"),
        ([0.9e-9, 1.0], "degenerate"),
        ([-0.9e-9, 1.0], "degenerate"),
        ([-1.1e-9, 1.0], "saddle"),
        ([-1.0, -1.1e-9], "maximizer"),
        ([-1.0, -0.9e-9], "degenerate"),
        ([1.1e-3, 1e6], "minimizer"),  # the scale is that of the largest
        ([0.9e-3, 1e6], "degenerate"),
    ],
)
def test_a_critical_point_is_degenerate_from_1e_9_on(values: list[float], kind: str) -> None:
    assert critical_kind(np.array(values)) == kind


@pytest.mark.parametrize("small", [1e-5, 1e-7])
def test_a_flat_image_is_no_degenerate_one(small: float) -> None:
    f = Landscape(f"(x**2 - 1)**2/4 + {small:.9f}*y**2", ["x", "y"])
    assert classify(f, [0.2, 0.0], 1.2).image_kind == "minimizer"
    assert [p.kind for p in critical_points(f, starts=[[-1.0, 0.0]])] == ["minimizer"]


# ---- ReLU and variants ---------------------------------------------------------------------------

NEURON = Landscape(
    "((Max(3*w + b, 0) - 4)**2 + (Max(2*w + b, 0) - 1)**2 + (Max(w + b, 0) - 4)**2)/2", ["w", "b"]
)
THREE = Landscape(
    "((v*Max(w + b, 0) - 3)**2 + (v*Max(2*w + b, 0) - 1)**2 + (v*Max(3*w + b, 0) - 11)**2)/2",
    ["w", "b", "v"],
)


def neuron_loss(p: torch.Tensor) -> torch.Tensor:
    x, y = torch.tensor([[3.0, 2.0, 1.0], [4.0, 1.0, 4.0]], dtype=torch.float64)
    return ((torch.relu(p[0] * x + p[1]) - y) ** 2).sum() / 2


def three_loss(p: torch.Tensor) -> torch.Tensor:
    x, y = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 11.0]], dtype=torch.float64)
    return ((p[2] * torch.relu(p[0] * x + p[1]) - y) ** 2).sum() / 2


@pytest.mark.parametrize("landscape", [NEURON, TorchLoss(neuron_loss, 2)], ids=["sympy", "torch"])
def test_relu_neuron(landscape: Any) -> None:
    """Theory §6.1, exact integers; η_max = 4/(13 + 9√2)."""
    assert_allclose([landscape.f([-2, 7]), landscape.f([-3, 7])], [7, 8])
    assert_allclose(landscape.grad([-2, 7]), [-4, 0])
    assert_allclose(
        landscape.hess(np.array([[-2, 7], [-3, 7]])), [[[14, 6], [6, 3]], [[5, 3], [3, 2]]]
    )
    p = next(p for p in find_hallucinated(landscape, [-3, 7], 1) if p.x[0] > -2.1)
    assert_allclose(p.x, [-2, 7], atol=1e-14)
    assert_hallucinated(landscape, p)
    c = classify(landscape, [-2, 7], 1)
    assert_allclose(c.A, [[19 / 2, 21 / 4], [6, 7 / 2]], rtol=1e-14)
    assert_allclose(c.image, [-3, 7])
    assert (c.kind, c.image_kind) == ("attracting", "minimizer")
    assert c.eta_max == pytest.approx(4 / (13 + 9 * 2**0.5), rel=1e-13)
    assert c.eta_max == pytest.approx(0.15547310779552, rel=1e-13)


@pytest.mark.parametrize("landscape", [THREE, TorchLoss(three_loss, 3)], ids=["sympy", "torch"])
def test_relu_neuron_with_all_three_trained(landscape: Any) -> None:
    """Theory §6.2 in the order (w, b, v): λ(λ² − 268λ + 697), attracts normally to a curve."""
    assert_allclose(landscape.grad([0, 5, 1]), [-8, 0, 0])
    assert_allclose(landscape.grad([-2, 5, 1]), [0, 0, 0])
    c = classify(landscape, [0, 5, 1], 2)
    assert_allclose(c.image, [-2, 5, 1])
    assert_allclose(np.poly(c.A), [1, -268, 697, 0], rtol=1e-12, atol=1e-9)
    assert (c.kind, c.normally_attracting, c.image_kind) == ("neutral", True, "degenerate")
    assert c.eta_max == pytest.approx(2 / (134 + 17259**0.5), rel=1e-12)
    assert c.eta_max == pytest.approx(0.007536547167, rel=1e-9)
    found = find_hallucinated(landscape, [-2, 5, 1], 2)
    assert min(np.linalg.norm(p.x - [0, 5, 1]) for p in found) < 1e-9


def test_dead_unit_is_an_open_set() -> None:
    """Theory §6.3: ½(relu(w) − 1)², every w in (0, min(ρ, 1)) is frozen."""
    f = Landscape("(Max(w, 0) - 1)**2/2", "w")
    for rho in (0.4, 0.9, 2.5):
        for w in np.linspace(0.01, min(rho, 1) - 0.01, 7):
            p = only(find_hallucinated(f, [w - rho], rho))
            assert_allclose(p.x, [w], atol=1e-15)
            c = classify(f, p.x, rho)
            assert (c.kind, c.image_kind, c.eta_max) == ("neutral", "degenerate", None)
            assert_allclose(c.jacobian(0.5), [[1]])


def test_points_of_the_unnormalised_variant() -> None:
    """Theory §5: critical points of f + (x + 1)²/(2ρ); with image −1 only for ρ ≥ 4."""
    for rho, roots in ((3.9, []), (5.0, [(5 - 5**0.5) / 10, (5 + 5**0.5) / 10])):
        f = Landscape(f"(x**2 - 1)**2/4 + (x + 1)**2/(2*{rho})", "x")
        found = [c.x[0] for c in critical_points(f)]
        assert_allclose(found, [-1, *roots], atol=1e-14)


# ---- many landscapes -----------------------------------------------------------------------------

MANY = [
    symbolic.landscape("beale"),
    symbolic.landscape("rosenbrock"),
    symbolic.landscape("camel"),
    Landscape("sin(3*x)*cos(2*y) + (x**2 + y**2)/10", ["x", "y"], "eggbox", box=[(-2, 2)] * 2),
    Landscape("tanh(x*y) + log(1 + x**2 + y**4) - atan(y - x/2)**2", ["x", "y"], "tangents",
              box=[(-3, 3)] * 2),
    Landscape("exp(-(x-1)**2 - y**2) + 2*exp(-(x+1)**2 - 2*(y-1)**2) + x*y/5 + x*z**2 - cos(2*z)",
              ["x", "y", "z"], "bumps", box=[(-2, 2)] * 3),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("landscape", MANY, ids=lambda f: f.name)
def test_every_point_found_is_hallucinated(landscape: Landscape) -> None:
    images = critical_points(landscape)
    assert images
    total = 0
    for c in images:
        assert np.linalg.norm(landscape.grad(c.x)) < 1e-10
        for rho in (0.3, 1.0, 2.2):
            found = find_hallucinated(landscape, c.x, rho)
            total += len(found)
            for p in found:
                assert p.rho == rho
                assert_hallucinated(landscape, p)
                assert classify(landscape, p.x, rho).image_kind == c.kind
    # Rosenbrock is one valley with one critical point, and star-shaped enough to have none
    assert (total > 0) == (landscape.name != "rosenbrock")


def test_none_outside_the_domain() -> None:
    """The derivative of log x exists for x < 0, f does not."""
    f = Landscape("-log(x) - log(y) + x*y**2 + x**2 - 3*x*y", ["x", "y"], box=[(0.01, 3)] * 2)
    (image,) = critical_points(f)
    for rho in (0.5, 1.3, 4.0):
        assert all(p.x.min() > 0 for p in find_hallucinated(f, image.x, rho))


def test_stiff_landscape_is_judged_by_its_own_rounding() -> None:
    """10⁶ times a Rosenbrock-like f: its gradients round at 1e-9, its points are found."""
    soft = "(1 - x)**2 + 100*(y - x**2)**2 + x**3*y"
    small, large = (Landscape(e, ["x", "y"]) for e in (soft, f"10**6*({soft})"))
    for a, b in zip(critical_points(small), critical_points(large), strict=True):
        assert_allclose(a.x, b.x, atol=1e-9)
        assert_allclose(
            xs(find_hallucinated(small, a.x, 2.3)),
            xs(find_hallucinated(large, b.x, 2.3)),
            atol=1e-8,
        )


def test_known_critical_points() -> None:
    kinds = {f.name: [c.kind for c in critical_points(f)] for f in MANY[:3]}
    assert kinds["rosenbrock"] == ["minimizer"]
    assert kinds["camel"].count("minimizer") == 6
    assert kinds["beale"].count("minimizer") == 1
    assert len(kinds["camel"]) == 15


# ---- continuation --------------------------------------------------------------------------------


def test_continuation_follows_the_exact_branch() -> None:
    """x = (ρ − 1, 0) and ‖g‖ = x(1 − x²), from 1 to 2 where the gradient vanishes."""
    f = symbolic.landscape("double-well-2d")
    start = next(p for p in find_hallucinated(f, [-1, 0], 1.2) if abs(p.x[1]) < 1e-9)
    branch = continue_in_rho(f, start, 1.9)
    assert branch.ended == "reached"
    assert branch.rho[0] == 1.2
    assert branch.rho[-1] == 1.9
    assert_allclose(branch.x[:, 0], branch.rho - 1, atol=1e-13)
    assert_allclose(branch.x[:, 1], 0, atol=1e-13)
    x = branch.rho - 1
    assert_allclose(branch.grad_norm, x - x**3, atol=1e-13)
    assert_allclose(branch.image, [-1, 0])
    for end, limit in ((2.5, 2.0), (0.5, 1.0)):
        branch = continue_in_rho(f, start, end)
        assert branch.ended == "gradient vanished"
        assert branch.rho[-1] == pytest.approx(limit, abs=2e-6)
    branch = continue_in_rho(f, start, 1.9, box=[(-2, 0.5), (-1, 1)])
    assert branch.ended == "left"
    assert branch.x[-1, 0] == pytest.approx(0.5, abs=1e-9)
    assert continue_in_rho(f, start, 1.9, max_points=5).ended == "too long"
    assert len(continue_in_rho(f, start, 1.2).rho) == 1


def test_continuation_ends_at_a_fold_and_goes_round_it(nine: list[search.CriticalPoint]) -> None:
    """The branches from two critical points of Himmelblau meet in a fold: it is one branch."""
    f, centre = symbolic.landscape("himmelblau"), nine[0].x
    ends = nine[6].x, nine[7].x
    radii = [float(np.linalg.norm(x - centre)) for x in ends]
    folds = []
    for x_c, other, radius in zip(ends, ends[::-1], radii, strict=True):
        rho = radius - 0.01
        start = refine(f, two_point_guess(f, x_c, centre, rho), centre, rho)
        branch = continue_in_rho(f, start, 6.0, max_step=0.2)
        for x, r in zip(branch.x, branch.rho, strict=True):
            assert ascend(f, x, r)[2] < 1e-9
        assert branch.ended == "fold"
        x, fold = branch.x[-1], branch.rho[-1]
        folds.append(fold)
        assert abs(np.linalg.det(classify(f, x, fold).S)) < 1e-12
        counts = [
            sum(np.linalg.norm(p.x - x) < 0.2 for p in find_hallucinated(f, centre, r))
            for r in (fold - 1e-3, fold + 1e-3)
        ]
        assert counts == [0, 2]
        beyond = continue_in_rho(f, start, 6.0, max_step=0.2, past_folds=True)
        assert beyond.ended == "gradient vanished"
        assert beyond.rho.min() == pytest.approx(fold, abs=0.02)
        assert_allclose(beyond.x[-1], other, atol=1e-5)
    assert folds[0] == pytest.approx(folds[1], rel=1e-14)


def test_continuation_stops_at_a_kink() -> None:
    """The neuron's branch: it cannot leave the activation region that it lives in."""
    start = next(p for p in find_hallucinated(NEURON, [-3, 7], 1) if p.x[0] > -2.1)
    branch = continue_in_rho(NEURON, start, 30.0)
    assert branch.ended in {"stuck", "gradient vanished", "fold"}
    for x, rho in zip(branch.x, branch.rho, strict=True):
        assert ascend(NEURON, x, rho)[2] < 1e-6


# ---- torch and many parameters -------------------------------------------------------------------


def test_torch_loss_is_a_landscape() -> None:
    himmelblau = symbolic.landscape("himmelblau")
    f = TorchLoss(lambda p: (p[0] ** 2 + p[1] - 11) ** 2 + (p[0] + p[1] ** 2 - 7) ** 2, 2)
    x = np.random.default_rng(0).uniform(-5, 5, (3, 4, 2))
    v = np.random.default_rng(1).uniform(-1, 1, (3, 4, 2))
    for name, args in (("f", (x,)), ("grad", (x,)), ("hess", (x,)), ("hvp", (x, v))):
        expected = getattr(himmelblau, name)(*args)
        got = getattr(f, name)(*args)
        assert got.dtype == np.float64
        assert_allclose(got, expected, rtol=1e-12, atol=1e-10)
        single = getattr(f, name)(*[a[0, 0] for a in args])
        assert_allclose(single, expected[0, 0], rtol=1e-12, atol=1e-10)
    same = [xs(find_hallucinated(g, [3, 2], 4.0)) for g in (f, himmelblau)]
    assert_allclose(*same, atol=1e-9)
    with pytest.raises(BadInput, match="last axis must be 2"):
        f.grad(np.zeros(3))
    with pytest.raises(BadInput, match="use hvp"):
        TorchLoss(lambda p: (p**2).sum(), 301).hess(np.zeros(301))


def test_torch_loss_with_control_flow_falls_back_to_rows() -> None:
    f = TorchLoss(lambda p: (p**2).sum() if float(p[0].detach()) > 0 else -(p**2).sum(), 2)
    assert_allclose(f.f([[1.0, 2], [-1, 2]]), [5, -5])
    assert_allclose(f.grad([[1.0, 2], [-1, 2]]), [[2, 4], [2, -4]])


def test_without_dense_hessians_the_answers_are_the_same(
    tanh_pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, image, flipped = tanh_pair
    distance = float(np.linalg.norm(flipped - image))
    n = (flipped - image) / distance
    side = -np.sign(n @ np.linalg.solve(loss.hess(flipped), n))
    rho = distance + 0.02 * side

    def answers() -> tuple[Any, ...]:
        p = refine(loss, two_point_guess(loss, flipped, image, rho), image, rho)
        branch = continue_in_rho(loss, p, rho + 0.05 * side, max_step=0.02)
        found = find_hallucinated(loss, image, rho, starts=p.x[None] + 1e-3)
        return p, branch, found, classify(loss, p.x, rho)

    p, branch, found, c = answers()
    monkeypatch.setattr(protocol, "DENSE", 0)
    p2, branch2, found2, c2 = answers()
    assert_allclose(p2.x, p.x, atol=1e-8)
    assert branch2.ended == branch.ended
    assert_allclose(branch2.x[-1], branch.x[-1], atol=1e-6)
    assert_allclose(xs(found2), xs(found), atol=1e-7)
    assert (c2.kind, c2.image_kind) == (c.kind, c.image_kind)
    assert_allclose(c2.eigenvalues[0], c.eigenvalues[0], rtol=1e-6)
    assert_allclose(c2.eigenvalues[-1], c.eigenvalues[-1], rtol=1e-6)
    v = np.arange(13.0)
    assert_allclose(c2.A @ v, c.A @ v, rtol=1e-6)
    assert_allclose(c2.jacobian(0.1) @ v, c.jacobian(0.1) @ v, rtol=1e-6)


@pytest.mark.slow
def test_four_hundred_parameters() -> None:
    """(x₀² − 1)²/4 + ½Σaᵢxᵢ²: A = diag(2, aᵢ(1 + ρaᵢ/‖g‖)) in closed form."""
    a = torch.linspace(1, 2, 399, dtype=torch.float64)
    a[-1] = 3
    f = TorchLoss(lambda p: (p[0] ** 2 - 1) ** 2 / 4 + (a * p[1:] ** 2).sum() / 2, 400)
    image, guess = np.zeros(400), np.full(400, 1e-3)
    image[0], guess[0] = -1, 0.21
    p = refine(f, guess, image, 1.2)
    assert_allclose(p.x[0], 0.2, atol=1e-10)
    assert_allclose(p.x[1:], 0, atol=1e-9)
    c = classify(f, p.x, 1.2)
    diagonal = a.numpy() * (1 + 1.2 * a.numpy() / 0.192)
    assert (c.kind, c.image_kind) == ("attracting", "minimizer")
    assert c.eta_max == pytest.approx(2 / diagonal.max(), rel=1e-8)
    assert c.eigenvalues[0].real == pytest.approx(2, rel=1e-8)
    assert (c.S @ np.eye(400)[5])[5] == pytest.approx(1 + 1.2 * a[4].item() / 0.192, rel=1e-8)


class Diagonal:
    """(x₀² − 1)²/4 + ½Σaᵢxᵢ² in 400 variables, without a Hessian."""

    dim = 400

    def __init__(self, a: Array) -> None:
        self.a = a

    def f(self, x: Array) -> Array:
        return (x[..., 0] ** 2 - 1) ** 2 / 4 + (self.a * x[..., 1:] ** 2).sum(-1) / 2

    def grad(self, x: Array) -> Array:
        return np.concatenate([x[..., :1] ** 3 - x[..., :1], self.a * x[..., 1:]], -1)

    def hess(self, x: Array) -> Array:
        raise AssertionError("a dense Hessian of 400 variables was formed")

    def hvp(self, x: Array, v: Array) -> Array:
        return np.concatenate([(3 * x[..., :1] ** 2 - 1) * v[..., :1], self.a * v[..., 1:]], -1)


@pytest.mark.parametrize(
    ("value", "kind", "image_kind"),
    [(1.0, "attracting", "minimizer"), (0.0, "neutral", "degenerate"), (-0.1, "saddle", "saddle")],
)
def test_one_eigenvalue_among_four_hundred_decides(
    value: float, kind: str, image_kind: str
) -> None:
    a = np.linspace(1, 2, 399)
    a[200] = value
    x_h = np.zeros(400)
    x_h[0] = 0.2
    c = classify(Diagonal(a), x_h, 1.2)
    assert (c.kind, c.image_kind) == (kind, image_kind)
    diagonal = a * (1 + 1.2 * a / 0.192)
    assert c.eigenvalues.real.min() == pytest.approx(min(2, diagonal.min()), abs=1e-8)


def test_import_is_light() -> None:
    code = "import sys, samlib.points.search; sys.exit(bool({'torch', 'scipy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- bad input -----------------------------------------------------------------------------------

WELL = symbolic.landscape("double-well-2d")


@pytest.mark.parametrize("rho", [0, -1.0, np.nan, np.inf, "a", None])
def test_bad_rho(rho: Any) -> None:
    with pytest.raises(BadInput, match="rho = "):
        find_hallucinated(WELL, [-1, 0], rho)
    with pytest.raises(BadInput, match="rho = "):
        classify(WELL, [0.2, 0], rho)
    with pytest.raises(BadInput, match="rho = "):
        two_point_guess(WELL, [1, 0], [-1, 0], rho)
    with pytest.raises(BadInput, match="rho = "):
        continue_in_rho(WELL, only(find_hallucinated(WELL, [-1, 0], 1.2)), rho)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([-1, 0, 0], "shape"),
        (-1, "shape"),
        ([[-1, 0]], "shape"),
        ([np.nan, 0], "not finite"),
        ([np.inf, 0], "not finite"),
        ("ab", "not a vector"),
        ([-0.9, 0.1], "not stationary.*critical_points"),
        ([-1, 1e-4], "not stationary"),
    ],
)
def test_bad_image(image: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        find_hallucinated(WELL, image, 1.2)
    with pytest.raises(BadInput):
        refine(WELL, [0.2, 0], image, 1.2)


@pytest.mark.parametrize(
    ("x", "rho", "message"),
    [
        ([1.0, 0], 1.2, "must be positive"),  # stationary itself
        ([0.3, 0], 1.2, "x⁺ = .* is not stationary"),
        ([0.2, 0], 1.3, "x⁺ = .* is not stationary"),
        ([0.2], 1.2, "shape"),
        ([0.2, np.nan], 1.2, "not finite"),
    ],
)
def test_classify_refuses_what_is_not_hallucinated(x: Any, rho: float, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        classify(WELL, x, rho)


def test_other_bad_input() -> None:
    with pytest.raises(BadInput, match="another critical point"):
        two_point_guess(WELL, [-1, 0], [-1, 0], 1.2)
    with pytest.raises(BadInput, match=r"x_c = .* is not stationary"):
        two_point_guess(WELL, [0.7, 0], [-1, 0], 1.2)
    with pytest.raises(BadInput, match="singular"):
        two_point_guess(Landscape("x**4 - 4*x**3/3", "x"), [0], [1], 1.1)
    with pytest.raises(BadInput, match="no hallucinated point near"):
        refine(WELL, [5.0, 0], [-1, 0], 6.0)
    with pytest.raises(BadInput, match="box"):
        critical_points(WELL, box=[(1, 0), (0, 1)])
    with pytest.raises(BadInput, match="starts"):
        critical_points(WELL, starts=np.zeros((3, 3)))
    with pytest.raises(BadInput, match="starts"):
        critical_points(WELL, starts=0)
    start = only(find_hallucinated(WELL, [-1, 0], 1.2))
    with pytest.raises(BadInput, match="max_step"):
        continue_in_rho(WELL, start, 1.5, max_step=0)
    with pytest.raises(BadInput, match="box"):
        continue_in_rho(WELL, start, 1.5, box=[(0, 1)])
    wrong = search.HallucinatedPoint(np.array([0.7, 0.7]), start.image, 1.2, 1.0, 0.0)
    with pytest.raises(BadInput, match="not hallucinated"):
        continue_in_rho(WELL, wrong, 1.5)
