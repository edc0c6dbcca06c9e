"""What a run of SAM shows about itself: GradRatio, LossGap and the verdict.

x⁺ is SAM's perturbed point. Following Park et al. (2025), GradRatio = ‖∇f(x⁺)‖ / (‖∇f(x)‖ + ε) and
LossGap = f(x⁺) − f(x). A run is hallucinated when GradRatio vanishes while ∇f(x) does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPSILON = 1e-12
VERDICTS = ("converged", "hallucinated", "stalled", "diverged", "running")


def grad_ratio(grad_norm: ArrayLike, shifted_grad_norm: ArrayLike) -> NDArray[np.float64]:
    """GradRatio of Park et al. (2025): ‖∇f(x⁺)‖ / (‖∇f(x)‖ + ε) with ε = 1e-12, elementwise."""
    top = np.asarray(shifted_grad_norm, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # a run that diverged
        ratio: NDArray[np.float64] = top / (np.asarray(grad_norm, dtype=np.float64) + EPSILON)
    return ratio


def loss_gap(loss: ArrayLike, shifted_loss: ArrayLike) -> NDArray[np.float64]:
    """LossGap of Park et al. (2025): f(x⁺) − f(x), elementwise; negative where x⁺ lies lower."""
    with np.errstate(invalid="ignore"):  # a run that diverged
        gap: NDArray[np.float64] = np.asarray(shifted_loss, float) - np.asarray(loss, float)
    return gap


@dataclass(frozen=True)
class Trace:
    """The scalars of one run, one entry a step, each an array of shape (steps + 1,).

    ``baseline`` is the loss of the best constant predictor (the entropy of the class prior under
    cross-entropy); ``twin_loss`` is the final loss of plain gradient descent from the same start
    with the same step size and number of steps. Either may be missing.
    """

    loss: NDArray[np.float64]
    grad_norm: NDArray[np.float64]
    shifted_loss: NDArray[np.float64]
    shifted_grad_norm: NDArray[np.float64]
    baseline: float | None = None
    twin_loss: float | None = None

    @property
    def grad_ratio(self) -> NDArray[np.float64]:
        """GradRatio at every step."""
        return grad_ratio(self.grad_norm, self.shifted_grad_norm)

    @property
    def loss_gap(self) -> NDArray[np.float64]:
        """LossGap at every step."""
        return loss_gap(self.loss, self.shifted_loss)

    @property
    def tail(self) -> slice:
        """The last 5 % of the steps, at least one: what the verdict looks at."""
        return slice(-max(1, len(self.loss) // 20), None)

    def summary(self) -> dict[str, Any]:
        """What a record keeps: the last entries, the baseline, how many steps were made."""
        last = ("loss", "grad_norm", "shifted_loss", "shifted_grad_norm", "grad_ratio", "loss_gap")
        return {name: float(getattr(self, name)[-1]) for name in last} | {
            "baseline": self.baseline,
            "steps_below_0.1": int((self.grad_ratio < 0.1).sum()),
            "steps": int(np.isfinite(self.loss).sum()) - 1,
        }

    @property
    def progress(self) -> float | None:
        """p = (B − L)/(B − L_GD) with L the median loss of the tail, or None without a usable twin.

        A twin that gained less than 5 % of the baseline shows nothing about what could be learned.
        """
        if self.baseline is None or self.twin_loss is None:
            return None
        gain = self.baseline - self.twin_loss
        if not gain > 0.05 * abs(self.baseline):
            return None
        return float((self.baseline - np.median(self.loss[self.tail])) / gain)


def verdict(trace: Trace) -> str:
    """Name what the run came to: one of :data:`VERDICTS`.

    ``diverged``: the loss is not finite, or its tail lies above 100 times the larger of baseline
    and start. ``hallucinated``: GradRatio < 1e-6 with ‖∇f(x)‖ > 1e-3 through the tail, whatever the
    loss if it is finite; or progress p < 0.2 (see :attr:`Trace.progress`), GradRatio < 0.1 through
    the tail and ‖∇f(x)‖ > 0.01. ``converged``: p > 0.8, or ‖∇f(x)‖ and ‖∇f(x⁺)‖ both below 1e-6.
    ``stalled``: p < 0.2 otherwise. ``running``: none of these; more steps, or a gradient descent
    twin, may decide it.
    """
    loss, tail = trace.loss[trace.tail], trace.tail
    norms, shifted = trace.grad_norm[tail], trace.shifted_grad_norm[tail]
    scale = max(abs(trace.baseline or 0.0), abs(float(trace.loss[0])))
    finite = all(np.isfinite(a).all() for a in (loss, norms, shifted))
    if not finite:
        return "diverged"
    ratio = trace.grad_ratio[tail]
    if ratio.max() < 1e-6 and norms.min() > 1e-3:
        return "hallucinated"  # also if the start was so good that the loss grew 100-fold
    if float(np.median(loss)) > 100 * scale:
        return "diverged"
    p = trace.progress
    if (p is not None and p > 0.8) or max(norms.max(), shifted.max()) < 1e-6:
        return "converged"
    if p is None or p >= 0.2:
        return "running"
    return "hallucinated" if ratio.max() < 0.1 and norms.min() > 0.01 else "stalled"


def stall_kind(trace: Trace) -> str:
    """For a stalled run: ``saddle`` (‖∇f(x)‖ < 0.01 while GradRatio > 1) or ``chaotic``."""
    norms, ratio = trace.grad_norm[trace.tail], trace.grad_ratio[trace.tail]
    return "saddle" if np.median(norms) < 0.01 and np.median(ratio) > 1 else "chaotic"


# The running verdict looks at the last fifth of the steps so far and compares it with an earlier
# window, an octave back. Its thresholds were chosen on all records of the book that are older than
# monitor-fresh, and settled before that one and monitor-fresh-mnist were recorded.
STALLS = ("stalled: chaotic", "stalled: crawling", "stalled: saddle")
RUNNING = ("running", "descending", "converged", "hallucinated", *STALLS, "diverged")
FIRST_STEP = 30  # before it every verdict is "running"
FALL = 0.03  # of the first loss: a run that fell by more since half-time is descending
HIGH = 0.8  # of the baseline: above it nothing to speak of is learned
ALIVE = 0.01  # of the first gradient norm


def running_verdict(
    step: NDArray[np.float64],
    loss: NDArray[np.float64],
    grad_norm: NDArray[np.float64],
    shifted_grad_norm: NDArray[np.float64],
    *,
    baseline: float | None = None,
) -> str:
    """What a run comes to, judged while it runs and without a twin: one of :data:`RUNNING`.

    Arrays (k,), at any increasing steps; windows count steps, not entries. ``baseline`` is the loss
    of the best constant guess, by default the first loss. With t the last step, W the steps in
    (0.8t, t] and medians over W: Δ is the fall of the loss from (0.4t, 0.5t] to W in units of the
    first loss (the loss is taken to be bounded below by 0), ν = ‖∇f(x)‖ in units of its first
    value, R is GradRatio, and the loss is *high* above 0.8 of the baseline.

    ``diverged``: not finite, or 100 times the first loss. ``converged``: both norms below 1e-6 of
    the first. ``hallucinated``: R < 1e-6 through W and ν > 1e-3; or ν > 0.01 and R is *dead*, below
    0.1 through (0.95t, t], where the loss is high or Δ ≤ 0.03; or ν > 0.01, Δ ≤ 0 and R is *dying*:
    below a half, also through (0.95t, t], and below 0.4 of what it was in (0.4t, 0.5t].
    ``stalled: crawling``: a high loss, Δ > 0.01 and R < 0.5, so that plain steps would be twice as
    fast. ``descending``: Δ > 0.03 and not above first loss and baseline. Otherwise ``converged`` if
    the loss is not high; ``descending`` if Δ > 0.001 and 0.3 of the whole fall came since half-time
    (at a steady speed it is a half); ``stalled: saddle`` if ν < 0.01 and R > 1, else ``chaotic``.
    """
    t = step[-1]
    if not all(np.isfinite(a[-1]) for a in (loss, grad_norm, shifted_grad_norm)):
        return "diverged"
    before = slice(_after(step, 0.4 * t), _after(step, 0.5 * t))
    if t < FIRST_STEP or before.start == before.stop:
        return "running"
    recent, last = (slice(min(_after(step, c * t), len(step) - 1), None) for c in (0.8, 0.95))
    first, now = max(abs(float(loss[0])), EPSILON), _median(loss[recent])
    if now > 100 * first:
        return "diverged"
    norms = grad_norm[recent] / max(float(grad_norm[0]), EPSILON)
    ratio = grad_ratio(grad_norm[recent], shifted_grad_norm[recent])
    if max(norms.max(), (norms * ratio).max()) < 1e-6:
        return "converged"
    if ratio.max() < 1e-6 and norms.min() > 1e-3:
        return "hallucinated"
    guess = first if baseline is None else baseline
    high, fall = now > HIGH * guess, (_median(loss[before]) - now) / first
    low, alive = _median(ratio), _median(norms) > ALIVE
    end = float(grad_ratio(grad_norm[last], shifted_grad_norm[last]).max())
    earlier = _median(grad_ratio(grad_norm[before], shifted_grad_norm[before]))
    dead = end < 0.1 and (high or fall <= FALL)
    if alive and (dead or (fall <= 0 and max(low, end) < 0.5 and low < 0.4 * earlier)):
        return "hallucinated"
    if high and fall > 0.01 and low < 0.5:
        return "stalled: crawling"
    steady = high and fall > 1e-3 and fall * first > 0.3 * (float(loss[0]) - now)
    if (fall > FALL or steady) and now <= max(first, guess):
        return "descending"
    if not high:
        return "converged"
    return "stalled: saddle" if not alive and low > 1 else "stalled: chaotic"


def _median(values: NDArray[np.float64]) -> float:
    values = np.sort(values)  # several times faster than np.median on a few values
    return float(values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def _after(step: NDArray[np.float64], t: float) -> int:
    return int(np.searchsorted(step, t, "right"))


def replay(curves: Mapping[str, NDArray[np.float64]], baseline: float | None = None) -> list[str]:
    """The running verdict at each entry of recorded curves, from the entries up to it alone."""
    names = ("step", "loss", "grad_norm", "shifted_grad_norm")
    ends = range(1, len(curves["step"]) + 1)
    return [running_verdict(*(curves[n][:k] for n in names), baseline=baseline) for k in ends]


def outlook(name: str) -> str:
    """What both verdicts can agree on: ``learns``, ``hallucinated``, ``stalled`` or ``diverged``.

    ``running`` and ``descending`` leave the outcome open, so they count as ``learns``, with
    ``converged``; the kinds of stall are one.
    """
    kind = name.partition(":")[0]
    return "learns" if kind in ("running", "descending", "converged") else kind


def explain(name: str, metrics: dict[str, Any]) -> str:
    """The verdict in plain words, with the numbers it rests on, for a terminal or a page."""
    numbers = {k: f"{v:.3g}" for k, v in metrics.items() if isinstance(v, float)}
    texts = {
        "converged": "SAM trained: its loss {loss} is close to what gradient descent reaches.",
        "hallucinated": "SAM hallucinates a minimizer: the gradient it follows has all but "
        "vanished (GradRatio {grad_ratio}), yet the true gradient has not (norm {grad_norm}) and "
        "the loss stays at {loss}. Try a smaller rho, or plain gradient steps first "
        "(--warm-start 0.2).",
        "stalled": "SAM is stuck without hallucinating: the loss stays at {loss} and GradRatio is "
        "{grad_ratio}. Try a smaller rho or a smaller learning rate.",
        "diverged": "The loss left the finite range: lower the learning rate or rho.",
        "running": "Not settled: loss {loss}, GradRatio {grad_ratio}. More steps may decide it.",
    }
    return texts[name].format_map({"loss": "?", "grad_ratio": "?", "grad_norm": "?"} | numbers)


def explain_running(name: str, numbers: Mapping[str, float]) -> str:
    """The running verdict in plain words and what to try next.

    ``numbers``: ``loss``, ``norm`` ‖∇f(x)‖, ``ratio`` GradRatio, and ``gain``, the first-order
    descent of a step of SAM in units of that of a plain gradient step.
    """
    return _RUNNING_TEXTS[name].format_map({k: f"{v:.3g}" for k, v in numbers.items()})


_RUNNING_TEXTS = {
    "running": "Too early to say.",
    "descending": "The loss {loss} is falling. Nothing to do.",
    "converged": "The loss {loss} has come to rest and the gradient at x⁺ has not died, GradRatio "
    "{ratio}. Nothing to do; if the loss is too high, look at the model and the data.",
    "hallucinated": "The gradient that SAM follows is dying, GradRatio {ratio}; the true one is "
    "not, norm {norm}. The loss {loss} no longer falls: a plain gradient step would lower it, one "
    "of SAM does {gain} times as much. Switch to base steps now (warm_start), then ramp rho up "
    "(rho_schedule=ramp(steps)); auto_remedy=True does both. Or take a smaller rho.",
    "stalled: chaotic": "The loss {loss} does not fall, yet the gradient at x⁺ is alive, GradRatio "
    "{ratio}: x⁺ is too far away to show the way down. Take a smaller rho, ramp it up from 0, or "
    "lower the learning rate.",
    "stalled: crawling": "The loss {loss} is near that of a constant guess and falls slowly: a "
    "step of SAM lowers it {gain} times as much as a plain gradient step would. Take base steps "
    "now (warm_start), then ramp rho up (rho_schedule=ramp(steps)).",
    "stalled: saddle": "The gradient is small, norm {norm}, and at x⁺ {ratio} times as large: SAM "
    "is held at a saddle that plain descent would leave. Take base steps, then a smaller rho.",
    "diverged": "The loss left its range. Lower the learning rate or rho, from an earlier state.",
}
