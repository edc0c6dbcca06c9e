"""Recorded runs that a claim of the book rests on, trained again and compared with their records.

The claims are no part of this package: they and their evidence lie in ``book/ledger``.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from samlib.errors import BadInput, check_whole
from samlib.experiments import records
from samlib.training.loop import train
from samlib.training.spec import RunSpec

DIGITS = 3  # to which the losses of a run that is not chaotic agree


@dataclass(frozen=True)
class Repeat:
    """A recorded run of an experiment, and the verdict and loss of the same spec trained again.

    ``rises`` says that the recorded loss rises somewhere, between two points that were kept.
    """

    experiment: str
    record: records.Record
    verdict: str
    loss: float
    rises: bool

    @property
    def chaotic(self) -> bool:
        """Whether rounding alone may change the loss, so that two machines need not agree on it.

        So it is in a run that diverged or is stalled in chaos, and in one that got on (it
        converged, or is still running) if its loss has ever risen: then it went through chaos.
        """
        if self.record["verdict"] in ("converged", "running"):
            return self.rises
        stall = self.record["metrics"].get("stall")
        return bool(self.record["verdict"] == "diverged" or stall == "chaotic")

    @property
    def same(self) -> bool:
        """The same verdict, and losses to 3 digits (one unit of the third) if it is not chaotic."""
        loss = self.record["metrics"]["loss"]
        close = loss is not None and agree(loss, self.loss)
        return self.verdict == self.record["verdict"] and (self.chaotic or close)


def agree(a: float, b: float, digits: int = DIGITS) -> bool:
    """Whether two numbers differ by at most one unit of the last of so many digits of ``a``."""
    unit = 10.0 ** (int(f"{a:e}".partition("e")[2]) - digits + 1)
    return abs(a - b) <= unit


def ledger() -> Any:
    """The module ``ledger.claims`` of the book that this package lies beside.

    Raises
    ------
    BadInput
        If it lies beside none, as an installed package does.
    """
    book = records.BOOK.parent
    if not (book / "ledger").is_dir():
        raise BadInput(f"{book} does not exist; use a clone, installed with pip install -e .")
    if str(book) not in sys.path:
        sys.path.append(str(book))
    return importlib.import_module("ledger.claims")


def recorded() -> list[tuple[str, records.Record]]:
    """All runs of all records, each with its experiment's name."""
    folders = sorted(records.BOOK.glob(f"*/{records.RUNS}"))
    return [(path.parent.name, run) for path in folders for run in records.read(path.parent)]


def reproduce(
    claim: str | None = None, runs: int = 3, seed: int | None = None, **kw: Any
) -> Iterator[Repeat]:
    """Train recorded runs again, and compare them with their records.

    Parameters
    ----------
    claim : str, optional
        The id of a claim of the book, whose runs it is about; without one, all recorded runs.
    runs : int
        How many of them, at most; they are drawn at random.
    seed : int, optional
        Draws them; without one, anew each time.
    **kw
        Keywords of :func:`samlib.training.loop.train`.

    Yields
    ------
    Repeat
        Each run as it ends; none for a claim that rests on no recorded run.

    Raises
    ------
    BadInput
        If there is no such claim; it names those that there are.
    """
    check_whole("runs", runs)
    rests = recorded() if claim is None else ledger().resting_on(claim)
    for name, record in random.Random(seed).sample(rests, min(runs, len(rests))):
        run = train(RunSpec.from_json(record["spec"]), **kw)
        yield Repeat(name, record, run.verdict, run.metrics["loss"], rises(name, record["id"]))


def rises(experiment: str, run_id: str) -> bool:
    """Whether the recorded loss of a run rises somewhere, between two points that were kept."""
    loss = records.read_curves(records.BOOK / experiment, run_id)["loss"]
    return bool((np.diff(loss) > 0).any())
