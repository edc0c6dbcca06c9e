"""The SAM optimizer on two numbers: each branch against its equation, restated in plain torch.

These tests are fast, so that a mutation run (benchmarks/mutation.py) can repeat them often."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from samlib import SAM, BadInput
from samlib.optim.sam import StepInfo, _eager, _Used, freeze_batchnorm, ramp

torch.set_num_threads(1)
A = torch.tensor([1.0, 4.0], dtype=torch.float64)
X0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
SGD = torch.optim.SGD


def make(base: Any = SGD, start: Tensor = X0, **options: Any) -> tuple[SAM, nn.Parameter]:
    x = nn.Parameter(start.clone())
    return SAM([x], base, **({"rho": 0.3, "lr": 0.1} | options)), x


def value(x: Tensor) -> Tensor:
    """f(x) = ½(x₁² + 4x₂²), with the gradient A x."""
    return (A * x * x).sum() / 2


def passes(opt: Any, x: Tensor, scale: float = 1.0) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        opt.zero_grad()
        loss = value(x)
        (loss * scale).backward()
        return loss

    return closure


def ascent(x: Tensor, rho: float, rule: str = "sam", adaptive: bool = False) -> Tensor:
    g, t = A * x, x.abs() if adaptive or rule == "asam" else torch.ones_like(x)
    size = 1.0 if rule == "unnormalised" else (t * g).norm()
    return x + rho * t * t * g / size


def direction(x: Tensor, rho: float, rule: str, alpha: float, adaptive: bool = False) -> Tensor:
    g, plus = A * x, A * ascent(x, rho, rule, adaptive)
    if rule != "gsam":
        return plus
    return plus - alpha * (g - (g @ plus) / (plus @ plus) * plus)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.detach(), b.detach(), rtol=1e-12, atol=1e-14)


def by_hand(opt: SAM, x: Tensor, scale: float = 1.0, **options: Any) -> None:
    passes(opt, x, scale)()
    with opt.perturbed(**options):
        passes(opt, x, scale)()


def refused(act: Callable[[], Any], *parts: str) -> None:
    with pytest.raises(BadInput) as caught:
        act()
    for part in parts:
        assert part in str(caught.value)


RULES = ["sam", "asam", "unnormalised", "gsam"]


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_two_steps(rule: str, adaptive: bool) -> None:
    opt, x = make(rule=rule, adaptive=adaptive, gsam_alpha=0.7)
    expected = X0
    for step in (1, 2):
        loss = opt.step(passes(opt, x))
        assert loss.item() == pytest.approx(value(expected).item(), rel=1e-12)
        expected = expected - 0.1 * direction(expected, 0.3, rule, 0.7, adaptive)
        assert close(x, expected)
        assert opt.steps == step


def test_defaults() -> None:
    x = nn.Parameter(X0.clone())
    opt = SAM([x], SGD, rule="gsam", lr=0.1)
    assert (opt.rule, opt.adaptive, opt.gsam_alpha) == ("gsam", False, 0.4)
    assert (opt.rho_schedule, opt.model, opt.m_sam, opt.same_mask) == (None, None, False, False)
    assert (opt.loads, opt.steps, opt.radii()) == ([], 0, [0.05])
    assert {k: opt.defaults[k] for k in ("rho", "warm_start", "sam_step", "lr", "momentum")} == {
        "rho": 0.05,
        "warm_start": 0,
        "sam_step": 0,
        "lr": 0.1,
        "momentum": 0,
    }
    assert opt.state is opt.base_optimizer.state
    assert opt.param_groups is opt.base_optimizer.param_groups
    opt.step(passes(opt, x))
    assert close(x, X0 - 0.1 * direction(X0, 0.05, "gsam", 0.4))
    assert SAM([x], SGD, lr=0.1).rule == "sam"
    assert SAM([x], SGD, rule="asam", lr=0.1).adaptive
    assert SAM([x], SGD, rho=3, lr=0.1).defaults["rho"] == 3
    assert SAM([x], SGD, warm_start=2, lr=0.1).param_groups[0]["warm_start"] == 2
    plan, model = (lambda t: 1.0), nn.Identity()
    opt = SAM([x], SGD, rho_schedule=plan, model=model, same_mask=True, lr=0.1)
    assert (opt.rho_schedule, opt.model, opt.same_mask) == (plan, model, True)
    assert StepInfo(1, True, 0, 0, 1, 1, 1).grad_scale == 1.0


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"rho": -2}, ["rho = -2", "[0, ∞)", "0 gives the base optimizer"]),
        ({"rho": True}, ["rho = True", "[0, ∞)", "0 gives the base optimizer"]),
        ({"rho": "1"}, ["rho = '1'", "[0, ∞)"]),
        ({"rule": "x"}, ["rule = 'x'", str(tuple(RULES))]),
        ({"gsam_alpha": -1}, ["gsam_alpha = -1", "[0, ∞)"]),
        ({"rho_schedule": 3}, ["rho_schedule = 3", "ramp(1000)"]),
        ({"warm_start": 1.5}, ["warm_start = 1.5", "≥ 0"]),
        ({"warm_start": True}, ["warm_start = True"]),
        ({"warm_start": -1}, ["warm_start = -1"]),
        ({"m_sam": True}, ["m_sam=True"]),
        ({"differentiable": True}, ["differentiable = True"]),
        ({"base": "SGD"}, ["base_optimizer = 'SGD'", "torch.optim.SGD"]),
        ({"base": torch.optim.LBFGS}, ["base_optimizer = LBFGS", "use SGD"]),
        ({"base": torch.optim.SparseAdam}, ["base_optimizer = SparseAdam"]),
        ({"base": partial(torch.optim.LBFGS, history_size=3)}, ["base_optimizer = LBFGS"]),
        ({"base": SAM}, ["base_optimizer = SAM", "SAM within SAM"]),
    ],
)
def test_bad_options(options: dict[str, Any], parts: list[str]) -> None:
    refused(lambda: make(**options), *parts)


def test_a_function_that_builds_the_base_optimizer() -> None:
    opt, x = make(lambda params, **kw: SGD(params, **kw))
    opt.step(passes(opt, x))
    assert close(x, X0 - 0.1 * direction(X0, 0.3, "sam", 0))


def test_ramp() -> None:
    assert [ramp(4)(t) for t in (0, 1, 2, 4, 9)] == [0, 0.25, 0.5, 1, 1]
    assert ramp(1)(1) == 1
    refused(lambda: ramp(0), "steps = 0", "[1, ∞)", "the ramp's length in steps")
    refused(lambda: ramp(None), "steps = None")  # type: ignore[arg-type]


def test_radii_of_warm_starts_and_schedules() -> None:
    asked: list[int] = []

    def plan(t: int) -> float:
        asked.append(t)
        return (t + 1) / 2

    x, y = nn.Parameter(X0.clone()), nn.Parameter(X0.clone())
    groups = [{"params": [x], "rho": 0.5, "warm_start": 1}, {"params": [y]}]
    opt = SAM(groups, SGD, rho=0.2, warm_start=3, rho_schedule=plan, lr=0.0)
    seen = []
    for _ in range(5):
        seen.append(opt.radii())
        opt.step(passes(opt, x + y))
    expected = [[0, 0], [0.25, 0], [0.5, 0], [0.75, 0.1], [1.0, 0.2]]
    assert torch.allclose(torch.tensor(seen), torch.tensor(expected))
    assert set(asked) == {0, 1, 2, 3}
    opt.rho_schedule = lambda t: -float(t)
    refused(opt.radii, "rho_schedule(4) = -4.0", "[0, ∞)")
    opt.rho_schedule = lambda t: True
    refused(opt.radii, "rho_schedule(4) = True")
    opt.rho_schedule = lambda t: 1e308
    opt.param_groups[0]["rho"] = 1e10
    refused(opt.radii, "rho × rho_schedule(t) = inf")
    opt.param_groups[0]["rho"] = None
    refused(opt.radii, "rho = None")


def test_a_base_step_has_one_pass_and_a_step_two() -> None:
    for rho, expected in ((0.0, 1), (0.3, 2)):
        opt, x = make(rho=rho)
        calls: list[int] = []

        def closure(opt: SAM = opt, x: Any = x, calls: Any = calls) -> Tensor:
            calls.append(1)
            assert torch.is_grad_enabled()
            return passes(opt, x)()

        opt.step(closure)
        assert len(calls) == expected
    opt, x = make(rho=0.0)
    passes(opt, x)()
    assert opt.step() is None  # type: ignore[func-returns-value]
    assert close(x, X0 - 0.1 * A * X0)


@pytest.mark.parametrize("sign", [1, -1])
def test_groups_climb_by_their_own_radius_and_sign(sign: int) -> None:
    x, y, idle = (nn.Parameter(X0.clone()) for _ in range(3))
    groups = [
        {"params": [x], "rho": 0.2, "maximize": sign < 0},
        {"params": [y], "rho": 0.5},
    ]
    opt = SAM(groups, SGD, lr=0.1)
    opt.add_param_group({"params": [idle]})
    (value(x) + 3 * value(y)).backward()
    norm = torch.cat([A * X0, 3 * A * X0]).norm()
    with opt.perturbed():
        assert close(x, X0 + sign * 0.2 * A * X0 / norm)
        assert close(y, X0 + 0.5 * 3 * A * X0 / norm)
        assert torch.equal(idle, X0)
    assert torch.equal(x, X0)
    assert torch.equal(y, X0)


@pytest.mark.parametrize("bad", [0.0, math.inf, math.nan])
@pytest.mark.parametrize("rule", RULES)
def test_a_norm_that_is_zero_or_not_finite_moves_nothing(rule: str, bad: float) -> None:
    opt, x = make(rule=rule)
    x.grad = torch.full_like(x, bad)
    with opt.perturbed():
        assert torch.equal(x, X0)


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(2, 1, sparse=True)
    opt = SAM(table.parameters(), SGD, lr=0.1)
    refused(
        lambda: opt.step(lambda: table(torch.tensor([1])).sum().backward()), "Embedding(sparse=F"
    )


def test_order_of_calls() -> None:
    opt, x = make()
    refused(opt.second_step, "second_step() before first_step()")
    passes(opt, x)()
    refused(opt.step, "needs a closure")
    opt.first_step()
    assert x.grad is not None
    assert close(x, ascent(X0, 0.3))
    shifted = x.detach().clone()
    twin = copy.copy(opt.__dict__)
    for act, name in (
        (opt.step, "step()"),
        (opt.first_step, "first_step()"),
        (lambda: opt.perturbed().__enter__(), "perturbed()"),
        (opt.state_dict, "state_dict()"),
        (lambda: copy.deepcopy(opt), "copying"),
        (lambda: opt.__setstate__({}), "load_state_dict()"),
    ):
        refused(act, f"{name} at x⁺")
    assert twin.keys() == opt.__dict__.keys()
    assert torch.equal(x, shifted)
    passes(opt, x)()
    opt.second_step()
    assert x.grad is not None
    assert close(x, X0 - 0.1 * direction(X0, 0.3, "sam", 0))
    refused(opt.step, "needs a closure")
    passes(opt, x)()
    opt.first_step(zero_grad=True)
    assert x.grad is None
    refused(opt.second_step, "no parameter of SAM has a gradient")
    passes(opt, x)()
    opt.first_step()
    passes(opt, x)()
    opt.second_step(zero_grad=True)
    assert x.grad is None
    assert opt.steps == 2


def test_the_first_step_by_hand_is_in_units_of_the_gradient() -> None:
    for scale in (1.0, 4.0):
        opt, x = make(rule="unnormalised")
        passes(opt, x, scale)()
        opt.first_step(**({"grad_scale": scale} if scale > 1 else {}))
        assert close(x, ascent(X0, 0.3, "unnormalised"))


def test_gradients_set_to_zero_are_cleared() -> None:
    opt, x = make()
    expected = X0

    def closure() -> Tensor:
        opt.zero_grad(set_to_none=False)
        loss = value(x)
        loss.backward()
        return loss

    for _ in range(3):
        opt.step(closure)
        expected = expected - 0.1 * direction(expected, 0.3, "sam", 0)
        assert close(x, expected)
    opt.zero_grad(set_to_none=False)
    assert torch.equal(x.grad, torch.zeros_like(x))
    opt.zero_grad()
    assert x.grad is None


def test_no_gradient() -> None:
    for rho in (0.0, 0.3):
        opt, x = make(rho=rho)
        refused(lambda opt=opt: opt.step(lambda: 0.0), "must call backward()")
        assert opt.steps == 0
    del x


def test_an_error_in_the_block_puts_the_weights_back() -> None:
    for error in (ZeroDivisionError, KeyboardInterrupt):
        opt, x = make()
        passes(opt, x)()

        def block(opt: SAM = opt, x: Any = x, error: Any = error) -> None:
            with opt.perturbed():
                assert not torch.equal(x, X0)
                raise error

        with pytest.raises(error):
            block()
        assert torch.equal(x, X0)
        opt.state_dict()


def test_gradients_of_two_passes_are_refused() -> None:
    opt, x = make()

    def adds() -> Tensor:
        loss = value(x)
        loss.backward()
        return loss

    refused(lambda: opt.step(adds), "older gradients were not cleared")  # adds to g at x⁺
    assert torch.equal(x, X0)
    by_hand(opt, x)
    opt.step()
    here = x.detach().clone()
    adds()
    refused(opt.first_step, "older gradients were not cleared")
    passes(opt, x)()
    with opt.perturbed():
        adds()
    refused(opt.step, "older gradients were not cleared")
    by_hand(opt, x)
    refused(opt.first_step, "older gradients")  # would climb along g⁺
    opt.zero_grad()
    adds()
    refused(opt.step, "needs a closure")
    assert torch.equal(x, here)


def test_a_block_without_a_pass_leaves_the_gradients_to_serve() -> None:
    opt, x = make()
    passes(opt, x)()
    for _ in range(2):
        with opt.perturbed():
            assert close(x, ascent(X0, 0.3))
        refused(opt.step, "needs a closure")
    assert opt._used.left() is False


def test_a_warm_start_refuses_sums_and_plain_descent_does_not() -> None:
    for options, fails in (({"warm_start": 5}, True), ({"rho": 0.0}, False)):
        opt, x = make(**options)
        opt.step(passes(opt, x))

        def adds(x: Any = x) -> Tensor:
            loss = value(x)
            loss.backward()
            return loss

        if fails:
            refused(lambda opt=opt, adds=adds: opt.step(adds), "older gradients")
            assert opt.steps == 1
        else:
            opt.step(adds)
            assert opt.steps == 2


def test_used_gradients() -> None:
    x, y = nn.Parameter(X0.clone()), nn.Parameter(X0.clone())
    assert (_Used().left(), _Used().untouched()) == (False, False)
    x.grad = torch.ones_like(x)
    used = _Used([y, x])
    assert (used.left(), used.untouched(), used.mixed, used.cleared) == (True, True, False, False)
    x.grad += 1
    assert (used.left(), used.untouched()) == (True, False)
    used.cleared = True
    assert used.left() is False
    used = _Used(iter([y, x]))
    y.grad = torch.ones_like(y)
    assert used.untouched()  # y had none then
    x.grad = torch.ones_like(x)
    assert (used.left(), used.untouched()) == (False, False)
    used = _Used([x, y])
    y.grad = None
    assert (used.left(), used.untouched()) == (True, False)
    x.grad = None
    assert (used.left(), used.untouched()) == (False, False)


def test_what_the_step_returns() -> None:
    opt, x = make()
    opt.observe(opt, 0)
    seen: list[Tensor] = []

    def keeps() -> Tensor:
        seen.append(passes(opt, x)())
        return seen[-1]

    assert opt.step(keeps) is seen[0]  # with its graph
    buffer = torch.zeros((), dtype=torch.float64)
    here = value(x).item()
    loss = opt.step(lambda: buffer.copy_(passes(opt, x)().detach()))
    assert float(loss) == here != float(buffer)
    info = opt.step_info()
    assert info is not None
    assert (float(info.loss), float(info.shifted_loss)) == (here, float(buffer))

    def number() -> float:
        return passes(opt, x)().item()

    here = value(x).item()
    assert opt.step(number) == here
    plain, y = make(rho=0.0)
    kept = passes(plain, y)
    result: list[Tensor] = []
    assert plain.step(lambda: result.append(kept()) or result[-1]) is result[0]
    assert plain.step_info().loss is plain.step_info().shifted_loss is result[0]  # type: ignore[union-attr]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_step_info(rule: str, scale: float) -> None:
    opt, x = make(rule=rule)
    assert opt.step_info() is None
    opt.observe(opt, 1)
    by_hand(opt, x, scale, grad_scale=scale)
    x.grad /= scale
    g, d = A * X0, direction(X0, 0.3, rule, 0.4)
    assert close(x.grad, d)
    opt.step()
    info = opt.step_info()
    assert info is not None
    assert opt.step_info() is info
    assert (info.step, info.base, info.loss, info.shifted_loss) == (1, False, None, None)
    numbers = (info.grad_norm, info.shifted_grad_norm, info.inner, info.grad_scale)
    assert numbers == pytest.approx(
        (float(g.norm()), float(d.norm()), float(g @ d), scale), rel=1e-12
    )
    here = x.detach().clone()
    opt.step(passes(opt, x))
    info = opt.step_info()
    assert info is not None
    assert (info.step, float(info.loss)) == (2, pytest.approx(float(value(here))))
    assert float(info.shifted_loss) == pytest.approx(float(value(ascent(here, 0.3, rule))))
    assert info.grad_norm == pytest.approx(float((A * here).norm()))
    opt.zero_grad()
    assert opt.step_info() is info
    opt.step(passes(opt, x))
    opt.zero_grad()
    refused(opt.step_info, "record() before zero_grad()")


def test_step_info_of_a_base_step_and_of_steps_that_nobody_watches() -> None:
    opt, x = make(warm_start=1)
    opt.step(passes(opt, x))
    info, size = opt.step_info(), float((A * X0).norm())
    assert info is not None
    assert (info.step, info.base) == (1, True)
    assert float(info.loss) == pytest.approx(float(value(X0)))
    numbers = (info.grad_norm, info.shifted_grad_norm, info.inner, info.grad_scale)
    assert numbers == pytest.approx((size, size, size**2, 1.0))
    watched = []
    who = nn.Identity()
    opt.observe(who, 4)
    for _ in range(4):
        opt.step(passes(opt, x))
        watched.append(opt.step_info() is not None)
    assert watched == [False, False, True, True]  # steps 2 to 5
    del who
    opt.step(passes(opt, x))
    assert opt.step_info() is None


def test_step_info_of_a_base_step_after_one_of_sam() -> None:
    opt, x = make()
    opt.observe(opt, 0)
    opt.step(passes(opt, x))
    opt.param_groups[0]["rho"] = 0.0
    here = x.detach().clone()
    opt.step(passes(opt, x))
    info, size = opt.step_info(), float((A * here).norm())
    assert info is not None
    numbers = (info.grad_norm, info.shifted_grad_norm, info.inner)
    assert numbers == pytest.approx((size, size, size**2))


def test_step_info_where_the_passes_reach_different_parameters() -> None:
    x, y = nn.Parameter(X0.clone()), nn.Parameter(X0.clone())
    opt = SAM([x, y], SGD, rho=0.3, lr=0.0)
    opt.observe(opt, 0)
    x.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    with opt.perturbed():
        opt.zero_grad()
        y.grad = torch.tensor([0.0, 2.0], dtype=torch.float64)
    opt.step()
    info = opt.step_info()
    assert info is not None
    assert (info.grad_norm, info.shifted_grad_norm) == (5, 2)
    assert math.isnan(info.inner)


def test_gsam_takes_a_missing_gradient_for_zero() -> None:
    x, y = nn.Parameter(X0.clone()), nn.Parameter(X0.clone())
    opt = SAM([x, y], SGD, rho=0.3, rule="gsam", gsam_alpha=0.5, lr=1.0)
    x.grad = torch.tensor([1.0, 1.0], dtype=torch.float64)
    with opt.perturbed():
        opt.zero_grad()
        x.grad = torch.tensor([2.0, 0.0], dtype=torch.float64)
        y.grad = torch.tensor([0.0, 2.0], dtype=torch.float64)
    opt.step()  # g⊥ = g − ¼ g⁺
    assert close(x, X0 - torch.tensor([2 - 0.25, -0.5], dtype=torch.float64))
    assert close(y, X0 - torch.tensor([0, 2 + 0.25], dtype=torch.float64))


# A gradient scaler tells step() what to do through two attributes.
def test_a_scaler_that_unscales_in_the_step() -> None:
    opt, x = make()
    by_hand(opt, x, 8.0)
    opt.grad_scale, opt.found_inf = torch.tensor(8.0), torch.tensor(0.0)
    opt.step()
    del opt.grad_scale, opt.found_inf
    assert close(x, X0 - 0.1 * direction(X0, 0.3, "sam", 0))


def test_a_scaler_that_has_unscaled() -> None:
    opt, x = make()
    by_hand(opt, x, 8.0)
    x.grad /= 8
    opt.grad_scale, opt.found_inf = None, torch.tensor(0.0)
    opt.step()
    assert close(x, X0 - 0.1 * direction(X0, 0.3, "sam", 0))
    by_hand(opt, x, 8.0)  # and nobody unscaled these
    refused(opt.step, "scaler.unscale_() came before the second pass")
    base, y = make(rho=0.0)
    passes(base, y)()
    base.grad_scale, base.found_inf = None, torch.tensor(0.0)
    base.step()
    assert close(y, X0 - 0.1 * A * X0)


def test_a_scaler_that_skips() -> None:
    opt, x = make()
    opt.observe(opt, 0)
    opt.step(passes(opt, x))
    opt.step_info()
    here = x.detach().clone()
    by_hand(opt, x, 8.0)
    opt.grad_scale, opt.found_inf = torch.tensor(8.0), torch.tensor(1.0)
    opt.step()
    assert torch.equal(x, here)
    assert opt.steps == 1
    info = opt.step_info()  # of the pass that was skipped, so that a monitor sees the overflow
    assert info is not None
    assert (info.step, info.loss) == (1, None)
    del opt.grad_scale, opt.found_inf
    refused(opt.step, "needs a closure")


def test_torchs_own_scaler_on_the_cpu() -> None:
    opt, x = make(start=X0.float())
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    opt.zero_grad()
    scaler.scale((A.float() * x * x).sum() / 2).backward()
    with opt.perturbed():
        opt.zero_grad()
        scaler.scale((A.float() * x * x).sum() / 2).backward()
    scaler.step(opt)
    scaler.update()
    expected = X0 - 0.1 * direction(X0, 0.3, "sam", 0)
    assert torch.allclose(x.detach().double(), expected, rtol=1e-6)


class Model(nn.Module):
    """Stands for a DistributedDataParallel: it counts the blocks without synchronisation."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self.log.append("in")
        yield
        self.log.append("out")


