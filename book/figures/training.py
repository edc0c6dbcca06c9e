"""Figures of training runs: the cliff, the curves of single runs, a small network's weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import style
from samlib.diagnostics.verdicts import THRESHOLDS, grad_ratio
from samlib.experiments.records import Record

Curves = Mapping[str, NDArray[np.float64]]

# verdict -> (marker, colour): shape and colour both tell it; grey is left to guides
MARKS = {
    "converged": ("o", style.GD),
    "hallucinated": ("X", style.SAM),
    "stalled": ("s", style.OTHERS[0]),
    "running": ("d", style.OTHERS[1]),
    "diverged": ("v", "black"),
}
FAILED = ("hallucinated", "stalled")


def _verdicts(ax: Axes, runs: Sequence[Record], x: str, metric: str, baseline: bool) -> None:
    """Each run as a mark at (its spec's ``x``, its ``metric``); seeds are spread a little."""
    seeds = sorted({r["spec"]["seed"] for r in runs})
    grid = sorted({r["spec"][x] for r in runs})
    for name, (marker, color) in MARKS.items():
        chosen = [r for r in runs if r["verdict"] == name and r["metrics"][metric] is not None]
        spread = [0.16 * (seeds.index(r["spec"]["seed"]) - (len(seeds) - 1) / 2) for r in chosen]
        at = [grid.index(r["spec"][x]) + s for r, s in zip(chosen, spread, strict=True)]
        y = [r["metrics"][metric] for r in chosen]
        ax.plot(at, y, marker, color=color, ms=7, mec="white", mew=0.6, label=name)
    if baseline:
        ax.axhline(runs[0]["metrics"]["baseline"], color=style.PALE, lw=1, ls="--")
    ax.set_xticks(range(len(grid)), [f"{g:g}" for g in grid])
    ax.set_yscale("log")


@style.house()
def cliff(runs: Sequence[Record], x: str = "rho") -> Figure:
    """Final loss (top) and GradRatio (bottom) of recorded runs against ρ, a column a learning rate.

    The marks tell the verdict; the dashed line is the loss of the best constant guess.
    """
    import matplotlib.pyplot as plt

    rates = sorted({r["spec"]["lr"] for r in runs})
    size = (style.WIDTH, 5.0)
    fig, axes = plt.subplots(2, len(rates), figsize=size, sharex=True, sharey="row", squeeze=False)
    for column, lr in enumerate(rates):
        chosen = [r for r in runs if r["spec"]["lr"] == lr]
        top, bottom = axes[0][column], axes[1][column]
        _verdicts(top, chosen, x, "loss", baseline=True)
        _verdicts(bottom, chosen, x, "grad_ratio", baseline=False)
        bottom.axhline(0.1, color=style.PALE, lw=1, ls=":")
        top.set_title(f"learning rate {lr:g}")
        bottom.set_xlabel("radius $\\rho$")
    axes[0][0].set_ylabel("final training loss $f(x)$")
    axes[1][0].set_ylabel("GradRatio")
    _legend(fig, runs)
    return fig


@style.house()
def curves(runs: Mapping[str, Curves], baseline: float) -> Figure:
    """Losses and gradient norms at x and at x⁺ over the steps of each run, a column a run.

    ``runs`` maps a title to curves as :func:`samlib.experiments.records.read_curves` returns them.
    """
    import matplotlib.pyplot as plt

    size = (style.WIDTH, 4.6)
    fig, axes = plt.subplots(2, len(runs), figsize=size, sharex="col", sharey="row", squeeze=False)
    for column, (title, c) in enumerate(runs.items()):
        top, bottom = axes[0][column], axes[1][column]
        late = c["step"] > 0  # the axis is logarithmic
        for ax, plain, shifted, names in (
            (top, "loss", "shifted_loss", ("$f(x)$", "$f(x^+)$")),
            (bottom, "grad_norm", "shifted_grad_norm", ("$\\|∇f(x)\\|$", "$\\|∇f(x^+)\\|$")),
        ):
            ax.plot(c["step"][late], c[plain][late], color=style.GD, label=names[0])
            ax.plot(c["step"][late], c[shifted][late], color=style.SAM, label=names[1])
            ax.set_xscale("log")
        top.axhline(baseline, color=style.PALE, lw=1, ls="--", label="constant guess")
        bottom.set_yscale("log")
        top.set_title(title)
        bottom.set_xlabel("step")
    axes[0][0].set_ylabel("loss")
    axes[1][0].set_ylabel("gradient norm")
    axes[0][0].legend(loc="upper right")
    axes[1][0].legend(loc="lower left")
    return fig


@style.house()
def flagship(sam: Curves, gd: Curves) -> Figure:
    """Setting P: losses of SAM at x and x⁺ and of gradient descent; SAM's two gradient norms."""
    fig, (left, right) = style.row(2, height=2.9)
    left.plot(sam["step"], sam["loss"], color=style.SAM, label="SAM, $f(x)$")
    left.plot(sam["step"], sam["shifted_loss"], color=style.SAM, ls="--", label="SAM, $f(x^+)$")
    left.plot(gd["step"], gd["loss"], color=style.GD, ls=":", lw=2.4, label="gradient descent")
    left.set(xlabel="step", ylabel="loss", title="SAM looks at the minimum, from afar")
    right.semilogy(sam["step"], sam["grad_norm"], color=style.GD, label="$\\|∇f(x)\\|$")
    right.semilogy(sam["step"], sam["shifted_grad_norm"], color=style.SAM, label="$\\|∇f(x^+)\\|$")
    right.set(xlabel="step", ylabel="gradient norm", title="one gradient vanishes, one does not")
    for ax in (left, right):
        ax.legend()
    return fig


@style.house()
def weights(images: Mapping[str, NDArray[np.float64]]) -> Figure:
    """First-layer weights as pictures, each (rows, columns), on one colour scale."""
    fig, axes = style.row(len(images), height=2.3)
    top = max(np.abs(w).max() for w in images.values())
    for ax, (title, w) in zip(axes, images.items(), strict=True):
        shown = ax.imshow(w, cmap="PuOr", vmin=-top, vmax=top)
        ax.set_title(title)
        ax.set(xticks=[], yticks=[])
    fig.colorbar(shown, ax=axes, shrink=0.8, label="weight")
    return fig


@style.house()
def regimes(maps: Mapping[str, Sequence[Record]]) -> Figure:
    """Verdicts over the plane of ρ and learning rate, a panel a data set, a mark a run.

    A cell is the darker, the higher the median of its runs' final losses, relative to ``baseline``.
    """
    import matplotlib.pyplot as plt

    rates = [len({r["spec"]["lr"] for r in runs}) for runs in maps.values()]
    size, ratios = (style.WIDTH, 1.6 + 0.36 * sum(rates)), {"height_ratios": rates}
    fig, axes = plt.subplots(len(maps), 1, figsize=size, squeeze=False, gridspec_kw=ratios)
    for ax, (title, runs) in zip(axes[:, 0], maps.items(), strict=True):
        xs, ys = (sorted({r["spec"][k] for r in runs}) for k in ("rho", "lr"))
        seeds = sorted({r["spec"]["seed"] for r in runs})
        cells: dict[tuple[int, int], list[float]] = {}
        for r in runs:
            i, j = ys.index(r["spec"]["lr"]), xs.index(r["spec"]["rho"])
            cells.setdefault((i, j), []).append(r["metrics"]["loss"] / r["metrics"]["baseline"])
            marker, color = MARKS[r["verdict"]]
            at = j + 0.17 * (seeds.index(r["spec"]["seed"]) - (len(seeds) - 1) / 2)
            ax.plot(at, i, marker, color=color, ms=5.5, mec="white", mew=0.5)
        shade = np.full((len(ys), len(xs)), np.nan)
        for cell, losses in cells.items():
            shade[cell] = np.median(losses)
        shown = ax.imshow(shade, cmap="Greys", vmin=0, vmax=2.2, origin="lower", aspect="auto")
        ax.set_xticks(range(len(xs)), [f"{v:g}" for v in xs])
        ax.set_yticks(range(len(ys)), [f"{v:g}" for v in ys])
        ax.set(ylabel="learning rate", title=title)
    axes[-1][0].set_xlabel("radius $\\rho$")
    bar = fig.colorbar(shown, ax=list(axes[:, 0]), shrink=0.6, label="loss ÷ constant guess's loss")
    bar.ax.set_ylim(0, 1.1)
    _legend(fig, [r for runs in maps.values() for r in runs])
    return fig


@style.house()
def images(maps: Mapping[str, Sequence[Record]]) -> Figure:
    """How far the network at x⁺ is from a constant one, against GradRatio, a panel a data set."""
    fig, axes = style.row(len(maps), height=3.4, sharey=True)
    for ax, (title, runs) in zip(axes, maps.items(), strict=True):
        for name, (marker, color) in MARKS.items():
            chosen = [r["metrics"] for r in runs if r["verdict"] == name]
            ratio, spread = ([m[k] for m in chosen] for k in ("grad_ratio", "shifted_spread"))
            ax.loglog(ratio, spread, marker, color=color, ms=6, mec="white", mew=0.5)
        ax.axvline(0.1, color=style.PALE, lw=1, ls=":")
        ax.set(xlabel="GradRatio", title=title)
    axes[0].set_ylabel("spread of the predictions at $x^+$ (nats)")
    _legend(fig, [r for runs in maps.values() for r in runs])
    return fig


@style.house()
def ratios(panels: Mapping[str, Sequence[tuple[Record, Curves]]]) -> Figure:
    """Histogram of log GradRatio of the runs that failed, a panel a title, coloured by verdict.

    ``panels`` maps a title to runs with their curves. Of each run that is hallucinated or stalled
    the largest GradRatio counts that its curves hold of the verdict's tail. Dotted: 0.03, 0.1, 0.3.
    """
    fig, axes = style.row(len(panels), height=3.0)
    bins = np.logspace(-3.5, 3, 27).tolist()  # four to a decade: 0.1 is an edge
    for ax, (title, runs) in zip(axes, panels.items(), strict=True):
        parts = {name: [_tail_ratio(c) for r, c in runs if r["verdict"] == name] for name in FAILED}
        colors = [MARKS[name][1] for name in parts]
        ax.hist(list(parts.values()), bins, stacked=True, color=colors, label=list(parts))
        for at in (0.03, 0.1, 0.3):
            ax.axvline(at, color=style.PALE, lw=1, ls=":")
        ax.set(xscale="log", xlabel="GradRatio, largest of the last 5 %", title=title)
    axes[0].set_ylabel("failing runs")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig


def sensitivity(
    runs: Iterable[tuple[Record, Curves]], ratios: Sequence[float] = (0.03, 0.1, 0.3)
) -> dict[str, int]:
    """How many failing runs count as hallucinated, were GradRatio to lie below another threshold.

    Runs with the verdict *hallucinated* or *stalled* are counted under ``"failing"``, and how many
    of them are called hallucinated at each of ``ratios`` under its number as text. At 0.1, the
    threshold of the verdict, the recorded verdicts are counted, which rest on every step of the
    tail. Records keep only a few of these steps, and any other threshold is judged by those: a
    lower one among the runs called hallucinated, a higher one among the others too. Elsewhere than
    at 0.1 a count is therefore an upper bound. Strict hallucinations (GradRatio < 1e-6) stay so.
    """
    limits = THRESHOLDS
    counts = {"failing": 0} | {f"{r:g}": 0 for r in ratios}
    for record, curves in runs:
        if record["verdict"] not in FAILED:
            continue
        counts["failing"] += 1
        named = record["verdict"] == "hallucinated"
        norms, found = _tail(curves)
        for r in ratios:
            lost = r < limits.low_ratio and found.max() >= max(r, limits.zero_ratio)
            won = r > limits.low_ratio and norms.min() > limits.alive and found.max() < r
            counts[f"{r:g}"] += bool(won or (named and not lost))
    return counts


def _tail(c: Curves) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """‖∇f(x)‖ and GradRatio at those of a verdict's steps, the last 5 %, that curves hold."""
    ends = c["step"][-1] + 1
    tail = c["step"] >= ends - max(1, ends // THRESHOLDS.tail_parts)
    return c["grad_norm"][tail], grad_ratio(c["grad_norm"][tail], c["shifted_grad_norm"][tail])


def _tail_ratio(c: Curves) -> float:
    """The largest GradRatio of a run's tail; values beyond the figure's ends are moved into it."""
    return float(np.clip(_tail(c)[1].max(), 10**-3.49, 10**2.99))


def _legend(fig: Figure, runs: Sequence[Record]) -> None:
    """The marks of the verdicts that occur, above the axes."""
    from matplotlib.lines import Line2D

    seen = {r["verdict"] for r in runs}
    kinds = {name: mark for name, mark in MARKS.items() if name in seen}
    handles = [
        Line2D([], [], ls="", marker=marker, color=color, mec="white", ms=7, label=name)
        for name, (marker, color) in kinds.items()
    ]
    fig.legend(handles=handles, loc="outside upper center", ncols=len(handles))
