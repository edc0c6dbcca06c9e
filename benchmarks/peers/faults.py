"""What each SAM optimizer from PyPI gets right and wrong, measured against the installed package.

Prints the table and writes ``faults.json`` beside itself; ``requirements.txt`` says how to install
the peers, ``checks.py`` holds the questions.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from pathlib import Path
from typing import Any

import torch
from adapters import PEERS, Peer
from checks import CHECKS


def measure(peer: Peer) -> dict[str, dict[str, Any]]:
    """All checks of one peer; an exception counts as a failure, with its text."""
    results = {}
    for name, (_, function) in CHECKS.items():
        try:
            ok, seen = function(peer)
        except Exception as error:
            ok, seen = False, f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        results[name] = {"ok": ok, "seen": seen}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("faults.json"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    table = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "checks": {name: question for name, (question, _) in CHECKS.items()},
        "peers": {
            peer.name: {"version": peer.version, "note": peer.note, "results": measure(peer)}
            for peer in PEERS
        },
    }
    out.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    for name, question in table["checks"].items():
        print(f"\n{question}")
        for peer, row in table["peers"].items():
            seen = row["results"][name]
            mark = {True: "yes", False: "NO", None: "-"}[seen["ok"]]
            print(f"  {peer:18} {row['version']:8} {mark:4} {seen['seen']}")


if __name__ == "__main__":
    main()
