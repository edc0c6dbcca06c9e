"""Measures of a run's surroundings against exact formulas, and the absence of local maximizers."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch

from samlib.certify.exact_network import NetworkLoss
from samlib.experiments import curvature, lanczos
from samlib.training import loop
from samlib.training.spec import Run, RunSpec
from samlib.training.stacked_loss import StackedLoss

SPEC = RunSpec(
    features="pca:6", n=50, width=5, rho=2.0, lr=0.1, steps=300, weight_decay=0.01, dtype="float64"
)  # fmt: skip


@pytest.fixture(scope="module")
def run() -> Run:
    return loop.train(SPEC)


@pytest.fixture(scope="module")
def f() -> StackedLoss:
    return loop.objective(SPEC)[0]


@pytest.fixture(scope="module")
def exact(f: StackedLoss) -> NetworkLoss:
    """The same loss by the exact formulas of :mod:`samlib.certify.exact_network`."""
    return NetworkLoss(f.x.numpy(), f.y.numpy(), 5, loss="ce", decay=0.01)


def test_hessians_at_both_ends_are_those_of_exact_formulas(
    run: Run, f: StackedLoss, exact: NetworkLoss
) -> None:
    got, arrays = curvature.hessian(run, f)
    g = exact.grad(run.theta)
    for name, theta in (("", run.theta), ("shifted_", run.theta + 2 * g / np.linalg.norm(g))):
        lam = np.linalg.eigvalsh(exact.hess(theta))
        size = np.abs(lam).max()
        assert got[f"{name}hessian_min"] == pytest.approx(lam[0], abs=1e-9)
        assert got[f"{name}hessian_max"] == pytest.approx(lam[-1], abs=1e-9)
        assert got[f"{name}hessian_negative"] == (lam < -1e-6 * size).sum()
        assert got[f"{name}hessian_zero"] == (abs(lam) <= 1e-6 * size).sum()
        assert got[f"{name}hessian_positive"] == (lam > 1e-6 * size).sum()
        counts = arrays[f"{name}hessian_counts"]
        assert counts.shape == (2, 13)
        assert counts[0, 3] == (lam < -1e-3 * size).sum()
        assert counts[1, 2] == (lam > 1e-2 * size).sum()
        grid, density = arrays[f"{name}hessian_density"]
        assert (density * (grid[1] - grid[0])).sum() == pytest.approx(1, abs=0.01)
    assert got["hessian_negative"] != got["shifted_hessian_negative"]


def test_large_networks_are_looked_at_by_lanczos_alone(
    run: Run, f: StackedLoss, exact: NetworkLoss, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = functools.partial(lanczos.spectrum, dense=0)  # every network is large now
    monkeypatch.setattr(lanczos, "spectrum", quick)
    got, arrays = curvature.hessian(run, f)
    assert "hessian_negative" not in got
    lam = np.linalg.eigvalsh(exact.hess(run.theta))
    assert (got["hessian_min"], got["hessian_max"]) == pytest.approx((lam[0], lam[-1]), abs=1e-5)
    edge = 0.1 * np.abs(lam).max()
    assert arrays["hessian_counts"][:, 1] == pytest.approx(
        [(lam < -edge).sum(), (lam > edge).sum()], rel=0.2
    )


def test_a_float32_run_is_measured_in_float64(exact: NetworkLoss) -> None:
    spec = dataclasses.replace(SPEC, dtype="float32", rho=0.0)
    run = loop.train(spec)
    got, _ = curvature.hessian(run, loop.objective(spec)[0])
    assert got["hessian_min"] == pytest.approx(
        np.linalg.eigvalsh(exact.hess(run.theta))[0], abs=1e-6
    )


def test_the_map_is_theorys(run: Run, f: StackedLoss, exact: NetworkLoss) -> None:
    g = exact.grad(run.theta)
    norm, here = np.linalg.norm(g), exact.hess(run.theta)
    there, u = exact.hess(run.theta + 2 * g / norm), g / norm
    m = there @ (np.eye(len(g)) + 2 / norm * (np.eye(len(g)) - np.outer(u, u)) @ here)
    top = np.abs(np.linalg.eigvals(np.eye(len(g)) - 0.1 * m)).max()
    got, _ = curvature.sam_map(run, f)
    assert got["map_excess"] == pytest.approx(top - 1, abs=1e-9)
    assert np.hypot(got["map_real"], got["map_imag"]) == pytest.approx(top, abs=1e-9)
    twin = dataclasses.replace(run, spec=SPEC.twin())
    plain = np.abs(1 - 0.1 * np.linalg.eigvalsh(here)).max()
    assert curvature.sam_map(twin, f)[0]["map_excess"] == pytest.approx(plain - 1, abs=1e-9)
    other = dataclasses.replace(run, spec=dataclasses.replace(SPEC, rule="gsam"))
    assert curvature.sam_map(other, f) == ({}, {})


def test_the_slice_holds_its_points_and_their_losses(
    run: Run, f: StackedLoss, exact: NetworkLoss
) -> None:
    _, got = curvature.loss_slice(run, f)
    assert got["slice"].shape == (61, 61)
    assert got["slice"].dtype == np.float32
    end, x, plus, start = got["slice_marks"]
    assert np.linalg.norm(x - plus) == pytest.approx(2.0, rel=1e-5)  # ρ
    twin = loop.train(SPEC.twin()).theta
    assert np.linalg.norm(x - end) == pytest.approx(np.linalg.norm(run.theta - twin), rel=1e-5)
    first = f.initial(0).numpy()
    there = got["slice_off"][3] ** 2 + ((start - end) ** 2).sum()
    assert there == pytest.approx(((first - twin) ** 2).sum(), rel=1e-5)
    # the row of the grid nearest to the line from the minimizer to x
    g = exact.grad(run.theta)
    corners = np.stack([twin, run.theta, run.theta + 2 * g / np.linalg.norm(g)])
    q = np.linalg.solve(got["slice_marks"][1:3], corners[1:] - corners[0])  # frame (2, p)
    for row, column in ((0, 0), (30, 30), (12, 47)):
        at = twin + np.array([got["slice_axes"][0][column], got["slice_axes"][1][row]]) @ q
        assert got["slice"][row, column] == pytest.approx(exact.f(at), rel=1e-4)
    assert curvature.loss_slice(dataclasses.replace(run, spec=SPEC.twin()), f) == ({}, {})


def test_pairs_of_hills_and_valleys_are_counted_from_their_places(run: Run, f: StackedLoss) -> None:
    got, arrays = curvature.persistence(run, f)
    low, high = arrays["plane_minima"], arrays["plane_maxima"]
    assert got["slice_minima"] == len(low) >= 1
    assert got["slice_maxima"] == len(high)
    far = [np.hypot(*(a[:2] - b[:2])) for a in high for b in low]
    assert got["slice_max_min"] == len(far)
    assert got["slice_max_min_within"] == sum(d < 2.0 for d in far)
    if far:
        assert got["slice_max_min_nearest"] == pytest.approx(min(far), rel=1e-5)
    two = [np.hypot(*(a[:2] - b[:2])) for i, a in enumerate(low) for b in low[:i]]
    assert got["slice_min_min"] == len(two)
    assert min([*low[:, 3], *high[:, 3]]) > 0.01 * f.baseline
    marks = arrays["plane_marks"]
    np.testing.assert_allclose(marks[0], 0, atol=1e-6)  # start, x⁺, minimizer, x
    np.testing.assert_allclose(arrays["plane_off"][:3], 0, atol=1e-5)
    assert arrays["plane_off"][3] > 0


@pytest.mark.parametrize("loss", ["ce", "mse"])
def test_ascent_escapes_and_ends_at_no_maximizer(loss: str) -> None:
    spec = dataclasses.replace(SPEC, loss=loss, weight_decay=0.0, steps=4000)
    run, (f, _) = loop.train(dataclasses.replace(spec, steps=1)), loop.objective(spec)
    got, _ = curvature.ascent(dataclasses.replace(run, spec=spec), f)
    assert got["ascent_escaped"] == 1
    assert got["ascent_loss"] > 100 * f.baseline
    assert 0 < got["ascent_steps"] < 4000
    assert got["ascent_grad_norm"] > 0.1
    assert got["ascent_hessian_positive"] >= 9
    few, _ = curvature.ascent(dataclasses.replace(run, spec=dataclasses.replace(spec, steps=3)), f)
    theta = f.initial(0)[None]
    for _ in range(3):
        theta = theta + 0.1 * f.grad(theta)
    away = float((theta - f.initial(0)).norm())
    assert few["ascent_escaped"] == 0
    assert few["ascent_distance"] == pytest.approx(away, rel=1e-9)
    assert few["ascent_loss"] == pytest.approx(float(f.f(theta)), rel=1e-9)


def test_symmetric_copies_of_the_minimizer_are_as_far_as_said(
    run: Run, f: StackedLoss, exact: NetworkLoss
) -> None:
    got, arrays = curvature.symmetry(run, f)
    twin = loop.train(SPEC.twin()).theta
    flips = [exact.flip_unit(twin, j) for j in range(5)]
    swaps = [exact.swap_units(twin, i, j) for i in range(5) for j in range(i)]
    for name, copies in (("flip", flips), ("swap", swaps)):
        far = np.sort([np.linalg.norm(c - twin) for c in copies])
        np.testing.assert_allclose(arrays[f"{name}s"], far, rtol=1e-6)
        assert got[f"{name}_nearest"] == pytest.approx(far[0], rel=1e-6)
        assert [exact.f(c) for c in copies] == pytest.approx([exact.f(twin)] * len(copies))
    assert got["minimizer_grad_norm"] == pytest.approx(np.linalg.norm(exact.grad(twin)))
    relu = dataclasses.replace(run, spec=dataclasses.replace(SPEC, activation="relu"))
    assert curvature.symmetry(relu, f) == ({}, {})


@pytest.mark.parametrize(("loss", "least"), [("ce", 9), ("mse", 10), ("logistic", 1)])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_linear_last_layer_leaves_no_local_maximizer(
    loss: str, least: int, activation: str, depth: int
) -> None:
    """At every point at least k (mse), k − 1 (ce) or 1 (logistic) eigenvalues are positive.

    Checked at 20 points, for k = 10 classes: the block of the output biases is positive definite on
    that many dimensions, and so, by Cauchy's interlacing, the Hessian has as many.
    """
    kind = {"classes": (3, 8)} if loss == "logistic" else {}
    spec = RunSpec(features="pca:4", n=40, width=3, loss=loss, activation=activation, depth=depth,
                   dtype="float64", **kind)  # fmt: skip
    f, _ = loop.objective(spec)
    p = len(f.initial(0))
    draw = torch.Generator().manual_seed(0)
    for size in np.geomspace(0.01, 1, 20):
        theta = size * torch.randn(1, p, generator=draw, dtype=torch.float64)
        whole = lanczos.matrix(lanczos.hessian(f, theta), theta)
        k = 1 if loss == "logistic" else 10
        block = torch.linalg.eigvalsh(whole[-k:, -k:])
        top = torch.linalg.eigvalsh(whole)
        assert (block > 1e-12).sum() >= least
        assert (top > 1e-12).sum() >= least


def test_with_relu_the_output_biases_alone_forbid_a_maximizer() -> None:
    """Along e₁ − e₂ of the output biases f rises on one side or the other of every point."""
    spec = RunSpec(n=40, width=3, activation="relu", dtype="float64")
    f, _ = loop.objective(spec)
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        theta = torch.randn(1, len(f.initial(0)), generator=draw, dtype=torch.float64)
        step = torch.zeros_like(theta)
        step[0, -10:-8] = torch.tensor([0.1, -0.1])
        values = curvature._values(f, torch.cat([theta - step, theta, theta + step]).numpy())
        assert max(values[0], values[2]) > values[1]
        assert values[0] + values[2] > 2 * values[1]
