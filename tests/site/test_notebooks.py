"""Chapters are committed as a run left them, and a page that no run made is refused."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LONGEST_CELL = 30  # lines
LARGEST_PNG = 300_000  # bytes
LARGEST_NOTEBOOK = 1_500_000  # bytes
WIDGET = "application/vnd.jupyter.widget-view+json"
NBVAL = ["--nbval", "--nbval-sanitize-with", str(ROOT / "tests" / "nbval_sanitize.cfg")]


def chapters() -> list[Path]:
    """The notebooks that _toc.yml lists."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = re.findall(r'"(?:file|root)": "([^"]+)"', json.dumps(toc))
    paths = [ROOT / "book" / f"{name.removesuffix('.ipynb')}.ipynb" for name in names]
    return [path for path in paths if path.exists()]


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The code cells that hold code."""
    cells = notebook.get("cells", [])
    return [c for c in cells if c["cell_type"] == "code" and "".join(c["source"]).strip()]


def shows(output: dict[str, Any]) -> bool:
    """Whether an output holds more than a widget, which is empty where no kernel runs."""
    return output["output_type"] == "stream" or bool(
        set(output.get("data", {})) - {WIDGET, "text/plain"}
        or (WIDGET not in output.get("data", {}) and output.get("data"))
    )


def problems(notebook: dict[str, Any]) -> list[str]:
    """Why this notebook cannot be what one run from top to bottom left behind; empty if it can."""
    found: list[str] = []
    cells = code_cells(notebook)
    for number, cell in enumerate(cells, start=1):
        count, outputs = cell.get("execution_count"), cell.get("outputs", [])
        if count is None:
            found.append(f"code cell {number} was never executed")
        elif count != number:
            found.append(f"code cell {number} has execution count {count}: not one run in order")
        pictures = sum("image/png" in output.get("data", {}) for output in outputs)
        if "figure" in cell["metadata"].get("mystnb", {}) and pictures != 1:
            found.append(f"code cell {number} has a caption and {pictures} pictures")
        for output in outputs:
            if output["output_type"] == "error":
                found.append(f"code cell {number} ended in {output.get('ename', 'an error')}")
            if output["output_type"] == "execute_result" and output["execution_count"] != count:
                found.append(f"code cell {number} shows the result of another execution")
    if not any(cell.get("outputs") for cell in cells):
        found.append("no code cell has an output")
    elif not any(shows(output) for cell in cells for output in cell["outputs"]):
        found.append("all outputs are widgets, which are empty without a kernel")
    return found


def too_much(notebook: dict[str, Any]) -> list[str]:
    """Cells that are longer, and pictures that are heavier, than a page of a book should hold."""
    found: list[str] = []
    for number, cell in enumerate(code_cells(notebook), start=1):
        lines = len("".join(cell["source"]).splitlines())
        if lines > LONGEST_CELL:
            found.append(f"code cell {number} has {lines} lines")
        for output in cell.get("outputs", []):
            picture = "".join(output.get("data", {}).get("image/png", ""))
            if len(picture) * 3 / 4 > LARGEST_PNG:
                found.append(f"code cell {number} shows a picture of {len(picture) // 1333} kB")
    return found


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_chapter(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert problems(notebook) == [], f"run `make notebooks NB={path.relative_to(ROOT)}`"
    assert too_much(notebook) == []
    assert path.stat().st_size <= LARGEST_NOTEBOOK


def test_every_notebook_is_listed() -> None:
    assert sorted((ROOT / "book").glob("*.ipynb")) == sorted(chapters())


def good() -> dict[str, Any]:
    """A notebook of two cells as a run leaves it."""
    stream = {"output_type": "stream", "name": "stdout", "text": ["2\n"]}
    result = {
        "output_type": "execute_result",
        "execution_count": 2,
        "data": {"text/plain": ["3"]},
        "metadata": {},
    }
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "cells": [
            {"id": "a", "cell_type": "markdown", "metadata": {}, "source": ["# Title"]},
            {
                **{"id": "b", "cell_type": "code", "metadata": {}, "source": ["print(1 + 1)"]},
                **{"execution_count": 1, "outputs": [stream]},
            },
            {
                **{"id": "c", "cell_type": "code", "metadata": {}, "source": ["1 + 2"]},
                **{"execution_count": 2, "outputs": [result]},
            },
        ],
    }


def test_a_real_run_is_accepted() -> None:
    assert problems(good()) == []
    assert too_much(good()) == []


def no_outputs(notebook: dict[str, Any]) -> None:
    for cell in code_cells(notebook):
        cell["outputs"] = []


def never_executed(notebook: dict[str, Any]) -> None:
    notebook["cells"][1]["execution_count"] = None  # with its output still there


def out_of_order(notebook: dict[str, Any]) -> None:
    notebook["cells"][1]["execution_count"] = 5


def other_execution(notebook: dict[str, Any]) -> None:
    notebook["cells"][2]["outputs"][0]["execution_count"] = 7


def failed(notebook: dict[str, Any]) -> None:
    error = {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
    notebook["cells"][1]["outputs"] = [error]


def widgets_only(notebook: dict[str, Any]) -> None:
    view = {WIDGET: {"model_id": "1"}, "text/plain": ["interactive(...)"]}
    shown = {"output_type": "display_data", "data": view, "metadata": {}}
    for cell in code_cells(notebook):
        cell["outputs"] = [shown]


def no_picture(notebook: dict[str, Any]) -> None:
    notebook["cells"][1]["metadata"]["mystnb"] = {"figure": {"caption": "A curve."}}


def no_code(notebook: dict[str, Any]) -> None:
    notebook["cells"] = notebook["cells"][:1]


@pytest.mark.parametrize(
    "spoil",
    [
        no_outputs,
        never_executed,
        out_of_order,
        other_execution,
        failed,
        widgets_only,
        no_picture,
        no_code,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_what_no_run_made_is_refused(spoil: Any) -> None:
    notebook = copy.deepcopy(good())
    spoil(notebook)
    assert problems(notebook) != []


def test_long_cells_and_heavy_pictures_are_refused() -> None:
    notebook = good()
    notebook["cells"][1]["source"] = ["x = 1\n"] * 31
    picture = {"output_type": "display_data", "data": {"image/png": "A" * 500_000}, "metadata": {}}
    notebook["cells"][2]["outputs"].append(picture)
    assert len(too_much(notebook)) == 2


def test_the_live_cells_run_for_less_than_a_minute() -> None:
    """As measured last, for every chapter that there is: ``python benchmarks/chapters.py``."""
    measured = json.loads((ROOT / "benchmarks" / "chapters.json").read_text())
    assert set(measured["chapters"]) == {p.stem for p in (ROOT / "book").glob("*.ipynb")}
    assert sum(row["live_s"] for row in measured["chapters"].values()) < 60


@pytest.mark.parametrize("told", ["2\n", "3\n"])
def test_an_invented_output_fails_the_comparison(tmp_path: Path, told: str) -> None:
    """nbval, called as ``make test`` calls it, tells a printed number from an invented one."""
    notebook = good()
    notebook["cells"][1]["outputs"][0]["text"] = [told]
    (tmp_path / "trial.ipynb").write_text(json.dumps(notebook))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *NBVAL]
    done = subprocess.run(
        [*command, "trial.ipynb"], cwd=tmp_path, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == (0 if told == "2\n" else 1), done.stdout[-2000:]
