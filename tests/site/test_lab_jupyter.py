"""The lab in a real JupyterLab: Python sees what the reader moves, the page what Python sets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import chromium

TOKEN = "lab-test"
CELLS = [
    "from samlib.lab import SamLab\nlab = SamLab('double-well-2d', 1.2, 0.1, [0.7, 1.0])\nlab",
    "print('seen', lab.rho, lab.start, len(lab.trajectory))",
    "lab.landscape = 'ring'; lab.rho = 0.5; lab.start = [0.3, 0.4]; print('set')",
]
QUIET = [
    *["--no-browser", "--ip=127.0.0.1", "--ServerApp.port_retries=0", "--allow-root"],
    *["--LabApp.news_url=", "--LabApp.extension_manager=readonly"],
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
]


def notebook() -> str:
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": source, "outputs": [],
         "execution_count": None}
        for i, source in enumerate(CELLS)
    ]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})


def ask(address: str, path: str, data: bytes | None = None) -> Any:
    request = urllib.request.Request(
        f"{address}/api/{path}", data, headers={"Authorization": f"token {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or b"null")


def wait(what: str, test: Any, seconds: float = 120) -> None:
    """Poll until ``test()`` is true; errors count as not yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if test():
                return
        except (OSError, KeyError, IndexError):
            pass
        time.sleep(0.3)
    pytest.fail(f"{what} did not happen within {seconds:g} s")


@contextmanager
def jupyter(folder: Path) -> Iterator[str]:
    """A JupyterLab of its own, with settings, kernels and history in ``folder`` alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    private = [
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "IPYTHONDIR",
        "HOME",
    ]
    env = {**os.environ, **{name: str(folder / name.lower()) for name in private}}
    root = folder / "root"
    root.mkdir()
    (root / "lab.ipynb").write_text(notebook())
    command = [sys.executable, "-m", "jupyterlab", *QUIET, f"--port={port}",
               f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root}"]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=env, cwd=root, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait("JupyterLab's start", lambda: ask(address, "status"))
        yield address
    finally:
        try:
            ask(address, "shutdown", b"")
            server.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            server.kill()
            server.wait()


def test_front_to_kernel_and_back(tmp_path: Path) -> None:
    pytest.importorskip("jupyterlab")
    with chromium() as browser, jupyter(tmp_path) as address:
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        faults: list[str] = []
        page.on("pageerror", lambda e: faults.append(str(e)))
        page.goto(f"{address}/doc/tree/lab.ipynb?reset&token={TOKEN}", timeout=120_000)

        def idle() -> bool:
            kernel = ask(address, "sessions")[0]["kernel"]
            return kernel["execution_state"] == "idle" and kernel["connections"] > 0

        wait("an idle, connected kernel", idle)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        outputs = page.locator(".jp-OutputArea-output pre")
        page.wait_for_function(
            "[...document.querySelectorAll('.jp-OutputArea-output pre')]"
            ".some(e => e.innerText.includes('set'))",
            timeout=120_000,
        )
        lab = page.locator(".samlab-live")
        canvas = lab.locator("canvas[data-redraw-ms]")
        canvas.wait_for(timeout=60_000)
        # the third cell has run: Python's values are on the page
        page.wait_for_function("document.querySelector('[type=number][name=rho]').value === '0.5'")
        assert lab.locator("select[name=landscape]").input_value() == "ring"
        assert "Start (0.3, 0.4)" in lab.locator(".samlab-handle").get_attribute("aria-label")
        assert lab.locator("button[name^=Copy]").is_hidden()  # there is no page to link to

        # the reader moves a slider by the keyboard and drags the start
        before = canvas.evaluate("c => c.toDataURL()")
        slider = lab.locator("input[type=range][name=rho]")
        slider.focus()
        slider.press("ArrowRight")
        # JupyterLab left the key alone
        page.wait_for_function(
            "document.querySelector('[type=number][name=rho]').value === '0.505'"
        )
        lab.locator(".samlab-handle").scroll_into_view_if_needed()
        box = lab.locator(".samlab-handle").bounding_box()
        page.mouse.move(box["x"] + 16, box["y"] + 16)
        page.mouse.down()
        page.mouse.move(box["x"] + 76, box["y"] + 16, steps=4)
        page.mouse.up()
        page.wait_for_timeout(500)  # the lab tells Python at most ten times a second
        assert canvas.evaluate("c => c.toDataURL()") != before
        moved = lab.locator(".samlab-handle").get_attribute("aria-label")
        page.locator(".jp-CodeCell").nth(1).locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        page.wait_for_function(
            "[...document.querySelectorAll('.jp-OutputArea-output pre')]"
            ".some(e => e.innerText.includes('seen 0.505'))",
            timeout=60_000,
        )
        seen = next(t for t in outputs.all_inner_texts() if "seen" in t)
        start = [float(v) for v in seen[seen.index("[") + 1 : seen.index("]")].split(",")]
        assert start[0] > 0.4
        assert f"Start ({start[0]:.4g}," in moved
        assert seen.split()[-1] == "301"

        # Python sets a trait and the canvas moves
        before = canvas.evaluate("c => c.toDataURL()")
        page.locator(".jp-CodeCell").nth(2).locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        page.wait_for_function("document.querySelector('[type=number][name=rho]').value === '0.5'")
        page.wait_for_function(
            "before => document.querySelector('.samlab-live canvas').toDataURL() !== before",
            arg=before,
        )
        assert faults == []
        page.close()
