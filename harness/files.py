"""Write files atomically, and keep temporary files that disappear with their process."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from harness.errors import explain_disk_errors

#: The suffix of temporary files.
TEMPORARY = ".tmp"
#: The program of the process that removes a scratch folder when its owner ends, which closes this process' input.
#: It repeats the removal for a while: a worker that is killed with the owner may still be writing a file.
REAPER = """
import os, shutil, signal, sys, time

for name in ("SIGHUP", "SIGINT", "SIGTERM"):
    if hasattr(signal, name):  # Windows has no SIGHUP
        signal.signal(getattr(signal, name), signal.SIG_IGN)
sys.stdin.read()
for _ in range(50):
    if not os.path.exists(sys.argv[1]):
        break
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    time.sleep(0.1)
"""


@contextlib.contextmanager
def atomic_write(path: Path, remedy: str, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; when the block ends without an error, that file replaces ``path``.

    A reader sees the old file or the new one, never a part of it, and so does the next run after a crash. An error in
    the block leaves ``path`` as it was and removes the temporary file; the next write into the folder removes the one
    of a killed process. Missing folders are created. A symbolic link keeps its target; a device or a pipe, such as
    /dev/stdout, is written directly. Pass ``sync=False`` for a file whose damage is detected on reading: the content is
    then not flushed to the disk before the replacement, so a power failure may lose it.

    Raises StoreError for an OSError in the block, with ``remedy`` as the end of the message.
    """
    with explain_disk_errors(f"cannot write {path}", remedy):
        if path.exists() and not path.is_file():
            yield path
            return
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        temporary = target.parent / f"{process_prefix()}{secrets.token_hex(4)}{TEMPORARY}"
        try:
            yield temporary
            publish(temporary, target, sync=sync)
        finally:
            temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path, *, sync: bool = True) -> None:
    """Replace ``path`` by the complete file ``temporary`` of the same file system, in one step. Raises OSError."""
    if sync:
        flush(temporary)
    os.replace(temporary, path)


def flush(file: Path) -> None:
    """Wait until the content of ``file`` is on the disk. Raises OSError, also for an earlier write that failed."""
    with file.open("r+b") as stream:  # Windows flushes only a file that is open for writing
        os.fsync(stream.fileno())


def temporary_folder(home: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a context manager for a new folder in ``home``; ``Scratch`` removes those of killed processes."""
    return tempfile.TemporaryDirectory(dir=home, prefix=process_prefix())


def check_writable(folder: Path, failure: str, remedy: str) -> None:
    """Raise StoreError now if no file can be written into ``folder``, rather than after hours of work."""
    with explain_disk_errors(failure, remedy), tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")


def process_prefix() -> str:
    """Return the prefix of this process' temporary files, by which others can check whether it still runs."""
    return f"harness-{_machine()}-{os.getpid()}-"


def _machine() -> str:
    """Identify the space in which process numbers are unique: the host and, on Linux, the container's namespace."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return f"{platform.node()}-{namespace}"


def remove_leftovers(home: Path) -> None:
    """Remove the temporary files and folders in ``home`` whose process, on this machine, has ended."""
    with contextlib.suppress(OSError):  # another process may be removing them, or own them
        for entry in home.iterdir():
            machine, _, process = entry.name.rpartition("-")[0].rpartition("-")
            if machine == f"harness-{_machine()}" and process.isdecimal() and not _alive(int(process)):
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if sys.platform == "win32":
        return True  # unknown: os.kill(process, 0) would interrupt it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Scratch:
    """A temporary folder in ``home``, removed by ``close``, or by a second process when this one is killed.

    The folders that earlier processes of this machine left in ``home`` are removed first: they remain only when the
    machine went down, or when the second process was killed too. Raises OSError when the folder cannot be created.
    """

    def __init__(self, home: Path) -> None:
        remove_leftovers(home)
        #: An absolute path.
        self.folder = Path(tempfile.mkdtemp(dir=home.resolve(), prefix=process_prefix()))
        # A new session protects it from Ctrl-C; -I and the root as working folder, from a modified environment.
        self._reaper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", REAPER, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder and end the second process; calling this again does nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._reaper.communicate()
