"""Timing a cell beside its reference and judging it: with workers whose machine is quiet, disturbed, or lost."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import Workers, logged

from harness import Matrix, Profile, train
from harness.errors import CellError
from harness.measure.latency import SINGLE_WARMUP, LatencyTimer, Pair
from harness.measure.machine import Disturbance
from harness.measure.pool import PairedSamples
from harness.records.record import AARun, Confirmation, Interval, Timing, VerdictRecord
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


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def said() -> Iterator[list[str]]:
    with logged("harness.measure.latency") as lines:
        yield lines


@pytest.fixture
def keeper(bench: Bench) -> LatencyTimer:
    return LatencyTimer(bench, preset("quick"), 0.01)  # type: ignore[arg-type]


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
    return Pair(cell or cells()[1], reference, candidate, folder / "inputs.npy")


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
def test_a_cell_is_judged_at_the_end(keeper: LatencyTimer, tmp_path: Path, takes: float, kind: str) -> None:
    timing, samples = keeper.time(pair(tmp_path, takes))
    assert timing.verdict is None, "what is false among many can be told only when all are there"
    assert timing.ratio.value == pytest.approx(takes, rel=0.003)
    assert isinstance(timing.bootstrap, Interval)
    assert timing.bootstrap.low is not None
    assert timing.bootstrap.high is not None
    assert timing.bootstrap.low <= timing.ratio.value <= timing.bootstrap.high
    assert len(timing.per_process) == PROCESSES
    assert samples.kept["candidate"] == samples.candidate.tolist()
    keeper.finalize_verdicts()
    assert judged(timing).kind == kind
    assert judged(timing).margin == 0.01
    p = judged(timing).p
    assert p is not None
    assert p <= 0.05


def test_a_reference_is_timed_against_itself_once_for_all_its_cells(
    keeper: LatencyTimer, bench: Bench, tmp_path: Path
) -> None:
    first, _ = keeper.time(pair(tmp_path, 0.5, name="one"))
    second, _ = keeper.time(pair(tmp_path, 0.7, name="two"))
    own, _ = keeper.time(itself(tmp_path))
    assert [candidate for _, candidate, _ in bench.asked] == ["reference", "one", "two"]
    assert first.aa_run == second.aa_run == own.aa_run
    assert own.ratio == aa_run(own).ratio
    assert 0 < aa_run(own).smallest_change < 0.02  # type: ignore[operator]
    keeper.time(pair(tmp_path, 0.5, cell=cells(threads=2)[1]))
    assert [candidate for _, candidate, _ in bench.asked[3:]] == ["reference", "candidate"], "in each profile"


def test_one_slower_cell_is_told_of_in_the_singular(keeper: LatencyTimer, said: list[str], tmp_path: Path) -> None:
    keeper.time(pair(tmp_path, 1.1))
    keeper.finalize_verdicts()
    assert said == ["1 cell is slower than its reference; timing it in fresh processes"]


def test_what_is_slower_is_timed_again_by_fresh_processes(
    keeper: LatencyTimer, bench: Bench, said: list[str], tmp_path: Path
) -> None:
    timings = [keeper.time(pair(tmp_path, takes, name=str(takes))) for takes in (1.1, 0.9, 1.2)]
    assert bench.renewed == 0
    before = len(bench.asked)
    keeper.finalize_verdicts()
    assert bench.renewed == 1
    assert [candidate for _, candidate, _ in bench.asked[before:]] == ["1.1", "1.2"]
    assert len({seed for _, _, seed in bench.asked}) > 1, "the order of the calls is drawn anew"
    assert said == ["2 cells are slower than their reference; timing them in fresh processes"]
    (slower, samples), (faster, others), _ = timings
    assert confirmed(slower).ratio.value == pytest.approx(1.1, rel=0.01)
    assert len(samples.kept["confirmation_candidate"]) == PROCESSES
    assert judged(faster).confirmation is None
    assert "confirmation_candidate" not in others.kept


@pytest.mark.parametrize(
    ("after", "reason"),
    [("1.0", "slower at first, but fresh processes gave 1.00"), ("crash", "could not be timed again: .* SIGSEGV")],
)
def test_what_is_not_slower_again_is_inconclusive(
    keeper: LatencyTimer, bench: Bench, tmp_path: Path, after: str, reason: str
) -> None:
    bench.after = {"candidate": after}
    timing, _ = keeper.time(pair(tmp_path, 1.1))
    keeper.finalize_verdicts()
    assert judged(timing).kind == "inconclusive"
    assert re.search(reason, judged(timing).reason)


def test_an_interrupted_run_calls_nothing_slower(keeper: LatencyTimer, bench: Bench, tmp_path: Path) -> None:
    slower, _ = keeper.time(pair(tmp_path, 1.1))
    faster, _ = keeper.time(pair(tmp_path, 0.9))
    keeper.finalize_verdicts(confirm=False)
    assert (judged(slower).kind, judged(faster).kind) == ("inconclusive", "faster")
    assert "before fresh processes could confirm it" in judged(slower).reason
    assert bench.renewed == 0


STOLEN = Disturbance(0, steal=0.3, throttled_periods=0)


def test_a_disturbed_cell_is_timed_once_more(keeper: LatencyTimer, bench: Bench, tmp_path: Path) -> None:
    bench.disturbances["stolen"] = [STOLEN]
    timing, _ = keeper.time(pair(tmp_path, 1.3, name="stolen"))
    assert [candidate for _, candidate, _ in bench.asked] == ["reference", "stolen", "reference", "stolen"]
    assert len({seed for _, _, seed in bench.asked}) == 4, "the order of the calls is drawn anew"
    keeper.finalize_verdicts()
    assert judged(timing).kind == "slower"


def test_a_cell_that_is_disturbed_twice_is_contaminated_and_leaves_the_others_alone(
    keeper: LatencyTimer, bench: Bench, tmp_path: Path
) -> None:
    bench.disturbances["stolen"] = [STOLEN, STOLEN]
    stolen, _ = keeper.time(pair(tmp_path, 1.3, name="stolen"))
    clean, _ = keeper.time(pair(tmp_path, 1.3, name="clean"))
    keeper.finalize_verdicts()
    assert judged(stolen).kind == "contaminated"
    assert "the hypervisor gave 30 % of the CPU's time to other machines" in judged(stolen).reason
    assert judged(clean).kind == "slower"
    assert [signal.signal for signal in stolen.signals if signal.beyond] == ["steal"]


@pytest.mark.parametrize(("times", "disturbed"), [(1, False), (2, True)])
def test_a_reference_that_was_disturbed_beside_itself_is_taken_again(
    keeper: LatencyTimer, bench: Bench, tmp_path: Path, times: int, disturbed: bool
) -> None:
    bench.disturbances["reference"] = [STOLEN] * times
    timing, _ = keeper.time(pair(tmp_path, 0.9))
    assert [candidate for _, candidate, _ in bench.asked] == ["reference", "reference", "candidate"]
    assert aa_run(timing).disturbed == disturbed
    keeper.finalize_verdicts()
    assert judged(timing).kind == "faster", "the cell itself was not disturbed"


@pytest.mark.parametrize(("times", "kind"), [(1, "slower"), (2, "inconclusive")])
def test_a_disturbed_confirmation_is_repeated_and_confirms_nothing(
    keeper: LatencyTimer, bench: Bench, tmp_path: Path, times: int, kind: str
) -> None:
    timing, samples = keeper.time(pair(tmp_path, 1.1))
    bench.disturbances["candidate"] = [STOLEN] * times
    keeper.finalize_verdicts()
    assert judged(timing).kind == kind
    assert judged(timing).confirmation is not None
    assert any(signal.beyond for signal in confirmed(timing).signals) == (times == 2)
    assert len(samples.kept["confirmation_reference_first"]) == PROCESSES
    if kind == "inconclusive":
        assert "its confirmation was disturbed" in judged(timing).reason


@pytest.mark.parametrize("nth", [1, 2])
def test_whoever_interrupts_the_confirmation_leaves_nothing_unconfirmed(
    keeper: LatencyTimer, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    timings = [keeper.time(pair(tmp_path, takes, name=str(takes)))[0] for takes in (1.1, 1.2)]
    original, calls = bench.time_pair, []

    def interrupt(**arguments: Any) -> PairedSamples:
        calls.append(arguments)
        if len(calls) == nth:
            raise KeyboardInterrupt
        return original(**arguments)

    monkeypatch.setattr(bench, "time_pair", interrupt)
    with pytest.raises(KeyboardInterrupt):
        keeper.finalize_verdicts()
    assert [judged(timing).kind for timing in timings] == ["slower"] * (nth - 1) + ["inconclusive"] * (3 - nth)
    assert all(judged(timing).p is None for timing in timings[nth - 1 :])


def test_where_a_model_differs_from_itself_nothing_can_be_told(bench: Bench, tmp_path: Path) -> None:
    strict = LatencyTimer(bench, preset("quick"), 0.0001)  # type: ignore[arg-type]
    bench.noise = 0
    (tmp_path / "reference").write_text("1")
    original = bench.time_pair

    def biased(**arguments: Any) -> PairedSamples:
        samples = original(**arguments)
        return dataclasses.replace(samples, candidate=samples.candidate * 2)

    bench.time_pair = biased  # type: ignore[method-assign]
    timing, _ = strict.time(pair(tmp_path, 1.0))
    strict.finalize_verdicts()
    assert judged(timing).kind == "contaminated"
    assert "the A/A run of the reference shows a difference of at least 100 %" in judged(timing).reason


def test_false_discoveries_are_controlled_over_each_matrix(keeper: LatencyTimer, bench: Bench, tmp_path: Path) -> None:
    bench.noise = 0.004
    barely, sure = 0.977, 0.5
    alone = keeper.time(pair(tmp_path, barely, cell=cells("small")[1], name="barely"))[0]
    crowd = [
        keeper.time(
            pair(tmp_path, 1.0, cell=dataclasses.replace(cells("large")[2], axes={**cells()[2].axes, "seed": n}))
        )
        for n in range(40)
    ]
    among = keeper.time(pair(tmp_path, barely, cell=cells("large")[1], name="barely"))[0]
    certain = keeper.time(pair(tmp_path, sure, cell=cells("large")[3], name="sure"))[0]
    assert alone.ratio == among.ratio, "the two are the same measurement"
    keeper.finalize_verdicts()
    assert judged(alone).kind == "faster"
    assert judged(among).kind == "inconclusive"
    assert "too weak among 42 cells" in judged(among).reason
    assert judged(certain).kind == "faster"
    assert not any(judged(timing).kind in ("slower", "faster") for timing, _ in crowd)


def test_verdicts_are_given_once(keeper: LatencyTimer, bench: Bench, tmp_path: Path) -> None:
    keeper.time(pair(tmp_path, 1.1))
    keeper.finalize_verdicts()
    asked = len(bench.asked)
    keeper.finalize_verdicts()
    assert len(bench.asked) == asked
    assert bench.renewed == 1


def test_the_single_protocol_is_the_mean_of_one_process(keeper: LatencyTimer, bench: Bench, tmp_path: Path) -> None:
    timing, samples = keeper.time_single(pair(tmp_path, 1.0))
    assert (timing.protocol, timing.processes, timing.pairs) == ("single", 1, preset("quick").calls)
    assert timing.warmup == SINGLE_WARMUP == 100
    assert timing.ratio.value == 1
    assert timing.ratio.low is None
    assert "no interval" in timing.ratio.method
    assert samples.candidate.shape == (1, preset("quick").calls)
    keeper.finalize_verdicts()
    assert timing.verdict is None, "one process cannot tell"
    assert not bench.asked


def test_cells_with_references_of_their_own_share_one_that_is_timed_against_itself(
    keeper: LatencyTimer, bench: Bench, tmp_path: Path
) -> None:
    steady = tmp_path / "steady"
    steady.write_text("3")
    for name, cell in zip("ab", cells()[1:3], strict=True):
        earlier = tmp_path / f"earlier {name}"
        earlier.write_text("2")
        candidate = pair(tmp_path, 2.2, cell, name).candidate
        timing, _ = keeper.time(Pair(cell, earlier, candidate, tmp_path / "inputs.npy", steady=steady))
        assert timing.ratio.value == pytest.approx(1.1, rel=0.01)
        assert aa_run(timing).sha256 == sha256_of(steady)
    assert [(reference, candidate) for reference, candidate, _ in bench.asked] == [
        ("3", "steady"),
        ("2", "a"),
        ("2", "b"),
    ]
