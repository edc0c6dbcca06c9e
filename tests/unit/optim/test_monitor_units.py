"""The monitor step by step: what it reads, when, what it remembers and what it forgets.

The optimizer is told what its last step was, so that each number is chosen here. These tests are
fast, so that a mutation run (benchmarks/mutation.py) can repeat them often."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from samlib import SAM, BadInput, HallucinationMonitor
from samlib.optim.monitor import Reading
from samlib.optim.sam import StepInfo

torch.set_num_threads(1)


def optimizer(**options: Any) -> SAM:
    x = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    return SAM([x], torch.optim.SGD, **({"rho": 0.4, "lr": 0.1} | options))


def tell(opt: SAM, step: int, **numbers: Any) -> None:
    """Let the last step of ``opt`` be number ``step``, with these numbers."""
    known = {"base": False, "loss": 2.0, "shifted_loss": 3.0, "grad_norm": 4.0}
    known |= {"shifted_grad_norm": 5.0, "inner": 10.0} | numbers
    for group in opt.param_groups:
        group["sam_step"] = step
    opt._info = StepInfo(step, **known)


def refused(act: Callable[[], Any], *parts: str) -> None:
    with pytest.raises(BadInput) as caught:
        act()
    for part in parts:
        assert part in str(caught.value)


class Rule:
    """Stands for running_verdict: it keeps what it was asked and answers from a list."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), []

    def __call__(self, *columns: Any, baseline: Any) -> str:
        self.asked.append((columns, baseline))
        return self.answers.pop(0) if self.answers else "running"


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> Rule:
    made = Rule()
    monkeypatch.setattr("samlib.optim.monitor.running_verdict", made)
    return made


def test_quantities_of_a_reading() -> None:
    r = Reading(7, 2.0, 3.5, 4.0, 2.0, -0.5)
    assert (r.grad_ratio, r.loss_gap, r.gain) == (2 / (4 + 1e-12), 1.5, -0.5 * 2 / (4 + 1e-12))
    assert Reading(1, 0.0, 0.0, 0.0, 1e-12, 1.0).grad_ratio == 1


def test_a_new_monitor() -> None:
    opt = optimizer()
    monitor = HallucinationMonitor(opt)
    assert monitor.optimizer is opt
    assert (monitor.callbacks, monitor.auto_remedy, monitor.baseline) == ([], False, None)
    assert (monitor.every, monitor.changes, monitor.verdict) == (20, [], "running")
    assert (monitor.reading, monitor.remedy_step, monitor.ramp_steps) == (None, None, 0)
    assert opt._observers[monitor] == 0
    assert monitor.explain() == "Nothing is recorded yet: call record() after a step."
    speak = lambda m, old: None  # noqa: E731
    known = {"baseline": 0.7, "every": 3, "callbacks": iter([speak]), "auto_remedy": True}
    monitor = HallucinationMonitor(opt, **known)
    assert (monitor.baseline, monitor.every, monitor.callbacks) == (0.7, 3, [speak])
    assert monitor.auto_remedy
    assert HallucinationMonitor(opt, every=1).every == 1


def test_bad_options() -> None:
    opt = optimizer()
    refused(lambda: HallucinationMonitor(opt.base_optimizer), "optimizer is a SGD")
    refused(lambda: HallucinationMonitor(optimizer(maximize=True)), "maximize = True")
    refused(lambda: HallucinationMonitor(opt, baseline=0), "baseline = 0", "(0, ∞)")
    refused(lambda: HallucinationMonitor(opt, every=0.5), "every = 0.5", "[1, ∞)", "1 reads every")
    monitor = HallucinationMonitor(opt)
    refused(monitor.record, "no step to read yet", "after optimizer.step()")
    opt.param_groups[0]["params"][0].grad = torch.ones(2, dtype=torch.float64)
    opt.first_step()
    refused(monitor.record, "record() at x⁺")


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (None, "the loss is unknown"),
        ([1.0], "the loss is a list and no number"),
        ("x", "the loss is a str and no number"),
        (torch.ones(2), "the loss is a Tensor and no number"),
    ],
)
def test_losses_that_are_no_numbers(loss: Any, text: str) -> None:
    opt = optimizer()
    monitor = HallucinationMonitor(opt)
    tell(opt, 1, loss=loss, shifted_loss=3.0)
    refused(monitor.record, text, "record(loss, shifted_loss)")
    tell(opt, 1, loss=2.0, shifted_loss=loss)
    refused(monitor.record, text)
    assert monitor.record(1, torch.tensor(2.5, requires_grad=True)).loss_gap == 1.5


