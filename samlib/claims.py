"""The ledger of claims: ``book/claims.yml`` read, checked against its evidence, and rendered.

A claim's status is never taken on trust. It must follow from its evidence: tests, records and
certificates, each ``for`` the claim (the default) or ``against`` it. See :func:`derive_status`.
"""

from __future__ import annotations

import ast
import json
import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from samlib import records
from samlib.errors import BadInput, check_choice

SOURCES = ("paper", "reviewer", "open question", "ours")
KINDS = ("theorem", "certificate", "experiment")
STATUSES = ("holds", "holds with a correction", "holds in part", "not reproduced", "open")
Evidence = dict[str, Any]
PROJECT = Path(__file__).resolve().parents[1]  # the checkout, which holds book/ and tests/


@dataclass(frozen=True)
class Claim:
    """One claim: what is said, who says it, what kind of evidence it needs and what it has."""

    id: str
    source: str
    statement: str
    kind: str
    status: str
    evidence: list[Evidence] = field(default_factory=list)
    correction: str = ""


def load(path: records.StrPath | None = None) -> list[Claim]:
    """Read the ledger.

    BadInput if an entry lacks a field, has an unknown one, or a value outside SOURCES, KINDS,
    STATUSES.
    """
    path = Path(path or PROJECT / "book" / "claims.yml")
    if not path.is_file():
        raise BadInput(f"{path} does not exist; use a clone, installed with pip install -e .")
    claims = []
    for number, entry in enumerate(yaml.safe_load(path.read_text()) or [], 1):
        try:
            claim = Claim(**entry)
        except TypeError as error:
            raise BadInput(f"{path}: claim {number}: {error}") from None
        for name, allowed in (("source", SOURCES), ("kind", KINDS), ("status", STATUSES)):
            check_choice(f"{path}: {claim.id}: {name}", getattr(claim, name), allowed)
        claims.append(claim)
    if len({c.id for c in claims}) < len(claims):
        raise BadInput(f"{path}: two claims share an id")
    return claims


def derive_status(claim: Claim) -> str:
    """The status that the evidence implies.

    Without tests, records or certificates a claim is ``open``. Evidence for and against makes it
    hold ``in part``; only against, ``not reproduced``; only for, ``holds``, ``with a correction``
    where the claim names one.
    """
    sides = {e.get("side", "for") for e in claim.evidence if "chapter" not in e}
    if not sides:
        return "open"
    if sides == {"for"}:
        return "holds with a correction" if claim.correction else "holds"
    return "holds in part" if "for" in sides else "not reproduced"


def check(ledger: list[Claim], junit: records.StrPath | None = None) -> list[str]:
    """Problems with the ledger, one line each; an empty list means that every status is earned.

    Every cited chapter anchor, test, record and certificate must exist and show what is said; with
    ``junit``, the report of a test run, every cited test must also have passed there.
    """
    passed, problems = _passed(junit) if junit else None, []
    for claim in ledger:
        if claim.status != (due := derive_status(claim)):
            problems.append(f"{claim.id}: status {claim.status!r}, but its evidence says {due!r}")
        for evidence in claim.evidence:
            try:
                _check_evidence(evidence, passed)
            except BadInput as error:
                problems.append(f"{claim.id}: {error}")
    return problems


