"""From what a user writes to a SymPy expression of known functions and exact numbers.

Strings are checked before SymPy sees them, because it evaluates them: only arithmetic, the names of
the symbols and the functions listed here pass, and no power of numbers that would fill the memory.
Not covered: an expression that is merely enormous (thousands of terms) takes SymPy as long as it
takes, and an expression that is already a SymPy object was evaluated before it came here.
"""

from __future__ import annotations

import ast
import math
import re
from fractions import Fraction
from typing import Any

import sympy

from samlib.errors import BadInput

FUNCTIONS = [
    *("exp", "log", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
]
KINKS = [sympy.Abs, sympy.Max, sympy.Min, sympy.Piecewise, sympy.sign, sympy.Heaviside]

_WORDS = {
    *FUNCTIONS,
    *(k.__name__ for k in KINKS),
    "abs",
    "ln",
    "Rational",
    "Integer",
    "Float",
    "S",
}
_VOCABULARY = ", ".join(FUNCTIONS + [k.__name__ for k in KINKS])
_SYNTAX = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.Tuple),
    *(ast.Name, ast.Load, ast.Constant, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
#: the types of node that an expression without kinks is made of (√ is a power)
SMOOTH = (
    *(sympy.Add, sympy.Mul, sympy.Pow, sympy.Symbol, sympy.Rational),
    *(type(sympy.pi), type(sympy.E), *(getattr(sympy, n) for n in FUNCTIONS if n != "sqrt")),
)
_NODES = (
    *(*SMOOTH, *KINKS),
    # what the branches of Piecewise are made of
    *(sympy.functions.elementary.piecewise.ExprCondPair, sympy.core.relational.Relational),
    *(sympy.And, sympy.Or, sympy.Not, type(sympy.true), type(sympy.false)),
)
_LARGEST = sympy.Integer(2) ** 1023  # of float64, nearly
_BITS = 10_000  # a power of numbers may not be longer when written out
_EXPONENT = re.compile(r"(?<![\w.])(?:\d+\.?\d*|\.\d+)[eE][+-]?\d{4,}")


def read(expr: Any, symbols: tuple[Any, ...]) -> Any:
    """``expr`` as a real SymPy expression of ``symbols`` alone, its decimals as exact rationals.

    Raises
    ------
    BadInput
        If it has an unlisted symbol, a function outside the vocabulary, a number that is not real
        or outside the range of float64, or a Piecewise without a last branch for all other cases.
    """
    if isinstance(expr, str):
        _check_text(expr)
    try:
        tree = sympy.sympify(expr, locals={s.name: s for s in symbols}, rational=True)
    except (sympy.SympifyError, SyntaxError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"expr = {expr!r} is nothing that SymPy can read: {error}") from error
    if not isinstance(tree, sympy.Expr):
        raise BadInput(f"expr = {expr!r} is a {type(tree).__name__}; give one scalar expression")
    if stray := tree.free_symbols - set(symbols):
        names = ", ".join(s.name for s in symbols)
        raise BadInput(f"expr has free symbols {sorted(map(str, stray))}; list them beside {names}")
    if tree.has(sympy.oo, sympy.zoo, -sympy.oo, sympy.nan, sympy.I):
        raise BadInput(f"expr = {expr!r} has an infinity, NaN or I; give a finite real expression")
    tree = tree.xreplace({n: _exact(n) for n in tree.atoms(sympy.Float)})
    nodes = list(sympy.preorder_traversal(tree))
    if odd := {type(n).__name__ for n in nodes if not isinstance(n, _NODES)}:
        raise BadInput(f"expr uses {sorted(odd)}; rewrite it with {_VOCABULARY}")
    for node in reversed(nodes):  # parts first: exp(exp(exp(100))) must not be evaluated
        if isinstance(node, sympy.Piecewise) and node.args[-1].cond != sympy.true:
            raise BadInput(f"{node} has no last branch; end it with (value, True)")
        if isinstance(node, sympy.Expr) and node.is_number:
            _check_number(node)
    return tree


def _exact(number: Any) -> Any:
    """The rational that a SymPy Float stands for: its shortest decimal."""
    if not abs(number) < _LARGEST:
        raise BadInput(f"{number} is beyond the range of float64; rescale")
    return sympy.Rational(repr(float(number)) if number._prec <= 53 else str(number))


def _check_number(node: Any) -> None:
    try:
        value = node if node.is_Rational else node.evalf()
    except (OverflowError, MemoryError, ValueError):
        value = sympy.nan
    if not (value.is_Rational or value.is_Float):
        raise BadInput(f"{node} is no real number; give a finite real expression")
    if not (value == 0 or 1 / _LARGEST < abs(value) < _LARGEST):
        raise BadInput(f"{str(node)[:40]} is beyond the range of float64; rescale")


def _check_text(text: str) -> None:
    """Refuse a string that is more than arithmetic and known functions of names and numbers."""
    try:
        tree = ast.parse(text.strip().replace("^", "**"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadInput(f"expr = {text!r} is nothing that SymPy can read: {error}") from None
    if _EXPONENT.search(text):
        raise BadInput(f"expr = {text!r} has a number beyond the range of float64; rescale")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
            if name not in _WORDS or node.keywords:
                raise BadInput(f"expr uses [{name!r}]; rewrite it with {_VOCABULARY}")
        number = not isinstance(node, ast.Constant) or isinstance(node.value, int | float)
        if not (isinstance(node, _SYNTAX) and number):
            raise BadInput(f"expr = {text!r} is more than arithmetic and functions; rewrite it")
    values: dict[ast.AST, Fraction | None] = {}
    for node in reversed(list(ast.walk(tree))):  # parts first, without recursion
        values[node] = _value(node, [values[c] for c in ast.iter_child_nodes(node)])


def _value(node: ast.AST, parts: list[Fraction | None]) -> Fraction | None:
    """The value of a node made of numbers alone, from its parts; a power's size is checked first.

    None for all else, and for what is no rational number.
    """
    if isinstance(node, ast.Constant):
        finite = isinstance(node.value, int) or math.isfinite(node.value)  # type: ignore[arg-type]
        return Fraction(node.value) if finite else None  # type: ignore[arg-type]
    if isinstance(node, ast.UnaryOp) and parts[-1] is not None:
        return -parts[-1] if isinstance(node.op, ast.USub) else parts[-1]
    if not isinstance(node, ast.BinOp) or parts[0] is None or parts[2] is None:
        return None
    a, b = parts[0], parts[2]
    if isinstance(node.op, ast.Pow):
        length = max(a.numerator.bit_length(), a.denominator.bit_length())
        if a not in (0, 1, -1) and length * abs(b) > _BITS:
            raise BadInput(f"{ast.unparse(node)[:40]} is beyond the range of float64; rescale")
        return a ** int(b) if b.denominator == 1 and (a != 0 or b >= 0) else None
    if isinstance(node.op, ast.Div):
        return a / b if b else None
    simple = {ast.Add: a + b, ast.Sub: a - b, ast.Mult: a * b}
    return simple.get(type(node.op))