def test_a_reading() -> None:
    opt = optimizer()
    monitor = HallucinationMonitor(opt, every=1)
    tell(opt, 1)
    assert monitor.record() == Reading(1, 2.0, 3.0, 4.0, 5.0, 0.5) == monitor.reading
    tell(opt, 2)
    assert monitor.record(6.0) == Reading(2, 6.0, 6.0, 4.0, 5.0, 0.5)
    tell(opt, 3)
    assert monitor.record(6.0, 7.0) == Reading(3, 6.0, 7.0, 4.0, 5.0, 0.5)
    tell(opt, 4, base=True, inner=99.0, shifted_grad_norm=4.0)
    assert monitor.record(grad_scale=8) == Reading(4, 2.0, 3.0, 4.0, 4.0, 1.0)
    tell(opt, 5)
    assert monitor.record(grad_scale=8) == Reading(5, 2.0, 3.0, 0.5, 5.0, 0.5)
    tell(opt, 6, grad_scale=2.0)
    assert monitor.record(grad_scale=8) == Reading(6, 2.0, 3.0, 1.0, 5.0, 0.5)
    tell(opt, 7, grad_scale=8.0)
    assert monitor.record() == Reading(7, 2.0, 3.0, 4.0, 5.0, 0.5)
    for step, inner, cosine in ((8, 21.0, 1.0), (9, -21.0, -1.0), (10, -10.0, -0.5)):
        tell(opt, step, inner=inner)
        assert monitor.record().cosine == cosine
    tell(opt, 11, grad_norm=0.0, inner=0.0)
    assert monitor.record().cosine == 0
    tell(opt, 12, grad_norm=0.0, inner=0.25)
    assert monitor.record().cosine == 0.25
    for bad in (0, -1.0, math.nan):
        tell(opt, 13)
        refused(lambda bad=bad: monitor.record(grad_scale=bad), f"grad_scale = {bad}", "(0, ∞)")


@pytest.mark.parametrize("every", [1, 3, 20])
@pytest.mark.parametrize("origin", [0, 1000])
@pytest.mark.parametrize("pace", [1, 4])
def test_when_it_reads_and_what_it_asks_to_be_kept(every: int, origin: int, pace: int) -> None:
    opt = optimizer()
    opt.param_groups[0]["sam_step"] = origin
    monitor = HallucinationMonitor(opt, every=every)
    assert opt._observers[monitor] == origin
    due, last = 0.0, origin
    for step in range(origin + pace, origin + 601, pace):
        tell(opt, step)
        info = opt._info
        reading = monitor.record()
        if step >= due or last == origin:
            assert reading.step == step
            due = step + min(every, 0.04 * (step - origin))
        else:
            assert reading.step < step
        needed = max(due, step + min(max(1, step - last), every))
        assert opt._observers[monitor] == math.ceil(needed)
        assert monitor.record() is reading  # a second call changes no reading
        assert opt._info is info
        last = step


def test_a_second_call_in_a_step_adds_nothing(rule: Rule) -> None:
    opt = optimizer()
    monitor = HallucinationMonitor(opt, every=1)
    for step in (1, 2, 2, 3):
        tell(opt, step) if step != opt.steps else None
        monitor.record()
    assert [a[0][0].tolist() for a in rule.asked] == [[1], [1, 2], [1, 2, 3]]
    # A step that told nothing, as one before which nobody asked for its gradients.
    opt._info, opt._done = None, None
    opt.param_groups[0]["sam_step"] = 9
    assert monitor.record().step == 3


@pytest.mark.parametrize("baseline", [None, 0.7])
def test_the_history_holds_means(rule: Rule, baseline: float | None) -> None:
    opt = optimizer()
    opt.param_groups[0]["sam_step"] = 50
    monitor = HallucinationMonitor(opt, every=1, baseline=baseline)
    rows, entries, due = [], [], 0.0
    for elapsed in range(1, 80):
        numbers = (1.0 + elapsed**2, 2.0 + elapsed, 3.0 + elapsed**3)
        kinds = ("loss", "grad_norm", "shifted_grad_norm")
        tell(opt, 50 + elapsed, **dict(zip(kinds, numbers, strict=True)))
        monitor.record()
        rows.append(numbers)
        if elapsed >= due:
            entries.append((elapsed, *np.mean(rows, axis=0)))
            rows, due = [], elapsed * 1.04
            columns, given = rule.asked[-1]
            assert np.allclose(columns, np.transpose(entries), rtol=1e-14)
            assert all(c.dtype == np.float64 for c in columns)
            assert given == baseline
        assert len(rule.asked) == len(entries)
    assert len(entries) < 60  # several readings went into the last entries


