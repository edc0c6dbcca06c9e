"""``samlib reproduce`` on a small record: what is the same, and what is found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ledger import claims

from samlib.cli import main
from samlib.diagnostics import verdicts
from samlib.experiments import records, reproduction, sweeps
from samlib.training.spec import RunSpec

RECORDS = claims.PROJECT / "book" / "records"
SPECS = [
    RunSpec(n=40, width=3, steps=30, rho=rho, lr=0.1, seed=s) for rho in (0, 2) for s in (0, 1)
]
LEDGER = """
- {id: small, source: ours, statement: s, kind: experiment, status: holds,
   evidence: [{record: small, where: {rho: 2}, of: 2, none: {verdict: diverged}},
              {record: small, where: {seed: 0}, of: 2, none: {verdict: diverged}}]}
- {id: proved, source: ours, statement: s, kind: theorem,
   status: proved in the text; instances tested,
   evidence: [{chapter: a}, {test: "tests/test_a.py::test_b"},
              {certificate: book/c.json, proved: [exists]}]}
- {id: tested, source: ours, statement: s, kind: experiment, status: holds,
   evidence: [{test: "tests/test_a.py::test_b", reads: [small]}]}
- {id: nothing, source: ours, statement: s, kind: theorem, status: open}
"""


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(claims, "PROJECT", tmp_path)
    folder = tmp_path / "book" / "records" / "small"
    monkeypatch.setattr(records, "BOOK", folder.parent)
    (tmp_path / "book" / "ledger").mkdir(parents=True)
    sweeps.sweep(SPECS, folder)
    (tmp_path / "book" / "claims.yml").write_text(LEDGER)
    return folder / "runs.jsonl"


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    runs = [json.loads(line) for line in path.read_text().splitlines()]
    for run in runs:
        edit(run)
    path.write_text("".join(json.dumps(run, sort_keys=True) + "\n" for run in runs))


def test_the_same_code_gives_the_same(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(record, lambda run: run["metrics"].update(loss=run["metrics"]["loss"] * (1 + 1e-4)))
    assert main(["reproduce", "small", "--runs", "9"]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert len({row.split()[1] for row in rows}) == len(rows) == 3  # each once: rho 2, or seed 0
    assert main(["reproduce", "tested", "--runs", "9"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5  # all four runs that its test reads
    assert main(["reproduce", "--seed", "1", "--runs", "2"]) == 0
    drawn = capsys.readouterr().out.splitlines()[1:]
    assert len(drawn) == 2
    assert main(["reproduce", "--seed", "1", "--runs", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == drawn


def not_running(run: dict[str, Any]) -> None:
    run["verdict"] = "converged" if run["verdict"] != "converged" else "stalled"


def test_another_verdict_is_found_out(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(record, not_running)
    assert main(["reproduce", "small"]) == 1
    assert capsys.readouterr().out.count("NOT THE SAME") == 3


def test_another_loss_is_found_out_unless_the_run_is_chaotic(record: Path) -> None:
    run = records.read(record.parent)[0] | {"verdict": "hallucinated"}
    run["metrics"] |= {"loss": 1.23, "stall": None}

    def same(verdict: str, again: float, rises: bool = True, **metrics: Any) -> bool:
        was = {"verdict": metrics.pop("v", verdict), "metrics": run["metrics"] | metrics}
        return reproduction.Repeat("small", run | was, verdict, again, rises).same

    assert same("hallucinated", 1.2399)
    assert not same("hallucinated", 1.2401)
    assert not same("hallucinated", float("nan"))
    assert not same("hallucinated", 1.23, v="stalled")
    assert same("stalled", 9.0, stall="chaotic")
    assert not same("stalled", 9.0, stall="saddle")
    assert same("diverged", float("nan"), loss=None)
    for verdict in ("running", "converged"):  # only if it went through chaos
        assert same(verdict, 2.0, rises=True)
        assert not same(verdict, 2.0, rises=False)
        assert same(verdict, 1.2301, rises=False)


def test_runs_recorded_on_two_kinds_of_cpu_are_the_same() -> None:
    """81 pairs of records are of one run, on CPUs that round differently. One pair differs."""
    twice: dict[str, list[tuple[str, records.Record]]] = {}
    for name, run in reproduction.recorded():
        twice.setdefault(run["id"], []).append((name, run))
    repeats, other = [], []
    for (name, run), *rest in twice.values():
        for _, again in rest:
            if run["provenance"]["hardware"] != again["provenance"]["hardware"]:
                loss, rises = again["metrics"]["loss"], reproduction.rises(name, run["id"])
                repeats.append(reproduction.Repeat(name, run, again["verdict"], loss, rises))
                other += [] if repeats[-1].same else [repeats[-1]]
    assert len(repeats) == 81
    assert all(r.record["verdict"] == r.verdict for r in repeats)
    (one,) = other
    assert one.record["verdict"] == "converged"
    assert one.loss == pytest.approx(one.record["metrics"]["loss"], rel=3e-3)


def test_claims_rest_on_the_runs_that_they_speak_of_and_that_their_tests_read() -> None:
    found = claims.resting_on("monitor-agrees")
    assert len(found) == 360
    assert {name for name, _ in found} == {"monitor-fresh", "monitor-fresh-mnist"}
    found = claims.resting_on("image-is-constant")
    assert {run["verdict"] for _, run in found} <= set(verdicts.VERDICTS)
    assert len({(name, run["id"]) for name, run in found}) == len(found) == 372
    assert len(reproduction.recorded()) == sum(
        path.read_text().count("\n") for path in RECORDS.glob("*/runs.jsonl")
    )


@pytest.mark.parametrize(
    ("a", "b", "close"), [(2.3, 2.309, True), (2.3, 2.311, False), (0.0231, 0.02319, True),
                          (0.0231, 0.02322, False), (0.0, 0.0, True), (-1.0, 1.0, False)],
)  # fmt: skip
def test_three_digits(a: float, b: float, close: bool) -> None:
    assert reproduction.agree(a, b) is close


def test_a_claim_without_records_says_how_to_check_it(
    record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "proved"]) == 0
    out = capsys.readouterr().out
    assert "proved rests on no recorded run" in out
    assert "python -m pytest tests/test_a.py::test_b" in out
    assert "Certificate.load('book/c.json').recheck()" in out
    assert main(["reproduce", "nothing"]) == 0
    assert "nothing yet" in capsys.readouterr().out
    assert main(["reproduce", "smal"]) == 2
    assert (
        "claim 'smal' is unknown; use one of small, proved, tested, nothing"
        in capsys.readouterr().err
    )
