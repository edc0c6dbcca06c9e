"""The live laboratory: drag a start and watch SAM miss the minimum.

``SamLab`` is an anywidget: in JupyterLab its traits and the picture follow each other. Its
JavaScript (``static``, joined by ``script``) needs no kernel, so the built site runs it too, from
the state that the widget leaves in the notebook's output. f, ∇f and ∇²f reach the browser as
``Landscape.javascript()`` prints them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import traitlets

from samlib.dynamics import trajectories
from samlib.errors import BadInput, check_choice, check_number
from samlib.lab import script
from samlib.lab.picture import draw
from samlib.landscapes import symbolic

try:
    import anywidget
except ImportError as error:  # an optional part of the package
    raise ImportError(
        "the lab needs anywidget and ipywidgets: pip install anywidget ipywidgets"
    ) from error

RULES = ("sam", "exact", "gd")
LAYERS = ("gd", "basins", "fsam")
INPUTS = ("landscape", "rho", "eta", "start", "rule", "steps", "show")
#: The least and the greatest value of each number; the page keeps to them too.
LIMITS = {"rho": (0, 1e6), "eta": (0, 1e6), "steps": (1, 5000)}

#: A first state for each landscape, in which there is something to see: (ρ, η, start).
PRESETS: dict[str, tuple[float, float, list[float]]] = {
    "double-well": (1.2, 0.1, [0.6]),
    "double-well-2d": (1.2, 0.1, [0.7, 1.0]),
    "double-well-saddle": (1.2, 0.1, [0.7, 0.3]),
    "ring": (1.2, 0.1, [1.5, 0.9]),
    "himmelblau": (4.5, 0.002, [1.4, 3.0]),
    "beale": (0.3, 0.003, [3.0, -1.0]),
    "rosenbrock": (0.1, 0.001, [-1.2, 1.0]),
    "camel": (0.5, 0.02, [-1.3, -0.9]),
    "saddle": (0.1, 0.1, [0.3, 0.05]),
    "twist": (1.0, 0.004, [0.98, 0.02]),
    "surrogate-trap": (1.0, 0.02, [0.05, 0.05]),
    "shifted-well": (1.2, 0.1, [3.6]),
}


class _Refused(BadInput, traitlets.TraitError):
    """BadInput that traitlets takes for its own: only then does it roll the trait back."""


def _source(name: str, landscape: Any) -> dict[str, Any]:
    """What the browser needs of a landscape."""
    middle = [low + 0.6 * (high - low) for low, high in landscape.box]
    rho, eta, start = PRESETS.get(name, (0.5, 0.01, middle))
    start = start if len(start) == landscape.dim else middle
    return {
        "dim": landscape.dim,
        "box": [list(side) for side in landscape.box],
        "js": landscape.javascript(),
        "preset": {"rho": rho, "eta": eta, "start": start},
    }


class SamLab(anywidget.AnyWidget):
    """A laboratory for SAM on a landscape of one or two variables.

    The traits ``landscape`` (a name), ``rho``, ``eta``, ``start``, ``rule``, ``steps`` and ``show``
    may be set and observed. ``trajectory`` follows them: the orbit as ``samlib.trajectory``
    computes it, steps + 1 lists of d numbers, cut off where it is no longer finite.

    Parameters
    ----------
    landscape : str or Landscape
        A name that ``samlib.landscape`` knows, or any ``Landscape`` with d ≤ 2.
    rho, eta : float, optional
        0 ≤ ρ, η ≤ 10⁶. By default those of the landscape's preset.
    x0 : array_like, optional
        The start, d numbers. By default that of the landscape's preset.
    rule : str
        "sam", "exact" (the gradient of f^SAM with no term dropped) or "gd".
    steps : int
        1 to 5000.
    show : sequence of str
        Which of "gd" (gradient descent's path), "basins" and "fsam" (contours of f^SAM) to draw.

    Raises
    ------
    BadInput
        For a value outside these ranges, here or when a trait is set.
    """

    _esm = script.module()
    _css = script.STATIC / "samlab.css"

    landscape = traitlets.Unicode().tag(sync=True)
    rho = traitlets.Float().tag(sync=True)
    eta = traitlets.Float().tag(sync=True)
    start = traitlets.List(traitlets.Float()).tag(sync=True)
    rule = traitlets.Unicode().tag(sync=True)
    steps = traitlets.Int().tag(sync=True)
    show = traitlets.List(traitlets.Unicode()).tag(sync=True)
    trajectory: traitlets.List[list[float]] = traitlets.List().tag(sync=True)
    sources = traitlets.Dict().tag(sync=True)
    limits = traitlets.Dict(LIMITS).tag(sync=True)

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
        self._landscapes: dict[str, Any] = {n: symbolic.landscape(n) for n in symbolic.names()}
        if isinstance(landscape, str):
            name = landscape
            check_choice("landscape", name, self._landscapes)
        else:
            if landscape.dim > 2:
                raise BadInput(f"landscape has d = {landscape.dim}; the lab draws d = 1 or 2")
            name = landscape.name or "f"
            self._landscapes[name] = landscape
        sources = {name: _source(name, f) for name, f in self._landscapes.items()}
        preset, dim = sources[name]["preset"], sources[name]["dim"]
        given = {"rho": rho, "eta": eta, "start": None if x0 is None else np.ravel(x0).tolist()}
        state = preset | {key: value for key, value in given.items() if value is not None}
        if len(state["start"]) != dim:
            raise BadInput(f"x0 = {x0!r}: {name} takes {dim} number{'s' if dim > 1 else ''}")
        self.observe(self._follow, ["landscape", "rho", "eta", "start", "rule", "steps"])
        names = {"landscape": name, "rule": rule, "show": list(show)}
        super().__init__(**state, **names, steps=steps, sources=sources)

    def _follow(self, change: Any) -> None:
        """Recompute the trajectory; a start of the wrong dimension becomes the preset's."""
        landscape = self._landscapes[self.landscape]
        if len(self.start) != landscape.dim:
            self.start = self.sources[self.landscape]["preset"]["start"]  # comes back here
            return
        path = trajectories.trajectory(
            landscape, self.start, self.rho, self.eta, self.steps, self.rule
        )
        self.trajectory = path[np.isfinite(path).all(axis=1)].tolist()  # JSON has no infinities

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take over what the page sends, or refuse all of it and send the page what holds.

        Only inputs are taken: ``sources`` holds programs and ``trajectory`` is computed here.

        Raises
        ------
        BadInput
            If a value is unusable; the state is what it was.
        """
        try:
            super().set_state({k: v for k, v in sync_data.items() if k in INPUTS})
        except (traitlets.TraitError, OverflowError) as error:
            self.send_state(list(INPUTS))
            raise BadInput(str(error)) from None

    @traitlets.validate(*INPUTS)
    def _usable(self, proposal: Any) -> Any:
        name, value = proposal.trait.name, proposal.value
        try:
            if name in LIMITS:
                check_number(name, value, *LIMITS[name])
            elif name == "start":
                if len(value) not in (1, 2) or not np.isfinite(value).all():
                    raise BadInput(f"start = {value!r} must be one or two finite numbers")
            elif name == "show":
                for layer in value:
                    check_choice(name, layer, LAYERS)
            else:
                check_choice(name, value, self._landscapes if name == "landscape" else RULES)
        except BadInput as error:
            raise _Refused(str(error)) from None
        return value

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Add what the site shows: the state, and a still picture of it."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        state = self.get_state([*INPUTS, "limits", "sources"])
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
