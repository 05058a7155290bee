"""The gate's rules: parsing, layers, and the messages for wrong rules."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.policy.rules import (
    DEFAULTS,
    OUTCOMES,
    Tolerance,
    check_figures,
    parse_rules,
    parse_tolerance,
    policy,
    project_rules,
)
from harness.run.declarations import default_rules


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1%", "share", 0.01),
        ("2.5 %", "share", 0.025),
        ("0%", "share", 0.0),
        ("0.005", "absolute", 0.005),
        ("0", "absolute", 0.0),
        ("99% of reference", "kept", 0.99),
        (" 99.9 %  of   reference ", "kept", 0.999),
    ],
)
def test_parse_tolerance(text: str, kind: str, value: float) -> None:
    found = parse_tolerance("auroc", text)
    assert (found.kind, found.value) == (kind, pytest.approx(value))


@given(st.sampled_from(["share", "absolute", "kept"]), st.floats(0.001, 1))
def test_a_tolerance_is_read_back_from_its_text(kind: str, value: float) -> None:
    tolerance = Tolerance(kind, round(value, 3))  # type: ignore[arg-type]
    again = parse_tolerance("auroc", str(tolerance))
    assert again.kind == kind
    assert again.value == pytest.approx(tolerance.value)


@pytest.mark.parametrize("rule", ["1%", "0.005", "99% of reference"])
@pytest.mark.parametrize("tier", ["critical", "supporting", "advisory"])
def test_a_tier_follows_the_tolerance(rule: str, tier: str) -> None:
    found = parse_tolerance("auroc", f"{rule}  {tier}")
    assert (found.kind, found.value, found.tier) == (*dataclasses.astuple(parse_tolerance("auroc", rule))[:2], tier)
    assert parse_tolerance("auroc", str(found)) == found
    assert parse_tolerance("auroc", rule).tier == "supporting"


@pytest.mark.parametrize(
    ("tier", "failing"),
    [
        ("critical", {"regressed", "lost"}),
        ("supporting", set()),
        ("advisory", set()),
    ],
)
def test_a_critical_rule_fails_whatever_fail_on_says_and_an_advisory_one_never(tier: Any, failing: set[str]) -> None:
    tolerance = Tolerance("absolute", 0.1, tier)
    assert {outcome for outcome in OUTCOMES if tolerance.fails(outcome, ())} == failing
    always = {outcome for outcome in OUTCOMES if tolerance.fails(outcome, OUTCOMES)}
    assert always == (set() if tier == "advisory" else set(OUTCOMES))


@pytest.mark.parametrize(
    "text",
    [
        "critical",
        "1% vital",
        "advisory 1%",
        "fast",
        "",
        "-1%",
        "-0.1",
        "nan",
        "inf",
        "0% of reference",
        "120% of reference",
    ],
)
def test_an_invalid_tolerance_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UsageError, match=r"gate: auroc = .* is not a tolerance; write .*1%.*0\.005.*of reference"):
        parse_tolerance("auroc", text)


@pytest.mark.parametrize("text", ["0.01", "99% of reference"])
def test_latency_is_a_share(text: str) -> None:
    with pytest.raises(UsageError, match="latencies are compared as ratios"):
        parse_tolerance("latency", text)


def test_a_later_layer_replaces_rules() -> None:
    found = policy({"memory": "10%"}, {"latency": "2%", "auroc": "0.1"}, {"auroc": "off"}, {"latency": "3%"})
    assert found.latency == pytest.approx(0.03)
    assert "auroc" not in found.tolerances
    assert str(found.tolerances["memory"]) == "10 %"
    assert found.fail_on == {"regressed", "lost", "not judged"}


def test_the_defaults_judge_latency_size_memory_and_quality() -> None:
    """The harness declares the rule for latency, the installed metrics the other rules."""
    assert set(policy().tolerances) == set(DEFAULTS) == {"latency"}
    declared = policy(default_rules([]))
    assert {figure: str(tolerance) for figure, tolerance in declared.tolerances.items()} == {
        "latency": "1 %",
        "auroc": "0.005",
        "accuracy": "0.005",
        "balanced_accuracy": "0.005",
        "r2": "0.01",
        "mae": "1 %",
        "file_size": "1 %",
        "parameters": "0 %",
        "needed_memory": "0.25",
    }


@pytest.mark.parametrize("outcomes", ["regressed", "lost+contaminated", "+".join(OUTCOMES), ""])
def test_fail_on_selects_outcomes(outcomes: str) -> None:
    assert policy({"fail_on": outcomes}).fail_on == set(filter(None, outcomes.split("+")))


def test_fail_on_none_lets_nothing_fail() -> None:
    assert policy(parse_rules("fail_on=none")).fail_on == set()


def test_a_wrong_outcome_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="'regresed' is not an outcome; did you mean 'regressed'"):
        policy({"fail_on": "regresed"})


def test_the_rules_of_a_command_line() -> None:
    assert parse_rules("latency=2%, auroc = 99% of reference,fail_on=lost+regressed") == {
        "latency": "2%",
        "auroc": "99% of reference",
        "fail_on": "lost+regressed",
    }


@pytest.mark.parametrize("text", ["latency", "=2%", "latency=", "latency=2%,"])
def test_an_invalid_rule_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a rule; write FIGURE=TOLERANCE"):
        parse_rules(text)


def test_two_rules_for_one_figure_are_refused() -> None:
    with pytest.raises(UsageError, match="gate: latency has two rules; leave one out"):
        parse_rules("latency=1%,auroc=0.01, latency=99%")


def test_the_rules_of_a_project(tmp_path: Path) -> None:
    assert project_rules(tmp_path) == {}
    file = tmp_path / "pyproject.toml"
    file.write_text("[project]\nname = 'x'\n")
    assert project_rules(tmp_path) == {}
    file.write_text("[tool.harness.gate]\nlatency = '2%'\nauroc = 0.01\nfail_on = ['lost', 'regressed']\n")
    assert project_rules(tmp_path) == {"latency": "2%", "auroc": "0.01", "fail_on": "lost+regressed"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.harness", "cannot read .tool.harness.gate. of .*pyproject.toml"),
        ("[tool.harness]\ngate = 3\n", "is not a table; write figures and tolerances"),
        ("tool = 3\n", "is not a table; write figures and tolerances"),
        ("[tool.harness.gate]\nlatency = true\n", "latency = True is not a rule"),
        ("[tool.harness.gate]\nlatency = '2'\n", "pyproject.toml: .tool.harness.gate.: gate: latency"),
    ],
)
def test_invalid_rules_of_a_project_are_refused_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        project_rules(tmp_path)


def test_a_rule_for_an_unknown_figure_is_refused() -> None:
    with pytest.raises(UsageError, match="no cell has a figure 'aurocc'; did you mean 'auroc'"):
        check_figures(["aurocc"], {"auroc": "higher"})
    check_figures(["auroc", "latency", "fail_on"], {"auroc": "higher"})
    with pytest.raises(UsageError, match="'mass' cannot be judged, as it declares no better side"):
        check_figures(["mass"], {"mass": None})


@pytest.mark.parametrize("text", ["0%", "0.0 %"])
def test_a_margin_of_zero_is_refused(text: str) -> None:
    """A margin of zero would contaminate every cell, and so let every slowdown pass."""
    with pytest.raises(UsageError, match="no measurement can show that two latencies are equal"):
        parse_tolerance("latency", text)
