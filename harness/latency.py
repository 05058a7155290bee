"""A cell's latency: timed beside its reference, the reference beside itself, and judged when all cells are timed."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.contracts import Profile
from harness.errors import HarnessError
from harness.keys import plain
from harness.matrix import Cell
from harness.presets import Preset
from harness.record import Interval, ItselfRecord, SignalRecord, Timing, VerdictRecord, interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.measure.pool import AloneSamples, PairedSamples, Workers
    from harness.measure.statistics import Ratio

#: Study B's protocol, "single": so many untimed calls, then so many timed ones, in one process.
ALONE_WARMUP, ALONE_CALLS = 100, 1000


@dataclasses.dataclass(frozen=True)
class Pair:
    """A cell with the two deployed files to compare, and the .npy of the inputs that both get."""

    cell: Cell
    reference: Path
    candidate: Path
    inputs: Path


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """A cell's samples, nanoseconds: ``candidate`` (processes, calls), and ``kept``, all arrays as the file keeps them.

    The confirmation, if there is one, joins those that are kept. The hashes are of the files that were timed.
    """

    candidate: NDArray[np.int64]
    kept: dict[str, list[Any]]
    reference_sha256: str
    candidate_sha256: str


class Timekeeper:
    """Times the cells of a run one after the other, and judges them at its end."""

    def __init__(self, pool: Workers, preset: Preset, margin: float, say: Callable[[str], None]) -> None:
        self._pool = pool
        self._preset = preset
        self._margin = margin
        self._say = say
        self._timed: list[tuple[Pair, Timing, Samples]] = []
        self._itself: dict[tuple[Profile, str, Path], PairedSamples] = {}
        self._alone: dict[tuple[Profile, str, Path], AloneSamples] = {}

    def time(self, pair: Pair) -> tuple[Timing, Samples]:
        """Time a cell in pairs with its reference. Raises as the pool does."""
        import numpy as np

        from harness.measure.statistics import hierarchical_bootstrap

        itself = self._time_itself(pair)
        samples = itself if pair.candidate == pair.reference else self._measure(pair, pair.cell.seed)
        ratio = _ratio(samples)
        bootstrap = None
        if ratio.processes > 1:
            bounds = hierarchical_bootstrap(samples.reference, samples.candidate)
            bootstrap = interval(ratio.ratio, *bounds, 0.95, "hierarchical bootstrap over processes, then pairs")
        calls = samples.reference.sum() + samples.candidate.sum()
        timing: Timing = {
            "protocol": "paired",
            "profile": plain(pair.cell.profile),
            "processes": ratio.processes,
            "pairs": ratio.pairs,
            "warmup": samples.warmup,
            "steady": samples.steady,
            "ratio": _student(ratio),
            "bootstrap": bootstrap,
            "per_process": list(ratio.per_process),
            "environment": [dict(entry) for entry in samples.environment],
            "involuntary_switches": [entry.involuntary_switches for entry in samples.disturbances],
            "load": plain(samples.load),
            "signals": self._signals(samples, itself),
            "canary": np.median(samples.canary, axis=2).astype(int).tolist(),
            "itself": _against_itself(itself),
            "cost": {"wall": samples.wall, "calls": float(calls) / 1e9},
        }
        arrays = ("reference", "candidate", "reference_first", "inputs")
        kept = {name: getattr(samples, name).tolist() for name in arrays}
        taken = Samples(samples.candidate, kept, samples.reference_sha256, samples.candidate_sha256)
        self._timed.append((pair, timing, taken))
        return timing, taken

    def time_alone(self, pair: Pair) -> tuple[Timing, Samples]:
        """Time a cell as study B did: the mean of one process, and its reference's likewise, one after the other."""
        reference, candidate = self._measure_alone(pair, pair.reference), self._measure_alone(pair, pair.candidate)
        ratio = float(candidate.times.mean() / reference.times.mean())
        timing: Timing = {
            "protocol": "single",
            "profile": plain(pair.cell.profile),
            "processes": 1,
            "pairs": len(candidate.times),
            "warmup": ALONE_WARMUP,
            "ratio": interval(ratio, None, None, 0.95, "ratio of two means, each of one process: it has no interval"),
            "environment": [dict(candidate.environment)],
        }
        kept = {"reference": [reference.times.tolist()], "candidate": [candidate.times.tolist()]}
        return timing, Samples(candidate.times[None], kept, reference.sha256, candidate.sha256)

    def settle(self, confirm: bool = True) -> None:
        """Write into each timing the verdict on it; what is slower is timed again first, by fresh processes.

        The verdicts of a matrix are judged together, for among many cells some look slower by chance. Without
        ``confirm`` (the run was interrupted) what seems slower stays inconclusive.
        """
        from harness.measure.verdict import judge

        suspects = []
        for _, group in itertools.groupby(sorted(self._timed, key=_family), key=_family):
            clean = []
            for entry in group:
                _, timing, _ = entry
                if beyond := [signal for signal in timing["signals"] if signal["beyond"]]:
                    timing["verdict"] = self._verdict("contaminated", _explain(beyond))
                else:
                    clean.append(entry)
            verdicts = judge([timing["per_process"] for _, timing, _ in clean], self._margin)
            for entry, found in zip(clean, verdicts, strict=True):
                entry[1]["verdict"] = self._verdict(found.kind, found.reason, found.p, found.processes_needed)
                if found.kind == "slower":
                    suspects.append(entry)
        self._timed.clear()
        if suspects and confirm:
            self._say(f"harness: {len(suspects)} cells are slower than their reference; timing them in fresh processes")
            self._pool.renew()
        for pair, timing, samples in suspects:
            if confirm:
                self._confirm(pair, timing["verdict"], samples)
            else:
                _withdraw(timing["verdict"], "slower, but the run ended before fresh processes could confirm it")

    def _confirm(self, pair: Pair, verdict: VerdictRecord, first: Samples) -> None:
        """Time the pair again; unless it is slower again, the verdict becomes inconclusive."""
        from harness.measure.verdict import confirms_slower

        try:
            samples = self._measure(pair, random.Random(f"confirm {pair.cell.name}").getrandbits(32))
        except HarnessError as error:
            _withdraw(verdict, f"slower, but could not be timed again: {error}")
            return
        ratio = _ratio(samples)
        for arm in ("reference", "candidate"):
            first.kept[f"confirmation_{arm}"] = getattr(samples, arm).tolist()
        verdict["confirmation"] = {"ratio": _student(ratio), "per_process": list(ratio.per_process)}
        if not confirms_slower(ratio.per_process, self._margin):
            _withdraw(verdict, f"slower at first, but fresh processes gave {ratio.ratio:.4f}")

    def _time_itself(self, pair: Pair) -> PairedSamples:
        """The samples of the reference against a copy of itself, in the cell's profile; taken once a run."""
        key = (dataclasses.replace(pair.cell.profile, name=""), pair.cell.runtime, pair.reference)
        if key not in self._itself:
            self._itself[key] = self._measure(dataclasses.replace(pair, candidate=pair.reference), pair.cell.seed)
        return self._itself[key]

    def _measure(self, pair: Pair, seed: int) -> PairedSamples:
        from harness.measure.timing import Amount

        preset = self._preset
        return self._pool.time_pair(
            profile=pair.cell.profile,
            runtime=pair.cell.runtime,
            reference=pair.reference,
            candidate=pair.candidate,
            inputs=pair.inputs,
            processes=preset.processes,
            amount=Amount(preset.pairs, preset.warmup, seconds=preset.seconds),
            seed=seed,
        )

    def _measure_alone(self, pair: Pair, file: Path) -> AloneSamples:
        key = (dataclasses.replace(pair.cell.profile, name=""), pair.cell.runtime, file)
        if key not in self._alone:
            self._alone[key] = self._pool.time_alone(*key, inputs=pair.inputs, calls=ALONE_CALLS, warmup=ALONE_WARMUP)
        return self._alone[key]

    def _signals(self, samples: PairedSamples, itself: PairedSamples) -> list[SignalRecord]:
        from harness.measure.noise import differs_from_itself, findings

        found = findings(
            samples.canary,
            samples.disturbances,
            2 * samples.reference.shape[1],
            samples.collections,
            None if itself is samples else _same_processes(itself, samples),
        )
        found.append(differs_from_itself(_ratio(itself), self._margin))
        return [
            {"signal": entry.signal, "value": entry.value, "limit": entry.limit, "beyond": entry.beyond}
            for entry in found
        ]

    def _verdict(
        self, kind: str, reason: str, p: float | None = None, processes_needed: int | None = None
    ) -> VerdictRecord:
        return {
            "kind": kind,
            "margin": self._margin,
            "p": p,
            "processes_needed": processes_needed,
            "reason": reason,
            "confirmation": None,
        }


