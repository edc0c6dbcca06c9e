"""A SymPy landscape in ball arithmetic: f, ∇f and ∇²f enclosed over a box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import sympy
from sympy.printing.pycode import PythonCodePrinter

from samlib.errors import BadInput
from samlib.landscapes import codegen
from samlib.landscapes.expressions import FUNCTIONS, SMOOTH


class ForBalls(codegen.Products, PythonCodePrinter):  # type: ignore[misc]
    """Python for python-flint. Constants are enclosed when called, at the precision then set."""

    longest = 10**6  # flint's own power is NaN for a ball that contains 0, even for x**2

    def _print(self, expr: Any, **options: Any) -> str:
        # A step or a modulus has no ball code: a comparison of balls is False on both sides of a
        # kink that they straddle, and would give a number there.
        if isinstance(expr, sympy.Basic) and not isinstance(expr, SMOOTH):
            raise BadInput(f"{expr} cannot be enclosed in ball arithmetic; use smooth functions")
        return str(super()._print(expr, **options))

    def _print_Rational(self, expr: Any) -> str:
        return f"(arb({expr.p})/{expr.q})"

    def _print_Pi(self, expr: Any) -> str:
        return "arb.pi()"

    def _print_Exp1(self, expr: Any) -> str:
        return "arb(1).exp()"


class BallLandscape:
    """The functions of a smooth :class:`samlib.Landscape` on python-flint balls.

    Raises
    ------
    BadInput
        If the landscape has kinks.
    """

    def __init__(self, landscape: Any) -> None:
        if not landscape.smooth:
            raise BadInput(f"{landscape!r} has kinks; ball arithmetic needs a smooth expression")
        self.dim = landscape.dim
        f, grad, hess = landscape.derivatives
        none: list[Any] = []
        self._f, self._grad, self._hess = (
            _guarded(*order) for order in ((none, f), (f, grad), (f + grad, hess))
        )

    def ball_f(self, xs: Sequence[Any]) -> Any:
        """f: d balls (flint ``arb``) in, one out."""
        return self._f(xs)[0]

    def ball_grad(self, xs: Sequence[Any]) -> list[Any]:
        """∇f: d balls in, d out; NaN where f is not finite all over the ball."""
        return self._grad(xs)

    def ball_hess(self, xs: Sequence[Any]) -> list[list[Any]]:
        """∇²f, d lists of d balls; NaN where f or ∇f is not finite on the ball."""
        flat = self._hess(xs)
        return [flat[i : i + self.dim] for i in range(0, len(flat), self.dim)]


@lru_cache(maxsize=64)
def in_balls(landscape: Any) -> BallLandscape:
    """The landscape in ball arithmetic, compiled once."""
    return BallLandscape(landscape)


def _guarded(lower: list[Any], wanted: list[Any]) -> Callable[[Any], list[Any]]:
    """Balls of ``wanted``, or NaN where one of ``lower`` is not finite.

    The formula of a derivative may live where f itself ends: 1/x is finite where log x is not.
    """
    from flint import arb

    def method(name: str) -> Callable[[Any], Any]:
        return lambda value: getattr(arb(value), name)()

    space = {n: method(n) for n in FUNCTIONS} | {"arb": arb}
    function = codegen.compile_python(lower + wanted, ForBalls, space)

    def balls(xs: Any) -> list[Any]:
        values = [arb(v) for v in function(xs)]
        if all(v.is_finite() for v in values[: len(lower)]):
            return values[len(lower) :]
        return [arb("nan")] * len(wanted)

    return balls
