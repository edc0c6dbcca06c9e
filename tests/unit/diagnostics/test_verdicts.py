"""The verdict on traces whose answer is known by construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import pytest
from figures.ch05 import sensitivity

from samlib.diagnostics.verdicts import (
    RUNNING,
    THRESHOLDS,
    Trace,
    explain,
    explain_running,
    grad_ratio,
    is_strict,
    loss_gap,
    outlook,
    replay,
    running_verdict,
    stall_kind,
    verdict,
)

N = 200


def trace(loss: float, norm: float, shifted: float, twin: float | None = 0.1) -> Trace:
    """A run that starts at the baseline ln 10 and ends flat at the given values."""
    curve = np.r_[np.full(N // 2, np.log(10)), np.full(N // 2, loss)]
    flat = np.ones(N)
    return Trace(curve, norm * flat, curve, shifted * flat, baseline=np.log(10), twin_loss=twin)


def test_ratio_and_gap_are_the_papers() -> None:
    assert grad_ratio(0.5, 0.2) == pytest.approx(0.4, abs=1e-11)
    assert grad_ratio(0.0, 0.0) == 0
    assert loss_gap(2.25, 2.5) == 0.25


CASES = [
    ("converged", trace(0.2, 0.1, 0.1)),  # p = .95
    ("hallucinated", trace(2.25, 0.2, 0.004)),  # p = .02, R = .02
    ("stalled", trace(2.25, 0.2, 0.2)),  # R = 1
    ("stalled", trace(2.30, 0.005, 0.0001)),  # R small, but the gradient vanishes too
    ("running", trace(1.2, 0.2, 0.2)),  # half-way
    ("hallucinated", trace(1.2, 0.2, 1e-8)),  # strict: R = 5e-8, whatever the loss
    ("hallucinated", trace(1.2, 0.2, 1e-8, twin=None)),  # and without a twin
    ("running", trace(2.25, 0.2, 0.004, twin=None)),
    ("converged", trace(1.2, 1e-8, 1e-8, twin=None)),
    ("running", trace(2.25, 0.2, 0.2, twin=2.29)),  # the twin learned nothing either
    ("diverged", trace(np.nan, 0.2, 0.2)),
    ("diverged", trace(1e4, 0.2, 0.2)),
    ("diverged", trace(1.0, np.inf, 0.2)),
]


@pytest.mark.parametrize(("name", "t"), CASES)
def test_verdicts(name: str, t: Trace) -> None:
    assert verdict(t) == name


def test_one_escape_in_the_tail_is_no_hallucination() -> None:
    t = trace(2.25, 0.2, 0.004)
    t.shifted_grad_norm[-3] = 0.1  # R = .5 once
    assert verdict(t) == "stalled"


def test_progress_is_the_share_of_the_twins_gain() -> None:
    b = np.log(10)
    assert trace(1.0, 1, 1).progress == pytest.approx((b - 1.0) / (b - 0.1), rel=1e-14)


def test_stalls_are_told_apart() -> None:
    assert stall_kind(trace(2.30, 0.005, 1.0)) == "saddle"
    assert stall_kind(trace(2.25, 0.2, 0.5)) == "chaotic"


def test_sensitivity_counts_by_hand() -> None:
    """Six failing runs of 101 steps, three of the last five kept, one of them above the rest."""

    def run(name: str, ratio: float, norm: float = 0.2) -> tuple[str, dict]:
        step, norms = np.array([0.0, 95, 96, 98, 100]), np.full(5, norm)
        shifted = np.array([9, 9, ratio, 0.5 * ratio, 0.5 * ratio]) * norm  # the tail: 96 to 100
        return name, {"step": step, "grad_norm": norms, "shifted_grad_norm": shifted}

    runs = [
        run("hallucinated", 0.02),
        run("hallucinated", 0.04),
        run("hallucinated", 1e-7, 0.005),  # strict, though ∇f(x) is small
        run("stalled", 0.05),  # above 0.1 at a step that is not kept
        run("stalled", 0.2),
        run("stalled", 0.2, 0.005),  # ∇f(x) vanishes too
        run("running", 0.02),
    ]
    table = pandas.DataFrame(runs, columns=["verdict", "curves"])
    assert sensitivity(table) == {"failing": 6, "0.03": 2, "0.1": 3, "0.3": 5}
    assert sensitivity(table, (0.15,)) == {"failing": 6, "0.15": 4}


@pytest.mark.parametrize("name", ["converged", "hallucinated", "stalled", "diverged", "running"])
def test_every_verdict_is_explained_even_without_numbers(name: str) -> None:
    assert len(explain(name, {"loss": 1.0, "grad_ratio": None})) > 30


def test_an_explanation_shows_the_numbers_of_a_record_and_marks_what_is_missing() -> None:
    metrics = {"loss": 0.0, "grad_ratio": None, "stall": "chaotic", "steps": 3}
    text = explain("stalled", metrics)
    assert "the loss stays at 0 and GradRatio is ?." in text


# Each threshold from both sides. The numbers are written out here, not taken from the table.
JUST = 1e-5
B = float(np.log(10))


def flat(p: float = 0.0, norm: float = 0.2, ratio: float = 0.02, **change: Any) -> Trace:
    """A run whose tail lies at progress ``p``, ‖∇f(x)‖ = ``norm`` and GradRatio ``ratio``."""
    t = trace(B - p * (B - 0.1), norm, ratio * (norm + 1e-12))
    return dataclasses.replace(t, **change)


def grown(start: float, end: float) -> Trace:
    """A run whose loss went from ``start`` to ``end`` at once, with a live gradient at x⁺."""
    return flat(ratio=1.0, loss=np.r_[start, np.full(N - 1, end)])


def twinned(gain: float) -> Trace:
    """A run at the loss of a constant guess, whose twin gained ``gain`` of it."""
    return flat(ratio=1.0, twin_loss=B * (1 - gain))


def tailed(parts: float) -> Trace:
    """A run of 400 steps that is hallucinated in the last of ``parts`` parts of them only."""
    shifted = np.full(400, 0.2)
    shifted[-round(400 / parts) :] = 0.002
    flats = [np.full(400, v) for v in (B, 0.2, B)]
    return Trace(*flats, shifted, baseline=B, twin_loss=0.1)


# (field of Thresholds, its value, the run at a value, the verdict just below it, and just above)
FINAL: list[tuple[str, float, Callable[[float], Trace], str, str]] = [
    ("tail_parts", 20, tailed, "hallucinated", "stalled"),
    ("low_ratio", 0.1, lambda v: flat(ratio=v), "hallucinated", "stalled"),
    ("alive", 0.01, lambda v: flat(norm=v), "stalled", "hallucinated"),
    ("zero_ratio", 1e-6, lambda v: flat(p=0.5, ratio=v), "hallucinated", "running"),
    ("strict_norm", 1e-3, lambda v: flat(p=0.5, norm=v, ratio=1e-7), "running", "hallucinated"),
    ("rest", 1e-6, lambda v: flat(p=0.5, norm=v, ratio=0.5), "converged", "running"),
    ("rest", 1e-6, lambda v: flat(p=0.5, norm=v / 2, ratio=2.0), "converged", "running"),
    ("fails", 0.2, lambda v: flat(p=v), "hallucinated", "running"),
    ("fails", 0.2, lambda v: flat(p=v, ratio=1.0), "stalled", "running"),
    ("learns", 0.8, lambda v: flat(p=v), "running", "converged"),
    ("usable_twin", 0.05, twinned, "running", "stalled"),
    ("diverged", 100, lambda v: grown(1.0, v * B), "stalled", "diverged"),
    ("diverged", 100, lambda v: grown(9.0, v * 9), "stalled", "diverged"),
]


@pytest.mark.parametrize(("name", "value", "at", "below", "above"), FINAL)
def test_the_edges_of_the_final_verdict(
    name: str, value: float, at: Callable[[float], Trace], below: str, above: str
) -> None:
    assert getattr(THRESHOLDS, name) == value
    just = 1 / 19 if name == "tail_parts" else JUST  # a run of 400 steps tells 19 parts from 20
    assert (verdict(at(value * (1 - just))), verdict(at(value * (1 + just)))) == (below, above)


def test_on_an_edge_the_final_verdict_is_the_weaker_one() -> None:
    """At exactly the threshold nothing is claimed; the numbers are chosen to be exact."""
    zero = np.zeros(N)
    exact: list[tuple[str, Trace]] = [
        ("running", flat(loss=zero, baseline=0.2, twin_loss=-0.8)),  # p = 0.2
        ("running", flat(loss=zero, baseline=0.8, twin_loss=-0.2)),  # p = 0.8
        ("running", flat(loss=zero + 20, baseline=20.0, twin_loss=19.0)),  # the twin gained 5 %
        ("stalled", flat(norm=0.01)),
        ("running", flat(p=0.5, norm=1e-3, ratio=1e-7)),
        ("running", flat(p=0.5, norm=1e-6, ratio=0.5)),
        ("stalled", grown(4.0, 400.0)),
    ]
    for name, t in exact:
        assert verdict(t) == name
    (edge,) = {float(r) for r in flat(norm=1.0, ratio=0.1).grad_ratio}
    assert edge == 0.1
    assert verdict(flat(norm=1.0, ratio=0.1)) == "stalled"
    assert flat(norm=1.0, ratio=0.1).summary()["steps_below_0.1"] == 0


def test_the_tail_counts_whole_steps_and_at_least_one() -> None:
    for size, due in ((1, 1), (19, 1), (39, 1), (40, 2), (200, 10), (4001, 200)):
        one = np.ones(size)
        assert len(one[Trace(one, one, one, one).tail]) == due


def test_the_tail_is_judged_at_its_worst_step_and_its_median_loss() -> None:
    for place, name in ((-10, "stalled"), (-11, "hallucinated")):  # of 200 steps the last ten
        t = flat()
        t.grad_norm[place] = 0.009
        t.shifted_grad_norm[place] = 1e-4
        assert verdict(t) == name
    t = flat()
    t.loss[-4:] = 0.1  # below the median of ten
    assert verdict(t) == "hallucinated"
    t.loss[-6:] = 0.1
    assert verdict(t) == "converged"
    strict = flat(p=0.5, ratio=1e-8)
    strict.grad_norm[-3] = 1e-4
    assert verdict(strict) == "running"
    for curve in ("loss", "grad_norm", "shifted_grad_norm"):
        broken = flat()
        getattr(broken, curve)[-2] = np.nan
        assert verdict(broken) == "diverged"


def test_a_strict_hallucination_is_one_after_the_loss_grew_a_hundredfold_too() -> None:
    assert verdict(flat(loss=np.r_[1.0, np.full(N - 1, 1e4)], ratio=1e-8)) == "hallucinated"


def test_steps_below_a_tenth_and_steps_made_are_counted() -> None:
    t = flat(ratio=1.0)
    t.shifted_grad_norm[[3, 5, 8]] = 0.2 * 0.1 * np.array([1 - JUST, 1 + JUST, 0])
    t.loss[150:] = np.nan
    summary = t.summary()
    assert (summary["steps_below_0.1"], summary["steps"]) == (2, 149)
    assert summary["baseline"] == B


def test_the_edges_of_a_saddle() -> None:
    for norm, ratio, name in (
        (0.01 * (1 - JUST), 1 + JUST, "saddle"),
        (0.01 * (1 + JUST), 1 + JUST, "chaotic"),
        (0.01 * (1 - JUST), 1 - JUST, "chaotic"),
        (0.01, 2.0, "chaotic"),
    ):
        t = flat(norm=norm, ratio=ratio)
        assert stall_kind(t) == name
        t.grad_norm[-4:], t.shifted_grad_norm[-4:] = 1.0, 0.0  # medians of ten do not see them
        assert stall_kind(t) == name


STEPS = np.arange(1001.0)


def running(
    *,
    now: float = 1.0,
    fall: float = 0.0,
    norm: float = 0.2,
    ratio: float = 0.02,
    earlier: float | None = None,
    end: float | None = None,
    changes: dict[int, float] | None = None,
    **kw: Any,
) -> str:
    """The running verdict after 1000 steps that begin with loss 1, norm 1 and baseline 1.

    ``earlier`` is GradRatio in (400, 500], ``end`` that in (950, 1000], ``changes`` that of single
    steps.
    """
    loss, norms, ratios = np.full(1001, now), np.full(1001, norm), np.full(1001, ratio)
    loss[0] = norms[0] = 1.0
    loss[401:501] += fall
    ratios[401:501] = ratio if earlier is None else earlier
    ratios[951:] = ratio if end is None else end
    for step, value in (changes or {}).items():
        ratios[step] = value
    return running_verdict(STEPS, loss, norms, ratios * (norms + 1e-12), **({"baseline": 1.0} | kw))


def falling(**kw: Any) -> str:
    """The running verdict where the loss is half the baseline and still falls."""
    return running(now=0.5, fall=0.1, **kw)


CHAOS, SADDLE, CRAWL = "stalled: chaotic", "stalled: saddle", "stalled: crawling"
RUN: list[tuple[str, float, Callable[[float], str], str, str]] = [
    ("low_ratio", 0.1, lambda v: running(ratio=v), "hallucinated", CHAOS),
    ("alive", 0.01, lambda v: running(norm=v), CHAOS, "hallucinated"),
    ("alive", 0.01, lambda v: running(norm=v, ratio=2.0), SADDLE, CHAOS),
    ("zero_ratio", 1e-6, lambda v: falling(ratio=v), "hallucinated", "descending"),
    ("strict_norm", 1e-3, lambda v: falling(norm=v, ratio=1e-7), "descending", "hallucinated"),
    ("rest", 1e-6, lambda v: running(norm=v, ratio=0.9), "converged", CHAOS),
    ("rest", 1e-6, lambda v: running(norm=v / 2, ratio=2.0), "converged", SADDLE),
    ("diverged", 100, lambda v: running(now=v, ratio=1.0), CHAOS, "diverged"),
    ("saddle_ratio", 1, lambda v: running(norm=5e-3, ratio=v), CHAOS, SADDLE),
    ("high", 0.8, lambda v: running(now=v, fall=0.1), "descending", "hallucinated"),
    ("high", 0.8, lambda v: running(now=v, ratio=1.0), "converged", CHAOS),
    ("fall", 0.03, lambda v: running(now=0.5, fall=v), "hallucinated", "descending"),
    ("fall", 0.03, lambda v: running(now=0.85, fall=v, ratio=1.0), CHAOS, "descending"),
    ("creep", 0.01, lambda v: running(now=0.9, fall=v, ratio=0.3), CHAOS, CRAWL),
    ("steady", 1e-3, lambda v: running(now=0.999, fall=v, ratio=1.0), CHAOS, "descending"),
    ("speed", 0.3, lambda v: running(now=0.95, fall=v * 0.05, ratio=1.0), CHAOS, "descending"),
    ("half_ratio", 0.5, lambda v: running(ratio=v, earlier=9.0), "hallucinated", CHAOS),
    ("half_ratio", 0.5, lambda v: running(ratio=0.3, end=v, earlier=9.0), "hallucinated", CHAOS),
    ("half_ratio", 0.5, lambda v: running(now=0.9, fall=0.02, ratio=v), CRAWL, CHAOS),
    ("dying", 0.4, lambda v: running(ratio=v * 0.9, earlier=0.9), "hallucinated", CHAOS),
]


@pytest.mark.parametrize(("name", "value", "at", "below", "above"), RUN)
def test_the_edges_of_the_running_verdict(
    name: str, value: float, at: Callable[[float], str], below: str, above: str
) -> None:
    assert getattr(THRESHOLDS, name) == value
    assert (at(value * (1 - JUST)), at(value * (1 + JUST))) == (below, above)


def test_a_dying_ratio_counts_only_where_the_loss_does_not_fall() -> None:
    assert running(ratio=0.3, earlier=2.0, fall=0.0) == "hallucinated"
    assert running(ratio=0.3, earlier=2.0, fall=1e-9) == CHAOS


def test_a_fall_from_above_the_start_is_no_descent() -> None:
    for now, name in ((1 - JUST, "descending"), (1 + JUST, CHAOS)):
        assert running(now=now, fall=0.1, ratio=1.0) == name
        assert running(now=now, fall=0.1, ratio=1.0, baseline=0.5) == name
        assert running(now=now, fall=0.1, ratio=1.0, baseline=2.0) == "descending"


def test_without_a_baseline_the_first_loss_stands_in() -> None:
    for now, name in ((0.8 * (1 - JUST), "descending"), (0.8 * (1 + JUST), "hallucinated")):
        assert running(now=now, fall=0.1, baseline=None) == name
    assert running(now=0.5, ratio=1.0, baseline=0.5) == CHAOS


def test_the_windows_of_the_running_verdict() -> None:
    """(0.8t, t] is judged, (0.95t, t] at its highest GradRatio, against (0.4t, 0.5t]."""
    for step, name in ((800, "hallucinated"), (801, "descending")):
        assert running(now=0.5, fall=0.1, ratio=1e-8, changes={step: 0.2}) == name
    for step, name in ((950, "hallucinated"), (951, CHAOS)):
        assert running(changes={step: 0.2}) == name
    one = np.ones(4)
    for steps, name in (
        ([0, 400, 500, 1000], "descending"),  # 500 is in the earlier window, whose loss is higher
        ([0, 401, 501, 1000], "descending"),
        ([0, 400, 501, 1000], "running"),  # nothing to compare with
    ):
        got = running_verdict(np.array(steps, float), np.r_[1, 0.9, 0.9, 0.5], one, one)
        assert got == name


def test_thirty_steps_are_needed() -> None:
    for last, name in ((29, "running"), (30, CHAOS)):
        one = np.ones(last + 1)
        assert running_verdict(np.arange(last + 1.0), one, one, one) == name
        broken = np.r_[one[:-1], np.nan]
        assert running_verdict(np.arange(last + 1.0), broken, one, one) == "diverged"


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_running_run_whose_numbers_are_not_finite_has_diverged(which: int) -> None:
    arrays = [STEPS, *(np.ones(1001) for _ in range(3))]
    arrays[which][-1] = np.inf
    assert running_verdict(*arrays) == "diverged"


ELSEWHERE = {
    "guess": "ch05b_strict",  # used by figures.strict alone
    "spell": "test_episodes.py",
    "first_step": "test_thirty_steps_are_needed",
    **dict.fromkeys(("recent", "last", "before"), "test_the_windows_of_the_running_verdict"),
}


def test_every_threshold_has_its_edge_tested() -> None:
    tested = {row[0] for row in [*FINAL, *RUN]} | set(ELSEWHERE)
    assert tested == {field.name for field in dataclasses.fields(THRESHOLDS)}


def test_another_threshold_is_used_where_it_is_asked_for() -> None:
    t = flat(ratio=0.2)
    assert verdict(t, dataclasses.replace(THRESHOLDS, low_ratio=0.3)) == "hallucinated"
    assert running(ratio=0.2, limits=dataclasses.replace(THRESHOLDS, low_ratio=0.3)) == (
        "hallucinated"
    )


def test_strictness_is_elementwise() -> None:
    got = is_strict([1e-7, 1e-7, 1e-5, np.nan], [1e-2, 1e-4, 1e-2, 1.0])
    assert got.tolist() == [True, False, False, False]


def test_what_both_verdicts_agree_on() -> None:
    assert [outlook(name) for name in RUNNING] == [
        "learns", "learns", "learns", "hallucinated", "stalled", "stalled", "stalled", "diverged",
    ]  # fmt: skip


@pytest.mark.parametrize("name", RUNNING)
def test_every_running_verdict_is_explained_with_its_numbers(name: str) -> None:
    numbers = {"loss": 1.2345, "norm": 0.02, "ratio": 0.05, "gain": 0.3}
    text = explain_running(name, numbers)
    assert "{" not in text
    assert ("1.23" in text) == (name not in ("running", "diverged", "stalled: saddle"))


def test_replayed_verdicts_rest_on_what_was_seen_by_then() -> None:
    one = np.ones(61)
    curves = {"step": np.arange(61.0), "loss": one, "grad_norm": one}
    curves["shifted_grad_norm"] = np.where(np.arange(61) < 40, 1.0, 0.01)
    names = replay(curves, 1.0)
    assert len(names) == 61
    assert names[:30] == ["running"] * 30
    assert (names[35], names[60]) == (CHAOS, "hallucinated")
