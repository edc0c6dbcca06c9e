"""Chapter 7: warm starts, other remedies, matched perturbations, long runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from figures import primitives, style
from figures.primitives import VERDICTS, Curves, Looks
from samlib.errors import BadInput

COLORS = (*style.OTHERS, style.EXACT, style.GD, style.SAM)
SERIES = tuple(zip("os^Dv<>", COLORS, strict=True))  # radii, in increasing order
RULES = {
    "sam": "SAM",
    "asam": "ASAM",
    "unnormalised": "unnormalised",
    "gsam": "GSAM",
    "exact": "exact surrogate",
    "gd": "gradient descent",
}
RULE_LOOKS = {
    "sam": ("o", style.SAM),
    "asam": ("s", style.OTHERS[0]),
    "unnormalised": ("^", style.OTHERS[1]),
}
SCHEDULES = {"ramp": "ramp of ρ", "decay": "decay of ρ", "adaptive": "adaptive ρ"}


def arm(runs: pandas.DataFrame) -> pandas.Series:
    """The remedy that each run tried, in words; the rule's name if none."""
    words = runs.rule.map(RULES)
    words = words.mask(runs.momentum > 0, runs.momentum.map("momentum {:g}".format))
    words = words.mask(runs.schedule != "constant", runs.schedule.map(SCHEDULES))
    return words.mask(runs.warm_start > 0, (100 * runs.warm_start).map("warm start {:g} %".format))


def at_switch(runs: pandas.DataFrame) -> pandas.DataFrame:
    """The runs, with curves, that begin with plain steps; ``before`` is the loss at their end."""
    runs = runs[runs.warm_start > 0]
    last = runs.warm_start * runs.steps
    loss = [np.interp(t, c["step"], c["loss"]) for t, c in zip(last, runs.curves, strict=True)]
    return runs.assign(before=loss)


def _series(groups: Iterable[pandas.DataFrame]) -> Looks:
    """Each radius with a mark and a colour of its own; BadInput for more than there are."""
    radii = sorted({rho for runs in groups for rho in runs.rho})
    if len(radii) > len(SERIES):
        raise BadInput(f"{len(radii)} radii are too many to tell apart; draw at most {len(SERIES)}")
    names = [f"$\\rho$ = {rho:g}" for rho in radii]
    return dict(zip(names, SERIES, strict=False))


@style.house()
def fractions(panels: Mapping[str, pandas.DataFrame]) -> Figure:
    """Final loss against the warm start's share of the steps, a series a radius, a mark a run.

    ``panels`` maps a title to runs of plain SAM and warm starts; lines join the medians. Dashed:
    the loss of a constant guess.
    """
    fig, axes = style.row(len(panels), height=3.4, sharey=True)
    looks = _series(panels.values())
    for ax, (title, runs) in zip(axes, panels.items(), strict=True):
        at = runs.assign(at=primitives.places(runs, "warm_start", 0))
        names = runs.rho.map("$\\rho$ = {:g}".format)
        for k, (name, (_, color)) in enumerate(looks.items()):
            mine = at[names == name]
            beside = mine["at"] + 0.13 * (k - (len(looks) - 1) / 2)
            primitives.marks(ax, beside, mine.loss, [name] * len(mine), looks, size=4)
            middle = mine.loss.groupby(beside).median()
            ax.plot(middle.index, middle, color=color, lw=1.2)
        primitives.guide(ax, y=runs.baseline.iloc[0], ls="--")
        shares = sorted(set(runs.warm_start))
        ax.set_xticks(range(len(shares)), [f"{100 * w:g}" for w in shares])
        ax.set(yscale="log", title=title, xlabel="% plain gradient steps first")
    axes[0].set_ylabel("final training loss")
    primitives.legend(fig, looks)
    return fig


@style.house()
def arms(runs: pandas.DataFrame, order: Sequence[str]) -> Figure:
    """Final loss of each run, a row an arm (column ``arm``), a column a radius; marks: verdict.

    Seeds are spread a little within the row.
    """
    radii = runs.groupby("rho")
    fig, axes = primitives.panels(1, len(radii), 1.1 + 0.34 * len(order), sharex=True)
    seeds = sorted(set(runs.seed))
    for ax, (rho, group) in zip(axes[0], radii, strict=True):
        lift = 0.14 * (group.seed.map(seeds.index) - (len(seeds) - 1) / 2)
        primitives.marks(ax, group.loss, group.arm.map(order.index) + lift, group.verdict, size=5)
        primitives.guide(ax, x=runs.baseline.iloc[0], ls="--")
        ax.set(xscale="log", title=f"$\\rho$ = {rho:g}")
        ax.grid(axis="y", color="#E6E6E6", lw=0.8)
        ax.set_axisbelow(True)
    axes[0, 0].set_yticks(range(len(order)), order)
    axes[0, 0].set_ylim(len(order) - 0.5, -0.5)
    fig.supxlabel("final training loss", fontsize=10)
    primitives.legend(fig, VERDICTS)
    return fig


