"""Time cells and decide verdicts: with workers whose machine is quiet, disturbed, or lost."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fakes import Workers, logged
from records import decoded, record

from harness import Matrix, Profile, train
from harness.errors import CellError
from harness.measure.latency import AA_AGE, SINGLE_WARMUP, LatencyTimer, Pair, Samples
from harness.measure.machine import Disturbance
from harness.measure.pool import PairedSamples
from harness.records.record import Confirmation, Interval, Record, Timing, VerdictRecord, to_json
from harness.records.verdicts import attach, decide
from harness.run.confirmation import Confirmations
from harness.store.entry import sha256_of
from harness.suite.matrix import Cell
from harness.suite.presets import SAMPLING_LIMIT, preset

PROCESSES, AA_RUNS = preset("quick").processes, preset("quick").aa_runs


class Bench(Workers):
    """Workers whose candidates take what their files say, give or take the noise of their process."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, int]] = []
        self.noise = 0.001
        #: The clock, which only tests advance, and the seconds of each call of the pool.
        self.now, self.wall = 0.0, 0.5
        #: How much slower the second of two copies is, as a log ratio.
        self.shift = 0.0
        #: How the machine is disturbed the next times that this candidate is timed.
        self.disturbances: dict[str, list[Disturbance]] = {}
        #: What a candidate takes once the workers are fresh.
        self.after: dict[str, str] = {}

    def time_pair(self, **arguments: Any) -> PairedSamples:
        reference, candidate, seed = arguments["reference"], arguments["candidate"], arguments["seed"]
        samples = super().time_pair(**arguments)
        self.asked.append((reference.read_text(), candidate.name, seed))
        text = candidate.read_text()
        if self.renewed:
            text = self.after.get(candidate.name, text)
        if text == "crash":
            raise CellError("the timing worker was killed by SIGSEGV")
        ratio = float(text) / float(reference.read_text())
        first = arguments.get("first", 0)
        draws = np.random.default_rng(list(candidate.name.encode())).standard_normal(first + len(samples.reference))
        shift = self.shift if reference == candidate else 0.0
        effects = np.exp(self.noise * draws[first:, None] + shift)
        waiting = self.disturbances.get(candidate.name)
        disturbance = waiting.pop(0) if waiting else samples.disturbances[0]
        return dataclasses.replace(
            samples,
            candidate=np.rint(samples.reference * ratio * effects).astype(int),
            disturbances=(disturbance,) * len(samples.disturbances),
            wall=self.wall,
        )

    @property
    def candidates(self) -> list[str]:
        """What was timed, in order."""
        return [candidate for _, candidate, _ in self.asked]


class Run:
    """A run without building and evaluation: times pairs, and decides their verdicts."""

    def __init__(self, bench: Bench) -> None:
        self.timer = LatencyTimer(bench, preset("quick"), lambda: bench.now)  # type: ignore[arg-type]
        self.confirmations = Confirmations()
        self.records: list[Record] = []

    def time(self, pair: Pair) -> tuple[Timing, Samples]:
        """Time a pair as a cell of its own, however many pairs have the same cell."""
        cell = dataclasses.replace(pair.cell, id=f"{pair.cell.id} {len(self.records)}")
        pair = dataclasses.replace(pair, cell=cell)
        timing, samples = self.timer.time(pair)
        named = {"suite": cell.suite, "matrix": cell.matrix, "cell": cell.id}
        self.records.append(msgspec.structs.replace(decoded(record()), **named, timing=timing))
        self.confirmations.remember(pair, "reference", self.timer)
        return timing, samples

    def verdicts(self, confirm: bool = True) -> list[VerdictRecord]:
        """The verdicts on all pairs so far, in their order."""
        try:
            if confirm:
                self.confirmations.run(self.records)
        finally:
            self.records = attach(self.records, decide(self.records, self.confirmations.results))
        return self.present()

    def present(self) -> list[VerdictRecord]:
        return [entry.verdict for entry in self.records if entry.verdict is not None]

    def samples(self, number: int) -> dict[str, Any]:
        """The samples of a pair's confirmation; empty where there was none."""
        return self.confirmations.samples.get((self.records[number].name, "reference"), {})


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def lines() -> Iterator[list[str]]:
    with logged("harness.run.confirmation") as messages:
        yield messages


@pytest.fixture
def run(bench: Bench) -> Run:
    return Run(bench)


