"""Chapter 10: hallucinated minimizers of ReLU networks, in exact arithmetic and in real runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch

from samlib.dynamics.trajectories import trajectory
from samlib.landscapes.symbolic import Landscape
from samlib.points import stability

R = sp.Rational
W, B, V, LAM = sp.symbols("w b v lambda", real=True)
NEURON = ((3, 4), (2, 1), (1, 4))
LAYERS = ((1, 3), (2, 1), (3, 11))


def loss(data: Sequence[tuple[int, int]], layers: bool) -> Landscape:
    """½ Σ (v relu(wt + b) − y)², without v for the single neuron."""
    names = (W, B, V) if layers else (W, B)
    scale = V if layers else 1
    return Landscape(sum((scale * sp.Max(0, W * t + B) - y) ** 2 for t, y in data) / 2, names)


class Piece:
    """The quadratic or quartic that the loss is around a point inside its activation region."""

    def __init__(self, data: Sequence[tuple[int, int]], x: Sequence[Any]) -> None:
        names = (W, B, V)[: len(x)]
        at = dict(zip(names, x, strict=True))
        self.preactivations = [x[0] * t + x[1] for t, _ in data]
        outputs = [
            (V if len(x) == 3 else 1) * (W * t + B) if p > 0 else sp.Integer(0)
            for (t, _), p in zip(data, self.preactivations, strict=True)
        ]
        f = sum((o - y) ** 2 for o, (_, y) in zip(outputs, data, strict=True)) / sp.Integer(2)
        self.value = f.subs(at)
        self.grad = sp.Matrix([f.diff(n) for n in names]).subs(at)
        self.hess = sp.hessian(f, names).subs(at)


def linearisation(here: Piece, there: Piece, rho: int) -> sp.Matrix:
    norm = here.grad.norm()
    u = here.grad / norm
    size = len(u)
    return there.hess * (sp.eye(size) + rho / norm * (sp.eye(size) - u * u.T) * here.hess)


# ---- one neuron -----------------------------------------------------------------------------


def test_neuron_is_hallucinated_in_integers() -> None:
    here, there = Piece(NEURON, (-2, 7)), Piece(NEURON, (-3, 7))
    assert here.preactivations == [1, 3, 5]
    assert there.preactivations == [-2, 1, 4]
    assert here.grad == sp.Matrix([-4, 0])
    assert sp.Matrix([-2, 7]) + here.grad / here.grad.norm() == sp.Matrix([-3, 7])
    assert there.grad == sp.zeros(2, 1)
    assert (here.value, there.value) == (7, 8)
    assert here.hess == sp.Matrix([[14, 6], [6, 3]])
    assert there.hess == sp.Matrix([[5, 3], [3, 2]])
    assert there.hess.is_positive_definite


def test_neuron_attracts_below_the_exact_step_size() -> None:
    a = linearisation(Piece(NEURON, (-2, 7)), Piece(NEURON, (-3, 7)), 1)
    assert a == sp.Matrix([[R(19, 2), R(21, 4)], [6, R(7, 2)]])
    assert set(a.eigenvals()) == {(13 + s * 9 * sp.sqrt(2)) / 2 for s in (1, -1)}
    limit = 4 / (13 + 9 * sp.sqrt(2))
    assert sp.simplify(limit - 2 / max(a.eigenvals())) == 0
    assert str(sp.N(limit, 14)) == "0.15547310779551"
    report = stability.classify(loss(NEURON, False), [-2, 7], 1.0)
    assert report.kind == "attracting"
    assert report.image_kind == "minimizer"
    assert report.eta_max == pytest.approx(float(limit), rel=1e-12)


@pytest.mark.parametrize(("factor", "arrives"), [(0.6, True), (0.99, True), (1.01, False)])
def test_sam_on_the_real_neuron(factor: float, arrives: bool) -> None:
    """The loss with its kinks, from 0.001 away: η_max separates arriving from leaving."""
    eta = factor * 4 / (13 + 9 * np.sqrt(2))
    run = trajectory(loss(NEURON, False), [-2.001, 7.0005], 1.0, eta, 3000)
    distance = float(np.linalg.norm(run[-1] - [-2, 7]))
    assert (distance < 1e-10) == arrives


def test_the_same_neuron_in_torch() -> None:
    """PyTorch's relu and autograd see the same gradient and a zero gradient at the image."""
    t, y = torch.tensor(NEURON, dtype=torch.float64).T
    gradients = []
    for w in (-2.0, -3.0):
        x = torch.tensor([w, 7.0], dtype=torch.float64, requires_grad=True)
        f = 0.5 * ((torch.relu(x[0] * t + x[1]) - y) ** 2).sum()
        gradients.append(torch.autograd.grad(f, x)[0].tolist())
    assert gradients == [[-4.0, 0.0], [0.0, 0.0]]


