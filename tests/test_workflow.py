"""The workflow for pull requests: its commands, options and paths are those of this project."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli import _parser
from harness.gate import EXIT_CODES

ROOT = Path(__file__).parent.parent
FILE = ROOT / ".github" / "workflows" / "compression.yml"
TEXT = FILE.read_text()
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
STEPS: list[dict[str, Any]] = WORKFLOW["jobs"]["gate"]["steps"]
SCRIPTS = [step["run"] for step in STEPS if "run" in step]


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_its_scripts_are_sound(script: str) -> None:
    subprocess.run(["bash", "-n", "-c", script], check=True)


def test_its_options_are_ours(pytestconfig: pytest.Config) -> None:
    used = set(re.findall(r"--harness-[a-z]+", TEXT))
    known = {name for group in pytestconfig._parser._groups for option in group.options for name in option.names()}
    assert {"--harness-against", "--harness-summary", "--harness-junit", "--harness-store"} <= used <= known


def test_its_harness_commands_are_ours() -> None:
    commands = [
        line.strip() for script in SCRIPTS for line in script.splitlines() if line.strip().startswith("harness ")
    ]
    assert commands
    for command in commands:
        _parser().parse_args(shlex.split(command)[1:])


def test_its_suite_and_cells_are_there() -> None:
    from harness.plugins import installed
    from harness.presets import preset
    from harness.suite import cells_of, load

    suite = ROOT / WORKFLOW["env"]["SUITE"]
    words = [word for word in WORKFLOW["env"]["CELLS"].split() if word != "and"]
    cells = [
        cell
        for name, matrix in load(suite).items()
        for cell in cells_of(matrix, name, suite.as_posix(), installed(), preset("quick"), None)
    ]
    chosen = [cell for cell in cells if all(word in cell.name for word in words)]
    assert 2 <= len(chosen) <= 16, "enough to be of use, and minutes on a runner"


def test_the_exit_codes_that_it_names_are_the_gate_s() -> None:
    said = re.search(r"Ends with (\d+) for a regression and (\d+) for a lost cell", TEXT)
    assert said is not None
    assert [int(code) for code in said.groups()] == [EXIT_CODES["regressed"], EXIT_CODES["lost"]]


def test_nothing_of_the_pull_request_is_pasted_into_a_script() -> None:
    """What a stranger wrote reaches scripts by environment variables alone."""
    for script in SCRIPTS:
        assert "${{" not in script
