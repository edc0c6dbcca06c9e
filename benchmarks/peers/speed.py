"""SAM step ÷ (2 × base step) of samlib, of plain loops and of each peer, in the same rounds.

Writes ``speed.json`` beside itself; ``../optim_speed.py`` says how, ``requirements.txt`` where.
torchzero brings base optimizers of its own, so its ratio to torch's is an indication only.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from adapters import PEERS
from optim_speed import OURS, Contender, parse, save, table


def main() -> None:
    contenders: dict[str, Contender] = {
        peer.name: (peer.make, peer.step) for peer in PEERS if peer.name != "samlib"
    }
    args = parse(__doc__, Path(__file__).with_suffix(".json"))
    result = table({**OURS, **contenders}, args)
    result["versions"] = {peer.name: peer.version for peer in PEERS}
    save(result, args.out)


if __name__ == "__main__":
    main()
