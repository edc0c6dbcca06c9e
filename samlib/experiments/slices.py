"""What a two-dimensional slice of a loss shows: its hills and valleys, by persistent homology.

A critical point of a slice is not a critical point of the function: off the plane the gradient
need not vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samlib.errors import BadInput, check_number, check_whole

Floats: TypeAlias = NDArray[np.float64]

POINTS = {
    "slice": ("minimizer", "x", "plus", "start"),
    "plane": ("start", "plus", "minimizer", "x"),
}
"""The slices that records hold, and the points marked in each: three that span it, and one more."""


@dataclass(frozen=True, eq=False)
class Slice:
    """Values of f on a square grid of a plane in R^p.

    Attributes
    ----------
    values
        f on the grid, (n, n), with the second coordinate along the rows.
    axes
        The coordinates of columns and rows, (2, n), in an orthonormal frame: distances in the plane
        are those in R^p.
    marks
        The coordinates (2,) of points of interest, projected, by their names.
    off
        How far each of them lies from the plane.
    """

    values: Floats
    axes: Floats
    marks: dict[str, Floats]
    off: dict[str, float]

    def arrays(self, name: str) -> dict[str, NDArray[np.float32]]:
        """The slice as arrays for a record, their names beginning with ``name``."""
        parts = {"": self.values, "_axes": self.axes}
        parts["_marks"] = np.array(list(self.marks.values()))
        parts["_off"] = np.array(list(self.off.values()))
        return {f"{name}{k}": v.astype(np.float32) for k, v in parts.items()}

    @classmethod
    def from_arrays(cls, curves: Mapping[str, NDArray[Any]], name: str) -> Slice:
        """The slice ``name``, one of :data:`POINTS`, from a record's arrays."""
        marks = dict(zip(POINTS[name], curves[f"{name}_marks"], strict=True))
        off = dict(zip(POINTS[name], map(float, curves[f"{name}_off"]), strict=True))
        return cls(curves[name], curves[f"{name}_axes"], marks, off)


def cut(f: Callable[[Floats], Floats], points: Mapping[str, ArrayLike], size: int = 61) -> Slice:
    """The slice of f in the plane through the first three of the ``points``, marked with all.

    The square has twice the side of the smallest one, along the axes, that holds the three points,
    and the same centre. The first axis runs from the first point to the second.

    Parameters
    ----------
    f
        Maps (m, p) to (m,).
    points
        Names and points (p,), at least three.
    size
        How many points the grid has along an axis.

    Returns
    -------
    Slice

    Raises
    ------
    BadInput
        If there are no three points, one is not finite, the first three lie on one line, or
        ``size`` < 2.
    """
    check_whole("size", size, 2)
    every = np.array([np.asarray(point, dtype=float) for point in points.values()])
    corners = every[:3]
    if corners.ndim != 2 or len(corners) != 3 or not np.isfinite(every).all():
        raise BadInput(f"points of shape {every.shape}; pass three finite points, (3, p), or more")
    frame, heights = np.linalg.qr((corners[1:] - corners[0]).T)
    frame = frame * np.where(np.diag(heights) < 0, -1.0, 1.0)
    if np.abs(np.diag(heights)).min() <= 1e-9 * np.abs(heights).max():
        raise BadInput("the three points lie on one line; choose one that does not")
    marks = (every - corners[0]) @ frame
    off = np.linalg.norm(every - corners[0] - marks @ frame.T, axis=1)
    low, high = marks[:3].min(0), marks[:3].max(0)
    reach = (high - low).max() * np.linspace(-1, 1, size)
    axes = ((low + high) / 2)[:, None] + reach
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    values = np.asarray(f(corners[0] + grid @ frame.T), dtype=float).reshape(size, size)
    names = list(points)
    return Slice(
        values,
        axes,
        dict(zip(names, marks, strict=True)),
        dict(zip(names, off.tolist(), strict=True)),
    )


@dataclass(frozen=True, eq=False)
class Extrema:
    """Minima or maxima of a slice: places (m, 2), values (m,) and persistences (m,)."""

    places: Floats
    values: Floats
    persistence: Floats


def minima(picture: Slice, threshold: float) -> Extrema:
    """Local minima inside the square whose valley is deeper than ``threshold``.

    By sublevel-set persistence in dimension 0: a minimum is born at its value and dies where its
    valley spills over into one with a lower minimum; the lowest never dies. Grid points are
    neighbours along the axes. Minima on the square's border are left out: they say where the
    square ends. (Edelsbrunner and Harer 2010, ch. VII.) Needs the package ``gudhi``.
    """
    check_number("threshold", threshold, 0)
    pairs = _pairs(picture.values)
    flat = picture.values.ravel()
    born, dies = flat[pairs[:, 0]], np.append(flat, np.inf)[pairs[:, 1]]
    rows, columns = np.divmod(pairs[:, 0], picture.values.shape[1])
    last = picture.values.shape[0] - 1
    inside = (rows > 0) & (rows < last) & (columns > 0) & (columns < last)
    keep = inside & (dies - born > threshold)
    places = np.stack([picture.axes[0][columns], picture.axes[1][rows]], -1)
    return Extrema(places[keep], born[keep], (dies - born)[keep])


def maxima(picture: Slice, threshold: float) -> Extrema:
    """Local maxima inside the square, by superlevel-set persistence: :func:`minima` of −f."""
    turned = minima(replace(picture, values=-picture.values), threshold)
    return Extrema(turned.places, -turned.values, turned.persistence)


def _pairs(values: Floats) -> NDArray[np.int64]:
    """Flat indices (m, 2) where each valley is born and dies; −1 for the one that never dies."""
    try:
        import gudhi
    except ImportError as error:  # an optional part of the package
        raise ImportError("persistence needs gudhi: pip install gudhi") from error
    cells = gudhi.CubicalComplex(vertices=values)  # vertices: neighbours along the axes only
    cells.compute_persistence(min_persistence=0.0)
    dying, lasting = (part[0] if part else [] for part in cells.vertices_of_persistence_pairs())
    # GUDHI counts the vertices in Fortran's order
    order = np.arange(values.size).reshape(values.shape).ravel(order="F")
    pairs = order[np.asarray(dying, dtype=int).reshape(-1, 2)]
    alone = order[np.asarray(lasting, dtype=int)]
    return np.concatenate([pairs, np.stack([alone, np.full_like(alone, -1)], -1)])


def distances(a: Floats, b: Floats) -> Floats:
    """All distances between the rows of ``a`` (m, 2) and of ``b`` (n, 2), shape (m, n)."""
    out: Floats = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return out
