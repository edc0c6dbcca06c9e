"""The loss of a certificate as JSON, and what a certificate says of the data in it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from samlib.certify.exact_network import NetworkLoss
from samlib.errors import BadInput, check_whole
from samlib.training.data import load_data

ABOUT = ("set", "classes", "features")


def canonical(value: Any) -> str:
    """One JSON text for a value. It tells 1 from 1.0, True and "1", as == does not."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def to_json(loss: Any) -> dict[str, Any]:
    """Everything that defines the loss, exactly, as plain JSON values.

    Raises
    ------
    BadInput
        If it is neither a Landscape nor a NetworkLoss.
    """
    if isinstance(loss, NetworkLoss):
        return loss.to_json()
    if not hasattr(loss, "expr"):
        raise BadInput(f"{loss!r} cannot be stored; use a Landscape or a NetworkLoss")
    symbols = [s.name for s in loss.symbols]
    return {"type": "landscape", "expr": str(loss.expr), "symbols": symbols, "name": loss.name}


def from_json(stored: Any) -> Any:
    """The loss that :func:`to_json` wrote down.

    Raises
    ------
    BadInput, LookupError, TypeError, ArithmeticError
        If it did not write this.
    """
    loss: Any
    if stored["type"] == "network":
        loss = NetworkLoss.from_json(stored)
        again = loss.to_json()
    else:
        from samlib.landscapes.symbolic import Landscape

        if not all(isinstance(stored[key], str) for key in ("expr", "name")):
            raise BadInput("expr and name must be texts")  # SymPy would evaluate those in a list
        loss = Landscape(stored["expr"], stored["symbols"], stored["name"])
        # not str(loss.expr): SymPy's order of terms is another in another version
        again = to_json(loss) | {"expr": stored["expr"]}
    if canonical(again) != canonical(stored):
        raise BadInput("the loss is not written down as it is saved")
    return loss


def describe_data(loss: Any, about: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the data of a network are: ``about`` them, their number n and their SHA-256.

    Raises
    ------
    BadInput
        If ``about`` says more than set, classes and features, if these do not fit the loss, or if
        the loss has no data.
    """
    if not isinstance(loss, NetworkLoss):
        if about:
            raise BadInput("data describes the data of a network, and this loss has none")
        return None
    said = dict.fromkeys(ABOUT) | dict(about or {})
    if unknown := sorted(set(said) - set(ABOUT)):
        raise BadInput(f"data has {unknown}; say what they are with {', '.join(ABOUT)}")
    name, classes, features = said.values()
    if not isinstance(name, str | None) or not isinstance(features, str | None):
        raise BadInput(f"set = {name!r} and features = {features!r} of the data must be texts")
    if (pca := re.fullmatch(r"pca:(\d+)", features or "")) and int(pca[1]) != loss.inputs:
        raise BadInput(f"features = {features!r}, but the network has {loss.inputs} inputs")
    if classes is not None:
        said["classes"] = [check_whole("a class", c, 0) for c in classes]
        if len(classes) != {"ce": loss.outputs, "logistic": 2}.get(loss.loss):
            raise BadInput(f"classes = {classes!r} are not those of a network of {loss.outputs}")
    return said | {"n": loss.samples, "sha256": loss.digest()}


def is_as_described(loss: Any, data: Mapping[str, Any] | None) -> bool:
    """Whether the data are what is said of them, as far as that can be found out.

    The digits, which come with scikit-learn, are made again; other sets are not.
    """
    if data is None or data["set"] != "digits":
        return True
    try:
        features = str(data["features"])
        d = load_data("digits", n=data["n"], classes=data["classes"], features=features)
    except BadInput:
        return False
    again = NetworkLoss(d.x_train, d.y_train, loss.hidden, loss=loss.loss)
    return bool(again.digest() == data["sha256"])
