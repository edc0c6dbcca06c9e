"""Stored certificates proved again, each once: one of 523 parameters takes half a minute.

What was proved is remembered under a hash of the certificate, of the prover's code and of its
versions. Whatever of these changes, the proof is repeated.
"""

from __future__ import annotations

import ast
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


@cache
def modules() -> dict[str, bytes]:
    """The source of the prover and of all of samlib that it imports, directly or not."""
    sources: dict[str, bytes] = {}
    todo = ["certify.certificate"]
    while todo:
        name = todo.pop()
        path = HERE.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name not in sources and path.is_file():
            sources[name] = path.read_bytes()
            for node in ast.walk(ast.parse(sources[name])):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("samlib."):
                    module = str(node.module).removeprefix("samlib.")
                    todo += [module, module.split(".")[0]]
                    todo += [f"{module}.{alias.name}" for alias in node.names]
    return sources


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
