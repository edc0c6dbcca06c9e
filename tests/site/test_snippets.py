"""Each snippet of the book and of the docstrings that steps a SAM, pasted into a loop, is SAM.

A reader pastes a snippet into his training loop. Here each is executed in one, step by step beside
``step(closure)`` on a copy, and both must go the same way.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from samlib import SAM, HallucinationMonitor

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[2]
LOOPS = 6
FENCED = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
INDENTED = re.compile(r"(?:^    .*\n|^\n(?=    ))+", re.M)


def texts() -> Iterator[tuple[str, str]]:
    """The prose that a reader may copy from, with its name."""
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                yield f"{path.stem}#{cell['id']}", "".join(cell["source"])
    for path in [*sorted((ROOT / "book").glob("*.md")), ROOT / "README.md"]:
        yield path.stem, path.read_text(encoding="utf-8")


def snippets() -> list[tuple[str, str]]:
    """All of them that use an optimizer."""
    found = [(name, code) for name, text in texts() for code in FENCED.findall(text)]
    for thing in (SAM, HallucinationMonitor):
        doc = (inspect.getdoc(thing) or "").partition("\nParameters\n")[0] + "\n"
        found += [(thing.__name__, inspect.cleandoc(code)) for code in INDENTED.findall(doc)]
    return [(name, code) for name, code in found if "optimizer" in code]


def test_the_snippets_are_found() -> None:
    names = [name.partition("#")[0] for name, _ in snippets()]
    assert names.count("13-your-own-model") >= 2
    assert names.count("SAM") == 3
    assert names.count("HallucinationMonitor") == 1


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch(k: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(k)
    return torch.randn(12, 5, generator=made, dtype=torch.float64), torch.arange(12) % 3


def closure_of(model: nn.Module, optimizer: SAM, names: dict[str, Any]) -> Callable[[], Any]:
    def closure() -> Any:
        optimizer.zero_grad()
        loss = cross_entropy(model(names["inputs"]), names["targets"])
        loss.backward()
        return loss

    return closure


class Trainer:
    """The hooks of Lightning that the callback of the chapter uses."""

    def __init__(self, callback: Any, optimizer: SAM) -> None:
        self.callback, self.optimizers, self.should_stop = callback, [optimizer], False
        self.logged: list[tuple[str, float]] = []
        callback.on_train_start(self, self)

    def log(self, name: str, value: float) -> None:
        self.logged.append((name, value))

    def step(self, closure: Callable[[], Any], k: int) -> None:
        self.optimizers[0].step(closure)
        self.callback.on_train_batch_end(self, self, None, None, k)


def lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the package, which is not among the requirements."""
    module: Any = types.ModuleType("lightning.pytorch.callbacks")
    module.Callback = type("Callback", (), {})
    for name in ("lightning", "lightning.pytorch"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "lightning.pytorch.callbacks", module)


@pytest.mark.parametrize(("name", "code"), snippets())
def test_a_snippet_in_a_loop_is_sam(name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lightning(monkeypatch)
    # What makes objects is done once, the rest in each round.
    once = [line for line in code.splitlines() if re.match(r"(optimizer|monitor) = ", line)]
    rest = "\n".join(line for line in code.splitlines() if line not in once)
    model = network()
    names: dict[str, Any] = {"torch": torch, "model": model, "loss_fn": cross_entropy}
    names |= {"SAM": SAM, "HallucinationMonitor": HallucinationMonitor}
    names["scaler"] = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    names["optimizer"] = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.1, momentum=0.9)
    exec("\n".join(line for line in once if line.startswith("optimizer")), names)
    optimizer = names["optimizer"]
    names["monitor"] = HallucinationMonitor(optimizer, every=1)
    exec("\n".join(line for line in once if line.startswith("monitor")), names)
    twin, reference = copy.deepcopy((model, optimizer))
    trainer = None
    for k in range(LOOPS):
        names["inputs"], names["targets"] = batch(k)
        names["batches"] = [batch(k)]
        names["micro_batches"] = list(zip(*(t.split(4) for t in batch(k)), strict=True))
        names["closure"] = closure_of(model, optimizer, names)
        exec(rest, names)
        if "def closure" in rest and "optimizer.step" not in rest:
            optimizer.step(names["closure"])
        callbacks = [v for v in names.values() if isinstance(v, type) and "(Callback)" in rest]
        made = [c for c in callbacks if c.__name__ in re.findall(r"class (\w+)\(Callback\)", rest)]
        if made:
            trainer = trainer or Trainer(made[0](), optimizer)
            trainer.step(names["closure"], k)
        loss = reference.step(closure_of(twin, reference, names))
        assert optimizer.steps == reference.steps == k + 1
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(p, q, rtol=1e-12, atol=1e-13), name
        if re.search(r"^ *monitor\.record", rest, re.M):
            reading = names["monitor"].reading
            assert (reading.step, reading.loss) == (k + 1, pytest.approx(loss.item()))
    assert trainer is None or [key for key, _ in trainer.logged] == ["grad_ratio"] * LOOPS
