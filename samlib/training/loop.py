"""Training runs under SAM: one, or many at once as a stacked ensemble.

The objective is f(θ) = mean loss over the training set + (λ/2)‖θ‖², all parameters decayed, with λ
the weight decay. Fully connected runs that share everything but ρ and its schedule, lr, momentum
and seed are rows of one (E, p) matrix, so that each step costs a few large matrix products; a
stacked run equals a lone one up to rounding. Other networks train one at a time.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from samlib.diagnostics import verdicts
from samlib.dynamics import rules
from samlib.errors import BadInput, check_whole
from samlib.training import data, provenance, schedules
from samlib.training.loss import Iterate, Loss
from samlib.training.module_loss import ModuleIterate, ModuleLoss
from samlib.training.spec import CURVES, Run, RunSpec
from samlib.training.stacked_loss import StackedLoss

Progress = Callable[[int], object]
Key: TypeAlias = tuple[tuple[str, Any], ...]
"""Options of a spec and their values."""

STEPWISE = ("rule", "rho", "lr", "warm_start", "momentum", "schedule", "seed", "steps", "batch")
"""The options on which a run's loss does not depend, only how it is descended."""


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

    Runs that may share a stack do, and each run's gradient descent twin is trained too.

    Parameters
    ----------
    specs
        The runs.
    device
        ``auto``, ``cpu`` or ``cuda``.
    data_root
        Where data lie, see :func:`samlib.load_data`.
    threads
        One by default: the matrices are small, and results then do not depend on the load.
    twins
        Without twins the verdict is ``running`` wherever it needs one.
    memory
        Bytes that a stack may take, about, beside the data: where that is too little, its runs
        train in several, of one run at least.
    progress
        Called with the number of finished run-steps.

    Returns
    -------
    list of Run

    Raises
    ------
    BadInput
        If a spec's data or model cannot be built, or the device is not there.
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
                for spec in stack:
                    done[spec] = _train_alone(spec, device, data_root, progress)
                continue
            loss, dataset = objective(stack[0], device, data_root)
            size = max(1, memory // cast(StackedLoss, loss).row_bytes(stack[0].steps))
            for i in range(0, len(stack), size):
                done |= _train_stack(stack[i : i + size], loss, dataset, progress)
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
    """Group specs that can train as rows of one matrix; gradient descent is SAM with ρ = 0.

    Rows with mini-batches share them, and so their seed.
    """
    groups: dict[Any, list[RunSpec]] = {}
    for s in specs:
        rule, seed = "sam" if s.rule == "gd" else s.rule, s.seed if s.batch else None
        groups.setdefault((loss_key(s), rule, s.steps, s.batch, seed), []).append(s)
    return list(groups.values())


def loss_key(spec: RunSpec) -> Key:
    """The options of a run that determine its loss: specs with one key have one loss f."""
    names = (field.name for field in dataclasses.fields(spec))
    return tuple((name, getattr(spec, name)) for name in names if name not in STEPWISE)


def objective(
    spec: RunSpec, device: str = "cpu", data_root: str | None = None
) -> tuple[Loss, data.Dataset]:
    """The function f that ``spec`` trains on, and its data set.

    Returns
    -------
    loss : StackedLoss or ModuleLoss
        For ``model = "mlp"`` a stacked loss; otherwise that of the network as ``seed`` draws it.
    dataset : Dataset

    Raises
    ------
    BadInput
        If one of them cannot be built.
    """
    if spec.model == "mlp":
        dataset = data.load_data(spec.data, data_root, **spec.cut)
        return StackedLoss(spec, dataset, device), dataset
    dataset = _kept_data(spec.data, data_root, tuple(spec.cut.items()))
    return ModuleLoss(spec, dataset, device), dataset


@lru_cache(maxsize=1)
def _kept_data(name: str, root: str | None, cut: Key) -> data.Dataset:
    # 60,000 colour images take seconds to read, and networks that train alone ask one by one.
    return data.load_data(name, root, **dict(cut))


def _train_alone(spec: RunSpec, device: str, data_root: str | None, progress: Progress) -> Run:
    """Train a run that cannot be stacked.

    Gradient descent is remembered, since runs recorded one by one have their twins in common.
    """
    if spec.rule != "gd":
        loss, dataset = objective(spec, device, data_root)
        return _train_stack([spec], loss, dataset, progress)[spec]
    run = _remembered(spec, device, data_root)
    progress(spec.steps)
    return run


@lru_cache(maxsize=8)
def _remembered(spec: RunSpec, device: str, data_root: str | None) -> Run:
    loss, dataset = objective(spec, device, data_root)
    return _train_stack([spec], loss, dataset, lambda _: None)[spec]


def endpoints(run: Run, loss: Loss) -> tuple[Tensor, Tensor]:
    """The run's final x and its x⁺ under the run's own rule at full ρ, each of shape (1, p)."""
    x = torch.as_tensor(run.theta).to(loss.x)[None]
    return x, rules.get(run.spec.rule)(loss, x, run.spec.rho).x_plus


class History(NamedTuple):
    """What became of E runs in T steps.

    Attributes
    ----------
    theta
        Their final parameters, (E, p).
    curves
        Their readings (see :class:`samlib.training.loss.Iterate`), (4, T + 1, E): NaN after a run
        has diverged. With mini-batches one holds until the next.
    recent
        The readings of the last twentieth of the steps, as the steps' own batches have them.
    """

    theta: Tensor
    curves: Tensor
    recent: list[Tensor]


def descend(
    iterate: Iterate,
    *,
    batches: Iterable[Sequence[Tensor | None]] | None = None,
    every: int = 0,
    progress: Progress = lambda _: None,
) -> History:
    """Make all steps of the runs in ``iterate``.

    Full-batch runs are measured at every step, by the gradients that the step takes anyway; those
    with mini-batches at about :attr:`samlib.training.loss.Loss.LOOKS` steps.

    Parameters
    ----------
    iterate
        The runs at their initial points.
    batches
        The batches of each step's gradients; None: as the runs' specs have it.
    every
        With ``batches`` of one's own, how many steps lie between two looks at the runs.
    progress
        Called with the number of finished run-steps.
    """
    loss, spec, total = iterate.loss, iterate.specs[0], len(iterate.specs)
    steps, count = spec.steps, len(loss.x)
    if batches is None:
        batches = ([rows] for rows in schedules.batches(spec, count, loss.device))
        every = max(1, steps // loss.LOOKS) if (spec.batch or count) < count else 0
    turns, radius = iter(batches), schedules.Radius(iterate.specs, iterate.theta)
    final, alive = iterate.theta.clone(), torch.arange(total, device=loss.device)
    recent: deque[Tensor] = deque(maxlen=max(1, steps // verdicts.THRESHOLDS.tail_parts))
    curves = final.new_empty(0)
    with torch.inference_mode(not iterate.differentiates):
        for t in range(steps + 1):
            rho = radius.at(t)
            if t == steps or (every and t % every == 0):
                now = iterate.look(rho)
            if t < steps:
                reading = iterate.move(rho, next(turns))
                radius.feedback(reading[3] / reading[1])
                recent.append(reading)
                now = now if every else reading
            if t == 0:
                curves = now.new_full((len(now), steps + 1, total), torch.nan)
            if len(alive) == total:
                curves[:, t] = now
            else:
                curves[:, t, alive] = now
            if t % loss.CHECK_EVERY == 0 or t == steps:
                progress(min(loss.CHECK_EVERY, steps - t) * total)
                final[alive] = iterate.theta
                ok = iterate.theta.isfinite().all(1)
                if not ok.all():  # rows that diverged stop here; the others go on without them
                    alive, now = alive[ok], now[:, ok]
                    iterate.keep(ok)
                    radius.keep(ok)
                if not len(alive):
                    break
    return History(final.clone(), curves, list(recent))  # ordinary tensors, to be differentiated


def _train_stack(
    specs: list[RunSpec], loss: Loss, dataset: data.Dataset, progress: Progress
) -> dict[RunSpec, Run]:
    """Train a stack and measure every row at its last point; verdicts come later."""
    started, iterate = time.time(), loss.start(specs)
    theta, curves, recent = descend(iterate, progress=progress)
    train_accuracy = loss.accuracy(theta, loss.x, loss.y)
    test_accuracy = loss.accuracy(theta, loss.x_test, loss.y_test)
    more = _of_module(iterate, recent) if isinstance(iterate, ModuleIterate) else {}
    wall = {"wall_time_s": round(time.time() - started, 3)}
    where = provenance.provenance(started, loss.device, torch.get_num_threads())
    where |= wall | {"stack": len(specs)}
    numbers, done = curves.double().cpu().numpy(), {}
    for i, s in enumerate(specs):
        curves_of = dict(zip(CURVES, numbers[:, :, i], strict=True))
        trace = verdicts.Trace(**curves_of, baseline=loss.baseline)
        metrics = wall | trace.summary()
        metrics["train_accuracy"] = float(train_accuracy[i])
        metrics["test_accuracy"] = float(test_accuracy[i])
        row = theta[i].double().cpu().numpy()
        done[s] = Run(s, "running", metrics | more, trace, row, dataset.describe(), where)
    return done


def _of_module(iterate: ModuleIterate, recent: list[Tensor]) -> dict[str, float]:
    """What else is measured of a run that trains alone: its batches' GradRatio, its image.

    Stacks with mini-batches are measured on all the data and need no average over batches.
    """
    out = {}
    if len(iterate.loss.sample) > 1 or iterate.loss.sample[0] is not None:
        norms = torch.stack(recent)[:, :, 0].double().cpu().numpy()
        out["batch_grad_ratio"] = float(np.median(verdicts.grad_ratio(norms[:, 1], norms[:, 3])))
    return out | iterate.image(iterate.specs[0].rho) if iterate.theta.isfinite().all() else out


def _judged(run: Run, twin: Run | None) -> Run:
    """The run with its verdict, given its twin (a run without ρ is its own twin)."""
    twin_loss = twin.metrics["loss"] if twin else None
    trace = dataclasses.replace(run.trace, twin_loss=twin_loss)
    name = verdicts.verdict(trace)
    stall = verdicts.stall_kind(trace) if name == "stalled" else None
    more = {"twin_loss": twin_loss, "progress": trace.progress, "stall": stall}
    return dataclasses.replace(run, verdict=name, metrics=run.metrics | more, trace=trace)
