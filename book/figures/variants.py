"""Figures of chapters 8 to 10: noise, variants of SAM, and ReLU. Arrays in, a Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import style
from figures.existence import Array, Grid, beside, dots, plane, wide
from figures.noise import MARKS, outcome
from samlib.experiments.records import Record

COLORS = (style.SAM, style.GD, style.EXACT, *style.OTHERS)


@style.house()
def ellipsoid(
    axes: Grid, values: Array, sets: Sequence[tuple[str, Array, Array, Array, str, float]]
) -> Figure:
    """Contours with closed curves: (name, curve (n, 2), point, image, colour, f at the point).

    Dashed, the level line of f through each hallucinated point, which touches the curve there.
    """
    fig, ax = wide(3.6)
    plane(ax, axes, values, 14)
    for bend, (name, curve, point, image, color, level) in zip((-0.2, 0.2), sets, strict=True):
        ax.plot(*curve.T, color=color, lw=1.2, label=name)
        ax.contour(*axes, values, [level], colors=color, linewidths=1.2, linestyles="--")
        arrow = {"arrowstyle": "->", "color": color, "connectionstyle": f"arc3,rad={bend}"}
        ax.annotate("", tuple(image), tuple(point), arrowprops=arrow | {"shrinkA": 6, "shrinkB": 8})
        dots(ax, point, "X", color)
        dots(ax, image, "*", style.GD)
    ax.plot([], [], "--", color="black", lw=1.2, label="level line through the point")
    beside(ax)
    return fig


@style.house()
def branches(curves: Sequence[tuple[str, Array, Array, bool]], marks: Sequence[float]) -> Figure:
    """Points against ρ, entries (name, ρ, x, attracting): full lines attract, dashed repel."""
    fig, ax = wide(3.0)
    names = list(dict.fromkeys(c[0] for c in curves))
    for i, (name, rho, x, attracting) in enumerate(curves):
        label = None if name in [c[0] for c in curves[:i]] else name
        dash = "-" if attracting else "--"
        ax.plot(rho, x, dash, color=COLORS[names.index(name)], label=label)
    ax.plot([], [], "-", color="black", lw=1, label="attracting")
    ax.plot([], [], "--", color="black", lw=1, label="repelling")
    for mark in marks:
        ax.axvline(mark, color=style.PALE, lw=0.9, ls=":")
    ax.set(xlabel=r"$\rho$", ylabel="$x_h$", ylim=(-1.1, 1.1))
    beside(ax)
    return fig


@style.house()
def hovering(orbits: Array, cycle: Array, measured: Mapping[str, tuple[Array, Array]],
             formula: tuple[Array, Array]) -> Figure:  # fmt: skip
    """Left orbits (steps, m, 2) about x_h = 0; right distances against η, by α."""
    fig, (left, right) = style.row(2, 3.1)
    for k in range(orbits.shape[1]):
        left.plot(*orbits[:, k].T, ".-", color=style.PALE, lw=0.5, ms=3)
    dots(left, orbits[-2:].reshape(-1, 2), "o", style.SAM, "last two iterates")
    left.plot(*cycle.T, "k+", ms=14, zorder=6, label="2-cycle of the theorem")
    dots(left, np.zeros(2), "X", style.EXACT, "$x_h$")
    left.set(xlabel="$x-x_h$", ylabel="$y$", title="GSAM near a hallucinated point")
    left.legend(loc="upper left", fontsize=8)
    right.plot(*formula, color="black", lw=1, label="theorem")
    for (name, (eta, distance)), marker in zip(measured.items(), "osD^v", strict=False):
        right.plot(eta, distance, marker, ms=5, label=name)
    right.set(xlabel=r"$\eta$", title=r"distance from $x_h$, over $\eta\alpha\|g\|$")
    right.legend()
    return fig


@style.house()
def ellipses(betas: Sequence[float], values: Mapping[str, NDArray[np.complex128]],
             limits: tuple[Array, Array, Array, Array]) -> Figure:  # fmt: skip
    """Left the stability ellipses of ηλ, with eigenvalues; right η_max against β.

    ``limits`` is (β, the formula, β measured, the measured step).
    """
    fig, (left, right) = style.row(2, 3.1, width_ratios=(1.5, 1))
    angle = np.linspace(0, 2 * np.pi, 400)
    for beta, color in zip(betas, COLORS, strict=False):
        across, up = (1 + beta) * (1 + np.cos(angle)), (1 - beta) * np.sin(angle)
        left.plot(across, up, color=color, label=rf"$\beta={beta:g}$")
    for (name, points), marker in zip(values.items(), "o^sD", strict=False):
        left.plot(points.real, points.imag, marker, color="black", ms=5, label=name)
    left.set(xlabel=r"Re $\eta\lambda$", ylabel=r"Im $\eta\lambda$", aspect="equal")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=3)
    betas_shown, formula, at, measured = limits
    right.plot(betas_shown, formula, color="black", lw=1, label="formula")
    right.plot(at, measured, "o", color=style.SAM, ms=5, label="measured")
    right.set(xlabel=r"$\beta$", ylabel=r"$\eta_{\max}$", yscale="log")
    right.legend()
    return fig


@style.house()
def decay(panels: Mapping[str, tuple[Array, Array]], shares: Mapping[str, float]) -> Figure:
    """Orbits (steps, m) with the envelope ±ρ_k, a panel a schedule; last, shares ending at 0."""
    fig, axes = style.row(len(panels) + 1, 3.0)
    for ax, (title, (rho, orbits)) in zip(axes, panels.items(), strict=False):
        k = np.arange(1, len(rho) + 1)
        ax.fill_between(k, -rho, rho, color="0.9", lw=0)
        ax.plot(k, orbits, color=style.SAM, lw=0.8)
        for true in (-1, 1):
            ax.axhline(true, color=style.GD, lw=1, ls="--")
        ax.set(title=title, xlabel="step $k$", xscale="log", ylim=(-1.6, 1.6))
    axes[0].set_ylabel("$x_k$")
    for ax in axes[1:-1]:
        ax.set_yticklabels([])
    axes[-1].barh(list(shares), list(shares.values()), color=style.SAM)
    axes[-1].set(xlabel="share of starts", title="ending at the maximizer", xlim=(0, 1))
    axes[-1].invert_yaxis()
    return fig


def fits(ax: Axes, data: Array, curves: Sequence[tuple[str, Array, Array, str]]) -> None:
    """Data (n, 2) and the networks' outputs, entries (name, t, output, colour)."""
    for name, t, output, color in curves:
        ax.plot(t, output, color=color, label=name)
    ax.plot(*data.T, "ko", ms=6, label="data", zorder=4)
    ax.set(xlabel="input", ylabel="output")
    ax.legend()


