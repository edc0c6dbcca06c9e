"""Random polynomials in one to four variables: no false point, none missed, and SAM agrees.

The polynomials are evaluated here, not by samlib: ``Poly`` is a landscape of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from samlib import Landscape
from samlib.points.search import HallucinatedPoint, critical_points, find_hallucinated
from samlib.points.stability import classify

Array = Any
BOUNDED = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


class Poly:
    """Σ c x^e with whole numbers c and exponents e; f, ∇f and ∇²f on arrays (..., d)."""

    def __init__(self, terms: dict[tuple[int, ...], int], dim: int) -> None:
        self.terms, self.dim = terms, dim
        first = [self.diff(terms, i) for i in range(dim)]
        self._f, self._grad = self.table(terms), [self.table(t) for t in first]
        self._hess = [[self.table(self.diff(t, j)) for j in range(dim)] for t in first]

    @staticmethod
    def diff(terms: dict[tuple[int, ...], int], i: int) -> dict[tuple[int, ...], int]:
        """∂/∂xᵢ."""
        return {
            tuple(k - (j == i) for j, k in enumerate(e)): c * e[i]
            for e, c in terms.items()
            if e[i] > 0
        }

    def table(self, terms: dict[tuple[int, ...], int]) -> tuple[Array, Array]:
        """Exponents (m, d) and coefficients (m,)."""
        exponents = np.array(list(terms), dtype=int).reshape(-1, self.dim)
        return exponents, np.array(list(terms.values()), dtype=float)

    @staticmethod
    def value(table: tuple[Array, Array], x: Array) -> Array:
        exponents, coefficients = table
        total = np.zeros(x.shape[:-1])
        for e, c in zip(exponents, coefficients, strict=True):
            term = np.full(x.shape[:-1], c)
            for i, k in enumerate(e):
                for _ in range(k):
                    term = term * x[..., i]
            total = total + term
        return total

    def f(self, x: Array) -> Array:
        return self.value(self._f, np.asarray(x))

    def grad(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.stack([self.value(t, np.asarray(x)) for t in self._grad], -1)

    def hess(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            rows = [np.stack([self.value(t, np.asarray(x)) for t in r], -1) for r in self._hess]
        return np.stack(rows, -2)

    def exact_grad(self, x: Sequence[Any]) -> list[Any]:
        """∇f at 50 digits."""
        return [
            mpmath.fsum(
                c * mpmath.fprod(v**k for v, k in zip(x, e, strict=True))
                for e, c in self.diff(self.terms, i).items()
            )
            for i in range(self.dim)
        ]

    def string(self) -> str:
        factors = ("*".join(f"x{i}**{k}" for i, k in enumerate(e) if k) for e in self.terms)
        return " + ".join(f"({c})*{m}" for c, m in zip(self.terms.values(), factors, strict=True))


@st.composite
def polynomials(
    draw: st.DrawFn, dims: Sequence[int] = (1, 2, 3, 4), degree: int = 4, tilted: bool = False
) -> Poly:
    """A polynomial without linear terms: 0 is a critical point of it, exactly.

    ``tilted`` ones have a minimizer there and fall off along the first axis: points that attract
    are common.
    """
    dim = draw(st.sampled_from(dims))
    exponents = [e for e in product(range(degree + 1), repeat=dim) if 2 <= sum(e) <= degree]
    squares = [e for e in exponents if max(e) == sum(e) == 2]
    coefficient = st.integers(-4, 4).filter(bool)
    terms = {e: draw(coefficient) for e in squares}
    number = draw(st.integers(1, 7))
    for e in draw(st.lists(st.sampled_from(exponents), min_size=1, max_size=number, unique=True)):
        terms[e] = draw(coefficient)
    if tilted:
        terms |= {e: draw(st.integers(1, 4)) for e in squares}
        terms[3, *[0] * (dim - 1)] = draw(st.integers(-4, -2))
        terms = {e: c for e, c in terms.items() if max(e) == sum(e) <= 3 or sum(e) == 4}
    return Poly(terms, dim)


RADII = st.sampled_from([0.1, 0.35, 0.8, 1.0, 1.7, 3.0])


def distance(x: Array, found: list[HallucinatedPoint]) -> float:
    return min((float(np.linalg.norm(p.x - x)) for p in found), default=np.inf)


# ---- no false point ------------------------------------------------------------------------------


def exact_root(f: Poly, x: Array, rho: float) -> tuple[float, Any]:
    """Newton at 50 digits on ∇f + μx = 0, x·x = ρ² from ``x``: distance moved, and (x, μ)."""
    d = f.dim
    with mpmath.workdps(50):
        g = f.exact_grad([mpmath.mpf(float(v)) for v in x])
        start = [mpmath.mpf(float(v)) for v in x]
        mu = -mpmath.fdot(g, start) / mpmath.mpf(rho) ** 2
        z = mpmath.matrix([*start, mu])
        hessians = [[Poly(f.diff(f.diff(f.terms, i), j), d) for j in range(d)] for i in range(d)]
        for _ in range(8):
            now = list(z[:d])
            g = f.exact_grad(now)
            right = mpmath.matrix(
                [g[i] + z[d] * now[i] for i in range(d)]
                + [(mpmath.fdot(now, now) - mpmath.mpf(rho) ** 2) / 2]
            )
            matrix = mpmath.zeros(d + 1)
            for i in range(d):
                for j in range(d):
                    matrix[i, j] = mpmath.fsum(
                        c * mpmath.fprod(v**k for v, k in zip(now, e, strict=True))
                        for e, c in hessians[i][j].terms.items()
                    )
                matrix[i, i] += z[d]
                matrix[i, d] = matrix[d, i] = now[i]
            z = z - mpmath.lu_solve(matrix, right)
        moved = max(abs(z[i] - start[i]) for i in range(d))
        return float(moved), z


@pytest.mark.slow
@settings(BOUNDED, max_examples=60)
@given(polynomials(), RADII)
def test_no_false_point(f: Poly, rho: float) -> None:
    """Each point found has a root of 50 digits next to it, with ∇f ≠ 0 inward and image 0."""
    for p in find_hallucinated(f, np.zeros(f.dim), rho):
        g = f.grad(p.x)
        norm = np.linalg.norm(g)
        assert norm > 1e-6
        plus = p.x + rho * g / norm
        assert np.linalg.norm(f.grad(plus)) <= 1e-10
        assert np.abs(plus).max() < 1e-9
        bordered = np.linalg.svd(classify(f, p.x, rho).S, compute_uv=False)
        if bordered.min(initial=1) < 1e-4:  # a double root: Newton cannot tell
            continue
        moved, z = exact_root(f, p.x, rho)
        assert moved < 1e-9 * max(1, rho)
        assert z[f.dim] > 0  # inward
        with mpmath.workdps(50):
            x = list(z[: f.dim])
            g = f.exact_grad(x)
            length = mpmath.sqrt(mpmath.fdot(g, g))
            assert all(abs(v + rho * w / length) < 1e-40 for v, w in zip(x, g, strict=True))


@settings(BOUNDED, max_examples=8)
@given(polynomials(), RADII)
def test_landscape_and_every_image(f: Poly, rho: float) -> None:
    """The same through samlib's compiled expressions, for every critical point in a box."""
    landscape = Landscape(f.string(), [f"x{i}" for i in range(f.dim)], box=[(-2, 2)] * f.dim)
    x = np.random.default_rng(0).uniform(-2, 2, (5, f.dim))
    np.testing.assert_allclose(landscape.grad(x), f.grad(x), rtol=1e-10, atol=1e-10)
    for c in critical_points(landscape)[:6]:
        assert np.linalg.norm(f.grad(c.x)) < 1e-9
        for p in find_hallucinated(landscape, c.x, rho):
            g = f.grad(p.x)
            plus = p.x + rho * g / np.linalg.norm(g)
            assert np.linalg.norm(g) > 1e-6
            assert np.linalg.norm(plus - c.x) < 1e-6 * max(1, rho)
            assert np.linalg.norm(landscape.grad(plus)) <= max(1e-10, 2 * p.residual)


