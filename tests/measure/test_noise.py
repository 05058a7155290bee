"""The signs of a disturbed machine: each is found alone, by its own limit, and a quiet machine gives none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.machine import Disturbance
from harness.measure.noise import aa_signal, noise_signals
from harness.measure.pool import PairedSamples
from harness.records.signals import SIGNALS
from harness.stats.ratios import paired_ratio

QUIET = Disturbance(involuntary_switches=1, steal=0.0, throttled_periods=0)
PROCESSES, GROUPS, CALLS = 6, 5, 5


def songs(seed: int = 0) -> np.ndarray:
    """Nanoseconds of a canary that varies by 1 %."""
    noise = np.random.default_rng(seed).standard_normal((PROCESSES, GROUPS, CALLS))
    return 250_000 * (1 + 0.01 * np.abs(noise))


def taken(
    canary: Any = None, disturbances: Sequence[Disturbance] = (QUIET,) * PROCESSES, collected: int = 0, first: int = 0
) -> PairedSamples:
    """The samples of a comparison; ``first`` is the number of its first process."""
    times = np.full((PROCESSES, 100), 1000)
    return PairedSamples(
        reference=times,
        candidate=times,
        reference_first=times > 0,
        inputs=times,
        environment=tuple({"pid": first + number} for number in range(PROCESSES)),
        warmup=40,
        steady=True,
        canary=np.asarray(songs() if canary is None else canary),
        collections=(0,) * (PROCESSES - 1) + (collected,),
        disturbances=tuple(disturbances),
        load={"load_1min": 0.1, "runnable": 1},
        wall=1.0,
        reference_sha256="a",
        candidate_sha256="a",
    )


def beyond(canary: Any = None, before: Any = None, first: int = 0, **changed: Any) -> set[str]:
    disturbances = [QUIET] * (PROCESSES - 1) + [Disturbance(**{**vars(QUIET), **changed})]
    earlier = None if before is None else taken(before, first=first)
    return {signal.signal for signal in noise_signals(taken(canary, disturbances), earlier) if signal.beyond}


def test_a_quiet_machine_gives_no_sign() -> None:
    assert all(beyond(songs(seed), songs(1000 + seed)) == set() for seed in range(200))


@pytest.mark.parametrize(
    ("changed", "sign"),
    [
        ({"involuntary_switches": 201}, {"switches"}),
        ({"involuntary_switches": 200}, set()),
        ({"waiting": 0.4}, {"waiting"}),
        ({"waiting": None}, set()),
        ({"steal": 0.31}, {"steal"}),
        ({"steal": 0.1}, set()),  # a tick in one process of six
        ({"steal": None}, set()),
        ({"throttled_periods": 1}, {"throttled"}),
        ({"throttled_periods": None}, set()),
    ],
)
def test_one_process_that_was_disturbed_is_enough(changed: dict[str, Any], sign: set[str]) -> None:
    assert beyond(**changed) == sign


def test_a_garbage_collection_is_a_sign() -> None:
    found = noise_signals(taken(collected=1))
    assert [finding.signal for finding in found if finding.beyond] == ["collections"]


def test_a_machine_that_gets_slower_drifts() -> None:
    slower = songs()
    slower[4] *= np.linspace(1, 1.3, GROUPS)[:, None]
    assert beyond(slower) == {"drift"}, "one process is enough"
    assert beyond(slower[:, ::-1]) == {"drift"}, "or faster"
    assert beyond(songs() * np.linspace(1, 1.05, GROUPS)[:, None]) == set()
    interrupted = songs()
    interrupted[3, -1] *= 3
    assert beyond(interrupted) == set(), "for a moment"


def test_processes_are_not_compared_with_each_other() -> None:
    apart = songs() * np.array([1, 1.4, 1, 1, 1.2, 1])[:, None, None]
    assert beyond(apart, apart) == set()


def test_a_machine_that_jumps_to_and_fro_spreads() -> None:
    jumping = songs()
    jumping[:, ::2] *= 1.5
    assert beyond(jumping) == {"spread"}
    once = songs()
    once[2, ::2] *= 1.5
    assert beyond(once) == set(), "one process of six"


def test_a_machine_that_was_faster_when_the_model_was_timed_against_itself_moved() -> None:
    assert beyond(1.4 * songs(), songs(1)) == {"moved"}
    assert beyond(songs(), 1.4 * songs(1)) == {"moved"}
    assert beyond(1.2 * songs(), songs(1)) == set()
    late = songs()
    late[5] *= 1.4
    assert beyond(late, songs(1)) == {"moved"}, "one process is enough"
    assert beyond(late, songs(1), first=1) == {"moved"}, "the processes are 1 to 6 and were 0 to 5"
    assert beyond(late[::-1], songs(1), first=1) == set(), "one that was not there has nothing to compare with"
    assert beyond(late, songs(1), first=99) == set()


def test_a_canary_that_never_varies_is_no_division_by_zero() -> None:
    assert beyond(np.full((PROCESSES, GROUPS, CALLS), 7), np.full((PROCESSES, GROUPS, CALLS), 7)) == set()


@given(factor=st.floats(0.01, 100))
def test_no_sign_depends_on_how_fast_the_machine_is(factor: float) -> None:
    assert beyond(factor * songs(), factor * songs(1)) == set()


def test_each_signal_has_its_limit_and_says_what_it_is() -> None:
    found = noise_signals(taken(), taken(songs(1)))
    found.append(aa_signal(paired_ratio([[1, 1], [1, 1]], [[2, 2], [2, 2]]), 0.02))
    assert [finding.signal for finding in found] == list(SIGNALS)
    assert found[-1].beyond
    assert all("{}" in signal.sentence and signal.limit >= 0 for signal in SIGNALS.values())
    assert SIGNALS["switches"].describe(212.4).startswith("the system took the CPU away 212 times per timed call")
    assert SIGNALS["steal"].describe(0.3) == "the hypervisor gave 30 % of the CPU's time to other machines"


@pytest.mark.parametrize(
    ("candidate", "value"),
    [([[100, 100], [100, 100]], 0.0), ([[103, 103], [103, 103]], 0.03), ([[50, 50], [50, 50]], 1.0)],
)
def test_a_model_differs_from_itself_by_what_its_interval_leaves(candidate: list[list[int]], value: float) -> None:
    ratio = paired_ratio([[100, 100], [100, 100]], candidate)
    assert aa_signal(ratio, 0.01).value == pytest.approx(value)
    assert aa_signal(ratio, 0.01).beyond == (value > 0.01)


def test_one_process_cannot_differ_from_itself() -> None:
    assert aa_signal(paired_ratio([[100, 100]], [[200, 200]]), 0.01).value == 0
