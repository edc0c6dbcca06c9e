"""The pages *What holds* and *Reproduce and cite*: a mark in each becomes a table.

``{ledger}`` becomes the claims of ``book/claims.yml``, ``{recorded-runs}`` what the runs cost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas

from ledger import claims
from ledger.claims import Claim
from samlib import read_records

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def markdown(ledger: Iterable[Claim]) -> str:
    """The ledger as MyST Markdown: a table of what others said, then a section a status."""
    ledger = list(ledger)
    parts = [f"{claims.summary(ledger)}. (`make test` runs them.)", ""]
    others = [c for source in claims.SOURCES[:-1] for c in ledger if c.source == source]
    if others:
        parts += ["## What the paper, its reviewers and its open questions say", ""]
        parts += ["| who | claim | status |", "|---|---|---|"]
        parts += [f"| {c.source} | [{c.id}](#{c.anchor}) | {c.status} |" for c in others] + [""]
    for status in claims.STATUSES:
        rows = [c for c in ledger if c.status == status]
        if rows:
            title = status[0].upper() + status[1:]
            parts += [f"## {title} ({len(rows)})", "", *map(_entry, rows)]
    return "\n".join(parts)


def _entry(claim: Claim) -> str:
    """One claim as an entry of a definition list: what is said, then what shows it."""
    head = f"**[{claim.id}](#{claim.anchor})** · {claim.source} · {claim.kind}"
    text = f"({claim.anchor})=\n\n{head}\n: {escape(claim.statement)}\n"
    if claim.correction:
        text += f"\n  *Correction:* {escape(claim.correction)}\n"
    if claim.evidence:
        shown = dict.fromkeys(map(claims.cite, claim.evidence))
        text += f"\n  *Evidence:* {'; '.join(shown)}\n"
    return text


def escape(text: str) -> str:
    """Plain text as Markdown that shows exactly these characters; mathematics in $…$ stays.

    No tag can begin in mathematics either, since < and > become the commands of TeX.
    """
    parts = re.split(r"(\$[^$]+\$)", " ".join(text.split()))
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = part.replace("<", r"\lt ").replace(">", r"\gt ")
        else:
            parts[i] = re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", part)
    return "".join(parts)


def to_theorems(text: str, book: Path) -> str:
    """Let references to theorems use their own role: the general one does not find them."""
    pages = [*book.glob("*.ipynb"), *book.glob("*.md")]
    written = (page.read_text(encoding="utf-8") for page in pages)
    labels = {label for page in written for label in re.findall(r":label: ([\w-]+)", page)}

    def role(ref: re.Match[str]) -> str:
        return f"{{prf:ref}}`{ref[1]}`" if ref[1] in labels else ref[0]

    return re.sub(r"\{ref\}`([\w-]+)`", role, text)


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, to two digits or so."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.{int(seconds < 10 * size)}f} {unit}"
    return f"{seconds:.0f} s"


def costs(folders: Iterable[Path]) -> str:
    """Markdown: an experiment a row, then all of them, then the machines."""
    lines = ["| experiment | runs | wall time | MB |", "|---|--:|--:|--:|"]
    tables, total = [], 0.0
    for folder in sorted(folders):
        tables.append(read_records(folder))
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
        lines.append(_cost(f"`{folder.name}`", tables[-1], size))
        total += size
    every = pandas.concat(tables)
    machines = "; ".join(
        f"{count} runs on {name}, {threads} thread{'s' if threads > 1 else ''}"
        for (name, threads), count in every.value_counts(["hardware", "threads"]).items()
    )
    return "\n".join([*lines, _cost("**all**", every, total), "", f"Hardware: {machines}."])


def _cost(name: str, runs: pandas.DataFrame, megabytes: float) -> str:
    """A row of the table; runs trained as one stack share one time, which is counted once."""
    stacks = runs.drop_duplicates(["started", "wall_time_s", "stack"])
    wall_time = duration(stacks.wall_time_s.sum())
    return f"| {name} | {len(runs)} | {wall_time} | {megabytes:.2f} |"


def insert(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the mark of a page before it is parsed."""
    book = Path(app.srcdir)
    if docname == "what-holds":
        page = to_theorems(markdown(claims.load()), book)
        source[0] = source[0].replace("{ledger}", page)
    if docname == "reproduce":
        folders = (path.parent for path in book.glob("records/*/runs.jsonl"))
        source[0] = source[0].replace("{recorded-runs}", costs(folders))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.connect("source-read", insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
