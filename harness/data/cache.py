"""Arrays that are slow to make, kept as .npy files beside a small JSON of their checksums, verified on reading."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from harness.errors import StoreError

Arrays = Mapping[str, NDArray[Any]]


def cached(folder: Path, key: str, make: Callable[[], Arrays]) -> dict[str, NDArray[Any]]:
    """The arrays kept under ``key``; what is absent or damaged (with a warning) is made and written first.

    The arrays are mapped copy-on-write: processes share one copy in memory, and writing to them leaves the file
    alone. Raises StoreError when the folder cannot be written or its disk is full; then no half file is left.
    """
    name = key[:16]
    with _locked(folder):  # another run may be making the very same
        arrays = _read(folder, name)
        if arrays is None:
            _write(folder, name, make())
            arrays = _read(folder, name)
    if arrays is None:
        raise StoreError(f"{folder}: what was just written there does not read back; check the disk")
    return arrays


def _read(folder: Path, name: str) -> dict[str, NDArray[Any]] | None:
    """The arrays, or None when there are none or, with a warning, when they are not what was written."""
    index = folder / f"{name}.json"
    if not index.exists():
        return None
    try:
        checksums = json.loads(index.read_text())
        if not isinstance(checksums, dict) or not checksums:
            raise ValueError(f"{index.name} lists no arrays")
        # As plain arrays: np.memmap's overhead on every slice would be paid in each training batch.
        arrays = {
            part: np.asarray(np.load(folder / f"{name}-{part}.npy", mmap_mode="c", allow_pickle=False))
            for part in checksums
        }
        with ThreadPoolExecutor() as pool:
            for part, checksum in zip(arrays, pool.map(_checksum, arrays.values()), strict=True):
                if checksum != checksums[part]:
                    raise ValueError(f"the checksum of {part} is {checksum}, not {checksums[part]}")
    except (OSError, ValueError, EOFError) as error:
        warnings.warn(f"{folder}: the cached arrays {name} are damaged ({error}); they are made anew", stacklevel=3)
        return None
    return arrays


def _write(folder: Path, name: str, arrays: Arrays) -> None:
    """Write the arrays, the index last: without it the others count for nothing."""
    needed = sum(array.nbytes for array in arrays.values())
    try:
        for leftover in folder.glob("*.tmp"):
            leftover.unlink()
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for part, array in arrays.items():
            with _atomic(folder / f"{name}-{part}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        with _atomic(folder / f"{name}.json") as temporary:
            temporary.write_text(json.dumps({part: _checksum(array) for part, array in arrays.items()}, indent=1))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise _unwritable(folder, error) from error
        raise StoreError(
            f"{folder}: the disk is full: {needed:,} bytes are needed for the preprocessed data and "
            f"{shutil.disk_usage(folder).free:,} are free; make room there or choose another place for the store"
        ) from error


def _checksum(array: NDArray[Any]) -> str:
    """Type, shape and CRC-32 of the content: it is damage that must be found, not forgery, at gigabytes a second."""
    return f"{array.dtype.str} {array.shape} {zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data):08x}"


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A temporary path that becomes ``path`` when the block succeeds and is removed when it does not."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder made, and for this process alone."""
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _unwritable(folder: Path, error: OSError) -> StoreError:
    return StoreError(f"{folder}: cannot be written ({error.strerror}); choose another place for the store")
