"""Tables for a page: a notebook shows them as real tables, a terminal as plain Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from samlib.errors import BadInput

if TYPE_CHECKING:
    import pandas

#: The words for the columns of :func:`~samlib.experiments.records.read_records` on a page.
WORDS = {
    "rho": "ρ",
    "lr": "learning rate",
    "tau": "τ",
    "weight_decay": "λ",
    "width": "units",
    "label_noise": "wrong labels",
    "warm_start": "warm start",
    "experiment": "record",
    "loss": "f(x)",
    "shifted_loss": "f(x⁺)",
    "loss_gap": "LossGap",
    "twin_loss": "its twin's f(x)",
    "baseline": "constant guess",
    "progress": "p",
    "grad_norm": "‖∇f(x)‖",
    "shifted_grad_norm": "‖∇f(x⁺)‖",
    "grad_ratio": "GradRatio",
    "steps_below_0.1": "steps with GradRatio below 0.1",
    "norm": "‖x‖",
    "train_accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
}


@dataclass(frozen=True, repr=False)
class Table:
    """A table of text: its head, and rows of as many cells.

    Jupyter and the book draw it from its Markdown; printing it shows that Markdown. BadInput if a
    row has more or fewer cells than the head.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise BadInput(
                    f"row {list(row)} has {len(row)} cells; the head {list(self.head)} asks for "
                    f"{len(self.head)}"
                )

    @classmethod
    def of(cls, frame: pandas.DataFrame, **forms: str) -> Table:
        """The table that a data frame is, its index (if named) first; heads as in :data:`WORDS`.

        Parameters
        ----------
        frame : pandas.DataFrame
            What to show; a column of text is shown as it is.
        **forms : str
            How to write the numbers of a column, ``loss=".3f"``; ``g`` where nothing is said.
        """
        if any(frame.index.names):
            frame = frame.reset_index()
        columns = [
            [
                value if isinstance(value, str) else format(value, forms.get(name, "g"))
                for value in column
            ]
            for name, column in frame.items()
        ]
        head = [WORDS.get(name, str(name)) for name in frame.columns]
        return cls(head, list(zip(*columns, strict=True)))

    def __repr__(self) -> str:
        lines = [_line(self.head), "|---" * len(self.head) + "|", *map(_line, self.rows)]
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        return repr(self)


def _line(cells: Sequence[str]) -> str:
    """A row in Markdown; what would be markup there stays text."""
    text = (c.replace("&", "&amp;").replace("|", "&#124;").replace("<", "&lt;") for c in cells)
    return "| " + " | ".join(text) + " |"


def tally(names: Iterable[str]) -> str:
    """How often each name occurs, the most frequent first: ``3 stalled, 1 converged``."""
    counts = Counter(names)
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    return ", ".join(f"{counts[name]} {name}" for name in ranked)


def listed(form: str = "g") -> Callable[[Iterable[float]], str]:
    """A function that lists numbers in their order, ``listed(".2f")``: ``0.10, 0.35``."""
    return lambda values: ", ".join(format(v, form) for v in values)


def span(form: str = "g") -> Callable[[Iterable[float]], str]:
    """A function that says from where to where numbers reach, ``span(".2f")``: ``0.10 to 0.35``.

    One number where both ends read alike.
    """

    def said(values: Iterable[float]) -> str:
        ordered = sorted(values)
        low, high = (format(v, form) for v in (ordered[0], ordered[-1]))
        return low if low == high else f"{low} to {high}"

    return said
