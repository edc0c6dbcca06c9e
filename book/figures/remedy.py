"""Figures of the remedies: warm starts, other arms, matched perturbations, long runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from figures import style
from figures.training import MARKS
from samlib.errors import BadInput
from samlib.experiments.records import Record

Curves = Mapping[str, NDArray[np.float64]]
COLORS = (*style.OTHERS, style.EXACT, style.GD, style.SAM)
SERIES = tuple(zip(COLORS, "os^Dv<>", strict=True))  # radii, in increasing order
RULES = {
    "sam": ("SAM", style.SAM, "o"),
    "asam": ("ASAM", style.OTHERS[0], "s"),
    "unnormalised": ("unnormalised", style.OTHERS[1], "^"),
    "gsam": ("GSAM", style.OTHERS[2], "D"),
    "exact": ("exact surrogate", style.EXACT, "v"),
    "gd": ("gradient descent", style.GD, "P"),
}
SCHEDULES = {"ramp": "ramp of ρ", "decay": "decay of ρ", "adaptive": "adaptive ρ"}


def arm(run: Record) -> str:
    """The remedy that a recorded run tried, in words; the rule's name if none."""
    spec = run["spec"]
    if spec["warm_start"]:
        return f"warm start {100 * spec['warm_start']:g} %"
    if "schedule" in spec:
        return SCHEDULES[spec["schedule"]]
    if "momentum" in spec:
        return f"momentum {spec['momentum']:g}"
    return RULES[spec["rule"]][0]


def _series(radii: Sequence[float]) -> list[tuple[float, tuple[str, str]]]:
    """Each radius with a colour and a mark of its own; BadInput for more than there are."""
    if len(radii) > len(SERIES):
        raise BadInput(f"{len(radii)} radii are too many to tell apart; draw at most {len(SERIES)}")
    return list(zip(radii, SERIES, strict=False))


def _legend(fig: Figure, ax: Axes, **kw: Any) -> None:
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", **kw)


@style.house()
def fractions(panels: Mapping[str, Sequence[Record]]) -> Figure:
    """Final loss against the warm start's share of the steps, a series a radius, a mark a run.

    ``panels`` maps a title to runs of plain SAM and warm starts; lines join the medians. Dashed:
    the loss of a constant guess.
    """
    fig, axes = style.row(len(panels), height=3.4, sharey=True)
    radii = sorted({r["spec"]["rho"] for runs in panels.values() for r in runs})
    for ax, (title, runs) in zip(axes, panels.items(), strict=True):
        shares = sorted({r["spec"]["warm_start"] for r in runs})
        for k, (rho, (color, mark)) in enumerate(_series(radii)):
            medians = []
            for i, w in enumerate(shares):
                at = i + 0.13 * (k - (len(radii) - 1) / 2)
                chosen = [r for r in runs if r["spec"]["rho"] == rho]
                loss = [r["metrics"]["loss"] for r in chosen if r["spec"]["warm_start"] == w]
                ax.plot([at] * len(loss), loss, mark, color=color, ms=3.5, mew=0)
                medians += [(at, np.median(loss))] if loss else []
            if medians:
                ax.plot(*zip(*medians, strict=True), color=color, lw=1.2)
            ax.plot([], [], mark, color=color, ms=5, label=f"$\\rho$ = {rho:g}")
        ax.axhline(runs[0]["metrics"]["baseline"], color=style.PALE, lw=1, ls="--")
        ax.set_xticks(range(len(shares)), [f"{100 * w:g}" for w in shares])
        ax.set(yscale="log", title=title, xlabel="% plain gradient steps first")
    axes[0].set_ylabel("final training loss")
    _legend(fig, axes[0], ncols=len(radii))
    return fig


@style.house()
def arms(runs: Sequence[Record], order: Sequence[str]) -> Figure:
    """Final loss of each run, a row an arm (see :func:`arm`), a column a radius; marks: verdict.

    Seeds 0 to 4 are spread a little within the row.
    """
    import matplotlib.pyplot as plt

    radii = sorted({r["spec"]["rho"] for r in runs})
    size = (style.WIDTH, 1.1 + 0.34 * len(order))
    fig, axes = plt.subplots(1, len(radii), figsize=size, sharex=True, sharey=True, squeeze=False)
    names = [name for name in MARKS if any(r["verdict"] == name for r in runs)]
    for ax, rho in zip(axes[0], radii, strict=True):
        for name in names:
            mine = [r for r in runs if r["spec"]["rho"] == rho and r["verdict"] == name]
            rows = [order.index(arm(r)) + 0.14 * (r["spec"]["seed"] - 2) for r in mine]
            loss = [r["metrics"]["loss"] for r in mine]
            mark, color = MARKS[name]
            ax.plot(loss, rows, mark, color=color, ms=5, mec="white", mew=0.4, label=name)
        ax.axvline(runs[0]["metrics"]["baseline"], color=style.PALE, lw=1, ls="--")
        ax.set(xscale="log", title=f"$\\rho$ = {rho:g}")
        ax.grid(axis="y", color="#E6E6E6", lw=0.8)
        ax.set_axisbelow(True)
    axes[0][0].set_yticks(range(len(order)), order)
    axes[0][0].set_ylim(len(order) - 0.5, -0.5)
    fig.supxlabel("final training loss", fontsize=10)
    _legend(fig, axes[0][0], ncols=len(names))
    return fig


