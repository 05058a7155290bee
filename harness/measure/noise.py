"""Compute noise signals: signs that the machine disturbed a timing, each with a limit beyond which it counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from harness.measure.pool import PairedSamples
from harness.records.signals import SIGNALS
from harness.stats.ratios import Ratio


@dataclasses.dataclass(frozen=True)
class NoiseSignal:
    """The value of a noise signal in one comparison, and its limit; None where the system does not report it."""

    signal: str
    value: float | None
    limit: float

    @property
    def beyond(self) -> bool:
        return self.value is not None and self.value > self.limit


def noise_signals(samples: PairedSamples, aa_run: PairedSamples | None = None) -> list[NoiseSignal]:
    """Compute every noise signal of one comparison, except that of the A/A ratio (`aa_signal`).

    ``aa_run`` holds the samples of the A/A run: each process's canary is compared with its canary in that run.
    Processes are never compared with each other, because the place of its memory can slow a process for its lifetime.
    The value is that of the worst process, except for the spread, and for the steal, whose ticks of 10 ms are too
    coarse for one process.
    """
    canary = np.asarray(samples.canary, dtype=float)
    levels = np.median(canary, axis=(1, 2))
    calls = samples.reference.shape[1] + samples.candidate.shape[1]
    steal = [entry.steal for entry in samples.disturbances if entry.steal is not None]
    values: dict[str, float | None] = {
        "switches": max(entry.involuntary_switches for entry in samples.disturbances) / calls,
        "waiting": _worst(entry.waiting for entry in samples.disturbances),
        "steal": sum(steal) / len(steal) if steal else None,
        "throttled": _worst(entry.throttled_periods for entry in samples.disturbances),
        "collections": max(samples.collections),
        "spread": _spread(canary / levels[:, None, None]),
        "drift": max(map(_drift, np.median(canary, axis=2))),
    }
    if aa_run is not None:
        earlier = {
            entry["pid"]: float(np.median(times))
            for entry, times in zip(aa_run.environment, aa_run.canary, strict=True)
        }
        now = {entry["pid"]: level for entry, level in zip(samples.environment, levels, strict=True)}
        values["moved"] = _worst(_change(earlier[pid], now[pid]) for pid in now if pid in earlier)
    return [NoiseSignal(name, value, SIGNALS[name].limit) for name, value in values.items()]


def aa_signal(ratio: Ratio, margin: float) -> NoiseSignal:
    """Compute how far the interval of the A/A ratio stays from 1; beyond the margin no verdict is possible."""
    low, high = (1.0, 1.0) if ratio.low is None or ratio.high is None else (ratio.low, ratio.high)
    return NoiseSignal("itself", max(0.0, low - 1, 1 / high - 1), margin)


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _spread(times: NDArray[np.float64]) -> float:
    low, middle, high = np.percentile(times, (25, 50, 75))
    return float((high - low) / middle)


def _drift(groups: NDArray[np.float64]) -> float:
    """Compute the change from the first two of a process's groups to the last two, using the faster of each two.

    A machine that slows down slows both groups; a short interruption slows only one.
    """
    return _change(float(groups[:2].min()), float(groups[-2:].min()))


def _change(before: float, after: float) -> float:
    """The relative change, equal for twice as fast and twice as slow."""
    return float(max(before, after) / min(before, after) - 1)
