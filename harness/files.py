"""Temporary files that go when their process does, however it ends."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

#: A process that waits for the end of its input, which comes when the owner of the folder ends, and then removes the
#: folder. It looks again for a while: a worker that is killed with the owner may still be writing a file.
REAPER = """
import os, shutil, signal, sys, time

for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
sys.stdin.read()
for _ in range(50):
    if not os.path.exists(sys.argv[1]):
        break
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    time.sleep(0.1)
"""


def prefix() -> str:
    """How the names of this process' temporary folders begin, so that a later process knows whose they were."""
    return f"harness-{_machine()}-{os.getpid()}-"


def _machine() -> str:
    """Where process numbers mean this machine's: its name and, on Linux, the namespace of a container."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return f"{platform.node()}-{namespace}"


class Scratch:
    """A folder of its own in ``home``, removed by ``close``, or by a process that outlives this one when it is killed.

    What processes of this machine left in ``home`` is removed first; that takes a machine that went down, or somebody
    who killed the other process as well. Raises OSError when the folder cannot be made.
    """

    def __init__(self, home: Path) -> None:
        _clean(home)
        #: An absolute path.
        self.folder = Path(tempfile.mkdtemp(dir=home.resolve(), prefix=prefix()))
        # A session of its own keeps Ctrl-C away; -I and the root as its folder, whatever else could hinder it.
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
        """Remove the folder and wait for the end of the process that watched over it; a second call does nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._reaper.communicate()


def _clean(home: Path) -> None:
    """Remove the folders of processes that are no more. Those of other machines are left: nobody here can tell."""
    for left in home.iterdir():
        machine, _, rest = left.name.rpartition("-")[0].rpartition("-")
        if machine == f"harness-{_machine()}" and rest.isdecimal() and not _alive(int(rest)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
