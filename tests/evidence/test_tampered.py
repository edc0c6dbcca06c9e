"""Ledgers and records that were tampered with: each is refused, and the message names the thing."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import test_record_verdicts as recomputed
import yaml
from ledger import claims
from ledger.claims import PROJECT
from ledger.evidence import Context

from samlib.errors import BadInput
from samlib.experiments import records

RECORDS = PROJECT / "book" / "records"
CERTIFICATES = PROJECT / "book" / "certificates"
Run = dict[str, Any]


@cache
def kept(name: str) -> list[Run]:
    """The runs of a record, read once for all tamperings."""
    return records.read(RECORDS / name)


@cache
def written() -> str:
    return (PROJECT / "book" / "claims.yml").read_text()


@cache
def entries() -> dict[str, dict[str, Any]]:
    return {e["id"]: e for e in yaml.safe_load(written())}


class Copy:
    """A copy of the ledger and of the records, to tamper with; ``folder`` takes forged files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = copy.deepcopy(entries())
        self.changed: dict[str, list[Run]] = {}
        self.text = ""

    def evidence(self, claim: str, **having: Any) -> dict[str, Any]:
        """The first evidence of a claim that has these keys and values."""
        found = (
            e
            for e in self.ledger[claim]["evidence"]
            if all(k in e and v in (..., e[k]) for k, v in having.items())
        )
        return next(found)

    def runs(self, name: str, **spec: Any) -> list[Run]:
        """The runs of a record with this spec, free to be changed."""
        if name not in self.changed:
            self.changed[name] = copy.deepcopy(kept(name))
        return [r for r in self.changed[name] if all(r["spec"].get(k) == spec[k] for k in spec)]

    def unlike_their_curves(self) -> list[str]:
        """What of the changed runs does not follow from their curves, one line a run."""
        lines = []
        for name, runs in self.changed.items():
            known = {run["id"]: run for run in kept(name)}
            for run in runs:
                if run != known[run["id"]]:
                    curves = records.read_curves(RECORDS / name, run["id"])
                    between = recomputed.BETWEEN.get(f"{name}/{run['id']}", {})
                    if bad := recomputed.faults(run, curves, between):
                        lines.append(
                            f"{name}/{run['id']}: its curves show another {', '.join(bad)}"
                        )
        return lines

    def touched(self, claim: claims.Claim) -> bool:
        """Whether the claim or a record that it cites was changed; all others are sound."""
        cited = {getattr(item, "record", "") for item in claim.evidence}
        changed = self.ledger.get(claim.id) != entries().get(claim.id)
        return changed or not cited.isdisjoint(self.changed)

    def problems(self) -> list[str]:
        """What is found: one line a fault, or just one if the ledger cannot be read."""
        context = Context(PROJECT, lambda name: self.changed.get(name) or kept(name))
        path = self.folder / "claims.yml"
        try:
            if self.text:
                path.write_text(self.text)
                return claims.check(claims.load(path), context=context)
            ledger = claims.parse(self.ledger.values())
            return claims.check(filter(self.touched, ledger), context=context)
        except BadInput as error:
            return [str(error)]


TAMPERINGS: list[tuple[Callable[[Copy], Any], str]] = []


def refused(message: str) -> Callable[[Callable[[Copy], Any]], Callable[[Copy], Any]]:
    """Enter a tampering into the table, with what must be said about it."""

    def enter(tampering: Callable[[Copy], Any]) -> Callable[[Copy], Any]:
        TAMPERINGS.append((tampering, message))
        return tampering

    return enter


def rename(runs: list[Run], verdict: str) -> None:
    for run in runs:
        run["verdict"] = verdict


# Records


@refused("image-is-constant: record 'digits-map', verdict hallucinated: of: 56, but there are 57")
def a_hallucinated_run_whose_image_is_not_constant(c: Copy) -> None:
    runs = c.runs("digits-map")
    rename(
        [
            next(
                r
                for r in runs
                if r["verdict"] == "stalled" and r["metrics"]["shifted_spread"] > 0.3
            )
        ],
        "hallucinated",
    )


@refused("image-is-constant: record 'digits-map', verdict hallucinated: every: .*shifted_spread")
def two_runs_change_names_so_that_the_count_stays(c: Copy) -> None:
    runs = c.runs("digits-map")
    rename([next(r for r in runs if r["verdict"] == "hallucinated")], "stalled")
    rename([next(r for r in runs if r["metrics"]["shifted_spread"] > 0.3)], "hallucinated")


@refused("other-architectures: record 'karate-gcn', .*: none: verdict hallucinated, but 40 of 60")
def forty_graph_networks_hallucinate(c: Copy) -> None:
    small = [r for r in c.runs("karate-gcn") if r["spec"]["rho"] < 2]
    assert len(small) == 40
    rename(small, "hallucinated")


