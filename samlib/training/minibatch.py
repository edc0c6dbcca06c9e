"""SAM with mini-batch noise in its ascent, in its update, or in both, from any point.

A step of SAM takes two gradients: ∇f(x), which says where to look, and ∇f(x⁺), by which it steps.
Training (:mod:`samlib.training.loop`) takes both on one mini-batch; here each may be noisy or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samlib.dynamics import rules
from samlib.errors import check_whole
from samlib.training.stacked_loss import Objective


@dataclass(frozen=True)
class Alternating:
    """An oracle that takes its gradients on the batches given (row indices, None: all), in turn."""

    f: Objective
    batches: cycle[Tensor | None]

    def grad(self, x: Tensor) -> Tensor:
        """∇f on the next batch at each row of x, shape (E, p)."""
        self.f.batch(next(self.batches))
        return self.f.grad(x)

    def hvp(self, x: Tensor, v: Tensor) -> Tensor:
        """Hessian-vector products on the batch of the gradient before, shape (E, p)."""
        return self.f.hvp(x, v)


def descend(
    f: Objective,
    x: Tensor,
    rho: float,
    lr: float,
    steps: int,
    *,
    ascent: int | None = None,
    update: int | None = None,
    seed: int = 0,
    every: int = 20,
) -> tuple[Tensor, dict[str, NDArray[np.float64]]]:
    """Run SAM from each row of x (E, p), all rows on the same batches; final x and curves.

    ``ascent`` and ``update`` are the batch sizes of the two gradients, None: all the data. Batches
    are drawn anew each step, without replacement; if both sizes are given, the smaller batch is
    part of the larger one (equal sizes: one batch for both). The curves ``loss``, ``grad_norm``,
    ``shifted_loss``, ``shifted_grad_norm`` and ``norm``, ‖x‖, each of shape (k, E), are measured on
    all the data at every ``every``-th ``step`` and at the end. BadInput if a size is out of range.
    """
    rows = len(f.x)
    for name, size in (("ascent", ascent), ("update", update)):
        if size is not None:
            check_whole(name, size, 1, rows)
    draw, at, seen = torch.Generator().manual_seed(seed), [], []
    with torch.inference_mode():
        for t in range(steps + 1):
            if t % every == 0 or t == steps:
                at.append(t)
                seen.append(_measured(f, x, rho))
            if t < steps:
                order = torch.randperm(rows, generator=draw).to(f.x.device)
                batches = [None if size is None else order[:size] for size in (ascent, update)]
                x = x - lr * rules.sam(Alternating(f, cycle(batches)), x, rho)[0]
                f.seen.clear()
    f.batch(None)
    names = ("loss", "grad_norm", "shifted_loss", "shifted_grad_norm", "norm")
    curves = torch.stack(seen, 1).double().cpu().numpy()
    x = x.clone()  # an ordinary tensor: those of inference cannot be differentiated
    return x, {"step": np.array(at, float)} | dict(zip(names, curves, strict=True))


def _measured(f: Objective, x: Tensor, rho: float) -> Tensor:
    """f and ‖∇f‖ at x and at x⁺ on all the data, and ‖x‖: shape (5, E)."""
    f.batch(None)
    f.seen.clear()
    rules.sam(f, x, rho)
    return torch.stack([*f.seen[0], *f.seen[1], torch.linalg.vector_norm(x, dim=1)])
