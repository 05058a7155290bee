"""Errors for users: each says what is wrong, where, and how to put it right."""

from __future__ import annotations

import contextlib
import difflib
import errno
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path


class HarnessError(Exception):
    """The base of every error that a user can put right; its text is the whole message."""


class UsageError(HarnessError):
    """A suite, an option or a name is wrong."""


class NoData(UsageError):
    """A data set that a suite names is not where the user says that data are: its cells fail, others go on."""


class DataError(HarnessError):
    """A data set is missing, damaged, or not what its format promises."""


class StoreError(HarnessError):
    """The store cannot be read or written."""


class MeasureError(HarnessError):
    """A timing could not be taken in the environment that the profile asks for."""


class CellError(HarnessError):
    """One cell of a matrix failed; the others go on."""


class Unsupported(HarnessError):
    """A step cannot handle this network: the cell is skipped with this reason, not failed."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about a wrong name: the nearest right ones, and all of them when there are few."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    if not names:
        return f"{hint} (none is registered)"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"{hint} (known: {shown})"


def describe_error(error: BaseException, thing: type | None = None) -> str:
    """What foreign code raised, and where: its kind, its text, and the last line of code that was run.

    Of the code that ``thing`` belongs to where it is given: a library that it calls says less. Else of code outside
    this package, where there is any: what refuses a plugin's code says less than the line that is refused.
    """
    try:
        text = str(error)
    except Exception:  # foreign, too
        text = "(it cannot say what)"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if thing is not None and _is_in(frame.filename, thing)]
    outside = [frame for frame in frames if not _is_ours(frame.filename)]
    told = own or outside or frames
    where = f" ({told[-1].filename}, line {told[-1].lineno})" if told else ""
    return f"{type(error).__name__}: {text}{where}"


def _is_ours(filename: str) -> bool:
    """Whether a file is of this package, or of the machinery that imports its modules."""
    return filename.startswith("<frozen ") or Path(filename).is_relative_to(Path(__file__).parent)


def _is_in(filename: str, thing: type) -> bool:
    """Whether a file is of the module, or the top-level package, that ``thing`` comes from."""
    module = sys.modules.get(thing.__module__.partition(".")[0])
    folders = list(getattr(module, "__path__", []))
    return filename == getattr(module, "__file__", None) or any(
        Path(filename).is_relative_to(folder) for folder in folders
    )


@contextlib.contextmanager
def explain_disk_errors(what: str, remedy: str) -> Iterator[None]:
    """Convert an OSError in the block into a StoreError that reads ``what: reason, remedy``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = "the disk is full: free some space"
        elif error.errno == errno.EROFS:
            reason = "the file system is read-only: mount it for writing"
        elif error.errno in (errno.EACCES, errno.EPERM):
            reason = "permission denied: check the permissions"
        else:
            reason = f"{error}: check the folder"
        raise StoreError(f"{what}: {reason}, {remedy}") from error
