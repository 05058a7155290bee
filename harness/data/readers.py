"""Read examples from common files: CSV, npz, WFDB signals at any rate, and folders of images; divide them by patient.

For authors of data sets, whose ``load`` returns what these functions give. A wrong file is a DataError that names it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.api import Split, Task
from harness.data.cache import Blocks
from harness.errors import DataError

#: The prefix of a group's array in an npz file, such as "group_sex".
GROUP = "group_"
#: So many images are decoded at once.
IMAGES = 256
#: The least similar rate that WFDB signals are resampled to: numerator and denominator of the ratio stay below this.
LARGEST_FACTOR = 10_000


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{file} is missing; is the data set complete?") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def read_npz(file: Path) -> Split:
    """Read the arrays ``inputs`` and ``targets``, and ``patients``, ``records`` and ``group_NAME`` where they are."""
    with _reading(file), np.load(file, allow_pickle=False) as arrays:
        for name in ("inputs", "targets"):
            if name not in arrays:
                raise DataError(f"{file} has no array {name!r} (it has: {', '.join(arrays)})")
        groups = {name.removeprefix(GROUP): arrays[name] for name in arrays if name.startswith(GROUP)}
        optional = {name: arrays[name] for name in ("patients", "records") if name in arrays}
        return Split(arrays["inputs"], arrays["targets"], groups=groups, **optional)


def write_npz(file: Path, split: Split) -> None:
    """Write what ``read_npz`` reads; the same split gives the same bytes."""
    arrays = {name.replace("group ", GROUP, 1): array for name, array in split.arrays().items()}
    with file.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def read_csv(
    file: Path,
    task: Task,
    features: Sequence[str],
    targets: Sequence[str] | str,
    *,
    patient: str = "",
    record: str = "",
    groups: Sequence[str] = (),
) -> Split:
    """Read examples (n, features) from the columns of a CSV file with a header, one example a row.

    ``targets`` names a column for each label of the task, or the one column of a multi-class task, which holds the
    names of classes. ``patient``, ``record`` and ``groups`` name columns of ids and groups.
    """
    import pandas

    names = [targets] if isinstance(targets, str) else list(targets)
    used = [*features, *names, *filter(None, (patient, record)), *groups]
    text = [*filter(None, (patient, record)), *(names if task.kind == "multiclass" else ())]
    with _reading(file):
        table = pandas.read_csv(file, dtype=dict.fromkeys(text, str))
    if missing := [name for name in used if name not in table]:
        raise DataError(f"{file} has no column {missing[0]!r} (it has: {', '.join(map(str, table.columns))})")
    for name in used:
        if table[name].isna().any():
            row = int(np.flatnonzero(table[name].isna())[0])
            raise DataError(f"{file}, row {row + 2}: column {name!r} is empty; fill it in, or remove the row")
    if task.kind == "multiclass":
        index = {label: number for number, label in enumerate(task.labels)}
        classes = table[names[0]]
        for row, name in enumerate(classes):
            if name not in index:
                raise DataError(f"{file}, row {row + 2}: class {name!r} is none of {', '.join(task.labels)}")
        values: NDArray[Any] = classes.map(index).to_numpy(np.int64)
    else:
        values = _numbers(file, table, names)
    ids: dict[str, Any] = {"patients": patient, "records": record}
    ids = {name: table[column].to_numpy(np.str_) for name, column in ids.items() if column}
    by_group = {name: np.array(table[name].to_list()) for name in groups}
    return Split(_numbers(file, table, features), values, groups=by_group, **ids)


def _numbers(file: Path, table: Any, columns: Sequence[str]) -> NDArray[np.float32]:
    for name in columns:
        try:
            table[name].to_numpy(np.float32)
        except ValueError as error:
            raise DataError(f"{file}: column {name!r} holds something else than numbers: {error}") from error
    numbers: NDArray[np.float32] = table[list(columns)].to_numpy(np.float32)
    return numbers


def read_wfdb(
    record: Path, rate: float, channels: Sequence[str] | None = None, seconds: float | None = None
) -> NDArray[np.float32]:
    """Read a WFDB record (its path without suffix) in physical units, at ``rate`` Hz: (channels, samples).

    A record at another rate is resampled with an anti-aliasing polyphase filter (scipy.signal.resample_poly).
    ``channels`` selects and orders channels by name; ``seconds`` cuts the record after so long, or pads it with zeros.
    Raises DataError for a missing value, too.
    """
    import wfdb
    from scipy.signal import resample_poly

    with _reading(record):
        content = wfdb.rdrecord(str(record))
    signals, names = np.asarray(content.p_signal, np.float64), list(content.sig_name)
    if channels is not None:
        for name in channels:
            if name not in names:
                raise DataError(f"{record} has no channel {name!r} (it has: {', '.join(names)})")
        signals = signals[:, [names.index(name) for name in channels]]
    if not np.isfinite(signals).all():
        raise DataError(f"{record} has missing values; repair or drop it")
    ratio = Fraction(rate / content.fs).limit_denominator(LARGEST_FACTOR)
    if ratio != 1:
        signals = resample_poly(signals, ratio.numerator, ratio.denominator, axis=0)
    if seconds is not None:
        wanted = round(seconds * rate)
        signals = np.pad(signals[:wanted], ((0, max(0, wanted - len(signals))), (0, 0)))
    return np.ascontiguousarray(signals.T, np.float32)


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The images of a folder with one subfolder a class, in the order of their paths."""

    folder: Path
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    #: (n,) int64, the index of each image's class.
    targets: NDArray[np.int64]

    @property
    def records(self) -> NDArray[np.str_]:
        """The path of each image within the folder."""
        return np.array([file.relative_to(self.folder).as_posix() for file in self.files], np.str_)


