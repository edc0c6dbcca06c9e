"""The ledger of claims: ``book/claims.yml`` read, and checked against its evidence.

A claim's status is never typed in on trust. It must follow from its evidence: tests, records and
certificates, each ``for`` the claim (the default) or ``against`` it. See :func:`derive_status`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from ledger import evidence
from ledger.evidence import Chapter, Context, Evidence, Record, Stored, Test
from samlib.errors import BadInput, check_choice
from samlib.experiments import records

SOURCES = ("paper", "reviewer", "open question", "ours")
KINDS = ("theorem", "certificate", "experiment")
STATUSES = (
    "holds",
    "holds with a correction",
    "proved in the text; instances tested",
    "proved in the text with a correction; instances tested",
    "holds in part",
    "not reproduced",
    "open",
)
PROJECT = records.BOOK.parents[1]  # the checkout, which holds book/ and tests/


@dataclass(frozen=True)
class Claim:
    """One claim: what is said, who says it, what kind of evidence it needs and what it has."""

    id: str
    source: str
    statement: str
    kind: str
    status: str
    evidence: tuple[Evidence, ...] = ()
    correction: str = ""

    @classmethod
    def of(cls, entry: Any) -> Claim:
        """The claim that an entry of the ledger states; BadInput if it is malformed."""
        claim: Claim = evidence.build(cls, entry, "claim")
        for name in ("id", "statement", "correction"):
            if not isinstance(getattr(claim, name), str):
                raise BadInput(f"{name}: {getattr(claim, name)!r} is no text")
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", claim.id):
            raise BadInput(f"id {claim.id!r} is not made of letters, digits and hyphens")
        if not claim.statement.strip():
            raise BadInput(f"{claim.id}: the statement is empty")
        for name, allowed in (("source", SOURCES), ("kind", KINDS), ("status", STATUSES)):
            check_choice(f"{claim.id}: {name}", getattr(claim, name), allowed)
        if not isinstance(claim.evidence, (list, tuple)):
            raise BadInput(f"{claim.id}: evidence {claim.evidence!r} is no list")
        try:
            parsed = tuple(evidence.parse(e) for e in claim.evidence)
        except BadInput as error:
            raise BadInput(f"{claim.id}: {error}") from None
        object.__setattr__(claim, "evidence", parsed)
        return claim

    @property
    def anchor(self) -> str:
        """The id of the claim on the page *What holds*: ``what-holds.html#claim-…``."""
        return f"claim-{self.id.lower()}"


_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C where there is one


