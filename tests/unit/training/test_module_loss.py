"""Networks that train one at a time, restated independently; their data; what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samlib.errors import BadInput
from samlib.experiments import records, sweeps
from samlib.training import data, gcn, loop, models, module_loss, schedules
from samlib.training.spec import RunSpec

CLUB = RunSpec(
    data="karate",
    model="gcn",
    width=5,
    activation="relu",
    rho=0.4,
    lr=0.2,
    steps=30,
    dtype="float64",
    seed=2,
)
SUMS = dataclasses.replace(
    CLUB, data="modular-addition-7", model="transformer", width=8, lr=0.05, rho=0.7
)

# The karate club's matrix of ties, one byte each
TIES = "5642e4e99df3aa69c119d56bd6da5e86b70d5de611e64b08110ba1f68c1742b6"


def club(params: list[Tensor], x: Tensor) -> Tensor:
    """The graph network in three lines of its own."""
    ties = networkx.to_numpy_array(networkx.karate_club_graph(), weight=None)
    a = torch.tensor(ties) + torch.eye(34)
    mix = a / torch.outer(a.sum(0), a.sum(1)).sqrt()
    return (mix @ (mix @ params[0].T).clamp(min=0) @ params[1].T)[x.argmax(1)]


def reader(params: list[Tensor], x: Tensor) -> Tensor:
    """The transformer from the equations: pre-norm attention with 4 heads, then an MLP."""
    token, place, wi, bi, wo, bo, w1, b1, w2, b2, g1, c1, g2, c2, head, c = params

    def norm(h: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        return (
            gain * (h - h.mean(-1, keepdim=True)) / (h.var(-1, False, keepdim=True) + 1e-5).sqrt()
            + shift
        )

    end = torch.full((len(x), 1), len(token) - 1.0)
    h = token[torch.cat([x, end], 1).long()] + place[:3]
    q, k, v = (norm(h, g1, c1) @ wi.T + bi).view(len(x), 3, 3, 4, -1).permute(2, 0, 3, 1, 4)
    weight = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    h = h + (weight @ v).transpose(1, 2).reshape(h.shape) @ wo.T + bo
    h = h + (norm(h, g2, c2) @ w1.T + b1).clamp(min=0) @ w2.T + b2
    return h[:, 2] @ head.T + c


def reference(
    spec: RunSpec, forward: Callable[..., Tensor], rows: Iterable[Tensor | slice]
) -> tuple[np.ndarray, float]:
    """SAM from the paper's equation: the last parameters and f there on all the data."""
    ds = data.load_data(spec.data)
    x, y = torch.tensor(ds.x_train), torch.tensor(ds.y_train)
    count = 34 if spec.model == "gcn" else ds.num_classes
    options = {"width": spec.width, "activation": "relu", "in_features": count}
    net = models.build_model(spec.model, seed=spec.seed, out_features=ds.num_classes, **options)
    theta = [p.detach().double().requires_grad_() for p in net.parameters()]
    velocity, start = [torch.zeros_like(p) for p in theta], int(spec.warm_start * spec.steps)

    def value(at: list[Tensor], row: Tensor | slice) -> Tensor:
        penalty = spec.weight_decay / 2 * sum((p**2).sum() for p in at)
        return F.cross_entropy(forward(at, x[row]), y[row]) + penalty

    for t, row in zip(range(spec.steps), rows, strict=False):
        g = torch.autograd.grad(value(theta, row), theta)
        part = (t - start) / (spec.steps - start) if spec.schedule == "ramp" else 1.0
        scale = (t >= start) * spec.rho * part / sum((v**2).sum() for v in g).sqrt()
        up = [(p + scale * v).detach().requires_grad_() for p, v in zip(theta, g, strict=True)]
        g = torch.autograd.grad(value(up, row), up)
        velocity = [spec.momentum * m + v for m, v in zip(velocity, g, strict=True)]
        theta = [
            (p - spec.lr * m).detach().requires_grad_()
            for p, m in zip(theta, velocity, strict=True)
        ]
    flat = torch.cat([p.detach().reshape(-1) for p in theta]).numpy()
    return flat, value(theta, slice(None)).item()


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"warm_start": 0.2, "schedule": "ramp", "momentum": 0.5}])
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize(("spec", "forward"), [(CLUB, club), (SUMS, reader)], ids=["gcn", "tf"])
def test_training_equals_a_plain_reference(
    spec: RunSpec, forward: Callable[..., Tensor], weight_decay: float, change: dict[str, object]
) -> None:
    spec = dataclasses.replace(spec, weight_decay=weight_decay, **change)
    run = loop.train(spec)
    theta, f = reference(spec, forward, [slice(None)] * spec.steps)
    np.testing.assert_allclose(run.theta, theta, rtol=0, atol=1e-10)
    assert run.trace.loss[-1] == run.metrics["loss"] == pytest.approx(f, abs=1e-10)
    _, twin = reference(dataclasses.replace(spec.twin(), rho=0.0), forward, [slice(None)] * 30)
    assert run.metrics["twin_loss"] == pytest.approx(twin, abs=1e-10)
    assert len(run.trace.loss) == spec.steps + 1


