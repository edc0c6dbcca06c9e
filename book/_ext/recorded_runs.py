"""The page *Reproduce and cite*: its line ``{recorded-runs}`` becomes the table of costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from sphinx.application import Sphinx

from samlib.experiments import records

PAGE, MARK = "reproduce", "{recorded-runs}"


def wall_time(runs: Iterable[records.Record]) -> float:
    """Seconds that the runs took; those trained as one stack share one time, counted once."""
    stacks: dict[tuple[str, float, int], float] = {}
    for run in runs:
        p = run["provenance"]
        stacks[p["started"], p["wall_time_s"], p["stack"]] = p["wall_time_s"]
    return sum(stacks.values())


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, to two digits or so."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{int(seconds < 10 * size)}f} {unit}"
    return f"{seconds:.0f} s"


def size(folder: Path) -> float:
    """Megabytes on disk."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6


def table(folders: Iterable[Path]) -> str:
    """Markdown: an experiment a row, then all of them, then the machines."""
    rows, every, bytes_ = [], list[records.Record](), 0.0
    for folder in sorted(folders):
        runs = records.read(folder)
        every, bytes_ = every + runs, bytes_ + size(folder)
        rows.append(_row(f"`{folder.name}`", runs, size(folder)))
    rows.append(_row("**all**", every, bytes_))
    head = ["| experiment | runs | wall time | MB |", "|---|--:|--:|--:|"]
    where = Counter((r["provenance"]["hardware"], r["provenance"]["threads"]) for r in every)
    machines = "; ".join(
        f"{count} runs on {name}, {threads} thread{'s' * (threads > 1)}"
        for (name, threads), count in where.most_common()
    )
    return "\n".join([*head, *rows, "", f"Hardware: {machines}."])


def _row(name: str, runs: list[records.Record], megabytes: float) -> str:
    return f"| {name} | {len(runs)} | {duration(wall_time(runs))} | {megabytes:.2f} |"


def insert(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the mark before the page is parsed."""
    if docname == PAGE:
        folders = (path.parent for path in Path(app.srcdir).glob("records/*/runs.jsonl"))
        source[0] = source[0].replace(MARK, table(folders))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.connect("source-read", insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
