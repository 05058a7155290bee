"""Timing cells and deciding verdicts: with workers whose machine is quiet, disturbed, or lost."""

from __future__ import annotations

import dataclasses
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
from harness.measure.latency import SINGLE_WARMUP, LatencyTimer, Pair, Samples
from harness.measure.machine import Disturbance
from harness.measure.pool import PairedSamples
from harness.records.record import AARun, Confirmation, Interval, Record, Timing, VerdictRecord
from harness.records.verdicts import attach, decide
from harness.run.confirmation import Confirmations
from harness.store.entry import sha256_of
from harness.suite.matrix import Cell
from harness.suite.presets import preset

PROCESSES = preset("quick").processes


class Bench(Workers):
    """Workers whose candidates take what their files say, give or take the noise of their process."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, int]] = []
        self.noise = 0.001
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
        effects = np.exp(
            self.noise
            * np.random.default_rng(list(candidate.name.encode())).standard_normal((len(samples.reference), 1))
        )
        waiting = self.disturbances.get(candidate.name)
        disturbance = waiting.pop(0) if waiting else samples.disturbances[0]
        return dataclasses.replace(
            samples,
            candidate=np.rint(samples.reference * ratio * effects).astype(int),
            disturbances=(disturbance,) * len(samples.disturbances),
        )


class Run:
    """A run without building and evaluation: times pairs, and decides their verdicts."""

    def __init__(self, bench: Bench) -> None:
        self.timer = LatencyTimer(bench, preset("quick"))  # type: ignore[arg-type]
        self.confirmations = Confirmations(bench, self.timer)  # type: ignore[arg-type]
        self.records: list[Record] = []

    def time(self, pair: Pair) -> tuple[Timing, Samples]:
        """Time a pair as a cell of its own, however many pairs have the same cell."""
        cell = dataclasses.replace(pair.cell, id=f"{pair.cell.id} {len(self.records)}")
        pair = dataclasses.replace(pair, cell=cell)
        timing, samples = self.timer.time(pair)
        named = {"suite": cell.suite, "matrix": cell.matrix, "cell": cell.id}
        self.records.append(msgspec.structs.replace(decoded(record()), **named, timing=timing))
        self.confirmations.remember(pair, "reference")
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


def aa_run(timing: Timing) -> AARun:
    """The A/A run, which must be there."""
    assert timing.aa_run is not None
    return timing.aa_run


def itself(folder: Path, cell: Cell | None = None) -> Pair:
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


def test_the_a_a_run_of_a_reference_serves_all_its_cells(run: Run, bench: Bench, tmp_path: Path) -> None:
    first, _ = run.time(pair(tmp_path, 0.5, name="one"))
    second, _ = run.time(pair(tmp_path, 0.7, name="two"))
    own, _ = run.time(itself(tmp_path))
    assert [candidate for _, candidate, _ in bench.asked] == ["reference", "one", "two"]
    assert first.aa_run == second.aa_run == own.aa_run
    assert own.aa_run is not None
    assert own.ratio == own.aa_run.ratio
    assert own.aa_run.smallest_change is not None
    assert 0 < own.aa_run.smallest_change < 0.02
    run.time(pair(tmp_path, 0.5, cell=cells(threads=2)[1]))
    assert [candidate for _, candidate, _ in bench.asked[3:]] == ["reference", "candidate"], "in each profile"


def test_an_a_a_run_is_judged_at_the_margin_of_its_cells(run: Run, bench: Bench, tmp_path: Path) -> None:
    run.time(pair(tmp_path, 0.5))
    run.time(dataclasses.replace(pair(tmp_path, 0.5), margin=0.05))
    assert [candidate for _, candidate, _ in bench.asked] == ["reference", "candidate"] * 2


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
    assert [candidate for _, candidate, _ in bench.asked[before:]] == ["1.1", "1.2"]
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


def test_a_disturbed_cell_is_timed_once_more(run: Run, bench: Bench, tmp_path: Path) -> None:
    bench.disturbances["stolen"] = [STOLEN]
    run.time(pair(tmp_path, 1.3, name="stolen"))
    assert [candidate for _, candidate, _ in bench.asked] == ["reference", "stolen", "reference", "stolen"]
    assert len({seed for _, _, seed in bench.asked}) == 4, "the order of the calls is drawn anew"
    (verdict,) = run.verdicts()
    assert verdict.kind == "slower"


def test_a_cell_that_is_disturbed_twice_is_contaminated_and_leaves_the_others_alone(
    run: Run, bench: Bench, tmp_path: Path
) -> None:
    bench.disturbances["stolen"] = [STOLEN, STOLEN]
    timing, _ = run.time(pair(tmp_path, 1.3, name="stolen"))
    run.time(pair(tmp_path, 1.3, name="clean"))
    stolen, clean = run.verdicts()
    assert stolen.kind == "contaminated"
    assert "the hypervisor gave 30 % of the CPU's time to other machines" in stolen.reason
    assert clean.kind == "slower"
    assert [signal.signal for signal in timing.exceeded] == ["steal"]


@pytest.mark.parametrize(("times", "disturbed"), [(1, False), (2, True)])
def test_a_disturbed_a_a_run_is_repeated(run: Run, bench: Bench, tmp_path: Path, times: int, disturbed: bool) -> None:
    bench.disturbances["reference"] = [STOLEN] * times
    timing, _ = run.time(pair(tmp_path, 0.9))
    assert [candidate for _, candidate, _ in bench.asked] == ["reference", "reference", "candidate"]
    assert timing.aa_run is not None
    assert timing.aa_run.disturbed == disturbed
    (verdict,) = run.verdicts()
    assert verdict.kind == "faster", "the cell itself was not disturbed"


@pytest.mark.parametrize(("times", "kind"), [(1, "slower"), (2, "inconclusive")])
def test_a_disturbed_confirmation_is_repeated_and_confirms_nothing(
    run: Run, bench: Bench, tmp_path: Path, times: int, kind: str
) -> None:
    run.time(pair(tmp_path, 1.1))
    bench.disturbances["candidate"] = [STOLEN] * times
    (verdict,) = run.verdicts()
    assert verdict.kind == kind
    assert verdict.confirmation is not None
    assert bool(verdict.confirmation.exceeded) == (times == 2)
    assert len(run.samples(0)["reference_first"]) == PROCESSES
    if kind == "inconclusive":
        assert "its confirmation was disturbed" in verdict.reason


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


def test_a_biased_a_a_run_contaminates_its_cells(run: Run, bench: Bench, tmp_path: Path) -> None:
    bench.noise = 0
    (tmp_path / "reference").write_text("1")
    original = bench.time_pair

    def biased(**arguments: Any) -> PairedSamples:
        samples = original(**arguments)
        return dataclasses.replace(samples, candidate=samples.candidate * 2)

    bench.time_pair = biased  # type: ignore[method-assign]
    run.time(dataclasses.replace(pair(tmp_path, 1.0), margin=0.0001))
    (verdict,) = run.verdicts()
    assert verdict.kind == "contaminated"
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


def test_cells_with_references_of_their_own_share_one_a_a_run(run: Run, bench: Bench, tmp_path: Path) -> None:
    steady = tmp_path / "steady"
    steady.write_text("3")
    for name, cell in zip("ab", cells()[1:3], strict=True):
        earlier = tmp_path / f"earlier {name}"
        earlier.write_text("2")
        candidate = pair(tmp_path, 2.2, cell, name).candidate
        timing, _ = run.time(Pair(cell, earlier, candidate, tmp_path / "inputs.npy", margin=0.01, aa_file=steady))
        assert timing.ratio.value == pytest.approx(1.1, rel=0.01)
        assert timing.aa_run is not None
        assert timing.aa_run.sha256 == sha256_of(steady)
    assert [(reference, candidate) for reference, candidate, _ in bench.asked] == [
        ("3", "steady"),
        ("2", "a"),
        ("2", "b"),
    ]
