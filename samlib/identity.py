"""What a stored certificate says about its loss, and the loss made again from it."""

from __future__ import annotations

import re
from typing import Any

from samlib.errors import BadInput
from samlib.networks import NetworkLoss


def title(landscape: Any) -> str:
    """One line that names the loss."""
    if isinstance(landscape, NetworkLoss):
        return repr(landscape)
    return str(getattr(landscape, "name", "") or getattr(landscape, "expr", landscape))


def describe(landscape: Any) -> dict[str, Any]:
    """Everything that defines the loss, exactly, as plain JSON values.

    Raises
    ------
    BadInput
        If the loss is neither a NetworkLoss nor a SymPy landscape.
    """
    if isinstance(landscape, NetworkLoss):
        return landscape.to_json()
    if not hasattr(landscape, "expr"):
        raise BadInput(f"{landscape!r} cannot be stored; use a Landscape or a NetworkLoss")
    import sympy

    # Decimals mean what they say, as in Landscape: 0.1 is 1/10.
    floats = landscape.expr.atoms(sympy.Float)
    expr = landscape.expr.xreplace({n: sympy.Rational(repr(float(n))) for n in floats})
    names = [s.name for s in landscape.symbols]
    return {"type": "landscape", "expr": str(expr), "symbols": names, "name": landscape.name}


def restore(stored: dict[str, Any]) -> Any:
    """The loss that :func:`describe` wrote down.

    Raises
    ------
    BadInput
        If the description is unknown, or its expression is more than arithmetic and functions:
        SymPy evaluates strings, so nothing else of a stranger's file may reach it.
    """
    if stored["type"] == "network":
        return NetworkLoss.from_json(stored)
    from samlib import landscapes

    expr, symbols = str(stored["expr"]), [str(s) for s in stored["symbols"]]
    words = set(re.findall(r"[^\W\d]\w*", expr))
    allowed = {*symbols, *landscapes._FUNCTIONS, "pi", "E"}
    plain = re.fullmatch(r"[\w\s+\-*/(),.]*", expr) and not re.search(r"\.\D", expr + " ")
    if stored["type"] != "landscape" or not plain or not words <= allowed:
        raise BadInput(f"expression {expr!r} is not one that a certificate can hold")
    return landscapes.Landscape(expr, symbols, stored["name"])
