"""A cell's latency: timed beside its reference, the reference beside itself, and judged when all cells are timed."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.api import Profile
from harness.errors import HarnessError
from harness.keys import to_jsonable
from harness.records.record import AARun, Confirmation, Cost, Interval, SignalRecord, Timing, VerdictRecord
from harness.suite.matrix import Cell
from harness.suite.presets import Preset
from harness.text import pluralize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.measure.pool import PairedSamples, SingleSamples, Workers
    from harness.stats.ratios import Ratio

logger = logging.getLogger(__name__)
#: Study B's protocol, "single": so many untimed calls come first.
SINGLE_WARMUP = 100
#: The arrays of the samples that are kept.
ARRAYS = ("reference", "candidate", "reference_first", "inputs")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A cell with the two deployed files to compare, and the .npy of the inputs that both get.

    ``steady`` is the file that is timed against itself to see what the machine does: by default the reference, but
    where each cell has a reference of its own, one that they share saves time.
    """

    cell: Cell
    reference: Path
    candidate: Path
    inputs: Path
    steady: Path | None = None

    @property
    def itself(self) -> Pair:
        """The comparison that must find no difference."""
        steady = self.steady or self.reference
        return dataclasses.replace(self, reference=steady, candidate=steady)


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """A cell's samples, nanoseconds: ``candidate`` (processes, calls), and ``kept``, all arrays as the file keeps them.

    The confirmation, if there is one, joins those that are kept. The hashes are of the files that were timed.
    """

    candidate: NDArray[np.int64]
    kept: dict[str, list[Any]]
    reference_sha256: str
    candidate_sha256: str


@dataclasses.dataclass(frozen=True, eq=False)
class Taken:
    """One comparison in pairs: its samples, ratio and signals, and that of the reference with itself beside it."""

    samples: PairedSamples
    ratio: Ratio
    signals: list[SignalRecord]
    itself: Taken | None

    @property
    def beyond(self) -> list[SignalRecord]:
        return [signal for signal in self.signals if signal.beyond]

    @property
    def disturbed(self) -> bool:
        return bool(self.beyond)


