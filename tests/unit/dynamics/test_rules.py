"""Update rules: each against its equation, written again here."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import sympy
import torch

from samlib.dynamics import rules
from samlib.errors import BadInput
from samlib.landscapes import symbolic

SURFACES = ["double-well", "double-well-2d", "himmelblau", "camel", "surrogate-trap", "ring"]


def points(name: str, count: int = 12) -> np.ndarray:
    low, high = np.array(symbolic.landscape(name).box).T
    return np.random.default_rng(1).uniform(low, high, size=(count, len(low)))


def unit(g: np.ndarray) -> np.ndarray:
    return g / np.linalg.norm(g)


@pytest.mark.slow
@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("rho", [0.3, 1.2])
def test_exact_equals_sympys_derivative_of_the_surrogate(name: str, rho: float) -> None:
    landscape = symbolic.landscape(name)
    xs = [sympy.Symbol(s.name, real=True) for s in landscape.symbols]
    f = landscape.expr.subs(dict(zip(landscape.symbols, xs, strict=True)))
    gradient = [f.diff(x) for x in xs]
    norm = sympy.sqrt(sum(g**2 for g in gradient))
    moved = {x: x + sympy.Rational(str(rho)) * g / norm for x, g in zip(xs, gradient, strict=True)}
    surrogate = f.subs(moved, simultaneous=True)
    for point in points(name, 4):
        at = {x: sympy.Rational(float(p)) for x, p in zip(xs, point, strict=True)}
        expected = [float(surrogate.diff(x).subs(at).evalf(30)) for x in xs]
        direction = rules.exact(landscape, point, rho).direction
        np.testing.assert_allclose(direction, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SURFACES)
def test_exact_equals_autograd_through_the_composition(name: str) -> None:
    landscape, rho = symbolic.landscape(name), 0.7
    x = torch.tensor(points(name), requires_grad=True)
    (g,) = torch.autograd.grad(landscape.f(x).sum(), x, create_graph=True)
    x_plus = x + rho * g / g.norm(dim=-1, keepdim=True)
    (expected,) = torch.autograd.grad(landscape.f(x_plus).sum(), x)
    step = rules.exact(landscape, points(name), rho)
    np.testing.assert_allclose(step.x_plus, x_plus.detach(), rtol=1e-12)
    np.testing.assert_allclose(step.direction, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", SURFACES)
def test_each_rule_equals_its_equation(name: str) -> None:
    landscape, rho, alpha = symbolic.landscape(name), 0.4, 0.3
    for x in points(name):
        g = landscape.grad(x)
        plus = x + rho * unit(g)
        np.testing.assert_allclose(rules.sam(landscape, x, rho)[1], plus, rtol=1e-13)
        np.testing.assert_allclose(
            rules.sam(landscape, x, rho)[0], landscape.grad(plus), rtol=1e-10
        )
        np.testing.assert_array_equal(rules.gd(landscape, x, rho)[:2], (g, x))

        scale = np.diag(np.abs(x))
        plus = x + rho * scale @ scale @ g / np.linalg.norm(scale @ g)
        np.testing.assert_allclose(rules.asam(landscape, x, rho)[1], plus, rtol=1e-13)
        np.testing.assert_allclose(
            rules.asam(landscape, x, rho)[0], landscape.grad(plus), rtol=1e-9
        )

        plus = x + rho * g
        np.testing.assert_allclose(rules.unnormalised(landscape, x, rho)[1], plus, rtol=1e-13)
        got = rules.unnormalised(landscape, x, rho)[0]
        np.testing.assert_allclose(got, landscape.grad(plus), rtol=1e-8, atol=1e-9)

        direction, plus, *_ = rules.gsam(landscape, x, rho, alpha=alpha)
        g_plus = landscape.grad(plus)
        removed = (g_plus - direction) / alpha  # orthogonal to ∇f(x⁺); g minus it is parallel
        assert abs(removed @ unit(g_plus)) <= 1e-9 * max(1, np.linalg.norm(g_plus))
        parallel = g - removed
        np.testing.assert_allclose(
            parallel,
            (parallel @ unit(g_plus)) * unit(g_plus),
            atol=1e-9 * max(1, np.linalg.norm(g_plus)),
        )


@pytest.mark.parametrize("name", rules.names())
def test_a_step_tells_losses_and_gradients_at_both_of_its_points(name: str) -> None:
    landscape, x = symbolic.landscape("camel"), points("camel").reshape(3, 4, 2)
    step = rules.get(name)(landscape, x, 0.4)
    np.testing.assert_array_equal(step.loss, landscape.f(x))
    np.testing.assert_array_equal(step.grad, landscape.grad(x))
    np.testing.assert_array_equal(step.shifted_loss, landscape.f(step.x_plus))
    np.testing.assert_array_equal(step.shifted_grad, landscape.grad(step.x_plus))
    assert (step.loss.shape, step.direction.shape) == ((3, 4), (3, 4, 2))
    assert (step.loss != step.shifted_loss).all() == (name != "gd")


def test_gsam_is_sam_on_the_line() -> None:
    landscape, x = symbolic.landscape("double-well"), points("double-well")
    got = rules.gsam(landscape, x, 1.2, alpha=0.5)[0]
    np.testing.assert_allclose(got, rules.sam(landscape, x, 1.2)[0], rtol=1e-13)


@pytest.mark.parametrize("name", rules.names())
def test_rules_are_the_same_in_torch_and_batched(name: str) -> None:
    rule, landscape, x = (
        rules.get(name),
        symbolic.landscape("camel"),
        points("camel").reshape(3, 4, 2),
    )
    rho = np.linspace(0.1, 1.2, 12).reshape(3, 4, 1)
    direction, plus, *_ = rule(landscape, x, rho)
    tensors = rule(landscape, torch.tensor(x), torch.tensor(rho))
    np.testing.assert_allclose(direction, tensors[0], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(plus, tensors[1], rtol=1e-13)
    for i in np.ndindex(3, 4):
        alone = rule(landscape, x[i], float(rho[i][0]))
        np.testing.assert_array_equal(alone[0], direction[i])
        np.testing.assert_array_equal(alone[1], plus[i])


@pytest.mark.parametrize("name", ["sam", "exact", "asam", "unnormalised"])
def test_rho_zero_is_gradient_descent_bit_for_bit(name: str) -> None:
    landscape, x = symbolic.landscape("himmelblau"), points("himmelblau")
    direction, plus, *_ = rules.get(name)(landscape, x, 0.0)
    np.testing.assert_array_equal(direction, landscape.grad(x))
    np.testing.assert_array_equal(plus, x)


@pytest.mark.parametrize("name", rules.names())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zero_gradient_stays_put(name: str, dtype: str) -> None:
    landscape = symbolic.landscape("double-well-2d")
    critical = np.array([[0, 0], [1, 0], [-1, 0]], dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (critical, torch.tensor(critical)):
            direction, plus, *_ = rules.get(name)(landscape, x, 0.5)
            np.testing.assert_array_equal(np.asarray(direction), 0 * critical)
            np.testing.assert_array_equal(np.asarray(plus), critical)
            assert direction.dtype == plus.dtype == x.dtype


@pytest.mark.parametrize("name", rules.names())
def test_infinities_pass_without_a_warning(name: str) -> None:
    x = np.array([[1e300, 1e300], [np.inf, 0.0], [np.nan, 1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        direction = rules.get(name)(symbolic.landscape("ring"), x, 0.5).direction
    assert not np.isfinite(direction).all(-1).any()


def test_sam_evaluates_the_gradient_twice_and_no_hessian() -> None:
    calls: list[str] = []

    class Counting:
        def value_and_grad(self, x: Any) -> Any:
            calls.append("grad")
            return (x * x).sum() / 2, x

        def hvp(self, x: Any, v: Any) -> Any:
            calls.append("hvp")
            return v

    rules.sam(Counting(), np.ones(3), 0.1)
    assert calls == ["grad", "grad"]
    calls.clear()
    rules.exact(Counting(), np.ones(3), 0.1)
    assert sorted(calls) == ["grad", "grad", "hvp"]


def test_surrogate_trap_has_a_zero_of_the_exact_gradient_that_sam_has_not() -> None:
    """theory §4: f = x − x³/3 − y²/2 + x²y, ρ = 1, at the origin."""
    landscape, origin = symbolic.landscape("surrogate-trap"), np.zeros(2)
    np.testing.assert_array_equal(rules.exact(landscape, origin, 1.0)[0], [0.0, 0.0])
    np.testing.assert_array_equal(rules.sam(landscape, origin, 1.0)[0], [0.0, 1.0])


@pytest.mark.parametrize(
    ("name", "rho", "x_h", "image"),
    [
        ("double-well", 1.2, [0.2], [-1.0]),
        ("double-well-2d", 1.2, [0.2, 0.0], [-1.0, 0.0]),
        ("double-well-saddle", 1.2, [0.2, 0.0], [-1.0, 0.0]),
        ("twist", 1.0, [1.0, 0.0], [0.0, 0.0]),
    ],
)
def test_a_zero_of_the_shifted_gradient_is_a_zero_of_the_exact_one(
    name: str, rho: float, x_h: list[float], image: list[float]
) -> None:
    """theory §4; and the Hessian of the surrogate there is MᵀH_*M."""
    landscape, x = symbolic.landscape(name), np.array(x_h)
    direction, plus, *_ = rules.sam(landscape, x, rho)
    np.testing.assert_allclose(plus, image, atol=1e-15)
    np.testing.assert_allclose(direction, 0, atol=1e-15)
    np.testing.assert_allclose(rules.exact(landscape, x, rho)[0], 0, atol=1e-14)
    g = landscape.grad(x)
    assert np.linalg.norm(g) > 0.1
    tangential = np.eye(len(x)) - np.outer(unit(g), unit(g))
    m = np.eye(len(x)) + rho / np.linalg.norm(g) * tangential @ landscape.hess(x)
    step = 1e-5
    columns = [
        (
            rules.exact(landscape, x + step * e, rho)[0]
            - rules.exact(landscape, x - step * e, rho)[0]
        )
        / (2 * step)
        for e in np.eye(len(x))
    ]
    expected = m.T @ landscape.hess(plus) @ m
    np.testing.assert_allclose(
        np.column_stack(columns), expected, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize(
    ("name", "rho", "x_h", "expected"),
    [
        ("double-well-2d", 1.2, [0.2, 0.0], [[2, 0], [0, 29 / 4]]),
        ("double-well-saddle", 1.2, [0.2, 0.0], [[2, 0], [0, 21 / 4]]),
        ("twist", 1.0, [1.0, 0.0], [[-4, 1], [-11, 2]]),
    ],
)
def test_the_derivative_of_the_shifted_gradient_is_the_matrix_a(
    name: str, rho: float, x_h: list[float], expected: list[list[float]]
) -> None:
    """theory §2: DT(x_h) = I − ηA, with A of the table, by autograd through the rule."""
    landscape = symbolic.landscape(name)
    x = torch.tensor(x_h, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda p: rules.sam(landscape, p, rho)[0], x)
    np.testing.assert_allclose(jacobian, expected, atol=1e-12)


@pytest.mark.parametrize(("x_h", "image", "slope"), [(10 / 3, 2.0, 1.2), (20 / 7, 4.0, 2.8)])
def test_asam_on_the_shifted_well(x_h: float, image: float, slope: float) -> None:
    """theory §5: ρ = 0.4, multipliers 1 − 1.2η and 1 − 2.8η."""
    landscape, rho = symbolic.landscape("shifted-well"), 0.4
    direction, plus, *_ = rules.asam(landscape, np.array([x_h]), rho)
    np.testing.assert_allclose(plus, [image], atol=1e-14)
    np.testing.assert_allclose(direction, [0], atol=1e-14)
    assert abs(landscape.grad([x_h])[0]) > 0.1
    x = torch.tensor([x_h], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda p: rules.asam(landscape, p, rho)[0], x)
    assert float(jacobian) == pytest.approx(slope, abs=1e-12)


def test_asam_keeps_the_orthant_for_rho_below_one() -> None:
    x = points("camel", 200)
    assert (np.sign(rules.asam(symbolic.landscape("camel"), x, 0.99)[1]) == np.sign(x)).all()


def test_unnormalised_on_the_double_well() -> None:
    """theory §5: image −1 from the roots of ρx² − ρx + 1, so only for ρ ≥ 4."""
    landscape = symbolic.landscape("double-well")
    for rho in (4.0, 5.0, 9.0):
        for root in np.roots([rho, -rho, 1]).real:
            direction, plus, *_ = rules.unnormalised(landscape, np.array([root]), rho)
            np.testing.assert_allclose(plus, [-1], atol=1e-6)  # a double root at ρ = 4
            np.testing.assert_allclose(direction, [0], atol=1e-6)
    x = np.linspace(-3, 3, 6001)[:, None]
    x = x[np.abs(landscape.grad(x)[:, 0]) > 1e-3]
    assert np.abs(rules.unnormalised(landscape, x, 3.9)[1] + 1).min() > 1e-3


def test_names_and_lookup() -> None:
    assert {"gd", "sam", "exact", "asam", "gsam", "unnormalised"} <= set(rules.names())
    assert rules.get(rules.sam) is rules.sam is rules.get("sam")
    with pytest.raises(BadInput, match="gsam"):
        rules.get("no-such-rule")
