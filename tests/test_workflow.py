"""The workflow for pull requests: its commands, options and paths are those of this project."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
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
    environment |= {"GITHUB_WORKFLOW": WORKFLOW["name"], "GH_REPO": "o/r", "PULL": "5"}
    return subprocess.run(
        ["bash", "-e", "-c", f"{played}\n{script}"], cwd=folder, env=environment, text=True, capture_output=True
    )


(FETCH,) = [script for script in SCRIPTS if "gh run download" in script]
(MEASURE,) = [script for script in SCRIPTS if "--harness-against" in script]
(COMMENT,) = [script for script in SCRIPTS if "gh api" in script]


@pytest.mark.parametrize(("event", "fails"), [("pull_request", True), ("push", False), ("workflow_dispatch", False)])
def test_a_baseline_that_expired_fails_pull_requests_alone(tmp_path: Path, event: str, fails: bool) -> None:
    """Else no run of the main branch could make a new one."""
    listed = 'if [ "$2" = list ]; then echo 7; else return 1; fi'
    assert bool(run(FETCH, tmp_path, event, gh=listed).returncode) == fails


@pytest.mark.parametrize(("event", "fails"), [("pull_request", True), ("push", False), ("workflow_dispatch", False)])
def test_without_any_run_of_the_main_branch_pull_requests_alone_fail(tmp_path: Path, event: str, fails: bool) -> None:
    """They would pass unjudged."""
    result = run(FETCH, tmp_path, event, gh=":")
    assert bool(result.returncode) == fails
    assert ("::error::no successful run of the main branch to compare with" in result.stdout) == fails


@pytest.mark.parametrize(("event", "judged"), [("pull_request", True), ("push", False)])
def test_what_was_merged_is_the_next_baseline_and_not_judged(tmp_path: Path, event: str, judged: bool) -> None:
    (tmp_path / "baseline").mkdir()
    (tmp_path / "baseline" / "run.json").touch()
    result = run(MEASURE, tmp_path, event, pytest='echo "$@"; touch run.json gate.md')
    assert result.returncode == 0
    assert ("--harness-against=baseline/run.json" in result.stdout) == judged


@pytest.mark.parametrize(("pushed", "started", "last"), [("7", "", "7"), ("", "8", "8"), ("9", "10", "10")])
def test_the_baseline_is_the_last_run_of_the_main_branch_itself(
    tmp_path: Path, pushed: str, started: str, last: str
) -> None:
    """A fork's branch may be called main, but its runs are of pull requests, which are not asked for."""
    answers = f'case "$*" in *"--event push"*) echo {pushed};; *"--event workflow_dispatch"*) echo {started};; esac'
    gh = f'if [ "$2" = list ]; then {answers}; else echo "downloads $3"; fi'
    assert run(FETCH, tmp_path, "pull_request", gh=gh).stdout == f"downloads {last}\n"
    assert "--limit 1 " in FETCH


# ------------------------------------------------------------------------------------------------- no run file, no pass


@pytest.mark.parametrize("written", ["", "run.json", "gate.md"])
def test_a_run_that_ends_with_0_and_lacks_a_file_fails(tmp_path: Path, written: str) -> None:
    """As after os._exit(0) in C code; files of an earlier run, which a pull request may bring, do not count."""
    (tmp_path / "baseline").mkdir()
    for name in ("baseline/run.json", "run.json", "gate.md"):
        (tmp_path / name).touch()
    result = run(MEASURE, tmp_path, "pull_request", pytest=f"touch ./{written}")
    assert result.returncode == 1
    missing = "gate.md" if written == "run.json" else "run.json"
    assert f"::error::pytest ended with 0 and wrote no {missing}" in result.stdout


def test_a_push_needs_no_summary(tmp_path: Path) -> None:
    assert run(MEASURE, tmp_path, "push", pytest="touch run.json").returncode == 0
    assert run(MEASURE, tmp_path, "push", pytest=":").returncode == 1


@pytest.mark.parametrize("code", [1, 10, 14])
def test_the_exit_code_of_a_failed_run_is_that_of_the_step(tmp_path: Path, code: int) -> None:
    assert run(MEASURE, tmp_path, "push", pytest=f"touch run.json; return {code}").returncode == code


# ----------------------------------------------------------------------------------------------------------- comments

BOT = {"login": "github-actions[bot]"}
#: Answers the listing of comments from a file, with the filter of the command, and prints every other request.
GH = 'if [ "$2" = --paginate ]; then jq -r "$5" comments.json; else echo "$@"; cat comment.md; fi'


def test_a_copy_needs_another_name_alone() -> None:
    """Its baseline, its comment and its group are found by it."""
    lines = [line for line in TEXT.splitlines() if WORKFLOW["name"] in line.replace("compression-harness", "")]
    assert lines == [f"name: {WORKFLOW['name']}"]
    assert "--edit-last" not in TEXT


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
@pytest.mark.parametrize("present", [True, False])
def test_its_comment_is_the_one_that_begins_with_the_marker(tmp_path: Path, present: bool) -> None:
    marker = f"<!-- compression-harness: {WORKFLOW['name']} -->"
    comments = [
        {"id": 1, "user": {"login": "stranger"}, "body": f"{marker}\na comment that pretends"},
        {"id": 2, "user": BOT, "body": "<!-- compression-harness: another -->\nof another workflow"},
        {"id": 3, "user": BOT, "body": f"quotes {marker}"},
        {"id": 5, "user": BOT, "body": "of another action, and the last"},
    ]
    if present:
        comments.insert(3, {"id": 4, "user": BOT, "body": f"{marker}\nthe former findings"})
    (tmp_path / "comments.json").write_text(json.dumps(comments))
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "gate.md").write_text("the findings\n")
    result = run(COMMENT, tmp_path, "pull_request", gh=GH)
    request, *body = result.stdout.splitlines()
    if present:
        assert request == "api --silent --method PATCH repos/o/r/issues/comments/4 --field body=@comment.md"
    else:
        assert request == "api --silent --method POST repos/o/r/issues/5/comments --field body=@comment.md"
    assert body == [marker, "the findings"]


def test_without_findings_there_is_no_comment(tmp_path: Path) -> None:
    result = run(COMMENT, tmp_path, "pull_request", gh="echo called")
    assert (result.returncode, result.stdout) == (0, "")


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
