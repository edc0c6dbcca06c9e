"""What pages load comes from the site itself, and is no larger than it must be.

MathJax: the pinned package sphinx-mathjax-offline carries all of MathJax 3.2.2 (15 MB). The site
needs the one combined script, its fonts and the TeX extensions that it loads on demand (2.2 MB).

Icons: the theme ships the same icons as a font and as a script of 1.5 MB that replaces the font's.
The font is enough, so an empty script takes the other's place.

Figures: matplotlib writes 32 bits a pixel for the thousand or so colours of a figure. A palette of
256 shows the same picture, to less than one level on average, in about a third of the bytes.
"""

from __future__ import annotations

import io
import shutil
from importlib.metadata import distribution
from pathlib import Path

from PIL import Image
from sphinx.application import Sphinx
from sphinx.config import Config

KEEP = ["tex-chtml.js", "input/tex/extensions", "output/chtml/fonts"]


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


def lighten(app: Sphinx, exception: Exception | None) -> None:
    """Give the figures palettes, and drop the source maps that only the theme's authors need."""
    if exception is None:
        for path in (Path(app.outdir) / "_images").glob("*.png"):
            png = path.read_bytes()
            if len(small := palette(png)) < len(png):
                path.write_bytes(small)
        for path in (Path(app.outdir) / "_static").rglob("*.js.map"):
            path.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    app.connect("config-inited", provide)
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
