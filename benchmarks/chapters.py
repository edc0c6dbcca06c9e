"""How long the live cells of each chapter run: one kernel a chapter, one after the other.

``live_s`` is the time of all cells without ``draw_s``, the time in which Matplotlib turns figures
into pictures, and after ``import_s``, the time in which a kernel loads the packages that chapters
use. ``make book`` spends all three, once for each chapter and again only if it changed. Writes
``chapters.json``: ``python benchmarks/chapters.py``; with names, only prints those chapters.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from optim_speed import _cpu

sys.path.insert(0, str(Path(__file__).parents[1] / "book" / "_ext"))

import execute

ROOT = Path(__file__).resolve().parents[1]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # one, as in the Makefile

FIRST = """
import time as _time
import contourpy, ipywidgets, matplotlib.pyplot, scipy.optimize, sklearn.datasets, sympy, torch
import torch._dynamo
from matplotlib.figure import FigureCanvasBase as _Canvas
_drawn, _print = [], _Canvas.print_figure
def _clocked(*args, **kw):
    start = _time.perf_counter()
    try:
        return _print(*args, **kw)
    finally:
        _drawn.append(_time.perf_counter() - start)
_Canvas.print_figure = _clocked
"""
LAST = "print(sum(_drawn))"


def measure(path: Path) -> dict[str, float]:
    """Seconds of importing, of drawing, and of all else in a notebook's cells."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(FIRST))
    notebook.cells.append(nbformat.v4.new_code_cell(LAST))
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=execute.SECONDS_A_CELL, resources=where).execute()
    runs = [c.metadata["execution"] for c in notebook.cells if c.cell_type == "code" and c.source]
    at = [[_time(t[k]) for k in ("iopub.status.busy", "shell.execute_reply")] for t in runs]
    load, *cells = (end - start for start, end in at)
    draw = float(notebook.cells[-1].outputs[0]["text"])
    times = {"live_s": sum(cells) - draw, "draw_s": draw, "import_s": load}
    return {k: round(v, 2) for k, v in times.items()}


def _time(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def main() -> None:
    os.environ |= dict.fromkeys(THREADS, "1")
    execute.look_again()
    names = sys.argv[1:] or sorted(p.stem for p in (ROOT / "book").glob("*.ipynb"))
    rows = {}
    for name in names:
        rows[name] = measure(ROOT / "book" / f"{name}.ipynb")
        print(f"{name:22s}", *(f"{k} {v:5.1f}  " for k, v in rows[name].items()), flush=True)
    total = {
        k: round(sum(row[k] for row in rows.values()), 1) for k in ("live_s", "draw_s", "import_s")
    }
    print(f"{'all':22s}", *(f"{k} {v:5.1f}  " for k, v in total.items()))
    if not sys.argv[1:]:
        result = {"cpu": _cpu(), "all": total, "chapters": rows}
        text = json.dumps(result, indent=1)
        Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
