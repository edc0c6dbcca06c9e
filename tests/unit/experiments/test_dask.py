"""Sweeps on a Dask cluster: a scheduler and two worker processes on loopback."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crash
import psutil
import pytest

from samlib.errors import BadInput
from samlib.experiments import executors, records, sweeps
from samlib.training.spec import RunSpec

pytest.importorskip("distributed")
Cluster = tuple[str, list["subprocess.Popen[bytes]"]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The scheduler's address, its process and those of two workers.

    All are killed in the end: workers without a nanny would not end with their scheduler.
    """
    folder = tmp_path_factory.mktemp("dask")
    where = folder / "scheduler.json"
    here = os.pathsep.join([str(Path(crash.__file__).parent), os.environ.get("PYTHONPATH", "")])
    started: list[subprocess.Popen[bytes]] = []

    def begin(*args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *args, "--no-dashboard", "--scheduler-file", str(where)]
        env = os.environ | {"PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
        with open(folder / "log", "ab") as log:
            started.append(subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log))
        return started[-1]

    try:
        begin("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        for _ in range(2):
            begin("distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1")
        deadline = time.monotonic() + 60
        while not where.exists():
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        address = records.json.loads(where.read_text())["address"]
        yield address, started
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("serial")
    crash.go(folder, chunk=1)
    return crash.plain(folder)


@pytest.mark.slow
def test_two_workers_give_the_records_of_one_process(
    cluster: Cluster, serial: dict[str, Any], tmp_path: Path
) -> None:
    with executors.dask(cluster[0]) as executor:
        executor._client.wait_for_workers(2, timeout=60)  # type: ignore[attr-defined]
        assert sweeps.sweep(crash.SPECS, tmp_path, executor, chunk=1) == len(crash.SPECS)
    assert crash.plain(tmp_path) == serial
    assert crash.leftovers(tmp_path) == []


@pytest.mark.slow
def test_two_thousand_small_runs_cost_little_in_scheduling(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CPU time of a whole sweep whose training does nothing, of all processes, over its runs.

    No two runs can be stacked. So it counts the chunks, the scheduler, the way there and back, and
    the records written. On an idle machine wall time is less, since the processes overlap.
    """
    monkeypatch.setattr(sweeps, "_trained", crash.trivial)
    specs = [RunSpec(n=n, width=w) for n, w in itertools.product(range(100, 140), range(1, 51))]
    assert len(sweeps.chunks(specs)) == len(specs) == 2000
    all_of_them = [psutil.Process(pid) for pid in (os.getpid(), *(p.pid for p in cluster[1]))]

    def used() -> float:
        return sum(sum(p.cpu_times()[:2]) for p in all_of_them)

    with executors.dask(cluster[0]) as executor:
        executor._client.wait_for_workers(2, timeout=60)  # type: ignore[attr-defined]
        executor._client.run(crash.trivial, specs[:1])  # type: ignore[attr-defined] # imports torch
        began, cpu = time.perf_counter(), used()
        assert sweeps.sweep(specs, tmp_path, executor) == 2000
        wall, cpu = time.perf_counter() - began, used() - cpu
    assert len(records.read(tmp_path)) == 2000
    print(f"{cpu / 2:.2f} ms of CPU and {wall / 2:.2f} ms of wall time a run")
    assert cpu / 2000 <= 5e-3


def test_a_worker_killed_midway_loses_nothing(
    cluster: Cluster, serial: dict[str, Any], tmp_path: Path
) -> None:
    """The last test of this file, since it leaves one worker."""
    address, (_, worker, _) = cluster
    seen: list[int] = []

    def kill(_: int) -> None:
        seen.append(len(records.read(tmp_path)))
        worker.kill()

    with executors.dask(address) as executor:
        done = sweeps.sweep(crash.SPECS, tmp_path, executor, progress=kill, chunk=1)
        assert done == len(crash.SPECS)
        assert len(executor._client.scheduler_info()["workers"]) == 1  # type: ignore[attr-defined]
    assert seen[0] < len(crash.SPECS) - 1
    assert crash.plain(tmp_path) == serial
    assert crash.leftovers(tmp_path) == []


def test_an_absent_scheduler_is_named() -> None:
    import dask

    quick = dask.config.set({"distributed.comm.timeouts.connect": "0.2s"})
    named = pytest.raises(BadInput, match=r"scheduler 'tcp://127\.0\.0\.1:1' does not answer")
    with quick, named, executors.dask("tcp://127.0.0.1:1"):
        pass
