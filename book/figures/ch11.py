"""Chapter 11: a transformer and a graph network."""

from __future__ import annotations

from collections.abc import Mapping

import pandas
from matplotlib.figure import Figure

from figures import primitives, style


@style.house()
def outcomes(runs: pandas.DataFrame) -> Figure:
    """Final loss and GradRatio against ρ, a mark a run, a column a learning rate.

    Dashed: the loss of the best constant guess; dotted: GradRatio 0.1.
    """
    columns = {f"learning rate {lr:g}": mine for lr, mine in runs.groupby("lr")}
    words = {"loss": "final training loss $f(x)$", "grad_ratio": "GradRatio"}
    fig, axes = primitives.facets(columns, "rho", words, rotation=45)
    for top, bottom in axes.T:
        primitives.guide(top, y=runs.baseline.iloc[0], ls="--")
        primitives.guide(bottom, y=0.1)
        bottom.set_xlabel("radius $\\rho$")
    return fig


@style.house()
def curves(runs: Mapping[str, primitives.Curves], baseline: float) -> Figure:
    """Losses and gradient norms at x and at x⁺ over the steps of each run, a column a run."""
    fig, axes = primitives.panels(2, len(runs), 4.6)
    for (top, bottom), (title, found) in zip(axes.T, runs.items(), strict=True):
        primitives.curves(top, found, "loss", "f(x)")
        primitives.curves(bottom, found, "grad_norm", "\\|∇f(x)\\|")
        top.axhline(baseline, color=style.PALE, lw=1, ls="--", label="constant guess")
        bottom.set_yscale("log")
        top.set_title(title)
        bottom.set_xlabel("step")
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("gradient norm")
    axes[0, 0].legend(loc="upper right")
    axes[1, 0].legend(loc="lower left")
    return fig
