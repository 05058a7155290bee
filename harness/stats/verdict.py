"""Decide verdicts on ratios of latencies at a margin, controlling false discoveries over a matrix."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import special, stats

from harness.errors import MeasureError, UsageError
from harness.stats.estimates import Mean, welch_difference
from harness.stats.ratios import DECIMALS, log_ratios, mean_log_ratio, noncentrality
from harness.text import format_margin

Kind = Literal["faster", "slower", "same", "inconclusive"]

#: The most processes that advice ever suggests: each takes some 200 MB.
MOST_PROCESSES = 50
#: The suggested number of processes decides a cell with this probability.
POWER = 0.8
#: The level of each test over all looks at a cell, and the false discovery rate over the cells.
LEVEL = 0.05
#: The level of the test for two modes.
MODES_LEVEL = 0.05
#: Fewer processes do not show two modes, and each mode has at least this share of the processes.
LEAST_FOR_MODES, LEAST_SHARE = 4, 0.2


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


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What the verdict on one cell follows from.

    ``per_process`` holds its ratios (candidate / reference), and each of ``aa_runs`` those of an A/A run of the same
    minutes. ``level`` is the level at the last look, where the cell stopped: the share of `LEVEL` that this look spent.
    """

    per_process: Sequence[float]
    aa_runs: Sequence[Sequence[float]] = ()
    level: float = LEVEL


def decide_verdicts(cells: Sequence[Comparison | Sequence[float]], margin: float, q: float = LEVEL) -> list[Verdict]:
    """Decide the verdict on each cell of a matrix; a cell may also be given as its per-process ratios alone.

    With the margin m (0.01 is 1 %), slower means a ratio above 1 + m, faster a ratio below 1 / (1 + m), so that neither
    model is favoured, and same a ratio in between. Two t tests on the mean log ratio, whose error includes what the A/A
    runs show (`mean_log_ratio`), decide: of a difference beyond the margin (two directions, hence twice the smaller p),
    and of equivalence within the margin (two one-sided tests, Schuirmann 1987, doi:10.1007/BF01068419). A p-value is
    multiplied by LEVEL / level of its look, so that it is valid however many looks there were (`Looks`). The false
    discovery rates of differences and of equivalences are each held at ``q`` over the cells (Benjamini and Hochberg
    1995, doi:10.1111/j.2517-6161.1995.tb02031.x). If neither test is significant, the cell is inconclusive. A cell with
    fewer than two processes is inconclusive too and does not count among the cells.

    Raises UsageError for a margin, a level or ``q`` out of range, MeasureError for ratios that are not positive and
    finite.
    """
    bound = _log_margin(margin)
    _check_level("q", q)
    tests = [_Test.of(cell if isinstance(cell, Comparison) else Comparison(cell)) for cell in cells]
    tested = [test for test in tests if test.processes >= 2]
    differences = iter(_adjusted([test.difference(bound) for test in tested]))
    equivalences = iter(_adjusted([test.equivalence(bound) for test in tested]))
    shown = format_margin(margin)
    verdicts = []
    for test in tests:
        if test.processes < 2:
            reason = f"a verdict needs at least two processes, and there is {test.processes or 'none'}"
            verdicts.append(Verdict("inconclusive", 1.0, None, reason))
            continue
        difference, equivalence = next(differences), next(equivalences)
        if difference <= q:
            kind: Kind = "slower" if test.mean.value > 0 else "faster"
            verdicts.append(Verdict(kind, difference, None, f"{kind} by more than {shown}"))
        elif equivalence <= q:
            verdicts.append(Verdict("same", equivalence, None, f"within {shown} either way"))
        else:
            needed, reason = _outlook(test, bound, q, len(tested))
            verdicts.append(Verdict("inconclusive", difference, needed, reason))
    return verdicts


def decide_alone(cell: Comparison, margin: float) -> Kind:
    """Decide one cell as `decide_verdicts` does in a matrix of its own: the rule that stops the sampling of a cell."""
    bound = _log_margin(margin)
    test = _Test.of(cell)
    if test.processes < 2:
        return "inconclusive"
    if test.difference(bound) <= LEVEL:
        return "slower" if test.mean.value > 0 else "faster"
    return "same" if test.equivalence(bound) <= LEVEL else "inconclusive"


