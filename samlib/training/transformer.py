"""A small transformer that reads a few tokens and answers with one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from samlib.errors import BadInput, check_whole
from samlib.training.mlp import activation_class

HEADS = 4
LENGTH = 8  # the longest sequence, the end mark included


class Transformer(nn.Module):
    """``depth`` layers of attention (4 heads) and 4 · ``width`` units (Vaswani et al. 2017).

    Inputs (N, k) hold k < 8 tokens, whole numbers from 0 to in_features − 1; an end mark is added,
    and the answer, of shape (N, out_features), is read off there. LayerNorm comes before each part;
    positions are learnt; no dropout.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int = 32,
        depth: int = 1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        sigma = activation_class(activation)()
        check_whole("depth", depth, 1, 1000)
        if check_whole("width", width, HEADS, 100_000) % HEADS:
            raise BadInput(f"width = {width} is not a multiple of the {HEADS} heads; use one")
        self.tokens = nn.Embedding(in_features + 1, width)
        self.positions = nn.Embedding(LENGTH, width)
        options: dict[str, Any] = {"dim_feedforward": 4 * width, "activation": sigma}
        options |= {"dropout": 0.0, "batch_first": True, "norm_first": True}
        layers = [nn.TransformerEncoderLayer(width, HEADS, **options) for _ in range(depth)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, out_features) for tokens ``x`` (N, k), of any dtype."""
        end = x.new_full((len(x), 1), self.tokens.num_embeddings - 1)
        x = torch.cat([x, end], 1).long()
        places = torch.arange(x.shape[1], device=x.device)
        h = self.layers(self.tokens(x) + self.positions(places))
        out: Tensor = self.head(h[:, -1])
        return out
