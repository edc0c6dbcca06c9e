"""The ledger: every status follows from its evidence, and the checker sees when it does not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from ledger import claims, evidence, pages
from ledger.claims import Claim
from ledger.evidence import Context

from samlib.cli import main
from samlib.errors import BadInput

THIS = "tests/evidence/test_ledger_holds.py::test_the_ledger_holds"
Entry = dict[str, Any]


def entry(*items: Entry, kind: str = "theorem", **more: Any) -> Entry:
    return {
        "id": "c", "source": "ours", "statement": "A claim.", "kind": kind,
        "status": "proved in the text; instances tested" if kind == "theorem" else "holds",
        "evidence": list(items),
    } | more  # fmt: skip


def claim(*items: Entry, **more: Any) -> Claim:
    (made,) = claims.parse([entry(*items, **more)])
    return made


def record(**more: Any) -> Claim:
    return claim({"record": "r"} | more, kind="experiment")


def run(name: str, verdict: str = "stalled", stall: str | None = None, **metrics: Any) -> Entry:
    spec = {"rho": 2.0, "lr": 0.1, "steps": 10, "width": len(name)}
    return {"id": name, "spec": spec, "verdict": verdict, "metrics": {"stall": stall} | metrics}


RUNS = [
    run("a", "hallucinated", loss=2.0, rate=0.9),
    run("bb", "hallucinated", loss=2.5, rate=None),
    run("ccc", "stalled", "saddle", loss=2.25, rate=1.0),
    run("dddd", "converged", loss=0.1, rate=1.0) | {"spec": {"rho": 1.0, "schedule": "ramp"}},
]


def check(c: Claim) -> list[str]:
    return claims.check([c], context=Context(claims.PROJECT, {"r": RUNS}.__getitem__))


@pytest.mark.slow
def test_the_ledger_holds() -> None:
    ledger = claims.load()
    assert len(ledger) >= 10
    assert claims.check(ledger) == []


@pytest.mark.parametrize(
    ("items", "correction", "theorem", "experiment"),
    [
        ([], "", "open", "open"),
        ([{"chapter": "index"}], "", "open", "open"),  # a chapter alone proves nothing
        ([{"test": THIS}], "", "proved in the text; instances tested", "holds"),
        ([{"test": THIS}], "smaller", "proved in the text with a correction; instances tested",
         "holds with a correction"),
        ([{"test": THIS}, {"test": THIS, "side": "against"}], "", "holds in part", "holds in part"),
        ([{"test": THIS, "side": "against"}], "", "not reproduced", "not reproduced"),
    ],
)  # fmt: skip
def test_the_status_follows_from_the_evidence(
    items: list[Entry], correction: str, theorem: str, experiment: str
) -> None:
    for kind, status in (("theorem", theorem), ("experiment", experiment)):
        c = claim(*items, kind=kind, status=status, correction=correction)
        assert claims.derive_status(c) == status
        assert claims.check([c]) == []
        for other in set(claims.STATUSES) - {status}:
            (problem,) = claims.check([dataclasses.replace(c, status=other)])
            assert "evidence says" in problem


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"test": "tests/test_none.py::test_x"}, "'tests/test_none.py' does not exist"),
        ({"test": "tests/evidence/test_ledger_holds.py::test_x"}, "has no test 'test_x'"),
        ({"test": THIS, "reads": ["mse-digits"]}, "does not exist"),
        ({"chapter": "99-none"}, "'99-none' does not exist"),
        ({"chapter": "index#no-such-anchor"}, "has no anchor"),
        ({"chapter": "02-existence#thm-maximize"}, "has no anchor"),  # thm-maximizer has one
        ({"certificate": "book/none.json", "proved": ["exists"]}, "does not exist"),
    ],
)
def test_missing_evidence_is_seen(item: Entry, text: str, tmp_path: Path) -> None:
    context = Context(claims.PROJECT, Context.of(tmp_path).runs)  # a checkout without records
    (problem,) = claims.check([claim({"test": THIS}, item)], context=context)
    assert text in problem


def test_a_test_says_which_records_it_reads() -> None:
    path = "tests/evidence/test_ch07_remedy.py::test_rescued_runs_do_not_fall_back"
    assert claims.check([claim({"test": path, "reads": ["remedy-long"]})]) == []
    (problem,) = claims.check([claim({"test": path})])
    assert "reads ['remedy-long']; say so" in problem
    both = claim({"test": path, "reads": ["remedy-long", "karate-gcn"]})
    (problem,) = claims.check([both])
    assert "does not name the record 'karate-gcn'" in problem


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"of": 4, "every": {"min": {"loss": 0.1}}}, {"of": 4, "every": {"min": {"loss": 0.2}}}),
        ({"of": 4, "every": {"max": {"loss": 2.5}}}, {"of": 4, "every": {"max": {"loss": 2.4}}}),
        ({"of": 4, "none": {"min": {"loss": 2.6}}}, {"of": 4, "none": {"min": {"loss": 2.5}}}),
        ({"of": 4, "none": {"verdict": "diverged"}}, {"of": 4, "none": {"verdict": "converged"}}),
        ({"of": 2, "where": {"verdict": "hallucinated"}, "every": {"min": {"loss": 2.0}}},
         {"of": 2, "where": {"verdict": "hallucinated"}, "every": {"min": {"loss": 2.1}}}),
        ({"of": 4, "exactly": {"count": 2, "verdict": "hallucinated"}},
         {"of": 4, "exactly": {"count": 1, "verdict": "hallucinated"}}),
        ({"of": 4, "exactly": {"count": 2, "verdict": "hallucinated"}},
         {"of": 4, "exactly": {"count": 3, "verdict": "hallucinated"}}),
        ({"of": 4, "exactly": {"count": 1, "verdict": "hallucinated", "min": {"loss": 2.2}}},
         {"of": 4, "exactly": {"count": 2, "verdict": "hallucinated", "min": {"loss": 2.2}}}),
        ({"of": 1, "where": {"rho": 1.0}, "every": {"verdict": "converged"}},
         {"of": 1, "where": {"rho": 1.0}, "every": {"verdict": "hallucinated"}}),
        ({"of": 1, "where": {"verdict": "stalled: saddle"}, "every": {"min": {"loss": 2.0}}},
         {"of": 1, "where": {"verdict": "stalled: chaotic"}, "every": {"min": {"loss": 2.0}}}),
        ({"of": 4, "exactly": {"count": 1, "verdict": "stalled: saddle"}},
         {"of": 4, "exactly": {"count": 1, "verdict": "stalled: chaotic"}}),
        ({"of": 3, "where": {"schedule": "constant"}, "every": {"min": {"loss": 2.0}}},  # a default
         {"of": 4, "where": {"schedule": "constant"}, "every": {"min": {"loss": 0.0}}}),
        ({"of": 4, "where": {"momentum": 0.0}, "every": {"min": {"loss": 0.0}}},
         {"of": 4, "where": {"momentum": 0.9}, "every": {"min": {"loss": 0.0}}}),
        ({"of": 1, "where": {"loss": {"max": 1.5}}, "every": {"verdict": "converged"}},  # a metric
         {"of": 1, "where": {"loss": {"min": 2}}, "every": {"verdict": "converged"}}),
        ({"of": 2, "where": {"width": {"min": 2, "max": 3}}, "every": {"min": {"loss": 2.2}}},
         {"of": 3, "where": {"width": {"min": 2, "max": 3}}, "every": {"min": {"loss": 0.0}}}),
        ({"of": 2, "where": {"width": [1, 3]}, "every": {"max": {"loss": 2.25}}},
         {"of": 2, "where": {"width": [1, 2]}, "every": {"max": {"loss": 2.25}}}),
        ({"of": 4, "exactly": {"count": 3, "min": {"rate": 0.5}}},  # null is above nothing
         {"of": 4, "every": {"min": {"rate": 0.5}}}),
        ({"of": 4, "exactly": {"count": 3, "max": {"rate": 1.5}}},
         {"of": 4, "none": {"min": {"rate": 1.5}}}),
    ],
)  # fmt: skip
def test_records_must_show_what_is_said(said: Entry, wrong: Entry) -> None:
    assert check(record(**said)) == []
    (problem,) = check(record(**wrong))
    assert problem.startswith("c: record 'r'")


def test_a_metric_must_be_there_in_every_run_that_is_compared() -> None:
    RUNS[0]["metrics"]["only"] = 1.0
    try:
        for how in ("every", "none"):
            assert check(record(of=4, **{how: {"min": {"los": 1.0}}})) == [
                "c: record 'r': no run has a metric 'los'"
            ]
            (problem,) = check(record(of=4, **{how: {"max": {"only": 1.0}}}))
            assert problem == "c: record 'r': run bb has no metric 'only'"
        (problem,) = check(record(of=1, where={"los": {"min": 1}}, every={"min": {"loss": 1}}))
        assert "run a has no metric 'los'" in problem
        (problem,) = check(record(of=4, every={"min": {"stall": 1.0}}))
        assert "is no number" in problem
    finally:
        del RUNS[0]["metrics"]["only"]


GOOD: Entry = {"record": "r", "of": 4, "every": {"verdict": "stalled"}}


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"hearsay": "x"}, "must name exactly one of chapter, test, record, certificate"),
        ({"test": THIS, "chapter": "index"}, "must name exactly one of"),
        ("hearsay", "is no mapping"),
        (GOOD | {"at_least": 1}, "unknown key 'at_least'; allowed are record, of, where, every"),
        (GOOD | {"min": {"loss": 1.0}}, "unknown key 'min'"),
        ({"record": "r", "every": {"verdict": "stalled"}}, "key 'of' is missing"),
        ({"record": "r", "of": 4}, "nothing is compared"),
        (GOOD | {"of": 0}, "of = 0"),
        (GOOD | {"of": True}, "of = True"),
        (GOOD | {"record": "../r"}, "is no name of a record"),
        (GOOD | {"record": 3}, "is no text"),
        (GOOD | {"side": "beside"}, "side 'beside' is unknown"),
        (GOOD | {"every": {}}, "empty condition"),
        (GOOD | {"every": None, "none": {"min": {}}}, "empty condition"),
        (GOOD | {"every": "all"}, "is no mapping"),
        (GOOD | {"every": {"mn": {"loss": 1.0}}}, "unknown key 'mn'; allowed are verdict, min"),
        (GOOD | {"every": {"verdict": "lost"}}, "verdict 'lost' is unknown; use one of converged"),
        (GOOD | {"every": {"min": {"loss": "1e-6"}}}, "write 1.0e-6"),
        (GOOD | {"every": {"min": {"loss": float("nan")}}}, "no finite number"),
        (GOOD | {"every": {"min": {"loss": True}}}, "no finite number"),
        (GOOD | {"every": {"min": 3}}, "no mapping from metrics"),
        (GOOD | {"none": {"min": {"loss": 3}, "max": {"loss": 2}}}, "no loss is ≥ 3 and ≤ 2"),
        (GOOD | {"exactly": {"verdict": "stalled"}}, "key 'count' is missing"),
        (GOOD | {"exactly": {"count": 4, "verdict": "stalled"}}, "is not below of: 4"),
        (GOOD | {"exactly": {"count": 0, "verdict": "stalled"}}, "count = 0"),
        (GOOD | {"where": []}, "is no mapping"),
        (GOOD | {"where": {"rh": 2.0}}, "no run has a field 'rh'; a spec has data, n"),
        (GOOD | {"where": {"rho": []}}, "the list is empty"),
        (GOOD | {"where": {"rho": {"from": 1}}}, "is no range"),
        (GOOD | {"where": {"rho": {"min": "1"}}}, "no finite number"),
        (GOOD | {"where": {"verdict": "lost"}}, "verdict 'lost' is unknown"),
        (GOOD | {"where": {"verdict": "stalled"}}, "among runs filtered by 'stalled'"),
        (GOOD | {"where": {"verdict": "converged"}}, "among runs filtered by 'converged'"),
        ({"test": THIS, "raeds": ["r"]}, "unknown key 'raeds'"),
        ({"test": THIS, "reads": "r"}, "is no list of records"),
        ({"chapter": "index", "side": "for"}, "unknown key 'side'"),
        ({"certificate": "c.json"}, "key 'proved' is missing"),
        ({"certificate": "c.json", "proved": []}, "no list of what it proves"),
        ({"certificate": "c.json", "proved": ["exists"], "min": {"eta_max": "x"}}, "finite number"),
    ],
)  # fmt: skip
def test_evidence_that_can_mean_nothing_is_refused(item: Any, text: str) -> None:
    with pytest.raises(BadInput, match=re.escape(text)) as error:
        claim(item)
    assert "c: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {id: a}", "claim a: claim: key 'source' is missing"),
        ("- {id: a, source: rumour, statement: s, kind: theorem, status: open}", "'rumour'"),
        ("- {id: a, source: ours, statement: s, kind: theorem, status: likely}", "'likely'"),
        ("- {id: a, source: ours, statement: s, kind: hunch, status: open}", "'hunch'"),
        ("- {id: a b, source: ours, statement: s, kind: theorem, status: open}", "'a b'"),
        ("- {id: a, source: ours, statement: ' ', kind: theorem, status: open}", "is empty"),
        ("- {id: a, source: ours, statement: 3, kind: theorem, status: open}", "is no text"),
        ("- {id: a, source: ours, statement: s, kind: theorem, status: open, x: 1}", "key 'x'"),
        ("- {id: a, source: ours, statement: s, kind: theorem, status: open, evidence: x}", "list"),
        ("- {id: a, source: ours, statement: s, kind: theorem, status: open}\n" * 2, "share"),
        ("- {id: a, id: b}", "key 'id' is given twice"),
        ("- 3", "claim 1: claim: 3 is no mapping"),
        ("id: a", "is no list of claims"),
        ("", "is no list of claims"),
        ("- {id: [", "is no YAML"),
        ("- {? {a: b} : c}", "is no YAML"),
        ("- \x07", "is no YAML"),
    ],
)
def test_a_malformed_ledger_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "claims.yml"
    path.write_text(text)
    with pytest.raises(BadInput, match=re.escape(said)) as error:
        claims.load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_ledger_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "claims.yml"):
        with pytest.raises(BadInput, match="does not exist; use a clone"):
            claims.load(path)
    (tmp_path / "claims.yml").write_bytes(b"- \xff\xfe")
    with pytest.raises(BadInput, match="is no YAML"):
        claims.load(tmp_path / "claims.yml")


def test_what_each_kind_of_claim_needs() -> None:
    stored = {"certificate": "book/certificates/twist.json", "proved": ["does not attract"]}
    assert claims.check([claim(stored, kind="certificate")]) == []
    (problem,) = claims.check([claim({"test": THIS}, kind="certificate")])
    assert problem == "c: kind certificate, but it cites none"
    (problem,) = claims.check([claim(stored)])
    assert problem == "c: kind theorem, but no test of an instance is cited"
    (problem,) = claims.check([claim(stored, kind="experiment")])
    assert "neither a record nor a test" in problem


def test_a_cited_test_must_have_passed(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    where = 'classname="tests.evidence.test_ledger_holds" name="test_the_ledger_holds[1]"'
    case = f"<testcase {where}>{{}}</testcase>"
    c = claim({"test": THIS})
    for inside, count in (("", 0), ("<failure/>", 1), ("<error/>", 1), ("<skipped/>", 1)):
        for cases in (case.format("") + case.format(inside), case.format(inside) + case.format("")):
            report.write_text(f"<testsuite>{cases}</testsuite>")
            assert len(claims.check([c], junit=report)) == count
    assert claims.summary([c], report).endswith("evidence; 0 of 1 tests passed in " + str(report))
    report.write_text(f"<testsuite>{case.format('')}</testsuite>")
    assert claims.summary([c], report).endswith("evidence; 1 of 1 tests passed in " + str(report))
    report.write_text("<testsuite/>")
    assert claims.check([c], junit=report) == [f"c: {THIS} did not pass"]


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><testsuite name="&b;"/>'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is no file"),
        (b"", "no element found"),
        (b"<testsuite><testcase></testsuite>", "mismatched tag"),
        (b"\x00\x89PNG\xff\xfe", "is no report of a test run"),
        (b"<html></html>", "it begins with <html>"),
        (BOMB.encode(), "it has a document type"),
        (BOMB.encode("utf-16"), "it has a document type"),
    ],
)
def test_what_is_no_report_is_refused_in_one_line(
    content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "junit.xml"
    if content is not None:
        report.write_bytes(content)
    assert main(["claims", "--check", str(report)]) == 2
    assert main(["claims", "--check", str(tmp_path)]) == 2  # a folder
    first, second = capsys.readouterr().err.splitlines()
    assert said in first
    assert "is no file" in second


def test_evidence_without_power_leaves_a_claim_open() -> None:
    """It is checked and shown all the same, and does not outweigh evidence that decides."""
    entry = {"id": "a", "source": "ours", "kind": "experiment", "statement": "x", "status": "open"}
    weak = {**GOOD, "side": "undecided"}
    claim = claims.Claim.of({**entry, "evidence": [weak]})
    assert claims.derive_status(claim) == "open"
    assert claims.cite(claim.evidence[0]).startswith("does not decide it: record")
    both = claims.Claim.of({**entry, "evidence": [weak, GOOD | {"side": "against"}]})
    assert claims.derive_status(both) == "not reproduced"


def test_the_terminal_shows_what_was_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "image-is-constant"]) == 0
    out = capsys.readouterr().out
    assert "record digits-map, verdict hallucinated: every one of the 56 runs has" in out
    assert "shifted_spread ≤ 0.01" in out
    assert "exactly 56 of the 300 runs show verdict hallucinated" in out
    assert out.splitlines()[-1].endswith("; 0 tests looked up, not run")
    assert main(["claims", "constrained-maximum"]) == 0
    out = capsys.readouterr().out
    assert "constrained-maximum: proved in the text with a correction; instances tested" in out
    assert "Correction: Only if det H_* > 0" in out
    assert main(["claims", "nonsense"]) == 2


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (GOOD, "record `r`: every one of the 4 runs has verdict stalled"),
        (GOOD | {"of": 1, "where": {"rho": [1.0, 2.0], "loss": {"min": 0.25}}, "side": "against"},
         "against it: record `r`, `rho` 1 or 2, `loss` ≥ 0.25: "
         "the one run has verdict stalled"),
        (GOOD | {"none": {"min": {"loss": 1.0e-7}, "max": {"loss": 2.0, "norm": 3.0}}},
         "record `r`: every one of the 4 runs has verdict stalled; "
         "none of the 4 runs has 1e-07 ≤ `loss` ≤ 2, `norm` ≤ 3"),
        ({"record": "r", "of": 4, "exactly": {"count": 3, "min": {"a": 1}, "max": {"a": 1}}},
         "record `r`: exactly 3 of the 4 runs show `a` = 1"),
        ({"certificate": "book/c.json", "proved": ["exists"], "min": {"eta_max": 0.1148406}},
         "certificate `c.json`, proved again: exists, `eta_max` ≥ 0.1148406"),
        ({"test": THIS, "reads": ["a", "b"]},
         "test `test_the_ledger_holds` on the records `a`, `b`"),
        ({"test": THIS}, "test `test_the_ledger_holds`"),
        ({"chapter": "index#a"}, "{ref}`a`"),
        ({"chapter": "index"}, "{doc}`index`"),
    ],
)  # fmt: skip
def test_evidence_in_words(item: Entry, words: str) -> None:
    assert claims.cite(evidence.parse(item)) == words


def html(ledger: list[Claim]) -> str:
    """The page as MyST's own parser reads it, with the extensions of the book."""
    from docutils.core import publish_string
    from myst_parser.parsers.docutils_ import Parser

    options = {
        "myst_enable_extensions": ["amsmath", "colon_fence", "deflist", "dollarmath", "tasklist"],
        "embed_stylesheet": False,
        "report_level": 5,
    }
    page = publish_string(
        pages.markdown(ledger), parser=Parser(), writer_name="html5", settings_overrides=options
    )
    return page.decode().partition("<body>")[2]


