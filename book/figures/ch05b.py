"""Chapter 5b: losses and rates from many starts, windows in ρ, remedies, pairs of digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from numpy.typing import NDArray

from figures import primitives, style
from figures.primitives import Looks
from samlib import Certificate, sam_map
from samlib.certify.exact_network import NetworkLoss
from samlib.diagnostics.verdicts import THRESHOLDS, is_strict
from samlib.points.continuation import continue_in_rho
from samlib.points.lagrange import Stationary
from samlib.points.search import refine
from samlib.points.solvers import solve
from samlib.points.stability import classify

Floats = NDArray[np.float64]
#: outcome -> (marker, colour), in the order in which legends and bars have them
OUTCOMES: Looks = {
    "learns": ("o", style.GD),
    "strict": ("X", style.SAM),
    "weak": ("P", style.OTHERS[1]),
    "guess": ("s", style.OTHERS[0]),
    "other": ("d", "black"),
}
WORDS = {
    "learns": "learns",
    "strict": "hallucinates strictly",
    "weak": "hallucinates, not settled",
    "guess": "constant guess",
    "other": "none of these",
}
LOOKS: Looks = {WORDS[name]: look for name, look in OUTCOMES.items()}


def outcome(runs: pandas.DataFrame) -> pandas.Series:
    """What each run came to: one of :data:`OUTCOMES`, the first that holds.

    ``strict``: GradRatio < 1e-6 and ‖∇f(x)‖ > 1e-3 at the end. ``learns``: progress over 0.8 (see
    :attr:`samlib.diagnostics.verdicts.Trace.progress`). ``weak``: the verdict *hallucinated*.
    ``guess``: progress within 0.05 of 0, the loss of a constant guess. ``other``: the rest.
    """
    progress = runs.progress.astype(float)
    kinds = {
        "guess": progress.abs() < THRESHOLDS.guess,
        "weak": runs.verdict == "hallucinated",
        "learns": progress > THRESHOLDS.learns,
        "strict": is_strict(runs.grad_ratio.astype(float), runs.grad_norm.astype(float)),
        "other": runs.loss.isna(),
    }
    found = pandas.Series("other", index=runs.index)
    for name, holds in kinds.items():  # the last that holds counts
        found = found.mask(holds, name)
    return found


def remedy(runs: pandas.DataFrame) -> pandas.Series:
    """The remedy that each run tried, in words."""
    words = runs.schedule.where(runs.schedule != "constant", runs.rule)
    scaled = runs.rule.isin(["asam", "unnormalised"])
    words = words.mask(scaled, runs.rule + runs.rho.map(", ρ = {:g}".format))
    words = words.mask(runs.momentum > 0, runs.momentum.map("momentum {:g}".format))
    return words.mask(runs.warm_start > 0, (100 * runs.warm_start).map("GD first, {:g} %".format))


def dead_unit(c: Certificate) -> dict[str, str]:
    """How a unit without weights repels gradient descent and attracts SAM at a certified point."""
    f, x, rho = c.landscape, c.x_h, float(c.rho)
    assert isinstance(f, NetworkLoss)
    g, h, d, k = f.grad(x), f.hidden, f.inputs, f.outputs
    size, one = np.linalg.norm(g), np.eye(f.dim)
    u = g / size
    image = f.hess(x + rho * u)
    shift = one + rho * (one - np.outer(u, u)) @ f.hess(x) / size
    first, second = f.blocks(x)
    weights = np.sqrt((first**2).sum(1) + (second[:, :-1] ** 2).sum(0))
    j = int(np.argmin(weights))  # a dead unit, and the places of its weights
    own = np.r_[j * d : (j + 1) * d, h * d + j, h * (d + 1) + j + h * np.arange(k)]
    apart = max(abs(np.delete(A[own], own, axis=1)).max() for A in (image, shift)) < 1e-12
    blocks = [A[np.ix_(own, own)] for A in (image, shift, image @ shift)]
    few = [str((np.linalg.eigvals(A).real < 0).sum()) for A in (image, *blocks[:2])]
    return {
        "live units": f"{(weights > 1e-9).sum()} of {h}",
        "negative in H_*": few[0],
        "of a dead unit in H_*": few[1],
        "of a dead unit in M": few[2],
        "its blocks are separate": "yes" if apart else "no",
        "least Re λ of its block of A": f"{np.linalg.eigvals(blocks[2]).real.min():.3f}",
    }


def from_afar(c: Certificate, sizes: Sequence[float]) -> pandas.DataFrame:
    """Where 12 starts at each distance from a certified point end, sizes in units of ‖x_h‖.

    A unit may have either sign: the copy of x_h with the nearer one counts as x_h.
    """
    f, x_h, rho = c.landscape, c.x_h, float(c.rho)
    assert isinstance(f, NetworkLoss)
    assert c.basin is not None
    away = np.random.default_rng(0).normal(size=(12, f.dim))
    length = np.linalg.norm(x_h)
    away *= length / np.linalg.norm(away, axis=1, keepdims=True)
    x = x_h + np.reshape(sizes, (-1, 1, 1)) * away
    step = sam_map(f, rho, 0.05)
    least = np.full(x.shape[:-1], np.inf)
    for _ in range(2000):
        x = step(x)
        least = np.minimum(least, np.linalg.norm(x, axis=-1))
    gradient = f.grad(x)
    norm = np.linalg.norm(gradient, axis=-1, keepdims=True)
    ratio = np.linalg.norm(f.grad(x + rho * gradient / norm), axis=-1) / norm[..., 0]
    level = (abs(f.f(x) - f.f(x_h)) < 0.002) & (ratio < 0.01)
    far = np.linalg.norm(x - x_h, axis=-1)
    for j in range(f.hidden):
        flipped = f.flip_unit(x, j)
        other = np.linalg.norm(flipped - x_h, axis=-1)
        x, far = np.where((other < far)[..., None], flipped, x), np.minimum(other, far)
    return pandas.DataFrame(
        {
            "distance": [
                f"{s:g} ‖x_h‖ = {s * length:.2f} = {s * length / rho:.3f} ρ" for s in sizes
            ],
            "of 12 back at x_h": (far < 0.05 * length).sum(1),
            "of 12 at its loss": level.sum(1),
            "least ‖x‖ on the way": [f"{v:.1f}" for v in least.min(1)],
            "radius of the certified basin": f"{c.basin.radius:.1e}",
        }
    )


class Window(NamedTuple):
    """One branch of hallucinated points at weight decay λ: arrays (n,) over increasing ρ.

    ``norm`` is the image's, ``eta_max`` the learning rate below which each point attracts (NaN:
    none) and ``slowest`` the smallest real part of an eigenvalue of A: SAM approaches the point by
    a factor 1 − η·slowest a step.
    """

    decay: float
    norm: float
    rho: Floats
    loss: Floats
    eta_max: Floats
    slowest: Floats

    def attracts(self, eta: float) -> tuple[float, float]:
        """The radii from which and up to which points attract at ``eta``; NaN if none does.

        Linear between the branch's points, so good to a fraction of their spacing.
        """
        stays = np.flatnonzero(self.eta_max > eta)
        if not len(stays):
            return np.nan, np.nan
        ends = []
        for k, step in ((stays[0], -1), (stays[-1], 1)):
            at = k + step if 0 <= k + step < len(self.rho) else k
            pair = sorted((k, at), key=lambda i: float(self.eta_max[i]))
            ends.append(float(np.interp(eta, self.eta_max[pair], self.rho[pair])))
        return ends[0], ends[1]


def window(net: Callable[[float], NetworkLoss], start: Certificate, decay: float) -> Window:
    """Follow a certified point to the weight decay λ, then its branch to both of its ends in ρ.

    ``net(λ)`` is the loss. On the way to λ, in steps of at most 15 %, ρ keeps its ratio to ‖x_*‖.
    """
    image, x = start.image, start.x_h
    ratio = float(start.rho) / float(np.linalg.norm(image))
    first = float(start.landscape.decay)
    steps = max(2, int(np.ceil(abs(np.log(decay / first)) / 0.15)))
    for value in np.geomspace(first, decay, steps):
        f, before = net(round(float(value), 9)), float(np.linalg.norm(image))
        image = solve(Stationary(f), image)
        size = float(np.linalg.norm(image))
        point = refine(f, x * size / before, image, ratio * size)
        x = point.x
    ends = [continue_in_rho(f, point, r, max_step=size / 10) for r in (size / 2, 2.2 * size)]
    rho, xs = (
        np.concatenate([getattr(ends[0], k)[:0:-1], getattr(ends[1], k)]) for k in ("rho", "x")
    )
    every = [classify(f, x, r) for x, r in zip(xs[1:-1], rho[1:-1], strict=True)]  # ends: f' = 0
    eta = np.array([np.nan if c.eta_max is None else c.eta_max for c in every])
    slowest = np.array([c.eigenvalues.real.min() for c in every])
    return Window(decay, size, rho[1:-1], f.f(xs[1:-1]), eta, slowest)


@style.house()
def losses(groups: Mapping[str, pandas.DataFrame]) -> Figure:
    """Final losses of runs from many initialisations, a panel a network, sorted by f(x).

    Each run is a column: f(x) marked by its ``outcome``, f(x⁺) below it, and its gradient descent
    twin's loss. The dashed line is the loss of the best constant guess.
    """
    fig, axes = style.row(len(groups), height=3.1)
    for ax, (title, runs) in zip(axes, groups.items(), strict=True):
        ordered = runs.sort_values("loss", kind="stable")
        at = np.arange(1, len(ordered) + 1)
        ax.plot(at, ordered.twin_loss, ".", ms=4, color=style.GD, label="gradient descent")
        ax.plot(at, ordered.shifted_loss, ".", ms=4, color=style.OTHERS[2], label="$f(x^+)$")
        primitives.marks(ax, at, ordered.loss, ordered.outcome.map(WORDS), LOOKS, size=5)
        primitives.guide(ax, y=runs.baseline.iloc[0], ls="--")
        ax.set(title=title, xlabel="run", ylim=(0, None))
    axes[0].set_ylabel("final loss")
    primitives.legend(fig, ncols=3)
    return fig


@style.house()
def rates(groups: Mapping[str, pandas.DataFrame]) -> Figure:
    """1 − the rate at which GradRatio fell against 1 − the spectral radius at each limit."""
    fig, (ax,) = style.row(1, height=3.6)
    reach = 1 - pandas.concat(groups.values()).spectral_radius
    ends = np.array([0.9 * reach.min(), 1.1 * reach.max()])
    ax.plot(ends, ends, color=style.PALE, lw=1, label="equal")
    colors = (style.SAM, style.GD, style.EXACT, style.OTHERS[0])
    marks = zip("Xosd", colors, (6, 10, 5, 6), strict=True)
    for (title, runs), (marker, color, size) in zip(groups.items(), marks, strict=False):
        look: dict[str, Any] = {"color": color, "ms": size, "mec": "white", "mew": 0.5}
        ax.plot(1 - runs.spectral_radius, 1 - runs.rate, marker, label=title, **look)
    ax.set(xscale="log", yscale="log", xlabel="1 − spectral radius of $DT$ at the limit")
    ax.set_ylabel("1 − measured rate of GradRatio")
    ax.legend()
    return fig


@style.house()
def windows(runs: pandas.DataFrame, predicted: Mapping[float, Window]) -> Figure:
    """Outcome of each run against ρ, a row a weight decay and learning rate.

    ``predicted`` maps λ to its branch: bars show where its points exist, thick where they attract
    at the row's learning rate. Ticks are ‖x_*‖ and 2‖x_*‖.
    """
    fig, (ax,) = style.row(1, height=4.0, width=style.WIDTH)
    ran = runs[runs.rho > 0]
    rows = ran.groupby(["weight_decay", "lr"])
    words = ["a hallucinated point exists", "… and attracts", "$\\|x_*\\|$, $2\\|x_*\\|$"]
    for place, (decay, lr) in enumerate(rows.groups):
        w = predicted[decay]
        for radii, width, text in ((w.rho, 1.5, words[0]), (w.attracts(lr), 7, words[1])):
            ends = [radii[0], radii[-1]]
            ax.plot(ends, [place] * 2, lw=width, label=text, color=style.PALE, alpha=0.6)
        for size in (w.norm, 2 * w.norm):
            ax.plot([size], [place], "|", color=style.GD, ms=16, mew=1.5, label=words[2])
    primitives.marks(ax, ran.rho, rows.ngroup(), ran.outcome.map(WORDS), LOOKS, size=7)
    ax.set_yticks(range(len(rows)), [f"λ {d:g}\nη {e:g}" for d, e in rows.groups])
    ax.set(xlabel="radius $\\rho$", ylim=(-0.6, len(rows) - 0.4))
    primitives.legend(fig, ncols=3)
    return fig


@style.house()
def remedies(runs: pandas.DataFrame) -> Figure:
    """What runs with each ``remedy`` came to: a panel a ``setting``, a bar a remedy."""
    settings = runs.groupby("setting", sort=False)
    fig, axes = style.row(len(settings), height=4.8, sharey=True)
    drawn: dict[str, BarContainer] = {}
    for ax, (title, tried) in zip(axes, settings, strict=True):
        names = list(tried.remedy.unique())
        for place, remedy_name in enumerate(names):
            ends, left = list(tried.outcome[tried.remedy == remedy_name]), 0.0
            for name, (_, color) in OUTCOMES.items():
                part = ends.count(name) / len(ends)
                if part:
                    bar = ax.barh(place, part, left=left, color=color, height=0.75)
                    drawn[WORDS[name]] = bar
                    at, ink = left + part / 2, "white" if name in ("learns", "other") else "black"
                    ax.text(at, place, str(ends.count(name)), ha="center", va="center", color=ink)
                left += part
        ax.set_yticks(range(len(names)), names)
        ax.set(title=title, xlabel="fraction of runs", xlim=(0, 1))
    axes[0].invert_yaxis()
    order = [words for words in WORDS.values() if words in drawn]
    fig.legend([drawn[w][0] for w in order], order, loc="outside upper center", ncols=3)
    return fig


@style.house()
def pairs(runs: pandas.DataFrame) -> Figure:
    """Outcomes against ``length``, ‖x_*‖ of each pair, a row a radius; a bar marks ρ itself.

    Seeds lie one above the other.
    """
    fig, (ax,) = style.row(1, height=3.4, width=style.WIDTH)
    lifted = primitives.places(runs, "rho", 0.3)
    primitives.marks(ax, runs.length, lifted, runs.outcome.map(WORDS), LOOKS, size=6)
    radii = sorted(set(runs.rho))
    for place, rho in enumerate(radii):
        if runs.length.min() < rho < runs.length.max():
            ends = [place - 0.4, place + 0.4]
            ax.plot([rho] * 2, ends, color=style.PALE, label="$\\|x_*\\|=\\rho$")
    ax.set_yticks(range(len(radii)), [f"$\\rho={rho:g}$" for rho in radii])
    ax.set(xlabel="norm $\\|x_*\\|$ of the pair's minimizer", ylim=(-0.5, len(radii) - 0.5))
    primitives.legend(fig, ncols=3)
    return fig
