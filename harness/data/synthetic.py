"""Synthetic data sets on disk: made whole and once, whoever asks, and known by a marker for what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.api import Dataset
from harness.errors import DataError


def make_once(dataset: Dataset, folder: Path, last: Path, write: Callable[[Path], None]) -> None:
    """Have ``write`` make ``dataset`` in ``folder``, unless it is there complete and of this version.

    The marker, a file of the data set's name that holds its version, comes first, and ``last``, without which nobody
    recognises the folder, is what ``write`` must write last: what was interrupted is neither taken for real data nor
    for complete. Raises DataError when the folder cannot be written.
    """
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # two runs may want it at once
            marker = folder / dataset.name
            if dataset.matches(folder) and marker.is_file() and marker.read_text() == dataset.version:
                return
            last.unlink(missing_ok=True)
            marker.write_text(dataset.version)
            write(folder)
    except OSError as error:
        raise DataError(f"{folder}: {dataset.name} cannot be written there ({error}); make room") from error
