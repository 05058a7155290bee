"""``check``: whose plugin is meant, and what is told of one that passes, fails, crashes or cannot be imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.testing.check import check

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


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which modules are imported, and where distributions are looked for."""
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def write(site: Path, what: str, name: str = "plugin_of_ones") -> None:
    (site / f"{name}.py").write_text(PLUGIN.format(what=what))


def test_a_sound_plugin_passes_by_the_name_of_its_distribution(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(site, "pass")
    information = site / "ones_plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ones-plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[harness]\nones = plugin_of_ones\n")
    assert check("ones_plugin") == 0
    told = capsys.readouterr().out
    assert "plugin ones: 1 skipped, 7 passed" in told
    assert "no weighted figures" in told
    assert "step" not in told.partition("plugin ones: ")[0]


def test_what_fails_is_named_with_its_remedy(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(site, "return {'ones': float('nan')}")
    assert check("plugin_of_ones") == 1
    told = capsys.readouterr().out
    assert "metric gives numbers or none: failed" in told
    assert "fix:    return None instead of NaN or infinity" in told
    assert "1 failed" in told


def test_a_crash_is_told_with_the_check_that_ran(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(site, "os._exit(9)")
    assert check("plugin_of_ones") == 1
    told = capsys.readouterr().out
    assert "test_metric_describes_itself" in told
    assert "exited with status 9" in told


def test_a_module_that_cannot_be_imported_is_told(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "broken_plugin.py").write_text("import there_is_no_such_module\n")
    assert check("broken_plugin") == 1
    told = capsys.readouterr().out
    assert "No module named 'there_is_no_such_module'" in told
    assert "1 failed" in told


@pytest.mark.parametrize("name", ["metrcs", "not a name", "harness_metrcs", "a.b"])
def test_a_name_that_is_none_is_answered_with_the_nearest(name: str) -> None:
    with pytest.raises(UsageError, match="metrics" if "metr" in name else "no plugin, distribution or module"):
        check(name)
