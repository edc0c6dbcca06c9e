"""The verdict on traces whose answer is known by construction."""

from __future__ import annotations

import numpy as np
import pytest

from samlib.diagnostics import (
    Trace,
    explain,
    grad_ratio,
    loss_gap,
    sensitivity,
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

    def run(name: str, ratio: float, norm: float = 0.2) -> tuple[dict, dict]:
        step, norms = np.array([0.0, 95, 96, 98, 100]), np.full(5, norm)
        shifted = np.array([9, 9, ratio, 0.5 * ratio, 0.5 * ratio]) * norm  # the tail: 96 to 100
        return {"verdict": name}, {"step": step, "grad_norm": norms, "shifted_grad_norm": shifted}

    runs = [
        run("hallucinated", 0.02),
        run("hallucinated", 0.04),
        run("hallucinated", 1e-7, 0.005),  # strict, though ∇f(x) is small
        run("stalled", 0.05),  # above 0.1 at a step that is not kept
        run("stalled", 0.2),
        run("stalled", 0.2, 0.005),  # ∇f(x) vanishes too
        run("running", 0.02),
    ]
    assert sensitivity(runs) == {"failing": 6, "0.03": 2, "0.1": 3, "0.3": 5}
    assert sensitivity(runs, (0.15,)) == {"failing": 6, "0.15": 4}


@pytest.mark.parametrize("name", ["converged", "hallucinated", "stalled", "diverged", "running"])
def test_every_verdict_is_explained_even_without_numbers(name: str) -> None:
    assert len(explain(name, {"loss": 1.0, "grad_ratio": None})) > 30
