"""The workflow for pull requests: its commands, options and paths are those of this project."""

from __future__ import annotations

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
    said = re.search(r"Ends with (\d+) for a regression, (\d+) for a lost cell and (\d+) where changed code was", TEXT)
    assert said is not None
    assert [int(code) for code in said.groups()] == [EXIT_CODES[name] for name in ("regressed", "lost", "not judged")]


def test_nothing_of_the_pull_request_is_pasted_into_a_script() -> None:
    """What a stranger wrote reaches scripts by environment variables alone."""
    for script in SCRIPTS:
        assert "${{" not in script


def test_a_copy_needs_another_name_alone() -> None:
    """Its baseline, its comment and its group are found by it."""
    lines = [line for line in TEXT.splitlines() if WORKFLOW["name"] in line.replace("compression-harness", "")]
    assert lines == [f"name: {WORKFLOW['name']}"]
    assert "--edit-last" not in TEXT


def test_no_branch_is_named() -> None:
    assert not re.search(r"\b(main|master)\b", TEXT)


# ----------------------------------------------------------------------------------------- pull requests from outside

HOSTED = re.compile(r"(ubuntu|macos|windows)-latest|\$\{\{ matrix\.os \}\}")
OWN = "github.event.pull_request.head.repo.full_name == github.repository"
CI = (ROOT / "docs" / "ci.md").read_text()
(SHOWN,) = re.findall(r"^```yaml\n(.*?)^```", CI, re.MULTILINE | re.DOTALL)


def refusals(job: dict[str, Any]) -> list[str]:
    """Why a job may run code of a fork's pull request on a runner that is not GitHub's."""
    if isinstance(job["runs-on"], str) and HOSTED.fullmatch(job["runs-on"]):
        return []
    condition = f"${{{{ github.event_name != 'pull_request' || {OWN} }}}}"
    return [] if job.get("if") == condition and job.get("environment") else ["runs pull requests of forks"]


@pytest.mark.parametrize("file", sorted(FILE.parent.glob("*.yml")), ids=lambda file: file.stem)
def test_no_code_of_a_fork_runs_with_rights_or_on_a_runner_of_ours(file: Path) -> None:
    workflow = yaml.safe_load(file.read_text())
    events = workflow[True]  # YAML 1.1 reads the key "on" so
    assert set(events) <= {"push", "pull_request", "workflow_dispatch"}, (
        "the others run with the rights of the main branch"
    )
    assert [reason for job in workflow["jobs"].values() for reason in refusals(job)] == []
    assert "secrets." not in file.read_text()


def test_only_the_job_without_foreign_code_may_write() -> None:
    comment = WORKFLOW["jobs"]["comment"]
    assert "!github.event.pull_request.head.repo.fork" in comment["if"]
    assert not any("checkout" in step.get("uses", "") for step in comment["steps"])


def test_the_job_shown_for_a_runner_of_one_s_own_refuses_forks() -> None:
    (job,) = yaml.safe_load(SHOWN).values()
    assert "self-hosted" in job["runs-on"]
    assert refusals(job) == []
    assert refusals({**job, "if": "${{ always() }}"}) == refusals({"runs-on": "self-hosted"}) != []
    for trap in ("pull_request_target", "required reviewers", "runner group", "fork"):
        assert trap in CI
