"""Trajectories and basins, and the double well of theory §3 in closed form."""

from __future__ import annotations

import warnings
from functools import partial
from itertools import pairwise

import mpmath
import numpy as np
import pytest

from samlib.dynamics import rules, trajectories
from samlib.errors import BadInput
from samlib.landscapes import symbolic

WELL = symbolic.landscape("double-well")
ETA, RHO = 0.1, 1.2
# theory §3, as printed there
A = [1.2836116205439072, 2.1539960586019787, 2.4861937955576269]
X_C = 2.6407268605529774


def outer(x: mpmath.mpf) -> mpmath.mpf:
    """T on x > 1, where x⁺ = x + ρ, at 30 digits."""
    t = x + mpmath.mpf("1.2")
    return x - (t**3 - t) / 10


def ends(x: np.ndarray | list[float], steps: int = 4000) -> np.ndarray:
    return trajectories.trajectory(WELL, np.asarray(x)[:, None], RHO, ETA, steps)[-1, :, 0]


@pytest.mark.parametrize("rule", rules.names())
@pytest.mark.parametrize("name", ["double-well", "camel", "twist", "ring"])
def test_a_batch_equals_a_plain_loop_bit_for_bit(rule: str, name: str) -> None:
    landscape = symbolic.landscape(name)
    starts = trajectories.grid(landscape, 4)
    batch = trajectories.trajectory(landscape, starts, 0.7, 0.05, 30, rule)
    assert batch.shape == (31, *starts.shape)
    for i in np.ndindex(starts.shape[:-1]):
        x = starts[i]
        for k in range(31):
            np.testing.assert_array_equal(batch[(k, *i)], x)
            with np.errstate(all="ignore"):
                x = x - 0.05 * rules.get(rule)(landscape, x, 0.7)[0]


def test_trajectory_iterates_the_sam_map() -> None:
    landscape, x = symbolic.landscape("himmelblau"), np.array([[1.0, 2.0], [-3.0, 0.5]])
    orbit = trajectories.trajectory(landscape, x, 0.3, 0.01, 3)
    step = trajectories.sam_map(landscape, 0.3, 0.01)
    np.testing.assert_array_equal(orbit[3], step(step(step(x))))
    g = landscape.grad(x)
    shifted = x + 0.3 * g / np.linalg.norm(g, axis=-1, keepdims=True)
    np.testing.assert_allclose(step(x), x - 0.01 * landscape.grad(shifted), rtol=1e-12)


def test_eta_zero_stays_and_rho_zero_descends() -> None:
    landscape, x = symbolic.landscape("camel"), trajectories.grid(symbolic.landscape("camel"), 5)
    np.testing.assert_array_equal(trajectories.trajectory(landscape, x, 0.5, 0.0, 4)[-1], x)
    plain = trajectories.trajectory(landscape, x, 0.0, 0.01, 4, "gd")
    np.testing.assert_array_equal(trajectories.trajectory(landscape, x, 0.0, 0.01, 4), plain)


def test_arrays_of_rho_and_rules_with_arguments() -> None:
    landscape, x = symbolic.landscape("camel"), np.full((3, 2), 0.4)
    rho = np.array([[0.1], [0.2], [0.3]])
    together = trajectories.trajectory(landscape, x, rho, 0.01, 5, partial(rules.gsam, alpha=0.2))
    for i in range(3):
        gsam = partial(rules.gsam, alpha=0.2)
        alone = trajectories.trajectory(landscape, x[i], float(rho[i, 0]), 0.01, 5, gsam)
        np.testing.assert_array_equal(together[:, i], alone)


