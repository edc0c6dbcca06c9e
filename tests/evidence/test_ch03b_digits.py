"""The stored certificates are about real digits, and SAM reaches their points by itself."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

flint = pytest.importorskip("flint")

from samlib.certify.ball_arithmetic import ball, balls, precision  # noqa: E402
from samlib.certify.certificate import Certificate  # noqa: E402
from samlib.certify.enclosures import (  # noqa: E402
    Inertia,
    ShiftedGradient,
    krawczyk,
)
from samlib.certify.exact_network import NetworkLoss  # noqa: E402

ROOT = Path(__file__).parents[2]
PARAMETERS = {
    "digits-3v8": 67,
    "digits-012": 35,
    "digits-012-wide": 99,
    "digits-012-two-units": 139,
    "digits-ten": 200,
    "digits-ten-523": 523,
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """book/certificates/make.py, which holds the settings."""
    path = ROOT / "book" / "certificates" / "make.py"
    spec = importlib.util.spec_from_file_location("made", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["made"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def stored(name: str) -> Certificate:
    return Certificate.load(ROOT / "book" / "certificates" / f"{name}.json")


def symmetric(net: NetworkLoss, theta: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """All images of θ under permutations and sign flips of hidden units."""
    out = []
    first, second = net.blocks(theta)
    for order in itertools.permutations(range(net.hidden)):
        for signs in itertools.product((1, -1), repeat=net.hidden):
            s = np.array(signs)
            columns = [*order, net.hidden]
            out.append(net.flat(first[list(order)] * s[:, None], second[:, columns] * [*s, 1]))
    return out


def nearest(net: NetworkLoss, theta: NDArray[np.float64], to: NDArray[np.float64]) -> float:
    return float(min(np.abs(q - to).max() for q in symmetric(net, theta)))


@pytest.mark.parametrize("name", ["twist", "tanh-2-3-1-flip-0"])
def test_a_stored_certificate_can_be_made_again(
    script: ModuleType, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    script.main([name])
    kept, made = stored(name), Certificate.load(tmp_path / f"{name}.json")
    assert made.landscape.f(made.x_h) == kept.landscape.f(kept.x_h)
    assert made.data == kept.data
    assert (made.rho, made.proved, made.inertia) == (kept.rho, kept.proved, kept.inertia)
    for a, b in zip(made.centre, kept.centre, strict=True):
        assert abs(Fraction(a) - Fraction(b)) <= 2 * Fraction(kept.radius)
    assert made.box_radius == pytest.approx(kept.box_radius, rel=0.1)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_data_inside_are_the_digits(script: ModuleType, name: str) -> None:
    c, net = stored(name), script.DIGITS[name].network()
    assert net.dim == PARAMETERS[name] == len(c.centre)
    assert c.landscape.to_json() == net.to_json()
    assert float(c.rho) == float(script.DIGITS[name].rho)


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_each_certificate_claims(name: str) -> None:
    c = stored(name)
    assert {"exists", "unique", "gradient is nonzero", "attracts", "basin"} <= c.proved
    assert c.inertia is not None
    assert sum(c.inertia) == c.landscape.dim
    assert c.box_radius > 7e-7
    assert c.seconds < 120
    negative = {"digits-012": 7, "digits-012-wide": 15, "digits-ten": 79, "digits-ten-523": 170}
    assert c.inertia.negative == negative.get(name, 0)
    kind = "saddle" if c.inertia.negative else "minimizer"
    assert f"image is {kind}" in c.proved
    # the point is no minimizer in disguise: its loss is far above the image's
    assert c.grad_norm > 0.04
    # float64 agrees with the rigorous bounds
    g, h = c.landscape.grad(c.x_h), c.landscape.hess(c.x_h)
    u = g / np.linalg.norm(g)
    a = c.landscape.hess(c.image) @ (
        np.eye(len(g)) + float(c.rho) / np.linalg.norm(g) * (h - np.outer(u, u @ h))
    )
    values = np.linalg.eigvals(a)
    # stated bounds lie below the truth, by the margin of their seventh digit
    for bound, truth in (
        (c.min_real_part, values.real.min()),
        (c.eta_max, (2 * values.real / abs(values) ** 2).min()),
    ):
        assert bound is not None
        assert 0 < truth - bound < 2e-6 * truth


@pytest.mark.slow
def test_sam_from_another_start_reaches_the_certified_point(script: ModuleType) -> None:
    c = stored("digits-3v8")
    start = script.initial(c.landscape, 13)[[5, 12]]
    theta, ratio, norm = script.sam(c.landscape, start, 3.5, 0.05, 12000)
    assert (ratio < 1e-8).all()
    assert (norm > 0.1).all()
    for end in theta:
        assert nearest(c.landscape, end, c.x_h) < 1e-6


def test_the_image_of_3v8_is_the_mirror_twin_of_gradient_descents_minimizer(
    script: ModuleType,
) -> None:
    c = stored("digits-3v8")
    net = c.landscape
    minimizer = script.minimizer(net, script.initial(net, 1)[0])
    assert c.inertia == Inertia(67, 0)
    assert nearest(net, minimizer, c.image) < 1e-12
    assert np.abs(minimizer - c.image).max() > 0.1  # the twin, not this minimizer itself
    assert net.f(c.x_h) > 2.6 * net.f(minimizer)
    assert net.accuracy(c.x_h) < 0.75
    assert net.accuracy(minimizer) == 1
    # Not only close: the same point. ∇f has a zero next to the (flipped) minimizer, inside a box
    # that holds the image and on which the certificate shows ∇f one-to-one.
    x = min(symmetric(net, minimizer), key=lambda q: float(np.abs(q - c.image).max()))
    with precision(128):
        box, radius = balls(x), 1e-12
        wide = box + flint.arb(0, radius)
        hessian = np.array(net.ball_hess(list(wide)), dtype=object)
        gradient = np.array(net.ball_grad(list(box)), dtype=object)
        assert krawczyk(gradient, hessian, np.linalg.inv(net.hess(x)), radius)
        f = ShiftedGradient(net, ball(c.rho))
        image = f.over(balls(c.x_h), c.box_radius).image
        assert all(i.contains(b) for i, b in zip(image, wide, strict=True))


def test_several_units_a_minimizer_as_image_and_a_high_loss(script: ModuleType) -> None:
    c = stored("digits-012-two-units")
    net = c.landscape
    assert c.inertia == Inertia(139, 0)
    first, second = net.blocks(c.image)
    units = np.sqrt((first**2).sum(1) + (second[:, :-1] ** 2).sum(0))
    assert len(units) == 2
    assert units.min() > 1
    minimizers = [script.minimizer(net, start) for start in script.initial(net, 2)]
    best = min(minimizers, key=net.f)
    assert nearest(net, best, c.image) < 1e-10
    assert net.f(c.x_h) > 1.9 * net.f(best)
