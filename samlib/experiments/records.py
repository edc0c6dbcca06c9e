"""What a run leaves behind: a folder an experiment, and in it one line a run, and its curves.

``runs.jsonl`` holds one JSON object a line: id (hash of the spec), spec, verdict, metrics, data,
provenance. Its curves lie beside it (:mod:`samlib.experiments.array_store`). Whoever writes holds a
lock on ``runs.jsonl``; a run's curves are there before its line is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import samlib
from samlib.diagnostics import verdicts
from samlib.errors import BadInput
from samlib.experiments import array_store, locks
from samlib.experiments.array_store import Curves
from samlib.training.provenance import identity

if TYPE_CHECKING:
    import pandas

Record = dict[str, Any]
StrPath = str | os.PathLike[str]
RUNS = "runs.jsonl"
RUNNING = ".running"  # the file in which sweeps lock the runs that they are at work on
#: The records of the book: those of the checkout that this file lies in.
BOOK = Path(samlib.__file__).resolve().parents[1] / "book" / "records"
PROVENANCE = ("commit", "hardware", "threads", "stack", "started")


def prepare(folder: StrPath) -> Path:
    """Create ``folder`` if needed; BadInput, before any work is done, if it cannot be written."""
    path = Path(folder)
    with _explained(path):
        (path / "curves").mkdir(parents=True, exist_ok=True)
        for name in (RUNS, RUNNING, array_store.PACKED):
            array_store.regular(path / name)  # before one is opened
        (path / RUNS).open("ab").close()
    return path


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Failures to write become BadInput, which names the folder and says what to do."""
    try:
        yield
    except OSError as error:
        why = f"output folder {str(folder)!r} cannot be written ({error.strerror})"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "the runs recorded so far are kept: free some space and run the same again"
        remedy = remedy if full else "choose a folder of your own with --out"
        raise BadInput(f"{why}; {remedy}") from None


def append(folder: StrPath, record: Record, curves: Curves) -> bool:
    """Add one run unless it is recorded already, as :func:`extend` does; whether it was added."""
    return extend(folder, [(record, curves)]) == 1


def extend(folder: StrPath, runs: Sequence[tuple[Record, Curves]]) -> int:
    """Add runs: their curves first, then all their lines at once; return how many were added.

    A run that is recorded already is left alone. Everything happens under a lock, so several
    processes may write to one folder. A process killed in the midst leaves at most a torn last
    line, which the next to write sets aside. BadInput if the folder cannot be written, for example
    because the disk is full: then none of these runs is added and all earlier ones stay.
    """
    path, added = prepare(folder), 0
    with _explained(path), locks.writing(path / RUNS) as f:
        for fault in _mend_end(f, path):
            warnings.warn(fault, stacklevel=3)
        have, text = ids(path), b""
        for record, curves in runs:
            if record["id"] not in have:
                array_store.write(path, record["id"], curves)
                text += json.dumps(record, sort_keys=True, allow_nan=False).encode() + b"\n"
                have.add(record["id"])
                added += 1
        size = f.seek(0, os.SEEK_END)
        try:
            while text:
                text = text[f.write(text) :]
            os.fsync(f.fileno())
        except BaseException:
            f.truncate(size)  # also on a full disk: a file can always become shorter
            raise
    return added


def ids(folder: StrPath) -> set[str]:
    """The ids of the runs recorded in ``folder``; much faster than reading them, and no check."""
    found = re.findall(rb'"id": "([^"]*)".*\n', (Path(folder) / RUNS).read_bytes())
    return {i.decode() for i in found}


