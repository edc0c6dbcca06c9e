"""Every page of the built site in a real browser: no foreign request, no error, readable by all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import pytest
from browser import chromium, missing, served

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "_build" / "html"
PASSED = ROOT / "build" / "site.passed"  # digests of the pages that passed
PAGES = sorted(p.name for p in SITE.glob("*.html")) or ["index.html"]
CHAPTER = re.compile(r"\d\d-")
HEAVIEST = 1.5e6  # bytes of a chapter page with all that it loads, MathJax aside
# Formulas are set, their fonts are there, and what follows from that has run.
READY = """() => (window.MathJax?.startup?.promise ?? Promise.resolve())
    .then(() => document.fonts.ready)
    .then(() => new Promise(done => requestAnimationFrame(() => setTimeout(done))))
    .then(() => true)"""


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    if not (SITE / "index.html").exists():
        missing("no built site: run `make book` first")
    with chromium() as chrome:
        yield chrome


@pytest.fixture(scope="module")
def site(chrome: Any) -> Iterator[str]:
    with served(SITE) as address:
        yield address


class Passed:
    """The pages that passed as they are now. As with the notebooks, they are not looked at again.

    A page's digest covers its own file, which names its pictures by their content, all scripts and
    styles of the site, this test, and the versions of the browser and of axe.
    """

    def __init__(self, browser_version: str) -> None:
        versions = f"{browser_version} {_version('axe-playwright-python')}"
        self.common = hashlib.sha256(versions.encode())
        shared = [p for p in sorted((SITE / "_static").rglob("*")) if p.is_file()]
        for path in [*shared, Path(__file__), Path(browser.__file__)]:
            self.common.update(path.name.encode() + path.read_bytes())
        self.digests = set(PASSED.read_text().split()) if PASSED.exists() else set[str]()

    def digest(self, name: str, width: int) -> str:
        digest = self.common.copy()
        digest.update(f"{name} {width} ".encode() + (SITE / name).read_bytes())
        if name == "search.html":
            digest.update((SITE / "searchindex.js").read_bytes())
        return digest.hexdigest()

    def add(self, name: str, width: int) -> None:
        self.digests.add(self.digest(name, width))
        PASSED.parent.mkdir(exist_ok=True)
        PASSED.write_text("\n".join(sorted(self.digests)))


@pytest.fixture(scope="module")
def passed(chrome: Any) -> Passed:
    return Passed(chrome.version)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


class Visit:
    """One visit to one page: what it asked for, what went wrong, and how much came."""

    def __init__(self, chrome: Any, address: str, width: int, theme: str) -> None:
        self.requests: list[str] = []
        self.faults: list[str] = []
        self.responses: list[Any] = []
        self.page = chrome.new_page(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce"
        )
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("response", self._response)
        self.page.on("requestfailed", lambda r: self.faults.append(f"failed: {r.url}"))
        self.page.on("pageerror", lambda e: self.faults.append(f"page error: {e}"))
        self.page.on("console", self._console)
        self.page.goto(address, wait_until="load", timeout=60_000)
        self.page.wait_for_function(READY, timeout=60_000)
        for lab in self.page.locator("div.samlab").all():  # they start when they come near
            lab.scroll_into_view_if_needed()
            self.page.wait_for_function(
                "lab => lab.dataset.lab === 'live'", arg=lab.element_handle(), timeout=60_000
            )

    def _response(self, response: Any) -> None:
        self.responses.append(response)
        if response.status >= 400:
            self.faults.append(f"{response.status}: {response.url}")

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def weight(self) -> int:
        """Bytes of all that the page loaded, MathJax aside."""
        return sum(len(r.body()) for r in self.responses if "/mathjax/" not in r.url)

    def violations(self, options: dict[str, Any]) -> list[str]:
        """What axe calls serious or critical, with the first element of each."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright")
        options = {"resultTypes": ["violations"], "preload": False, **options}
        found = axe.Axe().run(self.page, options=options).response["violations"]
        return [
            f"{v['id']} ({v['impact']}): {v['nodes'][0]['html'][:200]}"
            for v in found
            if v["impact"] in {"serious", "critical"}
        ]


