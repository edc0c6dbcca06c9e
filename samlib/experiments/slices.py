"""What a two-dimensional slice of a loss shows: its hills and valleys, by persistent homology.

A critical point of a slice is not a critical point of the function: off the plane the gradient
need not vanish.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samlib.errors import BadInput, check_number, check_whole

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Slice:
    """Values of f on a square grid of a plane in R^p.

    ``values`` (n, n) has the second coordinate along its rows; ``axes`` (2, n) are the coordinates
    of columns and rows in an orthonormal frame, so distances in the plane are those in R^p.
    ``marks`` (k, 2) are the coordinates of points of interest, projected, and ``off`` (k,) their
    distances from the plane.
    """

    values: Floats
    axes: Floats
    marks: Floats
    off: Floats


def cut(
    f: Callable[[Floats], Floats], points: ArrayLike, others: ArrayLike = (), size: int = 61
) -> Slice:
    """The slice of f in the plane through three ``points`` (3, p), marked with them and ``others``.

    f maps (m, p) to (m,). The square has twice the side of the smallest one, along the axes, that
    holds the three points, and the same centre. The first axis runs from the first point to the
    second.

    Raises
    ------
    BadInput
        If the points are not three, not finite or on one line, or ``size`` < 2.
    """
    corners = np.asarray(points, dtype=float)
    check_whole("size", size, 2)
    if corners.ndim != 2 or len(corners) != 3 or not np.isfinite(corners).all():
        raise BadInput(f"points of shape {corners.shape}; pass three finite points, (3, p)")
    frame, heights = np.linalg.qr((corners[1:] - corners[0]).T)
    frame = frame * np.where(np.diag(heights) < 0, -1.0, 1.0)
    if np.abs(np.diag(heights)).min() <= 1e-9 * np.abs(heights).max():
        raise BadInput("the three points lie on one line; choose one that does not")
    every = np.vstack([corners, np.asarray(others, dtype=float).reshape(-1, corners.shape[1])])
    marks = (every - corners[0]) @ frame
    off = np.linalg.norm(every - corners[0] - marks @ frame.T, axis=1)
    low, high = marks[:3].min(0), marks[:3].max(0)
    reach = (high - low).max() * np.linspace(-1, 1, size)
    axes = ((low + high) / 2)[:, None] + reach
    grid = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    values = f(corners[0] + grid @ frame.T)
    return Slice(np.asarray(values, dtype=float).reshape(size, size), axes, marks, off)


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
    turned = minima(Slice(-picture.values, picture.axes, picture.marks, picture.off), threshold)
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
