"""The workflow for pull requests, played: its scripts run in a real repository, with made-up pytest, pip and gh."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.plugin.scaffold import Names, render

ROOT = Path(__file__).parent.parent
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "compression.yml").read_text())
GITLAB: dict[str, Any] = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
MARKER = f"<!-- compression-harness: {WORKFLOW['name']} -->"
BOT = {"login": "github-actions[bot]"}
GIT = ("git", "-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")

#: A run that is judged writes what the gate writes, and ends with $JUDGED; one that is not ends with $MEASURED.
PYTEST = """#!/bin/bash
echo "pytest in $PWD: $*" >> "$LOG"
json=run.json
for option in "$@"; do
  case $option in --benchmark-json=*) json=${option#*=};; --harness-store=*) store=${option#*=};; esac
done
mkdir -p "$store/artefacts"
case "$*" in
  *--harness-against=*) result=$JUDGED;;
  *) result=$MEASURED;;
esac
if [ "${result#* }" != "without files" ]; then
  git rev-parse HEAD > "$json"
  case "$*" in *--harness-summary=*)
    echo "### Compression gate: $([ "${result%% *}" = 0 ] && echo open || echo closed)" > gate.md
    echo "against $(cat baseline/run.json)" >> gate.md; touch gate.xml;;
  esac
fi
exit "${result%% *}"
"""
GH = """#!PYTHON
import json, os, shutil, sys
from pathlib import Path
world, words = Path(os.environ["WORLD"]), sys.argv[1:]
def option(name): return words[words.index(name) + 1]
if words[:2] == ["run", "list"]:
    runs = json.loads((world / "runs.json").read_text())
    if runs == "down": sys.exit("HTTP 503")
    assert option("--status") == "success" and option("--workflow") == os.environ["GITHUB_WORKFLOW"]
    assert option("--jq").startswith('map(select(.event == "push" or .event == "workflow_dispatch"))')
    mine = [run for run in runs if run["commit"] == option("--commit")]
    print(*[run["id"] for run in mine if run["event"] in ("push", "workflow_dispatch")][:1])
elif words[:2] == ["run", "download"]:
    kept = world / "kept" / words[2]
    if not kept.exists(): sys.exit("artifact has expired")
    shutil.copytree(kept, option("--dir"))
elif words[:2] == ["api", "--paginate"]:
    marker, bot = os.environ["MARKER"], "github-actions[bot]"
    assert option("--jq") == f'.[] | select(.user.login == "{bot}" and (.body | startswith(env.MARKER))) | .id'
    for comment in json.loads((world / "comments.json").read_text()):
        if comment["user"]["login"] == bot and comment["body"].startswith(marker): print(comment["id"])
else:
    comments, address = json.loads((world / "comments.json").read_text()), words[4]
    body = Path("comment.md").read_text()
    assert words[-2:] == ["--field", "body=@comment.md"]
    if option("--method") == "POST":
        assert address == "repos/owner/project/issues/5/comments"
        comments.append({"id": 100, "user": {"login": "github-actions[bot]"}, "body": body})
    else:
        (comment,) = [entry for entry in comments if address.endswith(f"/issues/comments/{entry['id']}")]
        comment["body"] = body
    (world / "comments.json").write_text(json.dumps(comments))
"""
LOGGED = '#!/bin/bash\necho "$(basename "$0") in $PWD: $*" >> "$LOG"\n'


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "a change")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The merge commit of a pull request that changes a suite; its first parent is the base commit."""
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "--quiet", "--initial-branch=trunk")
    suite = folder / WORKFLOW["env"]["SUITE"]
    suite.parent.mkdir(parents=True)
    suite.write_text("old")
    (folder / "constraints.txt").touch()
    (folder / ".gitignore").write_text("/*.md\n/*.json\n/*.xml\nkept\nbaseline\nstore\nsuites/new.py\n")
    commit(folder)
    git(folder, "checkout", "--quiet", "-b", "change")
    suite.write_text("new")
    commit(folder)
    git(folder, "checkout", "--quiet", "trunk")
    commit(folder)
    git(folder, "merge", "--quiet", "--no-ff", "--no-edit", "change")
    return folder


