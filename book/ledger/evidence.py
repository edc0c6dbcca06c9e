"""What a claim may rest on: a chapter, a test, a record or a certificate, one class a kind.

Each is read from an entry of ``book/claims.yml``, checks itself, and says what it compared. Keys,
metrics and fields that do not exist are errors: a misspelt word must never let a claim pass.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from samlib.diagnostics import verdicts
from samlib.errors import BadInput, check_choice, check_whole
from samlib.experiments import records
from samlib.training.spec import defaults

SIDES = ("for", "against", "undecided")
NAME = r"[A-Za-z0-9][\w.-]{0,99}"  # of a record: a folder's
VERDICTS = (*verdicts.VERDICTS, "stalled: chaotic", "stalled: saddle")
FIELDS = defaults()
NUMBERS = {k for k, v in FIELDS.items() if type(v) in (int, float)} | {"n", "batch"}
Limits = Mapping[str, float]


@dataclass(frozen=True)
class Context:
    """Where evidence is looked up: the checkout, its records, and what a test run reported.

    ``runs`` gives the runs of a record by its name; ``passed`` are the tests that passed, or None
    if no test was run.
    """

    project: Path
    runs: Callable[[str], list[records.Record]]
    passed: Collection[str] | None = None

    @classmethod
    def of(cls, project: Path, passed: Collection[str] | None = None) -> Context:
        """The context of a checkout, which reads each record once."""
        folder = project / "book" / "records"
        return cls(project, cache(lambda name: records.read(folder / name)), passed)

    def has(self, record: str) -> bool:
        """Whether there is a record of this name."""
        path = self.project / "book" / "records" / record / records.RUNS
        return re.fullmatch(NAME, record) is not None and path.is_file()


@dataclass(frozen=True)
class Range:
    """What a named number must be: from ``low`` to ``high``. NaN is in no range."""

    name: str
    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        low, name, high = f"{self.low:.10g}", f"`{self.name}`", f"{self.high:.10g}"
        if self.low == self.high:
            return f"{name} = {low}"
        if math.isinf(self.low):
            return f"{name} ≤ {high}"
        return f"{name} ≥ {low}" if math.isinf(self.high) else f"{low} ≤ {name} ≤ {high}"


def ranges(low: Limits, high: Limits, where: str = "") -> list[Range]:
    """The ranges that these limits make; BadInput if they are none, or leave nothing."""
    for name, limits in (("min", low), ("max", high)):
        if not isinstance(limits, dict):
            raise BadInput(f"{name}: {limits!r} is no mapping from metrics to numbers")
        for metric, value in limits.items():
            if type(value) not in (int, float) or not math.isfinite(value):
                place = f"{where}: {name}" if where else f"{name}: {metric}"
                why = "is no finite number (YAML reads 1e-6 as text; write 1.0e-6)"
                raise BadInput(f"{place}: {value!r} {why}")
    found = [Range(k, low.get(k, -math.inf), high.get(k, math.inf)) for k in {**low, **high}]
    for one in found:
        if one.low > one.high:
            raise BadInput(f"no {one.name} is ≥ {one.low:g} and ≤ {one.high:g}")
    return found


@dataclass(frozen=True)
class Condition:
    """What a run must show: a verdict, and metrics from ``min`` to ``max``. Never empty."""

    verdict: str | None = None
    min: Limits = field(default_factory=dict)
    max: Limits = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict is None and not self.min and not self.max:
            raise BadInput("empty condition; name a verdict, min or max")
        if self.verdict is not None:
            check_choice("verdict", self.verdict, VERDICTS)
        _ = self.ranges

    @cached_property
    def ranges(self) -> list[Range]:
        """The metrics that it compares."""
        return ranges(self.min, self.max)

    def shown_by(self, run: records.Record) -> bool:
        """Whether the run shows it; BadInput if it lacks a metric that is compared.

        A metric that is recorded as null, for example the rate of a run that has no limit, is
        neither above nor below anything.
        """
        inside = [_metric(run, one.name) in one for one in self.ranges]
        return (self.verdict is None or _has_verdict(run, self.verdict)) and all(inside)

    def __str__(self) -> str:
        verdict = [] if self.verdict is None else [f"verdict {self.verdict}"]
        return ", ".join([*verdict, *map(str, self.ranges)])


@dataclass(frozen=True)
class Exactly(Condition):
    """A condition that ``count`` of the runs show, no more and no fewer."""

    count: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("count", self.count)


@dataclass(frozen=True)
class Chapter:
    """Where a chapter says it: ``name#anchor``. It explains a claim and is no evidence for it."""

    key: ClassVar[str] = "chapter"
    again: ClassVar[str] = ""
    chapter: str

    def check(self, context: Context) -> None:
        """Raise BadInput unless the chapter and its anchor exist."""
        name, _, anchor = self.chapter.partition("#")
        paths = [context.project / "book" / f"{name}{end}" for end in (".ipynb", ".md")]
        there = [_anchors(p, p.stat().st_mtime_ns) for p in paths if p.is_file()]
        _need(there, f"chapter {name!r} does not exist")
        found = any(anchor in anchors for anchors in there)
        _need(not anchor or found, f"chapter {name!r} has no anchor {anchor!r}")

    def __str__(self) -> str:
        name, _, anchor = self.chapter.partition("#")
        return f"{{ref}}`{anchor}`" if anchor else f"{{doc}}`{name}`"


