"""A formula that does not parse fails the build.

MathJax in a page shows a bad formula in red and says nothing to the build. So the finished pages
are read once more, and the same MathJax parses their formulas under Node. Formulas that parsed
before are remembered. Without Node nothing is checked here, and the build says so; the browser test
looks for the red ones all the same.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

FORMULA = re.compile(r'<(span|div) class="math notranslate nohighlight"[^>]*>(.*?)</\1>', re.S)
NUMBER = re.compile(r'^\s*<span class="eqno">.*?</span>', re.S)
SCRIPT = Path(__file__).with_suffix(".js")
Formula = tuple[str, bool]  # TeX, and whether it is displayed
log = logging.getLogger(__name__)


def formulas(page: str) -> list[Formula]:
    """The formulas of an HTML page as MathJax will find them."""
    found = []
    for tag, inside in FORMULA.findall(page):
        text = html.unescape(NUMBER.sub("", inside)).strip()
        found.append((text[2:-2], tag == "div"))  # without \\( and \\), or \\[ and \\]
    return found


def errors(checked: list[Formula]) -> list[str]:
    """For each formula what MathJax objects to, or an empty string."""
    package = Path(str(distribution("sphinx-mathjax-offline").locate_file("")))
    engine = package / "sphinx-mathjax-offline/static/mathjax/node-main.js"
    done = subprocess.run(
        ["node", str(SCRIPT), str(engine)],
        input=json.dumps(checked),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    told: list[str] = json.loads(done.stdout)
    return told


def check(app: Sphinx, exception: Exception | None) -> None:
    """Warn, and with -W fail, for every formula of the site that does not parse."""
    if exception is not None or app.builder.name != "html":
        return
    if shutil.which("node") is None:
        log.info("formulas are not checked: no Node here (Debian and Ubuntu: apt install nodejs)")
        return
    good = Path(app.outdir).parent / ".formulas-checked.json"
    known = {tuple(f) for f in json.loads(good.read_text())} if good.exists() else set()
    where: dict[Formula, str] = {}
    for path in sorted(Path(app.outdir).glob("*.html")):
        for formula in formulas(path.read_text(encoding="utf-8")):
            where.setdefault(formula, path.stem)
    new = [f for f in where if f not in known]
    told = errors(new) if new else []
    for formula, error in zip(new, told, strict=True):
        if error:
            log.warning("%s: a formula does not parse (%s): %s", where[formula], error, formula[0])
    bad = {f for f, error in zip(new, told, strict=True) if error}
    good.write_text(json.dumps(sorted(set(where) - bad)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.connect("build-finished", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
