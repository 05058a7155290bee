"""The gate where code changed, with real workers: a plugin in a git repository, whose network becomes slower."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CellError
from harness.records.runs import Commit
from harness.run.earlier_code import EarlierCode

PLUGIN = """
import dataclasses
import hashlib
from typing import ClassVar

import numpy as np

from harness import Architecture, Data, Dataset, Split, Step, Task, Training, hookimpl

SHAPE = (2, 16)


def split(examples, seed):
    random = np.random.default_rng(seed)
    targets = np.stack([np.arange(examples) % 2, np.arange(examples) // 2 % 2], 1).astype(np.float32)
    inputs = random.normal(size=(examples, *SHAPE)).astype(np.float32)
    inputs[:, 0] += targets[:, :1]
    return Split(inputs, targets, np.arange(examples) // 2)


class Made(Dataset):
    name = "made-synthetic"
    synthetic = True
    task = Task(SHAPE, ("a", "b"))
    examples = 60

    def matches(self, folder):
        return (folder / "made").is_file()

    def fingerprint(self, folder):
        return hashlib.sha256((folder / "made").read_bytes()).hexdigest()

    def load(self, folder, cache, progress=None):
        return Data(self.task, split(60, 0), split(20, 1), split(40, 2))

    def make(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "made").write_text("made")


class Network(Architecture):
    name = "network"

    def build(self, task):
        import torch
        from torch import nn

        class Body(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.Sequential(nn.Flatten(), nn.Linear(32, 2))

            def forward(self, inputs):
                for _ in range(REPEATS):
                    inputs = torch.cos(inputs) * 0 + inputs
                return self.layers(inputs)

        return Body()

    def training(self, phase):
        return Training(1, 16, "SGD", {"lr": 0.05})


REPEATS = 1


@dataclasses.dataclass(frozen=True)
class Scale(Step):
    name: ClassVar[str] = "scale"

    def apply(self, model, context):
        return model

    def trainings(self):
        return ()


@hookimpl
def harness_datasets(register):
    register(Made())


@hookimpl
def harness_architectures(register):
    register(Network())


@hookimpl
def harness_steps(register):
    register(Scale)
"""
SUITE = """
from harness import Matrix, step, train

made = Matrix(dataset="made-synthetic", architecture="network", seed=0,
              pruning={"full": [train()], "scaled": [train(), step("scale")]})
"""
GIT = ("git", "-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path) -> str:
    """Commit all files, and return the commit."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "a change")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with a plugin and a suite."""
    folder = tmp_path_factory.mktemp("project") / "repository"
    information = folder / "made-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: made\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[harness]\nmade = made\n")
    (folder / "made.py").write_text(PLUGIN)
    (folder / "suite.py").write_text(SUITE)
    (folder / ".gitignore").write_text("__pycache__\n")
    git(folder, "init", "--quiet")
    commit(folder)
    return folder


# ------------------------------------------------------------------------------------------------ the earlier commit


def test_the_earlier_files_are_imported_first_and_leave_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(project))
    now = git(project, "rev-parse", "HEAD")
    code = EarlierCode(Commit(id=now), tmp_path / "earlier", project / "made-1.0.dist-info")
    assert (tmp_path / "earlier" / "made.py").read_text() == PLUGIN
    assert code.python_path == [tmp_path / "earlier"]
    code.close()
    assert not (tmp_path / "earlier").exists()
    assert len(git(project, "worktree", "list").splitlines()) == 1


def test_why_earlier_code_cannot_be_had(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = git(project, "rev-parse", "HEAD")

    def refused(commit: Commit, here: Path, match: str) -> None:
        with pytest.raises(CellError, match=match):
            EarlierCode(commit, tmp_path / "earlier", here)
        assert not (tmp_path / "earlier").exists()

    refused(Commit(), project, "names no commit")
    refused(Commit(id=now, dirty=True), project, f"made with uncommitted changes to commit {now[:7]}")
    refused(Commit(id="0" * 40), project, "this clone has no commit 0000000$")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    refused(Commit(id=now), tmp_path, "git rev-parse: .*not a git repository")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{project}", "shallow")
    refused(Commit(id="0" * 40), tmp_path / "shallow", "this clone has no commit 0000000; fetch it: git fetch --unshal")
    monkeypatch.setenv("PATH", "")
    refused(Commit(id=now), project, "git cannot be run")


# ---------------------------------------------------------------------------------------------------------- the gate


def run(project: Path, *options: str) -> tuple[int, str]:
    """Run the suite in a process of its own; return its exit code and what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HARNESS_")}
    environment["PYTHONPATH"] = str(project)
    command = (sys.executable, "-m", "pytest", "suite.py", "-q", "-p", "no:cacheprovider", "--harness-preset=smoke")
    store = project.parent / "store"
    result = subprocess.run(
        [*command, f"--harness-store={store}", *options], cwd=project, env=environment, capture_output=True, text=True
    )
    return result.returncode, result.stdout + result.stderr


@pytest.fixture
def judged(project: Path) -> Callable[..., tuple[int, str, Any]]:
    """Return a function that changes the plugin, and judges it against the first commit."""
    base = project.parent / "base.json"
    if not base.exists():
        code, text = run(project, f"--benchmark-json={base}")
        assert code == 0, text

    def judge(old: str, new: str) -> tuple[int, str, Any]:
        assert old in PLUGIN
        (project / "made.py").write_text(PLUGIN.replace(old, new))
        file = project.parent / "new.json"
        options = (f"--harness-against={base}", "--harness-gate=latency=20%", "--harness-processes=4")
        try:
            code, text = run(project, f"--benchmark-json={file}", *options)
        finally:
            (project / "made.py").write_text(PLUGIN)
        entries = json.loads(file.read_text())["benchmarks"]
        return code, text, [entry["extra_info"]["harness"]["against"] for entry in entries]

    return judge


@pytest.mark.slow
def test_a_slower_forward_fails(project: Path, judged: Callable[..., tuple[int, str, Any]]) -> None:
    """Reference and candidate become slower by as much, and their files stay the same."""
    code, text, against = judged("REPEATS = 1", "REPEATS = 1000")
    assert code == 10, text
    assert text.count("REGRESSED") == 2
    for entry in against:
        assert entry["code_changed"]
        assert entry["commit"] == git(project, "rev-parse", "HEAD")
        assert entry["timing"]["ratio"]["value"] > 2
    assert len(git(project, "worktree", "list").splitlines()) == 1


@pytest.mark.slow
def test_unchanged_code_runs_in_one_process(judged: Callable[..., tuple[int, str, Any]]) -> None:
    code, text, against = judged("REPEATS = 1", "REPEATS = 1  # a comment")
    assert code == 0, text
    assert [entry["reason"] for entry in against] == ["the same file"] * 2


@pytest.mark.slow
def test_changed_code_that_is_no_slower_passes(judged: Callable[..., tuple[int, str, Any]]) -> None:
    code, text, against = judged("torch.cos(inputs) * 0", "torch.sin(inputs) * 0")
    assert code == 0, text
    assert all(entry["code_changed"] and entry["timing"] for entry in against)


@pytest.mark.slow
def test_the_earlier_model_is_timed_although_the_present_code_cannot_restore_it(
    judged: Callable[..., tuple[int, str, Any]],
) -> None:
    code, text, against = judged(
        "nn.Linear(32, 2))", "nn.Linear(32, 2048), *[nn.Linear(2048, 2048)] * 2, nn.Linear(2048, 2))"
    )
    assert code == 10, text
    assert "REGRESSED" in text
    assert all(entry["timing"] is not None for entry in against), [entry["reason"] for entry in against]