@dataclasses.dataclass
class Play:
    """One event of a repository, with made-up commands; a runner of two jobs."""

    world: Path
    workflow: Mapping[Any, Any] = dataclasses.field(default_factory=lambda: WORKFLOW)
    event: str = "pull_request"
    branch: str = "change"
    is_fork: bool = False
    runs: Any = dataclasses.field(default_factory=list)
    comments: list[Any] = dataclasses.field(default_factory=list)
    measured: str = "0"
    judged: str = "0"

    def __post_init__(self) -> None:
        self.checkout = self.world / "checkout"
        self.results: dict[str, str] = {}
        self.outputs: dict[str, dict[str, str]] = {}
        binaries = self.world / "bin"
        binaries.mkdir()
        stubs = {"pytest": PYTEST, "gh": GH.replace("PYTHON", sys.executable)}
        for name, text in (stubs | dict.fromkeys(("sudo", "python", "harness", "apt-get"), LOGGED)).items():
            (binaries / name).write_text(text)
            (binaries / name).chmod(0o755)

    @property
    def base(self) -> str:
        return git(self.checkout, "rev-parse", "HEAD^1")

    @property
    def log(self) -> str:
        file = self.world / "log"
        return file.read_text() if file.exists() else ""

    @property
    def comment(self) -> str:
        """The comment of this workflow."""
        (body,) = [entry["body"] for entry in self.comments if entry["body"].startswith(MARKER)]
        return str(body)

    def keep(self, run: int, commit: str) -> None:
        """Let an earlier run of the default branch have kept its baseline."""
        self.runs.append({"id": run, "commit": commit, "event": "push"})
        kept = self.world / "kept" / str(run)
        (kept / "artefacts").mkdir(parents=True)
        (kept / "run.json").write_text(f"{commit} of run {run}")

    def value(self, expression: str) -> Any:
        """The value of an expression of the workflow, as ``a.b == 'c' && !d()``."""
        names = {
            "github.event_name": self.event,
            "github.ref_name": self.branch,
            "github.event.repository.default_branch": "trunk",
            "github.event.pull_request.head.repo.fork": self.is_fork,
            "github.event.pull_request.number": 5,
            "github.token": "token",
            "github.repository": "owner/project",
            "github.server_url": "https://github.example",
            "needs.gate.result": self.results.get("gate", ""),
        }
        names |= {
            f"steps.{step}.outputs.{name}": value
            for step, outputs in self.outputs.items()
            for name, value in outputs.items()
        }
        names |= {
            f"needs.gate.outputs.{name}": value for outputs in self.outputs.values() for name, value in outputs.items()
        }
        text = expression.strip().replace("&&", " and ").replace("||", " or ").replace("cancelled()", "False")
        text = re.sub(r"!(?!=)", " not ", text)
        text = re.sub(
            r"hashFiles\('([^']*)'\)", lambda match: repr("x" if (self.checkout / match[1]).exists() else ""), text
        )
        text = re.sub(r"\b(?:github|steps|needs)\.[\w.]+", lambda match: repr(names.get(match[0], "")), text)
        return eval(text)

    def filled(self, text: Any) -> str:
        return re.sub(r"\$\{\{(.*?)\}\}", lambda match: str(self.value(match[1])), str(text))

    def holds(self, condition: str | None, success: bool) -> bool:
        if condition is None:
            return success
        expression = condition.removeprefix("${{").removesuffix("}}")
        return (success or "cancelled()" in expression) and bool(self.value(expression))

    def run(self) -> Play:
        """Run the jobs; a later one in a folder of its own."""
        for name, content in (("runs.json", self.runs), ("comments.json", self.comments)):
            (self.world / name).write_text(json.dumps(content))
        uploads = self.world / "uploads"
        for name, job in self.workflow["jobs"].items():
            if not self.holds(job.get("if"), self.results.get(job.get("needs"), "success") == "success"):
                self.results[name] = "skipped"
                continue
            success = True
            for step in job["steps"]:
                if self.holds(step.get("if"), success):
                    succeeded = self._step(step, uploads)
                    success = success and (succeeded or step.get("continue-on-error", False))
            self.results[name] = "success" if success else "failure"
            self.checkout = self.world / "another machine"
            self.checkout.mkdir(exist_ok=True)
        self.comments = json.loads((self.world / "comments.json").read_text())
        return self

    def _step(self, step: Mapping[str, Any], uploads: Path) -> bool:
        action = step.get("uses", "").partition("@")[0]
        if action == "actions/upload-artifact":
            shutil.copytree(self.checkout / step["with"]["path"], uploads / self.filled(step["with"]["name"]))
        elif action == "actions/download-artifact":
            if not (uploads / step["with"]["name"]).exists():
                return False
            shutil.copytree(uploads / step["with"]["name"], self.checkout / step["with"]["path"])
        if "run" not in step:
            return True
        output = self.world / "output"
        output.write_text("")
        environment = {name: self.filled(value) for name, value in (self.workflow["env"] | step.get("env", {})).items()}
        environment |= {
            "PATH": f"{self.world / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.world),
            "WORLD": str(self.world),
            "LOG": str(self.world / "log"),
            "MEASURED": self.measured,
            "JUDGED": self.judged,
            "GITHUB_EVENT_NAME": self.event,
            "GITHUB_WORKFLOW": self.workflow["name"],
            "GITHUB_RUN_ID": "77",
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(self.world / "summary"),
            "RUNNER_TEMP": str(self.world / "temporary"),
        }
        result = subprocess.run(
            ["bash", "-e", "-c", step["run"]], cwd=self.checkout, env=environment, capture_output=True, text=True
        )
        with (self.world / "log").open("a") as log:
            log.write(result.stdout + result.stderr)
        self.outputs[step.get("id", "")] = dict(line.split("=", 1) for line in output.read_text().splitlines())
        return result.returncode == 0