@pytest.mark.parametrize("rho", [0.3, 1.2, 1.9, 2.5])
def test_the_surrogate_of_the_double_well_piece_by_piece(rho: float) -> None:
    """f^SAM is f(x − ρ) on (0, 1) and x < −1, and f(x + ρ) on (−1, 0) and x > 1."""
    x = np.random.default_rng(0).uniform(-3, 3, 500)
    left = ((x > 0) & (x < 1)) | (x < -1)
    plus = np.where(left, x - rho, x + rho)
    direction, at, *_ = rules.sam(WELL, x[:, None], rho)
    np.testing.assert_allclose(at[:, 0], plus, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(WELL.f(at), (plus**2 - 1) ** 2 / 4, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(direction[:, 0], plus**3 - plus, rtol=1e-11, atol=1e-12)


def hallucinated(rho: float) -> dict[float, float]:
    """{x_h: image}: those of the six points at distance ρ from a critical point that look at it."""
    found = {}
    for image in (-1.0, 0.0, 1.0):
        for x in (image - rho, image + rho):
            looks_at = rules.sam(WELL, np.array([x]), rho)[1][0]
            if abs(x**3 - x) > 1e-9 and abs(looks_at - image) < 1e-12:
                found[round(x, 12)] = image
    return found


@pytest.mark.parametrize("rho", [0.05, 0.5, 0.99])
def test_small_rho_has_the_two_repelling_points_at_rho(rho: float) -> None:
    assert hallucinated(rho) == {rho: 0.0, -rho: 0.0}
    h = 1e-7
    step = trajectories.sam_map(WELL, rho, ETA)
    slope = (step(np.array([rho + h])) - step(np.array([rho - h]))) / (2 * h)
    assert slope[0] == pytest.approx(1 + ETA, abs=1e-7)


@pytest.mark.parametrize("rho", [1.01, 1.2, 1.5, 1.99])
@pytest.mark.parametrize("eta", [0.1, 0.9])
def test_middle_rho_has_the_two_attracting_points_at_rho_minus_one(rho: float, eta: float) -> None:
    point = round(rho - 1, 12)
    assert hallucinated(rho) == {point: -1.0, -point: 1.0}
    step, h = trajectories.sam_map(WELL, rho, eta), 1e-7
    slope = (step(np.array([point + h])) - step(np.array([point - h]))) / (2 * h)
    assert slope[0] == pytest.approx(1 - 2 * eta, abs=1e-6)
    end = trajectories.trajectory(WELL, [point + 1e-3], rho, eta, 500)[-1, 0]
    assert end == pytest.approx(point, abs=1e-12)


def test_eta_above_one_does_not_attract() -> None:
    orbit = trajectories.trajectory(WELL, [0.2 + 1e-6], RHO, 1.05, 60)[:, 0]
    assert abs(orbit[60] - 0.2) > 1e-4


@pytest.mark.parametrize("rho", [1.0, 2.0, 2.5, 4.0])
def test_no_point_at_one_and_from_two_on(rho: float) -> None:
    assert hallucinated(rho) == {}


def test_the_ends_of_the_intervals_to_all_printed_digits() -> None:
    """T(a₁) = 0, T(a_{k+1}) = −a_k, T(x_c) = −x_c; x_c = t − 1.2 with t³ − 21t + 24 = 0."""
    mpmath.mp.dps = 30
    target = mpmath.mpf(0)
    for printed in A:
        root = mpmath.findroot(lambda x, y=target: outer(x) + y, printed)
        assert float(root) == printed
        target = root
    largest = max(mpmath.polyroots([1, 0, -21, 24], maxsteps=200), key=mpmath.re)
    assert float(mpmath.re(largest) - mpmath.mpf("1.2")) == X_C
    for _ in range(200):
        target = mpmath.findroot(lambda x, y=target: outer(x) + y, X_C)
    assert float(target) == pytest.approx(X_C, abs=1e-12)  # a_k increases to x_c


def test_where_each_interval_of_the_double_well_ends() -> None:
    """(0, 1) ∪ (1, a₁) → 0.2, then alternately −0.2 and 0.2, to 12 digits at each a_k."""
    near = 1 + 1e-12
    cuts = [0.0, 1.0, *A]
    inside = np.concatenate(
        [np.linspace(a * near + 1e-13, b / near, 400) for a, b in pairwise(cuts)]
    )
    expected = np.where(inside < A[0], 0.2, np.where(inside < A[1], -0.2, 0.2))
    np.testing.assert_allclose(ends(inside), expected, atol=1e-12)
    np.testing.assert_allclose(ends(-inside), -expected, atol=1e-12)  # T is odd


def test_outside_x_c_the_double_well_diverges() -> None:
    far = np.array([X_C * (1 + 1e-12), 2.7, 3.0, 100.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in (far, -far):
            assert not np.isfinite(ends(x)).any()
    assert np.isfinite(ends([X_C * (1 - 1e-12)])).all()


def test_no_start_reaches_a_true_minimizer() -> None:
    starts = np.random.default_rng(2).uniform(-X_C, X_C, size=(20_000, 1))
    result = trajectories.basins(WELL, starts, RHO, ETA, 2000)
    assert (result.labels >= 0).all()
    np.testing.assert_allclose(result.limits, [[-0.2], [0.2]], atol=1e-14)
    np.testing.assert_allclose(result.images, [[1.0], [-1.0]], atol=1e-14)
    np.testing.assert_allclose(result.grad_norms, 0.192, atol=1e-14)  # |0.008 − 0.2|
    assert result.hallucinated.all()
    assert np.abs(np.abs(result.ends) - 1).min() > 0.7


def test_basins_label_as_the_trajectories_end() -> None:
    starts = np.linspace(-3, 3, 601)[:, None]
    result = trajectories.basins(WELL, starts, RHO, ETA, 1000)
    last = trajectories.trajectory(WELL, starts, RHO, ETA, 1000)[-1]
    for label, end in zip(result.labels, last, strict=True):
        if label == trajectories.DIVERGED:
            assert not np.isfinite(end).all()
        else:
            assert end == pytest.approx(result.limits[label], abs=1e-6)
    critical = np.abs(starts[:, 0] ** 3 - starts[:, 0]) < 1e-12
    assert not result.hallucinated[result.labels[critical]].any()
    assert result.labels.shape == (601,)


def test_basins_of_gradient_descent_are_the_true_minimizers() -> None:
    landscape = symbolic.landscape("himmelblau")
    result = trajectories.basins(
        landscape, trajectories.grid(landscape, 40), 0.0, 0.005, 3000, "gd"
    )
    assert result.limits.shape == (4, 2)
    np.testing.assert_allclose(landscape.f(result.limits), 0, atol=1e-18)
    assert not result.hallucinated.any()
    assert set(np.unique(result.labels)) == {0, 1, 2, 3}


def test_sam_hovers_at_an_ordinary_minimizer() -> None:
    """With fixed ρ, f = x²/2: the 2-cycle ±ηρ/(2 − η), and label MOVING."""
    bowl = symbolic.Landscape("x**2/2", ["x"])
    result = trajectories.basins(bowl, np.array([[0.7], [0.3], [0.0]]), 0.5, 0.1, 500)
    assert result.labels.tolist() == [trajectories.MOVING, trajectories.MOVING, 0]
    np.testing.assert_allclose(np.abs(result.ends[:2]), 0.1 * 0.5 / 1.9, rtol=1e-9)
    np.testing.assert_array_equal(result.limits, [[0.0]])  # the one start at the critical point
    assert not result.hallucinated.any()


def test_a_ring_of_limits_is_one_basin() -> None:
    landscape = symbolic.landscape("ring")
    result = trajectories.basins(landscape, trajectories.grid(landscape, 80), RHO, ETA, 1000)
    assert len(result.limits) == 1
    assert np.linalg.norm(result.limits[0]) == pytest.approx(RHO - 1, abs=1e-12)
    radii = np.linalg.norm(result.ends[result.labels == 0], axis=-1)
    np.testing.assert_allclose(radii, RHO - 1, atol=1e-6)


def test_the_exact_surrogate_attracts_where_sam_is_repelled() -> None:
    """theory §§2, 4: the constrained minimum (1, 0) of ``twist`` at ρ = 1."""
    landscape, start = symbolic.landscape("twist"), np.array([1 + 1e-4, 1e-4])
    away = trajectories.trajectory(landscape, start, 1.0, 0.03, 500)
    assert np.nanmax(np.abs(away - [1, 0])) > 1e-2  # and from there on it diverges
    back = trajectories.trajectory(landscape, start, 1.0, 0.03, 10_000, "exact")[-1]
    np.testing.assert_allclose(back, [1, 0], atol=1e-9)


def test_sam_is_trapped_at_a_saddle_or_escapes() -> None:
    """theory §1: f = ½(x² − y²), ρ = η = 0.1, from (1e-6, 0.099) and (1e-6, 0.101)."""
    result = trajectories.basins(
        symbolic.landscape("saddle"), [[1e-6, 0.099], [1e-6, 0.101]], 0.1, 0.1, 3000
    )
    assert result.labels.tolist() == [trajectories.MOVING, trajectories.DIVERGED]
    assert np.abs(result.ends[0]).max() < 0.02


def test_the_limit_of_an_extra_surrogate_zero_is_not_called_hallucinated() -> None:
    landscape = symbolic.landscape("surrogate-trap")
    result = trajectories.basins(
        landscape, trajectories.grid(landscape, 30), RHO, ETA, 1000, "exact"
    )
    assert len(result.limits) >= 1
    assert result.grad_norms[0] > 0.1
    assert not result.hallucinated.any()


@pytest.mark.slow
def test_a_basin_picture_of_512_squared_takes_seconds() -> None:
    import time

    landscape = symbolic.landscape("double-well-2d")
    began = time.perf_counter()
    result = trajectories.basins(landscape, trajectories.grid(landscape, 512), RHO, ETA, 500)
    assert time.perf_counter() - began < 20  # 1 s on an idle core
    assert result.labels.shape == (512, 512)


def test_grid_covers_the_box_in_image_order() -> None:
    points = trajectories.grid(symbolic.landscape("double-well-2d"), 5)
    assert points.shape == (5, 5, 2)
    np.testing.assert_array_equal(points[0, :, 0], [-2, -1, 0, 1, 2])
    np.testing.assert_array_equal(points[:, 0, 1], [-1.5, -0.75, 0, 0.75, 1.5])


def test_no_starts_is_no_error() -> None:
    result = trajectories.basins(WELL, np.zeros((0, 1)), RHO, ETA, 10)
    assert result.labels.shape == (0,)
    assert result.limits.shape == (0, 1)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["rho", "eta"])
def test_bad_rho_and_eta_are_refused(name: str, value: float) -> None:
    good = {"rho": 0.1, "eta": 0.1, "steps": 5}
    for function in (trajectories.trajectory, trajectories.basins):
        with pytest.raises(BadInput, match=rf"{name} = {value}.* ≥ 0; try {name} = 0.1"):
            function(WELL, [[0.5]], **(good | {name: value}))
    with pytest.raises(BadInput, match=name):
        trajectories.sam_map(WELL, **{"rho": 0.1, "eta": 0.1, name: value})


@pytest.mark.parametrize("steps", [0, -3, 2.5, True, "10"])
def test_bad_steps_are_refused(steps: object) -> None:
    for function in (trajectories.trajectory, trajectories.basins):
        with pytest.raises(BadInput, match=r"steps = .* is not a whole number ≥ 1; try steps"):
            function(WELL, [[0.5]], 0.1, 0.1, steps)  # type: ignore[arg-type]


def test_bad_starts_and_rules_are_refused() -> None:
    with pytest.raises(BadInput, match=r"\(\.\.\., 1\)"):
        trajectories.trajectory(WELL, [0.5, 0.2], 0.1, 0.1, 5)
    with pytest.raises(BadInput, match="rule 'adam' is unknown; use one of gd, sam"):
        trajectories.trajectory(WELL, [0.5], 0.1, 0.1, 5, "adam")
