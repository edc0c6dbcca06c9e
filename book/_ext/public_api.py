"""The directive ``{public-api}``: every public module of samlib, from its own docstrings.

The list of modules is samlib's own, so the page cannot fall behind the package.
"""

from __future__ import annotations

import importlib.util
import re

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import samlib

# Docstrings say |x| and x_* in prose, which reStructuredText reads as markup; literals and roles
# stay as they are.
_PROTECTED = re.compile(r"(``.+?``|:[\w:]+:`[^`]+`|`[^`]+`_?)")
_MARKUP = re.compile(r"[|*]|_(?!\w)")


def escape_prose(line: str) -> str:
    """Escape bars, stars and trailing underscores outside literals."""
    parts = _PROTECTED.split(line)
    return "".join(p if i % 2 else _MARKUP.sub(r"\\\g<0>", p) for i, p in enumerate(parts))


def escape_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Escape every line of a docstring in place, except indented code and doctests."""
    code_indent: int | None = None
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if code_indent is not None and line.strip() and indent <= code_indent:
            code_indent = None
        if code_indent is None and not line.lstrip().startswith((">>>", "..", ":")):
            lines[number] = escape_prose(line)
        if line.rstrip().endswith("::"):
            code_indent = indent


class PublicApi(SphinxDirective):
    """One section a module that exists: its docstring, then its public classes and functions."""

    def run(self) -> list[nodes.Node]:
        """Build the sections."""
        sections: list[nodes.Node] = []
        for module in sorted(samlib._MODULES):
            if importlib.util.find_spec(f"samlib.{module}") is None:
                continue
            section = nodes.section(ids=[f"samlib-{module}"], names=[f"samlib.{module}"])
            section += nodes.title("", "", nodes.literal("", f"samlib.{module}"))
            text = [f".. automodule:: samlib.{module}", "   :members:", ""]
            self.state.nested_parse(self.as_rst(text), 0, section)
            sections.append(section)
        return sections

    def as_rst(self, lines: list[str]) -> StringList:
        """The lines with a place that warnings can name."""
        return StringList(lines, source=self.get_source_info()[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.add_directive("public-api", PublicApi)
    app.connect(
        "autodoc-process-docstring", escape_docstring, priority=400
    )  # napoleon comes at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
