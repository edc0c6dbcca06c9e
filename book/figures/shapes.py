"""Figures of chapter 10's networks: activations, width, depth, squared error, weight decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import style
from figures.training import MARKS
from samlib.errors import BadInput
from samlib.experiments.records import Record
from samlib.training.spec import Run

NAMES = {"rho": "radius $\\rho$", "lr": "learning rate", "weight_decay": "weight decay $\\lambda$"}
PLAIN = ("black", style.GD, style.EXACT, style.SAM, *style.OTHERS[:3])


def _spec(run: Record, key: str) -> float:
    """An option's value; a spec leaves out options that were added later, at their default."""
    return float(run["spec"].get(key, 0.0))


def _grid(runs: Sequence[Record], key: str) -> list[float]:
    return sorted({_spec(r, key) for r in runs})


def _ticks(ax: Axes, x: Sequence[float], y: Sequence[float] = ()) -> None:
    ax.set_xticks(range(len(x)), [f"{v:g}" for v in x])
    if len(y):
        ax.set_yticks(range(len(y)), [f"{v:g}" for v in y])
        ax.set_ylim(-0.6, len(y) - 0.4)


@style.house()
def verdicts(groups: Mapping[str, Sequence[Record]], y: str = "lr") -> Figure:
    """The verdict of every run as a mark at (its ρ, its ``y``), seeds side by side.

    ``groups`` maps the title of a panel to its runs; runs without ρ are left out.
    """
    height = 1.5 + 0.42 * max(len(_grid(runs, y)) for runs in groups.values())
    fig, axes = style.row(len(groups), height, style.WIDTH, sharey=True)
    seen: dict[str, None] = {}
    for ax, (title, group) in zip(axes, groups.items(), strict=True):
        runs = [r for r in group if r["spec"]["rho"] > 0]
        rhos, levels, seeds = _grid(runs, "rho"), _grid(runs, y), _grid(runs, "seed")
        for r in runs:
            marker, color = MARKS[r["verdict"]]
            spread = 0.26 * (seeds.index(_spec(r, "seed")) - (len(seeds) - 1) / 2)
            at = rhos.index(_spec(r, "rho")) + spread
            ax.plot(at, levels.index(_spec(r, y)), marker, color=color, ms=5)
            seen[r["verdict"]] = None
        _ticks(ax, rhos, levels)
        ax.set(title=title, xlabel=NAMES["rho"])
    axes[0].set_ylabel(NAMES.get(y, y))
    for name in (n for n in MARKS if n in seen):
        axes[0].plot([], [], MARKS[name][0], color=MARKS[name][1], label=name)
    fig.legend(loc="outside upper center", ncols=len(seen))
    return fig


@style.house()
def dying(sam: Sequence[Run], gd: Sequence[Run]) -> Figure:
    """GradRatio (left) and the loss (right) of SAM from several seeds; the loss of ``gd`` too."""
    fig, (left, right) = style.row(2, 3.0)
    steps = np.arange(len(sam[0].trace.loss))
    for run, line in zip(sam, ("-", "--", ":", "-.", (0, (6, 1))), strict=False):
        left.semilogy(run.trace.grad_ratio, ls=line, lw=1.2, label=f"seed {run.spec.seed}")
    for runs, color, label in ((sam, style.SAM, "SAM"), (gd, style.GD, "gradient descent")):
        for i, run in enumerate(runs):
            name = "" if i else label
            right.plot(steps + 1, run.trace.loss, color=color, lw=1, label=name)
    left.set(xlabel="step", ylabel="GradRatio")
    left.legend()
    right.set(xscale="log", xlabel="1 + step", ylabel="loss $f(x)$", ylim=(0, None))
    right.legend()
    return fig


@style.house()
def switched_off(groups: Mapping[str, Sequence[Record]]) -> Figure:
    """Fraction of pairs (hidden unit, image) that are off, at x (open) and x⁺ (filled), against ρ.

    ``groups`` maps the title of a panel to runs with the measure ``units``.
    """
    fig, axes = style.row(len(groups), 2.9, style.WIDTH, sharey=True)
    for ax, (title, runs) in zip(axes, groups.items(), strict=True):
        rhos, seeds = _grid(runs, "rho"), _grid(runs, "seed")
        for r in runs:
            spread = 0.2 * (seeds.index(_spec(r, "seed")) - (len(seeds) - 1) / 2)
            at, (marker, color) = rhos.index(_spec(r, "rho")) + spread, MARKS[r["verdict"]]
            before, after = r["metrics"]["off"], r["metrics"]["shifted_off"]
            ax.plot([at, at], [before, after], color=color, lw=0.8)
            ax.plot(at, before, marker, color="white", mec=color, ms=5.5)
            ax.plot(at, after, marker, color=color, ms=5.5)
        _ticks(ax, rhos)
        ax.set(title=title, xlabel=NAMES["rho"], ylim=(-0.04, 1.04))
    axes[0].set_ylabel("fraction switched off")
    seen = {r["verdict"] for runs in groups.values() for r in runs}
    for name in (n for n in MARKS if n in seen):
        axes[0].plot([], [], MARKS[name][0], color=MARKS[name][1], label=name)
    fig.legend(loc="outside upper center", ncols=len(seen))
    return fig


