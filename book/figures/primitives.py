"""What figures of runs are made of: panels, marks by verdict, seeds side by side, curves.

Runs are data frames as :func:`samlib.read_records` returns them. A figure is a composition of
these few functions; what is a chapter's own lies in the module of that chapter.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from figures import style

if TYPE_CHECKING:
    from samlib import Landscape
    from samlib.points.search import CriticalPoint
    from samlib.training.spec import Run

Array = NDArray[np.float64]
Grid = tuple[Array, Array]
Curves = Mapping[str, Array]
#: What a name looks like: marker and colour. Their order is that of legends.
Looks = Mapping[Any, tuple[str, str]]

ABOVE, BELOW = "#9CCAE8", "#F3C08B"  # pale forms of two colours, for cells and bars
# shape and colour both tell the verdict; grey is left to guides
VERDICTS: Looks = {
    "converged": ("o", style.GD),
    "hallucinated": ("X", style.SAM),
    "stalled": ("s", style.OTHERS[0]),
    "running": ("d", style.OTHERS[1]),
    "diverged": ("v", "black"),
}
#: The same with two kinds of stall, as :func:`outcome` tells them apart.
OUTCOMES: Looks = {
    **{name: VERDICTS[name] for name in ("converged", "running", "hallucinated")},
    "stalled: chaotic": VERDICTS["stalled"],
    "stalled: saddle": ("P", style.OTHERS[2]),
    "diverged": VERDICTS["diverged"],
}


def outcome(runs: pandas.DataFrame) -> pandas.Series:
    """The verdict of each run, for a stall with its kind: ``stalled: saddle`` or ``: chaotic``."""
    return runs.verdict.where(runs.stall.isna(), runs.verdict + ": " + runs.stall.astype(str))


def panels(
    rows: int, columns: int, height: float, width: float = style.WIDTH, **kw: Any
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure of ``rows`` × ``columns`` axes that share x in a column and y in a row."""
    shared: dict[str, Any] = {"sharex": "col", "sharey": "row", "squeeze": False}
    fig, axes = plt.subplots(rows, columns, figsize=(width, height), **shared | kw)
    return fig, axes


def places(runs: pandas.DataFrame, key: str, apart: float = 0.16) -> NDArray[np.float64]:
    """The place of each run on an axis with equal steps from one value of ``key`` to the next.

    Seeds lie side by side, ``apart`` from each other, about the value's place.
    """
    seeds = runs.seed.rank(method="dense") - 1
    middle = (runs.seed.nunique() - 1) / 2
    return np.asarray(runs[key].rank(method="dense") - 1 + apart * (seeds - middle), dtype=float)


def ticks(axis: Axis, values: Iterable[Any], **kw: Any) -> None:
    """Label an axis with equal steps by the values that occur, in increasing order."""
    found = sorted(set(values))
    axis.set_ticks(range(len(found)), [f"{v:g}" for v in found], **kw)


def marks(
    ax: Axes,
    x: Iterable[float],
    y: Iterable[float],
    names: Iterable[Hashable],
    looks: Looks = VERDICTS,
    size: float = 6.5,
) -> None:
    """A mark at each (x, y), which looks as its name tells; one labelled line a name that occurs.

    Points without a number are left out.
    """
    at = np.array([list(x), list(y)], dtype=float).T
    kinds = list(names)
    for name, (marker, color) in looks.items():
        mine = np.array([kind == name for kind in kinds], dtype=bool)
        mine &= np.isfinite(at).all(axis=1)
        if mine.any():
            look: dict[str, Any] = {"color": color, "ms": size, "mec": "white", "mew": 0.5}
            ax.plot(*at[mine].T, marker, label=str(name), **look)