def test_the_baseline_is_the_entropy_of_the_classes_as_they_are() -> None:
    """Of 25 sums modulo 7 the remainders are not equally frequent."""
    y = data.load_data(SUMS.data).y_train
    prior = np.bincount(y) / len(y)
    assert prior.max() > prior.min()
    run = loop.train(dataclasses.replace(SUMS, steps=1), twins=False)
    due = -(prior * np.log(prior)).sum()
    assert run.metrics["baseline"] == pytest.approx(due, abs=1e-12)
    assert due < np.log(7) - 1e-3


def test_a_momentum_runs_twin_has_the_momentum() -> None:
    spec = dataclasses.replace(CLUB, momentum=0.5)
    plain = dataclasses.replace(spec, rule="gd", rho=0.0)
    _, due = reference(plain, club, [slice(None)] * spec.steps)
    assert loop.train(spec).metrics["twin_loss"] == pytest.approx(due, abs=1e-10)
    still = dataclasses.replace(plain, momentum=0.0)
    assert abs(reference(still, club, [slice(None)] * spec.steps)[1] - due) > 1e-3


def test_an_adaptive_schedule_shrinks_the_radius_of_a_run_that_hallucinates() -> None:
    spec = dataclasses.replace(CLUB, schedule="adaptive", rho=4.0, steps=60)
    ratio = loop.train(spec, twins=False).trace.grad_ratio
    factor, due = 1.0, []
    for r in ratio[:-1]:
        factor = factor / 1.01 if r < 0.1 else min(1.0, factor * 1.01)
        due.append(factor)
    radius, got = schedules.Radius([spec], torch.zeros(1, dtype=torch.float64)), []
    for r in ratio[:-1]:
        radius.feedback(torch.tensor([r]))
        got.append(float(radius.at(1)) / 4.0)
    assert got == pytest.approx(due, rel=1e-12)


def test_mini_batches_are_trained_on_and_the_sample_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = dataclasses.replace(SUMS, batch=5)
    draw = torch.Generator().manual_seed(spec.seed)
    rows = [torch.randperm(25, generator=draw).split(5) for _ in range(6)]
    theta, f = reference(spec, reader, [r for epoch in rows for r in epoch])
    run = loop.train(spec)
    np.testing.assert_allclose(run.theta, theta, rtol=0, atol=1e-10)
    assert run.metrics["loss"] == pytest.approx(f, abs=1e-10)  # all 25 examples are the sample
    monkeypatch.setattr(module_loss.ModuleLoss, "LOOKS", 3)  # looking moves nothing
    monkeypatch.setattr(module_loss.ModuleLoss, "SAMPLE", 10)
    again = loop.train(spec)
    assert again.theta.tobytes() == run.theta.tobytes()
    assert len(set(again.trace.loss)) == 4
    ds = data.load_data(spec.data)
    x, y = torch.tensor(ds.x_train[:10]), torch.tensor(ds.y_train[:10])
    net = module_loss.network(spec, ds)
    assert again.trace.loss[0] == pytest.approx(F.cross_entropy(net(x), y).item(), abs=1e-12)


