"""Figures of the strict regime: losses and rates from many starts, windows, remedies, pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samlib.plots import style
from samlib.records import Record

#: outcome -> (marker, colour, words), in the order in which legends and bars have them
OUTCOMES = {
    "learns": ("o", style.GD, "learns"),
    "strict": ("X", style.SAM, "hallucinates, strictly"),
    "guess": ("s", style.OTHERS[0], "hovers at a constant guess"),
    "other": ("d", style.OTHERS[1], "none of these"),
}
RATIO, NORM = 1e-6, 1e-3  # of GradRatio and ‖∇f(x)‖


def outcome(run: Record) -> str:
    """What a recorded run came to: one of :data:`OUTCOMES`.

    ``strict``: GradRatio < 1e-6 and ‖∇f(x)‖ > 1e-3. ``learns``: the verdict *converged*. ``guess``:
    the loss is that of a constant guess to 5 % of what gradient descent gains, and SAM hovers:
    GradRatio > 1. ``other``: the rest.
    """
    m = run["metrics"]
    if m["loss"] is None:
        return "other"
    if m["grad_ratio"] < RATIO and m["grad_norm"] > NORM:
        return "strict"
    if run["verdict"] == "converged":
        return "learns"
    flat = m["progress"] is not None and abs(m["progress"]) < 0.05
    return "guess" if flat and m["grad_ratio"] > 1 else "other"


def _marked(ax: Axes, points: Sequence[tuple[float, float, str]], size: float = 7) -> None:
    """Points (x, y, outcome), each with its outcome's mark."""
    for name, (marker, color, words) in OUTCOMES.items():
        chosen = [(x, y) for x, y, o in points if o == name]
        if chosen:
            x, y = zip(*chosen, strict=True)
            ax.plot(x, y, marker, color=color, label=words, ms=size, mec="white", mew=0.5)


@style.house()
def losses(groups: Mapping[str, Sequence[Record]]) -> Figure:
    """Final losses of runs from many initialisations, a panel a network, sorted by f(x).

    Each run is a column: f(x) marked by its outcome, f(x⁺) below it, and its gradient descent
    twin's loss. The dashed line is the loss of the best constant guess.
    """
    fig, axes = style.row(len(groups), height=3.1)
    for ax, (title, runs) in zip(axes, groups.items(), strict=True):
        ordered = sorted(runs, key=lambda r: r["metrics"]["loss"])
        m = [r["metrics"] for r in ordered]
        at = list(range(1, len(ordered) + 1))
        for key, color, words in (
            ("twin_loss", style.GD, "gradient descent"),
            ("shifted_loss", style.PALE, "$f(x^+)$"),
        ):
            ax.plot(at, [v[key] for v in m], ".", ms=4, color=color, label=words)
        ends = [(x, v["loss"], outcome(r)) for x, v, r in zip(at, m, ordered, strict=True)]
        _marked(ax, ends, size=5)
        ax.axhline(m[0]["baseline"], color=style.PALE, lw=1, ls="--")
        ax.set(title=title, xlabel="run", ylim=(0, None))
    axes[0].set_ylabel("final loss")
    drawn = [t for ax in axes for t in ax.get_lines()]
    seen = {label: t for t in drawn if not (label := str(t.get_label())).startswith("_")}
    fig.legend(list(seen.values()), list(seen), loc="outside upper center", ncols=3)
    return fig


@style.house()
def rates(groups: Mapping[str, Sequence[Record]]) -> Figure:
    """1 − the rate at which GradRatio fell against 1 − the spectral radius at each limit."""
    fig, (ax,) = style.row(1, height=3.6)
    every = [r["metrics"] for runs in groups.values() for r in runs]
    reach = [1 - m["spectral_radius"] for m in every]
    ends = np.array([0.9 * min(reach), 1.1 * max(reach)])
    ax.plot(ends, ends, color=style.PALE, lw=1, label="equal")
    marks = zip("Xosd", (style.SAM, style.GD, style.EXACT, style.OTHERS[0]), strict=True)
    for (title, runs), (marker, color) in zip(groups.items(), marks, strict=False):
        x = [1 - r["metrics"]["spectral_radius"] for r in runs]
        y = [1 - r["metrics"]["rate"] for r in runs]
        ax.plot(x, y, marker, color=color, label=title, ms=6, mec="white", mew=0.5)
    ax.set(xscale="log", yscale="log", xlabel="1 − spectral radius of $DT$ at the limit")
    ax.set_ylabel("1 − measured rate of GradRatio")
    ax.legend()
    return fig