@style.house()
def switching(panels: Mapping[str, Sequence[tuple[float, float, Record]]]) -> Figure:
    """Final loss against the loss at the switch to SAM, a mark a run, its shape the radius.

    ``panels`` maps a title to triples (loss at the switch, final loss, run).
    """
    fig, axes = style.row(len(panels), height=3.2, sharey=True)
    radii = sorted({r["spec"]["rho"] for rows in panels.values() for *_, r in rows})
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        for rho, (color, mark) in _series(radii):
            mine = [(a, b) for a, b, r in rows if r["spec"]["rho"] == rho]
            x, y = zip(*mine, strict=True) if mine else ((), ())
            ax.plot(x, y, mark, color=color, ms=5, mec="white", mew=0.5, label=f"$\\rho$ = {rho:g}")
        ends = [min(a for a, *_ in rows), max(a for a, *_ in rows)]
        ax.plot(ends, ends, color=style.PALE, lw=1, ls=":")
        ax.set(xscale="log", yscale="log", title=title, xlabel="loss at the switch to SAM")
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("final training loss")
    _legend(fig, axes[0], ncols=len(radii))
    return fig


@style.house()
def matched(panels: Mapping[str, Sequence[Record]], size: str = "look_start") -> Figure:
    """Final loss (top) and test accuracy (bottom) against the measured ‖x⁺ − x‖, by rule.

    ``panels`` maps a title to runs that were measured with ``perturbation``; a mark a run.
    """
    import matplotlib.pyplot as plt

    shape = (style.WIDTH, 4.8)
    fig, axes = plt.subplots(
        2, len(panels), figsize=shape, sharex="col", sharey="row", squeeze=False
    )
    present = {r["spec"]["rule"] for runs in panels.values() for r in runs}
    for column, (title, runs) in enumerate(panels.items()):
        for ax, metric in zip(axes[:, column], ("loss", "test_accuracy"), strict=True):
            for rule in (name for name in RULES if name in present):
                label, color, mark = RULES[rule]
                m = [r["metrics"] for r in runs if r["spec"]["rule"] == rule]
                x, y = [v[size] for v in m], [v[metric] for v in m]
                ax.plot(x, y, mark, color=color, ms=5, mec="white", mew=0.5, label=label)
            ax.set_xscale("log")
        axes[0][column].set(yscale="log", title=title)
        axes[1][column].set_xlabel("$\\|x^+-x\\|$ at the start")
    axes[0][0].set_ylabel("final training loss")
    axes[1][0].set_ylabel("test accuracy")
    _legend(fig, axes[0][0], ncols=len(present))
    return fig


@style.house()
def long_runs(curves: Mapping[str, Sequence[Curves]]) -> Figure:
    """GradRatio over the steps of long runs, a panel a title, both axes logarithmic."""
    fig, axes = style.row(len(curves), height=3.0, sharey=True)
    colors = (style.SAM, *style.OTHERS)
    for ax, (title, group) in zip(axes, curves.items(), strict=True):
        for c, color in zip(group, colors, strict=False):
            late = c["step"] >= 10
            ratio = c["shifted_grad_norm"][late] / c["grad_norm"][late]
            ax.plot(c["step"][late], ratio, color=color, lw=1.2)
        ax.axhline(0.1, color=style.PALE, lw=1, ls=":")
        ax.set(xscale="log", yscale="log", title=title, xlabel="step")
    axes[0].set_ylabel("GradRatio")
    return fig


@style.house()
def spells(groups: Mapping[str, Sequence[Record]]) -> Figure:
    """When each run's first spell of hallucination began and ended: a bar a run, a row a group.

    The runs were measured with ``escape``. A circle ends a spell, a cross marks one that lasts to
    the end of the run; runs without a spell are not drawn.
    """
    fig, (ax,) = style.row(1, height=1.0 + 0.3 * len(groups), width=style.WIDTH)
    for i, runs in enumerate(groups.values()):
        mine = sorted((r["metrics"] for r in runs if r["metrics"]["spells"]), key=_end)
        for k, m in enumerate(mine):
            y = i + 0.75 * ((k + 0.5) / len(mine) - 0.5)
            stays = m["escape"] is None
            end = m["steps"] if stays else m["escape"]
            mark, color = ("X", style.SAM) if stays else ("o", style.GD)
            ax.plot([m["spell_start"] + 1, end], [y, y], color=color, lw=1.2)
            ax.plot(end, y, mark, color=color, ms=5, mec="white", mew=0.4)
    ax.plot([], [], "o", color=style.GD, label="escapes")
    ax.plot([], [], "X", color=style.SAM, label="still hallucinates at the end")
    ax.set(xscale="log", xlabel="step", ylim=(len(groups) - 0.5, -0.5))
    ax.set_yticks(range(len(groups)), list(groups))
    ax.tick_params(axis="y", length=0)
    _legend(fig, ax, ncols=2)
    return fig


def _end(m: Mapping[str, Any]) -> float:
    return np.inf if m["escape"] is None else float(m["escape"])
