"""Verdicts and metrics of all 4,451 records, computed again from their curves.

A record keeps the whole history of a run as about 200 of its steps (900 in some experiments),
evenly spaced in log(1 + step), so of the tail that a verdict looks at one or two steps are left.
The verdict follows from these in 4,415 records. The other 36 turn on steps between the kept ones:
they are listed one by one in ``between_kept_steps.json``, and the recorded metrics, which rest on
all steps, must say why. What curves cannot show (accuracies, spectra, wall times) is held by
``book/records/SHA256SUMS``. After a new experiment:
``cd book/records && sha256sum */runs.jsonl */curves.npz > SHA256SUMS``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from figures.ch05 import sensitivity
from numpy.typing import NDArray

from samlib.diagnostics import verdicts as diagnostics
from samlib.diagnostics.verdicts import (
    Trace,
    grad_ratio,
    loss_gap,
    stall_kind,
    verdict,
)
from samlib.experiments import records, sweeps
from samlib.training import data
from samlib.training.spec import RunSpec

RECORDS = Path(__file__).resolve().parents[2] / "book" / "records"
FOLDERS = sorted(p.parent for p in RECORDS.glob("*/runs.jsonl"))
# "experiment/id" -> {"verdict" or "stall": [recorded, as the kept steps alone have it]}
BETWEEN = json.loads((Path(__file__).parent / "between_kept_steps.json").read_text())
LAST = ("loss", "grad_norm", "shifted_loss", "shifted_grad_norm")
Curves = dict[str, NDArray[np.float64]]
Known = list[tuple[str, records.Record, Curves]]


@pytest.fixture(scope="module")
def known() -> Known:
    """Every record with its curves, as (experiment/id, record, curves)."""
    out = []
    for folder in FOLDERS:
        for record in records.read(folder):
            curves = records.read_curves(folder, record["id"])
            out.append((f"{folder.name}/{record['id']}", record, curves))
    return out


def kept(record: records.Record, curves: Curves) -> Trace:
    """A trace whose first entry is that of the run and whose tail is the kept part of its tail."""
    ends = curves["step"][-1] + 1
    tail = curves["step"] >= ends - max(1, ends // 20)
    before = np.repeat(False, len(tail))
    before[0] = True
    rows = np.r_[np.repeat(np.flatnonzero(before), 19 * tail.sum()), np.flatnonzero(tail)]
    metrics = record["metrics"]
    arrays = [curves[name][rows] for name in LAST]
    return Trace(*arrays, metrics["baseline"], metrics["twin_loss"])


def steps_above(record: records.Record, curves: Curves) -> int:
    """How many steps with GradRatio ≥ 0.1 the metrics tell of that are not among the kept ones."""
    metrics = record["metrics"]
    high = grad_ratio(curves["grad_norm"], curves["shifted_grad_norm"]) >= 0.1
    return int(metrics["steps"] + 1 - metrics["steps_below_0.1"] - high.sum())


def faults(record: records.Record, curves: Curves, between: dict[str, list[str]]) -> list[str]:
    """The names of what in a record does not follow from its curves and its other numbers."""
    m, spec, where = record["metrics"], record["spec"], record["provenance"]
    t = kept(record, curves)
    low = grad_ratio(curves["grad_norm"], curves["shifted_grad_norm"]) < 0.1
    parts = {name: m[name] is not None and np.float32(m[name]) == curves[name][-1] for name in LAST}
    parts["grad_ratio"] = m["grad_ratio"] == grad_ratio(m["grad_norm"], m["shifted_grad_norm"])
    parts["loss_gap"] = m["loss_gap"] == loss_gap(m["loss"], m["shifted_loss"])
    parts["steps"] = m["steps"] == spec["steps"] == curves["step"][-1]
    most = m["steps"] + 1 - (~low).sum()
    parts["steps_below_0.1"] = low.sum() <= m["steps_below_0.1"] <= most
    same = [record["verdict"]] * 2
    parts["verdict"] = [record["verdict"], verdict(t)] == between.get("verdict", same)
    kind = stall_kind(t) if record["verdict"] == "stalled" else None
    parts["stall"] = [m["stall"], kind] == between.get("stall", [m["stall"]] * 2)
    parts["progress"] = _progress_fits(record, t)
    parts["wall_time_s"] = m["wall_time_s"] == where["wall_time_s"]
    for name, count in (("train_accuracy", "n"), ("test_accuracy", "n_test")):
        share = m[name] * record["data"][count]
        parts[name] = 0 <= m[name] <= 1 and abs(share - round(share)) < 1e-6
    return [name for name, holds in parts.items() if not holds]


def _progress_fits(record: records.Record, t: Trace) -> bool:
    """Whether the recorded progress, from all steps of the tail, is that of verdict and kept steps.

    Where the loss hardly moves both medians agree; elsewhere only the verdict's own rule is asked.
    """
    p, name, norms = record["metrics"]["progress"], record["verdict"], t.grad_norm[t.tail]
    if p is None or t.progress is None:
        return p is None and t.progress is None and name in ("running", "converged", "hallucinated")
    strict = bool(diagnostics.is_strict(t.grad_ratio[t.tail].max(), norms.min()))
    at_rest = max(norms.max(), t.shifted_grad_norm[t.tail].max()) < 1e-6
    fits = {
        "converged": p > 0.8 or at_rest,
        "running": 0.2 <= p <= 0.8,
        "stalled": p < 0.2,
        "hallucinated": p < 0.2 or strict,
    }
    moving = name == "running" or record["metrics"]["stall"] == "chaotic"
    return fits[name] and (moving or abs(p - t.progress) < 0.05)


def test_all_records_are_here(known: Known) -> None:
    assert len(known) == 4451
    assert Counter(record["verdict"] for _, record, _ in known) == {
        "converged": 1567, "hallucinated": 1434, "stalled": 1143, "running": 307,
    }  # fmt: skip


def test_each_experiment_holds_its_grid_and_keeps_the_steps_it_says(known: Known) -> None:
    ids, steps = defaultdict(list), {}
    for name, record, curves in known:
        experiment, run_id = name.split("/")
        ids[experiment].append(run_id)
        steps[experiment, record["spec"]["steps"]] = curves["step"]
        due = steps.setdefault((experiment, record["spec"]["steps"]), curves["step"])
        assert np.array_equal(curves["step"], due)
    for experiment, found in ids.items():
        table, specs = sweeps.load(RECORDS.parent / "experiments" / f"{experiment}.toml")
        assert sorted(found) == sorted({s.id for s in specs})
        for last in {s.steps for s in specs}:
            spaced = np.expm1(np.linspace(0, np.log1p(last), table.get("points", 200)))
            due = np.unique(np.round(spaced)).astype(np.float32)
            assert np.array_equal(steps[experiment, last], due)


def test_every_metric_and_verdict_follows_from_the_curves(known: Known) -> None:
    wrong = {
        name: bad
        for name, record, curves in known
        if (bad := faults(record, curves, BETWEEN.get(name, {})))
    }
    assert wrong == {}


def test_the_listed_exceptions_turn_on_steps_between_the_kept_ones(known: Known) -> None:
    """Of 4,451 verdicts 36 and of 1,143 kinds of stall 38; the list holds no others."""
    verdicts, stalls = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for name, record, curves in known:
        between = BETWEEN.get(name, {})
        p, t = record["metrics"]["progress"], kept(record, curves)
        ends = record["spec"]["steps"] + 1
        if pair := between.get("verdict"):
            verdicts[tuple(pair)] += 1
            assert verdict(t) == pair[1] != pair[0] == record["verdict"]
            assert len(t.loss) // 20 < ends // 20  # the tail has steps that are not kept
            if tuple(pair) == ("stalled", "hallucinated"):  # it left for a step that is not kept
                assert p < 0.2
                assert steps_above(record, curves) >= 1
            else:  # the median of all steps lies on the other side of 0.2 or 0.8
                edge = 0.8 if "converged" in pair else 0.2
                assert (p - edge) * (t.progress - edge) < 0
        if pair := between.get("stall"):
            stalls[tuple(pair)] += 1
            assert record["metrics"]["stall"] == pair[0] != stall_kind(t) == pair[1]
    assert verdicts == {
        ("stalled", "hallucinated"): 25,
        ("running", "converged"): 5,
        ("running", "stalled"): 3,
        ("stalled", "running"): 3,
    }
    assert stalls == {("saddle", "chaotic"): 35, ("chaotic", "saddle"): 3}
    names = {name for name, _, _ in known}
    assert set(BETWEEN) <= names


def test_runs_with_one_twin_name_one_loss_of_it(known: Known) -> None:
    """Also runs of different experiments, on different processors; and so do recorded twins."""
    losses = defaultdict(list)
    for _, record, _ in known:
        spec = RunSpec.from_json(record["spec"])
        losses[spec.twin()].append(record["metrics"]["twin_loss"])
        if spec.rule == "gd" or spec.rho == 0:
            losses[spec.twin()].append(record["metrics"]["loss"])
    assert sum(len(some) > 1 for some in losses.values()) > 600
    for some in losses.values():
        assert max(some) <= min(some) * (1 + 1e-6)


@pytest.mark.slow
def test_baselines_are_those_of_the_labels(known: Known) -> None:
    baselines = defaultdict(set)
    for _, record, _ in known:
        s = RunSpec.from_json(record["spec"])
        key = (s.data, s.n, s.classes, s.label_noise, s.data_seed, s.loss)
        baselines[key].add(record["metrics"]["baseline"])
    computed = 0
    for (name, n, classes, noise, seed, loss), found in baselines.items():
        assert max(found) - min(found) < 1e-12
        if name in ("mnist", "cifar10"):  # large archives, which are not on every machine
            assert 0 < max(found) < np.log(10)
            continue
        cut = {"n": n, "classes": classes, "features": "standard", "label_noise": noise}
        labels = data.load_data(name, seed=seed, **cut).y_train
        prior = np.bincount(labels) / len(labels)
        entropy, square = -(prior * np.log(prior)).sum(), (prior * (1 - prior)).sum() / 2
        assert found.pop() == pytest.approx(square if loss == "mse" else entropy, abs=1e-12)
        computed += 1
    assert computed == 71


def test_a_run_recorded_twice_has_one_verdict(known: Known) -> None:
    """126 specs are in more than one experiment, recorded at different times."""
    runs = defaultdict(list)
    for name, record, _ in known:
        runs[name.split("/")[1]].append(record)
    twice = [some for some in runs.values() if len(some) > 1]
    assert len(twice) == 126
    assert all(len({r["verdict"] for r in some}) == 1 for some in twice)


ALTERED: dict[str, Any] = {
    **{name: lambda v: v * (1 + 3e-7) for name in (*LAST, "grad_ratio")},
    "loss_gap": lambda v: v + 1e-9,
    "steps": lambda v: v - 1,
    "steps_below_0.1": lambda v: v + 10**6,
    # Twice the 0.05 by which the medians of kept and of all steps may differ, to either side.
    "progress": lambda v: v + 0.1,
    "stall": lambda v: {"saddle": "chaotic", "chaotic": "saddle", None: "saddle"}[v],
    "wall_time_s": lambda v: v + 0.001,
    "train_accuracy": lambda v: v - 1e-4,
    "test_accuracy": lambda v: v - 1e-5,
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_metric_is_named(name: str, known: Known) -> None:
    for key, record, curves in known[:: len(known) // 60]:
        moving = record["metrics"]["stall"] == "chaotic" or record["verdict"] == "running"
        if name == "progress" and moving:
            continue  # SHA256SUMS alone sees this, unless it is the verdict that changes
        between = BETWEEN.get(key, {})
        changed = record["metrics"] | {name: ALTERED[name](record["metrics"][name])}
        assert name in faults(record | {"metrics": changed}, curves, between), key


def test_no_verdict_can_be_changed_unnoticed(known: Known) -> None:
    """Not one of 4,451 into any of the four others."""
    for key, record, curves in known:
        between, t = BETWEEN.get(key, {}), kept(record, curves)
        found = verdict(t)
        for name in diagnostics.VERDICTS:
            fits = [name, found] == between.get("verdict", [name] * 2)
            assert fits == (name == record["verdict"])


def digests() -> dict[str, str]:
    lines = (RECORDS / "SHA256SUMS").read_text().splitlines()
    return {path: digest for digest, path in (line.split("  ", 1) for line in lines)}


def test_the_records_are_those_of_the_committed_sums() -> None:
    """What no curve shows is held here; ``sha256sum -c SHA256SUMS`` says the same."""
    found = {
        str(path.relative_to(RECORDS)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in FOLDERS
        for path in (folder / "runs.jsonl", folder / "curves.npz")
    }
    assert found == digests()


# failing runs, and those of them called hallucinated with GradRatio below .03, .1 and .3
AT_OTHER_RATIOS = {
    "mnist-cliff": (16, 4, 8, 8),
    "mnist-map": (32, 6, 11, 16),
    "digits-cliff": (46, 17, 24, 31),
    "digits-map": (151, 27, 56, 80),
}


@pytest.mark.parametrize("name", AT_OTHER_RATIOS)
def test_counts_at_other_thresholds(name: str) -> None:
    counts = sensitivity(records.read_records(RECORDS / name, curves=True))
    assert tuple(counts.values()) == AT_OTHER_RATIOS[name]


def test_counts_at_other_thresholds_over_all_records(known: Known) -> None:
    counts = sensitivity(
        pandas.DataFrame(
            [(record["verdict"], curves) for _, record, curves in known],
            columns=["verdict", "curves"],
        )
    )
    assert counts == {"failing": 2577, "0.03": 1116, "0.1": 1434, "0.3": 1646}
