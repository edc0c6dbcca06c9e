"""Update rules of sharpness-aware minimization as pure functions of a gradient oracle.

Every rule has the form

    rule(oracle, x, rho, **kw) -> Step,

and one step is x ← x − η·direction. Here x has shape (..., d), NumPy or torch; rho is a number or
broadcasts as (..., 1); x⁺ is the point at which the rule looks. Write g = ∇f(x) and u = g/‖g‖.
Where g = 0 the direction of ascent is undefined: every rule then takes x⁺ = x, so none divides by
zero. Infinities and NaN pass through without a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from samlib.errors import check_choice

Array: TypeAlias = Any
"""A NumPy array or a torch tensor of shape (..., d)."""


class Oracle(Protocol):
    """What a rule needs of f: values with gradients, and for ``exact`` Hessian-vector products.

    A landscape, which has ``f`` and ``grad`` instead, is asked for one after the other.
    """

    def value_and_grad(self, x: Array) -> tuple[Array, Array]:
        """f(x), shape (...), and ∇f(x), shape (..., d)."""

    def hvp(self, x: Array, v: Array) -> Array:
        """∇²f(x) v, shape (..., d)."""


class Step(NamedTuple):
    """What a rule found at x and at x⁺, and where it goes from x.

    Attributes
    ----------
    direction
        What the step follows, x ← x − η·direction, shape (..., d).
    x_plus
        The point x⁺ at which the rule looked, shape (..., d).
    loss, grad
        f(x), shape (...), and ∇f(x), shape (..., d).
    shifted_loss, shifted_grad
        f(x⁺) and ∇f(x⁺). For ``gd``, which looks at x alone, they are those at x.
    """

    direction: Array
    x_plus: Array
    loss: Array
    grad: Array
    shifted_loss: Array
    shifted_grad: Array


Rule: TypeAlias = Callable[..., Step]
_quiet = np.errstate(all="ignore")


def _value_and_grad(oracle: Any, x: Array) -> tuple[Array, Array]:
    if hasattr(oracle, "value_and_grad"):
        value, g = oracle.value_and_grad(x)
        return value, g
    return oracle.f(x), oracle.grad(x)


def _look(oracle: Oracle, x_plus: Array, loss: Array, g: Array) -> Step:
    """The step that follows ∇f(x⁺), given f and ∇f at x."""
    shifted_loss, shifted = _value_and_grad(oracle, x_plus)
    return Step(shifted, x_plus, loss, g, shifted_loss, shifted)


def _inverse_norm(g: Array) -> Array:
    """1/‖g‖ with shape (..., 1), and 1 where g = 0: the vector that it scales is zero there."""
    if isinstance(g, np.ndarray):
        norm = np.sqrt((g * g).sum(-1, keepdims=True))
    else:
        norm = g.norm(dim=-1, keepdim=True)
    return 1.0 / (norm + (norm == 0))


def gd(oracle: Oracle, x: Array, rho: Any = 0.0) -> Step:
    """Gradient descent: direction ∇f(x), x⁺ = x; ``rho`` plays no part."""
    loss, g = _value_and_grad(oracle, x)
    return Step(g, x, loss, g, loss, g)


@_quiet
def sam(oracle: Oracle, x: Array, rho: Any) -> Step:
    """SAM: direction ∇f(x⁺), x⁺ = x + ρ g/‖g‖ (Foret et al. 2021, eqs. 2 and 3)."""
    loss, g = _value_and_grad(oracle, x)
    x_plus = x + g * (rho * _inverse_norm(g))
    return _look(oracle, x_plus, loss, g)


@_quiet
def exact(oracle: Oracle, x: Array, rho: Any) -> Step:
    """Gradient of the surrogate f^SAM(x) = f(x + ρu(x)), with no term dropped.

    direction = g⁺ + (ρ/‖g‖) H(x)(g⁺ − u⟨u, g⁺⟩), g⁺ = ∇f(x⁺): the chain rule (theory §4), since
    Du = (I − uuᵀ)H/‖g‖. SAM keeps the first term only.
    """
    loss, g = _value_and_grad(oracle, x)
    scale = _inverse_norm(g)
    u = g * scale
    x_plus = x + rho * u
    step = _look(oracle, x_plus, loss, g)
    g_plus = step.shifted_grad
    tangential = g_plus - u * (u * g_plus).sum(-1, keepdims=True)
    return step._replace(direction=g_plus + rho * scale * oracle.hvp(x, tangential))


@_quiet
def asam(oracle: Oracle, x: Array, rho: Any) -> Step:
    """ASAM: direction ∇f(x⁺), x⁺ = x + ρ T²g/‖Tg‖, T = diag|x| (Kwon et al. 2021, eq. 7)."""
    loss, g = _value_and_grad(oracle, x)
    scaled = abs(x) * g
    x_plus = x + abs(x) * scaled * (rho * _inverse_norm(scaled))
    return _look(oracle, x_plus, loss, g)


@_quiet
def gsam(oracle: Oracle, x: Array, rho: Any, alpha: float = 0.1) -> Step:
    """GSAM: direction ∇f(x⁺) − α g_⊥, x⁺ as in SAM (Zhuang et al. 2022, eq. 8).

    g_⊥ = g − v⟨v, g⟩ is the part of g = ∇f(x) orthogonal to v = ∇f(x⁺)/‖∇f(x⁺)‖. Where
    ∇f(x⁺) = 0, v = 0 and g_⊥ = g.
    """
    step = sam(oracle, x, rho)
    g, g_plus = step.grad, step.shifted_grad
    v = g_plus * _inverse_norm(g_plus)
    return step._replace(direction=g_plus - alpha * (g - v * (v * g).sum(-1, keepdims=True)))


@_quiet
def unnormalised(oracle: Oracle, x: Array, rho: Any) -> Step:
    """SAM without the norm: direction ∇f(x⁺), x⁺ = x + ρ∇f(x) (theory §5)."""
    loss, g = _value_and_grad(oracle, x)
    x_plus = x + rho * g
    return _look(oracle, x_plus, loss, g)


_RULES: dict[str, Rule] = {r.__name__: r for r in (gd, sam, exact, asam, gsam, unnormalised)}


def names() -> list[str]:
    """The names that ``get`` knows."""
    return list(_RULES)


def get(name: str | Rule) -> Rule:
    """The rule of that name, or ``name`` itself if it is a rule. BadInput lists the names."""
    if callable(name):
        return name
    check_choice("rule", name, _RULES)
    return _RULES[name]
