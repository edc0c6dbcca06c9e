"""Any torch loss of a flat parameter vector as a landscape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samlib.errors import BadInput, check_number
from samlib.landscapes.protocol import DENSE, Array


class TorchLoss:
    """f, ∇f, ∇²f and Hessian-vector products of a torch function by automatic differentiation.

    Takes and returns float64 NumPy arrays (..., d). Batches run through ``torch.func.vmap``; a
    loss that cannot be vectorised is evaluated a row at a time.
    """

    def __init__(self, loss: Callable[[Any], Any], dim: int, name: str = "torch loss") -> None:
        from torch.func import grad, jacrev, vjp

        self.dim, self.name = int(check_number("dim", dim, 1, remedy="count parameters")), name
        gradient = grad(loss)
        self._functions: dict[str, Callable[..., Any]] = {
            "f": loss,
            "grad": gradient,
            "hess": jacrev(gradient),
            "hvp": lambda x, v: vjp(gradient, x)[1](v)[0],
        }

    def f(self, x: ArrayLike) -> Any:
        """Values, (...)."""
        return self._evaluate("f", (), x)

    def grad(self, x: ArrayLike) -> Array:
        """Gradients, (..., d)."""
        return self._evaluate("grad", (self.dim,), x)

    def hess(self, x: ArrayLike) -> Array:
        """Hessians, (..., d, d). BadInput above 300 parameters: use ``hvp``."""
        if self.dim > DENSE:
            raise BadInput(f"a dense Hessian of {self.dim} > {DENSE} parameters; use hvp(x, v)")
        return self._evaluate("hess", (self.dim, self.dim), x)

    def hvp(self, x: ArrayLike, v: ArrayLike) -> Array:
        """∇²f(x)v, (..., d)."""
        return self._evaluate("hvp", (self.dim,), x, v)

    def _evaluate(self, which: str, tail: tuple[int, ...], *inputs: ArrayLike) -> Array:
        import torch

        arrays = np.broadcast_arrays(*[np.asarray(a, dtype=float) for a in inputs])
        batch = arrays[0].shape[:-1]
        if arrays[0].ndim == 0 or arrays[0].shape[-1] != self.dim:
            raise BadInput(f"x has shape {arrays[0].shape}; the last axis must be {self.dim}")
        rows = [torch.from_numpy(a.reshape(-1, self.dim).copy()) for a in arrays]
        function = self._functions[which]
        if len(rows[0]) <= 1:
            values = [function(*row) for row in zip(*rows, strict=True)]
            out = torch.stack(values) if values else torch.empty(0, dtype=torch.float64)
        else:
            try:
                out = torch.func.vmap(function)(*rows)
            except RuntimeError:  # what vmap raises for control flow that depends on the data
                out = torch.stack([function(*row) for row in zip(*rows, strict=True)])
        return np.asarray(out.detach().numpy(), dtype=float).reshape((*batch, *tail))[()]


def from_torch(loss: Callable[[Any], Any], dim: int, name: str = "torch loss") -> TorchLoss:
    """Wrap ``loss``, a torch function of one float64 tensor (dim,) with a scalar value.

    It must be written in differentiable torch operations on its argument: for a module, use
    ``torch.func.functional_call`` with parameters cut out of the flat vector.
    """
    return TorchLoss(loss, dim, name)