@pytest.mark.parametrize("m_sam", [False, True])
def test_m_sam_does_not_synchronise_the_first_pass(m_sam: bool) -> None:
    model = Model()
    opt, x = make(model=model, m_sam=m_sam)

    def closure() -> Tensor:
        model.log.append("pass")
        return passes(opt, x)()

    opt.step(closure)
    assert model.log == (["in", "pass", "out", "pass"] if m_sam else ["pass", "pass"])
    refused(lambda: make(model=model, m_sam=True, rule="gsam"), "not rule='gsam'")
    refused(lambda: make(model=nn.Identity(), m_sam=True), "DistributedDataParallel")
    assert opt.m_sam is m_sam


@pytest.mark.parametrize("same_mask", [False, True])
def test_masks(same_mask: bool) -> None:
    opt, x = make(same_mask=same_mask)
    drawn: list[float] = []

    def closure() -> Tensor:
        drawn.append(torch.rand(()).item())
        return passes(opt, x)()

    opt.step(closure)
    opt.step(closure)
    a, b, c, d = drawn
    assert (a == b, c == d) == (same_mask, same_mask)
    assert a != c


@pytest.mark.parametrize("same_mask", [False, True])
def test_only_devices_in_use_are_rewound(same_mask: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = torch.random.fork_rng

    def fork(devices: Any, enabled: bool) -> Any:
        asked.append((devices, enabled))
        return real(devices, enabled)

    monkeypatch.setattr(torch.random, "fork_rng", fork)
    opt, x = make(same_mask=same_mask)
    opt.step(passes(opt, x))
    assert asked == [([], same_mask)]


def test_the_compiler_is_kept_out() -> None:
    def add(n: int) -> int:
        return n + 1

    assert _eager(add)(1) == 2
    assert vars(_eager(add))["_torchdynamo_disable"]
    for name in ("step", "perturbed", "first_step", "second_step"):
        assert vars(getattr(SAM, name))["_torchdynamo_disable"]


def test_batchnorm_is_frozen_in_the_block() -> None:
    norm, bare = nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)
    instance = nn.InstanceNorm1d(2, track_running_stats=True)
    model = nn.Sequential(norm, bare, instance)
    data = torch.arange(12.0).reshape(3, 2, 2)

    def state() -> list[Tensor]:
        return [b.clone() for b in model.buffers()]

    start = state()
    with freeze_batchnorm(model):
        assert (norm.track_running_stats, bare.track_running_stats) == (False, False)
        frozen = model(data)
        assert not torch.equal(instance.running_mean, start[-3])  # put back at the end
    assert all(torch.equal(a, b) for a, b in zip(state(), start, strict=True))
    assert (norm.track_running_stats, bare.track_running_stats) == (True, False)
    assert instance.track_running_stats
    assert torch.equal(model(data), frozen)
    assert not any(torch.equal(a, b) for a, b in zip(state(), start, strict=True) if a.ndim)

    def fails() -> None:
        with freeze_batchnorm(model):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert norm.track_running_stats
    opt, x = make(model=model)
    passes(opt, x)()
    with opt.perturbed():
        assert not norm.track_running_stats
    assert norm.track_running_stats


