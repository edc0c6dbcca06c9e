"""Training restated independently: the step, the stack, the schedules, the verdict's inputs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn

from samlib.errors import BadInput
from samlib.training import data, loop, models, schedules
from samlib.training.spec import RunSpec
from samlib.training.stacked_loss import StackedLoss

SMALL = RunSpec(n=60, width=4, rho=0.7, lr=0.05, steps=20, dtype="float64", seed=3)


def reference(spec: RunSpec, rule: str = "sam") -> tuple[np.ndarray, float]:
    """SAM from the paper's equation with torch.nn and per-parameter arithmetic: (θ, final f)."""
    ds = data.load_data(spec.data, n=spec.n, features=spec.features)
    x, y = torch.tensor(ds.x_train), torch.tensor(ds.y_train)
    torch.manual_seed(spec.seed)
    net = nn.Sequential(nn.Linear(x.shape[1], spec.width), nn.Tanh(), nn.Linear(spec.width, 10))
    net = net.double()
    params = list(net.parameters())

    def gradient() -> tuple[list[torch.Tensor], float]:
        decay = sum((p**2).sum() for p in params) * spec.weight_decay / 2
        f = nn.functional.cross_entropy(net(x), y) + decay
        return list(torch.autograd.grad(f, params)), f.item()

    velocity, factor = [torch.zeros_like(p) for p in params], 1.0
    start = int(spec.warm_start * spec.steps)
    for t in range(spec.steps):
        g, _ = gradient()
        norm = torch.sqrt(sum((v**2).sum() for v in g))
        part = (t - start) / (spec.steps - start)
        rho = spec.rho * {"ramp": part, "decay": 1 - part}.get(spec.schedule, factor)
        rho = 0.0 if t < start or rule == "gd" else rho
        saved = [p.detach().clone() for p in params]
        with torch.no_grad():
            for p, v in zip(params, g, strict=True):
                p += rho * v / norm
        g, _ = gradient()
        if spec.schedule == "adaptive":
            small = torch.sqrt(sum((v**2).sum() for v in g)) < 0.1 * norm
            factor = factor / 1.01 if small else min(1.0, factor * 1.01)
        with torch.no_grad():
            for p, s, v, m in zip(params, saved, g, velocity, strict=True):
                m.copy_(spec.momentum * m + v)
                p.copy_(s - spec.lr * m)
    flat = torch.cat([p.detach().reshape(-1) for p in params]).numpy()
    return flat, gradient()[1]


