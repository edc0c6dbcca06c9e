"""Certificates proved again: what is remembered, and when a proof must be repeated."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from samlib.certify import rechecks
from samlib.certify.certificate import Certificate
from samlib.certify.proof import NotCertified
from samlib.errors import BadInput

STORED = Path(__file__).resolve().parents[3] / "book" / "certificates"


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The proofs that are made: an entry each time, and nothing remembered from elsewhere."""
    made: list[str] = []
    prove = Certificate.recheck
    monkeypatch.setattr(Certificate, "recheck", lambda self: made.append("proof") or prove(self))
    monkeypatch.setattr(rechecks, "_known", set())
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(STORED / "twist.json", tmp_path))


def test_a_proof_is_made_once(
    path: Path, tmp_path: Path, proofs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = tmp_path / "memory"
    for _ in range(2):
        assert "does not attract" in rechecks.proved_again(path, memory).proved
    assert len(proofs) == 1
    monkeypatch.setattr(rechecks, "_known", set())  # another process
    rechecks.proved_again(path, memory)
    assert len(proofs) == 1
    monkeypatch.setattr(rechecks, "_known", set())
    rechecks.proved_again(path, tmp_path / "other")
    assert len(proofs) == 2
    path.write_text(path.read_text() + "\n")  # another file
    rechecks.proved_again(path, memory)
    assert len(proofs) == 3
    monkeypatch.setattr(rechecks, "prover", lambda: b"another prover")
    rechecks.proved_again(path, memory)
    assert len(proofs) == 4


def test_what_fails_is_not_remembered(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Certificate) -> bool:
        raise NotCertified("precision", "no luck")

    monkeypatch.setattr(rechecks, "_known", set())
    for recheck in (fail, lambda self: False, fail):
        monkeypatch.setattr(Certificate, "recheck", recheck)
        with pytest.raises(BadInput, match=r"certificate twist.json is not proved again"):
            rechecks.proved_again(path, tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


def test_a_place_that_cannot_be_written_costs_no_proof(
    path: Path, tmp_path: Path, proofs: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    for _ in range(2):
        rechecks.proved_again(path, tmp_path / "file" / "memory")
    assert len(proofs) == 1


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path, proofs: list[str]) -> None:
    path = tmp_path / "c.json"
    path.write_text("{}")
    with pytest.raises(BadInput, match=r"c.json is no certificate"):
        rechecks.proved_again(path, tmp_path)


@pytest.mark.slow
def test_the_digest_covers_all_code_that_a_proof_runs() -> None:
    """Whatever of samlib is imported while certificates of all kinds are loaded and proved."""
    code = f"""
import sys
from samlib import Certificate
for name in ("twist", "tanh-2-3-1-flip-0", "digits-3v8"):
    Certificate.load({str(STORED)!r} + f"/{{name}}.json").recheck()
print(*(m.partition(".")[2] for m in sys.modules if m.startswith("samlib.")))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(run.stdout.split()) <= set(rechecks.modules())


def test_another_version_is_another_prover(monkeypatch: pytest.MonkeyPatch) -> None:
    before = rechecks.prover.__wrapped__()
    assert rechecks.prover.__wrapped__() == before
    monkeypatch.setattr(rechecks.metadata, "version", lambda name: f"{name} 99")
    assert rechecks.prover.__wrapped__() != before
    monkeypatch.undo()
    changed = rechecks.modules() | {"certify.proof": b""}
    monkeypatch.setattr(rechecks, "modules", lambda: changed)
    assert rechecks.prover.__wrapped__() != before
