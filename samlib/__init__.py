"""samlib: where sharpness-aware minimization stops, and why.

``import samlib`` is instant: what a name needs, torch and SymPy with it, loads on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: Where each public name is defined.
_PUBLIC = {
    "landscapes.symbolic": ["Landscape", "landscape"],
    "dynamics.trajectories": ["basins", "sam_map", "trajectory"],
    "points.search": ["critical_points", "find_hallucinated"],
    "points.continuation": ["continue_in_rho"],
    "points.stability": ["classify"],
    "certify.certificate": ["Certificate", "prove"],
    "certify.proof": ["NotCertified"],
    "diagnostics.verdicts": ["grad_ratio", "loss_gap", "running_verdict", "verdict"],
    "optim.sam": ["SAM", "freeze_batchnorm", "ramp"],
    "optim.monitor": ["HallucinationMonitor"],
    "training.spec": ["RunSpec"],
    "training.loop": ["train", "train_many"],
    "training.data": ["load_data"],
    "training.models": ["build_model"],
    "experiments.records": ["read_records"],
    "experiments.sweeps": ["sweep"],
    "experiments.reproduction": ["reproduce"],
    "lab": ["SamLab"],
    "errors": ["BadInput"],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"samlib.{_HOME[name]}"), name)
    raise AttributeError(f"module 'samlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
