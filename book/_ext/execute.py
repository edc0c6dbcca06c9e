"""Execute notebooks: in place for ``make notebooks``, and for the site several at a time.

While a cell with an ``interact`` runs, nbclient sends a message to the kernel on the very socket on
which it waits for the cell's reply. If the reply arrives in that moment, nothing wakes the wait: it
ends with its timeout, minutes later, although the reply lies there (seen in 1 of 5 builds of such a
chapter, with pyzmq 27.3, jupyter_client 8.10, nbclient 0.11). So the wait looks twice a second.

For the site the chapters are executed into the cache from which Sphinx takes them, a chapter a
core; Sphinx alone would take them one after the other. In place, the widgets' state is dropped,
since the site mounts its own widget, and so are the times of execution, which would change at every
run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from queue import Empty
from time import monotonic
from typing import Any

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient import NotebookClient
from sphinx.application import Sphinx

SECONDS_A_CELL = 600
LOOK = 0.5  # seconds from one look to the next


async def get_msg(self: AsyncZMQSocketChannel, timeout: float | None = None) -> dict[str, Any]:
    """The next message; raises ``Empty`` after ``timeout`` seconds, and waits forever for None."""
    deadline = None if timeout is None else monotonic() + timeout
    while True:
        left = LOOK if deadline is None else max(0.0, min(LOOK, deadline - monotonic()))
        if await self.socket.poll(int(1000 * left)):
            return await self._recv()
        if deadline is not None and monotonic() >= deadline:
            raise Empty


def look_again() -> None:
    """Let every notebook client of this process wait as above."""
    AsyncZMQSocketChannel.get_msg = get_msg  # type: ignore[method-assign]


def execute(path: Path) -> None:
    """Run the notebook in its own folder and write it back only if every cell succeeded."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=SECONDS_A_CELL, resources=where).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, path)


def fill(cache: Path, chapters: list[Path]) -> None:
    """Execute the chapters that the cache lacks; one that fails is left for Sphinx to tell of."""
    store = get_cache(str(cache))
    for chapter in chapters:
        store.add_nb_to_project(str(chapter.resolve()))
    load_executor("local-parallel", store).run_and_cache(timeout=SECONDS_A_CELL)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this when it loads the extension."""
    look_again()
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    look_again()
    if sys.argv[1] == "--cache":
        fill(Path(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
    else:
        for name in sys.argv[1:]:
            print(f"executing {name}", flush=True)
            execute(Path(name))
