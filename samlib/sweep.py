"""Experiments: a TOML file names a grid of runs, a record folder keeps what they came to.

An experiment file has ``question``, ``claim`` (ids in the ledger), ``expected_minutes`` and the
tables ``[fixed]`` (options of RunSpec) and ``[grid]`` (lists; every combination is a run).
"""

from __future__ import annotations

import itertools
import os
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from samlib import records
from samlib.errors import BadInput
from samlib.runs import RunSpec
from samlib.train import train_many

CHUNK = 32  # runs trained in one stack: bounds memory, and what an interruption loses


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Any], list[RunSpec]]:
    """Read an experiment file: its table and the specs of its runs, in the grid's order.

    Raises
    ------
    BadInput
        If the file cannot be read, or names an option that RunSpec does not have.
    """
    try:
        table = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"experiment {str(path)!r}: {error}") from None
    fixed, grid = table.get("fixed", {}), table.get("grid", {})
    known = {f.name for f in fields(RunSpec)}
    if unknown := sorted({*fixed, *grid} - known):
        raise BadInput(f"experiment {str(path)!r}: unknown options {unknown}; use {sorted(known)}")
    combinations = itertools.product(*grid.values())
    specs = [RunSpec.from_json({**fixed, **dict(zip(grid, c, strict=True))}) for c in combinations]
    return table, specs


def sweep(
    specs: Iterable[RunSpec],
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    data_root: str | None = None,
    threads: int = 1,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Train and record the runs that the folder ``out`` does not hold yet; return their number.

    A sweep that was stopped goes on where it was. ``progress`` is called with the number of runs
    recorded.
    """
    folder = records.prepare(out)
    have = {r["id"] for r in records.read(folder)}
    todo = [s for s in dict.fromkeys(specs) if s.id not in have]
    for start in range(0, len(todo), CHUNK):
        chunk = todo[start : start + CHUNK]
        runs = train_many(chunk, device=device, data_root=data_root, threads=threads)
        for run in runs:
            records.append(folder, run.record(), run.curves())
            if progress:
                progress(1)
    return len(todo)
