"""The lab's JavaScript: the files of ``static`` joined into one ES module that imports nothing.

anywidget, the static site and node take a single file; a reader takes one file for each idea. The
files share one scope. ``math.js`` is a function of its own, ``mathematics``, since workers are made
from its source text.
"""

from __future__ import annotations

import re
from pathlib import Path

STATIC = Path(__file__).parent / "static"
#: In this order: each file uses those before it.
FILES = ("math", "state", "words", "basins", "scene", "pen", "draw", "controls", "widget")

#: A comment that has its lines to itself.
_COMMENT = re.compile(r"^\t*(/\*([^*]|\*(?!/))*\*/|//.*)\n", re.M)
_IMPORT = re.compile(r"^import [^;]*;\n", re.M)
_EXPORT = re.compile(r"^export (?!default)(?=(?:const|class|function) (\w+))", re.M)


def module() -> str:
    """The lab as one ES module with one default export; comments stay in the files.

    Returns
    -------
    str
        The text that ``SamLab._esm`` holds and that the site makes a classic script of.
    """
    mathematics, *others = [
        _IMPORT.sub("", _COMMENT.sub("", (STATIC / f"{name}.js").read_text(encoding="utf-8")))
        for name in FILES
    ]
    names = ", ".join(_EXPORT.findall(mathematics))
    body = _EXPORT.sub("", mathematics)
    head = f"function mathematics() {{\n{body}\nreturn {{ {names} }};\n}}\n"
    return head + "const math = mathematics();\n" + _EXPORT.sub("", "\n".join(others))
