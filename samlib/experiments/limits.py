"""The strict regime: what a run's limit is, and how fast it gets there.

Two measures of :mod:`samlib.experiments.measures`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samlib.diagnostics.verdicts import THRESHOLDS
from samlib.errors import BadInput
from samlib.points.stability import classify
from samlib.training.loop import endpoints
from samlib.training.loss import Loss
from samlib.training.spec import Run

Floats = NDArray[np.float64]
Measured = tuple[dict[str, float], dict[str, Floats]]
HIGH, LOW = 1e-4, 1e-10  # GradRatios between which a rate is fitted: past the start, above rounding


class Surface:
    """A loss as a landscape over the p parameters of one network.

    Parameters
    ----------
    loss
        The loss.
    dim
        p.
    """

    def __init__(self, loss: Loss, dim: int) -> None:
        self.loss, self.dim = loss, dim

    def f(self, x: Floats) -> Floats:
        """The loss at x (..., p), shape (...)."""
        return _numbers(self.loss.f(self._rows(x))).reshape(np.shape(x)[:-1])

    def grad(self, x: Floats) -> Floats:
        """∇f at x (..., p), the same shape."""
        return _numbers(self.loss.grad(self._rows(x))).reshape(np.shape(x))

    def hess(self, x: Floats) -> Floats:
        """The Hessian at x (..., p), shape (..., p, p)."""
        rows = self._rows(x)
        eye = torch.eye(self.dim).to(rows)
        each = [self.loss.hvp(r.expand(self.dim, -1), eye) for r in rows]
        return _numbers(torch.stack(each)).reshape(*np.shape(x), self.dim)

    def _rows(self, x: Floats) -> Tensor:
        return torch.as_tensor(np.reshape(x, (-1, self.dim))).to(self.loss.x)


def _numbers(values: Tensor) -> Floats:
    return values.double().cpu().numpy()


def tail(run: Run, f: Loss) -> Measured:
    """``rate``, the factor by which GradRatio falls in a step, fitted to its logarithm.

    The fit takes the steps from the last one above 1e-4 to the first one below 1e-10,
    ``rate_steps`` of them, and leaves ``rate_scatter``, the deviation of ln GradRatio from the
    line. All NaN if there are fewer than 100.
    """
    ratio = run.trace.grad_ratio
    start = int(np.flatnonzero(np.append(True, ~(ratio <= HIGH)))[-1])
    below = np.flatnonzero(ratio[start:] < LOW)
    steps = np.arange(start, start + below[0] if len(below) else len(ratio))
    if len(steps) < 100:
        return dict.fromkeys(("rate", "rate_steps", "rate_scatter"), np.nan), {}
    line = np.polynomial.Polynomial.fit(steps, np.log(ratio[steps]), 1)
    off = np.log(ratio[steps]) - line(steps)
    rate = float(np.exp(line.convert().coef[1]))
    return {"rate": rate, "rate_steps": len(steps), "rate_scatter": float(off.std())}, {}


def limit(run: Run, f: Loss) -> Measured:
    """Where SAM came to rest, and what theory says of it (:func:`samlib.classify`).

    ``norm`` and ``shifted_norm`` are ‖x‖ and ‖x⁺‖, x⁺ under the run's rule at full ρ. Where SAM
    ended with GradRatio < 1e-6 and ∇f(x) ≠ 0: ``spectral_radius`` of DT = I − ηA, ``eta_max``, the
    learning rate up to which x attracts, and ``image_negative``, the number of negative eigenvalues
    of the Hessian at x⁺. They are NaN elsewhere, also where the limit is not yet near enough to
    classify, and ``eta_max`` where x does not attract.
    """
    s, end = run.spec, run.metrics
    surface = Surface(f, len(run.theta))
    x, plus = endpoints(run, f)
    out = {"norm": float(x.norm()), "shifted_norm": float(plus.norm())}
    out |= dict.fromkeys(("spectral_radius", "eta_max", "image_negative"), np.nan)
    vanished = end["grad_ratio"] < THRESHOLDS.zero_ratio
    if s.rule == "sam" and vanished and end["grad_norm"] > THRESHOLDS.rest:
        try:
            c = classify(surface, run.theta, s.rho)
        except BadInput:  # still too far from the limit for its image to be found
            return out, {}
        out["spectral_radius"] = float(np.abs(1 - s.lr * c.eigenvalues).max())
        out["eta_max"] = np.nan if c.eta_max is None else c.eta_max
        out["image_negative"] = int((np.linalg.eigvalsh(surface.hess(c.image)) < 0).sum())
    return out, {}