def confirms_slower(
    per_process: Sequence[float], margin: float, aa_runs: Sequence[Sequence[float]] = (), level: float = LEVEL
) -> bool:
    """Return whether the ratios of fresh processes confirm that a cell is slower by more than ``margin``.

    A one-sided t test at ``level``, whose error includes what the A/A runs show. Raises MeasureError for fewer than two
    processes.
    """
    bound = _log_margin(margin)
    _check_level("level", level)
    if len(per_process) < 2:
        raise MeasureError(f"confirming a slowdown needs at least two fresh processes, not {len(per_process)}")
    mean = mean_log_ratio(per_process, aa_runs)
    return _p_positive(mean, mean.value - bound) <= level


@dataclasses.dataclass
class Looks:
    """The planned looks at one cell: after each, sampling stops if the cell is decided, else processes are added.

    Each look but the last spends half of the level that is left, the last one all of it. Whether a look is the last
    must not depend on the ratios, only on the time and the number of processes. As the levels add up to `LEVEL`, the
    probability of a false decision at any look is at most `LEVEL`, whatever the dependence between looks (Bonferroni's
    inequality; spending by a rule that is fixed in advance: Lan and DeMets 1983, doi:10.1093/biomet/70.3.659).
    """

    #: The number of looks so far, the level of the latest one, and what is left for later ones.
    count: int = 0
    level: float = 0.0
    left: float = LEVEL

    def next(self, last: bool) -> float:
        """Count the next look, and return its level."""
        self.level = self.left if last else self.left / 2
        self.left -= self.level
        self.count += 1
        return self.level


@dataclasses.dataclass(frozen=True)
class Modes:
    """Two groups of a cell's processes: the number of processes and the ratio of each, the smaller ratio first."""

    processes: tuple[int, int]
    ratios: tuple[float, float]

    def __str__(self) -> str:
        parts = (f"{count} near {ratio:.3g}" for count, ratio in zip(self.processes, self.ratios, strict=True))
        return f"the processes have two modes: {' and '.join(parts)}"


def two_modes(per_process: Sequence[float], margin: float) -> Modes | None:
    """Return the two modes of a cell's log ratios, if a gap wider than the margin divides them; else None.

    The test statistic is the largest gap between neighbours, divided by the range, among gaps with at least a fifth of
    the processes on either side. Its null distribution is that of uniform ratios, by the distribution of their largest
    spacing (Fisher 1929, doi:10.1098/rspa.1929.0151): among unimodal distributions without long tails it has the
    largest gaps. At `MODES_LEVEL` 5 %, simulated samples of 6 to 30 processes gave modes falsely in 5 % for uniform, at
    most 2 % for normal, Laplace and Student's t (3 degrees of freedom), and at most 8 % for strongly skewed
    distributions (exponential, lognormal); those of 4 or 5 in at most 5 %, 7 % and 18 %.
    """
    logs = np.sort(log_ratios(per_process))
    count = len(logs)
    if count < LEAST_FOR_MODES or np.ptp(logs) == 0:
        return None
    least = math.ceil(LEAST_SHARE * count)
    gaps = np.diff(logs)[least - 1 : count - least]
    place = int(gaps.argmax())
    gap = float(gaps[place])
    if gap <= _log_margin(margin) or _p_of_largest_spacing(gap / float(np.ptp(logs)), len(gaps), count) > MODES_LEVEL:
        return None
    low, high = np.split(logs, [place + least])
    return Modes((len(low), len(high)), (float(np.exp(low.mean())), float(np.exp(high.mean()))))


def _p_of_largest_spacing(share: float, gaps: int, values: int) -> float:
    """The probability that one of ``gaps`` spacings of uniform ``values`` exceeds this share of their range."""
    terms = range(1, min(gaps, math.ceil(1 / share) - 1) + 1)
    return math.fsum((-1) ** (term + 1) * math.comb(gaps, term) * (1 - term * share) ** (values - 2) for term in terms)


