"""Watching a step at work: what it trained, what it did to its input, and what it left behind in the process."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import gc
import hashlib
import io
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from harness.api import Phase, Step, StepContext
from harness.testing.world import probe

#: Seconds that a thread which is about to end may still take.
GRACE = 0.5
#: The sizes of the batches that a model is tried on.
BATCHES = (1, 5)

Training = tuple[Phase, Mapping[str, Any]]


@dataclasses.dataclass
class Sighting:
    """What was seen of one call of ``apply``."""

    raised: BaseException | None = None
    returned: object = None
    trainings: list[Training] = dataclasses.field(default_factory=list)
    taught: bool = False
    #: What differs of the network that it was given; what it left in the process; files of the test split it opened.
    changed: list[str] = dataclasses.field(default_factory=list)
    left: list[str] = dataclasses.field(default_factory=list)
    opened: list[str] = dataclasses.field(default_factory=list)
    printed: str = ""
    #: By size of batch: what the returned model answers, or the text of what it raised.
    answers: dict[int, torch.Tensor | str] = dataclasses.field(default_factory=dict)
    parameters: list[str] = dataclasses.field(default_factory=list)
    macs: int | None = None


@contextlib.contextmanager
def watched(kind: type[Step], test_file: Path) -> Iterator[list[Sighting]]:
    """Every call of ``kind``'s ``apply`` in the block is looked at, and behaves as it would unseen."""
    original, seen = kind.apply, list[Sighting]()

    @functools.wraps(original)
    def apply(self: Step, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        sighting = Sighting()
        seen.append(sighting)
        given = snapshot(model)
        try:
            with _process(sighting, test_file):
                result = original(self, model, _Recording(context, sighting))
        except BaseException as error:
            sighting.raised = error
            raise
        finally:
            sighting.changed = differences(given, snapshot(model))
        sighting.returned = result
        if isinstance(result, torch.nn.Module):
            _look_at(result, sighting)
        return result

    with mock.patch.object(kind, "apply", apply):
        yield seen


def _look_at(model: torch.nn.Module, sighting: Sighting) -> None:
    from harness.nn.operations import count

    with contextlib.suppress(Exception):  # what cannot be copied is looked at as it is
        model = copy.deepcopy(model)
    model.eval()
    sighting.answers = answers(model)
    sighting.parameters = shapes(model)
    with contextlib.suppress(Exception):
        sighting.macs = count(model, torch.from_numpy(probe(1))).macs


class _Recording:
    """A context that notes which trainings are asked for, and passes everything on."""

    def __init__(self, context: StepContext, sighting: Sighting) -> None:
        self._context = context
        self._sighting = sighting

    def fit(
        self, model: torch.nn.Module, phase: Phase = "finetune", name: str = "fit", **changes: Any
    ) -> torch.nn.Module:
        self._sighting.trainings.append((phase, changes))
        return self._context.fit(model, phase, name, **changes)

    def teach(self, teacher: torch.nn.Module) -> None:
        self._sighting.taught = True
        self._context.teach(teacher)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


# ---------------------------------------------------------------------------------------------------------- models


def answers(model: torch.nn.Module) -> dict[int, torch.Tensor | str]:
    """What a model in evaluation mode answers to some inputs that it never saw, by size of batch."""
    found: dict[int, torch.Tensor | str] = {}
    for size in BATCHES:
        try:
            with torch.inference_mode():
                answer = model(torch.from_numpy(probe(size)))
            found[size] = answer.clone() if isinstance(answer, torch.Tensor) else f"a {type(answer).__name__}"
        except Exception as error:
            found[size] = f"{type(error).__name__}: {error}"
    return found


def shapes(model: torch.nn.Module) -> list[str]:
    """The parameters by name and shape."""
    return sorted(f"{name} {tuple(weight.shape)}" for name, weight in model.named_parameters())


def snapshot(model: torch.nn.Module) -> dict[str, object]:
    """All that a step could change of a network, by a text that says what it is."""
    found: dict[str, object] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        where = path or "the network"
        found[f"the kind of {where}"] = f"{type(module).__module__}.{type(module).__qualname__}"
        found[f"the training flag of {where}"] = module.training
        found[f"the hooks of {where}"] = (len(module._forward_hooks), len(module._forward_pre_hooks))
    for name, value in model.state_dict(keep_vars=True).items():
        found[f"the values of {name}"] = _bits(value)
    for name, weight in model.named_parameters():
        found[f"requires_grad of {name}"] = weight.requires_grad
        found[f"the gradient of {name}"] = None if weight.grad is None else _bits(weight.grad)
    return found


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """The names of what is not in both, and equal."""
    missing = object()
    return [name for name in {**before, **after} if before.get(name, missing) != after.get(name, missing)]


def _bits(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    plain = value.detach().cpu()
    plain = plain.int_repr() if plain.is_quantized else plain
    content = plain.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(content).hexdigest()}"


# --------------------------------------------------------------------------------------------------------- process


@contextlib.contextmanager
def _process(sighting: Sighting, test_file: Path) -> Iterator[None]:
    """Note what the block prints, opens, and leaves behind."""
    settings, threads, handles, children = _settings(), set(threading.enumerate()), _handles(), _children()
    try:
        with _stdout() as printed, _openings(test_file) as opened:
            yield
    finally:
        sighting.printed = printed()
        sighting.opened = opened
        sighting.left = [
            *(f"{name} changed from {settings[name]} to {now}" for name, now in _settings().items() if
              name in settings and settings[name] != now),
            *(_describe(thread) for thread in _still_running(threads)),
            *(f"the file {target} is still open" for target in sorted(_new_handles(handles))),
            *(f"the process {name} still runs" for name in sorted(_children() - children)),
        ]  # fmt: skip


def _settings() -> dict[str, object]:
    """What is set for the whole process, and would change whatever is run next."""
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's number of threads": torch.get_num_threads(),
        "whether torch records gradients": torch.is_grad_enabled(),
        "torch's inference mode": torch.is_inference_mode_enabled(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "torch's anomaly detection": torch.is_anomaly_enabled(),
        "torch's autocast": torch.is_autocast_enabled("cpu"),
        "torch's quantized engine": torch.backends.quantized.engine,
        "torch's oneDNN": torch.backends.mkldnn.enabled,
        "the precision of float32 products": torch.get_float32_matmul_precision(),
        "the seed of torch's global generator": torch.initial_seed(),
        "NumPy's handling of errors": np.geterr(),
        "the current folder": os.getcwd(),
        "the environment": _environment(),
        "the limit of recursion": sys.getrecursionlimit(),
    }


def _environment() -> str:
    variables = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return (
        f"{len(variables)} variables, digest {hashlib.sha256(repr(sorted(variables.items())).encode()).hexdigest()[:8]}"
    )


def _still_running(before: set[threading.Thread]) -> list[threading.Thread]:
    deadline = time.monotonic() + GRACE
    new = [thread for thread in threading.enumerate() if thread not in before]
    for thread in new:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread for thread in new if thread.is_alive()]


