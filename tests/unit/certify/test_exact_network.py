"""Network losses against PyTorch's own layers, losses and automatic differentiation."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from samlib.certify.ball_arithmetic import balls, fraction, precision
from samlib.certify.exact_network import NetworkLoss
from samlib.errors import BadInput

OUTPUTS = {"ce": 3, "mse": 2, "logistic": 1}
DECAY = 0.03


def data(loss: str, n: int = 9, d: int = 4) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(7)
    x = np.round(rng.normal(size=(n, d)), 3)
    if loss == "mse":
        return x, np.round(rng.normal(size=(n, 2)), 2)
    return x, np.arange(n) % (3 if loss == "ce" else 2)


def network(loss: str) -> NetworkLoss:
    return NetworkLoss(*data(loss), 5, loss=loss, decay=DECAY)


def torch_loss(loss: str, theta: torch.Tensor) -> torch.Tensor:
    """The same function through torch.nn, with the parameters poured in by torch's own order."""
    x, y = data(loss)
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, OUTPUTS[loss])
    ).double()
    shapes = {n: p.shape for n, p in model.named_parameters()}
    parts = torch.split(theta, [s.numel() for s in shapes.values()])
    named = {n: q.reshape(s) for (n, s), q in zip(shapes.items(), parts, strict=True)}
    z = torch.func.functional_call(model, named, (torch.tensor(x),))
    if loss == "ce":
        value = F.cross_entropy(z, torch.tensor(y))
    elif loss == "logistic":
        value = F.binary_cross_entropy_with_logits(z[:, 0], torch.tensor(y).double())
    else:
        value = ((z - torch.tensor(y)) ** 2).sum(1).mean() / 2
    return value + DECAY / 2 * (theta**2).sum()


