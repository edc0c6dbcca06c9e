"""Tables are real tables: as many cells a row as the head, and no cell can break out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas
import pytest

from samlib.errors import BadInput
from samlib.experiments.tables import Table, listed, span, tally

BOOK = Path(__file__).resolve().parents[3] / "book"


def test_a_table_is_markdown() -> None:
    table = Table(["ρ", "outcome"], [["1", "3 converged"], ["|x| < 2", "a & b"]])
    assert table._repr_markdown_().splitlines() == [
        "| ρ | outcome |",
        "|---|---|",
        "| 1 | 3 converged |",
        "| &#124;x&#124; &lt; 2 | a &amp; b |",
    ]
    assert repr(table) == table._repr_markdown_()


@pytest.mark.parametrize("row", [["1"], ["1", "2", "3"]])
def test_a_row_of_another_length_is_named(row: list[str]) -> None:
    with pytest.raises(BadInput, match=f"has {len(row)} cells.*asks for 2"):
        Table(["a", "b"], [["1", "2"], row])


def test_a_data_frame_is_a_table_with_its_index_first() -> None:
    frame = pandas.DataFrame({"rho": [1.0, 2.5], "loss": [0.12345, 2.0], "verdict": ["a", "b"]})
    assert Table.of(frame, loss=".3f") == Table(
        ["ρ", "f(x)", "verdict"], [("1", "0.123", "a"), ("2.5", "2.000", "b")]
    )
    counts = pandas.crosstab([frame.rho, frame.loss], frame.verdict)
    assert Table.of(counts).head == ["ρ", "f(x)", "a", "b"]
    assert Table.of(counts).rows == [("1", "0.12345", "1", "0"), ("2.5", "2", "0", "1")]


def test_a_tally_ranks_by_count_and_then_by_name() -> None:
    assert tally(["b", "c", "a", "c", "b"]) == "2 b, 2 c, 1 a"
    assert tally([]) == ""


def displays(cell: dict[str, Any]) -> int:
    """How many pictures and tables a cell shows."""
    kinds = [o["output_type"] for o in cell.get("outputs", [])]
    return sum(kind in ("display_data", "execute_result") for kind in kinds)


@pytest.mark.parametrize("path", sorted(BOOK.glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_named_figure_is_all_that_its_cell_shows(path: Path) -> None:
    """Sphinx gives the name to each display of the cell, and refuses the second."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if "figure" in cell["metadata"].get("mystnb", {}):
            assert displays(cell) == 1, f"give the table of {cell['id']} a cell of its own"


def test_numbers_are_listed_or_spanned() -> None:
    assert listed(".2f")([0.1, 0.349]) == "0.10, 0.35"
    assert span(".2f")([0.349, 0.1, 0.2]) == "0.10 to 0.35"
    assert span(".1f")([0.11, 0.12]) == "0.1"
