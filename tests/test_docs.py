"""The README cannot drift: its commands, options, exit codes and examples are held to the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import Matrix, hookspecs
from harness.cli import USAGE_ERROR
from harness.plugins import Origin, Plugins
from harness.presets import PRESETS
from harness.pytest_plugin import NOTHING_MEASURED

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


@pytest.mark.parametrize("code", [USAGE_ERROR, NOTHING_MEASURED])
def test_every_exit_code_is_documented(code: int) -> None:
    assert re.search(rf"^\| {code} \|", README, re.MULTILINE)


def test_every_command_is_known() -> None:
    used = set(re.findall(r"harness ((?:data )?(?:list|plan|fetch|status|report|explain))\b", README))
    shown = subprocess.run([sys.executable, "-m", "harness.cli", "--help"], capture_output=True, text=True, check=True)
    commands = set(re.findall(r"^    (\w+) ", shown.stdout, re.MULTILINE))
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
