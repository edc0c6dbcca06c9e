"""Chapter 8: noise on the double well, mini-batches and wrong labels in networks.

The first half draws what is computed for the double well with ρ = 6/5, η = 1/10 unless another is
given. The second half draws runs, data frames with the column ``outcome``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from figures import primitives, style
from figures.primitives import OUTCOMES, Curves
from samlib.dynamics import rules
from samlib.training.loss import Loss, OnBatches

if TYPE_CHECKING:
    from torch import Tensor

    from samlib import Landscape

Array = NDArray[np.float64]
COLORS = (style.SAM, style.GD, style.EXACT, *style.OTHERS)
RHO, ETA = 1.2, 0.1
BARRIER = 0.0484  # ΔU, at 0
EDGES = np.linspace(-2.2, 2.2, 881)  # of cells of the line; 0 and ±1, where T jumps, are edges
MIDDLE = (EDGES[1:] + EDGES[:-1]) / 2


def slope(x: Array) -> Array:
    """f'(x) of the double well."""
    return x * (x * x - 1)


# ---- the way out ----------------------------------------------------------------------------


def orbit(sigma: float, rho: float, start: float, steps: int = 3000, seed: int = 3) -> Array:
    """SAM with noise in the update, shape (steps + 1,)."""
    path = [start]
    for kick in (ETA * sigma * np.random.default_rng(seed).standard_normal(steps)).tolist():
        x = path[-1]
        shifted = x + math.copysign(rho, x**3 - x)
        path.append(x - ETA * (shifted**3 - shifted) + kick)
    return np.array(path)


@style.house()
def hopping(well: Landscape, sigma: float, rho: float) -> Figure:
    """Left f^SAM over x, broken where it jumps; right an orbit on the same height."""
    x, h = np.linspace(-1.3, 1.3, 2001), rho - 1
    gradient = well.grad(x[:, None])[:, 0]
    surrogate = np.asarray(well.f((x + rho * np.sign(gradient))[:, None]))
    fig, (left, right) = style.row(2, 3.2, width_ratios=(1, 2.2), sharey=True)
    left.plot(np.where(np.abs(gradient) < 2e-3, np.nan, surrogate), x, color=style.SAM)
    left.set(xlabel=r"$f^{\rm SAM}(x)$", ylabel="$x$", xlim=(-0.02, 0.3))
    right.plot(orbit(sigma, rho, h), color="black", lw=0.4)
    for ax in (left, right):
        for level, color in ((-h, style.SAM), (h, style.SAM), (-1, style.GD), (1, style.GD)):
            ax.axhline(level, color=color, lw=1, ls="--", zorder=0)
    right.plot([], [], "--", color=style.SAM, label="hallucinated")
    right.plot([], [], "--", color=style.GD, label="true minimizer")
    right.set(xlabel="step $k$", ylim=(x[0], x[-1] * 1.25))
    right.legend(loc="upper right", ncols=2)
    return fig


def way_out(eta: float, goal: float = 0.0, tiny: float = 1e-9) -> tuple[Array, Array, float]:
    """Path, kicks and cost of the stationary path from ρ − 1 to ``goal``."""
    start = RHO - 1
    m, side = 1 - 2 * eta, math.copysign(1, goal - start)

    def run(deviation: float, steps: int | None = None) -> tuple[Array, Array, float]:
        """So many steps, or as many as it takes to pass the goal."""
        x, w = start + side * deviation, side * deviation * (1 - m * m)
        path, cost = [x], w * deviation * side / 2
        kicks: list[float] = []
        while len(kicks) < steps if steps else (x - goal) * side < 0:
            t = x - RHO
            w /= 1 - eta * (3 * t * t - 1)
            x += w - eta * (t**3 - t)
            cost += w * w / 2
            path.append(x)
            kicks.append(w)
        return np.array(path), np.array(kicks), cost

    steps = len(run(tiny / m)[1])

    def miss(deviation: float) -> float:
        return float(run(deviation, steps)[0][-1] - goal)

    return run(brentq(miss, tiny, tiny / m, xtol=1e-26, rtol=1e-15), steps)


def exponent(eta: float) -> float:
    """V(η) over 2ηΔU."""
    return way_out(eta)[2] / (2 * eta * BARRIER)


