"""The questions that faults.py asks of each SAM optimizer, one function each.

A check raises, or returns whether the peer passes (None: does not apply) and what was seen.
"""

from __future__ import annotations

import copy
import io
import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from adapters import Closure, Peer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

SGD, ADAM = torch.optim.SGD, torch.optim.Adam
Seen = tuple[bool | None, str]
CHECKS: dict[str, tuple[str, Callable[[Peer], Seen]]] = {}
TOLERANCE = 1e-6  # of a move: a norm taken in float32, or with 1e-8 added to it, is no fault


def check(question: str) -> Callable[[Callable[[Peer], Seen]], Callable[[Peer], Seen]]:
    def register(function: Callable[[Peer], Seen]) -> Callable[[Peer], Seen]:
        CHECKS[function.__name__] = (question, function)
        return function

    return register


def network(*extra: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), *extra, nn.Tanh(), nn.Linear(12, 3)).to(dtype)


def batch(k: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(100 + k % 8)
    return torch.randn(24, 6, generator=made, dtype=torch.float64).to(dtype), torch.arange(24) % 3


def closure_of(opt: Any, model: nn.Module, k: int = 0) -> Closure:
    x, y = batch(k, next(model.parameters()).dtype)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    return closure


def run(peer: Peer, opt: Any, model: nn.Module, steps: int, start: int = 0) -> None:
    for k in range(start, start + steps):
        peer.step(opt, closure_of(opt, model, k))


def vector(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def relative(seen: Tensor, expected: Tensor, start: Tensor) -> float:
    return float((seen - expected).norm() / (expected - start).norm())


def gradient(model: nn.Module, at: Tensor) -> Tensor:
    """∇f at the flat point, in float64, from autograd on a copy."""
    twin = copy.deepcopy(model)
    nn.utils.vector_to_parameters(at, twin.parameters())
    x, y = batch(0, torch.float64)
    grads = torch.autograd.grad(cross_entropy(twin(x), y), list(twin.parameters()))
    return nn.utils.parameters_to_vector(grads)


def sam_step(model: nn.Module, rho: Tensor | float, lr: float) -> Tensor:
    """x − lr ∇f(x + ρ ∇f(x)/‖∇f(x)‖)."""
    x = vector(model)
    g = gradient(model, x)
    return x - lr * gradient(model, x + rho * g / g.norm())


@check("One step is Foret et al.'s equation (float64, SGD; relative error of the move)")
def equation(peer: Peer) -> Seen:
    model = network(dtype=torch.float64)
    start, expected = vector(model), sam_step(model, 0.5, 0.1)
    run(peer, peer.make(model.parameters(), SGD, 0.5, lr=0.1), model, 1)
    error = relative(vector(model), expected, start)
    return error < TOLERANCE, f"relative error {error:.1e}"


@check("Parameter groups have their own ρ")
def group_rho(peer: Peer) -> Seen:
    model = network(dtype=torch.float64)
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in (model[0], model[2])]
    rho = torch.cat(
        [torch.full((n,), r, dtype=torch.float64) for n, r in zip(sizes, (0.9, 0.1), strict=True)]
    )
    start, expected = vector(model), sam_step(model, rho, 0.1)
    groups = [
        {"params": list(model[0].parameters()), "rho": 0.9},
        {"params": list(model[2].parameters()), "rho": 0.1},
    ]
    run(peer, peer.make(groups, SGD, 0.5, lr=0.1), model, 1)
    error = relative(vector(model), expected, start)
    return error < TOLERANCE, f"relative error {error:.1e}"


@check("One step of its ASAM is Kwon et al.'s equation with T = diag(|x|) (float64, SGD)")
def asam_equation(peer: Peer) -> Seen:
    if peer.name not in ("samlib", "pytorch_optimizer"):
        return None, "not offered, or on its SAM above"
    model = network(dtype=torch.float64)
    start, g = vector(model), gradient(model, vector(model))
    move = 0.5 * start**2 * g / (start * g).norm()
    run(peer, peer.make(model.parameters(), SGD, 0.5, adaptive=True, lr=0.1), model, 1)
    error = relative(vector(model), start - 0.1 * gradient(model, start + move), start)
    return error < TOLERANCE, f"relative error {error:.1e}"


@check("One step of its GSAM is Zhuang et al.'s equation (float64, SGD, α = 0.4)")
def gsam_equation(peer: Peer) -> Seen:
    model = network(dtype=torch.float64)
    start, g = vector(model), gradient(model, vector(model))
    plus = gradient(model, start + 0.5 * g / g.norm())
    expected = start - 0.1 * (plus - 0.4 * (g - (g @ plus) / (plus @ plus) * plus))
    if peer.name == "samlib":
        opt = peer.make(model.parameters(), SGD, 0.5, rule="gsam", gsam_alpha=0.4, lr=0.1)
        opt.step(closure_of(opt, model))
    elif peer.name == "pytorch_optimizer":
        from pytorch_optimizer import GSAM

        base = SGD(model.parameters(), lr=0.1)
        opt = GSAM(model.parameters(), base, model, SimpleNamespace(step=lambda: 0.5), alpha=0.4)
        opt.set_closure(cross_entropy, *batch(0, torch.float64))
        opt.step()
    else:
        return None, "not offered"
    error = relative(vector(model), expected, start)
    return error < TOLERANCE, f"relative error {error:.1e}"


@check("torch's closure contract: step(closure) alone is the step that its documentation drives")
def closure_contract(peer: Peer) -> Seen:
    ends = []
    for drive in (peer.step, lambda opt, closure: opt.step(closure)):
        model = network(dtype=torch.float64)
        start = vector(model)
        opt = peer.make(model.parameters(), SGD, 0.5, lr=0.1)
        drive(opt, closure_of(opt, model))
        ends.append(vector(model))
    error = relative(ends[1], ends[0], start)
    return error < TOLERANCE, f"relative difference {error:.1e}"


@check("step returns the loss at the unperturbed weights")
def returned_loss(peer: Peer) -> Seen:
    model = network()
    x, y = batch()
    at_x = cross_entropy(model(x), y).item()
    opt = peer.make(model.parameters(), SGD, 0.5, lr=0.1)
    loss = peer.step(opt, closure_of(opt, model))
    if not isinstance(loss, Tensor):
        return False, f"returned {loss!r}"
    return math.isclose(loss.item(), at_x, rel_tol=1e-6), f"{loss.item():.4f}, f(x) = {at_x:.4f}"


@check("ρ = 0 is the base optimizer, bit for bit over 50 steps (SGD with momentum)")
def rho_zero(peer: Peer) -> Seen:
    plain, model = network(), network()
    base = peer.plain(plain.parameters(), SGD, lr=0.1, momentum=0.9)
    for k in range(50):
        peer.step(base, closure_of(base, plain, k))
    run(peer, peer.make(model.parameters(), SGD, 0.0, lr=0.1, momentum=0.9), model, 50)
    gap = float((vector(plain) - vector(model)).abs().max())
    return torch.equal(vector(plain), vector(model)), f"largest difference {gap:.1e}"


@check("lr = 0 leaves the weights bit-identical over 20 steps (ρ = 0.7)")
def lr_zero(peer: Peer) -> Seen:
    model = network()
    start = vector(model)
    run(peer, peer.make(model.parameters(), SGD, 0.7, lr=0.0), model, 20)
    gap = float((vector(model) - start).abs().max())
    return torch.equal(vector(model), start), f"largest drift {gap:.1e}"


@check("A parameter without gradient in the second pass is restored exactly")
def absent_gradient(peer: Peer) -> Seen:
    torch.manual_seed(0)
    model = nn.ParameterList([torch.randn(5), torch.randn(5)])
    start = vector(model)
    opt = peer.make(model.parameters(), SGD, 0.5, lr=0.0)
    calls = itertools.count()

    def closure() -> Tensor:
        opt.zero_grad(set_to_none=True)
        second = next(calls) > 0
        loss = (model[0] ** 2).sum() + (0.0 if second else (model[1] ** 2).sum())
        loss.backward()
        return loss

    peer.step(opt, closure)
    gap = float((vector(model) - start).abs().max())
    return torch.equal(vector(model), start), f"largest drift {gap:.1e}"


@check("The weights keep their storage, so views and aliases stay valid")
def storage(peer: Peer) -> Seen:
    model = network()
    places = [p.data_ptr() for p in model.parameters()]
    run(peer, peer.make(model.parameters(), SGD, 0.5, lr=0.1), model, 1)
    moved = sum(p.data_ptr() != q for p, q in zip(model.parameters(), places, strict=True))
    return moved == 0, f"{moved} of {len(places)} tensors moved"


@check("An exception in the second pass leaves the weights unperturbed")
def exception(peer: Peer) -> Seen:
    model = network()
    start = vector(model)
    opt = peer.make(model.parameters(), SGD, 0.5, lr=0.1)
    closure, calls = closure_of(opt, model), itertools.count()

    def failing() -> Tensor:
        if next(calls):
            raise KeyError("second pass")
        return closure()

    try:
        peer.step(opt, failing)
    except KeyError:
        gap = float((vector(model) - start).norm())
        return gap == 0, f"left at distance {gap:.2g} (ρ = 0.5)"
    return None, "the second pass was not reached"


@check("A zero gradient is a step that stays put")
def zero_gradient(peer: Peer) -> Seen:
    x = nn.Parameter(torch.zeros(4))
    opt = peer.make([x], SGD, 0.5, lr=0.1)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = (x**2).sum()
        loss.backward()
        return loss

    peer.step(opt, closure)
    return x.tolist() == [0.0] * 4, f"x = {x.tolist()[:2]}…"


@check("An overflowed first gradient does not put NaN into the weights of the second pass")
def overflow(peer: Peer) -> Seen:
    x = nn.Parameter(torch.ones(4))
    opt = peer.make([x], SGD, 0.5, lr=0.1)
    seen: list[bool] = []

    def closure() -> Tensor:
        opt.zero_grad()
        seen.append(bool(torch.isfinite(x).all()))
        loss = (x**2).sum()
        loss.backward()
        if len(seen) == 1 and x.grad is not None:
            x.grad[0] = torch.inf
        return loss

    peer.step(opt, closure)
    return all(seen), f"finite in each pass: {seen}"


@check("float16: the ascent has length ρ for gradients of size 1e-7, 1 and 6e4")
def half(peer: Peer) -> Seen:
    lengths = []
    for size in (1.2e-7, 1.0, 6e4):
        x = nn.Parameter(torch.zeros(400, dtype=torch.float16))
        opt = peer.make([x], SGD, 0.5, lr=0.0)
        seen: list[float] = []

        def closure(x: Any = x, opt: Any = opt, size: float = size, seen: Any = seen) -> Tensor:
            opt.zero_grad()
            seen.append(float(x.detach().double().norm()))
            x.grad = torch.full_like(x, size)
            return x.detach().sum() + 1

        peer.step(opt, closure)
        lengths.append(seen[-1])
    shown = ", ".join(f"{v:.3g}" for v in lengths)
    return all(abs(v - 0.5) < 0.01 for v in lengths), f"lengths {shown} (ρ = 0.5)"


@check("No gradient at all is an error that names the cause")
def no_gradient(peer: Peer) -> Seen:
    model = network()
    opt = peer.make(model.parameters(), SGD, 0.5, lr=0.1)
    try:
        peer.step(opt, lambda: cross_entropy(model(batch()[0]), batch()[1]))
    except Exception as error:
        text = f"{type(error).__name__}: {str(error).splitlines()[0][:90]}"
        named = any(word in str(error).lower() for word in ("gradient", "backward"))
        return named, text
    return False, "no error"


def _resumed(peer: Peer, base: Any, kwargs: dict[str, Any]) -> float:
    model, twin = network(), network()
    opt = peer.make(model.parameters(), base, 0.3, **kwargs)
    run(peer, opt, model, 20)
    weights, buffer = copy.deepcopy(model.state_dict()), io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    run(peer, opt, model, 50, start=20)
    twin.load_state_dict(weights)
    again = peer.make(twin.parameters(), base, 0.3, **kwargs)
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=False))
    run(peer, again, twin, 50, start=20)
    return float((vector(model) - vector(twin)).abs().max())


