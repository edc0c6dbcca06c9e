"""Chapter 13: a run watched live and its rescue, and the monitor replayed over recorded runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from figures import primitives, style
from samlib import SAM, HallucinationMonitor, build_model, read_records
from samlib.diagnostics import verdicts

if TYPE_CHECKING:
    from samlib.training.data import Dataset

# verdict -> background colour; the text in the figure names it too
BANDS = {
    "running": "white",
    "descending": "#DCEBF7",
    "converged": "#B5D6EF",
    "hallucinated": "#F7D3BF",
    "stalled: chaotic": "#F3DDEA",
    "stalled: crawling": "#E4E0EE",
    "stalled: saddle": "#E8C6DB",
    "diverged": "#D9D9D9",
}


# ---- live -----------------------------------------------------------------------------------


class Watched(NamedTuple):
    """A model trained with SAM, its monitor, and the curves of the run."""

    monitor: HallucinationMonitor
    curves: pandas.DataFrame  # step, loss, GradRatio, radius: a row a step
    accuracy: float  # on the test data
    full_norm: float  # ‖∇f(x)‖ on all training data, at the end


def watch(
    digits: Dataset,
    rho: float,
    steps: int = 800,
    *,
    base: type[torch.optim.Optimizer] = torch.optim.SGD,
    lr: float = 0.03,
    batch: int | None = None,
    auto_remedy: bool = False,
    **options: Any,
) -> Watched:
    """Train 16 tanh units from seed 0 under a monitor; ``options`` go to ``SAM``."""
    x, y = torch.tensor(digits.x_train).float(), torch.tensor(digits.y_train)
    model = build_model("mlp", in_features=64, out_features=10, width=16, seed=0)
    optimizer = SAM(model.parameters(), base, rho=rho, lr=lr, **options)
    monitor = HallucinationMonitor(optimizer, auto_remedy=auto_remedy)
    draw = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(steps):
        chosen = torch.randint(len(x), (batch,), generator=draw) if batch else slice(None)

        def closure(chosen: Any = chosen) -> torch.Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(model(x[chosen]), y[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        (radius,) = optimizer.radii()
        optimizer.step(closure)
        r = monitor.record()
        rows.append((r.step, r.loss, r.grad_ratio, radius))
    x_test, y_test = torch.tensor(digits.x_test).float(), torch.tensor(digits.y_test)
    right = (model(x_test).argmax(1) == y_test).float().mean()
    whole = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    norm = torch.cat([g.reshape(-1) for g in whole]).norm()
    curves = pandas.DataFrame(rows, columns=["step", "loss", "grad_ratio", "radius"])
    return Watched(monitor, curves, float(right), float(norm))


def _bands(ax: Axes, changes: Sequence[tuple[int, str]], last: int) -> None:
    cuts = [(1, "running"), *changes, (last, "")]
    for (start, name), (end, _) in pairwise(cuts):
        label = "_" if name == "running" else name
        ax.axvspan(start, end, color=BANDS[name], lw=0, label=label)


@style.house()
def rescue(runs: Mapping[str, Watched], rho: float) -> Figure:
    """Loss, and GradRatio with the radius in units of ρ, over the steps: a column a run.

    The background is what the monitor said.
    """
    fig, axes = primitives.panels(2, len(runs), 4.8)
    for (top, bottom), (title, run) in zip(axes.T, runs.items(), strict=True):
        step, loss, ratio, radius = run.curves.to_numpy().T
        for ax in (top, bottom):
            _bands(ax, run.monitor.changes, int(step[-1]))
            ax.set(xscale="log", xlim=(10, step[-1]))
        top.plot(step, loss, color=style.SAM)
        bottom.plot(step, ratio, color=style.SAM, lw=1.2, label="GradRatio")
        shown = np.where(radius > 0, radius / rho, np.nan)
        bottom.plot(step, shown, color="black", ls="--", lw=1.2, label="radius / $\\rho$")
        bottom.set(yscale="log", xlabel="step")
        top.set_title(title)
    axes[0, 0].set_ylabel("loss $f(x)$")
    axes[1, 0].set_ylabel("GradRatio, radius")
    primitives.legend(fig, ncols=4)
    return fig


# ---- replayed -------------------------------------------------------------------------------


def network(run: Any) -> str:
    """The family of networks to which a run of the fresh records belongs."""
    if run.data == "mnist":
        return "tanh, MNIST"
    if run.activation != "tanh":
        return "ReLU and GELU"
    if run.loss_function == "mse":
        return "squared error"
    if run.label_noise:
        return "wrong labels"
    return "tanh, digits" if (run.width, run.depth) == (16, 1) else "other widths and depths"


def judged(*records: str, replay: bool = True) -> pandas.DataFrame:
    """Recorded runs with what the monitor says of them, given the baseline.

    Columns besides those of ``read_records``: ``curves``; ``outcome``, the verdict with a twin as
    :func:`samlib.diagnostics.verdicts.outlook` reads it; ``final``, the monitor's verdict at the
    end, and ``agrees``, whether both have one outlook. With ``replay`` also ``names``, the verdict
    at each recorded step; ``named``, the fraction of the steps at which *hallucinated* first stood
    (infinite for never); ``quarter``, the verdict at a quarter of the steps; ``lowest``, the least
    GradRatio before it; and ``blind``, the verdict at the end without the baseline.
    """
    runs = pandas.concat([read_records(name, curves=True) for name in records], ignore_index=True)
    runs["outcome"] = runs.verdict.map(verdicts.outlook)
    told = list(zip(runs.curves, runs.baseline, strict=True))
    runs["final"] = [_final(c, baseline) for c, baseline in told]
    runs["agrees"] = runs.final.map(verdicts.outlook) == runs.outcome
    if replay:
        runs["network"] = [network(run) for run in runs.itertuples()]
        runs["names"] = [np.array(verdicts.replay(c, baseline)) for c, baseline in told]
        runs["blind"] = [_final(c, None) for c in runs.curves]
        pairs = list(zip(runs.curves, runs.names, strict=True))
        runs["named"] = [first(c, names == "hallucinated") for c, names in pairs]
        runs["quarter"] = [n[c["step"] <= 0.25 * c["step"][-1]][-1] for c, n in pairs]
        early = [(c["grad_ratio"], c["step"] < 0.25 * c["step"][-1]) for c in runs.curves]
        runs["lowest"] = [ratio[soon].min() for ratio, soon in early]
    return runs


def _final(c: primitives.Curves, baseline: float | None) -> str:
    columns = (c[key] for key in ("step", "loss", "grad_norm", "shifted_grad_norm"))
    return verdicts.running_verdict(*columns, baseline=baseline)


def first(c: primitives.Curves, holds: NDArray[np.bool_]) -> float:
    """The fraction of a run's steps at which something first holds; infinite for never."""
    return float(c["step"][holds][0] / c["step"][-1]) if holds.any() else np.inf


