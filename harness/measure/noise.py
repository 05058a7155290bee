"""Signs that the machine, not the model, moved: each with its limit, beyond which a cell is contaminated."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from harness.measure.pool import PairedSamples
from harness.stats.ratios import Ratio
from harness.text import percent


@dataclasses.dataclass(frozen=True)
class Signal:
    """A sign of trouble: the greatest value that is none, and what to say of a greater one.

    25 % is where PyTorch's benchmarks call a spread gross; the other limits are ours, several times what an idle
    machine showed. A switch to a short task of the system costs a long call little, so that only one in every call is
    too many; that others really have the CPU is seen by the waiting. The limit of a difference from itself is the run's
    margin.
    """

    name: str
    limit: float
    #: A sentence for people, with a place for the value; a share is shown in percent.
    sentence: str
    share: bool = True

    def say(self, value: float) -> str:
        return self.sentence.format(percent(value) if self.share else f"{value:.2g}" if value < 100 else f"{value:.0f}")


SIGNALS = {
    signal.name: signal
    for signal in (
        Signal("switches", 1, "the system took the CPU away {} times per timed call, for other programs", share=False),
        Signal("waiting", 0.1, "the timing waited for its CPU, which other programs had, {} of the time"),
        Signal("steal", 0.05, "the hypervisor gave {} of the CPU's time to other machines"),
        Signal("throttled", 0, "a CPU quota or the heat stopped the timing {} times", False),
        Signal("collections", 0, "Python collected garbage {} times while timing", False),
        Signal("spread", 0.25, "the middle half of the times of the canary, a fixed piece of work, spread over {}"),
        Signal("drift", 0.1, "the canary took {} longer or shorter at the end of a process's pairs than before"),
        Signal("moved", 0.25, "the canary took {} longer or shorter than when the reference was timed against itself"),
        Signal("itself", 0.01, "the reference surely differs from itself, by {} at least"),
    )
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """The value of a signal in one cell, and whether it is beyond its limit; None where the system does not tell."""

    signal: str
    value: float | None
    limit: float

    @property
    def beyond(self) -> bool:
        return self.value is not None and self.value > self.limit


def findings(samples: PairedSamples, before: PairedSamples | None = None) -> list[Finding]:
    """Every signal of one comparison but the last.

    ``before`` is the comparison of the model with itself: the canary is compared with that of the same process then.
    Processes are never compared with each other, since where their memory lies can make one slower for as long as it
    lives. The worst process counts, but for the spread and for the steal, whose ticks of 10 ms are too coarse for one.
    """
    songs = np.asarray(samples.canary, dtype=float)
    levels = np.median(songs, axis=(1, 2))
    calls = samples.reference.shape[1] + samples.candidate.shape[1]
    known = [entry.steal for entry in samples.disturbances if entry.steal is not None]
    values: dict[str, float | None] = {
        "switches": max(entry.involuntary_switches for entry in samples.disturbances) / calls,
        "waiting": _worst(entry.waiting for entry in samples.disturbances),
        "steal": sum(known) / len(known) if known else None,
        "throttled": _worst(entry.throttled_periods for entry in samples.disturbances),
        "collections": max(samples.collections),
        "spread": _spread(songs / levels[:, None, None]),
        "drift": max(map(_drift, np.median(songs, axis=2))),
    }
    if before is not None:
        earlier = {
            entry["pid"]: float(np.median(calm)) for entry, calm in zip(before.environment, before.canary, strict=True)
        }
        now = {entry["pid"]: level for entry, level in zip(samples.environment, levels, strict=True)}
        values["moved"] = _worst(_change(earlier[pid], now[pid]) for pid in now if pid in earlier)
    return [Finding(name, value, SIGNALS[name].limit) for name, value in values.items()]


def differs_from_itself(ratio: Ratio, margin: float) -> Finding:
    """How far the interval of a model's ratio with itself stays away from 1; beyond the margin nothing can be told."""
    low, high = (1.0, 1.0) if ratio.low is None or ratio.high is None else (ratio.low, ratio.high)
    return Finding("itself", max(0.0, low - 1, 1 / high - 1), margin)


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _spread(songs: NDArray[np.float64]) -> float:
    low, middle, high = np.percentile(songs, (25, 50, 75))
    return float((high - low) / middle)


def _drift(groups: NDArray[np.float64]) -> float:
    """The change from the first two of a process's groups to its last two, from the faster of either two.

    The faster: a machine that slows down slows both, and one that was interrupted for a moment only one.
    """
    return _change(float(groups[:2].min()), float(groups[-2:].min()))


def _change(before: float, after: float) -> float:
    """The relative change, the same for twice as fast as for twice as slow."""
    return float(max(before, after) / min(before, after) - 1)
