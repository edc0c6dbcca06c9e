"""Chapter 10: two small ReLU networks in the plane, and recorded networks of other shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from figures import primitives, style
from figures.primitives import VERDICTS, Array, beside, dots, wide
from samlib.errors import BadInput
from samlib.experiments import lanczos
from samlib.points.linearisation import ascend, linearise
from samlib.training.loop import objective
from samlib.training.spec import Run

if TYPE_CHECKING:
    from samlib import Landscape

Data = Sequence[tuple[int, int]]
NAMES = {"rho": "radius $\\rho$", "lr": "learning rate", "depth": "depth"}
COLORS = ("black", style.GD, style.EXACT, style.SAM, *style.OTHERS[:3])
STILL = {"SAM moves": "0.95", "frozen: hallucinated": style.SAM, "dead: ∇f = 0": "#9CCAE8"}


# ---- one unit -------------------------------------------------------------------------------


def _fits(ax: Axes, data: Data, points: Mapping[str, Any]) -> None:
    """The data and the outputs v·relu(wt + b) at named points (w, b, v); v = 1 if left out."""
    t = np.linspace(0.5, 3.5, 200)
    for (name, (w, b, *v)), color in zip(points.items(), (style.SAM, style.GD), strict=True):
        ax.plot(t, (v or [1])[0] * np.maximum(0, w * t + b), color=color, label=name)
    ax.plot(*np.array(data, float).T, "ko", ms=6, label="data", zorder=4)
    ax.set(xlabel="input", ylabel="output")
    ax.legend()


@style.house()
def neuron(f: Landscape, data: Data, orbits: Array, x_h: Array, image: Array) -> Figure:
    """Left the plane (w, b) with its activation regions and SAM's orbits; right the two fits."""
    fig, (left, right) = style.row(2, 3.3)
    axes = [np.linspace(low, high, 300) for low, high in f.box]
    mesh = np.stack(np.meshgrid(*axes), -1)
    signs = np.array([mesh[..., 0] * t + mesh[..., 1] > 0 for t, _ in data])
    regions = np.unique(signs.reshape(len(data), -1).T, axis=0, return_inverse=True)[1]
    extent = (*axes[0][[0, -1]], *axes[1][[0, -1]])
    shades = ListedColormap(np.linspace(0.98, 0.80, regions.max() + 1).astype(str).tolist())
    left.imshow(regions.reshape(mesh.shape[:2]), origin="lower", extent=extent, cmap=shades,
                aspect="auto")  # fmt: skip
    levels = np.unique(np.quantile(f.f(mesh), np.linspace(0.01, 0.95, 14)))
    left.contour(*axes, f.f(mesh), levels=levels, colors="0.6", linewidths=0.6)
    left.plot(*np.moveaxis(orbits, -1, 0), "-", color=style.SAM, lw=0.5)
    dots(left, x_h, "X", style.SAM, "$x_h$")
    dots(left, image, "*", style.GD, "$x_*$")
    left.set(xlabel="$w$", ylabel="$b$")
    left.legend(loc="lower left", frameon=True)
    _fits(right, data, {"at $x_h$": x_h, "at $x_*$": image})
    return fig


def family(f: Landscape, x_h: ArrayLike, scales: Array) -> Array:
    """The hallucinated points, one a row, whose images are (−2c, 5c, 1/c), c from ``scales``.

    By Newton's method, each from its neighbour and the first, whose c is 1, from ``x_h``.
    """
    x, found = np.array(x_h, float), []
    for c in scales:
        for _ in range(30):
            near = linearise(f, x, 2.0)
            x = x - np.linalg.solve(near.M, near.image - [-2 * c, 5 * c, 1 / c])
        found.append(x)
    return np.array(found)


