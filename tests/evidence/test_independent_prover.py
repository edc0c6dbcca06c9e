"""A prover that shares no line with samlib confirms each stored network certificate."""

from __future__ import annotations

import ast
import copy
import importlib.util
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

flint = pytest.importorskip("flint")

from samlib.certify.ball_arithmetic import balls, precision  # noqa: E402
from samlib.certify.certificate import Certificate  # noqa: E402
from samlib.certify.exact_network import NetworkLoss  # noqa: E402

FOLDER = Path(__file__).parents[2] / "book" / "certificates"
SOURCE = FOLDER / "prove_again.py"
STORED = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
NETWORKS = [name for name, c in STORED.items() if c["landscape"]["type"] == "network"]
LIVE = {"digits-012-two-units": 2} | dict.fromkeys([n for n in NETWORKS if "tanh" in n], 3)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prove_again", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prover = load()


def test_there_are_twelve_networks() -> None:
    assert len(NETWORKS) == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_it_confirms_each_stored_network(name: str) -> None:
    stored = STORED[name]
    before = flint.ctx.prec
    shown = prover.prove(stored)
    assert flint.ctx.prec == before
    for key in ("radius", "grad_norm", "inertia", "min_real_part", "eta_max", "basin"):
        assert shown[key] == stored[key]
    assert shown["live_units"] == LIVE.get(name, 1)
    # The point is alone in a box that holds the basin, and that is smaller than samlib's box.
    assert stored["basin"]["radius"] < float(shown["unique_within"]) < stored["box_radius"]


@pytest.mark.parametrize("name", STORED)
def test_a_printed_bound_is_never_above_the_proved_one(name: str) -> None:
    certificate = Certificate.load(FOLDER / f"{name}.json")
    basin = certificate.basin
    bounds = {
        r"f\(x_h\)‖ ≥ ": certificate.grad_norm,
        r"λ\(A\) ≥ ": certificate.min_real_part if certificate.eta_max else None,
        r"η_max ≥ ": certificate.eta_max,
        r"only one within ": certificate.box_radius,
        r"converges from within ": None if basin is None else basin.radius,
        r"every η ≤ ": None if basin is None else basin.eta,
    }
    for words, proved in bounds.items():
        found = re.findall(words + r"([-+.e\d]*\d)", str(certificate))
        assert len(found) == (proved is not None)
        assert all(float(number) <= proved for number in found if proved is not None)


# ---- what it refuses ----------------------------------------------------------------------------