# ---- two layers -----------------------------------------------------------------------------


def test_two_layers_are_hallucinated_in_integers() -> None:
    here, there = Piece(LAYERS, (0, 5, 1)), Piece(LAYERS, (-2, 5, 1))
    assert here.preactivations == [5, 5, 5]
    assert there.preactivations == [3, 1, -1]
    assert here.grad == sp.Matrix([-8, 0, 0])
    assert there.grad == sp.zeros(3, 1)
    assert (here.value, there.value) == (28, R(121, 2))
    assert there.hess.rank() == 2
    a = linearisation(here, there, 2)
    polynomial = a.charpoly(LAM).as_expr(LAM)
    assert sp.expand(polynomial - LAM * (LAM**2 - 268 * LAM + 697)) == 0
    assert (sp.eye(2) + R(2, 8) * here.hess[1:, 1:]).det() == R(41, 2)  # det S
    top = 134 + sp.sqrt(17259)
    assert sp.expand(polynomial.subs(LAM, top)) == 0
    assert str(sp.N(2 / top, 10)) == "0.007536547167"
    report = stability.classify(loss(LAYERS, True), [0, 5, 1], 2.0)
    assert report.normally_attracting
    assert report.eta_max == pytest.approx(float(2 / top), rel=1e-9)


def test_images_are_the_rescaled_networks() -> None:
    """(−2c, 5c, 1/c) is critical for every c > 0, inside the same activation region."""
    c = sp.Symbol("c", positive=True)
    f = (V * (W + B) - 3) ** 2 / 2 + (V * (2 * W + B) - 1) ** 2 / 2 + R(121, 2)
    curve = {W: -2 * c, B: 5 * c, V: 1 / c}
    assert all(sp.simplify(f.diff(n).subs(curve)) == 0 for n in (W, B, V))
    assert [(W * t + B).subs(curve) for t in (1, 2, 3)] == [3 * c, c, -c]
    tangent = sp.Matrix([-2, 5, -1])  # the derivative by c at c = 1
    assert Piece(LAYERS, (-2, 5, 1)).hess * tangent == sp.zeros(3, 1)


def test_sam_converges_to_the_curve() -> None:
    f = loss(LAYERS, True)
    starts = np.array([[0.1, 4.8, 1.04], [-0.1, 5.2, 1.01], [-0.14, 4.9, 0.97]])
    ends = trajectory(f, starts, 2.0, 0.004, 3000)[-1]
    g = f.grad(ends)
    norm = np.linalg.norm(g, axis=1, keepdims=True)
    looks = ends + 2 * g / norm
    assert (norm > 7).all()
    assert np.abs(f.grad(looks)).max() < 1e-9
    assert np.allclose(looks[:, 0] * looks[:, 2], -2, atol=1e-9)
    assert np.allclose(looks[:, 1] * looks[:, 2], 5, atol=1e-9)
    assert np.ptp(ends[:, 1]) > 0.1  # a curve: different starts, different limits


# ---- dead units -----------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [0.01, 0.3, 1.0, 2.5])
def test_dead_unit_freezes_an_interval(rho: float) -> None:
    """Exactly the w in (0, min(ρ, 1)) do not move although f'(w) ≠ 0."""
    f = Landscape((sp.Max(0, W) - 1) ** 2 / 2, (W,))
    w = np.setdiff1d(np.linspace(-1, 2, 3001) + 1e-4, [])[:, None]
    end = trajectory(f, w, rho, 0.1, 3)[-1]
    still = (end == w)[:, 0] & (f.grad(w)[:, 0] != 0)
    assert np.array_equal(still, (w[:, 0] > 0) & (w[:, 0] < min(rho, 1)))


def test_dead_region_of_a_neuron_has_a_frozen_neighbourhood() -> None:
    """Live parameters whose look is dead: SAM stays for every η, and so do all points nearby."""
    f = loss(NEURON, False)
    inputs = np.array([3, 2, 1])
    rng = np.random.default_rng(0)
    x = rng.uniform(-5, 5, (4000, 2))
    g = f.grad(x)
    norm = np.linalg.norm(g, axis=1, keepdims=True)
    plus = x + 0.5 * g / np.where(norm > 0, norm, 1)
    margin = -(plus[:, :1] * inputs + plus[:, 1:]).max(1)
    stuck = x[(norm[:, 0] > 0.1) & (margin > 0.05)]
    assert len(stuck) > 50
    for eta in (0.01, 10.0):
        near = stuck + rng.uniform(-1e-4, 1e-4, stuck.shape)
        assert np.array_equal(trajectory(f, near, 0.5, eta, 5)[-1], near)
    assert (np.linalg.norm(trajectory(f, stuck, 0.0, 0.01, 5, "gd")[-1] - stuck, axis=1) > 0).all()
