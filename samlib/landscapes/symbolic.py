"""Test functions f: R^d → R, each written once as a SymPy expression.

Everything else is generated from it: NumPy and torch functions for f, ∇f and ∇²f, JavaScript for
the browser, LaTeX for the text, and ball arithmetic for proofs in ``samlib.certify``. Derivatives
are symbolic, hence exact. At a kink (|x|, max, piecewise) they are those of almost everywhere, with
relu'(0) = |·|'(0) = 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy

from samlib.errors import BadInput, check_box, check_choice
from samlib.landscapes import codegen, expressions
from samlib.landscapes.expressions import FUNCTIONS, KINKS

_Compiled = list[Callable[[Any], list[Any]]]


class Landscape:
    """A function f: R^d → R given by one SymPy expression.

    Parameters
    ----------
    expr
        SymPy expression, or a string of arithmetic and known functions. Decimal numbers of any
        length mean what they say: 0.1 is the rational 1/10, which matters in ball arithmetic.
    symbols
        The d coordinates in order, as SymPy symbols or names.
    name, about
        What to call it, and one line on why it is interesting.
    box
        d pairs (low, high), where to draw it; by default (−2, 2) for each axis.

    Raises
    ------
    BadInput
        For no or repeated symbols, a free symbol that is not listed, an expression that is not
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
        self.dim, self.name, self.about = len(self.symbols), name, about
        if self.dim == 0 or len(set(self.symbols)) != self.dim:
            raise BadInput(f"symbols = {symbols!r}: list each coordinate once, at least one")
        self.expr = expressions.read(expr, self.symbols)
        self._xs = [sympy.Symbol(f"x[{i}]", real=True) for i in range(self.dim)]
        self._real = self.expr.xreplace(dict(zip(self.symbols, self._xs, strict=True)))
        if self._real.has(sympy.I, sympy.nan, sympy.zoo):
            raise BadInput(f"expr = {expr!r} is not real for real {self.symbols}; rewrite it")
        bounds = check_box(box or [(-2, 2)] * self.dim, self.dim)
        self.box = tuple((float(low), float(high)) for low, high in bounds)

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
        return not any(e.has(*KINKS) for exprs in self.derivatives for e in exprs)

    def latex(self) -> str:
        """The expression as LaTeX, without dollar signs."""
        return str(sympy.latex(self.expr))

    def javascript(self) -> str:
        """A JavaScript object literal {f, grad, hess} of functions of an array x of d numbers."""
        parts = []
        for name, exprs in zip(("f", "grad", "hess"), self.derivatives, strict=True):
            code, values = codegen.statements(exprs, codegen.ForJavaScript())
            if name == "hess":
                d = self.dim
                values = [f"[{', '.join(values[i : i + d])}]" for i in range(0, d * d, d)]
            shown = values[0] if name == "f" else f"[{', '.join(values)}]"
            temporaries = "".join(f"const {t} = {value}; " for t, value in code)
            parts.append(f"  {name}(x) {{ {temporaries}return {shown}; }}")
        return "{\n" + ",\n".join(parts) + "\n}"

    @functools.cached_property
    def derivatives(self) -> list[list[Any]]:
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
        return self._compile({n: getattr(np, n) for n in [*FUNCTIONS, "where", "nan"]})

    @functools.cached_property
    def _torch(self) -> _Compiled:
        import torch

        def where(test: Any, *branches: Any) -> Any:
            # torch.where(c, 0.1, 0.2) would round the constants to the default float32
            return torch.where(test, *[torch.as_tensor(b, dtype=double(b)) for b in branches])

        def double(branch: Any) -> Any:
            return branch.dtype if torch.is_tensor(branch) else torch.float64

        names = {n: getattr(torch, n) for n in FUNCTIONS}
        return self._compile({**names, "where": where, "nan": np.nan})

    def _compile(self, names: dict[str, Any]) -> _Compiled:
        return [codegen.compile_python(e, codegen.ForArrays, names) for e in self.derivatives]

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


_STEP = "(6*x**5 - 15*x**4 + 10*x**3)"
#: name: (expression, symbols, box, why it is interesting)
_NAMED: dict[str, tuple[str, str, list[tuple[float, float]], str]] = {
    "double-well": ("(x**2 - 1)**2/4", "x", [(-3, 3)],
        "minimizers ±1, maximizer 0: everything in closed form"),
    "double-well-2d": ("(x**2 - 1)**2/4 + y**2/2", "x y", [(-2, 2), (-1.5, 1.5)],
        "no local maximizer at all"),
    "double-well-saddle": ("(x**2 - 1)**2/4 - y**2/2", "x y", [(-2, 2), (-1.5, 1.5)],
        "an attracting saddle image"),
    "ring": ("(x**2 + y**2 - 1)**2/4", "x y", [(-2, 2), (-2, 2)],
        "a circle of minimizers"),
    "himmelblau": ("(x**2 + y - 11)**2 + (x + y**2 - 7)**2", "x y", [(-6, 6), (-6, 6)],
        "nine critical points"),
    "beale": ("(3/2 - x + x*y)**2 + (9/4 - x + x*y**2)**2 + (21/8 - x + x*y**3)**2",
        "x y", [(-4.5, 4.5), (-4.5, 4.5)], "flat valleys, steep corners"),
    "rosenbrock": ("(1 - x)**2 + 100*(y - x**2)**2", "x y", [(-2, 2), (-1, 3)],
        "a curved valley"),
    "camel": ("(4 - 21*x**2/10 + x**4/3)*x**2 + x*y + (4*y**2 - 4)*y**2",
        "x y", [(-2, 2), (-1.2, 1.2)], "six humps"),
    "saddle": ("(x**2 - y**2)/2", "x y", [(-1, 1), (-1, 1)],
        "SAM can be trapped at it"),
    "twist": (f"(-(x - 1) - 6*(x - 1)*y)*{_STEP} + (x**2 + x*y + y**2)*(1 - {_STEP})",
        "x y", [(-0.5, 1.5), (-1, 1)], "a constrained minimum that repels"),
    "surrogate-trap": ("x - x**3/3 - y**2/2 + x**2*y", "x y", [(-2, 2), (-2, 2)],
        "the surrogate has an extra zero"),
    "shifted-well": ("((x - 3)**2 - 1)**2/4", "x", [(0, 6)],
        "the double well away from 0, for ASAM"),
}  # fmt: skip


def names() -> list[str]:
    """The names that :func:`landscape` knows."""
    return list(_NAMED)


@functools.cache
def landscape(name: str) -> Landscape:
    """The named test function, one shared object a name.

    Raises
    ------
    BadInput
        If there is none of that name; the message lists all of them.
    """
    check_choice("landscape", name, _NAMED)
    expr, symbols, box, about = _NAMED[name]
    return Landscape(expr, symbols.split(), name, box, about)
