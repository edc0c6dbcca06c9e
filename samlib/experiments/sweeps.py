"""Experiments: a TOML file names a grid of runs, a record folder keeps what they came to.

An experiment file has ``question``, ``claims`` (ids in the ledger), ``expected_minutes`` and the
tables ``[fixed]`` (options of RunSpec) and ``[grid]`` (lists; every combination is a run). With
``[[arms]]``, tables of values and lists, each arm has its own such grid and the last word.
``measure`` lists what is measured at the end of every run (:mod:`samlib.experiments.measures`), and
``points`` is how many points of a run's curves are kept (200 unless it says otherwise). ``chunk``
is how many runs are trained together (32, or 4 where they cannot be stacked).

A sweep trains its runs in chunks, in this process or on any ``concurrent.futures.Executor``. This
process alone writes the records, a chunk at a time, so a sweep can be stopped anywhere and go on.
"""

from __future__ import annotations

import math
import time
import tomllib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import fields
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch

from samlib.errors import BadInput, check_choice, check_whole
from samlib.experiments import executors, locks, measures, records
from samlib.experiments.array_store import Curves, regular
from samlib.training import provenance
from samlib.training.loop import (
    Key,
    Progress,
    loss_key,
    objective,
    resolve_device,
    stacks,
    train_many,
)
from samlib.training.spec import RunSpec
from samlib.training.stacked_loss import StackedLoss

CHUNK = 32  # runs trained in one stack: bounds memory, and what an interruption loses
ALONE = 4  # the same where they cannot be stacked: enough to share a twin
IN_FLIGHT = 64  # tasks given to an executor at a time
MOST = 100_000  # runs in one experiment: more is taken for a slip
POINTS = 1_000_000  # points kept of a run's curves, at most
KEYS = (
    "question", "claims", "expected_minutes", "fixed", "grid", "arms", "measure", "points", "chunk",
)  # fmt: skip
BATCH, TASK_SECONDS = 64, 1.0  # at most so many chunks make a task, fewer if they take so long
Chunk = list[RunSpec]
Trained = list[tuple[records.Record, Curves]]
Work = Callable[[Chunk], Trained]


def load(path: records.StrPath) -> tuple[dict[str, Any], list[RunSpec]]:
    """Read an experiment file.

    Parameters
    ----------
    path : str or path
        A TOML file, as the docstring of this module describes it.

    Returns
    -------
    table : dict
        What the file says.
    specs : list of RunSpec
        Its runs, in the grid's order.

    Raises
    ------
    BadInput
        Before anything is built or trained, if the file cannot be read, holds a key that is none
        or a value of the wrong kind, asks for no run or for more than MOST, or names an option
        that RunSpec does not have.
    """
    where = f"experiment {str(path)!r}"
    try:
        if not regular(Path(path)):
            raise BadInput("there is no such file")
        table = tomllib.loads(Path(path).read_text())
        specs = [RunSpec.from_json(options) for options in _rows(table)]
        _settings(table, specs)
        return table, specs
    except (OSError, ValueError) as error:
        raise BadInput(f"{where}: {error}") from None
    except RecursionError:
        raise BadInput(f"{where}: its tables or lists lie too deep in one another") from None


