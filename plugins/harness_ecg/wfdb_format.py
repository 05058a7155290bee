"""WFDB records in format 16, many at once: wfdb-python's semantics, every signal verified against its header.

Format: https://physionet.org/physiotools/wag/header-5.htm and signal-5.htm (the WFDB Applications Guide).
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError

#: Format 16's value for "no valid sample here".
INVALID = -(2**15)
#: What the format says of a gain that is absent or 0.
DEFAULT_GAIN = 200.0
REMEDY = "restore the file from the data set's source"

_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?")
_GAIN = re.compile(r"([^(/]+)(?:\(([+-]?\d+)\))?(?:/(\S+))?")


class RecordError(DataError):
    """A record that is not as its format promises; ``record`` is its path without a suffix."""

    def __init__(self, record: str, text: str) -> None:
        super().__init__(text)
        self.record = record


class Signal(NamedTuple):
    """One signal of a header: physical value = (stored value - baseline) / gain, in ``units``."""

    file: str
    offset: int
    gain: float
    baseline: int
    units: str
    initial: int | None
    checksum: int | None
    name: str


class Header(NamedTuple):
    """A parsed header: ``record`` is the path without a suffix, ``rate`` in Hz, ``length`` in samples a signal."""

    record: str
    rate: float
    length: int
    signals: tuple[Signal, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """What every record of a data set must look like."""

    rate: float
    length: int
    names: tuple[str, ...]
    units: str

    def check(self, header: Header) -> None:
        """Raise RecordError unless the header has this rate, length, units, and these signals with checksums."""
        names = tuple(signal.name for signal in header.signals)
        if names != self.names:
            missing = [name for name in self.names if name not in names]
            found = f"no lead {', '.join(missing)}" if missing else "the leads in another order or number"
            raise _wrong(header.record, f"{found}: {' '.join(names)} instead of {' '.join(self.names)}")
        if header.rate != self.rate:
            raise _wrong(header.record, f"sampled at {header.rate:g} Hz, not {self.rate:g} Hz")
        if header.length != self.length:
            raise _wrong(header.record, f"{header.length} samples a signal, not {self.length}")
        for signal in header.signals:
            if signal.units != self.units:
                raise _wrong(header.record, f"signal {signal.name} is in {signal.units}, not in {self.units}")
            if signal.checksum is None:
                raise _wrong(header.record, f"signal {signal.name} has no checksum, so its data cannot be trusted")


def read_file(path: str) -> bytes:
    """A small file's content; ``open`` would cost several times as much for tens of thousands of headers."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def read_header(record: str | Path) -> Header:
    """Read and parse ``record``.hea; raises RecordError when it is missing or malformed."""
    record = str(record)
    try:
        return parse_header(record, read_file(record + ".hea"))
    except OSError as error:
        raise unreadable(record, record + ".hea", error) from error


def parse_header(record: str, content: bytes) -> Header:
    """Parse a header's content; raises RecordError for what is malformed or in another format than 16."""
    try:
        lines = [line for line in content.decode().splitlines() if line.strip() and not line.startswith("#")]
        first = lines[0].split()
        count, rate, length = int(first[1]), float(first[2].partition("/")[0]), int(first[3])
        if "/" in first[0]:
            raise _wrong(record, "a record of several segments")
        if len(lines) != count + 1:
            raise _wrong(record, f"{len(lines) - 1} signal lines where the first line promises {count}")
        return Header(record, rate, length, tuple(_signal(record, line) for line in lines[1:]))
    except (ValueError, IndexError) as error:
        raise _wrong(record, f"not a WFDB header of a record with rate and length ({error})") from error


def _signal(record: str, line: str) -> Signal:
    fields = line.split(None, 8)
    offset = _offset(fields[1])
    if offset is None:
        raise _wrong(record, f"signal format {fields[1]}; only 16, one sample a frame and without skew, is supported")
    gain, baseline, units = _calibration(fields[2] if len(fields) > 2 else "")
    numbers = [int(field) for field in fields[4:7]]
    if baseline is None:
        baseline = numbers[0] if numbers else 0
    return Signal(
        fields[0],
        offset,
        gain,
        baseline,
        units,
        numbers[1] if len(numbers) > 1 else None,
        numbers[2] if len(numbers) > 2 else None,
        fields[8].strip() if len(fields) > 8 else "",
    )


