"""Decide verdicts on ratios of latencies at a margin, controlling false discoveries over a matrix."""

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
from harness.text import format_margin

Kind = Literal["faster", "slower", "same", "inconclusive"]

#: The most processes that advice ever suggests: each takes some 200 MB.
MOST_PROCESSES = 50
#: The suggested number of processes decides a cell with this probability.
POWER = 0.8

#: Log ratios are rounded to this many decimals, far finer than any clock: 1 / 1.01 then lies exactly on the margin 1 %.
DECIMALS = 12


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on one cell, and the reason.

    ``p`` is the p-value of the test behind the verdict, adjusted for the number of cells: the test of a difference for
    slower, faster and inconclusive, the test of equivalence for same. ``processes_needed`` is how many processes would
    decide an inconclusive cell in 4 of 5 runs if the true mean and spread are as measured; None if more than 50.
    """

    kind: Kind
    p: float
    processes_needed: int | None
    reason: str


def decide_verdicts(per_process: Sequence[Sequence[float]], margin: float, q: float = 0.05) -> list[Verdict]:
    """Decide the verdict on each cell of a matrix from its per-process ratios (candidate / reference).

    With the margin m (0.01 is 1 %), slower means a ratio above 1 + m, faster a ratio below 1 / (1 + m), so that neither
    model is favoured, and same a ratio in between. Two Student's t tests on the log ratios, with the process as unit,
    decide: of a difference beyond the margin (two directions, hence twice the smaller p), and of equivalence within the
    margin (two one-sided tests, Schuirmann 1987, doi:10.1007/BF01068419). The false discovery rates of differences and
    of equivalences are each held at ``q`` over the cells (Benjamini and Hochberg 1995,
    doi:10.1111/j.2517-6161.1995.tb02031.x). If neither test is significant, the cell is inconclusive. A cell with fewer
    than two processes is inconclusive too and does not count among the cells.

    Raises UsageError for a margin or ``q`` out of range, MeasureError for ratios that are not positive and finite.
    """
    bound = _log_margin(margin)
    if not 0 < q < 0.5:
        raise UsageError(f"q={q:g}: the false discovery rate must lie between 0 and 0.5")
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
    """Return whether the ratios of fresh processes confirm that a cell is slower by more than ``margin``.

    A one-sided t test at ``level``. Raises MeasureError for fewer than two processes.
    """
    bound = _log_margin(margin)
    if not 0 < level < 0.5:
        raise UsageError(f"level={level:g}: the level of a test must lie between 0 and 0.5")
    cell = _Cell.of(per_process)
    if cell.processes < 2:
        raise MeasureError(f"confirming a slowdown needs at least two fresh processes, not {cell.processes}")
    return cell.p_positive(cell.mean - bound) <= level


@dataclasses.dataclass(frozen=True)
class _Cell:
    """Mean and standard deviation of a cell's log ratios over its processes; NaN for fewer than two processes."""

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
        """The one-sided p-value that ``distance``, the mean minus some constant, is above zero."""
        if self.deviation == 0:
            return 0.0 if distance > 0 else 1.0
        return float(special.stdtr(self.processes - 1, -distance * math.sqrt(self.processes) / self.deviation))

    def difference(self, bound: float) -> float:
        """The p-value of a difference: twice the smaller p of the two tests, which is that on the mean's side."""
        return min(1.0, 2 * self.p_positive(abs(self.mean) - bound))

    def equivalence(self, bound: float) -> float:
        """The p-value of equivalence: the larger p of the two tests, which is against the bound nearer to the mean."""
        return self.p_positive(bound - abs(self.mean))


def _outlook(cell: _Cell, bound: float, q: float, cells: int) -> tuple[int | None, str]:
    """Return how many processes would decide an inconclusive cell at the same mean and deviation, and a sentence."""
    outside = abs(cell.mean) > bound
    alone = cell.difference(bound) if outside else cell.equivalence(bound)
    # If only the adjustment for other cells prevents a decision, p below q / cells decides whatever their p-values are.
    level = (q / 2 if outside else q) / (cells if alone <= q else 1)
    enough = cell.deviation * _half_widths(level)[cell.processes - 1 :] < abs(abs(cell.mean) - bound)
    needed = cell.processes + 1 + int(enough.argmax()) if enough.any() else None
    advice = (
        f"more than {MOST_PROCESSES} processes needed: within this noise the change cannot be told from the margin"
        if needed is None
        else f"{needed} processes would decide it in 4 of 5 runs"
    )
    if alone <= q:
        return needed, f"p = {alone:.2g} for this cell alone is too weak among {cells} cells; {advice}"
    return needed, advice


@functools.cache
def _half_widths(level: float) -> NDArray[np.float64]:
    """The distance, in deviations, that a one-sided test at ``level`` finds with POWER, for 2, 3, ... processes."""
    processes = np.arange(2, MOST_PROCESSES + 1)
    quantiles = stats.t.isf(level, processes - 1) + stats.t.isf(1 - POWER, processes - 1)
    return np.asarray(quantiles / np.sqrt(processes))


def _adjusted(p_values: list[float]) -> list[float]:
    return [float(p) for p in stats.false_discovery_control(p_values)] if p_values else []


def _log_margin(margin: float) -> float:
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"margin={margin:g}: it must be a share of the latency, 0 or more (0.01 is 1 %)")
    return round(math.log(1 + margin), DECIMALS)
