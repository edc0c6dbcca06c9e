"""MathJax from the site itself: no page asks another host.

The pinned package sphinx-mathjax-offline carries all of MathJax 3.2.2 (15 MB). The site needs the
one combined script, its fonts and the TeX extensions that it loads on demand (2.2 MB).
"""

from __future__ import annotations

import shutil
from importlib.metadata import distribution
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

KEEP = ["tex-chtml.js", "input/tex/extensions", "output/chtml/fonts"]


def copy_mathjax(app: Sphinx, config: Config) -> None:
    """Copy the files to ``_build/.mathjax`` and let Sphinx take them into ``_static``."""
    package = Path(
        str(distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline"))
    )
    target = Path(app.outdir).parent / ".mathjax"
    if not target.exists():
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        for name in KEEP:
            source, copy = package / "static/mathjax" / name, part / "mathjax" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, copy) if source.is_dir() else shutil.copy2(source, copy)
        part.rename(target)
    config.html_static_path = [*config.html_static_path, str(target)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.connect("config-inited", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
