"""What the records of the remedies and of the long runs show, beyond counts of verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from samlib.experiments import records
from samlib.experiments.records import Record

FOLDER = Path(__file__).parents[2] / "book" / "records"


def _warm(runs: list[Record]) -> list[Record]:
    """The runs of plain SAM and of warm starts."""
    options = ("schedule", "momentum")
    plain = [r for r in runs if not any(k in r["spec"] for k in options)]
    return [r for r in plain if r["spec"]["rule"] == "sam"]


def test_the_shortest_warm_start_that_rescues_grows_with_the_radius() -> None:
    runs = _warm(records.read(FOLDER / "remedy-digits"))
    for rho, needed in {2.0: 0.05, 4.0: 0.2, 8.0: 0.5}.items():
        verdicts: dict[float, list[str]] = {}
        for r in records.select(runs, rho=rho):
            verdicts.setdefault(r["spec"]["warm_start"], []).append(r["verdict"])
        good = [share for share, v in sorted(verdicts.items()) if set(v) == {"converged"}]
        assert good == [share for share in sorted(verdicts) if share >= needed]
        assert min(len(v) for v in verdicts.values()) >= 3


def test_sam_at_a_large_radius_undoes_a_short_warm_start() -> None:
    runs = [r for r in _warm(records.read(FOLDER / "remedy-digits")) if r["spec"]["warm_start"]]
    raised = {}
    for rho in (2.0, 8.0):
        rises = []
        for r in records.select(runs, rho=rho):
            c = records.read_curves(FOLDER / "remedy-digits", r["id"])
            switch = r["spec"]["warm_start"] * r["spec"]["steps"]
            rises.append(r["metrics"]["loss"] > np.interp(switch, c["step"], c["loss"]))
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
    runs = records.read(FOLDER / "remedy-digits")

    def accuracy(**where: object) -> float:
        chosen = records.select(runs, **where)
        assert len(chosen) == 5
        return float(np.mean([r["metrics"]["test_accuracy"] for r in chosen]))

    plain = accuracy(rho=0.0)
    for rho in (2.0, 4.0):
        assert accuracy(rho=rho, schedule="ramp") == pytest.approx(plain, abs=0.005)
    assert accuracy(rho=8.0, schedule="ramp") < plain - 0.025


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
    runs = records.select(records.read(FOLDER / "long-digits"), width=4, rho=1.25)
    times = {}
    for lr in (0.1, 0.3):
        steps = [r["metrics"]["escape"] for r in records.select(runs, lr=lr)]
        assert len(steps) == 5
        assert all(steps)
        times[lr] = lr * np.median(steps)
    assert times[0.1] == pytest.approx(times[0.3], rel=0.2)
