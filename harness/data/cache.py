"""Cache arrays that are slow to compute, as .npy files with checksums that are verified on reading."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from harness.errors import DataError, StoreError, explain_disk_errors
from harness.files import TEMPORARY, atomic_write


@dataclasses.dataclass(frozen=True)
class Blocks:
    """An array that is computed block by block, because it may be larger than the memory.

    ``blocks`` give its rows in order, together (rows, *shape[1:]) of ``dtype``.
    """

    shape: tuple[int, ...]
    dtype: str
    blocks: Iterable[NDArray[Any]]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


Arrays = Mapping[str, NDArray[Any] | Blocks]
REMEDY = "or choose another store"


def cached(folder: Path, key: str, make: Callable[[], Arrays]) -> dict[str, NDArray[Any]]:
    """Return the arrays stored in ``folder`` under ``key``; call ``make`` and store them if they are missing.

    ``make`` returns arrays by name; `Blocks` in place of an array are written as they come.
    Damaged arrays are computed again, with a warning. The arrays are memory-mapped copy-on-write: processes share one
    copy, and writing to an array does not change the file. Raises StoreError when the folder cannot be written or the
    disk is full; no incomplete file is left.
    """
    name = key[:16]
    with _locked(folder):  # another run may be computing the same arrays
        arrays = _read(folder, name)
        if arrays is None:
            _write(folder, name, make())
            arrays = _read(folder, name)
    if arrays is None:
        raise StoreError(f"{folder}: the arrays {name} were just written and cannot be read back; check the disk")
    return arrays


def _read(folder: Path, name: str) -> dict[str, NDArray[Any]] | None:
    """Return the arrays; None when they are missing or, with a warning, damaged."""
    index = folder / f"{name}.json"
    if not index.exists():
        return None
    try:
        checksums = json.loads(index.read_text())
        if not isinstance(checksums, dict) or not checksums:
            raise ValueError(f"{index.name} lists no arrays")
        # Plain arrays: the overhead of np.memmap on every slice would slow down each training batch.
        arrays = {
            array_name: np.asarray(np.load(folder / f"{name}-{array_name}.npy", mmap_mode="c", allow_pickle=False))
            for array_name in checksums
        }
        with ThreadPoolExecutor() as pool:
            for array_name, checksum in zip(arrays, pool.map(_checksum, arrays.values()), strict=True):
                if checksum != checksums[array_name]:
                    raise ValueError(f"the checksum of {array_name} is {checksum}, not {checksums[array_name]}")
    except Exception as error:  # numpy's reader of headers raises TokenError and SyntaxError, too
        warnings.warn(f"{folder}: the cached arrays {name} are damaged ({error}); computing them again", stacklevel=3)
        return None
    return arrays


def _write(folder: Path, name: str, arrays: Arrays) -> None:
    """Write the arrays, then the index: arrays without an index are ignored."""
    with explain_disk_errors(f"cannot write {folder}", REMEDY):
        for leftover in folder.glob(f"*{TEMPORARY}"):  # this process holds the lock, so nobody is writing it
            leftover.unlink()
        needed, free = sum(array.nbytes for array in arrays.values()), shutil.disk_usage(folder).free
    if free < needed:
        raise StoreError(
            f"cannot write {folder}: the disk is full: the preprocessed data need {needed:,} bytes and "
            f"{free:,} are free; free some space, {REMEDY}"
        )
    checksums = {}
    for array_name, array in arrays.items():
        # The checksums detect what a power failure damages, so no file waits for the disk.
        with (
            atomic_write(folder / f"{name}-{array_name}.npy", REMEDY, sync=False) as temporary,
            temporary.open("wb") as file,
        ):
            checksums[array_name] = _save(file, array, f"{folder.name}: {array_name}")
    with atomic_write(folder / f"{name}.json", REMEDY, sync=False) as temporary:
        temporary.write_text(json.dumps(checksums, indent=1))


def _save(file: BinaryIO, array: NDArray[Any] | Blocks, name: str) -> str:
    """Write an array as .npy, and return its checksum. Raises DataError for blocks that are not what they declare."""
    if not isinstance(array, Blocks):
        np.save(file, array, allow_pickle=False)
        return _checksum(array)
    dtype, rows, checksum = np.dtype(array.dtype), 0, 0
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": array.shape}
    )
    for block in array.blocks:
        if block.dtype != dtype or block.shape[1:] != array.shape[1:]:
            raise DataError(f"{name}: a block is {block.dtype} {block.shape}, not {dtype} (rows, *{array.shape[1:]})")
        content = np.ascontiguousarray(block).tobytes()
        file.write(content)
        checksum, rows = zlib.crc32(content, checksum), rows + len(block)
    if rows != array.shape[0]:
        raise DataError(f"{name}: the blocks have {rows} rows together, not {array.shape[0]}")
    return f"{dtype.str} {array.shape} {checksum:08x}"


def _checksum(array: NDArray[Any]) -> str:
    """Return type, shape and CRC-32 of the content: fast, since it must detect damage, not forgery."""
    return f"{array.dtype.str} {array.shape} {zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data):08x}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Create the folder and hold its lock."""
    lock = FileLock(folder / ".lock")
    with explain_disk_errors(f"cannot write {folder}", REMEDY):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
