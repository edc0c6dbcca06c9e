"""Spells of hallucination, counted by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from samlib.diagnostics import verdicts
from samlib.experiments.episodes import escape, spells
from samlib.training import loop
from samlib.training.spec import Run, RunSpec


def test_short_dips_are_no_spells() -> None:
    ratio = np.array([1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0])
    assert spells(ratio, length=3) == [(4, 7), (9, 13)]
    assert spells(ratio, length=2) == [(1, 3), (4, 7), (9, 13)]
    assert spells(np.ones(5), length=1) == []
    assert spells(np.array([0.1, 0.09]), length=1) == [(1, 2)]  # strictly below


def test_the_edges_of_a_spell() -> None:
    for length, due in ((499, []), (500, [(10, 510)])):
        ratio = np.ones(2000)
        ratio[10 : 10 + length] = 0.1 * (1 - 1e-6)
        assert spells(ratio) == due
        ratio[10 : 10 + length] = 0.1
        assert spells(ratio) == []


def _with_ratio(ratio: np.ndarray) -> Run:
    run = loop.train(RunSpec(n=50, width=2, steps=1), twins=False)
    one = np.ones(len(ratio))
    return dataclasses.replace(run, trace=verdicts.Trace(one, one, one, ratio))


def test_escapes_are_the_first_steps_after() -> None:
    ratio = np.ones(3000)
    ratio[100:700] = ratio[1000:1800] = 0.01
    f, _ = loop.objective(RunSpec(n=50, width=2))
    got, curves = escape(_with_ratio(ratio), f)
    assert got == {"spells": 2, "spell_start": 100, "escape": 700, "last_escape": 1800}
    assert curves == {}
    ratio[2000:] = 0.01
    got, _ = escape(_with_ratio(ratio), f)
    assert (got["spells"], got["escape"]) == (3, 700)
    assert math.isnan(got["last_escape"])
    got, _ = escape(_with_ratio(np.ones(3000)), f)
    assert got["spells"] == 0
    assert math.isnan(got["spell_start"])
