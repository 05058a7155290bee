"""Verify the environment of a worker against its profile."""

from __future__ import annotations

import pytest

from harness.errors import MeasureError
from harness.measure.environment import verify, verify_allocator

JEMALLOC = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"
FOUND = {
    "threads": 2,
    "interop_threads": 1,
    "omp_threads": 2,
    "mkl_threads": 2,
    "affinity": [1, 2],
    "onednn": True,
    "isa": "avx2",
    "denormals": "kept",
}


def test_what_was_asked_for_and_found_is_no_error() -> None:
    verify(FOUND, threads=2, cpus=[1, 2], onednn=True)
    verify(FOUND, threads=2, cpus=None, onednn=True, isa="avx2")
    verify_allocator("jemalloc", JEMALLOC, {JEMALLOC, "/lib/libc.so.6"})
    verify_allocator("system", None, {"/lib/libc.so.6", "/x/lib/libtorch_cpu.so"})
    verify_allocator("system", None, None)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"threads": 1}, "threads=2 but has 1"),
        ({"omp_threads": 1}, "omp_threads=2 but has 1"),
        ({"mkl_threads": 4}, "mkl_threads=2 but has 4"),
        ({"isa": "default"}, "isa=avx2 but has default; this processor, or this build of torch, does not support it"),
        ({"interop_threads": 8}, "interop_threads=1 but has 8"),
        ({"affinity": [0, 1, 2]}, r"affinity=\[1, 2\] but has \[0, 1, 2\]"),
        ({"onednn": False}, "onednn=True but has False"),
        ({"denormals": "flushed"}, "denormals=kept but has flushed; a runtime or plugin sets denormal numbers to zero"),
    ],
)
def test_a_mismatch_is_an_error(changed: dict[str, object], text: str) -> None:
    with pytest.raises(MeasureError, match=text):
        verify({**FOUND, **changed}, threads=2, cpus=[1, 2], onednn=True, isa="avx2")


def test_another_allocator_is_an_error() -> None:
    with pytest.raises(MeasureError, match="LD_PRELOAD had no effect"):
        verify_allocator("jemalloc", JEMALLOC, {"/lib/libc.so.6"})
    for stranger in ("/opt/libmimalloc.so.2.1", "/usr/lib/libtcmalloc_minimal.so.4.5.10"):
        with pytest.raises(MeasureError, match=stranger):
            verify_allocator("system", None, {stranger})
        with pytest.raises(MeasureError, match=stranger):
            verify_allocator("jemalloc", JEMALLOC, {JEMALLOC, stranger})