@style.house()
def least_action() -> Figure:
    """Left the cheapest way out and its kicks; right V/(2ηΔU) between its bounds."""
    path, kicks = (part[-26:] for part in way_out(ETA)[:2])
    kicks = kicks[1:]
    etas = np.array([0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.14, 0.18, 0.22, 0.26, 0.295])
    fig, (left, right) = style.row(2, 3.0)
    steps = np.arange(len(path)) - len(path) + 1
    left.plot(steps, path, "o-", ms=3, color=style.SAM, label="iterate $x_k$")
    left.plot(steps[:-1], kicks, ".-", ms=3, color=style.GD, label="kick $w_k$")
    left.axhline(0, color=style.PALE, lw=0.8)
    left.set(xlabel="steps before the exit", title="the cheapest way out")
    left.legend()
    lower = 1 - 1.66 * etas
    right.fill_between(etas, lower, 1, color="0.92", lw=0, label="between the bounds")
    right.plot(etas, 1 - RHO**2 * etas, "--", color=style.PALE, label=r"$1-\rho^2\eta$")
    found = [exponent(e) for e in etas]
    right.plot(etas, found, "o", color=style.SAM, ms=4, label=r"$V/(2\eta\,\Delta U)$")
    right.set(xlabel=r"$\eta$", title="against the barrier", xlim=(0, etas[-1]), ylim=(None, 1.01))
    right.legend(loc="lower left")
    return fig


# ---- exit times and stationary distributions ------------------------------------------------


def update_noise(x: Array, noise: Array) -> Array:
    """A step of SAM with noise in the update."""
    return x - ETA * slope(x + RHO * np.sign(slope(x))) + ETA * noise


def batch_noise(x: Array, noise: Array) -> Array:
    """A step of SAM with one batch, f(x) + ζx, for both gradients."""
    return x - ETA * (slope(x + RHO * np.sign(slope(x) + noise)) + noise)


def simulate(
    advance: Callable[[Array, Array], Array], sigma: float, copies: int, steps: int, seed: int = 0
) -> tuple[float, float]:
    """Steps per exit from (0, 1), and its standard error; who leaves starts again at 1/5."""
    rng = np.random.default_rng(seed)
    place, exits = np.full((copies, 1), 0.2), 0
    for _ in range(steps):
        place = advance(place, sigma * rng.standard_normal((copies, 1)))
        out = (place <= 0) | (place >= 1)
        exits += int(out.sum())
        place[out] = 0.2
    mean = copies * steps / exits
    return mean, mean / math.sqrt(exits)


def landing(mean: Array, s: float, edges: Array = EDGES) -> Array:
    """The chance of landing in each cell from each mean, shape (means, cells)."""
    return np.asarray(np.diff(ndtr((edges - mean[:, None]) / s), axis=1))


def one_batch(sigma: float, middle: Array = MIDDLE, edges: Array = EDGES) -> Array:
    """Transition probabilities if the noise ζ also enters the ascent; ζ > −f'(x) looks right."""
    g, s = slope(middle)[:, None], ETA * sigma
    ahead, back = (middle - ETA * slope(middle + w) for w in (RHO, -RHO))
    turn = [m[:, None] + ETA * g for m in (ahead, back)]  # where the branches meet ζ = −f'(x)
    looks_right = np.diff(ndtr((np.minimum(edges, turn[0]) - ahead[:, None]) / s), axis=1)
    looks_left = np.diff(ndtr((np.maximum(edges, turn[1]) - back[:, None]) / s), axis=1)
    return np.asarray(looks_right + looks_left)


def batch_exit(sigma: float) -> float:
    """E N from 1/5 with one batch for both gradients, on the cells of (0, 1)."""
    inside, walls = (v[np.abs(v - 0.5) < 0.501] for v in (MIDDLE, EDGES))
    stay = one_batch(sigma, inside, walls)
    tau = np.linalg.solve(np.eye(len(stay)) - stay, np.ones(len(stay)))
    return float(np.interp(0.2, inside, tau))


