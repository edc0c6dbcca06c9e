"""Figures of chapters 8 to 10: noise, variants of SAM, and ReLU. Arrays in, a Figure out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import style
from figures.existence import Array, Grid, beside, dots, wide

COLORS = (style.SAM, style.GD, style.EXACT, *style.OTHERS)


def fits(ax: Axes, data: Array, curves: Sequence[tuple[str, Array, Array, str]]) -> None:
    """Data (n, 2) and the networks' outputs, entries (name, t, output, colour)."""
    for name, t, output, color in curves:
        ax.plot(t, output, color=color, label=name)
    ax.plot(*data.T, "ko", ms=6, label="data", zorder=4)
    ax.set(xlabel="input", ylabel="output")
    ax.legend()


@style.house()
def neuron(axes: Grid, values: Array, patterns: NDArray[np.int64], orbits: Array, pair: Array,
           data: Array, curves: Sequence[tuple[str, Array, Array, str]]) -> Figure:  # fmt: skip
    """Left the plane (w, b) with its activation regions and SAM's orbits; right the two fits.

    ``patterns`` numbers the regions on the grid, ``orbits`` is (steps, m, 2), ``pair`` x_h and x_*.
    """
    fig, (left, right) = style.row(2, 3.3)
    extent = (axes[0][0], axes[0][-1], axes[1][0], axes[1][-1])
    shades = ListedColormap(np.linspace(0.98, 0.80, int(patterns.max()) + 1).astype(str).tolist())
    left.imshow(patterns, origin="lower", extent=extent, cmap=shades, aspect="auto")
    levels = np.unique(np.quantile(values, np.linspace(0.01, 0.95, 14)))
    left.contour(*axes, values, levels=levels, colors="0.6", linewidths=0.6)
    for k in range(orbits.shape[1]):
        left.plot(*orbits[:, k].T, "-", color=style.SAM, lw=0.5)
    dots(left, pair[0], "X", style.SAM, "$x_h$")
    dots(left, pair[1], "*", style.GD, "$x_*$")
    left.set(xlabel="$w$", ylabel="$b$")
    left.legend(loc="lower left", frameon=True)
    fits(right, data, curves)
    return fig


@style.house()
def to_a_curve(curve: Array, images: Array, orbits: Array, distance: Array, data: Array,
               fitted: Sequence[tuple[str, Array, Array, str]]) -> Figure:  # fmt: skip
    """The curve (n, 3) of hallucinated points and its images in (w, b), distances, the fits."""
    fig, (left, middle, right) = style.row(3, 3.0)
    for start, end in list(zip(curve, images, strict=True))[:: len(curve) // 6]:
        left.plot(*np.stack([start, end])[:, :2].T, ":", color=style.PALE, lw=1)
    left.plot(*curve[:, :2].T, color=style.SAM, lw=3, label="hallucinated")
    left.plot(*images[:, :2].T, color=style.GD, lw=3, label="images")
    left.plot(*np.moveaxis(orbits[..., :2], -1, 0), "-", color="black", lw=0.7)
    left.set(xlabel="$w$", ylabel="$b$")
    left.legend(loc="lower left", fontsize=8)
    middle.semilogy(distance, color="black", lw=0.8)
    middle.set(xlabel="step", title="distance to the limit")
    fits(right, data, fitted)
    return fig


@style.house()
def frozen(axes: Grid, kinds: NDArray[np.int64], names: Sequence[str], marks: Array) -> Figure:
    """The plane (w, b) coloured by what SAM does there: ``kinds`` are indices into ``names``."""
    fig, ax = wide(3.8)
    colors = ["0.95", style.SAM, "#9CCAE8", style.GD][: len(names)]
    extent = (axes[0][0], axes[0][-1], axes[1][0], axes[1][-1])
    ax.imshow(kinds, origin="lower", extent=extent, cmap=ListedColormap(colors), vmin=-0.5,
              vmax=len(names) - 0.5, aspect="auto", interpolation="nearest")  # fmt: skip
    for name, color in zip(names, colors, strict=True):
        ax.plot([], [], "s", color=color, mec="0.6", ms=9, label=name)
    dots(ax, marks, "X", "black", "isolated point" if len(marks) else None)
    ax.set(xlabel="$w$", ylabel="$b$")
    beside(ax)
    return fig