@pytest.fixture
def play(repository: Path, tmp_path: Path) -> Play:
    shutil.copytree(repository, tmp_path / "checkout")
    return Play(tmp_path)


def old_comment(text: str = "### Compression gate: open") -> dict[str, Any]:
    return {"id": 4, "user": BOT, "body": f"{MARKER}\n{text}"}


# -------------------------------------------------------------------------------------------------- with a baseline


@pytest.mark.parametrize(
    ("judged", "result", "heading"),
    [
        ("0", "success", "open"),
        ("10", "failure", "closed"),
        ("14", "failure", "closed"),
        ("15", "failure", "closed"),
    ],
)
def test_a_pull_request_is_judged_against_the_run_of_its_base_commit(
    play: Play, judged: str, result: str, heading: str
) -> None:
    play.judged = judged
    base = play.base
    play.keep(7, base)
    play.run()
    assert play.results == {"gate": result, "comment": "success"}
    assert play.comment.startswith(f"{MARKER}\n### Compression gate: {heading}\nagainst {base} of run 7")
    assert (
        f"Base commit {base}, measured in [its own run](https://github.example/owner/project/actions/runs/7)"
        in play.comment
    )
    assert "Judged in [this run](https://github.example/owner/project/actions/runs/77)" in play.comment
    assert play.log.count("pytest in") == 1
    assert (play.world / "summary").read_text().startswith("### Compression gate")


