"""The page *What holds*: its line ``{ledger}`` becomes the tables of ``book/claims.yml``."""

from __future__ import annotations

from sphinx.application import Sphinx

from samlib import claims

PAGE, MARK = "what-holds", "{ledger}"


def insert(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the mark before the page is parsed."""
    if docname == PAGE:
        source[0] = source[0].replace(MARK, claims.markdown(claims.load()))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.connect("source-read", insert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
