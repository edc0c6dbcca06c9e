"""The command line: ``samlib run | sweep | data | claims``.

Exit codes: 0 done, 2 unusable input (one line says why), 1 failure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from samlib import __version__
from samlib.errors import BadInput


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, since the usage text would bury them."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see '{self.prog} --help'")


def _classes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _batch(text: str) -> int | None:
    return None if text == "full" else int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("samlib", description="Does sharpness-aware minimization hallucinate here?")
    parser.add_argument("--version", action="version", version=f"samlib {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    _add_run(commands.add_parser("run", help="train one network and name what became of it"))
    _add_sweep(commands.add_parser("sweep", help="run an experiment file, or go on with it"))
    _add_data(commands.add_parser("data", help="show, check and download the data sets"))
    _add_claims(commands.add_parser("claims", help="the ledger of claims and its evidence"))
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    """Options of ``samlib run``: those of RunSpec, and how to run and report."""
    add = run.add_argument
    add("--data", default="digits", help="a data set's name, or a folder or zip of images")
    add("--data-root", help="where data sets lie (default: $SAMLIB_DATA or ~/.cache/samlib)")
    add("--n", type=int, help="number of training examples (default: all)")
    add("--classes", type=_classes, help="keep these classes only, for example 3,8")
    add("--features", default="standard", help="standard | pixels | pca:K")
    add("--label-noise", type=float, default=0.0, help="fraction of wrong training labels")
    add("--data-seed", type=int, default=0, help="draws the subset (0: the first n) and the noise")
    add("--model", default="mlp")
    add("--width", type=int, default=32)
    add("--depth", type=int, default=1, help="number of hidden layers")
    add("--activation", default="tanh", help="tanh | relu | gelu")
    add("--loss", default="ce", help="ce | mse | logistic")
    add("--weight-decay", type=float, default=0.0, help="λ of (λ/2)‖θ‖², on all parameters")
    add("--rule", default="sam", help="the update rule, for example sam, gd or exact")
    add("--rho", type=float, default=2.0, help="SAM's radius ρ")
    add("--lr", type=float, default=0.03, help="learning rate η")
    add("--steps", type=int, default=4000)
    add("--warm-start", type=float, default=0.0, help="fraction of plain gradient steps first")
    add("--batch", type=_batch, default=None, help="mini-batch size, or full")
    add("--dtype", default="float32", help="float32 | float64")
    add("--seed", type=int, default=0, help="draws the initial weights and the batches")
    add("--device", default="auto", help="auto | cpu | cuda")
    add("--threads", type=int, default=1, help="CPU threads")
    add("--out", help="folder to which the run's record and curves are added")
    add("--json", action="store_true", help="print one JSON object")
    run.set_defaults(action=_run)


def _add_sweep(sweep: argparse.ArgumentParser) -> None:
    sweep.add_argument(
        "experiment", help="a TOML file, for example book/experiments/mnist-cliff.toml"
    )
    sweep.add_argument("--out", help="record folder (default: records/NAME beside experiments/)")
    sweep.add_argument("--data-root", help="where data sets lie")
    sweep.add_argument("--device", default="auto", help="auto | cpu | cuda")
    sweep.add_argument("--threads", type=int, default=1, help="CPU threads")
    sweep.set_defaults(action=_sweep)


def _add_data(data: argparse.ArgumentParser) -> None:
    data.add_argument("name", nargs="?", help="one data set (default: all)")
    data.add_argument("--data-root", help="where data sets lie")
    data.add_argument("--download", action="store_true", help="get it if it is absent")
    data.add_argument("--verify", action="store_true", help="fail if a data set is corrupt")
    data.set_defaults(action=_data)


def _add_claims(claims: argparse.ArgumentParser) -> None:
    claims.add_argument("--check", metavar="JUNIT.xml", help="check against a test run's report")
    claims.set_defaults(action=_claims)


def _run(args: argparse.Namespace) -> int:
    import dataclasses

    from tqdm import tqdm

    from samlib import diagnostics, records
    from samlib.train import RunSpec, resolve_device, train

    options = vars(args)
    spec = RunSpec(**{f.name: options[f.name] for f in dataclasses.fields(RunSpec)})
    device = resolve_device(args.device)
    if not 1 <= args.threads <= 1024:
        raise BadInput(f"threads = {args.threads} is not a whole number in [1, 1024]")
    if args.out:
        records.prepare(args.out)
    total = 2 * (spec.steps + 1)  # the run and its gradient descent twin
    with tqdm(total=total, unit="step", disable=None, leave=False, desc="training") as bar:
        run = train(
            spec,
            device=device,
            data_root=args.data_root,
            threads=args.threads,
            progress=bar.update,
        )
    if args.out:
        records.append(args.out, run.record(), run.curves())
    record = run.record()
    if args.json:
        flat = {"verdict": run.verdict, **record["metrics"]}
        rest = {k: record[k] for k in ("spec", "data", "provenance")}
        print(json.dumps(flat | rest, sort_keys=True, allow_nan=False))
    else:
        _print_run(run.verdict, run.metrics, diagnostics.explain(run.verdict, run.metrics))
    return 0


def _print_run(verdict: str, metrics: dict[str, Any], text: str) -> None:
    print(f"verdict           {verdict}")
    rows = {
        "loss f(x)": "loss",
        "loss f(x⁺)": "shifted_loss",
        "gradient ‖∇f(x)‖": "grad_norm",
        "GradRatio": "grad_ratio",
        "constant guess": "baseline",
        "gradient descent": "twin_loss",
        "train accuracy": "train_accuracy",
        "test accuracy": "test_accuracy",
    }
    for label, key in rows.items():
        print(f"{label:<18}{metrics[key]:.4g}" if metrics[key] is not None else f"{label:<18}–")
    print(f"\n{text}")


def _sweep(args: argparse.Namespace) -> int:
    from pathlib import Path

    from tqdm import tqdm

    from samlib import records, sweep

    path = Path(args.experiment)
    table, specs = sweep.load(path)
    out = args.out or path.resolve().parents[1] / "records" / path.stem
    print(f"{table.get('question', path.stem)}\n{len(specs)} runs, records in {out}")
    with tqdm(total=len(specs), unit="run", disable=None) as bar:
        done = sweep.sweep(
            specs,
            out,
            device=args.device,
            data_root=args.data_root,
            threads=args.threads,
            progress=bar.update,
        )
    ids = {s.id for s in specs}
    verdicts = [r["verdict"] for r in records.read(out) if r["id"] in ids]
    counts = ", ".join(f"{v}: {verdicts.count(v)}" for v in sorted(set(verdicts)))
    print(f"{done} runs trained, {len(specs) - done} already recorded; {counts}")
    return 0


def _data(args: argparse.Namespace) -> int:
    from samlib import data

    names = [args.name] if args.name else data.names()
    if args.download:
        if not args.name:
            raise BadInput("--download needs the name of one data set, for example mnist")
        data.load(args.name, root=args.data_root, download=True)
    rows = [(name, data.verify(name, root=args.data_root)) for name in names]
    for name, row in rows:
        print(f"{name:<14} {row['status']:<8} {row.get('sha256') or row.get('reason', '')}")
    return 1 if args.verify and any(row["status"] == "corrupt" for _, row in rows) else 0


def _claims(args: argparse.Namespace) -> int:
    from samlib import claims

    ledger = claims.load()
    problems = claims.check(ledger, junit=args.check)
    for claim in ledger:
        print(f"{claim.id:<28} {claim.status:<24} {claim.statement}")
    for problem in problems:
        print(f"samlib claims: {problem}", file=sys.stderr)
    return 1 if problems else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        args = _parser().parse_args(argv)
        code: int = args.action(args)
        return code
    except BadInput as error:
        print(f"samlib: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("samlib: interrupted", file=sys.stderr)
        return 1
