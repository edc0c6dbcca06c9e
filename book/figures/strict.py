"""Figures of the strict regime: losses and rates from many starts, windows, remedies, pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from figures import style
from figures.windows import Window
from samlib.diagnostics.verdicts import THRESHOLDS, is_strict
from samlib.experiments.records import Record

#: outcome -> (marker, colour, words), in the order in which legends and bars have them
OUTCOMES = {
    "learns": ("o", style.GD, "learns"),
    "strict": ("X", style.SAM, "hallucinates strictly"),
    "weak": ("P", style.OTHERS[1], "hallucinates, not settled"),
    "guess": ("s", style.OTHERS[0], "constant guess"),
    "other": ("d", "black", "none of these"),
}


def outcome(run: Record) -> str:
    """What a recorded run came to: one of :data:`OUTCOMES`, the first that holds.

    ``strict``: GradRatio < 1e-6 and ‖∇f(x)‖ > 1e-3 at the end. ``learns``: progress over 0.8 (see
    :attr:`samlib.diagnostics.verdicts.Trace.progress`). ``weak``: the verdict *hallucinated*.
    ``guess``: progress within 0.05 of 0, the loss of a constant guess. ``other``: the rest.
    """
    m = run["metrics"]
    if m["loss"] is None:
        return "other"
    if is_strict(m["grad_ratio"], m["grad_norm"]):
        return "strict"
    if m["progress"] is not None and m["progress"] > THRESHOLDS.learns:
        return "learns"
    if run["verdict"] == "hallucinated":
        return "weak"
    guess = m["progress"] is not None and abs(m["progress"]) < THRESHOLDS.guess
    return "guess" if guess else "other"


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
            ("shifted_loss", style.OTHERS[2], "$f(x^+)$"),
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
    colors = (style.SAM, style.GD, style.EXACT, style.OTHERS[0])
    marks = zip("Xosd", colors, (6, 10, 5, 6), strict=True)
    for (title, runs), (marker, color, size) in zip(groups.items(), marks, strict=False):
        x = [1 - r["metrics"]["spectral_radius"] for r in runs]
        y = [1 - r["metrics"]["rate"] for r in runs]
        ax.plot(x, y, marker, color=color, label=title, ms=size, mec="white", mew=0.5)
    ax.set(xscale="log", yscale="log", xlabel="1 − spectral radius of $DT$ at the limit")
    ax.set_ylabel("1 − measured rate of GradRatio")
    ax.legend()
    return fig


@style.house()
def window(runs: Sequence[Record], predicted: Mapping[float, Window]) -> Figure:
    """Outcome of each run against ρ, a row a weight decay and learning rate.

    ``predicted`` maps λ to its branch: bars show where its points exist, thick where they attract
    at the row's learning rate. Ticks are ‖x_*‖ and 2‖x_*‖.
    """
    fig, (ax,) = style.row(1, height=4.0, width=style.WIDTH)
    rows = sorted({(r["spec"]["weight_decay"], r["spec"]["lr"]) for r in runs})
    points = []
    for place, (decay, lr) in enumerate(rows):
        w, first = predicted[decay], place == 0
        stays = np.array(w.attracts(lr))
        label = ("a hallucinated point exists", "… and attracts", "$\\|x_*\\|$, $2\\|x_*\\|$")
        for radii, width, words in ((w.rho, 1.5, label[0]), (stays, 7, label[1])):
            text = words if first else None
            ax.plot(radii[[0, -1]], [place] * 2, color=style.PALE, lw=width, alpha=0.6, label=text)
        for size in (w.norm, 2 * w.norm):
            text = label[2] if first and size == w.norm else None
            ax.plot([size], [place], "|", color=style.GD, ms=16, mew=1.5, label=text)
        chosen = [r for r in runs if (r["spec"]["weight_decay"], r["spec"]["lr"]) == (decay, lr)]
        points += [(r["spec"]["rho"], place, outcome(r)) for r in chosen if r["spec"]["rho"] > 0]
    _marked(ax, points)
    ax.set_yticks(range(len(rows)), [f"λ {d:g}\nη {e:g}" for d, e in rows])
    ax.set(xlabel="radius $\\rho$", ylim=(-0.6, len(rows) - 0.4))
    fig.legend(loc="outside upper center", ncols=3)
    return fig


@style.house()
def remedies(groups: Mapping[str, Mapping[str, Sequence[Record]]]) -> Figure:
    """What runs with each remedy came to: a panel a setting, a bar a remedy, counts inside."""
    fig, axes = style.row(len(groups), height=4.8, sharey=True)
    drawn: dict[str, BarContainer] = {}
    for ax, (title, rows) in zip(axes, groups.items(), strict=True):
        for place, runs in enumerate(rows.values()):
            ends, left = [outcome(r) for r in runs], 0.0
            for name, (_, color, words) in OUTCOMES.items():
                part = ends.count(name) / len(ends)
                if part:
                    drawn[words] = ax.barh(place, part, left=left, color=color, height=0.75)
                    at, ink = left + part / 2, "white" if name in ("learns", "other") else "black"
                    ax.text(at, place, str(ends.count(name)), ha="center", va="center", color=ink)
                left += part
        ax.set_yticks(range(len(rows)), list(rows))
        ax.set(title=title, xlabel="fraction of runs", xlim=(0, 1))
    axes[0].invert_yaxis()
    order = [words for *_, words in OUTCOMES.values() if words in drawn]
    fig.legend([drawn[w][0] for w in order], order, loc="outside upper center", ncols=3)
    return fig


@style.house()
def pairs(runs: Sequence[Record]) -> Figure:
    """Outcomes against ‖x_*‖ of each pair of classes, a row a radius; a bar marks ρ itself.

    ‖x_*‖ is that of gradient descent's minimizer, the run of the pair with ρ = 0. Seeds lie one
    above the other.
    """
    fig, (ax,) = style.row(1, height=3.4, width=style.WIDTH)
    size = {
        tuple(r["spec"]["classes"]): r["metrics"]["norm"] for r in runs if r["spec"]["rho"] == 0
    }
    radii = sorted({r["spec"]["rho"] for r in runs} - {0.0})
    seeds = sorted({r["spec"]["seed"] for r in runs})
    points = []
    for r in (r for r in runs if r["spec"]["rho"] > 0):
        lift = 0.3 * (seeds.index(r["spec"]["seed"]) - (len(seeds) - 1) / 2)
        place = radii.index(r["spec"]["rho"]) + lift
        points.append((size[tuple(r["spec"]["classes"])], place, outcome(r)))
    _marked(ax, points, size=6)
    low, high = min(size.values()), max(size.values())
    inside = [(rho, place) for place, rho in enumerate(radii) if low < rho < high]
    for number, (rho, place) in enumerate(inside):
        text = None if number else "$\\|x_*\\|=\\rho$"
        ax.plot([rho] * 2, [place - 0.4, place + 0.4], color=style.PALE, label=text)
    ax.set_yticks(range(len(radii)), [f"$\\rho={rho:g}$" for rho in radii])
    ax.set(xlabel="norm $\\|x_*\\|$ of the pair's minimizer", ylim=(-0.5, len(radii) - 0.5))
    fig.legend(loc="outside upper center", ncols=3)
    return fig
