"""What each step of a run works with: its mini-batch, and ρ with its warm start and schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from samlib.diagnostics.verdicts import THRESHOLDS
from samlib.training.spec import RunSpec

RATE = 1.01  # factor by which the adaptive radius shrinks (GradRatio low) or grows back in a step
_LINES = {
    "ramp": (0.0, 1.0),
    "decay": (1.0, -1.0),
}  # factor on ρ: first, rise


def batches(spec: RunSpec, rows: int, device: str) -> Iterator[Tensor | None]:
    """Row indices of each step's mini-batch, shuffled anew each epoch; None for the full batch."""
    draw, size = torch.Generator().manual_seed(spec.seed), spec.batch or rows
    while True:
        if size >= rows:
            yield None
            continue
        order = torch.randperm(rows, generator=draw).to(device)
        yield from torch.split(order[: rows - rows % size], size)


class Radius:
    """ρ for E rows, shape (E, 1), as their specs' ``warm_start`` and ``schedule`` have it.

    Step t of T counts from the end of the warm start, during which ρ = 0: a ramp multiplies ρ by
    t/T and a decay by 1 − t/T. ``like`` gives dtype and device.
    """

    def __init__(self, specs: Sequence[RunSpec], like: Tensor) -> None:
        self.steps = specs[0].steps
        rows = []
        for s in specs:
            rho = 0.0 if s.rule == "gd" else s.rho
            start = round(s.warm_start * s.steps)
            rows.append((rho, start, *_LINES.get(s.schedule, (1.0, 0.0)), s.schedule == "adaptive"))
        self.columns = torch.tensor(rows, dtype=like.dtype, device=like.device)
        self.lines = self.columns.T[..., None].unbind()
        self.factor = torch.ones_like(self.columns[:, :1])
        self.warm = any(s.warm_start for s in specs)
        self.sloped = any(s.schedule in _LINES for s in specs)
        self.adapts = any(s.schedule == "adaptive" for s in specs)

    def at(self, t: int) -> Tensor:
        """ρ before step ``t``."""
        rho, start, first, rise, _ = self.lines
        if self.sloped:
            rho = rho * (first + rise * (t - start) / (self.steps - start).clamp(min=1))
        if self.warm:
            rho = rho * (t >= start)
        return rho * self.factor if self.adapts else rho

    def feedback(self, ratio: Tensor) -> None:
        """Let adaptive radii answer to this step's GradRatio, shape (E,)."""
        if self.adapts:
            low = ratio.to(self.factor.device)[:, None] < THRESHOLDS.low_ratio
            moved = torch.where(low, self.factor / RATE, self.factor * RATE)
            self.factor = torch.where(self.columns[:, 4:] > 0, moved.clamp(max=1), self.factor)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, a mask of shape (E,)."""
        self.columns, self.factor = self.columns[rows], self.factor[rows]
        self.lines = self.columns.T[..., None].unbind()