@style.house()
def neuron(axes: Grid, values: Array, patterns: NDArray[np.int64], orbits: Array, pair: Array,
           data: Array, curves: Sequence[tuple[str, Array, Array, str]]) -> Figure:  # fmt: skip
    """Left the plane (w, b) with its activation regions and SAM's orbits; right the two fits.

    ``patterns`` numbers the regions on the grid, ``orbits`` is (steps, m, 2), ``pair`` x_h and x_*.
    """
    fig, (left, right) = style.row(2, 3.3)
    extent = (axes[0][0], axes[0][-1], axes[1][0], axes[1][-1])
    shades = ListedColormap(np.linspace(0.98, 0.80, int(patterns.max()) + 1).astype(str).tolist())
    left.imshow(patterns, origin="lower", extent=extent, cmap=shades, aspect="auto")
    levels = np.unique(np.quantile(values, np.linspace(0.01, 0.95, 14)))
    left.contour(*axes, values, levels=levels, colors="0.6", linewidths=0.6)
    for k in range(orbits.shape[1]):
        left.plot(*orbits[:, k].T, "-", color=style.SAM, lw=0.5)
    dots(left, pair[0], "X", style.SAM, "$x_h$")
    dots(left, pair[1], "*", style.GD, "$x_*$")
    left.set(xlabel="$w$", ylabel="$b$")
    left.legend(loc="lower left", frameon=True)
    fits(right, data, curves)
    return fig


