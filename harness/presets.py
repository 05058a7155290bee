"""How much of a study is run: seconds to see that it works, minutes to see where it goes, or as published."""

from __future__ import annotations

import dataclasses

from harness.contracts import Architecture, Phase, Training
from harness.errors import UsageError, nearest


@dataclasses.dataclass(frozen=True)
class Preset:
    """``seeds`` bounds the seed axis, ``evaluation`` the validation and test examples; the rest sizes the timing."""

    name: str
    about: str
    processes: int
    pairs: int
    seeds: int | None = None
    evaluation: int | None = None

    def training(self, architecture: Architecture, phase: Phase) -> Training:
        """The architecture's training at this preset's size."""
        training = architecture.training(phase)
        match self.name:
            case "smoke":
                return dataclasses.replace(training, epochs=1, examples=64)
            case "quick":
                epochs = min(training.epochs, architecture.quick_epochs)
                return dataclasses.replace(training, epochs=epochs, examples=architecture.quick_examples)
            case _:
                return training


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("smoke", "does it run? seconds; its quality figures mean nothing", 2, 10, seeds=1, evaluation=512),
        Preset("quick", "the default: minutes; short training on a part of the data, one seed", 4, 50, seeds=1),
        Preset("study", "as published: all data, all epochs, all seeds", 6, 100),
    )
}


def preset(name: str) -> Preset:
    """The preset called ``name``; raises UsageError with the nearest right one."""
    if name not in PRESETS:
        raise UsageError(f"no preset is called {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name]
