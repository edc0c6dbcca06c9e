"""Records by hand: their bytes, what is added and left alone, and what each refusal names."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import samlib
from samlib.errors import BadInput
from samlib.experiments import array_store, records
from samlib.training import provenance

Record = dict[str, Any]


def record(rho: float, **more: Any) -> Record:
    spec = {"rho": rho}
    made = {"id": provenance.identity(spec), "spec": spec, "verdict": "converged", "metrics": {}}
    return made | more


def curves(value: float) -> dict[str, np.ndarray]:
    return {"step": np.arange(3.0), "loss": np.full(3, value, np.float32)}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def add(folder: Path, *rhos: float) -> Path:
    """Record runs whose curves hold their radius; the file of records."""
    for rho in rhos:
        records.append(folder, record(rho), curves(rho))
    return folder / "runs.jsonl"


def first_loss(folder: Path, rho: float) -> float:
    return float(records.read_curves(folder, record(rho)["id"])["loss"][0])


def test_an_id_is_a_digest_of_sorted_json() -> None:
    text = b'{"a": [1.5, null], "b": "x"}'
    due = hashlib.sha256(text).hexdigest()
    assert provenance.identity({"b": "x", "a": [1.5, None]}) == due[:16]
    for number in (np.nan, np.inf):
        with pytest.raises(ValueError, match="JSON"):
            provenance.identity({"a": number})


def test_a_line_is_the_record_as_sorted_json(tmp_path: Path) -> None:
    add(tmp_path, 1.0, 0.5)
    due = [json.dumps(record(rho), sort_keys=True) + "\n" for rho in (1.0, 0.5)]
    assert (tmp_path / "runs.jsonl").read_text() == "".join(due)
    assert records.ids(tmp_path) == {record(1.0)["id"], record(0.5)["id"]}


def test_what_is_recorded_already_is_left_alone(tmp_path: Path) -> None:
    assert records.append(tmp_path, record(1.0), curves(1.0)) is True
    assert records.append(tmp_path, record(1.0, verdict="stalled"), curves(9.0)) is False
    runs = [(record(rho), curves(9.0)) for rho in (2.0, 1.0, 3.0, 2.0)]
    assert records.extend(tmp_path, runs) == 2
    assert records.extend(tmp_path, []) == 0
    assert records.read(tmp_path) == [record(1.0), record(2.0), record(3.0)]
    assert [first_loss(tmp_path, rho) for rho in (1.0, 2.0, 3.0)] == [1.0, 9.0, 9.0]


def test_a_number_that_json_lacks_is_not_recorded(tmp_path: Path) -> None:
    path = add(tmp_path, 1.0)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        records.append(tmp_path, record(2.0, metrics={"loss": np.nan}), curves(2.0))
    assert path.read_bytes() == before


KEPT = "the runs recorded so far are kept: free some space and run the same again"


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, KEPT),
        (errno.EDQUOT, KEPT),
        (errno.EFBIG, KEPT),
        (errno.EROFS, "choose a folder of your own with --out"),
    ],
)
def test_runs_that_cannot_be_written_leave_no_trace(
    code: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add(tmp_path, 1.0)
    before = path.read_bytes()

    def full(_: int) -> None:
        assert path.stat().st_size > len(before)  # the lines were on their way
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput) as error:
        records.extend(tmp_path, [(record(rho), curves(rho)) for rho in (2.0, 3.0)])
    why = f"output folder {str(tmp_path)!r} cannot be written ({os.strerror(code)}); {remedy}"
    assert str(error.value) == why
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert add(tmp_path, 2.0).read_bytes().startswith(before)
    assert len(records.read(tmp_path)) == 2


@pytest.mark.parametrize("act", [records.repair, records.pack])
def test_a_full_disk_is_named_with_its_folder(
    act: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add(tmp_path, 1.0, 2.0)
    path.write_bytes(path.read_bytes() + b"[]\n")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(array_store, "put", full)
    with pytest.raises(BadInput) as error:
        act(tmp_path)
    assert str(error.value).startswith(f"output folder {str(tmp_path)!r} cannot be written")


def test_a_folder_is_made_once_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert records.prepare(str(folder)) == folder
    assert (folder / "curves").is_dir()
    assert (folder / "runs.jsonl").read_bytes() == b""
    before = add(folder, 1.0).read_bytes()
    assert records.prepare(folder) == folder
    assert (folder / "runs.jsonl").read_bytes() == before


def test_a_torn_last_line_is_set_aside_by_the_next_to_write(tmp_path: Path) -> None:
    path = add(tmp_path, 1.0)
    good = path.read_bytes()
    torn = good[:-9]
    path.write_bytes(good + torn)
    name = f"runs.jsonl.torn-{digest(torn)}"
    said = f"{path}: its last line is torn; moved to {name}, its run is to be run again"
    with pytest.warns(UserWarning) as caught:  # noqa: PT030 - compared whole
        records.append(tmp_path, record(2.0), curves(2.0))
    assert [str(w.message) for w in caught] == [said]
    assert (tmp_path / name).read_bytes() == torn
    assert records.read(tmp_path) == [record(1.0), record(2.0)]


def test_a_whole_last_line_without_an_end_is_completed(tmp_path: Path) -> None:
    path = add(tmp_path, 1.0, 2.0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    add(tmp_path, 3.0)
    assert path.read_bytes().startswith(whole)
    assert len(records.read(tmp_path)) == 3


def test_repair_names_each_fault_and_where_it_went(tmp_path: Path) -> None:
    path = add(tmp_path, 1.0, 2.0, 3.0)
    first, second, third = path.read_bytes().splitlines(keepends=True)
    bad = b'{"id": "' + "é".encode() + b"x" * 99 + b'"}\n'
    odd = json.dumps(record(4.0, metrics=None)).encode() + b"\n"
    path.write_bytes(first + bad + second + first + odd + third + b"torn")
    (tmp_path / "curves" / f"{record(3.0)['id']}.npz").unlink()
    one = repr(bad[:60].decode())
    moved = "; the line is moved to runs.jsonl.damaged-"
    assert records.repair(tmp_path) == [
        f"{path}: its last line is torn; moved to runs.jsonl.torn-{digest(b'torn')}, "
        "its run is to be run again",
        f"{path}:2 is not a record (no JSON object with id and spec): {one}{moved}{digest(bad)}",
        f"{path}:4 repeats run {record(1.0)['id']}{moved}{digest(first)}",
        f"{path}:5 is not a record (it has no metrics): {odd[:60].decode()!r}{moved}{digest(odd)}",
        f"{path}:6 has no curves ({record(3.0)['id']}.npz does not exist){moved}{digest(third)}",
    ]
    assert path.read_bytes() == first + second
    aside = sorted(p.read_bytes() for p in tmp_path.glob("runs.jsonl.*"))
    assert aside == sorted([b"torn", bad, first, odd, third])
    assert records.repair(tmp_path) == []


def test_repair_leaves_a_good_file_as_it_is(tmp_path: Path) -> None:
    path = add(tmp_path, 1.0, 2.0)
    before = path.stat()
    assert records.repair(tmp_path) == []
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [p.name for p in tmp_path.iterdir() if p.name != "curves"] == ["runs.jsonl"]


def test_repair_sets_unreadable_curves_aside_with_their_line(tmp_path: Path) -> None:
    path = add(tmp_path, 1.0, 2.0)
    first, second = path.read_bytes().splitlines(keepends=True)
    one = tmp_path / "curves" / f"{record(1.0)['id']}.npz"
    one.write_bytes(b"damaged")
    place = f"curves/{one.name}.damaged-{digest(b'damaged')}"
    assert records.repair(tmp_path) == [
        f"{path}:1 has unreadable curves, moved to {place}; "
        f"the line is moved to runs.jsonl.damaged-{digest(first)}"
    ]
    assert (tmp_path / place).read_bytes() == b"damaged"
    assert not one.exists()
    assert path.read_bytes() == second


def test_one_file_of_a_run_may_lie_beside_the_packed_ones(tmp_path: Path) -> None:
    """It is read first, and if it is damaged the packed ones stay."""
    path = add(tmp_path, 1.0, 2.0)
    records.pack(tmp_path)
    packed = (tmp_path / "curves.npz").read_bytes()
    one = tmp_path / "curves" / f"{record(1.0)['id']}.npz"
    one.write_bytes(b"damaged")
    (said,) = records.repair(tmp_path)
    assert said.startswith(f"{path}:1 has unreadable curves, moved to curves/{one.name}.damaged-")
    assert (tmp_path / "curves.npz").read_bytes() == packed
    assert records.read(tmp_path) == [record(2.0)]
    assert first_loss(tmp_path, 1.0) == 1.0


def test_a_fault_names_its_line_and_the_remedy(tmp_path: Path) -> None:
    path = add(tmp_path, 1.0)
    remedy = "go on with its experiment, which sets the line aside and runs its run again"
    good = path.read_bytes()
    for more, fault in (
        (good, f"repeats run {record(1.0)['id']}"),
        (b"[]\n", "is not a record (no JSON object with id and spec): '[]'"),
    ):
        path.write_bytes(good + more)
        with pytest.raises(BadInput) as error:
            records.read(tmp_path)
        assert str(error.value) == f"{path}:2 {fault}; {remedy}"
    none = tmp_path / "none"
    with pytest.raises(BadInput) as error:
        records.read(str(none))
    why = f"{str(none / 'runs.jsonl')!r} does not exist; make it with its experiment's command"
    assert str(error.value) == why


def test_only_recorded_curves_are_packed_into_a_folder_that_can_be_written(tmp_path: Path) -> None:
    path = add(tmp_path / "a", 1.0, 2.0)
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    records.pack(tmp_path / "a")
    assert first_loss(tmp_path / "a", 1.0) == 1.0
    with np.load(tmp_path / "a" / "curves.npz") as z:
        assert set(json.loads(z["index"].tobytes())) == {record(1.0)["id"]}
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file/a' cannot be written \(Not a directory\)"):
        records.pack(tmp_path / "file" / "a")


def test_only_numbers_that_json_lacks_are_lost() -> None:
    metrics = {"a": -np.inf, "b": 1.5, "c": "nan", "d": 3, "e": None, "f": np.nan, "g": True}
    clean = provenance.sanitised(metrics)
    assert list(clean.items()) == [
        ("a", None), ("b", 1.5), ("c", "nan"), ("d", 3), ("e", None), ("f", None), ("g", True),
    ]  # fmt: skip
    assert metrics["a"] == -np.inf


def test_the_origin_of_a_run_names_the_versions_and_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a fast {device}")
    monkeypatch.setattr(provenance, "_cpu", lambda: "an abacus")
    monkeypatch.setattr(provenance, "_commit", lambda: {"commit": "c0ffee", "clean": False})
    due = {
        "commit": "c0ffee", "clean": False, "samlib": samlib.__version__, "device": "cpu",
        "python": platform.python_version(), "torch": torch.__version__, "threads": 3,
        "numpy": np.__version__, "hardware": "an abacus", "started": "2001-09-09T01:46:40Z",
    }  # fmt: skip
    assert provenance.provenance(1e9, "cpu", 3) == due
    other = provenance.provenance(0.0, "cuda:1", 3)
    new = {"device": "cuda:1", "hardware": "a fast cuda:1", "started": "1970-01-01T00:00:00Z"}
    assert other == due | new


@pytest.mark.slow
def test_a_system_without_such_locks_reads_and_sweeps_all_the_same(tmp_path: Path) -> None:
    """Windows has no module fcntl."""
    code = f"""
import sys
sys.modules["fcntl"] = None
from samlib import RunSpec, read_records, sweep
assert sweep([RunSpec(n=30, width=2, steps=3)], {str(tmp_path)!r}) == 1
print(len(read_records({str(tmp_path)!r})), len(read_records("mnist-cliff")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 60\n"
