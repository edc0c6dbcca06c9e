"""Runs that the claims rest on, picked at random, trained again and compared with their records."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from samlib.errors import BadInput, check_whole
from samlib.experiments import ledger as claims
from samlib.experiments import records
from samlib.experiments.evidence import Context, Record, Stored, Test
from samlib.experiments.ledger import Claim
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


def resting_on(ledger: Iterable[Claim]) -> list[tuple[str, records.Record]]:
    """The recorded runs that these claims cite, each with its experiment's name and only once.

    They are the runs of which a claim speaks, and all runs of the records that its tests read.
    """
    context = Context.of(claims.PROJECT)
    runs: dict[tuple[str, str], records.Record] = {}
    for item in (e for claim in ledger for e in claim.evidence):
        if isinstance(item, Record):
            cited = {item.record: item.runs(context)}
        else:
            names = item.reads if isinstance(item, Test) else []
            cited = {name: context.runs(name) for name in names}
        runs |= {(name, run["id"]): run for name, some in cited.items() for run in some}
    return [(name, record) for (name, _), record in runs.items()]


def recorded() -> list[tuple[str, records.Record]]:
    """All runs of all records, each with its experiment's name."""
    folders = sorted((claims.PROJECT / "book" / "records").glob(f"*/{records.RUNS}"))
    return [(path.parent.name, run) for path in folders for run in records.read(path.parent)]


def reproduce(
    claim: str | None = None, runs: int = 3, seed: int | None = None, **kw: Any
) -> Iterator[Repeat]:
    """Train again ``runs`` of the runs that a claim rests on, or of all recorded runs.

    They are drawn at random, or by ``seed``, and each is yielded as it ends. Other keywords are
    those of :func:`samlib.training.loop.train_many`. BadInput if there is no such claim; it then
    names those that there are. A claim that rests on no recorded run yields nothing.
    """
    check_whole("runs", runs)
    rests = recorded() if claim is None else resting_on(find(claim))
    for name, record in random.Random(seed).sample(rests, min(runs, len(rests))):
        run = train(RunSpec.from_json(record["spec"]), **kw)
        yield Repeat(name, record, run.verdict, run.metrics["loss"], rises(name, record["id"]))


def rises(experiment: str, run_id: str) -> bool:
    """Whether the recorded loss of a run rises somewhere, between two points that were kept."""
    folder = claims.PROJECT / "book" / "records" / experiment
    return bool((np.diff(records.read_curves(folder, run_id)["loss"]) > 0).any())


def find(claim: str | None) -> list[Claim]:
    """The claim of this id, or all of them; BadInput lists the ids that exist."""
    ledger = claims.load()
    if claim is None:
        return ledger
    if not (found := [c for c in ledger if c.id == claim]):
        known = ", ".join(c.id for c in ledger)
        raise BadInput(f"claim {claim!r} is unknown; use one of {known}")
    return found


def otherwise(claim: Claim) -> list[str]:
    """What a claim rests on besides records: the commands that check it again."""
    lines = []
    for item in claim.evidence:
        if isinstance(item, Test):
            lines.append(f"python -m pytest {item.test}")
        elif isinstance(item, Stored):
            load = f"Certificate.load('{item.certificate}')"
            code = f"from samlib import Certificate; print({load}.recheck())"
            lines.append(f'python -c "{code}"')
    return lines