def facets(
    groups: Mapping[str, pandas.DataFrame],
    x: str,
    y: Mapping[str, str],
    *,
    kinds: str = "verdict",
    looks: Looks = VERDICTS,
    height: float = 2.5,
    rotation: float = 0,
) -> tuple[Figure, NDArray[np.object_]]:
    """A column for each title and its runs, a row for each metric: a mark a run against ``x``.

    Parameters
    ----------
    groups : mapping
        Title to runs.
    x : str
        The column of the runs that goes across, with equal steps from value to value.
    y : mapping
        Metric to the words at its axis. Axes are logarithmic; change what should not be.
    kinds, looks : str and mapping
        The column that tells how a mark looks, and how.
    height : float
        Inches of a row.
    rotation : float
        Degrees by which the numbers under the axes are turned.
    """
    fig, axes = panels(len(y), len(groups), height * len(y))
    for column, (title, runs) in zip(axes.T, groups.items(), strict=True):
        for ax, metric in zip(column, y, strict=True):
            marks(ax, places(runs, x), runs[metric], runs[kinds], looks)
            ax.set_yscale("log")
        ticks(column[-1].xaxis, runs[x], rotation=rotation)
        column[0].set_title(title)
    for ax, words in zip(axes[:, 0], y.values(), strict=True):
        ax.set_ylabel(words)
    legend(fig, looks)
    return fig, axes


def wide(height: float) -> tuple[Figure, Axes]:
    """One pair of axes with room for a legend on the right."""
    return plt.subplots(figsize=(style.WIDTH, height))