def cells(matrix: str = "m", **profile: Any) -> list[Cell]:
    declared = Matrix(
        dataset="toy",
        architecture="conv",
        pruning={name: [train()] for name in ("full", "a", "b", "c")},
        profile=Profile(**profile),
    )
    return list(declared.cells(matrix))


def pair(folder: Path, takes: float | str, cell: Cell | None = None, name: str = "candidate") -> Pair:
    reference, candidate = folder / "reference", folder / name
    reference.write_text("1")
    candidate.write_text(str(takes))
    return Pair(cell or cells()[1], reference, candidate, folder / "inputs.npy", margin=0.01)


def judged(timing: Timing) -> VerdictRecord:
    """The verdict, which must be there."""
    assert timing.verdict is not None
    return timing.verdict


def confirmed(timing: Timing) -> Confirmation:
    """The confirmation, which must be there."""
    confirmation = judged(timing).confirmation
    assert confirmation is not None
    return confirmation


def reference_pair(folder: Path, cell: Cell | None = None) -> Pair:
    return dataclasses.replace(pair(folder, 1), cell=cell or cells()[0], candidate=folder / "reference")


@pytest.mark.parametrize(("takes", "kind"), [(0.9, "faster"), (1.0, "same"), (1.1, "slower")])
def test_a_cell_is_judged_at_the_end(run: Run, tmp_path: Path, takes: float, kind: str) -> None:
    timing, samples = run.time(pair(tmp_path, takes))
    assert timing.verdict is None, "false discoveries among many cells are known only when all are timed"
    assert timing.margin == 0.01
    assert timing.ratio.value == pytest.approx(takes, rel=0.003)
    assert isinstance(timing.bootstrap, Interval)
    assert timing.bootstrap.low is not None
    assert timing.bootstrap.high is not None
    assert timing.bootstrap.low <= timing.ratio.value <= timing.bootstrap.high
    assert len(timing.per_process) == PROCESSES
    assert samples.arrays["candidate"] == samples.candidate.tolist()
    (verdict,) = run.verdicts()
    assert verdict.kind == kind
    assert verdict.margin == 0.01
    assert verdict.p is not None
    assert verdict.p <= 0.05


def test_the_a_a_runs_of_a_reference_serve_all_its_cells(run: Run, bench: Bench, tmp_path: Path) -> None:
    first, _ = run.time(pair(tmp_path, 0.5, name="one"))
    second, _ = run.time(pair(tmp_path, 0.7, name="two"))
    own, _ = run.time(reference_pair(tmp_path))
    assert bench.candidates == ["reference"] * AA_RUNS + ["one", "two"]
    assert first.aa_runs == second.aa_runs == own.aa_runs
    assert len(own.aa_runs) == AA_RUNS
    assert own.per_process == own.aa_runs[-1].per_process
    assert own.aa_runs[0].smallest_change is not None
    assert 0 < own.aa_runs[0].smallest_change < 0.02
    run.time(pair(tmp_path, 0.5, cell=cells(threads=2)[1]))
    assert bench.candidates[5:] == ["reference"] * AA_RUNS + ["candidate"], "in each profile"


def test_a_reference_has_no_verdict_about_itself(run: Run, tmp_path: Path) -> None:
    run.time(reference_pair(tmp_path))
    run.records = [msgspec.structs.replace(entry, reference=entry.cell) for entry in run.records]
    run.time(pair(tmp_path, 0.9))
    (verdict,) = run.verdicts()
    assert verdict.kind == "faster"
    assert run.records[0].verdict is None


def test_old_a_a_runs_are_replaced_one_by_one(run: Run, bench: Bench, tmp_path: Path) -> None:
    first, _ = run.time(pair(tmp_path, 0.9))
    bench.now += AA_AGE
    run.time(pair(tmp_path, 0.9))
    assert bench.candidates == ["reference"] * AA_RUNS + ["candidate"] * 2
    bench.now += 1
    bench.disturbances["reference"] = [STOLEN]
    later, _ = run.time(pair(tmp_path, 0.9))
    assert bench.candidates[5:] == ["reference", "candidate"]
    assert later.aa_runs[:-1] == first.aa_runs[1:]
    assert [entry.disturbed for entry in later.aa_runs] == [False, False, True]


def test_the_signal_of_the_a_a_runs_has_the_margin_of_each_cell_as_its_limit(
    run: Run, bench: Bench, tmp_path: Path
) -> None:
    one, _ = run.time(pair(tmp_path, 0.5))
    other, _ = run.time(dataclasses.replace(pair(tmp_path, 0.5), margin=0.05))
    assert bench.candidates == ["reference"] * AA_RUNS + ["candidate"] * 2
    limits = [{signal.signal: signal.limit for signal in timing.signals}["itself"] for timing in (one, other)]
    assert limits == [0.01, 0.05]


