"""The timed loops: single calls in pairs or alone, with nothing between the clock's readings but the call."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.measure.canary import canary
from harness.measure.machine import Counters, Disturbance, read_counters
from harness.measure.schedule import schedule
from harness.measure.warmup import steady_at_the_end

#: However slow the calls are, so many of each arm warm up, and so many pairs are timed.
LEAST_WARMUP, LEAST_PAIRS = 5, 12
#: The pairs are cut into so many parts; before each and after the last the canary sings so often, once untimed first.
PARTS, SONGS = 4, 5

Call = Callable[[Any], Any]
Clock = Callable[[], int]


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much one process times: ``pairs``, after at most ``warmup`` calls of each arm.

    With ``until_steady`` the warm-up ends as soon as both arms are steady, else it is exactly that long. With
    ``seconds`` there are fewer calls of both kinds when they are slow, so that the warm-up takes not much longer than
    half of it, and the pairs than all of it.
    """

    pairs: int
    warmup: int
    until_steady: bool = True
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one process measured: nanoseconds of each call of both arms, pair by pair, and what disturbed them.

    ``warmup`` counts the untimed calls of each arm before, ``steady`` says whether they ended steady (None: not asked).
    ``canary`` has the nanoseconds of the canary, PARTS + 1 groups of SONGS, in the order of time. ``collections``
    (of garbage) and ``disturbance`` are of the time from the first pair to the last; ``elapsed_ns`` is the time of the
    whole loop, warm-up and canary included.
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
    elapsed_ns: int


def time_pairs(
    reference: Call,
    candidate: Call,
    inputs: Sequence[Any],
    amount: Amount,
    seed: int,
    consume: Callable[[Any], object],
    clock: Clock = time.perf_counter_ns,
    counters: Callable[[], Counters] = lambda: read_counters(None),
) -> Timing:
    """Time both arms on one input after the other, each pair on the same input, in the order of ``schedule``.

    Every output is kept alive while the clock runs (freeing one is no part of a call) and then handed to ``consume``.
    The canary empties the caches; after it both arms run once, untimed.
    """
    taken: dict[bool, list[int]] = {True: [], False: []}
    outputs: list[Any] = []
    sing = canary()
    began = clock()
    warm, is_steady = _warm_up((reference, candidate), inputs, amount, outputs, clock)
    pairs = amount.pairs
    if amount.seconds is not None and warm:
        affordable = int(amount.seconds * 1e9 * warm / max(1, clock() - began))
        pairs = min(pairs, max(LEAST_PAIRS, affordable))
    plan = schedule(pairs, len(inputs), seed)
    parts = {pairs * part // PARTS for part in range(PARTS)}
    songs: list[list[int]] = []
    with _no_garbage_collection():
        collected, before = _collections(), counters()
        for index, pair in enumerate(plan):
            example = inputs[pair.input]
            if index in parts:
                songs.append(_listen(sing, clock))
                outputs += (reference(example), candidate(example))
            for is_reference in (pair.reference_first, not pair.reference_first):
                arm = reference if is_reference else candidate
                start = clock()
                output = arm(example)
                stop = clock()
                taken[is_reference].append(stop - start)
                outputs.append(output)
        songs.append(_listen(sing, clock))
        collected, disturbance = _collections() - collected, counters().since(before)
    elapsed = clock() - began
    for output in outputs:
        consume(output)
    return Timing(
        reference=taken[True],
        candidate=taken[False],
        reference_first=[pair.reference_first for pair in plan],
        inputs=[pair.input for pair in plan],
        warmup=warm,
        steady=is_steady,
        canary=songs,
        collections=collected,
        disturbance=disturbance,
        elapsed_ns=elapsed,
    )


def time_alone(
    model: Call,
    inputs: Sequence[Any],
    calls: int,
    warmup: int,
    consume: Callable[[Any], object],
    clock: Clock = time.perf_counter_ns,
) -> list[int]:
    """Nanoseconds of each of ``calls`` of one model on one input after the other, after ``warmup`` untimed ones.

    The protocol of study B, as of most papers: nothing is compared here, so that nothing cancels what the machine does.
    """
    outputs = [model(inputs[index % len(inputs)]) for index in range(warmup)]
    taken = []
    with _no_garbage_collection():
        for index in range(calls):
            example = inputs[index % len(inputs)]
            start = clock()
            output = model(example)
            stop = clock()
            taken.append(stop - start)
            outputs.append(output)
    for output in outputs:
        consume(output)
    return taken


def _warm_up(
    arms: Sequence[Call], inputs: Sequence[Any], amount: Amount, outputs: list[Any], clock: Clock
) -> tuple[int, bool | None]:
    """How many calls of each arm were made, and whether they ended steady (None: that was not asked for)."""
    taken: list[list[int]] = [[] for _ in arms]
    began = clock()
    for count in range(amount.warmup):
        late = amount.seconds is not None and clock() - began > amount.seconds * 1e9 / 2
        if late and count >= LEAST_WARMUP:
            break
        if amount.until_steady and all(steady_at_the_end(times) for times in taken):
            break
        for arm, times in zip(arms, taken, strict=True):
            start = clock()
            outputs.append(arm(inputs[count % len(inputs)]))
            times.append(clock() - start)
    warm = len(taken[0])
    return warm, all(steady_at_the_end(times) for times in taken) if amount.until_steady else None


def _listen(sing: Callable[[], object], clock: Clock) -> list[int]:
    taken = []
    for _ in range(SONGS + 1):
        start = clock()
        sing()
        taken.append(clock() - start)
    return taken[1:]  # the first one found the caches full of the model


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect now, and not again before the end."""
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
