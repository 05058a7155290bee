"""The bridge to pytest: items, options, exit codes, and the JSON file that other tools read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import toy
from fakes import HEAD, TOYS, Suite, Workers, benchmarks

import harness_compress
from harness import MeasureError, MetricSpec, Profile, hookimpl
from harness.cli.main import main
from harness.errors import StoreError
from harness.measure.latency import LatencyTimer
from harness.measure.machine import facts
from harness.plugin.manager import KERNEL, Origin, Problem, installed
from harness.pytest_plugin import _measure
from harness.records.runs import read_records
from harness.records.samples import decode, read_aa_samples, read_samples
from harness.run import planner
from harness.stats.ratios import paired_ratio
from harness.suite.presets import preset
from harness_compress import _fx_int8  # noqa: F401 (pytester forgets what is first imported within it)
from harness_metrics import Energy
from harness_metrics.decisions import DECISIONS

FULL, HALF = "toys[toy-synthetic-conv-full-seed0]", "toys[toy-synthetic-conv-half-seed0]"
FAILING = """
toys = Matrix(
    dataset="toy", architecture="conv", runtime="eager",
    steps={"fine": [], "broken": [step("broken")], "picky": [step("picky")], "half": [step("halve")]},
)
"""


# ---------------------------------------------------------------------------------------------------- collecting


def test_items_are_named_for_the_table_and_name_synthetic_data(suite: Suite) -> None:
    result = suite(TOYS, "--collect-only", "-q")
    assert [line for line in result.outlines if "::" in line] == [
        f"suite.py::toys[toy-synthetic-{name}-seed0]" for name in ("conv-full", "conv-half", "lstm-full", "lstm-half")
    ]


def test_real_data_is_not_called_synthetic(suite: Suite) -> None:
    toy.write(Path("mine/toy"))
    result = suite(TOYS, "--collect-only", "-q", "--harness-data=mine")
    assert "suite.py::toys[conv-full-seed0]" in result.outlines


@pytest.mark.parametrize(
    ("expression", "count"), [("conv and half", 1), ("lstm", 2), ("not half", 2), ("synthetic", 4)]
)
def test_options_select(suite: Suite, expression: str, count: int) -> None:
    result = suite(TOYS, "--collect-only", "-q", "-k", expression)
    assert len([line for line in result.outlines if "::" in line]) == count


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "m = Matrix(dataset='tyo', architecture='conv', runtime='eager')",
            [],
            "m: no dataset is called 'tyo'; did you mean 'toy'",
        ),
        ("m = Matrix(dataset='toy', architecture='con', runtime='eager')", [], "no architecture is called 'con'"),
        ("m = Matrix(dataset='toy', architecture='conv', runtime='e')", [], "no runtime is called 'e'"),
        ("m = Matrix(dataset='toy', architecture='conv', a={'x': [step('havle')]})", [], "did you mean 'halve'"),
        (TOYS, ["-p", "no:benchmark"], "toys: pytest-benchmark is switched off"),
        (TOYS, ["--harness-data=absent"], "the option for data names absent, which is not a folder"),
    ],
)
def test_what_cannot_be_collected_is_said(suite: Suite, source: str, options: list[str], message: str) -> None:
    result = suite(source, *options)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert message in "\n".join(result.outlines)


def test_a_wrong_preset_is_an_error_of_use(suite: Suite) -> None:
    result = suite(TOYS, "--harness-preset=quik")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--harness-preset: no preset is called 'quik'; did you mean 'quick'" in "\n".join(result.errlines)


@pytest.mark.timing
def test_ten_thousand_cells_are_collected_in_seconds(suite: Suite) -> None:
    def seconds(seeds: int) -> float:
        began = time.process_time()
        result = suite(TOYS.replace("range(2)", f"range({seeds})"), "--collect-only", "-qq", "--harness-preset=study")
        took = time.process_time() - began
        assert f"suite.py: {4 * seeds}" in result.outlines
        return took

    small, large = seconds(500), seconds(2500)
    assert large < 8
    assert large < 5 * 2.5 * small


# ------------------------------------------------------------------------------------------------------- running


def test_a_run_leaves_records_samples_and_tables(suite: Suite) -> None:
    result = suite(TOYS, "--benchmark-json=run.json")
    result.assert_outcomes(passed=4)
    found = benchmarks()["toys[toy-synthetic-conv-half-seed0]"]
    record = found["extra_info"]["harness"]
    samples = decode(found["extra_info"]["harness_samples"]["reference"])
    assert (record["cell"], record["reference"]) == ("toy-synthetic-conv-half-seed0", "toy-synthetic-conv-full-seed0")
    assert (record["synthetic"], record["preset"], record["axes"]["pruning"]) == (True, "smoke", "half")
    assert [step["step"] for step in record["steps"]] == ["train(epochs=1)", "halve(factor=0.5)"]
    assert record["steps"][1]["facts"] == {"factor": 0.5, "restored_difference": 0}
    assert record["figures"]["weights"]["value"] == 90
    assert record["figures"]["undefined"]["value"] is None
    assert record["timing"]["ratio"]["value"] == pytest.approx(0.5, rel=1e-3)
    size = (preset("smoke").processes, preset("smoke").pairs)
    assert (record["timing"]["processes"], record["timing"]["pairs"]) == size
    assert record["artefact"]["key"] != record["reference_artefact"]["key"]
    assert np.shape(samples["candidate"]) == np.shape(samples["reference"]) == size
    assert found["stats"]["data"] == pytest.approx(np.ravel(samples["candidate"]) / 1e9)
    assert found["stats"]["rounds"] == size[0] * size[1]
    text = "\n".join(result.outlines)
    for part in ("conv on toy-synthetic", "lstm on toy-synthetic", "SYNTHETIC DATA", "4 toys were measured"):
        assert part in text


def test_each_ratio_is_computed_again_from_the_samples_in_the_file(suite: Suite) -> None:
    suite(TOYS, "--benchmark-json=run.json")
    samples = read_samples(Path("run.json"))
    records = read_records(Path("run.json"))
    assert len(records) == 4
    for record in records:
        timing = record.timing
        assert timing is not None
        arrays = samples[record.name, "reference"]
        again = paired_ratio(arrays["reference"], arrays["candidate"])
        assert (again.ratio, list(again.per_process)) == (timing.ratio.value, timing.per_process)
    aa_samples = read_aa_samples(Path("run.json"))
    runs = [list(paired_ratio(arrays["reference"], arrays["candidate"]).per_process) for arrays in aa_samples]
    recorded = [run.per_process for record in records if record.timing for run in record.timing.aa_runs]
    assert recorded
    assert all(ratios in runs for ratios in recorded)
    assert len(runs) < len(recorded), "cells share A/A runs, and the file has each once"


OPTIONAL = TOYS.replace("seed=range(2)", "seed=0, metrics='energy'")


@pytest.fixture
def _energy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the optional metric ``energy`` with the toys."""
    register_toys = toy.harness_metrics

    @hookimpl
    def harness_metrics(register: Any) -> None:
        register_toys(register)
        register(Energy())

    monkeypatch.setattr(toy, "harness_metrics", harness_metrics)


