"""The last touches to every page: words for sharing and for screen readers."""

from __future__ import annotations

import os
import re
import unicodedata
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

HOME = "Where sharpness-aware minimization stops, and why"  # the home page is named like the book
LONGEST = 200  # characters of a description that search engines and chat programs show


def plain(tex: str) -> str:
    """TeX in a sentence as people write it in mail: Greek as letters, braces and commands gone."""

    def letter(match: re.Match[str]) -> str:
        try:
            return unicodedata.lookup(f"GREEK SMALL LETTER {match[1].upper()}")
        except KeyError:
            return {"nabla": "∇", "times": "×", "to": "→", "neq": "≠"}.get(match[1], match[1])

    text = re.sub(r"\\([A-Za-z]+) ?", letter, tex).replace("^+", "⁺").replace("_*", "*")
    return re.sub(r"\\.|[{}]", "", text)


def describe(doctree: nodes.document | None) -> str:
    """The first paragraph of prose of a page as plain text, cut at a word."""
    if doctree is None:
        return ""
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section) and not paragraph.traverse(nodes.image):
            text = " ".join(plain(paragraph.astext()).split())
            if len(text) > LONGEST:
                text = text[:LONGEST].rsplit(" ", 1)[0].rstrip(",;:") + " …"
            return text
    return ""


def name_pictures(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Give a picture without words those of its caption."""
    for figure in doctree.findall(nodes.figure):
        caption = next(iter(figure.findall(nodes.caption)), None)
        for image in figure.findall(nodes.image):
            if caption is not None and not image.get("alt"):
                image["alt"] = " ".join(caption.astext().split())


def finish(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Add title and description for sharing, and mend the roles of the bibliography."""
    if page == app.config.root_doc:
        context["title"] = HOME
    title = re.sub(r"<[^>]+>", "", context.get("title") or "") or app.config.html_title
    site = app.config.html_title
    written = (context.get("meta") or {}).get("description")
    description = written or describe(doctree)
    tags = {"og:type": "article", "og:site_name": site, "og:title": title}
    if description:
        tags["og:description"] = description
    if base := app.config.html_baseurl:  # only a published site knows its own address
        tags["og:url"] = f"{base}{page}.html"
        tags["og:image"] = f"{base}_static/card.png"
    lines = [f'<meta property="{k}" content="{escape(v)}"/>' for k, v in tags.items()]
    if description:
        lines.append(f'<meta name="description" content="{escape(description)}"/>')
    context["metatags"] = context.get("metatags", "") + "\n" + "\n".join(lines)
    if "body" in context:
        # A list may only hold list items (axe: aria-required-children).
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def base_url(app: Sphinx, config: Config) -> None:
    """Take the address of the published site from the environment; locally there is none."""
    if base := os.environ.get("BOOK_BASEURL", ""):
        config.html_baseurl = base.rstrip("/") + "/"


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.connect("config-inited", base_url)
    app.connect("doctree-resolved", name_pictures)
    app.connect("html-page-context", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