def stationary(sigma: float) -> pandas.DataFrame:
    """The share of time in each cell of the line, a column a process."""
    still = np.zeros_like(MIDDLE)
    chances = {
        "SAM, noisy update": landing(update_noise(MIDDLE, still), ETA * sigma),
        "gradient descent": landing(MIDDLE - ETA * slope(MIDDLE), ETA * sigma),
        "SAM, one batch for both": one_batch(sigma),
    }
    shares = {}
    for name, chance in chances.items():
        chance = chance / chance.sum(1, keepdims=True)
        system = np.vstack([(chance.T - np.eye(len(chance)))[:-1], np.ones(len(chance))])
        share = np.linalg.solve(system, np.eye(len(chance))[-1])
        shares[name] = (share + share[::-1]) / 2  # all three chains are symmetric
    return pandas.DataFrame(shares, index=MIDDLE)


@style.house()
def densities(panels: Mapping[str, pandas.DataFrame], floor: float = 1e-9) -> Figure:
    """Stationary densities over x, a panel a noise level, a curve a process; logarithmic."""
    fig, axes = style.row(len(panels), 2.9, sharey=True)
    for ax, (title, shares) in zip(axes, panels.items(), strict=True):
        for (name, share), color in zip(shares.items(), COLORS, strict=False):
            density = np.maximum(share / (EDGES[1] - EDGES[0]), floor / 10)
            ax.plot(share.index, density, color=color, label=name)
        ax.set(xlabel="$x$", title=title, yscale="log", ylim=(floor, 30))
    axes[0].set_ylabel("density")
    primitives.legend(fig)
    return fig


@style.house()
def exit_times(
    kinds: Mapping[str, tuple[Callable[[float], float], pandas.DataFrame]], rate: float
) -> Figure:
    """Mean exit times against 1/σ²: a kind of noise, its theory, and what was simulated.

    Frames have the columns σ, ``simulated`` and ``error``. Dashed: the slope ``rate``, shifted up.
    """
    fig, (ax,) = style.row(1, 3.2, style.WIDTH)
    sigma = np.linspace(0.27, 0.75, 25)
    first = 0.0
    plain: dict[str, Any] = {"fmt": "o", "ms": 4, "color": "black", "capsize": 3}
    for (name, (theory, seen)), color in zip(kinds.items(), COLORS, strict=False):
        computed = np.array([theory(s) for s in sigma])
        first = first or computed[0]
        ax.plot(sigma**-2.0, computed, color=color, label=f"{name}: computed")
        ax.errorbar(seen["σ"] ** -2.0, seen.simulated, 2 * seen.error, zorder=4, **plain)
    ax.errorbar([], [], [], label="simulated, ±2 errors", **plain)
    at = sigma[:16] ** -2.0
    law = 5 * first * np.exp(rate * (at - at[0]))
    ax.plot(at, law, "--", color=style.PALE, label=r"slope $V/\eta^2$")
    ax.set(xlabel=r"$1/\sigma^2$", ylabel="mean steps to leave", yscale="log")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return fig


# ---- networks -------------------------------------------------------------------------------


@style.house()
def atlas(runs: pandas.DataFrame) -> Figure:
    """What each run came to, a panel a learning rate: radius (up) against batch size (across)."""
    runs = runs.assign(across=-runs.batch.astype(int))
    across, up = primitives.places(runs, "across", 0.26), primitives.places(runs, "rho", 0)
    rates = runs.assign(across=across, up=up).groupby("lr")
    sizes = sorted(set(runs.batch), reverse=True)
    fig, axes = primitives.panels(1, len(rates), 3.6)
    for ax, (lr, group) in zip(axes[0], rates, strict=True):
        primitives.marks(ax, group.across, group.up, group.outcome, OUTCOMES, size=5.5)
        ax.set_xticks(range(len(sizes)), ["all", *map(str, sizes[1:])])
        ax.set(title=f"learning rate {lr:g}", xlabel="batch size", xlim=(-0.5, len(sizes) - 0.5))
    primitives.ticks(axes[0, 0].yaxis, runs.rho)
    axes[0, 0].set_ylabel(r"radius $\rho$")
    primitives.legend(fig, OUTCOMES, ncols=3)
    return fig


