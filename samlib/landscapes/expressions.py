"""From what a user writes to a SymPy expression of known functions and exact numbers.

SymPy would evaluate a string as Python, so strings are read here, node by node of their syntax:
arithmetic, names and the functions listed pass, and no power that would fill the memory. Not
covered: an expression that is merely enormous (thousands of terms) takes SymPy as long as it takes,
and an expression that is already a SymPy object was evaluated before it came here.
"""

from __future__ import annotations

import ast
import operator
from decimal import Decimal
from typing import Any

import sympy

from samlib.errors import BadInput

FUNCTIONS = [
    *("exp", "log", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
]
KINKS = [sympy.Abs, sympy.Max, sympy.Min, sympy.Piecewise, sympy.sign, sympy.Heaviside]
_VOCABULARY = ", ".join(FUNCTIONS + [k.__name__ for k in KINKS])

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

_CALLS = {n: getattr(sympy, n) for n in FUNCTIONS} | {k.__name__: k for k in KINKS}
_CALLS |= {"abs": sympy.Abs, "ln": sympy.log, "Rational": sympy.Rational}
_CONSTANTS = {n: getattr(sympy, n) for n in ("pi", "E", "I", "oo", "zoo", "nan")}
_OPERATORS: dict[type[ast.AST], Any] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul},
    **{ast.Div: operator.truediv, ast.USub: operator.neg, ast.UAdd: operator.pos},
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.Invert: operator.invert},
    ast.Pow: lambda base, power: _power(base, power),
}
_GRAMMAR = (ast.operator, ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context)

_LARGEST = sympy.Integer(2) ** 1023  # of float64, nearly
_BITS = 10_000  # a power of numbers may not be longer when written out


def read(expr: Any, symbols: tuple[Any, ...]) -> Any:
    """A text or SymPy expression as a real expression of ``symbols``, its decimals exact rationals.

    Raises
    ------
    BadInput
        If it has an unlisted symbol, a function outside the vocabulary, a number that is not real
        or outside the range of float64, or a Piecewise without a last branch for all other cases.
    """
    try:
        tree = _parse(expr, symbols) if isinstance(expr, str) else sympy.sympify(expr, strict=True)
    except BadInput:
        raise
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


def _parse(text: str, symbols: tuple[Any, ...]) -> Any:
    """The SymPy object that ``text`` stands for; its parts are read first, without recursion."""
    source = text.strip().replace("^", "**")
    try:
        tree = ast.parse(source, mode="eval").body
    except (RecursionError, MemoryError) as error:
        raise ValueError(error) from None
    names = _CONSTANTS | {s.name: s for s in symbols}
    values: dict[ast.AST, Any] = {}
    for node in reversed(list(ast.walk(tree))):
        parts = [values[child] for child in ast.iter_child_nodes(node) if child in values]
        match node:
            case ast.Constant(value=int()):
                values[node] = sympy.sympify(node.value)
            case ast.Constant(value=float()):
                values[node] = _decimal(ast.get_source_segment(source, node) or "")
            case ast.Name():
                values[node] = names.get(node.id, sympy.Symbol(node.id))
            case ast.Tuple():
                values[node] = tuple(parts)
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _CALLS:
                values[node] = _CALLS[name](*parts[1:])
            case ast.BinOp(op=op) | ast.UnaryOp(op=op) | ast.Compare(ops=[op]) if (
                type(op) in _OPERATORS
            ):
                values[node] = _OPERATORS[type(op)](*parts)
            case _ if not isinstance(node, _GRAMMAR):
                raise BadInput(
                    f"expr uses {ast.unparse(node)[:80]}, more than arithmetic and functions; "
                    f"rewrite it with {_VOCABULARY}"
                )
    return values[tree]


def _decimal(digits: str) -> Any:
    """The rational that a decimal of any length stands for."""
    if abs(Decimal(digits).adjusted()) > 999:
        raise BadInput(f"{digits} is beyond the range of float64; rescale")
    return sympy.Rational(digits)


def _power(base: Any, power: Any) -> Any:
    """base**power, unless its numbers have too many digits when written out."""
    numbers = [n for n in base.atoms(sympy.Rational) if n not in (0, 1, -1)]
    length = max((max(int(n.p).bit_length(), int(n.q).bit_length()) for n in numbers), default=0)
    if power.is_Rational and length * abs(power) > _BITS:
        raise BadInput(f"({base})**({power})"[:60] + " is beyond the range of float64; rescale")
    return base**power


def _exact(number: Any) -> Any:
    """The rational that a SymPy Float stands for: its shortest decimal."""
    if not abs(number) < _LARGEST:
        raise BadInput(f"{number} is beyond the range of float64; rescale")
    return sympy.Rational(repr(float(number)) if number._prec <= 53 else str(number))


def _check_number(node: Any) -> None:
    """Refuse a number that is not real, or neither 0 nor in the range of float64."""
    try:
        value = node if node.is_Rational else node.evalf()
    except (OverflowError, MemoryError, ValueError):
        value = sympy.nan
    if not (value.is_Rational or value.is_Float):
        raise BadInput(f"{node} is no real number; give a finite real expression")
    if not (value == 0 or 1 / _LARGEST < abs(value) < _LARGEST):
        raise BadInput(f"{str(node)[:40]} is beyond the range of float64; rescale")
