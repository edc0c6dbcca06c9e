"""The book's own Sphinx extensions, without a build."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import shutil
import sys
from pathlib import Path
from queue import Empty
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from browser import missing
from docutils.core import publish_doctree
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

EXT = Path(__file__).resolve().parents[2] / "book" / "_ext"
sys.path.insert(0, str(EXT))

import execute  # noqa: E402
import formulas  # noqa: E402
import local_assets  # noqa: E402
import page_finish  # noqa: E402
import public_api  # noqa: E402
import stale  # noqa: E402
import static_widgets  # noqa: E402

DOCSTRING = """What |x| and x_* are, 2 * 3 * 4, `odd, and a trailing_ word \\nabla.

    code(x_)  # stays *as it is*

name : text that goes on
    in the next line, with |x|.
other: ``literal_`` text

Raises
------
BadInput
    If x_ is not a number.

a | b
--|--
1 | 2
"""


def test_any_docstring_is_valid_markup() -> None:
    lines = public_api.to_rst(DOCSTRING.splitlines())
    tree = publish_doctree("\n".join(lines), settings_overrides={"report_level": 1})
    text = tree.astext()
    assert "system_message" not in tree.pformat()
    assert "What |x| and x_* are, 2 * 3 * 4, `odd, and a trailing_ word \\nabla." in text
    assert "code(x_)  # stays *as it is*" in text
    assert "name: text that goes on in the next line, with |x|." in text
    assert "BadInput: If x_ is not a number." in text


def test_roles_and_literals_survive() -> None:
    assert public_api.escape("see :func:`ramp` and ``x_*``") == "see :func:`ramp` and ``x_*``"


def test_a_module_becomes_a_classic_script() -> None:
    script = static_widgets.classic("const a = 1;\nexport default { render() {} };\n")
    assert "globalThis.samlab = { render() {} };" in script
    assert script.startswith("(() => {")


def math_page(inline: str, display: str) -> str:
    """A page with two formulas as Sphinx writes them."""
    kind = 'class="math notranslate nohighlight"'
    number = '<span class="eqno">(1)</span>'
    return (
        f"<p><span {kind}>\\({inline}\\)</span></p>"
        f'<div {kind} id="equation-a">\n{number}\\[{display}\\]</div>'
    )


def test_formulas_of_a_page_are_found() -> None:
    page = math_page("a &lt; b", "\\begin{aligned}x &amp;= y\\end{aligned}")
    assert formulas.formulas(page) == [
        ("a < b", False),
        ("\\begin{aligned}x &= y\\end{aligned}", True),
    ]


def test_formulas_that_do_not_parse_fail_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("node") is None:
        missing("no Node here")
    warned: list[str] = []
    monkeypatch.setattr(formulas.log, "warning", lambda text, *a: warned.append(text % a))
    site = tmp_path / "html"
    site.mkdir()
    app: Any = SimpleNamespace(outdir=site, builder=SimpleNamespace(name="html"))
    (site / "good.html").write_text(math_page("\\mathbb R^d", "\\frac12 \\operatorname{sign}(x)"))
    formulas.check(app, None)
    assert warned == []
    (site / "bad.html").write_text(math_page("\\nablla f", "\\frac{1}{2"))
    for _ in range(2):  # a formula that failed is not remembered as good
        formulas.check(app, None)
        assert len(warned) == 2
        assert "bad: a formula does not parse (Undefined control sequence" in warned[0]
        assert "Missing close brace" in warned[1]
        warned.clear()


@pytest.mark.parametrize(
    "module",
    [
        "import x from 'y';\nexport default {};",
        "const a = 1;",
        "export const a = 1;\nexport default a;",
    ],
)
def test_other_modules_are_refused(module: str) -> None:
    with pytest.raises(ValueError, match="one `export default`"):
        static_widgets.classic(module)