def test_state_round_trip() -> None:
    opt, x = make(torch.optim.Adam, warm_start=1, rho=0.2)
    opt.observe(opt, 9)
    for _ in range(3):
        opt.step(passes(opt, x))
    state = copy.deepcopy(opt.state_dict())
    twin, y = make(torch.optim.Adam, start=x.detach(), rho=0.9)
    twin.observe(twin, 9)
    twin.step(passes(twin, y))
    with torch.no_grad():
        y.copy_(x)
    twin.load_state_dict(state)
    assert (twin.steps, twin.loads, twin.radii()) == (3, [3], [0.2])
    assert twin.param_groups[0]["warm_start"] == 1
    assert twin._observers[twin] == 0
    assert (twin._first, twin._done, twin._info, twin._moved) == (None, None, None, None)
    assert twin.step_info() is None
    refused(twin.step, "needs a closure")
    assert twin.state is twin.base_optimizer.state
    assert twin.param_groups is twin.base_optimizer.param_groups
    for each, z in ((opt, x), (twin, y)):
        each.step(passes(each, z))
    assert torch.equal(x, y)
    twin.load_state_dict(state)
    assert twin.loads == [3, 3]


def test_a_state_of_the_base_optimizer_loads() -> None:
    plain = torch.optim.Adam([nn.Parameter(X0.clone())], lr=0.7)
    opt, _ = make(torch.optim.Adam, rho=0.4, warm_start=2)
    opt.step(passes(opt, opt.param_groups[0]["params"][0]))
    opt.load_state_dict(plain.state_dict())
    group = opt.param_groups[0]
    assert (group["lr"], group["rho"], group["warm_start"], group["sam_step"]) == (0.7, 0.4, 2, 0)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies(clone: Any) -> None:
    opt, x = make(torch.optim.Adam, rule="gsam", rho_schedule=ramp(3), same_mask=True)
    opt.step(passes(opt, x))
    opt.step(passes(opt, x))
    vars(opt)["step"] = opt.step  # as a scheduler does
    assert not {"step", "_moved", "_weights"} & opt.__getstate__().keys()
    twin = clone(opt)
    (y,) = twin.param_groups[0]["params"]
    assert (twin.rule, twin.same_mask, twin.steps, twin.loads) == ("gsam", True, 2, [2])
    assert twin.radii() == opt.radii() == [pytest.approx(0.2)]
    for each, z in ((opt, x), (twin, y)):
        each.step(passes(each, z))
    assert torch.equal(x, y)


