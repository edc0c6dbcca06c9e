"""Figures of chapter 3: which hallucinated points attract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from contourpy import contour_generator
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from figures import style
from figures.primitives import Array, beside, circle, contours, dots, lattice, legend, wide
from figures.primitives import pairs as pairs  # of both chapters
from samlib import Landscape, basins, sam_map, trajectory
from samlib.dynamics.trajectories import DIVERGED
from samlib.points.linearisation import linearise
from samlib.points.search import CriticalPoint

RULES = {"SAM": style.SAM, "exact surrogate descent": style.EXACT}


@style.house()
def spectra(eigenvalues: Mapping[str, NDArray[np.complex128]], etas: Sequence[float]) -> Figure:
    """Eigenvalues of A in the complex plane, and for each η the disc |1 − ηλ| < 1."""
    fig, ax = wide(3.6)
    for eta, line in zip(etas, ("-", "--", ":"), strict=False):
        circle(ax, (1 / eta, 0), 1 / eta, color=style.PALE, ls=line, label=rf"$\eta={eta:.3g}$")
    ax.axvline(0, color="black", lw=0.8)
    colors = [style.SAM, style.GD, style.EXACT, *style.OTHERS]
    for (name, values), color, marker in zip(eigenvalues.items(), colors, "osD^vP*", strict=False):
        ax.plot(values.real, values.imag, marker, color=color, mec="white", ms=8, label=name)
    ax.set(xlabel=r"Re $\lambda$", ylabel=r"Im $\lambda$", aspect="equal")
    ax.set(xlim=(-2, 8), ylim=(-3.2, 3.2))
    fig.legend(loc="outside right upper")
    return fig


class Portrait(NamedTuple):
    """Orbits (n, 2) of one rule on a landscape, hallucinated points and their images."""

    title: str
    f: Landscape
    paths: Sequence[Array]
    points: ArrayLike
    images: ArrayLike
    box: Any = None  # that of the landscape, if none is given
    rule: str = "SAM"


@style.house()
def orbits(portraits: Sequence[Portrait]) -> Figure:
    """Portraits side by side. Labels are shown once."""
    fig, axes = style.row(len(portraits), 3.4)
    for ax, (title, f, paths, points, images, box, rule) in zip(axes, portraits, strict=True):
        window = f.box if box is None else box
        contours(ax, f, 161, 12, window)
        for path in paths:
            ax.plot(*path.T, "-", color=RULES[rule], lw=1, label=rule)
            ax.plot(*path[0], ".", color=RULES[rule], ms=7)
        dots(ax, points, "X", style.SAM, "hallucinated")
        dots(ax, images, "*", style.GD, "image", window)
        ax.set(title=title)
    legend(fig, ncols=4)
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


def arc(f: Landscape, image: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Hallucinated points (n, 2) of all radii with one image, and which of them attract.

    On a grid over the box, without those with ρ ≤ 0.05 or ‖∇f‖ ≤ 0.3.
    """
    axes = lattice(f.box, 401)
    mesh = np.stack(np.meshgrid(*axes), -1)
    gradient, away = f.grad(mesh), mesh - image
    cross = gradient[..., 0] * away[..., 1] - gradient[..., 1] * away[..., 0]
    lines: Any = contour_generator(*axes, cross).lines(0.0)
    x: Array = np.vstack(lines)
    g, away = f.grad(x), x - image
    rho, norm = np.linalg.norm(away, axis=1), np.linalg.norm(g, axis=1)
    keep = ((g * away).sum(1) < 0) & (norm > 0.3) & (rho > 0.05)
    A = [linearise(f, *at).A for at in zip(x[keep], rho[keep], strict=True)]
    return x[keep], np.linalg.eigvals(A).real.min(1) > 0


@style.house()
def arcs(
    f: Landscape,
    critical: Sequence[CriticalPoint],
    found: Sequence[tuple[Array, NDArray[np.bool_]]],
) -> Figure:
    """The :func:`arc` of each critical point as image, a panel each."""
    rows = -(-len(critical) // 3)
    fig, grid = plt.subplots(rows, 3, figsize=(style.WIDTH, 2.0 * rows), sharex=True, sharey=True)
    for ax, image, (points, attracting) in zip(grid.flat, critical, found, strict=True):
        contours(ax, f, 161, 6)
        ax.plot(*points[~attracting].T, ".", color=style.PALE, ms=2.5, label="hallucinated")
        ax.plot(*points[attracting].T, ".", color=style.SAM, ms=4, label="attracting")
        places = np.transpose([c.x for c in critical])
        ax.plot(*places, "o", color=style.GD, mec="white", mew=0.5, ms=4)
        dots(ax, image.x, "*", style.GD)
        ax.set_title(f"{image.kind} ({image.x[0]:.2f}, {image.x[1]:.2f})", fontsize=9)
        ax.label_outer()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=2, markerscale=3)
    return fig


