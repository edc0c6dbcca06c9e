"""Test functions f: R^d → R, each written once as a SymPy expression.

Everything else is generated from that one expression: NumPy and torch functions for f, ∇f and ∇²f,
ball arithmetic for proofs, JavaScript for the browser and LaTeX for the text. Derivatives are
symbolic, hence exact. At a kink (|x|, max, piecewise) they are those of almost everywhere, with
relu'(0) = |·|'(0) = 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy

from samlib import codegen
from samlib.errors import BadInput, check_choice

_FUNCTIONS = [
    *("exp", "log", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
]
_KINKS = [sympy.Abs, sympy.Max, sympy.Min, sympy.Piecewise, sympy.sign, sympy.Heaviside]
_Compiled = list[Callable[[Any], list[Any]]]


class Landscape:
    """A function f: R^d → R given by one SymPy expression.

    expr : SymPy expression, or a string (evaluated by SymPy: do not pass a stranger's). Decimal
        numbers mean what they say: 0.1 is the rational 1/10, which matters in ball arithmetic.
    symbols : the d coordinates in order, as SymPy symbols or names.
    name, about : what to call it, and one line on why it is interesting.
    box : d pairs (low, high), where to draw it; by default (−2, 2) for each axis.

    BadInput for no or repeated symbols, a free symbol that is not listed, an expression that is not
    finite and real, or a function outside the vocabulary.
    """

    def __init__(
        self,
        expr: Any,
        symbols: Sequence[Any],
        name: str = "",
        box: Sequence[tuple[float, float]] | None = None,
        about: str = "",
    ) -> None:
        listed = [symbols] if isinstance(symbols, str | sympy.Symbol) else symbols
        self.symbols = tuple(sympy.Symbol(s) if isinstance(s, str) else s for s in listed)
        self.dim = len(self.symbols)
        if self.dim == 0 or len(set(self.symbols)) != self.dim:
            raise BadInput(f"symbols = {symbols!r}: list each coordinate once, at least one")
        self.expr = _checked(expr, self.symbols)
        self.name, self.about = name, about
        self.box = tuple((float(a), float(b)) for a, b in box or [(-2.0, 2.0)] * self.dim)
        if len(self.box) != self.dim or not all(a < b for a, b in self.box):
            raise BadInput(f"box = {box!r} must be {self.dim} pairs (low, high) with low < high")
        self.smooth = not self.expr.has(*_KINKS)

    def __repr__(self) -> str:
        return f"Landscape({str(self.expr)!r}, {[s.name for s in self.symbols]})"

    def f(self, x: Any) -> Any:
        """f(x): (..., d) → (...). NumPy in, NumPy out; torch in, torch out; same dtype.

        Overflow gives inf or NaN, without a warning. The last axis must be d, else BadInput.
        """
        return self._evaluate(0, x)

    def grad(self, x: Any) -> Any:
        """∇f(x): (..., d) → (..., d)."""
        return self._evaluate(1, x)

    def hess(self, x: Any) -> Any:
        """∇²f(x): (..., d) → (..., d, d)."""
        return self._evaluate(2, x)

    def hvp(self, x: Any, v: Any) -> Any:
        """∇²f(x) v: (..., d), (..., d) → (..., d)."""
        return (self.hess(x) * v[..., None, :]).sum(-1)

    def ball_grad(self, xs: Sequence[Any]) -> list[Any]:
        """∇f in ball arithmetic: d python-flint ``arb`` in, d out. Kinks in f are BadInput."""
        return self._balls[1](xs)

    def ball_hess(self, xs: Sequence[Any]) -> list[list[Any]]:
        """∇²f in ball arithmetic: d python-flint ``arb`` in, d lists of d out."""
        return self._rows(self._balls[2](xs))

    def latex(self) -> str:
        """The expression as LaTeX, without dollar signs."""
        return str(sympy.latex(self.expr))

    def javascript(self) -> str:
        """A JavaScript object literal {f, grad, hess} of functions of an array x of d numbers."""
        parts = []
        for name, exprs in zip(("f", "grad", "hess"), self._derivatives, strict=True):
            code, values = codegen.statements(exprs, codegen.ForJavaScript())
            if name == "hess":
                values = [f"[{', '.join(row)}]" for row in self._rows(values)]
            shown = values[0] if name == "f" else f"[{', '.join(values)}]"
            temporaries = "".join(f"const {t} = {value}; " for t, value in code)
            parts.append(f"  {name}(x) {{ {temporaries}return {shown}; }}")
        return "{\n" + ",\n".join(parts) + "\n}"

    def _rows(self, flat: list[Any]) -> list[list[Any]]:
        return [flat[i : i + self.dim] for i in range(0, len(flat), self.dim)]

    @functools.cached_property
    def _derivatives(self) -> list[list[Any]]:
        """[f], the d entries of ∇f, the d² of ∇²f, in real symbols named x[0], x[1], …"""
        xs = [sympy.Symbol(f"x[{i}]", real=True) for i in range(self.dim)]
        exact = {n: sympy.Rational(repr(float(n))) for n in self.expr.atoms(sympy.Float)}
        f = self.expr.xreplace(dict(zip(self.symbols, xs, strict=True)) | exact)
        grad = [_almost_everywhere(f.diff(x)) for x in xs]
        upper = [[_almost_everywhere(g.diff(x)) for x in xs[: i + 1]] for i, g in enumerate(grad)]
        hess = [upper[max(i, j)][min(i, j)] for i in range(self.dim) for j in range(self.dim)]
        return [[_piecewise(e) for e in exprs] for exprs in ([f], grad, hess)]

    @functools.cached_property
    def _numpy(self) -> _Compiled:
        space = {n: getattr(np, n) for n in [*_FUNCTIONS, "where", "nan"]}
        return [codegen.compile_python(e, codegen.ForArrays, space) for e in self._derivatives]

    @functools.cached_property
    def _torch(self) -> _Compiled:
        import torch

        def where(test: Any, *branches: Any) -> Any:
            # torch.where(c, 0.1, 0.2) would round the constants to the default float32
            double = torch.float64
            wrapped = [b if torch.is_tensor(b) else torch.tensor(b, dtype=double) for b in branches]
            return torch.where(test, *wrapped)

        space = {n: getattr(torch, n) for n in _FUNCTIONS} | {"where": where, "nan": np.nan}
        return [codegen.compile_python(e, codegen.ForArrays, space) for e in self._derivatives]

    @functools.cached_property
    def _balls(self) -> _Compiled:
        if not self.smooth:
            raise BadInput(f"{self!r} has kinks; ball arithmetic needs a smooth expression")
        from flint import arb

        def method(name: str) -> Callable[[Any], Any]:
            return lambda value: getattr(arb(value), name)()

        space = {n: method(n) for n in _FUNCTIONS} | {"arb": arb}
        raw = [codegen.compile_python(e, codegen.ForBalls, space) for e in self._derivatives]
        return [lambda xs, g=g: [arb(v) for v in g(xs)] for g in raw]  # type: ignore[misc]

    def _evaluate(self, order: int, x: Any) -> Any:
        tensor = type(x).__module__.partition(".")[0] == "torch"
        if not tensor:
            x = np.asarray(x)
            x = x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float64)
        if x.ndim == 0 or x.shape[-1] != self.dim:
            shape = tuple(x.shape)
            raise BadInput(f"x has shape {shape}; it must be (..., {self.dim}), one entry a symbol")
        batch, tail = tuple(x.shape[:-1]), (self.dim,) * order
        columns = [x[..., i] for i in range(self.dim)]
        if tensor:
            import torch

            values = [x.new_zeros(batch) + v for v in self._torch[order](columns)]
            return torch.stack(values, -1).reshape(batch + tail).to(x.dtype)
        with np.errstate(all="ignore"):
            values = self._numpy[order](columns)
        # Coordinates first in memory: every later operation then runs over contiguous columns.
        out = np.empty((len(values), *batch), x.dtype)
        for i, value in enumerate(values):
            out[i] = value
        if order == 0:
            return out[0]
        return np.moveaxis(out.reshape(tail + batch), range(order), range(-order, 0))


def _checked(expr: Any, symbols: tuple[Any, ...]) -> Any:
    """``expr`` as a real finite SymPy expression of ``symbols`` alone, else BadInput."""
    try:
        tree = sympy.sympify(expr, locals={s.name: s for s in symbols})
    except (sympy.SympifyError, SyntaxError, TypeError, AttributeError) as error:
        raise BadInput(f"expr = {expr!r} is nothing that SymPy can read: {error}") from error
    if not isinstance(tree, sympy.Expr):
        raise BadInput(f"expr = {expr!r} is a {type(tree).__name__}; give one scalar expression")
    if stray := tree.free_symbols - set(symbols):
        names = ", ".join(s.name for s in symbols)
        raise BadInput(f"expr has free symbols {sorted(map(str, stray))}; list them beside {names}")
    if tree.has(sympy.oo, sympy.zoo, -sympy.oo, sympy.nan, sympy.I):
        raise BadInput(f"expr = {expr!r} has an infinity, NaN or I; give a finite real expression")
    known = {getattr(sympy, n) for n in _FUNCTIONS} | set(_KINKS)
    if odd := {a.func.__name__ for a in tree.atoms(sympy.Function) if a.func not in known}:
        vocabulary = ", ".join(_FUNCTIONS + [k.__name__ for k in _KINKS])
        raise BadInput(f"expr uses {sorted(odd)}; rewrite it with {vocabulary}")
    return tree


def _almost_everywhere(expr: Any) -> Any:
    """Drop the point masses that differentiating a kink leaves."""
    return expr.replace(sympy.DiracDelta, lambda *_: sympy.Integer(0))


def _piecewise(expr: Any) -> Any:
    """Write every kink but |·| as Piecewise, with the value 0 of a step at its jump."""
    step = lambda a, *_: sympy.Piecewise((1, a > 0), (0, True))  # noqa: E731
    expr = expr.replace(sympy.Heaviside, step)
    expr = expr.replace(sympy.sign, lambda a: sympy.Piecewise((1, a > 0), (-1, a < 0), (0, True)))
    extremum = (sympy.Max, sympy.Min)
    return expr.replace(lambda e: isinstance(e, extremum), lambda e: e.rewrite(sympy.Piecewise))


_S = "(6*x**5 - 15*x**4 + 10*x**3)"
# name | expression | symbols | box | why it is interesting
_TABLE = f"""
double-well | (x**2 - 1)**2/4 | x | -3 3 | minimizers ±1, maximizer 0: everything in closed form
double-well-2d | (x**2 - 1)**2/4 + y**2/2 | x y | -2 2 -1.5 1.5 | no local maximizer at all
double-well-saddle | (x**2 - 1)**2/4 - y**2/2 | x y | -2 2 -1.5 1.5 | an attracting saddle image
ring | (x**2 + y**2 - 1)**2/4 | x y | -2 2 -2 2 | a circle of minimizers
himmelblau | (x**2 + y - 11)**2 + (x + y**2 - 7)**2 | x y | -6 6 -6 6 | nine critical points
beale | (3/2 - x + x*y)**2 + (9/4 - x + x*y**2)**2 + (21/8 - x + x*y**3)**2 | x y \
| -4.5 4.5 -4.5 4.5 | flat valleys, steep corners
rosenbrock | (1 - x)**2 + 100*(y - x**2)**2 | x y | -2 2 -1 3 | a curved valley
camel | (4 - 21*x**2/10 + x**4/3)*x**2 + x*y + (4*y**2 - 4)*y**2 | x y | -2 2 -1.2 1.2 | six humps
saddle | (x**2 - y**2)/2 | x y | -1 1 -1 1 | SAM can be trapped at it
twist | (-(x - 1) - 6*(x - 1)*y)*{_S} + (x**2 + x*y + y**2)*(1 - {_S}) | x y | -0.5 1.5 -1 1 \
| a constrained minimum that repels
surrogate-trap | x - x**3/3 - y**2/2 + x**2*y | x y | -2 2 -2 2 | the surrogate has an extra zero
shifted-well | ((x - 3)**2 - 1)**2/4 | x | 0 6 | the double well away from 0, for ASAM
"""
_ROWS = {r[0]: r[1:] for r in ([c.strip() for c in s.split("|")] for s in _TABLE.split("\n") if s)}


def names() -> list[str]:
    """The names that ``get`` knows."""
    return list(_ROWS)


@functools.cache
def get(name: str) -> Landscape:
    """The landscape of that name (one shared object a name). BadInput lists the names."""
    check_choice("landscape", name, _ROWS)
    expr, symbols, box, about = _ROWS[name]
    ends = [float(number) for number in box.split()]
    pairs = list(zip(ends[::2], ends[1::2], strict=True))
    return Landscape(expr, symbols.split(), name, pairs, about)
