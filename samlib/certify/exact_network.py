"""The loss of a small tanh network on exact rational data, as a landscape over its parameters.

One set of formulas serves two number systems: NumPy float64, for speed, and python-flint balls, for
proofs. Data and weight decay are held as fractions, so a ball computation starts from the true loss
and not from a rounded one.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samlib.certify.ball_arithmetic import (
    Array,
    apply,
    ball,
    common_denominator,
    fraction,
    fractions,
    log_sum_exp,
    mm,
    working_precision,
)
from samlib.errors import BadInput, check_choice, check_number, check_whole

LOSSES = ("ce", "mse", "logistic")


class NetworkLoss:
    """f(θ) = mean loss of z = W₂ tanh(W₁x + b₁) + b₂ over the data, plus (λ/2)‖θ‖².

    θ is flat in PyTorch's order: W₁ (h, d) by rows, b₁, W₂ (k, h) by rows, b₂; p = ``dim`` numbers.

    Parameters
    ----------
    x : array (N, d)
        Inputs. Floats stand for their shortest decimal, so 0.125 and 0.337 are exact.
    y : array (N,) or (N, k)
        Labels 0 … k−1 (``ce``), labels 0 and 1 (``logistic``), or targets (``mse``).
    hidden : int
        Number h of tanh units.
    loss : str
        ``ce`` is cross-entropy, ``logistic`` −log σ(±z) of one output, ``mse`` ½‖z − y‖²; all are
        means over the N samples.
    decay : number
        λ, applied to all parameters.

    Raises
    ------
    BadInput
        If shapes, labels or names do not fit, or a number is not finite.
    """

    smooth = True

    def __init__(
        self, x: ArrayLike, y: ArrayLike, hidden: int, *, loss: str = "ce", decay: Any = 0
    ) -> None:
        check_choice("loss", loss, LOSSES)
        self.loss, self.hidden = loss, check_whole("hidden", hidden)
        self.decay = _weight_decay(decay)
        self._x, targets = fractions("x", x), fractions("y", y)
        self._y = targets[:, None] if targets.ndim == 1 else targets
        shapes = self._x.ndim, self._y.ndim, len(self._x)
        if shapes != (2, 2, len(self._y)) or not self._x.size or not self._y.size:
            raise BadInput(
                f"x {self._x.shape} and y {targets.shape} do not fit; give (N, d) and N labels"
            )
        if loss != "mse":
            self._y = self._one_hot()
        self.samples, self.inputs = self._x.shape
        self.outputs = self._y.shape[1]
        self.dim = hidden * (self.inputs + 1) + self.outputs * (hidden + 1)
        try:
            self._tables = {0: self._table(float)}  # under the precision of their balls
        except OverflowError:
            raise BadInput("x or y has a number beyond the range of float64") from None

    def with_decay(self, decay: Any) -> Self:
        """The loss on the same data with another λ; BadInput if it is negative or no number."""
        other = copy.copy(self)
        other.decay = _weight_decay(decay)
        return other

    def _one_hot(self) -> NDArray[np.object_]:
        """The labels, for ``ce`` as a 1 in the column of the class."""
        labels = self._y[:, 0]
        # Far beyond any set of classes a label is a mistake, and a table of so many columns too.
        top = 1 if self.loss == "logistic" else min(max(labels), 9999)
        if self._y.shape[1] != 1 or not all(v.denominator == 1 and 0 <= v <= top for v in labels):
            raise BadInput(
                f"loss {self.loss!r} needs integer labels from 0 up (at most 9999), one for each "
                "row of x"
            )
        if self.loss == "logistic":
            return self._y
        return np.array([[Fraction(int(v == c)) for c in range(int(top) + 1)] for v in labels])

    def __repr__(self) -> str:
        shape = f"{self.inputs}-{self.hidden}-{self.outputs} tanh, {self.loss}"
        return f"NetworkLoss({shape}, N = {self.samples}, λ = {self.decay}, p = {self.dim})"

    # -- data in the number system at hand

    def _table(self, number: Callable[[Fraction], Any]) -> tuple[Array, Array]:
        """(x, 1) of shape (N, d+1) and targets (k, N)."""
        wide = np.hstack([self._x, np.full((self.samples, 1), Fraction(1))])
        x, y = (np.array([[number(v) for v in row] for row in a]) for a in (wide, self._y.T))
        return x, y

    def _data(self, theta: Array) -> tuple[Array, Array, Any]:
        """The table and λ in the numbers of θ: a ball is as fine as the precision at its making."""
        if theta.dtype != object:
            return *self._tables[0], float(self.decay)
        bits = working_precision()
        if bits not in self._tables:
            self._tables[bits] = self._table(ball)
        return *self._tables[bits], ball(self.decay)

    def blocks(self, theta: Array) -> tuple[Array, Array]:
        """(W₁, b₁) of shape (..., h, d+1) and (W₂, b₂) of shape (..., k, h+1)."""
        h, d, k, lead = self.hidden, self.inputs, self.outputs, theta.shape[:-1]
        w1 = theta[..., : h * d].reshape(*lead, h, d)
        b1 = theta[..., h * d : h * d + h, None]
        w2 = theta[..., h * d + h : -k].reshape(*lead, k, h)
        return np.concatenate([w1, b1], -1), np.concatenate([w2, theta[..., -k:, None]], -1)

    def flat(self, first: Array, second: Array) -> Array:
        """The inverse of :meth:`blocks`."""
        parts = (first[..., :-1], first[..., -1:], second[..., :-1], second[..., -1:])
        return np.concatenate([q.reshape(*q.shape[:-2], -1) for q in parts], -1)

    # -- the formulas

    def _forward(self, theta: Array) -> tuple[Array, Array, Array]:
        """Hidden values t (..., h, N), outputs z (..., k, N) and N · ∂loss/∂z."""
        x, y, _ = self._data(theta)
        first, second = self.blocks(theta)
        t = apply("tanh", mm(first, x.T))
        z = mm(second[..., :-1], t) + second[..., -1:]
        return t, z, self._predicted(z) - y

    def _predicted(self, z: Array) -> Array:
        """Class probabilities (z itself for ``mse``), in a form in which balls stay small."""
        if self.loss == "mse":
            return z
        if self.loss == "logistic":
            return np.asarray((1 + apply("tanh", z / 2)) / 2)
        with np.errstate(over="ignore"):
            odds: Array = apply("exp", z[..., None, :, :] - z[..., :, None, :])
        return np.asarray(1 / odds.sum(-2))

    def _value(self, theta: Array) -> Any:
        _, y, decay = self._data(theta)
        _, z, residual = self._forward(theta)
        if self.loss == "mse":
            each = (residual * residual).sum(-2) / 2
        elif self.loss == "logistic":  # the log-sum of 0 and of −z where y is 1, z where it is 0
            each = log_sum_exp(np.concatenate([0 * z, z - 2 * y * z], -2))
        else:
            each = log_sum_exp(z - (y * z).sum(-2)[..., None, :])
        return each.sum(-1) / self.samples + decay / 2 * (theta * theta).sum(-1)

    def f(self, theta: ArrayLike) -> Any:
        """The loss at θ (..., p), shape (...)."""
        return self._value(self._check(theta))

    def accuracy(self, theta: ArrayLike) -> Any:
        """Fraction of the data classified correctly at θ (..., p), for ``ce`` and ``logistic``."""
        z, y = self._forward(self._check(theta))[1], self._tables[0][1]
        if self.outputs == 1:
            return ((z > 0) == (y > 0.5)).mean((-1, -2))
        return (z.argmax(-2) == y.argmax(-2)).mean(-1)

    def grad(self, theta: ArrayLike) -> NDArray[np.float64]:
        """∇f at θ (..., p), the same shape."""
        return self._grad(self._check(theta))

    def hess(self, theta: ArrayLike) -> NDArray[np.float64]:
        """The Hessian at θ (..., p), shape (..., p, p)."""
        point = self._check(theta)
        rows = [self._hess(q) for q in point.reshape(-1, self.dim)]
        return np.array(rows).reshape(*point.shape, self.dim)

    def hvp(self, theta: ArrayLike, v: ArrayLike) -> NDArray[np.float64]:
        """The Hessian at θ times v, both (..., p): the gradient differentiated along v."""
        step = 1e-100  # in the imaginary direction: no difference is formed, so none is rounded
        shifted = self._check(theta) + 1j * step * self._check(v)
        return np.asarray(self._grad(shifted).imag / step)

    def _grad(self, theta: Array) -> Array:
        x, _, decay = self._data(theta)
        t, _, r = self._forward(theta)
        w2 = self.blocks(theta)[1][..., :-1]
        delta = (1 - t * t) * mm(w2.mT, r)
        upper = np.concatenate([mm(r, t.mT), r.sum(-1)[..., None]], -1)
        return np.asarray(self.flat(mm(delta, x), upper) / self.samples + decay * theta)

    def _hess(self, theta: Array) -> Array:
        """The blocks of the Hessian, each a sum over the N samples."""
        h, k, n = self.hidden, self.outputs, self.samples
        x, _, decay = self._data(theta)
        t, z, r = self._forward(theta)
        w2, slope, q = self.blocks(theta)[1][:, :-1], 1 - t * t, self._predicted(z)
        curve = np.zeros((k, k, n), dtype=theta.dtype)  # N · ∂²loss/∂z∂z
        curve[np.diag_indices(k)] = 1 if self.loss == "mse" else q
        if self.loss != "mse":
            curve = curve - q[:, None] * q[None]
        bent = mm(w2.T, curve.reshape(k, k * n)).reshape(h, k, n)  # W₂ᵀ curve
        pair = mm(w2.T, bent.swapaxes(0, 1).reshape(k, h * n)).reshape(h, h, n)
        pair = slope[:, None] * slope[None] * pair
        pair[np.diag_indices(h)] += -2 * t * slope * mm(w2.T, r)
        # (j, a), (l, b) are parameters of hidden units, (c, i), (e, m) of outputs.
        wide = np.concatenate([t, np.ones((1, n), dtype=int).astype(theta.dtype)]).T
        jlab = _sum_of_products(pair, x, x)
        jcai = _sum_of_products(slope[:, None] * bent, x, wide)
        own = mm((slope[:, None] * r).reshape(h * k, n), x).reshape(h, k, -1)
        jcai[range(h), :, :, range(h)] += own
        ceim = _sum_of_products(curve, wide, wide)
        inner, mixed, outer = (
            block.swapaxes(1, 2).reshape(block.shape[0] * block.shape[2], -1)
            for block in (jlab, jcai, ceim)
        )
        out = np.block([[inner, mixed], [mixed.T, outer]]) / n
        out[np.diag_indices(self.dim)] += decay
        first, second = np.split(np.arange(self.dim), [len(inner)])
        order = self.flat(first.reshape(h, -1), second.reshape(k, -1))
        return np.asarray(out[np.ix_(order, order)])

    # -- balls, symmetries, storage

    def ball_f(self, xs: Sequence[Any]) -> Any:
        """f over the box of the ``arb`` balls xs (length p), one ball."""
        return self._value(np.array(list(xs), dtype=object))

    def ball_grad(self, xs: Sequence[Any]) -> list[Any]:
        """∇f over the box of the ``arb`` balls xs (length p), enclosed at flint's precision."""
        return list(self._grad(np.array(list(xs), dtype=object)))

    def ball_hess(self, xs: Sequence[Any]) -> list[list[Any]]:
        """The Hessian enclosed over the box of the balls xs, p rows of p balls."""
        rows: list[list[Any]] = self._hess(np.array(list(xs), dtype=object)).tolist()
        return rows

    def flip_unit(self, theta: ArrayLike, j: int) -> NDArray[np.float64]:
        """θ with the signs of unit j's weights and bias, in and out, changed: f stays the same."""
        sign = np.ones(self.hidden)
        sign[self._unit(j)] = -1
        first, second = self.blocks(self._check(theta))
        return self.flat(first * sign[:, None], second * np.append(sign, 1))

    def swap_units(self, theta: ArrayLike, i: int, j: int) -> NDArray[np.float64]:
        """θ with hidden units i and j exchanged: f stays the same."""
        order = np.arange(self.hidden + 1)
        order[[self._unit(i), self._unit(j)]] = j, i
        first, second = self.blocks(self._check(theta))
        return self.flat(first[..., order[:-1], :], second[..., order])

    def constant_loss(self) -> Any:
        """The mean loss of the best constant output, without any penalty, as one ball.

        For ``ce`` and ``logistic`` it is the entropy of the labels, for ``mse`` half the variance
        of the targets, summed over the outputs.
        """
        means = self._y.sum(0) / self.samples
        if self.loss == "mse":
            return ball(((self._y**2).sum() / self.samples - (means**2).sum()) / 2)
        shares = means if self.loss == "ce" else [means[0], 1 - means[0]]
        return -sum(ball(q) * ball(q).log() for q in shares if q)

    def parameters_of(self, j: int) -> NDArray[np.int_]:
        """Which of the p parameters belong to hidden unit j: its row of W₁, bias, column of W₂."""
        first, second = self.blocks(np.arange(self.dim))
        return np.concatenate([first[self._unit(j)], second[:, j]])

    def digest(self) -> str:
        """SHA-256 of the data: of the JSON text of x, y and their denominators, exactly."""
        stored = self.to_json()
        kept = {k: stored[k] for k in ("x", "x_denominator", "y", "y_denominator")}
        text = json.dumps(kept, separators=(",", ":"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Everything that defines f, exactly, as plain JSON values."""
        x, x_denominator = common_denominator(self._x)
        y, y_denominator = common_denominator(self._y)
        return {
            "type": "network",
            "loss": self.loss,
            "hidden": self.hidden,
            "decay": str(self.decay),
            "x": x,
            "x_denominator": x_denominator,
            "y": [row.index(1) for row in y] if self.loss == "ce" else y,
            "y_denominator": y_denominator,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Self:
        """The network of :meth:`to_json`.

        Raises
        ------
        BadInput, LookupError, TypeError, ArithmeticError
            If an entry is not one that it writes.
        """
        x, y = (
            fractions(key, stored[key]) * Fraction(1, stored[f"{key}_denominator"])
            for key in ("x", "y")
        )
        return cls(x, y, stored["hidden"], loss=stored["loss"], decay=stored["decay"])

    def _unit(self, j: int) -> int:
        if not 0 <= j < self.hidden:
            raise BadInput(f"unit {j} does not exist; use 0 to {self.hidden - 1}")
        return j

    def _check(self, theta: ArrayLike) -> NDArray[np.float64]:
        point = np.asarray(theta, dtype=float)
        if point.ndim == 0 or point.shape[-1] != self.dim:
            raise BadInput(f"a point of shape {point.shape} does not fit; give (..., {self.dim})")
        return point


def _sum_of_products(a: Array, b: Array, c: Array) -> Array:
    """Σₙ a[..., n] b[n, i] c[n, j] of shape (..., i, j); the smaller factors meet first."""
    rows, n = a.reshape(-1, len(b)), len(b)
    if len(rows) < c.shape[1]:
        product = mm((rows[:, None] * b.T).reshape(-1, n), c)
    else:
        product = mm(rows, (b[:, :, None] * c[:, None]).reshape(n, -1))
    return product.reshape(*a.shape[:-1], b.shape[1], c.shape[1])


def _weight_decay(value: Any) -> Fraction:
    decay = fraction("decay", value)
    check_number("decay", decay, remedy="it may not be negative")
    return decay