def test_its_comment_replaces_its_last_one_and_no_other(play: Play) -> None:
    others = [
        {"id": 1, "user": {"login": "stranger"}, "body": f"{MARKER}\na comment that pretends"},
        {"id": 2, "user": BOT, "body": "<!-- compression-harness: another -->\nof another workflow"},
        {"id": 3, "user": BOT, "body": f"quotes {MARKER}"},
    ]
    play.comments = [*others, old_comment("### Compression gate: closed"), {"id": 5, "user": BOT, "body": "the last"}]
    play.run()
    assert [entry["id"] for entry in play.comments] == [1, 2, 3, 4, 5]
    assert play.comments[:3] == others
    assert play.comments[3]["body"].startswith(f"{MARKER}\n### Compression gate: open")


# ----------------------------------------------------------------------------------------------- without a baseline


def measured_here(play: Play) -> None:
    """Check that the base commit was measured in this run, and the pull request judged against that."""
    base = (play.world / "temporary" / "base").resolve()
    commands = [line for line in play.log.splitlines() if line.startswith("pytest in") or "-m pip install" in line]
    checkout = play.world / "checkout"
    assert [line.partition(":")[0] for line in commands] == [
        f"python in {checkout}",
        f"python in {base}",
        f"pytest in {base}",
        f"python in {checkout}",
        f"pytest in {checkout}",
    ]
    now = git(checkout, "rev-parse", "HEAD^1")
    assert f"### Compression gate: open\nagainst {now}\n" in play.comment
    assert f"Base commit {now}, measured in [this run]" in play.comment
    assert play.results == {"gate": "success", "comment": "success"}


def test_without_any_run_of_the_default_branch(play: Play) -> None:
    measured_here(play.run())


def test_the_newest_baseline_of_another_commit_is_not_used(play: Play) -> None:
    """What the default branch changed since would be blamed on the pull request."""
    play.keep(9, git(play.checkout, "rev-parse", "HEAD^1^1"))
    measured_here(play.run())


def test_a_run_that_a_fork_could_cause_is_no_baseline(play: Play) -> None:
    play.keep(9, play.base)
    play.runs[0]["event"] = "pull_request"
    measured_here(play.run())


def test_a_baseline_that_expired(play: Play) -> None:
    play.runs = [{"id": 9, "commit": play.base, "event": "push"}]
    measured_here(play.run())


def test_runs_that_cannot_be_listed(play: Play) -> None:
    play.runs = "down"
    measured_here(play.run())


def test_a_base_commit_with_a_failing_cell(play: Play) -> None:
    play.measured = "1"
    measured_here(play.run())


def test_a_base_commit_that_crashes_fails_with_a_comment(play: Play) -> None:
    play.measured = "139 without files"
    play.comments = [old_comment()]
    play.run()
    assert play.results == {"gate": "failure", "comment": "success"}
    assert "### Compression gate: no result" in play.comment


def test_a_pull_request_that_brings_the_suite_has_nothing_to_compare(play: Play) -> None:
    play.workflow = WORKFLOW | {"env": WORKFLOW["env"] | {"SUITE": "suites/new.py"}}
    (play.checkout / "suites" / "new.py").touch()
    play.run()
    assert play.results == {"gate": "success", "comment": "success"}
    assert "### Compression gate: nothing to compare\n\nThe base commit has no `suites/new.py`." in play.comment
    assert "--harness-against" not in play.log


# ------------------------------------------------------------------------------------------------------- no result


@pytest.mark.parametrize("judged", ["1 without files", "139 without files", "0 without files"])
def test_a_run_that_crashes_leaves_no_older_comment_standing(play: Play, judged: str) -> None:
    """Also one that ends with 0, as after os._exit(0) in C code."""
    play.judged = judged
    play.comments = [old_comment()]
    for name in ("run.json", "gate.md"):  # a pull request may bring them
        (play.checkout / name).touch()
    play.run()
    assert play.results == {"gate": "failure", "comment": "success"}
    assert "open" not in play.comment
    assert "### Compression gate: no result\n\nThe run ended without one (failure)." in play.comment


# --------------------------------------------------------------------------------------------------- other events