def test_one_slower_cell_is_announced_in_the_singular(run: Run, lines: list[str], tmp_path: Path) -> None:
    run.time(pair(tmp_path, 1.1))
    run.verdicts()
    assert lines == ["1 cell is slower than its reference; timing it in fresh processes"]


def test_slower_cells_are_timed_again_by_fresh_processes(
    run: Run, bench: Bench, lines: list[str], tmp_path: Path
) -> None:
    for takes in (1.1, 0.9, 1.2):
        run.time(pair(tmp_path, takes, name=str(takes)))
    assert bench.renewed == 0
    before = len(bench.asked)
    slower, faster, _ = run.verdicts()
    assert bench.renewed == 1
    assert bench.candidates[before:] == ["1.1", "1.2"]
    assert len({seed for _, _, seed in bench.asked}) > 1, "the order of the calls is drawn anew"
    assert lines == ["2 cells are slower than their reference; timing them in fresh processes"]
    assert slower.confirmation is not None
    assert slower.confirmation.ratio.value == pytest.approx(1.1, rel=0.01)
    assert len(run.samples(0)["candidate"]) == PROCESSES
    assert faster.confirmation is None
    assert run.samples(1) == {}


@pytest.mark.parametrize(
    ("after", "reason"),
    [("1.0", "slower at first, but fresh processes gave 1.00"), ("crash", "could not be timed again: .* SIGSEGV")],
)
def test_a_cell_that_is_not_slower_again_is_inconclusive(
    run: Run, bench: Bench, tmp_path: Path, after: str, reason: str
) -> None:
    bench.after = {"candidate": after}
    run.time(pair(tmp_path, 1.1))
    (verdict,) = run.verdicts()
    assert verdict.kind == "inconclusive"
    assert re.search(reason, verdict.reason)


def test_an_interrupted_run_calls_nothing_slower(run: Run, bench: Bench, tmp_path: Path) -> None:
    run.time(pair(tmp_path, 1.1))
    run.time(pair(tmp_path, 0.9))
    slower, faster = run.verdicts(confirm=False)
    assert (slower.kind, faster.kind) == ("inconclusive", "faster")
    assert "before fresh processes could confirm it" in slower.reason
    assert bench.renewed == 0


STOLEN = Disturbance(0, steal=0.3, throttled_periods=0)


def test_a_a_runs_of_slow_networks_are_replaced_less_often(run: Run, bench: Bench, tmp_path: Path) -> None:
    bench.wall = 30.0
    run.time(pair(tmp_path, 0.5))
    bench.now += 299
    run.time(pair(tmp_path, 0.5))
    assert bench.candidates == ["reference"] * AA_RUNS + ["candidate"] * 2
    bench.now += 2
    run.time(pair(tmp_path, 0.5))
    assert bench.candidates[5:] == ["reference", "candidate"]


@pytest.mark.parametrize(("takes", "kind"), [(0.7, "faster"), (1.0, "same"), (1.3, "slower")])
def test_a_disturbed_cell_gets_the_verdict_that_its_ratios_support(
    run: Run, bench: Bench, tmp_path: Path, takes: float, kind: str
) -> None:
    bench.disturbances["stolen"] = [STOLEN, STOLEN]
    timing, _ = run.time(pair(tmp_path, takes, name="stolen"))
    assert [signal.signal for signal in timing.exceeded] == ["steal"]
    assert bench.candidates == ["reference"] * AA_RUNS + ["stolen"], "it is not timed again"
    (verdict,) = run.verdicts()
    assert verdict.kind == kind


def test_an_inconclusive_verdict_names_the_disturbance(run: Run, bench: Bench, tmp_path: Path) -> None:
    bench.noise = 0.3
    bench.disturbances["stolen"] = [STOLEN] * 9
    run.time(pair(tmp_path, 1.0, name="stolen"))
    (verdict,) = run.verdicts()
    assert verdict.kind == "inconclusive"
    assert "processes needed" in verdict.reason
    assert "the hypervisor gave 30 % of the CPU's time to other machines" in verdict.reason


