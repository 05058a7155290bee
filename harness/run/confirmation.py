"""Time the cells that look slower again, in fresh processes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from harness.errors import HarnessError
from harness.measure.latency import LatencyTimer, Pair, SampleArrays
from harness.records.record import Confirmation, Record, Timing
from harness.records.verdicts import TimingId, Versus, suspects
from harness.text import pluralize

logger = logging.getLogger(__name__)
#: The names of the models that a cell is timed beside, in messages.
VERSUS: dict[Versus, str] = {"reference": "reference", "earlier": "model of the earlier run"}


class Confirmations:
    """Times the cells that look slower again, each once."""

    def __init__(self) -> None:
        #: By timing: the measurement of fresh processes, or the reason why there is none; and their samples.
        self.results: dict[TimingId, Confirmation | str] = {}
        self.samples: dict[TimingId, SampleArrays] = {}
        self._pairs: dict[TimingId, tuple[Pair, LatencyTimer]] = {}

    def remember(self, pair: Pair, versus: Versus, timer: LatencyTimer) -> None:
        """Remember a pair and its timer, to time it again if it looks slower."""
        self._pairs[pair.cell.name, versus] = pair, timer

    def run(self, records: Sequence[Record]) -> None:
        """Time the cells of these records that look slower again, unless that was tried before."""
        waiting = {
            timing_id: timing for timing_id, timing in suspects(records).items() if timing_id not in self.results
        }
        for versus, model in VERSUS.items():
            family = [timing_id for timing_id in waiting if timing_id[1] == versus]
            if not family:
                continue
            is_slower, it = ("is slower than its", "it") if len(family) == 1 else ("are slower than their", "them")
            logger.info(f"{pluralize(len(family), 'cell')} {is_slower} {model}; timing {it} in fresh processes")
            for timer in {id(timer): timer for timer in (self._pairs[timing_id][1] for timing_id in family)}.values():
                timer.renew()
            for timing_id in family:
                self._confirm(timing_id, waiting[timing_id])

    def _confirm(self, timing_id: TimingId, timing: Timing) -> None:
        try:
            pair, timer = self._pairs[timing_id]
            self.results[timing_id], self.samples[timing_id] = timer.confirm(pair, timing)
        except HarnessError as error:
            self.results[timing_id] = str(error)
