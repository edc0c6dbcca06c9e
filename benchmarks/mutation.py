"""Would the tests notice a change of the modules that verdicts and proofs rest on?

mutmut makes small changes one at a time (``<`` to ``<=``, 1 to 2, a name to None, …), and for each
runs the tests that reach the changed function. A mutant is killed if a test fails. Survivors are
listed in ``mutation.json`` with their change and, where somebody has looked, with the reason why no
test needs to see it (``mutation_reasons.yml``). Survivors that change only the words of a message
are counted apart: tests hold the values in a message, not its wording.

mutmut is no requirement of the book, since its pins clash with the site's. Install it beside them:

    python -m venv --system-site-packages build/mutmut && build/mutmut/bin/pip install mutmut==3.8.1
    build/mutmut/bin/python benchmarks/mutation.py [module …]
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeGuard, cast

import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).with_suffix(".json")
REASONS = Path(__file__).with_name("mutation_reasons.yml")
# Module -> the tests that are meant to hold it. They must be fast: each mutant runs some of them.
LEDGER = [
    "tests/unit/experiments/test_evidence.py",
    "tests/unit/experiments/test_ledger_words.py",
    "tests/evidence/test_ledger_holds.py",
    "--deselect=tests/evidence/test_ledger_holds.py::test_the_ledger_holds",
]
MODULES = {
    "book/ledger/claims": LEDGER,
    "samlib/diagnostics/verdicts": [
        "tests/unit/diagnostics/test_verdicts.py",
        "tests/unit/diagnostics/test_verdicts_running.py",
    ],
    "samlib/certify/enclosures": ["tests/unit/certify/test_enclosures.py"],
    "book/ledger/evidence": LEDGER,
    "samlib/optim/monitor": ["tests/unit/optim/test_monitor_units.py"],
    "samlib/optim/sam": ["tests/unit/optim/test_optim_units.py"],
    "samlib/certify/proof": ["tests/unit/certify/test_proof.py"],
    "samlib/experiments/records": [
        "tests/unit/experiments/test_records.py",
        "tests/unit/experiments/test_records_edges.py",
    ],
    "samlib/points/stability": ["tests/unit/points/test_stability.py"],
}
# mutmut passes over functions with a decorator. Of these modules, where that would leave out the
# step itself, each is decorated by an assignment after it.
UNWRAPPED = ("samlib/optim/monitor", "samlib/optim/sam")
KILLED = {1, 3, 36, -24, 24, 152, 255, -11, -9}  # a failing test, or no end
STRING = re.compile(r"""[fr]*("[^"]*"|'[^']*')""")
SHOW = """
import sys
from mutmut.mutation.diff_apply import get_diff_for_mutant
print("\\f".join(map(get_diff_for_mutant, sys.argv[1:])))
"""
CONFIG = """[mutmut]
source_paths=
    samlib
    ledger
only_mutate=
    {path}
pytest_add_cli_args_test_selection=
    {tests}
pytest_add_cli_args=
    -p
    no:cacheprovider
"""


def unwrap(source: str) -> str:
    """Write ``@d`` above a function or method ``f`` as ``f = d(f)`` below it."""
    lines = source.splitlines()
    tree = ast.parse(source)
    nodes = [n for top in tree.body for n in (top, *(top.body if is_class(top) else ()))]
    for node in reversed(nodes):
        if isinstance(node, ast.FunctionDef) and node.decorator_list:
            value = node.name
            for decorator in reversed(node.decorator_list):
                value = f"{ast.unparse(decorator)}({value})"
            lines.insert(
                cast(int, node.end_lineno), f"{' ' * node.col_offset}{node.name} = {value}"
            )
            del lines[node.decorator_list[0].lineno - 1 : node.lineno - 1]
    return "\n".join(lines) + "\n"


def is_class(node: Any) -> TypeGuard[ast.ClassDef]:
    """Whether a node of the tree is a class."""
    return isinstance(node, ast.ClassDef)


def run(module: str, tests: list[str]) -> dict[str, Any]:
    """Mutate one module in a copy of the project and say what became of the mutants."""
    copy = ROOT / "build" / "mutation" / module.replace("/", "-")
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("samlib", "tests", "book/ledger"):
        to = copy / name.removeprefix("book/")  # mutmut wants a module to lie where its name says
        shutil.copytree(ROOT / name, to, ignore=shutil.ignore_patterns("__pycache__"))
    path = f"{module.removeprefix('book/')}.py"
    if module in UNWRAPPED:
        (copy / path).write_text(unwrap((copy / path).read_text()))
    (copy / "mutants").mkdir()
    for place in (copy, copy / "mutants"):
        for name in ("book", "benchmarks", "README.md", "CHANGELOG.md", "_toc.yml"):
            (place / name).symlink_to(ROOT / name)
        (place / "pytest.ini").write_text("[pytest]\npythonpath = . tests book\n")
    there = [t for t in tests if t.startswith("-") or (ROOT / t).exists()]
    text = CONFIG.format(path=path, tests="\n    ".join(there))
    (copy / "setup.cfg").write_text(text)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    env = {**os.environ, **threads}
    env.pop("PYTHONPATH", None)
    mutmut = [sys.executable, "-m", "mutmut"]
    log = copy / "mutmut.log"
    with log.open("w") as out:
        subprocess.run(
            [*mutmut, "run", "--max-children", "2"], cwd=copy, env=env, stdout=out, stderr=out
        )
    codes = json.loads((copy / f"mutants/{path}.meta").read_text())["exit_code_by_key"]
    left = [name for name, code in codes.items() if code not in KILLED]
    shown = subprocess.run(
        [sys.executable, "-c", SHOW, *left], cwd=copy, env=env, capture_output=True, text=True
    )
    survived, words = [], 0
    for name, diff in zip(left, shown.stdout.split("\f"), strict=False):
        lines = [s for s in diff.splitlines() if re.match(r"[-+](?![-+])", s)]
        change = [" ".join(s.split()) for s in lines]
        if len({STRING.sub("", s[1:]).strip() for s in change}) == 1:
            words += 1
            continue
        function = re.split(r"x_|ǁ", name.partition("__mutmut")[0])[-1]
        survived.append({"function": function, "change": change, "untested": codes[name] == 33})
    if words + len(survived) < len(left):
        raise RuntimeError(f"mutmut cannot show its mutants: {shown.stderr[-500:]}")
    killed = len(codes) - len(survived) - words
    return {"mutants": len(codes), "killed": killed, "words": words, "survived": survived}


def main(names: list[str]) -> None:
    """Run the modules named, or all, and write the result."""
    done: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    reasons = yaml.safe_load(REASONS.read_text()) if REASONS.exists() else {}
    for name in names or list(MODULES):
        done[name] = run(name, MODULES[name])
        for mutant in done[name]["survived"]:
            if reason := (reasons or {}).get(" → ".join(mutant["change"])):
                mutant["reason"] = reason
        killed, mutants = done[name]["killed"], done[name]["mutants"] - done[name]["words"]
        print(f"{name}: {killed} of {mutants} killed ({killed / max(1, mutants):.1%})", flush=True)
        RESULT.write_text(
            json.dumps(dict(sorted(done.items())), indent=1, ensure_ascii=False) + "\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
