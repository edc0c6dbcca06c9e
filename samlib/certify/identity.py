"""What a stored certificate says about its loss and its data, and the loss made again from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from samlib.certify.exact_network import NetworkLoss
from samlib.errors import BadInput, check_whole

_ABOUT = ("set", "classes", "features")


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
    names = [s.name for s in landscape.symbols]
    expr = str(landscape.expr)
    return {"type": "landscape", "expr": expr, "symbols": names, "name": landscape.name}


def restore(stored: Any) -> Any:
    """The loss that :func:`describe` wrote down.

    Raises
    ------
    BadInput
        If the description is unknown, or its expression is more than arithmetic and functions.
    """
    kind = stored.get("type") if isinstance(stored, dict) else None
    keys = {
        "network": "decay hidden loss type x x_denominator y y_denominator",
        "landscape": "expr name symbols type",
    }.get(str(kind), "")
    if not keys or sorted(stored) != keys.split():
        raise BadInput(f"the loss is of type {kind!r}; it must be network or landscape, complete")
    if kind == "network":
        return NetworkLoss.from_json(stored)
    from samlib.landscapes import expressions, symbolic

    expr, symbols, name = stored["expr"], stored["symbols"], stored["name"]
    texts = [expr, name, *symbols] if isinstance(symbols, list) else [None]
    if not all(isinstance(t, str) for t in texts) or not all(s.isidentifier() for s in symbols):
        raise BadInput("a landscape is stored as texts: its expression, its symbols and its name")
    words = set(re.findall(r"[^\W\d]\w*", expr))
    allowed = {*symbols, *expressions.FUNCTIONS, "pi", "E"}
    plain = re.fullmatch(r"[\w\s+\-*/(),.]*", expr) and not re.search(r"\.\D", expr + " ")
    if not plain or not words <= allowed:
        raise BadInput(f"expression {expr!r} is not one that a certificate can hold")
    return symbolic.Landscape(expr, symbols, name)


def describe_data(landscape: Any, about: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the data of a network are: ``about`` them, their number n and their SHA-256.

    Raises
    ------
    BadInput
        If ``about`` has other keys than set, classes and features, or the loss has no data.
    """
    about = dict(about or {})
    if unknown := sorted(set(about) - set(_ABOUT)):
        raise BadInput(f"data has {unknown}; say what they are with {', '.join(_ABOUT)}")
    if not isinstance(landscape, NetworkLoss):
        if about:
            raise BadInput("data describes the data of a network, and this loss has none")
        return None
    found: dict[str, Any] = {key: about.get(key) for key in _ABOUT}
    if found["classes"] is not None:
        found["classes"] = [check_whole("a class", c, 0) for c in found["classes"]]
    return found | {"n": landscape.samples, "sha256": landscape.digest()}


def contradictions(landscape: Any, data: dict[str, Any] | None) -> list[str]:
    """What a description of the data says that is not so; empty if all of it fits.

    Number, digest, classes and features are compared with what the loss holds. The digits, which
    come with scikit-learn, are made again; other sets are not.
    """
    if data is None:
        return []
    if not isinstance(landscape, NetworkLoss):
        return ["data: this loss has none"]
    wrong = [] if data["n"] == landscape.samples else [f"n = {data['n']}"]
    if data["sha256"] != landscape.digest():
        wrong.append("sha256 of other data")
    classes, features = data["classes"], str(data["features"])
    count = {"ce": landscape.outputs, "logistic": 2}.get(landscape.loss)
    if classes is not None and len(classes) != count:
        wrong.append(f"classes = {classes}")
    if (pca := re.fullmatch(r"pca:(\d+)", features)) and int(pca[1]) != landscape.inputs:
        wrong.append(f"features = {features!r}")
    if data["set"] == "digits" and not wrong:
        try:
            again = digits(data["n"], classes, features, landscape)
        except BadInput as error:
            return [str(error)]
        if again.digest() != landscape.digest():
            wrong.append("data: they are not those digits")
    return wrong


def digits(n: int, classes: Any, features: str, like: NetworkLoss) -> NetworkLoss:
    """The loss of a network like ``like`` on scikit-learn's digits, cut to ``n`` of ``classes``."""
    from samlib.training import data

    d = data.load_data("digits", n=n, classes=classes, features=features)
    return NetworkLoss(d.x_train, d.y_train, like.hidden, loss=like.loss, decay=like.decay)
