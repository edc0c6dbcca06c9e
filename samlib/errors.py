"""The one exception that samlib raises for input it cannot use."""

from __future__ import annotations

import math


class BadInput(ValueError):
    """An argument is unusable. The message names the value, the valid range and the remedy."""


def check_number(
    name: str,
    value: float,
    low: float = 0.0,
    high: float = math.inf,
    *,
    strict: bool = False,
    remedy: str = "",
) -> float:
    """Return ``value`` if it is a finite number in [low, high]; ``strict`` excludes ``low``.

    Raises
    ------
    BadInput
        If ``value`` is not a number, is NaN or infinite, or lies outside the interval.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    above = number > low if strict else number >= low
    if not (math.isfinite(number) and above and number <= high):
        bracket = "(" if strict else "["
        upper = "∞)" if math.isinf(high) else f"{high:g}]"
        hint = f"; {remedy}" if remedy else ""
        raise BadInput(f"{name} = {value!r} is not a number in {bracket}{low:g}, {upper}{hint}")
    return number
