"""Delete what a change has made stale before the book is built.

The execution cache compares cells and Sphinx compares pages. Neither sees that an imported module
or a record has changed, and both would go on showing the old output. Two digests close the gap: one
over all that a notebook can read, one over all that shapes a page. The first is also a file that
``make`` can depend on.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXECUTION = [
    "requirements.txt",
    "samlib",
    "book",
    "benchmarks",
]  # of the book all but pages and the site's parts
PAGES = [
    *["_config.yml", "_toc.yml", "CHANGELOG.md", "book/references.bib"],
    *["book/_ext", "book/_static", "book/_templates", "book/ledger"],
]


def is_page(path: Path) -> bool:
    """Whether a file of the book is a page, a part of the site, or hidden."""
    return path.suffix in {".ipynb", ".md", ".bib"} or path.parts[0].startswith(("_", "."))


def digest(names: list[str], root: Path = ROOT) -> str:
    """SHA-256 over the Python version and the paths and bytes of all files under ``names``."""
    total = hashlib.sha256(sys.version.encode())
    for name in names:
        top = root / name
        inside = (p for p in top.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        files = sorted(inside) if top.is_dir() else [top]
        for path in files:
            if path.exists() and not (name == "book" and is_page(path.relative_to(top))):
                total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def refresh(root: Path = ROOT) -> list[str]:
    """Delete the stale folders of ``_build``, return their names, write the keys that changed."""
    deleted: list[str] = []
    for key, names, folders in [
        ("execution.key", EXECUTION, [".jupyter_cache", ".doctrees", "jupyter_execute"]),
        ("pages.key", PAGES, [".doctrees", "html"]),
    ]:
        path, value = root / "build" / key, digest(names, root)
        if path.exists() and path.read_text() == value:
            continue
        for folder in folders:
            if (root / "_build" / folder).exists():
                shutil.rmtree(root / "_build" / folder)
                deleted.append(folder)
        path.parent.mkdir(exist_ok=True)
        path.write_text(value)
    return deleted


if __name__ == "__main__":
    if gone := refresh():
        print("Changed since the last build; made anew:", ", ".join(dict.fromkeys(gone)))
