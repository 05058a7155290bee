"""One worker as the controller sees it: started, asked one request at a time, and never waited for without end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from harness import errors
from harness.errors import CellError
from harness.measure.profile import WorkerEnvironment

LAST_LINES = 5
#: Seconds within which a worker that has closed its output has ended, or will not.
GRACE = 5.0
TAIL_BYTES = 4096


class WorkerProcess:
    """A worker that was started and told its environment; ``greet`` waits until it has verified that.

    Make it in a thread that lives as long as it: on Linux it dies with the thread that started it.
    """

    def __init__(self, command: Sequence[str], environment: WorkerEnvironment, timeout: float) -> None:
        self.environment: Mapping[str, Any] = {}
        self._timeout = timeout
        self._timed_out = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by end)
        # A session of its own keeps Ctrl-C, which the terminal sends to all of a group, from reaching the worker.
        self._process = subprocess.Popen(
            command,
            env=dict(environment.variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,
        )
        self._post("hello", environment.expectation())

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def greet(self) -> None:
        """Wait for the answer to hello: the verified environment. Raises as ``ask`` does."""
        self.environment = self._await("starting")

    def ask(self, action: str, **arguments: Any) -> Any:
        """What the worker answers. Raises the HarnessError that it reports, or CellError when it dies or hangs."""
        self._post(action, arguments)
        return self._await(f"answering the request {action!r}")

    def end(self) -> None:
        """Kill the worker, which has nothing to lose, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            with contextlib.suppress(OSError):  # of a request that could not be delivered
                stream.close()  # type: ignore[union-attr]

    def _post(self, action: str, arguments: Mapping[str, Any]) -> None:
        """A request is far shorter than a pipe holds, so that this never waits."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; waiting for its answer says of what
            self._process.stdin.write(json.dumps({"do": action, **arguments}) + "\n")
            self._process.stdin.flush()

    def _await(self, doing: str) -> Any:
        assert self._process.stdout is not None
        watchdog = threading.Timer(self._timeout, self._give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        except BaseException:
            self._process.kill()  # else its late answer would be taken for that to the next request
            raise
        finally:
            watchdog.cancel()
        if not line.endswith("\n"):
            raise CellError(self._obituary(doing))
        reply = json.loads(line)
        if "error" in reply:
            kind = getattr(errors, reply["error"]["kind"], CellError)
            raise kind(reply["error"]["text"])
        return reply["ok"]

    def _give_up(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _obituary(self, doing: str) -> str:
        try:
            end = how_it_ended(self._process.wait(GRACE))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()  # so that nobody takes it for alive
            end = "closed its output without ending and was killed"
        if self._timed_out:
            end = f"gave no answer for {self._timeout:g} s and was killed"
        return f"the timing worker {end} while {doing}; {self._last_words()}"

    def _last_words(self) -> str:
        size = os.fstat(self._stderr.fileno()).st_size
        tail = os.pread(self._stderr.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode(errors="replace")
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        return f"its last words: {' | '.join(lines[-LAST_LINES:])}" if lines else "it left no message"


def how_it_ended(code: int) -> str:
    """What an exit code of ``subprocess`` or ``os.waitstatus_to_exitcode`` says, for "the process ..."."""
    if code >= 0:
        return f"exited with status {code}"
    name = {int(number): number.name for number in signal.Signals}.get(-code, f"signal {-code}")
    memory = " (if nobody did it, the system ran out of memory)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{memory}"
