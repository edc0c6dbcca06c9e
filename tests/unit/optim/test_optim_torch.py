"""The SAM optimizer inside torch's own machinery: scaling, BatchNorm, compile, DDP and the rest."""

from __future__ import annotations

import copy
import importlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, parameters_to_vector
from torch.optim import lr_scheduler

from samlib import SAM, BadInput, HallucinationMonitor, freeze_batchnorm

torch.set_num_threads(1)
SGD = torch.optim.SGD


def data(n: int = 24, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(11)
    return torch.randn(n, 6, generator=made, dtype=torch.float64).to(dtype), torch.arange(n) % 3


def mlp(*extra: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(6, 10), *extra, nn.Tanh(), nn.Linear(10, 3)).to(dtype)


def vector(model: nn.Module) -> torch.Tensor:
    return parameters_to_vector(model.parameters()).detach().clone()


def closure_of(opt: torch.optim.Optimizer, loss_of: Callable[[], torch.Tensor]) -> Any:
    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss

    return closure


def gradient_at(model: nn.Module, point: torch.Tensor, loss_of: Any) -> torch.Tensor:
    """The gradient of ``loss_of(model)`` at the flat point, by autograd on a copy, without SAM."""
    twin = copy.deepcopy(model)
    nn.utils.vector_to_parameters(point, twin.parameters())
    grads = torch.autograd.grad(loss_of(twin), list(twin.parameters()))
    return torch.cat([g.reshape(-1) for g in grads])


def one_step(model: nn.Module, loss_of: Any, rho: float, lr: float) -> torch.Tensor:
    """x − lr ∇f(x + ρ ∇f(x)/‖∇f(x)‖)."""
    x = vector(model)
    g = gradient_at(model, x, loss_of)
    return x - lr * gradient_at(model, x + rho * g / g.norm(), loss_of)


def test_gradient_accumulation_is_the_whole_batch() -> None:
    model = mlp(dtype=torch.float64)
    x, y = data(dtype=torch.float64)
    expected = one_step(model, lambda m: cross_entropy(m(x), y), 0.3, 0.5)
    opt = SAM(model.parameters(), SGD, rho=0.3, lr=0.5)

    def closure() -> float:
        opt.zero_grad()
        total = 0.0
        for a, b in zip(x.split(8), y.split(8), strict=True):
            loss = cross_entropy(model(a), b) / 3
            loss.backward()
            total += loss.item()
        return total

    loss = opt.step(closure)
    assert torch.allclose(vector(model), expected, rtol=1e-12, atol=1e-14)
    assert isinstance(loss, float)


@pytest.mark.parametrize("by_hand", [False, True])
def test_gradient_clipping_of_the_descent_gradient(by_hand: bool) -> None:
    model = mlp(dtype=torch.float64)
    x, y = data(dtype=torch.float64)
    loss_of = lambda m: cross_entropy(m(x), y)  # noqa: E731
    start = vector(model)
    move = one_step(model, loss_of, 0.3, 1.0) - start
    clipped = 0.01  # well below either gradient's norm
    expected = start + move / move.norm() * clipped
    opt = SAM(model.parameters(), SGD, rho=0.3, lr=1.0)

    def closure() -> torch.Tensor:
        opt.zero_grad()
        loss = loss_of(model)
        loss.backward()
        if not by_hand:  # clipping in both passes: the ascent does not see it, being normalised
            clip_grad_norm_(model.parameters(), clipped)
        return loss

    if by_hand:
        closure()
        with opt.perturbed():
            closure()
        clip_grad_norm_(model.parameters(), clipped)
        opt.step()
    else:
        opt.step(closure)
    assert torch.allclose(vector(model), expected, rtol=0, atol=1e-7)  # clip's own 1e-6 in the norm


def test_lr_schedulers_drive_the_base_optimizer() -> None:
    model = mlp()
    x, y = data()
    opt = SAM(model.parameters(), SGD, rho=0.1, lr=0.4, momentum=0.9)
    plans: list[Any] = [
        lr_scheduler.CosineAnnealingLR(opt, 10),
        lr_scheduler.ReduceLROnPlateau(opt, patience=0, factor=0.5),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as "lr_scheduler.step() before optimizer.step()"
        opt.step(closure_of(opt, lambda: cross_entropy(model(x), y)))
        plans[0].step()
        plans[1].step(1.0)
        plans[1].step(2.0)
    lr = 0.4 * (1 + torch.cos(torch.tensor(torch.pi / 10)).item()) / 2 / 2
    assert opt.base_optimizer.param_groups[0]["lr"] == pytest.approx(lr)
    before = vector(model)
    opt.base_optimizer.state.clear()
    opt.step(closure_of(opt, lambda: cross_entropy(model(x), y)))
    grads = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
    assert torch.allclose(before - vector(model), lr * grads, rtol=1e-4, atol=1e-7)


def test_schedulers_count_hand_driven_steps_and_see_base_defaults() -> None:
    model = mlp()
    x, y = data()
    opt = SAM(model.parameters(), torch.optim.AdamW, rho=0.1, lr=0.1)
    plan = lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=10)  # also cycles betas
    passes = closure_of(opt, lambda: cross_entropy(model(x), y))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            passes()
            opt.first_step(zero_grad=True)
            passes()
            opt.second_step()
            plan.step()
    assert opt.base_optimizer.param_groups[0]["betas"][0] != 0.9


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batchnorm_statistics_update_once_a_step(momentum: float | None) -> None:
    model, plain = (mlp(nn.BatchNorm1d(10, momentum=momentum)) for _ in range(2))
    x, y = data()
    opt = SAM(model.parameters(), SGD, rho=2.0, model=model, lr=0.0)
    for k in range(3):
        batch, labels = x[8 * k : 8 * k + 8], y[8 * k : 8 * k + 8]
        opt.step(closure_of(opt, lambda b=batch, t=labels: cross_entropy(model(b), t)))
        plain(batch)  # one forward pass of the same weights
    for name, buffer in plain.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name
    assert model[1].num_batches_tracked == 3


def test_freeze_batchnorm_changes_only_the_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False))
    x = torch.randn(9, 4) * 3 + 1
    expected = copy.deepcopy(model)(x)
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def fail() -> None:
        with freeze_batchnorm(model), freeze_batchnorm(model):
            assert torch.equal(model(x), expected)
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.track_running_stats for m in model] == [True, False]
    model.eval()
    in_eval = model(x)
    with freeze_batchnorm(model):
        assert torch.equal(model(x), in_eval)  # running statistics are still what eval mode uses
    model.train()
    model(x)
    assert model[0].num_batches_tracked == 1