@refused(
    "other-architectures: record 'addition-transformer', .*: none: .*, but 1 of 30 runs show it"
)
def a_transformer_hallucinates(c: Copy) -> None:
    rename(c.runs("addition-transformer", rho=0.5)[:1], "hallucinated")


@refused("variants-networks: record 'variants-digits', `rule` gsam: none: .*, but 25 of 35 runs")
def gsam_hallucinates_on_ten_digits(c: Copy) -> None:
    runs = c.runs("variants-digits", rule="gsam")
    rename([r for r in runs if r["spec"]["rho"] not in (2.0, 4.0)], "hallucinated")


@refused("mini-batch-ends-hallucination: record 'batch-digits', .*: none: .*, but 171 of 225 runs")
def mini_batch_runs_hallucinate(c: Copy) -> None:
    runs = [r for r in c.runs("batch-digits") if r["spec"]["batch"] < 500]
    rename(runs[:171], "hallucinated")


@refused("image-degenerate-saddle: record 'how-often', .*: every: .*, but 17 of 24 runs show it")
def seven_images_become_minimizers(c: Copy) -> None:
    runs = [r for r in c.runs("how-often", n=500) if r["verdict"] == "hallucinated"]
    for run in runs[:7]:
        run["metrics"] |= {"shifted_hessian_negative": 0.0, "shifted_hessian_min": 0.01}


@refused("image-degenerate-saddle: record 'how-often-mnist', .*: every: `shifted_hessian_min` ≤")
def an_image_on_mnist_becomes_a_minimizer(c: Copy) -> None:
    c.runs("how-often-mnist", rho=2.0)[0]["metrics"]["shifted_hessian_min"] = 0.01


@refused("ramp-rho: record 'remedy-mnist', `schedule` ramp: every: verdict converged, but 5 of 6")
def a_rescued_run_fails(c: Copy) -> None:
    rename(c.runs("remedy-mnist", schedule="ramp")[:1], "stalled")


@refused("mse-none: record 'mse-digits': every: `steps_below_0.1` ≤ 0, but 44 of 45")
def a_metric_is_lost_to_null(c: Copy) -> None:
    c.runs("mse-digits")[0]["metrics"]["steps_below_0.1"] = None


@refused("mse-none: record 'mse-digits': run [0-9a-f]+ has no metric 'steps_below_0.1'")
def a_metric_is_left_out_of_one_run(c: Copy) -> None:
    del c.runs("mse-digits")[7]["metrics"]["steps_below_0.1"]


@refused("strict-P-from-64: record 'strict-init', `width` 1: of: 64, but there are 63")
def a_run_is_removed(c: Copy) -> None:
    run = c.runs("strict-init", width=1)[0]
    c.changed["strict-init"].remove(run)


@refused("other-architectures: record 'karate-gcn', .*: of: 60, but there are 61")
def a_run_stands_twice(c: Copy) -> None:
    c.changed["karate-gcn"] = [*c.runs("karate-gcn"), c.runs("karate-gcn")[0]]


@refused("mse-digits.runs.jsonl:1 is not a record")
def the_spec_of_a_run_is_changed_in_the_file(c: Copy) -> None:
    runs = c.runs("mse-digits")
    runs[0]["spec"]["rho"] = 8.0
    folder = c.folder / "mse-digits"
    folder.mkdir()
    lines = (json.dumps(run, sort_keys=True) for run in runs)
    (folder / records.RUNS).write_text("\n".join(lines) + "\n")
    c.changed["mse-digits"] = records.read(folder)


# Records against their curves. What is not in them is held by the sums that are committed.


@refused("mnist-cliff/[0-9a-f]+: its curves show another grad_ratio")
def a_metric_is_forged(c: Copy) -> None:
    c.runs("mnist-cliff", rho=2.0, lr=0.01)[0]["metrics"]["grad_ratio"] = 1e-3


@refused("mnist-cliff/[0-9a-f]+: its curves show another loss, loss_gap")
def a_loss_is_forged(c: Copy) -> None:
    c.runs("mnist-cliff", rho=4.0)[0]["metrics"]["loss"] = 2.29


@refused("monitor-tune/[0-9a-f]+: its curves show another verdict, progress")
def a_verdict_is_forged_where_no_claim_counts_it(c: Copy) -> None:
    runs = c.runs("monitor-tune")
    rename([next(r for r in runs if r["verdict"] == "converged")], "hallucinated")


