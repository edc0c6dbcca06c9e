"""What pages load comes from the site itself, and is no larger than it must be.

MathJax: the pinned package sphinx-mathjax-offline carries all of MathJax 3.2.2 (15 MB). The site
needs the one combined script, its fonts and the TeX extensions that it loads on demand (2.2 MB).

Icons: the theme ships two thousand icons as a font, and again as a script of 1.5 MB that replaces
the font's. The site shows about thirty, so it keeps those of the font, and an empty script.

Grids and cards: sphinx-design brings rules for each of its classes (55 kB); a few are used.

Figures: matplotlib writes 32 bits a pixel for the thousand or so colours of a figure. A palette of
256 shows the same picture, to less than one level on average, in about a third of the bytes.
"""

from __future__ import annotations

import io
import re
import shutil
from importlib.metadata import distribution
from pathlib import Path

from fontTools import subset
from PIL import Image
from sphinx.application import Sphinx
from sphinx.config import Config

KEEP = ["tex-chtml.js", "input/tex/extensions", "output/chtml/fonts"]
ICON = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\([0-9a-f]+) ?"\}')
WOFF2 = re.compile(r'url\([^)]*fa-solid-900\.woff2\) format\("woff2"\),')


def provide(app: Sphinx, config: Config) -> None:
    """Fill ``_build/.assets``; Sphinx copies it into ``_static`` after the theme's own files."""
    package = distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline")
    target = Path(app.outdir).parent / ".assets"
    if not target.exists():
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        for name in KEEP:
            source, copy = Path(str(package)) / "static/mathjax" / name, part / "mathjax" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, copy) if source.is_dir() else shutil.copy2(source, copy)
        (part / "scripts").mkdir()
        (part / "scripts/fontawesome.js").write_text("// The icons come from the font.\n")
        part.rename(target)
    config.html_static_path = [*config.html_static_path, str(target)]


def palette(png: bytes) -> bytes:
    """The same opaque picture with a palette of 256 colours, if that is smaller."""
    image = Image.open(io.BytesIO(png))
    clear = image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
    if image.mode not in {"RGB", "RGBA"} or clear:
        return png
    small = io.BytesIO()
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return min(png, small.getvalue(), key=len)


def trim_icons(css: str, used: set[str]) -> tuple[str, set[int]]:
    """The style sheet without the icons that no page uses, and the characters that it still shows.

    ``used`` holds class names such as ``fa-bars``. Characters that the sheet names itself stay.
    """
    shown = {ord(c) for c in css if "\ue000" <= c <= "\uf8ff"}

    def keep(rule: re.Match[str]) -> str:
        if used.isdisjoint(re.findall(r"\.(fa-[\w-]+):before", rule[1])):
            return ""
        shown.add(int(rule[2], 16))
        return rule[0]

    return WOFF2.sub("", ICON.sub(keep, css)), shown


def keep_icons(site: Path) -> None:
    """Cut the theme's icon font and its style sheet to what the pages of ``site`` show."""
    sheet = site / "_static/styles/pydata-sphinx-theme.css"
    fonts = site / "_static/vendor/fontawesome/webfonts"
    if not WOFF2.search(sheet.read_text(encoding="utf-8")):
        return  # done before
    sources = [*site.glob("*.html"), *(site / "_static").rglob("*.js")]
    text = " ".join(p.read_text(encoding="utf-8") for p in sources if "mathjax" not in p.parts)
    css, shown = trim_icons(
        sheet.read_text(encoding="utf-8"), set(re.findall(r"\bfa-[\w-]+", text))
    )
    options = subset.Options(ignore_missing_unicodes=True)
    font = subset.load_font(str(fonts / "fa-solid-900.ttf"), options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=shown)
    cutter.subset(font)
    subset.save_font(font, str(fonts / "fa-solid-900.ttf"), options)
    (fonts / "fa-solid-900.woff2").unlink()
    sheet.write_text(css, encoding="utf-8")


def trim_design(css: str, used: set[str]) -> str:
    """The style sheet of sphinx-design without rules for classes ``sd-…`` that no page uses."""

    def keep(rule: re.Match[str]) -> str:
        selectors = [
            part for part in rule[1].split(",") if set(re.findall(r"\.(sd-[\w-]+)", part)) <= used
        ]
        return f"{','.join(selectors)}{{{rule[2]}}}" if selectors else ""

    return re.sub(r"((?:[^{}@,]*\.sd-[^{}@]*))\{([^{}]*)\}", keep, css)


def keep_design(site: Path) -> None:
    """Cut sphinx-design's style sheet to the classes that the pages of ``site`` use."""
    text = " ".join(p.read_text(encoding="utf-8") for p in site.glob("*.html"))
    used = set(re.findall(r"\bsd-[\w-]+", text))
    for sheet in (site / "_static").glob("sphinx-design*.css"):
        sheet.write_text(trim_design(sheet.read_text(encoding="utf-8"), used), encoding="utf-8")


def lighten(app: Sphinx, exception: Exception | None) -> None:
    """Drop from the finished site what no reader sees."""
    if exception is not None or app.builder.name != "html":
        return
    site = Path(app.outdir)
    for path in (site / "_images").glob("*.png"):
        png = path.read_bytes()
        if len(small := palette(png)) < len(png):
            path.write_bytes(small)
    for path in (site / "_static").rglob("*.map"):
        path.unlink()
    keep_icons(site)
    keep_design(site)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.connect("config-inited", provide)
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
