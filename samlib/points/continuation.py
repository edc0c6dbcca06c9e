"""Follow a hallucinated point as ρ changes, by predictor and corrector in pseudo-arclength."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samlib.errors import BadInput, check_box, check_number, check_point, check_rho
from samlib.landscapes.protocol import Array, Smooth, operator
from samlib.points.lagrange import Lagrange, stationary_image
from samlib.points.solvers import solve

_MIN_GRAD = 1e-6


@dataclass(frozen=True, eq=False)
class Branch:
    """Hallucinated points of one image: ``rho`` (n,), ``x`` (n, d), ``grad_norm`` (n,), in order.

    ``ended`` says why it stops: "reached" (the last ρ is the one asked for), "fold" (ρ turns round:
    det S = 0, the last point is the fold), "gradient vanished" (the point runs into a critical
    point of f), "left" (the box), "stuck" (no solution near the last one: a kink) or "too long".
    """

    rho: Array
    x: Array
    grad_norm: Array
    image: Array
    ended: str


def continue_in_rho(
    landscape: Smooth,
    point: Any,
    rho_end: float,
    *,
    max_step: float | None = None,
    past_folds: bool = False,
    box: ArrayLike | None = None,
    max_points: int = 2000,
) -> Branch:
    """Follow ``point`` from its radius towards ``rho_end``; its image stays fixed.

    Solves ∇f(x) + μ(x − x_*)/ρ = 0, ‖x − x_*‖ = ρ in (x, μ, ρ) along the arclength of (x, ρ),
    which goes smoothly round folds.

    Parameters
    ----------
    point
        Where to start: what has ``x`` and ``image``, (d,), and ``rho``, such as a point found.
    max_step
        Longest step of arclength, by default |rho_end − ρ|/50.
    past_folds
        Whether to go on where ρ turns round.
    box
        d pairs (low, high); the branch ends where it leaves them. Default: no bound.
    max_points
        The most points; the branch ends there as "too long".

    Raises
    ------
    BadInput
        If ``point`` is not hallucinated, or a number is out of its range.
    """
    rho, rho_end = check_rho(point.rho), check_rho(rho_end)
    image = stationary_image(landscape, point.image)
    bounds = check_box([(-np.inf, np.inf)] * landscape.dim if box is None else box, landscape.dim)
    x = check_point("point.x", point.x, landscape.dim)
    system = Lagrange(landscape, image, rho)
    z = solve(system, system.lift(x))
    if not (z[-1] > _MIN_GRAD and np.linalg.norm(z[:-1] - x) <= 1e-4 * rho):
        raise BadInput(f"point.x = {x} is not hallucinated at rho = {rho}; use find_hallucinated")
    longest = abs(rho_end - rho) / 50 if max_step is None else max_step
    if rho_end != rho:
        longest = check_number("max_step", longest, strict=True)
    path = _Path(landscape, image, np.append(z, rho), rho_end, bounds, past_folds)
    ended = "reached" if rho_end == rho else path.follow(longest, max_points)
    y = np.array(path.points)
    norms = np.linalg.norm(landscape.grad(y[:, :-2]), axis=-1)
    return Branch(y[:, -1], y[:, :-2], norms, image, ended)


class _Path:
    """The curve of y = (x, μ, ρ), walked from its first point."""

    def __init__(
        self, landscape: Smooth, image: Array, y: Array, rho_end: float, box: Array, past: bool
    ) -> None:
        self.landscape, self.image, self.rho_end = landscape, image, rho_end
        self.box, self.past = box, past
        self.points = [y]
        self.metric = np.ones(y.size)
        self.metric[-2] = 0  # μ is as large as f is steep: it does not count as length

    def follow(self, longest: float, max_points: int) -> str:
        """Walk until something happens; return what."""
        y = self.points[0]
        t = self.tangent(y, np.eye(y.size)[-1] * np.sign(self.rho_end - y[-1]))
        h = longest / 10
        while len(self.points) < max_points:
            new, turned = self.correct(y, t, h)
            # a sharp turn (or NaN) means that the corrector may have jumped to another branch
            if not (turned * self.metric) @ t >= 0.9:
                h /= 2
                if h < 1e-7 * longest:
                    return "stuck"
                continue
            if name := self.event(y, t, new, turned):
                return self.finish(y, t, h, new, name)
            self.points.append(new)
            y, t, h = new, turned, min(1.5 * h, longest)
        return "too long"

    def event(self, y: Array, t: Array, new: Array, turned: Array) -> str:
        """Name what happens between ``y`` and ``new`` with tangents ``t`` and ``turned``."""
        if new[-2] <= _MIN_GRAD:
            return "gradient vanished"
        if not self.past and t[-1] * turned[-1] <= 0:
            return "fold"
        if (new[-1] - self.rho_end) * (y[-1] - self.rho_end) <= 0:
            return "reached"
        inside = (self.box[:, 0] <= new[:-2]) & (new[:-2] <= self.box[:, 1])
        return "" if inside.all() else "left"

    def finish(self, y: Array, t: Array, h: float, new: Array, name: str) -> str:
        """End the path on the step from ``y`` that brought the event ``name``; return its name.

        Bisection finds what happens first; for "reached", ρ is then set to its end exactly.
        """
        low, high, last = 0.0, h, y
        while name != "reached" and high - low > 1e-13 * h:
            middle = (low + high) / 2
            new, turned = self.correct(y, t, middle)
            found = self.event(y, t, new, turned) if np.isfinite(turned).all() else name
            if found:
                high, name = middle, found
            else:
                low, last = middle, new
        if name == "reached":
            guess = y + (self.rho_end - y[-1]) / (new[-1] - y[-1]) * (new - y)
            system = Lagrange(self.landscape, self.image, self.rho_end)
            last = np.append(solve(system, guess[:-1]), self.rho_end)
            if not np.linalg.norm(last[:-2] - y[:-2]) <= 2 * h:
                return "stuck"
        if last is not y:
            self.points.append(last)
        return name

    def tangent(self, y: Array, row: Array) -> Array:
        """Return the unit tangent at ``y`` on the side of ``row``; NaN where there is none."""
        t = self.bordered(y, row * self.metric, np.eye(y.size)[-1])
        with np.errstate(all="ignore"):
            return np.asarray(t / np.sqrt((t * self.metric) @ t))

    def correct(self, y: Array, t: Array, h: float) -> tuple[Array, Array]:
        """Return the point of the curve a length ``h`` beyond ``y``, and its tangent or NaN."""
        row, new, old = t * self.metric, y + h * t, np.inf
        for _ in range(12):
            if not new[-1] > 0:
                break
            lagrange = Lagrange(self.landscape, self.image, float(new[-1]))
            right = np.append(lagrange.residual(new[:-1]), row @ (new - y) - h)
            step = self.bordered(new, row, right)
            new = new - step
            size = float(np.sqrt((step * self.metric) @ step))
            if not size < max(h, 1e-9):
                break
            if size <= 1e-13 * (1 + np.linalg.norm(new[:-2])) or (size >= old and old < 1e-9):
                return new, self.tangent(new, t)
            old = size
        return new, np.full(y.size, np.nan)

    def bordered(self, y: Array, row: Array, right: Array) -> Array:
        """Solve [[J, ∂F/∂ρ], [row]] v = right at ``y``."""
        z, rho = y[:-1], float(y[-1])
        lagrange = Lagrange(self.landscape, self.image, rho)
        normal = (z[:-1] - self.image) / rho
        column = np.append(-z[-1] / rho * normal, -(normal @ normal + 1) / 2)
        jacobian = lagrange.jacobian(z)
        if isinstance(jacobian, np.ndarray):
            matrix = np.vstack([np.column_stack([jacobian, column]), row])
            try:
                return np.asarray(np.linalg.solve(matrix, right))
            except np.linalg.LinAlgError:
                return np.full(y.size, np.nan)
        from scipy.sparse.linalg import gmres

        products = operator(
            y.size, lambda v: np.append(jacobian @ v[:-1] + v[-1] * column, row @ v)
        )
        return np.asarray(
            gmres(products, right, rtol=1e-10, restart=min(y.size, 300), maxiter=5)[0]
        )
