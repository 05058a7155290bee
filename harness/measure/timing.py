"""Time single calls inside one process: two models in pairs, or one model alone.

Nothing but the call itself lies between two readings of the clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import mmap
import random
import statistics
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.measure.machine import Counters, Disturbance, read_counters

#: However slow the calls are, each arm warms up with this many calls, and this many pairs are timed.
LEAST_WARMUP, LEAST_PAIRS = 5, 12
#: Where calls have pauses, this many untimed pairs with pauses follow the warm-up, which has none.
PACED_WARMUP = 5
#: The pairs are cut into PARTS; the canary is timed CANARY_CALLS times before each part and after the last.
PARTS, CANARY_CALLS = 4, 5

Call = Callable[[Any], Any]
Clock = Callable[[], int]
Sleep = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much one process times: ``pairs``, after at most ``warmup`` untimed calls of each arm.

    With ``until_steady`` the warm-up ends as soon as both arms are steady; otherwise it has exactly ``warmup`` calls.
    ``seconds`` bounds slow calls and pauses: the warm-up takes not much more than half of it, the pairs not much more
    than all.
    """

    pairs: int
    warmup: int
    until_steady: bool = True
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class ProcessTiming:
    """The measurement of one process: nanoseconds of each call of both arms, pair by pair, and disturbances.

    ``warmup`` counts the untimed calls of each arm in the warm-up, without the pairs of PACED_WARMUP. ``steady`` says
    whether they ended steady (None: not asked for, or too few calls). ``canary`` holds nanoseconds, PARTS + 1 groups of
    CANARY_CALLS in chronological order.
    ``collections`` (garbage collections) and ``disturbance`` cover the time from the first pair to the last.
    """

    reference: list[int]
    candidate: list[int]
    reference_first: list[bool]
    inputs: list[int]
    warmup: int
    steady: bool | None
    canary: list[list[int]]
    collections: int
    disturbance: Disturbance