@style.house()
def traps(runs: pandas.DataFrame) -> Figure:
    """Where untrained runs stand: GradRatio, and the norm of the weights, against ‖∇f(x)‖.

    The dotted lines are those of the verdict: GradRatio 0.1 and ‖∇f(x)‖ = 0.01.
    """
    fig, (left, right) = style.row(2, height=3.4)
    for ax, metric in ((left, "grad_ratio"), (right, "norm")):
        primitives.marks(ax, runs.grad_norm, runs[metric], runs.outcome, OUTCOMES)
        primitives.guide(ax, x=0.01)
        ax.set(xscale="log", xlabel=r"$\|∇f(x)\|$")
    primitives.guide(left, y=0.1)
    start = runs.start_norm.mean()
    primitives.guide(right, y=start, ls="--")
    right.text(1, start, "at the start", color=style.PALE, fontsize=9, va="bottom", ha="right",
               transform=right.get_yaxis_transform())  # fmt: skip
    left.set(yscale="log", ylabel="GradRatio")
    right.set(ylabel=r"$\|x\|$, norm of the weights", ylim=(0, None))
    primitives.legend(fig, OUTCOMES, ncols=3)
    return fig


@style.house()
def which_gradient(before: Curves, after: Mapping[str, Curves]) -> Figure:
    """GradRatio and ‖∇f(x)‖ without noise and after it sets in, a colour a kind of noise.

    Curves are those of :func:`samlib.training.minibatch.descend`; bold the median over the
    networks, shaded their range.
    """
    fig, (left, right) = style.row(2, height=3.3)
    onset = before["step"][-1]
    parts = {"no noise": (0, before)} | {name: (onset, c) for name, c in after.items()}
    colors = ("black", style.GD, style.SAM, style.OTHERS[0])
    for (name, (start, curves)), color in zip(parts.items(), colors, strict=True):
        at, ratio = start + curves["step"], curves["shifted_grad_norm"] / curves["grad_norm"]
        for ax, y in ((left, ratio), (right, curves["grad_norm"])):
            ax.fill_between(at, y.min(1), y.max(1), color=color, alpha=0.18, lw=0)
            ax.plot(at, np.median(y, 1), color=color, lw=1.5, label=name)
    for ax, words in ((left, "GradRatio"), (right, r"$\|∇f(x)\|$")):
        primitives.guide(ax, x=onset)
        ax.set(yscale="log", xlabel="step", ylabel=words)
    primitives.legend(fig)
    return fig


def averages(
    net: Loss,
    x: Tensor,
    rho: float,
    lr: float,
    *,
    ascent: int | None = None,
    update: int | None = None,
    steps: int = 100,
) -> tuple[Array, Array]:
    """GradRatio on all the data along noisy steps, shape (E,): median of single steps, of averages.

    The averages are those of ∇f(x) and ∇f(x⁺) over the steps, x⁺ being that of the noisy step.
    """
    draw, read = torch.Generator().manual_seed(2), []
    here = there = torch.zeros_like(x)
    for _ in range(steps):
        order = torch.randperm(len(net.x), generator=draw)
        batches = [None if size is None else order[:size] for size in (ascent, update)]
        step = rules.sam(OnBatches(net, batches), x, rho)
        g, shifted = net.grad(x), net.grad(step.x_plus)  # both on all the data
        here, there, x = here + g, there + shifted, x - lr * step.direction
        read.append(shifted.norm(dim=1) / g.norm(dim=1))
    averaged = there.norm(dim=1) / here.norm(dim=1)
    return torch.stack(read).median(0).values.numpy(), averaged.numpy()


@style.house()
def wrong_labels(runs: pandas.DataFrame) -> Figure:
    """Progress (top) and GradRatio (bottom) against ρ, a column a fraction of wrong labels."""
    groups = {f"{100 * level:g} % wrong labels": g for level, g in runs.groupby("label_noise")}
    rows = {"progress": "progress $p$", "grad_ratio": "GradRatio"}
    fig, axes = primitives.facets(groups, "rho", rows, kinds="outcome", looks=OUTCOMES)
    for top, bottom in axes.T:
        primitives.guide(top, y=0.2)
        primitives.guide(bottom, y=0.1)
        top.set_yscale("linear")
        bottom.set_xlabel(r"radius $\rho$")
    return fig
