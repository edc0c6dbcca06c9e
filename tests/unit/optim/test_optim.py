"""The SAM optimizer against its equations, restated here in NumPy, and against what it promises."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from samlib import SAM, BadInput
from samlib.optim.sam import ramp

torch.set_num_threads(1)
Array = NDArray[np.float64]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
RULES = ["sam", "asam", "unnormalised", "gsam"]
BASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
}

# f(x) = ½ xᵀQx + Σ cos(3x) over the concatenated parameters, so that every block sees every other.
SHAPES = [(2, 3), (4,), (1,), ()]
SIZE = 12
_RNG = np.random.default_rng(5)
Q = _RNG.standard_normal((SIZE, SIZE))
Q = Q + Q.T
X0 = _RNG.standard_normal(SIZE)


def gradient(x: Array) -> Array:
    return Q @ x - 3 * np.sin(3 * x)


def tensors(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    pieces = np.split(X0, np.cumsum([int(np.prod(s)) for s in SHAPES])[:-1])
    made = [torch.tensor(v, dtype=dtype).reshape(s) for v, s in zip(pieces, SHAPES, strict=True)]
    return [nn.Parameter(t) for t in made]


def flat(params: list[nn.Parameter]) -> torch.Tensor:
    return torch.cat([p.reshape(-1) for p in params])


def value(params: list[nn.Parameter]) -> torch.Tensor:
    x = flat(params)
    return x @ torch.as_tensor(Q, dtype=x.dtype) @ x / 2 + torch.cos(3 * x).sum()


def closure_of(opt: torch.optim.Optimizer, f: Callable[[], torch.Tensor]) -> Callable[[], Any]:
    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = f()
        loss.backward()
        return loss

    return closure


def groups_of(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Three groups: own ρ and lr; the defaults; ρ = 0."""
    return [
        {"params": params[:1], "rho": 0.3, "lr": 0.02},
        {"params": params[1:2]},
        {"params": params[2:], "rho": 0.0},
    ]


RHO = np.array([0.3] * 6 + [0.07] * 4 + [0.0] * 2)
LR = np.array([0.02] * 6 + [0.05] * 6)


def ascent(x: Array, rule: str) -> Array:
    g = gradient(x)
    if rule == "unnormalised":
        return x + RHO * g
    if rule == "asam":
        return x + RHO * x**2 * g / np.sqrt(np.sum((x * g) ** 2))
    return x + RHO * g / np.sqrt(np.sum(g**2))


def descent(x: Array, rule: str, alpha: float) -> Array:
    g, plus = gradient(x), gradient(ascent(x, rule))
    if rule != "gsam":
        return plus
    return plus - alpha * (g - (g @ plus) / (plus @ plus) * plus)


