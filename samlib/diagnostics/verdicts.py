"""What a run of SAM shows about itself: GradRatio, LossGap and the verdict.

x⁺ is SAM's perturbed point. Following Park et al. (2025), GradRatio = ‖∇f(x⁺)‖ / (‖∇f(x)‖ + ε) and
LossGap = f(x⁺) − f(x). A run is hallucinated when GradRatio vanishes while ∇f(x) does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPSILON = 1e-12
VERDICTS = ("converged", "hallucinated", "stalled", "diverged", "running")


@dataclass(frozen=True)
class Thresholds:
    """Every number on which a verdict turns, for all rules of this package.

    The first block is that of the final verdict (:func:`verdict`), whose progress p counts from a
    constant guess (0) to the gradient descent twin (1). The second is that of the running verdict
    (:func:`running_verdict`), which has no twin: there, losses are in units of the first loss and
    gradient norms in units of the first gradient norm, and ``diverged``, ``rest``, ``low_ratio``,
    ``zero_ratio``, ``strict_norm``, ``alive`` and ``saddle_ratio`` of the first block apply too.
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

    spell: int = (
        500  # steps in a row with a low GradRatio that make a spell (samlib.experiments.episodes)
    )


THRESHOLDS = Thresholds()


def is_strict(
    ratio: ArrayLike, norm: ArrayLike, limits: Thresholds = THRESHOLDS
) -> NDArray[np.bool_]:
    """Whether GradRatio has vanished (< 1e-6) while ‖∇f(x)‖ has not (> 1e-3), elementwise."""
    vanished = np.less(np.asarray(ratio), limits.zero_ratio)
    return np.asarray(vanished & np.greater(np.asarray(norm), limits.strict_norm))


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
    cross-entropy); ``twin_loss`` is the final loss of the same run without SAM
    (:meth:`samlib.training.spec.RunSpec.twin`): gradient descent from the same start, with the same
    step size, momentum and number of steps. Either may be missing.
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


def verdict(trace: Trace, limits: Thresholds = THRESHOLDS) -> str:
    """Name what the run came to: one of :data:`VERDICTS`.

    ``diverged``: the loss is not finite, or its tail lies above 100 times the larger of baseline
    and start. ``hallucinated``: GradRatio < 1e-6 with ‖∇f(x)‖ > 1e-3 through the tail, whatever the
    loss if it is finite; or progress p < 0.2 (see :attr:`Trace.progress`), GradRatio < 0.1 through
    the tail and ‖∇f(x)‖ > 0.01. ``converged``: p > 0.8, or ‖∇f(x)‖ and ‖∇f(x⁺)‖ both below 1e-6.
    ``stalled``: p < 0.2 otherwise. ``running``: none of these; more steps, or a gradient descent
    twin, may decide it. The numbers are those of ``limits``.
    """
    loss, tail = trace.loss[trace.tail], trace.tail
    norms, shifted = trace.grad_norm[tail], trace.shifted_grad_norm[tail]
    scale = max(abs(trace.baseline or 0.0), abs(float(trace.loss[0])))
    finite = all(np.isfinite(a).all() for a in (loss, norms, shifted))
    if not finite:
        return "diverged"
    ratio = trace.grad_ratio[tail]
    if is_strict(ratio.max(), norms.min(), limits):
        return "hallucinated"  # also if the start was so good that the loss grew 100-fold
    if float(np.median(loss)) > limits.diverged * scale:
        return "diverged"
    p = trace.progress
    if (p is not None and p > limits.learns) or max(norms.max(), shifted.max()) < limits.rest:
        return "converged"
    if p is None or p >= limits.fails:
        return "running"
    dead, alive = ratio.max() < limits.low_ratio, norms.min() > limits.alive
    return "hallucinated" if dead and alive else "stalled"


def stall_kind(trace: Trace) -> str:
    """For a stalled run: ``saddle`` (‖∇f(x)‖ < 0.01 while GradRatio > 1) or ``chaotic``."""
    norm = float(np.median(trace.grad_norm[trace.tail]))
    ratio = float(np.median(trace.grad_ratio[trace.tail]))
    saddle = norm < THRESHOLDS.alive and ratio > THRESHOLDS.saddle_ratio
    return "saddle" if saddle else "chaotic"