# ---- none missed ---------------------------------------------------------------------------------


@settings(BOUNDED, max_examples=60)
@given(polynomials(dims=(1,), degree=6), RADII)
def test_none_missed_on_the_line(f: Poly, rho: float) -> None:
    """Sign changes of ∇f(x⁺) on a fine grid of the line, whatever the image."""
    grid = np.linspace(-5, 5, 20001)[:, None] + 1e-5 * np.pi
    g = f.grad(grid)
    shifted = f.grad(grid + rho * np.sign(g))
    same = (np.sign(g[1:]) == np.sign(g[:-1])) & (np.sign(shifted[1:]) != np.sign(shifted[:-1]))
    for i in np.flatnonzero(same[:, 0]):
        low, high = grid[i, 0], grid[i + 1, 0]
        sign, step = np.sign(shifted[i, 0]), rho * np.sign(g[i, 0])
        for _ in range(60):
            middle = (low + high) / 2
            here = np.sign(f.grad(np.array([middle + step]))[0]) == sign
            low, high = (middle, high) if here else (low, middle)
        slope = abs(f.grad(np.array([low]))[0])
        curvature = abs(f.hess(np.array([low + step]))[0, 0])
        if slope > 1e-4 and curvature > 1e-2:  # a simple zero: the image is known to 14 digits
            assert distance([low], find_hallucinated(f, [low + step], rho)) < 1e-8


