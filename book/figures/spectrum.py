"""Figures of curvature and landscape: spectra, SAM's Jacobian, slices, distances of copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import style
from figures.training import MARKS
from samlib.experiments.records import Record

Curves = Mapping[str, NDArray[np.float64]]


@style.house()
def inertia(groups: Mapping[str, Sequence[Curves]], thresholds: NDArray[np.float64]) -> Figure:
    """How many eigenvalues lie beyond ±τ times the norm, against τ, at x and x⁺; a line a run.

    ``groups`` maps a title, a column, to curves with ``hessian_counts`` and
    ``shifted_hessian_counts`` (2, n), n the number of ``thresholds``.
    """
    import matplotlib.pyplot as plt

    size = (style.WIDTH, 4.6)
    fig, axes = plt.subplots(2, len(groups), figsize=size, sharex=True, sharey=True, squeeze=False)
    for column, (title, runs) in enumerate(groups.items()):
        for ax, key, place in zip(
            axes[:, column],
            ("hessian_counts", "shifted_hessian_counts"),
            ("$x$", "$x^+$"),
            strict=True,
        ):
            for i, c in enumerate(runs):
                below, above = c[key]
                for share, color, dash, label in (
                    (below, style.SAM, "-", "negative"),
                    (above, style.GD, "--", "positive"),
                ):
                    first = label if i == 0 else None
                    ax.plot(thresholds, share, dash, color=color, lw=1, label=first)
            ax.set(xscale="log", yscale="symlog")
            if column == 0:
                ax.set_ylabel(f"eigenvalues at {place}")
        axes[0][column].set_title(title)
        axes[1][column].set_xlabel("threshold / norm")
    axes[0][0].invert_xaxis()
    axes[0][0].legend(loc="lower right")
    return fig


@style.house()
def densities(panels: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> Figure:
    """Spectral densities, a panel a run: each curve is (2, n), λ and density."""
    fig, axes = style.row(len(panels), height=2.8, sharey=True)
    lines = ((style.SAM, "-"), (style.GD, "--"))
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        for (label, (grid, density)), (color, dash) in zip(curves.items(), lines, strict=False):
            ax.plot(grid, np.maximum(density, 1e-5), color=color, ls=dash, lw=1.3, label=label)
        ax.set(yscale="log", xlabel="eigenvalue", title=title, ylim=(1e-4, None))
        ax.legend()
    axes[0].set_ylabel("density")
    return fig


@style.house()
def excess(panels: Mapping[str, Sequence[Record]]) -> Figure:
    """Spectral radius of SAM's Jacobian minus 1 against ρ, a mark a run by verdict, panel a title.

    The axis is linear within ±1e-5 and logarithmic beyond.
    """
    fig, axes = style.row(len(panels), height=3.2, sharey=True)
    seen = {r["verdict"] for runs in panels.values() for r in runs}
    for ax, (title, runs) in zip(axes, panels.items(), strict=True):
        radii = sorted({r["spec"]["rho"] for r in runs})
        for name, (marker, color) in ((n, m) for n, m in MARKS.items() if n in seen):
            chosen = [r for r in runs if r["verdict"] == name]
            at = [radii.index(r["spec"]["rho"]) + (r["spec"]["seed"] - 2) * 0.1 for r in chosen]
            y = [r["metrics"]["map_excess"] for r in chosen]
            ax.plot(at, y, marker, color=color, ms=6, mec="white", mew=0.5, label=name)
        ax.axhline(0, color=style.PALE, lw=1, ls="--")
        ax.set_yscale("symlog", linthresh=1e-5)
        ax.set_xticks(range(len(radii)), [f"{r:g}" for r in radii])
        ax.set(title=title, xlabel="$ρ$")
    axes[0].set_ylabel("spectral radius − 1")
    handles = axes[0].get_legend_handles_labels()[0]
    fig.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return fig


_POINTS = {  # label -> (marker, colour)
    "start": ("s", style.OTHERS[1]),
    "$x$": ("X", style.SAM),
    "$x^+$": ("P", style.OTHERS[0]),
    "minimizer": ("o", style.GD),
}


@style.house()
def slices(
    panels: Mapping[str, Curves], name: str, order: Sequence[str], tops: Sequence[float]
) -> Figure:
    """Contours of the loss on planes, with points marked; a panel a run.

    ``name`` is ``slice`` or ``plane`` (see :mod:`samlib.experiments.curvature`); ``order`` labels
    the rows of its marks; ``tops`` is the loss up to which each panel is coloured. Maxima and
    minima of a ``plane`` that were counted are shown as small triangles.
    """
    fig, axes = style.row(len(panels), height=3.3)
    for ax, top, (title, c) in zip(axes, tops, panels.items(), strict=True):
        x, y = c[f"{name}_axes"]
        values = np.minimum(c[name], top)
        levels = np.linspace(values.min(), top, 16)
        ax.contourf(x, y, values, levels, cmap="Greys", alpha=0.55)
        ax.contour(x, y, values, levels, colors=style.PALE, linewidths=0.5)
        for label, place in zip(order, c[f"{name}_marks"], strict=True):
            marker, color = _POINTS[label]
            ax.plot(*place, marker, color=color, ms=8, mec="white", mew=0.8, ls="", label=label)
        for key, marker in ((f"{name}_minima", "v"), (f"{name}_maxima", "^")):
            if key in c and len(c[key]):
                ax.plot(*c[key][:, :2].T, marker, color="black", ms=4, ls="")
        ax.set(title=title, aspect="equal")
    handles = axes[0].get_legend_handles_labels()[0]
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return fig


@style.house()
def copies(settings: Mapping[str, Sequence[Curves]], radii: Mapping[str, float]) -> Figure:
    """Distances between gradient descent's minimizer and its symmetric copies, a column a setting.

    Left of each column the sign flips, right of it the exchanges of two units, a mark each, all
    seeds together. The bar is the radius at which SAM was seen to hallucinate in that setting.
    """
    fig, (ax,) = style.row(1, height=3.4)
    draw = np.random.default_rng(0)
    for i, (title, runs) in enumerate(settings.items()):
        for key, shift, color in (("flips", -0.2, style.GD), ("swaps", 0.2, style.EXACT)):
            far = np.concatenate([c[key] for c in runs])
            spread = i + shift + draw.uniform(-0.1, 0.1, far.size)
            first = key.rstrip("s") if i == 0 else None
            ax.plot(spread, far, ".", color=color, ms=4, alpha=0.6, label=first)
        bar = [radii[title]] * 2
        ax.plot([i - 0.4, i + 0.4], bar, color=style.SAM, label="$ρ$" if i == 0 else None)
    ax.set_xticks(range(len(settings)), list(settings))
    ax.set(ylabel="distance in parameter space", ylim=(0, None))
    ax.legend()
    return fig