@refused("karate-gcn/[0-9a-f]+: its curves show another verdict")
def a_graph_network_hallucinates_against_its_curves(c: Copy) -> None:
    rename([next(r for r in c.runs("karate-gcn") if r["verdict"] == "stalled")], "hallucinated")


@refused("mse-digits/[0-9a-f]+: its curves show another steps_below_0.1")
def steps_of_a_low_ratio_are_forged_away(c: Copy) -> None:
    run = next(r for r in c.runs("digits-map") if r["verdict"] == "hallucinated")
    run["metrics"]["steps_below_0.1"] = 0
    c.runs("mse-digits")[0]["metrics"]["steps_below_0.1"] = 10**6


# Certificates


def forge(c: Copy, claim: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Let the first certificate of a claim be another file."""
    evidence = c.evidence(claim, certificate=...)
    path = PROJECT / evidence["certificate"]
    stored = json.loads(path.read_text())
    edit(stored)
    forged = c.folder / path.name
    forged.write_text(json.dumps(stored))
    evidence["certificate"] = str(forged)


@refused("certified-flagship: certificate digits-3v8.json is not proved again")
def the_centre_of_a_certificate_is_forged(c: Copy) -> None:
    def edit(stored: dict[str, Any]) -> None:
        stored["centre"][0] = str(float(stored["centre"][0]) + 0.01)

    forge(c, "certified-flagship", edit)


@refused("certified-saddles: certificate digits-012.json is not proved again: .*image is minimizer")
def a_certificate_claims_more_than_it_proves(c: Copy) -> None:
    forge(c, "certified-saddles", lambda stored: stored["proved"].append("image is minimizer"))


@refused("certified-flagship: certificate digits-3v8.json is not proved again: .*eta_max")
def the_largest_learning_rate_of_a_certificate_is_forged(c: Copy) -> None:
    forge(c, "certified-flagship", lambda stored: stored.update(eta_max=0.2))


@refused("certified-saddles: certificate .*digits-012.json' does not prove ..image is minimizer")
def a_claim_cites_what_its_certificate_does_not_prove(c: Copy) -> None:
    c.evidence("certified-saddles", certificate=...)["proved"].append("image is minimizer")


@refused("certified-flagship: certificate .*: eta_max is 0.1148406, not from 0.2 to inf")
def a_claim_asks_more_of_a_certificate(c: Copy) -> None:
    c.evidence("certified-flagship", certificate=...)["min"] = {"eta_max": 0.2}


@refused("certified-flagship: certificate .* has no number 'eta_maxx'")
def a_number_of_a_certificate_is_misspelt(c: Copy) -> None:
    c.evidence("certified-flagship", certificate=...)["min"] = {"eta_maxx": 0.1}


@refused("certified-flagship: kind certificate, but it cites none")
def the_certificate_is_dropped(c: Copy) -> None:
    claim = c.ledger["certified-flagship"]
    claim["evidence"].remove(c.evidence("certified-flagship", certificate=...))


# The ledger


@refused("warm-start: record 'remedy-digits': unknown key 'evry'; allowed are record, of, where")
def a_key_is_misspelt(c: Copy) -> None:
    evidence = c.evidence("warm-start", record=...)
    evidence["evry"] = evidence.pop("every")


@refused("warm-start: record 'remedy-digits': every: unknown key 'mim'; allowed are verdict, min")
def a_key_of_a_condition_is_misspelt(c: Copy) -> None:
    c.evidence("warm-start", record=...)["every"]["mim"] = {"loss": 9.0}


@refused("mse-none: record 'mse-digits': no run has a metric 'steps_below_0.01'")
def a_metric_is_misspelt(c: Copy) -> None:
    c.evidence("mse-none", record=...)["every"] = {"max": {"steps_below_0.01": 0}}


@refused("mse-none: record 'mse-digits': every: empty condition; name a verdict, min or max")
def a_condition_is_empty(c: Copy) -> None:
    c.evidence("mse-none", record=...)["every"] = {}


@refused("mse-none: record 'mse-digits': nothing is compared; say every, none or exactly")
def nothing_is_compared(c: Copy) -> None:
    del c.evidence("mse-none", record=...)["every"]


@refused("mse-none: record 'mse-digits': of: 46, but there are 45")
def there_are_fewer_runs_than_it_says(c: Copy) -> None:
    c.evidence("mse-none", record=...)["of"] = 46


@refused("strict-pairs: record 'strict-pairs', `rho` 3.5: exactly: .*, but 89 of 90 runs show it")
def one_more_run_than_there_is(c: Copy) -> None:
    c.ledger["strict-pairs"]["evidence"] = [
        {"record": "strict-pairs", "where": {"rho": 3.5}, "of": 90,
         "exactly": {"count": 88, "verdict": "hallucinated"}}
    ]  # fmt: skip


@refused("image-is-constant: record 'digits-map': of: 56, but there are 300")
def a_filter_is_dropped(c: Copy) -> None:
    del c.evidence("image-is-constant", where={"verdict": "hallucinated"})["where"]


@refused("mse-none: .*karate-clubs.runs.jsonl' does not exist")
def a_record_does_not_exist(c: Copy) -> None:
    c.evidence("mse-none", record=...)["record"] = "karate-clubs"


@refused("monitor-free: tests/unit/optim/test_monitor.py has no test 'test_that_is_not_there'")
def a_test_does_not_exist(c: Copy) -> None:
    test = "tests/unit/optim/test_monitor.py::test_that_is_not_there"
    c.evidence("monitor-free", test=...)["test"] = test


@refused("monitor-free: 'tests/unit/optim/test_monitor.py' names no test")
def a_whole_file_is_cited_for_a_test(c: Copy) -> None:
    c.evidence("monitor-free", test=...)["test"] = "tests/unit/optim/test_monitor.py"


@refused("monitor-free: 'book/ledger/claims.py::load' names no test")
def a_function_is_cited_for_a_test(c: Copy) -> None:
    c.evidence("monitor-free", test=...)["test"] = "book/ledger/claims.py::load"


@refused("rescue-lasts: tests/.* reads .'remedy-long'.; say so")
def a_test_does_not_say_what_it_reads(c: Copy) -> None:
    del c.evidence("rescue-lasts", test=...)["reads"]


@refused("mse-none: chapter '10-relu' has no anchor 'sec-msee'")
def a_section_does_not_exist(c: Copy) -> None:
    c.evidence("mse-none", chapter=...)["chapter"] = "10-relu#sec-msee"


@refused("warm-start: record 'remedy-digits': where: no run has a field 'radius'; a spec has data")
def a_field_of_the_spec_does_not_exist(c: Copy) -> None:
    c.evidence("warm-start", record=...)["where"] = {"radius": 2.0}


@refused("warm-start: record 'remedy-digits': every: verdict 'convergent' is unknown; use one of")
def a_verdict_does_not_exist(c: Copy) -> None:
    c.evidence("warm-start", record=...)["every"] = {"verdict": "convergent"}


@refused("remedy-accuracy: status 'holds', but its evidence says 'not reproduced'")
def what_did_not_reproduce_holds(c: Copy) -> None:
    c.ledger["remedy-accuracy"]["status"] = "holds"


@refused("remedy-accuracy: status 'not reproduced', but its evidence says 'holds'")
def evidence_changes_sides(c: Copy) -> None:
    c.evidence("remedy-accuracy", side="against")["side"] = "for"


@refused("warm-start: record 'remedy-digits': side 'beside' is unknown; use one of for, against")
def evidence_is_on_no_side(c: Copy) -> None:
    c.evidence("warm-start", side="against")["side"] = "beside"


@refused("sphere: status 'holds', but its evidence says 'proved in the text; instances tested'")
def a_theorem_holds_by_machine(c: Copy) -> None:
    c.ledger["sphere"]["status"] = "holds"


@refused("constrained-maximum: status .* with a correction; instances tested', but its evidence")
def a_correction_is_dropped(c: Copy) -> None:
    del c.ledger["constrained-maximum"]["correction"]


@refused("is no YAML: key 'record' is given twice")
def a_key_is_given_twice(c: Copy) -> None:
    c.text = written().replace("{record: mse-digits,", "{record: karate-gcn, record: mse-digits,")


@refused("two claims share the id 'mse-none'")
def a_claim_takes_the_name_of_another(c: Copy) -> None:
    c.ledger["sphere"]["id"] = "mse-none"


def test_there_are_enough_of_them() -> None:
    assert len(TAMPERINGS) >= 20


@pytest.mark.slow
def test_the_copy_is_sound_before_it_is_tampered_with(tmp_path: Path) -> None:
    sound = Copy(tmp_path)
    assert sound.problems() == []
    sound.text = written()
    assert sound.problems() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tampering", "message"), TAMPERINGS, ids=[t.__name__ for t, _ in TAMPERINGS]
)
def test_tampering_is_refused_by_name(
    tampering: Callable[[Copy], Any], message: str, tmp_path: Path
) -> None:
    tampered = Copy(tmp_path)
    try:
        tampering(tampered)
        problems = tampered.problems()
        if "its curves" in message:
            problems += tampered.unlike_their_curves()
    except BadInput as error:  # the record itself cannot be read
        problems = [str(error)]
    assert any(re.search(message, problem) for problem in problems), problems
    assert all("\n" not in problem for problem in problems)
