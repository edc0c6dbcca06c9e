"""Figures of the monitor: a run and its rescue, how early it decides, what waiting costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import style

# verdict -> background colour; the text in the figure names it too
BANDS = {
    "running": "white",
    "descending": "#DCEBF7",
    "converged": "#B5D6EF",
    "hallucinated": "#F7D3BF",
    "stalled: chaotic": "#F3DDEA",
    "stalled: crawling": "#E4E0EE",
    "stalled: saddle": "#E8C6DB",
    "diverged": "#D9D9D9",
}
Changes = Sequence[tuple[int, str]]


def _bands(ax: Axes, changes: Changes, last: int) -> None:
    cuts = [(1, "running"), *changes, (last, "")]
    for (start, name), (end, _) in pairwise(cuts):
        ax.axvspan(start, end, color=BANDS[name], lw=0, label=name)


@style.house()
def rescue(
    runs: Mapping[str, NDArray[np.float64]], changes: Mapping[str, Changes], rho: float
) -> Figure:
    """Loss, and GradRatio with the radius in units of ρ, over the steps: a column a run.

    ``runs`` maps a title to an array (steps, 4) of step, loss, GradRatio and radius; ``changes``
    maps it to the monitor's ``changes``, drawn as background.
    """
    import matplotlib.pyplot as plt

    size = (style.WIDTH, 4.8)
    fig, axes = plt.subplots(2, len(runs), figsize=size, sharex=True, sharey="row", squeeze=False)
    for column, (title, run) in enumerate(runs.items()):
        top, bottom = axes[0][column], axes[1][column]
        step, loss, ratio, radius = run.T
        for ax in (top, bottom):
            _bands(ax, changes[title], int(step[-1]))
            ax.set_xscale("log")
            ax.set_xlim(10, step[-1])
        top.plot(step, loss, color=style.SAM)
        bottom.plot(step, ratio, color=style.SAM, lw=1.2, label="GradRatio")
        shown = np.where(radius > 0, radius / rho, np.nan)
        bottom.plot(step, shown, color="black", ls="--", lw=1.2, label="radius / $\\rho$")
        bottom.set(yscale="log", xlabel="step")
        top.set_title(title)
    axes[0][0].set_ylabel("loss $f(x)$")
    axes[1][0].set_ylabel("GradRatio, radius")
    found = {h.get_label(): h for ax in axes[0] for h in ax.patches if h.get_label() != "running"}
    lines = {h.get_label(): h for h in axes[1][0].get_lines()}
    fig.legend(handles=[*found.values(), *lines.values()], loc="outside upper center", ncols=4)
    return fig


@style.house()
def earliness(first: Mapping[str, Sequence[float]]) -> Figure:
    """The share of hallucinated runs that have been named, against the fraction of their steps.

    ``first`` maps a record to the fraction at which each of its runs was first named.
    """
    fig, (ax,) = style.row(1, height=3.2, width=6.0)
    colors = (style.SAM, style.GD, style.EXACT, *style.OTHERS)
    marks = ("-", "--", "-.", ":", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
    for (name, values), color, dash in zip(first.items(), colors, marks, strict=False):
        x = np.sort(np.asarray(values, dtype=float))
        y = np.arange(1, len(x) + 1) / len(x)
        ends = (np.r_[0.005, x, 1.0], np.r_[0.0, y, 1.0])
        ax.step(*ends, where="post", color=color, ls=dash, label=f"{name}, {len(x)} runs")
    ax.axvline(0.25, color=style.PALE, lw=1, ls=":")
    ax.axhline(0.8, color=style.PALE, lw=1, ls=":")
    ax.set(xscale="log", xlim=(0.005, 1), ylim=(0, 1.02))
    ax.set_xticks([0.01, 0.03, 0.1, 0.25, 1], ["1 %", "3 %", "10 %", "25 %", "100 %"])
    ax.minorticks_off()
    ax.set(xlabel="fraction of the run's steps", ylabel="hallucinated runs named")
    fig.legend(loc="outside upper center", ncols=3)
    return fig


@style.house()
def patience(factors: Sequence[float], rates: Mapping[str, Sequence[float]]) -> Figure:
    """Rates in [0, 1] against the factor for which a verdict had to stand before it counts."""
    fig, (ax,) = style.row(1, height=3.0)
    colors, marks = (style.SAM, style.GD, style.OTHERS[0]), ("X", "o", "s")
    for (name, values), color, mark in zip(rates.items(), colors, marks, strict=False):
        ax.plot(factors, values, color=color, marker=mark, ms=6, label=name)
    ax.set(ylim=(0, 1.02), xscale="log", xlabel="wait until it has stood for this factor in steps")
    ax.set_xticks(list(factors), [f"{k:g}" for k in factors])
    ax.minorticks_off()
    ax.set_ylabel("share of runs")
    ax.legend()
    return fig
