"""What the ledger says: its page, its lines in a terminal, its refusals, from claims made here."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from ledger import claims, pages
from ledger.claims import Claim
from ledger.evidence import Chapter, Context, Record, Stored, Test

import samlib
from samlib.errors import BadInput
from samlib.experiments import records

Entry = dict[str, Any]
A: Entry = {"id": "a", "source": "ours", "statement": "It is so.", "kind": "theorem",
            "status": "open"}  # fmt: skip
TEST, OTHER = "tests/test_a.py::test_x", "tests/b/test_b.py::test_y"
RUNS = {"record": "r", "of": 2, "every": {"verdict": "stalled"}}
STORED = {"certificate": "book/c.json", "proved": ["exists"]}
LEDGER = claims.parse([
    A,
    A | {"id": "Second-one", "source": "reviewer", "kind": "experiment", "status": "holds",
         "evidence": [RUNS, {"chapter": "index#top"}, RUNS]},
    A | {"id": "c3", "source": "paper", "status": "holds", "statement": "If a_1 < b, then $c<d$.",
         "correction": "Only if *e*.", "evidence": [{"test": TEST, "side": "against"}]},
    A | {"id": "d", "source": "open question", "evidence": [{"test": TEST}, {"test": OTHER}]},
])  # fmt: skip


def test_the_page_of_a_small_ledger() -> None:
    assert (
        pages.markdown(LEDGER)
        == r"""
4 claims, 6 pieces of evidence; 2 tests looked up, not run. (`make test` runs them.)

## What the paper, its reviewers and its open questions say

