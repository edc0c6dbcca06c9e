"""What a run leaves behind: a folder an experiment, and in it one line and one .npz a run.

``runs.jsonl`` holds one JSON object a line: id (hash of the spec), spec, verdict, metrics, data,
provenance. ``curves/<id>.npz`` holds its curves as plain arrays, never pickles.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import samlib
from samlib.errors import BadInput

Record = dict[str, Any]
StrPath = str | os.PathLike[str]
RUNS = "runs.jsonl"


def identity(spec: Mapping[str, Any]) -> str:
    """The id of a spec: the first 16 hexadecimal digits of the sha256 of its sorted JSON."""
    text = json.dumps(spec, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def prepare(folder: StrPath) -> Path:
    """Create ``folder`` if needed and make sure that it can be written, before any work is done.

    Raises
    ------
    BadInput
        If it cannot be created or written.
    """
    path = Path(folder)
    try:
        (path / "curves").mkdir(parents=True, exist_ok=True)
        with open(path / RUNS, "a"):
            pass
    except OSError as error:
        raise BadInput(
            f"output folder {str(path)!r} cannot be written ({error.strerror}); "
            "choose a folder of your own with --out"
        ) from None
    return path


def append(folder: StrPath, record: Record, curves: Mapping[str, NDArray[Any]]) -> None:
    """Add one run: its curves first, then its line, each written whole or not at all.

    The line is appended under a lock, so several processes may write to one folder.
    """
    path = prepare(folder)
    final = path / "curves" / f"{record['id']}.npz"
    scratch = final.with_suffix(f".{os.getpid()}.tmp")
    with open(scratch, "wb") as f:
        np.savez_compressed(f, allow_pickle=False, **curves)
    os.replace(scratch, final)
    line = json.dumps(record, sort_keys=True, allow_nan=False) + "\n"
    with open(path / RUNS, "ab") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        f.write(line.encode())
        f.flush()
        os.fsync(f.fileno())


def read(folder: StrPath) -> list[Record]:
    """All runs of an experiment, in the order in which they ended.

    Raises
    ------
    BadInput
        If the folder holds no records, or a line is not a record (it is named, never skipped).
    """
    path = Path(folder) / RUNS
    if not path.is_file():
        raise BadInput(
            f"{str(path)!r} does not exist; make the record with its experiment's command"
        )
    runs = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            run = json.loads(line)
            run["id"], run["spec"], run["verdict"]
        except (ValueError, KeyError, TypeError):
            raise BadInput(
                f"{path}:{number} is not a record: {line[:60]!r}; move the line away and run again"
            ) from None
        runs.append(run)
    return runs


def read_curves(folder: StrPath, run_id: str) -> dict[str, NDArray[np.float64]]:
    """The curves of one run, arrays of equal length: ``step``, ``loss``, ``grad_norm``, ...

    ``shifted_loss`` and ``shifted_grad_norm`` are f and ‖∇f‖ at x⁺.
    """
    with np.load(Path(folder) / "curves" / f"{run_id}.npz", allow_pickle=False) as z:
        return {k: z[k].astype(np.float64) for k in z.files}


def select(runs: list[Record], **where: Any) -> list[Record]:
    """The runs whose spec has all the given values: ``select(runs, rho=2.0, lr=0.01)``."""
    return [r for r in runs if all(r["spec"].get(k) == v for k, v in where.items())]


def sanitised(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The same metrics with NaN and infinities as None, since JSON has no name for them."""
    return {
        k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in metrics.items()
    }


@cache
def _commit() -> dict[str, Any]:
    here = Path(__file__).parent

    def git(*args: str) -> str:
        run = subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        # Records being written do not make the code that writes them dirty.
        dirty = git("status", "--porcelain", "--", ":/", ":(exclude,top)book/records")
        return {"commit": git("rev-parse", "HEAD"), "clean": not dirty}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "clean": None}


@cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def provenance(started: float, device: str, threads: int) -> Record:
    """Where a run came from: commit, versions, hardware, threads, start (Unix seconds)."""
    import torch

    hardware = _cpu() if device == "cpu" else torch.cuda.get_device_name(device)
    return {
        **_commit(),
        "samlib": samlib.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device,
        "hardware": hardware,
        "threads": threads,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
    }
