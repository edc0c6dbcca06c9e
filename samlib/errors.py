"""The one exception that samlib raises for input it cannot use, and the checks that raise it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any, NoReturn


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
    """Return ``value`` if it is a finite number in [low, high]; ``strict`` excludes ``low``."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    above = number > low if strict else number >= low
    if not (math.isfinite(number) and above and number <= high):
        bracket = "(" if strict else "["
        upper = "∞)" if math.isinf(high) else f"{high:g}]"
        _refuse(f"{name} = {value!r} is not a number in {bracket}{low:g}, {upper}", remedy)
    return number


def check_whole(
    name: str, value: Any, low: int = 1, high: float = math.inf, remedy: str = ""
) -> int:
    """Return ``value`` as an int if it is a whole number from ``low`` to ``high``, and no bool."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not (whole and low <= value <= high):
        wanted = f"≥ {low}" if math.isinf(high) else f"from {low} to {high}"
        _refuse(f"{name} = {value!r} is not a whole number {wanted}", remedy)
    return int(value)


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse a ``value`` that is none of the ``choices``."""
    if value not in (known := list(choices)):
        _refuse(f"{name} {value!r} is unknown", f"use one of {', '.join(known)}")


def _refuse(fault: str, remedy: str) -> NoReturn:
    raise BadInput(f"{fault}; {remedy}" if remedy else fault)
