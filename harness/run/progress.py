"""Progress for people: a bar with the time left on a terminal, a line a step elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TextIO

from tqdm import tqdm

from harness.api import Progress


class Display:
    """Shows which step is under way and how far it is. ``stream`` None shows nothing."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._bars = stream is not None and stream.isatty()
        self._position = ""

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._stream is not None:
            tqdm.write(text, file=self._stream)
            self._stream.flush()

    def overall(self, index: int, total: int) -> None:
        """The number of the step to come, and how many there are."""
        self._position = f"[{index}/{total}] "

    @contextlib.contextmanager
    def step(self, label: str) -> Iterator[Progress]:
        """One step: what it yields is told how far the step is."""
        began = time.perf_counter()
        text = f"{self._position}{label}"
        with tqdm(
            desc=text, file=self._stream, disable=not self._bars, leave=False, dynamic_ncols=True, unit_scale=True
        ) as bar:

            def progress(done: int, total: int, note: str = "") -> None:
                if bar.disable:
                    return
                if done < bar.n or bar.total != total:
                    bar.reset(total)
                bar.set_postfix_str(note, refresh=False)
                bar.update(done - bar.n)

            yield progress
        self.say(f"{text}: {time.perf_counter() - began:.1f} s")
