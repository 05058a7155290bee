"""Read many recordings of one layout at once: verify, filter and standardise them, on all processors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.api import Progress
from harness.errors import DataError
from harness_ecg import wfdb_format
from harness_ecg.preprocessing import clean
from harness_ecg.table import DATABASE, Record
from harness_ecg.wfdb_format import Layout, RecordError

#: Recordings per block: few enough for the processor's cache, many enough to keep several processors busy.
BLOCK = 64


def read_headers(folder: Path, records: Sequence[Record]) -> list[bytes]:
    """Return the content of each record's header. Raises DataError naming the row of a missing one."""
    stem = os.path.join(folder, "")

    def read(block: Sequence[Record]) -> list[bytes]:
        contents = []
        for record in block:
            path = f"{stem}{record.name}.hea"
            try:
                contents.append(wfdb_format.read_file(path))
            except OSError as error:
                raise _named(folder, record, wfdb_format.unreadable(path[:-4], path, error)) from error
        return contents

    with ThreadPoolExecutor(workers()) as pool:
        blocks = pool.map(read, (records[start : start + 512] for start in range(0, len(records), 512)))
        return [content for block in blocks for content in block]


def read_inputs(
    folder: Path, splits: Mapping[str, Sequence[tuple[Record, bytes]]], layout: Layout, progress: Progress
) -> dict[str, NDArray[np.float32]]:
    """Read the recordings of each split, (n, leads, samples): filtered, each lead standardised by the training split.

    Raises DataError naming file and row for a recording that contradicts ``layout`` or its header, and for one with
    invalid samples.
    """
    shape = (len(layout.names), layout.length)
    inputs = {split: np.empty((len(rows), *shape), np.float32) for split, rows in splits.items()}
    blocks = [
        (split, slice(start, start + BLOCK)) for split, rows in splits.items() for start in range(0, len(rows), BLOCK)
    ]
    total, sums, squares = sum(map(len, splits.values())), np.zeros(shape[0]), np.zeros(shape[0])

    def prepare(block: tuple[str, slice]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        split, here = block
        cleaned = clean(_read_block(folder, splits[split][here], layout), layout.rate)
        inputs[split][here] = cleaned
        return cleaned.sum(axis=(0, 2)), np.einsum("rls,rls->l", cleaned, cleaned)

    def standardise(block: tuple[str, slice]) -> None:
        split, here = block
        inputs[split][here] -= mean
        inputs[split][here] /= deviation

    pool = ThreadPoolExecutor(workers())
    try:
        # In order, so that the sums do not depend on the number of processors, to the last bit
        for (split, here), (block_sum, block_squares) in zip(blocks, pool.map(prepare, blocks), strict=True):
            if split == "train":
                sums += block_sum
                squares += block_squares
            progress(min(here.stop, len(splits[split])) + _before(splits, split), total, "reading recordings")
        count = max(1, len(splits["train"]) * layout.length)
        variance = squares / count - (sums / count) ** 2
        if (variance <= 0).any():
            dead = layout.names[int(np.argmax(variance <= 0))]
            raise DataError(f"{folder}: lead {dead} is constant in the whole training split; {wfdb_format.REMEDY}")
        mean = (sums / count).astype(np.float32)[:, None]
        deviation = np.sqrt(variance).astype(np.float32)[:, None]
        for _ in pool.map(standardise, blocks):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return inputs


def workers() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_block(folder: Path, rows: Sequence[tuple[Record, bytes]], layout: Layout) -> NDArray[np.float64]:
    """Read the physical signals (records, leads, samples) of some rows."""
    by_name = {os.path.join(folder, record.name): record for record, _ in rows}
    try:
        headers = [wfdb_format.parse_header(os.path.join(folder, record.name), content) for record, content in rows]
        for header in headers:
            layout.check(header)
        signals = wfdb_format.read_signals(headers)
    except RecordError as error:
        raise _named(folder, by_name[error.record], error) from error
    if np.isnan(signals).any():
        row, lead, sample = np.argwhere(np.isnan(signals))[0]
        reason = f"lead {layout.names[lead]} has no valid sample at {sample}; repair the recording or drop its row"
        raise _named(folder, rows[row][0], DataError(f"{headers[row].record}: {reason}"))
    return signals


def _before(splits: Mapping[str, Sequence[object]], split: str) -> int:
    """Count the recordings of the splits before this one."""
    names = list(splits)
    return sum(len(splits[name]) for name in names[: names.index(split)])


def _named(folder: Path, record: Record, error: DataError) -> DataError:
    """Return the error with the row of the table that names the record."""
    return DataError(f"{error} [{folder / DATABASE}, line {record.line}, ecg_id {record.ecg_id}]")