@dataclass(frozen=True)
class Test:
    """A test, ``path::function``, and the records that it reads."""

    __test__: ClassVar[bool] = False  # for pytest, which takes the name for a test's
    key: ClassVar[str] = "test"
    test: str
    reads: list[str] = field(default_factory=list)
    side: str = "for"

    def __post_init__(self) -> None:
        if not isinstance(self.reads, list):
            raise BadInput(f"reads: {self.reads!r} is no list of records")

    def check(self, context: Context) -> None:
        """Raise BadInput unless the test exists, reads these records, and passed if it was run."""
        name, _, function = self.test.partition("::")
        path = context.project / name
        _need(function.startswith("test_"), f"{self.test!r} names no test: write path::test_…")
        _need(path.is_file(), f"test file {name!r} does not exist")
        said = _strings(path, path.stat().st_mtime_ns)
        _need(function in said, f"{name} has no test {function!r}")
        anywhere = set().union(*said.values())
        for record in self.reads:
            context.runs(_record_name(record))
            _need(record in anywhere, f"{name} does not name the record {record!r} anywhere")
        unsaid = [r for r in sorted(said[function] - set(self.reads)) if context.has(r)]
        _need(not unsaid, f"{self.test} reads {unsaid}; say so: reads: [{', '.join(unsaid)}]")
        passed = context.passed is None or self.test in context.passed
        _need(passed, f"{self.test} did not pass")

    @property
    def again(self) -> str:
        """The command that checks it again."""
        return f"python -m pytest {self.test}"

    def __str__(self) -> str:
        plural = "s" if len(self.reads) > 1 else ""
        of = f" on the record{plural} " if self.reads else ""
        return f"test `{self.test.split('::')[-1]}`{of}" + ", ".join(f"`{r}`" for r in self.reads)


