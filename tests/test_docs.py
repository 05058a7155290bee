"""The README cannot drift: its commands, options, exit codes and examples are held to the code."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from harness import Matrix
from harness.api import hookspecs
from harness.cli.main import INTERRUPTED, USAGE_ERROR
from harness.gate.judge import BETWEEN_RUNS, EXIT_CODES
from harness.measure.noise import SIGNALS
from harness.plugin.manager import Origin, Plugins
from harness.policy.rules import DEFAULTS, policy
from harness.pytest_plugin import NOTHING_MEASURED
from harness.run.declarations import default_rules
from harness.stats.verdict import Kind
from harness.suite.presets import PRESETS
from harness.text import format_margin

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_every_option_is_documented(pytestconfig: pytest.Config) -> None:
    parser = pytestconfig._parser
    (group,) = [group for group in parser._groups if group.name == "harness"]
    names = [name for option in group.options for name in option.names()]
    assert len(names) >= 5
    for name in names:
        assert f"`{name}" in README, name


def test_every_preset_is_documented() -> None:
    assert "|".join(PRESETS) in README.replace("\\|", "|")


@pytest.mark.parametrize("code", [USAGE_ERROR, NOTHING_MEASURED, INTERRUPTED])
def test_every_exit_code_is_documented(code: int) -> None:
    assert re.search(rf"^\| {code} \|", README, re.MULTILINE)


def test_the_gate_s_outcomes_and_exit_codes_are_documented() -> None:
    for outcome, code in EXIT_CODES.items():
        assert re.search(rf"^\| {outcome} \| .+ \| {code} \|$", README, re.MULTILINE), outcome
    listed = re.search(r"^\| ([\d, ]+) \| of a comparison with an earlier run: (.+); see", README, re.MULTILINE)
    assert listed is not None
    words = [word.split()[0] for word in listed[2].split(", ")]
    assert dict(zip(words, map(int, listed[1].split(", ")), strict=True)) == EXIT_CODES


def test_the_default_policy_is_documented() -> None:
    (block,) = blocks("toml")
    table = tomllib.loads(block)["tool"]["harness"]["gate"]
    assert set(table.pop("fail_on")) == policy().fail_on
    assert table == {**DEFAULTS, **default_rules([])}


def test_the_margin_between_runs_is_documented() -> None:
    assert f"each run's ratio to its reference, at {format_margin(BETWEEN_RUNS)} at least" in README


def test_every_command_is_known() -> None:
    names = "list|plan|fetch|status|gc|new|check|report|compare|history|explain|doctor"
    used = set(re.findall(rf"harness ((?:(?:data|store|plugin) )?(?:{names}))\b", README))
    shown = subprocess.run(
        [sys.executable, "-m", "harness.cli.main", "--help"], capture_output=True, text=True, check=True
    )
    commands = set(re.findall(r"^    (\w+)\s", shown.stdout, re.MULTILINE))
    assert commands == {command.split()[0] for command in used}


def test_the_commands_of_ci_are_in_the_readme() -> None:
    pattern = re.search(r"grep -m1 -E '([^']*)'", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    assert len(re.findall(pattern[1], README, re.MULTILINE)) == 1


def test_the_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    suite, plugin = blocks("python")
    names: dict[str, object] = {}
    exec(compile(suite, "README suite", "exec"), names)
    assert any(isinstance(value, Matrix) for value in names.values())

    module = type(sys)("readme_plugin")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look up their module
    exec(compile(plugin, "README plugin", "exec"), vars(module))
    plugins = Plugins()
    plugins.add(module, Origin("readme_plugin", "readme", "1"))
    assert plugins.problems == []
    assert "halve" in plugins.steps


def test_every_hook_has_a_reason_and_an_example() -> None:
    hooks = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("harness_")}
    assert len(hooks) >= 7
    for name, hook in hooks.items():
        text = hook.__doc__ or ""
        assert "@hookimpl" in text, name
        assert f"def {name}(" in text, name


def test_the_signals_and_their_limits_are_documented() -> None:
    rows = dict(re.findall(r"^\| (\w+) \| (.+) \|$", README, re.MULTILINE))
    shown = {
        "switches": "1 involuntary",
        "waiting": "10 %",
        "steal": "5 %",
        "throttled": "any period",
        "collections": "any garbage",
        "spread": "25 %",
        "drift": "10 %",
        "moved": "25 %",
        "itself": "the margin",
    }
    assert list(SIGNALS) == list(shown)
    for name, limit in shown.items():
        assert rows[name].startswith(limit)
        value = SIGNALS[name].limit
        if name not in ("throttled", "collections", "itself"):
            assert limit.split()[0] in (f"{value:g}", f"{100 * value:g}"), name
    assert SIGNALS["throttled"].limit == SIGNALS["collections"].limit == 0


def test_every_verdict_is_documented() -> None:
    for kind in (*get_args(Kind), "contaminated"):
        assert re.search(rf"^\| (\w+, )?{kind}\b.* \| .+ \|$", README, re.MULTILINE), kind
