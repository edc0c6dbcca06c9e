"""Which run this is, and where it came from: the id of a spec, commit, versions, hardware."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import samlib


def identity(spec: Mapping[str, Any]) -> str:
    """The id of a spec: the first 16 hexadecimal digits of the sha256 of its sorted JSON."""
    text = json.dumps(spec, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sanitised(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The same metrics with NaN and infinities as None, since JSON has no name for them."""
    lost = {k for k, v in metrics.items() if isinstance(v, float) and not math.isfinite(v)}
    return {**metrics, **dict.fromkeys(lost)}


@cache
def _commit(where: Path = Path(samlib.__file__).parent) -> dict[str, Any]:
    """The commit of the source in the folder ``where``, and whether it is that commit's, unchanged.

    Both None where the source belongs to no repository, as in an installed package.
    """

    def git(*args: str) -> str:
        null = subprocess.DEVNULL
        return subprocess.check_output(["git", *args], cwd=where, stderr=null, text=True).strip()

    try:
        git("ls-files", "--error-unmatch", ".")  # an environment may lie in a repository of others
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


def provenance(started: float, device: str, threads: int) -> dict[str, Any]:
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
