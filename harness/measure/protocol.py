"""A child process that answers requests, one JSON object a line, for as long as its parent lives."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

from harness.errors import HarnessError, describe_error

PR_SET_PDEATHSIG = 1


def serve(answer: Callable[[dict[str, Any]], Any]) -> None:
    """Answer requests until the input ends: ``{"ok": value}``, or ``{"error": {kind, text}}`` when it raises."""
    requests, replies = _private_streams()
    die_with_parent()
    if _deserted(requests):
        return  # the parent died before it could take this process with it
    for line in requests:
        replies.write(json.dumps(reply_of(functools.partial(_answer, answer, line))) + "\n")
        replies.flush()


def _answer(answer: Callable[[dict[str, Any]], Any], line: str) -> Any:
    return answer(json.loads(line))


def reply_of(answer: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"ok": answer()}
    except HarnessError as error:
        return {"error": {"kind": type(error).__name__, "text": str(error)}}
    except (Exception, SystemExit) as error:
        return {"error": {"kind": "CellError", "text": describe_error(error)}}


def _private_streams() -> tuple[TextIO, TextIO]:
    """The standard input and output, for the protocol alone: what a plugin prints goes to the standard error."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def die_with_parent() -> None:
    """Be killed when the parent is, even in the middle of a request; where Linux is not, the input's end must do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _deserted(requests: TextIO) -> bool:
    """Whether nobody holds the other end of the pipe any more; it may have a request in it all the same."""
    poll = select.poll()
    poll.register(requests, 0)  # the end of the other side is always reported
    return any(event & select.POLLHUP for _, event in poll.poll(0))
