"""The scripts behind published timings still run: each is imported, and measured once, briefly."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PEERS = BENCHMARKS / "peers"
SCRIPTS = sorted([*BENCHMARKS.glob("*.py"), *PEERS.glob("*.py")])


@pytest.fixture(autouse=True)
def beside_them(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the scripts find each other, and let nothing of theirs stay behind."""
    threads = torch.get_num_threads()
    for folder in (BENCHMARKS, PEERS):
        monkeypatch.syspath_prepend(str(folder))
    yield
    torch.set_num_threads(threads)
    for path in SCRIPTS:
        sys.modules.pop(path.stem, None)


def script(name: str, monkeypatch: pytest.MonkeyPatch, *argv: str) -> ModuleType:
    monkeypatch.setattr(sys, "argv", [name, *argv])
    return importlib.import_module(name)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_import(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script(path.stem, monkeypatch).__doc__


def test_ensembles(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round of few steps: it also checks that stack and loops compute the same losses."""
    ensembles = script("ensembles", monkeypatch)
    specs = [ensembles.replace(ensembles.SETTINGS["digits"][0], seed=s) for s in range(2)]
    dataset = ensembles.data.load_data("digits", n=specs[0].n)
    a, b = (make(specs, dataset)(3) for make in (ensembles.loops, ensembles.stack))
    torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=1e-4, atol=0)


def test_monitor_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    row = script("monitor_overhead", monkeypatch).measure("mlp-128", "sgd", 4)
    assert row["steps"] == 4
    assert row["ratio"] > 0
    assert 0 < row["share"] < 1


def test_optim_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    options = ["--rounds", "3", "--models", "mlp-128", "--bases", "sgd", "--out", str(out)]
    script("optim_speed", monkeypatch, *options).main()
    measured = json.loads(out.read_text())["measured"]["mlp-128/sgd"]
    assert {"base", "samlib", "loops"} <= set(measured)


def test_faults_of_samlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question is asked of samlib; every answer is yes, no, or does not apply."""
    faults = script("faults", monkeypatch)
    ours = next(peer for peer in faults.PEERS if peer.name == "samlib")
    results = faults.measure(ours)
    stored = json.loads((PEERS / "faults.json").read_text())["peers"]["samlib"]["results"]
    assert {k: r["ok"] for k, r in results.items()} == {k: r["ok"] for k, r in stored.items()}


def test_chapters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chapters = script("chapters", monkeypatch)
    source = (
        "import time; time.sleep(0.2)\nimport matplotlib.pyplot as plt; plt.plot([1])\nplt.show()"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(notebook, tmp_path / "tiny.ipynb")
    row = chapters.measure(tmp_path / "tiny.ipynb")
    assert row["live_s"] >= 0.2
    assert row["draw_s"] > 0
    assert row["import_s"] > 0
