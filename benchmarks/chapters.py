"""How long the live cells of each chapter run: one kernel a chapter, one after the other.

``cells_s`` is the time of all cells, ``first_s`` that of the first among them, which imports torch
and Matplotlib; starting kernels is not counted. ``make book`` spends this time once, and again only
for chapters that changed. Writes ``chapters.json``: ``python benchmarks/chapters.py``.
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


def seconds(path: Path) -> list[float]:
    """The time that each code cell of a notebook takes."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=execute.SECONDS_A_CELL, resources=where).execute()
    out = []
    for cell in notebook.cells:
        if (times := cell.metadata.get("execution")) and cell.cell_type == "code":
            ends = (times["iopub.status.busy"], times["shell.execute_reply"])
            began, ended = (datetime.fromisoformat(t.replace("Z", "+00:00")) for t in ends)
            out.append((ended - began).total_seconds())
    return out


def main() -> None:
    os.environ |= dict.fromkeys(THREADS, "1")
    execute.look_again()
    rows = {}
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        cells = seconds(path)
        rows[path.stem] = {"cells_s": round(sum(cells), 2), "first_s": round(cells[0], 2)}
        print(f"{path.stem:22s} {sum(cells):6.1f} s, of which the first cell {cells[0]:.1f}")
    total, first = (round(sum(r[k] for r in rows.values()), 1) for k in ("cells_s", "first_s"))
    result = {"cpu": _cpu(), "total_s": total, "first_s": first, "chapters": rows}
    print(f"{'all':22s} {total:6.1f} s, of which first cells {first:.1f}")
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