@pytest.mark.usefixtures("_energy")
@pytest.mark.parametrize("by", ["suite", "option"])
def test_an_optional_metric_is_computed_where_it_is_named(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    def count(self: Workers, profile: Profile, runtime: str, file: Path, inputs: Path, counter: str) -> float:
        assert (profile, runtime, counter) == (Profile(), "eager", "energy")
        assert np.load(inputs).shape[1:] == (2, 16)
        return 0.005

    monkeypatch.setattr(Workers, "count", count, raising=False)
    options = ["--harness-metrics=energy"] if by == "option" else []
    result = suite(TOYS if by == "option" else OPTIONAL, "-k", "conv and half", "--benchmark-json=run.json", *options)
    assert result.ret == 0
    figures = benchmarks()[HALF]["extra_info"]["harness"]["figures"]
    assert (figures["energy"]["value"], figures["energy"]["unit"]) == (5, "mJ")
    assert "energy, mJ" in "\n".join(result.outlines)


@pytest.mark.usefixtures("_energy")
def test_an_optional_metric_that_the_machine_lacks_is_absent_with_the_reason(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(self: Workers, *_: Any) -> float:
        raise MeasureError("there is no energy counter here")

    monkeypatch.setattr(Workers, "count", count, raising=False)
    result = suite(OPTIONAL, "-k", "conv", "--benchmark-json=run.json")
    assert result.ret == 0
    figure = benchmarks()[HALF]["extra_info"]["harness"]["figures"]["energy"]
    assert (figure["value"], figure["reason"]) == (None, "there is no energy counter here")
    assert "energy is absent from 2 cells: there is no energy counter here." in result.outlines
    untimed = suite(OPTIONAL, "-k", "conv and half", "--benchmark-json=run.json", "--benchmark-disable")
    assert untimed.ret == 0
    assert "energy is absent from 1 cell: nothing was timed." in untimed.outlines


@pytest.fixture
def _decisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the optional metric ``decisions`` with the toys."""
    register_toys = toy.harness_metrics

    @hookimpl
    def harness_metrics(register: Any) -> None:
        register_toys(register)
        register(DECISIONS)

    monkeypatch.setattr(toy, "harness_metrics", harness_metrics)


@pytest.mark.usefixtures("_decisions")
def test_decisions_are_judged_at_a_threshold_from_the_deployed_file_s_validation_scores(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted: list[tuple[Path, int]] = []
    predict = Workers.predict

    def watch(self: Workers, profile: Profile, runtime: str, file: Path, inputs: Path, *rest: Any) -> Any:
        if not inputs.stem.endswith("check"):
            predicted.append((file, len(np.load(inputs))))
        return predict(self, profile, runtime, file, inputs, *rest)

    monkeypatch.setattr(Workers, "predict", watch)
    source = TOYS.replace("seed=range(2)", "seed=0, metrics='decisions'").replace("(epochs=1)", "(epochs=4)")
    result = suite(source, "-k", "conv", "--benchmark-json=run.json")
    assert result.ret == 0
    assert len({file for file, _ in predicted}) == 2
    assert len(predicted) == 4, "each deployed file answers the test and the validation split once"
    full, half = (benchmarks()[name]["extra_info"]["harness"] for name in (FULL, HALF))
    assert full["figures"]["flips"]["value"] == 0
    entry = half["details"]["decisions"]["labels"]["high"]
    assert entry["threshold"] == half["figures"]["threshold_high"]["value"]
    assert entry["reference_threshold"] == full["figures"]["threshold_high"]["value"]
    assert half["figures"]["sensitivity_high"]["interval"]["method"].startswith("bootstrap over")
    assert half["differences"]["flips"]["value"] == half["figures"]["flips"]["value"]
    assert sum(map(len, entry["records"].values())) == sum(entry[name] for name in entry["records"])


@pytest.mark.usefixtures("_energy")
def test_an_unknown_metric_is_an_error_before_anything_is_built(suite: Suite) -> None:
    result = suite(TOYS, "--harness-metrics=enrgy")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--harness-metrics names metric 'enrgy'; did you mean 'energy'?" in "\n".join(result.errlines)
    result = suite(OPTIONAL.replace("energy", "power"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "matrix toys names metric 'power'" in "\n".join(result.errlines)


def test_the_reference_is_compared_with_itself(suite: Suite) -> None:
    suite(TOYS, "--benchmark-json=run.json", "-k", "conv and full")
    record = benchmarks()["toys[toy-synthetic-conv-full-seed0]"]["extra_info"]["harness"]
    assert record["cell"] == record["reference"]
    assert record["timing"]["ratio"]["value"] == 1
    difference = record["differences"]["mean_score"]
    assert (difference["value"], difference["low"], difference["high"], difference["level"]) == (0, 0, 0, 0.95)
    assert "patients" in difference["method"]
    assert "2 processes" in record["timing"]["ratio"]["method"]


def test_a_reference_that_is_not_selected_is_built_all_the_same(suite: Suite) -> None:
    suite(TOYS, "-k", "conv and half", "--benchmark-json=run.json").assert_outcomes(passed=1, deselected=3)
    assert list(benchmarks()) == ["toys[toy-synthetic-conv-half-seed0]"]


def test_two_metrics_cannot_give_one_figure(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.Mean, "specs", lambda self, task: (MetricSpec("weights"),))
    monkeypatch.setattr(toy.Mean, "compute", lambda self, evidence: {"weights": 1.0})
    result = suite(TOYS, "-k", "conv and full")
    result.assert_outcomes(failed=1, deselected=3)
    assert "metrics 'mean' and 'weight' both report a figure 'weights'; rename one" in str(result.stdout)


def test_the_folder_of_the_json_file_is_made(suite: Suite) -> None:
    suite(TOYS, "-k", "conv and full", "--benchmark-json=not/yet/there/run.json").assert_outcomes(
        passed=1, deselected=3
    )
    assert list(benchmarks("not/yet/there/run.json")) == ["toys[toy-synthetic-conv-full-seed0]"]


def test_an_allocator_that_is_not_there_fails_its_cells_and_is_told_first(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = MeasureError("apt install it")

    def check(profile: Profile) -> None:
        if profile.allocator == "mimalloc":
            raise missing

    monkeypatch.setattr(planner, "worker_environment", check)
    profiles = "{'lstm': Profile(allocator='mimalloc'), 'conv': Profile()}"
    result = suite(
        "from harness import Profile\n"
        f"m = Matrix(dataset='toy', architecture=['conv', 'lstm'], runtime='eager', profile={profiles})",
        "-v",
    )
    result.assert_outcomes(passed=1, failed=1)
    first, *_ = [line for line in result.outlines if "apt install it" in line]
    assert first == "harness: 1 cell cannot be timed: apt install it"
    assert len(list(Path(".harness").glob("artefacts/*/*/model.safetensors"))) == 1, (
        "only the fresh network of the other cell is built"
    )


def test_a_second_run_builds_nothing(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite(TOYS, "-k", "conv")
    monkeypatch.setattr(toy.Conv, "training", toy.Conv.training)
    monkeypatch.setattr(toy.Halve, "apply", lambda *_: pytest.fail("built again"))
    suite(TOYS, "-k", "conv").assert_outcomes(passed=2, deselected=2)


def test_the_file_is_read_by_pytest_benchmark_and_by_report(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    suite(TOYS, "-k", "conv", "--benchmark-json=run.json")
    command = [sys.executable, "-m", "pytest_benchmark", "compare", "run.json", "--columns=median"]
    compared = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "toys[toy-synthetic-conv-half-seed0]" in compared.stdout
    assert main(["report", "run.json"]) == 0
    assert "conv on toy-synthetic, matrix toys" in capsys.readouterr().out


def test_disabled_benchmarks_are_built_and_evaluated_but_not_timed(suite: Suite) -> None:
    result = suite(TOYS, "-k", "conv", "--benchmark-disable")
    result.assert_outcomes(passed=2, deselected=2)
    text = "\n".join(result.outlines)
    assert "weights" in text
    assert "latency" not in text


def test_a_plan_runs_nothing(suite: Suite) -> None:
    toy.Toy.loads.clear()
    result = suite(TOYS, "--harness-plan")
    assert result.ret == pytest.ExitCode.OK
    text = "\n".join(result.outlines)
    assert "steps to build: 6" in text
    assert "toy-synthetic-lstm-half-seed0" in text
    assert toy.Toy.loads == []
    assert not list(Path(".harness").glob("artefacts/*"))


# --------------------------------------------------------------------------------------------- a folder of suites


COLLECT = ("--collect-only", "-q", "-p", "no:cacheprovider")


def collected(pytester: pytest.Pytester, *arguments: str) -> list[str]:
    """The files of the collected items, each once."""
    result = pytester.runpytest_inprocess(*COLLECT, *arguments)
    return list(dict.fromkeys(line.partition("::")[0] for line in result.outlines if "::" in line))


@pytest.fixture
def folder(
    everything_imported: None, toy_installed: object, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """A project with suites, one of them in the root, beside tests and modules."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    sources = {
        "bench/one.py": HEAD + TOYS,
        "bench/test_two.py": HEAD + TOYS + "def test_plain(): pass\n",
        "bench/below/three.py": HEAD + TOYS,
        "bench/helper.py": "from harness import Matrix\nraise SystemExit('was imported')\n",
        "bench/conftest.py": "",
        "bench/again.py": "from one import toys\n",
        "bench/unrelated.py": "import below\n",
        "four.py": HEAD + TOYS,
        "tests/test_it.py": "def test_it(): pass\n",
    }
    for name, source in sources.items():
        (pytester.path / name).parent.mkdir(parents=True, exist_ok=True)
        (pytester.path / name).write_text(source)
    return pytester


def test_a_named_folder_is_collected_with_its_suites(folder: pytest.Pytester) -> None:
    assert collected(folder, "bench") == ["bench/one.py", "bench/test_two.py"]
    assert collected(folder, "bench/below", "bench/one.py") == ["bench/below/three.py", "bench/one.py"]
    by_name = folder.runpytest_inprocess(*COLLECT, "bench/one.py").outlines
    of_folder = folder.runpytest_inprocess(*COLLECT, "bench").outlines
    assert [line for line in of_folder if "one.py::" in line] == [line for line in by_name if "one.py::" in line] != []
    assert [line for line in of_folder if "is not collected" in line] == [
        f"harness: {Path('bench/again.py')} is not collected, because it makes no Matrix itself but imports the suite "
        "one.py; name the file if its cells should run too"
    ]
    assert collected(folder, "bench/again.py") == ["bench/again.py"]


@pytest.mark.parametrize("arguments", [[], ["."]])
def test_pytest_alone_collects_no_suite(folder: pytest.Pytester, arguments: list[str]) -> None:
    assert collected(folder, *arguments) == ["bench/test_two.py", "tests/test_it.py"]


# ------------------------------------------------------------------------------------------------------- failing


def test_a_failing_cell_does_not_stop_the_others(suite: Suite) -> None:
    result = suite(FAILING, "-rsf", "--benchmark-json=run.json")
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = "\n".join(result.outlines)
    assert "SKIPPED" in text
    assert "picky cannot prune a Sequential" in text
    assert "apply() of step 'broken' raised ZeroDivisionError: the toy broke" in text
    assert len(benchmarks()) == 2


def test_a_failing_reference_fails_what_is_compared_with_it(suite: Suite) -> None:
    suite(FAILING.replace('"fine": []', '"fine": [step("broken")]')).assert_outcomes(failed=3, skipped=1)


def test_a_metric_with_a_bug_fails_its_cells_and_is_named(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.Mean, "compute", lambda self, evidence: {"mean_score": 1})
    result = suite(FAILING, "-k", "half")
    result.assert_outcomes(failed=1, deselected=3)
    assert "compute() of metric 'mean' gives no 'undefined', which its specs() name" in "\n".join(result.outlines)


def test_a_life_cycle_hook_with_a_bug_is_named_and_stops_nothing(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = type("bug", (), {"harness_cell_finished": staticmethod(toy.hookimpl(lambda record: 1 / 0))})
    installed().add(bug, Origin("buggy", "buggy-dist", "1"))
    result = suite(FAILING, "-k", "half")
    result.assert_outcomes(passed=1, deselected=3)
    assert "plugin buggy (buggy-dist 1): harness_cell_finished failed: ZeroDivisionError" in "\n".join(result.outlines)


def test_plugins_that_were_left_out_are_named_in_the_heading(suite: Suite) -> None:
    installed().problems.append(Problem(Origin("x", "x-dist", "1"), "failed to import: ImportError: y"))
    result = suite(FAILING, "--collect-only")
    assert "harness: plugin x (x-dist 1): failed to import: ImportError: y" in result.outlines


@pytest.mark.parametrize(
    "source",
    [
        "m = Matrix(dataset='toy', architecture='conv', runtime='eager', a={'x': [step('picky')]})",
        "m = Matrix(dataset='toy', architecture='conv', runtime='eager', skip=[Skip('not today', seed=0)])",
    ],
)
def test_a_run_that_measured_nothing_does_not_pass(suite: Suite, source: str) -> None:
    result = suite(source, "-rs")
    result.assert_outcomes(skipped=1)
    assert result.ret == 13
    text = "\n".join(result.outlines)
    assert "harness: no cell was measured" in text
    assert "picky cannot prune" in text or "not today" in text


def test_a_skip_rule_shows_its_reason_and_runs_the_rest(suite: Suite) -> None:
    rule = TOYS.replace("seed=range(2),", "skip=[Skip('lstm is slow', architecture='lstm')],")
    result = suite(rule, "-rs")
    result.assert_outcomes(passed=2, skipped=2)
    assert "lstm is slow" in "\n".join(result.outlines)
    assert result.ret == pytest.ExitCode.OK


def test_where_torch_lacks_the_int8_api_the_int8_cells_are_skipped_and_the_rest_runs(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed().add(harness_compress, KERNEL)
    monkeypatch.setitem(sys.modules, "torch.ao.quantization.quantize_fx", None)
    result = suite(FAILING.replace("broken", "quantize"), "-rs", "--benchmark-json=run.json")
    result.assert_outcomes(passed=2, skipped=2)
    assert "has no torch.ao.quantization" in "\n".join(result.outlines)
    assert len(benchmarks()) == 2


def test_nothing_is_built_when_another_suite_is_broken(suite: Suite) -> None:
    Path("other.py").write_text("import no_such_module\n")
    result = suite(TOYS, "other.py")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert not Path(".harness").exists()


def test_a_store_that_cannot_be_used_is_said(suite: Suite) -> None:
    Path("file").write_text("")
    result = suite(TOYS, "--harness-store=file/store")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "cannot create the store in file/store" in "\n".join([*result.outlines, *result.errlines])


@pytest.mark.parametrize(
    ("text", "budget"), [("10s", 10.0), ("2min", 120.0), ("0", 0.0), (None, preset("smoke").budget)]
)
def test_the_budget_of_a_cell_is_an_option(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, text: str | None, budget: float
) -> None:
    budgets = []
    original = LatencyTimer.time

    def time(self: LatencyTimer, pair: Any) -> Any:
        budgets.append(self._preset.budget)
        return original(self, pair)

    monkeypatch.setattr(LatencyTimer, "time", time)
    suite(TOYS, "-k", "conv and half", *([f"--harness-budget={text}"] if text else []))
    assert budgets == [budget]


def test_a_budget_that_is_no_duration_is_an_error_of_use(suite: Suite) -> None:
    result = suite(TOYS, "--harness-budget=10")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--harness-budget: '10' is not a duration" in "\n".join([*result.outlines, *result.errlines])


def test_a_device_that_is_not_there_is_an_error_of_use(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = suite(TOYS, "--harness-device=cuda")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--harness-device cuda: torch sees no such device here" in "\n".join([*result.outlines, *result.errlines])


# -------------------------------------------------------------------------------------------------------- verdicts


def verdicts(file: str = "run.json") -> dict[str, dict[str, Any]]:
    """The verdicts on latencies beside the reference, by cell."""
    assert not any("verdict" in entry["extra_info"]["harness"]["timing"] for entry in benchmarks(file).values())
    section = json.loads(Path(file).read_text())["harness"]["verdicts"]
    return {name.partition("[")[2][:-1]: entry["reference"] for name, entry in section.items()}


def test_verdicts_reach_the_file_and_the_table(suite: Suite) -> None:
    result = suite(TOYS, "--benchmark-json=run.json", "--harness-margin=2%")
    found = verdicts()
    assert {name: verdict["kind"] for name, verdict in found.items()} == {
        "toy-synthetic-conv-half-seed0": "faster",
        "toy-synthetic-lstm-half-seed0": "faster",
    }, "a reference has no verdict about itself"
    assert {verdict["margin"] for verdict in found.values()} == {0.02}
    document = json.loads(Path("run.json").read_text())
    assert all(len(entry["extra_info"]["harness_sha256"]) == 64 for entry in document["benchmarks"])
    assert document["harness"]["verdicts_sha256"].keys() == document["harness"]["verdicts"].keys()
    assert len(read_records(Path("run.json"))) == 4, "the checksums match"
    text = "\n".join(result.outlines)
    assert "verdict at 2 %" in text
    assert "1 A/A run (a reference against itself): 1.0000 [1.0000, 1.0000]." in text
    assert "2 processes are too few to estimate it" in text


def test_what_is_slower_is_confirmed_before_the_file_is_written(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workers, "speed", 1.5)
    result = suite(TOYS, "-k", "conv", "--benchmark-json=run.json")
    assert result.ret == 0, "slower than the reference is a finding, and no failure"
    found = verdicts()["toy-synthetic-conv-half-seed0"]
    assert found["kind"] == "slower"
    assert found["confirmation"]["ratio"]["value"] == pytest.approx(1.5, rel=0.001)
    samples = read_samples(Path("run.json"), confirmations=True)
    fresh = samples["suite.py::toys[toy-synthetic-conv-half-seed0]", "reference"]
    assert len(fresh["candidate"]) == preset("smoke").processes
    again = paired_ratio(fresh["reference"], fresh["candidate"])
    assert (again.ratio, list(again.per_process)) == (
        found["confirmation"]["ratio"]["value"],
        found["confirmation"]["per_process"],
    )
    assert "harness: 1 cell is slower than its reference" in "\n".join(result.outlines)


def test_an_interrupted_run_keeps_the_verdicts_that_need_no_confirmation(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Workers.time_pair
    calls: list[Path] = []

    def interrupt(self: Workers, candidate: Path, **arguments: Any) -> Any:
        calls.append(candidate)
        if len(calls) == 4:
            pytest.exit("stopped")  # as Ctrl-C, which pytester would take for its own
        return original(self, candidate=candidate, **arguments)

    monkeypatch.setattr(Workers, "time_pair", interrupt)
    result = suite(TOYS, "--benchmark-json=run.json")
    assert "stopped" in "\n".join(result.outlines)
    assert {name: verdict["kind"] for name, verdict in verdicts().items()} == {
        "toy-synthetic-conv-half-seed0": "faster"
    }
    assert len(benchmarks()) == 3


def test_a_file_that_cannot_be_written_is_told_before_anything_is_built(suite: Suite) -> None:
    result = suite(TOYS, "--benchmark-json=/proc/run.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "--benchmark-json=/proc/run.json cannot be written" in "\n".join(result.outlines)
    assert not Path("store/artefacts").exists()


@pytest.mark.parametrize("margin", ["1", "-1%", "much"])
def test_a_wrong_margin_is_an_error_of_use(suite: Suite, margin: str) -> None:
    result = suite(TOYS, f"--harness-margin={margin}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"--harness-margin: the margin '{margin}'" in "\n".join(result.errlines)


def test_more_processes_see_smaller_changes(suite: Suite) -> None:
    result = suite(TOYS, "-k", "conv and half", "--benchmark-json=run.json", "--harness-processes=9")
    (entry,) = benchmarks().values()
    assert entry["extra_info"]["harness"]["timing"]["processes"] == 9
    assert "Minimum detectable effect with 9 processes" in "\n".join(result.outlines)
    result = suite(TOYS, "--harness-processes=1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--harness-processes 1: use 2 (an interval needs two) to 50" in "\n".join(result.errlines)


@pytest.mark.parametrize("by", ["option", "suite"])
def test_the_single_protocol_is_chosen_by_the_suite_or_by_an_option(suite: Suite, by: str) -> None:
    source = TOYS.replace("runtime=", "protocol='single', runtime=") if by == "suite" else TOYS
    options = ["--harness-protocol=single"] if by == "option" else []
    result = suite(source, "-k", "conv and half", "--benchmark-json=run.json", *options)
    (entry,) = benchmarks().values()
    timing = entry["extra_info"]["harness"]["timing"]
    assert (timing["protocol"], timing["processes"], timing["pairs"]) == ("single", 1, 50)
    assert entry["stats"]["rounds"] == 50
    assert entry["stats"]["mean"] == pytest.approx(100.0245e-6)
    text = "\n".join(result.outlines)
    assert "protocol single: 100 untimed calls, the mean of 50 in 1 process" in text
    assert "no interval and no verdict" in text
    assert "verdict at" not in text
    again = suite(source, "-k", "conv and half", "--benchmark-json=again.json", "--harness-protocol=paired")
    assert "2 processes x 12 pairs" in "\n".join(again.outlines), "the option wins over the suite"


def test_networks_that_read_different_forms_of_the_data_run_together(suite: Suite) -> None:
    source = """
toys = Matrix(dataset="toy", architecture=["conv", "flat"], runtime="eager", steps={"trained": [train(epochs=1)]})
"""
    result = suite(source, "--benchmark-json=run.json")
    assert result.ret == 0
    assert [entry["extra_info"]["harness"]["timing"]["ratio"]["value"] for entry in benchmarks().values()] == [1, 1]


def test_figures_of_the_answers_have_intervals_and_differences(suite: Suite) -> None:
    suite(TOYS, "-k", "conv and half", "--benchmark-json=run.json")
    (entry,) = benchmarks().values()
    record = entry["extra_info"]["harness"]
    assert list(record["differences"]) == ["mean_score"]
    assert record["differences"]["mean_score"]["method"] == "bootstrap over 10 patients, 100 samples"
    figure = record["figures"]["mean_score"]
    assert figure["interval"]["low"] < figure["value"] == pytest.approx(figure["interval"]["value"])
    assert figure["value"] < figure["interval"]["high"]
    assert "interval" not in record["figures"]["weights"]


def test_the_record_says_what_the_machine_is(suite: Suite) -> None:
    suite(TOYS, "-k", "conv and half", "--benchmark-json=run.json")
    (entry,) = benchmarks().values()
    assert entry["extra_info"]["harness"]["machine"] == facts()


def test_a_project_without_a_matrix_is_left_alone(suite: Suite) -> None:
    result = suite("def test_one(): pass\n")
    assert result.ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    assert not Path(".harness").exists()


# ------------------------------------------------------------------------------------------------- the real thing


@pytest.mark.slow  # tests/test_thirdparty.py does so with a plugin that pip installed
def test_a_third_partys_suite_with_real_workers(nowhere: None, toy_distribution: Path, tmp_path: Path) -> None:
    (tmp_path / "suite.py").write_text(HEAD + TOYS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "suite.py",
        "-k",
        "conv",
        "--harness-preset=smoke",
        "--benchmark-json=run.json",
    ]
    environment = {"PYTHONPATH": str(toy_distribution), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    found = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    record = benchmarks(str(tmp_path / "run.json"))["toys[toy-synthetic-conv-half-seed0]"]["extra_info"]["harness"]
    assert 0.2 < record["timing"]["ratio"]["value"] < 5
    assert len(record["timing"]["environment"]) == 2
    assert record["timing"]["environment"][0]["threads"] == 1


class Rare(toy.Toy):
    """A data set that few people have."""

    name = "rare"

    def matches(self, folder: Path) -> bool:
        return (folder / "rare.json").is_file()


BOTH = (
    TOYS
    + """
rare = Matrix(dataset="rare", architecture="conv", runtime="eager", pruning={"full": [train(epochs=1)]})
"""
)


@pytest.fixture
def rare(monkeypatch: pytest.MonkeyPatch) -> None:
    @hookimpl
    def harness_datasets(register: Any) -> None:
        for dataset in (toy.Toy(), toy.ToySynthetic(), Rare()):
            register(dataset)

    monkeypatch.setattr(toy, "harness_datasets", harness_datasets)


def test_a_data_set_that_is_not_where_data_are_fails_its_own_cells_alone(rare: None, suite: Suite) -> None:
    toy.write(Path("mine/toy"))
    result = suite(BOTH, "--harness-data=mine", "-k", "conv")
    result.assert_outcomes(passed=2, failed=1, deselected=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    said = "\n".join(result.outlines)
    assert "conv-full-seed0: data set 'rare' is not in mine; point --harness-data" in said.replace("\n", " ")


def test_who_selects_the_others_hears_nothing_of_it(rare: None, suite: Suite) -> None:
    toy.write(Path("mine/toy"))
    result = suite(BOTH, "--harness-data=mine", "-k", "toys and conv")
    result.assert_outcomes(passed=2, deselected=3)
    assert "rare" not in "\n".join(result.outlines[3:])


def test_a_plan_tells_of_a_data_set_that_is_not_there(rare: None, suite: Suite) -> None:
    toy.write(Path("mine/toy"))
    result = suite(BOTH, "--harness-data=mine", "--harness-plan")
    assert "harness: 1 cell cannot run: data set 'rare' is not in mine" in "\n".join(result.outlines)


def test_cells_that_no_step_trains_are_told(suite: Suite) -> None:
    text = """
from harness import Matrix, train
options = {"plain": [train()], "none": [], "nothing": []}
toys = Matrix(dataset="toy-synthetic", architecture="conv", runtime="eager", training=options)
"""
    said = "\n".join(suite(text, "--harness-plan").outlines)
    assert "no step of its recipe trains the network of suite.py::toys[conv-none-seed0] and 1 more" in said
    assert "no step of its recipe" not in "\n".join(suite(text, "--harness-plan", "-k", "plain").outlines)


def test_a_deployed_file_that_vanished_fails_its_cell_in_one_sentence() -> None:
    def measure(cell: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory", "store/tmp/model.safetensors")

    run: Any = SimpleNamespace(measure=measure)
    cell: Any = SimpleNamespace(problem=None)
    error = _measure(run, cell)
    assert isinstance(error, StoreError)
    assert "cannot read or write the files of the cell: [Errno 2] No such file or directory: 'store/tmp/" in str(error)


def test_the_cells_that_failed_last_are_chosen_by_last_failed(suite: Suite) -> None:
    listed = [line for line in suite(TOYS, "--collect-only", "-q").outlines if "[" in line and "::" in line]
    cache = Path(".pytest_cache/v/cache")
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "lastfailed").write_text(json.dumps({listed[1]: True}))
    chosen = suite(TOYS, "-p", "cacheprovider", "--collect-only", "-q", "--lf").outlines
    assert [line for line in chosen if line in listed] == [listed[1]]


def test_a_matrix_in_a_list_is_an_error_and_no_silence(suite: Suite) -> None:
    hidden = TOYS + "\nothers = [toys, Matrix(dataset='toy', architecture='conv', method={'full': []})]\n"
    suite(hidden, "--collect-only").stdout.fnmatch_lines(
        ["others: holds a Matrix, which is not collected; assign each*"]
    )
    listed = suite(TOYS + "\nothers = [toys]\n", "--collect-only", "-q").outlines
    assert sum("::" in line for line in listed) == 4
