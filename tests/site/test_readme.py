"""What the README shows works as it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_in_python() -> None:
    names: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    exec(code, names)
    np.testing.assert_allclose(names["end"], [0.2, 0.0], atol=1e-9)
    np.testing.assert_allclose(names["f"].grad(names["end"]), [-0.192, 0.0], atol=1e-9)


def test_every_path_and_target_exists() -> None:
    listed = re.findall(r"^\| (`.*?) \|", README, flags=re.M)
    for path in re.findall(r"`([^`]+)`", " ".join(listed)):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
