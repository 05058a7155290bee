"""The calibration script: with made-up times whose true ratio is known, with real workers, and its options."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import calibrate as script
import load_tables
import rival_rules
from calibrate import CalibrationPlan, calibrate
from harness.api import Profile
from harness.errors import CellError, UsageError
from harness.measure.machine import Disturbance, Load
from harness.measure.pool import PairedSamples
from harness.measure.timing import Amount
from harness.suite.presets import SAMPLING_LIMIT, preset
from load_tables import Traces, resample, summarize, table
from loads import LOADS
from rival_rules import RULES

RIVALS = set(RULES)


class Workers:
    """Fake timing workers: processes differ by 3 %, and each one's ratio deviates a little from the true ratio."""

    #: The slowdowns of the candidates timed, in order, and "renew" for each renewal.
    asked: ClassVar[list[Any]]
    #: Factor on the true ratio of the n-th timing.
    bias: ClassVar[list[float]]
    #: In every n-th comparison the kernel takes the CPU away repeatedly; 0: never.
    disturbed: ClassVar[int]
    #: The deviation of each process's ratio.
    noise: ClassVar[float]

    def __init__(self, command: object) -> None:
        self._random = np.random.default_rng(1)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def renew(self) -> None:
        self.asked.append("renew")

    def time_pair(
        self,
        profile: Profile,
        runtime: str,
        reference: Path,
        candidate: Path,
        inputs: Path,
        processes: int,
        amount: Amount,
        seed: int,
        first: int = 0,
        reference_runtime: str | None = None,
    ) -> PairedSamples:
        random = self._random
        shape = (processes, amount.pairs)
        is_aa_run = reference == candidate
        slowdown = json.loads(candidate.read_text())["slowdown"]
        if not is_aa_run:
            self.asked.append(slowdown if first == 0 else "more")
        truth = (1 + slowdown) * (self.bias.pop(0) if self.bias and not is_aa_run else 1)
        process = 13 + random.normal(0, 0.03, (processes, 1))
        base, other = (random.normal(process, 0.01, shape) for _ in range(2))
        other += np.log(truth) + random.normal(0, self.noise, (processes, 1))
        number = len(self.asked) - self.asked.count("renew")
        often = self.disturbed and not is_aa_run and number % self.disturbed == 0
        switches = 3 * amount.pairs if often else 0
        times = [np.exp(each).astype(np.int64) for each in (base, other)]
        return PairedSamples(
            reference=times[0],
            candidate=times[1],
            reference_first=np.zeros(shape, dtype=np.bool_),
            inputs=np.zeros(shape, dtype=np.int64),
            environment=tuple(
                {"threads": profile.threads, "runtime": runtime, "seed": seed, "pid": first + pid}
                for pid in range(processes)
            ),
            warmup=amount.warmup,
            steady=True,
            canary=np.full((processes, 5, 5), 100_000),
            collections=(0,) * processes,
            disturbances=(Disturbance(switches, None, None),) * processes,
            load=Load(load_1min=0.0, runnable=1),
            wall=float(times[0].sum() + times[1].sum()) / 1e9 + 0.25,
            reference_sha256="0",
            candidate_sha256="1",
        )


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[str]:
    """The loads that were made. Loading and timing are faked unless the test's name says real."""
    return [] if "real" in request.node.name else fake_timing(monkeypatch)


def fake_timing(monkeypatch: pytest.MonkeyPatch, resampled: int = 20) -> list[str]:
    made: list[str] = []

    def fake(name: str) -> Any:
        @contextlib.contextmanager
        def load(profile: Profile) -> Iterator[str]:
            made.append(name)
            yield f"made-up {name}"

        return load

    Workers.asked, Workers.bias, Workers.disturbed, Workers.noise = [], [], 0, 0.002
    monkeypatch.setattr(script, "Workers", Workers)
    monkeypatch.setattr(script, "LOADS", {name: fake(name) for name in LOADS})
    monkeypatch.setattr(load_tables, "RESAMPLED", resampled)
    return made


def ignore(line: str) -> None:
    pass


SIZE = dataclasses.replace(preset("quick"), pairs=30)
QUIET = CalibrationPlan(comparisons=60, planted=(0.01, 0.05), planted_comparisons=20, preset=SIZE)
FEW = dataclasses.replace(QUIET, comparisons=20, planted_comparisons=5)


