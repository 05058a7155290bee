"""The gate's judgement of two records: each figure, by its interval and tolerance."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import decoded, interval, record, verdict

from harness.gate import judge as gate
from harness.gate.judge import BETWEEN_RUNS, EXIT_CODES, CellComparison, Finding, Judgement
from harness.policy.rules import Policy, policy
from harness.records.record import Record
from harness.run.declarations import default_rules

MACHINE = {"cpu": "A CPU", "cpus": 2, "memory_bytes": 8 * 10**9}
INT8 = {"precision": "int8"}


def cell(old: bool = False, **changes: Any) -> Any:
    """The JSON of an int8 cell on a known machine, with per-process ratios to its reference."""
    made = record(**(INT8 | changes))
    made |= {
        "artefact": {"key": "k1", "sha256": "s1"},
        "reference_artefact": {"key": "k0", "sha256": "s0"},
        "machine": dict(MACHINE),
        "steps": [{"step": "train()", "facts": {}, "seconds": None}],
    }
    better = {"auroc": "higher", "parameters": "lower", "file_size": "lower", "memory": "lower"}
    for name, figure in made["figures"].items():
        figure["better"] = better.get(name)
        figure |= {"per_machine": True} if name == "memory" else {"exact": name in ("parameters", "file_size")}
    made["timing"] |= {"per_process": [0.50, 0.501, 0.499, 0.5]}
    return made


def again(new: Any, ratio: tuple[float, float, float], kind: str, **rest: Any) -> Any:
    """Add a timing of the earlier model in pairs with the new one."""
    new["artefact"] = {"key": "k2", "sha256": "s2"}
    timing = copy.deepcopy(new["timing"])
    timing["ratio"] = interval(*ratio)
    timing["verdict"] = verdict(kind, f"because {kind}")
    latency = {"metric": "latency", "value": 100.0, "unit": "us", "better": "lower", "digits": 1, "headline": True}
    new["against"] = {
        "run": "old.json",
        "artefact": {"key": "k1", "sha256": "s1"},
        "sha256": "s1",
        "same": False,
        "timing": timing,
        "latency": 110.0,
        "reason": "",
        "figures": {"latency": latency},
        "differences": {},
    } | rest
    return new


def compare(name: str, old: Any, new: Any, rules: Policy) -> CellComparison:
    return gate.judge_cell(name, decoded(old), decoded(new), rules)


def judge(old: Any, new: Any, lost: dict[str, str], policy_of: Callable[[Record], Policy]) -> Judgement:
    return gate.judge(*({name: decoded(made) for name, made in run.items()} for run in (old, new)), lost, policy_of)


def finding(figure: str, old: Any, new: Any, **rules: str) -> Finding:
    off = {name: "off" for name in ("latency", "file_size", "parameters", "memory", "auroc") if name not in rules}
    (found,) = compare("cell", old, new, policy(off, rules)).findings
    return found


# ------------------------------------------------------------------------------------------------------ exact figures


@pytest.mark.parametrize(
    ("now", "tolerance", "kind"),
    [
        (1000, "0%", "fine"),
        (1001, "0%", "regressed"),
        (999, "0%", "improved"),
        (1050, "5%", "fine"),
        (1051, "5%", "regressed"),
        (949, "5%", "improved"),
        (1050, "50", "fine"),
        (1051, "50", "regressed"),
    ],
)
def test_a_size_is_exact(now: float, tolerance: str, kind: str) -> None:
    old, new = cell(figures={"file_size": 1000.0}), cell(figures={"file_size": now})
    found = finding("file_size", old, new, file_size=tolerance)
    assert (found.kind, found.method, found.old, found.new) == (kind, "exact", 1000, now)


def test_the_change_is_shown_as_the_tolerance_is_written() -> None:
    old, new = cell(figures={"file_size": 1000.0}), cell(figures={"file_size": 1100.0})
    share = finding("file_size", old, new, file_size="1%").change
    amount = finding("file_size", old, new, file_size="1").change
    assert share is not None
    assert amount is not None
    assert (share.value, share.low, amount.value) == (pytest.approx(1.1), None, pytest.approx(100))


@pytest.mark.parametrize("value", [None, float("nan"), "absent"])
def test_a_new_figure_is_not_judged_and_a_vanished_one_is_inconclusive(value: Any) -> None:
    """Quality that became undefined must not pass as fine, nor quality beside an earlier run that could not tell it."""
    full, without = cell(figures={"auroc": 0.93}), cell(figures={"auroc": 0.93})
    if value == "absent":
        del without["figures"]["auroc"]
    else:
        without["figures"]["auroc"]["value"] = value
    rules = policy({"latency": "off", "auroc": "0.005"})
    assert compare("cell", without, full, rules).outcomes == (set() if value == "absent" else {"inconclusive"})
    judged = {entry.figure: entry for entry in compare("cell", full, without, rules).findings}
    assert (judged["auroc"].kind, judged["auroc"].old, judged["auroc"].new) == ("inconclusive", 0.93, None)
    assert judged["auroc"].reason == "this run has no auroc; the earlier run has"
    kept = policy({"latency": "off", "auroc": "99% of reference"})
    assert compare("cell", full, without, kept).outcomes == {"inconclusive"}


def test_a_run_that_timed_nothing_does_not_pass_as_fine() -> None:
    new = cell()
    new["timing"] = None
    found = finding("latency", cell(), new, latency="1%")
    assert (found.kind, found.reason) == ("inconclusive", "this run did not time the cell; the earlier run did")


def test_a_figure_per_machine_is_compared_across_machines_only_if_both_models_ran_here() -> None:
    old, new = cell(figures={"memory": 100.0}), cell(figures={"memory": 150.0})
    assert finding("memory", old, new, memory="10%").kind == "regressed"
    old["machine"]["cpu"] = "another"
    rules = policy({"latency": "off", "memory": "10%"})
    assert compare("cell", old, new, rules).findings == ()
    again(new, (1, 1, 1), "same", figures={"memory": cell(figures={"memory": 149.0})["figures"]["memory"]})
    assert finding("memory", old, new, memory="10%").kind == "fine"


# ------------------------------------------------------------------------------------------------------------ quality


@pytest.mark.parametrize(
    ("bounds", "kind"),
    [
        ((-0.02, -0.03, -0.01), "regressed"),
        ((-0.004, -0.0049, -0.003), "fine"),
        ((-0.004, -0.006, -0.002), "inconclusive"),
        ((-0.006, -0.01, -0.002), "inconclusive"),
        ((0.01, 0.006, 0.02), "improved"),
        ((0.01, -0.004, 0.02), "fine"),
    ],
)
def test_quality_is_judged_by_its_paired_interval(bounds: tuple[float, float, float], kind: str) -> None:
    old, new = cell(figures={"auroc": 0.93}), cell(figures={"auroc": 0.93 + bounds[0]})
    paired = interval(*bounds) | {"method": "bootstrap over 9 patients"}
    again(new, (1, 1, 1), "same", differences={"auroc": paired})
    found = finding("auroc", old, new, auroc="0.005")
    assert (found.kind, "bootstrap over 9 patients" in found.method) == (kind, True)


def test_drift_of_the_earlier_model_counts() -> None:
    """A new runtime costs both models 0.02: they do not differ, but the figure fell."""
    old, new = cell(figures={"auroc": 0.93}), cell(figures={"auroc": 0.91})
    paired = interval(0.0, -0.001, 0.001)
    again(new, (1, 1, 1), "same", differences={"auroc": paired})
    found = finding("auroc", old, new, auroc="0.005")
    assert found.kind == "regressed"
    assert found.change is not None
    assert found.change.low == pytest.approx(-0.021)
    new["against"]["sha256"] = "another file of the same model"
    assert finding("auroc", old, new, auroc="0.005").kind == "fine", "the old figure belongs to another file"


@pytest.mark.parametrize(("low", "high", "kind"), [(-0.001, 0.001, "regressed"), (-0.03, 0.03, "inconclusive")])
def test_without_the_earlier_model_the_intervals_of_the_records_count(low: float, high: float, kind: str) -> None:
    old = cell(figures={"auroc": 0.93}, difference=(0.0, low, high))
    new = cell(figures={"auroc": 0.91}, difference=(-0.02, -0.02 + low, -0.02 + high))
    new["artefact"]["sha256"] = "other"
    found = finding("auroc", old, new, auroc="0.005")
    assert (found.kind, found.method) == (kind, "from the records: each run's difference to the same reference")
    assert found.change is not None
    assert found.change.high is not None
    assert found.change.high - found.change.value == pytest.approx(np.hypot(high, high))


def test_the_same_file_has_exact_quality() -> None:
    old, new = cell(figures={"auroc": 0.93}), cell(figures={"auroc": 0.92})
    found = finding("auroc", old, new, auroc="0.005")
    assert (found.kind, found.method) == ("regressed", "the same model, evaluated in each run")


@pytest.mark.parametrize(
    ("difference", "kind"),
    [((-0.02, -0.03, -0.015), "regressed"), ((-0.005, -0.008, -0.002), "fine"), ((-0.008, -0.02, 0), "inconclusive")],
)
def test_a_share_of_the_reference_s_quality_is_kept(difference: tuple[float, float, float], kind: str) -> None:
    new = cell(figures={"auroc": 0.93 + difference[0]}, difference=difference)
    found = finding("auroc", cell(figures={"auroc": 0.5}), new, auroc="99% of reference")
    assert (found.kind, found.old, "reference's 0.9300" in found.method) == (kind, 0.5, True)


def test_the_reference_itself_must_keep_the_share_of_its_earlier_value() -> None:
    old, new = (cell(precision="float32", figures={"auroc": value}) for value in (0.93, 0.5))
    new["artefact"]["sha256"] = new["reference_artefact"]["sha256"] = "other"
    for entry in (old, new):
        entry["figures"]["auroc"]["interval"] = interval(0.01, 0.0, 0.02)
    found = finding("auroc", old, new, auroc="99% of reference")
    assert (found.kind, str(found.tolerance)) == ("regressed", "1 %")


def test_worse_quality_without_an_interval_is_inconclusive() -> None:
    """For example a retrained model, compared with a record from before intervals were recorded."""
    old, new = cell(figures={"auroc": 0.93}), cell(figures={"auroc": 0.90})
    new["artefact"]["sha256"] = new["reference_artefact"]["sha256"] = "other"
    assert finding("auroc", old, new, auroc="0.005").kind == "inconclusive"
    new["differences"]["auroc"] |= {"value": -0.03, "low": None, "high": None}
    assert finding("auroc", old, new, auroc="99% of reference").kind == "inconclusive"
    paired = interval(-0.03, None, None)
    again(new, (1, 1, 1), "same", differences={"auroc": paired})
    assert finding("auroc", old, new, auroc="0.005").kind == "inconclusive"


def test_quality_on_other_test_examples_is_inconclusive() -> None:
    old, new = cell(figures={"auroc": 0.93}), cell(figures={"auroc": 0.90})
    new["test_examples"] = 30
    assert finding("auroc", old, new, auroc="0.005").kind == "inconclusive"
    again(new, (1, 1, 1), "same", differences={"auroc": interval(0.0, 0.0, 0.0)})
    assert finding("auroc", old, new, auroc="0.005").kind == "fine"
    again(new, (1, 1, 1), "same", differences={"auroc": interval(-0.03, -0.04, -0.02)})
    assert finding("auroc", old, new, auroc="0.005").kind == "regressed"


# ------------------------------------------------------------------------------------------------------------ latency


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [
        ("slower", "regressed"),
        ("faster", "improved"),
        ("same", "fine"),
        ("inconclusive", "inconclusive"),
        ("contaminated", "contaminated"),
    ],
)
def test_the_verdict_of_the_pairs_counts(verdict: str, kind: str) -> None:
    found = finding("latency", cell(), again(cell(), (1.1, 1.09, 1.11), verdict), latency="1%")
    assert (found.kind, found.reason, found.old, found.new) == (kind, f"because {verdict}", 100, 110)
    assert found.change is not None
    assert (found.change.value, found.change.low, found.change.high) == (1.1, 1.09, 1.11)
    assert "timed in pairs with the earlier model, 4 processes" in found.method


@pytest.mark.parametrize(
    ("factor", "kind"), [(1.0, "fine"), (1.02, "fine"), (1.1, "regressed"), (0.9, "improved"), (1.03, "inconclusive")]
)
def test_without_pairs_the_ratios_of_both_runs_are_compared(factor: float, kind: str) -> None:
    old, new = cell(), cell()
    new["timing"]["per_process"] = [factor * ratio for ratio in old["timing"]["per_process"]]
    same = finding("latency", old, new, latency="1%")
    unchanged = {"inconclusive": "fine", "regressed": "inconclusive"}
    assert same.kind == unchanged.get(kind, kind), "the same file cannot have become slower by itself"
    if kind == "regressed":
        updated = copy.deepcopy(new) | {"versions": {"torch": "2.14.0"}}
        assert finding("latency", old, updated, latency="1%").kind == "regressed", "a library may have made it slower"
    new["artefact"]["sha256"] = "s2"
    found = finding("latency", old, new, latency="1%")
    assert (found.kind, found.unit) == (kind, "of the reference")
    assert found.method == f"each run's ratio to its reference, at {100 * BETWEEN_RUNS:g} %"
    assert found.change is not None
    assert found.change.value == pytest.approx(factor)


def test_a_margin_wider_than_that_between_runs_counts() -> None:
    old, new = cell(), cell()
    new["timing"]["per_process"] = [1.1 * ratio for ratio in old["timing"]["per_process"]]
    assert finding("latency", old, new, latency="20%").kind == "fine"


@pytest.mark.parametrize("which", ["old", "new"])
def test_ratios_of_a_contaminated_run_are_not_judged(which: str) -> None:
    records = {"old": cell(), "new": cell()}
    records[which]["timing"]["verdict"] = verdict("contaminated", "busy")
    records["new"]["timing"]["per_process"] = [9.0] * 4
    same = finding("latency", records["old"], records["new"], latency="1%")
    assert (same.kind, same.change, same.method) == ("fine", None, "the same file")
    records["new"]["artefact"]["sha256"] = "s2"
    found = finding("latency", records["old"], records["new"], latency="1%")
    assert (found.kind, found.change) == ("contaminated", None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda old: old["machine"].update(cpu="another"), "the earlier run comes from another machine"),
        (lambda old: old.pop("machine"), "the earlier run comes from another machine"),
        (lambda old: old["reference_artefact"].update(sha256="other"), "its reference changed too"),
        (lambda old: old["timing"].pop("per_process"), "the earlier run's ratio has no interval"),
        (lambda old: old["timing"].update(per_process=[float("nan"), 1.0]), "the earlier run has invalid ratios"),
        (
            lambda old: old["timing"]["environment"][0].update(allocator="system"),
            "the runs timed it in different environments",
        ),
        (lambda old: old["timing"]["profile"].update(pace="20ms"), "the runs timed it in different environments"),
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_incomparable_ratios_are_not_judged(change: Any, reason: str, same: bool) -> None:
    old, new = cell(), cell()
    new["timing"]["per_process"] = [9.0] * 4
    if not same:
        new["artefact"]["sha256"] = "s2"
    change(old)
    found = finding("latency", old, new, latency="1%")
    assert (found.kind, found.change, found.old) == ("fine" if same else "inconclusive", None, None)
    assert reason in found.reason


def test_a_reference_has_no_ratio() -> None:
    old, new = cell(precision="float32"), cell(precision="float32")
    new["artefact"]["sha256"] = "s2"
    found = finding("latency", old, new, latency="1%")
    assert (found.kind, "this cell is its own reference" in found.reason) == ("inconclusive", True)


def test_a_measurement_of_a_third_run_s_model_is_not_used() -> None:
    new = again(cell(), (2, 1.9, 2.1), "slower")
    new["against"]["artefact"]["key"] = "of another run"
    assert finding("latency", cell(), new, latency="1%").kind == "fine"


# --------------------------------------------------------------------------------------------------------------- code

CODE = {"architecture conv": "old", "runtime torch": "same"}


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (CODE, "fine"),
        (CODE | {"architecture conv": "new"}, "not judged"),
        ({"runtime torch": "new"}, "not judged"),
        (CODE | {"step quantize": "new"}, "fine"),
        ({}, "fine"),
    ],
)
@pytest.mark.parametrize("file", ["a", "c"])
def test_ratios_of_changed_code_are_not_judged(now: dict[str, str], kind: str, file: str) -> None:
    """The same change may slow the reference down as much."""
    old, new = cell() | {"code": CODE}, cell() | {"code": now}
    new["artefact"] = {"key": "c" * 64, "sha256": file * 64}
    judged = finding("latency", old, new, latency="10%")
    assert judged.kind == kind
    if kind == "not judged":
        assert re.fullmatch("the code of .* changed, and this run did not time the earlier code", judged.reason)


def test_ratios_to_a_reference_of_changed_code_are_inconclusive() -> None:
    """Its artefact is not in the store, so nothing but ratios is left."""
    reference = cell(precision="float32")
    old, new = cell(precision="int8"), cell(precision="int8")
    new["artefact"]["sha256"] = "s2"
    name, about = (f"suites/toy.py::m[{made['cell']}]" for made in (old, reference))
    assert old["reference"] == reference["cell"]
    before, now = {about: reference | {"code": CODE}, name: old}, {about: reference | {"code": CODE}, name: new}
    kinds = {entry.name: entry for entry in judge(before, now, {}, lambda _: policy({"latency": "10%"})).comparisons}
    assert kinds[name].outcomes == set()
    now[about] = reference | {"code": CODE | {"architecture conv": "new"}}
    kinds = {entry.name: entry for entry in judge(before, now, {}, lambda _: policy({"latency": "10%"})).comparisons}
    assert kinds[about].outcomes == {"not judged"}
    assert kinds[name].outcomes == {"inconclusive"}
    assert "the code of its reference changed" in kinds[name].findings[0].reason


def test_pairs_with_the_earlier_code_are_judged() -> None:
    old, new = cell() | {"code": CODE}, again(cell(), (2, 1.9, 2.1), "slower")
    new["against"] |= {"code": CODE, "code_changed": True}
    assert finding("latency", old, new, latency="1%").kind == "regressed"
    new["against"]["code"] = {"architecture conv": "of a third run"}
    assert finding("latency", old, new, latency="10%").kind == "fine"


# --------------------------------------------------------------------------------------------------------------- runs


def runs(**kinds: str) -> Any:
    """An old and a new run whose cells have these verdicts on their latency."""
    old = {name: cell() for name in kinds}
    new = {name: again(cell(), (1, 1, 1), kind) for name, kind in kinds.items() if kind != "lost"}
    for name, kind in kinds.items():
        if kind == "not judged":
            new[name]["against"] |= {"timing": None, "code_changed": True, "reason": "the earlier code is gone"}
    return old, new, {name: "gone" for name, kind in kinds.items() if kind == "lost"}


@pytest.mark.parametrize(
    ("kinds", "fail_on", "code"),
    [
        (["same"], "regressed+lost+contaminated+inconclusive", 0),
        (["slower", "lost", "contaminated", "inconclusive"], "regressed+lost", 10),
        (["same", "lost", "contaminated", "inconclusive"], "regressed+lost", 14),
        (["same", "contaminated", "inconclusive"], "regressed+lost", 0),
        (["same", "contaminated", "inconclusive"], "contaminated+inconclusive", 12),
        (["same", "inconclusive"], "contaminated+inconclusive", 11),
        (["slower"], "lost", 0),
        (["not judged", "inconclusive"], "", 15),
        (["not judged", "lost"], "not-judged", 15),
        (["not judged", "lost"], "not judged+lost", 14),
        (["not judged", "same"], "regressed+lost", 0),
    ],
)
def test_the_gravest_failing_outcome_sets_the_exit_code(kinds: list[str], fail_on: str, code: int) -> None:
    old, new, lost = runs(**{f"cell{index}": kind for index, kind in enumerate(kinds)})
    found = judge(old, new, lost, lambda entry: policy({"fail_on": fail_on} if fail_on else {}))
    assert found.exit_code == code


def test_a_new_cell_is_not_judged() -> None:
    _, new, _ = runs(a="slower")
    found = judge({}, new, {}, lambda entry: policy())
    assert (found.exit_code, [entry.old for entry in found.comparisons]) == (0, [None])


def tiered(old: Any, new: Any, rule: str, fail_on: str = "regressed+lost") -> Judgement:
    rules = policy({"latency": "off", "auroc": rule, "fail_on": fail_on})
    return judge({} if old is None else {"a": old}, {"a": new}, {}, lambda entry: rules)


@pytest.mark.parametrize(
    ("tier", "fail_on", "code"),
    [("critical", "none", 10), ("", "none", 0), ("", "regressed", 10), ("advisory", "regressed+lost", 0)],
)
def test_a_tier_decides_whether_a_worse_figure_fails_the_build(tier: str, fail_on: str, code: int) -> None:
    old, new = cell(figures={"auroc": 0.93}), cell(figures={"auroc": 0.80})
    again(new, (1, 1, 1), "same", differences={"auroc": interval(-0.13, -0.14, -0.12)})
    found = tiered(old, new, f"0.005 {tier}", fail_on)
    assert found.exit_code == code
    assert found.having("regressed"), "the message names it in every tier"


@pytest.mark.parametrize("old", ["has it", "lacks it", "is absent"])
def test_a_critical_figure_that_is_missing_closes_the_gate(old: str) -> None:
    without = cell(figures={"auroc": 0.93})
    without["figures"]["auroc"]["value"] = None
    earlier = {"has it": cell(figures={"auroc": 0.93}), "lacks it": copy.deepcopy(without), "is absent": None}[old]
    found = tiered(earlier, without, "0.005 critical", "none")
    assert (found.exit_code, found.failures) == (EXIT_CODES["lost"], ["lost"])
    (entry,) = found.comparisons[0].findings
    assert entry.reason == "this run has no auroc, which the policy requires (critical)"
    assert tiered(earlier, without, "0.005 advisory").exit_code == 0


def test_a_critical_latency_that_was_not_timed_closes_the_gate() -> None:
    new = cell()
    new["timing"] = None
    assert finding("latency", cell(), new, latency="1% critical").kind == "lost"


def test_exit_codes_are_distinct() -> None:
    assert len({0, 1, 2, 4, 5, 13, *EXIT_CODES.values()}) == 6 + len(EXIT_CODES)


ORDER = ["improved", "fine", "inconclusive", "regressed"]


@given(st.floats(-0.2, 0.2), st.floats(0, 0.05), st.floats(0, 0.05), st.floats(0.0, 0.02), st.floats(0.001, 0.1))
def test_a_worse_value_never_gets_a_better_kind(
    value: float, below: float, above: float, allowed: float, more: float
) -> None:
    def kind(shift: float) -> str:
        old, new = cell(figures={"auroc": 0.9}), cell(figures={"auroc": 0.9 + value - shift})
        paired = interval(value - shift, value - shift - below, value - shift + above)
        again(new, (1, 1, 1), "same", differences={"auroc": paired})
        return finding("auroc", old, new, auroc=repr(allowed)).kind

    assert ORDER.index(kind(0)) <= ORDER.index(kind(more))


@given(st.integers(1, 10**6))
def test_a_run_against_itself_is_fine(size: int) -> None:
    one = cell(figures={"file_size": float(size), "memory": 3.0})
    assert not compare("cell", one, copy.deepcopy(one), policy(default_rules([]))).outcomes
