"""Time a cell beside its reference, and the reference beside itself (the A/A run)."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.api import Profile
from harness.keys import to_jsonable
from harness.records.record import AARun, Confirmation, Cost, Interval, SignalRecord, Timing
from harness.suite.matrix import Cell
from harness.suite.presets import Preset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.measure.pool import PairedSamples, SingleSamples, Workers
    from harness.stats.ratios import Ratio

#: Untimed calls before the timed ones in study B's protocol, "single".
SINGLE_WARMUP = 100
#: The sampled arrays that the run file gets.
ARRAYS = ("reference", "candidate", "reference_first", "inputs")
#: Samples for the run file: by array, a list for each process.
SampleArrays = dict[str, list[Any]]


@dataclasses.dataclass(frozen=True)
class Pair:
    """A cell with the two deployed files to compare, and the .npy file of the inputs that both get.

    ``aa_file`` is timed against itself (A/A run) to estimate noise; None stands for the reference. Pass a shared file
    to avoid one A/A run per cell where each cell has its own reference. ``margin`` is the relative difference that
    matters (0.01 is 1 %).
    """

    cell: Cell
    reference: Path
    candidate: Path
    inputs: Path
    margin: float
    aa_file: Path | None = None

    @property
    def aa_pair(self) -> Pair:
        """The A/A pair: a file compared with itself."""
        file = self.aa_file or self.reference
        return dataclasses.replace(self, reference=file, candidate=file)


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """A cell's samples in nanoseconds: the candidate's (processes, calls), and all arrays for the run file.

    The hashes are of the files that were timed.
    """

    candidate: NDArray[np.int64]
    arrays: SampleArrays
    reference_sha256: str
    candidate_sha256: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Measurement:
    """One comparison in pairs: its samples, ratio and noise signals, and the A/A run beside it."""

    samples: PairedSamples
    ratio: Ratio
    signals: list[SignalRecord]
    aa_run: _Measurement | None

    @property
    def disturbed(self) -> bool:
        return any(signal.beyond for signal in self.signals)

    @property
    def arrays(self) -> SampleArrays:
        return {name: getattr(self.samples, name).tolist() for name in ARRAYS}


class LatencyTimer:
    """Times the cells of a run, one after the other."""

    def __init__(self, pool: Workers, preset: Preset) -> None:
        self._pool = pool
        self._preset = preset
        self._aa_runs: dict[tuple[Profile, str, Path, float], _Measurement] = {}
        self._single: dict[tuple[Profile, str, Path], SingleSamples] = {}

    def time(self, pair: Pair) -> tuple[Timing, Samples]:
        """Time a cell in pairs with its reference. Raises as the pool does.

        A cell during which the machine was disturbed is timed once more, after its A/A run was repeated. The noise
        signals alone decide on that, never the result.
        """
        measurement = self._measure(pair, self._aa_run(pair))
        if measurement.disturbed:
            measurement = self._measure(pair, self._aa_run(pair, repeat=True), "cell again")
        samples = measurement.samples
        timed = Samples(samples.candidate, measurement.arrays, samples.reference_sha256, samples.candidate_sha256)
        return _timing(pair, measurement), timed

    def time_single(self, pair: Pair) -> tuple[Timing, Samples]:
        """Time a cell as study B did: the mean of one process, and then the reference's mean of one process."""
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
        arrays = {"reference": [reference.times.tolist()], "candidate": [candidate.times.tolist()]}
        return timing, Samples(candidate.times[None], arrays, reference.sha256, candidate.sha256)

    def confirm(self, pair: Pair) -> tuple[Confirmation, SampleArrays]:
        """Time a cell that looks slower again, in the pool's present processes. Raises as the pool does.

        A confirmation during which the machine was disturbed is repeated once.
        """
        measurement = self._measure(pair, None, "confirm")
        if measurement.disturbed:
            measurement = self._measure(pair, None, "confirm again")
        ratio = measurement.ratio
        confirmation = Confirmation(
            ratio=_interval(ratio), per_process=list(ratio.per_process), signals=measurement.signals
        )
        return confirmation, measurement.arrays

    def _aa_run(self, pair: Pair, repeat: bool = False) -> _Measurement:
        """The A/A run in the cell's profile; made once for all cells that share it, unless ``repeat``."""
        aa_pair = pair.aa_pair
        key = (dataclasses.replace(pair.cell.profile, name=""), pair.cell.runtime, aa_pair.reference, pair.margin)
        if repeat or key not in self._aa_runs:
            measurement = self._measure(aa_pair, None, "itself again" if repeat else "itself")
            if measurement.disturbed and not repeat:
                measurement = self._measure(aa_pair, None, "itself again")
            self._aa_runs[key] = measurement
        return self._aa_runs[key]

    def _measure(self, pair: Pair, aa_run: _Measurement | None, purpose: str = "cell") -> _Measurement:
        """One comparison with its signals; a reference as its own candidate is its A/A run."""
        from harness.measure.noise import aa_signal, noise_signals
        from harness.measure.timing import Amount
        from harness.stats.ratios import paired_ratio

        same_file = pair.candidate == pair.reference
        if aa_run is not None and same_file:
            return aa_run
        preset = self._preset
        samples = self._pool.time_pair(
            profile=pair.cell.profile,
            runtime=pair.cell.runtime,
            reference=pair.reference,
            candidate=pair.candidate,
            inputs=pair.inputs,
            processes=preset.processes,
            amount=Amount(
                preset.paced_pairs if pair.cell.profile.pause else preset.pairs, preset.warmup, seconds=preset.seconds
            ),
            seed=random.Random(f"{purpose} {pair.cell.name}").getrandbits(32),
        )
        ratio = paired_ratio(samples.reference, samples.candidate)
        signals = noise_signals(samples, None if aa_run is None else aa_run.samples)
        if aa_run is not None or same_file:
            signals.append(aa_signal(ratio if aa_run is None else aa_run.ratio, pair.margin))
        records = [
            SignalRecord(signal=signal.signal, value=signal.value, limit=signal.limit, beyond=signal.beyond)
            for signal in signals
        ]
        return _Measurement(samples, ratio, records, aa_run)

    def _measure_single(self, pair: Pair, file: Path) -> SingleSamples:
        key = (dataclasses.replace(pair.cell.profile, name=""), pair.cell.runtime, file)
        preset = self._preset
        calls = preset.processes * preset.paced_pairs if pair.cell.profile.pause else preset.calls
        if key not in self._single:
            self._single[key] = self._pool.time_single(*key, inputs=pair.inputs, calls=calls, warmup=SINGLE_WARMUP)
        return self._single[key]


