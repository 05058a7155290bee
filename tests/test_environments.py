"""The fresh environment of the tests: it sees the running one's packages, and keeps its own to itself."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import environments
import pytest
from environments import Environment

import harness

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "harness-sample"
version = "3.1"
dependencies = ["compression-harness"]

[project.entry-points.harness]
sample = "harness_sample"
"""
PLUGIN = '''
"""A plugin that brings a step."""

from harness import Step, hookimpl


class Leave(Step):
    """Leaves a model as it is."""

    name = "leave-it"


@hookimpl
def harness_steps(register):
    register(Leave)
'''


def sample(folder: Path) -> Path:
    """A project with a plugin."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "harness_sample.py").write_text(PLUGIN)
    return folder


def test_it_sees_the_same_harness_with_its_plugins(fresh_environment: Environment) -> None:
    shown = fresh_environment.run("python", "-c", "import harness, sys; print(harness.__file__, sys.prefix, sep='\\n')")
    assert shown.stdout.splitlines() == [harness.__file__, str(fresh_environment.folder)]
    listed = fresh_environment.run("harness", "list").stdout
    assert "quantize" in listed
    assert "ptbxl" in listed


@pytest.mark.slow
def test_what_is_installed_there_is_there_alone(tmp_path: Path) -> None:
    environment = environments.make(tmp_path / "with a space")
    environment.install(sample(tmp_path / "sample"))
    listed = environment.run("harness", "list").stdout
    assert "leave-it" in listed
    assert "harness-sample 3.1" in listed
    assert "leave-it" not in environments.make(tmp_path / "other").run("harness", "list").stdout
    assert importlib.util.find_spec("harness_sample") is None
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("harness-sample")


@pytest.mark.slow
def test_a_later_install_replaces_an_earlier_one(fresh_environment: Environment, tmp_path: Path) -> None:
    project = sample(tmp_path / "sample")
    fresh_environment.install(project)
    (project / "pyproject.toml").write_text(PROJECT.replace("3.1", "3.2"))
    fresh_environment.install(project)
    listed = fresh_environment.run("harness", "list").stdout
    assert "harness-sample 3.2" in listed
    assert "3.1" not in listed


def test_a_command_that_fails_fails_the_test_with_what_it_said(fresh_environment: Environment) -> None:
    with pytest.raises(AssertionError, match="ended with 3:\nout\nerr"):
        fresh_environment.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert fresh_environment.run("sh", "-c", "exit 3", check=False).returncode == 3
