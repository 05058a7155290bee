"""Diagnose what this machine can resolve: time a network against itself (A/A) and against a slowed copy.

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
from harness.measure.noise import NoiseSignal, noise_signals
from harness.measure.pool import PairedSamples, Workers
from harness.measure.profile import resolve_allocator
from harness.measure.timing import Amount
from harness.stats.ratios import Ratio, minimum_detectable_effect, paired_ratio
from harness.stats.verdict import MOST_PROCESSES, Comparison, Verdict, decide_verdicts
from harness.text import format_margin, percent

logger = logging.getLogger(__name__)
PROCESSES, AMOUNT = 6, Amount(pairs=100, warmup=300)
#: Each comparison is judged beside so many A/A runs, as in the presets quick and study.
AA_RUNS = 3
#: A/A comparisons; if they take more than SECONDS, fewer, but at least LEAST_COMPARISONS.
COMPARISONS, LEAST_COMPARISONS, SECONDS = 8, 3, 40.0
#: The planted slowdown in margins; a fit machine detects it.
PLANTED = 2
#: Seconds to wait for a worker's answer, far more than a living worker needs.
TIMEOUT = 300.0


@dataclasses.dataclass(frozen=True)
class Host:
    """The machine before any timing. ``allocators`` maps each allocator to its library, None if not installed."""

    facts: Facts
    load: Load
    allocators: Mapping[str, str | None]


@dataclasses.dataclass(frozen=True)
class TimedComparison:
    """Two networks timed in pairs: their ratio, the verdict at the margin, and every noise signal."""

    ratio: Ratio
    verdict: Verdict
    findings: tuple[NoiseSignal, ...]

    @property
    def disturbed(self) -> bool:
        return any(signal.beyond for signal in self.findings)


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Whether a machine is ``fit`` for a ``margin`` (0.01 is 1 %), the ``troubles`` if not, and the evidence.

    The field names are those of ``harness doctor --json``. ``itself`` holds the A/A comparisons and ``smallest_change``
    their pooled minimum detectable effect (MDE): a slowdown of the margin plus the MDE is called slower in 4 of 5
    comparisons. ``processes_needed`` is the smallest number of processes whose MDE is at most the margin (None: more
    than MOST_PROCESSES). ``planted`` is the comparison with a copy that is slower by twice the margin. ``canary_ns`` is
    the median time of the canary; ``environment`` is that of the first worker.
    """

    margin: float
    fit: bool
    troubles: tuple[str, ...]
    smallest_change: float
    processes_needed: int | None
    itself: tuple[TimedComparison, ...]
    planted: TimedComparison
    canary_ns: float
    host: Host
    environment: Mapping[str, Any]
    advice: tuple[Advice, ...]


# --------------------------------------------------------------------------------------------------------- measuring


def examine(margin: float, allocator: Sequence[str], clock: Callable[[], float] = time.monotonic) -> Diagnosis:
    """Diagnose this machine by timings of about half a minute; logs progress lines.

    Raises UsageError for a margin of 0 or an unknown allocator, MeasureError for an allocator that is not installed,
    CellError if the workers do not start, StoreError if a temporary file cannot be written.
    """
    if margin <= 0:
        raise UsageError("no machine resolves a margin of 0: choose a larger margin, such as 1%")
    profile = Profile(threads=1, allocator=allocator)
    resolve_allocator(profile.allocators)
    host = Host(machine.facts(), machine.load(), _allocators())
    deadline = clock() + SECONDS
    with _scratch() as folder, Workers(probe.COMMAND, TIMEOUT) as workers:
        network, slowed, inputs = (folder / file for file in ("network.json", "slowed.json", "inputs.npy"))
        with explain_disk_errors(f"cannot write {inputs}", "or name another folder in the variable TMPDIR"):
            probe.write_inputs(inputs)
            probe.write_model(network)
            probe.write_model(slowed, PLANTED * margin)

        def time_against(candidate: Path, seed: int) -> PairedSamples:
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
        aa_runs = [time_against(network, 0)]
        logger.info(f"A/A comparison 1 of {COMPARISONS}; then a copy that is {format_margin(PLANTED * margin)} slower")
        planted = time_against(slowed, -1)
        while len(aa_runs) < COMPARISONS and (len(aa_runs) < LEAST_COMPARISONS or clock() < deadline):
            logger.info(f"A/A comparison {len(aa_runs) + 1} of {COMPARISONS}")
            aa_runs.append(time_against(network, len(aa_runs)))
    return diagnose(margin, host, aa_runs, planted)


