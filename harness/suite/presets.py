"""How much of a study is run: seconds to see that it works, minutes to see where it goes, or as published."""

from __future__ import annotations

import dataclasses

from harness.api import Architecture, Phase, Training
from harness.errors import CellError, UsageError, nearest


@dataclasses.dataclass(frozen=True)
class Preset:
    """The size of a run.

    ``processes`` time ``pairs`` each after at most ``warmup`` calls, which end when they are steady; fewer of both when
    they take more than about ``seconds`` (None: never fewer). ``calls`` are the timed ones of the single protocol.
    ``seeds`` bounds the seed axis, ``evaluation`` the validation and test examples.
    """

    name: str
    summary: str
    processes: int
    pairs: int
    warmup: int
    calls: int
    seconds: float | None = None
    seeds: int | None = None
    evaluation: int | None = None

    def training(self, architecture: Architecture, phase: Phase) -> Training:
        """The architecture's training at this preset's size."""
        training: object = architecture.training(phase)
        if not isinstance(training, Training):
            raise CellError(
                f"architecture {architecture.name!r} gives {type(training).__name__} as its training for the phase "
                f"{phase!r}, not a harness.Training"
            )
        match self.name:
            case "smoke":
                return _shortened(training, 1, 64)
            case "quick":
                return _shortened(training, architecture.quick_epochs, architecture.quick_examples)
            case _:
                return training


def _shortened(training: Training, epochs: int, examples: int) -> Training:
    """At most so many epochs and examples. The first cycle of a cosine shrinks with them, to end at its lowest rate."""
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
            "seconds, to see that it runs; its quality means nothing",
            processes=2,
            pairs=12,
            warmup=60,
            calls=50,
            seconds=0.2,
            seeds=1,
            evaluation=512,
        ),
        Preset(
            "quick",
            "minutes, the default: short training on a part of the data, one seed",
            processes=4,
            pairs=50,
            warmup=100,
            calls=300,
            seconds=0.3,
            seeds=1,
        ),
        # 6 x 120 samples are enough for the 99th percentile.
        Preset(
            "study", "as published: all data, all epochs, all seeds", processes=6, pairs=120, warmup=300, calls=1000
        ),
    )
}


def preset(name: str) -> Preset:
    """The preset called ``name``; raises UsageError with the nearest right one."""
    if name not in PRESETS:
        raise UsageError(f"no preset is called {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name]
