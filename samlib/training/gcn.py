"""A graph convolutional network on a graph that is small enough for a dense matrix."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import torch
from torch import Tensor, nn

from samlib.errors import BadInput, check_whole
from samlib.training.mlp import activation_class


def normalised(adjacency: Tensor) -> Tensor:
    """D^(−1/2) (A + I) D^(−1/2) with D the row sums of A + I, shape (m, m)."""
    a = adjacency + torch.eye(len(adjacency), dtype=adjacency.dtype)
    scale = a.sum(1).rsqrt()
    return scale[:, None] * a * scale


class GCN(nn.Module):
    """Kipf and Welling 2017 on the karate club: ``depth`` hidden layers, Z = Â σ(Â X W₀) W₁.

    A member's features are its name, X = I. Inputs (N, 34) have a one where the member is whom the
    row asks about; outputs are its rows of Z, (N, out_features). No biases, as in the paper.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int = 16,
        depth: int = 1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.sigma = activation_class(activation)()
        check_whole("width", width, 1, 100_000)
        check_whole("depth", depth, 1, 1000)
        graph = nx.karate_club_graph()
        if in_features != len(graph):
            found = f"gcn knows the graph of {len(graph)} members only, not of {in_features}"
            raise BadInput(f"{found}; use data = 'karate'")
        sizes = [in_features, *[width] * depth, out_features]
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))
        self.mix: Tensor
        # In double, so that a network converted to double has it exactly.
        self.register_buffer(
            "mix", normalised(torch.as_tensor(nx.to_numpy_array(graph, weight=None)))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, out_features) for the members that ``x`` (N, 34) asks about."""
        mix = self.mix.to(x.dtype)
        h = mix @ self.layers[0].weight.T  # type: ignore[operator]
        for layer in self.layers[1:]:
            h = mix @ layer(self.sigma(h))
        return x @ h
