"""Sharpness-aware minimization as a torch optimizer.

With a base optimizer (SGD, Adam, …), radius ρ and loss f, one step from the weights x is

    g  = ∇f(x)            first pass
    x⁺ = x + ε(g)         ascent
    g⁺ = ∇f(x⁺)           second pass, then the weights x are put back bit for bit
    x  ← base step from x with the gradient g⁺

- ``sam``: ε = ρ g/‖g‖. Foret et al. 2021, eqs. (2) and (3).
- ``asam``: ε = ρ T²g/‖Tg‖ with T = diag(|x|). Kwon et al. 2021, Algorithm 1 (without its offset η).
- ``unnormalised``: ε = ρ g. Andriushchenko & Flammarion 2022 (USAM).
- ``gsam``: as ``sam``, and the base step takes g⁺ − α g⊥, where g⊥ = g − (⟨g, g⁺⟩/‖g⁺‖²) g⁺.
  Zhuang et al. 2022, Algorithm 1.

Norms run over all parameters of all groups; each group may have its own ρ. Weight decay given to
the base optimizer acts in its step alone, at x: it enters neither g nor g⁺. (A penalty that the
closure adds to its loss is part of f and enters both.) Where the norm is zero or not finite,
x⁺ = x, so the step is the base optimizer's own and an overflow never moves the weights. Norms are
accumulated in float32 (float64 for float64), so float16 and bfloat16 do not overflow in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from samlib.errors import BadInput, check_number
from samlib.foreach import add_scaled, norm_of, stash, subtract_orthogonal

_RULES = ("sam", "asam", "unnormalised", "gsam")
_OWN = ("rho", "warm_start", "sam_step")


def ramp(steps: int) -> Callable[[int], float]:
    """A ``rho_schedule``: the radius grows linearly from 0 to ρ in ``steps`` steps, then stays."""
    return partial(_ramp, check_number("steps", steps, 1, remedy="give the ramp's length in steps"))


def _ramp(steps: float, t: int) -> float:
    return min(1.0, t / steps)


@contextmanager
def freeze_batchnorm(model: nn.Module) -> Iterator[None]:
    """Within the block, BatchNorm layers normalise as before but leave their statistics alone.

    Means, variances and counters stay, so ``momentum=None`` works; afterwards, always, they track.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    try:
        for layer in layers:
            layer.track_running_stats = False
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