@pytest.mark.parametrize("momentum", [0.1, None])
def test_instance_norm_statistics_update_once_a_step(momentum: float | None) -> None:
    def net() -> nn.Sequential:
        torch.manual_seed(2)
        norm = nn.InstanceNorm1d(3, momentum=momentum or 0.1, track_running_stats=True)
        return nn.Sequential(nn.Conv1d(1, 3, 2), norm, nn.Tanh(), nn.Flatten(), nn.Linear(15, 3))

    model, plain = net(), net()
    x, y = data()
    x = x[:, None]
    opt = SAM(model.parameters(), SGD, rho=2.0, model=model, lr=0.0)
    for _ in range(3):
        opt.step(closure_of(opt, lambda: cross_entropy(model(x), y)))
        plain(x)
    for name, buffer in plain.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name
    model.eval()
    at_rest = model(x)
    with freeze_batchnorm(model):
        assert torch.equal(model(x), at_rest)


def test_dropout_masks_are_fresh_or_the_same() -> None:
    x, y = data()
    for same in (False, True):
        model = mlp(nn.Dropout(0.5))
        masks = []
        model[1].register_forward_hook(lambda _m, _i, out, log=masks: log.append(out == 0))
        opt = SAM(model.parameters(), SGD, rho=0.1, same_mask=same, lr=0.1)
        for _ in range(2):
            opt.step(closure_of(opt, lambda m=model: cross_entropy(m(x), y)))
        assert torch.equal(masks[0], masks[1]) is same
        assert torch.equal(masks[2], masks[3]) is same
        assert not torch.equal(masks[0], masks[2])  # the next step draws on


