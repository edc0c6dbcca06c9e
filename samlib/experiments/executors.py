"""Where the runs of a sweep are trained: processes on this machine, or a Dask cluster.

Both are context managers that yield a ``concurrent.futures.Executor`` for
:func:`samlib.experiments.sweeps.sweep`. What a worker trains is one thread's work, so a core a
worker is right.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor
from contextlib import contextmanager

from samlib.errors import BadInput, check_whole


def _begin() -> None:
    """In a new worker: one thread, and an end as soon as its parent is gone, however that died."""
    import torch

    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def processes(workers: int) -> Iterator[Executor]:
    """``workers`` processes of this machine, killed at once if the block ends with an exception."""
    check_whole("workers", workers, 1, 1024)
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def dask(scheduler: str | None = None, workers: int = 1) -> Iterator[Executor]:
    """A Dask cluster.

    Parameters
    ----------
    scheduler : str, optional
        The address of its scheduler; without one, the cluster is started on this machine ...
    workers : int
        ... with so many processes.

    Raises
    ------
    BadInput
        If ``distributed`` is not installed or no scheduler answers.
    """
    check_whole("workers", workers, 1, 1024)
    try:
        distributed = importlib.import_module("distributed")
    except ImportError:
        fault = "a Dask cluster needs the package distributed, which is not installed"
        raise BadInput(f"{fault}; pip install distributed") from None
    if scheduler is None:
        here = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
        with distributed.LocalCluster(**here) as cluster, distributed.Client(cluster) as client:
            yield client.get_executor()
        return
    try:
        client = distributed.Client(scheduler)
    except (OSError, ValueError) as error:
        fault = f"scheduler {scheduler!r} does not answer ({error})"
        raise BadInput(f"{fault}; start one with: dask scheduler") from None
    with client:
        yield client.get_executor()


def lost(error: BaseException) -> bool:
    """Whether an executor lost the worker, rather than the work itself having failed."""
    kinds: tuple[type[BaseException], ...] = (BrokenExecutor, CancelledError)
    if distributed := sys.modules.get("distributed"):
        kinds += (distributed.KilledWorker,)
    return isinstance(error, kinds)