def critical_radius(runs: Sequence[Record]) -> float:
    """The ρ at which the progress of runs that differ in ρ alone first falls below 1/2.

    Interpolated linearly in log ρ between the two neighbouring radii. BadInput if the runs do not
    lie on both sides.
    """
    order = sorted((r for r in runs if r["spec"]["rho"] > 0), key=lambda r: r["spec"]["rho"])
    p = np.array([r["metrics"]["progress"] for r in order], dtype=float)
    below = np.flatnonzero(p < 0.5)
    if not len(below) or below[0] == 0:
        raise BadInput(f"progress {p} does not fall through 1/2; record smaller and larger rho")
    k = below[0]
    a, b = np.log([order[k - 1]["spec"]["rho"], order[k]["spec"]["rho"]])
    return float(np.exp(a + (b - a) * (p[k - 1] - 0.5) / (p[k - 1] - p[k])))


def _progress(ax: Axes, runs: Sequence[Record]) -> None:
    """Progress against ρ, a colour a width and a line a seed."""
    for w, color in zip(_grid(runs, "width"), PLAIN, strict=False):
        mine = [r for r in runs if _spec(r, "width") == w and _spec(r, "rho") > 0]
        for i, seed in enumerate(_grid(mine, "seed")):
            chosen = [r for r in mine if _spec(r, "seed") == seed]
            line = sorted((_spec(r, "rho"), r["metrics"]["progress"]) for r in chosen)
            name = "" if i else f"{w:g} units"
            ax.plot(*np.array(line).T, ".-", color=color, lw=1, label=name)
    ax.axhline(0.5, color=style.PALE, lw=1, ls=":")
    ax.set(xscale="log", xlabel=NAMES["rho"], ylabel="progress $p$")


@style.house()
def width(runs: Sequence[Record], critical: Mapping[tuple[int, int], float]) -> Figure:
    """Left, progress against ρ for each width; right, the ``critical`` ρ of each (width, seed).

    The right panel also shows ‖θ‖ at the start and where gradient descent ends (the runs with
    ρ = 0, with the measure ``norms``), means over the seeds.
    """
    fig, (left, right) = style.row(2, 3.7)
    _progress(left, runs)
    fig.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    spots = [w for w, _ in critical]
    right.plot(spots, list(critical.values()), "o", color=style.SAM, ms=5, label="critical $\\rho$")
    widths = _grid(runs, "width")
    for key, color, label in (
        ("start_norm", style.PALE, "$\\|\\theta\\|$ at the start"),
        ("norm", style.GD, "$\\|\\theta\\|$ where GD ends"),
    ):
        gd = [[r for r in runs if _spec(r, "width") == w and not _spec(r, "rho")] for w in widths]
        means = [np.mean([r["metrics"][key] for r in group]) for group in gd]
        right.plot(widths, means, "s-", ms=4, lw=1, color=color, label=label)
    right.set(xscale="log", yscale="log", xlabel="width", ylabel="distance in parameter space")
    for axis, ticks in (
        (left.xaxis, [0.35, 0.5, 0.7, 1, 1.4, 2, 2.8]),
        (right.xaxis, widths),
        (right.yaxis, [0.5, 1, 2, 5, 10]),
    ):
        axis.set_ticks(ticks, [f"{v:g}" for v in ticks])
        axis.minorticks_off()
    right.legend(loc="lower right")
    return fig


@style.house()
def decay(runs: Sequence[Record]) -> Figure:
    """GradRatio (left) and training accuracy (right) against ρ, a colour for each weight decay."""
    fig, axes = style.row(2, 3.3)
    rhos, levels = _grid(runs, "rho"), _grid(runs, "weight_decay")
    for level, color, marker in zip(levels, PLAIN, "os^D", strict=False):
        mine = [r for r in runs if _spec(r, "weight_decay") == level]
        at = [rhos.index(_spec(r, "rho")) for r in mine]
        for ax, metric in zip(axes, ("grad_ratio", "train_accuracy"), strict=True):
            label = f"$\\lambda={level:g}$"
            ends = [r["metrics"][metric] for r in mine]
            ax.plot(at, ends, marker, ms=5, mfc="none", color=color, label=label)
            middle = [
                np.median([r["metrics"][metric] for r in mine if _spec(r, "rho") == rho])
                for rho in rhos
            ]
            ax.plot(range(len(rhos)), middle, color=color, lw=1)
    axes[0].axhline(0.1, color=style.PALE, lw=1, ls=":")
    axes[0].set(yscale="log", ylabel="GradRatio")
    axes[1].set(ylabel="training accuracy", ylim=(0, 1.02))
    for ax in axes:
        _ticks(ax, rhos)
        ax.set_xlabel(NAMES["rho"])
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(levels))
    return fig
