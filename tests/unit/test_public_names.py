"""What a reader imports from samlib: these names and nothing else, and at no cost."""

from __future__ import annotations

import subprocess
import sys

import pytest

import samlib

PUBLIC = [
    "Landscape", "landscape",
    "sam_map", "trajectory", "basins",
    "critical_points", "find_hallucinated", "continue_in_rho", "classify",
    "Certificate", "NotCertified", "prove",
    "grad_ratio", "loss_gap", "verdict", "running_verdict",
    "SAM", "ramp", "freeze_batchnorm", "HallucinationMonitor",
    "RunSpec", "train", "train_many", "load_data", "build_model",
    "read_records", "sweep", "reproduce", "SamLab", "BadInput",
]  # fmt: skip


def test_the_public_names_are_these_and_no_others() -> None:
    assert sorted(samlib.__all__) == sorted([*PUBLIC, "__version__"]) == sorted(dir(samlib))


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_what_it_says(name: str) -> None:
    assert getattr(samlib, name).__name__ == name


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = samlib.nothing


def test_import_loads_nothing_heavy() -> None:
    heavy = {"torch", "sympy", "numpy", "pandas", "matplotlib"}
    code = f"import samlib, sys; print(sorted({heavy!r} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