def test_same_mask_advances_the_generator_as_one_pass() -> None:
    x, y = data()
    model = mlp(nn.Dropout(0.5))
    opt = SAM(model.parameters(), SGD, rho=0.1, same_mask=True, lr=0.1)
    torch.manual_seed(8)
    model(x)
    after_one_pass = torch.get_rng_state()
    torch.manual_seed(8)
    opt.step(closure_of(opt, lambda: cross_entropy(model(x), y)))
    assert torch.equal(torch.get_rng_state(), after_one_pass)


def test_autocast_bfloat16() -> None:
    model = mlp()
    x, y = data()

    def loss_of(m: nn.Module) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return cross_entropy(m(x), y)

    expected = one_step(model, loss_of, 0.3, 0.5)
    opt = SAM(model.parameters(), SGD, rho=0.3, lr=0.5)
    opt.step(closure_of(opt, lambda: loss_of(model)))
    assert torch.allclose(vector(model), expected, rtol=0, atol=2e-3)  # bfloat16 passes
    assert all(p.dtype is torch.float32 for p in model.parameters())


def scaled_step(model: nn.Module, opt: SAM, scaler: Any, loss_of: Any, clip: float | None) -> None:
    opt.zero_grad()
    scaler.scale(loss_of(model)).backward()
    with opt.perturbed(grad_scale=scaler.get_scale()):
        opt.zero_grad()
        scaler.scale(loss_of(model)).backward()
    if clip is not None:
        scaler.unscale_(opt)
        clip_grad_norm_(model.parameters(), clip)
    scaler.step(opt)
    scaler.update()


@pytest.mark.parametrize("rule", ["sam", "asam", "unnormalised", "gsam"])
def test_grad_scaler_changes_nothing_but_overflow(rule: str) -> None:
    x, y = data(dtype=torch.float64)
    loss_of = lambda m: cross_entropy(m(x), y)  # noqa: E731
    ends = []
    for enabled in (False, True):
        model = mlp(dtype=torch.float64)
        opt = SAM(model.parameters(), torch.optim.Adam, rho=0.2, rule=rule, lr=0.02)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**13, enabled=enabled)
        for clip in (None, 0.01, None):
            scaled_step(model, opt, scaler, loss_of, clip)
        ends.append(vector(model))
    assert torch.allclose(*ends, rtol=1e-9, atol=1e-11)


def test_grad_scaler_skips_an_overflow_and_recovers() -> None:
    model = mlp(nn.BatchNorm1d(10))
    x, y = data()

    def loss_of(m: nn.Module) -> torch.Tensor:
        with torch.autocast("cpu", torch.float16):
            return cross_entropy(m(x).float(), y)

    opt = SAM(model.parameters(), SGD, rho=0.2, model=model, lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-28)
    before = vector(model)
    scaled_step(model, opt, scaler, loss_of, None)
    assert torch.equal(vector(model), before)  # skipped
    assert scaler.get_scale() == 2.0**12
    assert all(torch.isfinite(b).all() for b in model.buffers())  # x⁺ never was NaN
    scaled_step(model, opt, scaler, loss_of, None)
    assert not torch.equal(vector(model), before)
    assert torch.isfinite(vector(model)).all()


