"""What a training run is (its spec) and what came of it (its run), both ready for the records."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from samlib.diagnostics import verdicts
from samlib.dynamics import rules
from samlib.errors import BadInput, check_choice, check_number, check_whole
from samlib.training import provenance

LOSSES = ("ce", "mse", "logistic")
SCHEDULES = ("constant", "ramp", "decay", "adaptive")
DTYPES = ("float32", "float64")
CURVES = ("loss", "grad_norm", "shifted_loss", "shifted_grad_norm")
# (lowest, highest) of each number, and what to try instead of one out of range
REALS: dict[str, tuple[float, float, str]] = {
    "rho": (0, 1e6, "SAM's radius is usually between 0.01 and 10"),
    "lr": (0, 1e3, "usual values are 0.001 to 1"),
    "weight_decay": (0, 1e3, ""),
    "warm_start": (0, 1, "it is a fraction of the steps"),
    "momentum": (0, 0.9999, ""),
    "label_noise": (0, 1, "0 adds no noise"),
}
WHOLE = {
    "steps": (1, 10**8), "seed": (0, 2**31), "data_seed": (0, 2**31), "width": (1, 100_000),
    "depth": (1, 100_000), "n": (1, 10**9), "batch": (1, 10**9),
}  # fmt: skip


def _option(default: Any, meaning: str, *, added: bool = False) -> Any:
    """A field; one ``added`` later is left out of the JSON at its default: old ids stay."""
    return dataclasses.field(default=default, metadata={"help": meaning, "added": added})


@dataclass(frozen=True)
class RunSpec:
    """All that determines a run, hashable and with a JSON form; the options of ``samlib run``.

    ``warm_start`` is the fraction of the steps that are plain gradient descent before SAM begins
    (Park et al., 2025). ``schedule`` multiplies ρ at step t of the T that follow: ``ramp`` by t/T,
    ``decay`` by 1 − t/T; ``adaptive`` shrinks ρ by 1 % a step while GradRatio < 0.1 and lets it
    grow back by 1 % otherwise, up to ρ. ``momentum`` is heavy-ball's. Units: ρ is a distance in
    parameter space, ``lr`` multiplies the gradient.
    Specs are equal just when their ids are: numbers are kept as Python's own, so that 2, 2.0 and
    NumPy's 2 are one radius. BadInput if a value is out of its range or of another kind (True is no
    number); data are checked when they are loaded.
    """

    data: str = _option("digits", "a data set's name, or a folder or zip of images")
    n: int | None = _option(None, "number of training examples (default: all)")
    classes: tuple[int, ...] | None = _option(None, "keep these classes only, for example 3,8")
    features: str = _option("standard", "standard | pixels | pca:K | image")
    label_noise: float = _option(0.0, "fraction of wrong training labels")
    data_seed: int = _option(0, "draws the subset (0: the first n) and the noise")
    model: str = _option("mlp", "the network: mlp | resnet18 | transformer | gcn")
    width: int = _option(32, "units in a hidden layer; a ResNet's first channels")
    depth: int = _option(1, "number of hidden layers")
    activation: str = _option("tanh", "tanh | relu | gelu")
    loss: str = _option("ce", "ce | mse | logistic")
    weight_decay: float = _option(0.0, "λ of (λ/2)‖θ‖², on all parameters")
    rule: str = _option("sam", "the update rule, for example sam, gd or exact")
    rho: float = _option(2.0, "SAM's radius ρ")
    lr: float = _option(0.03, "learning rate η")
    steps: int = _option(4000, "number of steps")
    warm_start: float = _option(0.0, "fraction of plain gradient steps first")
    batch: int | None = _option(None, "mini-batch size, or full")
    dtype: str = _option("float32", "float32 | float64")
    seed: int = _option(0, "draws the initial weights and the batches")
    schedule: str = _option("constant", "of ρ: constant | ramp | decay | adaptive", added=True)
    momentum: float = _option(0.0, "momentum of the base step", added=True)

    def __post_init__(self) -> None:
        # and torch with it, which the command line's help can do without
        from samlib.training import models

        kept: dict[str, Any] = {}
        for name, (low, high, remedy) in REALS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise BadInput(f"{name} = {value!r} is not a number; give one, for example 0.1")
            number = check_number(
                name, cast(float, value), low, high, strict=name == "lr", remedy=remedy
            )
            kept[name] = number + 0.0  # -0.0 equals 0.0 and has another JSON
        for name, (least, most) in WHOLE.items():
            value = getattr(self, name)
            if value is not None or name not in ("n", "batch"):
                kept[name] = check_whole(name, value, least, most)
        kept |= {k: _text(k, getattr(self, k)) for k in ("data", "features", "activation")}
        if self.classes is not None:
            kept["classes"] = _classes(self.classes)
        for name, value in kept.items():
            object.__setattr__(self, name, value)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("rule", self.rule, rules.names())
        check_choice("model", self.model, models.names())
        check_choice("loss", self.loss, LOSSES)
        check_choice("dtype", self.dtype, DTYPES)

    def to_json(self) -> dict[str, Any]:
        """The spec as a JSON object."""
        spec = dataclasses.asdict(self) | {"classes": self.classes and list(self.classes)}
        for field in dataclasses.fields(self):
            if field.metadata["added"] and spec[field.name] == field.default:
                del spec[field.name]
        return spec

    @classmethod
    def from_json(cls, spec: dict[str, Any]) -> RunSpec:
        """The spec that :meth:`to_json` wrote."""
        return cls(**spec)

    @cached_property
    def id(self) -> str:
        """The run's id in the records."""
        return provenance.identity(self.to_json())

    @property
    def architecture(self) -> dict[str, Any]:
        """The options of :func:`samlib.training.models.build_model` that a run sets."""
        return {"width": self.width, "depth": self.depth, "activation": self.activation}

    @property
    def cut(self) -> dict[str, Any]:
        """The options of :func:`samlib.training.data.load_data` that a run sets."""
        kept = {"n": self.n, "classes": self.classes, "features": self.features}
        return kept | {"label_noise": self.label_noise, "seed": self.data_seed}

    def twin(self) -> RunSpec:
        """The same run without SAM, from the same start: what could be learned in its steps.

        It keeps the data and batches, step size, steps, weight decay and momentum, so a run with
        momentum is compared with gradient descent with that momentum, and only SAM's ascent, its
        warm start and its schedule are gone.
        """
        return dataclasses.replace(self, rule="gd", rho=0.0, warm_start=0.0, schedule="constant")


