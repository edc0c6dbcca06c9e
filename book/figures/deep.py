"""Figures of the deeper networks: outcomes against the radius, and remedies side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.training import MARKS
from samlib.experiments.records import Record


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
def outcomes(panels: Mapping[str, Sequence[Record]], accuracy: bool = False) -> Figure:
    """Final loss (top) and GradRatio against ρ, a column for each title and its runs.

    The marks tell the verdict. Dashed: the loss of the best constant guess; dotted: GradRatio 0.1.
    ``accuracy`` adds a row with the runs' test accuracy, and a band from the least to the largest
    loss of their twins, which took the same steps without SAM.
    """
    import matplotlib.pyplot as plt

    rows = {"loss": "final training loss $f(x)$", "grad_ratio": "GradRatio"}
    if accuracy:
        rows["test_accuracy"] = "test accuracy"
    size, shape = (style.WIDTH, 2.5 * len(rows)), (len(rows), len(panels))
    fig, axes = plt.subplots(*shape, figsize=size, sharex="col", sharey="row", squeeze=False)
    for column, (title, runs) in zip(axes.T, panels.items(), strict=True):
        for ax, metric in zip(column, rows, strict=True):
            _marks(ax, runs, metric)
        column[0].axhline(runs[0]["metrics"]["baseline"], color=style.PALE, lw=1, ls="--")
        column[1].axhline(0.1, color=style.PALE, lw=1, ls=":")
        if accuracy:
            twins = [r["metrics"]["twin_loss"] for r in runs]
            column[0].axhspan(min(twins), max(twins), color=style.GD, alpha=0.3, lw=0)
            column[2].set_yscale("linear")
        column[0].set_title(title)
        column[-1].set_xlabel("radius $\\rho$")
    for ax, words in zip(axes[:, 0], rows.values(), strict=True):
        ax.set_ylabel(words)
    seen = {r["verdict"] for runs in panels.values() for r in runs}
    handles = [h for h in axes[0][0].get_lines() if h.get_label() in seen]
    fig.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return fig
