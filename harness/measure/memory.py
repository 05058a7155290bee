"""Measure the memory that a deployed file needs: what loading it adds, and the peak of running it."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PR_SET_THP_DISABLE = 41
#: Parameters of glibc's mallopt(): return free memory at once, ask for no more than is needed, give each block of a
#: page or more pages of its own, and use one heap for all threads.
MALLOPT = {"M_TRIM_THRESHOLD": (-1, 0), "M_TOP_PAD": (-2, 0), "M_MMAP_THRESHOLD": (-3, 4096), "M_ARENA_MAX": (-8, 1)}
#: glibc's blocks: a header of this many bytes, in which this bit marks blocks with pages of their own.
BLOCK_HEADER, IS_MMAPPED = 8, 2
SMALLEST_BLOCK, ALIGNMENT, LARGEST_BLOCK = 32, 16, 2**26
#: Two measurements of one file differ by at most this many bytes.
RESOLUTION = 2**16


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a process: before a deployed file is loaded, after that, and at the peak of running it."""

    baseline: int
    loaded: int
    peak: int


def measure_memory(file: Path, load: Callable[[], T], run: Callable[[T], Any], check: Callable[[T], Any]) -> Memory:
    """Measure ``load``, which loads ``file``, and ``run``, which calls the result with each input.

    Call it in a process that ends afterwards, because it changes how the C library allocates.

    - First ``load`` and ``check`` run once: they import modules, start threads, fill oneDNN's caches of kernels. What
      they allocate is freed, and is in no figure.
    - ``loaded`` minus ``baseline`` is the growth in anonymous pages, swapped ones included, and in resident pages of
      ``file`` itself, if the runtime maps it. What is freed while loading, such as a freshly built network, is no
      part of it.
    - ``peak`` adds the growth of the process' peak of mapped pages while ``run`` runs. The kernel counts these
      exactly, whereas its peak of resident pages (VmHWM) is off by 32 pages or more for each CPU and kind of page.

    Each block of a page or more gets pages of its own, so growth is that of the blocks. Before each of the two
    steps the free blocks of the heap are taken, since a free block that is still resident would hide a new one.
    Blocks of less than a page still depend on their neighbours: `RESOLUTION`. Another C library than glibc has its own
    limit for this (musl: 128 KiB); smaller blocks share pages there, and are seen less exactly.

    Raises OSError where the system does not report pages as Linux does.
    """
    libc: Any = ctypes.CDLL(None)
    if sys.platform == "linux":
        libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # a huge page holds 2 MiB, used or not
    glibc = hasattr(libc, "malloc_trim")
    if glibc:
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        libc.free.argtypes = [ctypes.c_void_p]
        libc.sbrk.restype, libc.sbrk.argtypes = ctypes.c_void_p, [ctypes.c_ssize_t]
        for parameter, value in MALLOPT.values():
            libc.mallopt(parameter, value)

    def tidy(smallest: int) -> None:
        gc.collect()
        if glibc:
            _take_free_blocks(libc, smallest)

    predictor = load()
    check(predictor)
    del predictor
    _pages(file)  # warms up, too
    tidy(SMALLEST_BLOCK)
    baseline = _pages(file)
    predictor = load()
    tidy(mmap.PAGESIZE)
    loaded = _pages(file)
    size, peak = _mapped()
    # The kernel cannot reset its peak of mapped pages, so map as much as the peak before it is measured.
    filler = mmap.mmap(-1, peak - size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) if peak > size else None
    _, before = _mapped()
    run(predictor)
    _, after = _mapped()
    touched = _pages(file)
    if filler is not None:
        filler.close()
    return Memory(baseline, loaded, max(loaded + after - before, touched))


def _take_free_blocks(libc: Any, smallest: int) -> None:
    """Take the heap's free blocks, from large to ``smallest``, and give the pages inside them back to the kernel.

    The heap grows by a page for each size below that of a page: do that before a baseline only.
    """
    libc.malloc_trim(0)
    end = libc.sbrk(0)
    size = LARGEST_BLOCK
    while size >= smallest:
        block = libc.malloc(size - BLOCK_HEADER)
        header = ctypes.c_size_t.from_address(block - BLOCK_HEADER).value
        if header & IS_MMAPPED or libc.sbrk(0) != end:  # no free block of this size was left
            libc.free(block)
            end = libc.sbrk(0)
            size = size // 2 if size > mmap.PAGESIZE else size - ALIGNMENT
    libc.malloc_trim(0)


def _pages(file: Path) -> int:
    """Return the bytes of anonymous pages, and of resident pages of ``file`` that are mapped unchanged."""
    total, of_file = 0, False
    path = str(file.resolve())
    with Path("/proc/self/smaps").open() as lines:  # read line by line, because the whole text takes memory itself
        for line in lines:
            field, _, value = line.partition(":")
            if " " in field:  # the header of a mapping: address, rights, offset, device, inode, path
                of_file = line.rstrip().endswith(path)
            elif field in ("Anonymous", "Swap"):
                total += int(value.split()[0]) * (0 if of_file and field == "Anonymous" else 1)
            elif field == "Rss" and of_file:
                total += int(value.split()[0])
    return total * 1024


def _mapped() -> tuple[int, int]:
    """Return the bytes that are mapped now, and at their peak."""
    status = Path("/proc/self/status").read_text()
    size, peak = (int(status.partition(f"\n{field}:")[2].split()[0]) * 1024 for field in ("VmSize", "VmPeak"))
    return size, peak