@functools.lru_cache
def _offset(text: str) -> int | None:
    """The byte offset in a format field, or None for a format that is not supported."""
    match = _FORMAT.fullmatch(text)
    if not match or match[1] != "16" or match[2] not in (None, "1") or match[3] not in (None, "0"):
        return None
    return int(match[4] or 0)


@functools.lru_cache(maxsize=4096)
def _calibration(text: str) -> tuple[float, int | None, str]:
    """Gain, baseline (None when absent) and units of a gain field such as ``1000.0(0)/mV``."""
    if not text:
        return DEFAULT_GAIN, None, "mV"
    match = _GAIN.fullmatch(text)
    if not match:
        raise ValueError(f"gain field {text!r}")
    return float(match[1]) or DEFAULT_GAIN, None if match[2] is None else int(match[2]), match[3] or "mV"


def read_signals(headers: Sequence[Header]) -> NDArray[np.float64]:
    """The physical signals (records, signals, samples) of records that have equal shapes.

    As wfdb.rdsamp, but signals before samples, and verified: initial value and checksum must be those of the
    header. An invalid sample is NaN. Raises RecordError naming the first record that is not as its header says.
    """
    length, count = headers[0].length, len(headers[0].signals)
    interleaved = np.empty((len(headers), length, count), "<i2")
    for header, target in zip(headers, interleaved, strict=True):
        _read_samples(header, target)
    stored = np.ascontiguousarray(interleaved.transpose(0, 2, 1))
    _verify(headers, stored)
    gain = np.array([[signal.gain for signal in header.signals] for header in headers])
    baseline = np.array([[signal.baseline for signal in header.signals] for header in headers], float)
    physical: NDArray[np.float64] = stored - baseline[:, :, None]
    physical /= gain[:, :, None]
    if stored.min() == INVALID:
        physical[stored == INVALID] = np.nan
    return physical


def _read_samples(header: Header, target: NDArray[np.int16]) -> None:
    """Fill ``target`` (samples, signals) from the record's signal files, in which samples are interleaved."""
    files = {signal.file for signal in header.signals}
    if len(files) == 1:
        _read_exactly(header, header.signals[0].file, header.signals[0].offset, target)
        return
    for file in files:
        columns = [i for i, signal in enumerate(header.signals) if signal.file == file]
        samples = np.empty((header.length, len(columns)), "<i2")
        _read_exactly(header, file, header.signals[columns[0]].offset, samples)
        target[:, columns] = samples


def _read_exactly(header: Header, file: str, offset: int, target: NDArray[np.int16]) -> None:
    path = os.path.join(os.path.dirname(header.record), file)
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            if size == offset + target.nbytes:
                if offset:
                    os.lseek(descriptor, offset, os.SEEK_SET)
                size = offset + os.readv(descriptor, [target.data])
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unreadable(header.record, path, error) from error
    if size != offset + target.nbytes:
        kind = "truncated" if size < offset + target.nbytes else "too long"
        raise RecordError(
            header.record,
            f"{path}: {kind}: {size} bytes where its header promises {offset + target.nbytes} "
            f"({target.shape[1]} signals of {target.shape[0]} samples); {REMEDY}",
        )


def _verify(headers: Sequence[Header], stored: NDArray[np.int16]) -> None:
    """Raise RecordError unless ``stored`` (records, signals, samples) has the headers' initial values and checksums."""
    # A sum in uint16 wraps as the format's checksum does.
    sums = stored.view("<u2").sum(axis=2, dtype=np.uint16)
    checks = (
        ("initial value", stored[:, :, 0], [[signal.initial for signal in header.signals] for header in headers]),
        ("checksum", sums, [[signal.checksum for signal in header.signals] for header in headers]),
    )
    for what, found, stated in checks:
        expected = np.array(stated, float)  # NaN where the header states none
        difference = found - expected
        wrong = (difference % 2**16 if what == "checksum" else difference) != 0
        wrong &= ~np.isnan(expected)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            header = headers[row]
            signal = header.signals[column]
            raise RecordError(
                header.record,
                f"{os.path.join(os.path.dirname(header.record), signal.file)}: signal {signal.name} has {what} "
                f"{found[row, column]}, but its header says {expected[row, column]:.0f}: the data was changed or "
                f"damaged; {REMEDY}",
            )


def _wrong(record: str, reason: str) -> RecordError:
    return RecordError(record, f"{record}.hea: {reason}; {REMEDY}")


def unreadable(record: str, path: str, error: OSError) -> RecordError:
    """The error for a file of a record that cannot be read."""
    reason = "missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
    return RecordError(record, f"{path}: {reason}; {REMEDY}")