def test_the_shifted_numbers_are_those_at_x_plus() -> None:
    run, ds = loop.train(CLUB), data.load_data("karate")
    x, y = torch.tensor(ds.x_train), torch.tensor(ds.y_train)
    sizes = [34 * 5, 5 * 2]

    def at(theta: np.ndarray) -> tuple[float, np.ndarray, Tensor]:
        parts = torch.split(torch.tensor(theta, requires_grad=True), sizes)
        parts = [
            p.view(-1, k).detach().requires_grad_() for p, k in zip(parts, (34, 5), strict=True)
        ]
        out = club(parts, x)
        value = F.cross_entropy(out, y)
        g = torch.cat([v.reshape(-1) for v in torch.autograd.grad(value, parts)]).numpy()
        return value.item(), g, out.detach().softmax(1)

    f, g, p = at(run.theta)
    plus, g_plus, p_plus = at(run.theta + CLUB.rho * g / np.linalg.norm(g))
    want = {"loss": f, "shifted_loss": plus, "grad_norm": np.linalg.norm(g)}
    want["grad_ratio"] = np.linalg.norm(g_plus) / np.linalg.norm(g)
    for name, q in (("entropy", p), ("shifted_entropy", p_plus)):
        want[name] = float(-(q * q.log()).sum(1).mean())
    mean = p_plus.mean(0)
    want["shifted_spread"] = float((p_plus * (p_plus / mean).log()).sum(1).mean())
    for name, value in want.items():
        assert run.metrics[name] == pytest.approx(value, abs=1e-10), name


def test_resnet18_is_the_one_for_small_images() -> None:
    net = models.build_model(
        "resnet18", in_features=3, out_features=10, width=64, activation="relu"
    )
    assert sum(p.numel() for p in net.parameters()) == 11_173_962
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len([c for c in convolutions if c.kernel_size == (3, 3)]) == 17  # and one linear layer
    assert (convolutions[0].stride, convolutions[0].kernel_size) == ((1, 1), (3, 3))
    assert not [m for m in net.modules() if isinstance(m, nn.MaxPool2d)]
    small = models.build_model(
        "resnet18", in_features=3, out_features=7, width=2, activation="relu"
    )
    x = torch.randn(2, 3, 32, 32)
    assert nn.Sequential(*list(small)[:-3])(x).shape == (2, 16, 4, 4)
    assert small(x).shape == (2, 7)


def pictures() -> data.Dataset:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((14, 3, 32, 32)), rng.integers(0, 3, 14)
    return data.Dataset("noise", x[:8], y[:8], x[8:], y[8:], tuple("abc"), "", "image", 0.0, 0)


def resnet(**change: object) -> tuple[module_loss.ModuleLoss, data.Dataset]:
    spec = RunSpec(model="resnet18", width=1, activation="relu", features="image", dtype="float64")
    ds = pictures()
    return module_loss.ModuleLoss(dataclasses.replace(spec, weight_decay=0.1, **change), ds), ds


@pytest.mark.parametrize("rows", [None, torch.tensor([1, 4, 5])])
def test_a_module_answers_as_a_stack_does(rows: Tensor | None) -> None:
    """f, ∇f, Hessian products and predictions of two rows, from the module itself."""
    f, ds = resnet()
    state = {k: v.clone() for k, v in f.net.state_dict().items()}
    here = models.flat_parameters(f.net)
    theta = torch.stack([here, 0.9 * here])
    some = slice(None) if rows is None else rows
    x, y = torch.tensor(ds.x_train)[some], torch.tensor(ds.y_train)[some]
    values, g = f.value_and_grad(theta, rows)
    p = f.predict(theta, rows)
    for i, row in enumerate(theta):
        net = module_loss.network(RunSpec(model="resnet18", width=1, activation="relu",
                                          features="image", dtype="float64"), ds)  # fmt: skip
        nn.utils.vector_to_parameters(row.clone(), net.parameters())
        out = net(x)
        value = F.cross_entropy(out, y) + 0.05 * (row**2).sum()
        grads = torch.autograd.grad(F.cross_entropy(out, y), list(net.parameters()))
        due = torch.cat([v.reshape(-1) for v in grads]) + 0.1 * row
        assert values[i].item() == pytest.approx(value.item(), abs=1e-12)
        torch.testing.assert_close(g[i], due, rtol=0, atol=1e-12)
        torch.testing.assert_close(p[i], out.detach().softmax(1).T, rtol=0, atol=1e-12)
    after = f.net.state_dict()  # parameters and BatchNorm's statistics
    assert all(torch.equal(v, after[k]) for k, v in state.items())
    assert f.net.training


