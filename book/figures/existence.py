"""Figures of chapter 2: where hallucinated points are. Arrays in, a Figure out.

Points are arrays (n, 2), ``axes`` is the pair of coordinate vectors of a grid, and ``values`` are
those of f there in the order of ``imshow``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import style

Array = NDArray[np.float64]
Grid = tuple[Array, Array]

ABOVE, BELOW = "#9CCAE8", "#F3C08B"  # pale forms of the two colours, for cells and bars


def wide(height: float) -> tuple[Figure, Axes]:
    """One pair of axes with room for a legend on the right."""
    return plt.subplots(figsize=(style.WIDTH, height))


def beside(ax: Axes) -> None:
    """Put the legend to the right of the axes."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))


def plane(ax: Axes, axes: Grid, values: Array, levels: int = 16) -> None:
    """Grey contours of f, equally spaced in the rank of its values so that flat parts show."""
    chosen = np.unique(np.quantile(values, np.linspace(0.01, 0.99, levels)))
    ax.contour(*axes, values, levels=chosen, colors="0.8", linewidths=0.6, linestyles="solid")
    ax.set(xlabel="$x$", ylabel="$y$", aspect="equal")
    ax.set(xlim=axes[0][[0, -1]], ylim=axes[1][[0, -1]])


def circle(ax: Axes, centre: Array, radius: float, **look: Any) -> None:
    """A circle in data coordinates."""
    angle = np.linspace(0, 2 * np.pi, 361)
    x, y = centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)
    shown: dict[str, Any] = {"color": style.GD, "lw": 1.2} | look
    ax.plot(x, y, **shown)


def dots(ax: Axes, points: Array, marker: str, color: str, label: str | None = None) -> None:
    """Markers with a white rim above the curves; no points, no entry in the legend."""
    points = np.reshape(points, (-1, 2))
    size = 13 if marker == "*" else 8
    if len(points):
        ax.plot(
            *points.T, marker, color=color, mec="white", mew=0.8, ms=size, zorder=5, label=label
        )


def visible(points: Array, axes: Grid) -> Array:
    """Those of ``points`` (n, 2) that lie in the window, so that a legend names what is there."""
    points = np.reshape(points, (-1, 2))
    low, high = np.transpose([side[[0, -1]] for side in axes])
    shown: Array = points[((low <= points) & (points <= high)).all(1)]
    return shown


@style.house()
def sphere(
    axes: Grid,
    values: Array,
    image: Array,
    rho: float,
    points: Array,
    along: tuple[Array, Array, Array],
) -> Figure:
    """Left the circle S_ρ(x_*) on the contours; right f along it, bold where ∇f points inward.

    ``along`` is (angle, f, inward derivative) on the circle.
    """
    fig, (left, right) = style.row(2, 3.3)
    plane(left, axes, values)
    circle(left, image, rho, label=r"$S_\rho(x_*)$")
    dots(left, image, "*", style.GD, "image $x_*$")
    dots(left, points, "X", style.SAM, "hallucinated")
    angle, f, inward = along
    right.plot(angle, f, color=style.PALE, lw=1, label="gradient outward")
    right.plot(angle, np.where(inward > 0, f, np.nan), color=style.GD, lw=3, label="inward")
    where = np.mod(np.arctan2(points[:, 1] - image[1], points[:, 0] - image[0]), 2 * np.pi)
    dots(right, np.column_stack([where, np.interp(where, angle, f)]), "X", style.SAM)
    ticks = np.arange(5) * np.pi / 2
    right.set(xlabel="angle on the sphere", ylabel="$f$", yscale="log", xticks=ticks)
    right.set_xticklabels(["0", "π/2", "π", "3π/2", "2π"])
    left.legend(loc="lower left", frameon=True)
    right.legend()
    return fig


