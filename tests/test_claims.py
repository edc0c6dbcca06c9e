"""The ledger: every status follows from its evidence, and the checker sees when it does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from samlib import claims
from samlib.claims import Claim
from samlib.errors import BadInput

THIS = "tests/test_claims.py::test_the_ledger_holds"


def claim(*evidence: dict[str, object], status: str = "holds", correction: str = "") -> Claim:
    return Claim("c", "ours", "A claim.", "theorem", status, list(evidence), correction)


def test_the_ledger_holds() -> None:
    ledger = claims.load()
    assert len(ledger) >= 10
    assert claims.check(ledger) == []


@pytest.mark.parametrize(
    ("evidence", "correction", "status"),
    [
        ([], "", "open"),
        ([{"chapter": "index"}], "", "open"),  # a chapter alone proves nothing
        ([{"test": THIS}], "", "holds"),
        ([{"test": THIS}], "smaller interval", "holds with a correction"),
        ([{"test": THIS}, {"test": THIS, "side": "against"}], "", "holds in part"),
        ([{"test": THIS, "side": "against"}], "", "not reproduced"),
    ],
)
def test_the_status_follows_from_the_evidence(
    evidence: list[dict[str, object]], correction: str, status: str
) -> None:
    c = claim(*evidence, status=status, correction=correction)
    assert claims.derive_status(c) == status
    assert claims.check([c]) == []
    wrong = dataclasses.replace(c, status="open" if status != "open" else "holds")
    (problem,) = claims.check([wrong])
    assert "evidence says" in problem


@pytest.mark.parametrize(
    ("evidence", "text"),
    [
        ({"test": "tests/test_none.py::test_x"}, "does not exist"),
        ({"test": "tests/test_claims.py::test_x"}, "has no test"),
        ({"chapter": "99-none"}, "does not exist"),
        ({"chapter": "index#no-such-anchor"}, "has no anchor"),
        ({"certificate": "book/none.json"}, "does not exist"),
        ({"hearsay": "x"}, "names no chapter"),
        ({"test": THIS, "side": "beside"}, "neither"),
    ],
)
def test_missing_evidence_is_seen(evidence: dict[str, object], text: str) -> None:
    problems = claims.check([claim({"test": THIS}, evidence)])
    assert any(text in p for p in problems)


def test_records_must_show_what_is_said() -> None:
    base = {"record": "mnist-cliff", "where": {"rho": 2.0, "lr": 0.01}}
    impossible = {**base, "min": {"loss": 100.0}, "at_least": 1}
    assert "1 needed" in claims.check([claim(impossible)])[0]
    assert claims.check([claim({**base, "min": {"loss": 0.0}, "at_least": 1})]) == []
    nowhere = {**base, "where": {"rho": 77.0}}
    assert "0 of 0" in claims.check([claim(nowhere)])[0]


def test_a_cited_test_must_have_passed(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    case = '<testcase classname="tests.test_claims" name="test_the_ledger_holds[1]">{}</testcase>'
    c = claim({"test": THIS})
    for inside, count in (("", 0), ("<failure/>", 1), ("<skipped/>", 1)):
        report.write_text(f"<testsuite>{case.format('')}{case.format(inside)}</testsuite>")
        assert len(claims.check([c], junit=report)) == count
    report.write_text("<testsuite/>")
    assert claims.check([c], junit=report) == [f"c: {THIS} did not pass"]


@pytest.mark.parametrize(
    "text",
    [
        "- {id: a}",
        "- {id: a, source: rumour, statement: s, kind: theorem, status: open}",
        "- {id: a, source: ours, statement: s, kind: theorem, status: likely}",
        "- {id: a, source: ours, statement: s, kind: theorem, status: open}\n" * 2,
    ],
)
def test_a_malformed_ledger_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "claims.yml"
    path.write_text(text)
    with pytest.raises(BadInput):
        claims.load(path)


def test_the_page_shows_every_claim() -> None:
    ledger = claims.load()
    page = claims.markdown(ledger)
    for c in ledger:
        assert f"**{c.id}**" in page
