"""Time a cell beside its reference until its verdict is decided, and the reference beside itself (A/A runs)."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import Profile
from harness.keys import to_jsonable
from harness.records.record import AARun, Confirmation, Cost, Interval, SignalRecord, Timing
from harness.suite.matrix import Cell
from harness.suite.presets import Preset
from harness.text import pluralize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.measure.noise import NoiseSignal
    from harness.measure.pool import PairedSamples, SingleSamples, Workers
    from harness.stats.ratios import Ratio
    from harness.stats.verdict import Looks

#: Untimed calls before the timed ones in study B's protocol, "single".
SINGLE_WARMUP = 100
#: That of harness.stats.verdict, which imports scipy.
LEVEL = 0.05
#: Seconds after which A/A runs describe other minutes, and a new one replaces the oldest. Later for slow networks, so
#: that A/A runs take this share of the time at most.
AA_AGE, AA_SHARE = 120.0, 0.1
#: The sampled arrays that the run file gets.
ARRAYS = ("reference", "candidate", "reference_first", "inputs")
#: Samples for the run file: by array, a list for each process.
SampleArrays = dict[str, list[Any]]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A cell with the two deployed files to compare, and the .npy file of the inputs that both get.

    ``aa_file`` is timed against itself (A/A run) to estimate noise; None stands for the reference. Pass a shared file
    to avoid A/A runs of each reference where each cell has its own. ``margin`` is the relative difference that
    matters (0.01 is 1 %). Each file has its runtime, by default the cell's.
    """

    cell: Cell
    reference: Path
    candidate: Path
    inputs: Path
    margin: float
    aa_file: Path | None = None
    reference_runtime: str | None = None
    candidate_runtime: str | None = None
    aa_runtime: str | None = None

    @property
    def runtimes(self) -> tuple[str, str]:
        """The runtimes of the reference and of the candidate."""
        return self.reference_runtime or self.cell.runtime, self.candidate_runtime or self.cell.runtime

    @property
    def aa_pair(self) -> Pair:
        """The A/A pair: a file compared with itself, in its runtime."""
        file, runtime = self.reference, self.reference_runtime
        if self.aa_file is not None:
            file, runtime = self.aa_file, self.aa_runtime
        return dataclasses.replace(
            self, reference=file, candidate=file, reference_runtime=runtime, candidate_runtime=runtime
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """A cell's samples in nanoseconds: the candidate's (processes, calls), and all arrays for the run file.

    The hashes are of the files that were timed. Cells beside the same A/A runs share the arrays of these.
    """

    candidate: NDArray[np.int64]
    arrays: SampleArrays
    reference_sha256: str
    candidate_sha256: str
    aa_runs: tuple[SampleArrays, ...] = ()


@dataclasses.dataclass(eq=False)
class _AARun:
    """The samples of an A/A run, and when it was made, in seconds of the clock."""

    samples: PairedSamples
    made: float


class LatencyTimer:
    """Times the cells of a run, one after the other. ``clock`` gives seconds."""

    def __init__(self, pool: Workers, preset: Preset, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._preset = preset
        self._clock = clock
        self._aa_runs: dict[tuple[Profile, str, Path], list[_AARun]] = {}
        self._arrays_of_aa_runs: dict[PairedSamples, SampleArrays] = {}
        self._aa_count = 0
        self._single: dict[tuple[Profile, str, Path], SingleSamples] = {}

    def time(self, pair: Pair) -> tuple[Timing, Samples]:
        """Time a cell in pairs with its reference. Raises as the pool does.

        Processes are added until the verdict on this cell alone is decided at the margin, or the budget is spent. The
        A/A runs get as many processes; their time is not counted, because other cells share them. A reference as its
        own candidate is its newest A/A run.
        """
        from harness.stats.verdict import Comparison, Looks, decide_alone

        looks, processes = Looks(), self._preset.processes
        aa_runs = self._aa_samples(pair, processes)
        if pair.candidate == pair.reference:
            looks.next(last=True)
            return self._result(pair, aa_runs[-1], aa_runs, looks)
        samples = self._measure(pair, "cell", processes)
        while True:
            more = self._preset.more_processes(processes, samples.wall)
            comparison = Comparison(_ratios(samples), list(map(_ratios, aa_runs)), looks.next(last=more is None))
            if more is None or decide_alone(comparison, pair.margin) != "inconclusive":
                return self._result(pair, samples, aa_runs, looks)
            processes = more
            samples = self._measure(pair, "cell", processes, samples)
            aa_runs = self._aa_samples(pair, processes)

    def time_single(self, pair: Pair) -> tuple[Timing, Samples]:
        """Time a cell as study B did: the mean of one process, and then the reference's mean of one process."""
        files = zip(pair.runtimes, (pair.reference, pair.candidate), strict=True)
        reference, candidate = (self._measure_single(pair, runtime, file) for runtime, file in files)
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
        arrays = {"reference": [reference.times.tolist()], "candidate": [candidate.times.tolist()]}
        return timing, Samples(candidate.times[None], arrays, reference.sha256, candidate.sha256)

    def confirm(self, pair: Pair, timing: Timing) -> tuple[Confirmation, SampleArrays]:
        """Time a cell that looks slower again, in as many of the pool's present processes. Raises as the pool does.

        ``timing`` is the cell's first measurement, whose A/A runs widen the interval here too.
        """
        from harness.stats.ratios import paired_ratio

        samples = self._measure(pair, "confirm", timing.processes)
        ratio = paired_ratio(samples.reference, samples.candidate, aa_runs=timing.aa_ratios)
        interval = _interval(ratio, len(timing.aa_runs))
        confirmation = Confirmation(ratio=interval, per_process=list(ratio.per_process), signals=_signals(samples))
        return confirmation, _arrays(samples)

    def renew(self) -> None:
        """End the processes of the pool, so that the next timing uses fresh ones."""
        self._pool.renew()

    def _aa_samples(self, pair: Pair, processes: int) -> list[PairedSamples]:
        """The A/A runs of these minutes in the cell's profile, the newest last, each of at least ``processes``.

        All cells that share profile, runtime and file share them.
        """
        aa_pair = pair.aa_pair
        key = (dataclasses.replace(pair.cell.profile, name=""), aa_pair.runtimes[0], aa_pair.reference)
        runs = self._aa_runs.setdefault(key, [])
        for run in runs:
            if len(run.samples.reference) < processes:
                run.samples = self._measure(aa_pair, self._aa_purpose(), processes, run.samples)
        while len(runs) < self._preset.aa_runs or self._is_old(runs[-1]):
            runs.append(_AARun(self._measure(aa_pair, self._aa_purpose(), processes), self._clock()))
            del runs[: -self._preset.aa_runs]
        return [run.samples for run in runs]

    def _is_old(self, run: _AARun) -> bool:
        return self._clock() - run.made > max(AA_AGE, run.samples.wall / AA_SHARE)

    def _aa_purpose(self) -> str:
        self._aa_count += 1
        return f"A/A {self._aa_count}"

    def _measure(self, pair: Pair, purpose: str, processes: int, before: PairedSamples | None = None) -> PairedSamples:
        """Time one comparison, or add processes to it; the order of the calls is drawn by ``purpose``."""
        from harness.measure.timing import Amount

        preset, first = self._preset, 0 if before is None else len(before.reference)
        pairs = preset.paced_pairs if pair.cell.profile.pause else preset.pairs
        amount = Amount(pairs, preset.warmup, seconds=preset.seconds)
        if before is not None:
            amount = Amount(before.reference.shape[1], before.warmup, until_steady=False)
        samples = self._pool.time_pair(
            profile=pair.cell.profile,
            runtime=pair.runtimes[1],
            reference_runtime=pair.runtimes[0],
            reference=pair.reference,
            candidate=pair.candidate,
            inputs=pair.inputs,
            processes=processes - first,
            amount=amount,
            seed=random.Random(f"{purpose} {pair.cell.name}").getrandbits(32),
            first=first,
        )
        return samples if before is None else before.joined(samples)

    def _result(
        self, pair: Pair, samples: PairedSamples, aa_runs: Sequence[PairedSamples], looks: Looks
    ) -> tuple[Timing, Samples]:
        """The record of a cell's timing, and its samples; ``looks`` were made, and the last one stopped it."""
        import numpy as np

        from harness.measure.noise import aa_signal
        from harness.stats.ratios import paired_ratio

        newest = aa_runs[-1]
        is_aa_run = samples is newest
        noise = [] if is_aa_run else list(map(_ratios, aa_runs))
        ratio = paired_ratio(samples.reference, samples.candidate, 1 - looks.level, noise)
        signals = _signals(samples, None if is_aa_run else newest)
        signals.append(_signal_record(aa_signal(paired_ratio(newest.reference, newest.candidate), pair.margin)))
        calls = samples.reference.sum() + samples.candidate.sum()
        timing = Timing(
            protocol="paired",
            profile=to_jsonable(pair.cell.profile),
            processes=ratio.processes,
            pairs=ratio.pairs,
            warmup=samples.warmup,
            steady=samples.steady,
            margin=pair.margin,
            ratio=_interval(ratio, len(noise), looks.level),
            bootstrap=_bootstrapped(samples, ratio),
            per_process=list(ratio.per_process),
            environment=[dict(entry) for entry in samples.environment],
            involuntary_switches=[entry.involuntary_switches for entry in samples.disturbances],
            load=to_jsonable(samples.load),
            signals=signals,
            canary=np.median(samples.canary, axis=2).astype(int).tolist(),
            recorded_aa_runs=list(map(_aa_record, aa_runs)),
            looks=looks.count,
            level=looks.level,
            cost=Cost(wall=samples.wall, calls=float(calls) / 1e9),
        )
        arrays, hashes = _arrays(samples), (samples.reference_sha256, samples.candidate_sha256)
        return timing, Samples(samples.candidate, arrays, *hashes, tuple(map(self._aa_arrays, aa_runs)))

    def _aa_arrays(self, samples: PairedSamples) -> SampleArrays:
        """The arrays of an A/A run: the same object for all cells beside it."""
        if samples not in self._arrays_of_aa_runs:
            self._arrays_of_aa_runs[samples] = _arrays(samples)
        return self._arrays_of_aa_runs[samples]

    def _measure_single(self, pair: Pair, runtime: str, file: Path) -> SingleSamples:
        key = (dataclasses.replace(pair.cell.profile, name=""), runtime, file)
        preset = self._preset
        calls = preset.processes * preset.paced_pairs if pair.cell.profile.pause else preset.calls
        if key not in self._single:
            self._single[key] = self._pool.time_single(*key, inputs=pair.inputs, calls=calls, warmup=SINGLE_WARMUP)
        return self._single[key]


def _ratios(samples: PairedSamples) -> tuple[float, ...]:
    """The ratio of each process."""
    from harness.stats.ratios import per_process_ratios

    return per_process_ratios(samples.reference, samples.candidate)


def _arrays(samples: PairedSamples) -> SampleArrays:
    return {name: getattr(samples, name).tolist() for name in ARRAYS}


def _signals(samples: PairedSamples, aa_run: PairedSamples | None = None) -> list[SignalRecord]:
    from harness.measure.noise import noise_signals

    return list(map(_signal_record, noise_signals(samples, aa_run)))


def _signal_record(signal: NoiseSignal) -> SignalRecord:
    return SignalRecord(signal=signal.signal, value=signal.value, limit=signal.limit, beyond=signal.beyond)


def _interval(ratio: Ratio, aa_runs: int, level: float = LEVEL) -> Interval:
    """The 95 % interval of a ratio; after a look at the ``level`` it is valid over all looks."""
    method = ratio.reason or f"Student's t over {ratio.processes} processes"
    if not ratio.reason and aa_runs:
        method += f", widened by {pluralize(aa_runs, 'A/A run')}"
    if not ratio.reason and level < LEVEL:
        method += ", valid over all looks"
    return Interval(ratio.ratio, ratio.low, ratio.high, 1 - LEVEL, method)


def _bootstrapped(samples: PairedSamples, ratio: Ratio) -> Interval | None:
    from harness.stats.ratios import hierarchical_bootstrap

    if ratio.processes < 2:
        return None
    low, high = hierarchical_bootstrap(samples.reference, samples.candidate)
    return Interval(ratio.ratio, low, high, 0.95, "hierarchical bootstrap over processes, then pairs")


def _aa_record(samples: PairedSamples) -> AARun:
    from harness.stats.ratios import minimum_detectable_effect, paired_ratio

    ratio = paired_ratio(samples.reference, samples.candidate)
    effect = minimum_detectable_effect([ratio.per_process], around_one=True)
    return AARun(
        sha256=samples.reference_sha256,
        ratio=_interval(ratio, 0),
        per_process=list(ratio.per_process),
        smallest_change=None if effect is None else effect.value,
        disturbed=any(signal.beyond for signal in _signals(samples)),
    )
