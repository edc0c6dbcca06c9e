"""What a figure's plain text says, and that it tells one figure from another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from figures import ch05
from figures.contents import contents
from matplotlib.figure import Figure

from samlib import read_records

ROOT = Path(__file__).resolve().parents[2]


def figure(spoil: Callable[[Any], object] | None = None) -> Figure:
    """One axes with a curve, marks, a bar, a mesh, and one thing that ``spoil`` changed."""
    fig, ax = plt.subplots()
    ax.plot([0, 1, 2], [3.0, 4.0, 5.0], color="#D55E00", label="SAM")
    ax.scatter([1, 2], [7, np.nan], color="#0072B2")
    ax.bar([1], [2.5])
    ax.contour(np.arange(12.0).reshape(3, 4), levels=[2.0, 5.0])
    ax.pcolormesh(np.arange(6.0).reshape(2, 3))
    ax.imshow(np.eye(2))
    ax.set(title="title", xlabel="step")
    if spoil is not None:
        spoil(ax)
    plt.close(fig)
    return fig


def test_contents() -> None:
    text = contents(figure())
    assert "axes 1: title, step" in text
    assert "Line2D 'SAM' #d55e00 3 points x 1 ± 0.8165 y 4 ± 0.8165" in text
    assert "PathCollection #0072b2 2 points x 1 ± 0 y 7 ± 0" in text
    assert "Rectangle #1f77b4 5 points x 0.92 ± 0.3919 y 1 ± 1.225" in text
    assert "QuadMesh 6 points values 2.5 ± 1.708" in text
    assert "AxesImage 4 points values 0.5 ± 0.5" in text
    assert contents(figure()) == text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ax: ax.lines[0].set_ydata([3.0, 4.0, 5.01]),
        lambda ax: ax.lines[0].set_label("GD"),
        lambda ax: ax.lines[0].set_color("black"),
        lambda ax: ax.collections[0].set_offsets([[1, 2], [7, 8]]),
        lambda ax: ax.collections[0].set_facecolor("red"),
        lambda ax: ax.collections[1].remove(),
        lambda ax: ax.collections[2].set_array(np.arange(6.0)[::-1] ** 2),
        lambda ax: ax.patches[0].set_height(2.6),
        lambda ax: ax.images[0].set_data(np.ones((2, 2))),
        lambda ax: ax.set_title("another"),
    ],
)
def test_contents_tell_figures_apart(spoil: Callable[[Any], object]) -> None:
    assert contents(figure(spoil)) != contents(figure())


def test_rounding_errors_around_zero_are_no_difference() -> None:
    fig, ax = plt.subplots()
    ax.plot([-1.0, 1.0], [1e-17, -3e-17])
    ax.plot([-1.0, 1.0 + 2e-16], [0.0, 0.0])
    plt.close(fig)
    assert "x 0 ± 1 y" in contents(fig)


def test_the_cliff_draws_the_loss_of_the_runs() -> None:
    """Not that of gradient descent: the curve's points are the final losses in the records."""
    runs = read_records("mnist-cliff")
    fig = ch05.cliff(runs)
    drawn = {
        (round(float(x), 9), round(float(y), 9))
        for ax in fig.axes
        for artist in [*ax.lines, *ax.collections]
        for x, y in (artist.get_xydata() if artist in ax.lines else artist.get_offsets())
    }
    plt.close(fig)
    losses = {round(loss, 9) for loss in runs.loss}
    assert losses <= {y for _, y in drawn}


@pytest.mark.parametrize(("drawn", "code"), [(5.0, 0), (5.01, 1)])
def test_a_changed_figure_fails_the_comparison(tmp_path: Path, drawn: float, code: int) -> None:
    """nbval, called as ``make test`` calls it, sees data that are not those of the output."""
    source = "\n".join(
        [
            "import matplotlib.pyplot as plt",
            "import figures",
            f"plt.plot([0, 1], [3.0, {drawn}])",
            "plt.show()",
        ]
    )
    fig, ax = plt.subplots()
    ax.plot([0, 1], [3.0, 5.0], color="#1f77b4")
    plt.close(fig)
    output = {
        "output_type": "display_data",
        "data": {"text/plain": contents(fig), "image/png": ""},
        "metadata": {},
    }
    cell = {"id": "a", "cell_type": "code", "metadata": {}, "source": source}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = {
        **{"nbformat": 4, "nbformat_minor": 5, "metadata": kernel},
        "cells": [{**cell, "execution_count": 1, "outputs": [output]}],
    }
    (tmp_path / "trial.ipynb").write_text(json.dumps(notebook))
    config = str(ROOT / "tests" / "nbval_sanitize.cfg")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval"]
    path = os.pathsep.join([str(ROOT / "book"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "--nbval-sanitize-with", config, "trial.ipynb"],
        **{"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 180},
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == code, done.stdout[-2000:]