class _Loader(_Safe):  # type: ignore[misc]
    """A loader that refuses a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.YAMLError(f"key {key!r} is given twice{node.start_mark}")
        return dict(super().construct_mapping(node, deep))


def load(path: records.StrPath | None = None) -> list[Claim]:
    """Read the ledger.

    BadInput if an entry lacks a field, has an unknown one, or a value that can mean nothing; it
    names the claim, what is wrong and what would be right.
    """
    path = Path(path or PROJECT / "book" / "claims.yml")
    if not path.is_file():
        raise BadInput(f"{path} does not exist; use a clone, installed with pip install -e .")
    try:
        entries = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise BadInput(f"{path} is no YAML: {said}") from None
    if not isinstance(entries, list):
        raise BadInput(f"{path} is no list of claims")
    return parse(entries, str(path))


def parse(entries: Iterable[Any], path: str = "the ledger") -> list[Claim]:
    """The claims that these entries state; BadInput as for :func:`load`."""
    claims: dict[str, Claim] = {}
    for number, entry in enumerate(entries, 1):
        try:
            claim = Claim.of(entry)
        except BadInput as error:
            name = entry.get("id", number) if isinstance(entry, dict) else number
            where = "" if str(error).startswith(f"{name}:") else f"claim {name}: "
            raise BadInput(f"{path}: {where}{error}") from None
        if claim.anchor in claims:
            raise BadInput(f"{path}: two claims share the id {claim.id!r}")
        claims[claim.anchor] = claim
    return list(claims.values())


def derive_status(claim: Claim) -> str:
    """The status that the evidence implies.

    Without tests, records or certificates a claim is ``open``, and so it is where all of them leave
    it undecided: they are checked and shown, but have no power either way. Evidence for and against
    makes it hold ``in part``; only against, ``not reproduced``; only for, ``holds``, ``with a
    correction`` where the claim names one. A theorem's proof is prose, which no machine has read,
    so the most that it can be is ``proved in the text; instances tested``.
    """
    sides = {e.side for e in claim.evidence if not isinstance(e, Chapter)} - {"undecided"}
    if not sides:
        return "open"
    if sides == {"for"}:
        corrected = " with a correction" if claim.correction else ""
        if claim.kind == "theorem":
            return f"proved in the text{corrected}; instances tested"
        return f"holds{corrected}"
    return "holds in part" if "for" in sides else "not reproduced"


def check(
    ledger: Iterable[Claim],
    junit: records.StrPath | None = None,
    context: Context | None = None,
) -> list[str]:
    """Problems with the ledger, one line each; an empty list means that every status is earned.

    Every cited chapter anchor, test, record and certificate must exist and show what is said;
    certificates are proved again. With ``junit``, the report of a test run, every cited test must
    also have passed there. ``context`` says where to look (default: this checkout).
    """
    passed = _passed(junit) if junit is not None else None
    context = context or Context.of(PROJECT)
    if passed is not None:
        context = Context(context.project, context.runs, passed)
    problems = []
    for claim in ledger:
        if claim.status != (due := derive_status(claim)):
            problems.append(f"{claim.id}: status {claim.status!r}, but its evidence says {due!r}")
        if lack := _lacks(claim):
            problems.append(f"{claim.id}: {lack}")
        for item in claim.evidence:
            try:
                item.check(context)
            except BadInput as error:
                problems.append(f"{claim.id}: {error}")
    return problems


def _lacks(claim: Claim) -> str:
    """What a claim of this kind needs and does not have."""
    kinds = {type(e) for e in claim.evidence} - {Chapter}
    if kinds and claim.kind == "certificate" and Stored not in kinds:
        return "kind certificate, but it cites none"
    if kinds and claim.kind == "theorem" and Test not in kinds:
        return "kind theorem, but no test of an instance is cited"
    if kinds and claim.kind == "experiment" and not kinds & {Record, Test}:
        return "kind experiment, but it cites neither a record nor a test"
    return ""


def summary(ledger: Iterable[Claim], junit: records.StrPath | None = None) -> str:
    """How much there is, in one line, and whether the tests passed or were only looked up."""
    ledger = list(ledger)
    items = [e for claim in ledger for e in claim.evidence]
    tests = {e.test for e in items if isinstance(e, Test)}
    how = f"{len(tests)} tests looked up, not run"
    if junit is not None:
        how = f"{len(tests & _passed(junit))} of {len(tests)} tests passed in {os.fspath(junit)}"
    return f"{len(ledger)} claims, {len(items)} pieces of evidence; {how}"


class _Report(ElementTree.TreeBuilder):
    """A report of a test run; no document type, which could define entities without end."""

    def doctype(self, *_: Any) -> None:
        raise ElementTree.ParseError("it has a document type")


def _passed(junit: records.StrPath) -> set[str]:
    """Ids of the tests that passed in a pytest report: all parameter sets of each."""
    path = Path(junit)
    fault = f"{str(junit)!r} is no report of a test run"
    remedy = "make one with python -m pytest tests --junitxml build/junit.xml"
    if not path.is_file():
        raise BadInput(f"{str(junit)!r} is no file; {remedy}")
    try:
        parser = ElementTree.XMLParser(target=_Report())
        report = ElementTree.fromstring(path.read_bytes(), parser)
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise BadInput(f"{fault}: {error}; {remedy}") from None
    if report.tag not in ("testsuites", "testsuite"):
        raise BadInput(f"{fault}: it begins with <{report.tag[:40]}>; {remedy}")
    passed: dict[str, bool] = {}
    for case in report.iter("testcase"):
        file = case.get("classname", "").replace(".", "/")
        test = f"{file}.py::{case.get('name', '').partition('[')[0]}"
        bad = any(case.find(f".//{tag}") is not None for tag in ("failure", "error", "skipped"))
        passed[test] = passed.get(test, True) and not bad
    return {test for test, good in passed.items() if good}


def find(claim: str | None) -> list[Claim]:
    """The claim of this id, or all of them; BadInput lists the ids that exist."""
    ledger = load()
    found = ledger if claim is None else [c for c in ledger if c.id == claim]
    if claim is not None and not found:
        raise BadInput(f"claim {claim!r} is unknown; use one of {', '.join(c.id for c in ledger)}")
    return found


def resting_on(claim: str | None) -> list[tuple[str, records.Record]]:
    """The recorded runs that a claim cites, each with its experiment's name and only once.

    They are the runs of which the claim speaks, and all runs of the records that its tests read.
    """
    context = Context.of(PROJECT)
    runs: dict[tuple[str, str], records.Record] = {}
    for item in (e for one in find(claim) for e in one.evidence):
        cited: dict[str, list[records.Record]] = {}
        if isinstance(item, Record):
            cited[item.record] = item.runs(context)
        elif isinstance(item, Test):
            cited = {name: context.runs(name) for name in item.reads}
        runs |= {(name, run["id"]): run for name, some in cited.items() for run in some}
    return [(name, record) for (name, _), record in runs.items()]


def cite(item: Evidence, plain: bool = False) -> str:
    """Evidence in words: what was compared, and which side it is on. Markdown unless ``plain``."""
    side = {"against": "against it: ", "undecided": "does not decide it: "}
    words = f"{side.get(getattr(item, 'side', 'for'), '')}{item}"
    if plain and isinstance(item, Chapter):
        return f"chapter {item.chapter}"
    return words.replace("`", "") if plain else words


def text(claim: Claim) -> str:
    """A claim for a terminal: its id and status, what is said, and what shows it, a line each."""
    lines = [f"{claim.id}: {claim.status}", f"  {claim.statement}"]
    if claim.correction:
        lines.append(f"  Correction: {claim.correction}")
    lines += [f"  - {cite(item, plain=True)}" for item in claim.evidence]
    return "\n".join(lines)
