"""SAM with mini-batch noise in its ascent, in its update, or in both, from any point.

A step of SAM takes two gradients: ∇f(x), which says where to look, and ∇f(x⁺), by which it steps.
Training (:mod:`samlib.training.loop`) takes both on one mini-batch; here each may be noisy or not.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samlib.errors import check_whole
from samlib.training import loop
from samlib.training.spec import CURVES, RunSpec
from samlib.training.stacked_loss import StackedIterate, StackedLoss


class _Measured(StackedIterate):
    """Rows of which ‖x‖ is measured too."""

    def look(self, rho: Tensor) -> Tensor:
        """A reading with ‖x‖ as its fifth row, (5, E)."""
        return torch.cat([super().look(rho), torch.linalg.vector_norm(self.theta, dim=1)[None]])


def descend(
    f: StackedLoss,
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
    """Run SAM from each row of x, all rows on the same batches.

    Batches are drawn anew each step, without replacement; if both sizes are given, the smaller
    batch is part of the larger one (equal sizes: one batch for both).

    Parameters
    ----------
    f
        The loss.
    x
        Where the rows start, (E, p).
    rho, lr, steps
        SAM's radius ρ, learning rate η and number of steps.
    ascent, update
        The batch sizes of the two gradients; None: all the data.
    seed
        Draws the batches.
    every
        The rows are measured at every such step and at the end.

    Returns
    -------
    x : Tensor
        Where they end, (E, p).
    curves : dict of ndarray
        ``step``, (k,), and ``loss``, ``grad_norm``, ``shifted_loss``, ``shifted_grad_norm`` and
        ``norm``, ‖x‖, each (k, E), measured on all the data.

    Raises
    ------
    BadInput
        If a size is out of range.
    """
    for name, size in (("ascent", ascent), ("update", update)):
        if size is not None:
            check_whole(name, size, 1, len(f.x))
    rows = _Measured(f, [RunSpec(rho=rho, lr=lr, steps=steps)] * len(x), x)
    done = loop.descend(rows, batches=_draw(len(f.x), (ascent, update), seed), every=every)
    at = np.array([t for t in range(steps + 1) if t % every == 0 or t == steps])
    curves = done.curves[:, at].double().cpu().numpy()
    return done.theta, {"step": at.astype(float)} | dict(
        zip((*CURVES, "norm"), curves, strict=True)
    )


def _draw(
    count: int, sizes: tuple[int | None, int | None], seed: int
) -> Iterator[list[Tensor | None]]:
    """The batches of each step: the first rows of one permutation."""
    draw = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=draw)
        yield [None if size is None else order[:size] for size in sizes]
