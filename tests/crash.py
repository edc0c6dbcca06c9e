"""Small sweeps for tests, and the ways in which they come to grief. Child processes import this."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from samlib.errors import BadInput
from samlib.experiments import locks, records, sweeps
from samlib.training.spec import RunSpec

SPECS = [
    RunSpec(n=30, width=width, steps=20, rho=rho, lr=0.1, seed=seed)
    for width in (2, 3)
    for seed in (0, 1, 2)
    for rho in (0.5, 2.0)
]
sweeps._trained(SPECS[:1], (), 10, {})  # the first training is slow: paid before processes fork


def plain(folder: Path) -> dict[str, Any]:
    """What a sweep came to: records and curves by id, without provenance and wall times."""
    out = {}
    for record in records.read(folder):
        metrics = {k: v for k, v in record["metrics"].items() if k != "wall_time_s"}
        rest = {k: record[k] for k in ("spec", "verdict", "data")}
        curves = records.read_curves(folder, record["id"])
        assert record["id"] not in out, "doubled"
        out[record["id"]] = rest | metrics | {k: v.tolist() for k, v in curves.items()}
    return json.loads(json.dumps(out))


def leftovers(folder: Path) -> list[str]:
    """Files that an undisturbed sweep would not have left."""
    due = {f"{s.id}.npz" for s in SPECS} | {"runs.jsonl", ".running", "curves"}
    return sorted(p.name for p in folder.rglob("*") if p.name not in due)


def go(folder: Path, chunk: int = 2) -> int:
    """The small sweep."""
    return sweeps.sweep(SPECS, folder, chunk=chunk)


def counted(folder: Path, barrier: Any, answer: Connection) -> None:
    """The small sweep a run at a time, started with others; says what it trained and recorded."""
    trained: list[str] = []
    train_many = sweeps.train_many

    def counting(specs: list[RunSpec], **kw: Any) -> Any:
        trained.extend(s.id for s in specs)
        return train_many(specs, **kw)

    sweeps.train_many = counting
    barrier.wait(60)
    answer.send((go(folder, chunk=1), trained))


class _Torn(io.FileIO):
    """A file whose first write stops after ``left`` bytes, and with it the process."""

    left = 0

    def write(self, data: Any) -> int:
        super().write(bytes(data)[: self.left])
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


def die_writing(folder: Path, before: int, left: int) -> None:
    """Record ``before`` runs, then die when so many bytes of the next are written."""
    sweeps.sweep(SPECS[:before], folder, chunk=1)
    _Torn.left = left
    kinds = {"r+b": _Torn}  # how a record file is opened for writing
    locks.open = lambda path, mode, **_: kinds.get(mode, io.FileIO)(path, mode)  # type: ignore
    go(folder, chunk=1)


def no_room(folder: Path, size: int, answer: Connection) -> None:
    """The small sweep where no file may grow beyond ``size`` bytes; says how it failed."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        answer.send(go(folder))
    except BadInput as error:
        answer.send(str(error))


def trivial(chunk: list[RunSpec], **_: Any) -> sweeps.Trained:
    """A training that takes no time."""
    curves = {k: np.zeros(200, np.float32) for k in ("step", "loss", "grad_norm")}
    out = []
    for s in chunk:
        record = {"id": s.id, "spec": s.to_json(), "verdict": "running", "metrics": {}}
        out.append((record | {"data": {}, "provenance": {}}, curves))
    return out