@style.house()
def to_a_curve(curve: Array, images: Array, orbits: Array, distance: Array, data: Array,
               fitted: Sequence[tuple[str, Array, Array, str]]) -> Figure:  # fmt: skip
    """The curve (n, 3) of hallucinated points and its images in (w, b), distances, the fits."""
    fig, (left, middle, right) = style.row(3, 3.0)
    for start, end in list(zip(curve, images, strict=True))[:: len(curve) // 6]:
        left.plot(*np.stack([start, end])[:, :2].T, ":", color=style.PALE, lw=1)
    left.plot(*curve[:, :2].T, color=style.SAM, lw=3, label="hallucinated")
    left.plot(*images[:, :2].T, color=style.GD, lw=3, label="images")
    left.plot(*np.moveaxis(orbits[..., :2], -1, 0), "-", color="black", lw=0.7)
    left.set(xlabel="$w$", ylabel="$b$")
    left.legend(loc="lower left", fontsize=8)
    middle.semilogy(distance, color="black", lw=0.8)
    middle.set(xlabel="step", title="distance to the limit")
    fits(right, data, fitted)
    return fig


@style.house()
def frozen(axes: Grid, kinds: NDArray[np.int64], names: Sequence[str], marks: Array) -> Figure:
    """The plane (w, b) coloured by what SAM does there: ``kinds`` are indices into ``names``."""
    fig, ax = wide(3.8)
    colors = ["0.95", style.SAM, "#9CCAE8", style.GD][: len(names)]
    extent = (axes[0][0], axes[0][-1], axes[1][0], axes[1][-1])
    ax.imshow(kinds, origin="lower", extent=extent, cmap=ListedColormap(colors), vmin=-0.5,
              vmax=len(names) - 0.5, aspect="auto", interpolation="nearest")  # fmt: skip
    for name, color in zip(names, colors, strict=True):
        ax.plot([], [], "s", color=color, mec="0.6", ms=9, label=name)
    dots(ax, marks, "X", "black", "isolated point" if len(marks) else None)
    ax.set(xlabel="$w$", ylabel="$b$")
    beside(ax)
    return fig


@style.house()
def by_length(runs: Sequence[Record], rules: Mapping[str, str]) -> Figure:
    """Progress (top) and GradRatio (bottom) against ‖x⁺ − x‖ in the first step, by rule.

    ``rules`` maps a rule to its title, a column each; the runs were measured with ``perturbation``.
    Dotted: the thresholds of the verdicts.
    """
    size = (style.WIDTH, 4.2)
    fig, axes = plt.subplots(2, len(rules), figsize=size, sharex=True, sharey="row")
    for column, (rule, title) in enumerate(rules.items()):
        for r in (r for r in runs if r["spec"]["rule"] == rule):
            marker, color = MARKS[outcome(r)]
            for ax, metric in zip(axes[:, column], ("progress", "grad_ratio"), strict=True):
                at = r["metrics"]["look_start"], r["metrics"][metric]
                ax.plot(*at, marker, color=color, ms=5, mec="white", mew=0.4)
        axes[0, column].axhline(0.2, color=style.PALE, lw=1, ls=":")
        axes[1, column].axhline(0.1, color=style.PALE, lw=1, ls=":")
        axes[0, column].set(title=title, xscale="log")
        axes[1, column].set(yscale="log")
    axes[0, 0].set_ylabel("progress $p$")
    axes[1, 0].set_ylabel("GradRatio")
    fig.supxlabel(r"length $\|x^+-x\|$ of the first ascent step", fontsize=10)
    seen = {outcome(r) for r in runs}
    for name in (n for n in MARKS if n in seen):
        marker, color = MARKS[name]
        axes[0, 0].plot([], [], marker, color=color, ms=6, label=name)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return fig