class Reference:
    """The base optimizers' textbook forms."""

    def __init__(self, base: str, decay: float) -> None:
        self.base, self.decay, self.t = base, decay, 0
        self.m = np.zeros(SIZE)
        self.v = np.zeros(SIZE)

    def step(self, x: Array, d: Array) -> Array:
        self.t += 1
        if self.base == "adamw":
            x = x * (1 - LR * self.decay)
        else:
            d = d + self.decay * x
        if self.base in ("adam", "adamw"):
            self.m = 0.9 * self.m + 0.1 * d
            self.v = 0.999 * self.v + 0.001 * d**2
            root = np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8
            return x - LR * (self.m / (1 - 0.9**self.t)) / root
        mu = 0.0 if self.base == "sgd" else 0.9
        self.m = mu * self.m + d
        return x - LR * (d + mu * self.m if self.base == "nesterov" else self.m)


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("rule", RULES)
def test_each_step_is_the_equation(rule: str, base: str, decay: float) -> None:
    params = tensors()
    kind, kwargs = BASES[base]
    kwargs = kwargs | {"weight_decay": decay, "lr": 0.05}
    opt = SAM(groups_of(params), kind, rho=0.07, rule=rule, gsam_alpha=0.25, **kwargs)
    reference, x = Reference(base, decay), X0
    for _ in range(4):
        loss = opt.step(closure_of(opt, lambda: value(params)))
        assert loss.item() == pytest.approx(x @ Q @ x / 2 + np.cos(3 * x).sum(), rel=1e-12)
        x = reference.step(x, descent(x, rule, 0.25))
        assert np.allclose(flat(params).detach().numpy(), x, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rule", ["gsam", "unnormalised"])
def test_adaptive_puts_t_into_the_ascent_of_any_rule(rule: str) -> None:
    params = tensors()
    opt = SAM(groups_of(params), torch.optim.SGD, rho=0.07, rule=rule, adaptive=True, lr=0.05)
    closure_of(opt, lambda: value(params))()
    g = gradient(X0)
    expected = X0 + RHO * X0**2 * g / (np.linalg.norm(X0 * g) if rule == "gsam" else 1.0)
    with opt.perturbed():
        assert np.allclose(flat(params).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("base", BASES)
def test_decay_does_not_enter_the_ascent(base: str) -> None:
    shifted = []
    for decay in (0.0, 10.0):
        params = tensors()
        kind, kwargs = BASES[base]
        opt = SAM(params, kind, rho=0.07, lr=0.05, weight_decay=decay, **kwargs)
        closure_of(opt, lambda ps=params: value(ps))()
        with opt.perturbed():
            shifted.append(flat(params).detach().clone())
    assert torch.equal(*shifted)
    g = gradient(X0)
    assert np.allclose(shifted[0].numpy(), X0 + 0.07 * g / np.linalg.norm(g), rtol=1e-13)


def network(dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3)]
    return nn.Sequential(*layers).to(dtype)


def batches(dtype: torch.dtype = torch.float32) -> list[tuple[torch.Tensor, torch.Tensor]]:
    made = torch.Generator().manual_seed(7)
    draw = [torch.randn(16, 5, generator=made) for _ in range(8)]
    return [(x.to(dtype), torch.arange(16) % 3) for x in draw]


def run(model: nn.Module, opt: torch.optim.Optimizer, steps: int, start: int = 0) -> None:
    data = batches(next(model.parameters()).dtype)
    for k in range(start, start + steps):
        x, y = data[k % len(data)]
        opt.step(closure_of(opt, lambda x=x, y=y: nn.functional.cross_entropy(model(x).float(), y)))


def bits(model: nn.Module) -> list[bytes]:
    return [p.detach().view(torch.uint8).numpy().tobytes() for p in model.parameters()]


@pytest.mark.parametrize("off", [{"rho": 0.0}, {"warm_start": 50}, {"rho_schedule": lambda t: 0}])
@pytest.mark.parametrize("base", BASES)
def test_rho_zero_is_the_base_optimizer_bit_for_bit(base: str, off: dict[str, Any]) -> None:
    kind, kwargs = BASES[base]
    kwargs = kwargs | {"lr": 0.05, "weight_decay": 0.01}
    plain, ours = network(dropout=0.2), network(dropout=0.2)
    torch.manual_seed(0)
    run(plain, kind(plain.parameters(), **kwargs), 50)
    torch.manual_seed(0)
    run(ours, SAM(ours.parameters(), kind, **off, **kwargs), 50)
    assert bits(plain) == bits(ours)


def test_rho_zero_by_hand_is_the_base_optimizer_bit_for_bit() -> None:
    plain, ours = network(), network()
    base = torch.optim.Adam(plain.parameters(), lr=0.05)
    opt = SAM(ours.parameters(), torch.optim.Adam, rho=0.0, lr=0.05)
    for k in range(50):
        x, y = batches()[k % 8]
        base.step(closure_of(base, lambda x=x, y=y: nn.functional.cross_entropy(plain(x), y)))
        passes = closure_of(opt, lambda x=x, y=y: nn.functional.cross_entropy(ours(x), y))
        passes()
        if k % 2:  # with or without the second pass, which is at the same weights
            opt.first_step(zero_grad=True)
            passes()
            opt.second_step(zero_grad=True)
        else:
            opt.step()
    assert bits(plain) == bits(ours)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_lr_zero_leaves_the_weights_bit_identical(rule: str, dtype: torch.dtype) -> None:
    for kind, kwargs in BASES.values():
        model = network(dtype)
        before = bits(model)
        kwargs = kwargs | {"weight_decay": 0.1, "lr": 0.0}
        if kind is not torch.optim.SGD:
            kwargs = kwargs | {"eps": 1e-4}  # Adam's default 1e-8 is 0 in float16
        run(model, SAM(model.parameters(), kind, rho=0.7, rule=rule, **kwargs), 10)
        assert bits(model) == before


class Patchy(nn.Module):
    """Parameters that come and go: two half-used, one frozen, one shared, one empty, one idle."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first_only, self.second_only, self.both, self.idle = (
            nn.Parameter(torch.randn(4) * 1e-3 + 1) for _ in range(4)
        )
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.empty = nn.Parameter(torch.empty(0, 4))
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)
        self.right.weight = self.left.weight
        self.passes = 0

    def forward(self) -> torch.Tensor:
        half = self.first_only if self.passes % 2 == 0 else self.second_only
        self.passes += 1
        out = self.right(self.left(half * self.both * self.frozen))
        return (out**2).sum() + self.empty.sum()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("by_hand", [False, True])
def test_parameters_without_gradient_are_restored_exactly(rule: str, by_hand: bool) -> None:
    model = Patchy()
    before = [p.detach().clone() for p in model.parameters()]
    places = [p.data_ptr() for p in model.parameters()]
    opt = SAM(model.parameters(), torch.optim.SGD, rho=0.77, rule=rule, lr=0.0)
    for _ in range(3):
        closure = closure_of(opt, model)
        if by_hand:
            closure()
            opt.first_step()
            assert not torch.equal(model.first_only, before[0])
            closure()
            opt.second_step()
        else:
            opt.step(closure)
        assert model.idle.grad is None
        assert model.frozen.grad is None
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert [p.data_ptr() for p in model.parameters()] == places  # views and aliases stay valid


def saved(opt: torch.optim.Optimizer) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [None, ramp(40)])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("stop", [3, 20])
def test_resume_is_bit_identical(base: str, schedule: Any, stop: int) -> None:
    kind, kwargs = BASES[base]

    def build(model: nn.Module) -> tuple[SAM, torch.optim.lr_scheduler.LRScheduler]:
        options = {"rho": 0.1, "warm_start": 10, "rho_schedule": schedule, "lr": 0.05}
        opt = SAM(model.parameters(), kind, **options, **kwargs)
        return opt, torch.optim.lr_scheduler.StepLR(opt, 7, 0.8)

    def train(model: nn.Module, opt: SAM, plan: Any, start: int, steps: int) -> None:
        for k in range(start, start + steps):
            run(model, opt, 1, start=k)
            plan.step()

    whole = network()
    opt, plan = build(whole)
    train(whole, opt, plan, 0, stop)
    weights, state, clock = copy.deepcopy(whole.state_dict()), saved(opt), plan.state_dict()
    train(whole, opt, plan, stop, 50)

    again = network()
    again.load_state_dict(weights)
    opt2, plan2 = build(again)
    opt2.load_state_dict(state)
    plan2.load_state_dict(clock)
    train(again, opt2, plan2, stop, 50)
    assert bits(whole) == bits(again)
    assert opt2.state is opt2.base_optimizer.state
    assert opt2.param_groups is opt2.base_optimizer.param_groups


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_bit_identically(clone: Any) -> None:
    model = network()
    opt = SAM(model.parameters(), torch.optim.Adam, rho=0.1, rule="gsam", rho_schedule=ramp(9))
    torch.optim.lr_scheduler.StepLR(opt, 3)  # wraps opt.step
    run(model, opt, 5)
    twin, twin_opt = clone((model, opt))
    run(model, opt, 20, start=5)
    run(twin, twin_opt, 20, start=5)
    assert bits(model) == bits(twin)
    assert twin_opt.base_optimizer.param_groups is twin_opt.param_groups


def test_a_plain_checkpoint_of_the_base_optimizer_loads() -> None:
    model, twin = network(), network()
    plain = torch.optim.Adam(model.parameters(), lr=0.03)
    run(model, plain, 5)
    twin.load_state_dict(model.state_dict())
    opt = SAM(twin.parameters(), torch.optim.Adam, rho=0.0)
    opt.load_state_dict(saved(plain))
    run(model, plain, 5)
    run(twin, opt, 5)
    assert bits(model) == bits(twin)


def at_shifted(opt: SAM, params: list[nn.Parameter]) -> None:
    closure_of(opt, lambda: value(params))()
    opt.first_step(zero_grad=True)


@pytest.mark.parametrize(
    "act",
    [
        lambda opt: opt.state_dict(),
        lambda opt: opt.load_state_dict({"state": {}, "param_groups": opt.param_groups}),
        copy.deepcopy,
        lambda opt: opt.step(),
        lambda opt: opt.step(lambda: 0.0),
        lambda opt: opt.first_step(),
        lambda opt: opt.perturbed().__enter__(),
    ],
)
def test_a_perturbed_state_is_never_saved_or_perturbed_again(act: Callable[[SAM], Any]) -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, lr=0.1)
    at_shifted(opt, params)
    shifted = flat(params).detach().clone()
    with pytest.raises(BadInput, match=r"at x⁺: first leave perturbed\(\) or call second_step"):
        act(opt)
    assert torch.equal(flat(params), shifted)  # the refusal changes nothing
    value(params).backward()
    opt.second_step()
    opt.state_dict()


@pytest.mark.parametrize("when", [1, 2])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_in_the_closure_leaves_the_weights(when: int, error: Any) -> None:
    model = network()
    opt = SAM(model.parameters(), torch.optim.Adam, rho=0.9)
    run(model, opt, 2)
    before, state = bits(model), saved(opt)
    calls = itertools.count(1)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = model(batches()[0][0]).square().sum()
        loss.backward()
        if next(calls) == when:
            raise error("stop")
        return loss

    with pytest.raises(error, match="stop"):
        opt.step(closure)
    assert bits(model) == before
    assert str(saved(opt)) == str(state)
    run(model, opt, 1)  # and it goes on


def test_an_exception_in_the_block_leaves_the_weights() -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, lr=0.1)
    closure_of(opt, lambda: value(params))()

    def block() -> None:
        with opt.perturbed():
            assert not np.array_equal(flat(params).detach().numpy(), X0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert np.array_equal(flat(params).detach().numpy(), X0)
    with pytest.raises(BadInput, match="needs a closure"):
        opt.step()


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_where_the_norm_is_zero_or_not_finite_nothing_moves(
    rule: str, dtype: torch.dtype, bad: float
) -> None:
    x = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=dtype))
    before = x.detach().clone()
    opt = SAM([x], torch.optim.SGD, rho=0.5, rule=rule, lr=0.1)
    x.grad = torch.full_like(x, bad)
    with opt.perturbed():
        assert torch.equal(x, before)  # x⁺ = x, so a model at x⁺ sees finite weights
        x.grad = torch.ones_like(x)
    assert torch.equal(x, before)
    if rule != "gsam":
        opt.step()
        assert torch.equal(x, before - 0.1 * torch.ones_like(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_zero_gradient_in_the_second_pass_is_finite(rule: str, dtype: torch.dtype) -> None:
    x = nn.Parameter(torch.tensor([1.0, -2.0], dtype=dtype))
    opt = SAM([x], torch.optim.SGD, rho=0.5, rule=rule, gsam_alpha=0.5, lr=1.0)
    x.grad = torch.tensor([0.0, 4.0], dtype=dtype)
    with opt.perturbed():
        x.grad = torch.zeros_like(x)
    opt.step()
    # GSAM then climbs along α g, the whole of g being orthogonal to 0; the others stay.
    assert x.tolist() == [1.0, 0.0 if rule == "gsam" else -2.0]


@pytest.mark.parametrize("size", [6e-8, 1e-3, 1.0, 6e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_ascends_by_rho_whatever_the_gradient(
    dtype: torch.dtype, size: float
) -> None:
    g = torch.full((400,), size, dtype=dtype)
    x = nn.Parameter(torch.zeros(400, dtype=dtype))
    opt = SAM([x], torch.optim.SGD, rho=0.5, lr=0.1)
    x.grad = g
    with opt.perturbed():
        assert float(x.detach().double().norm()) == pytest.approx(0.5, rel=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_each_dtype_steps_by_the_equation(rule: str, dtype: torch.dtype) -> None:
    """On f = ½‖x − 1‖², whose gradients are exact enough to compare at the dtype's ε."""
    start = np.linspace(-2, 2, 7)
    x = nn.Parameter(torch.tensor(start, dtype=dtype))
    opt = SAM([x], torch.optim.SGD, rho=0.25, rule=rule, gsam_alpha=0.5, lr=0.5)
    opt.step(closure_of(opt, lambda: (x - 1).square().sum() / 2))
    v = torch.tensor(start, dtype=dtype).double().numpy()
    g = v - 1
    eps = {"unnormalised": 0.25 * g, "asam": 0.25 * v**2 * g / np.linalg.norm(v * g)}
    plus = v + eps.get(rule, 0.25 * g / np.linalg.norm(g)) - 1
    if rule == "gsam":
        plus = plus - 0.5 * (g - (g @ plus) / (plus @ plus) * plus)
    tolerance = 16 * torch.finfo(dtype).eps
    assert np.allclose(x.detach().double().numpy(), v - 0.5 * plus, rtol=0, atol=tolerance)


def test_gsam_in_float16_survives_products_beyond_its_range() -> None:
    x = nn.Parameter(torch.zeros(2, dtype=torch.float16))
    opt = SAM([x], torch.optim.SGD, rho=0.5, rule="gsam", gsam_alpha=0.5, lr=1.0)
    x.grad = torch.tensor([400.0, 300.0], dtype=torch.float16)
    with opt.perturbed():
        x.grad = torch.tensor([400.0, 0.0], dtype=torch.float16)  # ⟨g, g⁺⟩ = 160000 > 65504
    opt.step()  # g⊥ = (0, 300)
    assert x.tolist() == [-400.0, 150.0]


def test_mixed_dtypes_share_one_norm() -> None:
    x = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    y = nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    opt = SAM([x, y], torch.optim.SGD, rho=5.0, lr=0.1)
    x.grad = torch.tensor([3.0, 0.0], dtype=torch.float64)
    y.grad = torch.tensor([0.0, 4.0], dtype=torch.bfloat16)
    with opt.perturbed():
        assert x.tolist() == pytest.approx([3.0, 0.0], rel=1e-14)
        assert y.tolist() == [0.0, 4.0]


def test_no_gradient_at_all_is_a_clear_error() -> None:
    params = tensors()
    message = "no parameter of SAM has a gradient: the closure must call backward"
    for rho in (0.0, 0.1):
        opt = SAM(params, torch.optim.SGD, rho=rho, lr=0.1)
        with pytest.raises(BadInput, match=message):
            opt.step(lambda: value(params))
    opt = SAM(params, torch.optim.SGD, lr=0.1)
    value(params).backward()
    opt.first_step(zero_grad=True)
    with pytest.raises(BadInput, match=message):
        opt.second_step()
    assert np.array_equal(flat(params).detach().numpy(), X0)


def test_missing_closure_and_wrong_order_say_what_to_do() -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, lr=0.1)
    value(params).backward()
    with pytest.raises(BadInput, match=r"needs a closure, or a perturbed\(\) block before it"):
        opt.step()
    with pytest.raises(BadInput, match=r"second_step\(\) before first_step\(\)"):
        opt.second_step()
    with opt.perturbed():
        opt.zero_grad()
        value(params).backward()
    opt.step()
    with pytest.raises(BadInput, match="needs a closure"):  # each step needs its own second pass
        opt.step()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rho": -1}, "rho = -1 is not a number in [0, ∞); 0 gives the base optimizer"),
        ({"rho": float("nan")}, "rho = nan is not a number"),
        ({"rho": "big"}, "rho = 'big' is not a number"),
        ({"rho": "0.1"}, "rho = '0.1' is not a number in [0, ∞); 0 gives the base optimizer"),
        ({"rho": True}, "rho = True is not a number in [0, ∞); 0 gives the base optimizer"),
        ({"warm_start": True}, "warm_start = True is not a whole number ≥ 0"),
        ({"rule": "sham"}, "rule = 'sham' is none of ('sam', 'asam', 'unnormalised', 'gsam')"),
        ({"gsam_alpha": -0.1}, "gsam_alpha = -0.1 is not a number in [0, ∞)"),
        ({"warm_start": 0.1}, "warm_start = 0.1 is not a whole number ≥ 0"),
        ({"warm_start": -1}, "warm_start = -1 is not a whole number ≥ 0"),
        ({"rho_schedule": 100}, "rho_schedule = 100 is not a callable, as ramp(1000)"),
        ({"m_sam": True}, "m_sam=True needs model=DistributedDataParallel"),
        ({"base_optimizer": "SGD"}, "base_optimizer = 'SGD': give a class, as torch.optim.SGD"),
        ({"base_optimizer": torch.optim.LBFGS}, "base_optimizer = LBFGS: it calls its closure"),
        ({"base_optimizer": torch.optim.SparseAdam}, "base_optimizer = SparseAdam: sparse grad"),
        (
            {"base_optimizer": partial(SAM, base_optimizer=torch.optim.SGD)},
            "base_optimizer = SAM: SAM within SAM is not defined",
        ),
        ({"differentiable": True}, "differentiable = True is not supported"),
    ],
)
def test_bad_input_names_value_range_and_remedy(change: dict[str, Any], message: str) -> None:
    options = {"base_optimizer": torch.optim.SGD, "lr": 0.1} | change
    with pytest.raises(BadInput, match=re.escape(message)):
        SAM(tensors(), **options)


