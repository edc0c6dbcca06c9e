"""Figures of the deeper networks: outcomes against the radius, and remedies side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samlib.plots import style
from samlib.plots.training import MARKS
from samlib.records import Record


def _marks(ax: Axes, runs: Sequence[Record], metric: str) -> None:
    """Each run as a mark at (ρ, metric), a little apart for each seed."""
    seeds = sorted({r["spec"]["seed"] for r in runs})
    for name, (marker, color) in MARKS.items():
        chosen = [r for r in runs if r["verdict"] == name and r["metrics"][metric] is not None]
        shift = [1.06 ** (seeds.index(r["spec"]["seed"]) - (len(seeds) - 1) / 2) for r in chosen]
        x = [r["spec"]["rho"] * s for r, s in zip(chosen, shift, strict=True)]
        y = [r["metrics"][metric] for r in chosen]
        ax.plot(x, y, marker, color=color, ms=7, mec="white", mew=0.6, label=name)
    radii = sorted({r["spec"]["rho"] for r in runs})
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(radii, [f"{rho:g}" for rho in radii], rotation=45)
    ax.set_xticks([], minor=True)


@style.house()
def outcomes(panels: Mapping[str, Sequence[Record]]) -> Figure:
    """Final loss (top) and GradRatio (bottom) against ρ, a column for each title and its runs.

    The marks tell the verdict. Dashed: the loss of the best constant guess; dotted: GradRatio 0.1.
    """
    import matplotlib.pyplot as plt

    size = (style.WIDTH, 5.0)
    fig, axes = plt.subplots(
        2, len(panels), figsize=size, sharex="col", sharey="row", squeeze=False
    )
    for (top, bottom), (title, runs) in zip(axes.T, panels.items(), strict=True):
        _marks(top, runs, "loss")
        _marks(bottom, runs, "grad_ratio")
        top.axhline(runs[0]["metrics"]["baseline"], color=style.PALE, lw=1, ls="--")
        bottom.axhline(0.1, color=style.PALE, lw=1, ls=":")
        top.set_title(title)
        bottom.set_xlabel("radius $\\rho$")
    axes[0][0].set_ylabel("final training loss $f(x)$")
    axes[1][0].set_ylabel("GradRatio")
    seen = {r["verdict"] for runs in panels.values() for r in runs}
    handles = [h for h in axes[0][0].get_lines() if h.get_label() in seen]
    fig.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return fig
