"""Sweeps go on after whatever stops them, with the records of a sweep that nothing stopped."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import crash
import pytest

from samlib.errors import BadInput
from samlib.experiments import executors, measures, records, sweeps
from samlib.training import loop
from samlib.training.spec import RunSpec

CONTEXT = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def _server() -> None:
    """The process that children are forked from, which imports torch and trains once for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(crash.__file__).parent), prepend=os.pathsep)
        CONTEXT.set_forkserver_preload(["crash"])
        forkserver.ensure_running()


@pytest.fixture(autouse=True)
def _strict() -> Iterator[None]:
    """A sweep that says something was set aside says it in the tests that expect it only."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """The records of undisturbed sweeps, by the size of their chunks."""
    out = {}
    for chunk in (1, 2):
        folder = tmp_path_factory.mktemp("calm")
        assert crash.go(folder, chunk) == len(crash.SPECS)
        assert crash.leftovers(folder) == []
        out[chunk] = crash.plain(folder)
    return out


def start(target: Callable[..., None], *args: Any) -> Any:
    process = CONTEXT.Process(target=target, args=args)
    process.start()
    for pipe in args:
        if isinstance(pipe, Connection):
            pipe.close()  # it is the other's now: what waits for its answer learns if it dies
    return process


def lines(folder: Path) -> int:
    path = folder / "runs.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_a_sweep_killed_at_any_moment_goes_on(
    tmp_path: Path, calm: dict[int, dict[str, Any]]
) -> None:
    rng, midway, began = random.Random(0), 0, time.perf_counter()
    crash.go(tmp_path / "timed")
    pause = (time.perf_counter() - began) / len(crash.SPECS)  # about what a run takes
    for trial in range(60):
        if trial >= 20 and midway >= 10:  # a busy machine may need more of them
            break
        folder = tmp_path / str(trial)
        seen, wait = rng.randrange(len(crash.SPECS) - 2), rng.uniform(0, 3 * pause)
        process = start(crash.go, folder)
        while lines(folder) < seen and process.is_alive():
            time.sleep(0.001)
        time.sleep(wait)
        process.kill()
        process.join()
        have = lines(folder)
        midway += 0 < have < len(crash.SPECS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a line torn in half, should a kill ever hit one
            assert crash.go(folder) == len(crash.SPECS) - have
        assert crash.plain(folder) == calm[2]
        assert [name for name in crash.leftovers(folder) if ".torn-" not in name] == []
    assert midway >= 10


@pytest.mark.slow
@pytest.mark.parametrize(("left", "torn"), [(0, False), (1, True), (500, True)])
def test_a_line_half_written_is_set_aside_and_its_run_run_again(
    left: int, torn: bool, tmp_path: Path, calm: dict[int, dict[str, Any]]
) -> None:
    process = start(crash.die_writing, tmp_path, 3, left)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    content = (tmp_path / "runs.jsonl").read_bytes()
    rest = content[content.rfind(b"\n") + 1 :]
    assert (content.count(b"\n"), len(rest)) == (3, left)
    if torn:
        with pytest.raises(BadInput, match=r"runs\.jsonl:4 is not a record"):
            records.read(tmp_path)
        with pytest.warns(UserWarning, match=r"its last line is torn; moved to runs\.jsonl\.torn-"):
            crash.go(tmp_path, chunk=1)
        (name,) = crash.leftovers(tmp_path)
        assert (tmp_path / name).read_bytes() == rest
    else:
        crash.go(tmp_path, chunk=1)
        assert crash.leftovers(tmp_path) == []
    assert crash.plain(tmp_path) == calm[1]


def test_a_line_torn_by_another_while_we_run_is_set_aside(tmp_path: Path) -> None:
    crash.go(tmp_path)
    path = tmp_path / "runs.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"data": {"na')
    run = crash.trivial([RunSpec(seed=99)])
    with pytest.warns(UserWarning, match=r"torn; moved to runs\.jsonl\.torn-"):
        assert records.extend(tmp_path, run) == 1
    assert path.read_bytes().startswith(whole + b'{"data": {}')
    assert records.read(tmp_path)[-1]["id"] == RunSpec(seed=99).id


def test_a_full_disk_loses_nothing(tmp_path: Path, calm: dict[int, dict[str, Any]]) -> None:
    ours, theirs = CONTEXT.Pipe()
    process = start(crash.no_room, tmp_path, 5000, theirs)
    said = ours.recv()
    process.join()
    assert f"output folder {str(tmp_path)!r} cannot be written" in said
    assert "free some space and run the same again" in said
    assert 0 < len(records.read(tmp_path)) < len(crash.SPECS)
    crash.go(tmp_path)
    assert crash.plain(tmp_path) == calm[2]
    assert crash.leftovers(tmp_path) == []


def test_a_full_tmpfs_loses_nothing(tmp_path: Path, calm: dict[int, dict[str, Any]]) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(tmp_path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {done.stderr.strip()}")
    try:
        with pytest.raises(BadInput, match=r"No space left on device.*free some space"):
            crash.go(tmp_path)
        kept = records.read(tmp_path)
        assert 0 < len(kept) < len(crash.SPECS)
        grow = ["mount", "-o", "remount,size=1m", str(tmp_path)]
        subprocess.run(grow, check=True)
        assert crash.go(tmp_path) == len(crash.SPECS) - len(kept)
        assert records.read(tmp_path)[: len(kept)] == kept
        assert crash.plain(tmp_path) == calm[2]
        assert crash.leftovers(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def spoil(line: bytes) -> bytes:
    return line[:200] + b"\xff\x00" + line[202:]


def another_spec(line: bytes) -> bytes:
    return line.replace(b'"steps": 20, "warm', b'"steps": 21, "warm')


@pytest.mark.slow
@pytest.mark.parametrize("damage", [spoil, another_spec, lambda line: b"\n"])
def test_a_damaged_line_is_named_set_aside_and_its_run_run_again(
    damage: Callable[[bytes], bytes], tmp_path: Path, calm: dict[int, dict[str, Any]]
) -> None:
    crash.go(tmp_path, chunk=1)
    path = tmp_path / "runs.jsonl"
    kept = path.read_bytes().splitlines(keepends=True)
    bad = damage(kept[5])
    assert bad != kept[5]
    path.write_bytes(b"".join([*kept[:5], bad, *kept[6:]]))
    with pytest.raises(BadInput, match=r"runs\.jsonl:6 is not a record"):
        records.read(tmp_path)
    with pytest.warns(UserWarning, match=r"runs\.jsonl:6 is not a record.*\.damaged-"):
        assert crash.go(tmp_path, chunk=1) == 1
    (name,) = crash.leftovers(tmp_path)
    assert (tmp_path / name).read_bytes() == bad
    assert path.read_bytes().startswith(b"".join([*kept[:5], *kept[6:]]))
    assert crash.plain(tmp_path) == calm[1]


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", "flipped"])
def test_damaged_curves_are_named_set_aside_and_their_run_run_again(
    content: bytes | str | None, tmp_path: Path, calm: dict[int, dict[str, Any]]
) -> None:
    crash.go(tmp_path, chunk=1)
    path = tmp_path / "curves" / f"{crash.SPECS[3].id}.npz"
    bad = path.read_bytes()
    if content == "flipped":
        bad = bad[:300] + bytes([bad[300] ^ 255]) + bad[301:]
    elif isinstance(content, bytes):
        bad = content
    path.unlink() if content is None else path.write_bytes(bad)
    said = "has no curves" if content is None else "has unreadable curves, moved to curves/"
    with pytest.warns(UserWarning, match=said):
        assert crash.go(tmp_path, chunk=1) == 1
    assert crash.plain(tmp_path) == calm[1]
    aside = [tmp_path / "curves" / name for name in crash.leftovers(tmp_path) if ".npz" in name]
    assert [p.read_bytes() for p in aside] == ([] if content is None else [bad])


def test_two_sweeps_at_once_share_the_runs(tmp_path: Path, calm: dict[int, dict[str, Any]]) -> None:
    barrier, pipes = CONTEXT.Barrier(2), [CONTEXT.Pipe() for _ in range(2)]
    processes = [start(crash.counted, tmp_path, barrier, theirs) for _, theirs in pipes]
    answers = [ours.recv() for ours, _ in pipes]
    for process in processes:
        process.join()
    assert sum(done for done, _ in answers) == len(crash.SPECS)
    trained = [i for _, those in answers for i in those]
    assert sorted(trained) == sorted(s.id for s in crash.SPECS)  # none twice, not even in vain
    assert crash.plain(tmp_path) == calm[1]
    assert crash.leftovers(tmp_path) == []


def test_a_run_that_another_sweep_is_at_work_on_is_left_to_it(tmp_path: Path) -> None:
    """Here the other sweep dies without having recorded its run: ours then does it."""
    records.prepare(tmp_path)
    with open(tmp_path / ".running", "ab") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, int(crash.SPECS[0].id[:15], 16))
        (ours, theirs), barrier = CONTEXT.Pipe(), CONTEXT.Barrier(1)
        process = start(crash.counted, tmp_path, barrier, theirs)
        while lines(tmp_path) < len(crash.SPECS) - 1:
            assert process.is_alive()
            time.sleep(0.01)
        time.sleep(0.1)
        assert lines(tmp_path) == len(crash.SPECS) - 1
    assert ours.recv()[1][-1] == crash.SPECS[0].id
    process.join()
    assert len(records.read(tmp_path)) == len(crash.SPECS)


def test_a_run_is_recorded_once(tmp_path: Path) -> None:
    runs = crash.trivial(crash.SPECS[:3])
    assert records.extend(tmp_path, [*runs[:2], runs[0]]) == 2
    assert records.extend(tmp_path, runs) == 1
    assert not records.append(tmp_path, *runs[1])
    assert [r["id"] for r in records.read(tmp_path)] == [s.id for s in crash.SPECS[:3]]


def test_an_append_waits_for_the_file_that_a_repair_puts_in_place(tmp_path: Path) -> None:
    """Written to the old file, a record would be lost."""
    runs = crash.trivial(crash.SPECS[:2])
    records.extend(tmp_path, runs[:1])
    path = tmp_path / "runs.jsonl"
    with open(path, "r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        other = threading.Thread(target=records.extend, args=(tmp_path, runs[1:]))
        other.start()
        time.sleep(0.2)  # it has opened the old file and waits for the lock
        (tmp_path / "new").write_bytes(path.read_bytes())
        os.replace(tmp_path / "new", path)
    other.join()
    assert len(records.read(tmp_path)) == 2


def test_chunks_keep_stacks_and_twins_together() -> None:
    specs = [
        RunSpec(width=w, rho=r, seed=s) for r in (0.5, 1.0, 2.0) for w in (3, 4) for s in range(5)
    ]
    out = sweeps.chunks([*specs, *specs], 8)
    assert sorted(s.id for c in out for s in c) == sorted(s.id for s in specs)
    assert all(len({s.width for s in c}) == 1 for c in out)
    twins = [{s.twin() for s in c} for c in out]
    assert sum(map(len, twins)) == len(set().union(*twins)) == 10  # no twin is trained twice
    assert [len(c) for c in out] == [6, 6, 3] * 2
    many = [RunSpec(rho=r / 10) for r in range(40)]  # one twin
    assert [len(c) for c in sweeps.chunks(many, 16)] == [16, 16, 8]


def test_what_is_left_keeps_its_chunks() -> None:
    """Else a stopped sweep would end in other bits: stacks of other rows round differently."""
    every = sweeps.chunks(crash.SPECS, 3)
    for gone in range(len(every)):
        have = {s.id for s in every[gone]}
        left = sweeps._unrecorded(crash.SPECS, 3, have)
        assert left == every[:gone] + every[gone + 1 :]
    left = sweeps._unrecorded(crash.SPECS, 3, {every[0][0].id})
    assert left == [*every[1:], every[0][1:]]


@pytest.mark.slow
def test_several_processes_give_the_same_records_and_one_may_die(
    tmp_path: Path, calm: dict[int, dict[str, Any]]
) -> None:
    with executors.processes(2) as pool:
        workers: dict[int, Any] = pool._processes
        assert sweeps.sweep(crash.SPECS[:6], tmp_path, pool, chunk=2) == 6
        half = {s.id: calm[2][s.id] for s in crash.SPECS[:6]}
        assert crash.plain(tmp_path) == half
        victim = next(iter(workers.values()))
        with pytest.raises(sweeps.WorkerDied, match="recorded: run the same again"):
            sweeps.sweep(
                crash.SPECS, tmp_path, pool, chunk=1, progress=lambda _: victim.kill(), in_flight=2
            )
    assert 6 < len(records.read(tmp_path)) < len(crash.SPECS)
    crash.go(tmp_path, chunk=2)
    assert crash.plain(tmp_path).keys() == calm[2].keys()


SMALL = "fixed = {n = 30, width = 2, steps = 20}\n"
BAD_FILES = {
    "unknown key": ("banan = 3", "key 'banan' is unknown; use one of question, claims"),
    "misspelt measure": ('mesure = ["norms"]', "key 'mesure' is unknown"),
    "unknown measure": ('measure = ["normz"]', "measure 'normz' is unknown; use one of image"),
    "measure a number": ("measure = 3", "measure = 3 is no list of names"),
    "measure a text": ('measure = "norms"', "measure = 'norms' is no list of names"),
    "measure of numbers": ("measure = [1]", "measure 1 is unknown"),
    "measure of a gcn": (
        'measure = ["norms"]\ngrid = {rho = [1.0, 2.0], model = ["mlp", "gcn"]}',
        "measure = ['norms'] is for model 'mlp', not 'gcn'",
    ),
    "unknown option": ("grid = {rh = [1.0]}", "option 'rh' is unknown"),
    "option of an arm": ("arms = [{rh = 1.0}]", "option 'rh' is unknown"),
    "fixed a number": ("fixed = 3", "fixed = 3 is no table"),
    "grid a list": ("grid = [1]", "grid = [1] is no table"),
    "grid a value": ("grid = {rho = 1.0}", "grid: rho = 1.0 is no list of values"),
    "grid empty": ("grid = {rho = []}", "grid: rho = [] is no list of values; give at least one"),
    "arms empty": ("arms = []", "arms = [] is no list of tables"),
    "arms numbers": ("arms = [1]", "arms = [1] is no list of tables"),
    "arms a table": ("arms = {rho = 1.0}", "is no list of tables"),
    "arm empty": ("arms = [{rho = []}]", "grid: rho = [] is no list of values"),
    "points a text": ('points = "x"', "points = 'x' is not a whole number from 2 to 1000000"),
    "points negative": ("points = -5", "points = -5"),
    "points none": ("points = 0", "points = 0"),
    "points one": ("points = 1", "points = 1"),
    "points huge": ("points = 1e12", "points = 1000000000000.0"),
    "points very many": ("points = 1000001", "points = 1000001"),
    "points true": ("points = true", "points = True"),
    "chunk none": ("chunk = 0", "chunk = 0"),
    "rho nan": ("grid = {rho = [nan]}", "rho = nan is not a number in [0, 1e+06]"),
    "rho inf": ("grid = {rho = [inf]}", "rho = inf"),
    "noise nan": ("grid = {label_noise = [nan]}", "label_noise = nan"),
    "rho true": ("grid = {rho = [true]}", "rho = True is not a number"),
    "rho a date": (
        "grid = {rho = [2026-01-01]}",
        "rho = datetime.date(2026, 1, 1) is not a number",
    ),
    "rho a list": ("grid = {rho = [[1.0]]}", "rho = [1.0] is not a number"),
    "data a list": ('arms = [{data = [["digits"]]}]', "data = ['digits'] is no text"),
    "width a float": ("grid = {width = [2.0]}", "width = 2.0 is not a whole number"),
    "many digits": (f"grid = {{rho = [1{'0' * 400}]}}", "is not a number in [0, 1e+06]"),
    "too many digits": (f"grid = {{rho = [{'9' * 5000}]}}", "experiment"),
    "nested": (f"measure = {'[' * 5000}", "its tables or lists lie too deep in one another"),
    "question": ('question = "\\u001b]0;title\\u0007"', "is no line of text"),
    "question a number": ("question = 3", "question = 3 is no line of text"),
    "no TOML": ("rho : 3", "experiment"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_experiment_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    text, said = BAD_FILES[name]
    path = tmp_path / "bad.toml"
    path.write_text(text if text.startswith("fixed") else SMALL + text)
    with pytest.raises(BadInput) as error:
        sweeps.load(path)
    assert str(error.value).startswith(f"experiment {str(path)!r}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [path]


def test_a_grid_of_a_milliard_runs_is_counted_and_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "grid.toml"
    lists = [f"{name} = {list(range(1, 1001))}" for name in ("seed", "width", "steps")]
    path.write_text("[grid]\n" + "\n".join(lists))
    monkeypatch.setattr(sweeps, "RunSpec", None)
    monkeypatch.setattr(sweeps, "fields", lambda _: [*map(_Named, ("seed", "width", "steps"))])
    with pytest.raises(BadInput, match="1000000000 runs are more than 100000; shorten"):
        sweeps.load(path)


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name


def test_the_number_of_runs_has_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "grid.toml"
    path.write_text("arms = [{rho = [1, 2]}, {rho = [3]}]\ngrid = {seed = [0, 1]}")
    monkeypatch.setattr(sweeps, "MOST", 6)
    _, specs = sweeps.load(path)
    assert [(s.rho, s.seed) for s in specs] == [
        (1.0, 0), (2.0, 0), (1.0, 1), (2.0, 1), (3.0, 0), (3.0, 1),
    ]  # fmt: skip
    monkeypatch.setattr(sweeps, "MOST", 5)
    with pytest.raises(BadInput, match="6 runs are more than 5"):
        sweeps.load(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "nothing"])
def test_an_experiment_that_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    if kind != "nothing":
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    said = "no such file" if kind == "nothing" else f"is a {kind}.* where a file belongs"
    with pytest.raises(BadInput, match=said):
        sweeps.load(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"measure": ["normz"]}, "measure 'normz' is unknown"),
        ({"measure": ["norms", "image"]}, "is for model 'mlp', not 'gcn'"),
        ({"points": 1}, "points = 1"),
        ({"points": 2_000_000}, "points = 2000000"),
        ({"chunk": 0}, "chunk = 0"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_trains(
    options: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "train_many", lambda *_, **__: pytest.fail("it trains"))
    club = RunSpec(data="karate", model="gcn", activation="relu", steps=2)
    with pytest.raises(BadInput, match=said):
        sweeps.sweep([RunSpec(n=30, steps=2), club], tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["runs.jsonl", "curves.npz", ".running"])
def test_a_sweep_into_a_folder_with_a_pipe_ends_at_once(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(BadInput, match="is a pipe or device where a file belongs; move it away"):
        sweeps.sweep(crash.SPECS[:1], tmp_path)


def test_a_doubled_line_costs_no_run_and_no_count(
    tmp_path: Path, calm: dict[int, dict[str, Any]]
) -> None:
    crash.go(tmp_path)
    path = tmp_path / "runs.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: whole.find(b"\n") + 1])
    with pytest.warns(UserWarning, match="repeats run"):
        assert crash.go(tmp_path) == 0
    assert path.read_bytes() == whole
    assert crash.plain(tmp_path) == calm[2]


def test_data_are_read_once_to_measure_all_runs_of_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps._objective.cache_clear()
    built, real = [], loop.objective
    monkeypatch.setattr(sweeps, "objective", lambda s, *a: built.append(s) or real(s, *a))
    specs = [RunSpec(n=30, width=2, steps=20 * k, rho=k, seed=k) for k in (1, 2, 3)]
    sweeps.sweep(specs, tmp_path, chunk=1, measure=["norms", "image", "escape"])
    assert len(built) == 1
    for record, run in zip(records.read(tmp_path), loop.train_many(specs), strict=True):
        f, _ = loop.objective(run.spec)
        due, _ = measures.take(["norms", "image"], run, f)
        for name, value in due.items():
            assert record["metrics"][name] == pytest.approx(value, rel=1e-4), name
    other = RunSpec(n=31, width=2, steps=20)
    sweeps.sweep([other], tmp_path, measure=["norms"])
    assert len(built) == 2


def test_every_experiment_of_the_book_loads() -> None:
    folder = Path(__file__).parents[3] / "book" / "experiments"
    counts = {path.stem: len(sweeps.load(path)[1]) for path in folder.glob("*.toml")}
    assert len(counts) >= 43
    assert min(counts.values()) >= 1
    assert max(counts.values()) <= 400


def test_an_error_in_a_run_is_raised_and_the_others_are_kept(tmp_path: Path) -> None:
    bad = RunSpec(n=5000, steps=20)  # digits has fewer
    with pytest.raises(BadInput, match="5000"):
        sweeps.sweep([*crash.SPECS[:2], bad], tmp_path, chunk=2)
    assert len(records.read(tmp_path)) == 2


def test_a_pool_that_refuses_work_has_lost_a_worker(tmp_path: Path) -> None:
    """A worker may die between two tasks: then the pool says so when it is given the next."""

    class Refusing(sweeps._Here):
        given = 0

        def submit(self, fn: Any, /, *args: Any, **kw: Any) -> Any:
            self.given += 1
            if self.given > 1:
                raise BrokenProcessPool("a child process terminated abruptly")
            return super().submit(fn, *args, **kw)

    with pytest.raises(sweeps.WorkerDied, match="recorded: run the same again"):
        sweeps.sweep(crash.SPECS, tmp_path, Refusing(), chunk=1, in_flight=1)
    assert 0 < len(records.read(tmp_path)) < len(crash.SPECS)
