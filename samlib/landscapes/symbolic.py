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

from samlib.errors import BadInput, check_choice
from samlib.landscapes import codegen, expressions
from samlib.landscapes.expressions import FUNCTIONS, KINKS

_Compiled = list[Callable[[Any], list[Any]]]


class Landscape:
    """A function f: R^d → R given by one SymPy expression.

    expr : SymPy expression, or a string of arithmetic and known functions. Decimal numbers of any
        length mean what they say: 0.1 is the rational 1/10, which matters in ball arithmetic.
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
        self.expr = expressions.read(expr, self.symbols)
        self._real = self.expr.xreplace(dict(zip(self.symbols, self._xs, strict=True)))
        if self._real.has(sympy.I, sympy.nan, sympy.zoo):
            raise BadInput(f"expr = {expr!r} is not real for real {self.symbols}; rewrite it")
        self.name, self.about = name, about
        self.box = tuple((float(a), float(b)) for a, b in box or [(-2.0, 2.0)] * self.dim)
        if len(self.box) != self.dim or not all(a < b for a, b in self.box):
            raise BadInput(f"box = {box!r} must be {self.dim} pairs (low, high) with low < high")

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

    @functools.cached_property
    def smooth(self) -> bool:
        """Whether f, ∇f and ∇²f are free of kinks for real coordinates, where √x² is |x|.

        What stays, √ and the like, is smooth wherever its value and its derivatives are finite.
        """
        return not any(e.has(*KINKS) for exprs in self._derivatives for e in exprs)

    def ball_f(self, xs: Sequence[Any]) -> Any:
        """f in ball arithmetic: d python-flint ``arb`` in, one out. Kinks in f are BadInput."""
        return self._balls[0](xs)[0]

    def ball_grad(self, xs: Sequence[Any]) -> list[Any]:
        """∇f in ball arithmetic: d in, d out; NaN where f is not finite all over the ball."""
        return self._balls[1](xs)

    def ball_hess(self, xs: Sequence[Any]) -> list[list[Any]]:
        """∇²f in ball arithmetic, d lists of d; NaN where f or ∇f is not finite on the ball."""
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

    @property
    def _xs(self) -> list[Any]:
        return [sympy.Symbol(f"x[{i}]", real=True) for i in range(self.dim)]

    @functools.cached_property
    def _derivatives(self) -> list[list[Any]]:
        """[f], the d entries of ∇f, the d² of ∇²f, in real symbols named x[0], x[1], …"""
        f, xs = self._real, self._xs
        grad = [_almost_everywhere(f.diff(x)) for x in xs]
        upper = [[_almost_everywhere(g.diff(x)) for x in xs[: i + 1]] for i, g in enumerate(grad)]
        hess = [upper[max(i, j)][min(i, j)] for i in range(self.dim) for j in range(self.dim)]
        out = [[_piecewise(e) for e in exprs] for exprs in ([f], grad, hess)]
        if any(e.has(sympy.Derivative, sympy.Subs, sympy.re, sympy.im) for e in grad + hess):
            raise BadInput(f"{self!r}: SymPy finds no formula for its derivatives; rewrite it")
        return out

    @functools.cached_property
    def _numpy(self) -> _Compiled:
        space = {n: getattr(np, n) for n in [*FUNCTIONS, "where", "nan"]}
        return [codegen.compile_python(e, codegen.ForArrays, space) for e in self._derivatives]

    @functools.cached_property
    def _torch(self) -> _Compiled:
        import torch

        def where(test: Any, *branches: Any) -> Any:
            # torch.where(c, 0.1, 0.2) would round the constants to the default float32
            double = torch.float64
            wrapped = [b if torch.is_tensor(b) else torch.tensor(b, dtype=double) for b in branches]
            return torch.where(test, *wrapped)

        space = {n: getattr(torch, n) for n in FUNCTIONS} | {"where": where, "nan": np.nan}
        return [codegen.compile_python(e, codegen.ForArrays, space) for e in self._derivatives]

    @functools.cached_property
    def _balls(self) -> _Compiled:
        if not self.smooth:
            raise BadInput(f"{self!r} has kinks; ball arithmetic needs a smooth expression")
        from flint import arb

        def method(name: str) -> Callable[[Any], Any]:
            return lambda value: getattr(arb(value), name)()

        space = {n: method(n) for n in FUNCTIONS} | {"arb": arb}
        f, grad, hess = self._derivatives
        none: list[Any] = []
        orders = [(none, f), (f, grad), (f + grad, hess)]
        return [_guarded(lower, wanted, space) for lower, wanted in orders]

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


def _guarded(lower: list[Any], wanted: list[Any], space: dict[str, Any]) -> Callable[..., Any]:
    """Balls of ``wanted``, or NaN where one of ``lower`` is not finite.

    The formula of a derivative may live where f itself ends: 1/x is finite where log x is not.
    """
    arb, count = space["arb"], len(lower)
    function = codegen.compile_python(lower + wanted, codegen.ForBalls, space)

    def balls(xs: Any) -> list[Any]:
        values = [arb(v) for v in function(xs)]
        if all(v.is_finite() for v in values[:count]):
            return values[count:]
        return [arb("nan")] * len(wanted)

    return balls


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
def landscape(name: str) -> Landscape:
    """The landscape of that name (one shared object a name). BadInput lists the names."""
    check_choice("landscape", name, _ROWS)
    expr, symbols, box, about = _ROWS[name]
    ends = [float(number) for number in box.split()]
    pairs = list(zip(ends[::2], ends[1::2], strict=True))
    return Landscape(expr, symbols.split(), name, pairs, about)
