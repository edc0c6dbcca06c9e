"""What a figure shows, in words, so that a test can compare it with what it showed before.

Pictures are not compared when chapters run again, text is. In a notebook a figure's plain text
therefore lists the data of its axes instead of its size in pixels.
"""

from __future__ import annotations

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import Collection, PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

DIGITS = 4  # of each number: as many as agree on all machines where printed results agree


def _data(artist: Artist) -> np.ndarray:
    """The numbers that an artist draws, shape (points, 1 or 2)."""
    if isinstance(artist, Line2D):
        return np.asarray(artist.get_xydata(), dtype=float)
    if isinstance(artist, QuadMesh | AxesImage):
        return np.ma.filled(np.ma.asarray(artist.get_array(), dtype=float), np.nan).reshape(-1, 1)
    if isinstance(artist, PathCollection) and np.size(artist.get_offsets()):
        return np.ma.filled(np.ma.asarray(artist.get_offsets(), dtype=float), np.nan)
    if isinstance(artist, Collection):
        corners = [path.vertices for path in artist.get_paths()]
        return np.concatenate(corners) if corners else np.empty((0, 2))
    if isinstance(artist, Patch):
        return np.asarray(artist.get_patch_transform().transform_path(artist.get_path()).vertices)
    raise TypeError(f"{artist!r} is no line, collection, patch or image")


def _colour(artist: Artist) -> str:
    """The first colour of an artist, since colours tell what a curve or a mark means."""
    if isinstance(artist, Line2D):
        marked = artist.get_linestyle() == "None"
        return f"{to_hex(artist.get_markerfacecolor() if marked else artist.get_color())}"
    if isinstance(artist, Collection | Patch) and not isinstance(artist, QuadMesh):
        for colours in (artist.get_facecolor(), artist.get_edgecolor()):
            table = np.atleast_2d(np.asarray(colours, dtype=float))
            if table.size and table[0, -1] > 0:
                return to_hex(table[0])
    return ""


def _summary(values: np.ndarray) -> str:
    """Mean ± standard deviation of the finite values; rounding errors around 0 read 0."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "none"
    mean, spread, largest = finite.mean(), finite.std(), np.abs(finite).max()
    parts = [0.0 if abs(v) <= 1e-9 * largest else v for v in (mean, spread)]
    return " ± ".join(f"{v:.{DIGITS}g}" for v in parts)


def _line(artist: Artist) -> str:
    """One artist: kind, label, colour, number of points, and where they lie."""
    data = _data(artist)
    label = str(artist.get_label())
    words = [type(artist).__name__, "" if label.startswith("_") else repr(label), _colour(artist)]
    axes = ("x", "y") if data.shape[1] == 2 else ("values",)
    where = [f"{name} {_summary(data[:, k])}" for k, name in enumerate(axes)]
    return " ".join(filter(None, [*words, f"{len(data)} points", *where]))


def contents(figure: Figure) -> str:
    """List what the axes of ``figure`` draw: each line, collection, patch and image.

    Returns
    -------
    str
        A line for the figure, one for each of its axes, and one for each artist with its label, its
        colour, its number of points and the mean ± standard deviation of their coordinates.
    """
    text = [f"Figure with {len(figure.axes)} axes"]
    for number, axes in enumerate(figure.axes, 1):
        text.append(f"axes {number}: {_words(axes)}".rstrip(": "))
        drawn = [*axes.lines, *axes.collections, *axes.patches, *axes.images]
        text += [f"  {_line(artist)}" for artist in drawn]
    return "\n".join(text)


def _words(axes: Axes) -> str:
    return ", ".join(filter(None, [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]))


def register() -> None:
    """Let IPython show :func:`contents` as the plain text of a figure.

    As a method of the class, because the inline backend drops a registered formatter at the first
    figure.
    """
    Figure._repr_pretty_ = lambda self, printer, cycle: printer.text(contents(self))  # type: ignore[attr-defined]
