"""The idea in one file, ``book/minimal.py``: short, alone, and right."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from flint import arb

from samlib import Certificate, classify, critical_points, find_hallucinated, landscape
from samlib import prove as certify
from samlib.certify.exact_network import NetworkLoss

FILE = Path(__file__).resolve().parents[2] / "book" / "minimal.py"
RHO, IMAGE, RADIUS, ETA = 4.5, np.array([3.0, 2.0]), 1e-6, 0.004
F = landscape("himmelblau")
CRITICAL = critical_points(F)


@pytest.fixture(scope="module")
def minimal() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(minimal: ModuleType) -> list[np.ndarray]:
    result: list[np.ndarray] = minimal.hallucinated_points(IMAGE, RHO)
    return result


# --- short and alone ------------------------------------------------------------------------------


def test_it_is_short() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 30, node.name


def test_it_needs_nothing_of_ours() -> None:
    tree, imported = ast.parse(FILE.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported == {"itertools", "numpy", "flint", "scipy", "sklearn"}


# --- part 1: the same numbers as samlib's ---------------------------------------------------------


def test_the_derivatives_are_those_of_himmelblaus_function(minimal: ModuleType) -> None:
    for x in np.random.default_rng(0).uniform(-5, 5, (20, 2)):
        np.testing.assert_allclose(minimal.himmelblau_gradient(x), F.grad(x), rtol=1e-12)
        np.testing.assert_allclose(minimal.himmelblau_hessian(x), F.hess(x), rtol=1e-12)


@pytest.mark.parametrize("rho", [1.0, 2.0, 3.0, RHO, 6.0])
def test_it_finds_the_points_that_samlib_finds(minimal: ModuleType, rho: float) -> None:
    """For the nine critical points as images: where they are, what is proved, who attracts."""
    for image in CRITICAL:
        ours = sorted(minimal.hallucinated_points(image.x, rho), key=tuple)
        theirs = find_hallucinated(F, image.x, rho)
        assert len(ours) == len(theirs)
        for x, point in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(x, point.x, atol=1e-9)
            kind = classify(F, point.x, rho)
            A = minimal.shifted_derivative(x, rho)
            np.testing.assert_allclose(A, kind.A, atol=1e-8 * np.abs(kind.A).max())
            limit = minimal.critical_learning_rate(A)
            assert limit == pytest.approx(kind.eta_max or 0.0, rel=1e-6)
            for factor in (0.999, 1.001):  # of the limit, or of some small learning rate
                eta = factor * (limit or 1e-4)
                facts = list(minimal.prove(x, 1e-9, rho, eta).values())
                assert facts[:3] == [True, True, image.kind == "minimizer"]
                assert facts[3] == (limit > 0 and factor < 1)


def test_the_first_point_attracts_and_the_second_does_not(
    minimal: ModuleType, found: list[np.ndarray]
) -> None:
    assert [classify(F, x, RHO).kind for x in found] == ["attracting", "saddle"]


def test_the_derivative_of_the_shifted_gradient(minimal: ModuleType) -> None:
    """A against central differences of ∇f(x⁺), with samlib's ∇f and the shift written out."""
    h = 1e-6

    def shifted(x: np.ndarray) -> np.ndarray:
        g = F.grad(x)
        result: np.ndarray = F.grad(x + RHO * g / np.linalg.norm(g))
        return result

    for x in np.random.default_rng(1).uniform(-5, 5, (10, 2)):
        steps = h * np.eye(2)
        measured = np.column_stack([(shifted(x + e) - shifted(x - e)) / (2 * h) for e in steps])
        A = minimal.shifted_derivative(x, RHO)
        np.testing.assert_allclose(A, measured, atol=1e-5 * np.abs(A).max())


