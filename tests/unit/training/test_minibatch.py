"""SAM with mini-batch noise in one gradient or in both, against steps made by hand and by train."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from samlib.errors import BadInput
from samlib.training import loop, minibatch
from samlib.training.loss import OnBatches
from samlib.training.spec import RunSpec
from samlib.training.stacked_loss import StackedLoss

SMALL = RunSpec(n=60, width=3, rho=1.5, lr=0.1, steps=25, dtype="float64")


def test_without_noise_it_is_training() -> None:
    f, _ = loop.objective(SMALL)
    x, curves = minibatch.descend(f, f.initial(0)[None], 1.5, 0.1, 25, every=1)
    run = loop.train(SMALL)
    assert x[0].numpy() == pytest.approx(run.theta, abs=1e-12)
    for name in ("loss", "grad_norm", "shifted_loss", "shifted_grad_norm"):
        assert curves[name][:, 0] == pytest.approx(getattr(run.trace, name), abs=1e-12)
    assert curves["norm"][-1, 0] == pytest.approx(float(np.linalg.norm(run.theta)))
    assert list(curves["step"]) == list(range(26))
    assert not x.is_inference()  # Hessian-vector products go on from here


@pytest.mark.parametrize(("ascent", "update"), [(None, 7), (7, None), (7, 7), (5, 9), (60, 1)])
def test_each_gradient_is_taken_on_its_own_batch(ascent: int | None, update: int | None) -> None:
    f, _ = loop.objective(SMALL)
    x = f.initial(3)[None]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(8))

    def gradient(theta: Tensor, size: int | None) -> Tensor:
        return f.grad(theta, order[: 60 if size is None else size])

    g = gradient(x, ascent)
    by_hand = x - 0.1 * gradient(x + 1.5 * g / g.norm(), update)
    got, curves = minibatch.descend(f, x, 1.5, 0.1, 1, ascent=ascent, update=update, seed=8)
    assert got.numpy() == pytest.approx(by_hand.numpy(), abs=1e-12)
    assert curves["loss"][1, 0] == pytest.approx(float(f.f(by_hand)), abs=1e-12)  # on all the data


def test_hessian_products_are_those_of_the_batch_of_the_gradient_before() -> None:
    f, _ = loop.objective(SMALL)
    rows = torch.arange(9)
    noisy = OnBatches(f, [rows, None])
    x, v = f.initial(0)[None], f.initial(1)[None]
    noisy.value_and_grad(x)
    got = noisy.hvp(x, v)
    assert torch.equal(got, f.hvp(x, v, rows))
    assert not torch.allclose(got, f.hvp(x, v))


def test_a_batch_larger_than_the_data_is_named() -> None:
    f, _ = loop.objective(SMALL)
    with pytest.raises(BadInput, match="ascent"):
        minibatch.descend(f, f.initial(0)[None], 1.0, 0.1, 1, ascent=61)


@pytest.fixture(scope="module")
def hallucinating() -> tuple[StackedLoss, Tensor, dict[str, NDArray[Any]]]:
    """Five networks on digits after 1500 full-batch steps at radius 2, and their curves."""
    f, _ = loop.objective(RunSpec(n=500, width=16))
    start = torch.stack([f.initial(seed) for seed in range(5)])
    x, curves = minibatch.descend(f, start, 2.0, 0.03, 1500, every=1500)
    return f, x, {k: v[-1] for k, v in curves.items()}


def ratio(curves: dict[str, NDArray[Any]]) -> NDArray[Any]:
    return curves["shifted_grad_norm"] / curves["grad_norm"]


@pytest.mark.slow
def test_they_hallucinate_before_the_noise(hallucinating: Any) -> None:
    _, _, now = hallucinating
    assert (ratio(now) < 0.1).sum() >= 4
    assert (now["grad_norm"] > 0.03).all()
    assert (now["loss"] > 2.15).all()


@pytest.mark.slow
def test_noise_in_the_update_alone_changes_little_in_1200_steps(hallucinating: Any) -> None:
    f, x, _ = hallucinating
    _, quiet = minibatch.descend(f, x, 2.0, 0.03, 1200, every=1200)
    _, noisy = minibatch.descend(f, x, 2.0, 0.03, 1200, update=64, seed=1, every=1200)
    assert abs(noisy["loss"][-1] - quiet["loss"][-1]).max() < 0.02
    assert noisy["norm"][-1] == pytest.approx(quiet["norm"][-1], abs=0.1)
    assert noisy["grad_norm"][-1] == pytest.approx(quiet["grad_norm"][-1], rel=0.2)


@pytest.mark.slow
def test_noise_in_the_ascent_leads_to_a_saddle_that_holds_sam_only(hallucinating: Any) -> None:
    f, x, before = hallucinating
    for update in (None, 64):
        saddle, now = minibatch.descend(f, x, 2.0, 0.03, 1200, ascent=64, update=update, seed=1)
        assert (now["grad_norm"][-1] < 0.03).all()
        assert (ratio(now)[-1] > 10).all()
        assert abs(now["loss"][-1] - f.baseline).max() < 0.01
        assert (now["norm"][-1] < before["norm"] - 0.2).all()
    _, held = minibatch.descend(f, saddle, 2.0, 0.03, 1200, every=1200)
    assert (ratio(held)[-1] > 10).all()
    assert abs(held["loss"][-1] - f.baseline).max() < 0.01
    _, freed = minibatch.descend(f, saddle, 0.0, 0.03, 1200, every=1200)
    assert (freed["loss"][-1] < 0.5).all()