def find_images(folder: Path, suffixes: Sequence[str] = (".png", ".jpg", ".jpeg")) -> ImageFolder:
    """List the images below each subfolder of ``folder``, which is a class."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    files = [
        (file, index)
        for index, name in enumerate(classes)
        for file in sorted((folder / name).rglob("*"))
        if file.suffix.lower() in suffixes
    ]
    if not files:
        raise DataError(f"{folder} has no subfolders with images ({', '.join(suffixes)})")
    targets = np.array([index for _, index in files], np.int64)
    return ImageFolder(folder, tuple(classes), tuple(file for file, _ in files), targets)


def read_images(files: Sequence[Path], shape: tuple[int, int, int]) -> Blocks:
    """Decode images to uint8 (n, channels, height, width) block by block, for ``cache.cached``.

    ``shape`` is (channels, height, width), with 1 channel for grey or 3 for RGB; other sizes are resampled.
    """
    if shape[0] not in (1, 3):
        raise DataError(f"images have 1 channel (grey) or 3 (RGB), not {shape[0]}")
    blocks = (
        np.stack([_image(file, shape) for file in files[start : start + IMAGES]])
        for start in range(0, len(files), IMAGES)
    )
    return Blocks((len(files), *shape), "uint8", blocks)


def _image(file: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    from PIL import Image

    with _reading(file), Image.open(file) as image:
        converted = image.convert("L" if shape[0] == 1 else "RGB")
        if converted.size != (shape[2], shape[1]):
            converted = converted.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
        pixels = np.asarray(converted, np.uint8).reshape(shape[1], shape[2], shape[0])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def divide(split: Split, shares: Mapping[str, float], seed: int = 0) -> dict[str, Split]:
    """Divide examples at random into parts of these names and shares, by patient where the split has patients.

    ``divide(examples, {"train": 0.7, "validation": 0.15, "test": 0.15})``: the keywords of ``harness.Data``.
    """
    if not math.isclose(sum(shares.values()), 1):
        raise DataError(f"the shares {dict(shares)} add up to {sum(shares.values()):g}, not 1")
    units, member = np.unique(split.units()[0], return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(units))
    bounds = np.round(np.cumsum([0, *shares.values()]) * len(units)).astype(int)
    rank = np.empty(len(units), int)
    rank[order] = np.arange(len(units))
    places = rank[member]
    return {
        name: split.take(np.flatnonzero((places >= low) & (places < high)))
        for name, low, high in zip(shares, bounds[:-1], bounds[1:], strict=True)
    }
