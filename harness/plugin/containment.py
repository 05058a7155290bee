"""Plugins' code at work: what it raises, prints, leaves behind and switches is told by name, and put back if it can be.

What cannot be contained: ``os._exit``, a crash of the interpreter (a segmentation fault), a call that never returns, an
exception that is derived from BaseException alone (it interrupts, as Ctrl-C does), what C code and child processes
write to the file descriptor 1, and a thread that is no daemon and never ends: the process waits for it in the end. Only
what runs in the worker processes, deployed files and their runtimes, can do all that and fail its own cell alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.errors import CellError, HarnessError, describe_error
from harness.text import printable

#: What foreign code may raise and still only fail itself.
FOREIGN = (Exception, SystemExit)
#: Of what foreign code prints at a time: how many lines are shown, and how long they may be.
LINES, WIDTH = 10, 300
#: Seconds in which a thread that was told to end may do so.
GRACE = 0.1

Tell = Callable[[str], None]


@contextlib.contextmanager
def contained(
    who: str,
    say: Tell,
    note: Tell,
    *,
    error: type[HarnessError] = CellError,
    thing: type | None = None,
    passing: type[Exception] | None = None,
) -> Iterator[None]:
    """Run foreign code: raise ``error`` for whatever it raises, and show what it prints as lines of ``who``'s.

    ``say`` shows a line now, ``note`` keeps a remark for the end of the run. A HarnessError passes as it is, and so
    does ``passing``. The error names the line of code in the package of ``thing``, where it is given.
    """
    output = _Output(who, say)
    try:
        with contextlib.redirect_stdout(output.stream):
            yield
    except HarnessError as raised:
        traceback.clear_frames(raised.__traceback__)
        raise
    except FOREIGN as raised:
        if passing is not None and isinstance(raised, passing):
            raise
        failed = error(f"{who} raised {describe_error(raised, thing)}")
        traceback.clear_frames(raised.__traceback__)  # else they keep models and open files until the run ends
        raise failed from raised
    finally:
        if printed := output.end():
            note(f"prints to the standard output ({printed} {'line' if printed == 1 else 'lines'})")


@contextlib.contextmanager
def watched(who: str, say: Tell, note: Tell, *, files: bool = True) -> Iterator[None]:
    """Put back what foreign code switches for the whole process, and tell of that and of what it leaves behind.

    Threads that still run and, if ``files``, files that are still open.
    """
    before = Settings.now()
    threads, opened = set(threading.enumerate()), open_files() if files else {}
    try:
        yield
    finally:
        remarks = [f"changed {change}; it was put back" for change in before.restore()]
        remarks += _left(threads, opened, files)
        for remark in remarks:
            say(f"{who} {remark}")
            note(remark)


# ---------------------------------------------------------------------------------------------------------- output


class _Output(io.RawIOBase):
    """Stands in for the standard output: each line is said with who wrote it, the first few of them."""

    def __init__(self, who: str, say: Tell) -> None:
        self.lines = 0
        self._who, self._say = who, say
        self._rest = b""
        self.stream = io.TextIOWrapper(io.BufferedWriter(self), "utf-8", "replace", write_through=True)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for line in lines:
            self._show(line)
        self._rest = self._rest[-10 * WIDTH :]  # a line that never ends is kept no longer than this
        return len(data)

    def _show(self, line: bytes) -> None:
        self.lines += 1
        if self.lines <= LINES:
            text = printable(line.decode("utf-8", "replace").rpartition("\r")[2])
            self._say(f"{self._who}: {text[:WIDTH]}")

    def end(self) -> int:
        """Show what is left; returns the number of lines."""
        with contextlib.suppress(ValueError):  # the code has closed it
            self.stream.flush()
        if self._rest:
            self._show(self._rest)
            self._rest = b""
        if self.lines > LINES:
            self._say(f"{self._who}: and {self.lines - LINES} more lines, which are not shown")
        return self.lines


# -------------------------------------------------------------------------------------------------------- settings


@dataclasses.dataclass(frozen=True)
class Settings:
    """What code can switch for the whole process, as it was; torch's as far as torch was imported by then."""

    folder: str | None
    environment: Mapping[str, str]
    filters: list[Any]
    torch: Mapping[str, Any]
    #: How many modules were imported: those to come may set variables and filters of their own.
    modules: int

    @classmethod
    def now(cls) -> Settings:
        switches = {name: read() for name, (read, _) in _torch_switches().items()}
        return cls(_folder(), dict(os.environ), list(warnings.filters), switches, len(sys.modules))

    def restore(self) -> list[str]:
        """Put back what is different now; returns what that was, in words."""
        changes = []
        if self.folder is not None and (now := _folder()) != self.folder:
            with contextlib.suppress(OSError):  # it is gone, and there is no way back
                os.chdir(self.folder)
            changes.append(f"the current folder to {now}")
        imported = len(sys.modules) > self.modules
        found = dict(os.environ)
        for name in sorted(self.environment.keys() | found.keys()):
            old, new = self.environment.get(name), found.get(name)
            if old == new or (old is None and imported):
                continue
            if old is None:
                del os.environ[name]
            else:
                os.environ[name] = old
            changes.append(f"the environment's {name}")
        if list(warnings.filters) != self.filters and not imported:
            warnings.simplefilter("default")  # so that Python notices that they have changed
            warnings.filters[:] = self.filters  # type: ignore[index]
            changes.append("the filters of warnings")
        for name, (read, write) in _torch_switches().items():
            if name in self.torch and (value := read()) != self.torch[name]:
                write(self.torch[name])
                changes.append(f"torch's {name} to {value}")
        return changes


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _torch_switches() -> Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """How torch's switches are read and set; none before torch is imported."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return {}
    return {
        "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
        "number of threads": (torch.get_num_threads, torch.set_num_threads),
        "deterministic mode": (
            torch.get_deterministic_debug_mode,
            torch.set_deterministic_debug_mode,
        ),
        "precision of matrix products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        "cudnn.deterministic": _attribute(torch.backends.cudnn, "deterministic"),
        "cudnn.benchmark": _attribute(torch.backends.cudnn, "benchmark"),
    }


def _attribute(home: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    return lambda: getattr(home, name), lambda value: setattr(home, name, value)


# ------------------------------------------------------------------------------------------------ what is left behind


def open_files() -> dict[int, str]:
    """The files that this process has open, by descriptor; none where the system does not tell, and no devices."""
    found: dict[int, str] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the listing's own is closed by now
                target = os.readlink(f"/proc/self/fd/{name}")
                if target.startswith("/") and not target.startswith(("/dev/", "/proc/", "/sys/", "/memfd:")):
                    found[int(name)] = target
    return found


def _left(threads: set[threading.Thread], opened: Mapping[int, str], files: bool) -> list[str]:
    """In words, the threads that are new and still run, and the files that are new and still open."""

    def new_threads() -> list[threading.Thread]:
        # The monitor of a progress bar stays for the bars to come.
        return [t for t in threading.enumerate() if t not in threads and not type(t).__module__.startswith("tqdm")]

    def new_files() -> list[str]:
        return [name for number, name in open_files().items() if opened.get(number) != name] if files else []

    if not new_threads() and not new_files():
        return []
    gc.collect()  # what nobody holds any more is closed by this
    deadline = time.monotonic() + GRACE
    while new_threads() and time.monotonic() < deadline:
        time.sleep(GRACE / 20)
    remarks = []
    for thread in new_threads():
        waits = "" if thread.daemon else ", for whose end the process will wait"
        remarks.append(f"left the thread {thread.name!r} running{waits}")
    for name in sorted(set(new_files())):
        remarks.append(f"left the file {name} open")
    return remarks