@style.house()
def switching(panels: Mapping[str, pandas.DataFrame]) -> Figure:
    """Final loss against the loss at the switch to SAM (``before``), a mark a run, by radius."""
    fig, axes = style.row(len(panels), height=3.2, sharey=True)
    looks = _series(panels.values())
    for ax, (title, runs) in zip(axes, panels.items(), strict=True):
        names = runs.rho.map("$\\rho$ = {:g}".format)
        primitives.marks(ax, runs.before, runs.loss, names, looks, size=5)
        ends = [runs.before.min(), runs.before.max()]
        ax.plot(ends, ends, color=style.PALE, lw=1, ls=":")
        ax.set(xscale="log", yscale="log", title=title, xlabel="loss at the switch to SAM")
        ax.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("final training loss")
    primitives.legend(fig, looks)
    return fig


@style.house()
def matched(panels: Mapping[str, pandas.DataFrame]) -> Figure:
    """Final loss (top) and test accuracy (bottom) against the first ‖x⁺ − x‖, by rule.

    ``panels`` maps a title to runs that were measured with ``perturbation``; a mark a run.
    """
    fig, axes = primitives.panels(2, len(panels), 4.8)
    looks = {RULES[rule]: look for rule, look in RULE_LOOKS.items()}
    for column, (title, runs) in zip(axes.T, panels.items(), strict=True):
        for ax, metric in zip(column, ("loss", "test_accuracy"), strict=True):
            primitives.marks(ax, runs.look_start, runs[metric], runs.rule.map(RULES), looks, size=5)
            ax.set_xscale("log")
        column[0].set(yscale="log", title=title)
        column[1].set_xlabel("$\\|x^+-x\\|$ at the start")
    axes[0, 0].set_ylabel("final training loss")
    axes[1, 0].set_ylabel("test accuracy")
    primitives.legend(fig, looks)
    return fig


@style.house()
def long_runs(groups: Mapping[str, Sequence[Curves]]) -> Figure:
    """GradRatio over the steps of long runs, a panel a title, both axes logarithmic."""
    fig, axes = style.row(len(groups), height=3.0, sharey=True)
    colors = (style.SAM, *style.OTHERS)
    for ax, (title, group) in zip(axes, groups.items(), strict=True):
        for c, color in zip(group, colors, strict=False):
            late = c["step"] >= 10
            ax.plot(c["step"][late], c["grad_ratio"][late], color=color, lw=1.2)
        primitives.guide(ax, y=0.1)
        ax.set(xscale="log", yscale="log", title=title, xlabel="step")
    axes[0].set_ylabel("GradRatio")
    return fig


def decline(curves: Curves) -> tuple[float, bool]:
    """From step 1000 on: the slope of log GradRatio over log step; an exponential fits better."""
    late = curves["step"] >= 1000
    step, y = curves["step"][late], np.log(curves["grad_ratio"][late])
    misfit = [np.polyfit(t, y, 1, full=True)[1][0] for t in (np.log(step), step)]
    return float(np.polyfit(np.log(step), y, 1)[0]), bool(misfit[1] < misfit[0])


@style.house()
def spells(runs: pandas.DataFrame, groups: Sequence[str]) -> Figure:
    """When each run's first spell of hallucination began and ended: a bar a run, a row a group.

    The runs were measured with ``escape``; ``group`` names their row. A circle ends a spell, a
    cross marks one that lasts to the end of the run; runs without a spell are not drawn.
    """
    fig, (ax,) = style.row(1, height=1.0 + 0.3 * len(groups), width=style.WIDTH)
    for i, name in enumerate(groups):
        mine = runs[(runs.group == name) & (runs.spells > 0)]
        mine = mine.assign(last=mine.escape.fillna(np.inf)).sort_values("last", kind="stable")
        for k, run in enumerate(mine.itertuples()):
            y = i + 0.75 * ((k + 0.5) / len(mine) - 0.5)
            stays = np.isnan(run.escape)
            end = run.steps if stays else run.escape
            mark, color = ("X", style.SAM) if stays else ("o", style.GD)
            ax.plot([run.spell_start + 1, end], [y, y], color=color, lw=1.2)
            ax.plot(end, y, mark, color=color, ms=5, mec="white", mew=0.4)
    ax.plot([], [], "o", color=style.GD, label="escapes")
    ax.plot([], [], "X", color=style.SAM, label="still hallucinates at the end")
    ax.set(xscale="log", xlabel="step", ylim=(len(groups) - 0.5, -0.5))
    ax.set_yticks(range(len(groups)), list(groups))
    ax.tick_params(axis="y", length=0)
    primitives.legend(fig)
    return fig
