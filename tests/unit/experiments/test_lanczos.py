"""Spectra from products against dense decompositions, SciPy and finite differences."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from samlib.dynamics import rules
from samlib.errors import BadInput
from samlib.experiments import lanczos
from samlib.points.linearisation import linearise
from samlib.training import loop
from samlib.training.spec import RunSpec
from samlib.training.stacked_loss import StackedLoss

SPEC = RunSpec(n=60, width=4, rho=2.0, lr=0.05, steps=10, dtype="float64")


def times(a: np.ndarray) -> lanczos.Product:
    whole = torch.as_tensor(a)
    return lambda v: v @ whole.T


def symmetric(eigenvalues: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric matrix with these eigenvalues, and its eigenvectors as columns."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((len(eigenvalues), len(eigenvalues))))[0]
    return q @ np.diag(eigenvalues) @ q.T, q


@pytest.fixture(scope="module")
def network() -> tuple[StackedLoss, Tensor]:
    f, _ = loop.objective(SPEC)
    return f, torch.as_tensor(loop.train(SPEC).theta)[None]


def test_all_steps_of_lanczos_give_all_eigenvalues_and_their_weights() -> None:
    lam = np.sort(np.random.default_rng(1).standard_normal(30))
    a, q = symmetric(lam)
    start = np.random.default_rng(2).standard_normal((3, 30))
    values, weights, bounds = lanczos.lanczos(times(a), torch.as_tensor(start), 30)
    unit = start / np.linalg.norm(start, axis=1, keepdims=True)
    np.testing.assert_allclose(values, np.tile(lam, (3, 1)), atol=1e-12)
    np.testing.assert_allclose(weights, (unit @ q) ** 2, atol=1e-12)
    assert bounds.max() < 1e-10


def test_lanczos_reproduces_moments_and_bounds_its_errors() -> None:
    """m steps are a Gauss quadrature: moments up to 2m − 1 are exact."""
    lam = np.linspace(-1, 2, 50)
    a, _ = symmetric(lam)
    start = np.random.default_rng(2).standard_normal(50)
    values, weights, bounds = lanczos.lanczos(times(a), torch.as_tensor(start)[None], 6)
    for k in range(12):
        moment = start @ np.linalg.matrix_power(a, k) @ start / (start @ start)
        assert float((weights * values**k).sum()) == pytest.approx(moment, rel=1e-10)
    moment = start @ np.linalg.matrix_power(a, 12) @ start / (start @ start)
    assert float((weights * values**12).sum()) != pytest.approx(moment, rel=1e-6)
    gap = np.abs(values[0].numpy()[:, None] - lam).min(1)
    assert (gap <= bounds[0].numpy() + 1e-12).all()
    assert bounds.max() > 1e-3


def test_rows_whose_krylov_space_ends_early_lose_nothing() -> None:
    lam = np.array([3.0, 3.0, 5.0, 5.0, 5.0, 9.0])  # three different: every row ends after 3 steps
    a, q = symmetric(lam)
    start = np.stack([q[:, 5], q[:, 0] + q[:, 2], q.sum(1)])  # spaces of dimension 1, 2 and 3
    values, weights, _ = lanczos.lanczos(times(a), torch.as_tensor(start), 6)
    assert values.shape == (3, 3)
    first = (weights[:, :] * values).sum(1).numpy()
    np.testing.assert_allclose(first, [9, 4, lam.mean()], atol=1e-12)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
    low, high, error = lanczos.extremes(times(a), torch.zeros(1, 6, dtype=torch.float64))
    assert (low, high) == pytest.approx((3, 9), abs=1e-12)
    assert error < 1e-12


def test_the_hessian_of_a_network_is_that_of_finite_differences(
    network: tuple[StackedLoss, Tensor],
) -> None:
    f, x = network
    dense = lanczos.matrix(lanczos.hessian(f, x), x)
    h = 1e-5
    some = torch.arange(0, x.shape[1], 23)
    steps = h * torch.eye(x.shape[1], dtype=x.dtype)[some]
    rows = (f.grad(x + steps) - f.grad(x - steps)) / (2 * h)
    torch.testing.assert_close(dense[some], rows, atol=1e-8, rtol=1e-6)
    torch.testing.assert_close(dense, dense.T)


def test_extremes_agree_with_scipy_and_the_dense_matrix(
    network: tuple[StackedLoss, Tensor],
) -> None:
    f, x = network
    product = lanczos.hessian(f, x)
    p = x.shape[1]

    def matvec(v: np.ndarray) -> np.ndarray:
        return product(torch.as_tensor(np.ravel(v))[None])[0].numpy()

    operator = LinearOperator((p, p), matvec=matvec, dtype=float)
    ends = [eigsh(operator, 1, which=w, return_eigenvectors=False)[0] for w in ("SA", "LA")]
    dense = np.linalg.eigvalsh(lanczos.matrix(product, x).numpy())
    low, high, error = lanczos.extremes(product, x, tol=1e-9)
    assert low < 0
    assert (low, high) == pytest.approx((dense[0], dense[-1]), abs=1e-8)
    assert (low, high) == pytest.approx(tuple(ends), abs=1e-8)
    assert error <= 1e-9 * high


def test_the_jacobian_is_the_derivative_of_sams_map(network: tuple[StackedLoss, Tensor]) -> None:
    f, x = network

    def step(rows: Tensor) -> Tensor:
        return rows - 0.05 * rules.sam(f, rows, 2.0)[0]

    v = torch.randn(5, x.shape[1], generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    h = 1e-6
    slope = (step(x + h * v) - step(x - h * v)) / (2 * h)
    torch.testing.assert_close(
        linearise(f, x, 2.0, lanczos.hessian).jacobian(0.05)(v), slope, atol=1e-6, rtol=1e-6
    )
    plain = v - 0.05 * f.hvp(x.expand(5, -1), v)
    torch.testing.assert_close(linearise(f, x, 0.0, lanczos.hessian).jacobian(0.05)(v), plain)


def test_arnoldi_finds_what_the_dense_matrix_has(network: tuple[StackedLoss, Tensor]) -> None:
    f, x = network
    product = linearise(f, x, 2.0, lanczos.hessian).jacobian(0.5)
    dense, sparse = (lanczos.leading(product, x, dense=d) for d in (3000, 0))
    assert abs(sparse) == pytest.approx(abs(dense), abs=1e-7)
    turning = np.diag(np.linspace(0, 0.5, 40))
    turning[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]  # eigenvalues 0.6 ± 0.8i, of modulus 1
    like = torch.zeros(1, 40, dtype=torch.float64)
    for d in (3000, 0):
        assert lanczos.leading(times(turning), like, dense=d) == pytest.approx(0.6 + 0.8j)


class Well:
    """f = (x² − 1)²/4 + y²/2, whose SAM map at (1/5, 0) has J = I − η diag(2, 29/4) for ρ = 6/5."""

    def f(self, theta: Tensor) -> Tensor:
        x, y = theta.T
        return (x**2 - 1) ** 2 / 4 + y**2 / 2

    def grad(self, theta: Tensor) -> Tensor:
        x, y = theta.T
        return torch.stack([x**3 - x, y], 1)

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        return torch.stack([3 * theta[:, 0] ** 2 - 1, torch.ones(len(theta)).to(theta)], 1) * v


def test_the_radius_is_exact_and_the_rate_at_which_sam_converges() -> None:
    point = torch.tensor([[0.2, 0.0]], dtype=torch.float64)
    for lr, radius in ((0.1, 0.8), (8 / 29, 1.0), (0.05, 0.9)):
        top = lanczos.leading(linearise(Well(), point, 1.2, lanczos.hessian).jacobian(lr), point)
        assert abs(top) == pytest.approx(radius, abs=1e-12)
    x, last = torch.tensor([[0.25, 0.01]], dtype=torch.float64), 0.0
    for step in range(60):
        x = x - 0.05 * rules.sam(Well(), x, 1.2)[0]
        far = float((x - point).norm())
        rate, last = far / last if step else 0.0, far
    assert rate == pytest.approx(0.9, abs=1e-4)


def test_the_density_by_quadrature_is_that_of_all_eigenvalues(
    network: tuple[StackedLoss, Tensor],
) -> None:
    f, x = network
    product = lanczos.hessian(f, x)
    exact = lanczos.spectrum(product, x)
    quick = lanczos.spectrum(product, x, probes=40, steps=60, dense=0)
    assert exact.exact
    assert not quick.exact
    assert (quick.low, quick.high) == pytest.approx((exact.low, exact.high), rel=1e-5)
    assert quick.weights.sum() == pytest.approx(1, abs=1e-12)
    grid, density = exact.density(400, smooth=0.02)
    other_grid, other = quick.density(400, smooth=0.02)
    step = grid[1] - grid[0]
    assert density.sum() * step == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(grid, other_grid, rtol=1e-4, atol=1e-4)
    assert np.abs(density - other).sum() * step < 0.05
    below, above = exact.count(0.01)
    few, many = quick.count(0.01)
    assert few == pytest.approx(below, abs=0.02 * exact.dim)
    assert many == pytest.approx(above, abs=0.02 * exact.dim)


def test_counts_of_eigenvalues_by_hand() -> None:
    lam = np.array([-2.0, -1e-3, -1e-9, 0.0, 1e-9, 0.1, 1.0])
    found = lanczos.spectrum(times(np.diag(lam)), torch.zeros(1, 7, dtype=torch.float64))
    below, above = found.count([0.9, 1e-2, 1e-5, 1e-12])
    assert below.tolist() == [1, 1, 2, 3]
    assert above.tolist() == [0, 2, 2, 3]
    assert (found.low, found.high, found.size) == (-2, 1, 2)
    assert np.ndim(found.count(1e-6)[0]) == 0


def test_unusable_arguments_are_named() -> None:
    like = torch.zeros(1, 3, dtype=torch.float64)
    with pytest.raises(BadInput, match=r"tol = 0.*\(0, 1\]"):
        lanczos.extremes(times(np.eye(3)), like, tol=0)
    with pytest.raises(BadInput, match="steps = 0"):
        lanczos.lanczos(times(np.eye(3)), torch.ones(1, 3), 0)
    with pytest.raises(BadInput, match="points = 1"):
        lanczos.spectrum(times(np.eye(3)), like).density(1)
    with pytest.raises(BadInput, match="probes = 0"):
        lanczos.spectrum(times(np.eye(3)), like, probes=0, dense=0)


def test_a_float32_network_keeps_its_dtype() -> None:
    spec = dataclasses.replace(SPEC, dtype="float32")
    f, _ = loop.objective(spec)
    x = f.initial(0)[None]
    low, high, _ = lanczos.extremes(lanczos.hessian(f, x), x, tol=1e-4)
    dense = torch.linalg.eigvalsh(lanczos.matrix(lanczos.hessian(f, x), x).double())
    assert (low, high) == pytest.approx((float(dense[0]), float(dense[-1])), abs=1e-3 * high)
