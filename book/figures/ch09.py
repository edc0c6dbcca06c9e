"""Chapter 9: variants of SAM, on landscapes and in networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import brentq

from figures import primitives, style
from figures.primitives import Array, beside, dots, plane, wide
from samlib.dynamics import rules
from samlib.dynamics.trajectories import grid, trajectory

if TYPE_CHECKING:
    from samlib import Landscape

COLORS = (style.SAM, style.GD, style.EXACT, *style.OTHERS)
RULES = {"sam": "SAM", "gsam": "GSAM", "exact": "exact", "asam": "ASAM", "unnormalised": "no norm"}


# ---- ASAM -----------------------------------------------------------------------------------


def touching(valley: Landscape, image: Array, radii: Mapping[str, float]) -> pandas.DataFrame:
    """Where rules end that start near (2.75, 1.97), and how they lie to the curve about ``image``.

    The curve is an ellipse for ASAM, a circle for SAM. ``axes`` are its half axes, ``on curve`` is
    1 on it, and the cosine is that between −∇f and its outer normal.
    """
    rows = []
    for rule, rho in radii.items():
        x = trajectory(valley, [2.75, 1.97], rho, 0.1, 1500, rule)[-1]
        g, image_found = valley.grad(x), rules.get(rule)(valley, x, rho)[1]
        axes = rho * (np.abs(x) if rule == "asam" else np.ones(2))
        normal = (x - image) / axes**2
        cosine = -g @ normal / np.linalg.norm(g) / np.linalg.norm(normal)
        on = np.linalg.norm((x - image) / axes)
        rows.append([rule.upper(), rho, x, image_found, np.linalg.norm(g), on, cosine, axes])
    head = ["rule", "rho", "x_h", "x⁺", "grad_norm", "on curve", "cos(−∇f, normal)", "axes"]
    return pandas.DataFrame(rows, columns=head)


@style.house()
def ellipsoid(valley: Landscape, image: Array, found: pandas.DataFrame) -> Figure:
    """Contours with the curves of :func:`touching`; arrows lead from a point to its image.

    Dashed, the level line of f through each hallucinated point, which touches the curve there.
    """
    fig, ax = wide(3.6)
    mesh = grid(valley, 201)
    axes, values = (mesh[0, :, 0], mesh[:, 0, 1]), valley.f(mesh)
    plane(ax, axes, values, 14)
    turn = np.linspace(0, 2 * np.pi, 400)
    circle = np.stack([np.cos(turn), np.sin(turn)], -1)
    looks = zip((style.EXACT, style.SAM), (-0.2, 0.2), strict=True)
    for curve, (color, bend) in zip(found.itertuples(), looks, strict=True):
        point = found.x_h[curve.Index]
        ax.plot(*(image + curve.axes * circle).T, color=color, lw=1.2,
                label=f"{curve.rule}, ρ = {curve.rho}")  # fmt: skip
        ax.contour(*axes, values, [float(valley.f(point))], colors=color, linewidths=1.2,
                   linestyles="--")  # fmt: skip
        arrow = {"arrowstyle": "->", "color": color, "connectionstyle": f"arc3,rad={bend}"}
        ax.annotate("", tuple(image), tuple(point), arrowprops=arrow | {"shrinkA": 6, "shrinkB": 8})
        dots(ax, point, "X", color)
        dots(ax, image, "*", style.GD)
    ax.plot([], [], "--", color="black", lw=1.2, label="level line through the point")
    beside(ax)
    return fig


# ---- without the norm -----------------------------------------------------------------------


@style.house()
def branches() -> Figure:
    """The points of the unnormalised rule on the double well: full lines attract, dashed repel."""
    fig, ax = wide(3.0)
    one, four = np.linspace(1, 7, 300), np.linspace(4, 7, 300)
    inner, spread = np.sqrt(1 - 1 / one), np.sqrt(1 - 4 / four)
    ax.plot(one, inner, "--", color=style.SAM, label="image 0")
    ax.plot(one, -inner, "--", color=style.SAM)
    for sign, color, name in ((1, style.GD, "image −1"), (-1, style.EXACT, "image 1")):
        ax.plot(four, sign * (1 + spread) / 2, "-", color=color, label=name)
        ax.plot(four, sign * (1 - spread) / 2, "--", color=color)
    ax.plot([], [], "-", color="black", lw=1, label="attracting")
    ax.plot([], [], "--", color="black", lw=1, label="repelling")
    primitives.guide(ax, x=1)
    primitives.guide(ax, x=4)
    ax.set(xlabel=r"$\rho$", ylabel="$x_h$", ylim=(-1.1, 1.1))
    beside(ax)
    return fig


# ---- GSAM -----------------------------------------------------------------------------------


def cycle_radius(eta: Any) -> Any:
    """√(s² + t²)/(ηα‖g‖) of the theorem's 2-cycle, for A = diag(2, 29/4)."""
    return np.sqrt((29 / 16) ** 2 + eta * 7.25 / (4 * (2 - eta * 7.25)))


