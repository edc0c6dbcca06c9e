"""Chapter 10's networks: dead layers of ReLU against calculus, and what the records say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pytest
import torch
from figures.ch10 import critical_radius

from samlib.dynamics import rules
from samlib.errors import BadInput
from samlib.experiments import measures, records
from samlib.training import loop
from samlib.training.spec import Run, RunSpec

SPEC = RunSpec(
    n=100, width=4, activation="relu", lr=0.1, rho=1.0, seed=3, steps=3000, dtype="float64"
)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return loop.train_many([SPEC.from_json(SPEC.to_json() | {"seed": s}) for s in (2, 3, 4)])


@pytest.mark.slow
def test_relu_networks_end_in_strict_hallucinations(runs: list[Run]) -> None:
    """No weight decay, PyTorch's initialisation, ten classes: the gradient at x⁺ is rounding."""
    for run in runs:
        f, _ = loop.objective(run.spec)
        assert run.verdict == "hallucinated"
        assert run.metrics["grad_ratio"] < 1e-10
        assert run.metrics["grad_norm"] > 0.1
        assert run.metrics["loss"] > 2.2
        assert run.metrics["twin_loss"] < 0.8
        assert run.metrics["shifted_loss"] == pytest.approx(f.baseline, abs=1e-12)
        off, _ = measures.units(run, f)
        assert off["shifted_dead"] == off["shifted_blank"] == 1
        assert off["dead"] < 1


def test_the_image_of_a_dead_layer_is_a_minimizer(runs: list[Run]) -> None:
    """Around x⁺, in a ball in which the layer stays dead, no loss lies below that at x⁺."""
    f, _ = loop.objective(SPEC)
    draw = torch.Generator().manual_seed(0)
    for run in runs:
        _, plus = loop.endpoints(run, f)
        w, b, *_ = (p[0] for p in f.stacked.parts(plus))
        z = f.x @ w.T + b
        assert z.max() < 0
        # a step of norm r in (w, b) raises a preactivation by at most r·‖(x, 1)‖
        radius = float((-z / (1 + (f.x**2).sum(1, keepdim=True)).sqrt()).min())
        away = torch.randn(200, plus.shape[1], generator=draw, dtype=torch.float64)
        away *= 0.99 * radius / away.norm(dim=1, keepdim=True)
        losses = f.f(torch.cat([plus, plus + away]))
        assert (losses[1:] >= losses[0] - 1e-13).all()
        assert losses[1:].max() > losses[0] + 1e-9  # and it is not flat


def test_only_the_output_biases_move_and_their_jacobian_is_the_theorem_s(runs: list[Run]) -> None:
    k, h = 10, 1e-6
    for run in runs:
        f, _ = loop.objective(run.spec)
        x = torch.as_tensor(run.theta)[None]
        jacobian = np.empty((k, k))
        for j in range(k):
            e = torch.zeros_like(x)
            e[0, -k + j] = h
            ahead, behind = (rules.sam(f, x + s * e, run.spec.rho)[0][0] for s in (1, -1))
            assert ahead[:-k].abs().max() == 0  # only the output biases move
            assert abs(float(ahead[-k:].sum())) < 1e-15  # and their sum does not
            jacobian[:, j] = (ahead - behind)[-k:].numpy() / (2 * h)
        block = _bias_block(run, f)
        np.testing.assert_allclose(jacobian, block, atol=1e-7)
        values = np.linalg.eigvals(block)
        nonzero = values[np.abs(values) > 1e-9]
        assert len(nonzero) == k - 1
        assert nonzero.real.min() > 0.05
        rates = np.abs(1 - run.spec.lr * nonzero)
        ratio = run.trace.grad_ratio
        last = int(np.flatnonzero(ratio < 1e-11)[0])
        measured = (ratio[last] / ratio[last - 100]) ** 0.01
        assert rates.min() - 1e-3 < measured < rates.max() + 1e-3


def _bias_block(run: Run, f: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """S·M_cc from its definition, by finite differences of the gradient."""
    k = 10
    x = torch.as_tensor(run.theta)[None]
    g = f.grad(x)[0].numpy()
    h, columns = 1e-6, []
    for j in range(k):
        e = torch.zeros_like(x)
        e[0, -k + j] = h
        columns.append((f.grad(x + e)[0] - f.grad(x - e)[0]).numpy() / (2 * h))
    hess = np.array(columns).T  # (p, k): H_h restricted to directions in the biases
    size = np.linalg.norm(g)
    u = g / size
    m = np.eye(k) + run.spec.rho / size * (hess - np.outer(u, u @ hess))[-k:]
    pi = np.bincount(f.y.numpy(), minlength=k) / len(f.y)
    return np.asarray((np.diag(pi) - np.outer(pi, pi)) @ m)


def _runs(values: dict[float, float]) -> pandas.DataFrame:
    return pandas.DataFrame(values.items(), columns=["rho", "progress"])


def test_the_critical_radius_by_hand() -> None:
    found = critical_radius(_runs({4.0: 0.1, 0.0: 1.0, 1.0: 0.9, 2.0: 0.3}))
    assert found == pytest.approx(2 ** (2 / 3))  # 0.4 of the way down 0.6, in log ρ
    assert critical_radius(_runs({1.0: 0.9, 2.0: 0.1, 4.0: 0.9})) == pytest.approx(2**0.5)
    for values in ({1.0: 0.9, 2.0: 0.6}, {1.0: 0.4, 2.0: 0.1}):
        with pytest.raises(BadInput, match="1/2"):
            critical_radius(_runs(values))


def test_the_critical_radius_grows_with_the_width_and_not_with_the_minimizer() -> None:
    runs = records.read_records("width-digits")
    by_seed = runs.groupby(["width", "seed"])
    found = np.reshape([critical_radius(group) for _, group in by_seed], (7, 3))
    mean = found.mean(1)
    assert (np.diff(mean) > 0).all()
    assert found[-1].min() > 4 * found[0].max()
    assert (np.ptp(found, 1) < 0.35).all()
    norms = runs[runs.rho == 0].groupby("width").norm.mean()
    assert norms.min() > 8.5
    assert norms.max() < 11
    parameters = np.log(75 * norms.index + 10)
    assert np.corrcoef(parameters, mean)[0, 1] ** 2 > 0.97
    assert np.corrcoef(np.log(norms), np.log(mean))[0, 1] ** 2 < 0.1
