"""Watches a SAM run from inside and says whether it learns, hallucinates or is stuck.

Everything is read off the two passes that a step of :class:`samlib.optim.SAM` makes anyway. To
first order a step of SAM lowers f by η⟨∇f(x), ∇f(x⁺)⟩, a plain gradient step by η‖∇f(x)‖². Their
quotient, GradRatio times the cosine of the two gradients, is SAM's *yield*. When GradRatio is small
SAM stands still where plain descent would not: then it is time to switch. The rule, with its
thresholds, is :func:`samlib.diagnostics.running_verdict`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from samlib.diagnostics import EPSILON, explain_running, running_verdict
from samlib.errors import BadInput, check_number
from samlib.foreach import norm_of
from samlib.optim import SAM, ramp

SPACING = 0.04  # a point of the history, and a look at the verdict, whenever steps grew by 4 %


class Reading(NamedTuple):
    """What one step showed. Losses and gradients are those of the step's own batch.

    ``loss`` f(x), ``shifted_loss`` f(x⁺), ``grad_norm`` ‖∇f(x)‖, ``shifted_grad_norm`` ‖∇f(x⁺)‖
    (under ``gsam`` the norm of the direction that it follows), ``cosine`` of the two gradients.
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

    The verdict is one of :data:`samlib.diagnostics.RUNNING`, renewed whenever the step count has
    grown by 4 %, on means of the readings in between. It reads every step at first, then one in 4 %
    of the steps so far, at last one in ``every``. Clip gradients inside the closure.

    Parameters
    ----------
    optimizer: a :class:`samlib.optim.SAM`. For a reading it keeps the first gradients.
    baseline: the loss of the best constant guess, for balanced classes under cross-entropy
        log(classes); it tells a loss that is still high. By default the first loss stands for it.
    every: the largest distance between readings, in steps; 1 reads every step.
    callbacks: called as ``callback(monitor, previous_verdict)`` when the verdict changes.
    auto_remedy: on the first ``hallucinated`` at step t, take t plain base steps, then let ρ grow
        linearly back over 4t steps. It sets ``warm_start`` of every group and ``rho_schedule``,
        so give ``ramp(monitor.ramp_steps)`` again when you resume.

    Attributes
    ----------
    reading: the last :class:`Reading`. verdict: see above. changes: (step, verdict) at each change.
    remedy_step: the step at which the remedy began, or None. ramp_steps: its ramp.

    Raises ``BadInput`` for another optimizer.
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
        self.optimizer, self.callbacks, self.auto_remedy = optimizer, list(callbacks), auto_remedy
        self.baseline = (
            None if baseline is None else check_number("baseline", baseline, strict=True)
        )
        self.every = check_number("every", every, 1, remedy="1 reads every step")
        self.changes: list[tuple[int, str]] = []
        self.remedy_step: int | None = None
        self.ramp_steps, self.verdict = 0, "running"
        self.reading: Reading | None = None
        self._start_over(optimizer.param_groups[0]["sam_step"])

    def _start_over(self, step: int) -> None:
        """Forget the history: steps are counted from here."""
        self._origin = self._last = step
        self._next = self._due = 0.0
        self.optimizer.keep_gradients = True
        self._history: list[tuple[float, ...]] = []  # (step, loss, grad_norm, shifted_grad_norm)
        self._sums, self._count = (0.0, 0.0, 0.0), 0  # since the last entry

    def record(self, loss: Any = None, shifted_loss: Any = None, grad_scale: float = 1) -> Reading:
        """After a step: read it if a reading is due, renew the verdict, return the last reading.

        After ``step(closure)`` the losses are known; where you drive the passes by hand, give them,
        and with a gradient scaler the ``scaler.get_scale()`` of the step. Call it before the
        gradients are cleared.

        Raises
        ------
        BadInput
            If a loss or the gradients are missing.
        """
        sam = self.optimizer
        step = sam.param_groups[0]["sam_step"]
        known = (
            sam.losses if loss is None else (loss, loss if shifted_loss is None else shifted_loss)
        )
        if known is None:
            raise BadInput("the losses are unknown: give record(loss, shifted_loss)")
        base = math.isnan(sam.ascent_norm) or (loss is None and known[0] is known[1])
        if self.reading is None or (step >= self._due and (base or sam.first_gradients)):
            self.reading = self._read(_number(known[0]), _number(known[1]), base, grad_scale)
            self._due = step + min(self.every, SPACING * (step - self._origin))
            self._remember(self.reading)
        # Nothing old is read twice, and the next reading finds its gradients, if it comes as soon.
        sam.ascent_norm, sam.first_gradients = math.nan, {}
        sam.keep_gradients = sam.rule == "gsam" or 2 * step - self._last >= self._due
        self._last = step
        return self.reading

    @torch.no_grad()
    def _read(self, loss: float, shifted: float, base_step: bool, grad_scale: float) -> Reading:
        sam = self.optimizer
        step = sam.param_groups[0]["sam_step"]
        second = {p: p.grad for g in sam.param_groups for p in g["params"] if p.grad is not None}
        if not second:
            raise BadInput("no gradients to read: call record() before zero_grad()")
        norm_plus = norm_of(list(second.values()))
        if base_step or not sam.first_gradients:
            return Reading(step, loss, shifted, norm_plus, norm_plus, 1.0)
        first = sam.first_gradients
        whole = sam.ascent_norm
        if sam.adaptive or grad_scale != 1:  # then that is another norm
            whole = norm_of(list(first.values()))
        inner = _inner([(first[p], g) for p, g in second.items() if p in first])
        cosine = max(-1.0, min(1.0, inner / (whole * norm_plus or 1.0)))
        return Reading(step, loss, shifted, whole / grad_scale, norm_plus, cosine)

    def _remember(self, r: Reading) -> None:
        if not math.isfinite(r.loss):
            self._change("diverged")
        elif math.isfinite(r.grad_norm + r.shifted_grad_norm):  # else a scaler skips the step
            a, b, c = self._sums
            self._sums = (a + r.loss, b + r.grad_norm, c + r.shifted_grad_norm)
            self._count += 1
            elapsed = r.step - self._origin
            if elapsed >= self._next:
                self._history.append((elapsed, *(v / self._count for v in self._sums)))
                self._sums, self._count = (0.0, 0.0, 0.0), 0
                self._next = elapsed * (1 + SPACING)
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
        """Take as many plain base steps as SAM has made, then ramp ρ up over four times as many."""
        sam = self.optimizer
        step = sam.param_groups[0]["sam_step"]
        base, self.remedy_step = max(1, step - self._origin), step
        self.ramp_steps = 4 * base
        for group in sam.param_groups:
            group["warm_start"] = step + base
        sam.rho_schedule = ramp(self.ramp_steps)
        self._start_over(step)
        self._change("running")

    def explain(self) -> str:
        """The verdict in plain words, with the numbers it rests on and what to try next."""
        r = self.reading
        if r is None:
            return "Nothing is recorded yet: call record() after a step."
        numbers = {"ratio": r.grad_ratio, "loss": r.loss, "norm": r.grad_norm, "gain": r.gain}
        return f"Step {r.step}, {self.verdict}. {explain_running(self.verdict, numbers)}"


def _number(loss: Any) -> float:
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def _inner(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Sum of the inner products of pairs, in float32 or better."""
    half = (torch.float16, torch.bfloat16)
    products = [
        torch.dot(*(t.reshape(-1).float() if t.dtype in half else t.reshape(-1) for t in pair))
        for pair in pairs
    ]
    return float(sum(p.to(products[0].device) for p in products)) if products else math.nan
