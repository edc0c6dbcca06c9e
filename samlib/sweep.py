"""Experiments: a TOML file names a grid of runs, a record folder keeps what they came to.

An experiment file has ``question``, ``claim`` (ids in the ledger), ``expected_minutes`` and the
tables ``[fixed]`` (options of RunSpec) and ``[grid]`` (lists; every combination is a run). With
``[[arms]]``, tables of values and lists, each arm has its own such grid and the last word.
``measure`` lists what is measured at the end of every run (:mod:`samlib.measures`), and ``points``
is how many points of a run's curves are kept (200 unless it says otherwise). ``chunk`` is how many
runs are trained together (32, or 4 where they cannot be stacked).

A sweep trains its runs in chunks, in this process or on any ``concurrent.futures.Executor``. This
process alone writes the records, a chunk at a time, so a sweep can be stopped anywhere and go on.
"""

from __future__ import annotations

import fcntl
import math
import time
import tomllib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from dataclasses import fields
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import torch

from samlib import measures, records
from samlib.curves import Curves
from samlib.errors import BadInput, check_whole
from samlib.runs import RunSpec
from samlib.train import Progress, objective, resolve_device, stacks, train_many

CHUNK = 32  # runs trained in one stack: bounds memory, and what an interruption loses
ALONE = 4  # the same where they cannot be stacked: enough to share a twin
IN_FLIGHT = 64  # tasks given to an executor at a time
BATCH, TASK_SECONDS = 64, 1.0  # at most so many chunks make a task, fewer if they take so long
Chunk = list[RunSpec]
Trained = list[tuple[records.Record, Curves]]
Work = Callable[[Chunk], Trained]


