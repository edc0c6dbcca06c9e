"""The live laboratory: drag a start and watch SAM miss the minimum.

``SamLab`` is an anywidget: in JupyterLab its traits and the picture follow each other. Its
JavaScript (``static/samlab.js``) needs no kernel, so the built site runs it too, from the state
that the widget leaves in the notebook's output. f, ∇f and ∇²f reach the browser as
``Landscape.javascript()`` prints them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import traitlets

from samlib import landscapes, sam
from samlib.errors import BadInput, check_number
from samlib.lab.picture import draw

try:
    import anywidget
except ImportError as error:  # an optional part of the package
    raise ImportError("the lab needs anywidget and ipywidgets: pip install samlib[lab]") from error

__all__ = ["LAYERS", "PRESETS", "RULES", "SamLab"]

STATIC = Path(__file__).parent / "static"
RULES = ("sam", "exact", "gd")
LAYERS = ("gd", "basins", "fsam")
MAX_STEPS = 5000
MAX_NUMBER = 1e6

Preset = tuple[float, float, Sequence[float]]

#: A first state for each landscape, in which there is something to see: (ρ, η, start).
PRESETS: dict[str, Preset] = {
    "double-well": (1.2, 0.1, (0.6,)),
    "double-well-2d": (1.2, 0.1, (0.7, 1.0)),
    "double-well-saddle": (1.2, 0.1, (0.7, 0.3)),
    "ring": (1.2, 0.1, (1.5, 0.9)),
    "himmelblau": (4.5, 0.002, (1.4, 3.0)),
    "beale": (0.5, 0.003, (1.5, 2.0)),
    "rosenbrock": (0.1, 0.0005, (-1.2, 1.0)),
    "camel": (0.5, 0.02, (-1.3, -0.9)),
    "saddle": (0.1, 0.1, (0.3, 0.05)),
    "twist": (1.0, 0.05, (0.98, 0.03)),
    "surrogate-trap": (1.0, 0.05, (0.3, 0.5)),
    "shifted-well": (1.2, 0.1, (3.6,)),
}


def _source(landscape: Any, preset: Preset | None = None) -> dict[str, Any]:
    """What the browser needs of a landscape; ``preset`` is the state in which it opens."""
    middle = [low + 0.6 * (high - low) for low, high in landscape.box]
    rho, eta, start = preset or (0.5, 0.01, middle)
    return {
        "dim": landscape.dim,
        "box": [list(side) for side in landscape.box],
        "js": landscape.javascript(),
        "preset": {"rho": rho, "eta": eta, "start": list(start)},
    }


class SamLab(anywidget.AnyWidget):
    """A laboratory for SAM on a landscape of one or two variables.

    The traits ``landscape`` (a name), ``rho``, ``eta``, ``start``, ``rule``, ``steps`` and ``show``
    may be set and observed. ``trajectory`` follows them: the orbit as ``sam.trajectory`` computes
    it, steps + 1 lists of d numbers, cut off where it is no longer finite.

    Parameters
    ----------
    landscape:
        A name that ``landscapes.get`` knows, or any ``Landscape`` with d ≤ 2.
    rho, eta, x0:
        ρ ≥ 0, η ≥ 0 and the start, d numbers. By default those of the landscape's preset.
    rule:
        "sam", "exact" (the gradient of f^SAM with no term dropped) or "gd".
    steps:
        1 to 5000.
    show:
        Which of "gd" (gradient descent's path), "basins" and "fsam" (contours of f^SAM) to draw.

    Raises
    ------
    BadInput
        For a value outside these ranges, here or when a trait is set.
    """

    _esm = STATIC / "samlab.js"
    _css = STATIC / "samlab.css"

    landscape = traitlets.Unicode().tag(sync=True)
    rho = traitlets.Float().tag(sync=True)
    eta = traitlets.Float().tag(sync=True)
    start = traitlets.List(traitlets.Float()).tag(sync=True)
    rule = traitlets.Unicode().tag(sync=True)
    steps = traitlets.Int().tag(sync=True)
    show = traitlets.List(traitlets.Unicode()).tag(sync=True)
    trajectory: traitlets.List[list[float]] = traitlets.List().tag(sync=True)
    sources = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        landscape: Any = "double-well-2d",
        rho: float | None = None,
        eta: float | None = None,
        x0: Sequence[float] | float | None = None,
        *,
        rule: str = "sam",
        steps: int = 300,
        show: Sequence[str] = ("gd",),
    ) -> None:
        self._landscapes = {name: landscapes.get(name) for name in landscapes.names()}
        sources = {name: _source(f, PRESETS.get(name)) for name, f in self._landscapes.items()}
        if not isinstance(landscape, str):
            if landscape.dim > 2:
                raise BadInput(f"landscape has d = {landscape.dim}; the lab draws d = 1 or 2")
            name = landscape.name or "f"
            if self._landscapes.get(name) is not landscape:
                self._landscapes[name], sources[name] = landscape, _source(landscape)
            landscape = name
        elif landscape not in sources:
            raise BadInput(f"unknown landscape {landscape!r}; known are {', '.join(sources)}")
        preset, dim = sources[landscape]["preset"], sources[landscape]["dim"]
        start = preset["start"] if x0 is None else [float(v) for v in np.atleast_1d(x0)]
        if len(start) != dim:
            raise BadInput(f"x0 = {x0!r}: {landscape} takes {dim} number{'s' * (dim > 1)}")
        super().__init__(
            landscape=landscape,
            rho=preset["rho"] if rho is None else rho,
            eta=preset["eta"] if eta is None else eta,
            start=start,
            rule=rule,
            steps=steps,
            show=list(show),
            sources=sources,
        )
        self.observe(self._follow, ["landscape", "rho", "eta", "start", "rule", "steps"])
        self._follow(None)

    def _follow(self, change: Any) -> None:
        """Recompute the trajectory; a start of the wrong dimension becomes the preset's."""
        landscape = self._landscapes[self.landscape]
        if len(self.start) != landscape.dim:
            self.start = self.sources[self.landscape]["preset"]["start"]  # comes back here
            return
        path = sam.trajectory(landscape, self.start, self.rho, self.eta, self.steps, self.rule)
        self.trajectory = path[np.isfinite(path).all(axis=1)].tolist()  # JSON has no infinities

    @traitlets.validate("landscape", "rule", "show")
    def _known(self, proposal: Any) -> Any:
        name, value = proposal.trait.name, proposal.value
        known = {"landscape": self._landscapes, "rule": RULES, "show": LAYERS}[name]
        for word in [value] if isinstance(value, str) else value:
            if word not in known:
                raise BadInput(f"{name} = {word!r} is unknown; choose from {', '.join(known)}")
        return value

    @traitlets.validate("rho", "eta", "steps")
    def _in_range(self, proposal: Any) -> Any:
        name, value = proposal.trait.name, proposal.value
        low, high = (1, MAX_STEPS) if name == "steps" else (0, MAX_NUMBER)
        check_number(name, value, low, high)
        return value

    @traitlets.validate("start")
    def _finite(self, proposal: Any) -> Any:
        if not all(map(math.isfinite, proposal.value)) or len(proposal.value) not in (1, 2):
            raise BadInput(f"start = {proposal.value!r} must be one or two finite numbers")
        return proposal.value

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Add what the site shows: the state, and a still picture of it."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        keys = ["landscape", "rho", "eta", "start", "rule", "steps", "show", "sources"]
        state = {key: getattr(self, key) for key in keys}
        text = json.dumps(state, sort_keys=True, allow_nan=False).replace("<", "\\u003c")
        landscape = self._landscapes[self.landscape]
        picture = draw(landscape, self.start, self.rho, self.eta, self.steps, self.rule)
        start = ", ".join(f"{v:g}" for v in self.start)
        data["text/plain"] = f"SamLab({self.landscape!r}, {self.rho:g}, {self.eta:g}, [{start}])"
        data["text/html"] = (
            '<div class="samlab"><script type="application/json" class="samlab-state">'
            f"{text}</script>{picture}</div>"
        )
        return data, metadata