CONTRAST = {"runOnly": ["color-contrast"]}
STRUCTURE = {"rules": {"color-contrast": {"enabled": False}}}
REMOVE = "selector => document.querySelectorAll(selector).forEach(e => e.remove())"
NOT_LAB = "article *:not(:has(.samlab), .samlab, .samlab *)"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_page(chrome: Any, site: str, passed: Passed, name: str, width: int) -> None:
    """Light, then dark, at one width.

    Axe takes half a minute for all that a long page holds, so each thing is looked at where it can
    go wrong. The structure of an article, formulas included, does not depend on the width: it is
    checked on the phone, where formulas and tables scroll, and on the wide screen only that of what
    is around the article and of the labs. With the colours it is the other way round. Formulas have
    the colour of the text around them.
    """
    if passed.digest(name, width) in passed.digests:
        return
    visit = Visit(chrome, f"{site}/{name}", width, "light")
    page = visit.page
    try:
        scroll = page.evaluate("document.documentElement.scrollWidth")
        assert scroll <= width, f"the page is {scroll} px wide on a screen of {width}"
        red = "document.querySelectorAll('mjx-merror, mjx-mtext[style*=\"red\"]').length"
        assert page.evaluate(red) == 0, "a formula does not parse"
        if CHAPTER.match(name):
            assert visit.weight() <= HEAVIEST, f"{visit.weight() / 1e6:.2f} MB"
        if width == 390:
            assert visit.violations(STRUCTURE) == []
        page.evaluate(REMOVE, "mjx-container" if width == 1280 else NOT_LAB)
        assert visit.violations(CONTRAST) == []
        page.emulate_media(color_scheme="dark")
        page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        assert visit.violations(CONTRAST) == []
        if width == 1280:
            page.evaluate(REMOVE, NOT_LAB)
            assert visit.violations(STRUCTURE) == []
        assert [u for u in visit.requests if not u.startswith((site, "data:", "blob:"))] == []
        assert visit.faults == []
        passed.add(name, width)
    finally:
        page.close()


@pytest.mark.parametrize("name", PAGES)
def test_head_and_pictures(name: str) -> None:
    """What sharing and screen readers need: titles, descriptions, and words for every picture."""
    if not (SITE / name).exists():
        missing("no built site: run `make book` first")
    html = (SITE / name).read_text(encoding="utf-8")
    assert re.search(r"<title>[^<]{5,}</title>", html)
    assert re.search(r'<meta property="og:title" content="[^"]{5,}"', html)
    if name != "search.html":
        assert re.search(r'<meta property="og:description" content="[^"]{20,}"', html)
    article = html[html.find("<article") : html.find("</article>")]
    assert not re.search(r"<p>\s*\|", article), "a table that is not rendered as one"
    for image in re.findall(r"<img\b[^>]*>", article):
        alt = re.search(r'\balt="([^"]*)"', image)
        assert alt is not None, image[:150]
        assert not re.fullmatch(r"|.*\.(png|svg|jpeg)", alt[1]), (
            f"no words for {image[:150]}: give the cell the metadata "
            '{"mystnb": {"image": {"alt": "what the figure shows"}}}'
        )


def test_search_finds(chrome: Any, site: str) -> None:
    visit = Visit(chrome, f"{site}/search.html?q=hallucinated", 1280, "light")
    visit.page.wait_for_selector("#search-results li a", timeout=20_000)
    assert visit.faults == []
    visit.page.close()


def test_works_from_a_folder(chrome: Any) -> None:
    """The same files without any server, as they lie in the zip of ``make site``."""
    visit = Visit(chrome, (SITE / "notation.html").as_uri(), 1280, "light")
    assert [u for u in visit.requests if not u.startswith(("file:", "data:", "blob:"))] == []
    assert visit.faults == []
    assert visit.page.locator("mjx-container").count() > 0
    visit.page.goto((SITE / "search.html").as_uri() + "?q=hallucinated")
    visit.page.wait_for_selector("#search-results li a", timeout=20_000)
    assert visit.faults == []
    visit.page.close()


def test_the_browser_would_notice(chrome: Any, tmp_path: Path) -> None:
    """The checks above can fail: a page with each fault is caught."""
    (tmp_path / "bad.html").write_text(
        "<html lang='en'><head><title>bad</title></head><body><main><h1>Bad</h1>"
        "<img src='missing.png'><button></button><script>undefinedName()</script>"
        "<script src='https://example.org/x.js'></script></main></body></html>"
    )
    with served(tmp_path) as address:
        visit = Visit(chrome, f"{address}/bad.html", 1280, "light")
        faults = " ".join(visit.faults)
        assert "404" in faults
        assert "undefinedName" in faults
        assert "failed: https://example.org/x.js" in faults
        assert {v.split()[0] for v in visit.violations({})} >= {"image-alt", "button-name"}
        visit.page.close()


def test_sitemap_of_toc() -> None:
    """Every page that _toc.yml lists was built."""
    yaml = pytest.importorskip("yaml")
    if not (SITE / "index.html").exists():
        missing("no built site: run `make book` first")
    toc = yaml.safe_load((SITE.parents[1] / "_toc.yml").read_text())
    names = re.findall(r'"(?:file|root)": "([^"]+)"', json.dumps(toc))
    assert names
    assert [n for n in names if not (SITE / f"{n}.html").exists()] == []