def _text(name: str, value: Any) -> str:
    """``value`` as a plain string, paths included; BadInput for anything else."""
    try:
        text = os.fspath(value)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise BadInput(f"{name} = {value!r} is no text; give one name, for example 'digits'")
    return str(text)


def _classes(value: Any) -> tuple[int, ...]:
    """Classes as a tuple of ints; BadInput if they are no sequence of whole numbers."""
    try:
        several = [] if isinstance(value, str) else list(value)
    except TypeError:
        several = []
    if not several:
        raise BadInput(f"classes = {value!r} are no whole numbers; list them, for example [3, 8]")
    return tuple(check_whole("classes", one, 0) for one in several)


def defaults() -> dict[str, Any]:
    """The fields of a spec and their defaults, which old records may leave out."""
    return {field.name: field.default for field in dataclasses.fields(RunSpec)}


@dataclass(frozen=True)
class Run:
    """A finished run: its spec, verdict, metrics, trace, final parameters (p,) and provenance."""

    spec: RunSpec
    verdict: str
    metrics: dict[str, Any]
    trace: verdicts.Trace
    theta: NDArray[np.float64]
    data: dict[str, Any]
    provenance: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """The run as one line of a record folder."""
        plain = {k: getattr(self, k) for k in ("verdict", "data", "provenance")}
        plain |= {"id": self.spec.id, "spec": self.spec.to_json()}
        return plain | {"metrics": provenance.sanitised(self.metrics)}

    def curves(self, points: int = 200) -> dict[str, NDArray[np.float32]]:
        """The trace at about ``points`` steps, evenly spaced in log(1 + step), as float32."""
        last = len(self.trace.loss) - 1
        steps = np.unique(np.round(np.expm1(np.linspace(0, np.log1p(last), points))).astype(int))
        out = {k: getattr(self.trace, k)[steps].astype(np.float32) for k in CURVES}
        return {"step": steps.astype(np.float32), **out}
