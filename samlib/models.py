"""Networks by name, and the stacked form in which many of them train at once.

A network is an ordinary ``torch.nn.Module``. Training holds its parameters as one flat vector, and
``E`` networks of one architecture as the rows of an (E, p) matrix: :class:`Stacked` evaluates all
rows with a few large matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from samlib.errors import BadInput, check_choice, check_whole

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


class MLP(nn.Sequential):
    """Fully connected network: ``depth`` hidden layers of ``width`` units, then a linear layer.

    Inputs have shape (N, in_features), outputs (N, out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int = 32,
        depth: int = 1,
        activation: str = "tanh",
    ) -> None:
        check_choice("activation", activation, ACTIVATIONS)
        check_whole("width", width, 1, 100_000)
        check_whole("depth", depth, 1, 100_000)
        sizes = [in_features] + [width] * depth
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), ACTIVATIONS[activation]()]
        super().__init__(*layers, nn.Linear(sizes[-1], out_features))


BUILDERS: dict[str, Callable[..., nn.Module]] = {"mlp": MLP}


def names() -> list[str]:
    """Names that :func:`build` knows."""
    return sorted(BUILDERS)


def build(name: str, *, seed: int = 0, **kw: object) -> nn.Module:
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


class Stacked:
    """Evaluate E networks of the architecture of ``model`` at once.

    ``parts(theta)`` cuts an (E, p) matrix into the parameters of :func:`flat_parameters`' order,
    each of shape (E, ...); ``forward(parts, x)`` maps inputs (N, d) to outputs (E, k, N).
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, MLP):
            raise BadInput(f"{type(model).__name__} cannot be stacked; use an MLP")
        self.layers = list(model)
        self.shapes = [p.shape for p in model.parameters()]

    def parts(self, theta: Tensor) -> list[Tensor]:
        """Views of ``theta`` (E, p), one for each parameter, of shape (E, *shape)."""
        pieces = torch.split(theta, [s.numel() for s in self.shapes], dim=1)
        return [piece.reshape(-1, *s) for piece, s in zip(pieces, self.shapes, strict=True)]

    def forward(self, parts: list[Tensor], x: Tensor) -> Tensor:
        """Outputs (E, k, N) of all members on shared inputs ``x`` (N, d)."""
        members, (width, d) = parts[0].shape[0], self.shapes[0]
        # All members see the same inputs: the first layer is one product of (E·h, d) with (d, N).
        first = torch.mm(parts[0].reshape(members * width, d), x.T)
        h = first.view(members, width, -1) + parts[1].unsqueeze(2)
        k = 2
        for layer in self.layers[1:]:
            if isinstance(layer, nn.Linear):
                h = torch.baddbmm(parts[k + 1].unsqueeze(2), parts[k], h)
                k += 2
            else:
                h = layer(h)
        return h