def _family(timed: tuple[Pair, Timing, Samples]) -> tuple[str, str]:
    """The matrix, over which false discoveries are controlled."""
    cell = timed[0].cell
    return cell.suite, cell.matrix


def _ratio(samples: PairedSamples) -> Ratio:
    from harness.measure.statistics import paired_ratio

    return paired_ratio(samples.reference, samples.candidate)


def _same_processes(before: PairedSamples, now: PairedSamples) -> NDArray[np.float64]:
    """The canary of ``before`` in the order of the processes of ``now``; NaN for a process that is new since."""
    import numpy as np

    rows = {entry["pid"]: row for entry, row in zip(before.environment, before.canary, strict=True)}
    unknown = np.full(before.canary.shape[1:], np.nan)
    return np.stack([rows.get(entry["pid"], unknown) for entry in now.environment])


def _student(ratio: Ratio) -> Interval:
    method = ratio.reason or f"Student's t over {ratio.processes} processes"
    return interval(ratio.ratio, ratio.low, ratio.high, ratio.level, method)


def _against_itself(samples: PairedSamples) -> ItselfRecord:
    from harness.measure.statistics import smallest_change

    ratio = _ratio(samples)
    return {
        "sha256": samples.reference_sha256,
        "ratio": _student(ratio),
        "per_process": list(ratio.per_process),
        "smallest_change": smallest_change([ratio.per_process]),
    }


def _explain(beyond: Sequence[SignalRecord]) -> str:
    from harness.measure.noise import SIGNALS

    return "; ".join(
        f"{SIGNALS[entry['signal']].meaning}: {entry['value']:.2g}, and {entry['limit']:g} is the limit"
        for entry in beyond
    )


def _withdraw(verdict: VerdictRecord, reason: str) -> None:
    verdict["kind"], verdict["reason"] = "inconclusive", reason
