"""Spells of hallucination: when GradRatio stays low, and when a run leaves again."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samlib.diagnostics.verdicts import THRESHOLDS
from samlib.training.loss import Loss
from samlib.training.spec import Run


def spells(
    ratio: ArrayLike, low: float = THRESHOLDS.low_ratio, length: int = THRESHOLDS.spell
) -> list[tuple[int, int]]:
    """Maximal stretches of at least ``length`` steps with GradRatio below ``low``.

    Each is (first step, first step after it); ``ratio`` has one entry a step.
    """
    below = np.asarray(ratio) < low
    edges = np.flatnonzero(np.diff(np.concatenate([[False], below, [False]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2) if b - a >= length]


def escape(run: Run, _: Loss) -> tuple[dict[str, float], dict[str, NDArray[Any]]]:
    """The run's spells of hallucination, in steps.

    ``spells`` is their number, ``spell_start`` the first step of the first, ``escape`` the first
    step after it and ``last_escape`` that after the last; NaN where there is none, or where the
    spell lasts to the end of the run.
    """
    found, nan = spells(run.trace.grad_ratio), float("nan")
    ends = [float(b) if b < len(run.trace.loss) else nan for _, b in found]
    out = {"spells": float(len(found)), "spell_start": float(found[0][0]) if found else nan}
    out |= {"escape": ends[0] if ends else nan, "last_escape": ends[-1] if ends else nan}
    return out, {}
