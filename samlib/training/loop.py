"""Training runs under SAM: one, or many at once as a stacked ensemble.

The objective is f(θ) = mean loss over the training set + (λ/2)‖θ‖², all parameters decayed, with λ
the weight decay. Runs that share everything but ρ and its schedule, lr, momentum and seed are rows
of one (E, p) matrix, so that each step costs a few large matrix products; a stacked run equals a
lone one up to rounding.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from samlib.diagnostics import verdicts
from samlib.dynamics import rules
from samlib.errors import BadInput, check_whole
from samlib.training import data, module_loss, provenance
from samlib.training.schedules import Radius, batches
from samlib.training.spec import Run, RunSpec
from samlib.training.stacked_loss import Objective

__all__ = [
    "Run", "RunSpec", "descend", "objective", "resolve_device", "stacks", "train", "train_many",
]  # fmt: skip

CHECK_EVERY = 100  # steps between looks for runs that diverged
MEASURES = 200  # how often a run with mini-batches is measured on all the data
Progress = Callable[[int], object]


def train(spec: RunSpec, **kw: Any) -> Run:
    """Train one run; its gradient descent twin, which the verdict needs, trains with it.

    Keywords are those of :func:`train_many`.
    """
    return train_many([spec], **kw)[0]


def train_many(
    specs: Sequence[RunSpec],
    *,
    device: str = "auto",
    data_root: str | None = None,
    threads: int = 1,
    twins: bool = True,
    memory: int = 2**30,
    progress: Progress = lambda _: None,
) -> list[Run]:
    """Train all ``specs`` and return their runs in the same order.

    Runs that may share a stack do; each run's gradient descent twin is added unless ``twins`` is
    False (the verdict is then ``running`` wherever it needs one). A stack takes about ``memory``
    bytes beside the data: where that is too little, its runs train in several, of one run at least.
    ``progress`` is called with the number of finished run-steps. One thread by default: the
    matrices are small, and results then do not depend on the machine's load. BadInput if a spec's
    data or model cannot be built, or the device is not there.
    """
    device = resolve_device(device)
    check_whole("threads", threads, 1, 1024)
    check_whole("memory", memory, 1, 2**60)
    wanted = dict.fromkeys([*specs, *(s.twin() for s in specs if twins)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    done: dict[RunSpec, Run] = {}
    try:
        for stack in stacks(wanted):
            if stack[0].model != "mlp":
                done |= module_loss.train_each(stack, device, data_root, progress)
                continue
            f, dataset = objective(stack[0], device, data_root)
            size = max(1, memory // f.row_bytes(stack[0].steps))
            for i in range(0, len(stack), size):
                done |= _train_stack(stack[i : i + size], f, dataset, device, progress)
    finally:
        torch.set_num_threads(before)
    return [_judged(done[s], done.get(s.twin())) for s in specs]


def resolve_device(name: str) -> str:
    """``auto`` becomes cuda where there is one, else cpu; BadInput if the device is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise BadInput(f"device {name!r} is unknown; use auto, cpu or cuda")
    if name != "cpu" and not torch.cuda.is_available():
        raise BadInput(f"device {name!r}: this machine has no CUDA device; use --device cpu")
    return name