def put(*keys: Any, to: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    """A change of one entry of a certificate."""

    def change(certificate: dict[str, Any]) -> None:
        at = certificate
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = to(at.get(keys[-1]) if isinstance(at, dict) else at[keys[-1]])

    return change


TAMPERED = {
    "centre moved": (put("centre", 12, to=lambda v: str(Fraction(v) + Fraction("1e-7"))), "zero"),
    "dead weight": (put("centre", 0, to=lambda _: "1e-7"), "zero"),
    "radius below the digits": (put("radius", to=lambda _: 1e-40), "zero"),
    "box as wide as the weights": (put("radius", to=lambda _: 1e-2), "zero"),
    "negative radius": (put("radius", to=lambda v: -v), "positive"),
    "negative rho": (put("rho", to=lambda v: "-" + v), "positive"),
    "another rho": (put("rho", to=lambda _: "7000001/2000000"), "zero"),
    "flipped label": (put("landscape", "y", 0, to=lambda v: (v + 1) % 3), "zero"),
    "changed pixel": (put("landscape", "x", 7, 1, to=lambda v: v + 1), "zero"),
    "another decay": (put("landscape", "decay", to=lambda _: "1/34"), "zero"),
    "eta_max": (put("eta_max", to=lambda v: v + 1e-6), "eta_max"),
    "min_real_part": (put("min_real_part", to=lambda v: v + 1e-6), "min_real_part"),
    "grad_norm": (put("grad_norm", to=lambda v: v + 1e-6), "grad_norm"),
    "inertia": (put("inertia", to=lambda _: [29, 6, 0]), "inertia"),
    "inertia with a zero": (put("inertia", to=lambda _: [28, 6, 1]), "inertia"),
    "basin too large": (put("basin", "radius", to=lambda _: 1e-3), "signs"),
    "basin for a larger step": (put("basin", "eta", to=lambda _: 0.36), "basin"),
    "no step at all": (put("eta_max", to=lambda v: -v), "positive"),
    "basin of no size": (put("basin", "radius", to=lambda _: 0), "positive"),
    "another kind": (put("proved", to=lambda v: [*v, "image is minimizer"]), "no more than"),
    "live units": (put("live_units", to=lambda _: 2), "1 live units"),
    "not a number": (put("grad_norm", to=lambda _: float("nan")), "unusable"),
    "infinite": (put("eta_max", to=lambda _: float("inf")), "unusable"),
    "a word": (put("centre", 3, to=lambda _: "abc"), "unusable"),
    "no denominator": (put("landscape", "x_denominator", to=lambda _: 0), "unusable"),
    "unknown loss": (put("landscape", "loss", to=lambda _: "hinge"), "unusable"),
    "a label below 0": (put("landscape", "y", 0, to=lambda _: -1), "labels"),
    "a label between classes": (put("landscape", "y", 0, to=lambda _: 0.5), "labels"),
    "half labels": (put("landscape", "y_denominator", to=lambda _: 2), "labels"),
    "too few coordinates": (put("centre", to=lambda v: v[:-1]), "one coordinate"),
    "too many coordinates": (put("centre", to=lambda v: [*v, "0"]), "one coordinate"),
    "no basin": (put("basin", to=lambda _: None), "unusable"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_certificate_is_refused(name: str) -> None:
    change, reason = TAMPERED[name]
    certificate = copy.deepcopy(STORED["digits-012"])
    change(certificate)
    with pytest.raises(prover.NotProved, match=reason):
        prover.prove(certificate)


def test_a_landscape_is_not_a_network() -> None:
    with pytest.raises(prover.NotProved, match="unusable"):
        prover.prove(STORED["twist"])


def test_a_flipped_label_of_the_logistic_loss() -> None:
    certificate = copy.deepcopy(STORED["digits-3v8"])
    label = certificate["landscape"]["y"][4]
    certificate["landscape"]["y"][4] = [1 - label[0]] if isinstance(label, list) else 1 - label
    with pytest.raises(prover.NotProved, match="zero"):
        prover.prove(certificate)
    certificate["landscape"]["y"][4] = [2]
    with pytest.raises(prover.NotProved, match="labels"):
        prover.prove(certificate)


# ---- its parts ----------------------------------------------------------------------------------


def network(loss: str) -> NetworkLoss:
    """A random network with three inputs, two hidden units, seven samples."""
    rng = np.random.default_rng(5)
    x = np.round(rng.normal(size=(7, 3)), 3)
    y: Any = {
        "ce": np.array([0, 1, 2, 0, 1, 2, 1]),
        "logistic": np.array([0, 1, 1, 0, 1, 0, 1]),
        "mse": np.round(rng.normal(size=(7, 2)), 3),
    }[loss]
    return NetworkLoss(x, y, 2, loss=loss, decay=Fraction(1, 50))


def parts(net: NetworkLoss) -> tuple[Any, list[int], list[Any]]:
    """The prover's form of the network, its order of the weights, and a random point."""
    form, places = prover.read(net.to_json())
    theta = np.round(np.random.default_rng(6).normal(size=net.dim), 6)
    return form, places, list(balls(theta))


@pytest.mark.parametrize("loss", ["ce", "logistic", "mse"])
def test_gradient_and_hessian_agree_with_samlibs(loss: str) -> None:
    net = network(loss)
    with precision(192):
        form, places, theta = parts(net)
        assert sorted(places) == list(range(net.dim))
        point = [theta[i] for i in places]
        gradient = prover.derivative(form, point, 1)
        hessian = prover.derivative(form, point, 2)
        ours, theirs = net.ball_grad(theta), net.ball_hess(theta)
        for a, i in enumerate(places):
            pairs = [(gradient[a, 0], ours[i])]
            pairs += [(hessian[a, b], theirs[i][j]) for b, j in enumerate(places)]
            for one, other in pairs:
                assert one.overlaps(other)
                assert abs(one - other) < 1e-20


@pytest.mark.parametrize("loss", ["ce", "logistic", "mse"])
@pytest.mark.parametrize("radius", ["1e-2", "1e-5"])
def test_enclosures_over_a_box_contain_the_values_inside(loss: str, radius: str) -> None:
    rng = np.random.default_rng(7)
    with precision(192):
        form, places, theta = parts(network(loss))
        centre, rho = [theta[i] for i in places], prover.ball("3/2")
        p, zero = len(centre), [0] * len(centre)
        value, norm, image, a = prover.shifted(form, rho, centre, [prover.ball(radius)] * p)
        for _ in range(20):
            moves = rng.choice([-1.0, 1.0, *rng.uniform(-1, 1, 4)], size=p)
            point = [c + prover.ball(radius) * prover.ball(m) for c, m in zip(centre, moves)]  # noqa: B905
            there, length, curvature, derivative = prover.shifted(form, rho, point, zero)
            assert norm.contains(length)
            assert image.contains(curvature)
            assert a.contains(derivative)
            # and A is the derivative of F: the mean value theorem, row by row
            step = flint.arb_mat(p, 1, [x - c for x, c in zip(point, centre)])  # noqa: B905
            assert (value + a * step).contains(there)


def test_pivots_count_eigenvalues() -> None:
    rng = np.random.default_rng(8)
    for _ in range(20):
        matrix = rng.normal(size=(6, 6))
        matrix = matrix + matrix.T
        signs = [e > 0 for e in prover.pivots(flint.arb_mat(matrix.tolist()))]
        assert sum(signs) == (np.linalg.eigvalsh(matrix) > 0).sum()
    singular = flint.arb_mat([[1, 1], [1, 1]])
    with pytest.raises(prover.NotProved, match="signs"):
        prover.pivots(singular)
    undecided = flint.arb_mat([[1, flint.arb(0, 2)], [flint.arb(0, 2), 1]])
    with pytest.raises(prover.NotProved, match="signs"):
        prover.pivots(undecided)


@pytest.mark.parametrize("seed", range(8))
def test_damped_is_sharp_for_the_basis_of_eigenvectors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(7, 7)) + 4 * np.eye(7)
    if seed % 2:  # an eigenvalue of multiplicity 3, as dead pixels and softmax make them
        mix = rng.normal(size=(7, 7))
        matrix = mix @ np.diag([1, 1, 1, 2, 3, 5, 8.0]) @ np.linalg.inv(mix)
    values = np.linalg.eigvals(matrix)
    least, eta = values.real.min(), (2 * values.real / abs(values) ** 2).min()
    assert least > 0
    with precision(192):
        a = flint.arb_mat(matrix.tolist())
        v = prover.basis(a)
        b = v.inv() * a * v

        def holds(b: Any, eta: Any) -> bool:
            try:
                return bool(prover.damped(b, eta))
            except prover.NotProved:
                return False

        eye = flint.arb_mat(7, 7, 1)
        assert holds(b, flint.arb(eta * (1 - 1e-6)))
        assert not holds(b, flint.arb(eta * (1 + 1e-6)))
        assert holds(b - flint.arb(least * (1 - 1e-6)) * eye, 0)
        assert not holds(b - flint.arb(least * (1 + 1e-6)) * eye, 0)


# ---- what it is made of -------------------------------------------------------------------------


def test_it_imports_flint_and_the_standard_library_only() -> None:
    names = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            names.add(node.module.split(".")[0])
        elif isinstance(node, ast.Name):
            assert node.id not in ("__import__", "exec", "eval", "compile", "float")
        elif isinstance(node, ast.Constant):
            assert not isinstance(node.value, float)  # no number is rounded to float64
    assert "flint" in names
    assert names - {"flint"} <= sys.stdlib_module_names
    assert "importlib" not in names


def test_it_has_fewer_than_150_lines_of_code() -> None:
    text = SOURCE.read_text()
    words: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            assert first.end_lineno is not None
            words |= set(range(first.lineno, first.end_lineno + 1))
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    code = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in skipped | {tokenize.ENDMARKER}
        for line in range(token.start[0], token.end[0] + 1)
    }
    assert 100 < len(code - words) < 150
    assert max(map(len, text.splitlines())) <= 100


def test_it_runs_alone(tmp_path: Path) -> None:
    with (FOLDER / "tanh-2-3-1-flip-0.json").open() as file:
        done = subprocess.run(
            [sys.executable, str(SOURCE)],
            stdin=file,
            cwd=tmp_path,
            env={},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    assert "'eta_max': '0.00126465'" in done.stdout


def test_no_decimal_of_the_file_is_rounded() -> None:
    text, number = (FOLDER / "tanh-2-3-1-flip-0.json").read_text(), "0.00126465"
    assert text.count(f'"eta_max":{number}') == 1
    long = number + 20 * "0" + "1"  # as a double it is the shorter number
    done = subprocess.run(
        [sys.executable, str(SOURCE)],
        input=text.replace(f'"eta_max":{number}', f'"eta_max":{long}'),
        env={},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert f"'eta_max': '{long}'" in done.stdout
