"""What a run leaves behind: a folder an experiment, and in it one line and one .npz a run.

``runs.jsonl`` holds one JSON object a line: id (hash of the spec), spec, verdict, metrics, data,
provenance. ``curves/<id>.npz`` holds its curves as plain arrays, never pickles.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
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
    """Create ``folder`` if needed; BadInput, before any work is done, if it cannot be written."""
    path = Path(folder)
    try:
        (path / "curves").mkdir(parents=True, exist_ok=True)
        (path / RUNS).open("a").close()
    except OSError as error:
        why = f"cannot be written ({error.strerror}); choose a folder of your own with --out"
        raise BadInput(f"output folder {str(path)!r} {why}") from None
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


def read(folder: StrPath) -> list[Record]:
    """All runs of an experiment, in the order in which they ended.

    BadInput if the folder holds no records, or a line is not a record (named, never skipped).
    """
    path, runs = Path(folder) / RUNS, []
    if not path.is_file():
        raise BadInput(f"{str(path)!r} does not exist; make it with its experiment's command")
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            runs.append(json.loads(line))
            runs[-1]["id"], runs[-1]["spec"], runs[-1]["verdict"]
        except (ValueError, KeyError, TypeError):
            fault = f"{path}:{number} is not a record: {line[:60]!r}"
            raise BadInput(f"{fault}; move the line away and run again") from None
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
    lost = {k for k, v in metrics.items() if isinstance(v, float) and not math.isfinite(v)}
    return {**metrics, **dict.fromkeys(lost)}


@cache
def _commit() -> dict[str, Any]:
    def git(*args: str) -> str:
        where, null = Path(__file__).parent, subprocess.DEVNULL
        return subprocess.check_output(["git", *args], cwd=where, stderr=null, text=True).strip()

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

    return {
        **_commit(),
        "samlib": samlib.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": device,
        "hardware": _cpu() if device == "cpu" else torch.cuda.get_device_name(device),
        "threads": threads,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
    }
