"""Figures of the network half of chapter 8: mini-batches and wrong labels. Records in, Figures out.

An outcome is a verdict with the two kinds of stall told apart (:func:`outcome`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import style, training
from samlib.experiments.records import Record

Curves = Mapping[str, NDArray[np.float64]]

# outcome -> (marker, colour): those of the verdicts, and a kind of its own for the saddle
MARKS = {
    "converged": training.MARKS["converged"],
    "running": training.MARKS["running"],
    "hallucinated": training.MARKS["hallucinated"],
    "stalled: chaotic": training.MARKS["stalled"],
    "stalled: saddle": ("P", style.OTHERS[2]),
    "diverged": training.MARKS["diverged"],
}


def outcome(run: Record) -> str:
    """The verdict; for a stalled run with its kind, ``stalled: saddle`` or ``stalled: chaotic``."""
    name, kind = str(run["verdict"]), run["metrics"].get("stall")
    return f"{name}: {kind}" if kind else name


def _legend(fig: Figure, runs: Sequence[Record]) -> None:
    """One entry for each outcome that occurs, above the axes."""
    seen = {outcome(r) for r in runs}
    for name in (n for n in MARKS if n in seen):
        marker, color = MARKS[name]
        fig.axes[0].plot([], [], marker, color=color, ms=7, label=name)
    handles, labels = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=min(3, len(labels)))


def _mark(ax: Axes, x: float, y: float, run: Record, size: float = 6.5) -> None:
    marker, color = MARKS[outcome(run)]
    ax.plot(x, y, marker, color=color, ms=size, mec="white", mew=0.5)


@style.house()
def atlas(runs: Sequence[Record]) -> Figure:
    """What each run came to, a panel a learning rate: radius (up) against batch size (across).

    A mark a run, seeds side by side. Batch sizes and radii are equally spaced, whatever they are.
    """
    rates = sorted({r["spec"]["lr"] for r in runs})
    sizes = sorted({r["spec"]["batch"] for r in runs}, reverse=True)
    radii = sorted({r["spec"]["rho"] for r in runs})
    seeds = sorted({r["spec"]["seed"] for r in runs})
    fig, axes = style.row(len(rates), height=3.6, sharey=True)
    for ax, lr in zip(axes, rates, strict=True):
        for r in (r for r in runs if r["spec"]["lr"] == lr):
            shift = 0.26 * (seeds.index(r["spec"]["seed"]) - (len(seeds) - 1) / 2)
            x, y = sizes.index(r["spec"]["batch"]) + shift, radii.index(r["spec"]["rho"])
            _mark(ax, x, y, r, 5.5)
        ax.set_xticks(range(len(sizes)), ["all", *map(str, sizes[1:])])
        ax.set(title=f"learning rate {lr:g}", xlabel="batch size", xlim=(-0.5, len(sizes) - 0.5))
    axes[0].set_yticks(range(len(radii)), [f"{rho:g}" for rho in radii])
    axes[0].set_ylabel(r"radius $\rho$")
    _legend(fig, runs)
    return fig


@style.house()
def traps(runs: Sequence[Record]) -> Figure:
    """Where untrained runs stand: GradRatio, and the norm of the weights, against ‖∇f(x)‖.

    The dotted lines are those of the verdict: GradRatio 0.1 and ‖∇f(x)‖ = 0.01.
    """
    fig, (left, right) = style.row(2, height=3.4)
    for r in runs:
        m = r["metrics"]
        _mark(left, m["grad_norm"], m["grad_ratio"], r)
        _mark(right, m["grad_norm"], m["norm"], r)
    left.axhline(0.1, color=style.PALE, lw=1, ls=":")
    for ax in (left, right):
        ax.axvline(0.01, color=style.PALE, lw=1, ls=":")
        ax.set(xscale="log", xlabel=r"$\|∇f(x)\|$")
    start = np.mean([r["metrics"]["start_norm"] for r in runs])
    right.axhline(start, color=style.PALE, lw=1, ls="--")
    right.text(1, start, "at the start", color=style.PALE, fontsize=9, va="bottom", ha="right",
               transform=right.get_yaxis_transform())  # fmt: skip
    left.set(yscale="log", ylabel="GradRatio")
    right.set(ylabel=r"$\|x\|$, norm of the weights", ylim=(0, None))
    _legend(fig, runs)
    return fig


@style.house()
def which_gradient(before: Curves, after: Mapping[str, Curves]) -> Figure:
    """GradRatio and ‖∇f(x)‖ without noise and after it sets in, a colour a kind of noise.

    Curves are those of :func:`samlib.training.minibatch.descend`; bold the median over the
    networks, shaded their range.
    """
    fig, (left, right) = style.row(2, height=3.3)
    colors = (style.GD, style.SAM, style.OTHERS[0], style.EXACT)
    for start, name, curves, color in (
        (0, "no noise", before, "black"),
        *((before["step"][-1], n, c, k) for (n, c), k in zip(after.items(), colors, strict=False)),
    ):
        ratio = curves["shifted_grad_norm"] / curves["grad_norm"]
        for ax, y in ((left, ratio), (right, curves["grad_norm"])):
            at = start + curves["step"]
            ax.fill_between(at, y.min(1), y.max(1), color=color, alpha=0.18, lw=0)
            ax.plot(at, np.median(y, 1), color=color, lw=1.5, label=name)
            ax.set(yscale="log", xlabel="step")
    for ax in (left, right):
        ax.axvline(before["step"][-1], color=style.PALE, lw=1, ls=":")
    left.set_ylabel("GradRatio")
    right.set_ylabel(r"$\|∇f(x)\|$")
    handles, labels = left.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return fig


@style.house()
def wrong_labels(runs: Sequence[Record]) -> Figure:
    """Progress (top) and GradRatio (bottom) against ρ, a column a fraction of wrong labels."""
    import matplotlib.pyplot as plt

    levels = sorted({r["spec"]["label_noise"] for r in runs})
    radii = sorted({r["spec"]["rho"] for r in runs})
    seeds = sorted({r["spec"]["seed"] for r in runs})
    size = (style.WIDTH, 4.8)
    fig, axes = plt.subplots(2, len(levels), figsize=size, sharex=True, sharey="row")
    for column, level in enumerate(levels):
        for r in (r for r in runs if r["spec"]["label_noise"] == level):
            shift = 0.16 * (seeds.index(r["spec"]["seed"]) - (len(seeds) - 1) / 2)
            x = radii.index(r["spec"]["rho"]) + shift
            _mark(axes[0, column], x, r["metrics"]["progress"], r)
            _mark(axes[1, column], x, r["metrics"]["grad_ratio"], r)
        axes[0, column].set_title(f"{100 * level:g} % wrong labels")
        axes[0, column].axhline(0.2, color=style.PALE, lw=1, ls=":")
        axes[1, column].axhline(0.1, color=style.PALE, lw=1, ls=":")
        axes[1, column].set(xlabel=r"radius $\rho$", yscale="log")
        axes[1, column].set_xticks(range(len(radii)), [f"{rho:g}" for rho in radii])
    axes[0, 0].set_ylabel("progress $p$")
    axes[1, 0].set_ylabel("GradRatio")
    _legend(fig, runs)
    return fig
