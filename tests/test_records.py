"""Records survive what happens to files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from samlib import records
from samlib.errors import BadInput

sys.path.insert(0, str(Path(__file__).parents[1] / "book" / "_ext"))

import recorded_runs

CURVES = {"step": np.arange(3, dtype=np.float32), "loss": np.ones(3, dtype=np.float32)}


def record(rho: float) -> records.Record:
    spec = {"rho": rho}
    return {"id": records.identity(spec), "spec": spec, "verdict": "converged", "metrics": {}}


def test_round_trip(tmp_path: Path) -> None:
    for rho in (0.5, 1.0):
        records.append(tmp_path / "a", record(rho), CURVES)
    runs = records.read(tmp_path / "a")
    assert [r["spec"]["rho"] for r in runs] == [0.5, 1.0]
    assert records.select(runs, rho=1.0) == [record(1.0)]
    curves = records.read_curves(tmp_path / "a", runs[0]["id"])
    np.testing.assert_array_equal(curves["step"], [0, 1, 2])


def test_curves_hold_no_pickles(tmp_path: Path) -> None:
    records.append(tmp_path, record(1.0), CURVES)
    path = tmp_path / "curves" / f"{record(1.0)['id']}.npz"
    assert set(np.load(path, allow_pickle=False).files) == set(CURVES)


def test_the_id_depends_on_the_spec_alone() -> None:
    assert records.identity({"a": 1, "b": 2}) == records.identity({"b": 2, "a": 1})
    assert records.identity({"a": 1}) != records.identity({"a": 2})


def test_a_broken_line_is_named_not_skipped(tmp_path: Path) -> None:
    records.append(tmp_path, record(1.0), CURVES)
    path = tmp_path / "runs.jsonl"
    path.write_text(path.read_text() + '{"id": "x", "sp')
    with pytest.raises(BadInput, match=r"runs\.jsonl:2 is not a record"):
        records.read(tmp_path)


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        records.read(tmp_path / "none")


def test_an_unwritable_folder_is_refused_before_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadInput, match="cannot be written"):
        records.prepare(tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "in the way"


def test_json_has_no_nan() -> None:
    clean = records.sanitised({"a": float("nan"), "b": float("inf"), "c": 1.0, "d": None})
    assert json.dumps(clean, allow_nan=False) == '{"a": null, "b": null, "c": 1.0, "d": null}'


def test_provenance_says_where_a_run_came_from() -> None:
    p = records.provenance(0.0, "cpu", 1)
    assert p["started"] == "1970-01-01T00:00:00Z"
    for key in ("commit", "clean", "python", "torch", "numpy", "samlib", "hardware", "threads"):
        assert key in p


def test_a_stack_of_runs_is_timed_once(tmp_path: Path) -> None:
    stacks = [("a", 60.0, 3), ("a", 60.0, 3), ("b", 40.0, 1)]
    for number, (started, wall, stack) in enumerate(stacks):
        where = {"started": started, "wall_time_s": wall, "stack": stack}
        where |= {"hardware": "an abacus", "threads": 1}
        records.append(tmp_path / "x", record(float(number)) | {"provenance": where}, CURVES)
    text = recorded_runs.table([tmp_path / "x"])
    assert "| `x` | 3 | 1.7 min |" in text
    assert "| **all** | 3 | 1.7 min |" in text
    assert "Hardware: 3 runs on an abacus, 1 thread." in text
    assert [recorded_runs.duration(s) for s in (12, 100, 6000, 90000)] == [
        "12 s", "1.7 min", "1.7 h", "25 h",
    ]  # fmt: skip