def test_more_bad_input() -> None:
    params = tensors()
    with pytest.raises(BadInput, match="give a class"):
        SAM(params, torch.optim.SGD(params, lr=0.1))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="rho = -3"):
        SAM([{"params": params, "rho": -3}], torch.optim.SGD, lr=0.1)
    with pytest.raises(BadInput, match=r"steps = 0 is not a number in \[1, ∞\)"):
        ramp(0)
    opt = SAM(params, torch.optim.SGD, lr=0.1, rho_schedule=lambda t: -1.0)
    with pytest.raises(BadInput, match=r"rho_schedule\(0\) = -1.0 is not a number in \[0, ∞\)"):
        opt.step(closure_of(opt, lambda: value(params)))
    opt = SAM(params, torch.optim.SGD, lr=0.1, rho_schedule=lambda t: None)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"rho_schedule\(0\) = None is not a number in \[0, ∞\)"):
        opt.step(closure_of(opt, lambda: value(params)))
    opt = SAM(params, torch.optim.SGD, lr=0.1)
    for bad in (True, "0.1", None):
        opt.param_groups[0]["rho"] = bad
        with pytest.raises(BadInput, match=f"rho = {bad!r} is not a number"):
            opt.radii()
    table = nn.Embedding(4, 2, sparse=True)
    opt = SAM(table.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(BadInput, match="sparse gradients are not supported"):
        opt.step(closure_of(opt, lambda: table(torch.tensor([1])).sum()))


def test_warm_start_then_ramp() -> None:
    params = tensors()
    late = {"params": params[2:], "warm_start": 5, "rho": 1.0}
    groups = [{"params": params[:2]}, late]
    opt = SAM(groups, torch.optim.SGD, rho=0.4, warm_start=3, rho_schedule=ramp(4), lr=1e-3)
    passes, seen = [], []
    for _ in range(10):
        calls = itertools.count()
        seen.append(opt.radii())

        def closure(calls: Any = calls) -> torch.Tensor:
            next(calls)
            opt.zero_grad()
            loss = value(params)
            loss.backward()
            return loss

        opt.step(closure)
        passes.append(next(calls))
    first = [0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4]
    second = [0, 0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1.0]
    assert np.allclose(seen, np.stack([first, second], axis=1))
    assert passes == [1, 1, 1, 1, 2, 2, 2, 2, 2, 2]


def test_any_callable_schedules_the_radius() -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, rho=2.0, rho_schedule=lambda t: 0.5**t, lr=0.0)
    for k in range(3):
        assert opt.radii() == [2.0 * 0.5**k]
        closure_of(opt, lambda: value(params))()
        with opt.perturbed():
            distance = np.linalg.norm(flat(params).detach().numpy() - X0)
            closure_of(opt, lambda: value(params))()
        assert distance == pytest.approx(2.0 * 0.5**k, rel=1e-12)
        opt.step()