class SAM(Optimizer):
    """SAM around ``base_optimizer``, with torch's own contract.

        optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
        loss = optimizer.step(closure)  # the closure clears, computes, calls backward, returns f

    or by hand; with a gradient scaler, scale both losses and end with ``scaler.step(optimizer)``:

        loss.backward()
        with optimizer.perturbed():  # the weights are x⁺ here
            optimizer.zero_grad()
            loss_fn(model(inputs), targets).backward()
        optimizer.step()  # from x, with g⁺

    Groups (so learning-rate schedulers work) and state are the base optimizer's own. ``state_dict``
    holds buffers, radii, warm starts and the step count, so a run resumes bit for bit; only a
    ``rho_schedule`` is given again. A step reads one number, the norm, from the device.

    Parameters
    ----------
    params: parameters or groups; a group may have its own ``rho`` and ``warm_start``.
    base_optimizer: a class such as ``torch.optim.SGD``; ``base_kwargs`` go to it.
    rho: radius ρ ≥ 0, in units of the weights. At ρ = 0 a step is a base step, with one pass.
    adaptive: put ASAM's T into the ascent of any rule (``rule="asam"`` is ``sam`` with it).
    rule, gsam_alpha: see the top of the module; ``gsam_alpha`` is α.
    warm_start: this many plain base steps come first.
    rho_schedule: t → factor ≥ 0 on ρ, t = 0, 1, … counted after the warm start; see :func:`ramp`.
    model: its BatchNorm statistics stay put at x⁺, so they update once a step.
    m_sam: each worker of ``model``, a DistributedDataParallel, climbs its own gradient (Foret et
        al. 2021, section 4.1), not the common one. Replicas stay bit-identical either way.
    same_mask: both passes of ``step(closure)`` draw the same random numbers (dropout masks).

    Raises ``BadInput``: unusable arguments, steps in the wrong order, no gradient at all."""

    def __init__(
        self,
        params: ParamsT,
        base_optimizer: Callable[..., Optimizer],
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        rule: str = "sam",
        gsam_alpha: float = 0.4,
        warm_start: int = 0,
        rho_schedule: Callable[[int], float] | None = None,
        model: nn.Module | None = None,
        m_sam: bool = False,
        same_mask: bool = False,
        **base_kwargs: Any,
    ) -> None:
        if not callable(base_optimizer):  # as an instance
            raise BadInput(f"base_optimizer = {base_optimizer!r}: give a class, as torch.optim.SGD")
        if rule not in _RULES:
            raise BadInput(f"rule = {rule!r} is none of {_RULES}")
        if not (rho_schedule is None or callable(rho_schedule)):
            raise BadInput(f"rho_schedule = {rho_schedule!r} is not a callable, as ramp(1000)")
        if m_sam and (rule == "gsam" or not hasattr(model, "no_sync")):
            raise BadInput("m_sam=True needs model=DistributedDataParallel(…), and not rule='gsam'")
        self.rule, self.adaptive = rule, adaptive or rule == "asam"
        self.rho_schedule, self.gsam_alpha = rho_schedule, check_number("gsam_alpha", gsam_alpha)
        self.model, self.m_sam, self.same_mask = model, m_sam, same_mask
        self.keep_gradients = rule == "gsam"
        self._reset()
        own = dict(zip(_OWN, (rho, warm_start, 0), strict=True))
        super().__init__(params, own | base_kwargs)
        self.base_optimizer = base_optimizer(self.param_groups, **base_kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        self.defaults = self.base_optimizer.defaults | own

    def _reset(self) -> None:
        # For a monitor: the closure's losses at x and x⁺; the ascent's norm, ‖g‖ or ‖Tg‖; and, if
        # keep_gradients is set, g (while p.grad holds g⁺ after the step).
        self.losses: tuple[Any, Any] | None = None
        self.ascent_norm = math.nan
        self.first_gradients: dict[Tensor, Tensor] = {}
        self._moved: list[Tensor] | None = None  # what to put back; None: the weights are x
        self._second_done = False
        self._weights: list[Tensor] = []
        self._gradients: list[Tensor] = []

    def radii(self) -> list[float]:
        """ρ of each group in the coming step; all zero: it will be a base step, with one pass."""
        radii = []
        for group in self.param_groups:
            t = group["sam_step"] - group["warm_start"]
            factor = 0.0 if t < 0 else 1.0 if self.rho_schedule is None else self.rho_schedule(t)
            radii.append(check_number("rho × rho_schedule(t)", group["rho"] * factor))
        return radii

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns the closure's loss at x. If the closure raises, the weights are x.

        Without a closure it descends with the gradients at hand: right after ``perturbed()``.
        """
        self._refuse_perturbed("step()")
        if closure is None:
            if any(self.radii()) and not self._second_done:
                raise BadInput("step() needs a closure, or a perturbed() block before it")
            return self._descend()
        with torch.enable_grad():
            if not any(self.radii()):
                loss = shifted = closure()
            else:
                gpus = {p.device.index for p in self._all() if self.same_mask and p.is_cuda}
                fork = torch.random.fork_rng(sorted(gpus), self.same_mask)  # rewinds afterwards
                with fork, cast(Any, self.model).no_sync() if self.m_sam else nullcontext():
                    loss = closure()
                with self.perturbed():
                    shifted = closure()
        self.losses = (loss, shifted)
        self._descend()
        return loss

    @contextmanager
    def perturbed(self, *, grad_scale: float = 1.0) -> Iterator[None]:
        """The weights are x⁺ in the block, from the gradients at hand, and x after it, always.

        Only ``unnormalised`` and ``ascent_norm`` need ``grad_scale``, as ``scaler.get_scale()``.
        """
        self._refuse_perturbed("perturbed()")
        try:
            self.first_step(grad_scale=grad_scale)
            with nullcontext() if self.model is None else freeze_batchnorm(self.model):
                yield
        except BaseException:
            self._restore()
            raise
        self._leave()

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False, *, grad_scale: float = 1.0) -> None:
        """Go to x⁺ from the gradients at hand; ``zero_grad`` clears them. Then compute g⁺."""
        self._refuse_perturbed("first_step()")
        self._second_done = False
        params = self._with_gradient()
        grads = [cast(Tensor, p.grad) for p in params]
        if any(g.is_sparse for g in grads):
            raise BadInput("sparse gradients are not supported: use Embedding(sparse=False)")
        if self.keep_gradients:
            self._gradients = stash(self._gradients, grads)
            self.first_gradients = dict(zip(params, self._gradients, strict=True))
        directions = grads
        if self.adaptive:
            sizes = torch._foreach_abs(params)
            grads = list(torch._foreach_mul(sizes, grads))
            directions = list(torch._foreach_mul(sizes, grads))
        norm = self.ascent_norm = norm_of(grads) / grad_scale
        scale = 0.0 if norm == 0 or not math.isfinite(norm) else 1 / grad_scale
        if scale and self.rule != "unnormalised":
            scale /= norm
        self._weights = stash(self._weights, params)
        self._moved = params
        for group, rho in zip(self.param_groups, self.radii(), strict=True):
            n = sum(p.grad is not None for p in group["params"])
            if n and rho * scale:
                add_scaled(params[:n], directions[:n], rho * scale)
            params, directions = params[n:], directions[n:]
        if zero_grad:
            self.zero_grad()

    def second_step(self, zero_grad: bool = False) -> None:
        """Put x back and descend with the gradients at hand; ``zero_grad`` clears them after."""
        if self._moved is None:
            raise BadInput("second_step() before first_step(): the weights are not perturbed")
        self._leave()
        self.step()
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def _restore(self) -> None:
        if self._moved:
            torch._foreach_copy_(self._moved, self._weights)
        self._moved = None

    def _leave(self) -> None:
        self._restore()
        if self.rule == "gsam":
            pairs = [(p.grad, self.first_gradients.get(p)) for p in self._with_gradient()]
            subtract_orthogonal(pairs, self.gsam_alpha)
        self._second_done = True

    def _descend(self) -> None:
        self._second_done = False
        self._with_gradient()
        self.base_optimizer.step()
        for group in self.param_groups:
            group["sam_step"] += 1

    def _with_gradient(self) -> list[Tensor]:
        params = [p for p in self._all() if p.grad is not None]
        if not params:
            raise BadInput("no parameter of SAM has a gradient: the closure must call backward()")
        return params

    def _all(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _refuse_perturbed(self, what: str) -> None:
        if self.__dict__.get("_moved") is not None:
            raise BadInput(f"{what} at x⁺: first leave perturbed() or call second_step()")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in torch; it joins at the current step count."""
        group = {name: self.defaults[name] for name in ("rho", "warm_start")} | param_group
        check_number("rho", group["rho"], remedy="0 gives the base optimizer")
        if not isinstance(group["warm_start"], int) or group["warm_start"] < 0:
            raise BadInput(f"warm_start = {group['warm_start']!r} is not a number of steps ≥ 0")
        if self.param_groups:
            group.setdefault("sam_step", self.param_groups[0]["sam_step"])
        self.__dict__.get("base_optimizer", super()).add_param_group(group)

    def state_dict(self) -> dict[str, Any]:
        """Buffers, groups with radii, step count; refused at x⁺, whose weights no one resumes."""
        self._refuse_perturbed("state_dict()")
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_perturbed("copying")
        passing = {"step", "losses", "first_gradients"}  # step: where a scheduler wrapped it
        return {k: v for k, v in vars(self).items() if k[0] != "_" and k not in passing}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Ends load_state_dict, of this class's state or the plain base optimizer's, and unpickling.
        self._refuse_perturbed("load_state_dict()")
        super().__setstate__(state)
        self._reset()
        for group in self.param_groups:
            group |= {name: self.defaults[name] for name in _OWN if name not in group}
        self.base_optimizer.__setstate__({"state": self.state, "param_groups": self.param_groups})
