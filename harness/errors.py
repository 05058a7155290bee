"""Define the errors for users. Each message states what is wrong, where, and how to fix it."""

from __future__ import annotations

import contextlib
import difflib
import errno
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

#: The error numbers of a full disk, or of a quota that is used up.
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
#: How numpy reports one, without an error number.
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


class HarnessError(Exception):
    """The base of every error that a user can fix; its text is the whole message."""


class UsageError(HarnessError):
    """A suite, an option or a name is wrong."""


class NoData(UsageError):
    """A data set is missing from the folder that the user named: its cells fail, the others go on."""


class DataError(HarnessError):
    """A data set is missing, damaged, or contradicts its format."""


class StoreError(HarnessError):
    """The store cannot be read or written."""


class MeasureError(HarnessError):
    """A model cannot be timed in the environment that its profile requires."""


class CellError(HarnessError):
    """One cell of a matrix failed; the others go on."""


class Unsupported(HarnessError):
    """A step cannot handle this network: the cell is skipped with this reason, not failed."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the similar names, and up to twelve that are valid."""
    valid = sorted(names)
    similar = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, similar))}?" if similar else ""
    if not valid:
        return f"{hint} (none is registered)"
    shown = ", ".join(valid[:12]) + (", ..." if len(valid) > 12 else "")
    return f"{hint} (known: {shown})"


def describe_error(error: BaseException, thing: type | None = None) -> str:
    """Return the type, the message and the location of an exception that plugin code raised.

    The location is the last line that ran in the module or package of ``thing``. If there is none, or no ``thing``, it
    is the last line outside this package, else the last line of all. Deeper lines, in libraries, explain less.
    """
    try:
        text = str(error)
    except Exception:  # str() runs plugin code, too
        text = "(its text cannot be read)"
    frames = traceback.extract_tb(error.__traceback__)
    in_thing = [frame for frame in frames if thing is not None and _is_in(frame.filename, thing)]
    outside = [frame for frame in frames if not _is_ours(frame.filename)]
    candidates = in_thing or outside or frames
    location = f" ({candidates[-1].filename}, line {candidates[-1].lineno})" if candidates else ""
    return f"{type(error).__name__}: {text}{location}"


def _is_ours(filename: str) -> bool:
    """Whether a file belongs to this package, or to the import system."""
    return filename.startswith("<frozen ") or Path(filename).is_relative_to(Path(__file__).parent)


def _is_in(filename: str, thing: type) -> bool:
    """Whether a file belongs to the top-level module or package that defines ``thing``."""
    module = sys.modules.get(thing.__module__.partition(".")[0])
    folders = list(getattr(module, "__path__", []))
    return filename == getattr(module, "__file__", None) or any(
        Path(filename).is_relative_to(folder) for folder in folders
    )


@contextlib.contextmanager
def explain_disk_errors(failure: str, remedy: str) -> Iterator[None]:
    """Convert an OSError in the block into a StoreError that reads ``failure: reason, remedy``."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK or (error.errno is None and _SHORT_WRITE.search(str(error))):
            reason = "the disk is full: free some space"
        elif error.errno == errno.EROFS:
            reason = "the file system is read-only: mount it for writing"
        elif error.errno in (errno.EACCES, errno.EPERM):
            reason = "permission denied: check the permissions"
        else:
            reason = f"{error}: check the folder"
        raise StoreError(f"{failure}: {reason}, {remedy}") from error
