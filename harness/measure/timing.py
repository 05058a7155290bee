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
from harness.measure.warmup import WINDOW, steady_at_the_end

#: However slow the calls are, so many of each arm warm up, and so many pairs are timed.
LEAST_WARMUP, LEAST_PAIRS = 5, 12
#: The pairs are cut into so many parts; before each and after the last the canary is timed so often.
PARTS, CANARY_CALLS = 4, 5

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

    ``warmup`` counts the untimed calls of each arm before, ``steady`` says whether they ended steady (None: not asked,
    or too few). ``canary`` has the nanoseconds of the canary, PARTS + 1 groups of CANARY_CALLS, in the order of time.
    ``collections`` (of garbage) and ``disturbance`` are of the time from the first pair to the last.
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
    clock: Clock = time.perf_counter_ns,
    counters: Callable[[], Counters] = lambda: read_counters(None),
) -> Timing:
    """Time both arms on one input after the other, each pair on the same input, in the order of ``schedule``.

    Before each timed call the same arm makes an untimed one on that input: a model that is deployed follows itself, and
    what the other one leaves in the caches was seen to cost an int8 network a tenth of its time. Every output is kept
    alive while the clock runs (freeing one is no part of a call) and then handed to ``consume``.
    """
    taken: dict[bool, list[int]] = {True: [], False: []}
    outputs: list[Any] = []
    work = canary()
    began = clock()
    warm, is_steady = _warm_up((reference, candidate), inputs, amount, outputs, clock)
    pairs = amount.pairs
    if amount.seconds is not None and warm:
        # Each takes twice as long as a call of the warm-up, for an untimed one comes before it.
        affordable = int(amount.seconds * 1e9 * warm / max(1, clock() - began) / 2)
        pairs = min(pairs, max(LEAST_PAIRS, affordable))
    plan = schedule(pairs, len(inputs), seed)
    parts = {pairs * part // PARTS for part in range(PARTS)}
    canary_times: list[list[int]] = []
    with _no_garbage_collection():
        collected, before = _collections(), counters()
        for index, pair in enumerate(plan):
            example = inputs[pair.input]
            if index in parts:
                canary_times.append(_time_canary(work, clock))
            for is_reference in (pair.reference_first, not pair.reference_first):
                arm = reference if is_reference else candidate
                before_it = arm(example)
                start = clock()
                output = arm(example)
                stop = clock()
                taken[is_reference].append(stop - start)
                outputs += (before_it, output)
        canary_times.append(_time_canary(work, clock))
        collected, disturbance = _collections() - collected, counters().since(before)
    for output in outputs:
        consume(output)
    return Timing(
        reference=taken[True],
        candidate=taken[False],
        reference_first=[pair.reference_first for pair in plan],
        inputs=[pair.input for pair in plan],
        warmup=warm,
        steady=is_steady,
        canary=canary_times,
        collections=collected,
        disturbance=disturbance,
    )


def time_single(
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
    """How many calls of each arm were made, and whether they ended steady (None: not asked, or too few to tell)."""
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
    asked = amount.until_steady and warm >= 2 * WINDOW
    return warm, all(steady_at_the_end(times) for times in taken) if asked else None


def _time_canary(work: Callable[[], object], clock: Clock) -> list[int]:
    work()  # finds the caches full of the model
    taken = []
    for _ in range(CANARY_CALLS):
        start = clock()
        work()
        taken.append(clock() - start)
    return taken


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
