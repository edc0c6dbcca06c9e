"""What the records of the remedies and of the long runs show, beyond counts of verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest

from samlib import read_records
from samlib.experiments import records

FOLDER = Path(__file__).parents[2] / "book" / "records"


def _warm(runs: pandas.DataFrame) -> pandas.DataFrame:
    """The runs of plain SAM and of warm starts."""
    return runs.query("schedule == 'constant' and momentum == 0 and rule == 'sam'")


def test_the_shortest_warm_start_that_rescues_grows_with_the_radius() -> None:
    runs = _warm(read_records("remedy-digits"))
    for rho, needed in {2.0: 0.05, 4.0: 0.2, 8.0: 0.5}.items():
        shares = runs[runs.rho == rho].groupby("warm_start").verdict
        good = shares.agg(lambda names: set(names) == {"converged"})
        assert list(good) == [share >= needed for share in good.index]
        assert shares.size().min() >= 3


def test_sam_at_a_large_radius_undoes_a_short_warm_start() -> None:
    runs = _warm(read_records("remedy-digits", curves=True)).query("warm_start > 0")
    raised = {}
    for rho in (2.0, 8.0):
        rises = []
        for run in runs[runs.rho == rho].itertuples():
            switch = run.warm_start * run.steps
            at_switch = np.interp(switch, run.curves["step"], run.curves["loss"])
            rises.append(run.loss > at_switch)
        raised[rho] = (sum(rises), len(rises))
    assert raised == {2.0: (0, 22), 8.0: (22, 22)}


def test_rescued_runs_do_not_fall_back() -> None:
    runs = records.read(FOLDER / "remedy-long")
    aided = [r for r in runs if r["spec"]["warm_start"] or "schedule" in r["spec"]]
    rescued = [r for r in aided if r["verdict"] == "converged"]
    assert len(rescued) >= 25
    assert all(r["metrics"]["spells"] == 0 for r in rescued)
    assert all(r["spec"]["steps"] == 20000 for r in rescued)


def test_the_ramp_gains_no_test_accuracy() -> None:
    runs = read_records("remedy-digits")
    ramps = runs[runs.schedule == "ramp"]
    plain = runs[runs.rho == 0].test_accuracy
    accuracies = {rho: ramps[ramps.rho == rho].test_accuracy for rho in (2.0, 4.0, 8.0)}
    assert all(len(found) == 5 for found in (plain, *accuracies.values()))
    for rho in (2.0, 4.0):
        assert accuracies[rho].mean() == pytest.approx(plain.mean(), abs=0.005)
    assert accuracies[8.0].mean() < plain.mean() - 0.025


def test_grad_ratio_falls_like_a_power() -> None:
    slopes, ends = [], []
    for r in records.read(FOLDER / "long-digits"):
        if r["verdict"] == "hallucinated":
            c = records.read_curves(FOLDER / "long-digits", r["id"])
            late = c["step"] >= 1000
            ratio = c["shifted_grad_norm"][late] / c["grad_norm"][late]
            slopes.append(np.polyfit(np.log(c["step"][late]), np.log(ratio), 1)[0])
            ends.append(r["metrics"]["grad_ratio"])
    assert len(slopes) >= 20
    assert -1.2 < np.median(slopes) < -0.8
    assert min(ends) > 1e-5
    assert max(ends) < 1e-2


def test_escape_times_scale_with_the_inverse_learning_rate() -> None:
    runs = read_records("long-digits").query("width == 4 and rho == 1.25")
    times = {}
    for lr in (0.1, 0.3):
        steps = runs[runs.lr == lr].escape
        assert len(steps) == 5
        assert (steps > 0).all()
        times[lr] = lr * steps.median()
    assert times[0.1] == pytest.approx(times[0.3], rel=0.2)
