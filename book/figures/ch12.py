"""Chapter 12: curvature where runs end, slices of the loss, distances of copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import primitives, style
from figures.primitives import VERDICTS, Curves
from samlib.experiments.slices import Slice

Array = NDArray[np.float64]
_POINTS = {  # name -> (label, marker, colour)
    "minimizer": ("minimizer", "o", style.GD),
    "x": ("$x$", "X", style.SAM),
    "plus": ("$x^+$", "P", style.OTHERS[0]),
    "start": ("start", "s", style.OTHERS[1]),
}


def tanh_outputs(seed: int = 0) -> tuple[Array, Callable[[Array], Array]]:
    """Six starts (6, 35) and ∇f of 4-4-3 networks with tanh on the outputs, a row a network.

    f is half the mean squared error on 30 random inputs with random classes.
    """
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((30, 4))
    target = np.eye(3)[rng.integers(0, 3, 30)]

    def gradient(theta: Array) -> Array:
        w, b, v, c = np.split(theta, [16, 20, 32], axis=1)
        w, v = w.reshape(-1, 4, 4), v.reshape(-1, 3, 4)
        hidden = np.tanh(inputs @ w.mT + b[:, None])
        out = np.tanh(hidden @ v.mT + c[:, None])
        back = (out - target) * (1 - out**2) / 30
        below = (back @ v) * (1 - hidden**2)
        parts = below.mT @ inputs, below.sum(1), back.mT @ hidden, back.sum(1)
        return np.concatenate([q.reshape(len(theta), -1) for q in parts], axis=1)

    return rng.standard_normal((6, 35)) / 2, gradient


@style.house()
def inertia(groups: Mapping[str, Sequence[Curves]]) -> Figure:
    """How many eigenvalues lie beyond ±τ times the norm, against τ, at x and x⁺; a line a run."""
    fig, axes = primitives.panels(2, len(groups), 4.6, sharex=True, sharey=True)
    thresholds = 10.0 ** -np.arange(13)  # of the record
    for column, (title, runs) in zip(axes.T, groups.items(), strict=True):
        for ax, key in zip(column, ("hessian_counts", "shifted_hessian_counts"), strict=True):
            for i, (below, above) in enumerate(c[key] for c in runs):
                names = ("", "") if i else ("negative", "positive")
                ax.plot(thresholds, below, "-", color=style.SAM, lw=1, label=names[0])
                ax.plot(thresholds, above, "--", color=style.GD, lw=1, label=names[1])
            ax.set(xscale="log", yscale="symlog")
        column[0].set_title(title)
        column[1].set_xlabel("threshold / norm")
    axes[0, 0].set_ylabel("eigenvalues at $x$")
    axes[1, 0].set_ylabel("eigenvalues at $x^+$")
    axes[0, 0].invert_xaxis()
    axes[0, 0].legend(loc="lower right")
    return fig


@style.house()
def densities(panels: Mapping[str, Curves]) -> Figure:
    """Spectral densities of the Hessian at x and at x⁺, a panel a run."""
    fig, axes = style.row(len(panels), height=2.8, sharey=True)
    lines = (
        ("hessian_density", "at $x$", style.SAM, "-"),
        ("shifted_hessian_density", "at $x^+$", style.GD, "--"),
    )
    for ax, (title, found) in zip(axes, panels.items(), strict=True):
        for key, label, color, dash in lines:
            value, density = found[key]
            ax.plot(value, np.maximum(density, 1e-5), color=color, ls=dash, lw=1.3, label=label)
        ax.set(yscale="log", xlabel="eigenvalue", title=title, ylim=(1e-4, None))
        ax.legend()
    axes[0].set_ylabel("density")
    return fig


@style.house()
def excess(groups: Mapping[str, pandas.DataFrame]) -> Figure:
    """Spectral radius of SAM's Jacobian minus 1 against ρ, a mark a run, a panel a title.

    The axis is linear within ±1e-5 and logarithmic beyond.
    """
    fig, axes = primitives.panels(1, len(groups), 3.2)
    for ax, (title, runs) in zip(axes[0], groups.items(), strict=True):
        at = primitives.places(runs, "rho", 0.1)
        primitives.marks(ax, at, runs.map_excess, runs.verdict, size=6)
        primitives.guide(ax, y=0, ls="--")
        ax.set_yscale("symlog", linthresh=1e-5)
        primitives.ticks(ax.xaxis, runs.rho)
        ax.set(title=title, xlabel="$ρ$")
    axes[0, 0].set_ylabel("spectral radius − 1")
    primitives.legend(fig, VERDICTS)
    return fig


@style.house()
def slices(panels: Mapping[str, tuple[Curves, float]]) -> Figure:
    """Contours of the loss on planes, with points marked; a panel a run.

    With the curves of a run comes the loss up to which its panel is coloured.
    """
    fig, axes = style.row(len(panels), height=3.3)
    for ax, (title, (found, top)) in zip(axes, panels.items(), strict=True):
        picture = Slice.from_arrays(found, "slice")
        values = np.minimum(picture.values, top)
        levels = np.linspace(values.min(), top, 16)
        ax.contourf(*picture.axes, values, levels, cmap="Greys", alpha=0.55)
        ax.contour(*picture.axes, values, levels, colors=style.PALE, linewidths=0.5)
        for name, place in picture.marks.items():
            label, marker, color = _POINTS[name]
            ax.plot(*place, marker, color=color, ms=8, mec="white", mew=0.8, ls="", label=label)
        ax.set(title=title, aspect="equal")
    handles = axes[0].get_legend_handles_labels()[0]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return fig


@style.house()
def copies(settings: Mapping[str, pandas.DataFrame]) -> Figure:
    """Distances between gradient descent's minimizer and its symmetric copies, a column a setting.

    Left of each column the sign flips, right of it the exchanges of two units, a mark each, all
    seeds together. The bar is SAM's radius in that setting.
    """
    fig, (ax,) = style.row(1, height=3.4)
    draw = np.random.default_rng(0)
    for i, runs in enumerate(settings.values()):
        names: dict[str, Any] = {} if i else {"flips": "flip", "swaps": "swap", "bar": "$ρ$"}
        for key, shift, color in (("flips", -0.2, style.GD), ("swaps", 0.2, style.EXACT)):
            far = np.concatenate([found[key] for found in runs.curves])
            spread = i + shift + draw.uniform(-0.1, 0.1, far.size)
            ax.plot(spread, far, ".", color=color, ms=4, alpha=0.6, label=names.get(key))
        bar = [runs.rho.iloc[0]] * 2
        ax.plot([i - 0.4, i + 0.4], bar, color=style.SAM, label=names.get("bar"))
    ax.set_xticks(range(len(settings)), list(settings))
    ax.set(ylabel="distance in parameter space", ylim=(0, None))
    ax.legend()
    return fig
