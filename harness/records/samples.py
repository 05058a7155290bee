"""Encode the samples of timings compactly for run files, and read them from a run file.

An array is ``{"type": ..., "shape": ..., "zlib": ...}``: the numbers of a numpy type in little-endian order, compressed
by zlib, in base64. As JSON numbers, of which pytest-benchmark writes one a line, they took up to ten times the space.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.records.record import AA_SAMPLES, FIELD, SAMPLES
from harness.records.runs import load
from harness.records.verdicts import TimingId

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    #: The samples of one timing: by name, an array of (processes, pairs).
    Samples = Mapping[str, NDArray[Any]]


def encode(arrays: Mapping[str, ArrayLike]) -> dict[str, Any]:
    """Encode the samples of one timing, arrays of integers or booleans, as JSON."""
    return {name: _encode(values) for name, values in arrays.items()}


def _encode(values: ArrayLike) -> dict[str, Any]:
    import numpy as np

    array = np.asarray(values)
    if array.dtype != np.bool_ and array.size and array.min() >= 0:
        array = array.astype(np.min_scalar_type(int(array.max())))
    array = array.astype(array.dtype.newbyteorder("<"))
    data = base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()
    return {"type": array.dtype.str, "shape": list(array.shape), "zlib": data}


def decode(document: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Decode the samples of one timing: int64 or bool, (processes, pairs) each.

    Lists of numbers, which files of version 0.1 have, are read too. Raises UsageError for anything else.
    """
    try:
        return {name: _decode(value) for name, value in document.items()}
    except (AttributeError, KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise UsageError(f"samples cannot be decoded ({error}); restore the file, or run again") from error


def _decode(value: Any) -> NDArray[Any]:
    import numpy as np

    if isinstance(value, list):
        array = np.asarray(value)
    else:
        kind, shape = np.dtype(value["type"]), tuple(map(int, value["shape"]))
        size = kind.itemsize * math.prod(shape)
        # No more than the shape needs is decompressed, because a damaged file could expand to anything.
        data = zlib.decompressobj().decompress(base64.b64decode(value["zlib"], validate=True), size + 1)
        array = np.frombuffer(data, kind).reshape(shape)
    if array.dtype.kind not in "biu":
        raise ValueError(f"{array.dtype} instead of integers or booleans")
    return array if array.dtype == np.bool_ else array.astype(np.int64)


def read_samples(file: Path, confirmations: bool = False) -> dict[TimingId, dict[str, NDArray[Any]]]:
    """Read the samples of a run file, in nanoseconds, by cell name and the model beside it.

    The model is "reference", or "earlier" for the model of an earlier run. The arrays are ``reference`` and
    ``candidate`` (nanoseconds of the calls of the model beside it and of the cell's own), ``reference_first`` and
    ``inputs``, (processes, pairs) each; the protocol "single" has only the first two, of one process. With
    ``confirmations`` they are the samples of the fresh processes that timed slower cells again.

    Raises UsageError for a file that cannot be read, and for damaged samples.
    """
    document, _ = load(file)
    entries = _confirmations(document) if confirmations else _timings(document)
    samples = {}
    for name, by_model in entries:
        for versus, arrays in by_model.items():
            try:
                samples[name, versus] = decode(arrays)
            except UsageError as error:
                raise UsageError(f"{file} is damaged: cell {name}: {error}") from None
    return samples


def read_aa_samples(file: Path) -> list[dict[str, NDArray[Any]]]:
    """Read the samples of a run file's A/A runs, in the order of time, with the arrays of `read_samples`.

    Cells share A/A runs: ``aa_runs`` in a record has the ratio of each process, which identifies the run. Files of
    version 0.1 have none. Raises UsageError as `read_samples` does.
    """
    document, _ = load(file)
    extras = (benchmark.get("extra_info", {}) for benchmark in document["benchmarks"])
    try:
        return [decode(arrays) for extra in extras for arrays in extra.get(AA_SAMPLES, ())]
    except UsageError as error:
        raise UsageError(f"{file} is damaged: an A/A run: {error}") from None


def _timings(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yield each cell's name with its samples by model."""
    for benchmark in document["benchmarks"]:
        extra = benchmark.get("extra_info", {})
        record, samples = extra.get(FIELD), extra.get(SAMPLES)
        if isinstance(record, Mapping) and isinstance(samples, Mapping):
            name = f"{record['suite']}::{record['matrix']}[{record['cell']}]"
            # Files of version 0.1 have the arrays of the reference alone.
            yield name, {"reference": samples} if isinstance(samples.get("candidate"), list) else samples


def _confirmations(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    ours = document.get(FIELD)
    sections = ours.get("confirmation_samples", {}) if isinstance(ours, Mapping) else {}
    yield from sections.items()
