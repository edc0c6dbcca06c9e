"""Chapter 8: exit times of noisy SAM on the double well, by methods other than the chapter's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import flint
import mpmath
import numpy as np
import pytest
import sympy as sp
from numpy.typing import NDArray
from scipy.special import ndtr

from samlib.dynamics.trajectories import sam_map
from samlib.landscapes import symbolic

R = sp.Rational
X, ETA = sp.symbols("x eta", positive=True)
F = (X**2 - 1) ** 2 / 4
U = F.subs(X, X - R(6, 5))
T = X - ETA * U.diff(X)
BARRIER = R(121, 2500)
# mean steps to leave (0, 1) from 1/5 for η = 0.1; theory gives the first five digits or so
EXIT = {0.6: 133.2229065845, 0.5: 365.8299056430, 0.4: 2426.390409567, 0.3: 154972.3171}
V_TENTH = 0.008311653776936

Array = NDArray[np.float64]


def slope(x: Array) -> Array:
    return x**3 - x


# ---- the setting ----------------------------------------------------------------------------


def test_on_the_unit_interval_sam_is_descent_on_the_shifted_well() -> None:
    x = np.linspace(0.001, 0.999, 101)[:, None]
    step = sam_map(symbolic.landscape("double-well"), 1.2, 0.1)
    assert np.allclose(step(x)[:, 0], sp.lambdify(X, T.subs(ETA, R(1, 10)))(x[:, 0]), atol=1e-15)
    assert [v for v in sp.solve(U.diff(X), X) if 0 < v < 1] == [R(1, 5)]
    assert T.subs(X, 0) == R(66, 125) * ETA
    assert T.subs(X, 1) == 1 - R(24, 125) * ETA
    assert sp.diff(U, X, 2).subs(X, 0) == R(83, 25)  # its largest value: T increases for η < 25/83


def test_barriers_are_exact() -> None:
    assert [U.subs(X, end) - U.subs(X, R(1, 5)) for end in (0, 1)] == [BARRIER, R(144, 625)]
    rho = sp.Symbol("rho", positive=True)
    general = F.subs(X, X - rho)
    height = general.subs(X, 0) - general.subs(X, rho - 1)
    assert sp.expand(height - (rho**2 - 1) ** 2 / 4) == 0
    assert sp.simplify(general.diff(X).subs(X, 0) ** 2 / (4 * height) - rho**2) == 0


# ---- mean exit times ------------------------------------------------------------------------


def mean_exit(sigma: str, n: int) -> float:
    """τ = 1 + Kτ by Clenshaw and Curtis's quadrature on n + 1 points, solved with 200 bits."""
    flint.ctx.prec = 200
    arb = flint.arb
    s, pi = arb(sigma) / 10, arb.pi()
    nodes, weights = [], []
    for j in range(n + 1):
        total = arb(1)
        for k in range(1, n // 2 + 1):
            total -= arb(1 if 2 * k == n else 2) / (4 * k * k - 1) * (2 * k * j * pi / n).cos()
        nodes.append(((j * pi / n).cos() + 1) / 2)
        weights.append(total / n * (arb(1) / 2 if j in (0, n) else 1))

    def row(x: flint.arb) -> list[flint.arb]:
        away = x - arb(6) / 5
        mean = x - (away**3 - away) / 10
        scale = 1 / (s * (2 * pi).sqrt())
        return [w * scale * (-(((y - mean) / s) ** 2) / 2).exp()
                for y, w in zip(nodes, weights, strict=True)]  # fmt: skip

    kernel = flint.arb_mat([row(x) for x in nodes])
    size = n + 1
    one = flint.arb_mat(size, size, [int(i == j) for i in range(size) for j in range(size)])
    tau = (one - kernel).solve(flint.arb_mat(size, 1, [1] * size))
    answer = 1 + sum(k * tau[i, 0] for i, k in enumerate(row(arb(1) / 5)))
    assert float(answer.rad()) < 1e-20 * float(answer.mid())
    return float(answer.mid())


@pytest.mark.parametrize(("sigma", "n"), [("0.6", 64), ("0.5", 64), ("0.4", 80), ("0.3", 100)])
def test_mean_exit_times_to_ten_digits(sigma: str, n: int) -> None:
    value = mean_exit(sigma, n)
    assert value == pytest.approx(EXIT[float(sigma)], rel=3e-10)
    assert value == pytest.approx(mean_exit(sigma, n + 16), rel=1e-10)


def test_mean_exit_times_are_those_of_the_theory() -> None:
    told = {0.6: "133.22", 0.5: "365.83", 0.4: "2426.4", 0.3: "154972"}
    for sigma, text in told.items():
        digits = len(text.partition(".")[2])
        assert f"{EXIT[sigma]:.{digits}f}" == text


def steps_per_exit(
    advance: Callable[[Array, Array], Array], sigma: float, copies: int, steps: int
) -> tuple[float, float]:
    """Copies start at 1/5 and are put back when they leave (0, 1): steps per exit, its error."""
    rng, place, exits = np.random.default_rng(2024), np.full(copies, 0.2), 0
    for _ in range(steps):
        place = advance(place, sigma * rng.standard_normal(copies))
        out = (place <= 0) | (place >= 1)
        exits += int(out.sum())
        place[out] = 0.2
    mean = copies * steps / exits
    return mean, mean / math.sqrt(exits)


@pytest.mark.parametrize(
    ("sigma", "copies", "steps"), [(0.6, 2000, 2000), (0.5, 2000, 3000), (0.4, 4000, 4000)]
)
def test_simulated_exit_times(sigma: float, copies: int, steps: int) -> None:
    """Simulation of the update rule of the package agrees within three standard errors."""
    step = sam_map(symbolic.landscape("double-well"), 1.2, 0.1)
    mean, error = steps_per_exit(
        lambda x, noise: step(x[:, None])[:, 0] + 0.1 * noise, sigma, copies, steps
    )
    assert error < 0.025 * mean
    assert abs(mean - EXIT[sigma]) < 3 * error


# ---- the exponent ---------------------------------------------------------------------------


def action(eta: float, goal: float = 0.0, n: int = 0) -> float:
    """Minimise ½ Σ (x_{k+1} − T(x_k))² over paths of n steps from 1/5 to the goal, by Newton."""
    n = n or int(16 / eta)
    x = 0.2 + (goal - 0.2) * np.exp(2 * eta * (np.arange(n + 1) - n))
    x[0] = 0.2
    for _ in range(100):
        u = x - 1.2
        kick = x[1:] - (x - eta * slope(u))[:-1]
        d1, d2 = 1 - eta * (3 * u * u - 1), -6 * eta * u  # T' and T''
        force = kick[:-1] - d1[1:-1] * kick[1:]
        diagonal = 1 + d1[1:-1] ** 2 - d2[1:-1] * kick[1:]
        bands = np.zeros((3, n - 1))
        bands[1], bands[0, 1:], bands[2, :-1] = diagonal, -d1[1:-2], -d1[1:-2]
        move = solve_banded((1, 1), bands, force)
        x[1:-1] -= move
        if np.abs(move).max() < 1e-15:
            break
    return float(kick @ kick / 2)


def solve_banded(lower_upper: tuple[int, int], bands: Array, right: Array) -> Array:
    from scipy.linalg import solve_banded as solve

    return np.asarray(solve(lower_upper, bands, right))


def shoot(eta: str, goal: int) -> mpmath.mpf:
    """V along the unstable manifold of the fixed point, with 60 digits."""
    with mpmath.workdps(60):
        h, fixed, rho = mpmath.mpf(eta), mpmath.mpf(1) / 5, mpmath.mpf(6) / 5
        m, side, tiny = 1 - 2 * h, mpmath.sign(goal - fixed), mpmath.mpf(10) ** -20

        def run(y: mpmath.mpf, n: int) -> tuple[mpmath.mpf, mpmath.mpf]:
            x, kick = fixed + side * y, (1 - m * m) * side * y
            cost = (1 - m * m) * y * y / 2
            for _ in range(n):
                u = x - rho
                kick = kick / (1 - h * (3 * u * u - 1))
                x = x - h * (u**3 - u) + kick
                cost += kick * kick / 2
            return x, cost

        n = next(n for n in range(150, 10**4, 2) if (run(tiny / m**2, n)[0] - goal) * side >= 0)
        y = mpmath.findroot(lambda y: run(y, n)[0] - goal, (tiny, tiny / m**2), solver="anderson")
        return run(y, n)[1]


def test_quasipotential_to_ten_digits() -> None:
    assert float(shoot("0.1", 0)) == pytest.approx(V_TENTH, rel=1e-12)
    assert action(0.1) == pytest.approx(V_TENTH, rel=1e-10)
    assert f"{V_TENTH:.10f}" == "0.0083116538"
    assert float(shoot("0.1", 1)) == pytest.approx(0.0458533151795, rel=1e-10)
    assert action(0.1, 1.0) == pytest.approx(0.0458533151795, rel=1e-10)


def test_fewer_steps_cost_more() -> None:
    """The cheapest path of n steps: its cost falls to V as n grows, and never below."""
    costs = [action(0.1, n=n) for n in (3, 6, 12, 25, 60, 160)]
    assert all(a > b for a, b in itertools.pairwise(costs))
    assert costs[0] < 0.2**2 / 2  # the direct jump
    assert V_TENTH * (1 - 1e-12) < costs[-1] < costs[-2] < V_TENTH * (1 + 1e-6)


def test_exponent_lies_between_the_bounds_and_tends_to_the_barrier() -> None:
    ratios = {}
    for eta in (0.29, 0.2, 0.1, 0.05, 0.02, 0.01):
        ratios[eta] = action(eta) / (2 * eta * 0.0484)
        assert 1 - 1.66 * eta < ratios[eta] < 1
    assert 1 - ratios[0.01] < 0.0145
    slopes = {eta: (1 - ratio) / eta for eta, ratio in ratios.items()}
    assert 2 * slopes[0.01] - slopes[0.02] == pytest.approx(1.44, abs=2e-3)  # extrapolated to 0


def test_lower_bound_is_a_perfect_square() -> None:
    a, b, lip = sp.symbols("a b L", real=True)
    q = 2 / (2 - lip * ETA)
    form = q / 2 * (a + b) ** 2 - 2 * a * b - ETA * lip * a**2
    assert sp.simplify(form - ((1 - lip * ETA) * a - b) ** 2 / (2 - lip * ETA)) == 0


def test_climb_costs_at_most_twice_eta_times_the_barrier() -> None:
    eta, x, cost = 0.1, 1e-9, 0.0
    points = [0.0]
    while 0.2 - points[-1] > 1e-9:  # R⁻¹ by Newton: R(x) = x + ηU'(x) increases
        x = points[-1]
        for _ in range(50):
            x -= (x + eta * slope(x - 1.2) - points[-1]) / (1 + eta * (3 * (x - 1.2) ** 2 - 1))
        points.append(x)
    for after, before in itertools.pairwise(points):
        cost += 0.5 * (after - before + eta * slope(before - 1.2)) ** 2
    assert V_TENTH < cost < 2 * eta * float(BARRIER)


def test_logarithm_of_the_exit_time_has_the_slope_of_the_exponent() -> None:
    """d log E N / d(1/σ²) → V/η²; the slower factor is about a power of σ, so eliminate it."""
    times = {s: mean_exit(s, n) for s, n in (("0.3", 100), ("0.24", 128), ("0.2", 144))}
    inverse = {s: float(s) ** -2 for s in times}
    logs = {s: math.log(t) for s, t in times.items()}
    # log E N = a + b/σ² + c log σ through three points
    rows = [[1, inverse[s], math.log(float(s))] for s in times]
    _, b, _ = np.linalg.solve(np.array(rows), np.array(list(logs.values())))
    assert b == pytest.approx(V_TENTH / 0.01, rel=0.02)


# ---- where it goes --------------------------------------------------------------------------

EDGES = np.linspace(-2.2, 2.2, 881)
MIDDLE = (EDGES[1:] + EDGES[:-1]) / 2


def shares(chance: Array) -> tuple[float, float, float]:
    """Stationary shares near ±1, ±1/5 and 0, by iteration from the uniform start."""
    chance = chance / chance.sum(1, keepdims=True)
    for _ in range(24):  # chance^(2^24)
        chance = chance @ chance
        chance /= chance.sum(1, keepdims=True)
    share = chance.mean(0)
    size = np.abs(MIDDLE)
    near = [np.abs(size - c) < 0.1 for c in (1, 0.2)] + [size < 0.1]
    return tuple(float(share[m].sum()) for m in near)  # type: ignore[return-value]


@pytest.mark.slow
def test_noisy_sam_hops_between_hallucinated_points() -> None:
    """At σ = 0.5 SAM is near ±1/5, gradient descent near ±1, each for most of the time."""
    step = sam_map(symbolic.landscape("double-well"), 1.2, 0.1)
    sam, gd = step(MIDDLE[:, None])[:, 0], MIDDLE - 0.1 * slope(MIDDLE)
    true, fake, _ = shares(np.diff(ndtr((EDGES - sam[:, None]) / 0.05), axis=1))
    assert true < 1e-7
    assert fake == pytest.approx(0.764, abs=2e-3)
    true, fake, _ = shares(np.diff(ndtr((EDGES - gd[:, None]) / 0.05), axis=1))
    assert true == pytest.approx(0.763, abs=2e-3)
    assert fake < 1e-7


def test_just_beside_a_true_minimizer_sam_is_thrown_back() -> None:
    step = sam_map(symbolic.landscape("double-well"), 1.2, 0.1)
    below, above = step(np.array([[1 - 1e-12], [1 + 1e-12]]))[:, 0]
    assert below == pytest.approx(613 / 625, abs=1e-10)
    assert above == pytest.approx(97 / 625, abs=1e-10)


# ---- one batch for both gradients -----------------------------------------------------------


def one_batch(x: Array, noise: Array) -> Array:
    return x - 0.1 * (slope(x + 1.2 * np.sign(slope(x) + noise)) + noise)


def batch_exit(sigma: float, n: int) -> float:
    """E N from 1/5 on n cells of (0, 1)."""
    edges = np.linspace(0, 1, n + 1)
    x = (edges[1:] + edges[:-1]) / 2
    g, s = slope(x)[:, None], 0.1 * sigma
    ahead, back = ((x - 0.1 * slope(x + w))[:, None] for w in (1.2, -1.2))
    stay = np.diff(ndtr((np.minimum(edges, ahead + 0.1 * g) - ahead) / s), axis=1)
    stay += np.diff(ndtr((np.maximum(edges, back + 0.1 * g) - back) / s), axis=1)
    return float(np.interp(0.2, x, np.linalg.solve(np.eye(n) - stay, np.ones(n))))


@pytest.mark.parametrize(("sigma", "steps"), [(0.6, 5.25), (0.3, 8.02), (0.15, 19.18)])
def test_noise_in_the_ascent_ends_the_stay_at_once(sigma: float, steps: float) -> None:
    assert batch_exit(sigma, 300) == pytest.approx(steps, abs=0.01)
    mean, error = steps_per_exit(one_batch, sigma, 2000, 1000)
    assert abs(mean - batch_exit(sigma, 300)) < 3 * error
    assert mean < EXIT[0.6] / 5


def test_two_turned_steps_lead_out_at_a_small_cost() -> None:
    df = F.diff(X)
    x0, rho, tenth = R(1, 5), R(6, 5), R(1, 10)
    x1 = x0 - tenth * (df.subs(X, x0 + rho) - df.subs(X, x0))
    x2 = x1 - tenth * (df.subs(X, x1 + rho) - df.subs(X, x1))
    assert df.subs(X, x0) == R(-24, 125)
    assert x1 == R(29, 625)
    assert x2 < 0
    cost = (df.subs(X, x0) ** 2 + df.subs(X, x1) ** 2) / 2
    assert 0.0195 < cost < 0.0196
    assert 40 * cost < V_TENTH / 0.01


def test_average_look_sees_a_well_at_the_maximizer() -> None:
    rho = sp.Symbol("rho", positive=True)
    df = F.diff(X)
    average = (df.subs(X, X + rho) + df.subs(X, X - rho)) / 2
    assert sp.expand(average - X**3 - (3 * rho**2 - 1) * X) == 0
