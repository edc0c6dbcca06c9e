"""Networks by name; each is an ordinary ``torch.nn.Module`` in a file of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from samlib.errors import BadInput, check_choice
from samlib.training.gcn import GCN
from samlib.training.mlp import MLP
from samlib.training.resnet import ResNet18
from samlib.training.transformer import Transformer

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "resnet18": ResNet18,
    "transformer": Transformer,
    "gcn": GCN,
}


def names() -> list[str]:
    """Names that :func:`build_model` knows."""
    return sorted(BUILDERS)


def build_model(name: str, *, seed: int = 0, **kw: object) -> nn.Module:
    """Build a network by name with PyTorch's default initialisation, drawn with ``seed``.

    Torch's global generator is left alone. The options are those of the class, as :class:`MLP`'s.
    BadInput if the name or an option is unknown, or an option is out of range.
    """
    check_choice("model", name, BUILDERS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return BUILDERS[name](**kw)
        except TypeError as error:
            raise BadInput(f"model {name!r}: {error}") from None


def flat_parameters(model: nn.Module) -> Tensor:
    """All parameters of ``model`` in torch's order as one vector of shape (p,), a copy."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])