def test_groups_that_are_added() -> None:
    opt, x = make(warm_start=2, momentum=0.5)
    opt.step(passes(opt, x))
    y = nn.Parameter(X0.clone())
    opt.add_param_group({"params": [y], "rho": 0.7})
    opt.add_param_group({"params": [nn.Parameter(X0.clone())], "warm_start": 0, "sam_step": 5})
    assert [g["sam_step"] for g in opt.param_groups] == [1, 1, 5]
    assert [g["warm_start"] for g in opt.param_groups] == [2, 2, 0]
    assert [g["rho"] for g in opt.param_groups] == [0.3, 0.7, 0.3]
    assert [g["momentum"] for g in opt.base_optimizer.param_groups] == [0.5] * 3
    odd = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    meta = nn.Parameter(torch.zeros(2, device="meta"))
    more = nn.Parameter(X0.clone())
    for group, part in (
        ({"params": [odd]}, "of torch.complex64"),
        ({"params": [meta]}, "on the meta device"),
        ({"params": [more], "rho": -1}, "rho = -1"),
        ({"params": [more], "warm_start": -1}, "warm_start = -1"),
    ):
        refused(lambda group=group: opt.add_param_group(group), part)
        assert len(opt.param_groups) == len(opt.base_optimizer.param_groups) == 3
    frozen = [p.requires_grad_(False) for p in (odd, meta)]
    opt.add_param_group({"params": frozen})
    assert len(opt.param_groups) == 4
    refused(lambda: SAM([nn.Parameter(odd.detach().clone())], SGD, lr=0.1), "complex64")


