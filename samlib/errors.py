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
    value: Any,
    low: float = 0.0,
    high: float = math.inf,
    *,
    strict: bool = False,
    remedy: str = "",
) -> float:
    """Return ``value`` if it is a finite number in [low, high]; ``strict`` excludes ``low``.

    A word or a truth value is no number.
    """
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
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


def check_point(name: str, value: Any, dim: int) -> Any:
    """Return ``value`` as a finite float64 vector (dim,); a number will do where ``dim`` is 1."""
    import numpy as np

    try:
        point = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        _refuse(f"{name} = {value!r} is not a vector of {dim} numbers", "")
    if point.ndim == 0 and dim == 1:
        point = point[None]
    if point.shape != (dim,):
        _refuse(
            f"{name} has shape {point.shape}",
            f"pass one point of shape ({dim},), a number for each variable of the landscape",
        )
    if not np.isfinite(point).all():
        _refuse(f"{name} = {point} is not finite", f"pass {dim} finite numbers")
    return point


def check_box(box: Any, dim: int) -> Any:
    """Return ``box`` as a float64 array (dim, 2) of pairs low < high."""
    import numpy as np

    try:
        bounds = np.array(box, dtype=np.float64)
        fits = bounds.shape == (dim, 2) and bool(np.all(bounds[:, 0] < bounds[:, 1]))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        _refuse(f"box = {box!r} must be {dim} pairs (low, high) with low < high", "")
    return bounds


def check_rho(rho: Any) -> float:
    """Return the radius ρ of SAM's ascent step as a float in (0, ∞)."""
    return check_number("rho", rho, strict=True, remedy="pass the radius of SAM's ascent step")


def _refuse(fault: str, remedy: str) -> NoReturn:
    raise BadInput(f"{fault}; {remedy}" if remedy else fault)
