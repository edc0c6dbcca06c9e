"""Arithmetic on lists of tensors, one torch call for the whole list, for the SAM optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def norm_of(tensors: list[Tensor]) -> float:
    """The Euclidean norm of all entries, accumulated in float32 (float64 if any is float64)."""
    wide = any(t.dtype is torch.float64 for t in tensors)
    norms = torch._foreach_norm(tensors, 2, torch.float64 if wide else torch.float32)
    return float(torch.stack([n.to(norms[0].device) for n in norms]).norm())


def stash(
    store: dict[Tensor, Tensor], keys: list[Tensor], values: list[Tensor], *, widen: bool = False
) -> dict[Tensor, Tensor]:
    """Copy ``values`` into lasting buffers of ``store`` and return them by key.

    Fresh memory at every step would cost page faults. ``widen`` keeps half precision as float32.
    """
    for key, value in zip(keys, values, strict=True):
        dtype = torch.float32 if widen and value.dtype in _HALF else value.dtype
        old = store.get(key)
        if old is None or (old.dtype, old.shape, old.device) != (dtype, value.shape, value.device):
            store[key] = torch.empty_like(value, dtype=dtype, requires_grad=False)
    buffers = [store[key] for key in keys]
    if keys:
        torch._foreach_copy_(buffers, values)
    return dict(zip(keys, buffers, strict=True))


def add_scaled(params: list[Tensor], directions: list[Tensor], factor: float) -> None:
    """params += factor · directions; in half precision the factor alone may not fit."""
    if any(p.dtype in _HALF for p in params):
        torch._foreach_add_(params, torch._foreach_mul(directions, factor))
    else:
        torch._foreach_add_(params, directions, alpha=factor)


def subtract_orthogonal(pairs: list[tuple[Any, Tensor | None]], alpha: float) -> None:
    """GSAM's direction in place of g⁺ in pairs (g⁺, g): g⁺ − α g⊥ (Zhuang et al. 2022, Alg. 1).

    With c = ⟨g, g⁺⟩/‖g⁺‖² (0 where g⁺ = 0) that is (1 + α c) g⁺ − α g; ``None`` in g is zero.
    """
    plus: list[Tensor] = [p for p, _ in pairs]
    g = [torch.zeros_like(p) if f is None else f for p, f in pairs]
    square = norm_of(plus) ** 2
    inner = float(torch.stack([t.sum() for t in torch._foreach_mul(g, plus)]).sum())
    torch._foreach_mul_(plus, 1 + alpha * inner / square if square else 1.0)
    torch._foreach_add_(plus, g, alpha=-alpha)
