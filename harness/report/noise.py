"""Write the notes below a table: what its timings can detect, what they cost, and which cells are undecided."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from harness.api.runtimes import BACK_TO_BACK
from harness.records.record import Record, Timing
from harness.text import format_margin, percent, pluralize

if TYPE_CHECKING:
    from harness.stats.ratios import DetectableEffect

VERDICTS = (
    "verdict: slower or faster by more than the margin, or the same within it; what the A/A runs of the same minutes "
    "show of the machine widens every interval. On average, at most 5 % of the differences found in one matrix are "
    "false, and at most 5 % of the equalities; fresh processes confirmed each slower. inconclusive (n): n processes "
    "would decide it in 4 of 5 runs. (Slower and faster: the 95 % interval lies beyond the margin; same: the 90 % "
    "interval lies within it. Both hold over all looks at a cell.)"
)
REGIMES = (
    "back-to-back: each timed call follows another call of the same network at once. A pause such as 20ms: the process "
    "sleeps so long before each timed call, as where a network is called now and then. Caches and clocks make the "
    "ratios of the two regimes differ."
)
#: Version 0.1 discarded results.
CONTAMINATED = "contaminated, in runs of version 0.1: the machine was disturbed, and the result was discarded."
#: The spread of fewer processes is too uncertain to report.
MIN_PROCESSES = 4


def protocol(timings: Sequence[Timing]) -> str:
    """State in a few words how the cells of a table were timed."""
    first = timings[0]
    environment = first.environment[0]
    shown = _range(timing.pairs for timing in timings)
    if first.protocol == "single":
        how = (
            f"protocol single: {first.warmup} untimed calls, the mean of {shown} in 1 process, "
            "ratio of the means, no interval and no verdict"
        )
    else:
        how = f"{_range(timing.processes for timing in timings)} processes x {shown} pairs"
    regime = first.pace if first.pace == BACK_TO_BACK else f"{first.pace} pause before each timed call"
    return f"{how}, {regime}, {pluralize(environment['threads'], 'thread')}, {environment['allocator']}"


def _range(counts: Iterable[int]) -> str:
    """The only number, or the smallest and the largest: "4 to 12"."""
    numbers = sorted(set(counts))
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def notes(records: Sequence[Record]) -> list[str]:
    """The lines below a table: minimum detectable effect, warm-up, cost, and each undecided cell with the reason."""
    timings = [timing for record in records if (timing := record.timing) is not None]
    return [*_detectable(timings), *_warmup(timings), *_cost(timings), *_absent(records), *_undecided(records)]


def _detectable(timings: Sequence[Timing]) -> Iterator[str]:
    """The A/A runs, and the minimum detectable effect by their spread and by that of the cells."""
    runs = list({(run.sha256, tuple(run.per_process)): run for timing in timings for run in timing.aa_runs}.values())
    if not runs:
        return
    values = [run.ratio.value for run in runs]
    low, high = runs[0].ratio.low, runs[0].ratio.high
    shown = f"{values[0]:.4f}" if len(values) == 1 else f"{min(values):.4f} to {max(values):.4f}"
    if len(values) == 1 and low is not None and high is not None:
        shown += f" [{low:.4f}, {high:.4f}]"
    yield f"{pluralize(len(runs), 'A/A run')} (a reference against itself): {shown}."
    from harness.stats.ratios import minimum_detectable_effect

    processes = min(timing.processes for timing in timings)
    if processes < MIN_PROCESSES:
        yield f"The minimum detectable effect is unknown: {processes} processes are too few to estimate it."
        return
    beside = max(len(timing.aa_runs) for timing in timings)
    ratios = [run.per_process for run in runs]
    by_runs = minimum_detectable_effect(ratios, processes, around_one=True, aa_runs=beside)
    cells = [timing.per_process for timing in timings if timing.per_process]
    by_cells = minimum_detectable_effect(cells, processes, aa_runs=beside)
    if by_runs is None:
        return
    text = f"Minimum detectable effect with {processes} processes (power 80 %): {_effect(by_runs)}"
    if by_cells is not None:
        text += f" by the spread of the A/A runs, {_effect(by_cells)} by that of these cells"
    margins = {verdict.margin for timing in timings if (verdict := timing.verdict)}
    if len(margins) == 1:
        text += f"; a verdict also needs the margin of {format_margin(margins.pop())}"
    yield f"{text}."


def _effect(effect: DetectableEffect) -> str:
    """The effect with its 90 % interval."""
    return f"{percent(effect.value)} [{percent(effect.low)}, {percent(effect.high)}]"


def _warmup(timings: Sequence[Timing]) -> Iterator[str]:
    unsteady = [timing.warmup for timing in timings if timing.steady is False]
    if unsteady:
        yield (
            f"The warm-up of {len(unsteady)} of {len(timings)} cells ended before the times were steady, after "
            f"{min(unsteady)} calls or more."
        )


def _cost(timings: Sequence[Timing]) -> Iterator[str]:
    costs = [cost for timing in timings if (cost := timing.cost) is not None]
    if costs:
        wall = statistics.median(cost.wall for cost in costs)
        beyond = statistics.median(cost.wall - cost.calls for cost in costs)
        yield f"Timing a cell took {wall:.1f} s (median), {beyond:.1f} s of it outside the timed calls."


def _absent(records: Sequence[Record]) -> Iterator[str]:
    """The figures without a value, with the reasons that their metrics gave."""
    absent = collections.Counter(
        (name, figure.reason) for record in records for name, figure in record.figures.items() if figure.reason
    )
    for (name, reason), count in absent.items():
        yield f"{name} is absent from {pluralize(count, 'cell')}: {reason}."


def _undecided(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        verdict = record.verdict
        if verdict is not None and verdict.kind in ("contaminated", "inconclusive"):
            yield f"{record.cell}: {verdict.kind}: {verdict.reason}"
