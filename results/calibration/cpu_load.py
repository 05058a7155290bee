"""Keep CPUs busy while something else is timed, to test that timings withstand load."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from harness.api import Profile
from harness.errors import MeasureError, UsageError
from harness.measure.profile import resolve_affinity

#: Burns one CPU until its standard input closes, which happens however the parent ends.
BURNER = """
import os, sys, threading

def wait():
    sys.stdin.read()
    os._exit(0)

os.sched_setaffinity(0, [int(sys.argv[1])])
threading.Thread(target=wait).start()
while True:
    pass
"""


def other_cpus(profile: Profile) -> tuple[int, ...]:
    """Return the CPUs that this process may use and that workers of ``profile`` are not pinned to.

    Raises UsageError if there is no such CPU, or if the workers are not pinned.
    """
    pinned = resolve_affinity(profile)
    if pinned is None:
        raise UsageError(
            "the workers must be pinned to their CPUs before the other CPUs can be loaded: use Linux and a profile "
            "with an affinity (such as 'auto'), or pass --quiet-only"
        )
    others = tuple(sorted(os.sched_getaffinity(0) - set(pinned)))
    if not others:
        raise UsageError(
            f"no CPU is left to load: the workers are pinned to the CPUs {list(pinned)}, and this process may use no "
            "other; allow it more CPUs (taskset, the container's CPU set), or pass --quiet-only"
        )
    return others


@contextlib.contextmanager
def burning(cpus: Sequence[int]) -> Iterator[None]:
    """Run one busy process on each of ``cpus``. Raises MeasureError at the end if one of them ended early."""
    with contextlib.ExitStack() as stack:
        burners = {cpu: stack.enter_context(_burner(cpu)) for cpu in cpus}
        yield
        for cpu, burner in burners.items():
            if burner.poll() is not None:
                raise MeasureError(
                    f"the process that loads CPU {cpu} ended early with status {burner.returncode}, so the timings "
                    "beside it are invalid: find out what killed it, and run again"
                )


@contextlib.contextmanager
def _burner(cpu: int) -> Iterator[subprocess.Popen[bytes]]:
    # A new session keeps Ctrl-C away from the process; -I and -S keep the user's Python settings away.
    command = [sys.executable, "-I", "-S", "-c", BURNER, str(cpu)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as burner:
        try:
            yield burner
        finally:
            burner.kill()