def test_what_the_a_a_runs_show_widens_the_interval(run: Run, bench: Bench, tmp_path: Path) -> None:
    calm, _ = run.time(pair(tmp_path, 1.02))
    bench.shift = 0.01
    shifted, _ = run.time(pair(tmp_path, 1.02, cell=cells(threads=2)[1]))
    assert calm.per_process == shifted.per_process[:PROCESSES]
    assert calm.ratio.low is not None
    assert shifted.ratio.low is not None
    assert shifted.ratio.low < calm.ratio.low - 0.01
    assert shifted.ratio.high is not None
    assert shifted.ratio.high > 1.03
    assert calm.ratio.method.startswith("Student's t over 4 processes, widened by 3 A/A runs")
    assert [verdict.kind for verdict in run.verdicts()] == ["slower", "inconclusive"]
    assert shifted.processes == SAMPLING_LIMIT, "more processes cannot decide against a shift of the machine"


@pytest.mark.parametrize(("after", "kind"), [("1.1", "slower"), ("1.0", "inconclusive")])
def test_a_disturbed_confirmation_counts_by_its_ratios(
    run: Run, bench: Bench, tmp_path: Path, after: str, kind: str
) -> None:
    run.time(pair(tmp_path, 1.1))
    bench.after = {"candidate": after}
    bench.disturbances["candidate"] = [STOLEN]
    (verdict,) = run.verdicts()
    assert verdict.kind == kind
    assert verdict.confirmation is not None
    assert verdict.confirmation.exceeded
    assert len(run.samples(0)["reference_first"]) == PROCESSES
    assert ("the hypervisor gave 30 %" in verdict.reason) == (kind == "inconclusive")


def test_a_confirmation_has_as_many_processes_and_the_error_of_the_a_a_runs(
    run: Run, bench: Bench, tmp_path: Path
) -> None:
    bench.noise = 0.01
    timing, _ = run.time(pair(tmp_path, 1.025, name="x"))
    assert timing.processes > PROCESSES
    (verdict,) = run.verdicts()
    assert verdict.confirmation is not None
    assert len(verdict.confirmation.per_process) == timing.processes
    assert "widened by 3 A/A runs" in verdict.confirmation.ratio.method


