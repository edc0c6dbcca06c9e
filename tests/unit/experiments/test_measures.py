"""Measures against quantities worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from samlib.errors import BadInput
from samlib.experiments import measures
from samlib.training import loop
from samlib.training.spec import RunSpec

SPEC = RunSpec(n=80, width=4, rho=2.0, lr=0.05, steps=10, dtype="float64")


def test_the_image_of_a_constant_predictor() -> None:
    run = loop.train(dataclasses.replace(SPEC, rho=0.0))
    f, _ = loop.objective(SPEC)
    got, _ = measures.image(dataclasses.replace(run, theta=np.zeros_like(run.theta)), f)
    prior = np.bincount(f.y.numpy()) / 80
    assert got["entropy"] == pytest.approx(np.log(10), abs=1e-12)
    assert got["spread"] == pytest.approx(0, abs=1e-12)
    assert got["prior_gap"] == pytest.approx(-np.log(10 * prior).mean(), abs=1e-12)


def test_the_image_lies_at_x_plus() -> None:
    run = loop.train(SPEC)
    f, _ = loop.objective(SPEC)
    got, _ = measures.image(run, f)
    x = torch.as_tensor(run.theta)[None]
    g = f.grad(x)[0]
    there = dataclasses.replace(run, theta=run.theta + 2.0 * (g / g.norm()).numpy())
    again, _ = measures.image(there, f)
    for name in ("entropy", "spread", "prior_gap"):
        assert got[f"shifted_{name}"] == pytest.approx(again[name], abs=1e-12)
    assert got["entropy"] != pytest.approx(got["shifted_entropy"], abs=1e-3)


def test_a_run_that_diverged_is_not_measured() -> None:
    run = loop.train(SPEC)
    gone = dataclasses.replace(run, theta=np.full_like(run.theta, np.nan))
    assert measures.take(["norms", "image"], gone, loop.objective(SPEC)[0]) == ({}, {})


def test_a_logistic_output_is_the_probability_of_the_second_class() -> None:
    spec = dataclasses.replace(SPEC, classes=(3, 8), loss="logistic")
    f, _ = loop.objective(spec)
    theta = f.initial(0)[None]
    p = f.predict(theta)[0]
    assert p.sum(0).numpy() == pytest.approx(1, abs=1e-12)
    out = f.stacked.forward(f.stacked.parts(theta), f.x)[0, 0]
    assert p[1].numpy() == pytest.approx(torch.sigmoid(out).numpy(), abs=1e-12)


def test_an_unknown_measure_is_named() -> None:
    run = loop.train(SPEC)
    with pytest.raises(BadInput, match="image"):
        measures.take(["nothing"], run, loop.objective(SPEC)[0])


def test_units_that_are_off_are_counted_by_hand() -> None:
    """Two ReLU units: one is dead by its bias at x, and the other is cut off by SAM's step."""
    spec = dataclasses.replace(SPEC, width=2, activation="relu", rho=1e-9)
    f, _ = loop.objective(spec)
    run = loop.train(spec)
    w, b = run.theta[: 2 * 64].reshape(2, 64), run.theta[2 * 64 : 2 * 64 + 2]
    z = f.x.numpy() @ w.T + b
    got, _ = measures.units(run, f)
    assert got["off"] == pytest.approx((z <= 0).mean(), abs=1e-12)
    assert got["blank"] == pytest.approx((z <= 0).all(1).mean(), abs=1e-12)
    assert 0 < got["blank"] < got["off"] < 1
    theta = run.theta.copy()
    theta[2 * 64] = -1e3
    got, _ = measures.units(dataclasses.replace(run, theta=theta), f)
    assert got["dead"] == 0.5
    assert got["off"] == pytest.approx(0.5 + (z[:, 1] <= 0).mean() / 2, abs=1e-12)
    theta[2 * 64 + 1] = 30.0  # alive on all examples, and SAM looks from here ...
    away = dataclasses.replace(run, theta=theta, spec=dataclasses.replace(spec, rho=1e4))
    got, _ = measures.units(away, f)
    x = torch.as_tensor(theta)[None]
    g = f.grad(x)[0]
    plus = (x[0] + 1e4 * g / g.norm()).numpy()
    z = f.x.numpy() @ plus[: 2 * 64].reshape(2, 64).T + plus[2 * 64 : 2 * 64 + 2]
    assert got["shifted_off"] == pytest.approx((z <= 0).mean(), abs=1e-12)
    assert got["shifted_dead"] == (z <= 0).all(0).mean()


def test_saturated_tanh_units_are_off_in_every_layer() -> None:
    spec = dataclasses.replace(SPEC, depth=2, rho=0.0)
    run, (f, _) = loop.train(spec), loop.objective(spec)
    theta = np.zeros_like(run.theta)  # all activations are 0: nothing is saturated
    assert measures.units(dataclasses.replace(run, theta=theta), f)[0]["off"] == 0
    theta[4 * 64 + 1] = theta[4 * 64 + 4 + 16] = 5.0  # one bias in each layer of four
    got, _ = measures.units(dataclasses.replace(run, theta=theta), f)
    assert got["off"] == got["dead"] == 2 / 8
    assert got["blank"] == 0
    theta[4 * 64 + 1] = 2.6  # tanh 2.6 = 0.989
    assert measures.units(dataclasses.replace(run, theta=theta), f)[0]["off"] == 1 / 8
    theta[4 * 64 + 4 + 16 :][:4] = -5.0  # all of the second layer
    got, _ = measures.units(dataclasses.replace(run, theta=theta), f)
    assert got["blank"] == 1
    assert got["dead"] == 4 / 8


def test_norms_are_those_of_the_parameters() -> None:
    run, (f, _) = loop.train(SPEC), loop.objective(SPEC)
    got, _ = measures.norms(run, f)
    start = f.initial(0).numpy()
    assert got["norm"] == pytest.approx(np.sqrt((run.theta**2).sum()))
    assert got["start_norm"] == pytest.approx(np.sqrt((start**2).sum()))
    assert got["moved"] == pytest.approx(np.sqrt(((run.theta - start) ** 2).sum()))
    assert got["moved"] > 0


def test_the_look_is_as_long_as_each_rule_says() -> None:
    """SAM looks ρ far, without the norm ρ‖∇f‖, and ASAM less than ρ times the largest weight."""
    for rule in ("sam", "unnormalised", "asam"):
        run = loop.train(dataclasses.replace(SPEC, rule=rule))
        f, _ = loop.objective(SPEC)
        got, _ = measures.perturbation(run, f)
        for name, x in (("look", torch.as_tensor(run.theta)), ("look_start", f.initial(0))):
            g = f.grad(x[None])[0]
            scaled = x * x * g / (x * g).norm()
            steps = {"sam": g / g.norm(), "unnormalised": g, "asam": scaled}
            assert got[name] == pytest.approx(2.0 * float(steps[rule].norm()), rel=1e-9)
    assert got["look"] != pytest.approx(got["look_start"], rel=1e-3)
