"""Stored certificates proved again, each once: one of 523 parameters takes half a minute.

What was proved is remembered under a hash of the certificate, of the prover's code and of its
versions. Whatever of these changes, the proof is repeated.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

import samlib
from samlib.certify.certificate import Certificate
from samlib.certify.proof import NotCertified
from samlib.errors import BadInput

HERE = Path(samlib.__file__).parent
WINGS = ("landscapes", "points", "training", "certify")


@cache
def modules() -> dict[str, bytes]:
    """The source of all that a proof may import: module names below samlib, and their texts."""
    paths = [HERE / "errors.py", *(p for wing in WINGS for p in (HERE / wing).rglob("*.py"))]
    names = [".".join(p.relative_to(HERE).with_suffix("").parts) for p in paths]
    return {n.removesuffix(".__init__"): p.read_bytes() for n, p in zip(names, paths, strict=True)}


@cache
def prover() -> bytes:
    """A digest of everything but the certificate that a proof depends on."""
    digest = hashlib.sha256(platform.python_version().encode())
    for package in ("python-flint", "numpy", "sympy", "scikit-learn"):
        digest.update(f"{package} {metadata.version(package)}".encode())
    for name, source in sorted(modules().items()):
        digest.update(name.encode() + hashlib.sha256(source).digest())
    return digest.digest()


def proved_again(path: Path, memory: Path) -> Certificate:
    """The certificate in a file, after ``Certificate.recheck`` has proved it.

    ``memory`` is the folder that remembers which proofs have succeeded. BadInput, which names the
    file, if it is no certificate or is not proved again.
    """
    key = hashlib.sha256(prover() + path.read_bytes()).hexdigest()
    certificate = Certificate.load(path)
    if key in _known or (memory / key).is_file():
        return certificate
    try:
        proved = certificate.recheck()
    except NotCertified as error:
        raise BadInput(f"certificate {path.name} is not proved again: {error}") from None
    if proved is not True:
        raise BadInput(f"certificate {path.name} is not proved again")
    _known.add(key)
    try:
        memory.mkdir(parents=True, exist_ok=True)
        (memory / key).write_text(f"{path.name}\n")
    except OSError:
        pass  # a checkout that cannot be written proves it once a process
    return certificate


_known: set[str] = set()