def beside(ax: Axes) -> None:
    """Put the legend to the right of the axes."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))


def plane(ax: Axes, axes: Grid, values: Array, levels: int = 16) -> None:
    """Grey contours of f, equally spaced in the rank of its values so that flat parts show.

    ``axes`` are the coordinates of a grid, and ``values`` those of f there in the order of
    ``imshow``.
    """
    chosen = np.unique(np.quantile(values, np.linspace(0.01, 0.99, levels)))
    ax.contour(*axes, values, levels=chosen, colors="0.8", linewidths=0.6, linestyles="solid")
    ax.set(xlabel="$x$", ylabel="$y$", aspect="equal")
    ax.set(xlim=axes[0][[0, -1]], ylim=axes[1][[0, -1]])


def contours(ax: Axes, f: Landscape, n: int, levels: int = 16, box: Any = None) -> None:
    """:func:`plane` of a landscape over its box, or another, sampled at n × n points."""
    axes = lattice(f.box if box is None else box, n)
    plane(ax, axes, f.f(np.stack(np.meshgrid(*axes), -1)), levels)


def lattice(box: Any, n: int) -> Grid:
    """The coordinates of n × n points over a box."""
    across, up = (np.linspace(low, high, n) for low, high in box)
    return across, up


def circle(ax: Axes, centre: ArrayLike, radius: float, **look: Any) -> None:
    """A circle in data coordinates."""
    angle = np.linspace(0, 2 * np.pi, 361)
    x, y = np.asarray(centre, dtype=float)
    shown: dict[str, Any] = {"color": style.GD, "lw": 1.2} | look
    ax.plot(x + radius * np.cos(angle), y + radius * np.sin(angle), **shown)


def dots(
    ax: Axes, points: ArrayLike, marker: str, color: str, label: str | None = None, box: Any = None
) -> None:
    """Markers with a white rim above the curves, of the points (n, 2) that lie in ``box``.

    No points, no entry in the legend.
    """
    at = np.reshape(np.asarray(points, dtype=float), (-1, 2))
    if box is not None:
        low, high = np.transpose(box)
        at = at[((low <= at) & (at <= high)).all(1)]
    look: dict[str, Any] = {"mec": "white", "mew": 0.8, "ms": 13 if marker == "*" else 8}
    if len(at):
        ax.plot(*at.T, marker, color=color, zorder=5, label=label, **look)


def pairs(
    critical: Sequence[CriticalPoint], sides: ArrayLike, filled: ArrayLike, names: Sequence[str]
) -> Figure:
    """A matrix of the ordered pairs of critical points: colour by side, a cross where filled.

    ``sides`` (±1) and ``filled`` go through the pairs as ``itertools.permutations`` does; ``names``
    are the meanings of −1, of +1 and of a cross.
    """
    others = ~np.eye(len(critical), dtype=bool)
    colours, crosses = np.zeros(others.shape), np.zeros(others.shape, dtype=bool)
    colours[others], crosses[others] = sides, filled
    with style.house():
        fig, ax = wide(4.4)
        ax.imshow(colours, cmap=ListedColormap([BELOW, "white", ABOVE]), vmin=-1, vmax=1)
        rows, columns = np.nonzero(crosses)
        ax.plot(columns, rows, "X", color="black", ms=7)
        kinds = [f"{c.kind[:3]} ({c.x[0]:.1f}, {c.x[1]:.1f})" for c in critical]
        ax.set(xlabel="image $x_*$", ylabel="near $x_c$")
        ax.set_xticks(range(len(kinds)), kinds, rotation=60, ha="right", fontsize=8)
        ax.set_yticks(range(len(kinds)), kinds, fontsize=8)
        for marker, color, size, name in zip(
            "ssX", (BELOW, ABOVE, "black"), (10, 10, 7), names, strict=True
        ):
            ax.plot([], [], marker, color=color, ms=size, label=name)
        beside(ax)
    return fig


def guide(ax: Axes, *, x: float | None = None, y: float | None = None, ls: str = ":") -> None:
    """A pale line across the axes: a threshold (dotted) or the loss of a constant guess."""
    if x is not None:
        ax.axvline(x, color=style.PALE, lw=1, ls=ls)
    if y is not None:
        ax.axhline(y, color=style.PALE, lw=1, ls=ls)


def curves(ax: Axes, found: Curves, key: str, words: str) -> None:
    """What curves tell of x and of x⁺ over the steps: ``key`` is ``loss`` or ``grad_norm``.

    ``words`` is the label at x as a formula, ``f(x)``.
    """
    late = found["step"] > 0  # such axes are logarithmic
    for name, color, label in (
        (key, style.GD, words),
        (f"shifted_{key}", style.SAM, words.replace("x", "x^+")),
    ):
        ax.plot(found["step"][late], found[name][late], color=color, label=f"${label}$")
    ax.set_xscale("log")


def legend(fig: Figure, order: Iterable[Any] = (), **kw: Any) -> None:
    """One entry for each label of the figure above its axes, those of ``order`` first."""
    seen: dict[str, Any] = {}
    for ax in fig.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            seen.setdefault(label, handle)
    names = [str(n) for n in order if str(n) in seen]
    names += [n for n in seen if n not in names]
    kw.setdefault("ncols", len(names))
    fig.legend([seen[n] for n in names], names, loc="outside upper center", **kw)


def table(runs: Iterable[Run]) -> pandas.DataFrame:
    """Runs that were just trained, as :func:`samlib.read_records` tells of recorded ones."""
    rows = [{**asdict(r.spec), **r.metrics, "verdict": r.verdict} for r in runs]
    return pandas.DataFrame(rows)


@style.house()
def outcomes(
    groups: Mapping[str, pandas.DataFrame], accuracy: bool = False, rotation: float = 45
) -> Figure:
    """Final loss (top) and GradRatio against ρ, a column for each title and its runs.

    The marks tell the verdict. Dashed: the loss of the best constant guess; dotted: GradRatio 0.1.
    ``accuracy`` adds a row with the runs' test accuracy, and a band from the least to the largest
    loss of their twins, which took the same steps without SAM.
    """
    rows = {"loss": "final training loss $f(x)$", "grad_ratio": "GradRatio"}
    if accuracy:
        rows["test_accuracy"] = "test accuracy"
    fig, axes = facets(groups, "rho", rows, rotation=rotation)
    for column, runs in zip(axes.T, groups.values(), strict=True):
        guide(column[0], y=runs.baseline.iloc[0], ls="--")
        guide(column[1], y=0.1)
        if accuracy:
            band = {"color": style.GD, "alpha": 0.3, "lw": 0}
            column[0].axhspan(runs.twin_loss.min(), runs.twin_loss.max(), **band)
            column[2].set_yscale("linear")
        column[-1].set_xlabel("radius $\\rho$")
    return fig


@style.house()
def losses_and_gradients(runs: Mapping[str, Curves], baseline: float) -> Figure:
    """Losses and gradient norms at x and at x⁺ over the steps of each run, a column a run.

    ``runs`` maps a title to curves as :func:`samlib.experiments.records.read_curves` returns them.
    """
    fig, axes = panels(2, len(runs), 4.6)
    for (top, bottom), (title, found) in zip(axes.T, runs.items(), strict=True):
        curves(top, found, "loss", "f(x)")
        curves(bottom, found, "grad_norm", "\\|∇f(x)\\|")
        top.axhline(baseline, color=style.PALE, lw=1, ls="--", label="constant guess")
        top.set_title(title)
        bottom.set(xlabel="step", yscale="log")
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("gradient norm")
    axes[0, 0].legend(loc="upper right")
    axes[1, 0].legend(loc="lower left")
    return fig
