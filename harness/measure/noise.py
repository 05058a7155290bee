"""Signs that the machine, not the model, moved: each with its limit, beyond which a cell is contaminated."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.measure.machine import Disturbance
from harness.measure.statistics import Ratio


@dataclasses.dataclass(frozen=True)
class Signal:
    """A sign of trouble: what its value means, and the greatest value that is no trouble.

    The limits of spread, drift and moved are those at which PyTorch's benchmarks and pyperf call a measurement
    unstable. That of a difference from itself is the run's margin.
    """

    name: str
    limit: float
    meaning: str


SIGNALS = {
    signal.name: signal
    for signal in (
        Signal("switches", 0.1, "involuntary context switches per timed call"),
        Signal("steal", 0.05, "share of the CPU's time that the hypervisor gave to others"),
        Signal("throttled", 0, "periods in which a CPU quota or the heat stopped the process"),
        Signal("collections", 0, "garbage collections while timing"),
        Signal("spread", 0.25, "interquartile range of the canary over its median, each process about its own"),
        Signal("drift", 0.1, "change of the canary from the begin to the end of a process's pairs"),
        Signal("moved", 0.25, "change of a process's canary since the reference was timed against itself"),
        Signal("itself", 0.01, "by how much at least the reference differs from itself"),
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


def findings(
    canary: ArrayLike,
    disturbances: Sequence[Disturbance],
    calls: int,
    collections: Sequence[int],
    canary_before: ArrayLike | None = None,
) -> list[Finding]:
    """Every signal of one cell but the last; but for the spread, the worst process counts.

    ``canary`` has nanoseconds, (processes, groups, calls), in the order of time, ``canary_before`` those of the same
    processes in the comparison of the model with itself (NaN for one that was not there). Processes are never compared
    with each other: where their buffers lie makes the canary of one a tenth slower than that of another, for as long
    as they live. ``calls`` counts the timed calls of one process.
    """
    songs = np.asarray(canary, dtype=float)
    levels = np.median(songs, axis=(1, 2))
    values: dict[str, float | None] = {
        "switches": max(entry.involuntary_switches for entry in disturbances) / calls,
        "steal": _worst(entry.steal for entry in disturbances),
        "throttled": _worst(entry.throttled_periods for entry in disturbances),
        "collections": max(collections),
        "spread": _spread(songs / levels[:, None, None]),
        "drift": max(map(_drift, np.median(songs, axis=2))),
    }
    if canary_before is not None:
        before = np.median(np.asarray(canary_before, dtype=float), axis=(1, 2))
        known = np.isfinite(before)
        values["moved"] = _worst(map(_change, before[known], levels[known]))
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