def _parse(line: bytes) -> Record:
    """The record that a line holds; ValueError says what is wrong if it holds none."""
    try:
        record: Record = json.loads(line)
        same = record["id"] == identity(record["spec"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError("no JSON object with id and spec") from None
    if not same:
        raise ValueError("its id is that of another spec")
    if record.get("verdict") not in verdicts.VERDICTS:
        raise ValueError("its verdict is unknown")
    if not isinstance(record.get("metrics"), dict):
        raise ValueError("it has no metrics")
    return record


def _scan(content: bytes) -> Iterator[tuple[int, bytes, Record, str]]:
    """Each line with its number, its record and, if it is none or repeats one, what is wrong."""
    seen = set[str]()
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            record, fault = _parse(line), ""
        except ValueError as error:
            shown = line.rstrip(b"\n")[:60].decode(errors="replace")
            record, fault = {"id": ""}, f"is not a record ({error}): {shown!r}"
        if record["id"] in seen:
            fault = f"repeats run {record['id']}"
        if not fault:
            seen.add(record["id"])
        yield number, line, record, fault


def _aside(path: Path, kind: str, content: bytes) -> str:
    """Keep ``content`` beside ``path`` under a name of its own, and return that name."""
    name = f"{path.name}.{kind}-{hashlib.sha256(content).hexdigest()[:8]}"
    array_store.put(path.with_name(name), content)
    return name


def _mend_end(f: BinaryIO, folder: Path) -> list[str]:
    """Give the record file a whole last line: complete it, or set it aside and say so."""
    f.seek(0)
    content = f.read()
    last = content[content.rfind(b"\n") + 1 :]
    if not last:
        return []
    try:
        _parse(last)
        f.write(b"\n")
        return []
    except ValueError:
        name = _aside(folder / RUNS, "torn", last)
        f.truncate(len(content) - len(last))
    return [f"{folder / RUNS}: its last line is torn; moved to {name}, its run is to be run again"]


def repair(folder: StrPath) -> list[str]:
    """Set aside what is damaged in a record folder, so that its runs can be run again.

    A torn last line, a line that is no record, a second record of one run, a record whose curves
    are absent or unreadable: each is moved to a file of its own beside the original, and named in
    the list returned. BadInput if a folder or a pipe lies where a file belongs.
    """
    path, kept = prepare(folder), list[bytes]()
    with _explained(path), locks.writing(path / RUNS) as f:
        for scratch in [*path.glob("*.tmp"), *path.glob("curves/*.tmp")]:
            scratch.unlink()  # left by a process that was killed: whoever writes holds the lock
        said = _mend_end(f, path)
        f.seek(0)
        content = f.read()
        for number, line, record, fault in _scan(content):
            if fault := fault or _curves_fault(path, record["id"]):
                name = _aside(path / RUNS, "damaged", line)
                said.append(f"{path / RUNS}:{number} {fault}; the line is moved to {name}")
            else:
                kept.append(line)
        if (whole := b"".join(kept)) != content:
            array_store.put(path / RUNS, whole)
    return said


def _curves_fault(folder: Path, run_id: str) -> str:
    """What is wrong with the curves of a run, or nothing; unreadable ones are kept aside."""
    try:
        array_store.read(folder, run_id)
        return ""
    except FileNotFoundError as error:
        return f"has no curves ({Path(error.filename).name} does not exist)"
    except BadInput:
        raise
    except Exception:  # damaged bytes make NumPy raise almost anything
        one = array_store.loose(folder, run_id)
        bad = one if one.exists() else folder / array_store.PACKED
        name = _aside(bad, "damaged", bad.read_bytes())
        place = bad.relative_to(folder).with_name(name)
        if bad != one and array_store.readable(folder):  # one entry lies: the others' curves stay
            return f"has no such curves as {bad.name} says; a copy of it is {place}"
        bad.unlink()
        return f"has unreadable curves, moved to {place}"


def read(folder: StrPath) -> list[Record]:
    """All runs of an experiment, in the order in which they ended.

    BadInput if the folder holds no records, or a line is not a record or repeats an earlier run
    (named, not skipped).
    """
    path, runs = Path(folder) / RUNS, list[Record]()
    if not array_store.regular(path):
        raise BadInput(f"{str(path)!r} does not exist; make it with its experiment's command")
    for number, _, record, fault in _scan(locks.read(path)):
        if fault:
            remedy = "go on with its experiment, which sets the line aside and runs its run again"
            raise BadInput(f"{path}:{number} {fault}; {remedy}")
        runs.append(record)
    return runs


def located(name: StrPath) -> Path:
    """The folder of an experiment: of that name in the book's records, or else at that path.

    Raises
    ------
    BadInput
        If there are no records in either place; it lists the experiments of the book.
    """
    places = [BOOK / name, Path(name)]
    for folder in places:
        if array_store.regular(folder / RUNS):
            return folder
    known = ", ".join(sorted(path.parent.name for path in BOOK.glob(f"*/{RUNS}")))
    raise BadInput(f"no records in {str(places[-1])!r}; name a folder that has some, or {known}")


def read_records(name: StrPath, curves: bool = False) -> pandas.DataFrame:
    """The runs of an experiment as a table, one row a run, in the order in which they ended.

    Parameters
    ----------
    name : str or path
        An experiment of the book, such as ``"mnist-cliff"`` (a folder in ``book/records``), or the
        path of any other record folder.
    curves : bool
        Whether to add the column ``curves``: of each run what :func:`read_curves` returns.

    Returns
    -------
    pandas.DataFrame
        The columns are ``experiment``, ``id`` and ``verdict``; every field of
        :class:`~samlib.training.spec.RunSpec`, defaults filled in; every metric of a run; and where
        the run comes from: ``commit``, ``hardware``, ``threads``, ``stack`` (runs that shared
        ``wall_time_s``), ``started`` and ``data_sha256``. ``loss`` is the metric f(x), in nats, and
        ``loss_function`` the field. What a run does not have is NaN (``n`` and ``batch``: all
        examples).

    Raises
    ------
    BadInput
        If there is no such experiment, or no run in it, or its records are damaged.

    Examples
    --------
    >>> runs = read_records("mnist-cliff")
    >>> runs.groupby(["lr", "rho"]).loss.median()
    >>> pandas.crosstab([runs.lr, runs.rho], runs.verdict)
    """
    import pandas

    from samlib.training.spec import defaults

    folder = located(name)
    rows = []
    for run in read(folder):
        spec = defaults() | run["spec"]
        spec["loss_function"] = spec.pop("loss")
        spec["classes"] = spec["classes"] and tuple(spec["classes"])
        origin = {key: run["provenance"].get(key) for key in PROVENANCE}
        origin["data_sha256"] = run["data"].get("sha256")
        plain = {"experiment": folder.name, "id": run["id"], "verdict": run["verdict"]}
        rows.append(plain | spec | run["metrics"] | origin)
        if curves:
            rows[-1]["curves"] = read_curves(folder, run["id"])
    if not rows:
        raise BadInput(f"{str(folder)!r} holds no run yet; make some with its experiment's command")
    return pandas.DataFrame(rows).astype({"n": "Int64", "batch": "Int64"})


def read_curves(name: StrPath, run_id: str) -> dict[str, NDArray[np.float64]]:
    """The curves of one run.

    Parameters
    ----------
    name : str or path
        The experiment, named as in :func:`read_records`.
    run_id : str
        The id of the run.

    Returns
    -------
    dict of str to ndarray
        Arrays of equal length, float64: ``step``, ``loss`` and ``grad_norm``, ``shifted_loss`` and
        ``shifted_grad_norm`` (f and ‖∇f‖ at x⁺), and ``grad_ratio``, which follows from them. What
        an experiment measured besides lies with them, in shapes of its own.

    Raises
    ------
    FileNotFoundError
        If the run has no curves.
    """
    found = {k: v.astype(np.float64) for k, v in array_store.read(located(name), run_id).items()}
    if {"grad_norm", "shifted_grad_norm"} <= set(found):
        found["grad_ratio"] = verdicts.grad_ratio(found["grad_norm"], found["shifted_grad_norm"])
    return found


def pack(folder: StrPath) -> None:
    """Put the curves of all recorded runs into one file, which takes half the room.

    For an experiment that is done; runs recorded later have files of their own until it is called
    again. BadInput if the folder cannot be written: then everything stays as it was.
    """
    path = prepare(folder)
    with _explained(path), locks.writing(path / RUNS):
        array_store.pack(path, ids(path))
