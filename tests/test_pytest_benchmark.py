"""pytest-benchmark's options and its file mean for cells what its own documentation says of them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fakes import TOYS, Suite, Workers, benchmarks
from pytest_benchmark.utils import get_machine_id

from harness.cli.main import main
from harness.records.samples import decode

# pytester forgets what is first imported within it. This module also removes the finder that pygal adds to Python's,
# without which importing absent modules gives a warning.
with contextlib.suppress(ImportError):
    import pytest_benchmark.histogram  # noqa: F401

JSON = "--benchmark-json=run.json"
CONV = ("-k", "conv", JSON)
FULL, HALF = "toys[toy-synthetic-conv-full-seed0]", "toys[toy-synthetic-conv-half-seed0]"

#: A function of pytest-benchmark's own, whose timer is told what each call took.
PLAIN = """
import itertools, json, pytest

samples = [value / 1e9 for row in json.load(open("samples.json")) for value in row]
ticks = itertools.chain.from_iterable((0.0, sample) for sample in samples)

@pytest.mark.benchmark(timer=lambda: next(ticks))
def test_plain(benchmark):
    benchmark.pedantic(lambda: None, rounds=len(samples))
"""


def said(result: pytest.RunResult) -> str:
    return "\n".join([*result.outlines, *result.errlines])


def table(result: pytest.RunResult) -> list[str]:
    """The rows of pytest-benchmark's table, without those of the heading."""
    return [line for line in result.outlines if line.startswith("toys[")]


# -------------------------------------------------------------------------------------------------------- the file


def test_the_statistics_are_those_of_a_plain_benchmark_with_the_same_samples(
    suite: Suite, pytester: pytest.Pytester
) -> None:
    suite(TOYS, *CONV).assert_outcomes(passed=2, deselected=2)
    cell = benchmarks()[HALF]
    samples = decode(cell["extra_info"]["harness_samples"]["reference"])
    Path("samples.json").write_text(json.dumps(samples["candidate"].tolist()))
    Path("plain.py").write_text(PLAIN)
    pytester.runpytest_inprocess("plain.py", "--benchmark-json=plain.json").assert_outcomes(passed=1)
    plain = benchmarks("plain.json")["test_plain"]
    assert cell.keys() == plain.keys()
    assert cell["stats"].keys() == plain["stats"].keys()
    for name, value in plain["stats"].items():
        assert cell["stats"][name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9)), name


def test_the_file_names_the_timer_and_the_axes(suite: Suite) -> None:
    suite(TOYS, *CONV)
    cell = benchmarks()[HALF]
    assert cell["options"]["timer"] == "perf_counter_ns of the workers"
    assert cell["param"] == "toy-synthetic-conv-half-seed0"
    assert (cell["params"]["pruning"], cell["params"]["seed"]) == ("half", 0)


@pytest.mark.parametrize(("option", "has_samples"), [([], False), (["--benchmark-save-data"], True)])
def test_a_run_is_saved_in_the_storage(suite: Suite, option: list[str], has_samples: bool) -> None:
    suite(TOYS, "-k", "conv", "--benchmark-storage=kept", "--benchmark-save=mine", *option)
    (file,) = Path("kept").rglob("0001_mine.json")
    assert ("data" in benchmarks(str(file))[HALF]["stats"]) is has_samples


