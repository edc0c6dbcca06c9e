"""The verdicts on curves made by hand: units, windows, medians, and what holds on an edge."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas
import pytest
from figures.ch05 import sensitivity

from samlib.diagnostics import verdicts
from samlib.diagnostics.verdicts import (
    RUNNING,
    THRESHOLDS,
    Trace,
    explain_running,
    replay,
    running_verdict,
    stall_kind,
    verdict,
)

CHAOS, SADDLE, CRAWL = "stalled: chaotic", "stalled: saddle", "stalled: crawling"
# Thresholds that floats hold exactly, so that a curve can lie on them and not beside them.
EXACT = dataclasses.replace(
    THRESHOLDS,
    low_ratio=1 / 8, alive=1 / 64, zero_ratio=2**-18, strict_norm=2**-10, rest=2**-20,
    diverged=128, high=3 / 4, fall=1 / 32, creep=1 / 64, steady=2**-10, speed=1 / 4,
    half_ratio=1 / 2, dying=1 / 4,
)  # fmt: skip


def running(
    now: float = 1.0, fall: float = 0.0, norm: float = 0.25, ratio: float = 1.0, **kw: Any
) -> str:
    """The running verdict after 1000 steps from loss 1, norm 1, in the units given.

    The loss lies ``fall`` higher in the earlier window, in which GradRatio is ``earlier``.
    """
    loss, norms, ratios = (np.full(1001, float(v)) for v in (now, norm, ratio))
    loss[0] = norms[0] = 1.0
    loss[401:501] += fall
    ratios[401:501] = kw.get("earlier", ratio)
    losses, norms = loss * kw.get("unit", 1), norms * kw.get("norm_unit", 1)
    baseline = kw.get("baseline", 1.0) * kw.get("unit", 1)
    return running_verdict(
        np.arange(1001.0),
        losses,
        norms,
        ratios * (norms + 1e-12),
        baseline=baseline,
        limits=kw.get("limits", EXACT),
    )


@pytest.mark.parametrize(
    ("name", "curves"),
    [
        (CHAOS, {"now": 128}),  # not above 128 times the first loss
        (CHAOS, {"norm": 2**-20, "ratio": 1 / 2}),  # not below the norm of rest
        ("converged", {"now": 3 / 4}),  # not above the high loss
        (CHAOS, {"norm": 1 / 64, "ratio": 1 / 16}),  # the gradient is not above the live norm
        (CHAOS, {"ratio": 1 / 8}),  # GradRatio is not below that of the dead
        ("hallucinated", {"now": 1 / 2, "fall": 1 / 32, "ratio": 1 / 16}),  # no more than the fall
        ("converged", {"now": 1 / 2, "fall": 1 / 32}),
        (CHAOS, {"ratio": 1 / 2, "earlier": 8}),  # not below a half
        (CHAOS, {"ratio": 1 / 4, "earlier": 1}),  # not below a quarter of what it was
        (CHAOS, {"now": 7 / 8, "fall": 1 / 64, "ratio": 1 / 4}),  # falls too slowly to crawl
        (CHAOS, {"now": 7 / 8, "fall": 3 / 128, "ratio": 1 / 2}),  # plain steps are no faster
        (CHAOS, {"now": 15 / 16, "fall": 1 / 64}),  # a quarter of the whole fall, and not more
        (CHAOS, {"now": 1 - 2**-10, "fall": 2**-10}),
        ("descending", {"now": 1, "fall": 1 / 8}),  # not above the first loss
        (CHAOS, {"norm": 1 / 128, "ratio": 1}),  # at x⁺ the gradient is no larger
    ],
)
def test_on_an_edge_the_running_verdict_is_as_written(name: str, curves: dict[str, float]) -> None:
    assert running(**curves) == name


UNITS: list[tuple[str, dict[str, float]]] = [
    ("diverged", {"now": 200}),
    (CHAOS, {"now": 100}),
    ("converged", {"norm": 2**-21, "ratio": 1 / 2}),
    (CHAOS, {"norm": 2**-19, "ratio": 1 / 2}),
    ("hallucinated", {"now": 1 / 2, "fall": 1 / 8, "ratio": 2**-20}),
    ("hallucinated", {"ratio": 1 / 16}),
    (CHAOS, {"norm": 1 / 128, "ratio": 1 / 16}),
    (SADDLE, {"norm": 1 / 128, "ratio": 2}),
    (CRAWL, {"now": 7 / 8, "fall": 3 / 128, "ratio": 1 / 4}),
    (CHAOS, {"now": 7 / 8, "fall": 1 / 128, "ratio": 1 / 4}),
    ("descending", {"now": 1 / 2, "fall": 3 / 64}),
    ("converged", {"now": 1 / 2, "fall": 1 / 64}),
    ("descending", {"now": 15 / 16, "fall": 5 / 256}),
    (CHAOS, {"now": 15 / 16, "fall": 3 / 256}),
]


@pytest.mark.parametrize("unit", [1.0, 4.0, 0.25])
@pytest.mark.parametrize("norm_unit", [1.0, 8.0, 0.125])
def test_the_units_of_loss_and_gradient_do_not_matter(unit: float, norm_unit: float) -> None:
    for name, curves in UNITS:
        assert running(**curves, unit=unit, norm_unit=norm_unit) == name


def test_the_table_of_thresholds_reaches_the_strict_limit() -> None:
    wide = dataclasses.replace(THRESHOLDS, zero_ratio=0.2, low_ratio=1e-9)
    assert running(1 / 2, 1 / 8, ratio=0.1, limits=wide) == "hallucinated"
    assert running(1 / 2, 1 / 8, ratio=0.1, limits=THRESHOLDS) == "descending"
    one = np.ones(100)
    assert verdict(Trace(one, one, one, one / 10), wide) == "hallucinated"
    assert verdict(Trace(one, one, one, one / 10)) == "running"


def test_the_quick_median_is_the_median() -> None:
    rng = np.random.default_rng(0)
    for size in range(1, 12):
        values = rng.random(size)
        assert verdicts._median(values) == pytest.approx(np.median(values), abs=1e-15)


def test_a_replay_knows_the_loss_of_a_constant_guess() -> None:
    one = np.ones(41)
    curves = {"step": np.arange(41.0), "loss": one, "grad_norm": one, "shifted_grad_norm": one}
    assert replay(curves)[-1] == CHAOS
    assert replay(curves, 2.0)[-1] == "converged"  # half of what a constant guess would give


def test_a_summary_holds_the_last_entries() -> None:
    t = Trace(*np.array([[3.0, 2, 1], [9, 8, 4], [6, 5, 2.5], [7, 7, 3]]), baseline=5.0)
    summary = t.summary()
    ratio = summary.pop("grad_ratio")
    assert ratio == pytest.approx(0.75, abs=1e-11)
    assert summary == {
        "loss": 1, "grad_norm": 4, "shifted_loss": 2.5, "shifted_grad_norm": 3, "loss_gap": 1.5,
        "baseline": 5, "steps_below_0.1": 0, "steps": 2,
    }  # fmt: skip


def test_a_small_start_without_a_baseline_is_the_scale_of_divergence() -> None:
    one = np.ones(100)
    for start, name in ((1 / 128, "diverged"), (1 / 64, "running")):
        assert verdict(Trace(np.r_[start, one[1:]], one, one, one)) == name


def test_a_gradient_as_large_at_the_shifted_point_is_no_saddle() -> None:
    norm = np.full(100, 1 / 256)
    assert stall_kind(Trace(norm, norm, norm, norm + 1e-12)) == "chaotic"
    assert stall_kind(Trace(norm, norm, norm, norm * 2)) == "saddle"


UNIT_NORM = 1 - 1e-12  # with ε it is 1, so that GradRatio is the norm at x⁺


def failing(
    name: str, ratios: dict[int, float], norm: float = UNIT_NORM
) -> tuple[str, dict[str, np.ndarray]]:
    """A verdict, and its curves with this GradRatio at these steps."""
    assert UNIT_NORM + 1e-12 == 1
    shifted = np.array(list(ratios.values())) * (norm + 1e-12)
    norms = np.full(len(ratios), norm)
    step = np.array(list(ratios), float)
    return name, {"step": step, "grad_norm": norms, "shifted_grad_norm": shifted}


@pytest.mark.parametrize(
    ("name", "ratios", "norm", "at", "due"),
    [
        # a threshold is to be undercut, not met
        ("hallucinated", {100: 0.03}, UNIT_NORM, 0.03, 0),
        ("hallucinated", {100: 0.0299}, UNIT_NORM, 0.03, 1),
        ("stalled", {100: 0.3}, UNIT_NORM, 0.3, 0),
        ("stalled", {100: 0.299}, UNIT_NORM, 0.3, 1),
        ("stalled", {100: 0.2}, 0.01, 0.3, 0),
        ("stalled", {100: 0.2}, 0.0101, 0.3, 1),
        # the tail of 21 steps is the last; of 40, the last two
        ("stalled", {0: 9, 19: 9, 20: 0.2}, UNIT_NORM, 0.3, 1),
        ("stalled", {0: 9, 38: 9, 39: 0.2}, UNIT_NORM, 0.3, 0),
        ("stalled", {0: 9, 37: 9, 39: 0.2}, UNIT_NORM, 0.3, 1),
        # the strict limit holds at all thresholds, below 1e-6
        ("hallucinated", {100: 1e-7}, UNIT_NORM, 1e-8, 1),
        ("hallucinated", {100: 1e-6}, UNIT_NORM, 1e-8, 0),
        # at the threshold of the verdict the record is believed, not its rounded curves
        ("hallucinated", {100: 0.1000001}, UNIT_NORM, 0.1, 1),
        ("stalled", {100: 0.01}, UNIT_NORM, 0.1, 0),
    ],
)
def test_sensitivity_on_its_edges(
    name: str, ratios: dict[int, float], norm: float, at: float, due: int
) -> None:
    first = failing("converged", {100: 0.0})  # does not count, and ends nothing
    runs = [first, failing(name, ratios, norm)]
    got = sensitivity(pandas.DataFrame(runs, columns=["verdict", "curves"]), (at,))
    assert got == {"failing": 1, f"{at:g}": due}


def test_the_explanation_of_a_running_verdict_shows_its_numbers() -> None:
    numbers = {"loss": 1.23456, "norm": 0.0345678, "ratio": 0.00456789, "gain": 0.567891}
    shown = {
        "running": (),
        "descending": ("1.23",),
        "converged": ("1.23", "0.00457"),
        "hallucinated": ("1.23", "0.0346", "0.00457", "0.568"),
        CHAOS: ("1.23", "0.00457"),
        CRAWL: ("1.23", "0.568"),
        SADDLE: ("0.0346", "0.00457"),
        "diverged": (),
    }
    assert set(shown) == set(RUNNING)
    for name, parts in shown.items():
        text = explain_running(name, numbers)
        for part in ("1.23", "0.0346", "0.00457", "0.568"):
            assert (f" {part}" in text) == (part in parts)