@dataclass(frozen=True)
class Record:
    """The runs of a record: of those that ``where`` leaves, exactly ``of``, what they show.

    ``where`` filters by fields of the spec (defaults filled in), by ``verdict``, and by ranges
    ``{min: …, max: …}`` of numeric fields or metrics; a list stands for any of its values.
    """

    key: ClassVar[str] = "record"
    again: ClassVar[str] = ""  # its runs are trained again instead
    record: str
    of: int
    where: dict[str, Any] = field(default_factory=dict)
    every: Condition | None = None
    none: Condition | None = None
    exactly: Exactly | None = None
    side: str = "for"

    def __post_init__(self) -> None:
        check_whole("of", self.of)
        _record_name(self.record)
        if not isinstance(self.where, dict):
            raise BadInput(f"where: {self.where!r} is no mapping")
        for name, kind in (("every", Condition), ("none", Condition), ("exactly", Exactly)):
            entry = getattr(self, name)
            if entry is not None and not isinstance(entry, Condition):
                object.__setattr__(self, name, build(kind, entry, name))
        if not self._compared:
            raise BadInput("nothing is compared; say every, none or exactly")
        _ = self._filters
        chosen = self.where.get("verdict")
        for _, condition, _ in self._compared:  # what the filter has decided shows nothing
            said = condition.verdict
            if chosen and said and not (said != chosen and said.startswith(f"{chosen}:")):
                raise BadInput(f"verdict {said!r} is compared among runs filtered by {chosen!r}")
        if self.exactly is not None and self.exactly.count >= self.of:
            raise BadInput(f"exactly: count {self.exactly.count} is not below of: {self.of}")

    @cached_property
    def _compared(self) -> list[tuple[str, Condition, int]]:
        """What is compared: how it is said, the condition, and how many runs must show it."""
        count = self.exactly.count if self.exactly else 0
        said = [("every", self.every, self.of), ("none", self.none, 0)]
        said.append(("exactly", self.exactly, count))
        return [(how, condition, n) for how, condition, n in said if condition is not None]

    @cached_property
    def _filters(self) -> list[tuple[Callable[[records.Record], bool], str]]:
        return [_filter(name, wanted) for name, wanted in self.where.items()]

    def runs(self, context: Context) -> list[records.Record]:
        """The runs that ``where`` leaves; BadInput if it names what no run has."""
        runs = context.runs(self.record)
        return [run for run in runs if all(passes(run) for passes, _ in self._filters)]

    def check(self, context: Context) -> None:
        """Raise BadInput unless there are exactly ``of`` runs and they show what is said."""
        name = f"record {self.record!r}"
        known = {k for run in context.runs(self.record) for k in run["metrics"]}
        for _, condition, _ in self._compared:
            for metric in sorted(one.name for one in condition.ranges):
                _need(metric in known, f"{name}: no run has a metric {metric!r}")
        try:
            self._count(self.runs(context), f"{name}{self._where()}")
        except _NoMetric as lost:
            raise BadInput(f"{name}: {lost}") from None

    def _count(self, runs: list[records.Record], name: str) -> None:
        seen = Counter(run["verdict"] for run in runs)
        counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(seen.items()))
        found = f"{name}: of: {self.of}, but there are {len(runs)}"
        _need(len(runs) == self.of, f"{found} ({counts})" if runs else found)
        for how, condition, due in self._compared:
            shown = [condition.shown_by(run) for run in runs]
            text = f"{name}: {how}: {condition}, but {sum(shown)} of {len(runs)} runs show it"
            text += f" ({counts})"
            if how != "exactly":
                pairs = zip(runs, shown, strict=True)
                odd = [run["id"] for run, shows in pairs if shows != (how == "every")]
                text += f"; otherwise: {', '.join(odd[:3])}"
            _need(sum(shown) == due, text)
        for one in self.none.ranges if self.none else []:
            blank = [run["id"] for run in runs if run["metrics"][one.name] is None]
            _need(not blank, f"record {self.record!r}: none: {one.name} of {blank[:3]} is null")

    def _where(self) -> str:
        return "".join(f", {words}" for _, words in self._filters)

    def __str__(self) -> str:
        one, runs = self.of == 1, f"of the {self.of} runs"
        words = {
            "every": "the one run has" if one else f"every one {runs} has",
            "none": "the one run has not" if one else f"none {runs} has",
            "exactly": f"exactly {self.exactly.count if self.exactly else 0} {runs} show",
        }
        said = "; ".join(f"{words[how]} {condition}" for how, condition, _ in self._compared)
        return f"record `{self.record}`{self._where()}: {said}"


@dataclass(frozen=True)
class Stored:
    """A stored certificate: it is proved again, and must claim what is listed in ``proved``.

    ``min`` and ``max`` bound its numbers, for example ``eta_max``.
    """

    key: ClassVar[str] = "certificate"
    certificate: str
    proved: list[str]
    min: Limits = field(default_factory=dict)
    max: Limits = field(default_factory=dict)
    side: str = "for"

    def __post_init__(self) -> None:
        if not isinstance(self.proved, list) or not self.proved:
            raise BadInput(f"proved: {self.proved!r} is no list of what it proves")
        ranges(self.min, self.max)

    def check(self, context: Context) -> None:
        """Raise BadInput unless the whole proof succeeds again and shows what is said."""
        from samlib.certify.rechecks import proved_again

        path, name = context.project / self.certificate, f"certificate {self.certificate!r}"
        _need(path.is_file(), f"{name} does not exist")
        found = proved_again(path, context.project / "build" / "rechecked")
        missing = sorted(set(self.proved) - found.proved)
        _need(not missing, f"{name} does not prove {missing}")
        for one in ranges(self.min, self.max):
            value = getattr(found, one.name, None)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise BadInput(f"{name} has no number {one.name!r}")
            outside = f"{one.name} is {value}, not from {one.low:.10g} to {one.high:.10g}"
            _need(float(value) in one, f"{name}: {outside}")

    @property
    def again(self) -> str:
        """The command that proves it again."""
        load = f"Certificate.load('{self.certificate}')"
        return f'python -c "from samlib import Certificate; print({load}.recheck())"'

    def __str__(self) -> str:
        name = Path(self.certificate).name
        words = [*self.proved, *map(str, ranges(self.min, self.max))]
        return f"certificate `{name}`, proved again: {', '.join(words)}"


Evidence = Chapter | Test | Record | Stored
KINDS: dict[str, Any] = {kind.key: kind for kind in (Chapter, Test, Record, Stored)}


