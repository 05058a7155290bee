"""The timed loop under a clock of our own: what is inside the readings, what is not, and in which order."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.schedule import schedule
from harness.measure.timing import time_pairs


class Bench:
    """Two arms whose calls take a known time, on a clock that only they and ``consume`` move."""

    def __init__(self) -> None:
        self.now = 0
        self.log: list[tuple[str, int]] = []
        self.collecting: list[bool] = []

    def clock(self) -> int:
        return self.now

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


def test_each_sample_is_one_call_and_nothing_else() -> None:
    bench = Bench()
    inputs = [0, 1, 2, 3]
    timing = time_pairs(
        bench.arm("reference", 100), bench.arm("candidate", 150), inputs, 10, 3, 0, bench.consume, clock=bench.clock
    )
    assert timing.reference == [100 + example for example in timing.inputs]
    assert timing.candidate == [150 + example for example in timing.inputs]

    calls = [entry for entry in bench.log if entry[0] != "consumed"]
    assert bench.log[: len(calls)] == calls, "an output was consumed while the clock ran"
    assert len(bench.log) == 2 * len(calls), "an output was not consumed"
    warm, timed = calls[:6], calls[6:]
    assert Counter(name for name, _ in warm) == {"reference": 3, "candidate": 3}
    for index, (one, two) in enumerate(zip(timed[::2], timed[1::2], strict=True)):
        assert one[1] == two[1] == timing.inputs[index]
        assert {one[0], two[0]} == {"reference", "candidate"}
        assert (one[0] == "reference") == timing.reference_first[index]
    assert timing.elapsed_ns == sum(100 + example if name == "reference" else 150 + example for name, example in calls)


@pytest.mark.parametrize(
    ("cost", "warm", "pairs"),
    [(10, 20, 100), (1_000_000, 20, 50), (20_000_000, 5, 12)],  # ns a call, within 100 ms: all, some, the least
)
def test_slow_calls_are_timed_less_often(cost: int, warm: int, pairs: int) -> None:
    bench = Bench()
    timing = time_pairs(
        bench.arm("a", cost), bench.arm("b", cost), [0], 100, 20, 0, bench.consume, seconds=0.1, clock=bench.clock
    )
    assert (timing.warmup, len(timing.candidate)) == (warm, pairs)


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_collection_is_off_while_timing_and_then_as_it_was(enabled: bool) -> None:
    bench = Bench()
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        timing = time_pairs(bench.arm("a", 1), bench.arm("b", 1), [0], 4, 0, 0, bench.consume, clock=bench.clock)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()
    assert bench.collecting == [False] * 8
    assert timing.collections == 0


def test_a_call_that_fails_leaves_garbage_collection_on() -> None:
    def fail(example: object) -> None:
        raise RuntimeError("kernel")

    with pytest.raises(RuntimeError, match="kernel"):
        time_pairs(fail, fail, [0], 2, 0, 0, consume=print)
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