def load(path: records.StrPath) -> tuple[dict[str, Any], list[RunSpec]]:
    """Read an experiment file: its table and the specs of its runs, in the grid's order.

    BadInput if the file cannot be read, or names an option that RunSpec does not have.
    """
    try:
        table = tomllib.loads(Path(path).read_text())
        fixed, rows = table.get("fixed", {}), []
        for arm in table.get("arms", [{}]):
            lists = {k: v if isinstance(v, list) else [v] for k, v in arm.items()}
            grid = table.get("grid", {}) | lists
            rows += [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
        return table, [RunSpec.from_json(fixed | row) for row in rows]
    except (OSError, ValueError) as error:
        raise BadInput(f"experiment {str(path)!r}: {error}") from None
    except TypeError as error:  # an option that is none, or a grid that is no table of lists
        known = ", ".join(field.name for field in fields(RunSpec))
        remedy = f"[fixed] holds values and [grid] lists of them, for {known}"
        raise BadInput(f"experiment {str(path)!r}: {error}; {remedy}") from None


def chunks(specs: Iterable[RunSpec], size: int = CHUNK) -> list[Chunk]:
    """Runs that can be stacked, at most ``size`` at a time; those with one twin stay together."""
    out, most = list[Chunk](), size
    for stack in stacks(dict.fromkeys(specs)):
        size = most if stack[0].model == "mlp" else min(most, ALONE)
        families: dict[RunSpec, Chunk] = {}
        for s in stack:
            families.setdefault(s.twin(), []).append(s)
        chunk: Chunk = []
        for family in families.values():
            if chunk and len(chunk) + len(family) > size:
                out.append(chunk)
                chunk = []
            chunk = [*chunk, *family]
            out += [chunk[i : i + size] for i in range(0, len(chunk) - size, size)]
            chunk = chunk[-(len(chunk) % size or size) :]
        out.append(chunk)
    return out


@cache
def _id(spec: RunSpec) -> str:
    """The id of a spec; kept, because thousands of small runs ask for theirs again and again."""
    return spec.id


def _unrecorded(specs: Iterable[RunSpec], size: int, have: set[str]) -> list[Chunk]:
    """The chunks left to train. Untouched ones stay as they are, and so do their results' bits."""
    every = chunks(specs, size)
    missing = [[s for s in chunk if _id(s) not in have] for chunk in every]
    whole = [m for m, chunk in zip(missing, every, strict=True) if len(m) == len(chunk)]
    parts = [s for m, chunk in zip(missing, every, strict=True) if len(m) < len(chunk) for s in m]
    return whole + chunks(parts, size)


class WorkerDied(RuntimeError):
    """The executor lost its workers; the runs that had ended are recorded."""


class _Here(Executor):
    """An executor that works in this process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kw: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kw))
        except Exception as error:
            future.set_exception(error)
        return future


class _Claims:
    """The runs that this sweep is at work on, as other sweeps on the folder see them.

    Each has a byte of its own in a file, locked. The system frees the locks of a process that ends.
    """

    def __init__(self, folder: Path, file: BinaryIO) -> None:
        self.folder, self.file = folder, file

    def _lock(self, spec: RunSpec, how: int) -> None:
        fcntl.lockf(self.file, how, 1, int(_id(spec)[:15], 16))

    def free(self, chunk: Iterable[RunSpec]) -> None:
        """Let others have these runs."""
        for spec in chunk:
            self._lock(spec, fcntl.LOCK_UN)

    def _get(self, chunk: Chunk) -> bool:
        for i, spec in enumerate(chunk):
            try:
                self._lock(spec, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                self.free(chunk[:i])
                return False
        return True

    def take(self, waiting: deque[Chunk], count: int) -> list[Chunk]:
        """Up to ``count`` chunks that are nobody's, without what others have recorded by now."""
        got: list[Chunk] = []
        for _ in range(len(waiting)):
            chunk = waiting.popleft()
            (got if self._get(chunk) else waiting).append(chunk)
            if len(got) == count:
                break
        have = records.ids(self.folder)
        return [left for chunk in got if (left := [s for s in chunk if _id(s) not in have])]

    def wait(self, chunk: Chunk) -> None:
        """Wait until the sweep that has the first run of this chunk is done with it, or dead."""
        self._lock(chunk[0], fcntl.LOCK_EX)
        self.free(chunk[:1])


def _task(work: Work, task: list[Chunk]) -> tuple[Trained, float]:
    """What a worker does: train some chunks; also its seconds per step of a run."""
    start = time.perf_counter()
    trained = [run for chunk in task for run in work(chunk)]
    return trained, (time.perf_counter() - start) / sum(map(_cost, task))


def _cost(chunk: Chunk) -> int:
    return sum(s.steps for s in chunk)


def _spread(
    executor: Executor, work: Work, todo: Iterable[Chunk], claims: _Claims, in_flight: int
) -> Iterator[Trained]:
    """Give all chunks to the executor, small ones many at a time; yield what comes back.

    After an error nothing more is begun, and what was begun still comes back before it is raised.
    """
    waiting, running, size, pace = deque(todo), dict[Future[Any], list[Chunk]](), 1, math.inf
    fault: Exception | None = None
    try:
        while waiting or running:
            while waiting and len(running) < in_flight:
                quick = int(TASK_SECONDS / (pace * _cost(waiting[0])))
                fair = len(waiting) // in_flight  # so that the last tasks are small ones
                task = claims.take(waiting, max(1, min(size, quick, fair)))
                if not task:
                    break
                running[executor.submit(_task, work, task)] = task
            if waiting and not running:
                claims.wait(waiting[0])
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    trained, pace = future.result()
                except Exception as error:
                    fault = fault or error
                    waiting.clear()
                    for other in running:
                        other.cancel()
                else:
                    yield trained
                    size = min(2 * size, BATCH)
                claims.free(s for chunk in task for s in chunk)
    finally:
        for future in running:
            future.cancel()
    if isinstance(fault, BrokenExecutor | CancelledError) or type(fault).__name__ == "KilledWorker":
        raise WorkerDied(f"a worker died ({fault}); what had ended is recorded: run the same again")
    if fault:
        raise fault


def _trained(chunk: Chunk, measure: Sequence[str], points: int, kw: dict[str, Any]) -> Trained:
    """Train and measure a chunk, all on the given number of threads."""
    before, out = torch.get_num_threads(), Trained()
    device = resolve_device(kw.get("device", "auto"))
    try:
        runs = train_many(chunk, **kw)
        torch.set_num_threads(kw.get("threads", 1))
        for run in runs:
            record, curves = run.record(), dict[str, Any](run.curves(points))
            if measure:
                f, _ = objective(run.spec, device, kw.get("data_root"))
                metrics, arrays = measures.take(list(measure), run, f)
                record["metrics"] |= records.sanitised(metrics)
                curves |= arrays
            out.append((record, curves))
    finally:
        torch.set_num_threads(before)
    return out


def sweep(
    specs: Iterable[RunSpec],
    out: records.StrPath,
    executor: Executor | None = None,
    *,
    progress: Progress = lambda _: None,
    measure: Sequence[str] = (),
    points: int = 200,
    chunk: int = CHUNK,
    in_flight: int = IN_FLIGHT,
    **kw: Any,
) -> int:
    """Train and record the runs that the folder ``out`` does not hold yet; return their number.

    Without an ``executor`` the runs are trained here; with one, ``in_flight`` tasks are with it at
    a time, each made of chunks of at most ``chunk`` runs. A sweep that was stopped goes on where it
    was, and two sweeps on one folder share the work. Damaged records are set aside with a warning
    and run again. ``progress`` is called with the number of runs recorded; ``measure`` names what
    :mod:`samlib.measures` takes of each, and ``points`` of its curves are kept. Other keywords are
    those of :func:`samlib.train.train_many`. BadInput if the folder cannot be written or a run
    cannot be trained; runs that have ended by then are recorded.
    """
    for number, value in (("chunk", chunk), ("in_flight", in_flight)):
        check_whole(number, value)
    if executor is None:
        executor, in_flight = _Here(), 1
        resolve_device(kw.get("device", "auto"))  # refused before any work is done
    folder = records.prepare(out)
    for fault in records.repair(folder):
        warnings.warn(fault, stacklevel=2)
    have = {r["id"] for r in records.read(folder)}
    todo = _unrecorded(specs, chunk, have)
    work = partial(_trained, measure=tuple(measure), points=points, kw=kw)
    done = 0
    with open(folder / ".running", "ab") as file:
        for trained in _spread(executor, work, todo, _Claims(folder, file), in_flight):
            done += (added := records.extend(folder, trained))
            progress(added)
    return done
