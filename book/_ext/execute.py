"""``make notebooks``: execute chapters in place and keep what a reader needs of the result.

Dropped: the widgets' state (the site mounts its own widget) and the times of execution, which would
change at every run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

SECONDS_A_CELL = 600


def execute(path: Path) -> None:
    """Run the notebook in its own folder and write it back only if every cell succeeded."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=SECONDS_A_CELL, resources=where).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"executing {name}", flush=True)
        execute(Path(name))
