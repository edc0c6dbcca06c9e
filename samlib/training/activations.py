"""Activation functions by name."""

from __future__ import annotations

from torch import nn

from samlib.errors import check_choice

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


def activation_class(name: str) -> type[nn.Module]:
    """The layer of that name; BadInput lists the names."""
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
