"""Run plugin code in isolation: convert its exceptions, capture its output, restore process-wide settings.

All of it is attributed to the plugin. These cannot be isolated: an end of the process by C code or by another thread, a
crash of the interpreter, a call that never returns, KeyboardInterrupt (it interrupts, as Ctrl-C does), and what C code
or child processes write to file descriptor 1. Only code that runs in a worker process (deployed files and their
runtimes) can do all that and fail nothing but its own cell. Where the process ends, the
journal of the run keeps its finished cells (``harness.records.journal``). Threads and files that plugin code leaves
behind harm no measurement; the conformance kit reports them (``harness.testing``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.errors import CellError, HarnessError, describe_error
from harness.text import pluralize, printable

logger = logging.getLogger(__name__)
#: Limits on the output that one call may log: lines, and characters in a line.
LINES, WIDTH = 10, 300


@contextlib.contextmanager
def isolated(
    label: str,
    note: Callable[[str], None] = lambda remark: None,
    *,
    error: type[HarnessError] = CellError,
    thing: type | None = None,
) -> Iterator[None]:
    """Run plugin code; raise ``error`` for any exception in it. HarnessError and KeyboardInterrupt pass unchanged.

    ``label`` begins each message. ``note`` receives each remark about the plugin's conduct, to repeat at the end of the
    run. The error names the last line of code in the package of ``thing``.
    """
    settings, output, process, descriptors = Settings.now(), _Output(label), os.getpid(), _Descriptors()
    try:
        with contextlib.redirect_stdout(output.stream), _refusing_process_ends():
            yield
    except (HarnessError, KeyboardInterrupt) as raised:
        traceback.clear_frames(raised.__traceback__)
        raise
    except BaseException as raised:
        failure = error(f"{label} raised {describe_error(raised, thing)}")
        traceback.clear_frames(raised.__traceback__)  # the frames would keep models and open files until the run ends
        raise failure from raised
    finally:
        if os.getpid() != process:
            _end_child(label)
        if lines := output.end():
            note(f"prints to the standard output ({pluralize(lines, 'line')})")
        for change in descriptors.restore() + settings.restore():
            remark = f"changed {change}; it was restored"
            logger.warning(f"{label} {remark}")
            note(remark)


def _end_child(label: str) -> None:
    """End a child that plugin code forked and that left the plugin: two processes would write the same run."""
    os.write(2, f"harness: {label} forked a process that returned to the harness; it was ended\n".encode())
    _ENDING["_exit"](1)


# ------------------------------------------------------------------------------------------------- process ends


class ProcessEnd(SystemExit):
    """Plugin code called a function that would end the process of the run at once, without its records."""


#: The functions that end a process without any clean-up, or replace its program. The others of os call these.
_ENDING = {name: getattr(os, name) for name in ("_exit", "execv", "execve")}
_refusals = threading.Lock()
#: How many calls of plugin code are running, and in which thread of which process.
_refusing: list[tuple[int, int]] = []


@contextlib.contextmanager
def _refusing_process_ends() -> Iterator[None]:
    """Let functions that end this process raise ProcessEnd in this thread. A forked child may end itself."""
    here = os.getpid(), threading.get_ident()
    with _refusals:
        if not _refusing:
            for name in _ENDING:
                setattr(os, name, _refusal(name))
        _refusing.append(here)
    try:
        yield
    finally:
        with _refusals:
            _refusing.remove(here)
            if not _refusing:
                for name, function in _ENDING.items():
                    setattr(os, name, function)


def _refusal(name: str) -> Callable[..., Any]:
    def end(*arguments: Any) -> Any:
        if (os.getpid(), threading.get_ident()) in _refusing:
            shown = ", ".join(map(repr, arguments[:1]))
            raise ProcessEnd(f"os.{name}({shown}) would end the run without its records; raise an exception instead")
        return _ENDING[name](*arguments)

    return end


# ---------------------------------------------------------------------------------------------------------- output


class _Output(io.RawIOBase):
    """Replaces the standard output: logs the first lines, each with the name of the code that wrote it."""

    def __init__(self, label: str) -> None:
        self.lines = 0
        self._who = label
        self._rest = b""
        self.stream = io.TextIOWrapper(io.BufferedWriter(self), "utf-8", "replace", write_through=True)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for line in lines:
            self._log(line)
        self._rest = self._rest[-10 * WIDTH :]  # bounds the memory of a line that never ends
        return len(data)

    def _log(self, line: bytes) -> None:
        self.lines += 1
        if self.lines <= LINES:
            text = printable(line.decode("utf-8", "replace").rpartition("\r")[2])
            logger.info(f"{self._who}: {text[:WIDTH]}")

    def end(self) -> int:
        """Log the last, unfinished line; return the number of lines."""
        with contextlib.suppress(ValueError):  # the plugin closed the stream
            self.stream.flush()
        if self._rest:
            self._log(self._rest)
            self._rest = b""
        if self.lines > LINES:
            logger.info(f"{self._who}: and {self.lines - LINES} more lines, which are not shown")
        return self.lines


class _Descriptors:
    """The standard input, output and error, which the run still needs when plugin code closed or replaced them."""

    def __init__(self) -> None:
        self._copies: dict[int, int] = {}
        for number in (0, 1, 2):
            with contextlib.suppress(OSError):  # the run began without it
                self._copies[number] = os.dup(number)

    def restore(self) -> list[str]:
        """Restore each that is another one now; return a description of each change."""
        changes = []
        for number, copy in self._copies.items():
            try:
                same = os.path.samestat(os.fstat(number), os.fstat(copy))
            except OSError:
                same = False
            with contextlib.suppress(OSError):  # the plugin closed the copy, too
                if not same:
                    os.dup2(copy, number)
                    changes.append(f"file descriptor {number}")
                os.close(copy)
        return changes


# -------------------------------------------------------------------------------------------------------- settings


#: The signals that end a run; Windows has no SIGHUP.
_END_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The process-wide settings that would change the results or the speed of other cells.

    - the current folder: the store, data sets and result files may have relative paths;
    - the environment: workers inherit from it, and libraries read their number of threads there;
    - the handlers of SIGINT, SIGTERM and SIGHUP, by which a run ends and keeps its records;
    - warning filters: with the filter "error", other code fails at a warning;
    - torch's dtype, grad mode, threads, determinism and precision: they change weights, answers and training times.

    torch's settings are recorded only after torch was imported.
    """

    folder: str | None
    environment: Mapping[str, str]
    handlers: Mapping[signal.Signals, Any]
    filters: list[Any]
    torch: Mapping[str, Any]
    #: The number of imported modules. A module may set variables and filters on import; these are kept.
    modules: int

    @classmethod
    def now(cls) -> Settings:
        switches = {name: getter() for name, (getter, _) in _torch_switches().items()}
        handlers = {number: signal.getsignal(number) for number in _END_SIGNALS}
        return cls(_folder(), dict(os.environ), handlers, list(warnings.filters), switches, len(sys.modules))

    def restore(self) -> list[str]:
        """Restore each setting that differs now; return a description of each change."""
        changes = []
        if self.folder is not None and (folder := _folder()) != self.folder:
            with contextlib.suppress(OSError):  # the folder was removed
                os.chdir(self.folder)
            changes.append(f"the current folder to {folder}")
        imported = len(sys.modules) > self.modules
        for name in sorted(self.environment.keys() | os.environ.keys()):
            before, after = self.environment.get(name), os.environ.get(name)
            if before == after or (before is None and imported):
                continue
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
            changes.append(f"the environment's {name}")
        for number, handler in self.handlers.items():
            # Only the main thread may set one; None is a handler of C code.
            here = threading.current_thread() is threading.main_thread()
            if here and handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
                changes.append(f"the handler of {number.name}")
        if list(warnings.filters) != self.filters and not imported:
            warnings.simplefilter("default")  # makes Python notice the change below
            warnings.filters[:] = self.filters  # type: ignore[index]
            changes.append("the filters of warnings")
        for name, (getter, setter) in _torch_switches().items():
            if name in self.torch and (value := getter()) != self.torch[name]:
                setter(self.torch[name])
                changes.append(f"torch's {name} to {value}")
        return changes


def _folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _torch_switches() -> Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """How to read and write each setting of torch; empty before torch is imported."""
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