@pytest.mark.parametrize("nth", [1, 2])
def test_an_interrupted_confirmation_leaves_nothing_unconfirmed(
    run: Run, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    for takes in (1.1, 1.2):
        run.time(pair(tmp_path, takes, name=str(takes)))
    original, calls = bench.time_pair, []

    def interrupt(**arguments: Any) -> PairedSamples:
        calls.append(arguments)
        if len(calls) == nth:
            raise KeyboardInterrupt
        return original(**arguments)

    monkeypatch.setattr(bench, "time_pair", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.verdicts()
    verdicts = run.present()
    assert [verdict.kind for verdict in verdicts] == ["slower"] * (nth - 1) + ["inconclusive"] * (3 - nth)
    assert all(verdict.p is None for verdict in verdicts[nth - 1 :])


def test_a_shift_in_the_a_a_runs_is_named_and_leaves_small_differences_inconclusive(
    run: Run, bench: Bench, tmp_path: Path
) -> None:
    bench.noise = 0
    bench.shift = math.log(2)
    run.time(dataclasses.replace(pair(tmp_path, 1.5), margin=0.0001))
    (verdict,) = run.verdicts()
    assert verdict.kind == "inconclusive"
    assert "the A/A run of the reference shows a difference of at least 100 %" in verdict.reason


def test_false_discoveries_are_controlled_over_each_matrix(run: Run, bench: Bench, tmp_path: Path) -> None:
    bench.noise = 0.004
    barely, sure = 0.977, 0.5
    alone = run.time(pair(tmp_path, barely, cell=cells("small")[1], name="barely"))[0]
    for _ in range(40):
        run.time(pair(tmp_path, 1.0, cell=cells("large")[2]))
    among = run.time(pair(tmp_path, barely, cell=cells("large")[1], name="barely"))[0]
    run.time(pair(tmp_path, sure, cell=cells("large")[3], name="sure"))
    assert alone.ratio == among.ratio, "the two are the same measurement"
    single, *crowd, several, certain = run.verdicts()
    assert single.kind == "faster"
    assert several.kind == "inconclusive"
    assert "too weak among 42 cells" in several.reason
    assert certain.kind == "faster"
    assert len(crowd) == 40
    assert not any(verdict.kind in ("slower", "faster") for verdict in crowd)


def test_a_cell_is_confirmed_once(run: Run, bench: Bench, tmp_path: Path) -> None:
    run.time(pair(tmp_path, 1.1))
    first = run.verdicts()
    asked = len(bench.asked)
    assert run.verdicts() == first
    assert len(bench.asked) == asked
    assert bench.renewed == 1


def test_the_single_protocol_is_the_mean_of_one_process(run: Run, bench: Bench, tmp_path: Path) -> None:
    timing, samples = run.timer.time_single(pair(tmp_path, 1.0))
    assert (timing.protocol, timing.processes, timing.pairs) == ("single", 1, preset("quick").calls)
    assert timing.warmup == SINGLE_WARMUP == 100
    assert timing.ratio.value == 1
    assert timing.ratio.low is None
    assert "no interval" in timing.ratio.method
    assert samples.candidate.shape == (1, preset("quick").calls)
    assert decide([msgspec.structs.replace(decoded(record()), timing=timing)]) == {}, "one process cannot tell"
    assert not bench.asked


def test_cells_with_references_of_their_own_share_the_a_a_runs(run: Run, bench: Bench, tmp_path: Path) -> None:
    steady = tmp_path / "steady"
    steady.write_text("3")
    for name, cell in zip("ab", cells()[1:3], strict=True):
        earlier = tmp_path / f"earlier {name}"
        earlier.write_text("2")
        candidate = pair(tmp_path, 2.2, cell, name).candidate
        timing, _ = run.time(Pair(cell, earlier, candidate, tmp_path / "inputs.npy", margin=0.01, aa_file=steady))
        assert timing.ratio.value == pytest.approx(1.1, rel=0.01)
        assert {entry.sha256 for entry in timing.aa_runs} == {sha256_of(steady)}
    timed = [(reference, candidate) for reference, candidate, _ in bench.asked]
    assert timed == [("3", "steady")] * AA_RUNS + [("2", "a"), ("2", "b")]


# --------------------------------------------------------------------------------------------------------- more looks


def test_processes_are_added_until_the_verdict_is_decided(run: Run, bench: Bench, tmp_path: Path) -> None:
    bench.noise = 0.01
    timing, samples = run.time(pair(tmp_path, 1.025, name="x"))
    assert (timing.processes, timing.looks) == (9, 3)
    assert timing.level == 0.05 / 8, "each look spends half of what is left"
    assert "valid over all looks" in timing.ratio.method
    assert len(samples.arrays["candidate"]) == len(timing.canary) == timing.processes
    assert len({entry["pid"] for entry in timing.environment}) == timing.processes
    assert [len(entry.per_process) for entry in timing.aa_runs] == [timing.processes] * AA_RUNS
    (verdict,) = run.verdicts()
    assert verdict.kind == "slower"


def test_sampling_ends_at_the_limit_with_all_of_the_level(run: Run, bench: Bench, tmp_path: Path) -> None:
    bench.noise = 0.1
    timing, _ = run.time(pair(tmp_path, 1.0))
    assert (timing.processes, timing.looks) == (SAMPLING_LIMIT, 4)
    assert timing.level == 0.05 / 8
    assert run.verdicts()[0].kind == "inconclusive"


@pytest.mark.parametrize(("budget", "processes"), [(0.0, 4), (0.7, 4), (0.76, 6), (5.0, SAMPLING_LIMIT)])
def test_sampling_ends_with_the_budget(bench: Bench, tmp_path: Path, budget: float, processes: int) -> None:
    bench.noise = 0.1
    size = dataclasses.replace(preset("quick"), budget=budget)
    timing, _ = LatencyTimer(bench, size).time(pair(tmp_path, 1.0))  # type: ignore[arg-type]
    assert timing.processes == processes, "0.5 s for each call of the pool"
    assert timing.level == pytest.approx(0.05 / 2 ** (timing.looks - 1))


def test_a_clear_cell_stops_at_its_first_look(run: Run, tmp_path: Path) -> None:
    timing, _ = run.time(pair(tmp_path, 0.5))
    assert (timing.processes, timing.looks, timing.level) == (PROCESSES, 1, 0.025)


def test_the_record_decides_as_the_run_did(run: Run, bench: Bench, tmp_path: Path) -> None:
    bench.noise = 0.01
    for takes in (0.5, 0.965, 1.0, 1.02):
        run.time(pair(tmp_path, takes, name=str(takes)))
    verdicts = run.verdicts()
    copies = [decoded(to_json(msgspec.structs.replace(entry))) for entry in run.records]
    again = decide(copies, run.confirmations.results)
    assert [again[entry.name].reference for entry in copies] == verdicts