def acted(run: Any, factor: float) -> float:
    """The fraction of a run's steps at which *hallucinated* has stood since 1/``factor`` of it."""
    since = np.inf
    for step, name in zip(run.curves["step"], run.names, strict=True):
        since = min(since, step) if name == "hallucinated" else np.inf
        if step >= factor * since:
            return float(step / run.curves["step"][-1])
    return np.inf


def part(flags: Iterable[bool], digits: int = 0) -> str:
    """How many of some runs, as ``112 of 130, 86%``."""
    said = list(flags)
    return f"{sum(said)} of {len(said)}, {np.mean(said):.{digits}%}" if said else "none"


@style.house()
def earliness(first_named: Mapping[str, pandas.Series]) -> Figure:
    """The share of hallucinated runs that have been named, against the fraction of their steps."""
    fig, (ax,) = style.row(1, height=3.2, width=6.0)
    colors = (style.SAM, style.GD, style.EXACT, *style.OTHERS)
    dashes = ("-", "--", "-.", ":", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)))
    for (name, values), color, dash in zip(first_named.items(), colors, dashes, strict=False):
        x = np.sort(np.minimum(values, 1.0))
        y = np.arange(1, len(x) + 1) / len(x)
        ends = (np.r_[0.005, x, 1.0], np.r_[0.0, y, 1.0])
        ax.step(*ends, where="post", color=color, ls=dash, label=f"{name}, {len(x)} runs")
    primitives.guide(ax, x=0.25, y=0.8)
    ax.set(xscale="log", xlim=(0.005, 1), ylim=(0, 1.02))
    ax.set_xticks([0.01, 0.03, 0.1, 0.25, 1], ["1 %", "3 %", "10 %", "25 %", "100 %"])
    ax.minorticks_off()
    ax.set(xlabel="fraction of the run's steps", ylabel="hallucinated runs named")
    primitives.legend(fig, ncols=3)
    return fig


@style.house()
def patience(rates: pandas.DataFrame) -> Figure:
    """Rates in [0, 1], a column a curve, against the factor for which a verdict had to stand."""
    fig, (ax,) = style.row(1, height=3.0)
    looks = zip((style.SAM, style.GD, style.OTHERS[0]), ("X", "o", "s"), strict=True)
    for name, (color, mark) in zip(rates, looks, strict=False):
        ax.plot(rates.index, rates[name], color=color, marker=mark, ms=6, label=name)
    ax.set(ylim=(0, 1.02), xscale="log", xlabel="wait until it has stood for this factor in steps")
    ax.set_xticks(list(rates.index), [f"{k:g}" for k in rates.index])
    ax.minorticks_off()
    ax.set_ylabel("share of runs")
    ax.legend()
    return fig