@dataclasses.dataclass(frozen=True)
class _Test:
    """The tests of one cell: its mean log ratio with its enlarged error, and that error without the A/A runs.

    The p-values are valid over all looks; ``weight`` is LEVEL / level of the last look.
    """

    mean: Mean
    alone: Mean
    processes: int
    aa_runs: int
    weight: float

    @classmethod
    def of(cls, cell: Comparison) -> _Test:
        if not 0 < cell.level <= LEVEL:
            raise UsageError(f"level={cell.level:g}: the level of a look must lie above 0, and be at most {LEVEL:g}")
        processes = len(log_ratios(cell.per_process))
        if not processes:
            return cls(Mean(math.nan), Mean(math.nan), 0, 0, 1.0)
        mean, alone = mean_log_ratio(cell.per_process, cell.aa_runs), mean_log_ratio(cell.per_process)
        return cls(mean, alone, processes, sum(map(bool, cell.aa_runs)), LEVEL / cell.level)

    def difference(self, bound: float) -> float:
        """The p-value of a difference: twice the smaller p of the two tests, which is that on the mean's side."""
        return min(1.0, 2 * self.weight * _p_positive(self.mean, abs(self.mean.value) - bound))

    def equivalence(self, bound: float) -> float:
        """The p-value of equivalence: the larger p of the two tests, which is against the bound nearer to the mean."""
        return min(1.0, self.weight * _p_positive(self.mean, bound - abs(self.mean.value)))


def _p_positive(mean: Mean, distance: float) -> float:
    """The one-sided p-value that ``distance``, the mean minus some constant, is above zero."""
    if not mean.error:
        return 0.0 if distance > 0 else 1.0
    return float(special.stdtr(mean.freedom, -distance / mean.error))


def _outlook(test: _Test, bound: float, q: float, cells: int) -> tuple[int | None, str]:
    """Return how many processes would decide an inconclusive cell at the same mean and deviation, and a sentence."""
    outside = abs(test.mean.value) > bound
    alone = test.difference(bound) if outside else test.equivalence(bound)
    # If only the adjustment for other cells prevents a decision, p below q / cells decides whatever their p-values are.
    level = (q / 2 if outside else q) / (cells if alone <= q else 1)
    distance = abs(abs(test.mean.value) - bound)
    more = range(test.processes + 1, MOST_PROCESSES + 1)
    # More processes detect less, so a binary search finds the first that are enough.
    enough = bisect.bisect_left(more, True, key=lambda processes: _detectable(test, processes, level) < distance)
    needed = more[enough] if enough < len(more) else None
    advice = (
        f"more than {MOST_PROCESSES} processes needed: within this noise the change cannot be told from the margin"
        if needed is None
        else f"{needed} processes would decide it in 4 of 5 runs"
    )
    if alone <= q:
        return needed, f"p = {alone:.2g} for this cell alone is too weak among {cells} cells; {advice}"
    return needed, advice


def _detectable(test: _Test, processes: int, level: float) -> float:
    """The distance from a bound that ``processes`` would find with POWER, with as many in each A/A run."""
    assert test.mean.error is not None  # it has two processes
    assert test.alone.error is not None
    share = math.sqrt(test.processes / processes)
    own = Mean(0.0, test.alone.error * share, processes - 1)
    noise = math.sqrt(max(0.0, test.mean.error**2 - test.alone.error**2)) * share
    planned = welch_difference(own, Mean(0.0, noise, test.aa_runs)) if noise else own
    assert planned.error is not None
    return noncentrality(level, POWER, planned.freedom) * planned.error if planned.error else 0.0


def _adjusted(p_values: list[float]) -> list[float]:
    return [float(p) for p in stats.false_discovery_control(p_values)] if p_values else []


def _check_level(name: str, level: float) -> None:
    if not 0 < level < 0.5:
        raise UsageError(f"{name}={level:g}: the level of a test must lie between 0 and 0.5")


def _log_margin(margin: float) -> float:
    if not (math.isfinite(margin) and margin >= 0):
        raise UsageError(f"margin={margin:g}: it must be a share of the latency, 0 or more (0.01 is 1 %)")
    return round(math.log(1 + margin), DECIMALS)