def only(plan: CalibrationPlan, load: str = "quiet") -> dict[str, Any]:
    """What was measured under one load."""
    measured: dict[str, Any] = calibrate(plan, [load], ignore)["loads"][load]
    return measured


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The whole of a quiet calibration."""
    with pytest.MonkeyPatch.context() as patch:
        fake_timing(patch, resampled=200)
        return calibrate(QUIET, ["quiet"], ignore)


def test_verdicts_are_right_when_the_times_are(document: dict[str, Any]) -> None:
    summary = document["loads"]["quiet"]["summary"]
    aa, (at_margin, planted) = summary["aa"], summary["planted"]
    for way in ("old", "new", "confirmed"):
        false = aa["alarms"][way]
        assert (false["number"], false["of"], false["share"]) == (0, 60, 0.0)
        assert false["at_most"] == pytest.approx(1 - 0.05 ** (1 / 60)), "Clopper and Pearson's bound for none of 60"
        assert planted["alarms"][way]["number"] == planted["alarms"][way]["of"] == 20
        assert planted["verdicts"][way] == {"slower": 20}
        assert sum(aa["verdicts"][way].values()) == 60
    assert planted["ratio"] == pytest.approx(1.05, abs=0.002)
    assert at_margin["alarms"]["new"]["number"] <= 2, "what is at the margin is not beyond it"
    assert aa["coverage"]["share"] >= 0.95
    assert summary["cost"]["processes"] >= 4
    assert document["plan"]["comparisons"] == 60
    assert document["machine"].keys() >= {"cpu", "cpus"}


def test_each_comparison_is_timed_as_a_cell_in_a_run(document: dict[str, Any]) -> None:
    for each in document["loads"]["quiet"]["comparisons"]:
        assert len(each["per_process"]) in (4, 6, 9, 12)
        aa_runs = [document["loads"]["quiet"]["aa_runs"][place] for place in each["aa_runs"]]
        assert [len(run) >= len(each["per_process"]) for run in aa_runs] == [True] * 3
        assert each["level"] == pytest.approx(0.05 / 2 ** min(each["looks"], 3))
        assert each["wall"] > 0


def test_noise_costs_processes_and_decides_no_falsehood() -> None:
    Workers.noise = 0.02
    measured = only(FEW)
    aa = measured["summary"]["aa"]
    assert measured["summary"]["cost"]["processes"] > 8
    assert aa["alarms"]["new"]["number"] == 0
    assert "more" in Workers.asked


def test_processes_that_differ_deceive_rules_for_separate_runs(document: dict[str, Any]) -> None:
    measured = document["loads"]["quiet"]
    false = measured["summary"]["aa"]["rivals"]
    assert set(false["interleaved"]) == set(false["separate"]) == RIVALS
    assert false["interleaved"]["pyperf compare_to"]["number"] == 0
    assert false["separate"]["pyperf compare_to"]["share"] > 0.1
    assert false["separate"]["pytest-benchmark mean:5%"]["share"] > 0.05
    separate = [comparison["rivals"]["separate"] for comparison in measured["comparisons"]]
    assert [place for place, alarms in enumerate(separate) if alarms is None] == list(range(0, len(separate), 10))


def test_a_separate_run_is_compared_with_the_reference_before(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def alarms(baseline: Any, current: Any) -> dict[str, None]:
        asked.append((int(baseline[0, 0]), int(current[0, 0])))
        return dict.fromkeys(RULES)

    monkeypatch.setattr(rival_rules, "alarms", alarms)
    calibrate(CalibrationPlan(comparisons=3, planted=(), preset=SIZE), ["quiet"], ignore)
    first, second, second_separate, third, third_separate = asked
    assert second_separate == (first[0], second[1])
    assert third_separate == (second[0], third[1])


def test_false_verdicts_are_counted_in_both_directions() -> None:
    Workers.bias = [1.05, 1.0, 1.0, 0.95]
    aa = only(CalibrationPlan(comparisons=20, planted=(), preset=SIZE))["summary"]["aa"]
    assert aa["verdicts"]["new"].items() >= {"slower": 1, "faster": 1}.items()
    assert aa["alarms"]["new"]["number"] == 2
    assert aa["alarms"]["new"]["share"] == 0.1


def test_fresh_processes_confirm_what_is_slower_and_only_that() -> None:
    Workers.bias = [1.05, 1.0, 1.0, 0.95]
    measured = only(dataclasses.replace(QUIET, comparisons=20, planted=(0.1,), planted_comparisons=2))
    aa, (planted,) = measured["summary"]["aa"], measured["summary"]["planted"]
    confirmations = [comparison["confirmation"] for comparison in measured["comparisons"]]
    slower = [comparison["new"] == "slower" for comparison in measured["comparisons"]]
    assert [confirmation is not None for confirmation in confirmations] == slower
    assert aa["alarms"]["confirmed"]["number"] == aa["alarms"]["new"]["number"] - 1, "faster is not timed again"
    assert planted["alarms"]["confirmed"]["number"] == 2
    asked = iter(" ".join(map(str, Workers.asked)).split("renew")[1:])
    for start in range(0, len(slower), 10):
        crew = slower[start : start + 10]
        assert len(next(asked).replace("more", "").split()) == len(crew)
        assert not any(crew) or len(next(asked).split()) == sum(crew)
    assert next(asked, None) is None


def test_the_processes_are_renewed_and_the_order_is_the_seed_s() -> None:
    def order(plan: CalibrationPlan) -> list[Any]:
        Workers.asked = []
        calibrate(plan, ["quiet"], ignore)
        return [entry for entry in Workers.asked if entry != "more"]

    alike = dataclasses.replace(FEW, comparisons=25, planted=(0.001, 0.002), planted_comparisons=3)
    asked = order(alike)
    assert [place for place, entry in enumerate(asked) if entry == "renew"] == [0, 11, 22, 33]
    planted = [place for place, entry in enumerate(asked) if entry in (0.001, 0.002)]
    assert planted[-1] - planted[0] > 10, "the planted ones are not scattered"
    assert order(alike) == asked
    assert order(dataclasses.replace(alike, seed=1)) != asked


def test_what_the_old_rule_discards_the_new_one_decides() -> None:
    Workers.disturbed = 4
    plan = CalibrationPlan(comparisons=20, planted=(0.05,), planted_comparisons=20, preset=SIZE, seed=3)
    measured = only(plan)
    aa, (planted,) = measured["summary"]["aa"], measured["summary"]["planted"]
    disturbed = [comparison for comparison in measured["comparisons"] if comparison["beyond"]]
    assert len(disturbed) >= 8
    assert {tuple(comparison["beyond"]) for comparison in disturbed} == {("switches",)}
    assert {comparison["old"] for comparison in disturbed} == {"contaminated"}
    assert {comparison["new"] for comparison in disturbed} <= {"slower", "same", "inconclusive"}
    assert planted["alarms"]["new"]["share"] == 1
    assert planted["alarms"]["old"]["share"] < 1
    assert aa["decided"]["old"]["share"] < aa["decided"]["new"]["share"]


def test_a_stopped_calibration_goes_on_where_it_stopped(tmp_path: Path, loaded: list[str]) -> None:
    plan = CalibrationPlan(comparisons=15, planted=(0.05,), planted_comparisons=8, preset=SIZE)
    lines: list[str] = []
    names = ["quiet", "bursts"]
    document = calibrate(plan, names, lines.append, tmp_path / "whole.json")
    assert json.loads((tmp_path / "whole.json").read_text()) == document
    assert list(document["loads"]) == loaded == names
    assert document["loads"]["bursts"]["description"] == "made-up bursts"
    assert "quiet: 23 of 23 comparisons, 00:00 left" in lines
    assert any(line.endswith(" slower; timing again in fresh processes") for line in lines)

    def stop(line: str) -> None:
        if line.startswith("bursts: 20 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(plan, names, stop, tmp_path / "stopped.json")
    stopped = json.loads((tmp_path / "stopped.json").read_text())
    assert list(stopped["loads"]) == ["quiet"]
    assert len(stopped["unfinished"]["bursts"]["comparisons"]) == 20
    loaded.clear()
    lines.clear()
    Workers.asked = []
    whole = calibrate(plan, [*names, "quota"], lines.append, tmp_path / "stopped.json")
    assert loaded == ["bursts", "quota"]
    assert lines[0] == "quiet: already measured"
    assert list(whole["loads"]) == ["quiet", "bursts", "quota"]
    assert whole["unfinished"] == {}
    assert whole["loads"]["quiet"] == stopped["loads"]["quiet"]
    bursts = whole["loads"]["bursts"]
    assert bursts["comparisons"][:20] == stopped["unfinished"]["bursts"]["comparisons"]
    assert bursts["seconds"] > stopped["unfinished"]["bursts"]["seconds"]
    order = [comparison["planted"] for comparison in bursts["comparisons"]]
    assert order == [comparison["planted"] for comparison in document["loads"]["bursts"]["comparisons"]]
    aa_runs = [place for comparison in bursts["comparisons"] for place in comparison["aa_runs"]]
    assert set(aa_runs) == set(range(len(bursts["aa_runs"])))
    assert {file.name for file in tmp_path.iterdir()} == {"whole.json", "stopped.json"}


@pytest.mark.parametrize("content", ["other plan", "[]", "no JSON"])
def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path, content: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(content)
    if content == "other plan":
        file.unlink()
        calibrate(dataclasses.replace(FEW, seed=7), ["quiet"], ignore, file)
    before = file.read_text()
    with pytest.raises(UsageError, match="is not a calibration of this plan on this machine; name another file"):
        calibrate(FEW, ["quiet"], ignore, file)
    assert file.read_text() == before


def test_a_worker_that_fails_ends_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CellError("the timing worker was killed")

    monkeypatch.setattr(Workers, "time_pair", fail)
    with pytest.raises(CellError, match="was killed"):
        calibrate(QUIET, ["quiet"], ignore)


def test_the_table_shows_the_numbers(document: dict[str, Any]) -> None:
    shown = table(document)
    assert shown == table(json.loads(json.dumps(document, allow_nan=False)))
    assert "preset quick: from 4 processes x 30 pairs, margin 1 %" in shown
    assert "\nquiet: made-up quiet, " in shown
    lines = {line.split("  ")[0]: line.split("  ")[1:] for line in shown.splitlines()}
    cells = {name: [cell.strip() for cell in line if cell.strip()] for name, line in lines.items()}
    assert cells["comparisons"] == ["60", "20", "20"]
    assert cells["harness, alone"][0] == "0.0 % [4.9 %]"
    assert cells["harness, alone"][2] == "100.0 %"
    aa = document["loads"]["quiet"]["summary"]["aa"]
    for rule in RULES:
        share = aa["rivals"]["separate"][rule]
        assert cells[f"{rule}, separate runs"][0].startswith(f"{100 * share['share']:.1f} % [")
    assert "A comparison takes " in shown
    assert "Resampled 200 times: by 0.1 " in shown
    assert "The smallest change found in 95 %: 1." in shown


def test_the_summary_follows_from_the_comparisons(document: dict[str, Any]) -> None:
    measured = document["loads"]["quiet"]
    again = summarize(measured["comparisons"], measured["aa_runs"], SIZE, 0.01)
    assert again["aa"]["verdicts"] == measured["summary"]["aa"]["verdicts"]
    assert [level["verdicts"] for level in again["planted"]] == [
        level["verdicts"] for level in measured["summary"]["planted"]
    ]
    assert again["cost"]["processes"] == pytest.approx(measured["summary"]["cost"]["processes"])


# ----------------------------------------------------------------------------------------------------- resampling


def traced(shift: float, deviation: float, count: int = 200) -> tuple[list[dict[str, Any]], list[list[float]]]:
    """A/A comparisons of 4 processes whose shifts and deviations are normal, and three A/A runs for each."""
    rng = np.random.default_rng(2)

    def ratios() -> list[float]:
        return list(np.exp(rng.normal(0, shift) + rng.normal(0, deviation, 4)))

    return [{"per_process": ratios()} for _ in range(count)], [ratios() for _ in range(3 * count)]


@pytest.mark.parametrize(("shift", "deviation"), [(0.0, 0.01), (0.01, 0.002)])
def test_drawn_comparisons_have_the_variances_of_the_traces(shift: float, deviation: float) -> None:
    traces, rng = Traces(*traced(shift, deviation)), np.random.default_rng(3)
    logs = np.log([traces.draw(rng, 4, 0.1) for _ in range(4000)])
    assert logs.mean() == pytest.approx(0.1, abs=0.002)
    assert np.sqrt(logs.var(axis=1, ddof=1).mean()) == pytest.approx(deviation, rel=0.05)
    assert logs.mean(axis=1).std() == pytest.approx(np.hypot(shift, deviation / 2), rel=0.1)


def test_the_old_rule_errs_where_comparisons_are_shifted_and_the_new_one_less() -> None:
    traces, rng = Traces(*traced(0.01, 0.001)), np.random.default_rng(4)
    drawn = [resample(traces, SIZE, 0.01, 0.0, rng) for _ in range(400)]
    false = [sum(pair[place] in ("slower", "faster") for pair in drawn) for place in (0, 1)]
    assert false[0] > 0.2 * 400
    assert false[1] <= 0.05 * 400 + 3 * np.sqrt(400 * 0.05 * 0.95)


def test_quiet_traces_find_two_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_tables, "RESAMPLED", 200)
    summary = load_tables._resampled(*traced(0.0, 0.002), SIZE, 0.01)
    assert summary is not None
    assert 0.01 < summary["smallest_change"] <= 0.02
    assert summary["aa"]["new"]["slower"]["number"] == 0
    assert load_tables._resampled([], [], SIZE, 0.01) is None
    assert SAMPLING_LIMIT == 12


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"comparisons": 0}, "comparisons=0 is too small: a calibration needs at least 1"),
        ({"planted": (0.05, 0.0)}, "a planted slowdown must be a share above 0"),
        ({"planted": (0.05, 0.05)}, "name each value once"),
        ({"margin": -0.01}, "margin=-0.01: the margin must be a share"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        CalibrationPlan(**wrong)


def test_where_the_file_cannot_be_nothing_is_timed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no folder .*; make it first"):
        calibrate(QUIET, ["quiet"], ignore, tmp_path / "missing" / "file.json")
    assert Workers.asked == []
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="folder is a folder; name a file"):
        calibrate(QUIET, ["quiet"], ignore, tmp_path / "folder")
    assert Workers.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("load", list(LOADS))
def test_real_workers_find_what_was_planted_and_nothing_else(load: str) -> None:
    plan = CalibrationPlan(comparisons=3, planted=(0.2,), planted_comparisons=3, preset=SIZE, margin=0.05)
    summary = calibrate(plan, [load], ignore)["loads"][load]["summary"]
    aa, (planted,) = summary["aa"], summary["planted"]
    assert aa["alarms"]["new"]["number"] == 0
    assert planted["alarms"]["new"]["number"] >= 2
    assert aa["ratio"] == pytest.approx(1, abs=0.05)
    assert planted["ratio"] == pytest.approx(1.2, abs=0.1)


# -------------------------------------------------------------------------------------------------------- options


Call = tuple[CalibrationPlan, tuple[str, ...], Path | None]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The plans that the script passes to a fake `calibrate`."""
    made: list[Call] = []

    def calibrate(
        plan: CalibrationPlan, names: tuple[str, ...], log: Callable[[str], None], output: Path | None = None
    ) -> dict[str, Any]:
        made.append((plan, names, output))
        log("timing")
        return {"a": "document"}

    monkeypatch.setattr(script, "calibrate", calibrate)
    monkeypatch.setattr(script, "table", lambda document: f"the table of {document}")
    return made


