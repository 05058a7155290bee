"""The canary: a fixed piece of work beside the models, whose time tells a slow machine from a slow model."""

from __future__ import annotations

import functools
import mmap
import zlib
from collections.abc import Callable

CHECKED, COPIED, TIMES = 128 * 1024, 64 * 1024, 8
#: The two buffers of the copy begin at different places in their pages, else it would wait for its own stores.
OFFSET = 2048


@functools.cache
def canary() -> Callable[[], object]:
    """A function that takes some tenths of a millisecond: checksums and copies, in less memory than a core caches.

    It allocates nothing and needs neither torch nor BLAS, so that no allocator, thread count or version of theirs
    changes it: what changes it is the machine. A process has one, in memory of its own, for the place of the buffers
    matters: of two larger ones, made anew each time, one was a sixth slower than the other.
    """
    data, source, target = (memoryview(mmap.mmap(-1, size)) for size in (CHECKED, COPIED, COPIED + OFFSET))
    data[:] = bytes(range(256)) * (CHECKED // 256)
    source[:] = data[:COPIED]
    target = target[OFFSET:]

    def work() -> object:
        checksum = 0
        for _ in range(TIMES):
            target[:] = source
            checksum = zlib.crc32(data, checksum)
        return checksum

    return work
