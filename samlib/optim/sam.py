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
accumulated in float32 (float64 for float64), so float16 and bfloat16 do not overflow in them. In a
group with ``maximize=True`` the ascent goes down in f, ε(−g): that is SAM of −f.

Both gradients are those of one pass (or of one sum over micro-batches): where a pass adds to
gradients that have been used before, the step is refused. ``torch.compile`` leaves a step alone,
while a compiled model inside it stays compiled.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from samlib.errors import BadInput, check_number, check_whole
from samlib.optim._foreach import add_scaled, inner_product, norm_of, stash, subtract_orthogonal

_RULES = ("sam", "asam", "unnormalised", "gsam")
_OWN = ("rho", "warm_start", "sam_step")
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SUM = (
    "older gradients were not cleared, so that these are not the gradient of one pass: call "
    "optimizer.zero_grad() before each of the two passes, at the top of the closure; to accumulate "
    "gradients, go over all micro-batches in each pass"
)
_NO_SECOND = "step() needs a closure, or a perturbed() block before it, with a backward() in it"
_F = TypeVar("_F", bound=Callable[..., Any])
# Keeps torch.compile out: traced, a step came out wrong without a word.
_eager: Callable[[_F], _F] = torch.compiler.disable


def ramp(steps: int) -> Callable[[int], float]:
    """A ``rho_schedule``: the radius grows linearly from 0 to ρ in ``steps`` ≥ 1 steps, then stays.

    Returns
    -------
    callable
        t → min(1, t/``steps``), a factor on ρ.
    """
    return partial(_ramp, check_number("steps", steps, 1, remedy="give the ramp's length in steps"))


def _ramp(steps: float, t: int) -> float:
    return min(1.0, t / steps)