@style.house()
def hovering(f: Landscape, x_h: Array, measured: pandas.DataFrame) -> Figure:
    """Left, orbits about x_h for η = 0.1, α = 0.2; right, distances: a row an η, a column an α."""
    fig, (left, right) = style.row(2, 3.1)
    starts = x_h + np.array([[0.012, 0.010], [-0.02, -0.012], [0.015, -0.004], [0.002, 0.014]])
    rule = lambda oracle, x, rho: rules.gsam(oracle, x, rho, alpha=0.2)  # noqa: E731
    orbits = trajectory(f, starts, 1.2, 0.1, 400, rule) - x_h
    for k in range(len(starts)):
        left.plot(*orbits[:, k].T, ".-", color=style.PALE, lw=0.5, ms=3)
    dots(left, orbits[-2:].reshape(-1, 2), "o", style.SAM, "last two iterates")
    unit = 0.1 * 0.2 * np.linalg.norm(f.grad(x_h))
    t = unit / 2 * np.sqrt(0.725 / 1.275)
    left.plot([-unit * 29 / 16] * 2, [t, -t], "k+", ms=14, zorder=6, label="2-cycle of the theorem")
    dots(left, np.zeros(2), "X", style.EXACT, "$x_h$")
    left.set(xlabel="$x-x_h$", ylabel="$y$", title="GSAM near a hallucinated point")
    left.legend(loc="upper left", fontsize=8)
    line = np.linspace(0.001, 0.22, 200)
    right.plot(line, cycle_radius(line), color="black", lw=1, label="theorem")
    for alpha, marker in zip(measured, "osD^", strict=True):
        near = measured[alpha][measured[alpha] < 3]
        right.plot(near.index, near, marker, ms=5, label=f"α = {alpha:g}")
    right.set(xlabel=r"$\eta$", title=r"distance from $x_h$, over $\eta\alpha\|g\|$")
    right.legend()
    return fig


# ---- momentum -------------------------------------------------------------------------------


def measured_limit(A: Array, beta: float, near: float) -> float:
    """The η at which a heavy-ball step near the point ceases to contract, between near/3 and 3near.

    Found from the spectral radius of the step's 2d × 2d derivative.
    """
    eye = np.eye(len(A))

    def excess(eta: float) -> float:
        step = np.block([[(1 + beta) * eye - eta * A, -beta * eye], [eye, 0 * eye]])
        return float(np.abs(np.linalg.eigvals(step)).max() - 1)

    return float(brentq(excess, near / 3, 3 * near))


def shrinks(f: Landscape, point: Array, betas: Array, rates: Array) -> NDArray[np.bool_]:
    """Whether heavy ball on SAM's gradient (ρ = 1) comes closer to the point from beside it.

    ``rates`` (m, n) holds n step sizes for each of the m ``betas``.
    """
    beta, rate = betas[:, None, None], rates[..., None]
    x = before = point + 1e-7 * np.ones((*rates.shape, len(point)))
    far = []
    for _ in range(3000):
        x, before = x - rate * rules.sam(f, x, 1.0)[0] + beta * (x - before), x
        far.append(np.linalg.norm(x - point, axis=-1))
    closer: NDArray[np.bool_] = np.max(far[-500:], 0) < np.max(far[:500], 0)
    return closer