def png(pixels: np.ndarray) -> bytes:
    """The array as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_figure_keeps_its_looks_in_a_palette() -> None:
    x, y = np.meshgrid(np.linspace(-2, 2, 60), np.linspace(-2, 2, 60))
    figure = Figure(figsize=(5, 3))
    figure.subplots().contourf(x, y, (x**2 - 1) ** 2 + y**2, levels=24)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = np.array(canvas.buffer_rgba())
    small = local_assets.palette(png(picture))
    shown = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).astype(int)
    assert len(small) < len(png(picture))
    assert np.abs(shown - picture[..., :3]).mean() < 1
    assert local_assets.palette(small) == small
    picture[0, 0, 3] = 0
    assert local_assets.palette(png(picture)) == png(picture)  # a transparent one is left alone


def test_a_widget_becomes_a_still() -> None:
    data = png(np.zeros((2, 2), dtype=np.uint8))
    slider = {"description": "ρ", "value": 1.2, "readout_format": ".2f"}
    picture = {
        "output_type": "display_data",
        "data": {"image/png": base64.encodebytes(data).decode()},
    }
    printed = {"output_type": "stream", "name": "stdout", "text": "a < b"}
    state = {
        "root": {"state": {"children": ["IPY_MODEL_s", "IPY_MODEL_o"]}},
        "s": {"state": slider},
        "o": {"state": {"outputs": [picture, printed]}},
    }
    html = static_widgets.still(state, "root", "")
    shown = re.search(r'alt="Figure for ρ = 1.20" src="data:image/png;base64,([^"]+)"', html)
    assert shown is not None
    assert base64.b64decode(shown[1]) == data
    assert "<pre>a &lt; b</pre>" in html
    assert "ρ = 1.20. The controls move in JupyterLab (<code>make lab</code>)." in html
    assert 'alt="Two wells"' in static_widgets.still(state, "root", "Two wells")


def test_a_change_drops_what_it_outdates(tmp_path: Path) -> None:
    (tmp_path / "samlib").mkdir()
    module, toc = tmp_path / "samlib" / "sam.py", tmp_path / "_toc.yml"
    module.write_text("rho = 1")
    toc.write_text("root: index")

    def built() -> None:
        for folder in [".jupyter_cache", ".doctrees", "html"]:
            (tmp_path / "_build" / folder).mkdir(parents=True, exist_ok=True)

    built()
    stale.refresh(tmp_path)
    key = (tmp_path / "build" / "execution.key").stat().st_mtime_ns
    built()
    assert stale.refresh(tmp_path) == []
    assert (tmp_path / "build" / "execution.key").stat().st_mtime_ns == key
    toc.write_text("root: start")
    assert stale.refresh(tmp_path) == [".doctrees", "html"]
    built()
    module.write_text("rho = 2")
    assert stale.refresh(tmp_path) == [".jupyter_cache", ".doctrees"]
    built()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "speed.json").write_text("{}")  # which a chapter reads
    assert stale.refresh(tmp_path) == [".jupyter_cache", ".doctrees"]


def test_rules_for_classes_that_no_page_uses_are_cut() -> None:
    start, end = ":root{--sd-a:1px}.sd-card{a:b}", ".z{i:j}"
    css = f"{start}.sd-row,.sd-card>.x{{c:d}}@media (x){{.sd-row{{e:f}}.sd-card .y{{g:h}}}}{end}"
    kept = f"{start}.sd-card>.x{{c:d}}@media (x){{.sd-card .y{{g:h}}}}{end}"
    assert local_assets.trim_design(css, {"sd-card"}) == kept
    assert local_assets.trim_design(css, {"sd-card", "sd-row"}) == css


def test_formulas_become_plain_words() -> None:
    tex = r"x^+ = x + \rho\,\nabla f(x), \eta_{\max} and H_*"
    assert page_finish.plain(tex) == "x⁺ = x + ρ∇f(x), η_max and H*"


def test_icons_that_no_page_shows_are_dropped() -> None:
    css = (
        'a{--icon:"\uf0f3"}.fa-bars:before,.fa-navicon:before{content:"\\f0c9"}'
        '.fa-ghost:before{content:"\\f6e2"}.fa-lg{font-size:1.25em}'
        '@font-face{src:url(x/fa-solid-900.woff2) format("woff2"),url(x/fa-solid-900.ttf)}'
    )
    trimmed, shown = local_assets.trim_icons(css, {"fa-bars", "fa-lg"})
    assert "fa-bars" in trimmed
    assert "fa-lg" in trimmed
    assert "ghost" not in trimmed
    assert "@font-face{src:url(x/fa-solid-900.ttf)}" in trimmed
    assert shown == {0xF0F3, 0xF0C9}


class DeafSocket:
    """A socket on which a message lies, but whose wait is never woken: only a new look finds it."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    async def poll(self, timeout: int) -> int:
        self.looks -= 1
        await asyncio.sleep(timeout / 1000)
        return int(self.looks <= 0)


class DeafChannel:
    """What get_msg needs of a channel."""

    def __init__(self, looks: int) -> None:
        self.socket = DeafSocket(looks)

    async def _recv(self) -> dict[str, Any]:
        return {"content": "reply"}


def test_a_lost_wake_up_costs_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "LOOK", 0.01)
    for timeout in [None, 60.0]:
        reply = asyncio.run(execute.get_msg(DeafChannel(3), timeout))
        assert reply == {"content": "reply"}
    with pytest.raises(Empty):
        asyncio.run(execute.get_msg(DeafChannel(10**9), 0.05))
