"""Eight recorded runs trained again from their specs: what the code now does is what it then did.

A change of the training code that moves any of these numbers makes every record of the book one of
other code. The eight differ in data, model, rule, loss, precision and options, take a second or two
each, and are not chaotic: where rounding grows, no two machines agree.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from samlib.experiments import records
from samlib.experiments.reproduction import agree
from samlib.training import loop
from samlib.training.spec import RunSpec

RECORDS = Path(__file__).resolve().parents[2] / "book" / "records"
PINNED = [
    ("width-digits", "5d01b71f709f1431"),  # two tanh units
    ("strict-pairs", "00abb04b013fd266"),  # double precision, strict, logistic loss
    ("batch-digits", "0eb20b85e842be41"),  # mini-batches
    ("variants-digits", "8a6b623203c0f6e3"),  # the step of length ρ‖∇f‖
    ("variants-digits", "9442c6eb44dd28e6"),  # gsam
    ("monitor-fresh", "8c465d49324ea266"),  # relu
    ("remedy-digits", "279fa158c20bebda"),  # momentum 0.9
    ("karate-gcn", "f761423eac358944"),  # a graph network, held at a saddle
]


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "run_id"), PINNED)
def test_a_recorded_run_trained_again_is_the_same(experiment: str, run_id: str) -> None:
    (record,) = (r for r in records.read(RECORDS / experiment) if r["id"] == run_id)
    run = loop.train(RunSpec.from_json(record["spec"]), device="cpu")
    assert run.spec.id == run_id
    assert run.verdict == record["verdict"]
    for name in ("loss", "twin_loss", "baseline"):  # to one unit of the sixth digit
        assert agree(record["metrics"][name], run.metrics[name], 6), name
    assert run.metrics["stall"] == record["metrics"]["stall"]
    assert run.data == record["data"]


def test_the_pinned_runs_differ_in_what_matters() -> None:
    specs = []
    for experiment, run_id in PINNED:
        (record,) = (r for r in records.read(RECORDS / experiment) if r["id"] == run_id)
        specs.append(RunSpec.from_json(record["spec"]))
    assert len(specs) == 8
    assert {s.rule for s in specs} == {"sam", "gsam", "unnormalised"}
    assert {s.model for s in specs} == {"mlp", "gcn"}
    assert {s.dtype for s in specs} == {"float32", "float64"}
    assert {s.loss for s in specs} == {"ce", "logistic"}
    assert {s.activation for s in specs} == {"tanh", "relu"}
    assert any(s.batch for s in specs)
    assert any(s.momentum for s in specs)
    assert any(s.weight_decay for s in specs)
