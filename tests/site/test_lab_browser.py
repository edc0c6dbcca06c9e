"""The lab in a real browser, without a kernel: mouse, keyboard, touch, links, words, speed."""

from __future__ import annotations

import importlib
import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, served

from samlib import lab
from samlib.lab import script

ROOT = Path(__file__).resolve().parents[2]
HEAD = """<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Labs</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="samlab.css">
<script defer src="samlab.js"></script><script defer src="host.js"></script></head>
<body style="max-width:760px;margin:0 auto;padding:0 12px">
<main><h1>Labs</h1>{body}</main></body>"""


def classic(module: str) -> str:
    """The classic script that the site makes of the module, by the site's own code."""
    sys.path.insert(0, str(ROOT / "book/_ext"))
    try:
        site = importlib.import_module("static_widgets")
    finally:
        sys.path.pop(0)
    return str(site.classic(module))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages with labs: `two` of them on one page, `basins`, `line`, and `dark`."""
    out = tmp_path_factory.mktemp("lab")
    (out / "samlab.js").write_text(classic(script.module()))
    for name in ["host.js", "samlab.css"]:
        (out / name).write_text((script.STATIC / name).read_text())
    plain = lab.SamLab("double-well-2d", 1.2, 0.1, [0.7, 1.0])
    basins = lab.SamLab("himmelblau", 2.5, 0.003, [1.4, 3.0], show=["gd", "basins"])
    line = lab.SamLab("double-well", 1.2, 0.1, [0.6], show=["gd", "basins", "fsam"])
    pages = {"two": [plain, lab.SamLab("ring")], "basins": [basins], "line": [line]}
    for name, labs in pages.items():
        body = "\n".join(w._repr_mimebundle_()[0]["text/html"] for w in labs)
        (out / f"{name}.html").write_text(HEAD.format(theme="light", body=body))
    body = basins._repr_mimebundle_()[0]["text/html"]
    (out / "dark.html").write_text(HEAD.format(theme="dark", body=body))
    return out


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[str]:
    with served(folder) as address:
        yield address


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


class Lab:
    """One page with its labs, and what a reader can do to the n-th of them."""

    def __init__(self, page: Any, address: str, n: int = 0) -> None:
        self.page, self.faults = page, []
        page.on("pageerror", lambda e: self.faults.append(f"page error: {e}"))
        page.on("console", lambda m: m.type == "error" and self.faults.append(m.text))
        page.goto(address)
        self.root = page.locator(".samlab").nth(n)
        self.root.scroll_into_view_if_needed()
        page.wait_for_function(
            "n => document.querySelectorAll('.samlab')[n].querySelector('canvas[data-redraw-ms]')",
            arg=n,
        )

    def settle(self) -> None:
        """Wait until what has been asked for is drawn."""
        self.page.evaluate(
            "new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r())))"
        )

    @property
    def words(self) -> str:
        self.settle()
        return str(self.root.locator(".samlab-says").inner_text())

    @property
    def picture(self) -> str:
        self.settle()
        return str(self.root.locator("canvas").evaluate("c => c.toDataURL()"))

    @property
    def start(self) -> list[float]:
        self.settle()
        label = self.root.locator(".samlab-handle").get_attribute("aria-label").replace("−", "-")
        found = re.match(r"Start \(?([^):]+)", label)
        assert found
        return [float(v) for v in found[1].split(",")]

    @property
    def at(self) -> int:
        """The step that is shown."""
        self.settle()
        return int(self.root.locator("output").inner_text())

    def control(self, name: str, kind: str = "range") -> Any:
        return self.root.locator(f"input[type={kind}][name={name}]")

    def value(self, name: str) -> str:
        """What the number field shows."""
        self.settle()
        return str(self.control(name, "number").input_value())

    def number(self, name: str, value: str) -> None:
        self.control(name, "number").fill(value)
        self.control(name, "number").press("Enter")


@pytest.fixture
def page(chrome: Any) -> Iterator[Any]:
    page = chrome.new_page(viewport={"width": 800, "height": 1000})
    yield page
    page.close()


def test_mouse(page: Any, site: str) -> None:
    """Drag the handle; press elsewhere in the plane; both move the start and the picture."""
    view = Lab(page, f"{site}/two.html")
    assert view.start == [0.7, 1.0]
    assert "SAM hallucinates. It stands still at (0.2, 0)" in view.words
    assert "Gradient descent from the same start reaches the minimizer (1, 0)." in view.words
    before = view.picture
    box = view.root.locator(".samlab-handle").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y + 40, steps=5)
    page.mouse.up()
    dragged = view.start
    assert dragged[0] < 0.7
    assert dragged[1] < 1.0
    assert view.picture != before
    canvas = view.root.locator("canvas").bounding_box()
    page.mouse.click(canvas["x"] + 100, canvas["y"] + 60)
    assert view.start[0] < -1.2
    assert "reaches the minimizer (−1, 0)" in view.words
    view.root.locator("button[name=Reset]").click()
    assert view.start == [0.7, 1.0]
    assert view.faults == []


def test_keyboard(page: Any, site: str) -> None:
    """Everything can be done without a pointer."""
    view = Lab(page, f"{site}/two.html")
    handle = view.root.locator(".samlab-handle")
    handle.focus()
    handle.press("ArrowLeft")
    x, y = view.start
    assert (x < 0.7, y) == (True, 1.0)
    handle.press("Shift+ArrowDown")
    assert view.start[1] == pytest.approx(1.0 - 10 * (0.7 - x), abs=1e-3)
    before = view.picture
    rho = view.control("rho")
    rho.focus()
    rho.press("ArrowRight")
    assert float(view.value("rho")) > 1.2
    assert view.picture != before
    assert rho.get_attribute("aria-valuetext") == view.value("rho")
    eta = view.control("eta")
    eta.focus()
    eta.press("Home")
    assert "η = 0: every step has length zero" in view.words
    eta.press("End")
    assert view.value("eta") == "1"
    step = view.root.locator("button[name=Step]")
    step.focus()
    step.press("Enter")
    assert view.at == 0
    step.press("Space")
    assert view.at == 1
    at = view.control("at")
    at.focus()
    at.press("End")
    assert view.at == 300
    # JupyterLab must leave these keys to the lab
    lacking = view.root.locator("button, input, select").evaluate_all(
        "all => all.filter(e => e.dataset.lmSuppressShortcuts !== 'true').length"
    )
    assert lacking == 0
    assert view.faults == []


def test_touch(chrome: Any, site: str) -> None:
    """A tap sets the start, a finger on the handle drags it, a finger elsewhere may scroll."""
    context = chrome.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    view = Lab(context.new_page(), f"{site}/two.html")
    canvas = view.root.locator("canvas").bounding_box()
    view.page.touchscreen.tap(canvas["x"] + 90, canvas["y"] + 70)
    assert view.start[0] < -1
    box = view.root.locator(".samlab-handle").bounding_box()
    assert min(box["width"], box["height"]) >= 24
    session = context.new_cdp_session(view.page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = view.start
    for kind, dx in [("touchStart", 0), ("touchMove", 30), ("touchMove", 80), ("touchEnd", 0)]:
        points = [] if kind == "touchEnd" else [{"x": x + dx, "y": y}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert view.start[0] > before[0] + 0.3
    assert view.start[1] == pytest.approx(before[1], abs=0.02)
    action = "e => getComputedStyle(e).touchAction"
    assert view.root.locator(".samlab-handle").evaluate(action) == "none"
    assert view.root.locator("canvas").evaluate(action) == "auto"
    width = view.page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    assert view.faults == []
    context.close()


def test_playback(page: Any, site: str) -> None:
    view = Lab(page, f"{site}/two.html")
    play = view.root.locator("button[name=Play]")
    play.click()
    page.wait_for_function("[3, 4, 5, 6].includes(+document.querySelector('output').innerText)")
    assert play.inner_text() == "Pause"
    play.click()
    at = view.at
    assert 2 < at < 300
    assert play.inner_text() == "Play"
    page.wait_for_timeout(200)
    assert view.at == at
    assert view.faults == []


def test_reduced_motion(chrome: Any, site: str) -> None:
    page = chrome.new_page(reduced_motion="reduce")
    view = Lab(page, f"{site}/two.html")
    view.root.locator("button[name=Step]").click()
    view.root.locator("button[name=Play]").click()
    assert "your system asks for less motion" in view.words
    assert view.at == 300
    page.close()


def test_two_labs_do_not_disturb_each_other(page: Any, site: str) -> None:
    first = Lab(page, f"{site}/two.html")
    second = Lab(page, f"{site}/two.html", 1)
    first.root = page.locator(".samlab").nth(0)
    before = second.picture
    first.number("rho", "0.7")
    assert second.value("rho") == "1.2"
    assert second.picture == before
    page.goto(f"{site}/two.html#lab-2:rho=0.4")
    assert first.value("rho") == "0.7"
    assert second.value("rho") == "0.4"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert first.faults == second.faults == []


def test_link_restores_the_exact_state(page: Any, site: str) -> None:
    view = Lab(page, f"{site}/two.html")
    view.number("rho", "1.2345678901234567")
    view.number("eta", "0.0123456789")
    view.number("steps", "123")
    view.root.locator("input[name=fsam]").check()
    view.root.locator("button[name=Step]").click()
    view.root.locator("select[name=rule]").select_option("exact")
    view.root.locator("button[name='Copy link']").click()
    assert "The link to this state is in the address bar" in view.words
    address, before = page.url, view.picture
    assert "#lab-1:" in address
    page.goto("about:blank")
    again = Lab(page, address)
    assert again.value("rho") == "1.2345678901234567"
    assert again.at == 0
    assert again.picture == before
    assert again.faults == []


@pytest.mark.parametrize("broken", ["rho=abc", "landscape=moon", "start=1,2,3", "nonsense"])
def test_broken_link_says_so(page: Any, site: str, broken: str) -> None:
    view = Lab(page, f"{site}/two.html#lab-1:{broken}")
    assert f"The link could not be read ({broken})" in view.words
    assert view.start == [0.7, 1.0]
    assert view.faults == []


def test_an_ordinary_anchor_is_left_alone(page: Any, site: str) -> None:
    view = Lab(page, f"{site}/two.html#lab-1")
    assert "could not be read" not in view.words


STORIES = [
    ("rho=0", "ρ = 0: x⁺ = x, so every rule is gradient descent."),
    ("eta=0", "η = 0: every step has length zero, so nothing leaves (0.7, 1)."),
    ("start=0,0", "The start (0, 0) is a critical point of f, a saddle: ∇f = 0"),
    ("start=1,0", "The start (1, 0) is a critical point of f, a minimizer: ∇f = 0"),
    ("eta=3", "SAM leaves for infinity: after"),
    ("landscape=saddle&steps=500&start=0.1,0.5", "SAM leaves for infinity: after"),
    ("landscape=saddle&start=0.3,0.05&rho=0.1", "SAM keeps stepping across the saddle (0, 0)"),
    ("landscape=himmelblau&rho=0.5", "SAM keeps stepping across the minimizer (3, 2)"),
    ("start=0.99,0.01", "SAM hallucinates. It stands still at (0.2, 0)"),
    ("eta=0.28&steps=600", "SAM keeps stepping across the saddle (0, 0), within 0.19"),
    ("rule=gd", "Gradient descent reaches the minimizer (1, 0)."),
    ("steps=40", "and falling: it is closing in on a hallucinated point"),
    ("steps=2", "SAM has not settled after 2 steps"),
    ("start=0.1,0", "SAM hallucinates. It stands still at (0.2, 0), where ‖∇f‖ = 0.192"),
    ("", "This point attracts SAM for every η below 0.2759."),  # 8/29
]


@pytest.mark.parametrize(("change", "words"), STORIES)
def test_the_lab_says_what_happened(page: Any, site: str, change: str, words: str) -> None:
    view = Lab(page, f"{site}/two.html" + (f"#lab-1:{change}" if change else ""))
    assert words in view.words
    # the live region waits until the reader's hand rests
    page.wait_for_function("document.querySelector('[role=status]').textContent")
    assert view.root.locator("[role=status]").text_content() == view.words
    assert view.faults == []


def test_unusable_number(page: Any, site: str) -> None:
    view = Lab(page, f"{site}/two.html")
    view.number("rho", "-3")
    assert "rho = -3 cannot be used: it must be a number from 0" in view.words
    assert view.value("rho") == "1.2"


@pytest.mark.parametrize("name", sorted(lab.PRESETS))
def test_every_landscape_opens(page: Any, site: str, name: str) -> None:
    view = Lab(page, f"{site}/two.html")
    view.root.locator("select[name=landscape]").select_option(name)
    view.settle()
    rho, eta, start = lab.PRESETS[name]
    assert view.start == start
    assert float(view.value("rho")) == rho
    assert float(view.value("eta")) == eta
    for layer in ["basins", "fsam"]:
        view.root.locator(f"input[name={layer}]").check()
    page.wait_for_function("document.querySelector('.samlab canvas').dataset.basinsMs")
    assert "The starts shown end: " in view.words
    assert view.faults == []


def test_rules(page: Any, site: str) -> None:
    view = Lab(page, f"{site}/two.html")
    pictures = set()
    for rule in lab.RULES:
        view.root.locator("select[name=rule]").select_option(rule)
        pictures.add(view.picture)
    assert len(pictures) == len(lab.RULES)


def test_theme_changes_at_once(page: Any, site: str) -> None:
    view = Lab(page, f"{site}/two.html")
    before = view.picture
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    assert view.picture != before
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    assert view.picture == before


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["two", "basins", "line", "dark"])
def test_accessible(chrome: Any, site: str, name: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = chrome.new_page(viewport={"width": width, "height": 900})
    view = Lab(page, f"{site}/{name}.html")
    if name == "dark":
        page.evaluate(
            "Object.assign(document.body.style, { background: '#14181c', color: '#eee' })"
        )
    page.wait_for_function("document.querySelector('[role=status]').textContent")
    assert "path of SAM. SAM " in view.root.locator("canvas").get_attribute("aria-label")
    found = axe.Axe().run(page).response["violations"]
    assert [f"{v['id']}: {v['nodes'][0]['html'][:150]}" for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_without_javascript(chrome: Any, site: str) -> None:
    context = chrome.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}/two.html")
    picture = page.locator(".samlab svg").first
    assert picture.is_visible()
    assert "from (0.7, 1) with ρ = 1.2" in picture.get_attribute("aria-label")
    words = page.locator("figcaption").first.inner_text()
    assert "ends at (0.2, 0), and stands still there, although ∇f is not zero" in words
    context.close()


def test_print_shows_the_picture(page: Any, site: str) -> None:
    view = Lab(page, f"{site}/two.html")
    assert not view.root.locator("figure").is_visible()
    page.emulate_media(media="print")
    assert view.root.locator("figure svg").is_visible()
    assert not view.root.locator(".samlab-live").is_visible()


def test_from_a_folder(page: Any, folder: Path) -> None:
    """file:// allows no modules and no ordinary workers; the lab needs neither."""
    view = Lab(page, (folder / "basins.html").as_uri())
    page.wait_for_function("document.querySelector('.samlab canvas').dataset.basinsMs")
    assert "100 % at a hallucinated point" in view.words
    assert view.faults == []


