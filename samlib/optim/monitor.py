"""Watches a SAM run from inside and says whether it learns, hallucinates or is stuck.

Everything is read off the two passes that a step of :class:`samlib.optim.sam.SAM` makes anyway. To
first order a step of SAM lowers f by η⟨∇f(x), ∇f(x⁺)⟩, a plain gradient step by η‖∇f(x)‖². Their
quotient, GradRatio times the cosine of the two gradients, is SAM's *yield*. When GradRatio is small
SAM stands still where plain descent would not: then it is time to switch. The rule, with its
thresholds, is :func:`samlib.diagnostics.verdicts.running_verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from samlib.diagnostics.verdicts import EPSILON, explain_running, running_verdict
from samlib.errors import BadInput, check_number
from samlib.optim.sam import SAM, StepInfo, ramp

SPACING = 0.04  # a point of the history, and a look at the verdict, whenever steps grew by 4 %


class Reading(NamedTuple):
    """What one step showed. Losses and gradients are those of the step's own batch.

    Attributes
    ----------
    loss, shifted_loss, grad_norm, shifted_grad_norm, cosine : float
        f(x), f(x⁺), ‖∇f(x)‖, ‖∇f(x⁺)‖ (under ``gsam`` the norm of the direction that it follows)
        and the cosine of the two gradients.
    """

    step: int
    loss: float
    shifted_loss: float
    grad_norm: float
    shifted_grad_norm: float
    cosine: float

    @property
    def grad_ratio(self) -> float:
        """GradRatio, ‖∇f(x⁺)‖/(‖∇f(x)‖ + 1e-12)."""
        return self.shifted_grad_norm / (self.grad_norm + EPSILON)

    @property
    def loss_gap(self) -> float:
        """LossGap, f(x⁺) − f(x)."""
        return self.shifted_loss - self.loss

    @property
    def gain(self) -> float:
        """SAM's yield: its first-order descent, in units of that of a plain gradient step."""
        return self.grad_ratio * self.cosine


Callback = Callable[["HallucinationMonitor", str], Any]


