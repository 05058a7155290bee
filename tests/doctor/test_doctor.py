"""Diagnose made-up timings, and once real ones."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import logged
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from harness.doctor import doctor
from harness.doctor.doctor import Diagnosis, Host, diagnose, examine
from harness.errors import MeasureError, UsageError
from harness.measure import machine
from harness.measure.machine import Disturbance
from harness.measure.pool import PairedSamples
from harness.measure.timing import Amount
from harness.text import format_margin, parse_margin

MARGIN = 0.01
HOST = Host(machine.facts(Path("/nowhere")), machine.load(Path("/nowhere")), {"jemalloc": None})
CALM = Disturbance(involuntary_switches=2, steal=0.0, throttled_periods=0)
#: Log ratios of six processes whose mean is 0 and whose standard deviation is 1.
UNIT = np.array([1, -1, 1, -1, 1, -1]) * np.sqrt(5 / 6)


def samples(
    ratio: float = 1.0, deviation: float = 0.001, disturbance: Disturbance = CALM, **changed: Any
) -> PairedSamples:
    """Six processes of 50 pairs whose log ratios have just this mean and standard deviation."""
    reference = np.full((6, 50), 10**9)
    candidate = np.rint(reference * ratio * np.exp(UNIT * deviation)[:, np.newaxis]).astype(np.int64)
    made = PairedSamples(
        reference=reference,
        candidate=candidate,
        reference_first=reference > 0,
        inputs=reference % 64,
        environment=tuple({"allocator": "system", "threads": 1, "pid": pid} for pid in range(6)),
        warmup=20,
        steady=True,
        canary=np.full((6, 5, 5), 200_000),
        collections=(0,) * 6,
        disturbances=(CALM,) * 5 + (disturbance,),
        load={"load_1min": None, "runnable": None},
        wall=0.6,
        reference_sha256="a",
        candidate_sha256="b",
    )
    return dataclasses.replace(made, **changed)


SLOWED = samples(1 + 2 * MARGIN)


def of(itself: Sequence[PairedSamples], planted: PairedSamples = SLOWED, margin: float = MARGIN) -> Diagnosis:
    return diagnose(margin, HOST, itself, planted)


def effect_of(deviation: float, processes: int = 6) -> float:
    """The change that so many processes detect beside three A/A runs, by the noncentral t distribution."""
    freedom = 4 / (1 / (processes - 1) + 1 / 3)
    limit = stats.t.ppf(0.975, freedom)
    errors = optimize.brentq(lambda effect: stats.nct.sf(limit, freedom, effect) - 0.8, 0, 50)
    return float(np.expm1(errors * deviation * np.sqrt(2 / processes)))


def deviation_of(change: float) -> float:
    """The standard deviation of six log ratios with which that change is just detected."""
    return float(np.log1p(change) / np.log1p(effect_of(1.0)))


# ------------------------------------------------------------------------------------------------------- diagnosing


def test_a_quiet_machine_is_fit() -> None:
    found = of([samples() for _ in range(8)])
    assert found.fit
    assert found.troubles == ()
    assert len(found.itself) == 8
    assert found.planted.ratio.ratio == pytest.approx(1.02)
    assert (found.planted.verdict.kind, found.itself[0].verdict.kind) == ("slower", "same")
    assert found.canary_ns == 200_000
    assert found.environment["allocator"] == "system"
    assert found.host is HOST


def test_the_smallest_change_is_pooled_over_the_comparisons_and_has_no_part_of_their_means() -> None:
    deviations, ratios = (0.001, 0.003, 0.002), (1.0, 0.999, 1.002)
    found = of([samples(ratio, deviation) for ratio, deviation in zip(ratios, deviations, strict=True)])
    pooled = np.sqrt(np.mean(np.square(deviations)))
    assert found.smallest_change == pytest.approx(effect_of(pooled), rel=1e-4)


@pytest.mark.parametrize(("change", "fit"), [(0.99 * MARGIN, True), (1.01 * MARGIN, False)])
def test_the_smallest_change_must_be_within_the_margin(change: float, fit: bool) -> None:
    found = of([samples(deviation=deviation_of(change))] * 4)
    assert found.smallest_change == pytest.approx(change, rel=1e-4)
    assert found.fit is fit
    if not fit:
        (trouble,) = found.troubles
        assert "slowdowns of 2 % or more" in trouble
        assert "a margin of at least 2 %, or about 7 processes" in trouble


def test_a_noisy_machine_is_told_which_margin_it_is_good_for() -> None:
    noisy = [samples(deviation=deviation_of(0.03))] * 4
    (trouble,) = of(noisy, samples(1.02, deviation=deviation_of(0.03))).troubles
    assert "only slowdowns of 4 % or more are detected in 4 of 5 comparisons" in trouble
    assert "instead of twice the margin (2 %): use a margin of at least 4 %, or about 48 processes" in trouble
    assert of(noisy, samples(1.08), margin=0.04).fit


@pytest.mark.parametrize("change", [0.004, 0.02, 0.03])
def test_so_many_processes_are_needed_and_no_fewer(change: float) -> None:
    deviation = deviation_of(change)
    needed = of([samples(deviation=deviation)] * 4).processes_needed
    assert needed is not None
    resolved = [effect_of(deviation, count) for count in (needed - 1, needed) if count > 1]
    assert resolved[-1] <= MARGIN
    assert all(value > MARGIN for value in resolved[:-1])


def test_beyond_so_many_processes_more_of_them_are_no_advice() -> None:
    found = of([samples(deviation=deviation_of(0.299))] * 4, samples(1.02, deviation=deviation_of(0.299)))
    assert found.processes_needed is None
    assert "at least 30 %" in found.troubles[0]
    assert "processes" not in found.troubles[0]


@pytest.mark.parametrize("ratio", [1.03, 0.97])
def test_a_network_that_differs_from_itself_is_a_trouble(ratio: float) -> None:
    found = of([samples()] * 3 + [samples(ratio)])
    assert not found.fit
    (trouble,) = found.troubles
    assert trouble.startswith("1 of 4 A/A comparisons were called faster or slower by more than 1 %")


def test_a_planted_slowdown_that_is_missed_is_a_trouble() -> None:
    found = of([samples()] * 3, samples(1.01))
    (trouble,) = found.troubles
    assert trouble.startswith(
        "the copy that is about 2 % slower was not called slower by more than 1 %; its ratio was 1.0100"
    )


def test_what_was_planted_is_judged_by_itself() -> None:
    # t = (log 1.02 - log 1.01) / (0.008 / sqrt 6) = 3.0 on 5 degrees of freedom: p = 0.03, too weak among 9 cells
    found = of([samples()] * 8, samples(1.02, deviation=0.008))
    assert found.planted.verdict.kind == "slower"
    assert found.planted.verdict.p == pytest.approx(0.03, abs=0.001)


SWITCHED = dataclasses.replace(CALM, involuntary_switches=101)  # of 100 calls
ELSEWHERE = np.full((6, 5, 5), 300_000)


@pytest.mark.parametrize(
    ("itself", "planted", "signals"),
    [
        ([samples(), samples(disturbance=SWITCHED)], SLOWED, {"switches"}),
        ([samples(), samples()], samples(1.02, disturbance=SWITCHED), {"switches"}),
        ([samples(), samples(canary=ELSEWHERE)], SLOWED, {"moved"}),
        ([samples(), samples()], samples(1.02, canary=ELSEWHERE), {"moved"}),
        ([samples(), samples(collections=(0, 0, 1, 0, 0, 0))], SLOWED, {"collections"}),
    ],
)
def test_a_disturbance_is_shown_and_decides_nothing(
    itself: list[PairedSamples], planted: PairedSamples, signals: set[str]
) -> None:
    found = of(itself, planted)
    assert found.fit
    beyond = {entry.signal for one in (*found.itself, found.planted) for entry in one.findings if entry.beyond}
    assert beyond == signals


def test_one_process_is_not_enough() -> None:
    alone = samples(reference=np.full((1, 50), 100), candidate=np.full((1, 50), 100))
    with pytest.raises(MeasureError, match="at least two processes"):
        of([alone], alone)


@given(st.floats(1e-6, 0.9))
def test_the_advised_margin_is_round_and_suffices(change: float) -> None:
    margin = doctor._round_margin(change)
    assert change * (1 - 1e-6) <= margin <= change + (0.01 if change > 0.01 else 0.001)
    assert parse_margin(format_margin(margin)) == pytest.approx(margin)
    assert len(format_margin(margin)) <= len("0.1 %")


# -------------------------------------------------------------------------------------------------------- measuring


class Workers:
    """Stand in for timing workers that need ``seconds`` a comparison, and may be interrupted in the n-th."""

    def __init__(self, seconds: float = 1.0, interrupted: int | None = None) -> None:
        self.now = 0.0
        self.closed = False
        self.planted: list[float] = []
        self.seeds: set[tuple[bool, int]] = set()
        self._seconds = seconds
        self._interrupted = interrupted

    def __call__(self, command: Sequence[str], timeout: float) -> Workers:
        assert command[-1] == "harness.doctor.probe"
        return self

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def clock(self) -> float:
        return self.now

    def time_pair(self, reference: Path, candidate: Path, seed: int, **_: Any) -> PairedSamples:
        self.now += self._seconds
        slowdown = json.loads(candidate.read_text())["slowdown"]
        self.planted.append(slowdown)
        self.seeds.add((reference == candidate, seed))
        if len(self.planted) == self._interrupted:
            raise KeyboardInterrupt
        return samples(1 + slowdown)


@pytest.mark.parametrize(("seconds", "alone"), [(1.0, 8), (6.5, 6), (1000.0, 3)])
def test_fewer_comparisons_are_made_on_a_slow_machine(
    monkeypatch: pytest.MonkeyPatch, seconds: float, alone: int
) -> None:
    workers = Workers(seconds)
    monkeypatch.setattr(doctor, "Workers", workers)
    with logged("harness.doctor") as lines:
        found = examine(MARGIN, ["system"], workers.clock)
    assert found.fit
    assert len(found.itself) == alone
    assert sorted(workers.planted) == [0.0] * alone + [2 * MARGIN]
    assert len(workers.seeds) == alone + 1, "two comparisons drew the same orders"
    assert lines[-1] == f"A/A comparison {alone} of 8"
    assert workers.closed


def test_an_interruption_ends_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(interrupted=4)
    monkeypatch.setattr(doctor, "Workers", workers)
    with pytest.raises(KeyboardInterrupt):
        examine(MARGIN, ["system"], workers.clock)
    assert workers.closed


def test_nothing_is_started_for_what_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Workers", None)
    monkeypatch.setattr("harness.measure.profile._libraries", lambda: iter(()))
    with pytest.raises(UsageError, match="no machine resolves a margin of 0"):
        examine(0.0, ["system"])
    with pytest.raises(UsageError, match="did you mean 'jemalloc'"):
        examine(MARGIN, ["jemaloc"])
    with pytest.raises(MeasureError, match="allocator mimalloc is not on this machine"):
        examine(MARGIN, ["mimalloc"])


@pytest.mark.slow
def test_a_real_machine_is_diagnosed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROCESSES", 2)
    monkeypatch.setattr(doctor, "AMOUNT", Amount(pairs=20, warmup=20))
    monkeypatch.setattr(doctor, "COMPARISONS", 3)
    found = examine(0.5, ["system"])
    assert found.itself[0].ratio.ratio == pytest.approx(1, abs=0.3)
    assert found.planted.ratio.ratio == pytest.approx(2, abs=0.5)
    assert 10_000 < found.canary_ns < 100_000_000
    assert (found.environment["threads"], found.environment["allocator"]) == (1, "system")
    assert found.host.allocators.keys() == {"tcmalloc", "jemalloc", "mimalloc"}
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_the_controller_loads_no_torch() -> None:
    script = "import sys, harness.doctor.doctor, harness.doctor.text; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
