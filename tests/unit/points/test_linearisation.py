"""M, A, S and DT against differences of x⁺ and ∇f(x⁺), as matrices, operators and rows of torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from samlib import Landscape, classify, find_hallucinated, landscape
from samlib.experiments import lanczos
from samlib.landscapes import protocol
from samlib.points.linearisation import ascend, linearise

RHO, ETA = 0.9, 0.3
F = Landscape(
    "x**2 + y**2/2 + 3*z**2/4 + x*y*z - x**3/3 + y**2*z - x**4/20 + sin(x*z)", ["x", "y", "z"]
)
POINTS = np.random.default_rng(0).uniform(-1, 1, (5, 3))


class Rows:
    """F on the rows of torch tensors."""

    def grad(self, theta: Tensor) -> Tensor:
        return F.grad(theta)

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        return F.hvp(theta, v)


def differences(function: Any, x: Any) -> Any:
    """The derivative of a map at x: column j belongs to the j-th coordinate."""
    h = 1e-6
    return np.array([(function(x + h * e) - function(x - h * e)) / (2 * h) for e in np.eye(3)]).T


@pytest.mark.parametrize("x", POINTS)
def test_the_matrices_are_the_derivatives(x: Any) -> None:
    near = linearise(F, x, RHO)
    norm = np.linalg.norm(F.grad(x))
    np.testing.assert_allclose(near.grad_norm, norm, rtol=1e-15)
    np.testing.assert_allclose(near.image, x + RHO * F.grad(x) / norm, rtol=1e-15)
    np.testing.assert_allclose(near.u, F.grad(x) / norm, rtol=1e-15)

    def plus(y: Any) -> Any:
        return ascend(F, y, RHO)[1]

    np.testing.assert_allclose(near.M, differences(plus, x), atol=1e-7)
    np.testing.assert_allclose(near.A, differences(lambda y: F.grad(plus(y)), x), atol=1e-7)
    expected = differences(lambda y: y - ETA * F.grad(plus(y)), x)
    np.testing.assert_allclose(near.jacobian(ETA), expected, atol=1e-7)
    np.testing.assert_array_equal(near.H, F.hess(x))
    np.testing.assert_array_equal(near.H_image, F.hess(near.image))
    # M is S across u and passes u on: the same eigenvalues, and one that is 1
    expected = np.sort(np.append(np.linalg.eigvalsh(near.S), 1.0))
    np.testing.assert_allclose(np.sort(np.linalg.eigvals(near.M).real), expected, atol=1e-12)


@pytest.mark.parametrize("x", POINTS)
def test_products_are_those_of_the_matrices(x: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dense, v = linearise(F, x, RHO), np.array([0.3, -1.2, 0.7])
    formed = {n: getattr(dense, n) for n in ("H", "H_image", "M", "A")}
    formed["DT"], u = dense.jacobian(ETA), dense.u
    rows = linearise(Rows(), torch.tensor(x)[None], RHO, lanczos.hessian)
    two = torch.tensor(np.stack([v, v + 1]))
    monkeypatch.setattr(protocol, "DENSE", 0)
    free = linearise(F, x, RHO)
    for name, matrix in formed.items():
        sparse, torched = (
            near.jacobian(ETA) if name == "DT" else getattr(near, name) for near in (free, rows)
        )
        np.testing.assert_allclose(sparse @ v, matrix @ v, atol=1e-13)
        np.testing.assert_allclose(torched(two), (two.numpy() @ matrix.T), atol=1e-13)
    across = np.eye(3) - np.outer(u, u)
    full = across @ formed["M"] @ across + np.outer(u, u)  # S, and 1 along u
    np.testing.assert_allclose(free.S @ np.eye(3), full, atol=1e-13)


def test_without_a_gradient_sams_step_is_a_gradient_step() -> None:
    well = landscape("double-well-2d")
    for x, rho in (([1.0, 0.0], 1.2), ([0.3, 0.4], 0.0)):
        near = linearise(well, np.array(x), rho)
        np.testing.assert_array_equal(near.image, x)
        np.testing.assert_array_equal(near.M, np.eye(2))
        np.testing.assert_array_equal(near.A, well.hess(np.array(x)))
    norm, plus = ascend(well, np.array([[1.0, 0.0], [0.3, 0.4]]), 0.5)
    assert norm[0] == 0
    np.testing.assert_array_equal(plus[0], [1.0, 0.0])
    np.testing.assert_allclose(np.linalg.norm(plus[1] - [0.3, 0.4]), 0.5, rtol=1e-15)


def test_a_point_found_knows_its_landscape() -> None:
    f = landscape("himmelblau")
    for p in find_hallucinated(f, [3, 2], 5.0):
        ours, theirs = classify(p), classify(f, p.x, 5.0)
        assert (ours.kind, ours.image_kind) == (theirs.kind, theirs.image_kind)
        assert ours.eta_max == theirs.eta_max
        np.testing.assert_array_equal(ours.A, theirs.A)
        assert ours.rho == p.rho
