"""What every part of samlib asks of a function: values, gradients, Hessians or their products."""

from __future__ import annotations

from collections.abc import Callable
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


def hessian(landscape: Any, x: Array) -> Any:
    """∇²f at x (..., d), a matrix (..., d, d); above ``DENSE`` variables an operator, x (d,)."""
    if is_dense(landscape):
        return np.asarray(landscape.hess(x), dtype=float)
    return operator(landscape.dim, lambda v: landscape.hvp(x, v))


def operator(dim: int, product: Callable[[Array], Any]) -> Any:
    """The SciPy linear operator of a real matrix (dim, dim) given by its product with a vector."""
    from scipy.sparse.linalg import LinearOperator

    return LinearOperator((dim, dim), matvec=lambda v: product(np.ravel(v)), dtype=float)