@pytest.mark.parametrize(
    "text",
    [
        "H_* ≻ 0 and x_* too, H_c det H_*/det K of *this* and __that__",
        "<script>alert(1)</script> & <b>bold</b> &lt;",
        "`code` {{ name }} {ref}`x` [a](http://b) ![c](d) ~~e~~ \\alpha | f | $5",
        "a -- b --- 'c' \"d\" http://example.org ... (c)",
        "# no title",
        "- no list",
        "1. no list",
        ": no definition",
        "::: no fence",
        "> no quotation",
    ],
)
def test_a_claim_is_shown_as_it_is_written(text: str) -> None:
    for where in ("statement", "correction"):
        page = html([claim(**{where: text, "status": "open"})])
        shown = page.partition("<dd>")[2].partition("</dd>")[0]
        shown = shown.replace("<em>Correction:</em>", "")
        words = re.sub(r"</?p>", "", shown).strip().splitlines()[-1].strip()
        assert "<" not in words
        for sign, entity in (("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("&", "&amp;")):
            words = words.replace(entity, sign)
        assert words == text


def test_mathematics_in_a_claim_is_mathematics_and_never_a_tag() -> None:
    page = html([claim(statement="$H_* = x_*$ and $a < b$ $<script>$ $$<script>x</script>$$")])
    assert page.count('class="formula"') >= 3
    assert "<script" not in page


def test_the_page_shows_every_claim() -> None:
    ledger = claims.load()
    page = html(ledger)
    for c in ledger:
        assert f'id="{c.anchor}"' in page
        links = page.count(f'href="#{c.anchor}">{c.id}</a>')
        assert links == (1 if c.source == "ours" else 2)  # also in the table of what others said
        if "$" not in c.statement:
            plain = page.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")
            assert c.statement.strip() in plain
    assert claims.summary(ledger) in page
    for status in {c.status for c in ledger}:
        assert status[1:] in page
