"""The page *What holds*: its line ``{ledger}`` becomes the tables of ``book/claims.yml``."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

from samlib.experiments import ledger

PAGE, MARK = "what-holds", "{ledger}"


def to_theorems(text: str, book: Path) -> str:
    """Let references to theorems use their own role: the general one does not find them."""
    pages = [*book.glob("*.ipynb"), *book.glob("*.md")]
    labels = {
        label
        for page in pages
        for label in re.findall(r":label: ([\w-]+)", page.read_text(encoding="utf-8"))
    }
    return re.sub(
        r"\{ref\}`([\w-]+)`", lambda m: f"{{prf:ref}}`{m[1]}`" if m[1] in labels else m[0], text
    )


def insert(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the mark before the page is parsed."""
    if docname == PAGE:
        source[0] = source[0].replace(
            MARK, to_theorems(ledger.markdown(ledger.load()), Path(app.srcdir))
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.connect("source-read", insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
