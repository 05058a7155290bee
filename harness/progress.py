"""Show the progress of a run: log lines on a stream, and on a terminal a bar with the remaining time."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

if TYPE_CHECKING:
    from harness.api import Progress

logger = logging.getLogger(__name__)
#: Seconds between two lines on the progress of one step, where no bar is shown.
PERIOD = 60.0
#: Lines of these loggers are about the run as a whole and begin with "harness: ". Others name a step or a plugin first.
WHOLE_RUN = ("harness.run", "harness.store", "harness.measure", "harness.records")


class _Lines(logging.Handler):
    """Writes each record as one line, above the progress bars."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "harness: " if record.name.startswith(WHOLE_RUN) else ""
        tqdm.write(f"{prefix}{record.getMessage()}", file=self._stream)
        self._stream.flush()


@contextlib.contextmanager
def log_to(stream: TextIO | None) -> Iterator[None]:
    """Write the harness's log to ``stream`` in the block; None writes nothing.

    Records do not reach the root logger meanwhile: pytest would print them a second time.
    """
    if stream is None:
        yield
        return
    root, handler = logging.getLogger("harness"), _Lines(stream)
    level, propagate = root.level, root.propagate
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    root.propagate = False
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        root.propagate = propagate


class Display:
    """Shows the current step and its progress: a bar on a terminal, else now and then a log line; a line at its end."""

    def __init__(self, stream: TextIO | None) -> None:
        """``stream`` None shows no bar."""
        self._stream = stream
        self._bars = stream is not None and stream.isatty()

    @contextlib.contextmanager
    def step(self, label: str) -> Iterator[Progress]:
        """Show one step; yields the callback by which the step reports its progress."""
        began = logged = time.perf_counter()
        with tqdm(
            desc=label, file=self._stream, disable=not self._bars, leave=False, dynamic_ncols=True, unit_scale=True
        ) as bar:

            def progress(done: int, total: int, note: str = "") -> None:
                nonlocal logged
                if bar.disable:
                    if time.perf_counter() - logged >= PERIOD:
                        logged = time.perf_counter()
                        logger.info(f"{label}: {done} of {total}" + (f", {note}" if note else ""))
                    return
                if done < bar.n or bar.total != total:
                    bar.reset(total)
                bar.set_postfix_str(note, refresh=False)
                bar.update(done - bar.n)

            yield progress
        logger.info(f"{label}: {time.perf_counter() - began:.1f} s")