def test_hessian_products_of_a_module_against_finite_differences() -> None:
    ds = data.load_data("karate")
    f = module_loss.ModuleLoss(dataclasses.replace(CLUB, weight_decay=0.1, activation="tanh"), ds)
    theta = models.flat_parameters(f.net)[None] * torch.tensor([[1.0], [0.5]])
    v = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=theta.dtype)
    for rows in (None, torch.arange(5)):
        ahead, behind = (f.grad(theta + s * 1e-6 * v, rows) for s in (1, -1))
        due = (ahead - behind) / 2e-6
        torch.testing.assert_close(f.hvp(theta, v, rows), due, rtol=0, atol=1e-8)


def test_x_plus_of_a_module_by_its_rule_is_that_of_its_optimizer() -> None:
    run = loop.train(CLUB)
    f, _ = loop.objective(CLUB)
    x, plus = loop.endpoints(run, f)
    reading = f.start([CLUB], x).look(x.new_tensor([[CLUB.rho]]))[:, 0]
    assert reading[0].item() == run.metrics["loss"]
    assert reading[2].item() == pytest.approx(f.f(plus).item(), abs=1e-12)
    assert reading[3].item() == pytest.approx(f.grad(plus).norm().item(), abs=1e-12)


def test_batchnorm_statistics_update_once_a_step_at_x(monkeypatch: pytest.MonkeyPatch) -> None:
    ds, made = pictures(), []
    spec = RunSpec(model="resnet18", width=1, activation="relu", features="image", batch=4, steps=3)
    spec = dataclasses.replace(spec, dtype="float64", rho=0.3, lr=0.1)
    monkeypatch.setattr(data, "load_data", lambda *_, **__: ds)
    monkeypatch.setattr(
        loop,
        "ModuleLoss",
        lambda *a, make=module_loss.ModuleLoss: made.append(make(*a)) or made[0],
    )
    run = loop.train(spec, twins=False)
    norm = made[0].net[1]
    assert int(norm.num_batches_tracked) == 3

    net, draw = module_loss.network(spec, ds), torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randperm(8, generator=draw) for _ in range(2)]).view(-1, 4)
    mean, x, y = torch.zeros(1), torch.tensor(ds.x_train), torch.tensor(ds.y_train)
    for row in rows[:3]:
        mean = 0.9 * mean + 0.1 * net[0](x[row]).mean((0, 2, 3))  # of the first layer, at x
        params = list(net.parameters())
        g = torch.autograd.grad(F.cross_entropy(net(x[row]), y[row]), params)
        size = sum((v**2).sum() for v in g).sqrt()
        old = [p.detach().clone() for p in params]
        with torch.no_grad():
            for p, v in zip(params, g, strict=True):
                p += 0.3 * v / size
        g = torch.autograd.grad(F.cross_entropy(net(x[row]), y[row]), params)
        with torch.no_grad():
            for p, o, v in zip(params, old, g, strict=True):
                p.copy_(o - 0.1 * v)
    np.testing.assert_allclose(run.theta, models.flat_parameters(net), rtol=0, atol=1e-9)
    np.testing.assert_allclose(norm.running_mean, mean.detach(), rtol=0, atol=1e-9)
    assert made[0].net.training


def test_a_twin_is_trained_once_for_all_runs_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    real = loop._train_stack
    monkeypatch.setattr(loop, "_train_stack", lambda s, *a: trained.extend(s) or real(s, *a))
    loop._remembered.cache_clear()
    specs = [dataclasses.replace(CLUB, steps=4, rho=r, seed=9) for r in (0.1, 0.2, 0.3)]
    assert sweeps.sweep(specs, tmp_path) == 3
    assert sorted(s.rho for s in trained) == [0.0, 0.1, 0.2, 0.3]
    runs = records.read(tmp_path)
    assert [r["id"] for r in runs] == [s.id for s in specs]
    assert len({r["metrics"]["twin_loss"] for r in runs}) == 1
    assert sweeps.sweep(specs, tmp_path) == 0


def test_a_run_that_diverges_ends_early_and_is_recorded() -> None:
    run = loop.train(dataclasses.replace(CLUB, lr=900.0, weight_decay=1.0, steps=400))
    assert run.verdict == "diverged"
    assert run.metrics["steps"] < 300
    assert json.loads(json.dumps(run.record(), allow_nan=False))["verdict"] == "diverged"


