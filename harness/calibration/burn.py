"""Keeps CPUs busy, so that a timing beside them can be seen to bear it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from harness.api import Profile
from harness.errors import MeasureError, UsageError
from harness.measure.profile import resolve_affinity

#: Burns one CPU until its input ends, which it does when the parent ends, however that is.
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
    """The CPUs that this process may use and that workers of ``profile`` are not pinned to.

    Raises UsageError when there is none, or when the workers are not pinned.
    """
    pinned = resolve_affinity(profile)
    if pinned is None:
        raise UsageError(
            "to load the other CPUs the workers must be pinned to theirs: that takes Linux and a profile with an "
            "affinity ('auto' will do); or leave the busy condition out"
        )
    others = tuple(sorted(os.sched_getaffinity(0) - set(pinned)))
    if not others:
        raise UsageError(
            f"the workers are pinned to the CPUs {list(pinned)}, and this process may use no other that could be "
            "loaded: allow it more (taskset, the container's CPU set), or leave the busy condition out"
        )
    return others


@contextlib.contextmanager
def burning(cpus: Sequence[int]) -> Iterator[None]:
    """A process for each of ``cpus`` that computes there without a pause. MeasureError if one ended before its time."""
    with contextlib.ExitStack() as stack:
        burners = {cpu: stack.enter_context(_burner(cpu)) for cpu in cpus}
        yield
        for cpu, burner in burners.items():
            if burner.poll() is not None:
                raise MeasureError(
                    f"the process that was to load CPU {cpu} ended with status {burner.returncode}, so that what was "
                    "timed beside it means nothing: look for what killed it, and run again"
                )


@contextlib.contextmanager
def _burner(cpu: int) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own keeps Ctrl-C away; -I and -S, whatever else could hinder it.
    command = [sys.executable, "-I", "-S", "-c", BURNER, str(cpu)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as burner:
        try:
            yield burner
        finally:
            burner.kill()
