"""Chapter 5: the cliff, the map of regimes, what the threshold decides, setting P."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import matplotlib.pyplot as plt
import numpy as np
import pandas
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import primitives, style
from figures.primitives import VERDICTS, Curves
from samlib.diagnostics.verdicts import THRESHOLDS, grad_ratio
from samlib.training.loop import endpoints, objective
from samlib.training.spec import Run
from samlib.training.stacked_loss import StackedLoss

FAILED = ("hallucinated", "stalled")


def cliff(runs: pandas.DataFrame) -> Figure:
    """Final loss (top) and GradRatio (bottom) against ρ, a column a learning rate."""
    groups = {f"learning rate {lr:g}": group for lr, group in runs.groupby("lr")}
    return primitives.outcomes(groups, rotation=0)


def at_time(runs: pandas.DataFrame, tau: float) -> pandas.DataFrame:
    """The runs, with curves, as they were at the time τ: their loss and GradRatio then.

    Between the steps that a record keeps, values are interpolated.
    """
    keys = ("loss", "grad_norm", "shifted_grad_norm")
    then = [
        [np.interp(tau / lr, curves["step"], curves[key]) for key in keys]
        for lr, curves in zip(runs.lr, runs.curves, strict=True)
    ]
    loss, here, there = np.array(then).T
    return runs.assign(tau=tau, loss=loss, grad_ratio=there / here)


def saturation(run: Run) -> pandas.DataFrame:
    """At x and at x⁺: the share of saturated activations, and how far predictions are from prior.

    The second is the mean distance of a predicted probability from the frequency of its class.
    """
    f = cast(StackedLoss, objective(run.spec)[0])
    rows = []
    for name, theta in zip(("x", "x⁺"), endpoints(run, f), strict=True):
        w, b, *_ = f.stacked.parts(theta)
        saturated = (torch.tanh(f.x @ w[0].T + b[0]).abs() > 0.99).float().mean()
        away = (f.predict(theta)[0] - f.prior[:, None]).abs().mean()
        rows.append([name, f"{100 * saturated:.0f} %", f"{away:.3f}"])
    return pandas.DataFrame(rows, columns=["at", "saturated", "mean distance from the frequency"])


@style.house()
def regimes(maps: Mapping[str, pandas.DataFrame]) -> Figure:
    """Verdicts over the plane of ρ and learning rate, a panel a data set, a mark a run.

    A cell is the darker, the higher the median of its runs' final losses, relative to ``baseline``.
    """
    rates = [runs.lr.nunique() for runs in maps.values()]
    size, ratios = (style.WIDTH, 1.6 + 0.36 * sum(rates)), {"height_ratios": rates}
    fig, axes = plt.subplots(len(maps), 1, figsize=size, squeeze=False, gridspec_kw=ratios)
    for ax, (title, runs) in zip(axes[:, 0], maps.items(), strict=True):
        x, y = primitives.places(runs, "rho", 0.17), primitives.places(runs, "lr", 0)
        primitives.marks(ax, x, y, runs.verdict, size=5.5)
        relative = runs.assign(relative=runs.loss / runs.baseline)
        shade = relative.pivot_table("relative", "lr", "rho", aggfunc="median").to_numpy()
        shown = ax.imshow(shade, cmap="Greys", vmin=0, vmax=2.2, origin="lower", aspect="auto")
        primitives.ticks(ax.xaxis, runs.rho)
        primitives.ticks(ax.yaxis, runs.lr)
        ax.set(ylabel="learning rate", title=title)
    axes[-1][0].set_xlabel("radius $\\rho$")
    bar = fig.colorbar(shown, ax=list(axes[:, 0]), shrink=0.6, label="loss ÷ constant guess's loss")
    bar.ax.set_ylim(0, 1.1)
    primitives.legend(fig, VERDICTS)
    return fig


@style.house()
def images(maps: Mapping[str, pandas.DataFrame]) -> Figure:
    """How far the network at x⁺ is from a constant one, against GradRatio, a panel a data set."""
    fig, axes = style.row(len(maps), height=3.4, sharey=True)
    for ax, (title, runs) in zip(axes, maps.items(), strict=True):
        primitives.marks(ax, runs.grad_ratio, runs.shifted_spread, runs.verdict)
        primitives.guide(ax, x=0.1)
        ax.set(xlabel="GradRatio", title=title, xscale="log", yscale="log")
    axes[0].set_ylabel("spread of the predictions at $x^+$ (nats)")
    primitives.legend(fig, VERDICTS)
    return fig


@style.house()
def ratios(groups: Mapping[str, pandas.DataFrame]) -> Figure:
    """Histogram of log GradRatio of the runs that failed, a panel a title, coloured by verdict.

    Of each run that is hallucinated or stalled the largest GradRatio counts that its curves hold of
    the verdict's tail. Dotted: 0.03, 0.1, 0.3.
    """
    fig, axes = style.row(len(groups), height=3.0)
    bins = np.logspace(-3.5, 3, 27).tolist()  # four to a decade: 0.1 is an edge
    for ax, (title, runs) in zip(axes, groups.items(), strict=True):
        parts = [[_tail_ratio(c) for c in runs.curves[runs.verdict == name]] for name in FAILED]
        colors = [VERDICTS[name][1] for name in FAILED]
        ax.hist(parts, bins, stacked=True, color=colors, label=list(FAILED))
        for at in (0.03, 0.1, 0.3):
            primitives.guide(ax, x=at)
        ax.set(xscale="log", xlabel="GradRatio, largest of the last 5 %", title=title)
    axes[0].set_ylabel("failing runs")
    primitives.legend(fig)
    return fig


def sensitivity(
    runs: pandas.DataFrame, ratios: Sequence[float] = (0.03, 0.1, 0.3)
) -> dict[str, int]:
    """How many failing runs count as hallucinated, were GradRatio to lie below another threshold.

    ``runs`` have the columns ``verdict`` and ``curves``. Those with the verdict *hallucinated* or
    *stalled* are counted under ``"failing"``, and how many of them are called hallucinated at each
    of ``ratios`` under its number as text. At 0.1, the threshold of the verdict, the recorded
    verdicts are counted, which rest on every step of the tail. Records keep only a few of these
    steps, and any other threshold is judged by those: a lower one among the runs called
    hallucinated, a higher one among the others too. Elsewhere than at 0.1 a count is therefore an
    upper bound. Strict hallucinations (GradRatio < 1e-6) stay so.
    """
    limits = THRESHOLDS
    counts = {"failing": 0} | {f"{r:g}": 0 for r in ratios}
    failing = runs[runs.verdict.isin(FAILED)]
    for verdict, curves in zip(failing.verdict, failing.curves, strict=True):
        counts["failing"] += 1
        named = verdict == "hallucinated"
        norms, found = _tail(curves)
        for r in ratios:
            lost = r < limits.low_ratio and found.max() >= max(r, limits.zero_ratio)
            won = r > limits.low_ratio and norms.min() > limits.alive and found.max() < r
            counts[f"{r:g}"] += bool(won or (named and not lost))
    return counts


def _tail(c: Curves) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """‖∇f(x)‖ and GradRatio at those of a verdict's steps, the last 5 %, that curves hold."""
    ends = c["step"][-1] + 1
    tail = c["step"] >= ends - max(1, ends // THRESHOLDS.tail_parts)
    return c["grad_norm"][tail], grad_ratio(c["grad_norm"][tail], c["shifted_grad_norm"][tail])


def _tail_ratio(c: Curves) -> float:
    """The largest GradRatio of a run's tail; values beyond the figure's ends are moved into it."""
    return float(np.clip(_tail(c)[1].max(), 10**-3.49, 10**2.99))


@style.house()
def flagship(sam: Curves, gd: Curves) -> Figure:
    """Setting P: losses of SAM at x and x⁺ and of gradient descent; SAM's two gradient norms."""
    fig, (left, right) = style.row(2, height=2.9)
    left.plot(sam["step"], sam["loss"], color=style.SAM, label="SAM, $f(x)$")
    left.plot(sam["step"], sam["shifted_loss"], color=style.SAM, ls="--", label="SAM, $f(x^+)$")
    left.plot(gd["step"], gd["loss"], color=style.GD, ls=":", lw=2.4, label="gradient descent")
    left.set(xlabel="step", ylabel="loss", title="SAM looks at the minimum, from afar")
    right.semilogy(sam["step"], sam["grad_norm"], color=style.GD, label="$\\|∇f(x)\\|$")
    right.semilogy(sam["step"], sam["shifted_grad_norm"], color=style.SAM, label="$\\|∇f(x^+)\\|$")
    right.set(xlabel="step", ylabel="gradient norm", title="one gradient vanishes, one does not")
    for ax in (left, right):
        ax.legend()
    return fig


@style.house()
def weights(images: Mapping[str, NDArray[np.float64]]) -> Figure:
    """First-layer weights as pictures, each (rows, columns), on one colour scale."""
    fig, axes = style.row(len(images), height=2.3)
    top = max(np.abs(w).max() for w in images.values())
    for ax, (title, w) in zip(axes, images.items(), strict=True):
        shown = ax.imshow(w, cmap="PuOr", vmin=-top, vmax=top)
        ax.set_title(title)
        ax.set(xticks=[], yticks=[])
    fig.colorbar(shown, ax=axes, shrink=0.8, label="weight")
    return fig
