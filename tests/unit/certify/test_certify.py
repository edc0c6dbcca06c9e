"""Certificates: what is claimed is true by independent means, and what is not true is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy

flint = pytest.importorskip("flint")

from samlib.certify import stored_loss  # noqa: E402
from samlib.certify.ball_arithmetic import ball, balls, precision  # noqa: E402
from samlib.certify.ball_landscape import in_balls  # noqa: E402
from samlib.certify.certificate import Certificate, prove  # noqa: E402
from samlib.certify.enclosures import (  # noqa: E402
    Inertia,
    ShiftedGradient,
    contraction,
    discs,
    inertia,
    krawczyk,
    two_norm,
)
from samlib.certify.exact_network import NetworkLoss  # noqa: E402
from samlib.certify.proof import (  # noqa: E402
    Basin,
    NotCertified,
    Proof,
)
from samlib.certify.rechecks import modules, proved_again  # noqa: E402
from samlib.errors import BadInput  # noqa: E402
from samlib.landscapes import symbolic  # noqa: E402
from samlib.landscapes.symbolic import Landscape  # noqa: E402
from samlib.points import (  # noqa: E402
    search,
    stability,
)

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "book" / "certificates"
EXISTS = {"exists", "unique", "gradient is nonzero"}
WELL = symbolic.landscape("double-well-2d")


def sam_step(landscape: Any, x: Any, rho: float, eta: float) -> Any:
    g = landscape.grad(x)
    return x - eta * landscape.grad(x + rho * g / np.linalg.norm(g, axis=-1, keepdims=True))


def toy() -> NetworkLoss:
    """A tanh 2-3-1 network on eight points."""
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(size=(8, 2)), 3)
    y = np.round(np.sin(2 * x[:, 0]) + x[:, 1] ** 2 - 0.5, 3)
    return NetworkLoss(x, y, 3, loss="mse", decay="1/100")


# ---- landscapes whose answers are known exactly -------------------------------------------------


def test_the_attracting_point_without_any_maximizer() -> None:
    c = prove(WELL, [0.2, 0.0], 1.2)
    assert c.proved == EXISTS | {"image is minimizer", "attracts", "basin"}
    assert c.rho == Fraction(6, 5)
    assert c.box_radius >= 1e-3
    assert c.inertia == Inertia(2, 0)
    # the exact values are 8/29, 2 and f'(1/5) = −24/125
    assert 0 <= Fraction(8, 29) - Fraction(c.eta_max) < Fraction(1, 10**6)
    assert 0 <= 2 - Fraction(c.min_real_part) < Fraction(1, 10**5)
    assert 0 <= Fraction(24, 125) - Fraction(c.grad_norm) < Fraction(1, 10**6)
    assert abs(Fraction(c.centre[0]) - Fraction(1, 5)) <= Fraction(c.radius)
    assert c.digits >= 25
    np.testing.assert_allclose(c.image, [-1, 0], atol=1e-15)
    assert c.recheck()


def test_a_saddle_as_attracting_image() -> None:
    c = prove(symbolic.landscape("double-well-saddle"), [0.2, 0.0], "6/5")
    assert c.proved >= EXISTS | {"image is saddle", "attracts"}
    assert c.inertia == Inertia(1, 1)
    assert c.eta_max == pytest.approx(8 / 21, abs=1e-6)


def test_a_minimizer_as_image_of_a_point_that_repels() -> None:
    c = prove(symbolic.landscape("twist"), [1.0, 0.0], 1)
    assert c.proved == EXISTS | {"image is minimizer", "does not attract"}
    assert c.eta_max is None
    assert c.basin is None
    assert c.min_real_part == pytest.approx(-1, abs=1e-5)


def test_one_dimension() -> None:
    c = prove(symbolic.landscape("double-well"), [0.2], 1.2)
    assert c.proved >= EXISTS | {"image is minimizer", "attracts"}
    assert c.eta_max == pytest.approx(1, abs=1e-6)


def test_the_proved_digits_are_those_of_mpmath() -> None:
    x, y = sympy.symbols("x y")
    f = sympy.cos(2 * x) + x * y / 3 + (y**2 - 1) ** 2 / 4 + x**2 / 5
    landscape, rho = Landscape(f, [x, y]), Fraction(6, 5)
    found = [
        p
        for c in search.critical_points(landscape, [(-3, 3), (-3, 3)])
        for p in search.find_hallucinated(landscape, c.x, float(rho))
    ]
    c = prove(landscape, found[0].x, rho)
    gradient = sympy.lambdify((x, y), [f.diff(x), f.diff(y)], "mpmath")

    def shifted(a: Any, b: Any) -> Any:
        g = gradient(a, b)
        r = mpmath.mpf(6) / 5 / mpmath.sqrt(g[0] ** 2 + g[1] ** 2)
        return gradient(a + r * g[0], b + r * g[1])

    with mpmath.workdps(60):
        root = mpmath.findroot(shifted, tuple(mpmath.mpf(v) for v in found[0].x))
        for decimal, exact in zip(c.centre, root, strict=True):
            assert abs(mpmath.mpf(decimal) - exact) <= c.radius


def test_starts_in_the_basin_converge_and_eta_max_is_sharp() -> None:
    c = prove(WELL, [0.2, 0.0], 1.2)
    assert c.basin is not None
    assert c.basin.radius > 1e-4
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) / np.sqrt(2) * c.basin.radius
    for eta in (0.05, 0.1, c.basin.eta):
        x = c.x_h + corners
        for _ in range(500):
            x = sam_step(WELL, x, 1.2, eta)
        np.testing.assert_allclose(x, np.tile(c.x_h, (4, 1)), atol=1e-9)
    x = c.x_h + 1e-4 * corners
    for _ in range(600):
        x = sam_step(WELL, x, 1.2, 1.05 * c.eta_max)
    assert np.abs(x - c.x_h).max() > 10 * c.basin.radius


def test_proofs_agree_with_float_classification_of_random_polynomials() -> None:
    powers, certified = [(i, j) for i in range(4) for j in range(4 - i) if i + j > 0], 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        terms = [f"{rng.integers(-9, 10)}*x**{i}*y**{j}/10" for i, j in powers]
        landscape = Landscape(" + ".join(["x**4/4 + y**4/4", *terms]), ["x", "y"])
        for image in search.critical_points(landscape, [(-3, 3), (-3, 3)]):
            for p in search.find_hallucinated(landscape, image.x, 1.25):
                float_view = stability.classify(landscape, p.x, 1.25)
                c = prove(landscape, p.x, 1.25)
                certified += 1
                assert f"image is {float_view.image_kind}" in c.proved
                assert ("attracts" in c.proved) == (float_view.kind == "attracting")
                if c.eta_max is not None:
                    assert c.eta_max == pytest.approx(float_view.eta_max, rel=1e-6)
    assert certified >= 5


# ---- networks -----------------------------------------------------------------------------------


def test_sign_flips_and_permutations_of_a_tanh_network() -> None:
    net = toy()
    path = FOLDER / "tanh-2-3-1-flip-0.json"
    image = Certificate.load(path).image
    image = image - np.linalg.solve(net.hess(image), net.grad(image))
    assert np.linalg.norm(net.grad(image)) < 1e-14
    for move in (net.flip_unit(image, 1), net.swap_units(image, 0, 2)):
        distance = float(np.linalg.norm(move - image))
        rho = round(0.9995 * distance, 6)
        guess = search.two_point_guess(net, move, image, rho)
        c = prove(net, search.refine(net, guess, image, rho).x, rho)
        assert c.proved >= EXISTS | {"image is minimizer"}
        np.testing.assert_allclose(c.image, image, atol=1e-12)
        # ‖∇f‖ ≈ (D − ρ)/q, the expansion at two critical points
        n = (move - image) / distance
        q = n @ np.linalg.solve(net.hess(move), n)
        assert c.grad_norm == pytest.approx((distance - rho) / q, rel=0.2)


def test_a_larger_network_needs_no_more_than_64_bits() -> None:
    stored = Certificate.load(FOLDER / "digits-012.json")
    c = prove(stored.landscape, stored.x_h, stored.rho, bits=64)
    assert c.proved >= EXISTS | {"image is saddle", "attracts"}
    assert c.eta_max == pytest.approx(stored.eta_max, rel=1e-6)


# ---- refusals -----------------------------------------------------------------------------------


def refusal(*args: Any, **kw: Any) -> NotCertified:
    with pytest.raises(NotCertified) as caught:
        prove(*args, **kw)
    return caught.value


def test_a_kink_that_hides_in_a_root_is_refused(tmp_path: Path) -> None:
    """SAM leaves x = 1 in one step, for x² + |x| around the image 0 has no gradient 0 beside it.

    With the modulus written as a root, its Hessian without the point mass at 0, the point would be
    attracting, with a basin.
    """
    s = "(6*x**5 - 15*x**4 + 10*x**3)"
    for modulus in ("sqrt(x**2)", "(x**2)**0.5", "x**2/sqrt(x**2)"):
        f = Landscape(f"-(x - 1)*{s} + (x**2/2 + {modulus})*(1 - {s})", ["x"])
        x = np.array([1 + 1.1e-5])
        assert abs(sam_step(f, x, 1.0, 0.5)[0] - 1) > 0.4
        assert refusal(f, [1.0], 1).reason == "kink"
    c = Certificate.load(FOLDER / "double-well-2d.json")
    with pytest.raises((BadInput, NotCertified)):
        dataclasses.replace(c, landscape=f, centre=("1",), inertia=None).recheck()
    # where SymPy sees no modulus, as in this zigzag, neither floats nor balls find a derivative
    f = Landscape(f"-(x - 1)*{s} + (x**2/2 + acos(cos(x)))*(1 - {s})", ["x"])
    assert f.smooth
    assert refusal(f, [1.0], 1).reason in ("not finite", "image not stationary")
    with precision(128):
        centre = balls(np.array([1.0]))
        proof = Proof(ShiftedGradient(f, ball(Fraction(1))), centre, 1e-20)
        with pytest.raises(NotCertified):
            proof.claims(1e-20)


def test_a_hair_off_is_refused_and_the_distance_named() -> None:
    error = refusal(WELL, [0.2 + 1e-6, 0.0], 1.2)
    assert error.reason == "too far"
    assert "1e-06 away" in str(error)
    assert prove(WELL, [0.2 + 1e-9, 0.0], 1.2).proved >= EXISTS
    assert prove(WELL, [0.2 + 1e-6, 0.0], 1.2, tol=1e-5).proved >= EXISTS
    stored = Certificate.load(FOLDER / "digits-3v8.json")
    x = stored.x_h.copy()
    x[5] += 1e-6
    assert refusal(stored.landscape, x, stored.rho).reason == "too far"
    # another ρ moves the point: the same x is a hair off for it
    assert refusal(WELL, [0.2, 0.0], 1.2 + 1e-6).reason == "too far"


def test_degenerate_images_are_refused() -> None:
    ring = symbolic.landscape("ring")  # a circle of minimizers: H_* has the eigenvalue 0
    error = refusal(ring, [0.3, 0.4], 1.5)
    assert error.reason == "degenerate image"
    assert "H_*" in str(error)
    quartic = Landscape("x**4/4 - x**6/6 + y**2/2", ["x", "y"])  # f''(0) = 0
    assert refusal(quartic, [1.5, 0.0], 1.5).reason == "degenerate image"


def test_a_hessian_that_is_not_finite_is_refused() -> None:
    assert refusal(Landscape("x + x**1.5", ["x"]), [0.0], 1).reason == "not finite"


def test_newton_gives_up_where_rounding_takes_over() -> None:
    """A gradient that is another by 1e-9 each time: no step is ever small."""
    exact, rng = in_balls(WELL), np.random.default_rng(0)

    class Restless:
        dim, ball_hess = 2, exact.ball_hess

        def ball_grad(self, x: Any) -> Any:
            return [v + 1e-9 * float(rng.normal()) for v in exact.ball_grad(x)]

    error = refusal(Restless(), [0.2, 0.0], 1.2)
    assert error.reason == "precision"
    assert "does not settle" in str(error)


def test_singular_s_is_refused() -> None:
    # Radial: every point of the circle is critical there, so S = 0, but H_* = I.
    radial = Landscape("(x**2 + y**2)/2 - (x**2 + y**2)**2/4", ["x", "y"])
    error = refusal(radial, [1.5, 0.0], 1.5)
    assert error.reason == "singular S"
    assert "det S" in str(error)


def test_other_refusals_say_why() -> None:
    kink = Landscape("Abs(x)", ["x"])
    assert refusal(kink, [0.5], 0.5).reason == "kink"
    assert refusal(WELL, [0.7, 0.4], 1.2).reason == "image not stationary"
    assert refusal(WELL, [1.0, 0.0], 1.2).reason == "stationary"
    assert refusal(WELL, [0.0, 0.0], 1.0).reason == "stationary"


@pytest.mark.parametrize(
    ("x", "rho", "message"),
    [
        ([0.2, np.nan], 1.2, "not finite"),
        ([0.2, np.inf], 1.2, "not finite"),
        ([0.2], 1.2, r"point of shape \(2,\)"),
        ([[0.2, 0.0]], 1.2, r"point of shape \(2,\)"),
        (["a", "b"], 1.2, "not a vector of 2 numbers"),
        ([0.2, 0.0], 0, r"not a number in \(0, ∞\)"),
        ([0.2, 0.0], -1.2, r"not a number in \(0, ∞\)"),
        ([0.2, 0.0], np.nan, "not a finite number"),
        ([0.2, 0.0], np.inf, "not a finite number"),
        ([0.2, 0.0], "wide", "not a finite number"),
        ([0.2, 0.0], "1e400", "float64 can hold"),
        ([0.2, 0.0], Fraction(1, 10**400), "float64 can hold"),
    ],
)
def test_bad_input(x: Any, rho: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        prove(WELL, x, rho)


def test_other_bad_arguments() -> None:
    with pytest.raises(BadInput, match="ball arithmetic"):
        prove(np.sin, [0.2, 0.0], 1.2)
    with pytest.raises(BadInput, match="bits"):
        prove(WELL, [0.2, 0.0], 1.2, bits=20)
    with pytest.raises(BadInput, match="tol"):
        prove(WELL, [0.2, 0.0], 1.2, tol=0)


def test_flints_precision_comes_back() -> None:
    before = flint.ctx.prec
    prove(WELL, [0.2, 0.0], 1.2, bits=200)
    refusal(WELL, [0.2 + 1e-6, 0.0], 1.2, bits=200)
    assert flint.ctx.prec == before
    with pytest.raises(RuntimeError, match="inside"), precision(300):
        raise RuntimeError("inside")
    assert flint.ctx.prec == before


# ---- the pieces cannot prove what is false ------------------------------------------------------


def test_a_box_with_two_roots_is_never_said_to_hold_one() -> None:
    with precision(128):
        centre = balls(np.array([0.2, 0.0]))
        proof = Proof(ShiftedGradient(WELL, ball(Fraction(6, 5))), centre, 1e-20)
        assert proof.separation(6e-3) < 1
        # ∇f vanishes at 0 and −1/5 is hallucinated as well
        assert not proof.separation(0.25) < 1
        assert not proof.separation(0.45) < 1
        with pytest.raises(NotCertified):
            proof.claims(0.45)


def test_sam_from_anywhere_in_the_box_ends_at_the_one_root() -> None:
    c = prove(WELL, [0.2, 0.0], 1.2)
    x = c.x_h + c.box_radius * np.random.default_rng(0).uniform(-1, 1, (50, 2))
    for _ in range(300):
        x = sam_step(WELL, x, 1.2, 0.1)
    np.testing.assert_allclose(x, np.tile(c.x_h, (50, 1)), atol=1e-9)


def random_symmetric(signs: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(len(signs), len(signs))))
    values = np.array(signs) * np.exp(rng.uniform(-4, 4, len(signs)))
    return q * values @ q.T, values


@pytest.mark.parametrize("seed", range(5))
def test_inertia_counts_signs(seed: int) -> None:
    matrix, values = random_symmetric([1, 1, -1, 1, -1, 1, 1], seed)
    with precision(128):
        assert inertia(balls((matrix + matrix.T) / 2)) == Inertia(5, 2)
        wide = balls((matrix + matrix.T) / 2) + flint.arb(0, 1.01 * np.abs(values).min())
        assert inertia(wide) is None  # some matrix in the enclosure is singular
        singular = np.ones((3, 3))
        assert inertia(balls(singular)) is None


@pytest.mark.parametrize("seed", range(5))
def test_discs_hold_the_spectrum_and_give_eta_max(seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(6, 6)) + 3 * np.eye(6)
    with precision(128):
        found = discs(balls(matrix))
        assert found is not None
        values = np.linalg.eigvals(matrix)
        assert found.sizes.sum() == 6
        assert found.real_part == pytest.approx(values.real.min(), abs=1e-10)
        assert found.real_part <= values.real.min() + 1e-13
        assert found.left == (values.real < 0).sum()
        bound = (2 * values.real / abs(values) ** 2).min()
        if bound > 0:
            assert found.eta_max == pytest.approx(bound, abs=1e-10)
        else:
            assert found.eta_max is None
        # a rotation by exactly 90 degrees lies on the axis: nothing is claimed
        turn = discs(balls(np.array([[0.0, 1.0], [-1.0, 0.0]])))
        assert turn is not None
        assert turn.left is None
        assert turn.eta_max is None
        # a Jordan block has no eigenbasis
        jordan = discs(balls(np.array([[1.0, 1.0], [0.0, 1.0]])))
        assert jordan is None or jordan.eta_max is None or jordan.eta_max <= 2


def test_discs_of_an_enclosure_hold_the_spectra_of_its_members() -> None:
    rng = np.random.default_rng(3)
    middle = rng.normal(size=(5, 5)) + 4 * np.eye(5)
    with precision(128):
        found = discs(balls(middle) + flint.arb(0, 1e-3))
        assert found is not None
        radii = [float(r.upper()) for r in found.radii]
    for _ in range(200):
        member = middle + 1e-3 * rng.uniform(-1, 1, (5, 5))
        for value in np.linalg.eigvals(member):
            near = np.minimum(abs(value - found.centres), abs(value - found.centres.conj()))
            assert (near <= radii).any()
        eta = 0.999 * found.eta_max
        assert np.abs(np.linalg.eigvals(np.eye(5) - eta * member)).max() < 1


def test_discs_widened_by_a_change_hold_the_spectra_of_all_such_changes() -> None:
    rng = np.random.default_rng(4)
    middle = rng.normal(size=(5, 5)) + 4 * np.eye(5)
    with precision(128):
        found = discs(balls(middle))
        assert found is not None
        values, vectors = np.linalg.eig(middle)
        assert found.condition >= np.linalg.cond(vectors.real) or (values.imag != 0).any()
        wide = found.around(flint.arb(0.05))
        radius = float(wide.radii[0].upper())
        assert found.eta_max > wide.eta_max
        assert wide.real_part == pytest.approx(found.centres.real.min() - radius, abs=1e-9)
    for _ in range(200):
        change = rng.normal(size=(5, 5))
        member = middle + 0.05 * change / np.linalg.norm(change, 2)
        for value in np.linalg.eigvals(member):
            near = np.minimum(abs(value - found.centres), abs(value - found.centres.conj()))
            assert near.min() <= radius


def test_the_basis_of_a_multiple_eigenvalue_is_well_conditioned() -> None:
    # Two dead units give A the same block twice: LAPACK may pick almost parallel eigenvectors.
    rng = np.random.default_rng(6)
    mix = rng.normal(size=(6, 6)) + 3 * np.eye(6)
    block = np.array([[1.0, 2.0], [-2.0, 1.0]])
    matrix = np.zeros((6, 6))
    matrix[:2, :2] = matrix[2:4, 2:4] = block
    matrix[4:, 4:] = 3 * np.eye(2)
    turned = np.linalg.solve(mix, matrix @ mix)
    order = np.array([5, 2, 0, 4, 3, 1])
    with precision(128):
        found, permuted = discs(balls(turned)), discs(balls(turned[np.ix_(order, order)]))
        assert found is not None
        assert permuted is not None
        assert sorted(found.sizes) == [1, 1, 2, 2]
        assert found.condition <= 6 * np.linalg.cond(mix)
        ratio = float(found.condition) / float(permuted.condition)
        assert 1 / 3 < ratio < 3
        assert float(found.error) < 1e-12
        assert found.real_part == pytest.approx(1, abs=1e-11)
        assert found.eta_max == pytest.approx(min(2 / 5, 2 / 3), abs=1e-11)


def test_two_norm_is_a_bound() -> None:
    matrix = np.random.default_rng(5).normal(size=(4, 4))
    with precision(128):
        bound = float(two_norm(balls(matrix)).upper())
        assert np.linalg.norm(matrix, 2) <= bound <= 3 * np.linalg.norm(matrix, 2)
        # entries whose balls contain 0 do not make it fail
        assert two_norm(balls(np.zeros((2, 2))) + flint.arb(0, 1)) >= 1.9


def test_contraction_bounds_the_spectral_radius_of_the_defect() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(5, 5))
    with precision(128):
        wide = balls(matrix) + flint.arb(0, 0.01)
        bound = contraction(np.linalg.inv(matrix), wide)
        exact = np.abs(np.linalg.inv(matrix)) @ np.full((5, 5), 0.01)
        assert bound >= np.abs(np.linalg.eigvals(exact)).max() - 1e-12
        assert bound <= exact.sum(1).max() * 1.01
        assert contraction(np.zeros((5, 5)), wide) >= 1


def test_krawczyk_needs_a_small_residual_and_a_regular_derivative() -> None:
    with precision(128):
        eye, zero = np.eye(2), balls(np.zeros(2))
        assert krawczyk(zero, balls(eye), eye, 1e-3)
        assert not krawczyk(balls(np.array([2e-3, 0])), balls(eye), eye, 1e-3)
        assert not krawczyk(zero, balls(eye) + flint.arb(0, 0.6), eye, 1e-3)
        assert not krawczyk(zero, balls(eye) * flint.arb("nan"), eye, 1e-3)


# ---- stored certificates ------------------------------------------------------------------------


def test_save_load_recheck(tmp_path: Path) -> None:
    landscape = Landscape("0.25*(x**2 - 1)**2 + 0.3*y**2 + exp(-9*y**2)/100", ["x", "y"], "mine")
    c = prove(landscape, [0.2, 0.0], 1.2)
    c.save(tmp_path / "c.json")
    again = Certificate.load(tmp_path / "c.json")
    assert again.recheck() is True
    for name in ("proved", "rho", "centre", "box_radius", "eta_max", "inertia", "basin", "bits"):
        assert getattr(again, name) == getattr(c, name)
    assert "η_max" in str(again)
    assert str(again) == str(c)


def tampered(name: str, path: Path, change: dict[str, Any]) -> None:
    """Write a stored certificate with some entries changed: 'landscape.x' is x of the landscape."""
    stored = json.loads((FOLDER / f"{name}.json").read_text())
    for key, value in change.items():
        place, *inner = key.split(".")
        if inner:
            stored[place][inner[0]] = value
        else:
            stored[place] = value
    path.write_text(json.dumps(stored))


NAN, INF, MISSING = float("nan"), float("inf"), "digits-012"
CHANGES: list[tuple[str, dict[str, Any]]] = [
    # claims that are stronger than the truth, or of another point
    ("double-well-2d", {"eta_max": 0.2758621}),
    ("double-well-2d", {"grad_norm": 0.1921}),
    ("double-well-2d", {"min_real_part": 2.01}),
    ("double-well-2d", {"inertia": [1, 1, 0]}),
    ("double-well-2d", {"box_radius": 0.5}),
    ("double-well-2d", {"rho": "1200001/1000000"}),
    ("double-well-2d", {"centre": ["0.200001", "0"]}),
    ("double-well-2d", {"proved": ["exists", "image is maximizer"]}),
    ("double-well-2d", {"proved": ["exists", "is beautiful"]}),
    ("double-well-2d", {"basin": {"radius": 0.1, "eta": 0.2, "box": 0.005}}),
    ("double-well-2d", {"landscape.expr": "(x**2 - 1)**2/4 + y**2"}),
    ("twist", {"eta_max": 0.1}),
    ("twist", {"proved": ["exists", "attracts"]}),
    # a radius that is not positive: the point at 11/5 is seen from the other side
    ("double-well-2d", {"rho": "-6/5", "centre": ["2.2", "0"]}),
    ("double-well-2d", {"rho": "0"}),
    ("double-well-2d", {"rho": "6/0"}),
    ("double-well-2d", {"rho": "wide"}),
    ("double-well-2d", {"rho": NAN}),
    ("double-well-2d", {"rho": INF}),
    ("double-well-2d", {"rho": "1e999999999"}),
    ("double-well-2d", {"rho": "1e400"}),
    ("double-well-2d", {"rho": "1e-400"}),
    ("double-well-2d", {"rho": None}),
    ("double-well-2d", {"rho": [1]}),
    # the same number, but not as it is saved
    ("double-well-2d", {"rho": "12/10"}),
    ("double-well-2d", {"rho": 1.2}),
    ("double-well-2d", {"inertia": [2, 0]}),
    ("double-well-2d", {"grad_norm": "0.1919998"}),
    (MISSING, {"landscape.decay": "0.03"}),
    (MISSING, {"landscape.decay": 0.03}),
    # numbers that are none
    *[("double-well-2d", {key: value}) for key in ("eta_max", "min_real_part", "grad_norm")
      for value in (NAN, INF, -INF, "0.1", [0.1], True, 10**400)],
    *[("double-well-2d", {key: value}) for key in ("radius", "box_radius")
      for value in (NAN, INF, 0.0, -1e-28, "1e-28", None, [1e-28])],
    *[("double-well-2d", {"bits": value})
      for value in (-5, 0, 52, 1025, 10**9, 128.0, "x", "128", None, True, NAN)],
    *[("double-well-2d", {"seconds": value}) for value in (NAN, "1", None)],
    *[("double-well-2d", {f"basin.{key}": value}) for key in ("radius", "eta", "box")
      for value in (NAN, INF, -1.0, "1", None)],
    ("double-well-2d", {"basin": [1e-4, 0.1, 1e-3]}),
    ("double-well-2d", {"basin": {"radius": 1e-4}}),
    ("double-well-2d", {"basin.name": 1}),
    ("double-well-2d", {"radius": 1e-2}),  # larger than box_radius
    # wrong shapes
    *[("double-well-2d", {"centre": value}) for value in (
        ["0.2"], ["0.2", "0", "0"], "0.2", {"x": "0.2", "y": "0"}, ["abc", "0"], ["nan", "0"],
        ["inf", "0"], [0.2, 0.0], ["1e999", "0"], ["0.2", None], None, [["0.2", "0"]])],
    *[("double-well-2d", {"inertia": value})
      for value in ([2], [2, 0, 0, 0], [3, 0, 0], [3, -1, 0], ["2", 0, 0], [2.0, 0, 0], 2, "200")],
    *[("double-well-2d", {"proved": value}) for value in ("exists", None, [1], [["exists"]])],
    *[("double-well-2d", {"landscape": value}) for value in (None, [], "x", {"type": "network"})],
    *[("double-well-2d", {"landscape.symbols": value})
      for value in ("xy", ["x"], ["x", "x"], ["x", 1], ["x", "y y"], None, [])],
    *[("double-well-2d", {"landscape.expr": value})
      for value in (None, 7, "", "x**", "x*", "9**9**9**9*x*y", "sqrt(x**2) + y**2", "x**q")],
    ("double-well-2d", {"landscape.name": None}),
    ("double-well-2d", {"landscape.expr": ["x**2"]}),
    ("double-well-2d", {"landscape.more": 1}),
    ("double-well-2d", {"unknown": 1}),
    ("double-well-2d", {"format": 2}),
    # networks
    *[(MISSING, {"landscape.x_denominator": value}) for value in (0, -1000, "1000", 1000.0, None)],
    *[(MISSING, {"landscape.y_denominator": value}) for value in (0, 2, None)],
    *[(MISSING, {"landscape.x": value})
      for value in ([], [[]], [[1, 2, 3, 4]], [["1", 2, 3, 4]] * 60, [[1, 2, 3]] * 60, "x",
                    [[1, 2, 3, 4]] * 59 + [[1, 2]], [[NAN, 2, 3, 4]] * 60, [[0.5, 2, 3, 4]] * 60,
                    [[10**400, 2, 3, 4]] * 60, [[True, 2, 3, 4]] * 60)],
    *[(MISSING, {"landscape.y": value})
      for value in ([], [0] * 59, ["0"] * 60, [-1] * 60, [10**9] * 60, [0.5] * 60, None)],
    *[(MISSING, {"landscape.hidden": value}) for value in (0, -1, 5, "4", 4.0, None, 10**9)],
    *[(MISSING, {"landscape.decay": value})
      for value in ("-3/100", "1/0", NAN, "x", None, "0", "1e400")],
    *[(MISSING, {"landscape.loss": value}) for value in ("hinge", None, ["ce"], "mse")],
    # what it says of its losses, its units and its data
    *[(MISSING, {key: value}) for key in ("loss", "image_loss", "constant_loss")
      for value in (0.5, 0.986121, NAN, "1", True)],
    *[(MISSING, {"live_units": value}) for value in (0, 2, 4, 5, -1, "1", 1.0)],
    *[(MISSING, {"data.classes": value})
      for value in ([0, 1], [0, 1, 3], [1, 2, 3], "012", [0, 1, "2"], [-1, 1, 2], None)],
    *[(MISSING, {"data.features": value}) for value in ("pca:5", "pixels", 4, None, "words")],
    *[(MISSING, {"data.n": value}) for value in (61, 0, "60", None, 60.0)],
    *[(MISSING, {"data.sha256": value}) for value in ("0" * 64, None, 5)],
    *[(MISSING, {"data": value}) for value in ({}, [], "digits", {"n": 60})],
    *[("tanh-2-3-1-flip-0", {key: value})  # data that cannot be made again
      for key, value in (("data.n", 9), ("data.sha256", "0" * 64), ("data.classes", [0, 1]))],
    ("double-well-2d", {"loss": 0.2305}),
    ("double-well-2d", {"image_loss": 1e-8}),
    ("double-well-2d", {"constant_loss": 1.0}),
    ("double-well-2d", {"live_units": 1}),
    ("double-well-2d", {"data": {"set": "digits", "classes": None, "features": None, "n": 1,
                                 "sha256": "0"}}),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "change"), CHANGES, ids=lambda v: str(v)[:60])
def test_a_tampered_certificate_is_refused(
    tmp_path: Path, name: str, change: dict[str, Any]
) -> None:
    tampered(name, tmp_path / "c.json", change)
    with pytest.raises((BadInput, NotCertified)):
        Certificate.load(tmp_path / "c.json").recheck()


def test_untampered_certificates_of_the_table_are_accepted(tmp_path: Path) -> None:
    for name in ("double-well-2d", "twist", MISSING):
        tampered(name, tmp_path / "c.json", {})
        assert Certificate.load(tmp_path / "c.json").recheck()


@pytest.mark.parametrize(
    ("name", "units"),
    [("digits-012", (1, 4)), ("digits-012-two-units", (2, 2)), ("tanh-2-3-1-flip-0", (3, 3)),
     ("digits-ten", (1, 10)), ("digits-ten-523", (1, 19)), ("twist", (None, None))],
)  # fmt: skip
def test_live_units_are_counted(name: str, units: tuple[int | None, int | None]) -> None:
    c = Certificate.load(FOLDER / f"{name}.json")
    assert (c.live_units, getattr(c.landscape, "hidden", None)) == units
    if c.live_units is not None:
        first, second = c.landscape.blocks(c.x_h)
        size = np.abs(first).max(1) + np.abs(second[:, :-1]).max(0)
        assert (size > 1e-3).sum() == c.live_units
        assert (size < 1e-80).sum() == c.landscape.hidden - c.live_units


def test_a_unit_is_said_to_be_zero_only_if_its_mirror_image_lies_in_the_box() -> None:
    c = Certificate.load(FOLDER / "digits-012.json")
    with precision(128):
        centre = np.array([ball(Fraction(v)) for v in c.centre], dtype=object)
        off = centre.copy()
        dead = next(j for j in range(4) if abs(c.x_h[c.landscape.parameters_of(j)]).max() < 1e-80)
        off[c.landscape.parameters_of(dead)[0]] += ball(Fraction(9, 10**29))
        proof = Proof(ShiftedGradient(c.landscape, ball(c.rho)), off, 1e-28)
        assert proof._live_units(1.5e-28) is None  # 0 and twice 9e-29 lie in the larger box alone
        assert proof._live_units(3e-28) == 1
        off[c.landscape.parameters_of(dead)[0]] += ball(Fraction(9, 10**29))
        assert proof._live_units(1e-20) == 2


def test_what_is_said_of_data_must_fit_the_loss() -> None:
    net = Certificate.load(FOLDER / "digits-012.json").landscape
    kept = stored_loss.describe_data(net, {"set": "mine", "classes": [7, 8, 9]})
    assert kept is not None
    assert (kept["n"], kept["features"], len(kept["sha256"])) == (60, None, 64)
    for about in ({"set": 5}, {"features": 4}, {"features": "pca:5"}, {"classes": [0, 1]},
                  {"classes": [0, 1, "2"]}, {"classes": [-1, 1, 2]}, {"sets": "mine"}):  # fmt: skip
        with pytest.raises(BadInput):
            stored_loss.describe_data(net, about)
    assert stored_loss.describe_data(WELL, None) is None
    with pytest.raises(BadInput, match="has none"):
        stored_loss.describe_data(WELL, {"set": "mine"})


def test_losses_are_the_losses() -> None:
    for name in ("double-well-2d", "tanh-2-3-1-flip-0", "digits-012", "digits-3v8"):
        c = Certificate.load(FOLDER / f"{name}.json")
        assert c.loss == pytest.approx(float(c.landscape.f(c.x_h)), abs=1e-9)
        assert c.image_loss == pytest.approx(float(c.landscape.f(c.image)), abs=1e-9)
    labels = np.array(json.loads((FOLDER / "digits-3v8.json").read_text())["landscape"]["y"])
    share = labels.mean()
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert c.constant_loss == pytest.approx(entropy, abs=1e-9)
    assert c.data is not None
    assert c.data["set"] == "digits"
    assert c.data["classes"] == [3, 8]


def test_every_stored_certificate_says_all_that_it_can() -> None:
    for path in FOLDER.glob("*.json"):
        c = Certificate.load(path)
        network = isinstance(c.landscape, NetworkLoss)
        assert None not in (c.loss, c.image_loss)
        assert (None not in (c.constant_loss, c.live_units, c.data)) == network


@pytest.mark.parametrize("key", json.loads((FOLDER / "digits-012.json").read_text()))
def test_only_what_describes_a_certificate_may_be_missing(tmp_path: Path, key: str) -> None:
    stored = json.loads((FOLDER / "digits-012.json").read_text())
    del stored[key]
    (tmp_path / "c.json").write_text(json.dumps(stored))
    if key in ("data", "loss", "image_loss", "constant_loss", "live_units"):
        assert getattr(Certificate.load(tmp_path / "c.json"), key) is None
    else:
        with pytest.raises(BadInput):
            Certificate.load(tmp_path / "c.json")


def test_a_certificate_of_impossible_values_cannot_be_made_in_python_either() -> None:
    c = Certificate.load(FOLDER / "double-well-2d.json")
    impossible: dict[str, list[Any]] = {
        "rho": [Fraction(-6, 5)],
        "radius": [NAN, 0, 1.0],  # 1 is more than the box
        "bits": [-5, True],
        "centre": [("a", "b"), ("1e999", "0"), ("0.2",)],
        "inertia": [Inertia(3, 0), Inertia(3, -1)],
        "live_units": [1],
        "eta_max": [NAN, 0.0],
        "basin": [Basin(NAN, 0.1, 0.1), Basin(0.1, 0.0, 0.1)],
        "data": [{"set": None, "classes": None, "features": None, "n": 1, "sha256": "0"}],
    }
    for name, values in impossible.items():
        for value in values:
            with pytest.raises(BadInput):
                dataclasses.replace(c, **{name: value})


@pytest.mark.parametrize(
    "expr", ["__import__('os').getcwd()", "x.func", "open(x)", "lambda x: x", "x[0]", "eval(x)"]
)
def test_a_strangers_expression_is_not_evaluated(tmp_path: Path, expr: str) -> None:
    stored = json.loads((FOLDER / "double-well-2d.json").read_text())
    stored["landscape"]["expr"] = expr
    (tmp_path / "c.json").write_text(json.dumps(stored))
    with pytest.raises(BadInput):
        Certificate.load(tmp_path / "c.json")


def test_files_that_are_no_certificates_are_refused(tmp_path: Path) -> None:
    texts = ["not json", "{}", "[]", '{"format": 2}', "", "[" * 100_000, '{"format": 1}', "NaN"]
    for k, text in enumerate([*texts, "1" * 5000, '{"format": ' + "1" * 5000 + "}"]):
        (tmp_path / f"{k}.json").write_text(text)
        with pytest.raises(BadInput):
            Certificate.load(tmp_path / f"{k}.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("bytes.json", "pipe.json", "nothing.json", "."):
        with pytest.raises(BadInput):
            Certificate.load(tmp_path / name)


def test_only_what_can_be_stored_is_stored(tmp_path: Path) -> None:
    c = prove(WELL, [0.2, 0.0], 1.2)
    nameless = dataclasses.replace(c, landscape=ShiftedGradient(WELL, 1))
    with pytest.raises(BadInput, match="cannot be stored"):
        nameless.save(tmp_path / "c.json")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda p: p.stem)
def test_every_stored_certificate_is_proved_again(path: Path) -> None:
    assert path.stat().st_size < 1_000_000
    c = proved_again(path, ROOT / "build" / "rechecked")
    assert c.proved >= EXISTS
    assert c.seconds < 120


@pytest.mark.slow
def test_the_memory_of_proofs_knows_all_of_the_prover() -> None:
    """Whatever of samlib a proof imports is in the digest under which it is remembered."""
    code = (
        "import sys; from samlib import Certificate\n"
        f"for name in ('double-well-2d', 'digits-012'):\n"
        f"    Certificate.load({str(FOLDER)!r} + f'/{{name}}.json').recheck()\n"
        "print(*sorted(m[7:] for m in sys.modules if m.startswith('samlib.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= set(modules())