@pytest.mark.parametrize("rule", RULES)
def test_three_ways_to_drive_it_agree_bit_for_bit(rule: str) -> None:
    ends = []
    for way in range(3):
        model = network()
        opt = SAM(model.parameters(), torch.optim.Adam, rho=0.2, rule=rule, lr=0.02)
        for x, y in batches():
            closure = closure_of(opt, lambda x=x, y=y: nn.functional.cross_entropy(model(x), y))  # noqa: B023
            if way == 0:
                opt.step(closure)
                continue
            closure()
            if way == 1:
                opt.first_step(zero_grad=True)
                closure()
                opt.second_step(zero_grad=True)
            else:
                with opt.perturbed():
                    closure()
                opt.step()
        ends.append(bits(model))
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("rule", ["sam", "asam", "unnormalised"])
def test_step_info_is_what_the_step_was(rule: str) -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, rho=0.1, rule=rule, warm_start=1, lr=0.01)
    assert opt.step_info() is None
    opt.step(closure_of(opt, lambda: value(params)))
    g = gradient(X0)
    size = np.linalg.norm(g)
    info = opt.step_info()
    assert (info.step, info.base, info.loss) == (1, True, info.shifted_loss)
    assert (info.grad_norm, info.shifted_grad_norm) == pytest.approx((size, size))
    assert info.inner == pytest.approx(size**2)

    x = flat(params).detach().numpy().copy()
    opt.step(closure_of(opt, lambda: value(params)))
    assert opt.step_info() is None  # nobody asked for it
    opt.observe(opt, 4)
    opt.step(closure_of(opt, lambda: value(params)))
    assert opt.step_info() is None  # asked for from step 4 on
    x = flat(params).detach().numpy().copy()
    loss = opt.step(closure_of(opt, lambda: value(params)))
    info = opt.step_info()
    assert opt.step_info() is info
    g = gradient(x)
    move = (
        0.1
        * {
            "sam": g / np.linalg.norm(g),
            "asam": x**2 * g / np.linalg.norm(x * g),
            "unnormalised": g,
        }[rule]
    )
    plus, y = gradient(x + move), x + move
    assert (info.step, info.base) == (4, False)
    assert info.loss.item() == loss.item() == pytest.approx(x @ Q @ x / 2 + np.cos(3 * x).sum())
    assert info.shifted_loss.item() == pytest.approx(y @ Q @ y / 2 + np.cos(3 * y).sum())
    numbers = [info.grad_norm, info.shifted_grad_norm, info.inner]
    expected = [np.linalg.norm(g), np.linalg.norm(plus), g @ plus]
    assert numbers == pytest.approx(expected, rel=1e-10)
    with pytest.raises(AttributeError):
        info.step = 5  # type: ignore[misc]


