"""Sentences of the landing page, chapters 1 to 4 and the notation that no theorem carries."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

from samlib.dynamics.trajectories import sam_map
from samlib.experiments import records
from samlib.lab import SamLab
from samlib.landscapes import symbolic
from samlib.landscapes.symbolic import Landscape
from samlib.points import search, stability

ROOT = Path(__file__).resolve().parents[2]


def every_run() -> list[records.Record]:
    """All records of the book."""
    folders = sorted(p for p in (ROOT / "book" / "records").iterdir() if p.is_dir())
    return [run for folder in folders for run in records.read(folder)]


def test_sign_of_the_loss_gap_of_hallucinated_runs() -> None:
    """Notation: positive in every one without weight decay, negative in nearly all with it."""
    runs = [r for r in every_run() if r["verdict"] == "hallucinated"]
    free = [r["metrics"]["loss_gap"] for r in runs if not r["spec"]["weight_decay"]]
    held = [r["metrics"]["loss_gap"] for r in runs if r["spec"]["weight_decay"]]
    assert min(len(free), len(held)) > 500
    assert min(free) > 0
    assert np.mean(np.array(held) < 0) > 0.99


def test_no_recorded_run_of_sam_hallucinates_at_the_radii_of_practice() -> None:
    """Landing page: the smallest radius is 0.595, and the runs up to 0.1 train."""
    runs = [(r["spec"]["rho"], r["verdict"]) for r in every_run() if r["spec"]["rule"] == "sam"]
    assert min(rho for rho, verdict in runs if verdict == "hallucinated") == 0.595
    assert {verdict for rho, verdict in runs if 0 < rho <= 0.1} == {"converged"}


def worst(x: float, rho: float) -> float:
    """F(x) on the line by trying 20,001 perturbations of the double well."""
    near = x + np.linspace(-rho, rho, 20_001)
    return float(symbolic.landscape("double-well").f(near[:, None]).max())


def test_where_the_worst_value_is_least() -> None:
    """Chapter 1: F is least, 1/4, on [ρ − √2, √2 − ρ], which holds ±0.2; F(1) = 3.69."""
    rho = 1.2
    end = np.sqrt(2) - rho
    for x in (-end, -0.2, 0.0, 0.2, end):
        assert worst(x, rho) == pytest.approx(0.25, abs=1e-9)
    for x in np.linspace(end + 1e-3, 2, 200):
        assert worst(x, rho) > 0.25 + 1e-4
    assert worst(1.0, rho) == pytest.approx(3.6864, abs=1e-9)


def test_degenerate_images_go_either_way() -> None:
    """Chapter 2: a strict maximizer that is the image of none, a strict minimizer of some."""
    x = sp.symbols("x", positive=True)
    k = sp.symbols("k", integer=True, positive=True)
    top = -(x**3) * sp.sin(1 / x) ** 2  # odd, so the point -x behaves alike
    assert sp.simplify(top.subs(x, 1 / (k * sp.pi))) == 0
    bottom = sp.diff(x**6 * (2 + sp.sin(1 / x)), x)
    at = 1 / (2 * k * sp.pi)
    assert sp.simplify(bottom.subs(x, at) - (x**4 * (12 * x - 1)).subs(x, at)) == 0
    assert all(bottom.subs(x, at).subs(k, number) < 0 for number in range(2, 20))
    for slope in (top, bottom):  # both functions are C² with f''(0) = 0
        assert sp.limit(sp.diff(slope, x), x, 0, "+") == 0


def test_two_minimizers_whose_point_is_born_repelling() -> None:
    """Chapter 3: k = −63/25, λ₀ = −45/7, and the point itself repels."""
    x, y = sp.symbols("x y")
    near, far = sp.Matrix([[41, -12], [-12, 9]]) / 5, sp.Matrix([[41, 12], [12, 9]]) / 5
    k = (near * far)[1, 1]
    assert (k, near.inv()[0, 0] * near.det() * far.det() / k) == (
        sp.Rational(-63, 25),
        sp.Rational(-45, 7),
    )
    v, w, s = sp.Matrix([x - 1, y]), sp.Matrix([x, y]), 6 * x**5 - 15 * x**4 + 10 * x**3
    f = Landscape((v.T * near * v)[0] / 2 * s + (w.T * far * w)[0] / 2 * (1 - s), (x, y))
    for rho in (0.99, 0.999, 0.9999):
        guess = search.two_point_guess(f, [1.0, 0.0], [0.0, 0.0], rho)
        found = stability.classify(f, search.refine(f, guess, [0.0, 0.0], rho).x, rho)
        assert (found.kind, found.image_kind) == ("repelling", "minimizer")
        assert found.eigenvalues.real.max() < -6


def test_the_trap_at_a_saddle_is_larger_than_the_disc() -> None:
    """Chapter 2: of the starts with |y| < ρ < r some are caught and some escape."""
    step, fates = sam_map(symbolic.landscape("saddle"), 0.1, 0.1), []
    for start in ([0.5, 0.03], [0.5, 0.09]):
        x = np.array(start)
        for _ in range(400):
            x = step(x)
        fates.append(bool(np.linalg.norm(x) <= 0.01))
    assert fates == [True, False]


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (("double-well-2d", 1.2, 0.1, [0.7, 1.0]), "ends at (0.2, 0), and stands still there"),
        (("double-well", 1.2, 0.1, [2.45]), "ends at x = 0.2, and stands still there"),
        (("double-well-2d", 1.2, 0.1, [1.0, 0.0]), "ends at (1, 0), a critical point of f"),
        (("himmelblau", 4.5, 0.002, [1.4, 3.0]), "then, and has not settled"),
        (("double-well", 1.2, 0.1, [2.7]), "The orange path diverges"),
    ],
)
def test_the_words_under_the_still_picture(
    state: tuple[str, float, float, list[float]], words: str
) -> None:
    shown = SamLab(*state)._repr_mimebundle_()
    page = (shown[0] if isinstance(shown, tuple) else shown)["text/html"]
    (caption,) = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert words in caption
    assert "nan" not in caption
    assert "of SAM (orange)" in caption


def test_references_give_one_link_and_keep_names() -> None:
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{.*?^\}", text, re.M | re.S)
    assert len(entries) > 40
    assert [e[:40] for e in entries if "eprint" in e and "url" in e] == []
    titles = re.findall(r"title = \{(.*)\},", text)
    bare = [re.sub(r"\{[^{}]*\}", "", t) for t in titles]  # what braces do not protect
    assert [t for t in bare if re.search(r"Hessian|Brownian|Nullstellen|SAM|SGD", t)] == []