# --- speed, on two cores ---


def test_dragging_is_smooth(page: Any, site: str) -> None:
    view = Lab(page, f"{site}/two.html")
    box = view.root.locator(".samlab-handle").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    times = []
    for i in range(60):
        page.mouse.move(x - 3 * i, y + i)
        view.settle()
        times.append(float(view.root.locator("canvas").get_attribute("data-redraw-ms")))
    page.mouse.up()
    median = statistics.median(times)
    print(f"redraw while dragging: median {median:.1f} ms, worst {max(times):.1f} ms")
    assert median <= 16


def test_basins_are_fast_and_do_not_freeze(page: Any, site: str) -> None:
    view = Lab(page, f"{site}/basins.html")
    page.wait_for_function("document.querySelector('.samlab canvas').dataset.basinsMs")
    page.evaluate(
        """() => { window.gaps = []; let last = performance.now();
        const tick = () => { const now = performance.now(); gaps.push(now - last); last = now;
        requestAnimationFrame(tick); }; tick(); }"""
    )
    canvas, times = view.root.locator("canvas"), []
    for i in range(8):
        canvas.evaluate("c => delete c.dataset.basinsMs")
        view.number("rho", f"{2.5 + 0.05 * (i + 1)}")
        page.wait_for_function("document.querySelector('.samlab canvas').dataset.basinsMs")
        times.append(float(canvas.get_attribute("data-basins-ms")))
    gaps = sorted(page.evaluate("gaps.slice(2)"))
    print(
        f"basins 256 × 256 × 300: best {min(times):.0f}, median {statistics.median(times):.0f} ms"
    )
    print(
        f"frames meanwhile: 95 % within {gaps[int(0.95 * len(gaps))]:.0f} ms, all {gaps[-1]:.0f} ms"
    )
    assert min(times) <= 400  # the best, since other work on the machine only adds
    assert gaps[int(0.95 * len(gaps))] <= 100


def test_first_paint(chrome: Any, site: str) -> None:
    """From the page's HTML to the lab's first picture."""
    page = chrome.new_page()
    page.add_init_script(
        """new MutationObserver(() => { const c = document.querySelector('.samlab canvas');
        if (c?.dataset.redrawMs && !window.painted) window.painted = performance.now(); })
        .observe(document, { subtree: true, childList: true, attributes: true });"""
    )
    page.goto(f"{site}/two.html")
    page.wait_for_function("window.painted")
    html = page.evaluate("performance.getEntriesByType('navigation')[0].responseEnd")
    elapsed = page.evaluate("window.painted") - html
    print(f"first paint of the lab: {elapsed:.0f} ms after the HTML")
    assert elapsed <= 1000
    page.close()


def test_state_in_the_page_is_the_widgets(folder: Path) -> None:
    """What Python wrote is what the page reads."""
    found = re.search(r'class="samlab-state">(.*?)</script>', (folder / "line.html").read_text())
    assert found
    assert json.loads(found[1])["show"] == ["gd", "basins", "fsam"]
