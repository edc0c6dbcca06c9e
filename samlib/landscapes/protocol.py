"""What every part of samlib asks of a function: values, gradients, Hessians or their products."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

#: Up to this dimension Hessians are formed; above it only Hessian-vector products are used.
DENSE = 300


class Smooth(Protocol):
    """What is asked of a landscape; above ``DENSE`` variables also ``hvp(x, v)``, if it has one."""

    @property
    def dim(self) -> int:
        """Number of variables d."""

    def f(self, x: Any) -> Any:
        """Values, (...) for x (..., d)."""

    def grad(self, x: Any) -> Any:
        """Gradients, (..., d)."""

    def hess(self, x: Any) -> Any:
        """Hessians, (..., d, d)."""


def is_dense(landscape: Smooth) -> bool:
    """Whether Hessians of ``landscape`` are formed rather than applied."""
    return landscape.dim <= DENSE or not hasattr(landscape, "hvp")


def hvp(landscape: Any, x: Array, v: Array) -> Array:
    """Return the Hessian at ``x`` times ``v``, both (d,)."""
    if hasattr(landscape, "hvp"):
        return np.asarray(landscape.hvp(x, v), dtype=float)
    return np.asarray(landscape.hess(x) @ v, dtype=float)
