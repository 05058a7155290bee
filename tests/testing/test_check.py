"""``check`` finds the plugin by its name, and reports one that passes, fails, crashes or cannot be imported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from fakes import logged
from forks import Forks

from harness.errors import UsageError
from harness.testing import _check
from harness.testing._check import CHILD, _show, check

PLUGIN = """
import os

from harness import MetricSpec, Metric, hookimpl


class Ones(Metric):
    name = "ones"

    def specs(self, task):
        return (MetricSpec("ones"),)

    def compute(self, evidence):
        {what}
        return {{"ones": 1.0}}


@hookimpl
def harness_metrics(register):
    register(Ones())
"""


#: Makes a fork what a new process would be.
ENVIRONMENT = """
import json, os, sys
os.environ.update(json.loads(sys.argv[1]))
sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks("import harness.testing._kit, torch._dynamo") as forks:  # what the kit and its first training import
        yield forks


@pytest.fixture
def forked(forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks run in a fork, which need not import torch and the kit."""

    class Fork:
        def __init__(self, command: object, env: dict[str, str], stdout: IO[str], stderr: object) -> None:
            done = forks.run(ENVIRONMENT + CHILD, Path.cwd(), json.dumps(env))
            stdout.write(done.stdout + done.stderr)
            self.returncode = done.returncode

        def poll(self) -> int:
            return self.returncode

        wait = kill = poll

    monkeypatch.setattr(_check.subprocess, "Popen", Fork)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path, for modules and distributions."""
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def write(site: Path, what: str, name: str = "plugin_of_ones") -> None:
    (site / f"{name}.py").write_text(PLUGIN.format(what=what))


@pytest.mark.usefixtures("forked")
def test_a_sound_plugin_passes_by_the_name_of_its_distribution(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(site, "pass")
    information = site / "ones_plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ones-plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[harness]\nones = plugin_of_ones\n")
    assert check("ones_plugin") == 0
    output = capsys.readouterr().out
    assert "plugin ones: 1 skipped, 7 passed" in output
    assert "no weighted figures" in output
    assert "step" not in output.partition("plugin ones: ")[0]


@pytest.mark.usefixtures("forked")
def test_a_failed_check_says_how_to_fix_it(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(site, "return {'ones': float('nan')}")
    assert check("plugin_of_ones") == 1
    output = capsys.readouterr().out
    assert "metric gives numbers or none: failed" in output
    assert "fix:    return None instead of NaN or infinity" in output
    assert "1 failed" in output


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("status", [9, 0])
def test_a_crash_names_the_check_that_ran(site: Path, capsys: pytest.CaptureFixture[str], status: int) -> None:
    write(site, f"os._exit({status})")
    assert check("plugin_of_ones") == 1
    output = capsys.readouterr().out
    assert "test_metric_describes_itself" in output
    assert f"exited with status {status}" in output


def test_a_module_that_cannot_be_imported_is_reported(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "broken_plugin.py").write_text("import there_is_no_such_module\n")
    assert check("broken_plugin") == 1
    output = capsys.readouterr().out
    assert "No module named 'there_is_no_such_module'" in output
    assert "1 failed" in output


@pytest.mark.usefixtures("forked")
def test_one_thing_is_checked_alone_and_progress_is_shown(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = PLUGIN.format(what="pass")
    twos = source.partition("@hookimpl")[0].partition("class Ones")[2].replace('"ones"', '"twos"')
    (site / "plugin_of_ones.py").write_text(
        source.replace("@hookimpl", f"class Twos{twos}@hookimpl").replace(
            "    register(Ones())", "    register(Ones())\n    register(Twos())"
        )
    )
    with logged("harness.progress") as lines:
        assert check("plugin_of_ones", "twos") == 0
    output = capsys.readouterr().out
    assert "twos " in output
    assert "ones " not in output.replace("plugin_of_ones", "")
    assert [line.rpartition(":")[0] for line in lines] == ["checking plugin plugin_of_ones"]
    with pytest.raises(UsageError, match=r"plugin plugin_of_ones registers no 'twoz'; did you mean 'twos'"):
        check("plugin_of_ones", "twoz")


def test_progress_counts_the_checks_that_ended() -> None:
    reports: list[tuple[int, int, str]] = []
    log: list[dict[str, Any]] = [{"total": 3}]
    _show(log, lambda *report: reports.append(report))
    for check_name in ("a", "b"):
        log.append({"begins": f"_kit.py::test_{check_name}"})
        _show(log, lambda *report: reports.append(report))
        log.append({"ends": f"_kit.py::test_{check_name}"})
    _show(log, lambda *report: reports.append(report))
    assert reports == [(0, 3, "test_a"), (1, 3, "test_b"), (2, 3, "test_b")]


@pytest.mark.parametrize("name", ["metrcs", "not a name", "harness_metrcs", "a.b"])
def test_an_unknown_name_suggests_the_nearest(name: str) -> None:
    with pytest.raises(UsageError, match="metrics" if "metr" in name else "no plugin, distribution or module"):
        check(name)