@pytest.mark.parametrize("what", ["param_groups", "state"])
def test_replaced_parts_are_refused(what: str) -> None:
    opt, _ = make()
    setattr(opt, what, copy.copy(getattr(opt, what)))
    refused(opt.radii, "was replaced", "add_param_group() and load_state_dict()")


class Slow(SGD):
    """A base optimizer with options that are called like SAM's."""

    def __init__(self, params: Any, lr: float = 0.1, rho: float = 0.5, warm_start: int = 7) -> None:
        super().__init__(params, lr)
        self.defaults |= {"rho": rho, "warm_start": warm_start}
        self.seen: list[tuple[float, int]] = []
        self.fail = False

    def step(self, closure: Any = None) -> Any:
        self.seen += [(g["rho"], g["warm_start"]) for g in self.param_groups]
        if self.fail:
            raise ZeroDivisionError
        return super().step(closure)


def test_options_of_the_base_optimizer_that_are_called_like_ours() -> None:
    opt, x = make(Slow, rho=0.3, base_rho=0.6)
    opt.add_param_group({"params": [nn.Parameter(X0.clone())], "base_rho": 0.8, "rho": 0.2})
    opt.step(passes(opt, x))
    assert close(x, X0 - 0.1 * direction(X0, 0.3, "sam", 0))
    ours = [(g["rho"], g["warm_start"]) for g in opt.param_groups]
    assert ours == [(0.3, 0), (0.2, 0)]
    assert opt.base_optimizer.seen == [(0.6, 7), (0.8, 7)]
    assert opt.defaults["rho"] == 0.3
    opt.base_optimizer.fail = True
    with pytest.raises(ZeroDivisionError):
        opt.step(passes(opt, x))
    assert ours == [(g["rho"], g["warm_start"]) for g in opt.param_groups]
    assert opt.steps == 1
    twin, _ = make(Slow, rho=0.3, base_rho=0.1)
    twin.add_param_group({"params": [nn.Parameter(X0.clone())]})
    assert [g["base_rho"] for g in twin.param_groups] == [0.1, 0.1]
    twin.load_state_dict(opt.state_dict())
    assert [g["base_rho"] for g in twin.param_groups] == [0.6, 0.8]
    plain = torch.optim.Adadelta([nn.Parameter(X0.clone())], rho=0.45)
    ada, y = make(torch.optim.Adadelta, base_rho=0.7)
    ada.load_state_dict(plain.state_dict())
    group = ada.param_groups[0]
    assert (group["rho"], group["base_rho"], group["sam_step"]) == (0.3, 0.45, 0)
    ada.step(passes(ada, y))
    state = ada.base_optimizer.state[y]["square_avg"]
    assert close(state, 0.55 * direction(X0, 0.3, "sam", 0) ** 2)


def test_messages_end_plainly() -> None:
    """No remedy, no dangling semicolon."""
    opt, _ = make()
    opt.param_groups[0]["rho"] = True
    with pytest.raises(BadInput, match=re.escape("rho = True is not a number in [0, ∞)") + "$"):
        opt.radii()