def test_values_that_are_not_finite(rule: Rule) -> None:
    opt = optimizer()
    monitor = HallucinationMonitor(opt, every=1)
    tell(opt, 1)
    monitor.record()
    for step, bad in enumerate(({"grad_norm": math.inf}, {"shifted_grad_norm": math.nan}), 2):
        tell(opt, step, **bad)
        monitor.record()
    assert (len(rule.asked), monitor.verdict) == (1, "running")
    tell(opt, 4, loss=math.nan)
    monitor.record()
    assert (len(rule.asked), monitor.verdict, monitor.changes) == (1, "diverged", [(4, "diverged")])
    tell(opt, 5, loss=8.0)
    monitor.record()
    columns, _ = rule.asked[-1]
    assert [c.tolist() for c in columns] == [[1, 5], [2, 8], [4, 4], [5, 5]]
    assert monitor.changes == [(4, "diverged"), (5, "running")]


def test_changes_are_told_once(rule: Rule) -> None:
    rule.answers += ["running", "descending", "descending", "converged"]
    opt = optimizer()
    told: list[Any] = []
    first = lambda m, old: told.append((1, m, old, m.verdict, list(m.changes)))  # noqa: E731
    second = lambda m, old: told.append((2, m, old, m.verdict, list(m.changes)))  # noqa: E731
    monitor = HallucinationMonitor(opt, every=1, callbacks=[first, second])
    for step in range(1, 5):
        tell(opt, step)
        monitor.record()
    changes = [(2, "descending"), (4, "converged")]
    assert monitor.changes == changes
    assert told == [
        (1, monitor, "running", "descending", changes[:1]),
        (2, monitor, "running", "descending", changes[:1]),
        (1, monitor, "descending", "converged", changes),
        (2, monitor, "descending", "converged", changes),
    ]


@pytest.mark.parametrize("auto", [False, True])
def test_the_remedy_is_taken_once_and_on_its_word_alone(rule: Rule, auto: bool) -> None:
    rule.answers += ["running", "stalled: chaotic", "hallucinated", "running", "hallucinated"]
    opt = optimizer()
    monitor = HallucinationMonitor(opt, every=1, auto_remedy=auto)
    steps = []
    for step in range(1, 6):
        tell(opt, step)
        monitor.record()
        steps.append(monitor.remedy_step)
    assert steps == ([None, None, 3, 3, 3] if auto else [None] * 5)
    assert opt.param_groups[0]["warm_start"] == (6 if auto else 0)
    back = [(3, "running")] if auto else [(4, "running")]
    named = [(2, "stalled: chaotic"), (3, "hallucinated"), *back, (5, "hallucinated")]
    assert monitor.changes == named
    assert monitor.verdict == "hallucinated"


def test_the_remedy_counts_from_where_the_monitor_last_started(rule: Rule) -> None:
    plan = lambda t: 1.0  # noqa: E731
    x, y = (nn.Parameter(torch.ones(2)) for _ in range(2))
    opt = SAM([{"params": [x]}, {"params": [y]}], torch.optim.SGD, rho=0.4, lr=0.1)
    opt.rho_schedule = plan
    for group in opt.param_groups:
        group["sam_step"] = 100
    monitor = HallucinationMonitor(opt)
    monitor.remedy()  # at once: one base step
    assert (monitor.remedy_step, monitor.ramp_steps) == (100, 4)
    assert [g["warm_start"] for g in opt.param_groups] == [101, 101]
    tell(opt, 110)
    monitor.record()
    monitor.verdict = "hallucinated"
    monitor.remedy()
    assert (monitor.remedy_step, monitor.ramp_steps) == (110, 40)
    assert [g["warm_start"] for g in opt.param_groups] == [120, 120]
    assert opt.rho_schedule is not plan
    assert [opt.rho_schedule(t) for t in (0, 10, 40, 50)] == [0, 0.25, 1, 1]
    assert (monitor.verdict, monitor.changes) == ("running", [(110, "running")])
    assert opt._observers[monitor] == 110
    assert monitor.record().step == 110
    assert monitor._history == []
    tell(opt, 111)
    assert monitor.record().step == 111
    assert rule.asked[-1][0][0].tolist() == [1]


