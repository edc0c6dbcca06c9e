"""Landscapes: every generated form agrees with the SymPy expression it came from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import warnings
from fractions import Fraction
from typing import Any

import flint
import numpy as np
import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samlib.certify import stored_loss
from samlib.certify.ball_landscape import ForBalls, in_balls
from samlib.errors import BadInput
from samlib.landscapes import symbolic
from samlib.landscapes.expressions import KINKS
from samlib.landscapes.symbolic import Landscape

NAMES = symbolic.names()
KINKED = Landscape(
    "Max(x, 0)**2*exp(-Abs(y)) + sqrt(2)*Max(x, y, 1)/10 + sign(x)*y"
    " + Piecewise((x, x < y), (y, True))",
    ["x", "y"],
)
ELEMENTARY = Landscape(
    "tanh(x*y) + log(3 + x**2) + cos(pi*x)/7 + sqrt(5 + y)*atan(x) + 2**x + x**(-2)*y**9"
    " + E*sinh(y)",
    ["x", "y"],
)


def inside(landscape: Landscape, count: int = 40, seed: int = 0) -> np.ndarray:
    low, high = np.array(landscape.box).T
    return np.random.default_rng(seed).uniform(low, high, size=(count, landscape.dim))


def derivatives(landscape: Landscape) -> tuple[list[Any], list[Any], list[Any]]:
    """f, gradient and Hessian entries, differentiated here and not by the code under test."""
    f, xs = landscape.expr, landscape.symbols
    return [f], [sympy.diff(f, x) for x in xs], [sympy.diff(f, x, y) for x in xs for y in xs]


def sizes(exprs: list[Any], landscape: Landscape, points: np.ndarray) -> np.ndarray:
    """Sum of the absolute values of the terms of each expression: the scale of rounding errors."""
    columns = []
    for expr in exprs:
        terms = sympy.Add.make_args(sympy.expand(expr))
        size = sympy.lambdify(landscape.symbols, sum(sympy.Abs(t) for t in terms), "numpy")
        columns.append(np.broadcast_to(size(*points.T), len(points)))
    return np.stack(columns, -1)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_equal_sympys_at_high_precision(name: str) -> None:
    landscape = symbolic.landscape(name)
    points = inside(landscape, 5)
    got = [landscape.f(points), landscape.grad(points), landscape.hess(points)]
    for exprs, values in zip(derivatives(landscape), got, strict=True):
        for row, point in zip(values.reshape(5, -1), points, strict=True):
            at = {
                s: sympy.Rational(float(p)) for s, p in zip(landscape.symbols, point, strict=True)
            }
            truth = np.array([float(e.subs(at)) for e in exprs])
            bound = 1e-14 * np.maximum(1, sizes(exprs, landscape, point[None])[0])
            assert (np.abs(row - truth) <= bound).all()


@pytest.mark.parametrize(
    "landscape", [*map(symbolic.landscape, NAMES), KINKED], ids=[*NAMES, "kinked"]
)
def test_torch_equals_numpy(landscape: Landscape) -> None:
    points = inside(landscape).reshape(4, 10, -1)
    for method in ("f", "grad", "hess"):
        tensor = getattr(landscape, method)(torch.tensor(points))
        array = getattr(landscape, method)(points)
        assert tensor.dtype == torch.float64
        assert tensor.shape == array.shape
        np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-14, atol=1e-12)
        assert getattr(landscape, method)(torch.tensor(points).float()).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_gradient_equals_torch_autograd(name: str) -> None:
    landscape = symbolic.landscape(name)
    x = torch.tensor(inside(landscape), requires_grad=True)
    (gradient,) = torch.autograd.grad(landscape.f(x).sum(), x)
    np.testing.assert_allclose(landscape.grad(x.detach()), gradient, rtol=1e-12, atol=1e-10)


def test_hessian_vector_product() -> None:
    landscape = symbolic.landscape("camel")
    x, v = inside(landscape, 6), inside(landscape, 6, seed=1)
    expected = np.stack([landscape.hess(a) @ b for a, b in zip(x, v, strict=True)])
    np.testing.assert_allclose(landscape.hvp(x, v), expected, rtol=1e-14)
    np.testing.assert_allclose(
        landscape.hvp(torch.tensor(x), torch.tensor(v)), expected, rtol=1e-14
    )


def test_shapes_and_dtypes() -> None:
    landscape = Landscape("x**2/2 + 3*y", ["x", "y"])  # constant and missing partial derivatives
    for batch in [(), (5,), (2, 3), (0,)]:
        x = np.ones((*batch, 2))
        assert np.shape(landscape.f(x)) == batch
        assert landscape.grad(x).shape == (*batch, 2)
        assert landscape.hess(x).shape == (*batch, 2, 2)
        assert landscape.f(x).dtype == landscape.grad(x).dtype == np.float64
        assert landscape.hess(torch.ones(*batch, 2)).shape == (*batch, 2, 2)
    np.testing.assert_array_equal(landscape.grad(np.ones((4, 2))), [[1, 3]] * 4)
    assert landscape.grad(np.ones(2, np.float32)).dtype == np.float32
    np.testing.assert_array_equal(landscape.grad([2, 7]), [2.0, 3.0])  # integers become float64
    np.testing.assert_array_equal(Landscape("7", ["x"]).hess(np.ones((2, 1))), np.zeros((2, 1, 1)))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1)])
def test_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match=r"it must be \(\.\.\., 2\)"):
        symbolic.landscape("ring").grad(np.ones(shape))


@pytest.mark.parametrize(
    ("expr", "symbols", "message"),
    [
        ("x + q", ["x"], "free symbols"),
        ("x + oo", ["x"], "infinity"),
        ("1/0", ["x"], "infinity"),
        ("I*x", ["x"], "give a finite real expression"),
        ("x**2", [], "at least one"),
        ("x**2", ["x", "x"], "each coordinate once"),
        ("x +", ["x"], "nothing that SymPy can read"),
        ("x < 1", ["x"], "one scalar expression"),
        ("gamma(x)", ["x"], "gamma"),
    ],
)
def test_bad_expressions_are_refused(expr: str, symbols: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Landscape(expr, symbols)


def test_bad_boxes_and_names_are_refused() -> None:
    with pytest.raises(BadInput, match="box"):
        Landscape("x*y", ["x", "y"], box=[(0, 1)])
    with pytest.raises(BadInput, match="box"):
        Landscape("x", ["x"], box=[(1, 0)])
    with pytest.raises(BadInput, match="himmelblau"):
        symbolic.landscape("no-such-landscape")


def test_sympy_symbols_of_the_caller_are_kept() -> None:
    a, b = sympy.symbols("alpha beta", positive=True)
    landscape = Landscape(a**2 * b, [b, a])
    assert landscape.symbols == (b, a)
    np.testing.assert_array_equal(landscape.grad([2.0, 3.0]), [9.0, 12.0])


def test_names_that_python_reserves_work() -> None:
    landscape = Landscape(sympy.Symbol("lambda") ** 2, [sympy.Symbol("lambda")])
    assert landscape.grad([3.0]) == [6.0]


def test_overflow_is_silent() -> None:
    huge = np.array([[1e200, -1e200]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert symbolic.landscape("ring").f(huge)[0] == np.inf
        assert not np.isfinite(symbolic.landscape("beale").grad(huge)).any()
        assert np.isnan(symbolic.landscape("ring").grad(np.array([np.nan, 0.0]))).all()


def test_kinks_use_the_derivative_zero() -> None:
    relu, modulus = Landscape("Max(x, 0)", ["x"]), Landscape("Abs(x)", ["x"])
    x = np.array([[-2.0], [0.0], [3.0]])
    np.testing.assert_array_equal(relu.grad(x)[:, 0], [0, 0, 1])
    np.testing.assert_array_equal(modulus.grad(x)[:, 0], [-1, 0, 1])
    np.testing.assert_array_equal(modulus.hess(x)[:, 0, 0], [0, 0, 0])
    assert not relu.smooth
    assert not modulus.smooth
    assert symbolic.landscape("ring").smooth
    with pytest.raises(BadInput, match="kinks"):
        in_balls(relu).ball_grad([flint.arb(1)])


HIDDEN = [
    *("sqrt(x**2)", "(x**2)**0.5", "(x**2)**(3/2)", "(x + sqrt(x**2))/2", "(x**2)**(1/3)"),
    *("sqrt((x - 1)**2)", "x/sqrt(x**2)", "exp(log(x**2)/2)", "sqrt(x*x)", "sqrt(x**6)"),
    *("sqrt(sin(x)**2)", "sqrt(x**2*(x**2 + 1)**2)", "cos(x)*sqrt(4*x**2)"),
]


@pytest.mark.parametrize("expr", HIDDEN)
def test_a_kink_hidden_in_a_power_is_found(expr: str) -> None:
    landscape = Landscape(expr, ["x"])
    assert not landscape.smooth
    with pytest.raises(BadInput, match="kinks"):
        in_balls(landscape)


@pytest.mark.parametrize("expr", HIDDEN)
def test_the_printer_refuses_kinks_by_itself(expr: str) -> None:
    x = sympy.Symbol("x", real=True)
    kinked = sympy.sympify(expr, locals={"x": x}, rational=True)
    for e in (kinked, kinked.diff(x), sympy.Heaviside(x), sympy.Max(x, 0) + 1, sympy.sign(x)):
        if not e.has(*KINKS):
            continue  # sqrt(x**6) has the derivative 3 x |x|, but some are plain
        with pytest.raises(BadInput, match="cannot be enclosed"):
            ForBalls().doprint(e)


ENDS = [  # expression, a point at which it or a derivative ends, a point at which all is well
    *(
        ("sqrt(x)", 0, 1),
        ("x**(1/3)", 0, 1),
        ("log(x)", 0, 1),
        ("x**1.5", 0, 1),
        ("x*log(x)", 0, 1),
    ),
    *(("log(x)", -1, 1), ("log(x**2)", 0, -1), ("sqrt(x**2 + 2*x + 1)", -1, 0), ("1/x", 0, 1)),
    *(("asin(x)", 1, 0), ("acosh(x)", 1, 2), ("atanh(x)", 1, 0), ("tan(pi*x/2)", 1, 0)),
    *(("acos(cos(x))", 0, 1), ("atan(tan(pi*x/2))", 1, 0), ("acosh(cosh(x))", 0, 1)),
    *(("atan(1/x)", 0, 1), ("exp(-1/x**2)", 0, 1), ("sqrt(1 - cos(x))", 0, 1), ("x**pi", 0, 1)),
    *(("sqrt(log(x + 2)**2 + 1)", -2, 0), ("(x**3)**(1/3)", 0, 1), ("log(log(x))", 1, 3)),
]


@pytest.mark.parametrize(("expr", "end", "well"), ENDS)
def test_no_number_encloses_what_ends_inside_the_ball(expr: str, end: int, well: int) -> None:
    landscape = Landscape(expr, ["x"])
    for radius in (1e-12, 1e-3, 0.1):
        at = [flint.arb(end, radius)]
        # first order may be finite where only the second ends: the Hessian decides about a proof
        assert not in_balls(landscape).ball_hess(at)[0][0].is_finite()
        if expr not in ("x**1.5", "x**pi"):
            assert not in_balls(landscape).ball_grad(at)[0].is_finite()
    near = [flint.arb(well, 1e-3)]
    assert in_balls(landscape).ball_hess(near)[0][0].is_finite()
    assert in_balls(landscape).ball_grad(near)[0].is_finite()


def test_a_derivative_does_not_outlive_its_function() -> None:
    f = Landscape("log(x) + y**2", ["x", "y"])  # 1/x is finite at −1, log x is not
    point = [flint.arb(-1), flint.arb(0)]
    assert not any(v.is_finite() for v in in_balls(f).ball_grad(point))
    assert not any(v.is_finite() for row in in_balls(f).ball_hess(point) for v in row)


@pytest.mark.parametrize(
    "decimal",
    ["0.12345678901234567890123", "3." + "14159" * 60, "0.1", "1e-30", "123456789012345678.9"],
)
def test_decimals_of_any_length_mean_what_they_say(decimal: str) -> None:
    f, exact_value = Landscape(f"{decimal}*x**2", ["x"]), Fraction(decimal)
    coefficient = f.expr.coeff(sympy.Symbol("x"), 2)
    assert Fraction(coefficient.p, coefficient.q) == exact_value
    again = stored_loss.from_json(json.loads(json.dumps(stored_loss.to_json(f))))
    assert again.expr == f.expr
    with flint.ctx.workprec(3000):
        slope = in_balls(again).ball_grad([flint.arb(1)])[0]
        assert (slope - 2 * exact(exact_value)).contains(0)
        assert slope.rel_accuracy_bits() > 2900
    assert f.grad([1.0])[0] == pytest.approx(2 * float(exact_value), rel=1e-15)
    if shutil.which("node"):
        assert in_node(f"console.log(({f.javascript()}).grad([1])[0])") == pytest.approx(
            2 * float(exact_value), rel=1e-15
        )


def test_decimals_are_exact_before_anything_is_computed_with_them() -> None:
    x = sympy.Symbol("x")
    f = Landscape("exp(0.5)*x + 0.1*0.3*x**2 + x**0.3", ["x"])
    assert f.expr == sympy.exp(sympy.Rational(1, 2)) * x + 3 * x**2 / 100 + x ** sympy.Rational(
        3, 10
    )


def test_floats_in_a_sympy_expression_mean_their_shortest_decimal() -> None:
    x = sympy.Symbol("x")
    long = sympy.Float("0.12345678901234567890123")
    f = Landscape(0.1 * x + long * x**2 + np.float64(0.3) * x**3, [x])
    assert f.expr == x / 10 + sympy.Rational(str(long)) * x**2 + sympy.Rational(3, 10) * x**3


UNUSABLE = [  # text, what the message says
    *((t, "beyond the range") for t in (
        "9**9**9**9", "x**(9**9**9)", "10**10**8*x", "Rational(1, 3**100000)*x", "1e400*x",
        "1e99999999999*x", "1e-400*x", "2**-5000*x", "exp(10**9)*x", "exp(exp(exp(100)))*x",
        "-9**(9**9)", "(2 + 7)**9**9*x", "x^(9^9^9)", "sin(9**9**9)*x", "(2*x)**(10**9)",
        "1e-99999999999*x", "(2**0.5)**(10**9)*x")),
    *((t, "rewrite it with") for t in (
        "Derivative(x**2, x)", "Integral(x, x)", "Sum(x, (x, 1, 3))", "O(x)", "integrate(x)",
        "factorial(10**7)*x", "expand((x + 1)**400)", "Subs(x, x, 1)", "AccumBounds(0, 1)*x",
        "__import__('os').getcwd()", "open(x)", "eval(x)", "x(3)")),
    *((t, "no real number|is not real|finite real") for t in (
        "asin(2)*x", "(-8)**(1/3)*x", "log(-1)*x", "sqrt(-x**2)", "acosh(1/3) + x", "zoo*x")),
    *((t, "more than arithmetic") for t in (
        "x.func", "lambda x: x", "x[0]", "'a' + x", "x if x > 0 else 1", "1j*x", "None", "...",
        "[x for x in y]", "{x}", "f'{x}'", "x % 2", "x // 2", "x and 1", "0 < x < 1", "exp(x=1)")),
    *((t, "nothing that SymPy can read") for t in ("x +", "x y", "x = 2", "True*x", "(" * 300)),
    *((t, "last branch") for t in ("Piecewise((x, x > 0))", "Piecewise((x, x > 0), (0, x < 0))")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), UNUSABLE, ids=lambda v: v[:30])
def test_unusable_texts_are_refused_at_once(text: str, message: str) -> None:
    start = time.perf_counter()
    with pytest.raises(BadInput, match=message):
        Landscape(text, ["x"])
    assert time.perf_counter() - start < 5


def test_texts_are_read_as_they_are_written() -> None:
    x, y = sympy.symbols("x y")
    for text, expr in {
        "-x**2 - -y": y - x**2,
        "2**-1*x^3/4": x**3 / 8,
        "abs(x) + ln(y)": sympy.Abs(x) + sympy.log(y),
        "E**(pi*x)": sympy.exp(sympy.pi * x),
        "Rational(1, 3)*x": x / 3,
        "Piecewise((x, (x > 0) & ~(y > 1) | (x < -y)), (y, True))": sympy.Piecewise(
            (x, ((x > 0) & ~(y > 1)) | (x < -y)), (y, True)
        ),
        " + ".join(["x*y"] * 700): 700 * x * y,  # deeper than Python's stack
    }.items():
        assert Landscape(text, [x, y]).expr == expr


def test_unusable_sympy_objects_are_refused() -> None:
    x = sympy.Symbol("x")
    for expr in (
        sympy.Derivative(x**2, x), sympy.Integral(x, x), sympy.Order(x), sympy.gamma(x),
        sympy.AccumBounds(0, 1) * x, sympy.Sum(x, (sympy.Symbol("k"), 1, 3)), sympy.re(x),
        sympy.Float("1e400") * x, sympy.GoldenRatio * x, sympy.asin(2) * x,
        sympy.Piecewise((x, x > 0)),
    ):  # fmt: skip
        with pytest.raises(BadInput):
            Landscape(expr, [x])
    with pytest.raises(BadInput, match="no formula"):
        Landscape(sympy.Abs(sympy.log(x)), [x]).grad([2.0])


def exact(value: Fraction) -> Any:
    return flint.arb(flint.fmpq(value.numerator, value.denominator))


@pytest.mark.parametrize("name", NAMES)
def test_balls_contain_the_exact_rational_derivatives(name: str) -> None:
    landscape = symbolic.landscape(name)
    point = [Fraction(k + 2, 7) for k in range(landscape.dim)]
    at = {s: sympy.Rational(p.numerator, p.denominator)
          for s, p in zip(landscape.symbols, point, strict=True)}  # fmt: skip
    _, gradient, hessian = derivatives(landscape)
    balls = [exact(p) for p in point]
    got = in_balls(landscape).ball_grad(balls) + [
        h for row in in_balls(landscape).ball_hess(balls) for h in row
    ]
    for ball, expr in zip(got, gradient + hessian, strict=True):
        truth = sympy.Rational(expr.subs(at))
        assert (ball * int(truth.q) - int(truth.p)).contains(0)
        assert ball.rad() < 1e-10


@pytest.mark.parametrize(
    "landscape", [*map(symbolic.landscape, NAMES), ELEMENTARY], ids=[*NAMES, "elementary"]
)
def test_balls_contain_the_float_values_of_their_points(landscape: Landscape) -> None:
    radius, rng = 1e-4, np.random.default_rng(3)
    for centre in inside(landscape, 4, seed=2):
        balls = [flint.arb(float(c), radius) for c in centre]
        gradient, hessian = (
            in_balls(landscape).ball_grad(balls),
            in_balls(landscape).ball_hess(balls),
        )
        for point in centre + 0.9 * radius * rng.uniform(-1, 1, size=(5, landscape.dim)):
            for i in range(landscape.dim):
                assert gradient[i].contains(flint.arb(float(landscape.grad(point)[i])))
                for j in range(landscape.dim):
                    # A constant entry has no room for the rounding of a float.
                    value = flint.arb(float(landscape.hess(point)[i, j]), 1e-12)
                    assert hessian[i][j].overlaps(value)


def test_ball_precision_is_the_one_in_force_at_the_call() -> None:
    landscape = Landscape("x**3/3 + pi*x + 0.1*x**2", ["x"])
    with flint.ctx.workprec(300):
        value = (
            in_balls(landscape).ball_grad([flint.arb(1)])[0]
            - flint.arb.pi()
            - exact(Fraction(6, 5))
        )
        assert value.contains(0)
        assert value.rad() < 1e-80


def in_node(script: str) -> Any:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the generated JavaScript was not run")
    done = subprocess.run([node, "-e", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


JAVASCRIPT = {name: symbolic.landscape(name) for name in NAMES} | {"elementary": ELEMENTARY}


@pytest.fixture(scope="module")
def browser() -> dict[str, list[Any]]:
    """f, grad and hess of every landscape at its random points, as node computes them."""
    points = {name: inside(landscape, seed=4).tolist() for name, landscape in JAVASCRIPT.items()}
    objects = ", ".join(f"'{n}': {landscape.javascript()}" for n, landscape in JAVASCRIPT.items())
    return in_node(
        f"const L = {{{objects}}}, P = {json.dumps(points)}, out = {{}};"
        "for (const n in P) out[n] = P[n].map(x => [L[n].f(x), L[n].grad(x), L[n].hess(x)]);"
        "console.log(JSON.stringify(out));"
    )


@pytest.mark.parametrize("name", JAVASCRIPT)
def test_javascript_equals_numpy(name: str, browser: dict[str, list[Any]]) -> None:
    landscape, count = JAVASCRIPT[name], 40
    points = inside(landscape, count, seed=4)
    numpy_values = [landscape.f(points), landscape.grad(points), landscape.hess(points)]
    for order, exprs in enumerate(derivatives(landscape)):
        ours = numpy_values[order].reshape(count, -1)
        theirs = np.array([row[order] for row in browser[name]]).reshape(count, -1)
        bound = 1e-14 * np.maximum(1, sizes(exprs, landscape, points))
        assert (np.abs(ours - theirs) <= bound).all()


def test_javascript_of_kinks_equals_numpy() -> None:
    points = inside(KINKED, seed=5)
    script = f"const L = {KINKED.javascript()}, P = {json.dumps(points.tolist())};"
    got = in_node(script + "console.log(JSON.stringify(P.map(x => [L.f(x), ...L.grad(x)])))")
    expected = np.column_stack([KINKED.f(points), KINKED.grad(points)])
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-13)


def test_javascript_has_no_power_calls() -> None:
    for name in NAMES:
        assert "Math.pow" not in symbolic.landscape(name).javascript()


def test_latex_is_that_of_the_expression() -> None:
    for name in NAMES:
        landscape = symbolic.landscape(name)
        assert landscape.latex() == sympy.latex(landscape.expr) != ""


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=2))
@settings(max_examples=50, deadline=None)
def test_ring_depends_on_the_radius_alone(x: list[float]) -> None:
    radius2 = x[0] ** 2 + x[1] ** 2
    landscape = symbolic.landscape("ring")
    assert landscape.f(x) == pytest.approx((radius2 - 1) ** 2 / 4, abs=1e-12)
    np.testing.assert_allclose(landscape.grad(x), (radius2 - 1) * np.array(x), atol=1e-12)


def test_import_is_instant_and_light() -> None:
    code = (
        "import time; t = time.perf_counter(); import samlib; t = time.perf_counter() - t\n"
        "import sys, json; print(json.dumps([t, 'torch' in sys.modules, 'sympy' in sys.modules]))"
    )
    runs = [
        json.loads(
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
        )
        for _ in range(3)
    ]
    assert min(seconds for seconds, *_ in runs) < 0.5
    assert not any(torch_in or sympy_in for _, torch_in, sympy_in in runs)


def test_theory_modules_do_not_load_torch() -> None:
    code = (
        "import sys; from samlib import landscape, trajectory\n"
        "trajectory(landscape('ring'), [0.5, 0.2], 0.1, 0.1, 5)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
