"""Measures against quantities worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from samlib import measures, train
from samlib.errors import BadInput
from samlib.runs import RunSpec

SPEC = RunSpec(n=80, width=4, rho=2.0, lr=0.05, steps=10, dtype="float64")


def test_the_image_of_a_constant_predictor() -> None:
    run = train.train(dataclasses.replace(SPEC, rho=0.0))
    f, _ = train.objective(SPEC)
    got, _ = measures.image(dataclasses.replace(run, theta=np.zeros_like(run.theta)), f)
    prior = np.bincount(f.y.numpy()) / 80
    assert got["entropy"] == pytest.approx(np.log(10), abs=1e-12)
    assert got["spread"] == pytest.approx(0, abs=1e-12)
    assert got["prior_gap"] == pytest.approx(-np.log(10 * prior).mean(), abs=1e-12)


def test_the_image_lies_at_x_plus() -> None:
    run = train.train(SPEC)
    f, _ = train.objective(SPEC)
    got, _ = measures.image(run, f)
    x = torch.as_tensor(run.theta)[None]
    g = f.grad(x)[0]
    there = dataclasses.replace(run, theta=run.theta + 2.0 * (g / g.norm()).numpy())
    again, _ = measures.image(there, f)
    for name in ("entropy", "spread", "prior_gap"):
        assert got[f"shifted_{name}"] == pytest.approx(again[name], abs=1e-12)
    assert got["entropy"] != pytest.approx(got["shifted_entropy"], abs=1e-3)


def test_an_unknown_measure_is_named() -> None:
    run = train.train(SPEC)
    with pytest.raises(BadInput, match="image"):
        measures.take(["nothing"], run, train.objective(SPEC)[0])
