"""Update rules of sharpness-aware minimization as pure functions of a gradient oracle.

Every rule has the form

    rule(oracle, x, rho, **kw) -> (direction, x_plus),

and one step is x ← x − η·direction. Here x has shape (..., d), NumPy or torch; rho is a number or
broadcasts as (..., 1); x_plus = x⁺ is the point at which the rule looks. Write g = ∇f(x) and
u = g/‖g‖. Where g = 0 the direction of ascent is undefined: every rule then takes x⁺ = x, so none
divides by zero. Infinities and NaN pass through without a warning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np

from samlib.errors import check_choice

Array: TypeAlias = Any
"""A NumPy array or a torch tensor of shape (..., d)."""


class Oracle(Protocol):
    """What a rule needs of f: the gradient, and for ``exact`` Hessian-vector products."""

    def grad(self, x: Array) -> Array:
        """∇f(x), shape (..., d)."""

    def hvp(self, x: Array, v: Array) -> Array:
        """∇²f(x) v, shape (..., d)."""


Rule: TypeAlias = Callable[..., tuple[Array, Array]]
_quiet = np.errstate(all="ignore")


def _inverse_norm(g: Array) -> Array:
    """1/‖g‖ with shape (..., 1), and 1 where g = 0: the vector that it scales is zero there."""
    if isinstance(g, np.ndarray):
        norm = np.sqrt((g * g).sum(-1, keepdims=True))
    else:
        norm = g.norm(dim=-1, keepdim=True)
    return 1.0 / (norm + (norm == 0))


def gd(oracle: Oracle, x: Array, rho: Any = 0.0) -> tuple[Array, Array]:
    """Gradient descent: direction ∇f(x), x⁺ = x; ``rho`` plays no part."""
    return oracle.grad(x), x


@_quiet
def sam(oracle: Oracle, x: Array, rho: Any) -> tuple[Array, Array]:
    """SAM: direction ∇f(x⁺), x⁺ = x + ρ g/‖g‖ (Foret et al. 2021, eqs. 2 and 3)."""
    g = oracle.grad(x)
    x_plus = x + g * (rho * _inverse_norm(g))
    return oracle.grad(x_plus), x_plus


@_quiet
def exact(oracle: Oracle, x: Array, rho: Any) -> tuple[Array, Array]:
    """Gradient of the surrogate f^SAM(x) = f(x + ρu(x)), with no term dropped.

    direction = g⁺ + (ρ/‖g‖) H(x)(g⁺ − u⟨u, g⁺⟩), g⁺ = ∇f(x⁺): the chain rule (theory §4), since
    Du = (I − uuᵀ)H/‖g‖. SAM keeps the first term only.
    """
    g = oracle.grad(x)
    scale = _inverse_norm(g)
    u = g * scale
    x_plus = x + rho * u
    g_plus = oracle.grad(x_plus)
    tangential = g_plus - u * (u * g_plus).sum(-1, keepdims=True)
    return g_plus + rho * scale * oracle.hvp(x, tangential), x_plus


@_quiet
def asam(oracle: Oracle, x: Array, rho: Any) -> tuple[Array, Array]:
    """ASAM: direction ∇f(x⁺), x⁺ = x + ρ T²g/‖Tg‖, T = diag|x| (Kwon et al. 2021, eq. 7)."""
    scaled = abs(x) * oracle.grad(x)
    x_plus = x + abs(x) * scaled * (rho * _inverse_norm(scaled))
    return oracle.grad(x_plus), x_plus


@_quiet
def gsam(oracle: Oracle, x: Array, rho: Any, alpha: float = 0.1) -> tuple[Array, Array]:
    """GSAM: direction ∇f(x⁺) − α g_⊥, x⁺ as in SAM (Zhuang et al. 2022, eq. 8).

    g_⊥ = g − v⟨v, g⟩ is the part of g = ∇f(x) orthogonal to v = ∇f(x⁺)/‖∇f(x⁺)‖. Where
    ∇f(x⁺) = 0, v = 0 and g_⊥ = g.
    """
    g = oracle.grad(x)
    x_plus = x + g * (rho * _inverse_norm(g))
    g_plus = oracle.grad(x_plus)
    v = g_plus * _inverse_norm(g_plus)
    return g_plus - alpha * (g - v * (v * g).sum(-1, keepdims=True)), x_plus


@_quiet
def unnormalised(oracle: Oracle, x: Array, rho: Any) -> tuple[Array, Array]:
    """SAM without the norm: direction ∇f(x⁺), x⁺ = x + ρ∇f(x) (theory §5)."""
    x_plus = x + rho * oracle.grad(x)
    return oracle.grad(x_plus), x_plus


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
