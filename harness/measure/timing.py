"""The timed loop: pairs of single calls, with nothing between the clock's readings but the call."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.measure.schedule import schedule

#: However slow the calls are, so many of each arm warm up, and so many pairs are timed.
LEAST_WARMUP, LEAST_PAIRS = 5, 12


@dataclasses.dataclass(frozen=True)
class Timing:
    """What one process measured: nanoseconds of each call of both arms, pair by pair, and what disturbed them.

    ``warmup`` counts the untimed calls of each arm before, ``elapsed_ns`` is the time of the whole loop with them;
    ``collections`` counts garbage collections and ``involuntary_switches`` how often the kernel took the CPU away,
    both while timing.
    """

    reference: list[int]
    candidate: list[int]
    reference_first: list[bool]
    inputs: list[int]
    warmup: int
    collections: int
    involuntary_switches: int
    elapsed_ns: int


def time_pairs(
    reference: Callable[[Any], Any],
    candidate: Callable[[Any], Any],
    inputs: Sequence[Any],
    pairs: int,
    warmup: int,
    seed: int,
    consume: Callable[[Any], object],
    seconds: float | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Timing:
    """Time ``pairs`` calls of each arm, back to back on the same input, in the order of ``schedule``.

    Before that both arms run ``warmup`` times, untimed. Of slow calls there are fewer, so that the warm-up takes not
    much longer than half of ``seconds``, and the pairs than all of it, if that is given. Every output is kept alive
    while the clock runs (freeing one is no part of a call) and then handed to ``consume``.
    """
    taken: dict[bool, list[int]] = {True: [], False: []}
    outputs: list[Any] = []
    began = clock()
    warm = 0
    while warm < warmup and not (warm >= LEAST_WARMUP and seconds is not None and clock() - began > seconds * 1e9 / 2):
        for arm in (reference, candidate):
            outputs.append(arm(inputs[warm % len(inputs)]))
        warm += 1
    if seconds is not None and warm:
        affordable = int(seconds * 1e9 * warm / max(1, clock() - began))
        pairs = min(pairs, max(LEAST_PAIRS, affordable))
    plan = schedule(pairs, len(inputs), seed)
    with _no_garbage_collection():
        collections, switches = _collections(), _involuntary_switches()
        for pair in plan:
            example = inputs[pair.input]
            for is_reference in (pair.reference_first, not pair.reference_first):
                arm = reference if is_reference else candidate
                start = clock()
                output = arm(example)
                stop = clock()
                taken[is_reference].append(stop - start)
                outputs.append(output)
        collections, switches = _collections() - collections, _involuntary_switches() - switches
    elapsed = clock() - began
    for output in outputs:
        consume(output)
    return Timing(
        reference=taken[True],
        candidate=taken[False],
        reference_first=[pair.reference_first for pair in plan],
        inputs=[pair.input for pair in plan],
        warmup=warm,
        collections=collections,
        involuntary_switches=switches,
        elapsed_ns=elapsed,
    )


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


def _involuntary_switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