@pytest.mark.slow
@settings(BOUNDED, max_examples=50)
@given(polynomials(dims=(2,), degree=5), RADII)
def test_none_missed_on_the_circle(f: Poly, rho: float) -> None:
    """Sign changes of the tangential derivative on a grid ten times as fine as the search's."""
    theta = np.linspace(0, 2 * np.pi, 20001) + 1e-5
    normal = np.stack([np.cos(theta), np.sin(theta)], -1)
    g = f.grad(rho * normal)
    along = g[:, 1] * normal[:, 0] - g[:, 0] * normal[:, 1]
    inward = np.sum(g * normal, -1) < -1e-4
    changes = np.sign(along[1:]) != np.sign(along[:-1])
    if np.abs(along).max() < 1e-9 * np.abs(g).max():
        return  # f is constant on the circle
    found = find_hallucinated(f, [0, 0], rho)
    hits = np.flatnonzero(changes & inward[1:] & inward[:-1])
    note(f"{len(hits)} on the grid, {len(found)} found")
    for i in hits:
        assert distance(rho * (normal[i] + normal[i + 1]) / 2, found) < 1e-3 * rho
    # and no more than the grid has, except near its own resolution or a vanishing gradient
    for p in found:
        if p.grad_norm > 1e-3 and abs(classify(f, p.x, rho).S[0, 0]) > 1e-2:
            gaps = np.linalg.norm(rho * normal[:-1][changes] - p.x, axis=-1)
            assert gaps.min() < 1e-3 * rho


@pytest.mark.slow
@settings(BOUNDED, max_examples=12)
@given(polynomials(dims=(2,), degree=4), st.sampled_from([0.35, 1.0, 1.7]))
def test_none_missed_in_the_plane(f: Poly, rho: float) -> None:
    """Minima of ‖∇f(x⁺)‖ on a grid of the plane, refined by Newton: all images at once."""

    def shifted(x: Array) -> tuple[Array, Array]:
        g = f.grad(x)
        norm = np.linalg.norm(g, axis=-1, keepdims=True)
        return f.grad(x + rho * g / np.where(norm > 0, norm, 1)), norm[..., 0]

    side = np.linspace(-3, 3, 201) + 0.00123
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1)
    size = np.linalg.norm(shifted(grid)[0], axis=-1)
    inner = size[1:-1, 1:-1]
    lowest = np.ones_like(inner, dtype=bool)
    for i, j in product((0, 1, 2), repeat=2):
        lowest &= inner <= size[i : i + 199, j : j + 199]
    for x in grid[1:-1, 1:-1][lowest]:
        for _ in range(30):
            g = f.grad(x)
            norm = np.linalg.norm(g)
            u = g / norm
            m = np.eye(2) + rho / norm * (np.eye(2) - np.outer(u, u)) @ f.hess(x)
            x = x - np.linalg.lstsq(f.hess(x + rho * u) @ m, f.grad(x + rho * u), rcond=None)[0]
        value, norm = shifted(x)
        if not (np.linalg.norm(value) < 1e-10 and norm > 1e-3):
            continue
        image = x + rho * f.grad(x) / norm
        if np.abs(np.linalg.eigvalsh(f.hess(image))).min() < 1e-2:
            continue  # on a degenerate image the root found here is only near one
        assert distance(x, find_hallucinated(f, image, rho)) < 1e-6


