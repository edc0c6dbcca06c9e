"""What a run of SAM shows about itself: GradRatio, LossGap and the verdict.

x⁺ is SAM's perturbed point. Following Park et al. (2025), GradRatio = ‖∇f(x⁺)‖ / (‖∇f(x)‖ + ε) and
LossGap = f(x⁺) − f(x). A run is hallucinated when GradRatio vanishes while ∇f(x) does not. Every
rule is a list of verdicts with their conditions, of which the first that holds counts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

EPSILON = 1e-12
VERDICTS = ("converged", "hallucinated", "stalled", "diverged", "running")
STALLS = ("stalled: chaotic", "stalled: crawling", "stalled: saddle")
RUNNING = ("running", "descending", "converged", "hallucinated", *STALLS, "diverged")


@dataclass(frozen=True)
class Thresholds:
    """Every number on which a verdict turns, for all rules of this package.

    The first block is that of the final verdict (:func:`verdict`), whose progress p counts from a
    constant guess (0) to the gradient descent twin (1). The second is that of the running verdict
    (:func:`running_verdict`), which has no twin: there, losses are in units of the first loss and
    gradient norms in units of the first gradient norm, and ``diverged``, ``rest``, ``low_ratio``,
    ``zero_ratio``, ``strict_norm``, ``alive`` and ``saddle_ratio`` of the first block apply too.
    The second block was chosen on all records of the book that are older than monitor-fresh, and
    settled before that one and monitor-fresh-mnist were recorded.
    """

    tail_parts: int = 20  # the tail is the last of so many equal parts of the steps: 5 %
    low_ratio: float = 0.1  # GradRatio below which SAM's gradient counts as dead
    alive: float = 0.01  # gradient norm above which ∇f(x) counts as alive
    zero_ratio: float = 1e-6  # GradRatio below which a run is hallucinated whatever its loss ...
    strict_norm: float = 1e-3  # ... if ∇f(x) is above this norm: the strict limit
    rest: float = 1e-6  # norm of both gradients below which a run has come to rest
    fails: float = 0.2  # progress below which a run has failed: stalled or hallucinated
    learns: float = 0.8  # progress above which it has converged
    guess: float = 0.05  # progress this close to 0: the loss is that of a constant guess
    usable_twin: float = 0.05  # of the baseline: a twin that gained no more shows nothing
    diverged: float = 100.0  # times the baseline or first loss: above it the run has diverged
    saddle_ratio: float = 1.0  # a stall with a small ∇f(x) and GradRatio above this is a saddle

    first_step: int = 30  # before it every running verdict is "running"
    recent: float = 0.8  # W, the window judged, begins at this part of the steps so far
    last: float = 0.95  # and its last part at this one
    before: tuple[float, float] = (0.4, 0.5)  # the earlier window it is compared with
    high: float = 0.8  # of the baseline: above this loss nothing to speak of is learned
    fall: float = 0.03  # fall of the loss since half-time: by more, a run is descending
    creep: float = 0.01  # by more, and with a low GradRatio, it is crawling
    steady: float = 1e-3  # by more, and still at speed, it is descending slowly
    speed: float = 0.3  # part of the whole fall since half-time (at a steady speed it is a half)
    half_ratio: float = 0.5  # GradRatio below which plain steps are twice as fast
    dying: float = 0.4  # GradRatio over that of the earlier window, below which it is dying

    spell: int = 500  # steps in a row with a low GradRatio that make a spell (samlib.experiments)


THRESHOLDS = Thresholds()


def is_strict(
    ratio: ArrayLike, norm: ArrayLike, limits: Thresholds = THRESHOLDS
) -> NDArray[np.bool_]:
    """Whether GradRatio has vanished (< 1e-6) while ‖∇f(x)‖ has not (> 1e-3), elementwise."""
    vanished = np.less(np.asarray(ratio), limits.zero_ratio)
    return np.asarray(vanished & np.greater(np.asarray(norm), limits.strict_norm))


def grad_ratio(grad_norm: ArrayLike, shifted_grad_norm: ArrayLike) -> Floats:
    """GradRatio of Park et al. (2025): ‖∇f(x⁺)‖ / (‖∇f(x)‖ + ε) with ε = 1e-12.

    Parameters
    ----------
    grad_norm, shifted_grad_norm : array_like
        ‖∇f(x)‖ and ‖∇f(x⁺)‖, of one shape; the ratio is elementwise, without a unit.
    """
    top = np.asarray(shifted_grad_norm, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # a run that diverged
        ratio: Floats = top / (np.asarray(grad_norm, dtype=np.float64) + EPSILON)
    return ratio


def loss_gap(loss: ArrayLike, shifted_loss: ArrayLike) -> Floats:
    """LossGap of Park et al. (2025): f(x⁺) − f(x); negative where x⁺ lies lower.

    Parameters
    ----------
    loss, shifted_loss : array_like
        f(x) and f(x⁺), of one shape; the gap is elementwise, in the loss's unit.
    """
    with np.errstate(invalid="ignore"):  # a run that diverged
        gap: Floats = np.asarray(shifted_loss, float) - np.asarray(loss, float)
    return gap


@dataclass(frozen=True)
class Trace:
    """The scalars of one run, one entry a step.

    Attributes
    ----------
    loss, grad_norm, shifted_loss, shifted_grad_norm : ndarray, shape (steps + 1,)
        f(x), ‖∇f(x)‖, f(x⁺) and ‖∇f(x⁺)‖.
    baseline : float, optional
        The loss of the best constant guess: the entropy of the class prior under cross-entropy.
    twin_loss : float, optional
        The final loss of the same run without SAM (:meth:`samlib.training.spec.RunSpec.twin`):
        gradient descent from the same start, with the same step size, momentum and steps.
    """

    loss: Floats
    grad_norm: Floats
    shifted_loss: Floats
    shifted_grad_norm: Floats
    baseline: float | None = None
    twin_loss: float | None = None

    @property
    def grad_ratio(self) -> Floats:
        """GradRatio at every step."""
        return grad_ratio(self.grad_norm, self.shifted_grad_norm)

    @property
    def loss_gap(self) -> Floats:
        """LossGap at every step."""
        return loss_gap(self.loss, self.shifted_loss)

    @property
    def tail(self) -> slice:
        """The last 5 % of the steps, at least one: what the verdict looks at."""
        return slice(-max(1, len(self.loss) // THRESHOLDS.tail_parts), None)

    def summary(self) -> dict[str, Any]:
        """What a record keeps: the last entries, the baseline, how many steps were made."""
        last = ("loss", "grad_norm", "shifted_loss", "shifted_grad_norm", "grad_ratio", "loss_gap")
        return {name: float(getattr(self, name)[-1]) for name in last} | {
            "baseline": self.baseline,
            "steps_below_0.1": int((self.grad_ratio < THRESHOLDS.low_ratio).sum()),
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
        if not gain > THRESHOLDS.usable_twin * abs(self.baseline):
            return None
        return float((self.baseline - np.median(self.loss[self.tail])) / gain)


def _first(rules: Iterable[tuple[str, Any]], otherwise: str) -> str:
    """The first verdict whose condition holds."""
    return next((name for name, holds in rules if holds), otherwise)


def verdict(trace: Trace, limits: Thresholds = THRESHOLDS) -> str:
    """Name what the run came to, by the tail of its trace: one of :data:`VERDICTS`.

    The first that holds: ``diverged``, not finite; ``hallucinated``, GradRatio < 1e-6 with
    ‖∇f(x)‖ > 1e-3 throughout, whatever the loss; ``diverged``, the median loss above 100 times the
    larger of baseline and first loss; ``converged``, progress p > 0.8 (see :attr:`Trace.progress`)
    or both gradients below 1e-6; ``hallucinated``, p < 0.2, GradRatio < 0.1 and ‖∇f(x)‖ > 0.01
    throughout; ``stalled``, p < 0.2. Otherwise ``running``: more steps, or a gradient descent
    twin, may decide it.

    Parameters
    ----------
    trace : Trace
        The scalars of the run, one entry a step.
    limits : Thresholds
        The numbers above.
    """
    curves = (trace.loss, trace.grad_norm, trace.shifted_grad_norm, trace.grad_ratio)
    loss, norms, shifted, ratio = (curve[trace.tail] for curve in curves)
    if not all(np.isfinite(a).all() for a in (loss, norms, shifted)):
        return "diverged"
    scale = max(abs(trace.baseline or 0.0), abs(float(trace.loss[0])))
    p = math.nan if trace.progress is None else trace.progress
    dead, alive = ratio.max() < limits.low_ratio, norms.min() > limits.alive
    rules = [
        # also if the start was so good that the loss grew 100-fold
        ("hallucinated", is_strict(ratio.max(), norms.min(), limits)),
        ("diverged", float(np.median(loss)) > limits.diverged * scale),
        ("converged", p > limits.learns or max(norms.max(), shifted.max()) < limits.rest),
        ("hallucinated", p < limits.fails and dead and alive),
        ("stalled", p < limits.fails),
    ]
    return _first(rules, "running")


def stall_kind(trace: Trace) -> str:
    """For a stalled run: ``saddle`` (‖∇f(x)‖ < 0.01 while GradRatio > 1) or ``chaotic``."""
    norm, ratio = (np.median(a[trace.tail]) for a in (trace.grad_norm, trace.grad_ratio))
    saddle = norm < THRESHOLDS.alive and ratio > THRESHOLDS.saddle_ratio
    return "saddle" if saddle else "chaotic"


def running_verdict(
    step: Floats,
    loss: Floats,
    grad_norm: Floats,
    shifted_grad_norm: Floats,
    *,
    baseline: float | None = None,
    limits: Thresholds = THRESHOLDS,
) -> str:
    """What a run comes to, judged while it runs and without a twin: one of :data:`RUNNING`.

    With t the last step, W the steps in (0.8t, t] and medians over W: Δ is the fall of the loss
    from (0.4t, 0.5t] to W in units of the first loss (the loss is taken to be bounded below by 0),
    ν = ‖∇f(x)‖ in units of its first value, R is GradRatio, and the loss is *high* above 0.8 of the
    baseline. The first that holds:

    - ``diverged``: not finite, or 100 times the first loss;
    - ``converged``: both norms below 1e-6 of the first;
    - ``hallucinated``: R < 1e-6 through W and ν > 1e-3; or ν > 0.01 and R is *dead*, below 0.1
      through (0.95t, t], where the loss is high or Δ ≤ 0.03; or ν > 0.01, Δ ≤ 0 and R is *dying*:
      below a half, also through (0.95t, t], and below 0.4 of what it was in (0.4t, 0.5t];
    - ``stalled: crawling``: a high loss, Δ > 0.01 and R < 0.5, so that plain steps would be twice
      as fast;
    - ``descending``: not above first loss and baseline, and Δ > 0.03, or Δ > 0.001 of a high loss
      with 0.3 of the whole fall since half-time (at a steady speed it is a half);
    - ``converged``: the loss is not high;
    - ``stalled: saddle``: ν ≤ 0.01 and R > 1; otherwise ``stalled: chaotic``.

    Parameters
    ----------
    step, loss, grad_norm, shifted_grad_norm : ndarray, shape (k,)
        Any increasing steps, with f(x), ‖∇f(x)‖ and ‖∇f(x⁺)‖; windows count steps, not entries.
    baseline : float, optional
        The loss of the best constant guess, by default the first loss.
    limits : Thresholds
        The numbers above.
    """
    if not all(math.isfinite(a[-1]) for a in (loss, grad_norm, shifted_grad_norm)):
        return "diverged"
    before = _window(step, *limits.before)
    if step[-1] < limits.first_step or before.start == before.stop:
        return "running"
    recent, last = _window(step, limits.recent), _window(step, limits.last)
    first, now = max(abs(float(loss[0])), EPSILON), _median(loss[recent])
    guess = first if baseline is None else baseline
    high, fall = now > limits.high * guess, (_median(loss[before]) - now) / first
    norms = grad_norm[recent] / max(float(grad_norm[0]), EPSILON)
    ratios = grad_ratio(grad_norm, shifted_grad_norm)
    ratio, end, earlier = ratios[recent], ratios[last].max(), _median(ratios[before])
    low, alive = _median(ratio), _median(norms) > limits.alive
    dead = end < limits.low_ratio and (high or fall <= limits.fall)
    dying = max(low, end) < limits.half_ratio and low < limits.dying * earlier
    recently = fall * first > limits.speed * (float(loss[0]) - now)
    falls = fall > limits.fall or (high and fall > limits.steady and recently)
    rules = [
        ("diverged", now > limits.diverged * first),
        ("converged", max(norms.max(), (norms * ratio).max()) < limits.rest),
        ("hallucinated", is_strict(ratio.max(), norms.min(), limits)),
        ("hallucinated", alive and (dead or (fall <= 0 and dying))),
        ("stalled: crawling", high and fall > limits.creep and low < limits.half_ratio),
        ("descending", falls and now <= max(first, guess)),
        ("converged", not high),
        ("stalled: saddle", not alive and low > limits.saddle_ratio),
    ]
    return _first(rules, "stalled: chaotic")


def _median(values: Floats) -> float:
    values = values.copy()
    values.sort()  # several times faster than np.median on a few values
    return float(values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def _window(step: Floats, begin: float, end: float = 1.0) -> slice:
    """The entries of the steps in (``begin``·t, ``end``·t], with t the last step."""
    return slice(*(int(step.searchsorted(part * step[-1], "right")) for part in (begin, end)))


def replay(curves: Mapping[str, Floats], baseline: float | None = None) -> list[str]:
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


def explain(name: str, metrics: Mapping[str, Any]) -> str:
    """The final verdict in plain words, with the numbers of a record that it rests on."""
    return _with_numbers(_FINAL_TEXTS[name], metrics)


def explain_running(name: str, numbers: Mapping[str, Any]) -> str:
    """The running verdict in plain words and what to try next.

    ``numbers``: ``loss``, ``norm`` ‖∇f(x)‖, ``ratio`` GradRatio, and ``gain``, the first-order
    descent of a step of SAM in units of that of a plain gradient step.
    """
    return _with_numbers(_RUNNING_TEXTS[name], numbers)


def _with_numbers(text: str, numbers: Mapping[str, Any]) -> str:
    shown = {k: f"{v:.3g}" for k, v in numbers.items() if isinstance(v, float)}
    return text.format_map(defaultdict(lambda: "?", shown))


_FINAL_TEXTS = {
    "converged": "SAM trained: its loss {loss} is close to what gradient descent reaches.",
    "hallucinated": "SAM hallucinates a minimizer: the gradient it follows has all but vanished "
    "(GradRatio {grad_ratio}), yet the true gradient has not (norm {grad_norm}) and the loss stays "
    "at {loss}. Try a smaller rho, or plain gradient steps first (--warm-start 0.2).",
    "stalled": "SAM is stuck without hallucinating: the loss stays at {loss} and GradRatio is "
    "{grad_ratio}. Try a smaller rho or a smaller learning rate.",
    "diverged": "The loss left the finite range: lower the learning rate or rho.",
    "running": "Not settled: loss {loss}, GradRatio {grad_ratio}. More steps may decide it.",
}
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
