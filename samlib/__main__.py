"""``python -m samlib`` is the same as ``samlib``."""

from __future__ import annotations

from samlib.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
