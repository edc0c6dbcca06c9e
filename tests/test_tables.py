"""Tables are real tables: as many cells a row as the head, and no cell can break out."""

from __future__ import annotations

import pytest

from samlib.errors import BadInput
from samlib.tables import Table, tally


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


def test_a_tally_ranks_by_count_and_then_by_name() -> None:
    assert tally(["b", "c", "a", "c", "b"]) == "2 b, 2 c, 1 a"
    assert tally([]) == ""
