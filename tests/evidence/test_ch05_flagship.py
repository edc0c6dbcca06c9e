"""Setting P: on real digits SAM converges to a hallucinated point whose image GD's minimizer is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from samlib.dynamics import rules
from samlib.training.loop import objective, train_many
from samlib.training.spec import Run, RunSpec

P = RunSpec(
    classes=(3, 8),
    features="pixels",
    n=100,
    width=1,
    loss="logistic",
    weight_decay=0.03,
    rho=3.5,
    lr=0.05,
    steps=12_000,
    dtype="float64",
)


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return train_many([dataclasses.replace(P, seed=s) for s in range(10)] + [P.twin()])


@pytest.mark.slow
def test_every_seed_converges_to_a_hallucinated_point(runs: list[Run]) -> None:
    for run in runs[:10]:
        assert run.verdict == "hallucinated"
        assert run.metrics["grad_ratio"] < 1e-8
        assert run.metrics["grad_norm"] > 1e-2
        assert run.metrics["loss"] == pytest.approx(0.656, abs=5e-4)
        assert run.metrics["shifted_loss"] == pytest.approx(0.247, abs=5e-4)


def test_the_image_is_gradient_descents_minimizer_up_to_a_sign_flip(runs: list[Run]) -> None:
    f, _ = objective(P)
    minimizer = runs[10].theta
    mirror = np.r_[-minimizer[:-1], minimizer[-1]]
    for run in runs[:10]:
        plus = rules.sam(f, torch.tensor(run.theta)[None], P.rho).x_plus
        distances = [np.linalg.norm(plus[0].numpy() - m) for m in (minimizer, mirror)]
        assert min(distances) < 1e-6
        assert np.linalg.norm(run.theta - plus[0].numpy()) == pytest.approx(3.5, abs=1e-9)


def test_the_loss_restated_from_the_images(runs: list[Run]) -> None:
    digits = load_digits()
    rows = np.flatnonzero(np.isin(digits.target, (3, 8)))[:100]
    x, y = digits.data[rows] / 16 - 0.25, digits.target[rows] == 8
    theta = runs[0].theta
    z = theta[65] * np.tanh(x @ theta[:64] + theta[64]) + theta[66]
    loss = np.mean(np.log1p(np.exp(np.where(y, -z, z)))) + 0.015 * theta @ theta
    assert runs[0].metrics["loss"] == pytest.approx(loss, abs=1e-12)
    assert runs[0].metrics["train_accuracy"] == np.mean((z > 0) == y)
