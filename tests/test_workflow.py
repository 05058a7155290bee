"""The workflow for pull requests: its commands, options and paths are those of this project."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli.main import _parser
from harness.gate.judge import EXIT_CODES

ROOT = Path(__file__).parent.parent
FILE = ROOT / ".github" / "workflows" / "compression.yml"
TEXT = FILE.read_text()
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
STEPS: list[dict[str, Any]] = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
SCRIPTS = [step["run"] for step in STEPS if "run" in step]


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_its_scripts_are_sound(script: str) -> None:
    subprocess.run(["bash", "-n", "-c", script], check=True)


@pytest.mark.parametrize("file", sorted(FILE.parent.glob("*.yml")), ids=lambda file: file.stem)
def test_actions_are_pinned_and_permissions_are_least(file: Path) -> None:
    workflow = yaml.safe_load(file.read_text())
    uses = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), f"{action} is not pinned by a commit's hash"
    assert workflow["permissions"] in ({}, {"contents": "read"})
    writing = [name for name, job in workflow["jobs"].items() if "write" in job.get("permissions", {}).values()]
    assert writing == (["comment"] if file == FILE else [])


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
    from harness.plugin.manager import installed
    from harness.suite.collect import cells_of, load
    from harness.suite.presets import preset

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


def run(script: str, folder: Path, event: str, **commands: str) -> subprocess.CompletedProcess[str]:
    """A script as a runner starts it, with some commands played."""
    played = "\n".join(f"{name}() {{ {body}; }}" for name, body in commands.items())
    environment = {"PATH": os.environ["PATH"], "GITHUB_EVENT_NAME": event, "SUITE": "s.py", "CELLS": "c", "STORE": "st"}
    return subprocess.run(
        ["bash", "-e", "-c", f"{played}\n{script}"], cwd=folder, env=environment, text=True, capture_output=True
    )


(FETCH,) = [script for script in SCRIPTS if "gh run download" in script]
(MEASURE,) = [script for script in SCRIPTS if "--harness-against" in script]


@pytest.mark.parametrize(("event", "fails"), [("pull_request", True), ("push", False), ("workflow_dispatch", False)])
def test_a_baseline_that_expired_fails_pull_requests_alone(tmp_path: Path, event: str, fails: bool) -> None:
    """Else no run of the main branch could make a new one."""
    listed = 'if [ "$2" = list ]; then echo 7; else return 1; fi'
    assert bool(run(FETCH, tmp_path, event, gh=listed).returncode) == fails


def test_the_first_run_has_no_baseline(tmp_path: Path) -> None:
    assert run(FETCH, tmp_path, "pull_request", gh=":").returncode == 0


@pytest.mark.parametrize(("event", "judged"), [("pull_request", True), ("push", False)])
def test_what_was_merged_is_the_next_baseline_and_not_judged(tmp_path: Path, event: str, judged: bool) -> None:
    (tmp_path / "baseline").mkdir()
    (tmp_path / "baseline" / "run.json").touch()
    result = run(MEASURE, tmp_path, event, pytest='echo "$@"')
    assert ("--harness-against=baseline/run.json" in result.stdout) == judged


def test_the_baseline_is_never_that_of_a_pull_request() -> None:
    """A fork's branch may be called main."""
    assert 'select(.event != "pull_request")' in FETCH
