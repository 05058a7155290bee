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
import rival_rules
from calibrate import CalibrationPlan, calibrate
from calibration_tables import table
from harness.api import Profile
from harness.errors import CellError, UsageError
from harness.measure.machine import Disturbance, Load
from harness.measure.pool import PairedSamples
from harness.measure.timing import Amount
from rival_rules import RULES

RIVALS = set(RULES)


class Workers:
    """Fake timing workers: processes differ by 3 %, and each one's ratio deviates 0.2 % from the true ratio."""

    #: The slowdowns of the candidates timed, in order, and "renew" for each renewal.
    asked: ClassVar[list[Any]]
    #: Factor on the true ratio of the n-th timing.
    bias: ClassVar[list[float]]
    #: In every n-th comparison the kernel takes the CPU away repeatedly; 0: never.
    disturbed: ClassVar[int]

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
    ) -> PairedSamples:
        random = self._random
        shape = (processes, amount.pairs)
        slowdown = json.loads(candidate.read_text())["slowdown"]
        self.asked.append(slowdown)
        number = len(self.asked) - self.asked.count("renew")
        truth = (1 + slowdown) * (self.bias.pop(0) if self.bias else 1)
        process = 13 + random.normal(0, 0.03, (processes, 1))
        base, other = (random.normal(process, 0.01, shape) for _ in range(2))
        other += np.log(truth) + random.normal(0, 0.002, (processes, 1))
        # Twice in a row, because a disturbed comparison is timed once more.
        often = self.disturbed and number >= self.disturbed and number % self.disturbed in (0, 1)
        switches = 3 * amount.pairs if often or self.disturbed == 1 else 0
        times = [np.exp(each).astype(np.int64) for each in (base, other)]
        return PairedSamples(
            reference=times[0],
            candidate=times[1],
            reference_first=np.zeros(shape, dtype=np.bool_),
            inputs=np.zeros(shape, dtype=np.int64),
            environment=tuple(
                {"threads": profile.threads, "runtime": runtime, "seed": seed, "pid": pid} for pid in range(processes)
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
def loaded(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[tuple[int, ...]]:
    """The CPUs that were loaded in each condition. Loading and timing are faked unless the test's name says real."""
    return [] if "real" in request.node.name else fake_timing(monkeypatch)


def fake_timing(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    conditions: list[tuple[int, ...]] = []

    @contextlib.contextmanager
    def burning(cpus: tuple[int, ...]) -> Iterator[None]:
        conditions.append(cpus)
        yield

    Workers.asked, Workers.bias, Workers.disturbed = [], [], 0
    monkeypatch.setattr(script, "Workers", Workers)
    monkeypatch.setattr(script, "burning", burning)
    monkeypatch.setattr(script, "other_cpus", lambda profile: (3, 4))
    return conditions


def ignore(line: str) -> None:
    pass


QUIET = CalibrationPlan(comparisons=60, planted=(0.01, 0.05), planted_comparisons=20, pairs=30, busy=(False,))
FEW = dataclasses.replace(QUIET, comparisons=20, planted_comparisons=5)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The whole of a quiet calibration."""
    with pytest.MonkeyPatch.context() as patch:
        fake_timing(patch)
        return calibrate(QUIET, ignore)


def test_verdicts_are_right_when_the_times_are(document: dict[str, Any]) -> None:
    (condition,) = document["conditions"]
    summary = condition["summary"]
    itself, (at_margin, planted) = summary["itself"], summary["planted"]
    for way in ("alone", "matrix", "confirmed", "regardless"):
        false = itself["alarms"][way]
        assert (false["number"], false["of"], false["share"]) == (0, 60, 0.0)
        assert false["at_most"] == pytest.approx(1 - 0.05 ** (1 / 60)), "Clopper and Pearson's bound for none of 60"
        assert planted["alarms"][way]["number"] == planted["alarms"][way]["of"] == 20
        assert planted["verdicts"][way] == {"slower": 20}
        assert sum(itself["verdicts"][way].values()) == 60
    assert planted["ratio"] == pytest.approx(1.05, abs=0.002)
    assert at_margin["alarms"]["alone"]["number"] <= 2, "what is at the margin is not beyond it"
    assert at_margin["alarms"]["interval"]["share"] == 1, "but it is not 1"
    assert itself["coverage"]["student"]["share"] == pytest.approx(0.95, abs=0.06)
    assert itself["alarms"]["interval"]["share"] == pytest.approx(1 - itself["coverage"]["student"]["share"])
    # Each process's median is of 30 pairs, whose SD is sqrt(2) * 1 %; that of a median is 1.253 times a mean's.
    deviation = np.hypot(0.002, 1.2533 * np.sqrt(2) * 0.01 / np.sqrt(30)) / np.sqrt(6)
    assert itself["deviation"] == pytest.approx(deviation, rel=0.25)
    assert summary["cost"]["beyond_calls"] == pytest.approx(0.25)
    assert document["plan"]["comparisons"] == 60
    assert document["environment"]["threads"] == 1
    assert document["machine"].keys() >= {"cpu", "cpus"}


def test_processes_that_differ_deceive_rules_for_separate_runs(document: dict[str, Any]) -> None:
    (condition,) = document["conditions"]
    false = condition["summary"]["itself"]["rivals"]
    assert set(false["interleaved"]) == set(false["separate"]) == RIVALS
    assert false["interleaved"]["pyperf compare_to"]["number"] == 0
    assert false["separate"]["pyperf compare_to"]["share"] > 0.1
    assert false["separate"]["pytest-benchmark mean:5%"]["share"] > 0.05
    first, *others = condition["comparisons"]
    assert first["rivals"]["separate"] is None, "before the first there is nothing"
    assert all(comparison["rivals"]["separate"] is not None for comparison in others)


def test_a_separate_run_is_compared_with_the_reference_before(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def alarms(baseline: Any, current: Any) -> dict[str, None]:
        asked.append((int(baseline[0, 0]), int(current[0, 0])))
        return dict.fromkeys(RULES)

    monkeypatch.setattr(rival_rules, "alarms", alarms)
    calibrate(CalibrationPlan(comparisons=3, planted=(), busy=(False,)), ignore)
    first, second, second_separate, third, third_separate = asked
    assert second_separate == (first[0], second[1])
    assert third_separate == (second[0], third[1])


def test_false_verdicts_are_counted_in_both_directions() -> None:
    Workers.bias = [1.03, 1.0, 1.0, 0.97]
    (condition,) = calibrate(CalibrationPlan(comparisons=20, planted=(), pairs=30, busy=(False,)), ignore)["conditions"]
    itself = condition["summary"]["itself"]
    assert itself["verdicts"]["alone"].items() >= {"slower": 1, "faster": 1}.items()
    assert itself["alarms"]["alone"]["number"] == 2
    assert itself["alarms"]["alone"]["share"] == 0.1


def test_fresh_processes_confirm_what_is_slower_and_only_that() -> None:
    Workers.bias = [1.03, 1.0, 1.0, 0.97]
    plan = dataclasses.replace(QUIET, comparisons=20, planted=(0.1,), planted_comparisons=2)
    (condition,) = calibrate(plan, ignore)["conditions"]
    itself, (planted,) = condition["summary"]["itself"], condition["summary"]["planted"]
    confirmations = [comparison["confirmation"] for comparison in condition["comparisons"]]
    slower = [comparison["verdict"]["alone"] == "slower" for comparison in condition["comparisons"]]
    assert [confirmation is not None for confirmation in confirmations] == slower
    assert itself["alarms"]["confirmed"]["number"] == itself["alarms"]["alone"]["number"] - 1, (
        "faster is not timed again"
    )
    assert planted["alarms"]["confirmed"]["number"] == 2
    last = len(Workers.asked) - Workers.asked[::-1].index("renew")
    assert len(Workers.asked[last:]) == sum(slower)


def test_the_processes_are_renewed_and_the_order_is_the_seed_s() -> None:
    def order(plan: CalibrationPlan) -> list[Any]:
        Workers.asked = []
        calibrate(plan, ignore)
        return Workers.asked

    asked = order(FEW)
    confirmed = asked[::-1].index("renew") + 1
    blocks = np.array(asked[:-confirmed]).reshape(3, 11)
    assert set(blocks[:, 0]) == {"renew"}
    assert len(set(blocks[0, 1:])) > 1, "the planted ones are not scattered"
    assert order(FEW) == asked
    assert order(dataclasses.replace(FEW, seed=1)) != asked


def test_the_canary_is_held_to_that_of_the_same_processes() -> None:
    (condition,) = calibrate(CalibrationPlan(comparisons=25, planted=(), pairs=30, busy=(False,)), ignore)["conditions"]
    without = [index for index, each in enumerate(condition["comparisons"]) if "moved" not in each["signals"]]
    assert without == [0, 10, 20]


def test_the_contaminated_are_counted_apart() -> None:
    Workers.disturbed = 4
    Workers.bias = [1.0, 1.0, 1.0, 1.03, 1.03]
    plan = CalibrationPlan(comparisons=20, planted=(0.05,), planted_comparisons=20, pairs=30, busy=(False,), seed=3)
    (condition,) = calibrate(plan, ignore)["conditions"]
    itself, (planted,) = condition["summary"]["itself"], condition["summary"]["planted"]
    assert itself["contaminated"] + planted["contaminated"] == 13
    assert itself["contaminated"] > 0
    assert itself["verdicts"]["alone"]["contaminated"] == itself["contaminated"]
    assert itself["alarms"]["alone"]["of"] == 20 - itself["contaminated"]
    assert itself["alarms"]["regardless"]["of"] == 20
    assert planted["alarms"]["alone"]["number"] == 20 - planted["contaminated"]
    assert planted["verdicts"]["matrix"] == planted["verdicts"]["alone"]
    assert itself["verdicts"]["matrix"].keys() <= {"same", "inconclusive", "contaminated"}
    assert planted["alarms"]["alone"]["of"] == planted["alarms"]["regardless"]["number"] == 20
    assert itself["coverage"]["student"]["of"] == 20 - itself["contaminated"]


def test_where_all_is_contaminated_there_is_no_share() -> None:
    Workers.disturbed = 1
    document = calibrate(CalibrationPlan(comparisons=3, planted=(), busy=(False,)), ignore)
    itself = document["conditions"][0]["summary"]["itself"]
    assert itself["alarms"]["alone"]["share"] is None
    assert itself["ratio"] is itself["smallest_change"] is None
    assert "3 contaminated" in table(document)


def test_the_file_keeps_the_conditions_that_were_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: list[tuple[int, ...]]
) -> None:
    plan = CalibrationPlan(comparisons=4, planted=(0.05,), planted_comparisons=2)
    lines: list[str] = []
    document = calibrate(plan, lines.append, tmp_path / "whole.json")
    assert json.loads((tmp_path / "whole.json").read_text()) == document
    assert [condition["busy"] for condition in document["conditions"]] == [False, True]
    assert [condition["loaded_cpus"] for condition in document["conditions"]] == [[], [3, 4]]
    assert loaded == [(), (3, 4)]
    assert lines[0] == "quiet: 6 of 6 comparisons, 00:00 left"
    assert "busy: 2 comparisons are slower; timing them again in fresh processes" in lines

    def stop(line: str) -> None:
        if line.startswith("busy"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(plan, stop, tmp_path / "stopped.json")
    kept = json.loads((tmp_path / "stopped.json").read_text())
    assert [condition["busy"] for condition in kept["conditions"]] == [False]
    assert {file.name for file in tmp_path.iterdir()} == {"whole.json", "stopped.json"}


def test_a_worker_that_fails_ends_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CellError("the timing worker was killed")

    monkeypatch.setattr(Workers, "time_pair", fail)
    with pytest.raises(CellError, match="was killed"):
        calibrate(QUIET, ignore)


def test_the_table_shows_the_numbers() -> None:
    document = calibrate(
        CalibrationPlan(comparisons=60, planted=(0.02, 0.05), planted_comparisons=20, pairs=30), ignore
    )
    shown = table(document)
    assert shown == table(json.loads(json.dumps(document, allow_nan=False)))
    assert "6 processes x 30 pairs, margin 1 %" in shown
    assert "\nquiet (no CPU loaded by us), " in shown
    assert "\nbusy (CPUs [3, 4] loaded), " in shown
    lines = {line.split("  ")[0]: line.split("  ")[1:] for line in shown.splitlines()}
    cells = {name: [cell.strip() for cell in line if cell.strip()] for name, line in lines.items()}
    assert cells["comparisons"] == ["60", "20", "20"]
    assert cells["harness: a comparison alone"][0] == "0.0 % [4.9 %]"
    assert cells["harness: a comparison alone"][2] == "100.0 %"
    itself = document["conditions"][1]["summary"]["itself"]
    for rule in RULES:
        share = itself["rivals"]["separate"][rule]
        assert cells[f"{rule}, separate runs"][0].startswith(f"{100 * share['share']:.1f} % [")
    assert "A comparison takes " in shown
    assert ", 0.25 s of it (" in shown


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"comparisons": 0}, "comparisons=0 is too small: a calibration needs at least 1"),
        ({"processes": 1}, "processes=1 is too small: a calibration needs at least 2"),
        ({"planted": (0.05, 0.0)}, "a planted slowdown must be a share above 0"),
        ({"planted": (0.05, 0.05)}, "name each value once"),
        ({"margin": -0.01}, "margin=-0.01: the margin must be a share"),
        ({"busy": ()}, "names no condition"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        CalibrationPlan(**wrong)


def test_where_the_file_cannot_be_nothing_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"there is no folder .*; make it first"):
        calibrate(QUIET, ignore, tmp_path / "missing" / "file.json")
    assert Workers.asked == []
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="folder is a folder; name a file"):
        calibrate(QUIET, ignore, tmp_path / "folder")
    assert Workers.asked == []


@pytest.mark.slow
def test_real_workers_find_what_was_planted_and_nothing_else() -> None:
    plan = CalibrationPlan(
        comparisons=3, planted=(0.2,), planted_comparisons=3, processes=4, pairs=40, margin=0.05, busy=(False,)
    )
    (condition,) = calibrate(plan, ignore)["conditions"]
    itself, (planted,) = condition["summary"]["itself"], condition["summary"]["planted"]
    assert itself["alarms"]["alone"]["number"] == 0
    assert planted["alarms"]["alone"]["number"] + planted["contaminated"] == 3
    assert median_ratio(condition, 0.0) == pytest.approx(1, abs=0.05)
    assert median_ratio(condition, 0.2) == pytest.approx(1.2, abs=0.1)


def median_ratio(condition: dict[str, Any], planted: float) -> float:
    """Of all comparisons, contaminated or not."""
    ratios = [each["ratio"]["value"] for each in condition["comparisons"] if each["planted"] == planted]
    return float(np.median(ratios))


@pytest.mark.slow
def test_real_workers_beside_a_load_too(tmp_path: Path) -> None:
    plan = CalibrationPlan(comparisons=30, planted=(0.05,), planted_comparisons=30)
    document = calibrate(plan, print, tmp_path / "calibration.json")
    print(table(document))
    for condition in document["conditions"]:
        itself, (planted,) = condition["summary"]["itself"], condition["summary"]["planted"]
        assert itself["alarms"]["confirmed"]["number"] == 0
        assert itself["alarms"]["regardless"]["number"] <= 1
        assert planted["alarms"]["regardless"]["share"] >= 0.8
        assert median_ratio(condition, 0.05) == pytest.approx(1.05, abs=0.01)


# -------------------------------------------------------------------------------------------------------- options


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[CalibrationPlan, Path | None]]:
    """The plans that the script passes to a fake `calibrate`."""
    made: list[tuple[CalibrationPlan, Path | None]] = []

    def calibrate(plan: CalibrationPlan, log: Callable[[str], None], output: Path | None = None) -> dict[str, Any]:
        made.append((plan, output))
        log("timing")
        return {"a": "document"}

    monkeypatch.setattr(script, "calibrate", calibrate)
    monkeypatch.setattr(script, "table", lambda document: f"the table of {document}")
    return made


def test_without_options_the_script_runs_the_default_plan(
    calls: list[tuple[CalibrationPlan, Path | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([]) == 0
    assert capsys.readouterr() == ("the table of {'a': 'document'}\n", "timing\n")
    ((plan, output),) = calls
    assert output is None
    assert dataclasses.replace(plan, profile=Profile()) == CalibrationPlan()
    assert plan.profile == Profile(allocator=["system"])


def test_every_option_reaches_the_plan(calls: list[tuple[CalibrationPlan, Path | None]]) -> None:
    options = (
        "--comparisons 7 --planted 3%,0.2 --planted-comparisons 5 --processes 4 --pairs 20 --margin 2% --quiet-only "
        "--allocator jemalloc system --output o.json"
    )
    assert script.main(options.split()) == 0
    expected = CalibrationPlan(
        comparisons=7,
        planted=(0.03, 0.2),
        planted_comparisons=5,
        processes=4,
        pairs=20,
        margin=0.02,
        busy=(False,),
        profile=Profile(allocator=["jemalloc", "system"]),
    )
    assert calls == [(expected, Path("o.json"))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--pairs many", "--pairs 'many' is not a whole number"),
        ("--processes 1", "processes=1 is too small: a calibration needs at least 2"),
        ("--planted 1%,x", "--planted '1%,x' is not a list of shares such as 2%,10% or 0.02"),
        ("--margin 1", "did you mean 1%?"),
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
    assert "A/A comparisons (of a network with itself) (default: 200)" in shown