@style.house()
def every_radius(
    axes: Grid, values: Array, cross: Array, inward: Array, image: Array, critical: Array
) -> Figure:
    """All hallucinated points with one image, for all ρ: cross = 0 with inward > 0.

    ``cross`` is ∇f × (x − x_*) on the grid and ``inward`` is ⟨∇f, x_* − x⟩.
    """
    fig, ax = wide(4.2)
    plane(ax, axes, values, 12)
    out, into = np.where(inward < 0, cross, np.nan), np.where(inward > 0, cross, np.nan)
    ax.contour(*axes, out, levels=[0], colors=style.PALE, linewidths=1)
    ax.contour(*axes, into, levels=[0], colors=style.SAM, linewidths=2.4)
    ax.plot([], [], color=style.SAM, lw=2.4, label="hallucinated for some ρ")
    ax.plot([], [], color=style.PALE, lw=1, label="gradient outward")
    for radius in (2, 4, 6, 8):
        circle(ax, image, radius, lw=0.7, ls=":", label="spheres" * (radius == 2) or None)
    dots(ax, image, "*", style.GD, "image $x_*$")
    dots(ax, critical, "o", style.GD, "other critical points")
    beside(ax)
    return fig


@style.house()
def maximizer(
    axes: Grid,
    values: Array,
    inside: NDArray[np.bool_],
    top: Array,
    image: Array,
    radii: tuple[float, float],
    points: Array,
) -> Figure:
    """The region {f > m} about the maximizer, the circles of radius D and ρ̄, points between."""
    fig, ax = wide(3.8)
    plane(ax, axes, values)
    ax.contourf(*axes, inside, levels=[0.5, 1.5], colors=[style.SAM], alpha=0.25)
    circle(ax, image, radii[0], label="radius $D$", ls="--")
    circle(ax, image, radii[1], label=r"radius $\bar\rho$")
    dots(ax, visible(image, axes), "*", style.GD, "image $x_*$")
    dots(ax, top, "^", style.GD, r"maximizer $x_\bullet$")
    dots(ax, points, "X", style.SAM, r"hallucinated, $D < \rho < \bar\rho$")
    beside(ax)
    return fig


@style.house()
def inward_slopes(
    panels: Sequence[tuple[str, Array, Array, Sequence[tuple[float, str]]]],
) -> Figure:
    """On a line through x_*: the derivative toward x_* against ρ, shaded where it is positive.

    Each panel is (title, ρ, derivative, marks), a mark being (ρ, text).
    """
    fig, axes = style.row(len(panels), 2.8)
    for ax, (title, rho, slope, marks) in zip(axes, panels, strict=True):
        ax.plot(rho, slope, color="black", lw=1.2)
        ax.fill_between(rho, 0, slope, where=slope > 0, color=style.SAM, alpha=0.4, lw=0)
        ax.axhline(0, color=style.PALE, lw=0.8)
        for place, text in marks:
            ax.axvline(place, color=style.GD, lw=1, ls="--")
            ax.annotate(text, (place, 0.98), xycoords=("data", "axes fraction"), fontsize=9,
                        color=style.GD, ha="right", va="top", rotation=90)  # fmt: skip
        ax.set(xlabel=r"$\rho$", xlim=(rho[0], rho[-1]), title=title)
    axes[0].set_ylabel("derivative toward $x_*$")
    return fig


@style.house()
def log_gradient(rho: Array, norm: Array, zeros: Array) -> Figure:
    """‖∇f(x_h)‖ against ρ − D on logarithmic axes, with the radii at which there is no point."""
    fig, ax = wide(2.8)
    ax.loglog(rho, norm, color=style.SAM, lw=1.4, label=r"$\|\nabla f(-1+\rho)\|$")
    for i, zero in enumerate(zeros):
        label = r"$\rho = 1 + 1/(k\pi)$: none" if i == 0 else None
        ax.axvline(zero, color=style.PALE, lw=0.8, ls=":", label=label)
    low, high = norm.max() * 1e-8, norm.max() * 2
    ax.set(xlabel=r"$\rho - D$", xlim=(rho.min(), rho.max()), ylim=(low, high))
    beside(ax)
    return fig


