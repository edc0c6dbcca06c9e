"""What a training run is (its spec) and what came of it (its run), both ready for the records."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samlib import diagnostics, records, rules
from samlib.errors import check_choice, check_number, check_whole

LOSSES = ("ce", "mse", "logistic")
SCHEDULES = ("constant", "ramp", "decay", "adaptive")
DTYPES = ("float32", "float64")


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
    BadInput if a value is out of its range; data are checked when they are loaded.
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
        from samlib import models  # and torch with it, which the command line's help can do without

        check_number("rho", self.rho, 0, 1e6, remedy="SAM's radius is usually between 0.01 and 10")
        check_number("lr", self.lr, 0, 1e3, strict=True, remedy="usual values are 0.001 to 1")
        check_number("weight_decay", self.weight_decay, 0, 1e3)
        check_number("warm_start", self.warm_start, 0, 1, remedy="it is a fraction of the steps")
        check_number("momentum", self.momentum, 0, 0.9999)
        check_choice("schedule", self.schedule, SCHEDULES)
        limits = {"steps": (1, 10**8), "seed": (0, 2**31), "data_seed": (0, 2**31)}
        limits |= {k: (1, 10**9) for k in ("n", "batch") if getattr(self, k) is not None}
        for name, (low, high) in limits.items():  # a NumPy integer becomes an int: it has no JSON
            object.__setattr__(self, name, check_whole(name, getattr(self, name), low, high))
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
        classes = spec.get("classes")
        return cls(**(spec | {"classes": classes and tuple(classes)}))

    @property
    def id(self) -> str:
        """The run's id in the records."""
        return records.identity(self.to_json())

    def twin(self) -> RunSpec:
        """Plain gradient descent from the same start with the same data, step size and steps."""
        return dataclasses.replace(self, rule="gd", rho=0.0, warm_start=0.0, schedule="constant")


def defaults() -> dict[str, Any]:
    """The fields of a spec and their defaults, which old records may leave out."""
    return {field.name: field.default for field in dataclasses.fields(RunSpec)}


@dataclass(frozen=True)
class Run:
    """A finished run: its spec, verdict, metrics, trace, final parameters (p,) and provenance."""

    spec: RunSpec
    verdict: str
    metrics: dict[str, Any]
    trace: diagnostics.Trace
    theta: NDArray[np.float64]
    data: dict[str, Any]
    provenance: dict[str, Any]

    def record(self) -> records.Record:
        """The run as one line of a record folder."""
        plain = {k: getattr(self, k) for k in ("verdict", "data", "provenance")}
        plain |= {"id": self.spec.id, "spec": self.spec.to_json()}
        return plain | {"metrics": records.sanitised(self.metrics)}

    def curves(self, points: int = 200) -> dict[str, NDArray[np.float32]]:
        """The trace at about ``points`` steps, evenly spaced in log(1 + step), as float32."""
        last = len(self.trace.loss) - 1
        steps = np.unique(np.round(np.expm1(np.linspace(0, np.log1p(last), points))).astype(int))
        keys = ("loss", "grad_norm", "shifted_loss", "shifted_grad_norm")
        out = {k: getattr(self.trace, k)[steps].astype(np.float32) for k in keys}
        return {"step": steps.astype(np.float32), **out}