def test_after_a_skipped_step_a_second_pass_is_asked_for() -> None:
    model = mlp()
    x, y = data()
    opt = SAM(model.parameters(), SGD, rho=0.2, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    closure_of(opt, lambda: cross_entropy(model(x), y))()
    with opt.perturbed():
        closure_of(opt, lambda: scaler.scale(cross_entropy(model(x), y)) * torch.inf)()
    before = vector(model)
    scaler.step(opt)
    scaler.update()
    assert torch.equal(vector(model), before)
    assert opt.steps == 0
    with pytest.raises(BadInput, match="needs a closure"):
        opt.step()


def test_unscaling_between_the_passes_is_refused() -> None:
    model = mlp()
    x, y = data()
    opt = SAM(model.parameters(), SGD, rho=0.2, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    passes = closure_of(opt, lambda: scaler.scale(cross_entropy(model(x), y)))
    before = vector(model)
    passes()
    scaler.unscale_(opt)
    with opt.perturbed():
        passes()
    with pytest.raises(BadInput, match=r"call it after the perturbed\(\) block"):
        scaler.step(opt)
    assert torch.equal(vector(model), before)


def test_a_monitor_reads_scaled_passes() -> None:
    x, y = data(dtype=torch.float64)
    readings = []
    for scale in (1.0, 4096.0):
        model = mlp(dtype=torch.float64)
        opt = SAM(model.parameters(), SGD, rho=0.2, lr=0.1)
        monitor = HallucinationMonitor(opt)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        opt.zero_grad()
        loss = cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        with opt.perturbed(grad_scale=scaler.get_scale()):
            opt.zero_grad()
            shifted = cross_entropy(model(x), y)
            scaler.scale(shifted).backward()
        scaler.step(opt)
        readings.append(monitor.record(loss, shifted))
    assert tuple(readings[0]) == pytest.approx(tuple(readings[1]), rel=1e-9)


STEPS: dict[str, Callable[[SAM, Any], Any]] = {}


def way(function: Callable[[SAM, Any], Any]) -> Callable[[SAM, Any], Any]:
    STEPS[function.__name__] = function
    return function


@way
def closure_step(opt: SAM, passes: Any) -> None:
    opt.step(passes)


@way
def perturbed_block(opt: SAM, passes: Any) -> None:
    passes()
    with opt.perturbed():
        passes()
    opt.step()


@way
def first_and_second_step(opt: SAM, passes: Any) -> None:
    passes()
    opt.first_step(zero_grad=True)
    passes()
    opt.second_step()


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("rule", ["sam", "gsam"])
def test_a_compiled_training_step_is_the_eager_one(name: str, rule: str) -> None:
    x, y = data()
    ends, graphs = [], []

    def counting(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for compiled in (False, True):
        torch._dynamo.reset()
        model = mlp()
        opt = SAM(model.parameters(), SGD, rho=0.1, rule=rule, lr=1.0, momentum=0.5)
        call = torch.compile(model, backend=counting) if compiled else model
        passes = closure_of(opt, lambda net=call: cross_entropy(net(x), y))

        def step(opt: Any = opt, passes: Any = passes) -> None:
            STEPS[name](opt, passes)

        step = torch.compile(step, backend="eager") if compiled else step
        for _ in range(3):
            step()
        ends.append(vector(model))
    torch._dynamo.reset()
    assert torch.allclose(*ends, rtol=0, atol=1e-6)
    assert graphs or name != "closure_step"  # the model in the closure is compiled all the same


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_models_step_like_eager_ones(backend: str) -> None:
    x, y = data()
    # Two graphs for BatchNorm, frozen or not; inductor's C++ builds are slow, so it gets one graph.
    extra = [nn.BatchNorm1d] if backend == "aot_eager" else []
    eager, model = (mlp(*(layer(10) for layer in extra)) for _ in range(2))
    compiled = torch.compile(model, backend=backend)
    ends = []
    for m, call in ((eager, eager), (model, compiled)):
        opt = SAM(m.parameters(), SGD, rho=0.2, model=call, lr=0.1, momentum=0.9)
        for _ in range(4):
            opt.step(closure_of(opt, lambda o=call: cross_entropy(o(x), y)))
        ends.append(vector(m))
    assert torch.allclose(*ends, rtol=0, atol=1e-5)
    for name, buffer in eager.named_buffers():
        assert torch.allclose(model.get_buffer(name), buffer, atol=1e-5)
    if extra:
        assert model[1].num_batches_tracked == 4


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    x, y = data(dtype=torch.float32)
    mine = slice(12 * rank, 12 * rank + 12)
    out: dict[str, Any] = {}
    for name, bucket_view in (("sam", False), ("gsam", True), ("m_sam", False), ("bucket", True)):
        model = mlp()
        ddp = DistributedDataParallel(model, gradient_as_bucket_view=bucket_view)
        m_sam = name in ("m_sam", "bucket")
        rule = "gsam" if name == "gsam" else "sam"
        options = {"rho": 0.5, "rule": rule, "warm_start": 2, "lr": 0.2, "momentum": 0.9}
        opt = SAM(ddp.parameters(), SGD, model=ddp, m_sam=m_sam, **options)
        trail, climbs = [], []
        first_step = opt.first_step

        def spy(*args: Any, log: Any = climbs, climb: Any = first_step, **kw: Any) -> None:
            climb(*args, **kw)
            log.append(vector(model))  # noqa: B023

        opt.first_step = spy  # type: ignore[method-assign]
        for _ in range(12):
            opt.step(closure_of(opt, lambda net=ddp: cross_entropy(net(x[mine]), y[mine])))
            trail.append(vector(model))
        out[name] = (torch.stack(trail), torch.stack(climbs))
    torch.save(out, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ddp")
    mp.spawn(_worker, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam", "gsam", "m_sam", "bucket"])
def test_ddp_replicas_stay_bit_identical(replicas: list[dict[str, Any]], name: str) -> None:
    (first, climbs_first), (second, climbs_second) = (r[name] for r in replicas)
    assert torch.equal(first, second)
    assert len(climbs_first) == 10  # the warm start's two steps have one pass
    same = torch.equal(climbs_first, climbs_second)
    assert same is (name in ("sam", "gsam"))  # m-SAM: each worker perturbs by its own gradient


def test_ddp_sam_is_sam_on_the_whole_batch(replicas: list[dict[str, Any]]) -> None:
    x, y = data()
    for name in ("sam", "gsam"):
        model = mlp()
        rule = "gsam" if name == "gsam" else "sam"
        options = {"rho": 0.5, "rule": rule, "warm_start": 2, "lr": 0.2, "momentum": 0.9}
        opt = SAM(model.parameters(), SGD, **options)
        for k in range(12):
            opt.step(closure_of(opt, lambda m=model: cross_entropy(m(x), y)))
            assert torch.allclose(vector(model), replicas[0][name][0][k], rtol=0, atol=1e-5)


def test_ddp_m_sam_averages_the_workers_shifted_gradients(replicas: list[dict[str, Any]]) -> None:
    x, y = data()
    model = mlp()
    for name in ("m_sam", "bucket"):
        trail = replicas[0][name][0]
        velocity = (trail[0] - trail[1]) / 0.2  # SGD's buffer after the second step
        nn.utils.vector_to_parameters(trail[1], model.parameters())
        shifted = []
        for mine in (slice(0, 12), slice(12, 24)):
            loss_of = lambda m, s=mine: cross_entropy(m(x[s]), y[s])  # noqa: E731
            g = gradient_at(model, trail[1], loss_of)
            shifted.append(gradient_at(model, trail[1] + 0.5 * g / g.norm(), loss_of))
        expected = trail[1] - 0.2 * (0.9 * velocity + torch.stack(shifted).mean(0))
        assert torch.allclose(trail[2], expected, rtol=0, atol=1e-6)


def test_samlib_passes_every_question_but_one_that_it_asks_of_the_peers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "benchmarks" / "peers")
    faults = importlib.import_module("faults")
    ours = faults.measure(next(peer for peer in faults.PEERS if peer.name == "samlib"))
    failed = {name: row["seen"] for name, row in ours.items() if row["ok"] is not True}
    # SAM needs two passes over all micro-batches: it cannot do this one, and refuses it.
    assert failed == {"accumulation": "refused: BadInput: older gradients were not cleared"}
    recorded = json.loads(Path(faults.__file__).with_name("faults.json").read_text())
    assert set(recorded["checks"]) == set(faults.CHECKS)
    for peer in recorded["peers"].values():
        assert set(peer["results"]) == set(ours)