@style.house()
def ellipses(
    values: NDArray[np.complex128], formula: pandas.Series, measured: pandas.Series
) -> Figure:
    """Left, the stability ellipses of ηλ with the values; right, η_max, series over β."""
    fig, (left, right) = style.row(2, 3.1, width_ratios=(1.5, 1))
    angle = np.linspace(0, 2 * np.pi, 400)
    for beta, color in zip((0, 0.4, 0.8), COLORS, strict=False):
        across, up = (1 + beta) * (1 + np.cos(angle)), (1 - beta) * np.sin(angle)
        left.plot(across, up, color=color, label=rf"$\beta={beta:g}$")
    name = r"$\eta\lambda$, $\eta=0.35$"
    left.plot(values.real, values.imag, "o", color="black", ms=5, label=name)
    left.set(xlabel=r"Re $\eta\lambda$", ylabel=r"Im $\eta\lambda$", aspect="equal")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=3)
    right.plot(formula.index, formula, color="black", lw=1, label="formula")
    right.plot(measured.index, measured, "o", color=style.SAM, ms=5, label="measured")
    right.set(xlabel=r"$\beta$", ylabel=r"$\eta_{\max}$", yscale="log")
    right.legend()
    return fig


def adam(f: Landscape, x: Array, rho: float, rate: float, steps: int, eps: Array) -> Array:
    """Adam on SAM's gradient with β = (0.9, 0.999) and no weight decay; the orbit."""
    m, v, path = np.zeros_like(x), np.zeros_like(x), [x]
    for k in range(1, steps + 1):
        g = rules.sam(f, path[-1], rho)[0]
        m, v = 0.9 * m + (1 - 0.9) * g, 0.999 * v + (1 - 0.999) * g * g
        path.append(path[-1] - rate * m / (1 - 0.9**k) / (np.sqrt(v / (1 - 0.999**k)) + eps))
    return np.array(path)


# ---- decaying radius ------------------------------------------------------------------------


@style.house()
def decay(panels: Mapping[str, tuple[Array, Array]], shares: pandas.Series) -> Figure:
    """Orbits (steps, m) with the envelope ±ρ_k, a panel a schedule; last, shares ending at 0."""
    fig, axes = style.row(len(panels) + 1, 3.0)
    for ax, (title, (rho, orbits)) in zip(axes, panels.items(), strict=False):
        k = np.arange(1, len(rho) + 1)
        ax.fill_between(k, -rho, rho, color="0.9", lw=0)
        ax.plot(k, orbits, color=style.SAM, lw=0.8)
        for true in (-1, 1):
            ax.axhline(true, color=style.GD, lw=1, ls="--")
        ax.set(title=title, xlabel="step $k$", xscale="log", ylim=(-1.6, 1.6))
    axes[0].set_ylabel("$x_k$")
    for ax in axes[1:-1]:
        ax.set_yticklabels([])
    axes[-1].barh(list(shares.index), shares, color=style.SAM)
    axes[-1].set(xlabel="share of starts", title="ending at the maximizer", xlim=(0, 1))
    axes[-1].invert_yaxis()
    return fig


# ---- networks -------------------------------------------------------------------------------


def walk(net: Any, rule: str, x: Any, rho: float, rate: float, at: Sequence[int]) -> list[Any]:
    """Medians of f, ‖∇f‖ and GradRatio over the rows of x at the steps ``at`` of a rule."""
    rows = []
    for k in range(max(at) + 1):
        step = rules.get(rule)(net, x, rho)
        if k in at:
            norm, shifted = step.grad.norm(dim=1), step.shifted_grad.norm(dim=1)
            shown = (step.loss, norm, shifted / norm)
            rows.append([rule, k, *(float(q.median()) for q in shown)])
        x = x - rate * step.direction
    return rows


@style.house()
def by_length(runs: pandas.DataFrame) -> Figure:
    """Progress (top) and GradRatio (bottom) against ‖x⁺ − x‖ in the first step, a column a rule.

    Dotted: the thresholds of the verdicts.
    """
    fig, axes = primitives.panels(2, len(RULES), 4.2, sharex=True)
    for (top, bottom), (rule, title) in zip(axes.T, RULES.items(), strict=True):
        mine = runs[runs.rule == rule]
        for ax, metric in ((top, "progress"), (bottom, "grad_ratio")):
            look = (mine.look_start, mine[metric], mine.outcome, primitives.OUTCOMES, 5)
            primitives.marks(ax, *look)
        primitives.guide(top, y=0.2)
        primitives.guide(bottom, y=0.1)
        top.set(title=title, xscale="log")
        bottom.set_yscale("log")
    axes[0, 0].set_ylabel("progress $p$")
    axes[1, 0].set_ylabel("GradRatio")
    fig.supxlabel(r"length $\|x^+-x\|$ of the first ascent step", fontsize=10)
    primitives.legend(fig, primitives.OUTCOMES, ncols=3)
    return fig