def _rows(table: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The options of each run of an experiment, after all of them have been counted."""
    for key in table:
        check_choice("key", key, KEYS)
    fixed, arms = _table(table, "fixed"), table.get("arms", [{}])
    if not (isinstance(arms, list) and arms and all(isinstance(arm, dict) for arm in arms)):
        raise BadInput(f"arms = {arms!r} is no list of tables; write [[arms]] above each")
    grids = []
    for arm in arms:
        lists = {k: v if isinstance(v, list) else [v] for k, v in arm.items()}
        grids.append(_table(table, "grid") | lists)
    known = [field.name for field in fields(RunSpec)]
    for name in {*fixed, *(name for grid in grids for name in grid)}:
        check_choice("option", name, known)
    for grid in grids:
        for name, values in grid.items():
            if not (isinstance(values, list) and values):
                raise BadInput(f"grid: {name} = {values!r} is no list of values; give at least one")
    count = sum(math.prod(map(len, grid.values())) for grid in grids)
    if count > MOST:
        raise BadInput(f"{count} runs are more than {MOST}; shorten its lists, or split it")
    for grid in grids:
        for values in product(*grid.values()):
            yield fixed | dict(zip(grid, values, strict=True))


def _table(table: dict[str, Any], name: str) -> dict[str, Any]:
    found = table.get(name, {})
    if not isinstance(found, dict):
        raise BadInput(f"{name} = {found!r} is no table; write [{name}] and options below it")
    return found


def _settings(table: dict[str, Any], specs: list[RunSpec]) -> None:
    """Refuse what cannot be measured or kept, and a question that a terminal would obey."""
    measures.check(table.get("measure", []), specs)
    check_whole("points", table.get("points", 200), 2, POINTS)
    check_whole("chunk", table.get("chunk", CHUNK))
    question = table.get("question", "")
    if not (isinstance(question, str) and question.isprintable()):
        raise BadInput(f"question = {question!r} is no line of text; write it in one line")


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


def _unrecorded(specs: Iterable[RunSpec], size: int, have: set[str]) -> list[Chunk]:
    """The chunks left to train. Untouched ones stay as they are, and so do their results' bits."""
    whole, parts = list[Chunk](), Chunk()
    for chunk in chunks(specs, size):
        missing = [s for s in chunk if s.id not in have]
        if missing == chunk:
            whole.append(chunk)
        else:
            parts += missing
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


def _task(work: Work, task: list[Chunk]) -> tuple[Trained, float]:
    """What a worker does: train some chunks; also its seconds per step of a run."""
    start = time.perf_counter()
    trained = [run for chunk in task for run in work(chunk)]
    return trained, (time.perf_counter() - start) / sum(map(_cost, task))


def _cost(chunk: Chunk) -> int:
    return sum(s.steps for s in chunk)


class _TaskSizer:
    """How many chunks make a task: twice as many each time, as long as tasks stay short."""

    def __init__(self, in_flight: int) -> None:
        self.in_flight, self.most, self.pace = in_flight, 1, math.inf

    def took(self, pace: float) -> None:
        """Learn from a task that is done how many seconds a step of a run takes."""
        self.most, self.pace = min(2 * self.most, BATCH), pace

    def size(self, waiting: deque[Chunk]) -> int:
        """How many of the waiting chunks the next task takes."""
        quick = int(TASK_SECONDS / (self.pace * _cost(waiting[0])))
        fair = len(waiting) // self.in_flight  # so that the last tasks are small ones
        return max(1, min(self.most, quick, fair))


class _Queue:
    """The chunks that wait to be trained, some of which another sweep may be at work on."""

    def __init__(self, chunks: Iterable[Chunk], folder: Path, taken: locks.RunLocks) -> None:
        self.waiting, self.folder, self.taken = deque(chunks), folder, taken

    def take(self, count: int) -> list[Chunk]:
        """Up to ``count`` chunks that are nobody's, without what others have recorded by now."""
        got: list[Chunk] = []
        for _ in range(len(self.waiting)):
            chunk = self.waiting.popleft()
            mine = self.taken.take([s.id for s in chunk])
            (got if mine else self.waiting).append(chunk)
            if len(got) == count:
                break
        have = records.ids(self.folder)
        return [left for chunk in got if (left := [s for s in chunk if s.id not in have])]

    def free(self, task: Iterable[Chunk]) -> None:
        """Let other sweeps have the runs of a task."""
        self.taken.free(s.id for chunk in task for s in chunk)


def _spread(executor: Executor, work: Work, queue: _Queue, in_flight: int) -> Iterator[Trained]:
    """Give all chunks to the executor, small ones many at a time; yield what comes back.

    After an error nothing more is begun, and what was begun still comes back before it is raised.
    """
    waiting, sizer = queue.waiting, _TaskSizer(in_flight)
    running: dict[Future[Any], list[Chunk]] = {}
    fault: Exception | None = None
    try:
        while waiting or running:
            while waiting and len(running) < in_flight:
                if not (task := queue.take(sizer.size(waiting))):
                    break
                try:
                    running[executor.submit(_task, work, task)] = task
                except BrokenExecutor as error:  # a pool that lost a worker takes no more work
                    fault = fault or error
                    waiting.clear()
            if waiting and not running:
                queue.taken.wait(waiting[0][0].id)
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
                    sizer.took(pace)
                queue.free(task)
    finally:
        for future in running:
            future.cancel()
    if fault and executors.lost(fault):
        raise WorkerDied(f"a worker died ({fault}); what had ended is recorded: run the same again")
    if fault:
        raise fault


@lru_cache(maxsize=1)
def _objective(key: Key, device: str, data_root: str | None) -> StackedLoss:
    """What a chunk is measured with; reading and cutting the data once is enough."""
    return cast(StackedLoss, objective(RunSpec(**dict(key)), device, data_root)[0])


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
                f = _objective(loss_key(run.spec), device, kw.get("data_root"))
                metrics, arrays = measures.take(list(measure), run, f)
                record["metrics"] |= provenance.sanitised(metrics)
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
    """Train and record the runs that a folder does not hold yet.

    A sweep that was stopped goes on where it was, and two sweeps on one folder share the work.
    Damaged records are set aside with a warning and run again.

    Parameters
    ----------
    specs : iterable of RunSpec
        The runs, for example those that :func:`load` reads from an experiment file.
    out : str or path
        The record folder, made if it is not there.
    executor : concurrent.futures.Executor, optional
        Who trains (:mod:`samlib.experiments.executors`); without one the runs are trained here.
    progress : callable
        Called with the number of runs recorded, each time.
    measure : sequence of str
        What :mod:`samlib.experiments.measures` takes of each run.
    points : int
        How many points of a run's curves are kept.
    chunk, in_flight : int
        How many runs are trained together at most, and how many tasks an executor has at a time.
    **kw
        Keywords of :func:`samlib.training.loop.train_many`.

    Returns
    -------
    int
        How many runs were trained and recorded.

    Raises
    ------
    BadInput
        If the folder cannot be written or a run cannot be trained; runs that have ended by then
        are recorded.
    WorkerDied
        If the executor lost its workers.
    """
    specs = list(specs)
    for number, value in (("chunk", chunk), ("in_flight", in_flight)):
        check_whole(number, value)
    check_whole("points", points, 2, POINTS)
    measure = measures.check(measure, specs)
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
    with open(folder / records.RUNNING, "ab") as file:
        queue = _Queue(todo, folder, locks.RunLocks(file))
        for trained in _spread(executor, work, queue, in_flight):
            done += (added := records.extend(folder, trained))
            progress(added)
    return done
