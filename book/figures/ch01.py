"""Figures of chapter 1 and of the front page: two gradients, on the line and in the plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from figures import style
from figures.primitives import Array, dots
from samlib import Landscape, sam_map, trajectory
from samlib.dynamics import rules
from samlib.dynamics.trajectories import grid


def _axis(ax: Axes) -> None:
    ax.axhline(0, color=style.PALE, lw=0.8, zorder=0)


def _marks(ax: Axes, x: ArrayLike, y: ArrayLike, marker: str, color: str, label: str = "") -> None:
    """Markers with a white rim, drawn above the curves."""
    y = np.broadcast_to(y, np.shape(x))
    size = 13 if marker == "*" else 9
    ax.plot(x, y, marker, color=color, mec="white", mew=0.8, ms=size, zorder=5, label=label or None)


@style.house()
def wells(
    well: Landscape,
    worst: Callable[[Array, float], Array],
    rho: float,
    looks_at: Mapping[float, float],
) -> Figure:
    """f, f^SAM = f(x⁺) and F = ``worst`` on the left, f' and f'(x⁺) on the right.

    ``looks_at`` maps the hallucinated points to their images: arrows join them. The curves of x⁺
    break where f' is nearly zero, since x⁺ jumps there.
    """
    fig, (left, right) = style.row(2)
    line = np.linspace(-1.8, 1.8, 3601)[:, None]
    shifted, plus, *_ = rules.sam(well, line, rho)
    x, grad, hallucinated = line[:, 0], well.grad(line)[:, 0], list(looks_at)
    for ax, plain, seen, names in (
        (left, well.f(line), well.f(plus), ("$f(x)$", "$f^{SAM}(x)=f(x^+)$")),
        (right, grad, shifted[:, 0], ("$f'(x)$", "$f'(x^+)$")),
    ):
        ax.plot(x, plain, color=style.GD, label=names[0])
        ax.plot(x, np.where(np.abs(grad) < 1e-3, np.nan, seen), color=style.SAM, label=names[1])
        _axis(ax)
        ax.set_xlabel("$x$")
        _marks(ax, hallucinated, 0, "X", style.SAM)
    left.plot(x, worst(line, rho), ":", color="black", label="$F(x)$")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, columnspacing=1.2)
    right.legend(loc="lower right")
    _marks(right, hallucinated, np.interp(hallucinated, x, grad), "o", style.GD)
    for point, image in looks_at.items():
        bend = f"arc3,rad={0.3 if image > point else -0.3}"
        arrow = {"arrowstyle": "->", "connectionstyle": bend, "shrinkA": 5, "shrinkB": 2}
        left.annotate("", (image, 0), (point, 0), arrowprops=arrow)
    left.set(title="the function and its surrogate", ylim=(-0.3, 1.5))
    right.set(title="the two gradients", ylim=(-2.2, 2.2))
    return fig


@style.house()
def map_and_orbits(
    well: Landscape, rho: float, eta: float, starts: ArrayLike, fixed: Sequence[float]
) -> Figure:
    """Left the map T on the line, with its fixed points; right 30 steps from each start."""
    fig, (left, right) = style.row(2, height=3.3, width_ratios=(1, 1.25))
    line, true = np.linspace(-1.6, 1.6, 3201)[:, None], (-1.0, 1.0)
    x, span = line[:, 0], (-1.6, 1.6)
    left.plot(span, span, color=style.PALE, lw=1, label="$x$")
    jumps, after = np.abs(well.grad(line)[:, 0]) < 1e-3, sam_map(well, rho, eta)(line)[:, 0]
    left.plot(x, np.where(jumps, np.nan, after), color=style.SAM, label="$T(x)$")
    _marks(left, fixed, fixed, "X", style.SAM)
    _marks(left, true, true, "*", style.GD)
    left.set(xlabel="$x$", title="the map", xlim=span, ylim=span, aspect="equal")
    left.legend(loc="upper center")
    for level, color in [(t, style.GD) for t in true] + [(h, style.SAM) for h in fixed]:
        right.axhline(level, color=color, lw=0.9, ls="--")
    paths = trajectory(well, np.reshape(starts, (-1, 1)), rho, eta, 30)[..., 0]
    right.plot(paths, ".-", color="black", lw=0.7, ms=3)
    _marks(right, (30, 30), true, "*", style.GD, "true minimizers")
    _marks(right, [30] * len(fixed), fixed, "X", style.SAM, "hallucinated")
    right.set(xlabel="step $k$", ylabel="$x_k$", title="orbits", ylim=span)
    right.legend(loc=(0.5, 0.22), handletextpad=0.2)
    return fig


@style.house()
def where_starts_end(start: Array, gd: Array, sam: Array, cuts: Array, x_c: float) -> Figure:
    """The limit of gradient descent and of SAM against the start, all (n,); NaN: diverges.

    ``cuts`` are the starts a₁, a₂, … at which SAM's limit switches; beyond ±x_c SAM diverges.
    """
    fig, (ax,) = style.row(height=3.2)
    for side in (-1, 1):
        ax.axvspan(side * x_c, side * np.abs(start).max(), color="0.93", lw=0)
        for k, cut in enumerate(cuts, 1):
            ax.axvline(side * cut, color=style.PALE, lw=0.8, ls=":")
            if side > 0:
                ax.text(cut, -1.33, f"$a_{k}$ ", ha="right", color=style.PALE)
    ax.text(x_c + 0.02, -1.33, "$x_c$")
    ax.plot(start, gd, ".", ms=2, color=style.GD)
    ax.plot(start, sam, ".", ms=2, color=style.SAM)
    ax.text(0.1, 1.06, "gradient descent", color=style.GD, va="bottom")
    ax.text(0.1, 0.26, "SAM", color=style.SAM, va="bottom")
    ax.set(xlabel="start $x_0$", ylabel="limit of $x_k$", ylim=(-1.4, 1.4))
    return fig


@style.house()
def branches(curves: Sequence[tuple[ArrayLike, ArrayLike, bool]], rho: float) -> Figure:
    """Hallucinated points against ρ: lines (ρ, x_h, attracting), and one ρ singled out."""
    fig, (ax,) = style.row(height=3.2, width=style.WIDTH)
    for k, (rhos, points, attracting) in enumerate(curves):
        name = "hallucinated, attracting" if attracting else "hallucinated, repelling"
        label = None if k % 2 else name  # they come in pairs
        ax.plot(rhos, points, "-" if attracting else "--", color=style.SAM, label=label)
    for k, true in enumerate((-1, 1)):
        ax.axhline(true, color=style.GD, lw=1.2, label=None if k else "true minimizers")
    ax.axvline(rho, color=style.PALE, lw=0.9, ls=":")
    ax.text(rho, -1.42, f" $\\rho={rho:g}$", color=style.PALE)
    ax.set(xlabel="$\\rho$", ylabel="$x_h$", ylim=(-1.5, 1.5), xlim=(0, 2.5))
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    return fig


@style.house()
def angle(f: Landscape, degrees: Callable[[Array], Array], hallucinated: ArrayLike) -> Figure:
    """The angle between SAM's step and the exact one, ``degrees``, over contours of f.

    ``hallucinated`` (k, 2) is marked.
    """
    fig, (ax,) = style.row(height=3.6, width=6.0)
    mesh = grid(f, 161)
    values = degrees(mesh)
    steps = np.arange(0, 15 * np.ceil(np.nanmax(values) / 15) + 1, 15)
    look: dict[str, Any] = {"cmap": "viridis_r", "norm": BoundaryNorm(steps, 256)}
    x, y = np.moveaxis(mesh, -1, 0)
    filled = ax.pcolormesh(x, y, values, shading="nearest", **look)
    _contours(ax, f, "white")
    dots(ax, hallucinated, "X", style.SAM)
    bar = fig.colorbar(filled, ticks=steps[::2])
    bar.set_label("angle between the two (degrees)")
    return fig


@style.house()
def orbits(
    f: Landscape, starts: ArrayLike, rho: float, eta: float, minimizers: ArrayLike
) -> Figure:
    """300 steps of gradient descent and of SAM from starts (n, 2), over contours of f.

    A thin line joins each of SAM's ends to what it looks at.
    """
    fig, (ax,) = style.row(height=3.4, width=style.WIDTH)
    _contours(ax, f, "0.8")
    gd, sam = (trajectory(f, starts, rho, eta, 300, rule) for rule in ("gd", "sam"))
    for path, color, name in ((gd, style.GD, "gradient descent"), (sam, style.SAM, "SAM")):
        for k in range(path.shape[1]):
            ax.plot(*path[:, k].T, "-", color=color, lw=1.3, label=None if k else name)
    ax.plot(*sam[0].T, ".", color="black", ms=6, ls="", label="starts")
    images = rules.sam(f, sam[-1], rho)[1]
    for k, (end, image) in enumerate(zip(sam[-1], images, strict=True)):
        label = None if k else "from $x_h$ to $x^+$"
        ax.plot(*np.stack([end, image]).T, ":", color="black", lw=1.2, label=label)
    dots(ax, sam[-1], "X", style.SAM, "SAM's limits $x_h$")
    dots(ax, minimizers, "*", style.GD, "true minimizers")
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    return fig


def _contours(ax: Axes, f: Landscape, color: str) -> None:
    """Thin level lines, spaced so that wells and walls both show."""
    mesh = grid(f, 161)
    values = f.f(mesh)
    levels = np.quantile(values, np.linspace(0.02, 0.98, 16))
    x, y = np.moveaxis(mesh, -1, 0)
    ax.contour(x, y, values, levels=np.unique(levels), colors=color, linewidths=0.7)
    ax.set(xlabel="$x$", ylabel="$y$", aspect="equal")
