"""The command line: ``samlib run | sweep | reproduce | data | claims``.

Exit codes: 0 done, 2 unusable input (one line says why), 1 failure.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from samlib import __version__
from samlib.errors import BadInput
from samlib.training.spec import RunSpec


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, since the usage text would bury them."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see '{self.prog} --help'")


def _kind(wanted: str, parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """A type of option: what ``parse`` makes of its text, or an error that says what is wanted."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {wanted}") from None

    return read


def _folder(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; name a folder, or leave --out away")
    return text


_KINDS: dict[str, Any] = {  # of the options whose default may be None
    "n": int,
    "classes": _kind(
        "whole numbers with commas between them, for example 3,8",
        lambda text: tuple(int(part) for part in text.split(",")),
    ),
    "batch": _kind(
        "a whole number of examples, or full", lambda text: None if text == "full" else int(text)
    ),
}


def _parser() -> argparse.ArgumentParser:
    data_root = _Parser(add_help=False)
    where = "where data sets lie (default: $SAMLIB_DATA or ~/.cache/samlib)"
    data_root.add_argument("--data-root", help=where)
    machine = _Parser(add_help=False, parents=[data_root])
    machine.add_argument("--device", default="auto", help="auto | cpu | cuda")
    machine.add_argument("--threads", type=int, default=1, help="CPU threads")

    parser = _Parser("samlib", description="Does sharpness-aware minimization hallucinate here?")
    parser.add_argument("--version", action="version", version=f"samlib {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    about = "train one network and name what became of it"
    add = commands.add_parser("run", help=about, parents=[machine]).add_argument
    for field in fields(RunSpec):
        kind = _KINDS.get(field.name, type(field.default))
        flag = f"--{field.name.replace('_', '-')}"
        add(flag, type=kind, default=field.default, help=field.metadata["help"])
    add("--out", type=_folder, help="folder to which the run's record and curves are added")
    add("--json", action="store_true", help="print one JSON object")

    about = "run an experiment file, or go on with it"
    add = commands.add_parser("sweep", help=about, parents=[machine]).add_argument
    add("experiment", help="a TOML file, for example book/experiments/mnist-cliff.toml")
    add("--out", type=_folder, help="record folder (default: records/NAME beside experiments/)")
    add("--workers", type=int, help="processes (default: this one, or one a core for Dask)")
    add("--executor", choices=("local", "dask"), default="local", help="local | dask")
    add("--scheduler", metavar="ADDRESS", help="a running Dask scheduler, tcp://HOST:8786")

    about = "train some runs that a claim rests on again, and compare"
    add = commands.add_parser("reproduce", help=about, parents=[machine]).add_argument
    add("claim", nargs="?", help="a claim's id, see samlib claims (default: all records)")
    add("--runs", type=int, default=3, help="how many, picked at random")
    add("--seed", type=int, help="draws them (default: anew each time)")

    about = "show, check and download the data sets"
    add = commands.add_parser("data", help=about, parents=[data_root]).add_argument
    add("name", nargs="?", help="one data set (default: all)")
    add("--download", action="store_true", help="get what is absent")
    verify = "fail if a data set is corrupt or the one named absent"
    add("--verify", action="store_true", help=verify)

    about = "the ledger of claims and its evidence"
    add = commands.add_parser("claims", help=about).add_argument
    add("claim", nargs="?", help="a claim's id (default: all claims)")
    add("--check", metavar="JUNIT.xml", help="check against a test run's report")
    return parser


def _machine(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords of a training function that say where it runs."""
    return {"device": args.device, "data_root": args.data_root, "threads": args.threads}


def _run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from samlib.diagnostics import verdicts as diagnostics
    from samlib.experiments import records
    from samlib.training.loop import train

    spec = RunSpec(**{field.name: getattr(args, field.name) for field in fields(RunSpec)})
    if args.out:
        records.prepare(args.out)
    total = 2 * spec.steps  # the run and its gradient descent twin
    with tqdm(total=total, unit="step", disable=None, leave=False, desc="training") as bar:
        run = train(spec, progress=bar.update, **_machine(args))
    record = run.record()
    if args.out:
        records.append(args.out, record, run.curves())
    if args.json:
        rest = {k: record[k] for k in ("verdict", "spec", "data", "provenance")}
        print(json.dumps(record["metrics"] | rest, sort_keys=True, allow_nan=False))
        return 0
    print(f"verdict           {run.verdict}")
    for label, key in _SHOWN.items():
        value = run.metrics[key]
        print(f"{label:<18}{'–' if value is None else format(value, '.4g')}")
    print(f"\n{diagnostics.explain(run.verdict, run.metrics)}")
    return 0


_SHOWN = {
    "loss f(x)": "loss",
    "loss f(x⁺)": "shifted_loss",
    "gradient ‖∇f(x)‖": "grad_norm",
    "GradRatio": "grad_ratio",
    "constant guess": "baseline",
    "gradient descent": "twin_loss",
    "train accuracy": "train_accuracy",
    "test accuracy": "test_accuracy",
}


def _sweep(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from samlib.experiments import records, sweeps

    path = Path(args.experiment)
    table, specs = sweeps.load(path)
    if not args.out and len(path.resolve().parents) < 2:
        raise BadInput(f"{path} lies in no folder beside which records could lie; give --out")
    out = args.out or path.resolve().parents[1] / "records" / path.stem
    print(f"{table.get('question', path.stem)}\n{len(specs)} runs, records in {out}")
    for fault in records.repair(out):
        print(f"samlib: {fault}", file=sys.stderr)
    kept = {k: table[k] for k in ("measure", "points", "chunk") if k in table}
    try:
        with _executor(args) as where, tqdm(total=len(specs), unit="run", disable=None) as bar:
            done = sweeps.sweep(specs, out, **where, progress=bar.update, **kept, **_machine(args))
    except sweeps.WorkerDied as error:
        print(f"samlib: error: {error}", file=sys.stderr)
        return 1
    ids = {s.id for s in specs}
    verdicts = Counter(r["verdict"] for r in records.read(out) if r["id"] in ids)
    if verdicts.total() == len(ids):
        records.pack(out)
    counts = ", ".join(f"{name}: {count}" for name, count in sorted(verdicts.items()))
    print(f"{done} runs trained, {len(specs) - done} already recorded; {counts}")
    return 0


@contextmanager
def _executor(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The keywords of a sweep that say who trains, while those workers are up."""
    from samlib.experiments import executors

    if args.executor == "local" and args.scheduler:
        raise BadInput("--scheduler is for a Dask cluster; add --executor dask")
    if args.executor == "dask":
        workers = (os.cpu_count() or 1) if args.workers is None else args.workers
        with executors.dask(args.scheduler, workers) as executor:
            yield {"executor": executor}
    elif args.workers is None:
        yield {}
    else:
        with executors.processes(args.workers) as executor:
            yield {"executor": executor, "in_flight": 2 * args.workers}


def _reproduce(args: argparse.Namespace) -> int:
    from samlib.experiments import reproduction

    compared: list[bool] = []
    for run in reproduction.reproduce(args.claim, args.runs, args.seed, **_machine(args)):
        if not compared:
            print(f"{'experiment':<20} {'run':<17} {'rho':>6} {'lr':>6} {'recorded':>21} again")
        compared.append(run.same)
        spec, record = run.record["spec"], run.record
        was = math.nan if record["metrics"]["loss"] is None else record["metrics"]["loss"]
        row = f"{run.experiment:<20} {record['id']:<17} {spec['rho']:>6g} {spec['lr']:>6g} "
        row += f"{record['verdict']:>12} {was:>8.4g} {run.verdict} {run.loss:.4g}: "
        same = "same verdict, chaotic" if run.chaotic else "same"
        print(row + (same if run.same else "NOT THE SAME"), flush=True)
    for claim in [] if compared else reproduction.ledger().find(args.claim):
        print(f"{claim.id} rests on no recorded run. Its evidence is checked again by")
        commands = [item.again for item in claim.evidence if item.again]
        print("\n".join(f"  {line}" for line in commands) or "  nothing yet")
    return int(not all(compared))


def _data(args: argparse.Namespace) -> int:
    from samlib.training import data

    names = [args.name] if args.name else data.names()
    for name in names if args.download else []:
        data.load_data(name, root=args.data_root, download=True)
    rows = [data.verify(name, root=args.data_root) for name in names]
    for row in rows:
        print(f"{row['name']:<14} {row['status']:<8} {row['sha256'] or row['reason']}")
    bad = {"corrupt", "absent"} if args.name else {"corrupt"}
    return int(args.verify and any(row["status"] in bad for row in rows))


def _claims(args: argparse.Namespace) -> int:
    from samlib.experiments import reproduction

    claims = reproduction.ledger()
    ledger = claims.find(args.claim)
    problems = claims.check(ledger, junit=args.check)
    for claim in ledger:
        print(claims.text(claim))
    print(claims.summary(ledger, args.check))
    for problem in problems:
        print(f"samlib claims: {problem}", file=sys.stderr)
    return int(bool(problems))


_COMMANDS = {
    "run": _run,
    "sweep": _sweep,
    "reproduce": _reproduce,
    "data": _data,
    "claims": _claims,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        args = _parser().parse_args(argv)
        return _COMMANDS[args.command](args)
    except BadInput as error:
        print(f"samlib: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a file of the user's: unreadable, a folder, on a full disk, …
        print(f"samlib: error: {error}; check that path, its rights and the disk", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("samlib: interrupted", file=sys.stderr)
        return 1
