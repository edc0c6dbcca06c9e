"""The lab's JavaScript, run by node from the shipped module, against Python."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
from browser import missing

from samlib import lab
from samlib.diagnostics import verdicts
from samlib.dynamics import rules, trajectories
from samlib.errors import BadInput
from samlib.lab import script
from samlib.landscapes import symbolic
from samlib.points import search, stability

HERE = Path(__file__).parent
KNOWN = lab.SamLab().get_state(["sources", "limits"])
SOURCES = KNOWN["sources"]
RULES = lab.RULES
Node = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def node() -> Node:
    """A function that runs one task of lab_node.mjs over many cases."""
    program = shutil.which("node")
    if program is None:
        missing("no node: install nodejs")

    def run(task: str, cases: list[dict[str, Any]]) -> list[Any]:
        message = json.dumps(
            {"module": script.module(), "task": task, "known": KNOWN, "cases": cases}
        )
        done = subprocess.run(
            [str(program), str(HERE / "lab_node.mjs")],
            input=message, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        results: list[Any] = json.loads(done.stdout)
        return results

    return run


def sizes(name: str, order: int) -> Callable[[Any], Any]:
    """The sum of the absolute values of the terms of f (order 0) or of its largest derivative.

    Rounding is relative to the terms, not to their sum: where they cancel, no program does better.
    """
    landscape = symbolic.landscape(name)
    exprs = [landscape.expr]
    for _ in range(order):
        exprs = [e.diff(s) for e in exprs for s in landscape.symbols]
    terms = [sum(map(abs, sympy.Add.make_args(sympy.expand(e)))) for e in exprs]
    return sympy.lambdify(landscape.symbols, [sympy.sympify(t) for t in terms], "numpy")


def random_cases(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    cases = []
    for i in range(count):
        name = symbolic.names()[i % len(symbolic.names())]
        low, high = np.array(symbolic.landscape(name).box).T
        cases.append(
            {
                "landscape": name,
                "x": rng.uniform(low, high).tolist(),
                "rho": float(rng.uniform(0, max(high - low) / 2)) * (rng.random() > 0.05),
                "eta": float(10 ** rng.uniform(-4, 0)) * (rng.random() > 0.05),
                "rule": RULES[int(rng.integers(3))],
            }
        )
    return cases


def test_derivatives_agree(node: Node) -> None:
    """f, ∇f and ∇²f: |difference| ≤ 1e-14 · max(1, Σ|terms|)."""
    cases = random_cases(500, seed=1)
    measure = {(n, k): sizes(n, k) for n in symbolic.names() for k in range(3)}
    for case, result in zip(cases, node("values", cases), strict=True):
        name, x = case["landscape"], np.array(case["x"])
        landscape, d = symbolic.landscape(name), len(x)
        for order, (key, value) in enumerate(
            [("f", landscape.f(x)), ("grad", landscape.grad(x)), ("hess", landscape.hess(x))]
        ):
            shipped = np.array(result[key])[(slice(d),) * order]
            allowed = 1e-14 * max(1.0, np.max(measure[name, order](*x)))
            assert np.max(np.abs(shipped - value)) <= allowed, (case, key)


def test_one_step_agrees(node: Node) -> None:
    """500 random steps: direction, x⁺ and the next iterate, restated from the paper's equations.

    u = g/‖g‖ amplifies the rounding of g by 1/‖g‖, and ∇f carries it on by ‖∇²f(x⁺)‖: the measure
    is the error that rounding the terms by one unit would make along this way.
    """
    cases = random_cases(500, seed=2)
    grad_size = {n: sizes(n, 1) for n in symbolic.names()}
    for case, result in zip(cases, node("step", cases), strict=True):
        name, x, rho, rule = case["landscape"], np.array(case["x"]), case["rho"], case["rule"]
        landscape = symbolic.landscape(name)
        g = landscape.grad(x)
        n = np.linalg.norm(g)
        u = g / n
        plus = x if rule == "gd" else x + rho * u
        direction = landscape.grad(plus)
        if rule == "exact":  # ∇f^SAM = (I + (ρ/‖g‖) H (I − uuᵀ)) ∇f(x⁺)
            p = np.eye(len(x)) - np.outer(u, u)
            direction = direction + rho / n * landscape.hess(x) @ p @ direction
        again, plus_again, *_ = rules.get(rule)(landscape, x, rho)
        turned = rho / n * np.max(grad_size[name](*x))  # terms of x⁺ through u
        bend = 1 + rho / n * np.linalg.norm(landscape.hess(x))
        pushed = np.linalg.norm(landscape.hess(plus)) * turned + np.max(grad_size[name](*plus))
        for want, have in [(plus, plus_again), (direction, again)]:
            assert want == pytest.approx(have, rel=1e-9, abs=1e-9), case
        d = len(x)
        far = max(1.0, turned, float(np.abs(plus).max()))
        assert np.abs(np.array(result["plus"][:d]) - plus).max() <= 1e-14 * far, case
        big = max(1.0, bend * pushed) if rule == "exact" else max(1.0, pushed)
        assert np.abs(np.array(result["direction"][:d]) - direction).max() <= 1e-14 * big, case
        step = np.array(result["next"][:d]) - (x - case["eta"] * direction)
        assert np.abs(step).max() <= 1e-14 * max(1.0, case["eta"] * big, np.abs(x).max()), case
        assert result["plus"][d:] == result["next"][d:] == [0] * (2 - d)


def python_verdicts(name: str, x: Any, rho: Any, eta: Any, rule: str) -> list[str]:
    landscape = symbolic.landscape(name)
    path = trajectories.trajectory(landscape, x, rho, eta, 300, rule)
    plus = rules.get(rule)(landscape, path, rho).x_plus
    with np.errstate(over="ignore", invalid="ignore"):
        norm, shifted = (np.linalg.norm(landscape.grad(z), axis=-1) for z in (path, plus))
    loss, shifted_loss = landscape.f(path), landscape.f(plus)
    return [
        verdicts.verdict(verdicts.Trace(loss[:, i], norm[:, i], shifted_loss[:, i], shifted[:, i]))
        for i in range(len(x))
    ]


def test_verdict_of_a_start_next_to_a_minimizer(node: Node) -> None:
    """The loss grows more than a hundredfold, and yet SAM comes to rest: hallucinated."""
    start = [0.99, 0.01]
    assert python_verdicts("double-well-2d", np.array([start]), 1.2, 0.1, "sam") == ["hallucinated"]
    case = {"landscape": "double-well-2d", "x": start, "rho": 1.2, "eta": 0.1}
    assert node("verdict", [{**case, "rule": "sam", "steps": 300}]) == ["hallucinated"]


@pytest.mark.slow
@pytest.mark.parametrize("name", symbolic.names())
def test_verdicts_agree(node: Node, name: str) -> None:
    """200 trajectories of 300 steps: 100 of SAM, 50 of the exact gradient, 50 of gradient descent.

    Half of them start near the preset, so that there are verdicts other than "running".
    """
    rng = np.random.default_rng(3)
    low, high = np.array(symbolic.landscape(name).box).T
    preset = SOURCES[name]["preset"]
    seen = []
    for rule, count in [("sam", 100), ("exact", 50), ("gd", 50)]:
        shape = (count, len(low))
        near = rng.random((count, 1)) < 0.5
        wide, tame = rng.uniform(0, max(high - low) / 2, (count, 1)), 0.9 + 0.2 * rng.random()
        rho = np.where(near, preset["rho"] * tame, wide)
        eta = np.where(near, preset["eta"], 10 ** rng.uniform(-4, 0, (count, 1)))
        x = rng.uniform(low, high, shape)
        cases = [
            {
                "landscape": name,
                "x": a.tolist(),
                "rho": b[0],
                "eta": c[0],
                "rule": rule,
                "steps": 300,
            }
            for a, b, c in zip(x, rho, eta, strict=True)
        ]
        want = python_verdicts(name, x, rho, eta, rule)
        assert node("verdict", cases) == want
        seen += want
    if name != "saddle":  # unbounded below, yet its loss is finite for all of 300 steps
        assert len(set(seen)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rho"),
    [("double-well", 0.6), ("double-well", 1.2), ("double-well", 2.5), ("double-well-2d", 1.2),
     ("double-well-saddle", 1.2), ("himmelblau", 2.5), ("himmelblau", 4.5), ("beale", 0.5),
     ("camel", 0.5), ("camel", 1.2), ("saddle", 0.1), ("surrogate-trap", 1.0), ("rosenbrock", 0.5)],
)  # fmt: skip
def test_hallucinated_points_agree(node: Node, name: str, rho: float) -> None:
    """The same critical points, hallucinated points, kinds and η_max as Python finds."""
    landscape = symbolic.landscape(name)
    (result,) = node("points", [{"landscape": name, "rho": rho}])
    d = landscape.dim
    inside = [
        c for c in result["critical"]
        if all(lo <= v <= hi for v, (lo, hi) in zip(c["x"], landscape.box, strict=False))
    ]  # fmt: skip
    want = search.critical_points(landscape)
    assert len(inside) == len(want)
    for c in want:
        (match,) = (p for p in inside if np.allclose(p["x"][:d], c.x, atol=1e-6))
        assert match["kind"] == c.kind
    for c in result["critical"]:
        image = np.array(c["x"][:d])
        found = [p for p in result["found"] if np.allclose(p["image"][:d], image, atol=1e-9)]
        expected = search.find_hallucinated(landscape, image, rho)
        assert len(found) == len(expected)
        for h in expected:
            (match,) = (p for p in found if np.allclose(p["x"][:d], h.x, atol=1e-7))
            truth = stability.classify(landscape, h.x, rho)
            assert match["kind"] == truth.kind
            if truth.kind == "attracting":
                assert match["etaMax"] == pytest.approx(truth.eta_max, rel=1e-6)


@pytest.mark.parametrize("rho", [0.6, 1.2])
def test_hallucinated_ring(node: Node, rho: float) -> None:
    """Where a curve of points is hallucinated the lab shows samples of it: radius ρ, or ρ − 1."""
    (result,) = node("points", [{"landscape": "ring", "rho": rho}])
    radii = np.hypot(*np.array([p["x"] for p in result["found"]]).T)
    assert len(radii) >= 20
    assert radii == pytest.approx(rho if rho < 1 else rho - 1, abs=1e-7)
    if rho > 1:
        assert {p["kind"] for p in result["found"]} == {"neutral"}


BASINS = [(n, SOURCES[n]["preset"]["rho"], SOURCES[n]["preset"]["eta"]) for n in symbolic.names()]
BASINS += [("himmelblau", 0.5, 0.005), ("himmelblau", 2.0, 0.003), ("camel", 1.2, 0.05)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rho", "eta"), BASINS)
def test_early_exit_changes_no_label(node: Node, name: str, rho: float, eta: float) -> None:
    """Basins with early exit and with all steps done: the same label for every start."""
    landscape = symbolic.landscape(name)
    (x0, x1), (y0, y1) = (*landscape.box, (0.0, 0.0))[:2]
    height = 1 if landscape.dim == 1 else 64
    request = {"landscape": name, "window": [x0, x1, y0, y1], "width": 64, "height": height}
    requests = [{**request, "rho": rho, "eta": eta, "rule": r, "steps": 300} for r in RULES]
    for request, result in zip(requests, node("basins", requests), strict=True):
        assert result["early"] == result["full"], request["rule"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rho", "eta", "rule", "kind"),
    [("double-well-2d", 1.2, 0.1, "sam", "hallucinated"), ("ring", 1.2, 0.1, "sam", "hallucinated"),
     ("himmelblau", 2.5, 0.003, "sam", "hallucinated"),
     ("himmelblau", 2.5, 0.003, "gd", "converged")],
)  # fmt: skip
def test_basin_labels_are_true(
    node: Node, name: str, rho: float, eta: float, rule: str, kind: str
) -> None:
    """What the lab colours as hallucinated (or as a minimizer's basin) Python confirms."""
    landscape = symbolic.landscape(name)
    (x0, x1), (y0, y1) = landscape.box
    n = 24
    request = {"landscape": name, "window": [x0, x1, y0, y1], "width": n, "height": n,
               "rho": rho, "eta": eta, "rule": rule, "steps": 300}  # fmt: skip
    (result,) = node("basins", [request])
    label = np.array(result["early"]).reshape(n, n)
    xs, ys = np.meshgrid(
        x0 + (x1 - x0) * (np.arange(n) + 0.5) / n, y1 - (y1 - y0) * (np.arange(n) + 0.5) / n
    )
    end = trajectories.trajectory(landscape, np.stack([xs, ys], -1), rho, eta, 3000, rule)[-1]
    kinds = np.array(["undecided", *result["kinds"], *["gone"] * (255 - len(result["kinds"]))])[
        label
    ]
    mine = end[kinds == ("hallucinated" if kind == "hallucinated" else "minimizer")]
    assert len(mine) > n * n / 4
    norm = np.linalg.norm(landscape.grad(mine), axis=-1)
    plus = rules.get(rule)(landscape, mine, rho).x_plus
    shifted = np.linalg.norm(landscape.grad(plus), axis=-1)
    assert np.all(shifted < 1e-6)
    assert np.all(norm > 1e-3) if kind == "hallucinated" else np.all(norm < 1e-6)


STATE = {"landscape": "ring", "rho": 0.1 + 0.2, "eta": 1e-7, "start": [-1.5, 1 / 3],
         "rule": "exact", "steps": 17, "show": ["gd", "basins"], "at": 3}  # fmt: skip


def test_links_restore_the_exact_state(node: Node) -> None:
    (hash_,) = node("write", [{"id": "lab-2", "state": STATE}])
    now = {**STATE, "landscape": "saddle", "start": [0.0, 0.0], "at": None}
    here, other, anchor = node(
        "link",
        [
            {"hash": hash_, "id": "lab-2", "now": now},
            {"hash": hash_, "id": "lab-1", "now": now},
            {"hash": "#lab-2", "id": "lab-2", "now": now},
        ],
    )
    assert here == {"state": STATE, "wrong": []}
    assert other is None
    assert anchor is None  # an ordinary link to the lab's place on the page
    (partial,) = node("link", [{"hash": "#lab-2:rho=2", "id": "lab-2", "now": STATE}])
    assert partial["state"] == {**STATE, "rho": 2, "at": None}
    (spaced,) = node("link", [{"hash": "#lab-2:start=1%2C2", "id": "lab-2", "now": STATE}])
    assert spaced["state"]["start"] == [1, 2]
    (moved,) = node("link", [{"hash": "#a:landscape=double-well", "id": "a", "now": STATE}])
    assert moved["state"]["start"] == [0.6]  # the preset's, since ring's start has two numbers


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken",
    ["rho=-1", "rho=1e999", "rho=abc", "rho", "eta=NaN", "eta=1e7", "start=1", "start=1,2,3",
     "start=1,x", "landscape=moon", "landscape=constructor", "rule=adam", "steps=0", "steps=2.5",
     "steps=999999", "show=all", "at=-1", "colour=red", "__proto__=1", "",
     "landscape=double-well&start=1,2", "rho=%"],
)  # fmt: skip
def test_broken_links_are_noticed(node: Node, broken: str) -> None:
    (result,) = node("link", [{"hash": f"#lab-1:{broken}", "id": "lab-1", "now": STATE}])
    assert result["wrong"], result