def _scratch() -> Scratch:
    with explain_disk_errors(
        f"cannot make a folder in {tempfile.gettempdir()}", "or name another in the variable TMPDIR"
    ):
        return Scratch(Path(tempfile.gettempdir()))


def _allocators() -> dict[str, str | None]:
    """Map each allocator that can be preloaded to its library; None if it is not installed."""
    libraries: dict[str, str | None] = {}
    for name in ALLOCATORS:
        if name != "system":
            try:
                libraries[name] = str(resolve_allocator([name])[1])
            except MeasureError:
                libraries[name] = None
    return libraries


# --------------------------------------------------------------------------------------------------------- diagnosing


def diagnose(margin: float, host: Host, aa_runs: Sequence[PairedSamples], planted: PairedSamples) -> Diagnosis:
    """Diagnose a machine from A/A comparisons and the comparison with the ``planted`` slowdown.

    It is fit for the margin if a slowdown of twice the margin is detected in 4 of 5 comparisons, the planted one is
    detected, and no A/A comparison is faster or slower. Noise signals are shown, and decide nothing. Raises
    MeasureError for samples of a single process.
    """
    first = aa_runs[0]
    ratios = [paired_ratio(samples.reference, samples.candidate) for samples in (*aa_runs, planted)]
    per_process = [ratio.per_process for ratio in ratios[:-1]]
    detectable = minimum_detectable_effect(per_process, aa_runs=AA_RUNS)
    if detectable is None:
        raise MeasureError("a diagnosis needs at least two processes")
    effect = detectable.value
    # Each comparison is judged as in a run: beside other A/A runs.
    cells = [
        Comparison(own, [*per_process[index + 1 :], *per_process[:index]][:AA_RUNS])
        for index, own in enumerate(per_process)
    ]
    # The planted slowdown is decided alone: as a true difference it would loosen the tests of the A/A comparisons.
    verdicts = decide_verdicts(cells, margin)
    verdicts += decide_verdicts([Comparison(ratios[-1].per_process, per_process[:AA_RUNS])], margin)
    *alone, slowed = (
        TimedComparison(ratio, verdict, tuple(noise_signals(samples, None if samples is first else first)))
        for samples, ratio, verdict in zip((*aa_runs, planted), ratios, verdicts, strict=True)
    )
    needed = _processes_needed(per_process, margin)
    troubles = tuple(_troubles(margin, effect, needed, alone, slowed))
    return Diagnosis(
        margin=margin,
        fit=not troubles,
        troubles=troubles,
        smallest_change=effect,
        processes_needed=needed,
        itself=tuple(alone),
        planted=slowed,
        canary_ns=float(np.median([samples.canary for samples in (*aa_runs, planted)])),
        host=host,
        environment=first.environment[0],
        advice=tuple(advice(host.facts, host.load, threads=1)),
    )


def _processes_needed(per_process: Sequence[Sequence[float]], margin: float) -> int | None:
    """Return the fewest processes whose MDE is at most the margin; None if more than MOST_PROCESSES."""
    for processes in range(2, MOST_PROCESSES + 1):
        effect = minimum_detectable_effect(per_process, processes, aa_runs=AA_RUNS)
        if effect is not None and effect.value <= margin:
            return processes
    return None


def _troubles(
    margin: float, effect: float, needed: int | None, aa_runs: Sequence[TimedComparison], planted: TimedComparison
) -> Iterator[str]:
    """Yield each reason why a machine is not fit, with what to do."""
    shown = format_margin(margin)
    if effect > margin:
        more = f", or about {needed} processes" if needed else ""
        yield (
            f"only slowdowns of {percent(margin + effect)} or more are detected in 4 of 5 comparisons, instead of "
            f"twice the margin ({percent(PLANTED * margin)}): use a margin of at least "
            f"{format_margin(_round_margin(effect))}{more}"
        )
    elif planted.verdict.kind != "slower":
        yield (
            f"the copy that is about {percent(PLANTED * margin)} slower was not called slower by more than {shown}; "
            f"its ratio was {planted.ratio.ratio:.4f}: try again, and use a larger margin if the result is the same"
        )
    different = sum(comparison.verdict.kind in ("faster", "slower") for comparison in aa_runs)
    if different:
        yield (
            f"{different} of {len(aa_runs)} A/A comparisons were called faster or slower by more than {shown}, "
            "although both networks are equal: find what disturbs one of them, or use a larger margin"
        )


def _round_margin(effect: float) -> float:
    """Round an effect up to whole percents, or to tenths of a percent below 1 %."""
    step = 100 if effect > 0.01 else 1000
    return math.ceil(round(effect * step, 9)) / step
