"""Figures of chapter 1 and of the front page: two gradients, on the line and in the plane.

Everything is data here: arrays of values that ``landscapes``, ``rules`` and ``sam`` computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import style

Array = NDArray[np.float64]


def _axis(ax: Axes) -> None:
    ax.axhline(0, color=style.PALE, lw=0.8, zorder=0)


def _marks(ax: Axes, x: Array, y: Array | float, marker: str, color: str, label: str = "") -> None:
    """Markers with a white rim, drawn above the curves."""
    y = np.broadcast_to(y, np.shape(x))
    size = 13 if marker == "*" else 9
    ax.plot(x, y, marker, color=color, mec="white", mew=0.8, ms=size, zorder=5, label=label or None)


@style.house()
def wells(
    x: Array,
    f: Array,
    f_plus: Array,
    worst: Array,
    grad: Array,
    grad_plus: Array,
    looks_at: dict[float, float],
) -> Figure:
    """f, f^SAM = f(x⁺) and F on the left, f' and f'(x⁺) on the right, all sampled at x (n,).

    ``worst`` is F, the largest value of f within ρ of x. ``looks_at`` maps the hallucinated points
    to their images: arrows join them. The curves of x⁺ break where f' is nearly zero, since x⁺
    jumps there.
    """
    fig, (left, right) = style.row(2)
    jumps, hallucinated = np.abs(grad) < 1e-3, np.array(list(looks_at))
    for ax, plain, shifted, names in (
        (left, f, f_plus, ("$f(x)$", "$f^{SAM}(x)=f(x^+)$")),
        (right, grad, grad_plus, ("$f'(x)$", "$f'(x^+)$")),
    ):
        ax.plot(x, plain, color=style.GD, label=names[0])
        ax.plot(x, np.where(jumps, np.nan, shifted), color=style.SAM, label=names[1])
        _axis(ax)
        ax.set_xlabel("$x$")
        _marks(ax, hallucinated, 0, "X", style.SAM)
    left.plot(x, worst, ":", color="black", label="$F(x)$")
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
def map_and_orbits(x: Array, step: Array, grad: Array, paths: Array, fixed: Array) -> Figure:
    """Left the map T, ``step`` (n,), over x (n,); right the orbits ``paths`` (steps, m).

    ``grad`` (n,) tells where the map jumps; ``fixed`` (k,) are the fixed points to mark.
    """
    fig, (left, right) = style.row(2, height=3.3, width_ratios=(1, 1.25))
    span, true = (x.min(), x.max()), np.array([-1.0, 1.0])
    left.plot(span, span, color=style.PALE, lw=1, label="$x$")
    broken = np.where(np.abs(grad) < 1e-3, np.nan, step)
    left.plot(x, broken, color=style.SAM, label="$T(x)$")
    _marks(left, fixed, fixed, "X", style.SAM)
    _marks(left, true, true, "*", style.GD)
    left.set(xlabel="$x$", title="the map", xlim=span, ylim=span, aspect="equal")
    left.legend(loc="upper center")
    for level, color in [(t, style.GD) for t in true] + [(h, style.SAM) for h in fixed]:
        right.axhline(level, color=color, lw=0.9, ls="--")
    right.plot(paths, ".-", color="black", lw=0.7, ms=3)
    last = len(paths) - 1
    _marks(right, np.full(2, last), true, "*", style.GD, "true minimizers")
    _marks(right, np.full(len(fixed), last), fixed, "X", style.SAM, "hallucinated")
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
def branches(curves: Sequence[tuple[Array, Array, bool]], rho: float) -> Figure:
    """Hallucinated points against ρ: curves (ρ, x_h, attracting), and one ρ singled out."""
    fig, (ax,) = style.row(height=3.2, width=style.WIDTH)
    seen: set[bool] = set()
    for rhos, points, attracting in curves:
        name = "hallucinated, attracting" if attracting else "hallucinated, repelling"
        label = None if attracting in seen else name
        ax.plot(rhos, points, "-" if attracting else "--", color=style.SAM, label=label)
        seen.add(attracting)
    for k, true in enumerate((-1, 1)):
        ax.axhline(true, color=style.GD, lw=1.2, label=None if k else "true minimizers")
    ax.axvline(rho, color=style.PALE, lw=0.9, ls=":")
    ax.text(rho, -1.42, f" $\\rho={rho:g}$", color=style.PALE)
    ax.set(xlabel="$\\rho$", ylabel="$x_h$", ylim=(-1.5, 1.5), xlim=(0, 2.5))
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    return fig


@style.house()
def angle(grid: Array, values: Array, degrees: Array, hallucinated: Array) -> Figure:
    """The angle between SAM's step and the exact one, ``degrees`` (m, m), over contours of f.

    ``values`` (m, m) are those of f on ``grid`` (m, m, 2); ``hallucinated`` (k, 2) is marked.
    """
    fig, (ax,) = style.row(height=3.6, width=6.0)
    steps = np.arange(0, 15 * np.ceil(np.nanmax(degrees) / 15) + 1, 15)
    norm = BoundaryNorm(steps, 256)
    x, y = grid[..., 0], grid[..., 1]
    mesh = ax.pcolormesh(x, y, degrees, cmap="viridis_r", norm=norm, shading="nearest")
    _contours(ax, grid, values, "white")
    _marks(ax, hallucinated[:, 0], hallucinated[:, 1], "X", style.SAM)
    bar = fig.colorbar(mesh, ticks=steps[::2])
    bar.set_label("angle between the two (degrees)")
    return fig


@style.house()
def orbits(
    grid: Array, values: Array, gd: Array, sam: Array, images: Array, minimizers: Array
) -> Figure:
    """Orbits of gradient descent and SAM, (steps, n, 2) each, over contours of f.

    ``images`` (n, 2) are x⁺ of SAM's ends: a thin line joins each end to what it looks at.
    """
    fig, (ax,) = style.row(height=3.4, width=style.WIDTH)
    _contours(ax, grid, values)
    for path, color, name in ((gd, style.GD, "gradient descent"), (sam, style.SAM, "SAM")):
        for k in range(path.shape[1]):
            ax.plot(*path[:, k].T, "-", color=color, lw=1.3, label=None if k else name)
    ax.plot(*sam[0].T, ".", color="black", ms=6, ls="", label="starts")
    for k, (end, image) in enumerate(zip(sam[-1], images, strict=True)):
        label = None if k else "from $x_h$ to $x^+$"
        ax.plot(*np.stack([end, image]).T, ":", color="black", lw=1.2, label=label)
    ends = sam[-1]
    _marks(ax, ends[:, 0], ends[:, 1], "X", style.SAM, "SAM's limits $x_h$")
    _marks(ax, minimizers[:, 0], minimizers[:, 1], "*", style.GD, "true minimizers")
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    return fig


def _contours(ax: Axes, grid: Array, values: Array, color: str = "0.8") -> None:
    """Thin level lines, spaced so that wells and walls both show."""
    levels = np.quantile(values, np.linspace(0.02, 0.98, 16))
    x, y = np.moveaxis(grid, -1, 0)
    ax.contour(x, y, values, levels=np.unique(levels), colors=color, linewidths=0.7)
    ax.set(xlabel="$x$", ylabel="$y$", aspect="equal")
