"""Fully connected networks, and the stacked form in which many of them train at once.

Training holds the parameters of a network as one flat vector, and E networks of one architecture as
the rows of an (E, p) matrix: :class:`Stacked` evaluates all rows with a few large matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import torch
from torch import Tensor, nn

from samlib.errors import BadInput, check_choice, check_whole

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


def activation_class(name: str) -> type[nn.Module]:
    """The layer of that name; BadInput lists the names."""
    check_choice("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


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
        sigma = activation_class(activation)
        check_whole("width", width, 1, 100_000)
        check_whole("depth", depth, 1, 100_000)
        sizes = [in_features] + [width] * depth
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), sigma()]
        super().__init__(*layers, nn.Linear(sizes[-1], out_features))


_aten = torch.ops.aten
# φ, in place where it can be, and its derivative's product (gradient, φ's input, φ's output).
# Torch's tanh takes three times as long as its sigmoid: tanh z = 2σ(2z) − 1, to rounding.
_ACTIVATE: dict[type, Callable[[Tensor], Tensor]] = {
    nn.Tanh: lambda z: z.mul_(2).sigmoid_().mul_(2).sub_(1),
    nn.ReLU: torch.relu_,
    nn.GELU: nn.functional.gelu,
}
_RETURN: dict[type, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    nn.Tanh: lambda g, z, t: _aten.tanh_backward.grad_input(g, t, grad_input=g),
    nn.ReLU: lambda g, z, t: _aten.threshold_backward.grad_input(g, t, 0, grad_input=g),
    nn.GELU: lambda g, z, t: _aten.gelu_backward(g, z),
}
Slope: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]


class Stacked:
    """Evaluate E networks of the architecture of ``model`` at once.

    ``parts(theta)`` cuts an (E, p) matrix into the parameters of torch's order,
    each of shape (E, ...); ``forward(parts, x)`` maps inputs (N, d) to outputs (E, k, N), and
    automatic differentiation can follow it. ``gradient`` is written by hand, for speed.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, MLP):
            raise BadInput(f"{type(model).__name__} cannot be stacked; use an MLP")
        self.layers = list(model)
        self.shapes = [p.shape for p in model.parameters()]
        self.sizes = [s.numel() for s in self.shapes]

    def parts(self, theta: Tensor) -> list[Tensor]:
        """Views of ``theta`` (E, p), one for each parameter, of shape (E, *shape)."""
        pieces = theta.split_with_sizes(self.sizes, 1)
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

    @torch.no_grad()
    def gradient(self, theta: Tensor, x: Tensor, slope: Slope) -> tuple[Tensor, Tensor]:
        """Losses (E,) and their gradients (E, p) at ``theta`` for inputs ``x`` (N, d).

        ``slope`` maps outputs (E, k, N) to the members' losses (E,) and the losses' derivatives
        with respect to the outputs.
        """
        (width, d), kinds = self.shapes[0], [type(layer) for layer in self.layers[1::2]]
        grad, members, parts = torch.empty_like(theta), len(theta), self.parts(theta)
        weights, biases, pieces = parts[::2], parts[1::2], self.parts(grad)
        before, after = [], []  # φ's inputs and outputs, hidden layer by hidden layer
        z = torch.mm(weights[0].reshape(members * width, d), x.T).view(members, width, -1)
        z.add_(biases[0].unsqueeze(2))
        for kind, w, b in zip(kinds, weights[1:], biases[1:], strict=True):
            before.append(z)
            after.append(_ACTIVATE[kind](z))
            z = torch.baddbmm(b.unsqueeze(2), w, after[-1])
        losses, delta = slope(z)
        for k in range(len(kinds), 0, -1):
            torch.sum(delta, 2, out=pieces[2 * k + 1])
            torch.bmm(delta, after[k - 1].mT, out=pieces[2 * k])
            back = torch.bmm(weights[k].mT, delta)
            delta = _RETURN[kinds[k - 1]](back, before[k - 1], after[k - 1])
        torch.sum(delta, 2, out=pieces[1])
        pieces[0].copy_(torch.mm(delta.view(members * width, -1), x).view(members, width, d))
        return losses, grad
