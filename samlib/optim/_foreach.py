"""Arithmetic on lists of tensors, one torch call for the whole list, for the SAM optimizer."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def norm_of(tensors: list[Tensor]) -> float:
    """The Euclidean norm of all entries, accumulated in float32 (float64 if any is float64)."""
    wide = any(t.dtype is torch.float64 for t in tensors)
    norms = torch._foreach_norm(tensors, 2, torch.float64 if wide else torch.float32)
    return float(torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms])))


def stash(buffers: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    """Copy ``values`` into ``buffers``, or into new ones where these do not fit, and return them.

    Buffers are meant to be used again: fresh memory at every step would cost page faults.
    """
    kinds = [[(t.dtype, t.shape, t.device) for t in tensors] for tensors in (buffers, values)]
    if kinds[0] != kinds[1]:
        buffers = [torch.empty_like(v, requires_grad=False) for v in values]
    torch._foreach_copy_(buffers, values)
    return buffers


def add_scaled(params: list[Tensor], directions: list[Tensor], factor: float) -> None:
    """params += factor · directions; in half precision the factor alone may not fit."""
    if any(p.dtype in _HALF for p in params):
        torch._foreach_add_(params, torch._foreach_mul(directions, factor))
    else:
        torch._foreach_add_(params, directions, alpha=factor)


def inner_product(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """The sum of the inner products of the pairs, in float32 or better; NaN if there is none."""
    products = [torch.dot(*(_wide(t).reshape(-1) for t in pair)) for pair in pairs]
    return float(sum(p.to(products[0].device) for p in products)) if products else math.nan


def subtract_orthogonal(pairs: list[tuple[Any, Tensor | None]], alpha: float) -> None:
    """GSAM's direction in place of g⁺ in pairs (g⁺, g): g⁺ − α g⊥ (Zhuang et al. 2022, Alg. 1).

    With c = ⟨g, g⁺⟩/‖g⁺‖² (0 where g⁺ = 0) that is (1 + α c) g⁺ − α g; ``None`` in g is zero.
    """
    plus: list[Tensor] = [p for p, _ in pairs]
    g = [torch.zeros_like(p) if f is None else f for p, f in pairs]
    square = norm_of(plus) ** 2
    products = torch._foreach_mul([_wide(f) for f in g], plus)
    inner = sum(float(product.sum()) for product in products)
    torch._foreach_mul_(plus, 1 + alpha * inner / square if square else 1.0)
    torch._foreach_add_(plus, g, alpha=-alpha)


def _wide(t: Tensor) -> Tensor:
    return t.float() if t.dtype in _HALF else t