| who | claim | status |
|---|---|---|
| paper | [c3](#claim-c3) | holds |
| reviewer | [Second-one](#claim-second-one) | holds |
| open question | [d](#claim-d) | open |

## Holds (2)

(claim-second-one)=

**[Second-one](#claim-second-one)** · reviewer · experiment
: It is so\.

  *Evidence:* record `r`: every one of the 2 runs has verdict stalled; {ref}`top`

(claim-c3)=

**[c3](#claim-c3)** · paper · theorem
: If a\_1 \< b\, then $c\lt d$\.

  *Correction:* Only if \*e\*\.

  *Evidence:* against it: test `test_x`

## Open (2)

(claim-a)=

**[a](#claim-a)** · ours · theorem
: It is so\.

(claim-d)=

**[d](#claim-d)** · open question · theorem
: It is so\.

  *Evidence:* test `test_x`; test `test_y`
"""[1:]
    )


def test_a_ledger_of_our_own_claims_has_no_table_of_others() -> None:
    page = pages.markdown(LEDGER[:1])
    assert "| who |" not in page
    assert page.splitlines()[:3] == [
        "1 claims, 0 pieces of evidence; 0 tests looked up, not run. (`make test` runs them.)",
        "",
        "## Open (1)",
    ]


def test_a_claim_in_a_terminal() -> None:
    assert claims.text(LEDGER[0]) == "a: open\n  It is so."
    assert claims.text(LEDGER[1]).splitlines() == [
        "Second-one: holds",
        "  It is so.",
        "  - record r: every one of the 2 runs has verdict stalled",
        "  - chapter index#top",
        "  - record r: every one of the 2 runs has verdict stalled",
    ]
    assert claims.text(LEDGER[2]).splitlines() == [
        "c3: holds",
        "  If a_1 < b, then $c<d$.",
        "  Correction: Only if *e*.",
        "  - against it: test test_x",
    ]


def test_text_is_escaped_sign_by_sign_and_mathematics_is_not() -> None:
    assert pages.escape("a  b\n c") == "a b c"
    assert pages.escape("!/:@[`{~ azAZ09 é") == r"\!\/\:\@\[\`\{\~ azAZ09 é"
    assert pages.escape("x*y $a*b > c < d$ z*") == r"x\*y $a*b \gt  c \lt  d$ z\*"
    assert pages.escape("$5") == r"\$5"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"id": 3}, "id: 3 is no text"),
        ({"statement": None}, "statement: None is no text"),
        ({"correction": ["x"]}, "correction: ['x'] is no text"),
        ({"id": "1a"}, "id '1a' is not made of letters, digits and hyphens"),
        ({"id": "a_b"}, "id 'a_b' is not made of letters, digits and hyphens"),
        ({"id": "a\n"}, "id 'a\\n' is not made of letters, digits and hyphens"),
        ({"statement": " \n"}, "a: the statement is empty"),
        ({"source": "rumour"}, "a: source 'rumour' is unknown; "
         "use one of paper, reviewer, open question, ours"),
        ({"kind": "hunch"}, "a: kind 'hunch' is unknown; "
         "use one of theorem, certificate, experiment"),
        ({"status": "likely"}, "a: status 'likely' is unknown; use one of holds, "
         "holds with a correction, proved in the text; instances tested, proved in the text with "
         "a correction; instances tested, holds in part, not reproduced, open"),
        ({"evidence": "x"}, "a: evidence 'x' is no list"),
        ({"evidence": [3]}, "a: evidence 3 is no mapping"),
        ({"evidence": [{"chapter": "b"}, {"chapter": 3}]}, "a: chapter 3 is no text"),
    ],
)  # fmt: skip
def test_a_claim_that_can_mean_nothing_is_refused(change: Entry, fault: str) -> None:
    with pytest.raises(BadInput) as error:
        Claim.of(A | change)
    assert str(error.value) == fault


def test_what_a_claim_may_be() -> None:
    assert Claim.of(A) == Claim("a", "ours", "It is so.", "theorem", "open", (), "")
    made = Claim.of(A | {"id": "Z-9", "evidence": ({"chapter": "x"}, {"test": TEST})})
    assert made.evidence == (Chapter("x"), Test(TEST))
    assert made.anchor == "claim-z-9"


def test_a_refusal_names_the_ledger_and_the_claim_once() -> None:
    for entries, fault in (
        ([A, {"id": "b"}], "x: claim b: claim: key 'source' is missing"),
        ([A, {"source": "ours"}], "x: claim 2: claim: key 'id' is missing"),
        ([3], "x: claim 1: claim: 3 is no mapping"),
        ([A, A | {"id": "b", "statement": " "}], "x: b: the statement is empty"),
        ([A, A | {"id": "A"}], "x: two claims share the id 'A'"),
    ):
        with pytest.raises(BadInput) as error:
            claims.parse(entries, "x")
        assert str(error.value) == fault
    with pytest.raises(BadInput, match=r"^the ledger: claim 1: "):
        claims.parse([3])


def test_a_ledger_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "claims.yml"
    line = "- {id: %s, source: ours, statement: Is ∇f = 0?, kind: theorem, status: open}\n"
    path.write_text(line % "a" + line % "b", encoding="utf-8")
    first, second = claims.load(str(path))
    assert (first.id, second.id, first.statement) == ("a", "b", "Is ∇f = 0?")
    path.write_text("- {a: {b: 1, c: 2, b: 3}}")
    with pytest.raises(BadInput) as error:
        claims.load(path)
    assert str(error.value).startswith(f"{path} is no YAML: key 'b' is given twice in ")
    assert "line 1, column 7" in str(error.value)
    path.write_text("a: 1")
    with pytest.raises(BadInput) as error:
        claims.load(path)
    assert str(error.value) == f"{path} is no list of claims"
    none = tmp_path / "none.yml"
    with pytest.raises(BadInput) as error:
        claims.load(none)
    use = "use a clone, installed with pip install -e ."
    assert str(error.value) == f"{none} does not exist; {use}"


def test_the_books_ledger_is_the_one_that_is_read_by_default() -> None:
    assert Path(samlib.__file__).resolve().parents[1] == claims.PROJECT
    assert len(claims.load()) == len(claims.load(claims.PROJECT / "book" / "claims.yml")) > 10


@pytest.mark.parametrize(
    ("kind", "evidence", "lack"),
    [
        ("certificate", (Stored,), ""),
        ("certificate", (Stored, Test), ""),
        ("certificate", (Test, Record), "kind certificate, but it cites none"),
        ("theorem", (Test,), ""),
        ("theorem", (Test, Record), ""),
        ("theorem", (Stored, Record), "kind theorem, but no test of an instance is cited"),
        ("experiment", (Test,), ""),
        ("experiment", (Record,), ""),
        ("experiment", (Stored,), "kind experiment, but it cites neither a record nor a test"),
        *((kind, (Chapter,), "") for kind in claims.KINDS),  # open: nothing is claimed
    ],
)
def test_what_a_claim_lacks(kind: str, evidence: tuple[type, ...], lack: str) -> None:
    items = {Chapter: {"chapter": "index"}, Test: {"test": TEST}, Record: RUNS, Stored: STORED}
    c = Claim.of(A | {"kind": kind, "evidence": [items[k] for k in evidence]})
    c = dataclasses.replace(c, status=claims.derive_status(c))
    found = claims.check([c], context=Context(Path("/nowhere"), {"r": []}.__getitem__))
    assert [p for p in found if "kind" in p] == ([f"a: {lack}"] if lack else [])


def test_all_problems_of_all_claims_are_named(tmp_path: Path) -> None:
    """In the order of the ledger, each after the name of its claim; the second claim has none."""
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.md").touch()
    there = A | {"id": "b", "evidence": [{"chapter": "index"}]}
    bad = A | {"kind": "certificate", "evidence": [{"test": TEST}, {"chapter": "none"}]}
    ledger = claims.parse([bad, there, A | {"id": "c", "status": "holds"}])
    assert claims.check(ledger, context=Context.of(tmp_path)) == [
        "a: status 'open', but its evidence says 'holds'",
        "a: kind certificate, but it cites none",
        "a: test file 'tests/test_a.py' does not exist",
        "a: chapter 'none' does not exist",
        "c: status 'holds', but its evidence says 'open'",
    ]


def junit(path: Path, *cases: tuple[str, str, str]) -> Path:
    """A report of these tests: class, name, and what is inside of it."""
    form = '<testcase classname="{}" name="{}" time="1">{}</testcase>'
    path.write_text(f"<testsuites><testsuite>{''.join(form.format(*c) for c in cases)}"
                    "</testsuite></testsuites>")  # fmt: skip
    return path


def test_a_report_is_looked_at_in_the_place_of_the_context(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("def test_x(): pass\n")
    c = Claim.of(A | {"status": "proved in the text; instances tested",
                      "evidence": [{"test": TEST}]})  # fmt: skip
    context = Context.of(tmp_path, passed=set())
    assert claims.check([c], context=context) == [f"a: {TEST} did not pass"]
    report = junit(tmp_path / "x.xml", ("tests.test_a", "test_x", ""))
    assert claims.check([c], report, context) == []
    report = junit(tmp_path / "x.xml", ("tests.test_a", "test_y", ""))
    assert claims.check([c], str(report), context) == [f"a: {TEST} did not pass"]
    assert context.passed == set()
    run = {"id": "x", "spec": {}, "verdict": "stalled", "metrics": {}}
    other = claims.parse([A | {"kind": "experiment", "status": "holds", "evidence": [RUNS]}])
    here = Context(tmp_path, {"r": [run, run]}.__getitem__)
    assert claims.check(other, report, here) == []


def test_the_tests_that_passed_are_counted(tmp_path: Path) -> None:
    log = "<system-out>words</system-out>"
    cases = [
        ("tests.test_a", "test_x[1-[a]]", log),
        ("tests.test_a", "test_x[2]", ""),
        ("tests.b.test_b", "test_y", "<failure>why</failure>" + log),
        ("tests.b.test_b", "test_z", ""),
    ]
    report = junit(tmp_path / "x.xml", *cases)
    said = claims.summary(LEDGER, report)
    assert said == f"4 claims, 6 pieces of evidence; 1 of 2 tests passed in {report}"
    cases[2] = ("tests.b.test_b", "test_y", log)
    assert "; 2 of 2 tests" in claims.summary(LEDGER, junit(report, *cases))
    assert claims.summary(iter(LEDGER)).endswith("; 2 tests looked up, not run")


def test_a_fault_outside_of_a_test_is_no_tests(tmp_path: Path) -> None:
    """Nor does a test that names neither class nor function stand for another."""
    report = tmp_path / "x.xml"
    case = '<testcase classname="tests.test_a" name="test_x"/>'
    report.write_text(f"<testsuite><properties><error/></properties>{case}<error/></testsuite>")
    assert "; 1 of 2 tests" in claims.summary(LEDGER, report)
    report.write_text(f"<testsuite>{case}<testcase><failure/></testcase></testsuite>")
    assert "; 1 of 2 tests" in claims.summary(LEDGER, report)


REMEDY = "make one with python -m pytest tests --junitxml build/junit.xml"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "{} is no report of a test run: no element found: line 1, column 0; " + REMEDY),
        (f"<{'x' * 50}/>", "{} is no report of a test run: it begins with "
         f"<{'x' * 40}>; {REMEDY}"),
        ("<testcase/>", "{} is no report of a test run: it begins with <testcase>; " + REMEDY),
        ("<!DOCTYPE x><testsuite/>",
         "{} is no report of a test run: it has a document type; " + REMEDY),
        ("<testsuite>", "{} is no report of a test run: no element found: line 1, column 11; "
         + REMEDY),
        (None, "{} is no file; " + REMEDY),
    ],
)  # fmt: skip
def test_what_is_no_report_is_named(content: str | None, fault: str, tmp_path: Path) -> None:
    report = tmp_path / "x.xml"
    if content is not None:
        report.write_text(content)
    with pytest.raises(BadInput) as error:
        claims.summary([], report)
    assert str(error.value) == fault.format(repr(str(report)))


def test_a_report_may_begin_with_either_kind_of_suite(tmp_path: Path) -> None:
    for root in ("testsuite", "testsuites"):
        (tmp_path / "x.xml").write_text(f"<{root}/>")
        assert "0 of 0 tests" in claims.summary([], tmp_path / "x.xml")


def test_the_runs_that_claims_rest_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of which a claim speaks, all that its tests read, each once, in the ledger's order."""
    runs = {
        name: [{"id": f"{name}{k}", "spec": {"rho": float(k)}, "verdict": "stalled", "metrics": {}}
               for k in (1, 2)] for name in "rst"
    }  # fmt: skip
    monkeypatch.setattr(records, "read", lambda folder: runs[folder.name])
    monkeypatch.setattr(claims, "PROJECT", tmp_path)
    one = {"record": "r", "of": 1, "where": {"rho": 2.0}, "every": {"verdict": "stalled"}}
    entries = [
        A | {"evidence": [one, one, {"chapter": "index"}, STORED, {"test": TEST}]},
        A | {"id": "b", "evidence": [{"test": TEST, "reads": ["t", "s"]}, one]},
    ]
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "claims.yml").write_text(yaml.safe_dump(entries))
    rest = {claim: [run["id"] for _, run in claims.resting_on(claim)] for claim in ("a", "b", None)}
    assert rest["a"] == ["r2"]
    assert rest["b"] == ["t1", "t2", "s1", "s2", "r2"]
    assert rest[None] == ["r2", "t1", "t2", "s1", "s2"]
    assert claims.resting_on("a") == [("r", runs["r"][1])]
    assert [c.id for c in claims.find(None)] == ["a", "b"]
    assert [c.id for c in claims.find("b")] == ["b"]
    with pytest.raises(BadInput) as error:
        claims.find("c")
    assert str(error.value) == "claim 'c' is unknown; use one of a, b"
    assert [item.again for item in claims.find("a")[0].evidence] == [
        "",
        "",
        "",
        'python -c "from samlib import Certificate; '
        "print(Certificate.load('book/c.json').recheck())\"",
        f"python -m pytest {TEST}",
    ]