@pytest.mark.parametrize(
    ("branch", "event", "runs"),
    [("trunk", "push", True), ("trunk", "workflow_dispatch", True), ("change", "push", False)],
)
def test_the_default_branch_alone_keeps_a_baseline_whatever_it_is_called(
    play: Play, branch: str, event: str, runs: bool
) -> None:
    play.event, play.branch = event, branch
    play.run()
    assert play.results == {"gate": "success" if runs else "skipped", "comment": "skipped"}
    assert (play.world / "uploads" / "baseline" / "run.json").exists() == runs
    assert "--harness-against" not in play.log


def test_a_run_of_the_default_branch_without_its_file_fails(play: Play) -> None:
    play.event, play.branch, play.measured = "push", "trunk", "0 without files"
    assert play.run().results["gate"] == "failure"
    assert "::error::pytest ended with 0 and wrote no run.json" in play.log


def test_a_fork_s_pull_request_has_the_summary_alone(play: Play) -> None:
    play.is_fork = True
    play.run()
    assert play.results == {"gate": "success", "comment": "skipped"}
    assert play.comments == []
    assert (play.world / "summary").read_text().startswith("### Compression gate: open")


def test_the_repository_of_a_new_plugin_uses_it(play: Play) -> None:
    """It has no constraints.txt; SUITE and CELLS are all that changes."""
    git(play.checkout, "checkout", "--quiet", "--detach", "HEAD^1")
    (play.checkout / "constraints.txt").unlink()
    for path, text in render("compressor", Names.of("low-rank")).items():
        (play.checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (play.checkout / path).write_text(text)
    commit(play.checkout)
    commit(play.checkout)
    play.workflow = WORKFLOW | {"env": WORKFLOW["env"] | {"SUITE": "suites/compression.py", "CELLS": ""}}
    play.run()
    measured_here(play)


# ---------------------------------------------------------------------------------------------------------- GitLab

SCRIPT = "\n".join(GITLAB["compression"]["script"])


@pytest.mark.parametrize(
    ("measured", "judged", "suite", "passes", "against"),
    [
        ("0", "0", "", True, True),
        ("1", "0", "", True, True),
        ("0", "10", "", False, True),
        ("0", "0 without files", "", False, True),
        ("139 without files", "0", "", False, False),
        ("0", "0", "suites/new.py", True, False),
    ],
)
def test_gitlab_measures_the_base_commit_and_judges_the_merge_request(
    play: Play, measured: str, judged: str, suite: str, passes: bool, against: bool
) -> None:
    base = play.base
    if suite:
        (play.checkout / suite).touch()
    environment = {
        "PATH": f"{play.world / 'bin'}:{os.environ['PATH']}",
        "LOG": str(play.world / "log"),
        "MEASURED": measured,
        "JUDGED": judged,
        "CI_MERGE_REQUEST_DIFF_BASE_SHA": base,
        **{name: value for name, value in GITLAB["variables"].items() if name in ("SUITE", "CELLS", "STORE")},
        **({"SUITE": suite} if suite else {}),
    }
    result = subprocess.run(["bash", "-eo", "pipefail", "-c", SCRIPT], cwd=play.checkout, env=environment, check=False)
    assert (result.returncode == 0) == passes
    assert ("--harness-against" in play.log) == against
    if against and "without" not in judged:
        assert (play.checkout / "gate.md").read_text().endswith(f"against {base}\n")


def test_gitlab_tracks_the_same_suite_and_reports() -> None:
    assert all(GITLAB["variables"][name] == WORKFLOW["env"][name] for name in ("SUITE", "CELLS", "STORE"))
    artifacts = GITLAB["compression"]["artifacts"]
    assert artifacts["reports"] == {"junit": "gate.xml"}
    assert "gate.md" in artifacts["paths"]
    assert not re.search(r"\b(main|master)\b", (ROOT / ".gitlab-ci.yml").read_text())