def test_a_closure_that_writes_its_loss_into_one_tensor() -> None:
    params = tensors()
    buffer = torch.zeros((), dtype=torch.float64)
    opt = SAM(params, torch.optim.SGD, rho=0.5, lr=0.01)
    opt.observe(opt, 0)

    def closure() -> torch.Tensor:
        loss = closure_of(opt, lambda: value(params))()
        return buffer.copy_(loss.detach())

    at_x = X0 @ Q @ X0 / 2 + np.cos(3 * X0).sum()
    assert opt.step(closure).item() == pytest.approx(at_x, rel=1e-12)
    info = opt.step_info()
    y = X0 + 0.5 * gradient(X0) / np.linalg.norm(gradient(X0))
    shifted = y @ Q @ y / 2 + np.cos(3 * y).sum()
    assert (info.loss.item(), info.shifted_loss.item()) == pytest.approx((at_x, shifted), rel=1e-12)
    assert not info.base


def test_the_default_alpha_of_gsam_is_that_of_its_paper() -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, rho=0.07, rule="gsam", lr=0.05)
    opt.step(closure_of(opt, lambda: value(params)))
    g = gradient(X0)
    plus = gradient(X0 + 0.07 * g / np.linalg.norm(g))
    x = X0 - 0.05 * (plus - 0.4 * (g - (g @ plus) / (plus @ plus) * plus))
    assert np.allclose(flat(params).detach().numpy(), x, rtol=1e-12)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("base", BASES)