@pytest.fixture(params=sorted(OUTPUTS))
def loss(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def theta(loss: str) -> NDArray[np.float64]:
    return np.random.default_rng(1).normal(size=network(loss).dim)


def test_value_gradient_and_hessian_are_torchs(loss: str, theta: NDArray[np.float64]) -> None:
    net, point = network(loss), torch.tensor(theta, requires_grad=True)
    value = torch_loss(loss, point)
    (gradient,) = torch.autograd.grad(value, point)
    hessian = torch.autograd.functional.hessian(lambda q: torch_loss(loss, q), point)
    v = np.random.default_rng(2).normal(size=net.dim)
    assert net.f(theta) == pytest.approx(value.item(), rel=1e-14)
    np.testing.assert_allclose(net.grad(theta), gradient.numpy(), rtol=0, atol=1e-14)
    np.testing.assert_allclose(net.hess(theta), hessian.numpy(), rtol=0, atol=1e-14)
    np.testing.assert_allclose(net.hvp(theta, v), hessian.numpy() @ v, rtol=0, atol=1e-13)


def test_batches_are_row_by_row(loss: str, theta: NDArray[np.float64]) -> None:
    net = network(loss)
    rows = np.stack([theta, 2 * theta, -theta]).reshape(3, 1, -1)
    v = np.ones(net.dim)
    for k, row in enumerate(rows[:, 0]):
        np.testing.assert_allclose(net.f(rows)[k, 0], net.f(row), rtol=1e-14)
        np.testing.assert_allclose(net.grad(rows)[k, 0], net.grad(row), atol=1e-15)
        np.testing.assert_allclose(net.hess(rows)[k, 0], net.hess(row), atol=1e-15)
        np.testing.assert_allclose(net.hvp(rows, v)[k, 0], net.hvp(row, v), atol=1e-14)


def test_balls_enclose_the_values_at_points_of_a_box(loss: str, theta: NDArray[np.float64]) -> None:
    flint = pytest.importorskip("flint")
    net, rng = network(loss), np.random.default_rng(3)
    box = [flint.arb(v, 1e-3) for v in theta.tolist()]
    gradient, hessian = net.ball_grad(box), net.ball_hess(box)
    for _ in range(5):
        inside = theta + 1e-3 * rng.uniform(-1, 1, net.dim)
        for ball, value in zip(gradient, net.grad(inside), strict=True):
            assert ball.overlaps(flint.arb(float(value), 1e-14))
        for row, values in zip(hessian, net.hess(inside), strict=True):
            assert all(
                b.overlaps(flint.arb(float(v), 1e-14)) for b, v in zip(row, values, strict=True)
            )


def test_data_are_as_exact_as_the_precision_asks(loss: str, theta: NDArray[np.float64]) -> None:
    pytest.importorskip("flint")
    net = network(loss)
    widths = []
    for bits in (53, 200, 53):  # a table of data left over from another precision would show
        with precision(bits):
            widths.append(max(float(b.rad()) for b in net.ball_grad(list(balls(theta)))))
    assert widths[0] == widths[2] > 1e-17
    assert widths[1] < 1e-55


def test_floats_stand_for_their_shortest_decimal() -> None:
    assert fraction("x", 0.1) == Fraction(1, 10)
    assert fraction("x", np.float32(0.5)) == Fraction(1, 2)
    assert fraction("x", "7/3") == Fraction(7, 3)
    long = "0.12345678901234567890123"
    assert fraction("x", long) == fraction("x", Decimal(long)) == Fraction(long)
    assert fraction("x", np.int64(2**53 + 1)) == 2**53 + 1
    net = NetworkLoss([[0.1, 0.3125]], [1], 1, loss="logistic", decay=0.03)
    assert net.decay == Fraction(3, 100)
    assert net.to_json()["x_denominator"] == 80
    assert net.to_json()["x"] == [[8, 25]]
    fine = NetworkLoss([[long]], [1], 1, loss="logistic").to_json()  # beyond 64 bits
    assert Fraction(fine["x"][0][0], fine["x_denominator"]) == Fraction(long)


def test_symmetries_leave_the_loss_alone(loss: str, theta: NDArray[np.float64]) -> None:
    net = network(loss)
    for moved in (net.flip_unit(theta, 2), net.swap_units(theta, 0, 3)):
        assert np.abs(moved - theta).max() > 0.1
        assert net.f(moved) == pytest.approx(net.f(theta), rel=1e-14)
    np.testing.assert_array_equal(net.flip_unit(net.flip_unit(theta, 2), 2), theta)
    np.testing.assert_array_equal(net.swap_units(net.swap_units(theta, 0, 3), 3, 0), theta)
    # the flip concerns unit 2 alone: its row of W₁, its bias and its column of W₂
    changed = 4 + 1 + OUTPUTS[loss]
    assert (net.flip_unit(theta, 2) != theta).sum() == changed


def test_json_holds_the_whole_loss(loss: str, theta: NDArray[np.float64]) -> None:
    net = network(loss)
    again = NetworkLoss.from_json(net.to_json())
    assert again.to_json() == net.to_json()
    np.testing.assert_array_equal(again.grad(theta), net.grad(theta))


def test_another_weight_decay_is_another_loss_on_the_same_data(
    loss: str, theta: NDArray[np.float64]
) -> None:
    pytest.importorskip("flint")
    net = network(loss)
    net.ball_grad(list(balls(theta)))  # its tables of balls must not be those of the other
    other, afresh = net.with_decay(0.7), NetworkLoss.from_json(net.to_json() | {"decay": "7/10"})
    assert other.to_json() == afresh.to_json() != net.to_json()
    np.testing.assert_array_equal(other.grad(theta), afresh.grad(theta))
    assert str(other.ball_grad(list(balls(theta)))) == str(afresh.ball_grad(list(balls(theta))))
    assert network(loss).to_json() == net.to_json()
    with pytest.raises(BadInput, match="negative"):
        net.with_decay(-1)


def test_accuracy_counts_correct_rows() -> None:
    net = NetworkLoss([[1.0], [-1.0], [2.0]], [1, 0, 0], 1, loss="logistic")
    theta = np.array([1.0, 0.0, 1.0, 0.0])  # z = tanh(x): right, right, wrong
    assert net.accuracy(theta) == pytest.approx(2 / 3)
    two = NetworkLoss([[1.0], [-1.0], [2.0]], [1, 0, 0], 1)
    assert two.accuracy(np.array([1.0, 0, -1, 1, 0, 0])) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "hinge"}, "use one of"),
        ({"hidden": 0}, "whole number"),
        ({"decay": -1}, "negative"),
        ({"decay": float("nan")}, "not a finite number"),
        ({"x": [[np.inf, 1.0]]}, "not a finite number"),
        ({"x": [[1.0, 2.0], [3.0, 4.0]]}, "do not fit"),
        ({"y": [0.5]}, "integer labels"),
        ({"y": [-1]}, "integer labels"),
        ({"y": [2], "loss": "logistic"}, "integer labels"),
        ({"y": [10**9]}, "at most 9999"),
        ({"hidden": True}, "whole number"),
        ({"x": [], "y": []}, "do not fit"),
        ({"x": [[]]}, "do not fit"),
        ({"x": np.zeros((0, 2)), "y": []}, "do not fit"),
        ({"x": [["1e400", 1]]}, "beyond the range of float64"),
        ({"x": [["1e999999", 1]]}, "not a finite number"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"x": [[1.0, 2.0]], "y": [0], "hidden": 1, "loss": "ce"}
    with pytest.raises(BadInput, match=message):
        NetworkLoss(**(good | change))  # type: ignore[arg-type]


def test_points_of_the_wrong_shape_are_refused() -> None:
    net = network("ce")
    for call in (net.f, net.grad, net.hess, lambda q: net.flip_unit(q, 0)):
        with pytest.raises(BadInput, match="does not fit"):
            call(np.zeros(net.dim - 1))
    with pytest.raises(BadInput, match="unit 5"):
        net.flip_unit(np.zeros(net.dim), 5)