@style.house()
def window(runs: Sequence[Record]) -> Figure:
    """Outcome of each run against ρ, a row a weight decay λ; lines at ‖x_*‖ and 2‖x_*‖.

    x_* is where gradient descent (the runs with ρ = 0) ends. Seeds lie one above the other.
    """
    fig, (ax,) = style.row(1, height=3.8, width=style.WIDTH)
    decays = sorted({r["spec"]["weight_decay"] for r in runs})
    seeds = sorted({r["spec"]["seed"] for r in runs})
    sizes = []
    for decay in decays:
        twins = [r for r in runs if r["spec"]["weight_decay"] == decay and r["spec"]["rho"] == 0]
        sizes.append(float(np.mean([r["metrics"]["norm"] for r in twins])))
    points = []
    for r in (r for r in runs if r["spec"]["rho"] > 0):
        lift = 0.22 * (seeds.index(r["spec"]["seed"]) - (len(seeds) - 1) / 2)
        row = decays.index(r["spec"]["weight_decay"])
        points.append((r["spec"]["rho"], row + lift, outcome(r)))
    _marked(ax, points)
    edges = np.repeat(np.arange(len(decays)), 2) + np.tile([-0.4, 0.4], len(decays))
    size = np.repeat(sizes, 2)
    ax.plot(size, edges, color=style.GD, lw=1.5, label="$\\|x_*\\|$")
    ax.plot(2 * size, edges, color=style.GD, lw=1.5, ls="--", label="$2\\|x_*\\|$")
    ax.set_yticks(range(len(decays)), [f"{d:g}" for d in decays])
    ax.set(xlabel="radius $\\rho$", ylabel="weight decay $\\lambda$")
    ax.set_xlim(0.5, 1.05 * max(r["spec"]["rho"] for r in runs))
    fig.legend(loc="outside upper center", ncols=3)
    return fig


@style.house()
def remedies(groups: Mapping[str, Mapping[str, Sequence[Record]]]) -> Figure:
    """What runs with each remedy came to: a panel a setting, a bar a remedy."""
    fig, axes = style.row(len(groups), height=4.6, sharey=True)
    for ax, (title, rows) in zip(axes, groups.items(), strict=True):
        for place, runs in enumerate(rows.values()):
            ends, left = [outcome(r) for r in runs], 0.0
            for name, (_, color, words) in OUTCOMES.items():
                part = ends.count(name) / len(ends)
                label = words if place == 0 else None
                ax.barh(place, part, left=left, color=color, height=0.75, label=label)
                if part:
                    at = left + part / 2
                    ax.text(at, place, str(ends.count(name)), ha="center", va="center", fontsize=8)
                left += part
        ax.set_yticks(range(len(rows)), list(rows))
        ax.set(title=title, xlabel="fraction of runs", xlim=(0, 1))
    axes[0].invert_yaxis()
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return fig


@style.house()
def pairs(runs: Sequence[Record], radii: Sequence[float]) -> Figure:
    """For each pair of classes how many of the ``radii`` hallucinate strictly, as a 10 × 10 map."""
    fig, (ax,) = style.row(1, height=4.4)
    count = np.full((10, 10), np.nan)
    for r in runs:
        a, b = r["spec"]["classes"]
        if r["spec"]["rho"] in radii:
            hit = outcome(r) == "strict"
            count[b, a] = hit + np.nan_to_num(count[b, a])
    shown = ax.imshow(count, cmap="cividis", vmin=0, vmax=len(radii))
    for b, a in np.argwhere(np.isfinite(count)):
        dark = count[b, a] < len(radii) / 2
        color = "white" if dark else "black"
        ax.text(a, b, f"{count[b, a]:.0f}", ha="center", va="center", color=color)
    ax.set(xticks=range(10), yticks=range(10), xlabel="first class", ylabel="second class")
    fig.colorbar(shown, label=f"of {len(radii)} radii, strictly hallucinated")
    return fig
