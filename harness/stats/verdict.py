"""What a ratio of latencies says at a margin, over a whole matrix."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from harness.errors import MeasureError, UsageError
from harness.stats.ratios import log_ratios
from harness.suite.presets import MOST_PROCESSES
from harness.text import format_margin

Kind = Literal["faster", "slower", "same", "inconclusive"]

#: With this probability the number of processes that is named settles a cell.
POWER = 0.8

#: Log ratios are compared to so many decimals, far finer than any clock: 1 / 1.01 lies on the margin 1 % exactly.
DECIMALS = 12


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was found of one cell, and why.

    ``p`` is the p-value, adjusted for the number of cells, of the test behind the verdict: that of a difference for
    slower, faster and inconclusive, that of equivalence for same. ``processes_needed``, for an inconclusive cell, would
    settle it in 4 of 5 runs if the true mean and spread are as seen; None when that takes more than 50.
    """

    kind: Kind
    p: float
    processes_needed: int | None
    reason: str


def judge(per_process: Sequence[Sequence[float]], margin: float, q: float = 0.05) -> list[Verdict]:
    """The verdict on each cell of a matrix, from its per-process ratios (candidate over reference).

    With the margin m (0.01 is 1 %), slower is a ratio above 1 + m and faster one below 1 / (1 + m), so that neither
    model is favoured; the same is a ratio between the two. Student's t tests on the log ratios, whose unit is the
    process: of a difference beyond the margin (both directions, hence twice the smaller p), and of equivalence within
    it (two one-sided tests, Schuirmann 1987, doi:10.1007/BF01068419). The shares of false differences and of false
    equivalences are each held to ``q`` over the cells (Benjamini and Hochberg 1995,
    doi:10.1111/j.2517-6161.1995.tb02031.x). What neither test shows is inconclusive; so is a cell with fewer than two
    processes, which is not counted among the cells.

    Raises UsageError for a margin or ``q`` out of range, MeasureError for ratios that are not positive and finite.
    """
    bound = _log_margin(margin)
    if not 0 < q < 0.5:
        raise UsageError(f"the share of false discoveries q lies between 0 and 0.5, and {q:g} does not")
    cells = [_Cell.of(ratios) for ratios in per_process]
    tested = [cell for cell in cells if cell.processes >= 2]
    differences = iter(_adjusted([cell.difference(bound) for cell in tested]))
    equivalences = iter(_adjusted([cell.equivalence(bound) for cell in tested]))
    shown = format_margin(margin)
    verdicts = []
    for cell in cells:
        if cell.processes < 2:
            reason = f"a verdict needs at least two processes, and there is {cell.processes or 'none'}"
            verdicts.append(Verdict("inconclusive", 1.0, None, reason))
            continue
        difference, equivalence = next(differences), next(equivalences)
        if difference <= q:
            kind: Kind = "slower" if cell.mean > 0 else "faster"
            verdicts.append(Verdict(kind, difference, None, f"{kind} by more than {shown}"))
        elif equivalence <= q:
            verdicts.append(Verdict("same", equivalence, None, f"within {shown} either way"))
        else:
            needed, reason = _outlook(cell, bound, q, len(tested))
            verdicts.append(Verdict("inconclusive", difference, needed, reason))
    return verdicts


def confirms_slower(per_process: Sequence[float], margin: float, level: float = 0.05) -> bool:
    """Whether fresh processes, one ratio each, say again that one cell is slower by more than ``margin``.

    A one-sided t test at ``level``. Raises MeasureError when there are fewer than two processes.
    """
    bound = _log_margin(margin)
    if not 0 < level < 0.5:
        raise UsageError(f"the level of a test lies between 0 and 0.5, and {level:g} does not")
    cell = _Cell.of(per_process)
    if cell.processes < 2:
        raise MeasureError(f"to confirm a slowdown takes at least two fresh processes, not {cell.processes}")
    return cell.p_positive(cell.mean - bound) <= level


@dataclasses.dataclass(frozen=True)
class _Cell:
    """Mean and standard deviation of a cell's log ratios over its processes; NaN where there are too few."""

    mean: float
    deviation: float
    processes: int

    @classmethod
    def of(cls, per_process: Sequence[float]) -> _Cell:
        logs = np.round(log_ratios(per_process), DECIMALS)
        if len(logs) < 2:
            return cls(math.nan, math.nan, len(logs))
        if np.ptp(logs) == 0:  # the mean of equal numbers need not be that number
            return cls(float(logs[0]), 0.0, len(logs))
        return cls(float(logs.mean()), float(logs.std(ddof=1)), len(logs))

    def p_positive(self, distance: float) -> float:
        """The one-sided p-value of ``distance``, the mean less some constant, being above zero."""
        if self.deviation == 0:
            return 0.0 if distance > 0 else 1.0
        return float(special.stdtr(self.processes - 1, -distance * math.sqrt(self.processes) / self.deviation))

    def difference(self, bound: float) -> float:
        """Twice the smaller p of the two tests outward: that on the mean's own side."""
        return min(1.0, 2 * self.p_positive(abs(self.mean) - bound))

    def equivalence(self, bound: float) -> float:
        """The larger p of the two tests inward: that against the bound nearer to the mean."""
        return self.p_positive(bound - abs(self.mean))


def _outlook(cell: _Cell, bound: float, q: float, cells: int) -> tuple[int | None, str]:
    """How many processes would settle an inconclusive cell if its mean and deviation stayed, and that in words."""
    outside = abs(cell.mean) > bound
    alone = cell.difference(bound) if outside else cell.equivalence(bound)
    # A cell that only its fellows hold back is settled for certain once p is below q / cells, whatever theirs are.
    level = (q / 2 if outside else q) / (cells if alone <= q else 1)
    enough = cell.deviation * _half_widths(level)[cell.processes - 1 :] < abs(abs(cell.mean) - bound)
    needed = cell.processes + 1 + int(enough.argmax()) if enough.any() else None
    advice = (
        f"more than {MOST_PROCESSES} processes: against this noise the change is at the margin itself"
        if needed is None
        else f"{needed} processes would settle it in 4 of 5 runs"
    )
    if alone <= q:
        return needed, f"p = {alone:.2g} for this cell alone is too weak among {cells} cells; {advice}"
    return needed, advice


@functools.cache
def _half_widths(level: float) -> NDArray[np.float64]:
    """The distance that a one-sided test at ``level`` finds with POWER, in deviations, for 2, 3, ... processes."""
    processes = np.arange(2, MOST_PROCESSES + 1)
    quantiles = stats.t.isf(level, processes - 1) + stats.t.isf(1 - POWER, processes - 1)
    return np.asarray(quantiles / np.sqrt(processes))


def _adjusted(p_values: list[float]) -> list[float]:
    return [float(p) for p in stats.false_discovery_control(p_values)] if p_values else []


def _log_margin(margin: float) -> float:
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"a margin is a share of the latency, at least 0 (0.01 is 1 %), and {margin:g} is not")
    return round(math.log(1 + margin), DECIMALS)