class HallucinationMonitor:
    """Call :meth:`record` after each step; :attr:`verdict` is the state of the run.

        monitor = HallucinationMonitor(optimizer, callbacks=[lambda m, old: print(m.explain())])
        for inputs, targets in batches:
            optimizer.step(closure)
            monitor.record()

    The verdict is one of :data:`samlib.diagnostics.verdicts.RUNNING`, renewed whenever the step
    count has grown by 4 %, on means of the readings in between. It reads every step at first, then
    one in 4 % of the steps so far, at last one in ``every``. Clip gradients inside the closure.

    When the optimizer loads an earlier state, the monitor forgets what came after it. In a new
    process it starts anew, and the first values are those of the first step that it sees.

    Parameters
    ----------
    optimizer : SAM
        For a reading it keeps the first gradients.
    baseline : float, optional
        The loss of the best constant guess, for balanced classes under cross-entropy log(classes);
        it tells a loss that is still high. By default the first loss stands for it.
    every, callbacks : float, iterable
        The largest distance between readings, in steps; 1 reads every step. What is called as
        ``callback(monitor, previous_verdict)`` when the verdict changes.
    auto_remedy : bool
        On the first ``hallucinated`` at step t, take t plain base steps, then let ρ grow linearly
        back over 4t steps. It sets ``warm_start`` of every group and ``rho_schedule``, so give
        ``ramp(monitor.ramp_steps)`` again when you resume.

    Attributes
    ----------
    reading, verdict, changes : Reading or None, str, list of (step, verdict)
        The last of each, and all changes of the verdict.
    remedy_step, ramp_steps : int or None, int
        The step at which the remedy began, and its ramp.

    Raises
    ------
    BadInput
        For another optimizer, and for one that maximizes.
    """

    def __init__(
        self,
        optimizer: SAM,
        *,
        baseline: float | None = None,
        every: int = 20,
        callbacks: Iterable[Callback] = (),
        auto_remedy: bool = False,
    ) -> None:
        if not isinstance(optimizer, SAM):
            raise BadInput(f"optimizer is a {type(optimizer).__name__}; the monitor needs a SAM")
        if any(group.get("maximize") for group in optimizer.param_groups):
            raise BadInput(
                "maximize = True: the monitor judges falling losses; minimize −f instead"
            )
        if baseline is not None:
            baseline = check_number("baseline", baseline, strict=True)
        self.optimizer, self.callbacks, self.auto_remedy = optimizer, list(callbacks), auto_remedy
        self.baseline = baseline
        self.every = check_number("every", every, 1, remedy="1 reads every step")
        self.verdict = "running"
        self.changes: list[tuple[int, str]] = []
        self.reading: Reading | None = None
        self.remedy_step: int | None = None
        self.ramp_steps = 0
        self._seen: StepInfo | None = None
        self._loads = len(optimizer.loads)
        self._schedule: Callable[[int], float] | None = None  # that the remedy replaced
        self._start_over(optimizer.steps)

    def _start_over(self, step: int) -> None:
        """Forget the history: steps are counted from here."""
        self._origin = self._last = step
        self._due = 0.0  # the step from which on the next reading is due
        self._history: list[tuple[float, ...]] = []  # (step, loss, grad_norm, shifted_grad_norm)
        self._sums = np.zeros(4)  # of the readings since the last entry: how many, and the three
        self.optimizer.observe(self, step)

    def _go_back(self, step: int) -> None:
        """A state of the optimizer at ``step`` was loaded: forget what came after it."""
        if self.remedy_step is not None and step < self.remedy_step:
            self.optimizer.rho_schedule = self._schedule
            self.remedy_step, self.ramp_steps = None, 0
        self.changes = [change for change in self.changes if change[0] <= step]
        self.verdict = self.changes[-1][1] if self.changes else "running"
        before = [entry for entry in self._history if entry[0] <= step - self._origin]
        if not before:
            self._start_over(step)
        elif len(before) < len(self._history):
            self._history, self._sums = before, np.zeros(4)
        self._last, self._due = step, 0.0
        if self.reading is not None and self.reading.step > step:
            self.reading = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.optimizer.observe(self, 0)  # a copy watches a copy

    def record(
        self, loss: Any = None, shifted_loss: Any = None, grad_scale: float | None = None
    ) -> Reading:
        """After a step: read it if a reading is due, renew the verdict, return the last reading.

        After ``step(closure)`` the losses are known; where you drive the passes by hand, give them,
        and with a gradient scaler the ``scaler.get_scale()`` of the step, here or to
        ``perturbed()``. Call it before the gradients are cleared, once a step or less often.

        Raises
        ------
        BadInput
            If a loss or the gradients are missing, before any step, and at x⁺.
        """
        sam = self.optimizer
        sam.refuse_perturbed("record()")
        for step in sam.loads[self._loads :]:
            self._go_back(step)
        self._loads = len(sam.loads)
        step = sam.steps
        info = None if self.reading is not None and step < self._due else sam.step_info()
        if info is not None and info is not self._seen:
            self.reading = _read(info, loss, shifted_loss, grad_scale)
            self._seen = info
            self._due = step + min(self.every, SPACING * (step - self._origin))
            self._remember(self.reading)
        if self.reading is None:
            raise BadInput(
                "no step to read yet: call record() after optimizer.step(), once a step and not "
                "once a micro-batch"
            )
        # The next reading is due at a step at which the next call may come; nobody needs earlier
        # gradients than those.
        pace = min(max(1, step - self._last), self.every)
        sam.observe(self, math.ceil(max(self._due, step + pace)))
        self._last = step
        return self.reading

    def _remember(self, r: Reading) -> None:
        if not math.isfinite(r.loss):
            self._change("diverged")
        elif math.isfinite(r.grad_norm + r.shifted_grad_norm):  # else a scaler skips the step
            self._sums += (1, r.loss, r.grad_norm, r.shifted_grad_norm)
            elapsed = r.step - self._origin
            if not self._history or elapsed >= self._history[-1][0] * (1 + SPACING):
                self._history.append((elapsed, *(self._sums[1:] / self._sums[0])))
                self._sums = np.zeros(4)
                columns = np.array(self._history, dtype=np.float64).T
                self._change(running_verdict(*columns, baseline=self.baseline))

    def _change(self, verdict: str) -> None:
        previous, self.verdict = self.verdict, verdict
        if verdict == previous or self.reading is None:
            return
        self.changes.append((self.reading.step, verdict))
        for callback in self.callbacks:
            callback(self, previous)
        if verdict == "hallucinated" and self.auto_remedy and self.remedy_step is None:
            self.remedy()

    def remedy(self) -> None:
        """Take as many plain base steps as SAM has made, then ramp ρ up over four times as many.

        SAM's steps are counted from where the monitor last started: when it was made, or when it
        last applied the remedy.
        """
        sam = self.optimizer
        base, self.remedy_step = max(1, sam.steps - self._origin), sam.steps
        self.ramp_steps = 4 * base
        for group in sam.param_groups:
            group["warm_start"] = sam.steps + base
        self._schedule, sam.rho_schedule = sam.rho_schedule, ramp(self.ramp_steps)
        self._start_over(sam.steps)
        self._change("running")

    def explain(self) -> str:
        """The verdict in plain words, with the numbers it rests on and what to try next."""
        r = self.reading
        if r is None:
            return "Nothing is recorded yet: call record() after a step."
        numbers = {"ratio": r.grad_ratio, "loss": r.loss, "norm": r.grad_norm, "gain": r.gain}
        return f"Step {r.step}, {self.verdict}. {explain_running(self.verdict, numbers)}"


def _read(info: StepInfo, loss: Any, shifted: Any, grad_scale: float | None) -> Reading:
    if loss is None:
        loss, shifted = info.loss, info.shifted_loss
    elif shifted is None:
        shifted = loss
    norm, cosine, scale = info.grad_norm, 1.0, 1.0
    if grad_scale is not None:  # beyond what perturbed() was told
        scale = check_number("grad_scale", grad_scale, strict=True) / info.grad_scale
    if not info.base:
        norm /= scale
        inner = info.inner / scale
        cosine = max(-1.0, min(1.0, inner / (norm * info.shifted_grad_norm or 1.0)))
    sizes = (norm, info.shifted_grad_norm, cosine)
    return Reading(info.step, _number(loss), _number(shifted), *sizes)


def _number(loss: Any) -> float:
    try:
        return float(loss.detach() if isinstance(loss, Tensor) else loss)
    except (TypeError, ValueError, RuntimeError):
        text = "unknown" if loss is None else f"a {type(loss).__name__} and no number"
        raise BadInput(
            f"the loss is {text}: return it from the closure, or give record(loss, shifted_loss)"
        ) from None