def test_maximize_is_sam_of_minus_f(rule: str, base: str) -> None:
    kind, kwargs = BASES[base]
    ends = []
    for sign in (1, -1):
        params = tensors()
        options = {"rho": 0.07, "rule": rule, "gsam_alpha": 0.25, "lr": 0.05} | kwargs
        opt = SAM(groups_of(params), kind, maximize=sign < 0, **options)
        for _ in range(5):
            opt.step(closure_of(opt, lambda ps=params, s=sign: -s * value(ps)))
        ends.append(flat(params).detach().numpy())
    assert np.allclose(*ends, rtol=1e-12)
    assert not np.allclose(ends[0], X0, rtol=1e-3)


def adadelta(x: Array, rho: float, decay: float, steps: int, ascend: float) -> Array:
    """Zeiler's Adadelta (2012, Algorithm 1) on SAM's gradients, ε = 1e-6, lr 0.5."""
    squares, moves = np.zeros(SIZE), np.zeros(SIZE)
    for _ in range(steps):
        g = gradient(x)
        d = gradient(x + ascend * g / np.linalg.norm(g)) if ascend else g
        squares = decay * squares + (1 - decay) * d**2
        move = d * np.sqrt(moves + 1e-6) / np.sqrt(squares + 1e-6)
        moves = decay * moves + (1 - decay) * move**2
        x = x - 0.5 * move
    return x