# ------------------------------------------------------------------------------------------------------ a full disk


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of folders on a full disk: a file that is written there is cut off."""
    folders: set[str] = set()
    for name in ("write_bytes", "write_text"):
        original = getattr(Path, name)

        def write(path: Path, content: Any, *args: Any, _original: Any = original, **options: Any) -> int:
            if path.parent.name in folders:
                _original(path, content[: len(content) // 2], *args, **options)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(_original(path, content, *args, **options))

        monkeypatch.setattr(Path, name, write)
    return folders


@pytest.mark.parametrize("option", ["--benchmark-json=out/run.json", "--benchmark-save=out"], ids=["json", "save"])
def test_a_full_disk_leaves_no_torn_file_and_the_tables_are_printed(
    suite: Suite, full: set[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [option, "--benchmark-storage=kept"]
    if "json" in option:
        Path("out").mkdir()
        Path("out/run.json").write_text("earlier")
    full |= {"out", get_machine_id()}  # the storage has a folder a machine
    result = suite(TOYS, *CONV[:2], *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (line,) = [line for line in result.outlines if "the disk is full" in line]
    assert line.startswith("harness: cannot write ")
    assert "2 toys were measured" in said(result)
    assert len(table(result)) == 2, "the table of pytest-benchmark"
    assert "Traceback" not in said(result)
    assert not [file for file in Path("kept").rglob("*") if file.is_file()]
    if "json" in option:
        assert Path("out/run.json").read_text() == "earlier"
    (journal,) = [*Path("out").glob("*.journal"), *Path(".harness/runs").glob("*.journal")]
    assert f"{journal} keeps 2 of 2 measured cells; with room on the disk: harness recover" in said(result)
    full.clear()
    assert main(["recover", str(journal), "-o", "recovered.json"]) == 0
    assert list(benchmarks("recovered.json")) == [FULL, HALF]


def test_a_summary_on_a_full_disk_costs_the_summary_alone(suite: Suite, full: set[str]) -> None:
    suite(TOYS, *CONV)
    full.add("out")
    result = suite(TOYS, *CONV[:2], "--benchmark-json=new.json", "--harness-against=run.json", *(
        f"--harness-{form}=out/gate.{form}" for form in ("summary", "junit")
    ))  # fmt: skip
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "cannot write out/gate.summary: the disk is full" in said(result)
    assert "figures of 2 cells judged, 2 fine" in said(result)
    assert len(benchmarks("new.json")) == 2
    assert list(Path("out").iterdir()) == []
    assert not list(Path().rglob("*.journal"))


def test_a_full_disk_under_the_inputs_of_workers_fails_one_cell(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = np.lib.format.write_array_header_1_0, []

    def write(file: Any, header: Any) -> None:
        calls.append(file)
        if len(calls) == 1:
            file.write(b"torn")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(file, header)

    suite(TOYS, *CONV[:2])  # builds the models
    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", write)
    result = suite(TOYS, *CONV)
    result.assert_outcomes(passed=1, failed=1, deselected=2)
    assert "the disk is full: free some space, or choose another store" in said(result)


# ------------------------------------------------------------------------------------------------ what is run at all


def test_skipped_cells_are_not_even_built(suite: Suite) -> None:
    result = suite(TOYS, "--benchmark-skip")
    result.assert_outcomes(skipped=4)
    assert result.ret == pytest.ExitCode.OK
    assert not Path(".harness").exists()


def test_only_benchmarks_are_run_and_that_wins_over_skipping_them(suite: Suite) -> None:
    result = suite(TOYS + "def test_plain(): pass\n", "--benchmark-only", "--benchmark-skip")
    result.assert_outcomes(passed=4, skipped=1)


def test_disabled_benchmarks_write_no_file_and_say_so(suite: Suite) -> None:
    result = suite(TOYS, *CONV, "--benchmark-disable", "--benchmark-save=kept")
    result.assert_outcomes(passed=2, deselected=2)
    assert "latency" not in said(result)
    assert not Path("run.json").exists()
    reason = "--benchmark-disable keeps pytest-benchmark from timing and from writing; run without it"
    assert {f"harness: run.json was not written: {reason}", f"harness: the run was not saved: {reason}"} <= {
        *result.outlines
    }
    Path("run.json").write_text("{}")
    again = suite(TOYS, *CONV, "--benchmark-disable")
    assert f"run.json was not written: {reason}; the file there is of an earlier run" in said(again)


def test_enabling_wins_over_disabling(suite: Suite) -> None:
    suite(TOYS, *CONV, "--benchmark-disable", "--benchmark-enable")
    assert benchmarks()[FULL]["stats"]["median"] == pytest.approx(1e-4, rel=0.1)


def test_only_and_disabled_contradict_each_other(suite: Suite) -> None:
    result = suite(TOYS, "--benchmark-only", "--benchmark-disable")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "Can't have both --benchmark-only and --benchmark-disable" in said(result)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ([], pytest.ExitCode.INTERRUPTED, "pytest-benchmark is switched off, but cells need it"),
        (["--harness-plan"], pytest.ExitCode.INTERRUPTED, "pytest-benchmark is switched off"),
        (["--collect-only", "-k", "conv"], pytest.ExitCode.INTERRUPTED, "pytest-benchmark is switched off"),
        ([JSON], pytest.ExitCode.USAGE_ERROR, "unrecognized arguments: --benchmark-json=run.json"),
    ],
)
def test_without_pytest_benchmark_cells_are_an_error(
    suite: Suite, options: list[str], status: pytest.ExitCode, message: str
) -> None:
    result = suite(TOYS, "-p", "no:benchmark", *options)
    assert result.ret == status
    assert message in said(result)
    assert "Traceback" not in said(result)
    assert not Path(".harness").exists()


@pytest.mark.parametrize(("option", "outcome"), [([], {"errors": 1}), (["--benchmark-skip"], {"skipped": 4})])
def test_the_workers_of_xdist_collect_no_cell_that_they_would_run(
    suite: Suite, pytester: pytest.Pytester, option: list[str], outcome: dict[str, int]
) -> None:
    pytester.makeconftest("def pytest_configure(config): config.workerinput = {'workerid': 'gw0'}")
    result = suite(TOYS, *option)
    result.assert_outcomes(**outcome)
    assert ("cells cannot run in the workers of pytest-xdist" in said(result)) is not option
    assert not Path(".harness").exists()


# ------------------------------------------------------------------------------------------------------- comparing


@pytest.mark.parametrize("slower", [False, True])
def test_a_run_is_compared_with_an_earlier_one(suite: Suite, monkeypatch: pytest.MonkeyPatch, slower: bool) -> None:
    suite(TOYS, "-k", "conv", "--benchmark-autosave")
    if slower:
        monkeypatch.setattr(Workers, "between", (190_000, 210_000))
    result = suite(TOYS, *CONV, "--benchmark-compare", "--benchmark-compare-fail=median:5%")
    assert len([line for line in table(result) if "(NOW)" in line]) == 2
    assert ("Performance has regressed" in said(result)) is slower
    assert (result.ret == pytest.ExitCode.OK) is not slower
    assert "2 toys were measured" in said(result), "the harness' own tables must come first"
    assert len(benchmarks()) == 2


# --------------------------------------------------------------------------------------------------------- showing


@pytest.mark.slow
def test_histograms_are_drawn_of_each_group(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[float]] = {}

    def make_histogram(prefix: str, name: str, rows: list[dict[str, Any]], unit: str, adjustment: float) -> Path:
        drawn[f"{prefix}-{name}"] = [row["median"] for row in rows]
        return Path(prefix)

    fake = ModuleType("pytest_benchmark.histogram")
    fake.make_histogram = make_histogram  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    suite(TOYS, JSON, "--benchmark-histogram=plot").assert_outcomes(passed=4)
    assert list(drawn) == ["plot-toys toy-synthetic conv", "plot-toys toy-synthetic lstm"]
    assert drawn["plot-toys toy-synthetic conv"] == [benchmarks()[name]["stats"]["median"] for name in (HALF, FULL)]


def test_histograms_are_written_as_svg(suite: Suite) -> None:
    pytest.importorskip("pygal")
    suite(TOYS, JSON, "--benchmark-histogram=plots/plot").assert_outcomes(passed=4)
    files = sorted(Path("plots").glob("*.svg"))
    assert [file.name for file in files] == ["plot-toys_toy-synthetic_conv.svg", "plot-toys_toy-synthetic_lstm.svg"]
    assert all("toys[toy-synthetic-" in file.read_text() for file in files)


def test_what_histograms_lack_is_said_before_anything_is_built(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pytest_benchmark.histogram", raising=False)
    for name in ("pygal", "pygal.graph.box"):
        monkeypatch.setitem(sys.modules, name, None)
    result = suite(TOYS, JSON, "--benchmark-histogram")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    message = "--benchmark-histogram: Please install pygal and pygaljs or pytest-benchmark[histogram]"
    assert f"{message}; the extra compression-harness[histogram] brings them" in said(result)
    assert not Path(".harness").exists()


@pytest.mark.slow
def test_cprofile_leaves_cells_out_and_says_so(suite: Suite) -> None:
    source = TOYS + "def test_plain(benchmark): benchmark(sorted, [1])\n"
    result = suite(source, JSON, "-k", "conv or plain", "--benchmark-cprofile=tottime")
    result.assert_outcomes(passed=3, deselected=2)
    assert "--benchmark-cprofile skips cells" in said(result)
    found = benchmarks()
    assert "cprofile" in found["test_plain"]
    assert "cprofile" not in found[HALF]
    samples = decode(found[HALF]["extra_info"]["harness_samples"]["reference"])
    assert found[HALF]["stats"]["rounds"] == samples["candidate"].size


def test_columns_and_their_order_are_chosen(suite: Suite) -> None:
    result = suite(TOYS, "-k", "conv", "--benchmark-columns=rounds,median", "--benchmark-sort=name")
    (heading,) = [line for line in result.outlines if line.startswith("Name (time")]
    assert heading.split()[4:] == ["Rounds", "Median"]
    assert [row.split()[0] for row in table(result)] == [FULL, HALF]
    assert [row.split()[0] for row in table(suite(TOYS, "-k", "conv", "--benchmark-sort=mean"))] == [HALF, FULL]


@pytest.mark.parametrize(
    ("grouping", "groups"),
    [
        ("group", ["toys toy-synthetic conv", "toys toy-synthetic lstm"]),
        ("func", ["toys"]),
        ("param:pruning", ["pruning=full", "pruning=half"]),
        ("param:architecture,param:seed", ["architecture=conv seed=0", "architecture=lstm seed=0"]),
    ],
)
def test_cells_are_grouped_by_their_axes(suite: Suite, grouping: str, groups: list[str]) -> None:
    result = suite(TOYS, f"--benchmark-group-by={grouping}")
    assert [line.split("'")[1] for line in result.outlines if " benchmark '" in line] == groups


def test_quiet_hides_the_table_and_keeps_the_file(suite: Suite) -> None:
    result = suite(TOYS, *CONV, "--benchmark-quiet")
    assert not table(result)
    assert len(benchmarks()) == 2


@pytest.mark.slow
def test_github_action_benchmark_finds_what_it_reads(suite: Suite) -> None:
    """Its README: ``tool: "pytest"`` takes a name, iterations a second, their deviation, the mean and the rounds."""
    suite(TOYS, "--benchmark-json=run.json")
    document = json.loads(Path("run.json").read_text())
    found = {}
    for entry in document["benchmarks"]:
        stats = entry["stats"]
        found[entry["fullname"]] = stats["ops"]
        assert stats["ops"] == pytest.approx(1 / stats["mean"])
        assert stats["stddev"] >= 0
        assert stats["rounds"] == 24
    assert len(found) == 4
    assert found["suite.py::toys[toy-synthetic-conv-half-seed0]"] == pytest.approx(1 / 50e-6, rel=0.1)


def test_bencher_finds_what_it_reads(suite: Suite) -> None:
    """Its adapter ``python_pytest``: where and when, and of each benchmark the name and these figures, in seconds."""
    suite(TOYS, "--benchmark-json=run.json")
    document = json.loads(Path("run.json").read_text())
    assert {"machine_info", "commit_info", "benchmarks", "datetime", "version"} <= document.keys()
    assert isinstance(document["machine_info"], dict)
    assert isinstance(document["commit_info"], dict)
    for entry in document["benchmarks"]:
        assert entry["fullname"].startswith("suite.py::toys[")
        for name in ("min", "max", "mean", "stddev", "median", "iqr", "q1", "q3"):
            assert isinstance(entry["stats"][name], float)
        assert 0 < entry["stats"]["min"] <= entry["stats"]["median"] <= entry["stats"]["max"] < 1e-3
