"""The canary: it does the same work whenever it sings, and that work is real."""

from __future__ import annotations

import time
import tracemalloc
import zlib

from harness.measure.canary import CHECKED, TIMES, canary


def test_it_sings_the_same_song_and_allocates_nothing() -> None:
    sing = canary()
    assert canary() is sing, "a process has one"
    assert sing() == sing() == zlib.crc32(bytes(range(256)) * (CHECKED // 256) * TIMES)
    tracemalloc.start()
    try:
        sing()
        assert tracemalloc.get_traced_memory()[1] < 4096
    finally:
        tracemalloc.stop()


def test_it_takes_long_enough_for_the_clock_and_costs_a_cell_little() -> None:
    sing = canary()
    sing()
    start = time.perf_counter_ns()
    sing()
    assert 20_000 < time.perf_counter_ns() - start < 50_000_000
