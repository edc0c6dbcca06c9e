"""Records survive what happens to files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ledger import pages

from samlib.errors import BadInput
from samlib.experiments import array_store as curves
from samlib.experiments import records
from samlib.training import provenance
from samlib.training.spec import defaults as spec_fields

ROOT = Path(__file__).resolve().parents[3]
CURVES = {"step": np.arange(3, dtype=np.float32), "loss": np.ones(3, dtype=np.float32)}


def record(rho: float) -> records.Record:
    spec = {"rho": rho}
    return {"id": provenance.identity(spec), "spec": spec, "verdict": "converged", "metrics": {}}


def test_round_trip(tmp_path: Path) -> None:
    for rho in (0.5, 1.0):
        records.append(tmp_path / "a", record(rho), CURVES)
    runs = records.read(tmp_path / "a")
    assert [r["spec"]["rho"] for r in runs] == [0.5, 1.0]
    curves = records.read_curves(tmp_path / "a", runs[0]["id"])
    np.testing.assert_array_equal(curves["step"], [0, 1, 2])


def test_curves_hold_no_pickles(tmp_path: Path) -> None:
    records.append(tmp_path, record(1.0), CURVES)
    path = tmp_path / "curves" / f"{record(1.0)['id']}.npz"
    assert set(np.load(path, allow_pickle=False).files) == set(CURVES)


def several(folder: Path, rhos: list[float]) -> dict[str, dict[str, np.ndarray]]:
    """Record runs whose curves differ in names, shapes and types; what was recorded, by id."""
    rng, out = np.random.default_rng(0), {}
    for rho in rhos:
        curves = {"step": np.arange(5.0), "loss": rng.random(5).astype(np.float32)}
        if rho > 1:
            curves |= {"slice": rng.random((2, int(rho))), "count": np.array(7), "none": np.ones(0)}
        out[record(rho)["id"]] = curves
        records.append(folder, record(rho), curves)
    return out


def same(folder: Path, due: dict[str, dict[str, np.ndarray]]) -> bool:
    for run in records.read(folder):
        got = records.read_curves(folder, run["id"])
        assert list(got) == list(due[run["id"]])
        for name, array in due[run["id"]].items():
            np.testing.assert_array_equal(got[name], array)
            assert got[name].dtype == np.float64
    return len(records.read(folder)) == len(due)


def test_packed_curves_are_the_same_and_take_less_room(tmp_path: Path) -> None:
    due = several(tmp_path, [0.5, 1.0, 2.0, 3.0])
    before = {p.name: p.stat().st_size for p in (tmp_path / "curves").iterdir()}
    records.pack(tmp_path)
    assert list((tmp_path / "curves").iterdir()) == []
    assert (tmp_path / "curves.npz").stat().st_size < 0.8 * sum(before.values())
    assert same(tmp_path, due)
    due |= several(tmp_path, [4.0, 0.25])  # recorded later: files of their own, then packed too
    assert len(list((tmp_path / "curves").iterdir())) == 2
    assert same(tmp_path, due)
    records.pack(tmp_path)
    content = (tmp_path / "curves.npz").read_bytes()
    assert same(tmp_path, due)
    assert records.repair(tmp_path) == []
    records.pack(tmp_path)
    assert (tmp_path / "curves.npz").read_bytes() == content
    assert set(np.load(tmp_path / "curves.npz", allow_pickle=False).files) >= {"index"}


def test_what_is_read_does_not_change_what_is_read_next(tmp_path: Path) -> None:
    due = several(tmp_path, [2.0])
    records.pack(tmp_path)
    records.read_curves(tmp_path, record(2.0)["id"])["step"][:] = -1
    assert same(tmp_path, due)


def test_a_packing_stopped_midway_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = several(tmp_path, [0.5, 1.0, 2.0])
    monkeypatch.setattr(Path, "unlink", lambda self, **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        records.pack(tmp_path)
    monkeypatch.undo()
    assert len(list((tmp_path / "curves").iterdir())) == 3
    assert (tmp_path / "curves.npz").exists()
    assert same(tmp_path, due)
    records.pack(tmp_path)
    assert list((tmp_path / "curves").iterdir()) == []
    assert same(tmp_path, due)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_packed_curves_are_named_and_set_aside(damage: str, tmp_path: Path) -> None:
    several(tmp_path, [0.5, 1.0])
    records.pack(tmp_path)
    path = tmp_path / "curves.npz"
    bad = path.read_bytes()
    bad = bad[:100] if damage == "cut" else bad[:80] + bytes([bad[80] ^ 255]) + bad[81:]
    path.write_bytes(bad)
    first, second = records.repair(tmp_path)
    assert "runs.jsonl:1 has unreadable curves, moved to curves.npz.damaged-" in first
    assert "runs.jsonl:2 has no curves" in second
    assert records.read(tmp_path) == []
    (aside,) = tmp_path.glob("curves.npz.damaged-*")
    assert aside.read_bytes() == bad


def test_all_records_of_the_book_are_small_clean_and_packed() -> None:
    """15 MB in all; each from a commit without changes; curves in one file an experiment."""
    folders = [p.parent for p in (ROOT / "book" / "records").glob("*/runs.jsonl")]
    assert len(folders) >= 40
    files = [p for folder in folders for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 15e6
    assert {p.name for p in files} <= {"runs.jsonl", "curves.npz", ".running"}
    for folder in folders:
        assert (ROOT / "book" / "experiments" / f"{folder.name}.toml").exists()
        assert all(r["provenance"]["clean"] is True for r in records.read(folder))


def test_the_id_depends_on_the_spec_alone() -> None:
    assert provenance.identity({"a": 1, "b": 2}) == provenance.identity({"b": 2, "a": 1})
    assert provenance.identity({"a": 1}) != provenance.identity({"a": 2})


def spoilt(change: dict[str, object]) -> bytes:
    """A line whose record has these values instead of its own (None: it lacks the key)."""
    kept = {k: v for k, v in (record(2.0) | change).items() if v is not None}
    return json.dumps(kept).encode()


BAD_LINES = {
    "no metrics": (spoilt({"metrics": None}), "it has no metrics"),
    "metrics a list": (spoilt({"metrics": []}), "it has no metrics"),
    "no verdict": (spoilt({"verdict": None}), "its verdict is unknown"),
    "verdict unknown": (spoilt({"verdict": "<script>"}), "its verdict is unknown"),
    "verdict a list": (spoilt({"verdict": ["converged"]}), "its verdict is unknown"),
    "no id": (spoilt({"id": None}), "no JSON object with id and spec"),
    "another spec": (spoilt({"spec": {"rho": 3.0}}), "its id is that of another spec"),
    "spec not a number": (spoilt({"spec": {"rho": float("nan")}}), "no JSON object"),
    "a list": (b"[1, 2]", "no JSON object with id and spec"),
    "a number": (b"3", "no JSON object with id and spec"),
    "nested": (b"[" * 100_000, "no JSON object with id and spec"),
    "nested spec": (b'{"id": "x", "spec": ' + b"[" * 50_000, "no JSON object with id and spec"),
    "digits": (b'{"id": "x", "spec": ' + b"9" * 5000 + b"}", "no JSON object with id and spec"),
    "text": (b"\xff\xfe", "no JSON object with id and spec"),
}


@pytest.mark.parametrize("name", BAD_LINES)
@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_that_is_no_record_is_refused_by_name_and_set_aside(
    name: str, end: bytes, tmp_path: Path
) -> None:
    bad, why = BAD_LINES[name]
    records.append(tmp_path, record(1.0), CURVES)
    path = tmp_path / "runs.jsonl"
    good = path.read_bytes()
    path.write_bytes(good + bad + end)
    with pytest.raises(BadInput, match=r"runs\.jsonl:2 is not a record") as error:
        records.read(tmp_path)
    assert why in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    (said,) = records.repair(tmp_path)
    assert "\n" not in said
    assert path.read_bytes() == good
    (aside,) = tmp_path.glob("runs.jsonl.*")
    assert aside.read_bytes() == bad + end
    assert records.repair(tmp_path) == []


def test_a_doubled_line_is_refused_by_name_and_set_aside(tmp_path: Path) -> None:
    due = several(tmp_path, [0.5, 1.0])
    path = tmp_path / "runs.jsonl"
    good = path.read_bytes()
    first = good.splitlines(keepends=True)[0]
    path.write_bytes(good + first)
    with pytest.raises(BadInput, match=rf"runs\.jsonl:3 repeats run {record(0.5)['id']}; go on"):
        records.read(tmp_path)
    (said,) = records.repair(tmp_path)
    assert "runs.jsonl:3 repeats run" in said
    assert path.read_bytes() == good
    assert same(tmp_path, due)
    (aside,) = tmp_path.glob("runs.jsonl.damaged-*")
    assert aside.read_bytes() == first


ENTRIES = {
    "too long": ["loss.float32", 0, [10**6]],
    "too far": ["loss.float32", 10**6, [5]],
    "negative": ["loss.float32", -5, [5]],
    "negative shape": ["loss.float32", 0, [-1]],
    "no such array": ["lost.float32", 0, [5]],
    "a text": "nothing",
    "words": ["loss.float32", "0", ["5"]],
}


@pytest.mark.parametrize("name", ENTRIES)
def test_one_lying_entry_of_the_index_costs_one_run(name: str, tmp_path: Path) -> None:
    due = several(tmp_path, [0.5, 1.0, 0.25])
    records.pack(tmp_path)
    path, liar = tmp_path / "curves.npz", record(1.0)["id"]
    with np.load(path) as z:
        arrays = dict(z)
    index = json.loads(arrays["index"].tobytes())
    index[liar]["loss"] = ENTRIES[name]
    np.savez(path, **arrays | {"index": np.frombuffer(json.dumps(index).encode(), np.uint8)})
    bad = path.read_bytes()
    (said,) = records.repair(tmp_path)
    assert "runs.jsonl:2 has no such curves as curves.npz says; a copy of it is" in said
    assert path.read_bytes() == bad
    (aside,) = tmp_path.glob("curves.npz.damaged-*")
    assert aside.read_bytes() == bad
    assert same(tmp_path, {k: v for k, v in due.items() if k != liar})
    due |= several(tmp_path, [1.0])  # run again
    assert same(tmp_path, due)
    records.pack(tmp_path)
    assert same(tmp_path, due)
    assert records.repair(tmp_path) == []


def test_a_lying_entry_of_a_run_not_run_again_is_left_behind(tmp_path: Path) -> None:
    due = several(tmp_path, [0.5, 1.0])
    records.pack(tmp_path)
    path = tmp_path / "curves.npz"
    with np.load(path) as z:
        arrays = dict(z)
    index = json.loads(arrays["index"].tobytes()) | {"f" * 16: {"loss": ["lost", 0, [5]]}}
    np.savez(path, **arrays | {"index": np.frombuffer(json.dumps(index).encode(), np.uint8)})
    due |= several(tmp_path, [2.0])
    records.pack(tmp_path)
    assert same(tmp_path, due)
    with np.load(path) as z:
        assert set(json.loads(z["index"].tobytes())) == set(due)


def test_an_index_that_is_no_table_damages_the_whole_file(tmp_path: Path) -> None:
    several(tmp_path, [0.5, 1.0])
    records.pack(tmp_path)
    path = tmp_path / "curves.npz"
    with np.load(path) as z:
        arrays = dict(z) | {"index": np.frombuffer(b"[1, 2]", np.uint8)}
    np.savez(path, **arrays)
    assert "has unreadable curves, moved to curves.npz.damaged-" in records.repair(tmp_path)[0]
    assert not path.exists()


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize("name", ["runs.jsonl", "curves.npz", ".running", "curves/ID.npz"])
def test_a_pipe_or_folder_where_a_file_belongs_is_refused_at_once(
    name: str, kind: str, tmp_path: Path
) -> None:
    several(tmp_path, [0.5])
    run_id = record(0.5)["id"]
    path = tmp_path / name.replace("ID", run_id)
    kept = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    said = f"is a {kind}.* where a file belongs; move it away"
    with pytest.raises(BadInput, match=said) as error:
        records.repair(tmp_path)
    assert "\n" not in str(error.value)
    if name == "runs.jsonl":
        with pytest.raises(BadInput, match=said):
            records.read(tmp_path)
    if name.startswith("curves/"):
        with pytest.raises(BadInput, match=said):
            records.read_curves(tmp_path, run_id)
    path.unlink() if kind == "pipe" else path.rmdir()
    if kept is not None:
        path.write_bytes(kept)
    assert records.repair(tmp_path) == []
    assert len(records.read(tmp_path)) == 1


def test_what_a_killed_process_left_is_tidied(tmp_path: Path) -> None:
    due = several(tmp_path, [0.5, 1.0])
    path = tmp_path / "runs.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])  # only the end of the last line is missing
    scratch = [tmp_path / "runs.jsonl.tmp", tmp_path / "curves" / "x.npz.tmp"]
    for one in scratch:
        one.write_bytes(b"half")
    assert records.repair(tmp_path) == []
    assert path.read_bytes() == whole
    assert not any(one.exists() for one in scratch)
    assert same(tmp_path, due)


def test_a_file_is_put_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        curves.put(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"old"


def test_curves_that_cannot_be_read_are_not_packed_away(tmp_path: Path) -> None:
    several(tmp_path, [0.5, 1.0])
    bad = tmp_path / "curves" / f"{record(1.0)['id']}.npz"
    bad.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="pickled"):
        records.pack(tmp_path)
    assert len(list((tmp_path / "curves").iterdir())) == 2
    assert bad.read_bytes() == b"damaged"


def test_a_processor_without_a_name_has_one_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    provenance._cpu.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda self: "processor : 0")
    assert provenance._cpu() == (platform.processor() or platform.machine()) != ""
    monkeypatch.undo()
    provenance._cpu.cache_clear()


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
    clean = provenance.sanitised({"a": float("nan"), "b": float("inf"), "c": 1.0, "d": None})
    assert json.dumps(clean, allow_nan=False) == '{"a": null, "b": null, "c": 1.0, "d": null}'


def test_provenance_says_where_a_run_came_from() -> None:
    p = provenance.provenance(0.0, "cpu", 1)
    assert p["started"] == "1970-01-01T00:00:00Z"
    for key in ("commit", "clean", "python", "torch", "numpy", "samlib", "hardware", "threads"):
        assert key in p


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[..., str]:
    """A new repository with a package and a record, all committed; runs git in it."""

    def git(*args: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *who, *args], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    for name in ("pkg/code.py", "book/records/x/runs.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    return git


def test_clean_is_a_checkout_of_its_commit_without_changes(
    tmp_path: Path, checkout: Callable[..., str]
) -> None:
    def clean() -> object:
        provenance._commit.cache_clear()
        return provenance._commit(tmp_path / "pkg")["clean"]

    assert provenance._commit(tmp_path / "pkg") == {
        "commit": checkout("rev-parse", "HEAD"),
        "clean": True,
    }
    (tmp_path / "book/records/x/runs.jsonl").write_text("2\n")
    (tmp_path / "book/records/x/new").write_text("3\n")
    assert clean() is True  # records being written are no change of the code
    for name in ("pkg/code.py", "pkg/new.py", "book/new.md", "records"):
        path = tmp_path / name
        old = path.read_text() if path.exists() else None
        path.write_text("2\n")
        assert clean() is False, name
        path.unlink() if old is None else path.write_text(old)
        assert clean() is True
    (tmp_path / "pkg/code.py").unlink()
    assert clean() is False
    (tmp_path / "pkg/code.py").write_text("3\n")
    checkout("commit", "-qam", "changed and committed")
    assert clean() is True


def test_code_of_no_repository_has_no_commit(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, checkout: Callable[..., str]
) -> None:
    nothing = {"commit": None, "clean": None}
    provenance._commit.cache_clear()
    assert provenance._commit(tmp_path_factory.mktemp("plain")) == nothing
    (tmp_path / "site-packages").mkdir()  # an environment inside somebody's checkout
    (tmp_path / "site-packages" / "code.py").write_text("1\n")
    assert provenance._commit(tmp_path / "site-packages") == nothing


def test_the_provenance_of_a_run_is_that_of_this_code() -> None:
    provenance._commit.cache_clear()
    here = provenance._commit(Path(records.__file__).parent)
    where = provenance.provenance(0.0, "cpu", 1)
    assert (where["commit"], where["clean"]) == (here["commit"], here["clean"])


def test_a_stack_of_runs_is_timed_once(tmp_path: Path) -> None:
    stacks = [("a", 60.0, 3), ("a", 60.0, 3), ("b", 40.0, 1)]
    for number, (started, wall, stack) in enumerate(stacks):
        where = {"started": started, "stack": stack}
        where |= {"hardware": "an abacus", "threads": 1}
        line = record(float(number)) | {"provenance": where, "data": {}}
        records.append(tmp_path / "x", line | {"metrics": {"wall_time_s": wall}}, CURVES)
    text = pages.costs([tmp_path / "x"])
    assert "| `x` | 3 | 1.7 min |" in text
    assert "| **all** | 3 | 1.7 min |" in text
    assert "Hardware: 3 runs on an abacus, 1 thread." in text
    assert [pages.duration(s) for s in (12, 100, 6000, 90000)] == [
        "12 s", "1.7 min", "1.7 h", "25 h",
    ]  # fmt: skip


def test_records_are_a_table(tmp_path: Path) -> None:
    """A row a run, in order; defaults filled in; the loss is a number, its name another column."""
    for rho, stall in ((0.5, "saddle"), (1, None)):
        line = record(rho)
        line["spec"] = {"rho": rho, "classes": [3, 8], "loss": "mse"}
        line |= {"id": provenance.identity(line["spec"]), "metrics": {"loss": rho, "stall": stall}}
        line |= {"provenance": {"commit": "c", "hardware": "h"}, "data": {"sha256": "s"}}
        norms = {"grad_norm": np.full(3, 2.0), "shifted_grad_norm": np.ones(3)}
        records.append(tmp_path / "a", line, {**CURVES, **norms})
    runs = records.read_records(tmp_path / "a", curves=True)
    assert list(runs.id) == [r["id"] for r in records.read(tmp_path / "a")]
    assert list(runs.experiment) == ["a", "a"]
    assert list(runs.loss) == [0.5, 1.0]
    assert set(runs.loss_function) == {"mse"}
    assert set(runs.classes) == {(3, 8)}
    assert set(runs.schedule) == {"constant"}
    assert runs.batch.isna().all()
    assert list(runs.stall.isna()) == [False, True]
    assert set(runs.commit + runs.hardware + runs.data_sha256) == {"chs"}
    for run in runs.itertuples():
        np.testing.assert_array_equal(run.curves["step"], [0, 1, 2])
        np.testing.assert_allclose(run.curves["grad_ratio"], 0.5, rtol=1e-11)
        assert all(curve.dtype == np.float64 for curve in run.curves.values())
    assert "curves" not in records.read_records(tmp_path / "a")


def test_an_experiment_of_the_book_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = records.read_records("mnist-cliff")
    listed = records.read(ROOT / "book" / "records" / "mnist-cliff")
    assert list(runs.id) == [run["id"] for run in listed]
    assert list(runs.grad_ratio) == [run["metrics"]["grad_ratio"] for run in listed]
    assert set(spec_fields()) - {"loss"} <= set(runs.columns)
    assert set(listed[0]["metrics"]) <= set(runs.columns)
    curves = records.read_curves("mnist-cliff", runs.id[0])
    assert curves["step"][-1] == runs.steps[0]
    with pytest.raises(BadInput, match=r"no records in 'mnist-clif'; .*mnist-cliff, mnist-map"):
        records.read_records("mnist-clif")
    records.prepare("mine")
    with pytest.raises(BadInput, match="'mine' holds no run yet"):
        records.read_records("mine")


@pytest.mark.parametrize("path", sorted((ROOT / "book/records").glob("*/runs.jsonl")), ids=str)
def test_what_a_field_and_a_metric_both_name_is_one_number(path: Path) -> None:
    """All but the loss: so that a table has one column for it."""
    for run in records.read(path.parent):
        spec = spec_fields() | run["spec"]
        for name in set(spec) & set(run["metrics"]) - {"loss"}:
            assert spec[name] == run["metrics"][name], (run["id"], name)
