"""Names that chapters 10 to 12 still take from here: see :mod:`figures.primitives`."""

from __future__ import annotations

from figures.primitives import VERDICTS as MARKS
from figures.primitives import losses_and_gradients as curves

__all__ = ["MARKS", "curves"]