@pytest.mark.parametrize(
    ("kind", "own", "decay"),
    [
        (torch.optim.Adadelta, {}, 0.9),
        (torch.optim.Adadelta, {"base_rho": 0.7}, 0.7),
        (partial(torch.optim.Adadelta, rho=0.7), {}, 0.7),
    ],
)
@pytest.mark.parametrize("rho", [0.0, 0.05, 2.0])
def test_adadelta_keeps_a_rho_of_its_own(
    kind: Any, own: dict[str, Any], decay: float, rho: float
) -> None:
    params = tensors()
    opt = SAM(params[:2], kind, rho=rho, lr=0.5, **own)
    opt.add_param_group({"params": params[2:]})
    for _ in range(6):
        opt.step(closure_of(opt, lambda: value(params)))
        assert [group["rho"] for group in opt.param_groups] == [rho, rho]
    x = adadelta(X0, rho, decay, 6, rho)
    assert np.allclose(flat(params).detach().numpy(), x, rtol=1e-10, atol=1e-12)

    # It resumes, from SAM's own state and from one of plain Adadelta, whose rho is no radius.
    again = tensors()
    opt2 = SAM(again[:2], kind, rho=rho, lr=0.5, **own)
    opt2.add_param_group({"params": again[2:]})
    with torch.no_grad():
        for p, q in zip(again, params, strict=True):
            p.copy_(q)
    opt2.load_state_dict(saved(opt))
    for each, ps in ((opt, params), (opt2, again)):
        each.step(closure_of(each, lambda ps=ps: value(ps)))
    assert torch.equal(flat(params), flat(again))
    plain = torch.optim.Adadelta([{"params": again[:2]}, {"params": again[2:]}], rho=decay, lr=0.5)
    opt2.load_state_dict(plain.state_dict())
    assert [g["rho"] for g in opt2.param_groups] == [rho, rho]
    assert [g["base_rho"] for g in opt2.param_groups] == [decay, decay]


# Gradients of more than one pass. Each of these runs without a word in plain torch.
def by_hand(opt: SAM, params: list[nn.Parameter], clear: tuple[bool, bool]) -> None:
    if clear[0]:
        opt.zero_grad()
    value(params).backward()
    with opt.perturbed():
        if clear[1]:
            opt.zero_grad()
        value(params).backward()
    opt.step()


@pytest.mark.parametrize("clear", [(False, True), (True, False), (False, False)])
def test_passes_by_hand_that_add_to_older_gradients_are_refused(clear: tuple[bool, bool]) -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, rho=0.3, lr=0.01)
    by_hand(opt, params, (True, True))
    x = flat(params).detach().clone()
    with pytest.raises(BadInput, match="older gradients were not cleared"):
        by_hand(opt, params, clear)
    assert torch.equal(flat(params), x)
    by_hand(opt, params, (True, True))  # and it goes on
    expected = X0
    for _ in range(2):
        g = gradient(expected)
        expected = expected - 0.01 * gradient(expected + 0.3 * g / np.linalg.norm(g))
    assert np.allclose(flat(params).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("missing", ["both passes", "second pass", "first pass"])
@pytest.mark.parametrize("options", [{}, {"warm_start": 9}])
def test_a_closure_that_does_not_clear_is_refused(missing: str, options: dict[str, Any]) -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, rho=0.3, lr=0.01, **options)
    opt.step(closure_of(opt, lambda: value(params)))
    calls = itertools.count()

    def closure() -> torch.Tensor:
        first = next(calls) == 0
        if (first and missing == "second pass") or (not first and missing == "first pass"):
            opt.zero_grad()
        loss = value(params)
        loss.backward()
        return loss

    x = flat(params).detach().clone()
    if options and missing == "second pass":  # a warm start has one pass, which clears
        opt.step(closure)
        return
    with pytest.raises(BadInput, match="to accumulate gradients, go over all micro-batches in eac"):
        opt.step(closure)
    assert torch.equal(flat(params), x)


@pytest.mark.parametrize(
    "clear",
    [
        lambda opt, params: opt.zero_grad(),
        lambda opt, params: opt.zero_grad(set_to_none=False),
        lambda opt, params: opt.base_optimizer.zero_grad(),
        lambda opt, params: [setattr(p, "grad", None) for p in params],
    ],
)
def test_every_way_to_clear_is_seen(clear: Callable[[SAM, Any], Any]) -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, rho=0.3, lr=0.01)

    def closure() -> torch.Tensor:
        clear(opt, params)
        loss = value(params)
        loss.backward()
        return loss

    expected = X0
    for _ in range(3):
        opt.step(closure)
        g = gradient(expected)
        expected = expected - 0.01 * gradient(expected + 0.3 * g / np.linalg.norm(g))
    assert np.allclose(flat(params).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("warm_start", [0, 9])
def test_micro_batches_before_the_step_are_refused(warm_start: int) -> None:
    """As torch's accumulation drives any optimizer; also in a warm start, whose end is no time to
    find out."""
    params = tensors()
    opt = SAM(params, torch.optim.SGD, rho=0.3, warm_start=warm_start, lr=0.01)

    def half() -> torch.Tensor:
        loss = value(params) / 2
        loss.backward()
        return loss

    opt.zero_grad()
    half()
    with pytest.raises(BadInput, match="to accumulate gradients, go over all micro-batches in eac"):
        opt.step(half)
    assert np.array_equal(flat(params).detach().numpy(), X0)


def test_passes_by_hand_after_a_step_with_a_closure_begin_by_clearing() -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, rho=0.3, lr=0.01)
    opt.step(closure_of(opt, lambda: value(params)))
    with pytest.raises(BadInput, match="older gradients were not cleared"):
        by_hand(opt, params, (False, True))


