"""A real browser for tests, which can reach this machine only, and a server for the site."""

from __future__ import annotations

import functools
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
FLAGS = [
    *["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
    *["--disable-background-networking", "--disable-component-update", "--disable-sync"],
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def missing(what: str) -> None:
    """Skip with one line; where CI=true a missing browser or site is a failure."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{what}, and CI=true requires it")
    pytest.skip(what)


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium: ``SAMLIB_BROWSER``, the system's, or playwright's own."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    named = os.environ.get("SAMLIB_BROWSER")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    with api.sync_playwright() as play:
        own = Path(play.chromium.executable_path)
        if not found and not own.exists():
            missing("no browser: install chromium or set SAMLIB_BROWSER")
        browser = play.chromium.launch(executable_path=found or own, args=FLAGS)
        yield browser
        browser.close()


class _Quiet(SimpleHTTPRequestHandler):
    """The standard file server without its log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of an HTTP server on 127.0.0.1 that serves ``folder``."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()
