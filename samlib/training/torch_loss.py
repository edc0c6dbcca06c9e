"""Any torch loss of a flat parameter vector as a landscape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from samlib.errors import BadInput, check_whole
from samlib.landscapes.protocol import DENSE


class TorchLoss:
    """f, ∇f, ∇²f and Hessian-vector products of a torch function by automatic differentiation.

    Takes and returns float64 NumPy arrays (..., d). Batches run through ``torch.func.vmap``; a
    loss that cannot be vectorised is evaluated a row at a time.

    Parameters
    ----------
    loss
        A function of one float64 tensor (dim,) with a scalar value, written in differentiable torch
        operations; for a module, use ``torch.func.functional_call`` with parameters cut out of it.
    dim
        The number d of parameters.
    name
        What to call it.
    """

    def __init__(self, loss: Callable[[Any], Any], dim: int, name: str = "torch loss") -> None:
        from torch.func import grad, jacrev, vjp

        self.dim, self.name = check_whole("dim", dim, remedy="count parameters"), name
        self._loss, self._grad, self._hess = loss, grad(loss), jacrev(grad(loss))
        self._hvp = lambda x, v: vjp(self._grad, x)[1](v)[0]

    def f(self, x: ArrayLike) -> Any:
        """Values, (...)."""
        return self._evaluate(self._loss, 0, x)

    def grad(self, x: ArrayLike) -> Any:
        """Gradients, (..., d)."""
        return self._evaluate(self._grad, 1, x)

    def hess(self, x: ArrayLike) -> Any:
        """Hessians, (..., d, d). BadInput above 300 parameters: use ``hvp``."""
        if self.dim > DENSE:
            raise BadInput(f"a dense Hessian of {self.dim} > {DENSE} parameters; use hvp(x, v)")
        return self._evaluate(self._hess, 2, x)

    def hvp(self, x: ArrayLike, v: ArrayLike) -> Any:
        """∇²f(x)v, (..., d)."""
        return self._evaluate(self._hvp, 1, x, v)

    def _evaluate(self, function: Callable[..., Any], order: int, *inputs: ArrayLike) -> Any:
        import torch

        arrays = np.broadcast_arrays(*[np.asarray(a, dtype=float) for a in inputs])
        batch, dim = arrays[0].shape[:-1], self.dim
        if arrays[0].shape[-1:] != (dim,):
            raise BadInput(f"x has shape {arrays[0].shape}; the last axis must be {dim}")
        rows = [torch.from_numpy(a.reshape(-1, dim).copy()) for a in arrays]
        out = np.empty((len(rows[0]), *[dim] * order))
        try:
            if len(out) > 1:
                out[:] = torch.func.vmap(function)(*rows).detach()
                return out.reshape(batch + out.shape[1:])
        except RuntimeError:  # what vmap raises for control flow that depends on the data
            pass
        for i, row in enumerate(zip(*rows, strict=True)):
            out[i] = function(*row).detach()
        return out.reshape(batch + out.shape[1:])[()]