@check("state_dict into fresh objects: the next 50 steps are bit-identical (momentum)")
def resume_momentum(peer: Peer) -> Seen:
    gap = _resumed(peer, SGD, {"lr": 0.1, "momentum": 0.9})
    return gap == 0, f"largest difference {gap:.1e}"


@check("state_dict into fresh objects: the next 50 steps are bit-identical (Adam)")
def resume_adam(peer: Peer) -> Seen:
    gap = _resumed(peer, ADAM, {"lr": 0.02})
    return gap == 0, f"largest difference {gap:.1e}"


@check("copy.deepcopy((model, optimizer)) goes on bit-identically")
def deepcopy(peer: Peer) -> Seen:
    model = network()
    opt = peer.make(model.parameters(), SGD, 0.3, lr=0.1, momentum=0.9)
    run(peer, opt, model, 5)
    twin, again = copy.deepcopy((model, opt))
    run(peer, opt, model, 10, start=5)
    run(peer, again, twin, 10, start=5)
    gap = float((vector(model) - vector(twin)).abs().max())
    return gap == 0, f"largest difference {gap:.1e}"


@check("state_dict at the perturbed weights is refused")
def perturbed_state(peer: Peer) -> Seen:
    model = network()
    opt = peer.make(model.parameters(), SGD, 0.3, lr=0.1)
    closure, calls, outcome = closure_of(opt, model), itertools.count(), ["not reached"]

    def saving() -> Tensor:
        if next(calls):
            try:
                opt.state_dict()
                outcome[0] = "given"
            except Exception as error:
                outcome[0] = f"refused: {type(error).__name__}"
        return closure()

    peer.step(opt, saving)
    return outcome[0].startswith("refused"), outcome[0]


