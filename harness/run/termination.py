"""End a run at SIGTERM and SIGHUP as at Ctrl-C, so that it writes what it measured."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

#: The signals that end a run besides SIGINT; Windows has no SIGHUP.
END_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Termination:
    """Between ``start`` and ``stop``, SIGTERM and SIGHUP raise KeyboardInterrupt with the name of the signal.

    SIGTERM ends the run also where the parent process ignores it. SIGHUP stays ignored where it is, as under nohup. A
    handler that somebody else installed stays. After ``hold`` both signals are ignored: the run is at its end and
    writes its files.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._held = False
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int] = {}

    def start(self) -> None:
        """Install the handlers; outside the main thread this is impossible, and does nothing."""
        for number in END_SIGNALS:
            previous = signal.getsignal(number)
            if previous == signal.SIG_DFL or (previous == signal.SIG_IGN and number == signal.SIGTERM):
                try:
                    signal.signal(number, self._handle)
                except ValueError:  # not the main thread
                    return
                self._previous[number] = previous

    def hold(self) -> None:
        """Ignore the signals from now on."""
        self._held = True

    def stop(self) -> None:
        """Restore the former handlers."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked child, which has no run to end
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not self._held:
            raise KeyboardInterrupt(signal.Signals(number).name)
