"""The timed loops with a fake clock: what lies between its readings and in which order; warm-up; canary."""

from __future__ import annotations

import gc
import time
import tracemalloc
import zlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure import timing as timing_module
from harness.measure.machine import Counters
from harness.measure.timing import (
    CANARY_CALLS,
    CANARY_ROUNDS,
    CHECKED,
    LEAST_PAIRS,
    PACED_WARMUP,
    PARTS,
    WINDOW,
    Amount,
    canary,
    ends_steady,
    is_steady,
    schedule,
    time_pairs,
    time_repeated,
    time_single,
)


class Bench:
    """Two arms whose calls take a known time, on a clock that only they and ``consume`` move."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[tuple[str, int]] = []
        self.collecting: list[bool] = []

    def clock(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)
        self.log.append(("pause", 0))

    def canary(self) -> Any:
        def work() -> None:
            self.now += 7
            self.log.append(("canary", 0))

        return work

    def counters(self) -> Counters:
        self.log.append(("counters", 0))
        return Counters(involuntary_switches=self.now, steal_ticks=0, total_ticks=0, throttled_periods=None)

    def arm(self, name: str, cost: int) -> Any:
        def call(example: int) -> tuple[str, int]:
            self.now += cost + example
            self.log.append((name, example))
            self.collecting.append(gc.isenabled())
            return name, example

        return call

    def consume(self, output: tuple[str, int]) -> None:
        self.now += 10**6
        self.log.append(("consumed", output[1]))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()
    monkeypatch.setattr(timing_module, "canary", bench.canary)
    return bench


def test_each_sample_is_one_call_and_nothing_else(bench: Bench) -> None:
    inputs = [0, 1, 2, 3]
    timing = time_pairs(
        bench.arm("reference", 100),
        bench.arm("candidate", 150),
        inputs,
        Amount(pairs=10, warmup=3, until_steady=False),
        0,
        bench.consume,
        clock=bench.clock,
        counters=bench.counters,
    )
    assert timing.reference == [100 + example for example in timing.inputs]
    assert timing.candidate == [150 + example for example in timing.inputs]
    assert timing.canary == [[7] * CANARY_CALLS] * (PARTS + 1)
    assert (timing.warmup, timing.steady) == (3, None)

    made = [entry for entry in bench.log if entry[0] not in ("canary", "counters", "consumed")]
    consumed = [entry for entry in bench.log if entry[0] == "consumed"]
    assert bench.log[-len(consumed) :] == consumed, "an output was consumed while the clock ran"
    assert len(consumed) == len(made) == 2 * (3 + 2 * 10), "an output was not consumed"
    timed = [entry for entry in bench.log if entry[0] in ("reference", "candidate", "canary")][6:]
    pairs = iter(range(10))
    while timed and timed[0][0] == "canary":
        assert [name for name, _ in timed[: CANARY_CALLS + 1]] == ["canary"] * (CANARY_CALLS + 1)
        timed = timed[CANARY_CALLS + 1 :]
        while timed and timed[0][0] != "canary":
            index = next(pairs)
            (untimed, one), (first, two), (again, three), (second, four), *timed = timed
            assert one == two == three == four == timing.inputs[index]
            assert (untimed, again) == (first, second), "each follows itself"
            assert {first, second} == {"reference", "candidate"}
            assert (first == "reference") == timing.reference_first[index]
    assert next(pairs, None) is None, "pairs are missing"


def test_the_counters_cover_the_pairs_and_not_the_warm_up(bench: Bench) -> None:
    timing = time_pairs(
        bench.arm("reference", 100),
        bench.arm("candidate", 100),
        [0],
        Amount(pairs=4, warmup=50, until_steady=False),
        0,
        bench.consume,
        clock=bench.clock,
        counters=bench.counters,
    )
    canary = 7 * (CANARY_CALLS + 1) * (PARTS + 1)
    assert timing.disturbance.involuntary_switches == 2 * 100 * 2 * 4 + canary  # the fake counts the clock


def test_with_a_pause_the_process_sleeps_between_the_untimed_call_and_the_timed_one(bench: Bench) -> None:
    timing = time_pairs(
        bench.arm("reference", 100),
        bench.arm("candidate", 150),
        [0, 1, 2, 3],
        Amount(pairs=10, warmup=3, until_steady=False),
        0,
        bench.consume,
        pause=0.02,
        clock=bench.clock,
        sleep=bench.sleep,
        counters=bench.counters,
    )
    assert timing.reference == [100 + example for example in timing.inputs], "no pause is part of a sample"
    assert timing.candidate == [150 + example for example in timing.inputs]
    assert timing.canary == [[7] * CANARY_CALLS] * (PARTS + 1)
    assert timing.warmup == 3
    calls = [entry for entry in bench.log if entry[0] in ("reference", "candidate", "pause")]
    assert ("pause", 0) not in calls[:6], "the warm-up has no pauses"
    assert len(calls) == 6 + 2 * 3 * (PACED_WARMUP + 10)
    for untimed, pause, timed in zip(*[iter(calls[6:])] * 3, strict=True):
        assert pause == ("pause", 0)
        assert untimed == timed, "each follows itself"


@pytest.mark.parametrize(
    ("pause", "cost", "pairs"),
    # s, ns a call, within 1 s. A pair takes two pauses and four calls: 40.04 ms, 4.04 ms, 220 ms.
    [(0.02, 10_000, 24), (0.002, 10_000, 100), (0.02, 45_000_000, LEAST_PAIRS)],
)
def test_the_seconds_cover_the_pauses(bench: Bench, pause: float, cost: int, pairs: int) -> None:
    amount = Amount(pairs=100, warmup=20, seconds=1.0)
    arms = bench.arm("a", cost), bench.arm("b", cost)
    timing = time_pairs(
        *arms, [0], amount, 0, bench.consume, pause=pause, clock=bench.clock, sleep=bench.sleep, counters=bench.counters
    )
    assert len(timing.candidate) == pairs
    counters = [index for index, entry in enumerate(bench.log) if entry[0] == "counters"]
    paced = bench.log[counters[0] : counters[1]].count(("pause", 0))
    assert paced == 2 * pairs


def test_a_model_alone_pauses_before_each_timed_call(bench: Bench) -> None:
    times = time_single(
        bench.arm("model", 100), [0], 3, 2, bench.consume, pause=0.02, clock=bench.clock, sleep=bench.sleep
    )
    assert times == [100] * 3
    model, pause = ("model", 0), ("pause", 0)
    assert bench.log[:8] == [model, model, pause, model, pause, model, pause, model]


@pytest.mark.parametrize(
    ("cost", "warm", "pairs"),
    [(10, 20, 100), (1_000_000, 20, 25), (20_000_000, 5, 12)],  # ns a call, within 100 ms: all, some, the least
)
def test_slow_calls_are_timed_less_often(bench: Bench, cost: int, warm: int, pairs: int) -> None:
    amount = Amount(pairs=100, warmup=20, seconds=0.1)
    timing = time_pairs(bench.arm("a", cost), bench.arm("b", cost), [0], amount, 0, bench.consume, clock=bench.clock)
    assert (timing.warmup, len(timing.candidate)) == (warm, pairs)
    assert timing.steady is None, "fewer than two windows cannot tell"


def test_the_warm_up_ends_when_both_arms_are_steady(bench: Bench) -> None:
    settling = iter([1000 // (call + 1) for call in range(30)])

    def slow_at_first(example: int) -> None:
        bench.now += 100 + next(settling, 0)

    amount = Amount(pairs=1, warmup=300)
    timing = time_pairs(bench.arm("a", 100), slow_at_first, [0], amount, 0, lambda output: None, clock=bench.clock)
    assert timing.steady is True
    assert 2 * WINDOW < timing.warmup <= 30 + 2 * WINDOW


def test_a_model_that_never_gets_steady_is_told(bench: Bench) -> None:
    def ever_slower(example: int) -> None:
        bench.now += bench.now // 100 + 100

    timing = time_pairs(
        ever_slower, ever_slower, [0], Amount(pairs=1, warmup=60), 0, lambda output: None, clock=bench.clock
    )
    assert (timing.warmup, timing.steady) == (60, False)


def test_a_model_alone_is_timed_call_by_call(bench: Bench) -> None:
    taken = time_single(bench.arm("model", 100), [0, 1, 2], 7, 4, bench.consume, clock=bench.clock)
    assert taken == [100, 101, 102, 100, 101, 102, 100]
    assert [entry[0] for entry in bench.log] == ["model"] * 11 + ["consumed"] * 11
    assert bench.collecting[4:] == [False] * 7


def test_repeated_inputs_are_compared_with_new_ones(bench: Bench) -> None:
    """A model that keeps its last answer needs no time for it again."""
    seen: list[int] = []

    def keeps_its_answer(example: int) -> tuple[str, int]:
        bench.now += 5 if seen[-1:] == [example] else 100
        seen.append(example)
        return "output", example

    repeated, fresh = time_repeated(
        keeps_its_answer,
        [10, 20],
        lambda example, number: example + (number + 1) * 100,
        rounds=4,
        warmup=3,
        consume=bench.consume,
        clock=bench.clock,
    )
    assert (repeated, fresh) == ([5] * 4, [100] * 4)
    calls = seen[3:]
    assert calls[:4] == [10, 10, 20, 110], "repeated first, then a new input after another"
    assert calls[4:8] == [10, 220, 20, 20], "then the other way round"
    assert [entry[0] for entry in bench.log] == ["consumed"] * (3 + 4 * 4)


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_off_while_timing_and_then_as_it_was(bench: Bench, enabled: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        timing = time_pairs(
            bench.arm("a", 1), bench.arm("b", 1), [0], Amount(4, 0), 0, bench.consume, clock=bench.clock
        )
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()
    assert bench.collecting == [False] * 4 * 4
    assert timing.collections == 0


def test_a_call_that_fails_leaves_garbage_collection_on() -> None:
    def fail(example: object) -> None:
        raise RuntimeError("kernel")

    with pytest.raises(RuntimeError, match="kernel"):
        time_pairs(fail, fail, [0], Amount(2, 0), 0, consume=print)
    assert gc.isenabled()


@given(pairs=st.integers(1, 200), inputs=st.integers(1, 70), seed=st.integers(0, 2**32))
def test_a_schedule_is_balanced_in_order_and_inputs(pairs: int, inputs: int, seed: int) -> None:
    plan = schedule(pairs, inputs, seed)
    assert plan == schedule(pairs, inputs, seed)
    assert len(plan) == pairs
    assert abs(sum(1 if pair.reference_first else -1 for pair in plan)) <= 1
    uses = Counter(pair.input for pair in plan)
    assert max(uses.values()) - min(uses.get(index, 0) for index in range(inputs)) <= 1


def test_schedules_differ_with_the_seed_and_are_not_periodic() -> None:
    orders = {tuple(pair.reference_first for pair in schedule(40, 64, seed)) for seed in range(20)}
    assert len(orders) == 20
    for order in orders:
        assert order[2:] != order[:-2], "ABAB"
        assert order[4:] != order[:-4], "ABBA"


# --------------------------------------------------------------------------------------------------------- warm-up


def noise(scale: float, seed: int, count: int = WINDOW) -> np.ndarray:
    return 1e6 * (1 + scale * np.abs(np.random.default_rng(seed).standard_normal(count)))


def test_two_windows_of_the_same_are_steady() -> None:
    passed = [is_steady(noise(0.02, seed).tolist(), noise(0.02, 1000 + seed).tolist()) for seed in range(100)]
    assert sum(passed) > 90


def test_a_trend_of_ten_percent_is_not_steady() -> None:
    for seed in range(50):
        assert not is_steady((1.1 * noise(0.01, seed)).tolist(), noise(0.01, 1000 + seed).tolist())
        assert not is_steady(noise(0.01, seed).tolist(), (1.1 * noise(0.01, 1000 + seed)).tolist())


def test_a_slow_first_call_is_not_steady() -> None:
    earlier, later = noise(0.01, 0).tolist(), noise(0.01, 1).tolist()
    assert is_steady(earlier, later)
    assert not is_steady([2e6, *earlier[1:]], later)


@pytest.mark.parametrize("count", [0, WINDOW, 2 * WINDOW - 1])
def test_less_than_two_windows_are_never_steady(count: int) -> None:
    assert not ends_steady([100] * count)
    assert ends_steady([100] * 2 * WINDOW)


def test_only_the_last_two_windows_count() -> None:
    assert ends_steady([9000, 500, 300, *[100] * 2 * WINDOW])
    assert not ends_steady([*[100] * 2 * WINDOW, 300, 300, 300, 300, 300, 300])


# ---------------------------------------------------------------------------------------------------------- canary


def test_the_canary_does_the_same_work_and_allocates_nothing() -> None:
    work = canary()
    assert canary() is work, "a process has one"
    assert work() == work() == zlib.crc32(bytes(range(256)) * (CHECKED // 256) * CANARY_ROUNDS)
    tracemalloc.start()
    try:
        work()
        assert tracemalloc.get_traced_memory()[1] < 4096
    finally:
        tracemalloc.stop()


@pytest.mark.timing
def test_the_canary_takes_long_enough_for_the_clock_and_costs_a_cell_little() -> None:
    work = canary()
    work()
    start = time.perf_counter_ns()
    work()
    assert 20_000 < time.perf_counter_ns() - start < 50_000_000
