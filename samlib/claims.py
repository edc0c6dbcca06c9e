"""The ledger of claims: ``book/claims.yml`` read, checked against its evidence, and rendered.

A claim's status is never taken on trust. It must follow from its evidence: tests, records and
certificates, each ``for`` the claim (the default) or ``against`` it. See :func:`derive_status`.
"""

from __future__ import annotations

import ast
import json
import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from samlib import records
from samlib.errors import BadInput

SOURCES = ("paper", "reviewer", "open question", "ours")
KINDS = ("theorem", "certificate", "experiment")
STATUSES = ("holds", "holds with a correction", "holds in part", "not reproduced", "open")
Evidence = dict[str, Any]


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


def project() -> Path:
    """The folder that holds ``book/``: that of this checkout, or the working directory.

    Raises
    ------
    BadInput
        If neither holds ``book/claims.yml``.
    """
    for root in (Path(__file__).resolve().parents[1], Path.cwd()):
        if (root / "book" / "claims.yml").is_file():
            return root
    raise BadInput("book/claims.yml is not here; run this in a clone of the repository")


def load(path: str | os.PathLike[str] | None = None) -> list[Claim]:
    """Read the ledger.

    Raises
    ------
    BadInput
        If an entry lacks a field, has an unknown one, or a value outside SOURCES, KINDS, STATUSES.
    """
    path = Path(path) if path else project() / "book" / "claims.yml"
    claims = []
    for number, entry in enumerate(yaml.safe_load(path.read_text()) or [], 1):
        try:
            claim = Claim(**entry)
        except TypeError as error:
            raise BadInput(f"{path}: claim {number}: {error}") from None
        for name, allowed in (("source", SOURCES), ("kind", KINDS), ("status", STATUSES)):
            if (value := getattr(claim, name)) not in allowed:
                raise BadInput(f"{path}: {claim.id}: {name} {value!r} is not one of {allowed}")
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


def check(ledger: list[Claim], junit: str | os.PathLike[str] | None = None) -> list[str]:
    """Problems with the ledger, one line each; an empty list means that every status is earned.

    Every cited chapter anchor, test, record and certificate must exist and show what is said; with
    ``junit``, the report of a test run, every cited test must also have passed there.
    """
    root, passed = project(), _passed(junit) if junit else None
    problems = []
    for claim in ledger:
        if claim.status != (due := derive_status(claim)):
            problems.append(f"{claim.id}: status {claim.status!r}, but its evidence says {due!r}")
        for e in claim.evidence:
            if problem := _problem(root, e, passed):
                problems.append(f"{claim.id}: {problem}")
    return problems


def _problem(root: Path, e: Evidence, passed: set[str] | None) -> str | None:
    if e.get("side", "for") not in ("for", "against"):
        return f"side {e['side']!r} is neither 'for' nor 'against'"
    if "chapter" in e:
        return _chapter_problem(root, e["chapter"])
    if "test" in e:
        return _test_problem(root, e["test"], passed)
    if "record" in e:
        return _record_problem(root, e)
    if "certificate" in e:
        return _certificate_problem(root, e)
    return f"evidence {e!r} names no chapter, test, record or certificate"


def _chapter_problem(root: Path, chapter: str) -> str | None:
    name, _, anchor = chapter.partition("#")
    files = [
        f for f in (root / "book" / f"{name}{end}" for end in (".ipynb", ".md")) if f.is_file()
    ]
    if not files:
        return f"chapter {name!r} does not exist"
    text = files[0].read_text()
    if anchor and f"({anchor})=" not in text and f":label: {anchor}" not in text:
        return f"chapter {name!r} has no anchor {anchor!r}"
    return None


def _test_problem(root: Path, test: str, passed: set[str] | None) -> str | None:
    name, _, function = test.partition("::")
    path = root / name
    if not path.is_file():
        return f"test file {name!r} does not exist"
    nodes = ast.walk(ast.parse(path.read_text()))
    if function not in {n.name for n in nodes if isinstance(n, ast.FunctionDef)}:
        return f"{name} has no test {function!r}"
    if passed is not None and test not in passed:
        return f"{test} did not pass"
    return None


def _record_problem(root: Path, e: Evidence) -> str | None:
    """Check ``{record, where, verdict, at_least, min, max}``: enough runs show what is said."""
    runs = records.select(
        records.read(root / "book" / "records" / e["record"]), **e.get("where", {})
    )
    low, high = e.get("min", {}), e.get("max", {})

    def shows(run: records.Record) -> bool:
        m = run["metrics"]
        return (
            run["verdict"] == e.get("verdict", run["verdict"])
            and all(m[k] is not None and m[k] >= v for k, v in low.items())
            and all(m[k] is not None and m[k] <= v for k, v in high.items())
        )

    hits = sum(map(shows, runs))
    need = e.get("at_least", len(runs))
    if not runs or hits < need:
        return f"record {e['record']!r}: {hits} of {len(runs)} runs show {e}, {need} needed"
    return None


def _certificate_problem(root: Path, e: Evidence) -> str | None:
    path = root / e["certificate"]
    if not path.is_file():
        return f"certificate {e['certificate']!r} does not exist"
    missing = set(e.get("proved", [])) - set(json.loads(path.read_text())["proved"])
    return f"certificate {e['certificate']!r} does not prove {sorted(missing)}" if missing else None


def _passed(junit: str | os.PathLike[str]) -> set[str]:
    """Ids of the tests that passed in a pytest report: all parameter sets of each."""
    bad, seen = set(), set()
    for case in ET.parse(junit).iter("testcase"):
        file = (case.get("classname") or "").replace(".", "/") + ".py"
        test = f"{file}::{(case.get('name') or '').split('[')[0]}"
        seen.add(test)
        if any(child.tag in ("failure", "error", "skipped") for child in case):
            bad.add(test)
    return seen - bad


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
    lines = [f"**{claim.id}** · {claim.source} · {claim.kind}", f": {_line(claim.statement)}", ""]
    if claim.correction:
        lines += [f"  *Correction:* {_line(claim.correction)}", ""]
    cited = "; ".join(dict.fromkeys(map(_cite, claim.evidence)))
    return "\n".join([*lines, *([f"  *Evidence:* {cited}", ""] if cited else [])])


def _line(text: str) -> str:
    return " ".join(text.split())


def _cite(e: Evidence) -> str:
    side = "against it: " if e.get("side") == "against" else ""
    if "chapter" in e:
        name, _, anchor = e["chapter"].partition("#")
        return f"{side}{{ref}}`{anchor}`" if anchor else f"{side}{{doc}}`{name}`"
    kind = next(k for k in ("test", "record", "certificate") if k in e)
    said = f"{side}{kind} `{e[kind].split('::')[-1].split('/')[-1]}`"
    where = [f"{k} {v}" for k, v in e.get("where", {}).items()] + [e.get("verdict", "")]
    return said + (f" ({', '.join(filter(None, where))})" if any(where) else "")
