"""A plugin of steps that are careless, hostile or wrong, each in its own way. It is third party to the harness."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import os
import signal
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness import Step, StepContext, compressor, hookimpl
from harness.api import Phase

if TYPE_CHECKING:
    import torch

#: What the steps leave behind, so that a test can end it.
THREADS: list[tuple[threading.Thread, threading.Event]] = []
FILES: list[Any] = []


@compressor
def breaks(model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
    """Train a little, then break in the middle."""
    context.fit(model, epochs=1)
    raise LookupError("in the middle of apply")


@compressor
def leaves(model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
    """End the interpreter."""
    raise SystemExit(3)


@compressor
def vanishes(model: torch.nn.Module, context: StepContext, how: str = "_exit") -> torch.nn.Module:
    """End the process without any clean-up, as if nothing had happened."""
    match how:
        case "_exit":
            os._exit(0)
        case "execl":
            os.execl("/bin/true", "true")
        case "fork":
            child = os.fork()
            if child == 0:
                os._exit(7)
            raise ValueError(f"the child ended with {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
        case "base":
            raise BaseException("derived from nothing")
        case "close":
            os.close(1)
        case "live":
            if child := os.fork():
                os.waitpid(child, 0)
        case "libc":
            ctypes.CDLL(None)._exit(0)
    return model


@compressor
def recurs(model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
    """Never come to an end."""

    def down() -> torch.nn.Module:
        return down()

    return down()


@compressor
def mute(model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
    """Raise an error whose text cannot be read."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError

    raise MuteError


@compressor
def forgets(model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
    """Forget to return the model."""
    return None  # type: ignore[return-value]


@compressor
def poisons(model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
    """Return a model that answers NaN."""
    import torch

    model = copy.deepcopy(model)
    with torch.no_grad():
        model[-1].bias[0] = torch.nan  # type: ignore[index]
    return model


@compressor
def widens(model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
    """Return a model with another number of answers."""
    import torch

    model = copy.deepcopy(model)
    model[-1] = torch.nn.Linear(model[-1].in_features, 5)  # type: ignore[operator,index]
    return model


@compressor
def trains(model: torch.nn.Module, context: StepContext, changes: str, value: int = 0) -> torch.nn.Module:
    """Train with one change."""
    return context.fit(model, **{changes: value})


@compressor
def freezes(model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
    """Train what was frozen."""
    return context.fit(copy.deepcopy(model).requires_grad_(False))


@dataclasses.dataclass(frozen=True)
class Promises(Step):
    """Tell of one training and run others."""

    name: ClassVar[str] = "promises"
    tells: str = "finetune"
    runs: int = 0

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]] | None:
        return None if self.tells == "" else [(self.tells, {"epochs": 1})]  # type: ignore[list-item]

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        for index in range(self.runs):
            model = context.fit(model, "finetune", f"fit-{index}", epochs=1)
        return model


@dataclasses.dataclass(frozen=True)
class Wonders(Step):
    """Does not know what it trains."""

    name: ClassVar[str] = "wonders"

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        raise LookupError("no idea")

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        return model


@compressor
def chatters(model: torch.nn.Module, context: StepContext, lines: int = 1) -> torch.nn.Module:
    """Print."""
    for index in range(lines):
        print(f"chatter {index}")
    return model


@compressor
def leaks(model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
    """Leave a thread running and a file open."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="leaked", daemon=True)
    thread.start()
    THREADS.append((thread, end))
    FILES.append(open("leaked.txt", "w"))  # noqa: SIM115
    return model


@compressor
def switches(model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
    """Change what belongs to the whole process."""
    import torch

    os.chdir("/")
    os.environ["CARELESS"] = "1"
    os.environ["PATH"] = "/careless"
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.use_deterministic_algorithms(True)
    return model


def clean() -> None:
    """End what was left behind."""
    for thread, end in THREADS:
        end.set()
        thread.join()
    for file in FILES:
        file.close()
    THREADS.clear()
    FILES.clear()


STEPS = (
    breaks, leaves, vanishes, recurs, mute, forgets, poisons, widens, trains, freezes, Promises, Wonders, chatters,
    leaks, switches,
)  # fmt: skip


@hookimpl
def harness_steps(register: Any) -> None:
    for step in STEPS:
        register(step)