def _scheduled(peer: Peer, opt: Any, plan: Any, *args: Any, **kwargs: Any) -> tuple[Any, str]:
    try:
        return plan(opt, *args, **kwargs), ""
    except (KeyError, TypeError, ValueError):
        if not peer.inner:
            raise
    return plan(getattr(opt, peer.inner), *args, **kwargs), ", given the inner optimizer"


@check("Learning-rate schedulers reach the base optimizer")
def scheduler(peer: Peer) -> Seen:
    model = network()
    opt = peer.make(model.parameters(), SGD, 0.3, lr=0.1)
    plan, how = _scheduled(peer, opt, torch.optim.lr_scheduler.LambdaLR, lambda k: float(k == 0))
    run(peer, opt, model, 1)
    plan.step()  # from now on lr = 0
    start = vector(model)
    run(peer, opt, model, 3)
    gap = float((vector(model) - start).norm())
    return gap < 1e-6, f"moved by {gap:.1e} at lr = 0{how}"


@check("OneCycleLR, which also cycles momentum, runs")
def one_cycle(peer: Peer) -> Seen:
    model = network()
    opt = peer.make(model.parameters(), SGD, 0.3, lr=0.1, momentum=0.9)
    one_cycle_lr = torch.optim.lr_scheduler.OneCycleLR
    plan, how = _scheduled(peer, opt, one_cycle_lr, max_lr=0.1, total_steps=10)
    run(peer, opt, model, 1)
    plan.step()
    return True, f"runs{how}"


