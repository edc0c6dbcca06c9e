"""Hills and valleys of slices against union-find and functions whose critical points are known."""

from __future__ import annotations

import numpy as np
import pytest

from samlib.errors import BadInput
from samlib.experiments import slices
from samlib.landscapes import symbolic


def by_union_find(values: np.ndarray) -> dict[int, float]:
    """Flat index of each local minimum -> its persistence; neighbours along the axes."""
    rows, columns = values.shape
    parent: dict[int, int] = {}
    out: dict[int, float] = {}

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    flat = values.ravel()
    for i in np.argsort(flat, kind="stable"):
        parent[i] = i
        r, c = divmod(i, columns)
        for rr, cc in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            j = rr * columns + cc
            if 0 <= rr < rows and 0 <= cc < columns and j in parent:
                a, b = root(i), root(j)
                if a != b:
                    older, younger = (a, b) if flat[a] < flat[b] else (b, a)
                    parent[younger] = older
                    if flat[i] > flat[younger]:
                        out[younger] = flat[i] - flat[younger]
    out[int(flat.argmin())] = np.inf
    return out


def grid(values: np.ndarray, low: float = -2, high: float = 2) -> slices.Slice:
    axes = np.stack([np.linspace(low, high, n) for n in values.shape[::-1]])
    return slices.Slice(values, axes, {}, {})


@pytest.mark.parametrize("seed", range(5))
def test_minima_and_maxima_are_those_of_union_find(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((17, 17))
    values = values + np.roll(values, 1, 0) + np.roll(values, 1, 1)
    for find, sign in ((slices.minima, 1), (slices.maxima, -1)):
        found = find(grid(values), 0.0)
        wanted = by_union_find(sign * values)
        inside = {i: p for i, p in wanted.items() if all(0 < k < 16 for k in divmod(i, 17))}
        assert len(found.values) == len(inside) > 5
        axis = np.linspace(-2, 2, 17)
        got = {
            (np.abs(axis - y).argmin() * 17 + np.abs(axis - x).argmin()): (v, p)
            for (x, y), v, p in zip(found.places, found.values, found.persistence, strict=True)
        }
        assert set(got) == set(inside)
        for i, p in inside.items():
            assert got[i] == pytest.approx((values.ravel()[i], p))


def test_the_double_well() -> None:
    x, y = np.meshgrid(*[np.linspace(-2, 2, 41)] * 2)
    picture = grid((x**2 - 1) ** 2 / 4 + y**2 / 2)
    low = slices.minima(picture, 0.01)
    np.testing.assert_allclose(sorted(low.places.tolist()), [[-1, 0], [1, 0]], atol=1e-12)
    assert sorted(low.persistence) == pytest.approx([0.25, np.inf])
    assert len(slices.minima(picture, 0.26).values) == 1
    assert len(slices.maxima(picture, 0.0).values) == 0  # those of the border do not count


def test_himmelblau_has_four_valleys_and_one_hill() -> None:
    f = symbolic.landscape("himmelblau")
    corners = np.array([[-5.0, -5.0], [5.0, -5.0], [-5.0, 5.0]])
    picture = slices.cut(f.f, dict(zip("abc", corners, strict=True)), size=161)
    low, high = slices.minima(picture, 1.0), slices.maxima(picture, 1.0)
    assert len(low.values) == 4
    assert len(high.values) == 1
    assert high.places[0] + corners[0] == pytest.approx((-0.2708, -0.9230), abs=0.1)
    assert high.values[0] == pytest.approx(181.6, abs=1)


def test_a_slice_keeps_distances_and_values() -> None:
    rng = np.random.default_rng(0)
    points, other = rng.standard_normal((3, 20)), rng.standard_normal(20)
    centre = rng.standard_normal(20)

    def f(rows: np.ndarray) -> np.ndarray:
        return ((rows - centre) ** 2).sum(1)

    cut = slices.cut(f, dict(zip("abcd", [*points, other], strict=True)), size=31)
    assert list(cut.marks) == list(cut.off) == list("abcd")
    marks, off = np.array(list(cut.marks.values())), np.array(list(cut.off.values()))
    for i in range(3):
        for j in range(i):
            far = np.linalg.norm(marks[i] - marks[j])
            assert far == pytest.approx(np.linalg.norm(points[i] - points[j]))
    np.testing.assert_allclose(off[:3], 0, atol=1e-12)
    assert off[3] ** 2 + ((marks[3] - marks[0]) ** 2).sum() == pytest.approx(
        ((other - points[0]) ** 2).sum()
    )
    assert marks[0] == pytest.approx((0, 0))
    assert marks[1] == pytest.approx((np.linalg.norm(points[1] - points[0]), 0))
    # f on the plane is a paraboloid: its values at the marks follow from the grid's
    x, y = np.meshgrid(*cut.axes)
    terms = np.stack([np.ones_like(x), x, y, x * x + y * y], -1).reshape(-1, 4)
    fit = np.linalg.lstsq(terms, cut.values.ravel(), rcond=None)[0]
    terms = np.column_stack([np.ones(3), marks[:3], (marks[:3] ** 2).sum(1)])
    np.testing.assert_allclose(terms @ fit, f(points))
    assert fit[3] == pytest.approx(1)
    box = np.stack([marks[:3].min(0), marks[:3].max(0)])
    np.testing.assert_allclose(cut.axes.mean(1), box.mean(0), atol=1e-12)
    assert np.ptp(cut.axes, axis=1) == pytest.approx(2 * np.ptp(box, axis=0).max())


def test_a_slice_in_a_record_keeps_the_names_of_its_points() -> None:
    rng = np.random.default_rng(1)
    for name, points in slices.POINTS.items():
        made = slices.cut(lambda x: (x**2).sum(1), {k: rng.standard_normal(9) for k in points}, 5)
        kept = made.arrays(name)
        assert {k: (v.shape, str(v.dtype)) for k, v in kept.items()} == {
            name: ((5, 5), "float32"),
            f"{name}_axes": ((2, 5), "float32"),
            f"{name}_marks": ((4, 2), "float32"),
            f"{name}_off": ((4,), "float32"),
        }
        read = slices.Slice.from_arrays(kept, name)
        for k in points:
            np.testing.assert_allclose(read.marks[k], made.marks[k], rtol=1e-6, atol=1e-6)
            assert read.off[k] == pytest.approx(made.off[k], abs=1e-6)


def test_distances() -> None:
    got = slices.distances(np.array([[0.0, 0], [3, 4]]), np.array([[0.0, 0], [0, 4], [3, 0]]))
    assert got.tolist() == [[0, 4, 3], [5, 3, 4]]


def test_unusable_arguments_are_named() -> None:
    def f(rows: np.ndarray) -> np.ndarray:
        return rows[:, 0]

    def named(points: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip("abcd", points, strict=False))

    with pytest.raises(BadInput, match=r"shape \(2, 4\)"):
        slices.cut(f, named(np.ones((2, 4))))
    with pytest.raises(BadInput, match="finite"):
        slices.cut(f, named(np.eye(3) / [[1], [1], [0]]))
    with pytest.raises(BadInput, match="one line"):
        slices.cut(f, named(np.outer([0, 1, 2], np.ones(4))))
    with pytest.raises(BadInput, match="one line"):
        slices.cut(f, named(np.ones((3, 4))))
    with pytest.raises(BadInput, match="size = 1"):
        slices.cut(f, named(np.eye(3)), size=1)
    with pytest.raises(BadInput, match="threshold = -1"):
        slices.minima(grid(np.zeros((5, 5))), -1)
