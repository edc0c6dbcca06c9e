"""Exact numbers and small ball arithmetic (python-flint) helpers shared by networks and proofs.

A ball is an interval with a midpoint of as many bits as wanted; each operation encloses the true
result. Vectors and matrices of balls are NumPy object arrays of ``flint.arb``, whose products go
through flint's own matrices.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samlib.errors import BadInput

Array = NDArray[Any]  # float64, or object arrays of arb


def fraction(name: str, value: Any) -> Fraction:
    """``value`` as an exact fraction; a float stands for its shortest decimal (0.1 is 1/10).

    Raises
    ------
    BadInput
        If ``value`` is not a finite number.
    """
    try:
        # 1e999999999 would fill the memory before anything could refuse it
        if isinstance(value, str) and re.search(r"[eE][+-]?\d{5}", value):
            raise ValueError(value)
        if isinstance(value, str | Fraction | Decimal):
            return Fraction(value)
        if isinstance(value, Integral):
            return Fraction(int(value))
        if hasattr(value, "p") and hasattr(value, "q"):  # a SymPy or flint rational
            return Fraction(int(value.p), int(value.q))
        return Fraction(repr(float(value)))
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise BadInput(
            f"{name} = {value!r} is not a finite number; give a decimal or 'p/q'"
        ) from None


def common_denominator(name: str, values: ArrayLike) -> tuple[NDArray[np.object_], int]:
    """Integer numerators (an object array of the same shape) and their least common denominator."""
    raw = np.asarray(values, dtype=object)
    exact = [fraction(name, v) for v in raw.ravel().tolist()]
    den = math.lcm(*(q.denominator for q in exact))
    out = np.empty(len(exact), dtype=object)
    out[:] = [int(q * den) for q in exact]
    return out.reshape(raw.shape), den


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Work with ``bits`` bits inside the block; flint's own setting comes back whatever happens."""
    from flint import ctx

    before = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = before


def ball(value: Fraction) -> Any:
    """The ball of the present precision around an exact fraction."""
    from flint import arb, fmpq

    return arb(fmpq(value.numerator, value.denominator))


def balls(values: ArrayLike) -> Array:
    """An object array of balls; float64 values are taken as they are, exactly."""
    from flint import arb

    raw = np.asarray(values)
    out = np.empty(raw.size, dtype=object)
    out[:] = [v if isinstance(v, arb) else arb(v) for v in raw.ravel().tolist()]
    return out.reshape(raw.shape)


def mm(a: Array, b: Array) -> Array:
    """Matrix product; balls go through flint's own, some fifty times faster than NumPy's loop."""
    if a.dtype != object:
        return np.asarray(a @ b)
    from flint import arb_mat

    (m, n), k = a.shape, b.shape[1]
    product = arb_mat(m, n, a.ravel().tolist()) * arb_mat(n, k, b.ravel().tolist())
    return np.array(product.entries(), dtype=object).reshape(m, k)


def apply(name: str, a: Array) -> Array:
    """``np.exp``, ``np.tanh`` and the like, elementwise, for floats and balls."""
    if a.dtype != object:
        return np.asarray(getattr(np, name)(a))
    out: Array = np.frompyfunc(lambda v: getattr(v, name)(), 1, 1)(a)
    return out


def finite(a: Array) -> bool:
    """Whether all balls of an array are finite: no NaN, no infinite end."""
    return all(v.is_finite() for v in a.ravel())


def largest(values: Iterable[Any]) -> Any:
    """The largest upper end of some balls; infinite if one is not finite (``max`` drops NaN)."""
    from flint import arb

    ends = [v.upper() for v in values]
    return max(ends) if all(end.is_finite() for end in ends) else arb("inf")


def centred(a: Array) -> Array:
    """Balls that hold the given ones, with midpoint 0 where it is far smaller than the radius.

    Products of large matrices are faster without midpoints like 1e-110.
    """
    from flint import arb

    def about_zero(v: Any) -> Any:
        return arb(0, v.abs_upper()) if abs(v.mid()) * 2**40 < v.rad() else v

    return np.asarray(np.frompyfunc(about_zero, 1, 1)(a))


def midpoints(a: Array) -> NDArray[np.float64]:
    """Midpoints rounded to float64."""
    return np.array([float(v.mid()) for v in a.ravel()]).reshape(a.shape)


def upper(value: Any) -> float:
    """A float that is certainly ≥ the ball."""
    return math.nextafter(float(value.upper()), math.inf)


def lower(value: Any) -> float:
    """A float that is certainly ≤ the ball."""
    return math.nextafter(float(value.lower()), -math.inf)