def time_pairs(
    reference: Call,
    candidate: Call,
    inputs: Sequence[Any],
    amount: Amount,
    seed: int,
    consume: Callable[[Any], object],
    pause: float = 0.0,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
    counters: Callable[[], Counters] = lambda: read_counters(None),
) -> ProcessTiming:
    """Time both arms in pairs on the same input, in the order of `schedule`.

    Before each timed call the same arm makes an untimed call on the same input. A deployed model follows itself, and
    what the other arm leaves in the caches cost an int8 network a tenth of its time. With a ``pause`` the process
    sleeps that many seconds between the untimed call and the timed one: as where a model is called now and then.

    Outputs stay alive while the clock runs, because freeing one is no part of a call; then each is passed to
    ``consume``.
    """

    def timed_call(arm: Call, example: Any) -> int:
        return _timed_call(arm, example, outputs, pause, clock, sleep)

    times: dict[bool, list[int]] = {True: [], False: []}
    outputs: list[Any] = []
    canary_work = canary()
    began = clock()
    warm, steady = _warm_up((reference, candidate), inputs, amount, outputs, clock)
    # A timed call takes twice the time of a warm-up call, because an untimed call precedes it.
    pair_time = 2 * (clock() - began) / warm if warm else 0.0
    if pause:
        began = clock()
        for index in range(PACED_WARMUP):
            for arm in (reference, candidate):
                timed_call(arm, inputs[index % len(inputs)])
        pair_time = (clock() - began) / PACED_WARMUP
    pairs = amount.pairs
    if amount.seconds is not None and pair_time:
        pairs = min(pairs, max(LEAST_PAIRS, int(amount.seconds * 1e9 / pair_time)))
    plan = schedule(pairs, len(inputs), seed)
    part_starts = {pairs * part // PARTS for part in range(PARTS)}
    canary_times: list[list[int]] = []
    with _no_garbage_collection():
        collections_before, counters_before = _collections(), counters()
        for index, pair in enumerate(plan):
            if index in part_starts:
                canary_times.append(_time_canary(canary_work, clock))
            for is_reference in (pair.reference_first, not pair.reference_first):
                arm = reference if is_reference else candidate
                times[is_reference].append(timed_call(arm, inputs[pair.input]))
        canary_times.append(_time_canary(canary_work, clock))
        collections, disturbance = _collections() - collections_before, counters().since(counters_before)
    for output in outputs:
        consume(output)
    return ProcessTiming(
        reference=times[True],
        candidate=times[False],
        reference_first=[pair.reference_first for pair in plan],
        inputs=[pair.input for pair in plan],
        warmup=warm,
        steady=steady,
        canary=canary_times,
        collections=collections,
        disturbance=disturbance,
    )


def _timed_call(arm: Call, example: Any, outputs: list[Any], pause: float, clock: Clock, sleep: Sleep) -> int:
    """Time a call after an untimed one on the same input, and keep both outputs."""
    untimed = arm(example)
    if pause:
        sleep(pause)
    start = clock()
    output = arm(example)
    stop = clock()
    outputs.extend((untimed, output))
    return stop - start


class Turns:
    """Time a model call by call on request, while a model of another process waits, and the other way round.

    The warm-up happens at once: ``warmup`` counts its calls, and ``call_time`` is their mean in nanoseconds. There is
    no garbage collection until ``finish``.
    """

    def __init__(
        self,
        model: Call,
        inputs: Sequence[Any],
        amount: Amount,
        consume: Callable[[Any], object],
        pause: float = 0.0,
        clock: Clock = time.perf_counter_ns,
        sleep: Sleep = time.sleep,
        counters: Callable[[], Counters] = lambda: read_counters(None),
    ) -> None:
        self._model, self._inputs, self._consume = model, inputs, consume
        self._pause, self._clock, self._sleep, self._counters = pause, clock, sleep, counters
        self._outputs: list[Any] = []
        self._canary = canary()
        self._stack = contextlib.ExitStack()
        began = clock()
        self.warmup, self.steady = _warm_up((model,), inputs, amount, self._outputs, clock)
        self.call_time = (clock() - began) / self.warmup if self.warmup else 0.0
        self._stack.enter_context(_no_garbage_collection())
        self._before = _collections(), counters()

    def call(self, example: int) -> int:
        """Time a call on the input of this index, after an untimed call on it; nanoseconds."""
        return _timed_call(self._model, self._inputs[example], self._outputs, self._pause, self._clock, self._sleep)

    def time_canary(self) -> list[int]:
        """Time the canary CANARY_CALLS times, nanoseconds each."""
        return _time_canary(self._canary, self._clock)

    def finish(self) -> tuple[int, Disturbance]:
        """End the timing: return the number of garbage collections and the disturbance since the warm-up."""
        collections, disturbance = _collections() - self._before[0], self._counters().since(self._before[1])
        self._stack.close()
        for output in self._outputs:
            self._consume(output)
        return collections, disturbance


def time_single(
    model: Call,
    inputs: Sequence[Any],
    calls: int,
    warmup: int,
    consume: Callable[[Any], object],
    pause: float = 0.0,
    clock: Clock = time.perf_counter_ns,
    sleep: Sleep = time.sleep,
) -> list[int]:
    """Time ``calls`` calls of one model, nanoseconds each, on the inputs in turn, after ``warmup`` untimed calls.

    This is the protocol of study B and of most papers. Without a pair, nothing cancels what the machine does. The
    process sleeps ``pause`` seconds before each timed call.
    """
    outputs = [model(inputs[index % len(inputs)]) for index in range(warmup)]
    times = []
    with _no_garbage_collection():
        for index in range(calls):
            example = inputs[index % len(inputs)]
            if pause:
                sleep(pause)
            start = clock()
            output = model(example)
            stop = clock()
            times.append(stop - start)
            outputs.append(output)
    for output in outputs:
        consume(output)
    return times


def time_repeated(
    model: Call,
    inputs: Sequence[Any],
    variant: Callable[[Any, int], Any],
    rounds: int,
    warmup: int,
    consume: Callable[[Any], object],
    clock: Clock = time.perf_counter_ns,
) -> tuple[list[int], list[int]]:
    """Time a model on an input that it got just before, and on one that it never got, nanoseconds each.

    A runtime that keeps answers is faster on the repeated input (TEST04 of MLPerf Inference). The input of a round and
    its ``variant`` of this number, which has another value, need the same work. In each round each timed call follows
    an untimed one: on the same input, or on another. Which comes first alternates.
    """
    outputs = [model(inputs[index % len(inputs)]) for index in range(warmup)]
    times: dict[bool, list[int]] = {True: [], False: []}
    with _no_garbage_collection():
        for index in range(rounds):
            repeated, other = inputs[index % len(inputs)], inputs[(index + 1) % len(inputs)]
            fresh = variant(repeated, index)
            for is_repeated in (index % 2 == 0, index % 2 != 0):
                before, timed = (repeated, repeated) if is_repeated else (other, fresh)
                untimed = model(before)
                start = clock()
                output = model(timed)
                stop = clock()
                times[is_repeated].append(stop - start)
                outputs += (untimed, output)
    for output in outputs:
        consume(output)
    return times[True], times[False]


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect garbage now, and not again before the end."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


# -------------------------------------------------------------------------------------------------------- schedule


@dataclasses.dataclass(frozen=True)
class ScheduledPair:
    """One pair: the index of the input that both arms get, and whether the reference goes first."""

    input: int
    reference_first: bool


def schedule(pairs: int, inputs: int, seed: int) -> tuple[ScheduledPair, ...]:
    """Draw a balanced random order: each arm goes first in half of the pairs, inputs are used about equally often.

    Random, because a fixed ABAB or ABBA can fall in step with something periodic in the machine. Balanced, because
    going first has a small cost (what the other arm left in the caches).
    """
    rng = random.Random(seed)
    ahead = pairs // 2 + (pairs % 2) * rng.randrange(2)
    orders = [True] * ahead + [False] * (pairs - ahead)
    rng.shuffle(orders)
    indices: list[int] = []
    while len(indices) < pairs:
        indices += rng.sample(range(inputs), inputs)
    return tuple(ScheduledPair(index, first) for index, first in zip(indices, orders, strict=False))


# --------------------------------------------------------------------------------------------------------- warm-up

#: Calls in a window of the warm-up test.
WINDOW = 20
#: The quartiles of two steady windows differ by at most this share.
TOLERANCE = 0.05
#: A first call this many interquartile ranges above the third quartile is an outlier (Tukey).
FENCE = 1.5


def _warm_up(
    arms: Sequence[Call], inputs: Sequence[Any], amount: Amount, outputs: list[Any], clock: Clock
) -> tuple[int, bool | None]:
    """Return how many calls of each arm were made, and whether they ended steady (None: not asked for, or too few)."""
    times: list[list[int]] = [[] for _ in arms]
    began = clock()
    for count in range(amount.warmup):
        late = amount.seconds is not None and clock() - began > amount.seconds * 1e9 / 2
        if late and count >= LEAST_WARMUP:
            break
        if amount.until_steady and all(ends_steady(arm_times) for arm_times in times):
            break
        for arm, arm_times in zip(arms, times, strict=True):
            start = clock()
            outputs.append(arm(inputs[count % len(inputs)]))
            arm_times.append(clock() - start)
    warm = len(times[0])
    testable = amount.until_steady and warm >= 2 * WINDOW
    return warm, all(ends_steady(arm_times) for arm_times in times) if testable else None


def is_steady(earlier: Sequence[int], later: Sequence[int]) -> bool:
    """Test two windows of times for a trend: steady if the first call is no outlier and the quartiles agree within 5 %.

    After ``test_calibrate_warmups`` of pyperf 2.10, whose values average 100 ms or more. It also compares means and
    median absolute deviations. Single calls do not allow that: outliers dominate their mean, and the deviations of two
    windows of 20 calls differ by a quarter by chance alone.
    """
    first, *later_calls = [*earlier, *later]
    low, _, high = statistics.quantiles(later_calls, n=4)
    if first > high + FENCE * (high - low):
        return False
    before, after = statistics.quantiles(earlier, n=4), statistics.quantiles(later, n=4)
    return all(abs(old - new) <= TOLERANCE * new for old, new in zip(before, after, strict=True))


def ends_steady(times: Sequence[int]) -> bool:
    """Whether ``times`` has two windows at its end and they are steady."""
    return len(times) >= 2 * WINDOW and is_steady(times[-2 * WINDOW : -WINDOW], times[-WINDOW:])


# ---------------------------------------------------------------------------------------------------------- canary

#: The canary's work: this many times, copy COPIED bytes and compute the checksum of CHECKED bytes.
CANARY_ROUNDS, CHECKED, COPIED = 8, 128 * 1024, 64 * 1024
#: The two buffers of the copy start at different offsets in their pages; otherwise loads would wait for stores.
OFFSET = 2048


@functools.cache
def canary() -> Callable[[], object]:
    """Return the canary: a fixed piece of work of some tenths of a millisecond that shows what the machine does.

    It computes checksums and copies in less memory than a core caches. It allocates nothing and uses neither torch nor
    BLAS, so no allocator, thread count or library version changes its time; only the machine does. A process keeps one
    canary, because the place of its buffers matters: of two larger ones, newly allocated, one was a sixth slower.
    """
    data, source, target = (memoryview(mmap.mmap(-1, size)) for size in (CHECKED, COPIED, COPIED + OFFSET))
    data[:] = bytes(range(256)) * (CHECKED // 256)
    source[:] = data[:COPIED]
    target = target[OFFSET:]

    def work() -> object:
        checksum = 0
        for _ in range(CANARY_ROUNDS):
            target[:] = source
            checksum = zlib.crc32(data, checksum)
        return checksum

    return work


def _time_canary(work: Callable[[], object], clock: Clock) -> list[int]:
    work()  # untimed, because the model's data fill the caches
    times = []
    for _ in range(CANARY_CALLS):
        start = clock()
        work()
        times.append(clock() - start)
    return times