@style.house()
def pairs(
    kinds: Sequence[str], sides: Array, filled: NDArray[np.bool_], names: tuple[str, str, str]
) -> Figure:
    """A matrix of ordered pairs: colour by ``sides`` (±1, 0 = none), a dot where ``filled``.

    ``names`` are the meanings of −1, of +1 and of a dot.
    """
    fig, ax = wide(4.4)
    ax.imshow(sides, cmap=ListedColormap([BELOW, "white", ABOVE]), vmin=-1, vmax=1)
    rows, columns = np.nonzero(filled)
    ax.plot(columns, rows, "X", color="black", ms=7)
    ticks = np.arange(len(kinds))
    ax.set(xticks=ticks, yticks=ticks, xlabel="image $x_*$", ylabel="near $x_c$")
    ax.set_xticklabels(kinds, rotation=60, ha="right", fontsize=8)
    ax.set_yticklabels(kinds, fontsize=8)
    ax.plot([], [], "s", color=BELOW, ms=10, label=names[0])
    ax.plot([], [], "s", color=ABOVE, ms=10, label=names[1])
    ax.plot([], [], "X", color="black", ms=7, label=names[2])
    beside(ax)
    return fig


@style.house()
def orders(eps: Array, curves: Mapping[str, tuple[Array, Array]], ylabel: str) -> Figure:
    """Curves against |ρ − D| on logarithmic axes; each is (measured, predicted)."""
    fig, ax = wide(3.0)
    for marker, (name, (measured, predicted)) in zip("os^vD", curves.items(), strict=False):
        ax.loglog(eps, measured, marker, ms=6, label=name)
        ax.loglog(eps, predicted, color=style.PALE, lw=1, ls="--", zorder=1)
    ax.plot([], [], color=style.PALE, ls="--", lw=1, label="predicted")
    ax.set(xlabel=r"$|\rho - D|$", ylabel=ylabel)
    beside(ax)
    return fig


@style.house()
def first_radius(rows: Sequence[tuple[str, float, float, float]]) -> Figure:
    """Bars: (name, the bound 2λ/L₂, first ρ with an inward gradient, first ρ with a point)."""
    fig, ax = wide(2.4)
    for i, (_, bound, star, first) in enumerate(rows):
        ax.barh(i, star, color=ABOVE, height=0.6)
        ax.barh(i, bound, color=style.GD, height=0.6)
        dots(ax, np.array([first, i]), "X", style.SAM, None if i else "first hallucinated point")
    ax.set(yticks=range(len(rows)), xlabel=r"$\rho$", ylabel="image")
    ax.set_yticklabels([row[0] for row in rows])
    ax.plot([], [], "s", color=style.GD, ms=9, label=r"none by $\rho \leq 2\lambda/L_2$")
    ax.plot([], [], "s", color=ABOVE, ms=9, label="no inward gradient on the grid")
    beside(ax)
    return fig


@style.house()
def trap(orbits: Sequence[tuple[str, str, Array]], rho: float, eta: float) -> Figure:
    """Orbits (name, colour, points) at the saddle, and their distances to it."""
    fig, (left, right) = style.row(2, 3.3)
    circle(left, np.zeros(2), rho, color="black")
    dots(left, np.array([[0, rho], [0, -rho]]), "X", style.SAM)
    dots(left, np.zeros(2), "o", style.GD)
    for name, color, orbit in orbits:
        left.plot(*orbit.T, ".-", color=color, lw=0.8, ms=4)
        right.semilogy(np.linalg.norm(orbit, axis=1), color=color, label=name)
    right.axhline(rho, color="black", lw=1)
    right.axhline(eta * rho, color="black", lw=1, ls=":")
    right.annotate(r"$\rho$", (0, rho), va="bottom")
    right.annotate(r"$\eta\rho$", (0, eta * rho), va="bottom")
    limit = 1.7 * rho
    left.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xlabel="$x$", ylabel="$y$")
    right.set(xlabel="step", ylabel="distance to the saddle", ylim=(eta * rho / 10, 1e3 * rho))
    fig.legend(loc="outside lower right")
    return fig