def test_two_roots_between_neighbours_of_the_grid_are_found() -> None:
    """f on the unit circle around 0 has two critical points 2e-4 apart, 15 times below the grid."""
    # at (−cos θ, sin θ): df/dθ = θ² − ε² + O(θ³)
    f = Landscape("x**3/3 - y**2/2 + y**3/3 - x**2*y/10**8", ["x", "y"])
    found = [p for p in find_hallucinated(f, [0, 0], 1.0) if p.x[0] < -0.999]
    theta = np.linspace(-0.01, 0.01, 400_000)
    ring = np.stack([-np.cos(theta), np.sin(theta)], -1)
    g = f.grad(ring)
    along = g[:, 0] * np.sin(theta) + g[:, 1] * np.cos(theta)
    assert np.sum(np.sign(along[1:]) != np.sign(along[:-1])) == len(found) == 2
    np.testing.assert_allclose([p.x[1] for p in found], [-1e-4, 1e-4], rtol=1e-3)


# ---- classify against iterating SAM --------------------------------------------------------------


def iterate(f: Poly, p: HallucinatedPoint, eta: float, radius: float, kappa: float) -> float:
    """max over starts of ‖x_k − x_h‖/‖x_0 − x_h‖: at the end if radius < 1, else anywhere."""
    scale = 1e-6 * min(1, p.grad_norm / (1 + np.abs(f.hess(p.x)).max()))
    starts = np.random.default_rng(1).standard_normal((8, f.dim))
    starts *= scale / np.linalg.norm(starts, axis=-1, keepdims=True)
    rate = abs(np.log(max(radius, 1e-3)))
    x, steps = p.x + starts, int(np.log(1e4 * kappa) / rate) + 10
    farthest = 0.0
    for _ in range(steps):
        g = f.grad(x)
        x = x - eta * f.grad(x + p.rho * g / np.linalg.norm(g, axis=-1, keepdims=True))
        away = float(np.linalg.norm(x - p.x, axis=-1).max() / scale)
        farthest = max(farthest, away)
        if radius > 1 and away > 100:
            break
    return farthest if radius > 1 else away


@pytest.mark.slow
@settings(BOUNDED, max_examples=40)
@given(st.booleans().flatmap(lambda tilted: polynomials(tilted=tilted)), RADII)
def test_classify_agrees_with_iterating_sam(f: Poly, rho: float) -> None:
    """Contracts iff the spectral radius of I − ηA is below 1, and kind says for which η."""
    for p in find_hallucinated(f, np.zeros(f.dim), rho)[:4]:
        if p.grad_norm < 1e-2:
            continue
        c = classify(f, p.x, rho)
        kappa = np.linalg.cond(np.linalg.eig(c.A)[1])
        top = np.abs(c.eigenvalues).max()
        if kappa > 1e4:
            continue
        for eta in [0.5 * c.eta_max, 1.2 * c.eta_max] if c.eta_max else [0.3 / top]:
            radius = np.abs(np.linalg.eigvals(c.jacobian(eta))).max()
            if abs(radius - 1) <= 1e-3:
                continue
            expected = c.kind == "attracting" and eta < c.eta_max
            assert (radius < 1) == expected
            ratio = iterate(f, p, eta, radius, kappa)
            assert ratio < 0.1 if expected else ratio > 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["attracting", "repelling", "saddle"])
def test_the_random_polynomials_meet_every_kind(kind: str) -> None:
    """The property tests above are not vacuous: each kind occurs among simple polynomials."""
    seen = set()
    for a, b in product((-3, -1, 1, 3), repeat=2):
        f = Poly({(2, 0): a, (0, 2): b, (3, 0): 1, (1, 2): -2}, 2)
        for rho in (0.35, 0.8, 1.7, 3.0):
            seen |= {
                classify(f, p.x, rho).kind
                for p in find_hallucinated(f, [0, 0], rho)
                if p.grad_norm > 1e-2
            }
    assert kind in seen
