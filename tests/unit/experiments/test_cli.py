"""The command line as its user meets it: exit codes, one-line errors, JSON, records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest

from samlib.cli import main
from samlib.errors import BadInput
from samlib.training import data

SMALL = ["run", "--n", "60", "--width", "4", "--steps", "40", "--rho", "0.5", "--lr", "0.05"]
KEYS = {
    "verdict", "loss", "grad_norm", "grad_ratio", "loss_gap", "train_accuracy", "test_accuracy",
    "shifted_loss", "steps", "wall_time_s", "spec", "data", "provenance",
}  # fmt: skip


def test_json_is_one_object_with_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    result = json.loads(out)
    assert set(result) >= KEYS
    assert set(result["data"]) >= {"name", "n", "sha256"}
    assert result["steps"] == 40
    assert result["spec"]["rho"] == 0.5


def test_the_same_seed_gives_the_same_numbers_twice(capsys: pytest.CaptureFixture[str]) -> None:
    results = []
    for _ in range(2):
        main([*SMALL, "--json"])
        result = json.loads(capsys.readouterr().out)
        for key in ("wall_time_s", "provenance"):
            del result[key]
        results.append(json.dumps(result))
    assert results[0] == results[1]


def test_plain_output_names_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SMALL) == 0
    out = capsys.readouterr().out
    assert out.startswith("verdict")
    assert "GradRatio" in out


def test_a_run_that_diverges_keeps_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = [*SMALL, "--lr", "1000", "--weight-decay", "1", "--steps", "300"]
    assert main([*wild, "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "diverged"
    (line,) = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert json.loads(line)["verdict"] == "diverged"
    assert len(list((tmp_path / "curves").glob("*.npz"))) == 1


BAD = [
    (["--rho", "-1"], "rho = -1.0"),
    (["--rho", "nan"], "rho = nan"),
    (["--rho", "1e300"], "rho = 1e+300"),
    (["--rho", "wide"], "--rho: invalid float value: 'wide'"),
    (["--lr", "0"], "lr = 0.0"),
    (["--lr", "inf"], "lr = inf"),
    (["--steps", "0"], "steps = 0"),
    (["--steps", "1e3"], "--steps: invalid int value"),
    (["--steps", "99999999999"], "steps = 99999999999"),
    (["--data", "imagenet"], "imagenet"),
    (["--model", "vgg"], "model 'vgg'"),
    (["--rule", "adam"], "rule 'adam'"),
    (["--n", "5000"], "5000"),
    (["--classes", "3"], "classes"),
    (["--classes", "3,x"], "--classes: '3,x' is not whole numbers"),
    (["--features", "pca:0"], "pca:0"),
    (["--label-noise", "1.5"], "1.5"),
    (["--loss", "logistic"], "2 classes"),
    (["--width", "0"], "width = 0"),
    (["--threads", "0"], "threads = 0"),
    (["--batch", "0"], "batch = 0"),
    (["--device", "abacus"], "device 'abacus'"),
    (["--frobnicate"], "--frobnicate"),
]


@pytest.mark.parametrize(("options", "named"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_bad_input_is_one_line_and_exit_code_2(
    options: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, *options, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("samlib: error: ")
    assert named in captured.err
    assert not (tmp_path / "out" / "curves").exists() or not any(
        (tmp_path / "out" / "curves").iterdir()
    )


def test_cuda_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert main([*SMALL, "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_an_unwritable_output_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("kept")
    assert main([*SMALL, "--out", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


def test_absent_data_says_how_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--data", "mnist", "--data-root", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "samlib data mnist --download" in err


@pytest.mark.slow
def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "samlib", "run", "--rho", "-1"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("samlib: error: rho = -1.0")


EXPERIMENT = """
question = "Does a small sweep work?"
claims = []
expected_minutes = 0.1
[fixed]
n = 40
width = 3
steps = 30
[grid]
rho = [0.0, 0.5]
seed = [0, 1]
"""


def test_a_sweep_is_recorded_once_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiments").mkdir()
    path = tmp_path / "experiments" / "tiny.toml"
    path.write_text(EXPERIMENT)
    assert main(["sweep", str(path)]) == 0
    runs = tmp_path / "records" / "tiny" / "runs.jsonl"
    lines = runs.read_text().splitlines()
    assert len(lines) == 4
    assert "4 runs trained" in capsys.readouterr().out
    assert {p.name for p in runs.parent.glob("*.npz")} == {"curves.npz"}  # packed when done
    runs.write_text("\n".join(lines[:3]) + "\n")  # as if stopped before the last run
    assert main(["sweep", str(path)]) == 0
    assert "1 runs trained, 3 already recorded" in capsys.readouterr().out
    again = [json.loads(x) for x in runs.read_text().splitlines()]
    assert [r["id"] for r in again] == [json.loads(x)["id"] for x in lines]
    assert again[3]["metrics"]["loss"] == json.loads(lines[3])["metrics"]["loss"]


@pytest.mark.parametrize(
    ("text", "named"), [("[grid", "tiny.toml"), ("[grid]\nradius = [1]", "radius")]
)
def test_a_bad_experiment_file(
    text: str, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(text)
    assert main(["sweep", str(path), "--out", str(tmp_path / "r")]) == 2
    assert named in capsys.readouterr().err
    assert main(["sweep", str(tmp_path / "none.toml")]) == 2


LONG = "9" * 5000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "--classes", "x"], "'x' is not whole numbers with commas"),
        (["run", "--batch", "half"], "'half' is not a whole number of examples, or full"),
        (["run", "--out", ""], "the name is empty"),
        (["sweep", "x.toml", "--out", ""], "the name is empty"),
        (["run", "--features", f"pca:{LONG}"], "is not known; use standard"),
        (["run", "--data", f"modular-addition-{LONG}"], "cannot be read: File name too long"),
        (["run", "--data", "/"], "/"),
        (["run", "--data-root", "~nosuchuser", "--data", "mnist"], "names no user's folder"),
        (["run", "--rho", "1e400"], "rho = inf"),
        (["data", "{fifo}"], "neither a folder nor a file"),
        (["data", "{file}"], None),
        (["sweep", "{folder}"], ""),
        (["claims", "--check", "{fifo}"], "is no file"),
    ],
    ids=lambda v: " ".join(v)[:40] if isinstance(v, list) else "",
)
def test_unusable_input_is_one_line_at_once(
    argv: list[str], said: str | None, tmp_path: Path
) -> None:
    """In a process of its own, so that a hang is one."""
    places = {"fifo": tmp_path / "fifo", "folder": tmp_path, "file": tmp_path / "no.zip"}
    os.mkfifo(places["fifo"])
    places["file"].write_text("no zip")
    command = [sys.executable, "-m", "samlib", *(a.format(**places) for a in argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if said is None:
        assert "corrupt" in done.stdout
        return
    assert done.returncode == 2, done.stderr[-500:]
    assert len(done.stderr.splitlines()) == 1, done.stderr[-500:]
    assert said in done.stderr
    assert len(done.stderr) < 1000


def test_files_without_rights_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As root every file can be read, so a folder takes the place of a file."""
    raw = tmp_path / "MNIST" / "raw"
    (raw / "train-images-idx3-ubyte").mkdir(parents=True)
    assert main(["data", "mnist", "--verify", "--data-root", str(tmp_path)]) == 1
    assert "is missing" in capsys.readouterr().out
    assert main(["data", "mnist", "--verify", "--data-root", str(tmp_path / "none")]) == 1


def test_an_unreadable_data_set_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    (tmp_path / "images.zip").write_bytes(b"")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert main(["run", "--data", str(tmp_path / "images.zip")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be read: Permission denied" in line


def test_a_question_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "experiments" / "esc.toml"
    path.parent.mkdir()
    small = "[fixed]\nn = 60\nwidth = 4\nsteps = 2\nlr = 0.1\n[grid]\nrho = [1.0]\n"
    path.write_text('question = "\\u001b]0;title\\u0007 red \\u001b[31m?"\n' + small)
    assert main(["sweep", str(path)]) == 2
    shown = "".join(capsys.readouterr())
    assert "write it in one line" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_a_zip_with_one_name_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("train/a/1.png", b"x")
    with pytest.raises(BadInput, match=r"holds .* twice"):
        data.load_data(path)
