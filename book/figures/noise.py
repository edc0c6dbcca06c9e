"""The outcome of a record: its verdict, with the two kinds of stall told apart."""

from __future__ import annotations

from figures.primitives import OUTCOMES as MARKS
from samlib.experiments.records import Record

__all__ = ["MARKS", "outcome"]


def outcome(run: Record) -> str:
    """The verdict; for a stalled run with its kind, ``stalled: saddle`` or ``stalled: chaotic``."""
    name, kind = str(run["verdict"]), run["metrics"].get("stall")
    return f"{name}: {kind}" if kind else name