def parse(entry: Any) -> Evidence:
    """The evidence that an entry of the ledger names; BadInput if it is not one of the kinds."""
    if not isinstance(entry, dict):
        raise BadInput(f"evidence {entry!r} is no mapping")
    kinds = [k for k in KINDS if k in entry]
    if len(kinds) != 1:
        raise BadInput(f"evidence {entry!r} must name exactly one of {', '.join(KINDS)}")
    evidence: Evidence = build(KINDS[kinds[0]], entry, kinds[0])
    return evidence


def build(kind: type, entry: Any, name: str) -> Any:
    """``kind(**entry)``; BadInput names a key that it does not have, or one that is missing."""
    if not isinstance(entry, dict):
        raise BadInput(f"{name}: {entry!r} is no mapping")
    label = f"{name} {entry[name]!r}" if name in KINDS else name
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in entry:
        if key not in fields:
            raise BadInput(f"{label}: unknown key {key!r}; allowed are {', '.join(fields)}")
    for f in fields.values():
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if needed and f.name not in entry:
            raise BadInput(f"{label}: key {f.name!r} is missing")
    if name in KINDS and not isinstance(entry[name], str):
        raise BadInput(f"{label} is no text")
    try:
        check_choice("side", entry.get("side", "for"), SIDES)
        return kind(**entry)
    except BadInput as error:
        raise BadInput(f"{label}: {error}") from None


class _NoMetric(Exception):
    """A run lacks a metric that is compared."""


def _need(condition: object, otherwise: str) -> None:
    if not condition:
        raise BadInput(otherwise)


def _record_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise BadInput(f"{name!r} is no name of a record")
    return name


@cache
def _strings(path: Path, changed: int) -> dict[str, set[str]]:
    """The strings written in each function of a module, and under "" those outside of them."""
    said: dict[str, set[str]] = {"": set()}
    for node in ast.parse(path.read_text()).body:
        inside = node.name if isinstance(node, ast.FunctionDef) else ""
        values = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
        said.setdefault(inside, set()).update(v for v in values if isinstance(v, str))
    return said


@cache
def _anchors(path: Path, changed: int) -> set[str]:
    """The anchors of a chapter that can be referred to."""
    found = re.findall(r"\(([\w-]+)\)=|:label: ([\w-]+)", path.read_text())
    return {mark or label for mark, label in found}


def _metric(run: records.Record, name: str) -> float:
    """A metric of a run, NaN where it is recorded as null."""
    if name not in run["metrics"]:
        raise _NoMetric(f"run {run['id']} has no metric {name!r}")
    value = run["metrics"][name]
    if value is not None and type(value) not in (int, float):
        raise _NoMetric(f"metric {name!r} of run {run['id']} is no number")
    return math.nan if value is None else float(value)


def _has_verdict(run: records.Record, name: str) -> bool:
    """Whether a run has a verdict, which may name the kind of stall: ``stalled: saddle``."""
    verdict, _, stall = name.partition(": ")
    return run["verdict"] == verdict and (not stall or run["metrics"].get("stall") == stall)


def _filter(name: str, wanted: Any) -> tuple[Callable[[records.Record], bool], str]:
    """Whether a run passes one filter, and the filter in words; BadInput if it means nothing."""
    if name == "verdict":
        check_choice("where: verdict", wanted, VERDICTS)
        return partial(_has_verdict, name=wanted), f"verdict {wanted}"
    if isinstance(wanted, dict):
        if not wanted or set(wanted) - {"min", "max"}:
            raise BadInput(f"where: {name}: {wanted!r} is no range; give min, max or both")
        low, high = ({name: wanted[end]} if end in wanted else {} for end in ("min", "max"))
        (one,) = ranges(low, high, f"where: {name}")
        return lambda run: _field_or_metric(run, name) in one, str(one)
    if name not in FIELDS:
        known = ", ".join(FIELDS)
        raise BadInput(f"where: no run has a field {name!r}; a spec has {known}")
    if wanted == []:
        raise BadInput(f"where: {name}: the list is empty")
    several = wanted if isinstance(wanted, list) and name != "classes" else [wanted]
    words = [f"{value:.10g}" if isinstance(value, float) else str(value) for value in several]
    return lambda run: (FIELDS | run["spec"])[name] in several, f"`{name}` {' or '.join(words)}"


def _field_or_metric(run: records.Record, name: str) -> float:
    """A number of a run's spec, NaN where it is None, or else a metric."""
    if name not in NUMBERS:
        return _metric(run, name)
    value = (FIELDS | run["spec"])[name]
    return math.nan if value is None else float(value)
