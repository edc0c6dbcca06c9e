"""A mark and a colour mean one thing in all figures of runs, and grey is for guides only."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
from figures import ch05, ch05b, ch07, ch08, primitives, style
from figures.primitives import OUTCOMES, VERDICTS
from matplotlib.colors import to_hex

from samlib.errors import BadInput


@pytest.mark.parametrize("marks", [VERDICTS, OUTCOMES, ch05b.OUTCOMES])
def test_no_outcome_is_grey_and_no_two_look_alike(marks: dict[str, tuple[str, ...]]) -> None:
    assert style.PALE not in [mark[1] for mark in marks.values()]
    assert len({mark[0] for mark in marks.values()}) == len(marks)
    assert len({mark[1] for mark in marks.values()}) == len(marks)


def test_a_verdict_looks_the_same_in_all_chapters() -> None:
    for name in ("converged", "running", "hallucinated", "diverged"):
        assert OUTCOMES[name] == VERDICTS[name]
    assert OUTCOMES["stalled: chaotic"] == VERDICTS["stalled"]
    assert ch05b.OUTCOMES["learns"][1] == VERDICTS["converged"][1]
    assert ch05b.OUTCOMES["strict"][1] == VERDICTS["hallucinated"][1]


def run(rho: float, warm_start: float, loss: float, verdict: str = "converged") -> dict:
    """A run with what the figures below read."""
    setting = {"rho": rho, "warm_start": warm_start, "seed": 0, "verdict": verdict}
    metrics = {"loss": loss, "baseline": 2.3, "grad_ratio": 0.5, "test_accuracy": 0.4}
    return setting | metrics | {"twin_loss": loss / 2}


def test_seeds_lie_side_by_side_about_equally_spaced_values() -> None:
    runs = pandas.DataFrame({"rho": [1.0, 1.0, 8.0, 8.0], "seed": [3, 5, 3, 5]})
    assert np.allclose(primitives.places(runs, "rho", 0.2), [-0.1, 0.1, 0.9, 1.1])


def test_panels_of_the_atlas_share_their_places() -> None:
    """A learning rate that was not run at each radius has its marks where the others have them."""
    runs = pandas.DataFrame({"lr": [0.1, 0.1, 0.2], "rho": [1.0, 2.0, 2.0], "batch": [500, 16, 16]})
    fig = ch08.atlas(runs.assign(seed=0, outcome="converged"))
    drawn = [[(*p,) for t in ax.get_lines() for p in t.get_xydata()] for ax in fig.axes]
    assert drawn == [[(0, 0), (1, 1)], [(1, 1)]]


def test_marks_leave_out_what_is_no_number() -> None:
    fig, axes = primitives.panels(1, 1, 2)
    primitives.marks(axes[0, 0], [0, 1, 2], [1, np.nan, 3], ["stalled", "stalled", "converged"])
    drawn = {t.get_label(): list(t.get_ydata()) for t in fig.axes[0].get_lines()}
    assert drawn == {"stalled": [1.0], "converged": [3.0]}


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_warm_starts_of_any_few_radii(count: int) -> None:
    radii = [float(k + 1) for k in range(count)]
    runs = pandas.DataFrame([run(rho, w, 0.1 * rho + w) for rho in radii for w in (0.0, 0.5)])
    fig = ch07.fractions({"digits": runs})
    lines = [t for t in fig.axes[0].get_lines() if t.get_marker() == "None"]
    medians = [t.get_ydata() for t in lines if t.get_linestyle() == "-"]
    wanted = [[0.1 * rho, 0.1 * rho + 0.5] for rho in radii]
    assert np.allclose(sorted(medians, key=lambda y: y[0]), wanted)
    labels = [t.get_text() for t in fig.legends[0].get_texts()]
    assert labels == [f"$\\rho$ = {rho:g}" for rho in radii]


def test_more_radii_than_marks_are_refused() -> None:
    runs = pandas.DataFrame([run(float(k), 0.0, 1.0) for k in range(8)])
    with pytest.raises(BadInput, match=r"8 radii.*at most 7"):
        ch07.fractions({"digits": runs})


def test_outcomes_show_twins_and_accuracy_when_asked() -> None:
    runs = pandas.DataFrame([run(0.5, 0.0, 1.0), run(2.0, 0.0, 2.0, "stalled")])
    assert len(primitives.outcomes({"a": runs}).axes) == 2
    loss, _, accuracy = primitives.outcomes({"a": runs}, accuracy=True).axes
    (band,) = loss.patches
    assert (band.get_y(), band.get_y() + band.get_height()) == (0.5, 1.0)
    assert [y for t in accuracy.get_lines() for y in t.get_ydata()] == [0.4, 0.4]


def test_ratios_counts_the_largest_of_the_tail() -> None:
    step = np.arange(101.0)
    late = step >= 96  # the last 5 % of 101 entries
    ratio = np.where(late, 0.02, 9.0)
    ratio[98] = 0.2
    curves = {"step": step, "grad_norm": np.ones(101), "shifted_grad_norm": ratio}
    runs = pandas.DataFrame({"verdict": ["stalled", "converged"], "curves": [curves, curves]})
    fig = ch05.ratios({"a": runs})
    tall = [p for p in fig.axes[0].patches if p.get_height() > 0]
    assert len(tall) == 1  # a converged run does not count
    assert tall[0].get_x() <= 0.2 < tall[0].get_x() + tall[0].get_width()
    assert to_hex(tall[0].get_facecolor()) == VERDICTS["stalled"][1].lower()
