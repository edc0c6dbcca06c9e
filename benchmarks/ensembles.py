"""What training many networks as one stack gains over SAM that loops over each one's parameters.

Both sides train the same networks from the same weights, full batch, half of them in each of two
processes of one thread: one ``nn.Module`` a run, stepped by :class:`optim_speed.LoopSAM`, against
:func:`samlib.train_many`'s stack, with the curves that it records. They take turns, and a round
gives one ratio by the wall clock (the slower process counts) and one by CPU time (summed). Printed
and written are medians and quartiles over rounds. ``python benchmarks/ensembles.py --help``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from optim_speed import LoopSAM, _cpu
from torch.nn.functional import cross_entropy

from samlib.training import data, models
from samlib.training.loop import descend, objective
from samlib.training.spec import RunSpec

# name → what trains, how many networks, how many steps a round takes
SETTINGS = {
    "mnist": (RunSpec(data="mnist", n=1000, width=32, rho=2.0, lr=0.01), 16, 10),
    "digits": (RunSpec(data="digits", n=500, width=16, rho=2.0, lr=0.03), 24, 60),
}
CONTENDERS = ("loops", "stack")
Train = Callable[[int], list[float]]


def loops(specs: list[RunSpec], dataset: data.Dataset) -> Train:
    """Steps of SAM for each network in turn; a call takes some steps and returns the losses."""
    x, y = torch.as_tensor(dataset.x_train).float(), torch.as_tensor(dataset.y_train)
    pairs = []
    for s in specs:
        options = {"width": s.width, "in_features": x.shape[1], "out_features": 10}
        model = models.build_model("mlp", seed=s.seed, **options)
        opt = LoopSAM(list(model.parameters()), torch.optim.SGD, s.rho, lr=s.lr)

        def closure(model: Any = model, opt: Any = opt) -> torch.Tensor:
            opt.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            return loss

        pairs.append((opt, closure))

    def run(steps: int) -> list[float]:
        losses = [[opt.step(closure) for opt, closure in pairs] for _ in range(steps)]
        return [v.item() for v in losses[-1]]

    return run


def stack(specs: list[RunSpec], dataset: data.Dataset) -> Train:
    """The same for all networks at once, always from the start; it returns the losses."""
    f, _ = objective(specs[0])

    def run(steps: int) -> list[float]:
        # A run of T steps takes T + 1 evaluations, the last one to record its end.
        done = descend(f.start([replace(s, steps=steps - 1) for s in specs]))
        return [float(v) for v in done.curves[0, -1]]

    return run


def worker(pipe: Connection, name: str, seeds: range) -> None:
    """Train on request: (contender, steps) → (wall, CPU seconds, losses)."""
    torch.set_num_threads(1)
    specs = [replace(SETTINGS[name][0], seed=s) for s in seeds]
    dataset = data.load_data(name, n=specs[0].n)
    made = {"loops": loops(specs, dataset), "stack": stack(specs, dataset)}
    while (request := pipe.recv()) is not None:
        contender, steps = request
        wall, cpu = time.perf_counter(), time.process_time()
        losses = made[contender](steps)
        pipe.send((time.perf_counter() - wall, time.process_time() - cpu, losses))


def measure(name: str, processes: int, rounds: int) -> dict[str, Any]:
    """Medians and quartiles for one setting: ms a step of all networks, and the ratios."""
    _, members, steps = SETTINGS[name]
    share = members // processes
    context, pipes, workers = mp.get_context("spawn"), [], []
    for k in range(processes):
        ours, theirs = context.Pipe()
        seeds = range(k * share, (k + 1) * share)
        workers.append(context.Process(target=worker, args=(theirs, name, seeds)))
        workers[-1].start()
        theirs.close()
        pipes.append(ours)

    def together(contender: str, count: int) -> tuple[float, float, list[float]]:
        for pipe in pipes:
            pipe.send((contender, count))
        walls, cpus, losses = zip(*(pipe.recv() for pipe in pipes), strict=True)
        return max(walls), sum(cpus), list(chain.from_iterable(losses))

    # The loops go on from where they were, so the two are compared at their first steps, once.
    first = [torch.tensor(together(c, 5)[2]) for c in CONTENDERS]
    torch.testing.assert_close(*first, rtol=1e-4, atol=0)
    took: dict[str, list[tuple[float, float]]] = {c: [] for c in CONTENDERS}
    for k in range(rounds):
        for contender in CONTENDERS if k % 2 else CONTENDERS[::-1]:
            took[contender].append(together(contender, steps)[:2])
    for pipe, process in zip(pipes, workers, strict=True):
        pipe.send(None)
        process.join()
    row: dict[str, Any] = {"members": members, "processes": processes, "steps_a_round": steps}
    for i, clock in enumerate(("wall", "cpu")):
        ratios = [a[i] / b[i] for a, b in zip(*took.values(), strict=True)]
        times = {f"{c}_ms": _quartiles([1e3 * t[i] / steps for t in took[c]]) for c in CONTENDERS}
        row[clock] = times | {"ratio": _quartiles(ratios)}
    return row


def _quartiles(values: list[float]) -> list[float]:
    return [round(v, 3) for v in statistics.quantiles(values, n=4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2, choices=[1, 2])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--json", action="store_true", help="write ensembles.json beside this file")
    args = parser.parse_args()
    out = {"rounds": args.rounds, "torch": torch.__version__, "cpu": _cpu()}
    out |= {"python": platform.python_version(), "what": "[lower quartile, median, upper quartile]"}
    rows = {}
    for name in args.settings:
        row = rows[name] = measure(name, args.processes, args.rounds)
        for clock in ("wall", "cpu"):
            before, after = row[clock]["loops_ms"][1], row[clock]["stack_ms"][1]
            low, middle, high = row[clock]["ratio"]
            print(
                f"{name}, {row['members']} networks, {clock}: "
                f"{before:.1f} → {after:.1f} ms a step, {middle:.2f} times [{low:.2f}, {high:.2f}]",
                flush=True,
            )
    if args.json:
        text = json.dumps(out | {"measured": rows}, indent=1) + "\n"
        Path(__file__).with_suffix(".json").write_text(text)


if __name__ == "__main__":
    main()
