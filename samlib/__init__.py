"""samlib: where sharpness-aware minimization stops, and why.

``import samlib`` is instant: every submodule, and torch and SymPy with them, loads on first use.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> module that defines it
_NAMES = {
    "BadInput": "errors",
    "HallucinationMonitor": "monitor",
    "Landscape": "landscapes",
    "RunSpec": "train",
    "SAM": "optim",
    "SamLab": "lab",
    "freeze_batchnorm": "optim",
    "train_many": "train",
}
_MODULES = {
    "certify", "claims", "data", "diagnostics", "errors", "executors", "lab", "landscapes",
    "measures", "models", "monitor", "networks", "optim", "plots", "points", "records", "reproduce",
    "rules", "sam", "spectrum", "sweep", "train",
}  # fmt: skip

__all__ = ["__version__", *sorted(_NAMES), *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"samlib.{_NAMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"samlib.{name}")
    raise AttributeError(f"module 'samlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
