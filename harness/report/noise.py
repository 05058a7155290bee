"""What a table says of its own error: the smallest change that could be seen, and the cells that say nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from harness.records.record import Record, Timing
from harness.text import format_margin, percent, pluralize

VERDICTS = (
    "verdict: slower or faster by more than the margin, or the same within it. Of the differences found in one matrix "
    "on average at most 5 % are false, and so of the equalities; slower was confirmed by fresh processes. inconclusive "
    "(n): n processes would settle it in 4 of 5 runs. contaminated: the machine was disturbed, twice. (The same is "
    "shown by a 90 % interval within the margin, a difference by a 95 % one beyond it.)"
)
#: Fewer have no spread to speak of.
LEAST_PROCESSES = 4


def protocol(timings: Sequence[Timing]) -> str:
    """How the cells of a table were timed, in a few words."""
    first = timings[0]
    environment = first.environment[0]
    counts = sorted({timing.pairs for timing in timings})
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if first.protocol == "single":
        how = (
            f"protocol single: {first.warmup} untimed calls, the mean of {shown} in 1 process, "
            "ratio of the means, no interval and no verdict"
        )
    else:
        how = f"{first.processes} processes x {shown} pairs"
    return f"{how}, {pluralize(environment['threads'], 'thread')}, {environment['allocator']}"


def notes(records: Sequence[Record]) -> list[str]:
    """Lines below a table: the run's resolution, what its timing cost, and each cell without an answer, with why."""
    timings = [timing for record in records if (timing := record.timing) is not None]
    return [*_resolution(timings), *_warmup(timings), *_cost(timings), *_unanswered(records)]


def _resolution(timings: Sequence[Timing]) -> Iterator[str]:
    """What one comparison can see, by the spread of the reference with itself and by that of the cells."""
    copies = {run.sha256: run for timing in timings if (run := timing.aa_run) is not None}
    calm = [entry for entry in copies.values() if not entry.disturbed]
    if not calm:
        return
    values = [entry.ratio.value for entry in calm]
    low, high = calm[0].ratio.low, calm[0].ratio.high
    shown = f"{values[0]:.4f}" if len(values) == 1 else f"{min(values):.4f} to {max(values):.4f}"
    if len(values) == 1 and low is not None and high is not None:
        shown += f" [{low:.4f}, {high:.4f}]"
    yield f"The reference timed against itself: {shown}."
    from harness.stats.ratios import minimum_detectable_effect

    processes = min(timing.processes for timing in timings)
    if processes < LEAST_PROCESSES:
        yield f"{processes} processes are too few to tell what they could have detected."
        return
    by_copies = minimum_detectable_effect([entry.per_process for entry in calm], processes, around_one=True)
    cells = [timing.per_process for timing in timings if timing.per_process and not timing.exceeded]
    by_cells = minimum_detectable_effect(cells, processes)
    if by_copies is None:
        return
    text = f"Smallest change that {processes} processes detect in 4 of 5 comparisons: {percent(by_copies)}"
    if by_cells is not None:
        text += f" by that spread, {percent(by_cells)} by the spread of these cells"
    margins = {found.margin for timing in timings if (found := timing.verdict)}
    if len(margins) == 1:
        text += f"; a verdict needs the margin of {format_margin(margins.pop())} on top of it"
    yield f"{text}."


def _warmup(timings: Sequence[Timing]) -> Iterator[str]:
    unsteady = [timing.warmup for timing in timings if timing.steady is False]
    if unsteady:
        yield f"The warm-up of {len(unsteady)} of {len(timings)} cells, {min(unsteady)} calls or more, ended unsteady."


def _cost(timings: Sequence[Timing]) -> Iterator[str]:
    costs = [cost for timing in timings if (cost := timing.cost) is not None]
    if costs:
        wall = statistics.median(cost.wall for cost in costs)
        beyond = statistics.median(cost.wall - cost.calls for cost in costs)
        yield f"Timing a cell took {wall:.1f} s (median), of which {beyond:.1f} s beyond the timed calls."


def _unanswered(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        found = record.verdict
        if found is not None and found.kind in ("contaminated", "inconclusive"):
            yield f"{record.cell}: {found.kind}: {found.reason}"