@pytest.mark.parametrize("rule", ["asam", "gsam", "unnormalised"])
def test_other_rules_agree_with_samlib_rules(rule: str) -> None:
    from samlib.dynamics import rules

    spec = dataclasses.replace(CLUB, rule=rule, steps=1, rho=0.3)
    theta = torch.tensor(loop.train(dataclasses.replace(spec, lr=1e-9)).theta)

    class Club:
        def value_and_grad(self, at: Tensor) -> tuple[Tensor, Tensor]:
            x, y = (
                torch.tensor(data.load_data("karate").x_train),
                torch.tensor(data.load_data("karate").y_train),
            )
            parts = [
                p.reshape(-1, k).requires_grad_()
                for p, k in zip(at.split([170, 10]), (34, 5), strict=True)
            ]
            value = F.cross_entropy(club(parts, x), y)
            g = torch.autograd.grad(value, parts)
            return value, torch.cat([v.reshape(-1) for v in g])

    direction = rules.get(rule)(Club(), theta, 0.3).direction
    moved = loop.train(spec).theta
    np.testing.assert_allclose(moved, theta - spec.lr * direction, rtol=0, atol=1e-7)


def test_modular_addition_is_all_pairs_once_half_for_training() -> None:
    ds = data.load_data("modular-addition-23")
    assert (ds.x_train.shape, ds.x_test.shape, ds.num_classes) == ((265, 2), (264, 2), 23)
    both = np.concatenate([ds.x_train, ds.x_test])
    assert len(np.unique(both, axis=0)) == 529
    assert (both.sum(1) % 23 == np.concatenate([ds.y_train, ds.y_test])).all()
    assert ds.sha256 == "98fd1f622d87062dabd7eef49e6a5eb2c1f49f59a70cd17a6dac69e5ac9ae37b"
    assert ds.features == "tokens"
    part = data.load_data("modular-addition-23", n=10)
    assert (part.x_train == ds.x_train[:10]).all()
    assert len(set(ds.y_train)) == 23


def test_karate_is_zacharys_graph() -> None:
    """78 ties, and 16 of 34 members stayed with the officer: in bytes, as our records have them."""
    ties = (gcn.GCN(34, 2).mix != 0).double() - torch.eye(34)
    assert hashlib.sha256(ties.numpy().astype(np.uint8).tobytes()).hexdigest() == TIES
    assert ties.sum() == 2 * 78
    officers = [9, 14, 15, 18, 20, 22, *range(23, 34)]
    ds = data.load_data("karate")
    assert (len(ds.x_train), len(ds.x_test), ds.class_names) == (17, 17, ("instructor", "officer"))
    members = np.concatenate([ds.x_train, ds.x_test]).argmax(1)
    assert sorted(members) == list(range(34))
    y = np.concatenate([ds.y_train, ds.y_test])
    assert (np.isin(members, officers) == y).all()
    assert ds.sha256 == "0ef3f4e83fb4606269f6cfc4032c7b717512cba2e0ebbb0f3fe9599803f69268"


BAD = [
    ({"data": "digits"}, "model 'gcn' reads features 'nodes', not 'standard'"),
    ({"model": "transformer"}, "reads features 'tokens'"),
    ({"model": "resnet18"}, "add features = 'image'"),
    ({"data": "modular-addition-8"}, "8 is no prime from 2 to 251"),
    ({"data": "modular-addition-257"}, "257 is no prime"),
    ({"features": "pixels"}, "features = 'pixels' is for images"),
    ({"loss": "mse"}, "loss 'mse' is for mlp"),
    ({"rule": "exact"}, "rule 'exact' is for mlp"),
    ({"activation": "sine"}, "activation 'sine'"),
    ({"width": 0}, "width = 0"),
    ({"depth": 0}, "depth = 0"),
    ({"n": 18}, "n = 18"),
    ({"data": "modular-addition-7", "model": "transformer", "width": 6}, "multiple of the 4 heads"),
]


@pytest.mark.parametrize(("change", "text"), BAD, ids=[str(b[0]) for b in BAD])
def test_bad_input_is_named(change: dict[str, object], text: str) -> None:
    with pytest.raises(BadInput) as error:
        loop.train(dataclasses.replace(CLUB, **change))
    assert text in str(error.value)


def test_resnet_has_one_depth() -> None:
    with pytest.raises(BadInput, match="leave it at 1"):
        models.build_model("resnet18", in_features=3, out_features=2, depth=2)
