"""The curves of recorded runs: plain arrays, never pickles.

While an experiment is under way each run has a file of its own, ``curves/<id>.npz``. When it is
done they are packed into one, ``curves.npz``, because half of such a small file is its table of
contents. There each array holds those of all runs, end to end, and ``index`` says as JSON which
part is whose.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from samlib.errors import BadInput

Array = NDArray[Any]
Curves: TypeAlias = Mapping[str, Array]
PACKED = "curves.npz"


def put(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    scratch = path.with_name(path.name + ".tmp")
    try:
        scratch.write_bytes(content)
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def regular(path: Path) -> bool:
    """Whether ``path`` is a file; False if nothing is there.

    BadInput for anything else: a folder cannot be read, and a pipe would keep us waiting for ever.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "pipe or device"
        raise BadInput(f"{str(path)!r} is a {kind} where a file belongs; move it away")
    return True


def _put_arrays(path: Path, arrays: Curves) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    put(path, content.getvalue())


def loose(folder: Path, run_id: str) -> Path:
    """The file of one run's curves while they are not packed."""
    return folder / "curves" / f"{run_id}.npz"


def write(folder: Path, run_id: str, curves: Curves) -> None:
    """Keep the curves of one run in a file of its own, whole or not at all."""
    _put_arrays(loose(folder, run_id), curves)


def read(folder: Path, run_id: str) -> dict[str, Array]:
    """The curves of one run. FileNotFoundError if there are none; damaged files raise anything.

    BadInput if a folder or a pipe lies where a file belongs.
    """
    path = loose(folder, run_id)
    if regular(path):
        with np.load(path, allow_pickle=False) as z:
            return dict(z)
    arrays, index = _packed(folder)
    if run_id not in index:
        raise FileNotFoundError(errno.ENOENT, "no curves", str(path))
    return {name: _part(arrays[key], *at) for name, (key, *at) in index[run_id].items()}


def _part(array: Array, start: int, shape: list[int]) -> Array:
    """The values of one run from those of all; ValueError if the index asks for others."""
    size = math.prod(shape)
    if min([start, *shape]) < 0 or start + size > len(array):
        raise ValueError(f"{size} values from {start} on, of {len(array)}")
    return array[start : start + size].reshape(shape)


def _packed(folder: Path) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
    """The arrays of the packed file and its index, both empty if there is none."""
    path = folder / PACKED
    if not regular(path):
        return {}, {}
    now = path.stat()
    return _load(path, now.st_ino, now.st_mtime_ns, now.st_size)


@lru_cache(maxsize=4)  # an experiment's runs are read one after the other
def _load(path: Path, *_state: int) -> tuple[dict[str, Array], dict[str, dict[str, Any]]]:
    with np.load(path, allow_pickle=False) as z:
        arrays = dict(z)
    index = json.loads(arrays.pop("index").tobytes())
    if not isinstance(index, dict):
        raise ValueError("its index is no table")
    for array in arrays.values():
        array.flags.writeable = False  # all who read a run share them
    return arrays, index


def readable(folder: Path) -> bool:
    """Whether the packed file can be read as a whole, whatever its index says of single runs."""
    try:
        return bool(_packed(folder)[1])
    except Exception:  # damaged bytes make NumPy raise almost anything
        return False


def pack(folder: Path, run_ids: Iterable[str]) -> None:
    """Move the curves of these runs from their own files into the packed one.

    Stopped in the midst, it leaves some curves in both places, which the next call mends.
    """
    wanted = set(run_ids)
    new = [i for i in sorted(wanted) if loose(folder, i).exists()]
    if not new:
        return
    parts, index, ends = dict[str, list[Array]](), dict[str, dict[str, Any]](), Counter[str]()
    for run_id in sorted({*new, *_packed(folder)[1]}):
        try:
            arrays = read(folder, run_id)
        except Exception:  # an entry of the index that lies; its run is to be run again
            if run_id in wanted:
                raise
            continue
        index[run_id] = {}
        for name, array in arrays.items():
            key = f"{name}.{array.dtype.name}"
            index[run_id][name] = key, ends[key], array.shape
            parts.setdefault(key, []).append(array.ravel())
            ends[key] += array.size
    text = np.frombuffer(json.dumps(index).encode(), np.uint8)
    _put_arrays(folder / PACKED, {k: np.concatenate(v) for k, v in parts.items()} | {"index": text})
    for run_id in new:
        loose(folder, run_id).unlink()
