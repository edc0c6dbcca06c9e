"""ResNet-18 for images of 32 × 32 pixels, with a width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from samlib.errors import BadInput, check_whole
from samlib.training.mlp import activation_class


def _conv(a: int, b: int, size: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(a, b, size, stride, size // 2, bias=False), nn.BatchNorm2d(b)]


class Block(nn.Module):
    """Two 3 × 3 convolutions and a shortcut: (N, a, H, W) to (N, b, H/stride, W/stride)."""

    def __init__(self, a: int, b: int, stride: int, sigma: type[nn.Module]) -> None:
        super().__init__()
        self.residual = nn.Sequential(*_conv(a, b, 3, stride), sigma(), *_conv(b, b, 3))
        plain = a == b and stride == 1
        self.shortcut = nn.Identity() if plain else nn.Sequential(*_conv(a, b, 1, stride))
        self.sigma = sigma()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output for ``x`` (N, a, H, W)."""
        out: Tensor = self.sigma(self.residual(x) + self.shortcut(x))
        return out


class ResNet18(nn.Sequential):
    """He et al. 2016 with a first layer for small images: 3 × 3, stride 1, no max-pooling.

    Inputs have shape (N, in_features, H, W), in_features being the number of colour channels,
    outputs (N, out_features). The four stages have ``width``, 2, 4 and 8 times as many channels; 64
    is the usual width. BadInput if a ``depth`` other than 1 is asked for: it is always 18 layers.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int = 64,
        depth: int = 1,
        activation: str = "relu",
    ) -> None:
        sigma = activation_class(activation)
        check_whole("width", width, 1, 10_000)
        if depth != 1:
            raise BadInput(f"depth = {depth!r}: ResNet-18 has one depth; leave it at 1")
        layers: list[nn.Module] = [*_conv(in_features, width, 3), sigma()]
        channels = width
        for stage in range(4):
            for stride in (1 if stage == 0 else 2, 1):
                layers.append(Block(channels, width << stage, stride, sigma))
                channels = width << stage
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, out_features)]
        super().__init__(*layers, *head)
        self.to(memory_format=torch.channels_last)