def _describe(thread: threading.Thread) -> str:
    waits = "" if thread.daemon else ", and the process waits for its end"
    return f"the thread {thread.name!r} still runs{waits}"


def _children() -> set[str]:
    return {child.name for child in multiprocessing.active_children()}


def _handles() -> dict[str, str]:
    """Open files by number, where the system tells (Linux)."""
    found = {}
    with contextlib.suppress(OSError):
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def _new_handles(before: Mapping[str, str]) -> set[str]:
    def new() -> set[str]:
        found = {target for number, target in _handles().items() if before.get(number) != target}
        return {target for target in found if not target.startswith(("/dev/", "/proc/", "anon_inode:"))}

    if new():
        gc.collect()  # what nothing refers to any more is closed; it takes long, so not each time
    return new()


@contextlib.contextmanager
def _stdout() -> Iterator[Callable[[], str]]:
    """Catch what is printed to the standard output, by Python or beneath it."""
    text = io.StringIO()
    with tempfile.TemporaryFile() as file:
        beneath = ""
        sys.stdout.flush()
        saved = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            with contextlib.redirect_stdout(text):
                yield lambda: text.getvalue() + beneath
        finally:
            os.dup2(saved, 1)
            os.close(saved)
            file.seek(0)
            beneath = file.read().decode(errors="replace")


#: The inode of the file that is looked out for, and which openings of it were seen.
_guarded: tuple[tuple[int, int], list[str]] | None = None


@functools.cache
def _install_hook() -> None:
    """An audit hook stays for the life of the process; it costs nothing while nothing is guarded."""
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _guarded is None or event != "open" or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    inode, seen = _guarded
    with contextlib.suppress(OSError, ValueError):
        status = os.stat(arguments[0])
        if (status.st_dev, status.st_ino) == inode:
            frame = sys._getframe(1)
            seen.append(f"{os.fsdecode(arguments[0])} (in {frame.f_code.co_filename}, line {frame.f_lineno})")


@contextlib.contextmanager
def _openings(file: Path) -> Iterator[list[str]]:
    """Every opening of ``file`` in this process, under whichever name."""
    global _guarded
    _install_hook()
    status, seen = file.stat(), list[str]()
    _guarded = (status.st_dev, status.st_ino), seen
    try:
        yield seen
    finally:
        _guarded = None
