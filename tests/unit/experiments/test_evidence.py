"""Each piece of evidence checks itself, and says what it found: on a small book made by hand."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ledger import evidence
from ledger.evidence import Condition, Context, Exactly

from samlib.certify import rechecks
from samlib.errors import BadInput
from samlib.experiments import records

Entry = dict[str, Any]

CODE = '''
NAME = "outside"
def test_one(): read("here", 3, b"there")
def test_two():
    """Words."""
    for name in ["here"]:
        read(name, "there", "../here", "nothing", "empty")
def test_none(): pass
'''


def run(name: str, verdict: str, spec: Entry, **metrics: Any) -> records.Record:
    return {"id": name, "spec": spec, "verdict": verdict, "metrics": metrics}


RUNS = [
    run("a", "hallucinated", {"rho": 2.0, "batch": 64, "classes": [3, 8]}, loss=2.0, m=1, only=1.0),
    run("b", "hallucinated", {"rho": 2.5, "n": 100}, loss=2.5, m=None),
    run("c", "stalled", {"rho": 3.0, "batch": 32}, loss=2.25, m=3, stall="saddle"),
    run("d", "stalled", {"rho": 2.0, "classes": [0, 1]}, loss=2.25, m=None, stall="chaotic"),
    run("e", "converged", {"rho": 1.0, "schedule": "ramp"}, loss=0.5, m=None, odd="1", flag=True),
]


@pytest.fixture
def book(tmp_path: Path) -> Context:
    """A checkout with two chapters, a file of tests and two records; one has five runs."""
    for name in ("here", "there"):
        (tmp_path / "book" / "records" / name).mkdir(parents=True)
        (tmp_path / "book" / "records" / name / "runs.jsonl").touch()
    (tmp_path / "book" / "records" / "empty").mkdir()
    (tmp_path / "book" / "one.md").write_text("(top)=\n# One\n:label: eq-one\n(two words)=\n")
    cells = {"cells": [{"source": ["(deep-down)=\n", "## Deep\n"]}]}
    (tmp_path / "book" / "two.ipynb").write_text(json.dumps(cells))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(CODE)
    return Context(tmp_path, {"r": RUNS, "here": [], "there": []}.__getitem__)


def said(item: Entry, context: Context) -> str:
    """What is wrong with evidence; nothing if it holds."""
    try:
        evidence.parse(item).check(context)
    except BadInput as error:
        return str(error)
    return ""


def test_a_context_reads_each_record_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(records, "read", lambda folder: asked.append(folder) or RUNS)
    context = Context.of(tmp_path, {"tests/a.py::test_x"})
    assert context.runs("r") is context.runs("r") is RUNS
    assert asked == [tmp_path / "book" / "records" / "r"]
    assert (context.project, context.passed) == (tmp_path, {"tests/a.py::test_x"})
    assert Context.of(tmp_path).passed is None


def test_a_record_is_a_folder_with_runs(book: Context) -> None:
    names = ("here", "there", "empty", "none", "../records/here", "")
    assert [n for n in names if book.has(n)] == ["here", "there"]


@pytest.mark.parametrize(
    ("chapter", "fault"),
    [
        ("one", ""),
        ("two", ""),
        ("one#top", ""),
        ("one#eq-one", ""),
        ("two#deep-down", ""),
        ("three", "chapter 'three' does not exist"),
        ("three#top", "chapter 'three' does not exist"),
        ("one#deep-down", "chapter 'one' has no anchor 'deep-down'"),
        ("one#words", "chapter 'one' has no anchor 'words'"),
        ("two#top", "chapter 'two' has no anchor 'top'"),
        ("one#top#eq-one", "chapter 'one' has no anchor 'top#eq-one'"),
    ],
)
def test_a_chapter_and_its_anchor_must_exist(chapter: str, fault: str, book: Context) -> None:
    assert said({"chapter": chapter}, book) == fault


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ({"test": "test_one", "reads": ["here"]}, ""),
        ({"test": "test_two", "reads": ["there", "here"]}, ""),
        ({"test": "test_none"}, ""),
        ({"test": "test_none", "reads": ["here"]}, ""),  # through a helper of its file
        ({"test": "NAME"}, "'tests/test_a.py::NAME' names no test: write path::test_…"),
        ({"test": "test_three"}, "tests/test_a.py has no test 'test_three'"),
        ({"test": "test_none", "reads": ["r"]},
         "tests/test_a.py does not name the record 'r' anywhere"),
        ({"test": "test_none", "reads": ["../here"]}, "'../here' is no name of a record"),
        ({"test": "test_one"},
         "tests/test_a.py::test_one reads ['here']; say so: reads: [here]"),
        ({"test": "test_two"},
         "tests/test_a.py::test_two reads ['here', 'there']; say so: reads: [here, there]"),
        ({"test": "test_two", "reads": ["here"]},
         "tests/test_a.py::test_two reads ['there']; say so: reads: [there]"),
    ],
)  # fmt: skip
def test_a_test_must_exist_and_say_what_it_reads(item: Entry, fault: str, book: Context) -> None:
    name = f"tests/test_a.py::{item['test']}"
    assert said(item | {"test": name}, book) == fault
    if not fault:
        for passed, then in (({name}, ""), ({"tests/test_a.py::test_x"}, f"{name} did not pass")):
            assert said(item | {"test": name}, dataclasses.replace(book, passed=passed)) == then


def test_a_test_needs_its_file_and_the_records_that_it_reads(book: Context) -> None:
    name = "tests/test_b.py"
    assert said({"test": f"{name}::test_one"}, book) == f"test file {name!r} does not exist"
    with pytest.raises(KeyError):  # whatever the reader of records raises
        said({"test": "tests/test_a.py::test_none", "reads": ["nothing"]}, book)


def test_a_changed_file_is_read_again(book: Context) -> None:
    assert said({"chapter": "one#later"}, book) != ""
    (book.project / "book" / "one.md").write_text("(later)=\n" * 9)
    assert said({"chapter": "one#later"}, book) == ""


SEEN = "(1 converged, 2 hallucinated, 2 stalled)"


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ({"of": 4}, f": of: 4, but there are 5 {SEEN}"),
        ({"of": 6}, f": of: 6, but there are 5 {SEEN}"),
        ({"of": 1, "where": {"rho": 9.0}}, ", `rho` 9: of: 1, but there are 0"),
        ({"of": 1, "where": {"rho": 2.0, "schedule": "constant"}},
         ", `rho` 2, `schedule` constant: of: 1, but there are 2 (1 hallucinated, 1 stalled)"),
        ({"every": {"verdict": "hallucinated"}},
         f": every: verdict hallucinated, but 2 of 5 runs show it {SEEN}; otherwise: c, d, e"),
        ({"every": {"min": {"loss": 9}}},
         f": every: `loss` ≥ 9, but 0 of 5 runs show it {SEEN}; otherwise: a, b, c"),
        ({"none": {"verdict": "stalled: saddle"}},
         f": none: verdict stalled: saddle, but 1 of 5 runs show it {SEEN}; otherwise: c"),
        ({"exactly": {"count": 3, "max": {"loss": 2.25}}},
         f": exactly: `loss` ≤ 2.25, but 4 of 5 runs show it {SEEN}"),
        ({"none": {"max": {"m": 0}}}, ": none: m of ['b', 'd', 'e'] is null"),
        ({"of": 3, "where": {"rho": [2.0, 3.0]}, "none": {"max": {"m": 0}}},
         ": none: m of ['d'] is null"),
        ({"every": {"max": {"los": 1.0}}}, ": no run has a metric 'los'"),
        ({"none": {"min": {"los": 1.0}}}, ": no run has a metric 'los'"),
        ({"exactly": {"count": 1, "min": {"los": 1.0}}}, ": no run has a metric 'los'"),
        ({"every": {"min": {"only": 1.0}}}, ": run b has no metric 'only'"),
        ({"every": {"max": {"only": 1.0}}}, ": run b has no metric 'only'"),
        ({"none": {"verdict": "converged", "min": {"only": 1}}}, ": run b has no metric 'only'"),
        ({"every": {"min": {"loss": 9, "only": 1}}}, ": run b has no metric 'only'"),
        ({"of": 1, "where": {"rho": 1.0}, "every": {"min": {"odd": 1}}},
         ": metric 'odd' of run e is no number"),
        ({"of": 1, "where": {"rho": 1.0}, "every": {"min": {"flag": 1}}},
         ": metric 'flag' of run e is no number"),
        ({"of": 1, "where": {"only": {"min": 1}}}, ": run b has no metric 'only'"),
    ],
)  # fmt: skip
def test_a_record_says_what_it_shows_instead(item: Entry, fault: str, book: Context) -> None:
    compared = (
        {} if item.keys() & {"every", "none", "exactly"} else {"none": {"verdict": "running"}}
    )
    full = {"record": "r", "of": 5} | compared | item
    assert said(full, book) == f"record 'r'{fault}"


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ({}, "abcde"),
        ({"rho": 2.0}, "ad"),
        ({"rho": 2}, "ad"),
        ({"rho": [1.0, 3.0]}, "ce"),
        ({"rho": [1.0, 3.0], "schedule": "ramp"}, "e"),
        ({"schedule": "constant"}, "abcd"),  # a default
        ({"momentum": 0.0}, "abcde"),
        ({"batch": None}, "bde"),
        ({"classes": [3, 8]}, "a"),  # a list of its own
        ({"classes": None}, "bce"),
        ({"rho": {"min": 2.0}}, "abcd"),
        ({"rho": {"max": 2.0}}, "ade"),
        ({"rho": {"min": 2.0, "max": 2.5}}, "abd"),
        ({"batch": {"min": 1}}, "ac"),  # the whole set is no batch
        ({"batch": {"max": 32}}, "c"),
        ({"n": {"min": 100}}, "b"),
        ({"n": {"max": 99}}, ""),
        ({"loss": {"min": 2.25}}, "bcd"),
        ({"loss": {"max": 2.25}}, "acde"),
        ({"m": {"min": 0}}, "ac"),  # null is above and below nothing
        ({"m": {"max": 9}}, "ac"),
        ({"verdict": "stalled"}, "cd"),
        ({"verdict": "stalled: saddle"}, "c"),
        ({"verdict": "stalled: chaotic"}, "d"),
        ({"verdict": "running"}, ""),
        ({"verdict": "hallucinated", "rho": {"max": 2}}, "a"),
    ],
)  # fmt: skip
def test_the_runs_that_a_filter_leaves(where: Entry, left: str, book: Context) -> None:
    item = evidence.parse({"record": "r", "of": 1, "where": where, "none": {"min": {"loss": 99}}})
    assert "".join(r["id"] for r in item.runs(book)) == left


@pytest.mark.parametrize(
    ("condition", "shown"),
    [
        (Condition("hallucinated"), "ab"),
        (Condition("stalled"), "cd"),
        (Condition("stalled: chaotic"), "d"),
        (Condition(min={"loss": 2.25}), "bcd"),
        (Condition(max={"loss": 2.25}), "acde"),
        (Condition("stalled", min={"loss": 2.5}), ""),
        (Condition("hallucinated", max={"loss": 2.4}), "a"),
        (Condition(min={"loss": 2.0}, max={"loss": 2.25}), "acd"),
        (Condition(min={"loss": 2.0, "m": 2}), "c"),
        (Condition(max={"loss": 2.0, "m": 1}), "a"),
        (Exactly(min={"loss": 2.25}, count=3), "bcd"),
    ],
)
def test_the_runs_that_show_a_condition(condition: Condition, shown: str) -> None:
    assert "".join(r["id"] for r in RUNS if condition.shown_by(r)) == shown


def test_the_metrics_that_a_condition_compares() -> None:
    compared = Condition("running", {"a": 1, "b": 2}, {"b": 3, "c": 4}).ranges
    assert [one.name for one in compared] == ["a", "b", "c"]


def test_a_filter_by_a_verdict_may_be_made_finer_but_not_repeated() -> None:
    base = {"record": "r", "of": 2}
    fine = {"where": {"verdict": "stalled"}, "exactly": {"count": 1, "verdict": "stalled: saddle"}}
    evidence.parse(base | fine)
    evidence.parse(base | {"where": {"verdict": "stalled"}, "every": {"min": {"loss": 1}}})
    for chosen, compared in (
        ("stalled", "stalled"),
        ("stalled: saddle", "stalled"),
        ("stalled: saddle", "stalled: saddle"),
        ("stalled: saddle", "stalled: chaotic"),
        ("hallucinated", "stalled: saddle"),
    ):
        for how, more in (("every", {}), ("none", {}), ("exactly", {"count": 1})):
            item = base | {"where": {"verdict": chosen}, how: {"verdict": compared} | more}
            fault = f"verdict {compared!r} is compared among runs filtered by {chosen!r}"
            with pytest.raises(BadInput) as error:
                evidence.parse(item)
            assert str(error.value) == f"record 'r': {fault}"


GOOD: Entry = {"record": "r", "of": 4, "every": {"verdict": "stalled"}}
STORED: Entry = {"certificate": "c.json", "proved": ["exists"]}
VERDICTS = "converged, hallucinated, stalled, diverged, running, stalled: chaotic, stalled: saddle"
NUMBER = "is no finite number (YAML reads 1e-6 as text; write 1.0e-6)"
KINDS = "must name exactly one of chapter, test, record, certificate"


@pytest.mark.parametrize(
    ("item", "fault"),
    [
        ("x", "evidence 'x' is no mapping"),
        ({}, f"evidence {{}} {KINDS}"),
        ({"chapter": "a", "test": "b"}, f"evidence {{'chapter': 'a', 'test': 'b'}} {KINDS}"),
        ({"chapter": 3}, "chapter 3 is no text"),
        ({"chapter": "a", "x": 1}, "chapter 'a': unknown key 'x'; allowed are chapter"),
        ({"test": "a", "x": 1}, "test 'a': unknown key 'x'; allowed are test, reads, side"),
        ({"test": "a", "reads": "b"}, "test 'a': reads: 'b' is no list of records"),
        ({"test": "a", "side": "x"},
         "test 'a': side 'x' is unknown; use one of for, against, undecided"),
        (GOOD | {"side": "x"},
         "record 'r': side 'x' is unknown; use one of for, against, undecided"),
        (STORED | {"side": "x"},
         "certificate 'c.json': side 'x' is unknown; use one of for, against, undecided"),
        (GOOD | {"x": 1}, "record 'r': unknown key 'x'; "
         "allowed are record, of, where, every, none, exactly, side"),
        (GOOD | {"of": 0}, "record 'r': of = 0 is not a whole number ≥ 1"),
        ({"record": "r", "of": 1},
         "record 'r': nothing is compared; say every, none or exactly"),
        ({"record": "r", "every": {"verdict": "stalled"}}, "record 'r': key 'of' is missing"),
        (GOOD | {"record": "a/b"}, "record 'a/b': 'a/b' is no name of a record"),
        (GOOD | {"record": ".a"}, "record '.a': '.a' is no name of a record"),
        (GOOD | {"record": 3}, "record 3 is no text"),
        (GOOD | {"where": 3}, "record 'r': where: 3 is no mapping"),
        (GOOD | {"where": {"verdict": "x"}},
         f"record 'r': where: verdict 'x' is unknown; use one of {VERDICTS}"),
        (GOOD | {"where": {"rho": {}}},
         "record 'r': where: rho: {} is no range; give min, max or both"),
        (GOOD | {"where": {"rho": {"min": 1, "mx": 2}}},
         "record 'r': where: rho: {'min': 1, 'mx': 2} is no range; give min, max or both"),
        (GOOD | {"where": {"rho": {"min": "1"}}}, f"record 'r': where: rho: min: '1' {NUMBER}"),
        (GOOD | {"where": {"rho": {"max": True}}}, f"record 'r': where: rho: max: True {NUMBER}"),
        (GOOD | {"where": {"rho": []}}, "record 'r': where: rho: the list is empty"),
        (GOOD | {"every": "x"}, "record 'r': every: 'x' is no mapping"),
        (GOOD | {"none": {}}, "record 'r': none: empty condition; name a verdict, min or max"),
        (GOOD | {"none": {"mn": 1}},
         "record 'r': none: unknown key 'mn'; allowed are verdict, min, max"),
        (GOOD | {"every": {"verdict": "x"}},
         f"record 'r': every: verdict 'x' is unknown; use one of {VERDICTS}"),
        (GOOD | {"every": {"min": 3}},
         "record 'r': every: min: 3 is no mapping from metrics to numbers"),
        (GOOD | {"every": {"max": [1]}},
         "record 'r': every: max: [1] is no mapping from metrics to numbers"),
        (GOOD | {"every": {"min": {"a": "1e-6"}}}, f"record 'r': every: min: a: '1e-6' {NUMBER}"),
        (GOOD | {"every": {"max": {"a": math.inf}}}, f"record 'r': every: max: a: inf {NUMBER}"),
        (GOOD | {"every": {"min": {"a": 3.5}, "max": {"a": 2}}},
         "record 'r': every: no a is ≥ 3.5 and ≤ 2"),
        (GOOD | {"exactly": {"verdict": "stalled"}}, "record 'r': exactly: key 'count' is missing"),
        (GOOD | {"exactly": {"verdict": "stalled", "count": 0}},
         "record 'r': exactly: count = 0 is not a whole number ≥ 1"),
        (GOOD | {"exactly": {"verdict": "stalled", "count": 4}},
         "record 'r': exactly: count 4 is not below of: 4"),
        (GOOD | {"exactly": {"count": 1}},
         "record 'r': exactly: empty condition; name a verdict, min or max"),
        (GOOD | {"exactly": {"count": 1, "x": 1}},
         "record 'r': exactly: unknown key 'x'; allowed are verdict, min, max, count"),
        ({"certificate": "c.json"}, "certificate 'c.json': key 'proved' is missing"),
        (STORED | {"proved": []}, "certificate 'c.json': proved: [] is no list of what it proves"),
        (STORED | {"proved": "exists"},
         "certificate 'c.json': proved: 'exists' is no list of what it proves"),
        (STORED | {"min": {"a": None}}, f"certificate 'c.json': min: a: None {NUMBER}"),
        (STORED | {"max": {"a": None}}, f"certificate 'c.json': max: a: None {NUMBER}"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_value_and_what_would_be_right(item: Any, fault: str) -> None:
    with pytest.raises(BadInput) as error:
        evidence.parse(item)
    assert str(error.value) == fault


def test_a_field_that_no_spec_has_is_refused_with_the_list_of_those_it_has() -> None:
    with pytest.raises(BadInput) as error:
        evidence.parse(GOOD | {"where": {"rh": 2.0}})
    head, _, fields = str(error.value).partition("; a spec has ")
    assert head == "record 'r': where: no run has a field 'rh'"
    assert {"data", "rho", "momentum"} < set(fields.split(", "))


def test_what_is_allowed() -> None:
    """Limits that meet, one run fewer than all, the longest name."""
    for more in (
        {"every": {"min": {"a": 2}, "max": {"a": 2.0}}},
        {"exactly": {"count": 3, "verdict": "stalled"}},
        {"record": "a" * 100},
        {"side": "undecided"},
        {"every": None, "none": {"verdict": "stalled"}},
    ):
        evidence.parse(GOOD | more)
    with pytest.raises(BadInput, match="is no name of a record"):
        evidence.parse(GOOD | {"record": "a" * 101})
    for kind in (GOOD, STORED, {"test": "a"}):
        assert evidence.parse(kind).side == "for"
    already = Condition("stalled")
    assert evidence.Record("r", 4, every=already).every is already


FOUND = SimpleNamespace(
    proved={"exists", "attracts"}, eta_max=0.125, rho=2, zero=0.0, word="x", yes=True
)


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ({}, ""),
        ({"proved": ["attracts", "exists"]}, ""),
        ({"proved": ["repels", "exists", "basin"]}, " does not prove ['basin', 'repels']"),
        ({"min": {"eta_max": 0.125}, "max": {"eta_max": 0.125, "rho": 2}}, ""),
        ({"min": {"eta_max": 0.126}}, ": eta_max is 0.125, not from 0.126 to inf"),
        ({"max": {"eta_max": 0.124}}, ": eta_max is 0.125, not from -inf to 0.124"),
        ({"min": {"rho": 1}, "max": {"rho": 1.5}}, ": rho is 2, not from 1 to 1.5"),
        ({"min": {"zero": 0}}, ""),
        ({"min": {"zero": 1}}, ": zero is 0.0, not from 1 to inf"),
        ({"min": {"eta": 1}}, " has no number 'eta'"),
        ({"max": {"word": 1}}, " has no number 'word'"),
        ({"max": {"yes": 1}}, " has no number 'yes'"),
    ],
)
def test_a_certificate_is_proved_again_and_compared(
    more: Entry, fault: str, book: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, ...]] = []
    monkeypatch.setattr(rechecks, "proved_again", lambda *paths: asked.append(paths) or FOUND)
    assert said(STORED | more, book) == "certificate 'c.json' does not exist"
    assert asked == []
    (book.project / "c.json").touch()
    assert said(STORED | more, book) == (fault and f"certificate 'c.json'{fault}")
    assert asked == [(book.project / "c.json", book.project / "build" / "rechecked")]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"chapter": "one"}, "{doc}`one`"),
        ({"chapter": "one#top"}, "{ref}`top`"),
        ({"test": "tests/a.py::test_x"}, "test `test_x`"),
        ({"test": "tests/a.py::test_x", "reads": ["a"]}, "test `test_x` on the record `a`"),
        ({"test": "tests/a.py::test_x", "reads": ["a", "b"]},
         "test `test_x` on the records `a`, `b`"),
        (GOOD, "record `r`: every one of the 4 runs has verdict stalled"),
        (GOOD | {"of": 1}, "record `r`: the one run has verdict stalled"),
        ({"record": "r", "of": 1, "none": {"verdict": "stalled"}},
         "record `r`: the one run has not verdict stalled"),
        (GOOD | {"none": {"verdict": "running", "min": {"a": 1.5}}},
         "record `r`: every one of the 4 runs has verdict stalled; "
         "none of the 4 runs has verdict running, `a` ≥ 1.5"),
        ({"record": "r", "of": 4, "exactly": {"count": 3, "max": {"a": 1e-7}}},
         "record `r`: exactly 3 of the 4 runs show `a` ≤ 1e-07"),
        ({"record": "r", "of": 4,
          "exactly": {"count": 3, "min": {"a": 1, "b": 2}, "max": {"b": 3}}},
         "record `r`: exactly 3 of the 4 runs show `a` ≥ 1, 2 ≤ `b` ≤ 3"),
        (GOOD | {"where": {"verdict": "stalled: saddle"}, "every": {"min": {"a": 1}}},
         "record `r`, verdict stalled: saddle: every one of the 4 runs has `a` ≥ 1"),
        (GOOD | {"where": {"rho": 0.5, "data": "digits", "classes": [3, 8], "lr": [0.1, 0.25]}},
         "record `r`, `rho` 0.5, `data` digits, `classes` [3, 8], `lr` 0.1 or 0.25: "
         "every one of the 4 runs has verdict stalled"),
        (GOOD | {"where": {"a": {"min": 1}, "b": {"max": 2}, "c": {"min": 1, "max": 2}}},
         "record `r`, `a` ≥ 1, `b` ≤ 2, 1 ≤ `c` ≤ 2: every one of the 4 runs has verdict stalled"),
        (STORED, "certificate `c.json`, proved again: exists"),
        ({"certificate": "x/c.json", "proved": ["exists", "attracts"], "max": {"eta_max": 0.25}},
         "certificate `c.json`, proved again: exists, attracts, `eta_max` ≤ 0.25"),
        (STORED | {"min": {"rho": 2}, "max": {"rho": 2}},
         "certificate `c.json`, proved again: exists, `rho` = 2"),
    ],
)  # fmt: skip
def test_what_was_compared_is_said(item: Entry, words: str) -> None:
    assert str(evidence.parse(item)) == words