def stacks(specs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    """Group specs that can train as rows of one matrix; gradient descent is SAM with ρ = 0."""
    groups: dict[RunSpec, list[RunSpec]] = {}
    for s in specs:
        rule, seed = "sam" if s.rule == "gd" else s.rule, s.seed if s.batch else 0
        shared = dataclasses.replace(oracle(s), rule=rule, seed=seed, steps=s.steps, batch=s.batch)
        groups.setdefault(shared, []).append(s)
    return list(groups.values())


def oracle(s: RunSpec) -> RunSpec:
    """One spec for all that train on the same f: what f does not depend on is at fixed values."""
    own: dict[str, Any] = {"rho": 0.0, "lr": 1.0, "warm_start": 0.0, "momentum": 0.0}
    own |= {"rule": "sam", "seed": 0, "steps": 1, "batch": None, "schedule": "constant"}
    return dataclasses.replace(s, **own)


def objective(
    spec: RunSpec, device: str = "cpu", data_root: str | None = None
) -> tuple[Objective, data.Dataset]:
    """The function f that ``spec`` trains on, and its data set; BadInput if one cannot be built."""
    cut = {k: getattr(spec, k) for k in ("n", "classes", "features", "label_noise")}
    dataset = data.load_data(spec.data, data_root, seed=spec.data_seed, **cut)
    return Objective(spec, dataset, device), dataset


def descend(
    specs: list[RunSpec], f: Objective, device: str, progress: Progress
) -> tuple[Tensor, Tensor]:
    """All steps of a stack: final parameters (E, p) and the trace (4, steps + 1, E).

    With mini-batches the trace is measured on all the data at every ``steps // MEASURES``-th step.
    """
    steps, total = specs[0].steps, len(specs)
    rule = rules.get(next((s.rule for s in specs if s.rule != "gd"), "sam"))
    theta = torch.stack([f.initial(s.seed) for s in specs])
    lr, momentum = theta.new_tensor([(s.lr, s.momentum) for s in specs]).T[..., None].unbind()
    velocity = torch.zeros_like(theta) if momentum.any() else None
    radius, final = Radius(specs, theta), theta.clone()
    curves = final.new_full((4, steps + 1, total), torch.nan)
    alive = torch.arange(total, device=device)
    shuffled = batches(specs[0], len(f.x), device)
    noisy = (specs[0].batch or len(f.x)) < len(f.x)
    every = max(1, steps // MEASURES) if noisy else 1

    def look(rho: Tensor) -> Tensor:
        f.seen.clear()
        direction: Tensor = rule(f, theta, rho)[0]
        return direction

    for t in range(steps + 1):
        rho = radius.at(t)
        if t % every == 0 or t == steps:
            f.batch(None)
            direction = look(rho)
            now = torch.stack([*f.seen[0], *f.seen[-1]])
        if len(alive) == total:
            curves[:, t] = now
        else:
            curves[:, t, alive] = now
        if t < steps:
            if noisy:
                f.batch(next(shuffled))
                direction = look(rho)
            radius.feedback(f.seen[-1][1] / f.seen[0][1])
            if velocity is not None:
                direction = velocity = direction.addcmul(momentum, velocity)
            theta = torch.addcmul(theta, lr, direction, value=-1)
        if t % CHECK_EVERY == 0 or t == steps:
            progress(min(CHECK_EVERY, steps - t) * total)
            final[alive] = theta
            ok = theta.isfinite().all(1)
            if not ok.all():  # rows that diverged stop here; the others go on without them
                alive, theta, lr, momentum = (v[ok] for v in (alive, theta, lr, momentum))
                velocity, now = (None if velocity is None else velocity[ok]), now[:, ok]
                radius.keep(ok)
            if not len(alive):
                break
    return final, curves


def _train_stack(
    specs: list[RunSpec], f: Objective, dataset: data.Dataset, device: str, progress: Progress
) -> dict[RunSpec, Run]:
    """Train a stack and measure every row at its last point; verdicts come later."""
    started = time.time()
    differentiates = any(s.rule == "exact" for s in specs)  # the other rules need no autograd
    with torch.inference_mode(not differentiates):
        theta, curves = descend(specs, f, device, progress)
    train_accuracy = f.accuracy(theta, f.x, f.y)
    test_accuracy = f.accuracy(theta, f.x_test, f.y_test)
    wall = {"wall_time_s": round(time.time() - started, 3)}
    where = provenance.provenance(started, device, torch.get_num_threads())
    where |= wall | {"stack": len(specs)}
    numbers, done = curves.double().cpu().numpy(), {}
    for i, s in enumerate(specs):
        loss, norm, shifted_loss, shifted_norm = numbers[:, :, i]
        trace = verdicts.Trace(loss, norm, shifted_loss, shifted_norm, f.baseline)
        metrics = wall | trace.summary()
        metrics["train_accuracy"] = float(train_accuracy[i])
        metrics["test_accuracy"] = float(test_accuracy[i])
        row = theta[i].double().cpu().numpy()
        done[s] = Run(s, "running", metrics, trace, row, dataset.describe(), where)
    return done


def _judged(run: Run, twin: Run | None) -> Run:
    """The run with its verdict, given its twin (a run without ρ is its own twin)."""
    twin_loss = twin.metrics["loss"] if twin else None
    trace = dataclasses.replace(run.trace, twin_loss=twin_loss)
    name = verdicts.verdict(trace)
    stall = verdicts.stall_kind(trace) if name == "stalled" else None
    more = {"twin_loss": twin_loss, "progress": trace.progress, "stall": stall}
    return dataclasses.replace(run, verdict=name, metrics=run.metrics | more, trace=trace)