def test_javascript_is_small_and_stands_alone() -> None:
    """What a page loads: the module, and host.js where there is no kernel."""
    text = script.module()
    total = len(text.encode()) + (script.STATIC / "host.js").stat().st_size
    assert total <= 60_000, f"{total} bytes of JavaScript"
    assert not re.search(r"^\s*import\b", text, re.M)
    assert len(re.findall(r"^export\b", text, re.M)) == 1
    assert not re.search(r"https?://", text)
    assert {f"{name}.js" for name in (*script.FILES, "host")} == {
        p.name for p in script.STATIC.glob("*.js")
    }


def test_files_import_what_they_use() -> None:
    """Joined, they share one scope; apart, each says which earlier file its names are from."""
    texts = {n: (script.STATIC / f"{n}.js").read_text(encoding="utf-8") for n in script.FILES}
    exports = {n: re.findall(r"^export \w+ (\w+)", t, re.M) for n, t in texts.items()}
    assert len(set().union(*exports.values())) == sum(map(len, exports.values()))
    for i, (name, text) in enumerate(texts.items()):
        code = re.sub(r'/\*.*?\*/|//[^\n]*|"[^"\n]*"', "", text, flags=re.S)
        code = re.sub(r"^import .*", "", code, flags=re.M)
        wanted = set()
        for file in script.FILES[:i]:
            words = [w for w in exports[file] if re.search(rf"(?<![.\w]){w}\b", code)]
            if file == "math" and re.search(r"\bmath\b", code):
                wanted.add('import * as math from "./math.js";')
            elif file != "math" and words:
                names = ", ".join(sorted(words, key=str.lower))
                wanted.add(f'import {{ {names} }} from "./{file}.js";')
        assert set(re.findall(r"^import .*", text, re.M)) == wanted, name
        assert set(re.findall(r"\bmath\.(\w+)", code)) <= set(exports["math"]), name