@style.house()
def to_a_curve(curve: Array, images: Array, orbits: Array, data: Data) -> Figure:
    """The curve (n, 3) of hallucinated points and its images in (w, b), distances, the fits."""
    fig, (left, middle, right) = style.row(3, 3.0)
    for start, end in list(zip(curve, images, strict=True))[:: len(curve) // 6]:
        left.plot(*np.stack([start, end])[:, :2].T, ":", color=style.PALE, lw=1)
    left.plot(*curve[:, :2].T, color=style.SAM, lw=3, label="hallucinated")
    left.plot(*images[:, :2].T, color=style.GD, lw=3, label="images")
    left.plot(*np.moveaxis(orbits[..., :2], -1, 0), "-", color="black", lw=0.7)
    left.set(xlabel="$w$", ylabel="$b$")
    left.legend(loc="lower left", fontsize=8)
    middle.semilogy(np.linalg.norm(orbits - orbits[-1], axis=-1)[:2200], color="black", lw=0.8)
    middle.set(xlabel="step", title="distance to the limit")
    _fits(right, data, {"at $x_h$": (0, 5, 1), "at $x_*$": (-2, 5, 1)})
    return fig


def dead(points: Array, inputs: Array) -> Any:
    """Whether the unit is off on all inputs at points (w, b)."""
    return np.all(points[..., :1] * inputs + points[..., 1:] < 0, axis=-1)


def still(f: Landscape, inputs: Array, rho: float) -> NDArray[np.int64]:
    """On a grid, what SAM does: 0 moves, 1 is frozen though the unit is alive, 2 is dead."""
    axes = (np.linspace(low, high, 400) for low, high in ((-5, 3), (-3, 9)))
    mesh = np.stack(np.meshgrid(*axes), -1)
    norm, image = ascend(f, mesh, rho)
    return np.where(dead(mesh, inputs), 2, (norm > 0) & dead(image, inputs))


@style.house()
def frozen(f: Landscape, inputs: Array, rho: float, x_h: Array | None = None) -> Figure:
    """The plane (w, b) coloured by :func:`still`, and the isolated point ``x_h`` if given."""
    fig, ax = wide(3.8)
    ax.imshow(still(f, inputs, rho), origin="lower", extent=(-5, 3, -3, 9), vmin=-0.5, vmax=2.5,
              cmap=ListedColormap(list(STILL.values())), aspect="auto",
              interpolation="nearest")  # fmt: skip
    for name, color in STILL.items():
        ax.plot([], [], "s", color=color, mec="0.6", ms=9, label=name)
    if x_h is not None:
        dots(ax, x_h, "X", "black", "isolated point")
    ax.set(xlabel="$w$", ylabel="$b$")
    beside(ax)
    return fig


# ---- a dead layer ---------------------------------------------------------------------------


@style.house()
def dying(sam: Sequence[Run], gd: Sequence[Run]) -> Figure:
    """GradRatio (left) and the loss (right) of SAM from several seeds; the loss of ``gd`` too."""
    fig, (left, right) = style.row(2, 3.0)
    for run, line in zip(sam, ("-", "--", ":", "-.", (0, (6, 1))), strict=False):
        left.semilogy(run.trace.grad_ratio, ls=line, lw=1.2, label=f"seed {run.spec.seed}")
    for runs, color, label in ((sam, style.SAM, "SAM"), (gd, style.GD, "gradient descent")):
        for i, run in enumerate(runs):
            steps = np.arange(len(run.trace.loss)) + 1
            right.plot(steps, run.trace.loss, color=color, lw=1, label="" if i else label)
    left.set(xlabel="step", ylabel="GradRatio")
    left.legend()
    right.set(xscale="log", xlabel="1 + step", ylabel="loss $f(x)$", ylim=(0, None))
    right.legend()
    return fig


def block(run: Run) -> tuple[Any, Any]:
    """S and M_cc of the theorem on dead layers, where a run of cross-entropy ends, (k, k) each."""
    f, _ = objective(run.spec)
    x = torch.tensor(run.theta)[None]
    biases = torch.eye(x.shape[1], dtype=x.dtype)[-f.classes :]  # of the output
    M = linearise(f, x, run.spec.rho, lanczos.hessian).M(biases)[:, -f.classes :].T
    pi = torch.bincount(f.y) / len(f.y)
    return (torch.diag(pi) - torch.outer(pi, pi)).double().numpy(), M.numpy()


# ---- recorded networks ----------------------------------------------------------------------


@style.house()
def verdicts(groups: Mapping[str, pandas.DataFrame], y: str = "lr") -> Figure:
    """The verdict of every SAM run as a mark at (its ρ, its ``y``), a panel a title."""
    levels = max(runs[y].nunique() for runs in groups.values())
    fig, axes = primitives.panels(1, len(groups), 1.5 + 0.42 * levels)
    for ax, (title, every) in zip(axes[0], groups.items(), strict=True):
        runs = every[every.rho > 0]
        height = runs[y].rank(method="dense") - 1
        primitives.marks(ax, primitives.places(runs, "rho", 0.26), height, runs.verdict, size=5)
        primitives.ticks(ax.xaxis, runs.rho)
        primitives.ticks(ax.yaxis, runs[y])
        ax.set(title=title, xlabel=NAMES["rho"], ylim=(-0.6, levels - 0.4))
    axes[0, 0].set_ylabel(NAMES[y])
    primitives.legend(fig, VERDICTS)
    return fig


@style.house()
def switched_off(groups: Mapping[str, pandas.DataFrame]) -> Figure:
    """Fraction of pairs (hidden unit, image) that are off, at x (open) and x⁺ (filled)."""
    fig, axes = primitives.panels(1, len(groups), 2.9)
    for ax, (title, runs) in zip(axes[0], groups.items(), strict=True):
        at = primitives.places(runs, "rho", 0.2)
        for x, run in zip(at, runs.itertuples(), strict=True):
            marker, color = VERDICTS[run.verdict]
            ax.plot([x, x], [run.off, run.shifted_off], color=color, lw=0.8)
            ax.plot(x, run.off, marker, color="white", mec=color, ms=5.5)
        primitives.marks(ax, at, runs.shifted_off, runs.verdict, size=5.5)
        primitives.ticks(ax.xaxis, runs.rho)
        ax.set(title=title, xlabel=NAMES["rho"], ylim=(-0.04, 1.04))
    axes[0, 0].set_ylabel("fraction switched off")
    primitives.legend(fig, VERDICTS)
    return fig


def critical_radius(runs: pandas.DataFrame) -> float:
    """The ρ at which the progress of runs that differ in ρ alone first falls below 1/2.

    Interpolated linearly in log ρ between the two neighbouring radii. BadInput if the runs do not
    lie on both sides.
    """
    order = runs[runs.rho > 0].sort_values("rho")
    rho, p = order.rho.to_numpy(), order.progress.to_numpy()
    below = np.flatnonzero(p < 0.5)
    if not len(below) or below[0] == 0:
        raise BadInput(f"progress {p} does not fall through 1/2; record smaller and larger rho")
    k = below[0]
    a, b = np.log(rho[[k - 1, k]])
    return float(np.exp(a + (b - a) * (p[k - 1] - 0.5) / (p[k - 1] - p[k])))


@style.house()
def width(runs: pandas.DataFrame, critical: pandas.Series) -> Figure:
    """Left, progress against ρ for each width; right, the ``critical`` ρ of each (width, seed).

    The right panel also shows ‖θ‖ at the start and where gradient descent ends (the runs with
    ρ = 0, with the measure ``norms``), means over the seeds.
    """
    fig, (left, right) = style.row(2, 3.7)
    sam, gd = runs[runs.rho > 0].sort_values("rho"), runs[runs.rho == 0]
    for (units, mine), color in zip(sam.groupby("width"), COLORS, strict=False):
        for i, (_, line) in enumerate(mine.groupby("seed")):
            name = "" if i else f"{units:g} units"
            left.plot(line.rho, line.progress, ".-", color=color, lw=1, label=name)
    primitives.guide(left, y=0.5)
    left.set(xscale="log", xlabel=NAMES["rho"], ylabel="progress $p$")
    fig.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    spots = critical.index.get_level_values("width")
    right.plot(spots, critical, "o", color=style.SAM, ms=5, label="critical $\\rho$")
    for key, color, label in (
        ("start_norm", style.PALE, "$\\|\\theta\\|$ at the start"),
        ("norm", style.GD, "$\\|\\theta\\|$ where GD ends"),
    ):
        means = gd.groupby("width")[key].mean()
        right.plot(means.index, means, "s-", ms=4, lw=1, color=color, label=label)
    right.set(xscale="log", yscale="log", xlabel="width", ylabel="distance in parameter space")
    for axis, values in (
        (left.xaxis, [0.35, 0.5, 0.7, 1, 1.4, 2, 2.8]),
        (right.xaxis, sorted(set(spots))),
        (right.yaxis, [0.5, 1, 2, 5, 10]),
    ):
        axis.set_ticks(values, [f"{v:g}" for v in values])
        axis.minorticks_off()
    right.legend(loc="lower right")
    return fig


@style.house()
def decay(runs: pandas.DataFrame) -> Figure:
    """GradRatio (left) and training accuracy (right) against ρ, a colour for each weight decay."""
    fig, axes = style.row(2, 3.3)
    for ax, metric in zip(axes, ("grad_ratio", "train_accuracy"), strict=True):
        looks = zip(runs.groupby("weight_decay"), COLORS, "os^D", strict=False)
        for (level, mine), color, marker in looks:
            at, label = mine.rho.rank(method="dense") - 1, f"$\\lambda={level:g}$"
            ax.plot(at, mine[metric], marker, ms=5, mfc="none", color=color, label=label)
            middle = mine.groupby("rho")[metric].median()
            ax.plot(range(len(middle)), middle, color=color, lw=1)
        primitives.ticks(ax.xaxis, runs.rho)
        ax.set_xlabel(NAMES["rho"])
    primitives.guide(axes[0], y=0.1)
    axes[0].set(yscale="log", ylabel="GradRatio")
    axes[1].set(ylabel="training accuracy", ylim=(0, 1.02))
    primitives.legend(fig)
    return fig
