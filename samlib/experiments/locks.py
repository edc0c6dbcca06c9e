"""Locks between processes that write to one record folder; the system frees those of the dead.

Windows has none of this kind: there anybody may read, but only one sweep at a time may write.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """The file, open and ours alone until the block ends."""
    while True:
        with open(path, "r+b", buffering=0) as f:  # no buffer: what failed must not be tried later
            if fcntl:
                fcntl.flock(f, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(f.fileno()), os.stat(path)):
                yield f
                return
        # somebody put another file in its place while we waited


def read(path: Path) -> bytes:
    """All of a file, but not in the midst of what somebody writes."""
    with open(path, "rb") as f:
        if fcntl:
            fcntl.flock(f, fcntl.LOCK_SH)
        return f.read()


class RunLocks:
    """The runs that this process is at work on, as others on their folder see them.

    Each has a byte of its own in one file, locked. It is found by the run's id.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def _byte(self, run_id: str) -> tuple[int, int]:
        return 1, int(run_id[:15], 16)

    def take(self, run_ids: Sequence[str]) -> bool:
        """Take all of these runs, or none if another process has one of them."""
        for i, run_id in enumerate(run_ids if fcntl else ()):
            try:
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB, *self._byte(run_id))
            except (BlockingIOError, PermissionError):
                self.free(run_ids[:i])
                return False
        return True

    def free(self, run_ids: Iterable[str]) -> None:
        """Let others have these runs."""
        for run_id in run_ids if fcntl else ():
            fcntl.lockf(self.file, fcntl.LOCK_UN, *self._byte(run_id))

    def wait(self, run_id: str) -> None:
        """Wait until whoever has this run is done with it, or dead."""
        if fcntl:
            fcntl.lockf(self.file, fcntl.LOCK_EX, *self._byte(run_id))
            self.free([run_id])
