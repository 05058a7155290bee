"""Read WFDB records: 16-bit formats many at a time, other formats and segmented records through wfdb-python.

Both ways verify each signal against its header, and give NaN for an invalid sample.
Format: https://physionet.org/physiotools/wag/header-5.htm and signal-5.htm (the WFDB Applications Guide).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError

if TYPE_CHECKING:
    import wfdb

#: The value by which the formats 16 and 61 (the same, but the high byte first) mark an invalid sample.
INVALID = -(2**15)
#: The gain that the format prescribes where the header has none or 0.
DEFAULT_GAIN = 200.0
REMEDY = "restore the file from the data set's source"
#: Bytes and samples of a block of each uncompressed format; format 0 is a signal without samples.
_BLOCKS = {
    **{"8": (1, 1), "80": (1, 1), "16": (2, 1), "61": (2, 1), "160": (2, 1), "24": (3, 1), "32": (4, 1)},
    **{"212": (3, 2), "310": (4, 3), "311": (4, 3)},
}
_FORMATS = {*_BLOCKS, "0", "508", "516", "524"}
#: The name of a segment without samples, and the signal file of a header that only states a layout.
_GAP = "~"

_FORMAT = re.compile(r"(\d+)(?:x(\d+))?(?::(\d+))?(?:\+(\d+))?", re.ASCII)
_GAIN = re.compile(r"([^(/]+)(?:\(([+-]?\d+)\))?(?:/(\S+))?", re.ASCII)


class RecordError(DataError):
    """A record that its format or its header contradicts; ``record`` is its path without a suffix."""

    def __init__(self, record: str, text: str) -> None:
        super().__init__(text)
        self.record = record


class Signal(NamedTuple):
    """One signal of a header: physical value = (stored value - baseline) / gain, in ``units``.

    ``frame`` is its number of samples per frame, ``skew`` its delay in frames, ``offset`` counts bytes of the file.
    """

    file: str
    format: str
    frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    units: str
    initial: int | None
    checksum: int | None
    name: str


class Header(NamedTuple):
    """A parsed header: ``record`` is the path without a suffix, ``rate`` in Hz, ``length`` in frames.

    ``segments`` are the headers of the segments that hold samples, if the record has segments.
    """

    record: str
    rate: float
    length: int
    signals: tuple[Signal, ...]
    segments: tuple[Header, ...] = ()

    @property
    def is_fast(self) -> bool:
        """Whether the fast reader reads this record: 16 bits, one sample per frame, no skew, no segments."""
        return not self.segments and all(
            signal.format in ("16", "61") and signal.frame == 1 and not signal.skew for signal in self.signals
        )


@dataclasses.dataclass(frozen=True)
class Layout:
    """The rate, length, signals and units that every record of a data set must have."""

    rate: float
    length: int
    names: tuple[str, ...]
    units: str

    def check(self, header: Header) -> None:
        """Raise RecordError unless the header has this rate, length, units, and these signals with checksums."""
        names = tuple(signal.name for signal in header.signals)
        if names != self.names:
            missing = [name for name in self.names if name not in names]
            problem = f"no lead {', '.join(missing)}" if missing else "the leads in another order or number"
            raise _header_error(header.record, f"{problem}: {' '.join(names)} instead of {' '.join(self.names)}")
        if header.rate != self.rate:
            raise _header_error(header.record, f"sampled at {header.rate:g} Hz, not {self.rate:g} Hz")
        if header.length != self.length:
            raise _header_error(header.record, f"{header.length} samples per signal, not {self.length}")
        for signal in header.signals:
            if signal.units != self.units:
                raise _header_error(header.record, f"signal {signal.name} is in {signal.units}, not in {self.units}")
        for segment in header.segments or (header,):
            for signal in segment.signals:
                if signal.checksum is None:
                    raise RecordError(
                        header.record,
                        f"{segment.record}.hea: signal {signal.name} has no checksum, so damage to its samples "
                        f"cannot be detected; {REMEDY}",
                    )


# ---------------------------------------------------------------------------------------------------------- headers


def read_file(path: str) -> bytes:
    """Return the content of a small file, faster than ``open`` does; there are tens of thousands of headers."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # Windows would translate line ends
    try:
        return os.read(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def read_header(record: str | Path, is_segment: bool = False) -> Header:
    """Read and parse ``record``.hea; raises RecordError when it is missing or malformed."""
    record = str(record)
    try:
        content = read_file(record + ".hea")
    except (OSError, ValueError) as error:
        raise unreadable(record, record + ".hea", error) from error
    return parse_header(record, content, is_segment)


def parse_header(record: str, content: bytes, is_segment: bool = False) -> Header:
    """Parse the content of a header, and read the headers of its segments; raises RecordError for malformed ones."""
    try:
        lines = [_text(line) for line in map(bytes.strip, content.splitlines()) if line and not line.startswith(b"#")]
        first = lines[0].split()
        count, rate, length = int(first[1]), float(first[2].partition("/")[0]), int(first[3])
        if count < 0 or length < 0:
            raise ValueError(f"{count} signals of {length} samples")
        segments = first[0].partition("/")[2]
        if segments and is_segment:
            raise _header_error(record, "a segment that has segments itself")
        expected = int(segments) if "/" in first[0] else count
        if len(lines) != expected + 1:
            kind = "segment" if segments else "signal"
            raise _header_error(record, f"{len(lines) - 1} {kind} lines, but the first line declares {expected}")
        if segments:
            return _parse_segments(record, rate, length, count, [line.split() for line in lines[1:]])
        return Header(record, rate, length, tuple(_parse_signal(line) for line in lines[1:]))
    except (ValueError, IndexError) as error:
        raise _header_error(record, f"not a WFDB header of a record with rate and length ({error})") from error


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _parse_signal(line: str) -> Signal:
    fields = line.split(None, 8)
    format_, frame, skew, offset = _parse_format(fields[1])
    gain, baseline, units = _parse_calibration(fields[2] if len(fields) > 2 else "")
    numbers = [int(field) for field in fields[4:7]]
    if baseline is None:
        baseline = numbers[0] if numbers else 0
    return Signal(
        fields[0],
        format_,
        frame,
        skew,
        offset,
        gain,
        baseline,
        units,
        numbers[1] if len(numbers) > 1 else None,
        numbers[2] if len(numbers) > 2 else None,
        fields[8].strip() if len(fields) > 8 else "",
    )


@functools.lru_cache
def _parse_format(text: str) -> tuple[str, int, int, int]:
    """The format, samples per frame, skew and byte offset of a format field such as ``212x2:3+24``."""
    match = _FORMAT.fullmatch(text)
    if not match or match[1] not in _FORMATS:
        raise ValueError(f"signal format {text!r}")
    return match[1], int(match[2] or 1) or 1, int(match[3] or 0), int(match[4] or 0)


@functools.lru_cache(maxsize=4096)
def _parse_calibration(text: str) -> tuple[float, int | None, str]:
    """Gain, baseline (None when absent) and units of a gain field such as ``1000.0(0)/mV``."""
    if not text:
        return DEFAULT_GAIN, None, "mV"
    match = _GAIN.fullmatch(text)
    if not match or not math.isfinite(float(match[1])):
        raise ValueError(f"gain field {text!r}")
    return float(match[1]) or DEFAULT_GAIN, None if match[2] is None else int(match[2]), match[3] or "mV"


def _parse_segments(record: str, rate: float, length: int, count: int, lines: Sequence[Sequence[str]]) -> Header:
    """The header of a segmented record, once the headers of its segments agree with it and with each other.

    In a variable layout the first segment has no samples and states all signals; a later one may lack some of them.
    """
    names = [name for name, _ in lines]
    lengths = [int(text) for _, text in lines]
    if sum(lengths) != length or min(lengths) < 0:
        raise _header_error(record, f"segments of {sum(lengths)} samples, but the first line declares {length}")
    variable = lengths[0] == 0
    try:
        headers = [
            None
            if name == _GAP and variable
            else read_header(os.path.join(os.path.dirname(record), name), is_segment=True)
            for name in names
        ]
    except RecordError as error:
        raise RecordError(record, f"{record}.hea: a segment cannot be read: {error}") from error
    reference = headers[0]
    if reference is None or len(reference.signals) != count:
        raise _header_error(record, f"the first segment, {names[0]}, does not have the {count} signals of the record")
    units = {signal.name: signal.units for signal in reference.signals}
    for header, stated in zip(headers, lengths, strict=True):
        if header is None:
            continue
        signals = [signal.name for signal in header.signals]
        complete = signals == [signal.name for signal in reference.signals]
        if (header.rate, header.length) != (rate, stated):
            problem = f"{header.length} samples at {header.rate:g} Hz, not {stated} at {rate:g} Hz"
        elif not (complete or (variable and set(signals) <= set(units))):
            problem = f"its signals are {' '.join(signals)}, not {' '.join(units)}"
        elif any(signal.units != units[signal.name] for signal in header.signals):
            problem = "its units differ from those of the first segment"
        else:
            continue
        raise _header_error(record, f"segment {os.path.basename(header.record)}: {problem}")
    filled = tuple(header for header in headers[variable:] if header is not None)
    return Header(record, rate, length, reference.signals, filled)


# ---------------------------------------------------------------------------------------------------------- samples


def read_signals(headers: Sequence[Header]) -> NDArray[np.float64]:
    """The physical signals (records, signals, frames) of records that have equal shapes.

    The values are those of wfdb.rdrecord; of several samples per frame the mean. Initial values and checksums must be
    those of the header; the format's checksum covers the lower 16 bits of longer samples only. A frame with an invalid
    sample is NaN. Raises RecordError naming the first record that is damaged.
    """
    if all(header.is_fast for header in headers):
        return _read_fast(headers)
    return np.stack([_read_fast([header])[0] if header.is_fast else _read_with_wfdb(header) for header in headers])


def _read_fast(headers: Sequence[Header]) -> NDArray[np.float64]:
    length, count = headers[0].length, len(headers[0].signals)
    interleaved = np.empty((len(headers), length, count), "<i2")
    for header, target in zip(headers, interleaved, strict=True):
        _read_samples(header, target)
    stored = np.ascontiguousarray(interleaved.transpose(0, 2, 1))
    # A sum in uint16 wraps as the format's checksum does.
    sums = stored.view("<u2").sum(axis=2, dtype=np.uint16)
    _verify(headers, stored[:, :, 0], sums)
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
        _read_exactly(header, header.signals[0], target)
        return
    for file in files:
        columns = [i for i, signal in enumerate(header.signals) if signal.file == file]
        samples = np.empty((header.length, len(columns)), "<i2")
        _read_exactly(header, header.signals[columns[0]], samples)
        target[:, columns] = samples


def _read_exactly(header: Header, signal: Signal, target: NDArray[np.int16]) -> None:
    """Fill ``target`` from the file of ``signal``, which must hold just that many bytes behind the offset."""
    path, offset = _signal_path(header, signal.file), signal.offset
    try:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size == offset + target.nbytes:
                if offset:
                    file.seek(offset)
                size = offset + file.readinto(target.data)
    except (OSError, ValueError) as error:
        raise unreadable(header.record, path, error) from error
    _check_size(header, path, size, offset + target.nbytes, offset + target.nbytes)
    if signal.format == "61":
        target.byteswap(inplace=True)


def _check_size(header: Header, path: str, size: int, least: int, most: int) -> None:
    if not least <= size <= most:
        kind = "truncated" if size < least else "too long"
        raise RecordError(header.record, f"{path}: {kind}: {size} bytes, but its header declares {least}; {REMEDY}")


def _verify(headers: Sequence[Header], first: NDArray[Any], sums: NDArray[Any]) -> None:
    """Raise RecordError unless the ``first`` samples and ``sums`` (records, signals) are those of the headers."""
    checks = (
        ("initial value", first, [[signal.initial for signal in header.signals] for header in headers]),
        ("checksum", sums, [[signal.checksum for signal in header.signals] for header in headers]),
    )
    for quantity, actual, stated in checks:
        expected = np.array(stated, float)  # NaN if the header states none
        difference = actual - expected
        wrong = (difference % 2**16 if quantity == "checksum" else difference) != 0
        wrong &= ~np.isnan(expected)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            header = headers[row]
            signal = header.signals[column]
            raise RecordError(
                header.record,
                f"{_signal_path(header, signal.file)}: signal {signal.name} has {quantity} {actual[row, column]}, but "
                f"its header says {expected[row, column]:.0f}: the data was changed or damaged; {REMEDY}",
            )


# -------------------------------------------------------------------------------------------------------- wfdb-python


def _read_with_wfdb(header: Header) -> NDArray[np.float64]:
    """The physical signals (signals, frames) of one record, verified and read by wfdb-python."""
    for segment in header.segments or (header,):
        try:
            if segment.is_fast:
                _read_fast([segment])
            else:
                _verify_with_wfdb(segment)
        except RecordError as error:
            raise RecordError(header.record, str(error)) from error
    # wfdb's own mean over a frame would take an invalid sample for a number
    samples = _rdrecord(header, smooth_frames=False).e_p_signal
    return np.stack([signal.reshape(header.length, -1).mean(axis=1) for signal in samples])


def _verify_with_wfdb(header: Header) -> None:
    """Raise RecordError unless the files of a record without segments have the size and samples that it states."""
    for file in {signal.file for signal in header.signals}:
        signals = [signal for signal in header.signals if signal.file == file]
        if signals[0].format in _BLOCKS:
            path = _signal_path(header, file)
            try:
                size = os.stat(path).st_size
            except (OSError, ValueError) as error:
                raise unreadable(header.record, path, error) from error
            samples, (block, of) = header.length * sum(signal.frame for signal in signals), _BLOCKS[signals[0].format]
            least, most = math.ceil(samples * block / of), math.ceil(samples / of) * block
            _check_size(header, path, size, signals[0].offset + least, signals[0].offset + most)
    record = _rdrecord(header, physical=False, smooth_frames=False, ignore_skew=True)
    stated = [(signal.name, signal.gain, signal.baseline) for signal in header.signals]
    if stated != list(zip(record.sig_name, record.adc_gain, record.baseline, strict=True)):
        raise _header_error(header.record, "wfdb reads other names, gains or baselines from it")
    first = np.array([[int(signal[0]) for signal in record.e_d_signal]])
    sums = np.array([[int(signal.sum(dtype=np.int64)) % 2**16 for signal in record.e_d_signal]])
    _verify([header], first, sums)


def _rdrecord(header: Header, **options: bool) -> wfdb.Record:
    """``wfdb.rdrecord`` with its errors, of any class where a record is damaged, converted into RecordError."""
    import wfdb

    try:
        return wfdb.rdrecord(header.record, **options)
    except OSError as error:
        raise unreadable(header.record, str(error.filename or header.record), error) from error
    except Exception as error:
        reason = f"wfdb cannot read the record ({type(error).__name__}: {error})"
        raise RecordError(header.record, f"{header.record}: {reason}; {REMEDY}") from error


# ------------------------------------------------------------------------------------------------------------- errors


def _signal_path(header: Header, file: str) -> str:
    return os.path.join(os.path.dirname(header.record), file)


def _header_error(record: str, reason: str) -> RecordError:
    return RecordError(record, f"{record}.hea: {reason}; {REMEDY}")


def unreadable(record: str, path: str, error: OSError | ValueError) -> RecordError:
    """Make the error for a file that cannot be read; a ValueError concerns the path itself."""
    if isinstance(error, FileNotFoundError):
        reason = "missing"
    else:
        reason = f"cannot be read ({error.strerror if isinstance(error, OSError) else error})"
    return RecordError(record, f"{path!r}: {reason}; {REMEDY}" if "\0" in path else f"{path}: {reason}; {REMEDY}")
