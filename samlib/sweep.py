"""Experiments: a TOML file names a grid of runs, a record folder keeps what they came to.

An experiment file has ``question``, ``claim`` (ids in the ledger), ``expected_minutes`` and the
tables ``[fixed]`` (options of RunSpec) and ``[grid]`` (lists; every combination is a run). With
``[[arms]]``, tables of values and lists, each arm has its own such grid and the last word.
``measure`` lists what is measured at the end of every run (:mod:`samlib.measures`), and ``points``
is how many points of a run's curves are kept (200 unless it says otherwise).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from samlib import measures, records
from samlib.errors import BadInput
from samlib.runs import RunSpec
from samlib.train import Progress, objective, resolve_device, train_many

CHUNK = 32  # runs trained in one stack: bounds memory, and what an interruption loses


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


def sweep(
    specs: Iterable[RunSpec],
    out: records.StrPath,
    progress: Progress = lambda _: None,
    measure: Sequence[str] = (),
    points: int = 200,
    **kw: Any,
) -> int:
    """Train and record the runs that the folder ``out`` does not hold yet; return their number.

    A sweep that was stopped goes on where it was. ``progress`` is called with the number of runs
    recorded; ``measure`` names what :mod:`samlib.measures` takes of each, and ``points`` of its
    curves are kept. Other keywords are those of :func:`samlib.train.train_many`.
    """
    folder, device = records.prepare(out), resolve_device(kw.get("device", "auto"))
    have = {r["id"] for r in records.read(folder)}
    todo = [s for s in dict.fromkeys(specs) if s.id not in have]
    for start in range(0, len(todo), CHUNK):
        for run in train_many(todo[start : start + CHUNK], **kw):
            record, curves = run.record(), run.curves(points)
            if measure:
                f, _ = objective(run.spec, device, kw.get("data_root"))
                metrics, arrays = measures.take(list(measure), run, f)
                record["metrics"] |= records.sanitised(metrics)
                curves |= arrays
            records.append(folder, record, curves)
            progress(1)
    return len(todo)
