"""Source code from SymPy expressions: Python for arrays, JavaScript, and what other printers share.

Generated functions take the coordinates as a sequence ``x`` and name the common subexpressions, so
f, ∇f and ∇²f each cost little more than their distinct operations. The symbols of the expressions
print as themselves: call them ``x[0]``, ``x[1]``, ….
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy
from sympy.printing.jscode import JavascriptCodePrinter
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.pycode import PythonCodePrinter


class Products:
    """Print x**2 … x**8 as products: a power call costs many times more."""

    longest = 8

    def _print_Pow(self: Any, expr: Any, **options: Any) -> str:
        base, power = expr.base, expr.exp
        if power.is_Integer and power < 0:
            return f"(1/{self.parenthesize(base**-power, PRECEDENCE['Pow'])})"
        if power.is_Integer and 2 <= power <= self.longest:
            return f"({'*'.join([self.parenthesize(base, PRECEDENCE['Pow'])] * int(power))})"
        return str(super()._print_Pow(expr, **options))  # type: ignore[misc]


class ForArrays(Products, PythonCodePrinter):  # type: ignore[misc]
    """Python for NumPy and torch. Constants become floats here, since torch.sqrt(2) is an error."""

    def _print(self, expr: Any, **options: Any) -> str:
        number = isinstance(expr, sympy.Expr) and expr.is_number
        if number and not (expr.is_Integer and abs(expr) <= 2**53):
            return f"({float(expr)!r})"
        return str(super()._print(expr, **options))

    def _print_Piecewise(self, expr: Any) -> str:
        code = "nan"
        for value, test in reversed(expr.args):
            branch = self._print(value)
            sure = test is sympy.true
            code = branch if sure else f"where({self._print(test)}, {branch}, {code})"
        return code

    def _print_And(self, expr: Any) -> str:
        return "(" + " & ".join(map(self._print, expr.args)) + ")"

    def _print_Or(self, expr: Any) -> str:
        return "(" + " | ".join(map(self._print, expr.args)) + ")"


class ForJavaScript(Products, JavascriptCodePrinter):  # type: ignore[misc]
    """JavaScript with integer powers as products."""

    def _print_Rational(self, expr: Any) -> str:
        if max(abs(expr.p), expr.q) > 2**53:  # neither part may overflow
            return repr(float(expr))
        return str(super()._print_Rational(expr))


def statements(exprs: Sequence[Any], printer: Any) -> tuple[list[tuple[str, str]], list[str]]:
    """Print ``exprs`` as ([(temporary, its code), …], [code of each value])."""
    # A base printed as a product occurs several times: listing it makes cse give it a name.
    powers = {p for e in exprs for p in e.atoms(sympy.Pow) if p.exp.is_Integer}
    bases = sorted({p.base for p in powers if not p.base.is_Symbol}, key=sympy.default_sort_key)
    temporaries, values = sympy.cse([*exprs, *bases], sympy.numbered_symbols("t", real=True))
    code = [(symbol.name, printer.doprint(expr)) for symbol, expr in temporaries]
    return code, [printer.doprint(v) for v in values[: len(exprs)]]


def compile_python(
    exprs: Sequence[Any], printer: Any, namespace: dict[str, Any]
) -> Callable[[Any], list[Any]]:
    """Compile to a Python function x ↦ list of the values of ``exprs``."""
    code, values = statements(exprs, printer({"fully_qualified_modules": False}))
    lines = [f"    {name} = {value}\n" for name, value in code]
    scope = dict(namespace)
    exec(f"def function(x):\n{''.join(lines)}    return [{', '.join(values)}]", scope)
    function: Callable[[Any], list[Any]] = scope["function"]
    return function