class LatencyTimer:
    """Times the cells of a run one after the other, and judges them at its end.

    ``versus`` is what a cell is compared with, for messages.
    """

    def __init__(
        self,
        pool: Workers,
        preset: Preset,
        margin: float,
        versus: str = "reference",
    ) -> None:
        self._versus = versus
        self._pool = pool
        self._preset = preset
        self._margin = margin
        self._timed: list[tuple[Pair, Timing, Samples]] = []
        self._itself: dict[tuple[Profile, str, Path], Taken] = {}
        self._single: dict[tuple[Profile, str, Path], SingleSamples] = {}

    def time(self, pair: Pair) -> tuple[Timing, Samples]:
        """Time a cell in pairs with its reference. Raises as the pool does.

        A cell during which the machine was disturbed is timed once more, after its reference has been timed against
        itself again. What decides on that are the signals alone, never the result.
        """
        taken = self._take(pair, self._time_itself(pair))
        if taken.disturbed:
            taken = self._take(pair, self._time_itself(pair, again=True), "cell again")
        samples = taken.samples
        kept = {name: getattr(samples, name).tolist() for name in ARRAYS}
        timing = self._timing(pair, taken)
        found = Samples(samples.candidate, kept, samples.reference_sha256, samples.candidate_sha256)
        self._timed.append((pair, timing, found))
        return timing, found

    def time_single(self, pair: Pair) -> tuple[Timing, Samples]:
        """Time a cell as study B did: the mean of one process, and its reference's likewise, one after the other."""
        reference, candidate = self._measure_single(pair, pair.reference), self._measure_single(pair, pair.candidate)
        ratio = float(candidate.times.mean() / reference.times.mean())
        timing = Timing(
            protocol="single",
            profile=to_jsonable(pair.cell.profile),
            processes=1,
            pairs=len(candidate.times),
            warmup=SINGLE_WARMUP,
            ratio=Interval(ratio, None, None, 0.95, "ratio of two means, each of one process: it has no interval"),
            environment=[dict(candidate.environment)],
        )
        kept = {"reference": [reference.times.tolist()], "candidate": [candidate.times.tolist()]}
        return timing, Samples(candidate.times[None], kept, reference.sha256, candidate.sha256)

    def finalize_verdicts(self, confirm: bool = True) -> None:
        """Write into each timing the verdict on it; what is slower is timed again first, by fresh processes.

        The verdicts of a matrix are judged together, for among many cells some look slower by chance. Without
        ``confirm`` (the run was interrupted) what seems slower stays inconclusive.
        """
        from harness.stats.verdict import decide_verdicts

        suspects = []
        for _, group in itertools.groupby(sorted(self._timed, key=_family), key=_family):
            clean = []
            for entry in group:
                _, timing, _ = entry
                if timing.exceeded:
                    timing.verdict = self._verdict("contaminated", _explain(timing.exceeded))
                else:
                    clean.append(entry)
            verdicts = decide_verdicts([timing.per_process for _, timing, _ in clean], self._margin)
            for entry, found in zip(clean, verdicts, strict=True):
                if found.kind == "slower":
                    suspects.append((entry, self._verdict("slower", found.reason, found.p)))
                    reason = "slower, but the run ended before fresh processes could confirm it"
                    entry[1].verdict = self._verdict("inconclusive", reason)
                else:
                    entry[1].verdict = self._verdict(found.kind, found.reason, found.p, found.processes_needed)
        self._timed.clear()
        if suspects and confirm:
            is_slower, it = ("is slower than its", "it") if len(suspects) == 1 else ("are slower than their", "them")
            message = f"{pluralize(len(suspects), 'cell')} {is_slower} {self._versus}; timing {it} in fresh processes"
            logger.info(message)
            self._pool.renew()
            for (pair, timing, samples), verdict in suspects:
                timing.verdict = self._confirmed(pair, verdict, samples)

    def _confirmed(self, pair: Pair, verdict: VerdictRecord, first: Samples) -> VerdictRecord:
        """The verdict once the pair was timed again: itself if it is slower again, else inconclusive."""
        from harness.stats.verdict import confirms_slower

        try:
            taken = self._take(pair, None, "confirm")
            if taken.disturbed:
                taken = self._take(pair, None, "confirm again")
        except HarnessError as error:
            return self._verdict("inconclusive", f"slower, but could not be timed again: {error}")
        for name in ARRAYS:
            first.kept[f"confirmation_{name}"] = getattr(taken.samples, name).tolist()
        if taken.disturbed:
            reason = f"slower, but its confirmation was disturbed: {_explain(taken.beyond)}"
            verdict = self._verdict("inconclusive", reason)
        elif not confirms_slower(taken.ratio.per_process, self._margin):
            reason = f"slower at first, but fresh processes gave {taken.ratio.ratio:.4f}"
            verdict = self._verdict("inconclusive", reason)
        confirmation = Confirmation(
            ratio=_student(taken.ratio), per_process=list(taken.ratio.per_process), signals=taken.signals
        )
        return msgspec.structs.replace(verdict, confirmation=confirmation)

    def _time_itself(self, pair: Pair, again: bool = False) -> Taken:
        """The steady file against a copy of itself, in the cell's profile; taken once a run, unless ``again``."""
        itself = pair.itself
        key = (dataclasses.replace(pair.cell.profile, name=""), pair.cell.runtime, itself.reference)
        if again or key not in self._itself:
            taken = self._take(itself, None, "itself again" if again else "itself")
            if taken.disturbed and not again:
                taken = self._take(itself, None, "itself again")
            self._itself[key] = taken
        return self._itself[key]

    def _take(self, pair: Pair, itself: Taken | None, purpose: str = "cell") -> Taken:
        """One comparison with its signals; of a file with itself it is ``itself`` already."""
        from harness.measure.noise import aa_signal, noise_signals
        from harness.measure.timing import Amount

        if itself is not None and pair.candidate == pair.reference:
            return itself
        preset = self._preset
        samples = self._pool.time_pair(
            profile=pair.cell.profile,
            runtime=pair.cell.runtime,
            reference=pair.reference,
            candidate=pair.candidate,
            inputs=pair.inputs,
            processes=preset.processes,
            amount=Amount(preset.pairs, preset.warmup, seconds=preset.seconds),
            seed=random.Random(f"{purpose} {pair.cell.name}").getrandbits(32),
        )
        found = noise_signals(samples, None if itself is None else itself.samples)
        if itself is not None:
            found.append(aa_signal(itself.ratio, self._margin))
        elif pair.candidate == pair.reference:
            found.append(aa_signal(_ratio(samples), self._margin))
        signals = [
            SignalRecord(signal=entry.signal, value=entry.value, limit=entry.limit, beyond=entry.beyond)
            for entry in found
        ]
        return Taken(samples, _ratio(samples), signals, itself)

    def _timing(self, pair: Pair, taken: Taken) -> Timing:
        import numpy as np

        samples, ratio = taken.samples, taken.ratio
        calls = samples.reference.sum() + samples.candidate.sum()
        return Timing(
            protocol="paired",
            profile=to_jsonable(pair.cell.profile),
            processes=ratio.processes,
            pairs=ratio.pairs,
            warmup=samples.warmup,
            steady=samples.steady,
            ratio=_student(ratio),
            bootstrap=_bootstrapped(taken),
            per_process=list(ratio.per_process),
            environment=[dict(entry) for entry in samples.environment],
            involuntary_switches=[entry.involuntary_switches for entry in samples.disturbances],
            load=to_jsonable(samples.load),
            signals=taken.signals,
            canary=np.median(samples.canary, axis=2).astype(int).tolist(),
            aa_run=_aa_run(taken.itself or taken),
            cost=Cost(wall=samples.wall, calls=float(calls) / 1e9),
        )

    def _measure_single(self, pair: Pair, file: Path) -> SingleSamples:
        key = (dataclasses.replace(pair.cell.profile, name=""), pair.cell.runtime, file)
        if key not in self._single:
            self._single[key] = self._pool.time_single(
                *key, inputs=pair.inputs, calls=self._preset.calls, warmup=SINGLE_WARMUP
            )
        return self._single[key]

    def _verdict(
        self, kind: str, reason: str, p: float | None = None, processes_needed: int | None = None
    ) -> VerdictRecord:
        return VerdictRecord(
            kind=kind,
            margin=self._margin,
            p=p,
            processes_needed=processes_needed,
            reason=reason,
            confirmation=None,
        )