# --- the Python half ---


def test_traits_follow() -> None:
    widget = lab.SamLab("double-well-2d", 1.2, 0.1, [0.7, 1.0], steps=50)
    path = trajectories.trajectory(symbolic.landscape("double-well-2d"), [0.7, 1.0], 1.2, 0.1, 50)
    assert widget.trajectory == path.tolist()
    widget.rho = 0.3
    path = trajectories.trajectory(symbolic.landscape("double-well-2d"), [0.7, 1.0], 0.3, 0.1, 50)
    assert widget.trajectory == path.tolist()
    widget.landscape = "double-well"  # one number: the start becomes the preset's
    assert widget.start == [0.6]
    assert len(widget.trajectory[0]) == 1
    widget.eta = 5.0
    widget.start = [2.9]  # diverges: the trajectory keeps to what JSON can hold
    assert len(widget.trajectory) < 51
    json.dumps(widget.trajectory, allow_nan=False)


def test_any_landscape() -> None:
    widget = lab.SamLab(symbolic.Landscape("cos(a)", "a", name="wave"), 0.5, 0.1, 1.0)
    assert widget.landscape == "wave"
    assert widget.sources["wave"]["dim"] == 1
    with pytest.raises(BadInput, match="d = 3"):
        lab.SamLab(symbolic.Landscape("x*y*z", ["x", "y", "z"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trait", "value", "words"),
    [("rho", -1.0, "rho = -1"), ("rho", float("nan"), "rho = nan"), ("eta", 1e9, "eta"),
     ("steps", 0, "steps = 0"), ("steps", 5001, "steps"), ("rule", "adam", "use one of sam"),
     ("landscape", "moon", "use one of"), ("show", ["all"], "gd, basins, fsam"),
     ("start", [float("inf"), 0.0], "finite"), ("start", [1.0, 2.0, 3.0], "finite")],
)  # fmt: skip
def test_bad_values_name_the_remedy(trait: str, value: Any, words: str) -> None:
    widget = lab.SamLab()
    before = getattr(widget, trait)
    with pytest.raises(BadInput, match=words):
        setattr(widget, trait, value)
    assert getattr(widget, trait) == before
    name = {"start": "x0"}.get(trait, trait)
    with pytest.raises(BadInput):
        lab.SamLab(**{name: value})


@pytest.mark.slow
@pytest.mark.parametrize(
    "message",
    [{"steps": 10**9}, {"steps": -1}, {"steps": "many"}, {"rho": float("nan")}, {"rho": "x"},
     {"rho": 10**400}, {"eta": float("inf")}, {"rule": "<img>"}, {"rule": 3}, {"landscape": "nope"},
     {"landscape": ["twist"]}, {"start": ["a"]}, {"start": [float("nan")]}, {"start": "far"},
     {"show": ["all"]}, {"show": [["gd"]]}, {"rho": 0.5, "steps": 10**9}],
    ids=lambda message: str(message)[:40],
)  # fmt: skip
def test_messages_from_the_page_are_checked_before_anything_follows(message: Any) -> None:
    widget = lab.SamLab()
    before, orbit = widget.get_state(list(lab.INPUTS)), widget.trajectory
    with pytest.raises(BadInput):
        widget.set_state(message)
    assert widget.get_state(list(lab.INPUTS)) == before
    assert widget.trajectory == orbit
    widget._repr_mimebundle_()


def test_the_page_sends_inputs_only() -> None:
    """Programs and results are made here; a message cannot replace them."""
    widget = lab.SamLab()
    sources, orbit = widget.sources, widget.trajectory
    widget.set_state({"sources": {"js": "alert(1)"}, "trajectory": [[0.0]]})
    assert (widget.sources, widget.trajectory) == (sources, orbit)
    widget.set_state({"rho": 0.5, "landscape": "twist", "start": [0.9, 0.1]})
    assert (widget.rho, widget.landscape, widget.start) == (0.5, "twist", [0.9, 0.1])
    assert len(widget.trajectory) > 1
    with pytest.raises(BadInput), widget.hold_trait_notifications():
        widget.eta = -1.0
    assert widget.eta >= 0


def test_mime_bundle() -> None:
    widget = lab.SamLab("himmelblau")
    data, _ = widget._repr_mimebundle_()
    again, _ = lab.SamLab("himmelblau")._repr_mimebundle_()
    assert data["text/html"] == again["text/html"]  # deterministic
    assert data["text/plain"] == "SamLab('himmelblau', 4.5, 0.002, [1.4, 3])"
    found = re.search(
        r'^<div class="samlab"><script type="application/json" class="samlab-state">'
        r"(.*?)</script>(.*)</div>$",
        data["text/html"],
        re.S,
    )
    assert found
    state = json.loads(found[1])
    assert state["landscape"] == "himmelblau"
    assert "<" not in found[1]
    assert "trajectory" not in state  # the page computes it
    assert re.search(r'<svg role="img" aria-label="[^"]{40,}"', found[2])
    assert len(data["text/html"]) < 40_000
    assert "application/vnd.jupyter.widget-view+json" in data


def test_state_survives_any_name() -> None:
    tricky = symbolic.Landscape("x**2 + y**2", ["x", "y"], name="</script><b>'\"&")
    data, _ = lab.SamLab(tricky, 0.1, 0.1, [1.0, 1.0])._repr_mimebundle_()
    assert data["text/html"].count("</script>") == 1
    assert "<b>" not in data["text/html"]