def _check_evidence(e: Evidence, passed: set[str] | None) -> None:
    """Raise BadInput if the evidence does not exist or does not show what is said."""
    side = e.get("side", "for")
    _need(side in ("for", "against"), f"side {side!r} is neither 'for' nor 'against'")
    if "chapter" in e:
        name, _, anchor = e["chapter"].partition("#")
        paths = [PROJECT / "book" / f"{name}{end}" for end in (".ipynb", ".md")]
        text = "".join(path.read_text() for path in paths if path.is_file())
        _need(text, f"chapter {name!r} does not exist")
        there = not anchor or f"({anchor})=" in text or f":label: {anchor}" in text
        _need(there, f"chapter {name!r} has no anchor {anchor!r}")
    elif "test" in e:
        name, _, function = e["test"].partition("::")
        _need((PROJECT / name).is_file(), f"test file {name!r} does not exist")
        nodes = ast.walk(ast.parse((PROJECT / name).read_text()))
        there = function in {n.name for n in nodes if isinstance(n, ast.FunctionDef)}
        _need(there, f"{name} has no test {function!r}")
        _need(passed is None or e["test"] in passed, f"{e['test']} did not pass")
    elif "record" in e:
        runs = records.read(PROJECT / "book" / "records" / e["record"])
        runs = records.select(runs, **e.get("where", {}))
        hits, need = sum(_shows(run, e) for run in runs), e.get("at_least", len(runs))
        said = f"{hits} of {len(runs)} runs show {e}, {need} needed"
        _need(runs and hits >= need, f"record {e['record']!r}: {said}")
    elif "certificate" in e:
        path = PROJECT / e["certificate"]
        _need(path.is_file(), f"certificate {e['certificate']!r} does not exist")
        missing = sorted(set(e.get("proved", [])) - set(json.loads(path.read_text())["proved"]))
        _need(not missing, f"certificate {e['certificate']!r} does not prove {missing}")
    else:
        raise BadInput(f"evidence {e!r} names no chapter, test, record or certificate")


def _need(condition: object, otherwise: str) -> None:
    if not condition:
        raise BadInput(otherwise)


def _shows(run: records.Record, e: Evidence) -> bool:
    """Whether a run has the ``verdict`` named and metrics from ``min`` to ``max``."""
    got = {k: math.nan if v is None else v for k, v in run["metrics"].items()}
    return (
        run["verdict"] == e.get("verdict", run["verdict"])
        and all(got[k] >= v for k, v in e.get("min", {}).items())
        and all(got[k] <= v for k, v in e.get("max", {}).items())
    )


def _passed(junit: records.StrPath) -> set[str]:
    """Ids of the tests that passed in a pytest report: all parameter sets of each."""
    passed: dict[str, bool] = {}
    for case in ET.parse(junit).iter("testcase"):
        file = case.get("classname", "").replace(".", "/")
        test = f"{file}.py::{case.get('name', '').partition('[')[0]}"
        good = all(case.find(tag) is None for tag in ("failure", "error", "skipped"))
        passed[test] = passed.get(test, True) and good
    return {test for test, good in passed.items() if good}


def markdown(ledger: list[Claim]) -> str:
    """The ledger as MyST Markdown, a section a status, for the page *What holds*."""
    parts = []
    for status in STATUSES:
        rows = [c for c in ledger if c.status == status]
        if rows:
            parts += [f"## {status.capitalize()} ({len(rows)})", "", *map(_entry, rows)]
    return "\n".join(parts)


def _entry(claim: Claim) -> str:
    """One claim as an entry of a definition list: what is said, then what shows it."""
    text = f"**{claim.id}** · {claim.source} · {claim.kind}\n: {claim.statement}\n"
    if claim.correction:
        text += f"\n  *Correction:* {claim.correction}\n"
    if cited := "; ".join(dict.fromkeys(map(_cite, claim.evidence))):
        text += f"\n  *Evidence:* {cited}\n"
    return text


def _cite(e: Evidence) -> str:
    side = "against it: " if e.get("side") == "against" else ""
    if "chapter" in e:
        name, _, anchor = e["chapter"].partition("#")
        return f"{side}{{ref}}`{anchor}`" if anchor else f"{side}{{doc}}`{name}`"
    kind = next(k for k in ("test", "record", "certificate") if k in e)
    said = f"{side}{kind} `{e[kind].split('::')[-1].split('/')[-1]}`"
    where = [f"{k} {v}" for k, v in e.get("where", {}).items()] + [e.get("verdict", "")]
    return said + (f" ({', '.join(filter(None, where))})" if any(where) else "")
