"""Watch calls of a step's ``apply``: its trainings, changes to its input, and what it leaves behind in the process."""

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

from harness.api import FitHook, Phase, Step, StepContext
from harness.testing._world import probe

#: Seconds to wait for threads that are about to end.
GRACE = 0.5
#: The batch sizes that a model is tried with.
BATCHES = (1, 5)

Training = tuple[Phase, Mapping[str, Any]]


@dataclasses.dataclass
class ApplyCall:
    """One watched call of ``apply``."""

    raised: BaseException | None = None
    returned: object = None
    trainings: list[Training] = dataclasses.field(default_factory=list)
    called_teach: bool = False
    #: What it changed of its input network.
    input_changes: list[str] = dataclasses.field(default_factory=list)
    #: Threads, processes and files that it left open, and settings that it changed.
    leftovers: list[str] = dataclasses.field(default_factory=list)
    #: Openings of the file of the test split.
    test_openings: list[str] = dataclasses.field(default_factory=list)
    printed: str = ""
    #: The outputs of the returned model by batch size, or the text of the exception that it raised.
    outputs: dict[int, torch.Tensor | str] = dataclasses.field(default_factory=dict)
    parameters: list[str] = dataclasses.field(default_factory=list)
    macs: int | None = None


@contextlib.contextmanager
def watch_apply(kind: type[Step], test_file: Path) -> Iterator[list[ApplyCall]]:
    """Record every call of ``kind.apply`` in the block, without changing its behaviour."""
    original, calls = kind.apply, list[ApplyCall]()

    @functools.wraps(original)
    def apply(self: Step, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        call = ApplyCall()
        calls.append(call)
        before = snapshot(model)
        try:
            with watch_process(call, test_file):
                result = original(self, model, _RecordingContext(context, call))
        except BaseException as error:
            call.raised = error
            raise
        finally:
            call.input_changes = differences(before, snapshot(model))
        call.returned = result
        if isinstance(result, torch.nn.Module):
            _inspect(result, call)
        return result

    with mock.patch.object(kind, "apply", apply):
        yield calls


def _inspect(model: torch.nn.Module, call: ApplyCall) -> None:
    """Record the outputs, parameters and multiply-accumulates of the returned model."""
    from harness.nn.operations import count

    with contextlib.suppress(Exception):  # a model that cannot be copied is inspected itself
        model = copy.deepcopy(model)
    model.eval()
    call.outputs = outputs_of(model)
    call.parameters = shapes(model)
    with contextlib.suppress(Exception):
        call.macs = count(model, torch.from_numpy(probe(1))).macs


class _RecordingContext:
    """A context that records the trainings that a step asks for, and delegates everything."""

    def __init__(self, context: StepContext, call: ApplyCall) -> None:
        self._context = context
        self._call = call

    def fit(
        self,
        model: torch.nn.Module,
        phase: Phase = "finetune",
        name: str = "fit",
        *,
        before_step: FitHook | None = None,
        after_step: FitHook | None = None,
        **changes: Any,
    ) -> torch.nn.Module:
        self._call.trainings.append((phase, changes))
        return self._context.fit(model, phase, name, before_step=before_step, after_step=after_step, **changes)

    def teach(self, teacher: torch.nn.Module) -> None:
        self._call.called_teach = True
        self._context.teach(teacher)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


# ---------------------------------------------------------------------------------------------------------- models


def outputs_of(model: torch.nn.Module) -> dict[int, torch.Tensor | str]:
    """Return the outputs of a model in evaluation mode for unseen inputs, by batch size; an exception as its text."""
    outputs: dict[int, torch.Tensor | str] = {}
    for size in BATCHES:
        try:
            with torch.inference_mode():
                output = model(torch.from_numpy(probe(size)))
            outputs[size] = output.clone() if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"
        except Exception as error:
            outputs[size] = f"{type(error).__name__}: {error}"
    return outputs


def shapes(model: torch.nn.Module) -> list[str]:
    """Return the name and shape of each parameter, sorted."""
    return sorted(f"{name} {tuple(weight.shape)}" for name, weight in model.named_parameters())


def snapshot(model: torch.nn.Module) -> dict[str, object]:
    """Return everything that a step could change of a network, by a description."""
    state: dict[str, object] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        where = path or "the network"
        state[f"the kind of {where}"] = f"{type(module).__module__}.{type(module).__qualname__}"
        state[f"the training flag of {where}"] = module.training
        state[f"the hooks of {where}"] = (len(module._forward_hooks), len(module._forward_pre_hooks))
    for name, value in model.state_dict(keep_vars=True).items():
        state[f"the values of {name}"] = _bits(value)
    for name, weight in model.named_parameters():
        state[f"requires_grad of {name}"] = weight.requires_grad
        state[f"the gradient of {name}"] = None if weight.grad is None else _bits(weight.grad)
    return state


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """Return the names of the entries that are not equal in both."""
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
def watch_process(call: ApplyCall, test_file: Path) -> Iterator[None]:
    """Record in ``call`` what the block prints, which openings of ``test_file`` it makes, and what it leaves behind."""
    settings, threads, handles, children = _settings(), set(threading.enumerate()), open_handles(), _children()
    try:
        with _captured_stdout() as printed, _openings(test_file) as openings:
            yield
    finally:
        call.printed = printed()
        call.test_openings = openings
        call.leftovers = [
            *(f"{name} changed from {settings[name]} to {now}" for name, now in _settings().items() if
              name in settings and settings[name] != now),
            *(_describe(thread) for thread in _still_running(threads)),
            *(f"the file {target} is still open" for target in sorted(_new_handles(handles))),
            *(f"the process {name} still runs" for name in sorted(_children() - children)),
        ]  # fmt: skip


def _settings() -> dict[str, object]:
    """Return the process-wide settings that would affect whatever runs next."""
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
        "NumPy's error handling": np.geterr(),
        "the working directory": os.getcwd(),
        "the environment": _environment(),
        "the recursion limit": sys.getrecursionlimit(),
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
    blocks = "" if thread.daemon else ", and the process cannot end before it"
    return f"the thread {thread.name!r} still runs{blocks}"


def _children() -> set[str]:
    return {child.name for child in multiprocessing.active_children()}


def open_handles() -> dict[str, str]:
    """Return the open files by file descriptor; empty where there is no /proc (not Linux)."""
    handles = {}
    with contextlib.suppress(OSError):
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                handles[number] = os.readlink(f"/proc/self/fd/{number}")
    return handles


def _new_handles(before: Mapping[str, str]) -> set[str]:
    def new() -> set[str]:
        targets = {target for number, target in open_handles().items() if before.get(number) != target}
        return {target for target in targets if not target.startswith(("/dev/", "/proc/", "anon_inode:"))}

    if new():
        gc.collect()  # closes files of unreachable objects; slow, so only when needed
    return new()


@contextlib.contextmanager
def _captured_stdout() -> Iterator[Callable[[], str]]:
    """Capture the standard output, of Python code and of file descriptor 1."""
    text = io.StringIO()
    with tempfile.TemporaryFile() as file:
        descriptor_text = ""
        sys.stdout.flush()
        saved = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            with contextlib.redirect_stdout(text):
                yield lambda: text.getvalue() + descriptor_text
        finally:
            os.dup2(saved, 1)
            os.close(saved)
            file.seek(0)
            descriptor_text = file.read().decode(errors="replace")


#: Device and inode of the guarded file, and the openings of it so far.
_guarded: tuple[tuple[int, int], list[str]] | None = None


@functools.cache
def _install_hook() -> None:
    """Install the audit hook once, since it cannot be removed; it returns at once while no file is guarded."""
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _guarded is None or event != "open" or not isinstance(arguments[0], (str, bytes, os.PathLike)):
        return
    inode, openings = _guarded
    with contextlib.suppress(OSError, ValueError):
        status = os.stat(arguments[0])
        if (status.st_dev, status.st_ino) == inode:
            frame = sys._getframe(1)
            openings.append(f"{os.fsdecode(arguments[0])} (in {frame.f_code.co_filename}, line {frame.f_lineno})")


@contextlib.contextmanager
def _openings(file: Path) -> Iterator[list[str]]:
    """Record every opening of ``file`` in this process, under any name."""
    global _guarded
    _install_hook()
    status, openings = file.stat(), list[str]()
    _guarded = (status.st_dev, status.st_ino), openings
    try:
        yield openings
    finally:
        _guarded = None