def _timing(pair: Pair, measurement: _Measurement) -> Timing:
    import numpy as np

    samples, ratio = measurement.samples, measurement.ratio
    calls = samples.reference.sum() + samples.candidate.sum()
    return Timing(
        protocol="paired",
        profile=to_jsonable(pair.cell.profile),
        processes=ratio.processes,
        pairs=ratio.pairs,
        warmup=samples.warmup,
        steady=samples.steady,
        margin=pair.margin,
        ratio=_interval(ratio),
        bootstrap=_bootstrapped(measurement),
        per_process=list(ratio.per_process),
        environment=[dict(entry) for entry in samples.environment],
        involuntary_switches=[entry.involuntary_switches for entry in samples.disturbances],
        load=to_jsonable(samples.load),
        signals=measurement.signals,
        canary=np.median(samples.canary, axis=2).astype(int).tolist(),
        aa_run=_aa_record(measurement.aa_run or measurement),
        cost=Cost(wall=samples.wall, calls=float(calls) / 1e9),
    )


def _interval(ratio: Ratio) -> Interval:
    method = ratio.reason or f"Student's t over {ratio.processes} processes"
    return Interval(ratio.ratio, ratio.low, ratio.high, ratio.level, method)


def _bootstrapped(measurement: _Measurement) -> Interval | None:
    from harness.stats.ratios import hierarchical_bootstrap

    if measurement.ratio.processes < 2:
        return None
    low, high = hierarchical_bootstrap(measurement.samples.reference, measurement.samples.candidate)
    return Interval(measurement.ratio.ratio, low, high, 0.95, "hierarchical bootstrap over processes, then pairs")


def _aa_record(measurement: _Measurement) -> AARun:
    from harness.stats.ratios import minimum_detectable_effect

    return AARun(
        sha256=measurement.samples.reference_sha256,
        ratio=_interval(measurement.ratio),
        per_process=list(measurement.ratio.per_process),
        smallest_change=minimum_detectable_effect([measurement.ratio.per_process], around_one=True),
        disturbed=measurement.disturbed,
    )