def test_without_options_the_script_runs_the_default_plan(
    calls: list[Call], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([]) == 0
    assert capsys.readouterr() == ("the table of {'a': 'document'}\n", "timing\n")
    ((plan, names, output),) = calls
    assert output is None
    assert names == ("quiet", "other", "both", "bandwidth", "quota", "bursts")
    assert dataclasses.replace(plan, profile=Profile()) == CalibrationPlan()
    assert plan.profile == Profile(allocator=["system"])


def test_every_option_reaches_the_plan(calls: list[Call]) -> None:
    options = (
        "--comparisons 7 --planted 3%,0.2 --planted-comparisons 5 --preset study --margin 2% --loads quota,quiet "
        "--allocator jemalloc system --output o.json"
    )
    assert script.main(options.split()) == 0
    expected = CalibrationPlan(
        comparisons=7,
        planted=(0.03, 0.2),
        planted_comparisons=5,
        preset=preset("study"),
        margin=0.02,
        profile=Profile(allocator=["jemalloc", "system"]),
    )
    assert calls == [(expected, ("quota", "quiet"), Path("o.json"))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--comparisons many", "--comparisons 'many' is not a whole number"),
        ("--comparisons 0", "comparisons=0 is too small: a calibration needs at least 1"),
        ("--planted 1%,x", "--planted '1%,x' is not a list of shares such as 2%,10% or 0.02"),
        ("--margin 1", "did you mean 1%?"),
        ("--loads quiet,noisy", "'noisy' is not one of quiet, other, both, bandwidth, quota, bursts"),
        ("--preset quik", "no preset is called 'quik'"),
        ("--allocator jemaloc", "unknown allocator; did you mean 'jemalloc'"),
        ("--unknown", "unrecognized arguments: --unknown (calibrate.py --help lists the options)"),
    ],
)
def test_a_usage_error_is_one_line_and_exit_code_4(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    monkeypatch.setattr("sys.argv", ["results/calibration/calibrate.py"])
    assert script.main(options.split()) == 4
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith("calibrate: ")
    assert message in err


def test_the_script_runs_by_its_path_and_shows_the_defaults() -> None:
    shown = subprocess.run(
        [sys.executable, script.__file__, "--help"], capture_output=True, text=True, check=True, env={"COLUMNS": "200"}
    ).stdout
    assert "as 1% or 0.01 (default: 1%)" in shown
    assert "A/A comparisons (of a network with itself) under each load (default: 300)" in shown
