"""The lab's still picture: for readers without JavaScript, while a page loads, and in print."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import contourpy
import numpy as np
from numpy.typing import NDArray

from samlib.diagnostics import verdicts
from samlib.dynamics import rules, trajectories

WIDTH = 640
Floats = NDArray[np.float64]
Pair = tuple[float, float]
NAMES = {"sam": "SAM", "exact": "exact surrogate descent", "gd": "gradient descent"}
ENDS = {
    "hallucinated": "ends at {}, and stands still there, although ∇f is not zero",
    "converged": "ends at {}, a critical point of f",
    "diverged": "diverges",
    "running": "is at {} then, and has not settled",
}


def draw(
    landscape: Any, start: Sequence[float], rho: float, eta: float, steps: int, rule: str
) -> str:
    """An HTML figure: the paths of ``rule`` and of gradient descent on an SVG of f, with a caption.

    If d = 2 they lie over contours of f, if d = 1 on its graph.

    Parameters
    ----------
    landscape : Landscape
        With d = 1 or 2.
    start : sequence of float
        d numbers.
    rho, eta : float
        ρ ≥ 0 and η ≥ 0.
    steps : int
        At least 1.
    rule : str
        "sam", "exact" or "gd".

    Returns
    -------
    str
        A ``figure`` element. Its caption and label say where the path of ``rule`` ends.
    """
    twin, path = (
        trajectories.trajectory(landscape, start, rho, eta, steps, r) for r in ("gd", rule)
    )
    words = escape(_words(landscape, path, rho, eta, rule))
    (x0, x1), (y0, y1) = _window(landscape)
    height = round(WIDTH * (0.5 if landscape.dim == 1 else min(1.0, (y1 - y0) / (x1 - x0))))

    def line(points: Floats, style: str) -> str:
        points = points[np.isfinite(points).all(axis=1)]
        scaled = (points - [x0, y0]) / [x1 - x0, y1 - y0] * [WIDTH, height]
        corners = np.round(np.clip(scaled, -WIDTH, 2 * WIDTH)).astype(int)
        moved = np.r_[True, np.any(np.diff(corners, axis=0) != 0, axis=1)]
        shown = " ".join(f"{x},{height - y}" for x, y in corners[moved])
        return f'<polyline points="{shown}" fill="none" {style}/>'

    if landscape.dim == 1:
        xs = np.linspace(x0, x1, 200)[:, None]
        body = [line(np.c_[xs, landscape.f(xs)], 'stroke="currentColor" stroke-width="2"')]
        path, twin = (np.c_[x, landscape.f(x)] for x in (path, twin))
    else:
        body = [line(c, 'stroke="currentColor" opacity="0.45"') for c in _contours(landscape)]
    body += [
        line(twin, 'stroke="#0072b2" stroke-width="3" stroke-dasharray="7 4"'),
        line(path, 'stroke="#d55e00" stroke-width="3" stroke-linejoin="round"'),
    ]
    return (
        f'<figure><svg role="img" aria-label="{words}" viewBox="0 0 {WIDTH} {height}">'
        f"{''.join(body)}</svg><figcaption>{words}</figcaption></figure>"
    )


def _window(landscape: Any) -> tuple[Pair, Pair]:
    """The part of the plane that is shown, ((x0, x1), (y0, y1))."""
    if landscape.dim == 2:
        return landscape.box[0], landscape.box[1]
    low, high = landscape.box[0]
    inner = np.linspace(low + 0.2 * (high - low), high - 0.2 * (high - low), 200)[:, None]
    values = landscape.f(inner)
    return (low, high), (float(values.min()) - 0.1, float(values.max()))


def _contours(landscape: Any) -> list[Floats]:
    """Level lines of f over its box, each (n, 2)."""
    xs, ys = (np.linspace(low, high, 60) for low, high in landscape.box)
    values = landscape.f(np.stack(np.meshgrid(xs, ys), -1))
    lowest, highest = float(values.min()), float(values.max())
    levels = lowest + np.geomspace(0.01, 0.8, 8) * (highest - lowest)
    generator = contourpy.contour_generator(xs, ys, values)
    return [np.asarray(c) for level in levels for c in generator.lines(level)]


def _words(landscape: Any, path: Floats, rho: float, eta: float, rule: str) -> str:
    """What the picture shows, for its caption and for readers who do not see it."""
    step = rules.get(rule)(landscape, path, rho)
    norm, shifted = (np.linalg.norm(g, axis=-1) for g in (step.grad, step.shifted_grad))
    trace = verdicts.Trace(step.loss, norm, step.shifted_loss, shifted)
    start, end = (", ".join(f"{v:.3g}" for v in path[k].round(6) + 0.0) for k in (0, -1))
    start, end = (f"({v})" if landscape.dim > 1 else f"x = {v}" for v in (start, end))
    return (
        f"{len(path) - 1} steps of {NAMES.get(rule, rule)} (orange) and of gradient descent (blue, "
        f"dashed) on {landscape.name or 'a landscape'} from {start} with ρ = {rho:g} and "
        f"η = {eta:g}. The orange path {ENDS[verdicts.verdict(trace)].format(end)}."
    )
