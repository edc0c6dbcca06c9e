"""The radii at which a network's hallucinated point exists and attracts, at each weight decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from samlib.certify.certificate import Certificate
from samlib.certify.exact_network import NetworkLoss
from samlib.points.continuation import continue_in_rho
from samlib.points.lagrange import Stationary
from samlib.points.search import refine
from samlib.points.solvers import solve
from samlib.points.stability import classify

Floats = NDArray[np.float64]


class Window(NamedTuple):
    """One branch of hallucinated points at weight decay λ: arrays (n,) over increasing ρ.

    ``norm`` is the image's, ``eta_max`` the learning rate below which each point attracts (NaN:
    none) and ``slowest`` the smallest real part of an eigenvalue of A: SAM approaches the point by
    a factor 1 − η·slowest a step.
    """

    decay: float
    norm: float
    rho: Floats
    loss: Floats
    eta_max: Floats
    slowest: Floats

    def attracts(self, eta: float) -> tuple[float, float]:
        """The radii from which and up to which points attract at ``eta``; NaN if none does.

        Linear between the branch's points, so good to a fraction of their spacing.
        """
        stays = np.flatnonzero(self.eta_max > eta)
        if not len(stays):
            return np.nan, np.nan
        ends = []
        for k, step in ((stays[0], -1), (stays[-1], 1)):
            at = k + step if 0 <= k + step < len(self.rho) else k
            pair = sorted((k, at), key=lambda i: float(self.eta_max[i]))
            ends.append(float(np.interp(eta, self.eta_max[pair], self.rho[pair])))
        return ends[0], ends[1]


def window(net: Callable[[float], NetworkLoss], start: Certificate, decay: float) -> Window:
    """Follow a certified point to the weight decay λ, then its branch to both of its ends in ρ.

    ``net(λ)`` is the loss. On the way to λ, in steps of at most 15 %, ρ keeps its ratio to ‖x_*‖.
    """
    image, x = start.image, start.x_h
    ratio = float(start.rho) / float(np.linalg.norm(image))
    first = float(start.landscape.decay)
    steps = max(2, int(np.ceil(abs(np.log(decay / first)) / 0.15)))
    for value in np.geomspace(first, decay, steps):
        f, before = net(round(float(value), 9)), float(np.linalg.norm(image))
        image = solve(Stationary(f), image)
        size = float(np.linalg.norm(image))
        point = refine(f, x * size / before, image, ratio * size)
        x = point.x
    ends = [continue_in_rho(f, point, r, max_step=size / 10) for r in (size / 2, 2.2 * size)]
    rho, xs = (
        np.concatenate([getattr(ends[0], k)[:0:-1], getattr(ends[1], k)]) for k in ("rho", "x")
    )
    every = [classify(f, x, r) for x, r in zip(xs[1:-1], rho[1:-1], strict=True)]  # ends: f' = 0
    eta = np.array([np.nan if c.eta_max is None else c.eta_max for c in every])
    slowest = np.array([c.eigenvalues.real.min() for c in every])
    return Window(decay, size, rho[1:-1], f.f(xs[1:-1]), eta, slowest)
