"""What each step of a run works with: its mini-batch, and ρ with its warm start and schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from samlib.diagnostics.verdicts import THRESHOLDS
from samlib.training.spec import RunSpec

RATE = 1.01  # factor by which the adaptive radius shrinks (GradRatio low) or grows back in a step
_LINES = {"ramp": (0.0, 1.0), "decay": (1.0, -1.0)}  # factor on ρ: first, rise


def batches(spec: RunSpec, count: int, device: str | torch.device) -> Iterator[Tensor | None]:
    """Indices of each step's mini-batch out of ``count`` examples; None for the full batch.

    They are shuffled anew each epoch, by the run's seed; the last, smaller batch is left out.
    """
    draw, size = torch.Generator().manual_seed(spec.seed), spec.batch or count
    while True:
        if size >= count:
            yield None
            continue
        order = torch.randperm(count, generator=draw).to(device)
        yield from torch.split(order[: count - count % size], size)


class Radius:
    """ρ for E rows, shape (E, 1), as their specs' ``warm_start`` and ``schedule`` have it.

    Step t of T counts from the end of the warm start, during which ρ = 0: a ramp multiplies ρ by
    t/T and a decay by 1 − t/T.

    Parameters
    ----------
    specs
        The runs, one a row, all of as many steps.
    like
        A tensor of the dtype and on the device that the radii are to have.
    """

    def __init__(self, specs: Sequence[RunSpec], like: Tensor) -> None:
        self.steps = specs[0].steps
        lines = [_LINES.get(s.schedule, (1.0, 0.0)) for s in specs]
        columns = {
            "rho": [0.0 if s.rule == "gd" else s.rho for s in specs],
            "start": [round(s.warm_start * s.steps) for s in specs],
            "first": [first for first, _ in lines],
            "rise": [rise for _, rise in lines],
            "adapts": [float(s.schedule == "adaptive") for s in specs],
            "factor": [1.0] * len(specs),
        }
        self.columns = {
            name: torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
            for name, values in columns.items()
        }
        self.warm = any(s.warm_start for s in specs)
        self.sloped = any(s.schedule in _LINES for s in specs)
        self.adapts = any(s.schedule == "adaptive" for s in specs)

    def at(self, t: int) -> Tensor:
        """ρ before step ``t``."""
        c = self.columns
        rho, start = c["rho"], c["start"]
        if self.sloped:
            part = c["first"] + c["rise"] * (t - start) / (self.steps - start).clamp(min=1)
            rho = rho * part
        if self.warm:
            rho = rho * (t >= start)
        return rho * c["factor"] if self.adapts else rho

    def feedback(self, ratio: Tensor) -> None:
        """Let adaptive radii answer to this step's GradRatio, shape (E,)."""
        if self.adapts:
            factor = self.columns["factor"]
            low = ratio.to(factor.device)[:, None] < THRESHOLDS.low_ratio
            moved = torch.where(low, factor / RATE, factor * RATE).clamp(max=1)
            self.columns["factor"] = torch.where(self.columns["adapts"] > 0, moved, factor)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only, a mask of shape (E,)."""
        self.columns = {name: column[rows] for name, column in self.columns.items()}
