"""Define presets, which set the size of a run: smoke (seconds), quick (minutes) and study (as published)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from harness.api import Architecture, Phase, Training
from harness.errors import CellError, UsageError, nearest

#: Processes are added to an undecided cell up to this number: each takes some 200 MB.
SAMPLING_LIMIT = 12


@dataclasses.dataclass(frozen=True)
class Preset:
    """The size of a run.

    Each of ``processes`` times ``pairs`` pairs after at most ``warmup`` untimed calls; warm-up ends once the
    latency is steady. Pairs cost little beside the start of a process, and few of them make the ratio of a process
    noisy. ``seconds`` is the approximate time per process after which both are cut short (None: never). Where the
    profile has a pause before each timed call, ``paced_pairs`` are timed, because pauses take their time. A cell
    that these processes leave undecided gets more of them, until it has taken ``budget`` seconds or has
    `SAMPLING_LIMIT`. ``aa_runs`` is the number of A/A runs in the same minutes. The single protocol times ``calls``
    calls, or with pauses as many as all processes would in pairs. ``seeds`` limits the seeds of a matrix; with
    ``exact_seeds`` a matrix of fewer seeds gets more. ``evaluation`` limits the number of validation and of test
    examples; None means no limit.
    """

    name: str
    summary: str
    processes: int
    pairs: int
    paced_pairs: int
    warmup: int
    calls: int
    budget: float = 0.0
    aa_runs: int = 3
    seconds: float | None = None
    seeds: int | None = None
    exact_seeds: bool = False
    evaluation: int | None = None

    def more_processes(self, processes: int, seconds: float) -> int | None:
        """The number of processes at the next look at a cell; None if that exceeds the budget or the most.

        ``seconds`` is what these ``processes`` took. The ratios must not count: whether a look is the last depends on
        the time alone.
        """
        more = min(SAMPLING_LIMIT, math.ceil(1.5 * processes))
        return more if more > processes and seconds * more / processes <= self.budget else None

    def seeds_of(self, declared: Sequence[int]) -> tuple[int, ...]:
        """Return the seeds to run: those that a matrix declares, and the next integers where it has too few."""
        chosen = list(declared[: self.seeds])
        while self.exact_seeds and self.seeds is not None and len(chosen) < self.seeds:
            chosen.append(max(chosen) + 1)
        return tuple(chosen)

    def training(self, architecture: Architecture, phase: Phase) -> Training:
        """Return the architecture's training, shortened to this preset. Raises CellError if it is not a Training."""
        training: object = architecture.training(phase)
        if not isinstance(training, Training):
            raise CellError(
                f"architecture {architecture.name!r}: training({phase!r}) returned {type(training).__name__}, not a "
                "harness.Training"
            )
        match self.name:
            case "smoke":
                return _shortened(training, 1, 64)
            case "quick":
                return _shortened(training, architecture.quick_epochs, architecture.quick_examples)
            case _:
                return training


def _shortened(training: Training, epochs: int, examples: int) -> Training:
    """Limit epochs and examples. The first cosine cycle shrinks too, so that it still ends at its lowest rate."""
    epochs = min(training.epochs, epochs)
    arguments = dict(training.scheduler_args)
    if "T_0" in arguments:
        arguments["T_0"] = min(arguments["T_0"], epochs)
    return dataclasses.replace(training, epochs=epochs, examples=examples, scheduler_args=arguments)


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            "smoke",
            "seconds, to test that the suite runs; its quality figures are meaningless",
            processes=2,
            pairs=12,
            paced_pairs=12,
            warmup=60,
            calls=50,
            aa_runs=1,
            seconds=0.2,
            seeds=1,
            evaluation=512,
        ),
        Preset(
            "quick",
            "minutes, the default: short training on some of the data, one seed",
            processes=4,
            pairs=150,
            paced_pairs=16,
            warmup=100,
            calls=300,
            budget=10.0,
            seconds=0.4,
            seeds=1,
        ),
        # 6 x 120 samples are enough for the 99th percentile; with a pause, 6 x 40 are for the 90th.
        Preset(
            "study",
            "as published: all data, all epochs, all seeds",
            processes=6,
            pairs=400,
            paced_pairs=40,
            warmup=300,
            calls=1000,
            budget=60.0,
            seconds=6.0,
        ),
    )
}


def preset(name: str) -> Preset:
    """Return the preset called ``name``. Raises UsageError, with the nearest name, if there is none."""
    if name not in PRESETS:
        raise UsageError(f"no preset is called {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name]
