"""The directive ``public-api``: every public module of samlib, from its own docstrings.

The list of modules is samlib's own, so the page cannot fall behind the package. Docstrings are
written to be read in an editor, so they are turned into reStructuredText here, whatever they hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROLES = "func|class|meth|mod|attr|data|exc|math|cite"
KEPT = re.compile(rf"(``[^`]+``|:(?:py:)?(?:{ROLES}):`[^`]+`)")
MARKUP = re.compile(r"[\\*|`]|_(?!\w)")
RULE = re.compile(r"\s*([-=~+|:^]\s?)\1{2,}[-=~+|:^ ]*")
ITEM = re.compile(r"(?:[-*] )?(``.+?``|\**[\w., *]+?) ?: (.*)")


# In the order of the floors: what a module stands on comes before it.
MODULES = [
    *["errors", "landscapes.symbolic", "dynamics.rules", "dynamics.trajectories"],
    *["diagnostics.verdicts", "points.search", "points.continuation", "points.linearisation"],
    *["points.stability", "optim.sam", "optim.monitor", "certify.certificate"],
    *["certify.exact_network", "training.data", "training.models", "training.spec"],
    *["training.loop", "training.torch_loss", "experiments.measures", "experiments.lanczos"],
    "experiments.sweeps",
    *["experiments.executors", "experiments.records", "experiments.reproduction", "lab"],
]


def escape(text: str) -> str:
    """Escape what would be markup, except literals and the roles that Sphinx knows."""
    parts = KEPT.split(text)
    return "".join(p if i % 2 else MARKUP.sub(r"\\\g<0>", p) for i, p in enumerate(parts))


def blocks(lines: Iterable[str]) -> list[list[str]]:
    """Runs of lines between blank ones; a title and the rule under it are a block of their own."""
    found: list[list[str]] = [[]]
    for line in lines:
        if not line.strip():
            found.append([])
        else:
            found[-1].append(line.rstrip())
            if len(found[-1]) == 2 and re.fullmatch(r"-{3,}", line.strip()):
                found.append([])
    return [block for block in found if block]


def items(block: list[str]) -> list[str]:
    """The entries of a list: each begins at the left edge and goes on with indented lines."""
    entries: list[str] = []
    for line in block:
        if entries and line.startswith(" "):
            colon = ":" if re.fullmatch(r"[\w., ]+", entries[-1]) else ""  # "BadInput" and then why
            entries[-1] += f"{colon} {line.strip()}"
        else:
            entries.append(line.strip())
    return entries


def bullet(entry: str) -> str:
    """One entry as a list item, its name in code if it begins with one."""
    named = ITEM.fullmatch(entry)
    if named:
        return f"* ``{named[1].strip('`')}``: {escape(named[2])}"
    return "* " + escape(re.sub(r"^[-*] ", "", entry))


def to_rst(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText: paragraphs, titles, lists and indented code."""
    out: list[str] = []
    titled = False
    for block in blocks(lines):
        ragged = any(line.startswith(" ") for line in block[1:])
        if len(block) == 2 and re.fullmatch(r"-{3,}", block[1].strip()):
            out += [f".. rubric:: {escape(block[0].strip())}"]
            titled = True
        elif block[0].startswith("    ") or any(RULE.fullmatch(line) for line in block):
            out += ["::", "", *("    " + line for line in block)]
        elif ragged or titled or all(re.match(r"[-*] ", line) for line in block):
            out += [bullet(entry) for entry in items(block)]
        else:
            out += [escape(line) for line in block]
        out.append("")
    return out


def convert(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Convert a docstring in place when autodoc has read it."""
    lines[:] = to_rst(lines)


def skip(app: Sphinx, what: str, name: str, obj: object, skipped: bool, options: object) -> bool:
    """Leave out the fields of named tuples that say no more than their number."""
    return skipped or (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")


class PublicApi(SphinxDirective):
    """One section a module that exists: its docstring, then its public classes and functions."""

    def run(self) -> list[nodes.Node]:
        """Build the sections."""
        sections: list[nodes.Node] = []
        for module in MODULES:
            section = nodes.section(ids=[f"samlib-{module}"], names=[f"samlib.{module}"])
            section += nodes.title("", "", nodes.literal("", f"samlib.{module}"))
            text = [f".. automodule:: samlib.{module}", "   :members:", "   :no-value:", ""]
            source = self.get_source_info()[0]
            self.state.nested_parse(StringList(text, source=source), 0, section)
            sections.append(section)
        return sections


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.add_directive("public-api", PublicApi)
    app.connect("autodoc-process-docstring", convert)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