def test_an_earlier_state_forgets_what_came_after(rule: Rule) -> None:
    rule.answers += ["running"] * 3 + ["descending"] + ["running"] * 4 + ["converged"]
    opt = optimizer()
    opt.param_groups[0]["sam_step"] = 10
    monitor = HallucinationMonitor(opt, every=1)
    for step in range(11, 51):
        tell(opt, step, loss=float(step))
        monitor.record()
    assert monitor.changes == [
        (14, "descending"),
        (15, "running"),
        (19, "converged"),
        (20, "running"),
    ]

    def load(step: int) -> None:
        tell(opt, step)
        opt._info = opt._done = None
        opt.loads.append(step)

    load(19)
    tell(opt, 20, loss=0.5)
    assert monitor.record().step == 20
    assert rule.asked[-1][0][0].tolist() == list(range(1, 11))
    assert rule.asked[-1][0][1].tolist() == [*range(11, 20), 0.5]
    assert monitor.changes == [
        (14, "descending"),
        (15, "running"),
        (19, "converged"),
        (20, "running"),
    ]
    load(14)
    refused(monitor.record, "no step to read yet")  # the last reading came later
    assert (monitor.verdict, monitor.changes) == ("descending", [(14, "descending")])
    tell(opt, 15)
    monitor.record()
    load(15)
    assert monitor.record().step == 15  # a state from after the last reading keeps it
    load(12)
    load(10)  # before all: it starts over
    refused(monitor.record, "no step to read yet")
    assert (monitor.verdict, monitor.changes, monitor._history) == ("running", [], [])
    load(3)
    refused(monitor.record, "no step to read yet")
    assert opt._observers[monitor] == 3
    tell(opt, 4)
    assert monitor.record().step == 4
    assert rule.asked[-1][0][0].tolist() == [1]


def test_an_earlier_state_drops_means_in_the_making(rule: Rule) -> None:
    opt = optimizer()
    monitor = HallucinationMonitor(opt, every=1)

    def go(start: int, end: int, sign: float) -> None:
        for step in range(start, end):
            numbers = {
                "loss": sign * step,
                "grad_norm": 2.0 * step,
                "shifted_grad_norm": 3.0 * step,
            }
            tell(opt, step, **numbers)
            monitor.record()

    go(1, 131, 1.0)
    entries = [entry[0] for entry in monitor._history]
    back = entries[-3]  # a state of that step is loaded
    new = math.ceil(back * 1.04)
    assert back + 2 < new  # several readings before the next entry
    assert entries[-1] < 130  # and some already after the last one
    tell(opt, back)
    opt.loads.append(back)
    asked = len(rule.asked)
    go(back + 1, new + 3, -1.0)
    assert len(rule.asked) == asked + 1
    columns, _ = rule.asked[-1]
    assert columns[0].tolist() == [*entries[:-2], new]
    mean = np.mean(np.arange(back + 1, new + 1))
    assert [c[-1] for c in columns[1:]] == pytest.approx([-mean, 2 * mean, 3 * mean])

    # A state of the last step, as on a pause, forgets nothing: the means go on.
    tell(opt, new + 2)
    opt.loads.append(new + 2)
    later = math.ceil(new * 1.04)
    go(new + 3, later + 1, -1.0)
    columns, _ = rule.asked[-1]
    assert columns[0].tolist() == [*entries[:-2], new, later]
    assert columns[1][-1] == pytest.approx(-np.mean(np.arange(new + 1, later + 1)))


def test_a_state_from_before_the_remedy_undoes_it(rule: Rule) -> None:
    plan = lambda t: 1.0  # noqa: E731
    for loaded, undone in ((11, True), (12, False), (13, False)):
        opt = optimizer(rho_schedule=plan)
        monitor = HallucinationMonitor(opt)
        tell(opt, 12)
        monitor.record()
        monitor.remedy()
        tell(opt, 14)
        monitor.record()
        opt.loads.append(loaded)
        tell(opt, loaded + 1)
        monitor.record()
        assert (opt.rho_schedule is plan) == undone
        assert monitor.remedy_step == (None if undone else 12)
        assert monitor.ramp_steps == (0 if undone else 48)


def test_states_loaded_before_the_monitor_was_made_do_not_matter(rule: Rule) -> None:
    opt = optimizer()
    opt.param_groups[0]["sam_step"] = 30
    opt.loads += [5]
    monitor = HallucinationMonitor(opt)
    tell(opt, 31)
    monitor.record()
    assert monitor._loads == 1
    assert rule.asked[-1][0][0].tolist() == [1]
    opt.loads.append(31)
    monitor.record()
    assert monitor._loads == 2


def test_a_copy_watches_the_copy() -> None:
    opt = optimizer()
    opt.param_groups[0]["sam_step"] = 7
    twin, watch = copy.deepcopy((opt, HallucinationMonitor(opt, every=5)))
    assert (watch.optimizer is twin, watch.every) == (True, 5)
    assert twin._observers[watch] == 0


def test_the_explanation_gives_the_numbers() -> None:
    opt = optimizer()
    monitor = HallucinationMonitor(opt)
    tell(opt, 3, loss=2.125, grad_norm=0.25, shifted_grad_norm=0.0625, inner=0.0078125)
    monitor.record()
    monitor.verdict = "hallucinated"
    text = monitor.explain()
    assert text.startswith("Step 3, hallucinated. ")
    for part in ("GradRatio 0.25;", "norm 0.25.", "loss 2.12 ", "one of SAM does 0.125 times"):
        assert part in text