@contextmanager
def freeze_batchnorm(model: nn.Module) -> Iterator[None]:
    """Within the block, BatchNorm layers normalise as before but leave their statistics alone.

    Means, variances and counters stay, so ``momentum=None`` works; afterwards, always, they track.
    InstanceNorm layers with ``track_running_stats=True`` get their statistics back after the block.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    instance_norms = [m for m in model.modules() if isinstance(m, _InstanceNorm)]
    kept = [(buffer, buffer.clone()) for m in instance_norms for buffer in m.buffers()]
    try:
        for layer in layers:
            layer.track_running_stats = False
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
        for buffer, before in kept:
            buffer.copy_(before)


@dataclass(frozen=True)
class StepInfo:
    """What a step of SAM was; see :meth:`SAM.step_info`.

    Attributes
    ----------
    step, base : int, bool
        The number of steps made, this one included; whether the radius was 0, so that x⁺ = x.
    loss, shifted_loss : Any
        f(x) and f(x⁺) as the closure returned them; None where driven by hand.
    grad_norm, shifted_grad_norm, inner, grad_scale : float
        ‖∇f(x)‖, the norm of what the base step followed (∇f(x⁺), or GSAM's direction), the inner
        product of the two, and what ``perturbed()`` was told and ∇f(x) was divided by.
    """

    step: int
    base: bool
    loss: Any
    shifted_loss: Any
    grad_norm: float
    shifted_grad_norm: float
    inner: float
    grad_scale: float = 1.0


class _Used:
    """Gradients that have served: what a pass adds to them would be a sum of two passes."""

    def __init__(self, params: Iterable[Tensor] = ()) -> None:
        # Weak, so that they go when they are cleared.
        self._kept = [(p, weakref.ref(g), g._version) for p in params if (g := p.grad) is not None]
        self.cleared = False  # zero_grad() was called since
        self.mixed = False  # a pass added to them

    def left(self) -> bool:
        """Whether any of them is still in place, not cleared."""
        if self.cleared:
            return False
        return any((g := p.grad) is not None and g is ref() for p, ref, _ in self._kept)

    def untouched(self) -> bool:
        """Whether all of them are in place and nobody wrote to them since."""
        same = [
            (g := p.grad) is not None and g is ref() and g._version == version
            for p, ref, version in self._kept
        ]
        return bool(same) and all(same)


class SAM(Optimizer):
    """SAM around ``base_optimizer``, with torch's own contract.

        optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
        loss = optimizer.step(closure)  # the closure clears, computes, calls backward, returns f

    or by hand; with a gradient scaler, scale both losses and end with ``scaler.step(optimizer)``:

        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        with optimizer.perturbed():  # the weights are x⁺ here
            optimizer.zero_grad()
            loss_fn(model(inputs), targets).backward()
        optimizer.step()  # from x, with g⁺

    To accumulate gradients, go over all micro-batches at x and then over all of them at x⁺:

        def closure():
            optimizer.zero_grad()  # once
            total = 0.0
            for inputs, targets in micro_batches:
                loss = loss_fn(model(inputs), targets) / len(micro_batches)
                loss.backward()
                total += loss.item()
            return total

    Groups (so learning-rate schedulers work) and state are the base optimizer's own. ``state_dict``
    holds buffers, radii, warm starts and the step count, so a run resumes bit for bit; only a
    ``rho_schedule`` is given again. A step reads one number, the norm, from the device.

    Parameters
    ----------
    params : iterable
        Parameters or groups; a group may have its own ``rho`` and ``warm_start``.
    base_optimizer, **base_kwargs : type, dict
        A class such as ``torch.optim.SGD``, and its options. If it has an option ``rho`` of its
        own, as Adadelta, that one is called ``base_rho``, here and in groups.
    rho, warm_start : float, int
        Radius ρ ≥ 0, in units of the weights (at ρ = 0 a step is a base step, with one pass), and
        how many plain base steps come first.
    rule, adaptive, gsam_alpha : str, bool, float
        See the top of the module; ``adaptive`` puts ASAM's T into the ascent of any rule, and
        ``gsam_alpha`` is α.
    rho_schedule : callable, optional
        t → factor ≥ 0 on ρ, t = 0, 1, … counted after the warm start; see :func:`ramp`.
    model : Module, optional
        Its BatchNorm statistics stay put at x⁺, so they update once a step.
    m_sam, same_mask : bool
        Each worker of ``model``, a DistributedDataParallel, climbs its own gradient (Foret et al.
        2021, section 4.1), and replicas stay bit-identical. Both passes of ``step(closure)`` draw
        the same random numbers (dropout masks).

    Raises
    ------
    BadInput
        For unusable arguments, steps in the wrong order, no gradient at all, gradients added to
        older ones that nobody cleared.
    """

    # A GradScaler then tells step() what to do: found_inf says skip, grad_scale what to divide by.
    _step_supports_amp_scaling = True

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
        _check_base(base_optimizer)
        if rule not in _RULES:
            raise BadInput(f"rule = {rule!r} is none of {_RULES}")
        if not (rho_schedule is None or callable(rho_schedule)):
            raise BadInput(f"rho_schedule = {rho_schedule!r} is not a callable, as ramp(1000)")
        if m_sam and (rule == "gsam" or not hasattr(model, "no_sync")):
            raise BadInput("m_sam=True needs model=DistributedDataParallel(…), and not rule='gsam'")
        self.rule, self.adaptive = rule, adaptive or rule == "asam"
        self.gsam_alpha, self.rho_schedule = check_number("gsam_alpha", gsam_alpha), rho_schedule
        self.model, self.m_sam, self.same_mask = model, m_sam, same_mask
        self.loads: list[int] = []  # the step count of each state that was loaded
        self._observers: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._reset()
        own = {"rho": rho, "warm_start": warm_start, "sam_step": 0}
        super().__init__(params, own | base_kwargs)
        base_kwargs |= {k: base_kwargs.pop(f"base_{k}") for k in _OWN if f"base_{k}" in base_kwargs}
        self.base_optimizer = base_optimizer(self.param_groups, **base_kwargs)
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
        self.defaults = self.base_optimizer.defaults | own
        self._name_apart()

    def _reset(self) -> None:
        self._moved: list[Tensor] | None = None  # what to put back; None: the weights are x
        self._second_done = False
        self._used = _Used()
        self._weights: list[Tensor] = []
        self._gradients: list[Tensor] = []
        # What step_info() needs: g, where somebody asked for it, and its scale; what the step was.
        self._first: dict[Tensor, Tensor] | None = None
        self._scale = 1.0
        self._done: tuple[bool, Any, Any] | None = None
        self._info: StepInfo | None = None

    @property
    def steps(self) -> int:
        """The number of steps made."""
        return int(self.param_groups[0]["sam_step"])

    def radii(self) -> list[float]:
        """ρ of each group in the coming step; all zero: it will be a base step, with one pass."""
        base = self.base_optimizer
        if self.param_groups is not base.param_groups or self.state is not base.state:
            raise BadInput(
                "param_groups or state was replaced, which the base optimizer does not see: change "
                "it in place, or use add_param_group() and load_state_dict()"
            )
        return [self._radius(group) for group in self.param_groups]

    def _radius(self, group: dict[str, Any]) -> float:
        rho = check_number("rho", group["rho"])
        t = group["sam_step"] - group["warm_start"]
        if t < 0:
            return 0.0
        if self.rho_schedule is None:
            return rho
        factor = check_number(f"rho_schedule({t})", self.rho_schedule(t))
        return check_number("rho × rho_schedule(t)", rho * factor)

    @_eager
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns the closure's loss at x. If the closure raises, the weights are x.

        Without a closure it descends with the gradients at hand: right after ``perturbed()``.
        """
        self.refuse_perturbed("step()")
        base = not any(self.radii())
        if closure is None:
            if not (base or self._second_done):
                raise BadInput(_SUM if self._used.mixed else _NO_SECOND)
            if not self._scaler_skips():
                self._descend()
            self._done = (base, None, None)
            return None
        self._used = _Used(self._all())
        with torch.enable_grad():
            if base:
                loss = shifted = at_x = closure()
                # Also while the radius is only 0 for now, so as not to fail later.
                if any(group["rho"] for group in self.param_groups) and self._used.left():
                    raise BadInput(_SUM)
            else:
                rewound = self._all() if self.same_mask else []
                gpus = sorted({p.device.index for p in rewound if p.is_cuda})
                fork = torch.random.fork_rng(gpus, self.same_mask)  # rewinds afterwards
                with fork, cast(Any, self.model).no_sync() if self.m_sam else nullcontext():
                    loss = closure()
                # The closure may write its loss into the same tensor each time.
                at_x = loss.detach().clone() if isinstance(loss, Tensor) else loss
                with self.perturbed():
                    shifted = closure()
                if not self._second_done:
                    raise BadInput(_SUM)
        self._descend()
        self._done = (base, at_x, shifted)
        return at_x if shifted is loss else loss

    @_eager
    @contextmanager
    def perturbed(self, *, grad_scale: float = 1.0) -> Iterator[None]:
        """A context: the weights are x⁺ in the block, from the gradients at hand, and x after it.

        Only ``unnormalised`` and a monitor need ``grad_scale``, as ``scaler.get_scale()``.
        """
        self.refuse_perturbed("perturbed()")
        try:
            self.first_step(grad_scale=grad_scale)
            with nullcontext() if self.model is None else freeze_batchnorm(self.model):
                yield
        except BaseException:
            self._restore()
            raise
        self._leave()

    @_eager
    @torch.no_grad()
    def first_step(self, zero_grad: bool = False, *, grad_scale: float = 1.0) -> None:
        """Go to x⁺ from the gradients at hand; ``zero_grad`` clears them. Then compute g⁺."""
        self.refuse_perturbed("first_step()")
        self._second_done = False
        params = self._with_gradient()
        if self._used.left():
            raise BadInput(_SUM)
        radii = self.radii()
        grads = [cast(Tensor, p.grad) for p in params]
        if any(g.is_sparse for g in grads):
            raise BadInput("sparse gradients are not supported: use Embedding(sparse=False)")
        self._first, self._scale = None, grad_scale
        if self.rule == "gsam" or any(n <= self.steps + 1 for n in self._observers.values()):
            self._gradients = stash(self._gradients, grads)
            self._first = dict(zip(params, self._gradients, strict=True))
        directions = grads
        if self.adaptive:
            sizes = torch._foreach_abs(params)
            grads = list(torch._foreach_mul(sizes, grads))
            directions = list(torch._foreach_mul(sizes, grads))
        norm = norm_of(grads) / grad_scale
        unit = 1.0 if self.rule == "unnormalised" else norm
        scale = 1 / grad_scale / unit if 0 < norm < math.inf else 0.0
        self._weights = stash(self._weights, params)
        self._used = _Used(params)
        self._moved = params
        for group, rho in zip(self.param_groups, radii, strict=True):
            n = sum(p.grad is not None for p in group["params"])
            sign = -1 if group.get("maximize") else 1
            if n and rho * scale:
                add_scaled(params[:n], directions[:n], sign * rho * scale)
            params, directions = params[n:], directions[n:]
        if zero_grad:
            self.zero_grad()

    @_eager
    def second_step(self, zero_grad: bool = False) -> None:
        """Put x back and descend with the gradients at hand; ``zero_grad`` clears them after."""
        if self._moved is None:
            raise BadInput("second_step() before first_step(): the weights are not perturbed")
        self._leave()
        self.step()
        if zero_grad:
            self.zero_grad()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, as in torch."""
        self._used.cleared = True
        self._second_done = False  # for instance after a step that a gradient scaler skipped
        super().zero_grad(set_to_none)

    def observe(self, who: object, start: int) -> None:
        """Keep what :meth:`step_info` needs, from step number ``start`` on, while ``who`` lives."""
        self._observers[who] = start

    @torch.no_grad()
    def step_info(self) -> StepInfo | None:
        """What the last step was, read off its gradients before they are cleared.

        None before a first step, and where nobody asked in time to :meth:`observe` it.

        Raises
        ------
        BadInput
            If the gradients are gone.
        """
        if self._info is not None or self._done is None:
            return self._info
        base, loss, shifted_loss = self._done
        first = {} if base else self._first
        if first is None:
            return None
        second = {p: p.grad for p in self._all() if p.grad is not None}
        if not second:
            raise BadInput("no gradients to read: call record() before zero_grad()")
        norm = follows = norm_of(list(second.values()))
        inner = norm**2
        if first:
            norm = norm_of(list(first.values())) / self._scale
            inner = inner_product([(first[p], g) for p, g in second.items() if p in first])
            inner /= self._scale
        sizes = (norm, follows, inner, self._scale)
        self._info = StepInfo(self.steps, base, loss, shifted_loss, *sizes)
        return self._info

    @torch.no_grad()
    def _restore(self) -> None:
        if self._moved:
            torch._foreach_copy_(self._moved, self._weights)
        self._moved = None

    @_eager
    def _leave(self) -> None:
        self._restore()
        if not self._used.left():
            if self.rule == "gsam" and self._first is not None:
                pairs = [(p.grad, self._first.get(p)) for p in self._with_gradient()]
                subtract_orthogonal(pairs, self.gsam_alpha)
            self._second_done = True
            self._used = _Used(self._all())
        elif self._used.untouched():  # no pass was made in the block: the gradients still serve
            self._used = _Used()
        else:
            self._used.mixed = True

    def _descend(self) -> None:
        """The base step. It sees its own values of options that are called like one of ours."""
        self._second_done = False
        self._with_gradient()
        shared = self._shared_names()
        ours = [{name: group[name] for name in shared} for group in self.param_groups]
        try:
            for group in self.param_groups:
                group |= {name: group[f"base_{name}"] for name in shared}
            self.base_optimizer.step()
        finally:
            for group, values in zip(self.param_groups, ours, strict=True):
                group |= values
        self._used = _Used(self._all())
        self._info = None
        for group in self.param_groups:
            group["sam_step"] += 1

    def _shared_names(self) -> list[str]:
        """Options of the base optimizer that are called like one of ours, as Adadelta's rho."""
        return [name for name in _OWN if name in self.base_optimizer.defaults]

    def _name_apart(self) -> None:
        for name in self._shared_names():
            for group in self.param_groups:
                group.setdefault(f"base_{name}", self.base_optimizer.defaults[name])

    def _scaler_skips(self) -> bool:
        """Whether a GradScaler drives this step and wants it skipped; if not, unscale for it."""
        scale, overflow = (vars(self).get(name) for name in ("grad_scale", "found_inf"))
        if overflow is None:
            return False
        if scale is None and self._second_done and self._used.untouched():
            raise BadInput(
                "scaler.unscale_() came before the second pass, so that its gradients are still "
                "scaled: call it after the perturbed() block"
            )
        if float(overflow):
            self._second_done, self._info = False, None
            return True
        if scale is not None:
            gradients = [cast(Tensor, p.grad) for p in self._with_gradient()]
            torch._foreach_mul_(gradients, 1 / float(scale))
        return False

    def _with_gradient(self) -> list[Tensor]:
        params = [p for p in self._all() if p.grad is not None]
        if not params:
            raise BadInput("no parameter of SAM has a gradient: the closure must call backward()")
        return params

    def _all(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def refuse_perturbed(self, what: str) -> None:
        """Raise ``BadInput`` if the weights are x⁺; ``what`` names the call that needs x."""
        if self.__dict__.get("_moved") is not None:
            raise BadInput(f"{what} at x⁺: first leave perturbed() or call second_step()")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in torch; it joins at the current step count."""
        group = {name: self.defaults[name] for name in ("rho", "warm_start")} | param_group
        check_number("rho", group["rho"], remedy="0 gives the base optimizer")
        group["warm_start"] = check_whole("warm_start", group["warm_start"], 0)
        if self.param_groups:
            group.setdefault("sam_step", self.param_groups[0]["sam_step"])
        base = self.__dict__.get("base_optimizer")  # None: it is made of these groups
        if base is None:
            super().add_param_group(group)
        else:
            base.add_param_group(group)
        try:
            _check_group(self.param_groups[-1])
        except BadInput:
            self.param_groups.pop()
            raise
        if base is not None:
            self._name_apart()

    def state_dict(self) -> dict[str, Any]:
        """Buffers, groups with radii, step count; refused at x⁺, whose weights no one resumes."""
        self.refuse_perturbed("state_dict()")
        return super().state_dict()

    def __getstate__(self) -> dict[str, Any]:
        self.refuse_perturbed("copying")
        # Without "step", where a scheduler wrapped it.
        return {k: v for k, v in vars(self).items() if k[0] != "_" and k != "step"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Ends load_state_dict, of this class's state or the plain base optimizer's, and unpickling.
        self.refuse_perturbed("load_state_dict()")
        super().__setstate__(state)
        observers = self.__dict__.get("_observers", {})
        self._observers = weakref.WeakKeyDictionary(dict.fromkeys(observers, 0))
        self._reset()
        for group in self.param_groups:
            if "sam_step" not in group:  # the base optimizer's own state
                group |= {f"base_{name}": group.pop(name) for name in self._shared_names()}
            group |= {name: self.defaults[name] for name in _OWN if name not in group}
        self.base_optimizer.__setstate__({"state": self.state, "param_groups": self.param_groups})
        self._name_apart()
        self.loads = [*self.loads, self.steps]


def _check_base(base_optimizer: Any) -> None:
    if not callable(base_optimizer):  # as an instance
        raise BadInput(f"base_optimizer = {base_optimizer!r}: give a class, as torch.optim.SGD")
    kind = base_optimizer.func if isinstance(base_optimizer, partial) else base_optimizer
    unfit = {
        torch.optim.LBFGS: "it calls its closure itself",
        torch.optim.SparseAdam: "sparse gradients are not supported",
        SAM: "SAM within SAM is not defined",
    }
    for other, reason in unfit.items():
        if isinstance(kind, type) and issubclass(kind, other):
            raise BadInput(f"base_optimizer = {kind.__name__}: {reason}; use SGD or Adam, say")


def _check_group(group: dict[str, Any]) -> None:
    if group.get("differentiable"):
        raise BadInput("differentiable = True is not supported: the ascent is not differentiated")
    for p in group["params"]:
        if p.requires_grad and (p.is_meta or p.dtype not in _DTYPES):
            what = "on the meta device" if p.is_meta else f"of {p.dtype}"
            raise BadInput(
                f"a parameter is {what}: SAM takes float16, bfloat16, float32 and float64 with data"
            )