def test_perturbed_without_a_pass_only_looks() -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, rho=0.3, lr=0.01)
    closure_of(opt, lambda: value(params))()
    for _ in range(2):  # at x⁺ nothing is computed: g still serves
        with opt.perturbed():
            away = flat(params).detach().numpy() - X0
        assert np.linalg.norm(away) == pytest.approx(0.3)
        with pytest.raises(BadInput, match=r"a perturbed\(\) block before it, with a backward"):
            opt.step()
    with opt.perturbed():
        closure_of(opt, lambda: value(params))()
    with pytest.raises(BadInput, match="older gradients were not cleared"):
        opt.perturbed().__enter__()  # would climb along g⁺
    assert np.array_equal(flat(params).detach().numpy(), X0)


def test_clearing_after_the_second_pass_asks_for_another() -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, rho=0.3, lr=0.01)
    closure_of(opt, lambda: value(params))()
    with opt.perturbed():
        closure_of(opt, lambda: value(params))()
    opt.zero_grad()
    value(params).backward()
    with pytest.raises(BadInput, match="needs a closure"):
        opt.step()


@pytest.mark.parametrize("what", ["param_groups", "state"])
def test_replaced_groups_or_state_are_refused(what: str) -> None:
    params = tensors()
    opt = SAM(params, torch.optim.SGD, lr=0.1)
    setattr(opt, what, copy.copy(getattr(opt, what)))
    with pytest.raises(BadInput, match="was replaced, which the base optimizer does not see"):
        opt.step(closure_of(opt, lambda: value(params)))


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (torch.zeros(2, dtype=torch.complex64), "of torch.complex64"),
        (torch.zeros(2).to(torch.float8_e4m3fn), "of torch.float8_e4m3fn"),
        (torch.zeros(2, device="meta"), "on the meta device"),
    ],
)
def test_parameters_that_sam_cannot_move(tensor: torch.Tensor, text: str) -> None:
    odd = nn.Parameter(tensor)
    with pytest.raises(BadInput, match=f"a parameter is {text}"):
        SAM([odd], torch.optim.SGD, lr=0.1)
    opt = SAM(tensors(), torch.optim.SGD, lr=0.1)
    with pytest.raises(BadInput, match=f"a parameter is {text}"):
        opt.add_param_group({"params": [odd]})
    assert len(opt.param_groups) == len(opt.base_optimizer.param_groups) == 1
    SAM([*tensors(), odd.requires_grad_(False)], torch.optim.SGD, lr=0.1)  # frozen, as quantised


def test_groups_state_and_hooks_are_shared() -> None:
    model = network()
    opt = SAM(model[0].parameters(), torch.optim.SGD, rho=0.1, warm_start=2, lr=0.1, momentum=0.9)
    fired = []
    opt.register_step_post_hook(lambda *_: fired.append(1))
    run(model, opt, 3)
    opt.add_param_group({"params": model[3].parameters(), "lr": 0.2, "rho": 0.3})
    assert opt.base_optimizer.param_groups[1]["lr"] == 0.2
    assert opt.param_groups[1]["momentum"] == 0.9
    assert opt.radii() == [0.1, 0.3]  # the new group is past the warm start too
    run(model, opt, 2)
    closure = closure_of(opt, lambda: model(batches()[0][0]).square().sum())
    closure()
    opt.first_step(zero_grad=True)
    closure()
    opt.second_step()
    assert len(fired) == 6
    assert set(opt.state) == set(model.parameters())
    assert opt.defaults["momentum"] == 0.9


def test_grad_scale_makes_scaled_gradients_give_the_same_step() -> None:
    for rule in RULES:
        ends = []
        for scale in (1.0, 1024.0):
            params = tensors()
            opt = SAM(params, torch.optim.SGD, rho=0.1, rule=rule, lr=0.1)
            (value(params) * scale).backward()
            with opt.perturbed(grad_scale=scale):
                opt.zero_grad()
                (value(params) * scale).backward()
            for p in params:
                assert p.grad is not None
                p.grad /= scale
            opt.step()
            ends.append(flat(params).detach().numpy())
        assert np.allclose(*ends, rtol=1e-12)


def test_moving_the_model_to_another_dtype_keeps_the_restoration_exact() -> None:
    model = network()
    opt = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.0)
    run(model, opt, 1)
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p += 1e-12  # not representable in float32
    before = bits(model)
    run(model, opt, 1)
    assert bits(model) == before