@style.house()
def line_map(
    f: Landscape,
    rho: float,
    eta: float,
    starts: Array,
    marks: Mapping[str, float] | None = None,
    steps: int = 12,
) -> Figure:
    """The map x ↦ T(x) with staircases of three orbits, over a strip of the limits of all starts.

    ``starts`` (n,) lie on a line; on the strip 1 is a positive limit, and grey divergence.
    """
    fig, (top, strip) = plt.subplots(2, 1, figsize=(5.0, 5.2), sharex=True, height_ratios=(12, 1))
    x, image = starts, sam_map(f, rho, eta)(starts[:, None])[:, 0]
    jumps = np.abs(np.diff(image, append=np.nan)) > 0.5
    top.plot(x, np.where(jumps, np.nan, image), color="black", lw=1.4, label="$T(x)$")
    top.plot(x, x, color=style.PALE, lw=0.8, label=r"$\pm x$")
    top.plot(x, -x, color=style.PALE, lw=0.8)
    for start in (0.9, 1.7, 2.3):
        stairs = np.repeat(trajectory(f, [start], rho, eta, steps)[:, 0], 2)
        top.plot(stairs[:-1], stairs[1:], color=style.SAM, lw=0.8)
    for i, (name, place) in enumerate((marks or {}).items()):
        for sign in (1, -1):
            top.axvline(sign * place, color=style.GD, lw=0.7, ls=":")
        above = (place, 1 + 0.04 * (i % 2))  # in two rows: the last marks are close together
        top.annotate(name, above, xycoords=("data", "axes fraction"), ha="center", va="bottom")
    top.set(ylim=(x[0], x[-1]), ylabel="next point")
    top.legend(loc="lower left")
    found = basins(f, starts[:, None], rho, eta, 600)
    kind = np.where(found.labels == DIVERGED, 0, np.where(found.ends[:, 0] > 0, 2, 1))
    look = ListedColormap(["0.85", style.OTHERS[2], style.SAM])
    strip.imshow(kind[None], extent=(x[0], x[-1], 0, 1), aspect="auto", cmap=look, vmin=0, vmax=2,
                 interpolation="nearest")  # fmt: skip
    strip.set(yticks=[], xlabel="start $x_0$")
    return fig


FATES = "hallucinated", "about a minimizer", "about the maximizer", "diverges"


def fates(f: Landscape, rho: Array, starts: Array, eta: float) -> NDArray[np.int64]:
    """What SAM does on the double well after 500 steps, as an index into FATES: (starts, ρ)."""
    x, radius = (side[..., None] for side in np.meshgrid(starts, rho, indexing="ij"))
    step = sam_map(f, radius, eta)
    for _ in range(500):
        x = step(x)
    x, after, norm = (side[..., 0] for side in (x, step(x), np.abs(f.grad(x))))
    still = (np.abs(after - x) < 1e-7) & (norm > 1e-3)
    lost, middle = ~(np.abs(x) < 10), np.abs((x + after) / 2) < 0.3
    return np.select([lost, still, middle], [3, 0, 2], 1)


@style.house()
def outcomes(rho: Array, x: Array, kinds: NDArray[np.int64], bound: Array) -> Figure:
    """A map of the :func:`fates` of the starts x (rows) at the radii ρ (columns).

    ``bound`` (n,) is drawn above and below zero, NaN where there is none.
    """
    fig, ax = wide(3.6)
    colors = [style.SAM, style.GD, style.OTHERS[1], "0.85"]
    extent = (rho[0], rho[-1], x[0], x[-1])
    ax.imshow(kinds, origin="lower", extent=extent, aspect="auto", cmap=ListedColormap(colors),
              vmin=-0.5, vmax=3.5, interpolation="nearest")  # fmt: skip
    for name, color in zip(FATES, colors, strict=True):
        ax.plot([], [], "s", color=color, ms=9, label=name)
    ax.plot(rho, bound, "--", color="black", label=r"$\pm x_c(\rho)$")
    ax.plot(rho, -bound, "--", color="black")
    ax.set(xlabel=r"$\rho$", ylabel="start $x_0$")
    beside(ax)
    return fig


ASSUMPTIONS = {
    "C1": r"$f\in C^1$",
    "C2": r"$f\in C^2$",
    "analytic": "real-analytic",
    "lipschitz": "Lipschitz Hessian",
    "tops": "maximizers",
    "level": "no others above $m$",
    "pair": r"$H_c$ regular, $q\neq0$",
    "positive": r"$H_*$ positive definite",
    "negative": r"$H_*$: a negative eigenvalue",
    "regular": r"$\det H_*\neq0$",
    "det": r"$\det H_*>0$",
    "S": r"$\det S\neq0$",
    "top": r"$S$ negative definite, $d$ even",
    "right": r"Re$\,\lambda(A)>0$",
    "interval": r"$\rho$ in an interval",
    "near": r"$\rho$ near $D$",
    "small": r"$\rho$ small",
    "step": r"$\eta$ small",
}


@style.house()
def assumptions(needs: Mapping[str, str]) -> Figure:
    """Which statement needs what: a mark where the row's statement names the assumption."""
    columns, words = list(ASSUMPTIONS), list(ASSUMPTIONS.values())
    fig, ax = plt.subplots(figsize=(style.WIDTH, 0.29 * len(needs) + 1.9))
    for i, assumed in enumerate(needs.values()):
        at = [columns.index(c) for c in assumed.split()]
        ax.plot(at, [i] * len(at), "o", color=style.SAM, ms=8)
    ax.set(yticks=range(len(needs)), xticks=range(len(columns)), xlim=(-0.6, len(columns) - 0.4))
    ax.set(ylim=(len(needs) - 0.4, -0.6))
    ax.set_yticklabels(list(needs), fontsize=8)
    ax.xaxis.tick_top()
    ax.set_xticklabels(words, rotation=55, ha="left", fontsize=8)
    ax.grid(True, color="0.9")
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig
