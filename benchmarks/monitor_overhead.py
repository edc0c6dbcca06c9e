"""What the monitor costs: steps of SAM with ``record()`` after each ÷ the same steps without.

The two take turns within each round, in a random order, each on its own copy of the model, on one
thread, by CPU time, from the first step on. The monitor reads the first steps all and later ones
seldom, so the cost is that of the whole run: ``ratio`` compares the sums over all rounds, ``share``
is the time within ``record()`` over the time of the steps, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from optim_speed import BASES, MODELS, OURS, _cpu, prepare

from samlib import SAM, HallucinationMonitor

ROUNDS = {"mlp-128": 2000, "mlp-1000": 400, "resnet18": 60}


class Clocked:
    """A step followed by a reading, and the CPU times of the readings."""

    def __init__(self) -> None:
        self.readings: list[float] = []

    def __call__(self, monitor: Any, closure: Any) -> None:
        monitor.optimizer.step(closure)
        start = time.process_time()
        monitor.record()
        self.readings.append(time.process_time() - start)


class Zeroing(HallucinationMonitor):
    """A monitor that the benchmark's closure may clear like an optimizer."""

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()


def measure(model: str, base: str, rounds: int) -> dict[str, float]:
    """Quartiles of the ratio, and medians in milliseconds."""
    drive = Clocked()

    def make(params: Any, kind: Any, rho: float, **kwargs: Any) -> Any:
        return Zeroing(SAM(params, kind, rho=rho, **kwargs))

    steps = prepare(model, base, {"samlib": OURS["samlib"], "monitored": (make, drive)})
    names = ["samlib", "monitored"]
    took: dict[str, list[float]] = {n: [] for n in names}
    for name in names * 2:  # warm up
        steps[name]()
    drive.readings.clear()
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            start = time.process_time()
            steps[name]()
            took[name].append(time.process_time() - start)
    plain, monitored = sum(took["samlib"]), sum(took["monitored"])
    return {
        "steps": rounds,
        "ratio": monitored / plain,
        "share": sum(drive.readings) / plain,
        "step_ms": 1e3 * statistics.median(took["samlib"]),
        "longest_tenth_record_ms": 1e3 * statistics.quantiles(drive.readings, n=10)[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    rows = {}
    for model in args.models:
        for base in BASES:
            row = rows[f"{model}/{base}"] = measure(model, base, ROUNDS[model])
            print(
                f"{model} with {base}: {row['steps']} steps of {row['step_ms']:.2f} ms; record() "
                f"{100 * row['share']:.2f} % of them; with it ÷ without: {row['ratio']:.3f}",
                flush=True,
            )
    out = {"threads": 1, "torch": torch.__version__, "cpu": _cpu()}
    args.out.write_text(json.dumps(out | {"measured": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
