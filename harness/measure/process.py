"""Start a worker process, send it one request at a time, and enforce a timeout on its answers."""

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

#: The version of the requests and answers, and of what a timed call is. Workers of another version are refused: the
#: gate also starts those of an earlier commit. Raise it with every change of a request that `versions` or `pool` makes.
PROTOCOL = 2
LAST_LINES = 5
#: Seconds to wait for the end of a worker that has closed its output.
GRACE = 5.0
TAIL_BYTES = 4096


class WorkerProcess:
    """A started worker that was sent its expected environment; ``greet`` waits until it has verified that.

    Create it in a thread that lives as long as the worker: on Linux a worker dies with the thread that started it.
    """

    def __init__(self, command: Sequence[str], environment: WorkerEnvironment, timeout: float) -> None:
        self.environment: Mapping[str, Any] = {}
        self._timeout = timeout
        self._timed_out = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by end)
        # In a new session, because the terminal sends Ctrl-C to every process of its session's foreground group.
        self._process = subprocess.Popen(
            command,
            env=dict(environment.variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,
        )
        self._post("hello", {"protocol": PROTOCOL, **environment.expectation()})

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def greet(self) -> None:
        """Wait for the verified environment, the answer to hello. Raises as ``ask`` does."""
        self.environment = self._await("starting")

    def ask(self, action: str, **arguments: Any) -> Any:
        """Return the worker's answer. Raises the HarnessError that it reports, or CellError if it dies or hangs."""
        self._post(action, arguments)
        return self._await(f"answering the request {action!r}")

    def end(self) -> None:
        """Kill the worker, which holds no state, and wait until it has ended."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            with contextlib.suppress(OSError):  # raised by an undelivered request
                stream.close()  # type: ignore[union-attr]

    def _post(self, action: str, arguments: Mapping[str, Any]) -> None:
        """Send a request. It is far shorter than a pipe's buffer, so this never blocks."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the worker died; `_await` reports how
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
            self._process.kill()  # otherwise the next request would get this late answer
            raise
        finally:
            watchdog.cancel()
        if not line.endswith("\n"):
            raise CellError(self._death_report(doing))
        reply = json.loads(line)
        if "error" in reply:
            kind = getattr(errors, reply["error"]["kind"], CellError)
            raise kind(reply["error"]["text"])
        return reply["ok"]

    def _give_up(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _death_report(self, doing: str) -> str:
        try:
            end = how_it_ended(self._process.wait(GRACE))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()  # so that ``alive`` is False
            end = "closed its output without ending and was killed"
        if self._timed_out:
            end = f"gave no answer for {self._timeout:g} s and was killed"
        return f"the timing worker {end} while {doing}; {self._last_output()}"

    def _last_output(self) -> str:
        size = os.fstat(self._stderr.fileno()).st_size
        tail = os.pread(self._stderr.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode(errors="replace")
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        return f"its last output: {' | '.join(lines[-LAST_LINES:])}" if lines else "it printed nothing"


def how_it_ended(code: int) -> str:
    """Describe an exit code of ``subprocess`` or ``os.waitstatus_to_exitcode``: "the process ..."."""
    if code >= 0:
        return f"exited with status {code}"
    name = {int(number): number.name for number in signal.Signals}.get(-code, f"signal {-code}")
    memory = " (probably by the system, because it ran out of memory)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{memory}"