def test_a_step_of_sam_and_of_gradient_descent(minimal: ModuleType) -> None:
    gradient, x = minimal.himmelblau_gradient, np.array([1.0, -2.0])
    g = gradient(x)
    ascended = x + 0.5 * g / np.linalg.norm(g)
    np.testing.assert_allclose(minimal.ascend(gradient, x, 0.5), ascended, rtol=1e-14)
    np.testing.assert_array_equal(minimal.ascend(gradient, IMAGE, 0.5), IMAGE)  # ∇f = 0 there
    step = x - 0.01 * gradient(ascended)
    np.testing.assert_allclose(minimal.sam(gradient, x, 0.5, 0.01, 1), step, rtol=1e-14)
    np.testing.assert_array_equal(minimal.sam(gradient, x, 0, 0.01, 1), x - 0.01 * g)


# --- part 2: what is proved, and what is refused --------------------------------------------------


def proved(minimal: ModuleType, centre: np.ndarray, radius: float = RADIUS, eta: float = ETA):
    return list(minimal.prove(centre, radius, RHO, eta).values())


def test_the_proof_agrees_with_samlibs_certificate(
    minimal: ModuleType, found: list[np.ndarray]
) -> None:
    assert proved(minimal, found[0]) == [True, True, True, True]
    certificate = certify(F, found[0], 4.5)
    centre = [float(value) for value in certificate.centre]
    np.testing.assert_allclose(centre, found[0], atol=RADIUS / 2)
    assert certificate.box_radius > RADIUS
    assert certificate.eta_max is not None
    # the learning rate that certificate and floating point agree on, from both sides
    assert proved(minimal, found[0], eta=0.9999 * certificate.eta_max)[3]
    assert not proved(minimal, found[0], eta=1.0001 * certificate.eta_max)[3]


def test_a_saddle_point_of_sam_is_proved_to_exist_but_not_to_attract(
    minimal: ModuleType, found: list[np.ndarray]
) -> None:
    assert proved(minimal, found[1]) == [True, True, True, False]


@pytest.mark.parametrize("direction", [(1, 0), (0, 1), (-1, 1)])
def test_a_box_beside_the_zero_is_refused(
    minimal: ModuleType, found: list[np.ndarray], direction: tuple[int, int]
) -> None:
    shift = np.array(direction, dtype=float)
    assert not proved(minimal, found[0] + 3 * RADIUS * shift)[0]
    assert not proved(minimal, found[0] + 1.001 * RADIUS * shift)[0]
    assert proved(minimal, found[0] + 0.9 * RADIUS * shift)[0]  # the zero is in this one


def test_a_box_that_is_too_wide_is_not_proved(minimal: ModuleType, found: list[np.ndarray]) -> None:
    assert not proved(minimal, found[0], radius=1.0)[0]


def test_a_critical_point_of_f_is_refused(minimal: ModuleType) -> None:
    for point in CRITICAL:
        with np.errstate(all="ignore"):
            one_zero, gradient_lives, _, attracts = proved(minimal, point.x)
        assert not one_zero
        assert not gradient_lives
        assert not attracts


def test_random_boxes_hold_a_zero_only_where_there_is_one(
    minimal: ModuleType, found: list[np.ndarray]
) -> None:
    """A box that is said to hold a zero holds one that samlib finds, for any image of it."""
    every = [q.x for p in CRITICAL for q in find_hallucinated(F, p.x, RHO)]
    random, radius, count = np.random.default_rng(2), 1e-3, 0
    for target in every:
        for centre in target + random.uniform(-2 * radius, 2 * radius, (20, 2)):
            inside = [np.abs(x - centre).max() < radius for x in every]
            says = proved(minimal, centre, radius)[0]
            assert not says or sum(inside) == 1
            count += says
    assert count > 0


