"""Generate a synthetic data set on disk once, with a marker file that identifies it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.api import Dataset
from harness.errors import DataError


def make_once(dataset: Dataset, folder: Path, last: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` generate ``dataset`` in ``folder``, unless a complete one of this version exists.

    The marker, a file with the data set's name that contains its version, is written first. ``last`` is the file that
    ``write`` must write last and without which ``dataset.matches`` is false. So an interrupted data set counts neither
    as real data nor as complete. Raises DataError when the folder cannot be written.
    """
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # two runs may need it at the same time
            marker = folder / dataset.name
            if dataset.matches(folder) and marker.is_file() and marker.read_text() == dataset.version:
                return
            last.unlink(missing_ok=True)
            marker.write_text(dataset.version)
            write(folder)
    except OSError as error:
        raise DataError(
            f"{folder}: {dataset.name} cannot be written there ({error}); free some space or choose another folder"
        ) from error