@check("Gradients summed over two micro-batches, cleared once before them, are the whole batch's")
def accumulation(peer: Peer) -> Seen:
    model = network(dtype=torch.float64)
    start, expected = vector(model), sam_step(model, 0.5, 0.1)
    opt = peer.make(model.parameters(), SGD, 0.5, lr=0.1)
    x, y = batch(0, torch.float64)

    def half(part: slice) -> Tensor:
        loss = cross_entropy(model(x[part]), y[part]) / 2
        loss.backward()
        return loss

    opt.zero_grad()
    half(slice(0, 12))
    try:
        peer.step(opt, lambda: half(slice(12, 24)))  # as torch's accumulation drives any optimizer
    except ValueError as error:
        return False, f"refused: {type(error).__name__}: {str(error).partition(',')[0]}"
    error = relative(vector(model), expected, start)
    return error < TOLERANCE, f"relative error {error:.1e}"


@check("Gradient scaler: a step with loss scale 2¹³ is the unscaled step")
def scaler(peer: Peer) -> Seen:
    if peer.name == "mosaicml":
        return None, "its trainer brings a scaler of its own"
    model = network(dtype=torch.float64)
    start, expected = vector(model), sam_step(model, 0.5, 0.1)
    opt = peer.make(model.parameters(), SGD, 0.5, lr=0.1)
    amp = torch.amp.GradScaler("cpu", init_scale=2.0**13)
    x, y = batch(0, torch.float64)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = cross_entropy(model(x), y)
        amp.scale(loss).backward()
        return loss

    if hasattr(opt, "perturbed"):
        closure()
        with opt.perturbed():
            closure()
        amp.step(opt)
    elif peer.two_step:
        for move in (opt.first_step, opt.second_step):
            closure()
            amp.unscale_(opt)
            move()
    else:
        closure()
        amp.step(opt, closure)
    amp.update()
    error = relative(vector(model), expected, start)
    return error < TOLERANCE, f"relative error {error:.1e}"


@check("It offers BatchNorm statistics that update once a step, momentum=None included")
def batchnorm(peer: Peer) -> Seen:
    wrong = []
    for momentum in (0.1, None):
        norms = [nn.BatchNorm1d(12, momentum=momentum) for _ in range(2)]
        model, plain = network(norms[0]), network(norms[1])
        opt = peer.make(model.parameters(), SGD, 0.5, lr=0.0)
        for k in range(3):
            plain(batch(k)[0])
            closure = closure_of(opt, model, k)
            if peer.name == "samlib":
                opt.model = model
                opt.step(closure)
            elif peer.name == "pytorch_optimizer":
                from pytorch_optimizer.optimizer.utils import model as helper

                helper.enable_running_stats(model)
                closure()
                opt.first_step()
                helper.disable_running_stats(model)
                closure()
                opt.second_step()
                helper.enable_running_stats(model)
            else:
                return None, "offers nothing: statistics update twice"
        for name, buffer in plain.named_buffers():
            if not torch.equal(model.get_buffer(name), buffer):
                wrong.append(f"{name.split('.')[1]} (momentum={momentum})")
    return not wrong, "wrong: " + ", ".join(wrong) if wrong else "all three buffers as in one pass"


@check("Unusable radii (−1, NaN) are refused")
def bad_rho(peer: Peer) -> Seen:
    taken = []
    for rho in (-1.0, math.nan):
        try:
            peer.make(network().parameters(), SGD, rho, lr=0.1)
            taken.append(str(rho))
        except Exception:
            continue
    return not taken, f"accepted: {', '.join(taken)}" if taken else "both refused"
