"""The strict regime's measures against a run whose limit is known in another way."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from figures import ch05b as plots
from figures.ch05b import window

from samlib.certify.certificate import Certificate
from samlib.certify.exact_network import NetworkLoss
from samlib.diagnostics.verdicts import Trace
from samlib.errors import BadInput
from samlib.experiments import limits, records, sweeps
from samlib.training import data, loop
from samlib.training.spec import Run, RunSpec

# Setting C from a seed that collapses to one unit.
C = RunSpec(
    classes=(0, 1, 2),
    features="pca:4",
    n=60,
    width=4,
    weight_decay=0.03,
    rho=3.5,
    lr=0.2,
    steps=3000,
    dtype="float64",
)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run() -> Run:
    return loop.train(C, twins=False)


def with_ratio(run: Run, ratio: np.ndarray) -> Run:
    ones = np.ones(len(ratio))
    return dataclasses.replace(run, trace=Trace(ones, ones, ones, ratio))


def test_a_geometric_sequence_has_its_rate(run: Run) -> None:
    ratio = 0.99 ** np.arange(4000.0) + 1e-16
    got, _ = limits.tail(with_ratio(run, ratio), None)  # type: ignore[arg-type]
    assert got["rate"] == pytest.approx(0.99, abs=1e-8)
    assert got["rate_steps"] == np.ceil(np.log(1e-10) / np.log(0.99)) - np.ceil(
        np.log(1e-4) / np.log(0.99)
    )
    assert got["rate_scatter"] < 1e-3


def test_a_ratio_that_does_not_vanish_has_no_rate(run: Run) -> None:
    got, _ = limits.tail(with_ratio(run, np.full(4000, 0.5)), None)  # type: ignore[arg-type]
    assert np.isnan(list(got.values())).all()


def test_the_limit_agrees_with_the_certificate(run: Run) -> None:
    f, data = loop.objective(C)
    got, _ = limits.limit(run, f)
    proved = Certificate.load(ROOT / "book" / "certificates" / "digits-012.json")
    assert got["image_negative"] == proved.inertia.negative == 7  # type: ignore[union-attr]
    assert got["eta_max"] == pytest.approx(proved.eta_max, rel=1e-4)
    assert got["spectral_radius"] == pytest.approx(1 - 0.2 * proved.min_real_part, abs=1e-6)
    net = NetworkLoss(data.x_train, data.y_train, 4, decay="3/100")
    g = net.grad(run.theta)
    plus = run.theta + 3.5 * g / np.linalg.norm(g)
    assert got["shifted_norm"] == pytest.approx(np.linalg.norm(plus), abs=1e-9)
    assert got["norm"] == pytest.approx(np.linalg.norm(run.theta), abs=1e-12)
    measured, _ = limits.tail(run, f)
    assert measured["rate"] == pytest.approx(got["spectral_radius"], abs=5e-5)


OUTCOMES = [
    ("strict", {"grad_ratio": 1e-6 * (1 - 1e-6), "grad_norm": 1e-3 * (1 + 1e-6)}),
    ("other", {"grad_ratio": 1e-6 * (1 + 1e-6)}),
    ("other", {"grad_ratio": 1e-7, "grad_norm": 1e-3 * (1 - 1e-6)}),
    ("learns", {"progress": 0.8 * (1 + 1e-6)}),
    ("other", {"progress": 0.8 * (1 - 1e-6)}),
    ("guess", {"progress": 0.05 * (1 - 1e-6)}),
    ("guess", {"progress": -0.05 * (1 - 1e-6)}),
    ("other", {"progress": 0.05 * (1 + 1e-6)}),
    ("other", {"progress": None}),
    ("other", {"loss": None, "progress": 0.9}),
    ("weak", {"verdict": "hallucinated", "progress": 0.01}),
    ("learns", {"verdict": "hallucinated", "progress": 0.9}),
]


@pytest.mark.parametrize(("name", "change"), OUTCOMES)
def test_the_edges_of_a_recorded_outcome(name: str, change: dict[str, Any]) -> None:
    metrics = {"loss": 1.0, "grad_ratio": 1.0, "grad_norm": 0.1, "progress": 0.5} | change
    run = pandas.DataFrame([{"verdict": "running"} | metrics])
    assert list(plots.outcome(run)) == [name]


@pytest.mark.parametrize(
    ("rule", "ratio", "norm", "due"),
    [
        ("sam", 1e-6 * (1 - 1e-6), 1e-6 * (1 + 1e-6), True),
        ("sam", 1e-6 * (1 + 1e-6), 1.0, False),
        ("sam", 1e-7, 1e-6 * (1 - 1e-6), False),
        ("asam", 1e-7, 1.0, False),
    ],
)
def test_which_limits_are_classified(
    rule: str, ratio: float, norm: float, due: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(*_: object) -> None:
        asked.append(1)
        raise BadInput("no limit")

    monkeypatch.setattr(limits, "classify", refuse)
    metrics = run.metrics | {"grad_ratio": ratio, "grad_norm": norm}
    one = dataclasses.replace(run, metrics=metrics, spec=dataclasses.replace(C, rule=rule))
    got, _ = limits.limit(one, loop.objective(C)[0])
    assert bool(asked) == due
    assert np.isnan([got[k] for k in ("spectral_radius", "eta_max", "image_negative")]).all()


def test_a_surface_is_the_network_loss(run: Run) -> None:
    f, data = loop.objective(C)
    surface = limits.Surface(f, len(run.theta))
    net = NetworkLoss(data.x_train, data.y_train, 4, decay="3/100")
    x = np.random.default_rng(0).normal(size=net.dim)
    assert surface.f(x) == pytest.approx(net.f(x), abs=1e-12)
    np.testing.assert_allclose(surface.grad(x), net.grad(x), atol=1e-12)
    np.testing.assert_allclose(surface.hess(x), net.hess(x), atol=1e-12)


def test_an_experiment_keeps_as_many_points_as_it_says(tmp_path: Path) -> None:
    spec = dataclasses.replace(C, steps=60)
    sweeps.sweep([spec], tmp_path, measure=["tail", "limit"], points=9)
    assert len(records.read_curves(tmp_path, spec.id)["step"]) == 9
    (record,) = records.read(tmp_path)
    assert record["metrics"]["rate"] is None
    assert record["metrics"]["spectral_radius"] is None
    assert record["metrics"]["norm"] > 0


def test_the_window_of_setting_p_runs_from_the_zero_network_to_the_mirror_image() -> None:
    digits = data.load_data("digits", n=100, classes=(3, 8), features="pixels")

    def net(decay: float) -> NetworkLoss:
        return NetworkLoss(digits.x_train, digits.y_train, 1, loss="logistic", decay=decay)

    proved = Certificate.load(ROOT / "book" / "certificates" / "digits-3v8.json")
    w = window(net, proved, 0.03)
    flip = 2 * np.linalg.norm(proved.image[:-1])  # all but the output's bias change sign
    assert w.norm == pytest.approx(np.linalg.norm(proved.image), abs=1e-9)
    assert w.norm < w.rho[0] < w.norm + 0.1
    assert flip - 0.3 < w.rho[-1] < flip
    assert (np.diff(w.rho) > 0).all()
    assert (w.eta_max > 0).all()
    assert proved.eta_max == pytest.approx(np.interp(3.5, w.rho, w.eta_max), rel=0.1)
    low, high = w.attracts(0.05)  # SAM's runs: strict at 3.25 and 4, not at 3 and 4.5
    assert 3 < low < 3.25
    assert 4 < high < 4.5
    assert np.isnan(w.attracts(1.0)).all()


def rates(width: int) -> list[tuple[float, float]]:
    """Measured factor a step and spectral radius at the limit, for each run that has both."""
    runs = records.read(ROOT / "book" / "records" / "strict-init")
    metrics = [r["metrics"] for r in runs if r["spec"]["width"] == width]
    return [(m["rate"], m["spectral_radius"]) for m in metrics if m["rate"] is not None]


@pytest.mark.parametrize(("width", "count", "within"), [(4, 60, 1e-5), (1, 64, 2e-4)])
def test_rates_of_all_recorded_runs(width: int, count: int, within: float) -> None:
    """Setting C to 1e-5 and setting P to 2e-4, as the ledger says; and not to half of that."""
    gaps = [abs(rate - radius) for rate, radius in rates(width)]
    assert len(gaps) == count
    assert within / 2 < max(gaps) < within


def test_speed_in_setting_p_is_off_by_more_than_five_percent_in_some_runs() -> None:
    """The distance from 1 is what a run is fast or slow by: 30 of 64 are more than 5 % off."""
    speeds = [(1 - rate) / (1 - radius) for rate, radius in rates(1)]
    assert sum(abs(speed - 1) > 0.05 for speed in speeds) == 30
    assert 1.07 < max(speeds) < 1.08
