"""What a machine can resolve: real workers time a network beside itself and beside a slowed copy, which is then judged.

Nothing is changed on the machine.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.api import ALLOCATORS, Profile
from harness.doctor import probe
from harness.doctor.advice import Advice, advice
from harness.errors import MeasureError, UsageError, explain_disk_errors
from harness.files import Scratch
from harness.measure import machine
from harness.measure.machine import Facts, Load
from harness.measure.noise import Finding, findings
from harness.measure.pool import PairedSamples, Workers
from harness.measure.profile import resolve_allocator
from harness.measure.timing import Amount
from harness.stats.ratios import Ratio, minimum_detectable_effect, paired_ratio
from harness.stats.verdict import MOST_PROCESSES, Verdict, decide_verdicts
from harness.text import format_margin, percent

logger = logging.getLogger(__name__)
PROCESSES, AMOUNT = 6, Amount(pairs=100, warmup=300)
#: So many comparisons of the network with itself; fewer, but at least some, when they take more than so many seconds.
COMPARISONS, LEAST_COMPARISONS, SECONDS = 8, 3, 40.0
#: The slowdown that is planted, in margins. One that large is to be found.
PLANTED = 2
#: Seconds to wait for a worker's answer: far more than any that is alive takes.
TIMEOUT = 300.0


@dataclasses.dataclass(frozen=True)
class Host:
    """The machine before anything is timed. ``allocators`` has the library of each that can be swapped in, or None."""

    facts: Facts
    load: Load
    allocators: Mapping[str, str | None]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two networks timed in pairs: their ratio, what it says at the margin, and every signal of noise."""

    ratio: Ratio
    verdict: Verdict
    findings: tuple[Finding, ...]

    @property
    def disturbed(self) -> bool:
        return any(finding.beyond for finding in self.findings)


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Whether a machine is fit for a ``margin`` (0.01 is 1 %), if not why, and what that is based on.

    ``smallest_change`` is that of `statistics.smallest_change`, pooled over the comparisons of the network with
    ``itself``; a slowdown of the margin and that much more is called slower in 4 of 5 comparisons.
    ``processes_needed`` are the fewest that bring it down to the margin (None: more than MOST_PROCESSES are needed).
    ``planted`` is the comparison with a copy that is slower by twice the margin. ``canary_ns`` is the median time of
    the canary, a fixed piece of work; ``environment`` is what the first worker verified.
    """

    margin: float
    fit: bool
    troubles: tuple[str, ...]
    smallest_change: float
    processes_needed: int | None
    itself: tuple[Comparison, ...]
    planted: Comparison
    canary_ns: float
    host: Host
    environment: Mapping[str, Any]
    advice: tuple[Advice, ...]


# --------------------------------------------------------------------------------------------------------- measuring


def examine(margin: float, allocator: Sequence[str], clock: Callable[[], float] = time.monotonic) -> Diagnosis:
    """Diagnose this machine by timings of about half a minute, and log how far they are.

    Raises UsageError for a margin of 0 or an unknown allocator, MeasureError for one that is not here, CellError when
    the workers cannot be started, StoreError when there is no room for a temporary file.
    """
    if margin <= 0:
        raise UsageError("no machine resolves a margin of 0: ask for one above it, such as 1%")
    profile = Profile(threads=1, allocator=allocator)
    resolve_allocator(profile.allocators)
    host = Host(machine.facts(), machine.load(), _allocators())
    until = clock() + SECONDS
    with _scratch() as folder, Workers(probe.COMMAND, TIMEOUT) as workers:
        network, slowed, inputs = (folder / file for file in ("network.json", "slowed.json", "inputs.npy"))
        with explain_disk_errors(f"cannot write {inputs}", "or name another folder in the variable TMPDIR"):
            probe.write_inputs(inputs)
            probe.write_model(network)
            probe.write_model(slowed, PLANTED * margin)

        def compare(candidate: Path, seed: int) -> PairedSamples:
            return workers.time_pair(
                profile=profile,
                runtime=probe.Probe.name,
                reference=network,
                candidate=candidate,
                inputs=inputs,
                processes=PROCESSES,
                amount=AMOUNT,
                seed=seed,
            )

        logger.info(f"starting {PROCESSES} processes; this takes about half a minute")
        itself = [compare(network, 0)]
        logger.info(
            f"a network beside itself: 1 of {COMPARISONS}; beside a copy {format_margin(PLANTED * margin)} slower"
        )
        planted = compare(slowed, -1)
        while len(itself) < COMPARISONS and (len(itself) < LEAST_COMPARISONS or clock() < until):
            logger.info(f"a network beside itself: {len(itself) + 1} of {COMPARISONS}")
            itself.append(compare(network, len(itself)))
    return diagnose(margin, host, itself, planted)


def _scratch() -> Scratch:
    with explain_disk_errors(
        f"cannot make a folder in {tempfile.gettempdir()}", "or name another in the variable TMPDIR"
    ):
        return Scratch(Path(tempfile.gettempdir()))


def _allocators() -> dict[str, str | None]:
    """Each allocator that can be swapped in, and its library; None where it is not found."""
    found: dict[str, str | None] = {}
    for name in ALLOCATORS:
        if name != "system":
            try:
                found[name] = str(resolve_allocator([name])[1])
            except MeasureError:
                found[name] = None
    return found


# --------------------------------------------------------------------------------------------------------- diagnosing


def diagnose(margin: float, host: Host, itself: Sequence[PairedSamples], planted: PairedSamples) -> Diagnosis:
    """What the timings of a network beside ``itself`` and beside the ``planted`` slowdown say of the machine.

    It is fit for the margin if a slowdown of twice the margin is found in 4 of 5 comparisons, the planted one is, no
    comparison with itself came out faster or slower, and none was disturbed. Raises MeasureError for samples of a
    single process.
    """
    first = itself[0]
    ratios = [paired_ratio(samples.reference, samples.candidate) for samples in (*itself, planted)]
    per_process = [ratio.per_process for ratio in ratios[:-1]]
    change = minimum_detectable_effect(per_process)
    if change is None:
        raise MeasureError("what a machine resolves shows only over at least two processes")
    # What was planted is no part of the family over which false discoveries are controlled: it is none.
    verdicts = decide_verdicts(per_process, margin) + decide_verdicts([ratios[-1].per_process], margin)
    *alone, slowed = (
        Comparison(ratio, verdict, tuple(findings(samples, None if samples is first else first)))
        for samples, ratio, verdict in zip((*itself, planted), ratios, verdicts, strict=True)
    )
    needed = _processes_needed(per_process, margin)
    troubles = tuple(_troubles(margin, change, needed, alone, slowed))
    return Diagnosis(
        margin=margin,
        fit=not troubles,
        troubles=troubles,
        smallest_change=change,
        processes_needed=needed,
        itself=tuple(alone),
        planted=slowed,
        canary_ns=float(np.median([samples.canary for samples in (*itself, planted)])),
        host=host,
        environment=itself[0].environment[0],
        advice=tuple(advice(host.facts, host.load, threads=1)),
    )


def _processes_needed(per_process: Sequence[Sequence[float]], margin: float) -> int | None:
    """The fewest processes whose smallest change is at most the margin; None when more than MOST_PROCESSES are."""
    for processes in range(2, MOST_PROCESSES + 1):
        change = minimum_detectable_effect(per_process, processes)
        if change is not None and change <= margin:
            return processes
    return None


def _troubles(
    margin: float, change: float, needed: int | None, itself: Sequence[Comparison], planted: Comparison
) -> Iterator[str]:
    """Each reason why a machine is not fit, and what to do about it."""
    shown = format_margin(margin)
    if change > margin:
        more = f", or about {needed} processes" if needed else ""
        yield (
            f"only slowdowns from {percent(margin + change)} on are called slower in 4 of 5 comparisons, and twice the "
            f"margin ({percent(PLANTED * margin)}) should be: use a margin of at least "
            f"{format_margin(_round_margin(change))}{more}"
        )
    elif planted.verdict.kind != "slower":
        yield (
            f"the copy that is about {percent(PLANTED * margin)} slower was not called slower by more than {shown}, as "
            f"it measured {planted.ratio.ratio:.4f}: try again, and use a larger margin if it stays so"
        )
    different = sum(comparison.verdict.kind in ("faster", "slower") for comparison in itself)
    if different:
        yield (
            f"in {different} of {len(itself)} comparisons the network was called faster or slower than itself by more "
            f"than {shown}: something disturbs one of two equal networks; find it, or use a larger margin"
        )
    disturbed = sum(comparison.disturbed for comparison in (*itself, planted))
    if disturbed:
        yield (
            f"{disturbed} of {len(itself) + 1} comparisons were disturbed, and a run gives such cells no verdict: "
            "try again while nothing else runs, and see what else is advised"
        )


def _round_margin(change: float) -> float:
    """A round margin that a smallest change does not exceed: whole percents, tenths of one below 1 %."""
    step = 100 if change > 0.01 else 1000
    return math.ceil(round(change * step, 9)) / step
