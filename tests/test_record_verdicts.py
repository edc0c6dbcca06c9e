"""Verdicts and metrics of the book's records, computed again from their curves."""

from __future__ import annotations

from pathlib import Path

import pytest

from samlib import records
from samlib.diagnostics import sensitivity

RECORDS = Path(__file__).resolve().parents[1] / "book" / "records"
FOLDERS = sorted(p.parent for p in RECORDS.glob("*/runs.jsonl"))

# failing runs, and those of them called hallucinated with GradRatio below .03, .1 and .3
AT_OTHER_RATIOS = {
    "mnist-cliff": (16, 4, 8, 8),
    "mnist-map": (32, 6, 11, 16),
    "digits-cliff": (46, 17, 24, 31),
    "digits-map": (151, 27, 56, 80),
}


@pytest.mark.parametrize("name", AT_OTHER_RATIOS)
def test_counts_at_other_thresholds(name: str) -> None:
    counts = sensitivity(records.with_curves(RECORDS / name))
    assert tuple(counts.values()) == AT_OTHER_RATIOS[name]


def test_counts_at_other_thresholds_over_all_records() -> None:
    counts = sensitivity(records.with_curves(*FOLDERS))
    assert counts == {"failing": 2577, "0.03": 1116, "0.1": 1434, "0.3": 1646}
