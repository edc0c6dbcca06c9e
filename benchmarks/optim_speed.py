"""What a SAM step costs: SAM step ÷ (2 × base step), on the same forward and backward passes.

Contenders are timed in turn within each round, in a random order, on one thread; a round gives each
one ratio to the base steps of that very round. The table shows medians and quartiles of the rounds'
ratios. The clock is the process's own CPU time, which a busy machine disturbs least; ``--clock
wall`` takes the wall clock, for a quiet one. ``python benchmarks/optim_speed.py --help``.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from samlib import SAM

Step = Callable[[], Any]


class LoopSAM:
    """SAM as most copies in use write it: Python loops over parameters, a fresh copy every step."""

    def __init__(self, params: Any, base: Any, rho: float, **kwargs: Any) -> None:
        self.base = base(params, **kwargs)
        self.params = [p for group in self.base.param_groups for p in group["params"]]
        self.rho = rho
        self.zero_grad = self.base.zero_grad

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:
        """One step."""
        closure = torch.enable_grad()(closure)
        loss = closure()
        norm = torch.stack([p.grad.norm() for p in self.params if p.grad is not None]).norm()
        scale = self.rho / (norm + 1e-12)
        saved = []
        for p in self.params:
            if p.grad is not None:
                saved.append((p, p.clone()))
                p.add_(p.grad * scale)
        self.zero_grad()
        closure()
        for p, old in saved:
            p.copy_(old)
        self.base.step()
        return loss


def _mlp(n: int) -> tuple[nn.Module, torch.Tensor]:
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers), torch.randn(n, 784)


def _resnet18() -> tuple[nn.Module, torch.Tensor]:
    from torchvision.models import resnet18

    return resnet18(num_classes=10), torch.randn(128, 3, 32, 32)


# The MLP on a mini-batch, where moving weights weighs most, and on 1000 images, as in the book.
MODELS = {"mlp-128": partial(_mlp, 128), "mlp-1000": partial(_mlp, 1000), "resnet18": _resnet18}
BASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 1e-4}),
    "momentum": (torch.optim.SGD, {"lr": 1e-4, "momentum": 0.9}),
    "adamw": (torch.optim.AdamW, {"lr": 1e-5}),
}
# name → (make(params, base, rho, **kwargs), drive(optimizer, closure))
Contender = tuple[Callable[..., Any], Callable[[Any, Callable[[], Any]], Any]]


def _drive(opt: Any, closure: Callable[[], Any]) -> Any:
    return opt.step(closure)


def _sam(params: Any, base: Any, rho: float, **kwargs: Any) -> Any:
    return SAM(params, base, rho=rho, **kwargs)


OURS: dict[str, Contender] = {"samlib": (_sam, _drive), "loops": (LoopSAM, _drive)}


def prepare(model_name: str, base_name: str, contenders: dict[str, Contender]) -> dict[str, Step]:
    """A step of the base optimizer and of each contender, each on its own copy of the model."""
    kind, kwargs = BASES[base_name]
    steps: dict[str, Step] = {}
    every = {"base": (lambda params, base, rho, **kw: base(params, **kw), _drive), **contenders}
    for name, (make, drive) in every.items():
        torch.manual_seed(0)
        model, x = MODELS[model_name]()
        y = torch.arange(len(x)) % 10
        opt = make(list(model.parameters()), kind, 0.05, **kwargs)

        def closure(model: Any = model, x: Any = x, y: Any = y, opt: Any = opt) -> torch.Tensor:
            opt.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            return loss

        def step(opt: Any = opt, closure: Any = closure, drive: Any = drive) -> Any:
            return drive(opt, closure)

        steps[name] = step
    return steps


CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}


def measure(steps: dict[str, Step], rounds: int, clock: Any) -> dict[str, dict[str, float]]:
    """Quartiles over rounds of time ÷ (time of two base steps in the same round), per contender."""
    order = [name for name in steps if name != "base"] + ["base", "base"]
    shuffle = random.Random(0).shuffle
    ratios: dict[str, list[float]] = {name: [] for name in steps if name != "base"}
    base: list[float] = []
    for name in order * 2:  # warm up
        steps[name]()
    for _ in range(rounds):
        shuffle(order)
        took: dict[str, float] = {}
        for name in order:
            start = clock()
            steps[name]()
            took[name] = took.get(name, 0.0) + clock() - start
        base.append(took["base"] / 2)
        for name, values in ratios.items():
            values.append(took[name] / took["base"])
    rows: dict[str, dict[str, float]] = {
        "base": {"median_ms": 1e3 * statistics.median(base), "rounds": rounds}
    }
    for name, values in ratios.items():
        low, median, high = statistics.quantiles(values, n=4)
        rows[name] = {"ratio": median, "lower_quartile": low, "upper_quartile": high}
    return rows


def table(contenders: dict[str, Contender], args: argparse.Namespace) -> dict[str, Any]:
    """Measure every model with every base, print as it goes, and return what the JSON holds."""
    torch.set_num_threads(1)
    out: dict[str, Any] = {
        "what": "time of a step ÷ time of two base steps in the same round, quartiles over rounds",
        "clock": args.clock,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu": _cpu(),
        "measured": {},
    }
    for model in args.models:
        for base in args.bases:
            rows = measure(prepare(model, base, contenders), args.rounds, CLOCKS[args.clock])
            out["measured"][f"{model}/{base}"] = rows
            print(f"{model} with {base}: base step {rows['base']['median_ms']:.1f} ms")
            for name, row in rows.items():
                if name != "base":
                    low, high = row["lower_quartile"], row["upper_quartile"]
                    print(f"  {name:18} {row['ratio']:.3f}  [{low:.3f}, {high:.3f}]", flush=True)
    return out


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def parse(description: str | None, out: Path) -> argparse.Namespace:
    """The options that both speed scripts share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--clock", default="cpu", choices=list(CLOCKS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--bases", nargs="+", default=list(BASES), choices=list(BASES))
    parser.add_argument("--out", type=Path, default=out)
    return parser.parse_args()


def save(result: dict[str, Any], out: Path) -> None:
    """Write the result; what the file holds of other models, on this machine, stays."""
    old = json.loads(out.read_text()) if out.exists() else {}
    if all(old.get(k) == result[k] for k in ("cpu", "torch", "clock", "threads")):
        result["measured"] = old["measured"] | result["measured"]
    out.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    args = parse(__doc__, Path(__file__).with_suffix(".json"))
    save(table(OURS, args), args.out)


if __name__ == "__main__":
    main()
