"""Figures of chapter 2: where hallucinated points are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import label

from figures import style
from figures.primitives import ABOVE, Array, beside, circle, contours, dots, lattice, plane, wide
from figures.primitives import pairs as pairs  # of both chapters
from samlib import Landscape
from samlib.points.search import CriticalPoint, HallucinatedPoint


@style.house()
def sphere(
    f: Landscape, image: ArrayLike, rho: float, found: Sequence[HallucinatedPoint]
) -> Figure:
    """Left the circle S_ρ(x_*) on the contours; right f along it, bold where ∇f points inward."""
    fig, (left, right) = style.row(2, 3.3)
    centre, points = np.asarray(image, dtype=float), np.array([p.x for p in found]).reshape(-1, 2)
    contours(left, f, 241)
    circle(left, centre, rho, label=r"$S_\rho(x_*)$")
    dots(left, centre, "*", style.GD, "image $x_*$")
    dots(left, points, "X", style.SAM, "hallucinated")
    angle = np.linspace(0, 2 * np.pi, 1001)
    e = np.stack([np.cos(angle), np.sin(angle)], -1)
    values, outward = f.f(centre + rho * e), (f.grad(centre + rho * e) * e).sum(-1)
    right.plot(angle, values, color=style.PALE, lw=1, label="gradient outward")
    bold = np.where(outward < 0, values, np.nan)
    right.plot(angle, bold, color=style.GD, lw=3, label="inward")
    where = np.mod(np.arctan2(points[:, 1] - centre[1], points[:, 0] - centre[0]), 2 * np.pi)
    dots(right, np.column_stack([where, np.interp(where, angle, values)]), "X", style.SAM)
    right.set(xlabel="angle on the sphere", ylabel="$f$", yscale="log")
    right.set_xticks(np.arange(5) * np.pi / 2, ["0", "π/2", "π", "3π/2", "2π"])
    left.legend(loc="lower left", frameon=True)
    right.legend()
    return fig


@style.house()
def every_radius(f: Landscape, image: ArrayLike, critical: Sequence[CriticalPoint]) -> Figure:
    """All hallucinated points with one image, for all ρ: ∇f × (x − x_*) = 0, ∇f inward."""
    fig, ax = wide(4.2)
    axes, centre = lattice(f.box, 241), np.asarray(image, dtype=float)
    mesh = np.stack(np.meshgrid(*axes), -1)
    plane(ax, axes, f.f(mesh), 12)
    gradient, away = f.grad(mesh), mesh - centre
    cross = gradient[..., 0] * away[..., 1] - gradient[..., 1] * away[..., 0]
    outward = (gradient * away).sum(-1)
    for part, color, width, name in (
        (outward > 0, style.PALE, 1, "gradient outward"),
        (outward < 0, style.SAM, 2.4, "hallucinated for some ρ"),
    ):
        ax.contour(*axes, np.where(part, cross, np.nan), levels=[0], colors=color, linewidths=width)
        ax.plot([], [], color=color, lw=width, label=name)
    for radius in (2, 4, 6, 8):
        circle(ax, centre, radius, lw=0.7, ls=":", label="spheres" * (radius == 2) or None)
    dots(ax, centre, "*", style.GD, "image $x_*$")
    others = [p.x for p in critical if np.linalg.norm(p.x - centre) > 1e-6]
    dots(ax, others, "o", style.GD, "other critical points")
    beside(ax)
    return fig


def above(f: Landscape, level: float, top: Array, box: Any) -> tuple[Array, NDArray[np.bool_]]:
    """A fine grid over the box, (n, n, 2), and which of it is the part of {f > level} about top."""
    mesh = np.stack(np.meshgrid(*lattice(box, 601)), -1)
    labels, _ = label(f.f(mesh) > level)
    return mesh, labels == labels.flat[np.linalg.norm(mesh - top, axis=-1).argmin()]


@style.house()
def maximizer(
    f: Landscape,
    region: tuple[Array, NDArray[np.bool_]],
    top: Array,
    image: ArrayLike,
    radii: tuple[float, float],
    points: ArrayLike,
) -> Figure:
    """A region from :func:`above`, the circles of radius D and ρ̄, points between."""
    fig, ax = wide(3.8)
    mesh, inside = region
    axes = mesh[0, :, 0], mesh[:, 0, 1]
    plane(ax, axes, f.f(mesh))
    ax.contourf(*axes, inside, levels=[0.5, 1.5], colors=[style.SAM], alpha=0.25)
    circle(ax, image, radii[0], label="radius $D$", ls="--")
    circle(ax, image, radii[1], label=r"radius $\bar\rho$")
    dots(ax, top, "^", style.GD, r"maximizer $x_\bullet$")
    dots(ax, points, "X", style.SAM, r"hallucinated, $D < \rho < \bar\rho$")
    beside(ax)
    return fig


@style.house()
def inward_slopes(
    panels: Sequence[tuple[str, Callable[[Array], Array], float, Mapping[str, float]]],
) -> Figure:
    """On a line through x_*: the derivative toward x_* against ρ, shaded where it is positive.

    Each panel is (title, derivative as a function of ρ, largest ρ, marks).
    """
    fig, axes = style.row(len(panels), 2.8)
    for ax, (title, toward, largest, marks) in zip(axes, panels, strict=True):
        rho = np.linspace(0.01, largest, 500)
        slope = toward(rho)
        ax.plot(rho, slope, color="black", lw=1.2)
        ax.fill_between(rho, 0, slope, where=slope > 0, color=style.SAM, alpha=0.4, lw=0)
        ax.axhline(0, color=style.PALE, lw=0.8)
        for text, place in marks.items():
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


def first_on_spheres(f: Landscape, image: Array, rho: Array) -> tuple[float, float]:
    """The least of the radii with an inward gradient, and with a hallucinated point of ``image``.

    1200 directions are tried.
    """
    angle = np.linspace(0, 2 * np.pi, 1201)
    e = np.stack([np.cos(angle), np.sin(angle)], -1)
    gradient = f.grad(image + rho[:, None, None] * e)
    inward = (gradient * e).sum(-1) < 0
    turns = np.sign(gradient[..., 1] * e[:, 0] - gradient[..., 0] * e[:, 1])
    point = (turns[:, 1:] != turns[:, :-1]) & inward[:, 1:] & inward[:, :-1]
    return float(rho[inward.any(1)].min()), float(rho[point.any(1)].min())


@style.house()
def first_radius(images: Sequence[str], bound: Array, star: Array, first: Array) -> Figure:
    """Bars: the bound 2λ/L₂, the first ρ with an inward gradient, the first ρ with a point."""
    fig, ax = wide(2.4)
    rows = np.arange(len(images))
    ax.barh(rows, star, color=ABOVE, height=0.6)
    ax.barh(rows, bound, color=style.GD, height=0.6)
    dots(ax, np.column_stack([first, rows]), "X", style.SAM, "first hallucinated point")
    ax.set_yticks(rows, images)
    ax.set(xlabel=r"$\rho$", ylabel="image")
    ax.plot([], [], "s", color=style.GD, ms=9, label=r"none by $\rho \leq 2\lambda/L_2$")
    ax.plot([], [], "s", color=ABOVE, ms=9, label="no inward gradient on the grid")
    beside(ax)
    return fig


@style.house()
def trap(orbits: Mapping[str, Array], rho: float, eta: float) -> Figure:
    """Orbits at the saddle by name, the last one of gradient descent; their distances to it."""
    fig, (left, right) = style.row(2, 3.3)
    circle(left, (0, 0), rho, color="black")
    dots(left, [[0, rho], [0, -rho]], "X", style.SAM)
    dots(left, [0, 0], "o", style.GD)
    colors = (style.SAM, style.EXACT, "black", style.GD)
    for color, (name, orbit) in zip(colors, orbits.items(), strict=True):
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
