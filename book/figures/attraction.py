"""Figures of chapter 3: which hallucinated points attract. Arrays in, a Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import style
from figures.existence import Array, Grid, beside, circle, dots, plane, visible, wide


@style.house()
def spectra(eigenvalues: Mapping[str, NDArray[np.complex128]], etas: Sequence[float]) -> Figure:
    """Eigenvalues of A in the complex plane, and for each η the disc |1 − ηλ| < 1."""
    fig, ax = wide(3.6)
    for eta, line in zip(etas, ("-", "--", ":"), strict=False):
        centre = np.array([1 / eta, 0])
        circle(ax, centre, 1 / eta, color=style.PALE, ls=line, label=rf"$\eta={eta:.3g}$")
    ax.axvline(0, color="black", lw=0.8)
    colors = [style.SAM, style.GD, style.EXACT, *style.OTHERS]
    for (name, values), color, marker in zip(eigenvalues.items(), colors, "osD^vP*", strict=False):
        ax.plot(values.real, values.imag, marker, color=color, mec="white", ms=8, label=name)
    ax.set(xlabel=r"Re $\lambda$", ylabel=r"Im $\lambda$", aspect="equal")
    ax.set(xlim=(-2, 8), ylim=(-3.2, 3.2))
    fig.legend(loc="outside right upper")
    return fig


@style.house()
def orbits(
    panels: Sequence[tuple[str, Grid, Array, Sequence[tuple[str, Array, str]], Array, Array]],
) -> Figure:
    """Panels (title, axes, values of f, orbits, hallucinated points, images) side by side.

    An orbit is (label, points (n, 2), colour). Labels are shown once.
    """
    fig, axes = style.row(len(panels), 3.4)
    for ax, (title, coordinates, values, paths, points, images) in zip(axes, panels, strict=True):
        plane(ax, coordinates, values, 12)
        for label, path, color in paths:
            ax.plot(*path.T, "-", color=color, lw=1, label=label)
            ax.plot(*path[0], ".", color=color, ms=7)
        dots(ax, points, "X", style.SAM, "hallucinated")
        dots(ax, visible(images, coordinates), "*", style.GD, "image")
        ax.set(title=title)
    handles, labels = axes[0].get_legend_handles_labels()
    for ax in axes[1:]:
        more = ax.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    once = dict(zip(labels, handles, strict=True))
    fig.legend(once.values(), once.keys(), loc="outside lower center", ncols=4)
    return fig


@style.house()
def sweep(panels: Sequence[tuple[str, Array, Array, Array, Array]]) -> Figure:
    """Panels (title, ρ, reached (2, n), predicted (n,), ‖∇f‖ (n,)): above points, below gradients.

    ``reached`` are the last two iterates, so that 2-cycles show; NaN where the orbit diverged, and
    ``predicted`` is NaN where no hallucinated point attracts.
    """
    fig, axes = plt.subplots(
        2, len(panels), figsize=(style.WIDTH, 4.4), sharex=True, squeeze=False, height_ratios=(2, 1)
    )
    for (top, bottom), (title, rho, reached, predicted, norm) in zip(axes.T, panels, strict=True):
        top.plot(rho, predicted, color=style.PALE, lw=5, alpha=0.6, label="predicted")
        top.plot(
            rho, reached[0], ".", color=style.SAM, ms=4, label="reached: the last two iterates"
        )
        top.plot(rho, reached[1], ".", color=style.SAM, ms=4)
        bottom.plot(rho, norm, ".", color=style.SAM, ms=4)
        bottom.axhline(0, color=style.PALE, lw=0.8)
        top.set(title=title)
        bottom.set(xlabel=r"$\rho$", ylim=(-0.03, 0.5))
    axes[0, 0].set_ylabel("coordinate")
    axes[1, 0].set_ylabel(r"$\|\nabla f(x)\|$")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


@style.house()
def arcs(
    axes: Grid,
    values: Array,
    panels: Sequence[tuple[str, Array, Array, NDArray[np.bool_]]],
    critical: Array,
) -> Figure:
    """Panels (title, image, points (n, 2), attracting (n,)): hallucinated arcs of each image."""
    rows = -(-len(panels) // 3)
    fig, grid = plt.subplots(rows, 3, figsize=(style.WIDTH, 2.0 * rows), sharex=True, sharey=True)
    for ax, (title, image, points, attracting) in zip(grid.flat, panels, strict=True):
        plane(ax, axes, values, 6)
        ax.plot(*points[~attracting].T, ".", color=style.PALE, ms=2.5, label="hallucinated")
        ax.plot(*points[attracting].T, ".", color=style.SAM, ms=4, label="attracting")
        ax.plot(*critical.T, "o", color=style.GD, mec="white", mew=0.5, ms=4)
        dots(ax, image, "*", style.GD)
        ax.set_title(title, fontsize=9)
        ax.label_outer()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2, markerscale=3)
    return fig


@style.house()
def line_map(
    x: Array, image: Array, marks: Mapping[str, float], paths: Sequence[Array], limits: Array
) -> Figure:
    """The map x ↦ T(x) with staircases of orbits, over a strip of the limits of all starts.

    ``limits`` (n,) at the starts ``x`` is NaN where the orbit diverges.
    """
    fig, (top, strip) = plt.subplots(2, 1, figsize=(5.0, 5.2), sharex=True, height_ratios=(12, 1))
    jumps = np.abs(np.diff(image, append=np.nan)) > 0.5
    top.plot(x, np.where(jumps, np.nan, image), color="black", lw=1.4, label="$T(x)$")
    top.plot(x, x, color=style.PALE, lw=0.8, label=r"$\pm x$")
    top.plot(x, -x, color=style.PALE, lw=0.8)
    for path in paths:
        stairs = np.repeat(path, 2)
        top.plot(stairs[:-1], stairs[1:], color=style.SAM, lw=0.8)
    for i, (name, place) in enumerate(marks.items()):
        for sign in (1, -1):
            top.axvline(sign * place, color=style.GD, lw=0.7, ls=":")
        above = (place, 1 + 0.04 * (i % 2))  # in two rows: the last marks are close together
        top.annotate(name, above, xycoords=("data", "axes fraction"), ha="center", va="bottom")
    top.set(ylim=(x[0], x[-1]), ylabel="next point")
    top.legend(loc="lower left")
    kind = np.where(np.isnan(limits), 0, np.where(limits > 0, 2, 1))
    look = ListedColormap(["0.85", style.OTHERS[2], style.SAM])
    strip.imshow(kind[None], extent=(x[0], x[-1], 0, 1), aspect="auto", cmap=look, vmin=0, vmax=2,
                 interpolation="nearest")  # fmt: skip
    strip.set(yticks=[], xlabel="start $x_0$")
    return fig


@style.house()
def outcomes(
    rho: Array, x: Array, kinds: NDArray[np.int64], names: Sequence[str], bound: Array
) -> Figure:
    """A map of what becomes of the start x (rows) at the radius ρ (columns): indices into names.

    ``bound`` (n,) is drawn above and below zero, NaN where there is none.
    """
    fig, ax = wide(3.6)
    colors = [style.SAM, style.GD, style.OTHERS[1], "0.85"][: len(names)]
    extent = (rho[0], rho[-1], x[0], x[-1])
    ax.imshow(kinds, origin="lower", extent=extent, aspect="auto", cmap=ListedColormap(colors),
              vmin=-0.5, vmax=len(names) - 0.5, interpolation="nearest")  # fmt: skip
    for name, color in zip(names, colors, strict=True):
        ax.plot([], [], "s", color=color, ms=9, label=name)
    ax.plot(rho, bound, "--", color="black", label=r"$\pm x_c(\rho)$")
    ax.plot(rho, -bound, "--", color="black")
    ax.set(xlabel=r"$\rho$", ylabel="start $x_0$")
    beside(ax)
    return fig


@style.house()
def assumptions(needs: Mapping[str, Sequence[str]], columns: Sequence[str]) -> Figure:
    """Which statement needs what: a mark where the row's statement assumes the column."""
    fig, ax = plt.subplots(figsize=(style.WIDTH, 0.29 * len(needs) + 1.9))
    for i, assumed in enumerate(needs.values()):
        at = [columns.index(c) for c in assumed]
        ax.plot(at, [i] * len(at), "o", color=style.SAM, ms=8)
    ax.set(yticks=range(len(needs)), xticks=range(len(columns)), xlim=(-0.6, len(columns) - 0.4))
    ax.set(ylim=(len(needs) - 0.4, -0.6))
    ax.set_yticklabels(list(needs), fontsize=8)
    ax.xaxis.tick_top()
    ax.set_xticklabels(columns, rotation=55, ha="left", fontsize=8)
    ax.grid(True, color="0.9")
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig
