"""The look that all figures share: colours with fixed meanings, sizes for a 700-pixel column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart. A colour means one thing.
SAM = "#D55E00"  # SAM, and the hallucinated points where it stops
GD = "#0072B2"  # gradient descent, true critical points, images
EXACT = "#009E73"  # the exact surrogate
OTHERS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")  # further curves, in this order
PALE = "#8C8C8C"  # guides and annotations: dark enough to read on white

WIDTH = 7.0  # inches: the text column
DPI = 144  # 1008 pixels across: sharp on a dense screen, and line art stays below 150 kB

_STYLE: Any = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=[SAM, GD, EXACT, *OTHERS]),
    "lines.linewidth": 1.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


@contextmanager
def house() -> Iterator[None]:
    """The style as a context, ``with house():``, or as a decorator, ``@house()``."""
    with mpl.rc_context(_STYLE):
        yield


def row(
    columns: int = 1, height: float = 3.0, width: float | None = None, **kw: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with a row of axes, ``height`` inches high and as wide as the text column.

    A single pair of axes is 5 inches wide unless ``width`` says otherwise. Further arguments go to
    ``plt.subplots``.
    """
    size = (width or (WIDTH if columns > 1 else 5.0), height)
    fig, axes = plt.subplots(1, columns, figsize=size, squeeze=False, **kw)
    return fig, list(axes[0])