def test_the_zero_lies_in_the_box_that_krawczyk_computes(
    minimal: ModuleType, found: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """K is closer to the zero than the box, and still holds it: wrong signs would not."""
    computed = []

    class Recorder:
        def __new__(cls, *parts: float) -> arb:
            return arb(*parts)

        @staticmethod
        def contains_interior(wide: arb, narrow: arb) -> bool:
            computed.append((wide, narrow))
            return bool(wide.contains_interior(narrow))

    monkeypatch.setattr(minimal, "arb", Recorder)
    certificate = certify(F, found[0], RHO)
    zero = [arb(value) for value in certificate.centre]
    for shift in (np.array([6e-7, 0.0]), np.array([-3e-7, 5e-7])):
        computed.clear()
        assert proved(minimal, found[0] + shift)[0]
        for (wide, narrow), value in zip(computed, zero, strict=True):
            assert narrow.rad() < 0.01 * wide.rad()
            assert narrow.contains(value)


# --- part 3: the network --------------------------------------------------------------------------


def test_the_loss_is_samlibs(minimal: ModuleType) -> None:
    pixels = minimal.IMAGES
    f = NetworkLoss(pixels, minimal.IS_EIGHT.astype(int), 1, loss="logistic", decay="0.03")
    assert pixels.shape == (100, 64)
    for theta in np.random.default_rng(0).normal(size=(5, 67)):
        assert minimal.loss(theta) == pytest.approx(float(f.f(theta)), rel=1e-12)
        np.testing.assert_allclose(minimal.loss_gradient(theta), f.grad(theta), atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sam_ends_hallucinated_and_gradient_descent_does_not(
    minimal: ModuleType, seed: int
) -> None:
    start = np.random.default_rng(seed).uniform(-1, 1, 67) / np.repeat([8, 1], [65, 2])
    theta = minimal.sam(minimal.loss_gradient, start, 3.5, 0.05, 12_000)
    descent = minimal.sam(minimal.loss_gradient, start, 0, 0.05, 12_000)
    image = minimal.ascend(minimal.loss_gradient, theta, 3.5)
    slope, shifted = (np.linalg.norm(minimal.loss_gradient(x)) for x in (theta, image))
    assert shifted < 1e-12 * slope
    assert slope > 0.1
    # the image is descent's minimizer, or its twin with both signs of the hidden unit changed
    twin = np.concatenate([-descent[:66], descent[66:]])
    assert min(np.linalg.norm(image - d) for d in (descent, twin)) < 1e-6
    assert minimal.loss(theta) > 2.6 * minimal.loss(descent)
    # the certified point of the book, or its twin, is the point of this run
    stored = Certificate.load(FILE.parent / "certificates" / "digits-3v8.json")
    centre = np.array([float(value) for value in stored.centre])
    twin = np.concatenate([-centre[:66], centre[66:]])
    assert stored.basin is not None
    assert min(np.linalg.norm(theta - d) for d in (centre, twin)) < stored.basin.radius


# --- as a program ---------------------------------------------------------------------------------


def test_the_report() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    run = subprocess.run(
        [sys.executable, str(FILE)],
        env=os.environ | one_thread | {"PYTHONPATH": "", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=True,
        cwd="/",
        timeout=120,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20
    assert run.stderr == ""
    assert len(re.findall(r"^ +proved: ", run.stdout, re.M)) == 4
    assert "not proved" not in run.stdout
    assert re.findall(r"attracts (.*)", run.stdout) == ["for 0 < η < 0.004691", "for no η"]
    near, away = map(float, re.findall(r"^ +(\S+) with η", run.stdout, re.M))
    assert near < 1e-10
    assert away > 1e-2
    rows = re.findall(r"^ +(\d+) +(\S+) +(\S+) +(\S+) +(\S+) +(\S+)$", run.stdout, re.M)
    table = np.array(rows, dtype=float)
    np.testing.assert_array_equal(table[:, 0], [0, 500, 1000, 2000, 4000, 8000, 12000])
    assert (np.diff(table[1:, 1]) < 0).all()
    assert table[-1, 1] < 1e-12
    np.testing.assert_allclose(table[-1, 2:], [0.1606, 0.6564, 0.2466, 0.2466], atol=1e-3)