def _family(timed: tuple[Pair, Timing, Samples]) -> tuple[str, str]:
    """The matrix, over which false discoveries are controlled."""
    cell = timed[0].cell
    return cell.suite, cell.matrix


def _ratio(samples: PairedSamples) -> Ratio:
    from harness.stats.ratios import paired_ratio

    return paired_ratio(samples.reference, samples.candidate)


def _student(ratio: Ratio) -> Interval:
    method = ratio.reason or f"Student's t over {ratio.processes} processes"
    return Interval(ratio.ratio, ratio.low, ratio.high, ratio.level, method)


def _bootstrapped(taken: Taken) -> Interval | None:
    from harness.stats.ratios import hierarchical_bootstrap

    if taken.ratio.processes < 2:
        return None
    low, high = hierarchical_bootstrap(taken.samples.reference, taken.samples.candidate)
    return Interval(taken.ratio.ratio, low, high, 0.95, "hierarchical bootstrap over processes, then pairs")


def _aa_run(taken: Taken) -> AARun:
    from harness.stats.ratios import minimum_detectable_effect

    return AARun(
        sha256=taken.samples.reference_sha256,
        ratio=_student(taken.ratio),
        per_process=list(taken.ratio.per_process),
        smallest_change=minimum_detectable_effect([taken.ratio.per_process], around_one=True),
        disturbed=taken.disturbed,
    )


def _explain(beyond: Sequence[SignalRecord]) -> str:
    from harness.measure.noise import SIGNALS

    return "; ".join(SIGNALS[entry.signal].describe(entry.value or 0.0) for entry in beyond)
