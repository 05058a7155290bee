"""Signals that end a run: it writes what it measured, whatever its parent did with these signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from harness.run.termination import END_SIGNALS, Termination

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")

#: A process that a signal ends, and that writes its file then.
PROCESS = """
import os, signal, sys, time
from harness.run.termination import Termination

termination = Termination()
termination.start()
try:
    print("ready", flush=True)
    time.sleep(200)
except KeyboardInterrupt as interrupt:
    termination.hold()
    os.kill(os.getpid(), signal.SIGTERM)
    print("files are written after", interrupt)
"""
#: As PROCESS, with a forked child that gets the signal instead.
FORKED = """
import os, signal
from harness.run.termination import Termination

termination = Termination()
termination.start()
child = os.fork()
if child == 0:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def start(ignored: str) -> subprocess.Popen[str]:
    command = f"trap '' {ignored}; exec \"$@\"" if ignored else 'exec "$@"'
    process = subprocess.Popen(
        ["sh", "-c", command, "sh", sys.executable, "-c", PROCESS], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("ignored", ["", "TERM", "HUP"])
def test_sigterm_ends_a_run_after_its_files_are_written(ignored: str) -> None:
    with start(ignored) as process:
        process.send_signal(signal.SIGTERM)
        assert process.communicate()[0] == "files are written after SIGTERM\n"
    assert process.returncode == 0


def test_sighup_ends_a_run_after_its_files_are_written() -> None:
    with start("") as process:
        process.send_signal(signal.SIGHUP)
        assert process.communicate()[0] == "files are written after SIGHUP\n"


def test_sighup_stays_ignored_under_nohup() -> None:
    with start("HUP") as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.communicate()[0] == "files are written after SIGTERM\n"


def test_a_forked_child_ends_as_ever() -> None:
    result = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert result.stdout == f"{-signal.SIGTERM}\n"


def test_handlers_are_restored_and_foreign_ones_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def foreign(*_: object) -> None:
        raise AssertionError

    before = {number: signal.getsignal(number) for number in END_SIGNALS}
    signal.signal(signal.SIGHUP, foreign)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # workers of pytest-xdist have another handler
    try:
        termination = Termination()
        termination.start()
        assert signal.getsignal(signal.SIGHUP) is foreign
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        termination.stop()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=Termination().start)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
