"""The text of the book: nothing garbled, nothing left unrendered, no number that nothing shows."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import missing

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
SITE = ROOT / "_build" / "html"
SOURCES = sorted([*BOOK.glob("*.ipynb"), *BOOK.glob("*.md")])
CHAPTERS = [path for path in SOURCES if path.suffix == ".ipynb"]
SETTINGS = yaml.safe_load(Path(__file__).with_name("settings_in_prose.yml").read_text()) or {}


def cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a chapter; a page in Markdown is one cell."""
    if path.suffix == ".md":
        return [{"cell_type": "markdown", "source": path.read_text(encoding="utf-8")}]
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


def prose(path: Path) -> list[str]:
    """The Markdown of a page, a string a cell."""
    return ["".join(c["source"]) for c in cells(path) if c["cell_type"] == "markdown"]


# --- nothing garbled ------------------------------------------------------------------------------


def control_characters(text: str) -> list[str]:
    r"""What is left of ``\frac`` or ``\text`` when a string literal has eaten the backslash."""
    return re.findall(r".{0,10}[\x00-\x08\x0b-\x1f\x7f\t].{0,10}", text)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_no_control_characters(path: Path) -> None:
    assert [c for text in prose(path) for c in control_characters(text)] == []
    # "\nabla" and "\neq" leave a line break and the rest of the word.
    eaten = re.compile(r"^(?:abla|eq)(?![a-z])", re.M)
    assert [m.group() for text in prose(path) for m in eaten.finditer(text)] == []


@pytest.mark.parametrize("text", ["f=\x0crac12", "a\text", "\x08eta", "x\rho"])
def test_control_characters_are_seen(text: str) -> None:
    assert control_characters(text)


# --- nothing left unrendered ----------------------------------------------------------------------

