"""The canary: a fixed piece of work beside the models, whose time tells a slow machine from a slow model."""

from __future__ import annotations

import zlib
from collections.abc import Callable

CHECKED, COPIED = 1024 * 1024, 512 * 1024


def canary() -> Callable[[], object]:
    """A function that takes some tenths of a millisecond: a checksum and a copy, in about the memory a core caches.

    It allocates nothing and needs neither torch nor BLAS, so that no allocator, thread count or version of theirs
    changes it: what changes it is the machine. More memory would tell more of the neighbours than of this machine:
    copies of 4 MiB varied by half on an idle virtual machine, this mixture by 2 %.
    """
    data = bytes(range(256)) * (CHECKED // 256)
    source, target = memoryview(bytes(range(256)) * (COPIED // 256)), memoryview(bytearray(COPIED))

    def sing() -> object:
        target[:] = source
        return zlib.crc32(data)

    return sing