def sensitivity(
    runs: Iterable[tuple[Mapping[str, Any], Mapping[str, NDArray[np.float64]]]],
    ratios: Sequence[float] = (0.03, 0.1, 0.3),
) -> dict[str, int]:
    """How many failing runs count as hallucinated, were GradRatio to lie below another threshold.

    ``runs`` are records with their curves, for example from
    :func:`samlib.experiments.records.with_curves`. Those whose verdict is *hallucinated* or
    *stalled* are counted under ``"failing"``, and how many of them are called hallucinated at each
    of ``ratios`` under its number as text. At 0.1, the threshold of :func:`verdict`, the recorded
    verdicts are counted, which rest on every step of the tail. Records keep only a few of these
    steps, and any other threshold is judged by those: a lower one among the runs called
    hallucinated, a higher one among the others too. Elsewhere than at 0.1 a count is therefore an
    upper bound. Strict hallucinations (GradRatio < 1e-6) stay so.
    """
    counts = {"failing": 0} | {f"{r:g}": 0 for r in ratios}
    for record, curves in runs:
        if record["verdict"] not in ("hallucinated", "stalled"):
            continue
        counts["failing"] += 1
        named = record["verdict"] == "hallucinated"
        ends = curves["step"][-1] + 1
        tail = curves["step"] >= ends - max(1, ends // THRESHOLDS.tail_parts)
        norm = curves["grad_norm"][tail]
        top = float(grad_ratio(norm, curves["shifted_grad_norm"][tail]).max())
        strict = named and top < THRESHOLDS.zero_ratio
        alive = named or norm.min() > THRESHOLDS.alive
        for r in ratios:
            if r < THRESHOLDS.low_ratio:
                counts[f"{r:g}"] += named and (strict or top < r)
            elif r == THRESHOLDS.low_ratio:
                counts[f"{r:g}"] += named
            else:
                counts[f"{r:g}"] += named or bool(alive and top < r)
    return counts


# The running verdict looks at the last fifth of the steps so far and compares it with an earlier
# window, an octave back. Its thresholds (the second block of Thresholds) were chosen on all records
# of the book that are older than monitor-fresh, and settled before that one and monitor-fresh-mnist
# were recorded.
STALLS = ("stalled: chaotic", "stalled: crawling", "stalled: saddle")
RUNNING = ("running", "descending", "converged", "hallucinated", *STALLS, "diverged")


def running_verdict(
    step: NDArray[np.float64],
    loss: NDArray[np.float64],
    grad_norm: NDArray[np.float64],
    shifted_grad_norm: NDArray[np.float64],
    *,
    baseline: float | None = None,
    limits: Thresholds = THRESHOLDS,
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
    (at a steady speed it is a half); ``stalled: saddle`` if ν ≤ 0.01 and R > 1, else ``chaotic``.
    The numbers are those of ``limits``.
    """
    t = step[-1]
    if not all(np.isfinite(a[-1]) for a in (loss, grad_norm, shifted_grad_norm)):
        return "diverged"
    before = slice(*(_after(step, part * t) for part in limits.before))
    if t < limits.first_step or before.start == before.stop:
        return "running"
    recent, last = (slice(_after(step, part * t), None) for part in (limits.recent, limits.last))
    first, now = max(abs(float(loss[0])), EPSILON), _median(loss[recent])
    if now > limits.diverged * first:
        return "diverged"
    norms = grad_norm[recent] / max(float(grad_norm[0]), EPSILON)
    ratio = grad_ratio(grad_norm[recent], shifted_grad_norm[recent])
    if max(norms.max(), (norms * ratio).max()) < limits.rest:
        return "converged"
    if is_strict(ratio.max(), norms.min(), limits):
        return "hallucinated"
    guess = first if baseline is None else baseline
    high, fall = now > limits.high * guess, (_median(loss[before]) - now) / first
    low, alive = _median(ratio), _median(norms) > limits.alive
    end = float(grad_ratio(grad_norm[last], shifted_grad_norm[last]).max())
    earlier = _median(grad_ratio(grad_norm[before], shifted_grad_norm[before]))
    dead = end < limits.low_ratio and (high or fall <= limits.fall)
    dying = max(low, end) < limits.half_ratio and low < limits.dying * earlier
    if alive and (dead or (fall <= 0 and dying)):
        return "hallucinated"
    if high and fall > limits.creep and low < limits.half_ratio:
        return "stalled: crawling"
    recently = fall * first > limits.speed * (float(loss[0]) - now)
    steady = high and fall > limits.steady and recently
    if (fall > limits.fall or steady) and now <= max(first, guess):
        return "descending"
    if not high:
        return "converged"
    return "stalled: saddle" if not alive and low > limits.saddle_ratio else "stalled: chaotic"


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