@pytest.mark.parametrize("warm_start", [0.0, 0.25])
@pytest.mark.parametrize("weight_decay", [0.0, 0.03])
def test_training_equals_a_plain_reference(warm_start: float, weight_decay: float) -> None:
    spec = dataclasses.replace(SMALL, warm_start=warm_start, weight_decay=weight_decay)
    run = loop.train(spec)
    theta, f = reference(spec)
    np.testing.assert_allclose(run.theta, theta, rtol=0, atol=1e-12)
    assert run.metrics["loss"] == pytest.approx(f, abs=1e-12)
    _, twin = reference(spec, "gd")
    assert run.metrics["twin_loss"] == pytest.approx(twin, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["constant", "ramp", "decay", "adaptive"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_schedules_and_momentum_equal_a_plain_reference(schedule: str, momentum: float) -> None:
    change = {"schedule": schedule, "momentum": momentum, "warm_start": 0.25, "lr": 0.03}
    if schedule == "adaptive":  # it needs a run that hallucinates
        change |= {"rho": 2.0, "lr": 0.1, "steps": 200, "warm_start": 0.0}
    spec = dataclasses.replace(SMALL, **change)
    run = loop.train(spec)
    theta, f = reference(spec)
    np.testing.assert_allclose(run.theta, theta, rtol=0, atol=1e-7)  # 200 steps magnify rounding
    assert run.metrics["loss"] == pytest.approx(f, abs=1e-7)
    still = loop.train(dataclasses.replace(spec, schedule="constant"))
    assert (abs(run.theta - still.theta).max() > 1e-3) == (schedule != "constant")


def test_later_options_leave_old_ids_alone() -> None:
    assert "momentum" not in SMALL.to_json()
    assert "schedule" not in SMALL.to_json()
    spec = dataclasses.replace(SMALL, momentum=0.5, schedule="ramp")
    assert spec.id != SMALL.id
    assert RunSpec.from_json(spec.to_json()) == spec
    assert RunSpec(rho=0.0, lr=0.01).id == "d7b0b8ca24ee3916"  # as the record digits-cliff has it


def test_mini_batch_runs_are_measured_on_all_the_data() -> None:
    spec = dataclasses.replace(SMALL, batch=20, steps=500)
    trace = loop.train(spec).trace
    full = loop.train(dataclasses.replace(spec, batch=None)).trace
    assert trace.loss[0] == pytest.approx(full.loss[0], abs=1e-12)
    held = trace.loss[:-1].reshape(-1, 2)  # 500 steps, 200 measures: every second step
    assert (held[:, 0] == held[:, 1]).all()
    assert len(set(held[:, 0])) == 250


def test_a_stack_equals_its_runs_one_at_a_time() -> None:
    specs = [dataclasses.replace(SMALL, rho=r, seed=s) for r in (0.0, 0.5, 2.0) for s in (0, 1)]
    specs += [dataclasses.replace(SMALL, lr=0.2, warm_start=0.5, steps=20)]
    together = loop.train_many(specs)
    for spec, run in zip(specs, together, strict=True):
        alone = loop.train(spec)
        assert run.spec == spec
        np.testing.assert_allclose(run.theta, alone.theta, rtol=0, atol=1e-12)


def test_what_may_share_a_stack_and_a_loss() -> None:
    base = dataclasses.replace(SMALL, batch=None)
    for change in ({"rho": 9.0}, {"lr": 1.0}, {"warm_start": 0.5}, {"momentum": 0.5},
                   {"schedule": "ramp"}, {"seed": 8}, {"rule": "gd"}):  # fmt: skip
        assert len(loop.stacks([base, dataclasses.replace(base, **change)])) == 1, change
    for change in ({"rule": "gsam"}, {"steps": 5}, {"batch": 20}):
        other = dataclasses.replace(base, **change)
        assert len(loop.stacks([base, other])) == 2, change
        assert loop.loss_key(base) == loop.loss_key(other)
    for change in ({"n": 50}, {"width": 5}, {"weight_decay": 0.1}, {"label_noise": 0.1},
                   {"dtype": "float32"}, {"data_seed": 1}, {"loss": "mse"}):  # fmt: skip
        other = dataclasses.replace(base, **change)
        assert len(loop.stacks([base, other])) == 2, change
        assert loop.loss_key(base) != loop.loss_key(other)
    noisy = dataclasses.replace(base, batch=20)  # rows share their batches, so their seed
    assert len(loop.stacks([noisy, dataclasses.replace(noisy, seed=8)])) == 2


def test_a_stack_in_single_precision_equals_its_runs_to_rounding() -> None:
    single = dataclasses.replace(SMALL, dtype="float32", n=None, width=16)
    specs = [dataclasses.replace(single, rho=r, seed=s) for r in (0.2, 2.0) for s in range(4)]
    for spec, run in zip(specs, loop.train_many(specs), strict=True):
        np.testing.assert_allclose(run.theta, loop.train(spec).theta, rtol=0, atol=2e-6)


def test_a_memory_bound_splits_a_stack_and_changes_nothing() -> None:
    specs = [dataclasses.replace(SMALL, rho=r, seed=s) for r in (0.5, 2.0) for s in (0, 1)]
    row = loop.objective(SMALL)[0].row_bytes(SMALL.steps)
    sizes = {}
    for memory in (1, 4 * row, 2**30):
        runs = loop.train_many(specs, memory=memory)
        sizes[memory] = [r.provenance["stack"] for r in runs]
        for run, free in zip(runs, loop.train_many(specs), strict=True):
            np.testing.assert_allclose(run.theta, free.theta, rtol=0, atol=1e-12)
            assert run.verdict == free.verdict
    assert list(sizes.values()) == [[1] * 4, [4] * 4, [6] * 4]  # with two twins


def test_the_same_spec_gives_the_same_bytes_twice() -> None:
    spec = dataclasses.replace(SMALL, dtype="float32", steps=50)
    a, b = loop.train(spec), loop.train(spec)
    assert a.theta.tobytes() == b.theta.tobytes()
    assert a.trace.loss.tobytes() == b.trace.loss.tobytes()


def test_zero_radius_is_gradient_descent_bit_for_bit() -> None:
    spec = dataclasses.replace(SMALL, rho=0.0)
    a, b = loop.train_many([spec, spec.twin()])
    assert a.theta.tobytes() == b.theta.tobytes()


def test_the_trace_ends_at_the_final_point() -> None:
    run = loop.train(SMALL)
    assert len(run.trace.loss) == SMALL.steps + 1
    assert run.trace.loss[-1] == run.metrics["loss"]
    curves = run.curves(10)
    assert curves["step"][0] == 0
    assert curves["step"][-1] == SMALL.steps
    assert curves["loss"].dtype == np.float32


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["ce", "mse", "logistic"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu"])
@pytest.mark.parametrize("rows", [slice(None), slice(7, 19)])
def test_the_objective_against_torch_nn(
    loss: str, depth: int, activation: str, rows: slice
) -> None:
    ds = data.load_data("digits", n=50, classes=(3, 8))
    spec = RunSpec(loss=loss, weight_decay=0.1, dtype="float64", width=3, depth=depth)
    f = StackedLoss(dataclasses.replace(spec, activation=activation), ds)
    theta = torch.stack([f.initial(s) for s in (0, 1)])
    values, g = f.value_and_grad(theta, torch.arange(50)[rows])
    x, y = torch.tensor(ds.x_train)[rows], torch.tensor(ds.y_train)[rows]
    for i, seed in enumerate((0, 1)):
        net = models.build_model("mlp", seed=seed, **f.options).double()
        out = net(x)
        if loss == "ce":
            value = nn.functional.cross_entropy(out, y)
        elif loss == "mse":
            value = ((out - nn.functional.one_hot(y).double()) ** 2).sum(1).mean() / 2
        else:
            value = nn.functional.softplus(torch.where(y == 1, -out[:, 0], out[:, 0])).mean()
        value = value + 0.05 * sum((p**2).sum() for p in net.parameters())
        want = torch.autograd.grad(value, list(net.parameters()))
        want_flat = torch.cat([v.reshape(-1) for v in want])
        torch.testing.assert_close(g[i], want_flat, rtol=0, atol=1e-13)
        assert float(values[i]) == pytest.approx(value.item(), abs=1e-13)


def test_hessian_vector_products_against_finite_differences() -> None:
    f, _ = loop.objective(RunSpec(n=40, weight_decay=0.1, dtype="float64", width=3))
    theta = torch.stack([f.initial(s) for s in (0, 1)])
    v = torch.randn(theta.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = 1e-6
    difference = (f.grad(theta + h * v) - f.grad(theta - h * v)) / (2 * h)
    torch.testing.assert_close(f.hvp(theta, v), difference, rtol=0, atol=1e-7)


def test_the_baseline_is_the_best_constant_guess() -> None:
    ds = data.load_data("digits", n=97)
    p = np.bincount(ds.y_train) / 97
    assert StackedLoss(RunSpec(), ds).baseline == pytest.approx(-(p * np.log(p)).sum(), abs=1e-12)
    hot = np.eye(10)[ds.y_train]
    best = ((hot - hot.mean(0)) ** 2).sum(1).mean() / 2
    assert StackedLoss(RunSpec(loss="mse"), ds).baseline == pytest.approx(best, abs=1e-12)


def test_mini_batches_cover_an_epoch() -> None:
    spec = dataclasses.replace(SMALL, batch=20)
    it = schedules.batches(spec, 60, "cpu")
    epoch = torch.cat([next(it) for _ in range(3)])
    assert sorted(epoch.tolist()) == list(range(60))
    assert next(schedules.batches(SMALL, 60, "cpu")) is None
    run = loop.train(spec)
    assert run.metrics["loss"] != loop.train(SMALL).metrics["loss"]


def test_a_diverging_run_ends_early_and_leaves_the_others_alone() -> None:
    wild = dataclasses.replace(SMALL, lr=1e3, weight_decay=1.0, steps=300)
    calm = dataclasses.replace(wild, lr=0.01)
    bad, good = loop.train_many([wild, calm])
    assert bad.verdict == "diverged"
    assert bad.metrics["steps"] < 300
    assert good.metrics["steps"] == 300
    np.testing.assert_allclose(good.theta, loop.train(calm).theta, atol=1e-12)
    text = json.dumps(bad.record(), allow_nan=False)  # NaN never reaches a record
    assert json.loads(text)["verdict"] == "diverged"


def test_a_stack_of_which_all_rows_diverge_ends_early() -> None:
    wild = dataclasses.replace(SMALL, lr=1e3, weight_decay=1.0, steps=1000)
    made: list[int] = []
    specs = [wild, dataclasses.replace(wild, seed=4)]
    runs = loop.train_many(specs, twins=False, progress=made.append)
    assert [r.verdict for r in runs] == ["diverged"] * 2
    assert sum(made) < 2 * 1000


def test_specs_round_trip_and_hash() -> None:
    spec = dataclasses.replace(SMALL, classes=(3, 8))
    again = RunSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.id == spec.id
    assert hash(again) == hash(spec)
    assert dataclasses.replace(spec, rho=0.8).id != spec.id


NUMBERS = some.sampled_from(
    [0, 0.0, -0.0, 1, 1.0, np.float32(1), np.float64(0.5), 0.5, np.int64(1)]
)
WHOLES = some.sampled_from([1, 2, np.int64(2), np.int32(1)])
SPECS = some.fixed_dictionaries(
    {
        "rho": NUMBERS,
        "label_noise": NUMBERS,
        "weight_decay": NUMBERS,
        "warm_start": NUMBERS,
        "width": WHOLES,
        "n": WHOLES | some.none(),
        "classes": some.sampled_from([None, (1, 2), [1, 2], np.array([1, 2]), (np.int64(2), 1)]),
        "data": some.sampled_from(["digits", np.str_("digits"), Path("digits"), "karate"]),
        "schedule": some.sampled_from(["constant", "ramp"]),
        "momentum": some.sampled_from([0, 0.0, 0.5]),
    }
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(SPECS, SPECS)
def test_specs_are_equal_just_when_their_ids_are(a: dict[str, Any], b: dict[str, Any]) -> None:
    one, two = RunSpec(**a), RunSpec(**b)
    assert (one == two) == (one.id == two.id)
    for name in a.keys() & b.keys():  # what differs by kind alone is one value
        same = str(a[name]) == str(b[name]) or np.array_equal(a[name], b[name])
        mixed = dataclasses.replace(one, **{name: b[name]})
        assert (mixed == one) == (mixed.id == one.id)
        assert mixed == one or not same
    again = RunSpec.from_json(json.loads(json.dumps(one.to_json())))
    assert (again, again.id, hash(again)) == (one, one.id, hash(one))


def test_a_number_is_one_whatever_its_type() -> None:
    whole = RunSpec(rho=2, lr=1, width=4, n=60)  # type: ignore[arg-type]
    ids = {whole.id, RunSpec(rho=np.float32(2), lr=1.0, width=np.int64(4), n=np.int16(60)).id}
    assert ids == {RunSpec(rho=2.0, lr=1.0, width=4, n=60).id}
    assert RunSpec(rho=-0.0).id == RunSpec(rho=0.0).id
    assert [type(v) for v in (whole.rho, whole.lr, whole.width, whole.n)] == [
        float,
        float,
        int,
        int,
    ]
    assert '"rho": 2.0' in json.dumps(whole.to_json())
    assert RunSpec(classes=np.array([3, 8])).classes == (3, 8)  # type: ignore[arg-type]
    assert RunSpec(data=Path("pictures")).to_json()["data"] == "pictures"  # type: ignore[arg-type]


def test_a_momentum_runs_twin_has_the_momentum_and_no_ascent() -> None:
    """Else the comparison would be with another optimizer: momentum 0.9 moves ten times as far."""
    spec = dataclasses.replace(SMALL, momentum=0.9, warm_start=0.25, schedule="ramp", batch=20)
    twin = spec.twin()
    assert (twin.momentum, twin.rho, twin.warm_start) == (0.9, 0.0, 0.0)
    assert (twin.rule, twin.schedule) == ("gd", "constant")
    changed = {"rule": "gd", "rho": 0.0, "warm_start": 0.0, "schedule": "constant"}
    assert dataclasses.replace(spec, **changed) == twin == twin.twin()
    full = dataclasses.replace(SMALL, momentum=0.9)
    _, due = reference(dataclasses.replace(full, rule="gd", rho=0.0), "gd")
    _, without = reference(dataclasses.replace(SMALL, rule="gd", rho=0.0), "gd")
    assert loop.train(full).metrics["twin_loss"] == pytest.approx(due, abs=1e-10)
    assert abs(due - without) > 0.01


def test_an_adaptive_radius_answers_below_a_tenth_on_any_device() -> None:
    spec = dataclasses.replace(SMALL, schedule="adaptive")
    for ratio, factor in ((0.1 * (1 - 1e-6), 1 / 1.01), (0.1 * (1 + 1e-6), 1.0)):
        radius = schedules.Radius([spec], torch.zeros(1, dtype=torch.float64))
        radius.feedback(torch.tensor([ratio], dtype=torch.float64))
        assert radius.at(1).item() == pytest.approx(spec.rho * factor, rel=1e-12)
    far = schedules.Radius([spec], torch.zeros(1, device="meta"))  # it stands for a GPU
    far.feedback(torch.tensor([0.05]))
    assert far.at(1).device.type == "meta"


BAD = [
    ({"rho": -1.0}, "rho = -1.0"),
    ({"rho": float("nan")}, "rho = nan"),
    ({"rho": 1e9}, "1e+06"),
    ({"lr": 0.0}, "lr = 0.0"),
    ({"lr": float("inf")}, "lr = inf"),
    ({"steps": 0}, "steps = 0"),
    ({"steps": 1.5}, "steps = 1.5"),
    ({"warm_start": 2.0}, "warm_start = 2.0"),
    ({"weight_decay": -0.1}, "weight_decay = -0.1"),
    ({"rule": "sgd"}, "rule 'sgd'"),
    ({"model": "vgg"}, "model 'vgg'"),
    ({"loss": "hinge"}, "loss 'hinge'"),
    ({"dtype": "float8"}, "dtype 'float8'"),
    ({"n": 0}, "n = 0"),
    ({"batch": 0}, "batch = 0"),
    ({"seed": -1}, "seed = -1"),
    ({"rho": True}, "rho = True is not a number"),
    ({"rho": np.True_}, "is not a number"),
    ({"rho": "0.1"}, "rho = '0.1' is not a number"),
    ({"rho": [0.1]}, "rho = [0.1] is not a number"),
    ({"rho": None}, "rho = None is not a number"),
    ({"rho": 1j}, "rho = 1j is not a number"),
    ({"rho": 10**400}, "is not a number in [0, 1e+06]"),
    ({"label_noise": float("nan")}, "label_noise = nan"),
    ({"label_noise": 1.5}, "label_noise = 1.5"),
    ({"momentum": 1.0}, "momentum = 1.0"),
    ({"width": 2.0}, "width = 2.0"),
    ({"width": True}, "width = True"),
    ({"depth": None}, "depth = None"),
    ({"steps": float("inf")}, "steps = inf"),
    ({"data": ["digits"]}, "data = ['digits'] is no text"),
    ({"data": b"digits"}, "data = b'digits' is no text"),
    ({"features": 3}, "features = 3 is no text"),
    ({"activation": None}, "activation = None is no text"),
    ({"rule": ["sam"]}, "rule ['sam'] is unknown"),
    ({"schedule": {}}, "schedule {} is unknown"),
    ({"classes": 3}, "classes = 3 are no whole numbers"),
    ({"classes": "38"}, "classes = '38' are no whole numbers"),
    ({"classes": ()}, "classes = () are no whole numbers"),
    ({"classes": (3, 8.0)}, "classes = 8.0"),
    ({"classes": (3, True)}, "classes = True"),
    ({"classes": (3, -1)}, "classes = -1"),
]


@pytest.mark.parametrize(("change", "names"), BAD, ids=[str(b[0]) for b in BAD])
def test_a_bad_spec_is_named(change: dict[str, object], names: str) -> None:
    with pytest.raises(BadInput) as error:
        dataclasses.replace(SMALL, **change)
    assert names in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_networks_and_devices_are_named() -> None:
    for change, text in (
        ({"width": 0}, "width = 0"),
        ({"activation": "sine"}, "activation 'sine'"),
        ({"loss": "logistic"}, "needs 2 classes"),
    ):
        with pytest.raises(BadInput, match=text):
            loop.train(dataclasses.replace(SMALL, **change))
    with pytest.raises(BadInput, match="unknown"):
        loop.resolve_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="no CUDA device"):
            loop.resolve_device("cuda")


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    loop.train(SMALL)
    assert torch.get_num_threads() == before