UNRENDERED = re.compile(
    r"\{prf:|\{(?:doc|ref|cite|eq|numref)\}|:label:|```|:::|\$\$|\\[a-zA-Z]{2,}"
)
VOID = {"br", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Words(HTMLParser):
    """The text of a page's article without code, scripts and formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[bool] = []  # whether the text inside an open element counts
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            return
        classes = set((dict(attrs).get("class") or "").split())
        outside = not self.stack and tag != "article"
        hidden = tag in {"pre", "code", "script", "style"} or "math" in classes
        self.stack.append(not (outside or hidden) and (not self.stack or self.stack[-1]))
        if outside:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        if self.stack and tag not in VOID:
            self.stack.pop()

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1]:
            self.text.append(data)


def words(html: str) -> str:
    """What a reader of the article sees, formulas and code aside."""
    parser = Words()
    parser.feed(html)
    return " ".join(" ".join(parser.text).split())


def pages() -> list[Path]:
    return sorted(SITE.glob("*.html")) or [SITE / "index.html"]


@pytest.mark.parametrize("path", pages(), ids=lambda p: p.name)
def test_no_markup_is_left(path: Path) -> None:
    if not path.exists():
        missing("no built site: run `make book` first")
    html = path.read_text(encoding="utf-8")
    text = words(html[html.find("<article") : html.find("</article>") + 10])
    assert len(text) > 100 or path.name == "search.html"
    assert [text[max(0, m.start() - 30) : m.end() + 30] for m in UNRENDERED.finditer(text)] == []
    # A directive that was not recognised becomes a block of code with its own name in it.
    blocks = re.findall(r"<pre>(.*?)</pre>", html, re.S)
    assert [b[:80] for b in blocks if re.search(r":label:|\{prf:", b)] == []


def test_left_markup_is_seen() -> None:
    page = "<article><p>A {prf:theorem} and <code>```</code><br/> $$x$$ \\frac</p></article>"
    assert UNRENDERED.findall(words(page)) == ["{prf:", "$$", "$$", "\\frac"]
    assert words("<article>a <span class='math x'>\\rho</span> b</article>out") == "a b"


def labels(text: str) -> list[str]:
    """The labels of directives, and the anchors ``(name)=``, that a page defines."""
    return re.findall(r"^ *:(?:label|name): (\S+)", text, re.M) + re.findall(
        r"^\(([\w-]+)\)=\s*$", text, re.M
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_every_label_has_its_id(path: Path) -> None:
    page = SITE / f"{path.stem}.html"
    if not page.exists():
        missing("no built site: run `make book` first")
    ids = set(re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8")))
    wanted = [label for text in prose(path) for label in labels(text)]
    assert [w for w in wanted if not {w, w.lower(), f"equation-{w}"} & ids] == []


def test_labels_are_found() -> None:
    assert labels("(ch-one)=\n# One\n```{prf:theorem}\n:label: thm-a\n```") == ["thm-a", "ch-one"]


# --- no number that nothing shows -----------------------------------------------------------------

NUMBER = re.compile(r"(?<![\w.,/#-])[-−]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w/])|(?<![\w.])\.\d+")
PLAIN = re.compile(
    r"\$\$.*?\$\$|\$[^$]*\$"  # formulas: their numbers are settings and constants of theorems
    r"|<a .*?</a>"  # links that set the lab
    r"|```.*?```|`[^`]*`|\{[\w:-]+\}`[^`]*`|\]\([^)]*\)|<[^>]+>|https?://\S+",
    re.S,
)
UNIT = re.compile(r"\s*(?:%|percent|px|ms|seconds?|minutes?|hours?|MB|kB|times\b)")
WORDS = {
    **{"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9},
    **{"ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30},
}


def value(token: str) -> float:
    return float(token.replace("−", "-").replace(",", ""))


def shown(path: Path) -> set[float]:
    """All numbers in the outputs and the code of a chapter."""
    texts: list[str] = []
    for cell in cells(path):
        if cell["cell_type"] == "code":
            texts.append("".join(cell["source"]))
            for output in cell["outputs"]:
                data = output.get("data", {})
                texts += ["".join(output.get("text", ""))]
                texts += ["".join(data.get(k, "")) for k in ("text/plain", "text/markdown")]
                texts += [re.sub(r"<[^>]+>", " ", "".join(data.get("text/html", "")))]
    found = re.findall(r"\d[\d_,]*(?:\.\d+)?(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?", " ".join(texts))
    return {float(t.replace("_", "").replace(",", "").rstrip(".") or 0) for t in found}


def decimals(token: str) -> int:
    return len(token.partition(".")[2].partition("e")[0])


def stands(token: str, numbers: set[float]) -> bool:
    """Whether a number of the text is one of ``numbers``, or one of them rounded.

    A token that ends in % may also be a hundred times one of them.
    """
    number = token.rstrip(" %")
    wanted, digits = abs(value(number)), decimals(number)
    scales = (1, 100) if token.endswith("%") else (1,)
    finite = [n for n in numbers if math.isfinite(n)]
    return any(abs(round(n * s, digits) - wanted) <= 1e-9 * wanted for n in finite for s in scales)


def claims_in(text: str) -> Iterator[str]:
    """The numbers of a text that say something: with a decimal point, an exponent or a unit."""
    text = PLAIN.sub(lambda m: " " * len(m[0]), text)
    for match in NUMBER.finditer(text):
        unit = UNIT.match(text, match.end())
        if "." in match[0] or "e" in match[0] or unit:
            yield match[0] + (" %" if unit and unit[0].strip() in {"%", "percent"} else "")


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_numbers_in_prose_are_shown(path: Path) -> None:
    numbers = shown(path) | {float(v) for v in SETTINGS.get(path.stem, [])}
    missing_here = [
        (number, " ".join(text[max(0, text.find(number.rstrip(" %")) - 60) :][:120].split()))
        for text in prose(path)
        for number in claims_in(text)
        if not stands(number, numbers)
    ]
    assert missing_here == [], "print them in a cell, or list them as settings"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_settings_in_prose_are_still_there(path: Path) -> None:
    text = " ".join(prose(path))
    said = [abs(value(n.rstrip(" %"))) for n in claims_in(text)]
    assert [v for v in SETTINGS.get(path.stem, []) if float(v) not in said] == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_numbers_in_captions_are_shown(path: Path) -> None:
    """Every numeral of a caption, and every number word, is a quantity that the chapter shows."""
    numbers, bad = shown(path), []
    for cell in cells(path):
        caption = cell.get("metadata", {}).get("mystnb", {}).get("figure", {}).get("caption", "")
        plain = PLAIN.sub(" ", caption)
        tokens = [m[0] for m in NUMBER.finditer(plain)]
        tokens += [str(v) for w, v in WORDS.items() if re.search(rf"\b{w}\b", plain, re.I)]
        bad += [(t, caption[:90]) for t in tokens if not stands(t, numbers)]
    assert bad == [], "print them in a cell of the chapter, or leave them out"


def test_invented_numbers_are_seen() -> None:
    numbers = {0.9362, 12.0, 3000.0}
    text = "It is 0.94 (94 %, `0.77`, $0.5$), but 0.95 and 95 % of 12 are wrong; 3,000 steps; 1e-7."
    assert [n for n in claims_in(text) if not stands(n, numbers)] == ["0.95", "95 %", "1e-7"]
