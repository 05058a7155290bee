"""Keep the finished cells of a run on disk until its run file is written, so that no end of the process loses them.

A journal is a file of JSON lines beside the run file. The first line is a run file without measured cells. Each further
line adds a finished cell: ``{"benchmark": ..., "documents": ...}`` for a measured one, ``{"left": ...}`` for another.
The run removes its journal when it has written its run file; a journal without a running process is that of an
interrupted run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from harness.errors import StoreError, UsageError, explain_disk_errors
from harness.records.record import FIELD
from harness.text import pluralize

SUFFIX = ".journal"

logger = logging.getLogger(__name__)


class Journal:
    """The journal of the run that is going on. Its file is locked as long as this process lives."""

    def __init__(self, run_file: Path, header: Mapping[str, Any]) -> None:
        """``header`` is the document of a run file without cells. Raises StoreError when the file cannot be written."""
        name = f"{run_file.name}.{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}{SUFFIX}"
        self.file = run_file.with_name(name)
        #: The number of measured cells on the disk.
        self.cells = 0
        self._size = 0
        self._failed = False
        with explain_disk_errors(f"cannot write {self.file}", "or choose another folder"):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.file.open("xb", buffering=0)
            _lock(self._stream)
            self._append(header)

    def add(self, line: Mapping[str, Any]) -> None:
        """Append the line of a finished cell, and wait until it is on the disk.

        A disk error is logged once and does not end the run: its cells are still in memory.
        """
        try:
            with explain_disk_errors(
                f"cannot write {self.file}", "else a kill loses the cells that finish from now on"
            ):
                self._append(line)
        except StoreError as error:
            if not self._failed:
                logger.warning(str(error))
            self._failed = True
        else:
            self.cells += "benchmark" in line

    def _append(self, line: Mapping[str, Any]) -> None:
        content = json.dumps(line, default=repr).encode() + b"\n"
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[self._stream.write(rest) :]
            os.fsync(self._stream.fileno())
        except OSError:
            self._stream.truncate(self._size)  # a part of a line would spoil the next one
            self._stream.seek(self._size)
            raise
        self._size += len(content)

    def close(self) -> None:
        """Release the file and leave it on the disk, as that of an interrupted run."""
        self._stream.close()

    def remove(self) -> None:
        """Remove the file: all its cells are elsewhere."""
        self._stream.close()
        self.file.unlink(missing_ok=True)


def read_journal(file: Path) -> dict[str, Any]:
    """Return the document of a run file with the cells of a journal, marked as interrupted.

    The line that the end of the process cut off is ignored. Raises UsageError for a file that cannot be read or is
    damaged.
    """
    try:
        *lines, _ = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UsageError(f"there is no file {file}") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    values: list[Any] = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise UsageError(
                f"line {number} of {file} is damaged ({error}); delete that line to use the others"
            ) from error
    try:
        header, *cells = values
        left = {_name(entry): entry for entry in header[FIELD]["left"]}
        left |= {_name(cell["left"]): cell["left"] for cell in cells if "left" in cell}
        measured = [cell for cell in cells if "benchmark" in cell]
        for cell in measured:
            left.pop(_name(cell["benchmark"]["extra_info"][FIELD]), None)
        documents = {key: document for cell in measured for key, document in cell["documents"].items()}
        ours = {**header[FIELD], "documents": documents, "left": list(left.values()), "interrupted": True}
        return {**header, "benchmarks": [cell["benchmark"] for cell in measured], FIELD: ours}
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise UsageError(f"{file} is no journal of a run, or is damaged: {error!r}") from error


def interrupted_journals(run_file: Path) -> list[Path]:
    """List the journals that interrupted runs left beside a run file, the oldest first."""
    try:
        names = sorted(os.listdir(run_file.parent))
    except OSError:
        return []
    journals = [name for name in names if name.startswith(f"{run_file.name}.") and name.endswith(SUFFIX)]
    return [file for file in map(run_file.with_name, journals) if not is_running(file)]


def announce_interrupted(run_file: Path) -> None:
    """Log which interrupted runs left cells beside a run file. Journals without a measured cell are removed."""
    for file in interrupted_journals(run_file):
        try:
            document = read_journal(file)
        except UsageError as error:
            logger.warning(f"an interrupted run left a journal: {error}")
            continue
        began = f"the run that began at {document['datetime'][:16].replace('T', ' ')} UTC"
        if document["benchmarks"]:
            logger.warning(f"{began} was interrupted; {count_cells(document)} are in {file}: {recovery(file)}")
        else:
            logger.warning(f"{began} ended with no measured cell on the disk, and wrote no run file")
            if is_running(file) is False:
                file.unlink(missing_ok=True)


def count_cells(document: Mapping[str, Any]) -> str:
    """Return how many of the selected cells the document of an interrupted run has, such as "3 of 8 cells"."""
    measured = len(document["benchmarks"])
    return f"{measured} of {pluralize(measured + len(document[FIELD]['left']), 'cell')}"


def recovery(file: Path, run_file: str = "recovered.json") -> str:
    """Return the command that makes a run file of a journal."""
    return f"harness recover {file} -o {run_file}"


def is_running(file: Path) -> bool | None:
    """Return whether the process that writes this journal is running; None if that is unknown.

    It is unknown on Windows, on file systems without locks, and for a file that cannot be read.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        with file.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    return False


def _lock(stream: IO[bytes]) -> None:
    """Lock the file until this process ends, whatever ends it."""
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _name(cell: Mapping[str, Any]) -> tuple[str, str, str]:
    return cell["suite"], cell["matrix"], cell["cell"]
