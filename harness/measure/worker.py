"""The process that times: started in a profile's environment, it verifies what it got, then answers requests.

``python -m harness.measure.worker`` reads one JSON object a line from its standard input and answers each with one.
It lives until its input ends, or its parent does.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import gc
import hashlib
import json
import os
import platform
import re
import resource
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from harness import errors
from harness.errors import CellError, HarnessError, MeasureError
from harness.measure.machine import read_counters
from harness.measure.process import how_it_ended
from harness.measure.timing import Amount, time_pairs, time_single

if TYPE_CHECKING:
    import torch

    from harness.contracts import Predictor, Runtime

ALLOCATOR_LIBRARY = re.compile(r"/lib(tcmalloc|jemalloc|mimalloc)[^/]*\.so[^/]*$")
BATCH = 128
PR_SET_PDEATHSIG = 1


# -------------------------------------------------------------------------------------------------------- protocol


def serve(answer: Callable[[dict[str, Any]], Any]) -> None:
    """Answer requests until the input ends: ``{"ok": value}``, or ``{"error": {kind, text}}`` when it raises."""
    requests, replies = _private_streams()
    _die_with_parent()
    if _deserted(requests):
        return  # the parent died before it could take this process with it
    for line in requests:
        replies.write(json.dumps(_reply(functools.partial(_answer, answer, line))) + "\n")
        replies.flush()


def _answer(answer: Callable[[dict[str, Any]], Any], line: str) -> Any:
    return answer(json.loads(line))


def _reply(answer: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"ok": answer()}
    except HarnessError as error:
        return {"error": {"kind": type(error).__name__, "text": str(error)}}
    except (Exception, SystemExit) as error:
        return {"error": {"kind": "CellError", "text": errors.describe_error(error)}}


def _private_streams() -> tuple[TextIO, TextIO]:
    """The standard input and output, for the protocol alone: what a plugin prints goes to the standard error."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def _die_with_parent() -> None:
    """Be killed when the parent is, even in the middle of a request; where Linux is not, the input's end must do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _deserted(requests: TextIO) -> bool:
    """Whether nobody holds the other end of the pipe any more; it may have a request in it all the same."""
    poll = select.poll()
    poll.register(requests, 0)  # the end of the other side is always reported
    return any(event & select.POLLHUP for _, event in poll.poll(0))


# --------------------------------------------------------------------------------------------------------- requests


class Worker:
    """Answers the requests: hello first, then time, time_single, memory and predict in any order."""

    def __init__(self, runtime: Callable[[str], Runtime] | None = None) -> None:
        """``runtime`` gives the runtime of a name; by default the one that a plugin brought."""
        self._runtime = runtime or _brought
        self._cpus: list[int] | None = None
        self._wanted: dict[str, Any] = {}
        self._actions: dict[str, Callable[..., Any]] = {
            "hello": self.hello,
            "time": self.time,
            "time_single": self.time_single,
            "memory": self.memory,
            "predict": self.predict,
        }

    def __call__(self, request: dict[str, Any]) -> Any:
        return self._actions[request.pop("do")](**request)

    def hello(
        self, allocator: str, library: str | None, threads: int, cpus: list[int] | None, onednn: bool, isa: str
    ) -> dict[str, Any]:
        """Set up what can only be set from inside, verify everything, and say what was found."""
        import torch

        from harness.plugins import installed

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        torch.backends.mkldnn.set_flags(onednn)  # type: ignore[no-untyped-call]
        if cpus is not None:
            pin(cpus)  # only now: importing torch may start threads and has been seen to change the affinity
        installed()  # so that no later request pays for the import of plugins
        has_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        found = {
            "allocator": allocator,
            "library": library,
            **environment(),
            **libraries(),
            "torch": str(torch.__version__),
            "numpy": version("numpy"),
            "libc": " ".join(platform.libc_ver()),
            "python": platform.python_version(),
            "pid": os.getpid(),
        }
        gc.collect()
        gc.freeze()  # what was imported stays; the collections to come, one before each timing, then take no time
        verify_allocator(allocator, library, mapped_files())
        self._cpus = found["affinity"]
        self._wanted = {"threads": threads, "cpus": cpus, "onednn": onednn and has_onednn, "isa": isa}
        verify(found, **self._wanted)
        return found

    def time(
        self,
        runtime: str,
        reference: Mapping[str, str],
        candidate: Mapping[str, str],
        inputs: str,
        amount: Mapping[str, Any],
        seed: int,
        reference_first: bool,
    ) -> dict[str, Any]:
        """Load both files and time them in pairs. The same file twice gives two copies that share nothing.

        Who is loaded first, as ``reference_first`` says, gets the better or the worse place in memory. Afterwards the
        environment is verified again, for what a plugin changes would stay so for all that come later.
        """
        import torch

        engine = self._runtime(runtime)
        arms = {"reference": reference, "candidate": candidate}
        with torch.inference_mode():
            predictors = {name: _load(engine, arms[name]) for name in sorted(arms, reverse=reference_first)}
            timing = time_pairs(
                predictors["reference"],
                predictors["candidate"],
                _batches(inputs, 1),
                Amount(**amount),
                seed,
                consume=_check_finite,
                counters=functools.partial(read_counters, self._cpus),
            )
        del predictors
        gc.collect()
        verify(environment(), **self._wanted)
        return dataclasses.asdict(timing)

    def time_single(self, runtime: str, file: Mapping[str, str], inputs: str, calls: int, warmup: int) -> list[int]:
        """Load one file and time its calls, one after the other."""
        import torch

        with torch.inference_mode():
            predictor = _load(self._runtime(runtime), file)
            taken = time_single(predictor, _batches(inputs, 1), calls, warmup, consume=_check_finite)
        del predictor
        gc.collect()
        return taken

    def memory(self, runtime: str, file: Mapping[str, str], inputs: str) -> dict[str, int]:
        """Bytes resident before the file is loaded, and at the peak of running each input once, after it was loaded.

        A fork of this process does it. As long as this one runs no model itself, every file finds the same memory,
        as in a fresh process, without waiting for the import of torch.
        """
        reading, writing = os.pipe()
        worker, child = os.getpid(), os.fork()
        if child == 0:
            _die_with_parent()
            if os.getppid() != worker:
                os._exit(1)  # it died before it could take this process with it
            answer = _reply(lambda: self._memory(runtime, file, inputs))
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
        if not told:
            end = how_it_ended(os.waitstatus_to_exitcode(status))
            raise CellError(f"the process that ran {file['path']} for its memory {end}")
        reply = json.loads(told)
        if "error" in reply:
            raise getattr(errors, reply["error"]["kind"], CellError)(reply["error"]["text"])
        result: dict[str, int] = reply["ok"]
        return result

    def _memory(self, runtime: str, file: Mapping[str, str], inputs: str) -> dict[str, int]:
        import torch

        engine = self._runtime(runtime)
        examples = _batches(inputs, 1)
        baseline = _resident("VmRSS")
        with torch.inference_mode():
            predictor = _load(engine, file)
            _reset_peak()  # rebuilding a network can take more than running it ever does
            for example in examples:
                _check_finite(predictor(example))
        return {"baseline": baseline, "peak": _resident("VmHWM")}

    def predict(self, runtime: str, file: Mapping[str, str], inputs: str, output: str) -> None:
        """Write what the file answers for all inputs (n, *input_shape) into ``output``, a .npy of (n, labels)."""
        import numpy as np
        import torch

        engine = self._runtime(runtime)
        predictor = _load(engine, file)
        batches = _batches(inputs, BATCH)
        with torch.inference_mode(), _named(engine, "a deployed file"):
            parts = [predictor(batch) for batch in batches]
            for part in parts:
                if not isinstance(part, torch.Tensor):
                    raise TypeError(f"it answers with {type(part).__name__}, not with a tensor")
            answers = torch.cat(parts).numpy()
        np.save(output, answers, allow_pickle=False)


def _brought(name: str) -> Runtime:
    from harness.plugins import installed

    return installed().runtimes.get(name)


def _load(runtime: Runtime, file: Mapping[str, str]) -> Predictor:
    """Load a deployed file, if it still is the file that the request means."""
    path = Path(file["path"])
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != file["sha256"]:
        raise CellError(f"{path} changed while it was measured: its SHA-256 was {file['sha256']}, now it is {found}")
    with _named(runtime, "load()"):
        predictor = runtime.load(path)
        if not callable(predictor):
            raise TypeError(f"it gives {type(predictor).__name__}, which cannot be called")
        return predictor


@contextlib.contextmanager
def _named(runtime: Runtime, what: str) -> Iterator[None]:
    """Whatever a runtime raises becomes a CellError that names it."""
    try:
        yield
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:
        name = getattr(runtime, "name", type(runtime).__name__)
        told = errors.describe_error(error, type(runtime))
        raise CellError(f"{what} of runtime {name!r} raised {told}") from error


def _batches(file: str, size: int) -> list[torch.Tensor]:
    import numpy as np
    import torch

    return list(torch.from_numpy(np.load(file, allow_pickle=False)).split(size))  # type: ignore[no-untyped-call]


def _check_finite(output: torch.Tensor) -> None:
    if not bool(output.isfinite().all()):
        raise CellError("the deployed file answers NaN or infinity on real inputs, so its latency means nothing")


# ----------------------------------------------------------------------------------------------------- environment


def verify(found: Mapping[str, Any], threads: int, cpus: list[int] | None, onednn: bool, isa: str = "auto") -> None:
    """Raise MeasureError unless the worker runs in what its profile asked for."""
    wanted: dict[str, Any] = {"threads": threads, "interop_threads": 1, "onednn": onednn}
    wanted |= {name: threads for name in ("omp_threads", "mkl_threads") if name in found}
    if cpus is not None:
        wanted["affinity"] = cpus
    if isa != "auto":
        wanted["isa"] = isa
    for name, value in wanted.items():
        if found[name] != value:
            hint = (
                "something that it imported overrides the profile: look for it among the plugins and in sitecustomize"
            )
            if name == "isa":
                hint = "this processor, or this build of torch, does not have it: choose another in the profile"
            raise MeasureError(f"the worker was to have {name}={value} but has {found[name]}; {hint}")


def environment() -> dict[str, Any]:
    """What the worker runs in, as far as plugins could change it."""
    import torch

    has_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "affinity": affinity(),
        "onednn": has_onednn and bool(torch.backends.mkldnn.enabled),
        "isa": torch.backends.cpu.get_cpu_capability().lower(),
    }


def libraries() -> dict[str, Any]:
    """What torch says of the libraries below it: the threads of OpenMP and MKL, and the version of oneDNN."""
    import torch

    said = torch.__config__.parallel_info() + torch.__config__.show()
    threads = {
        f"{name}_threads": int(found[1])
        for name in ("omp", "mkl")
        if (found := re.search(rf"{name}_get_max_threads\(\)\s*:\s*(\d+)", said))
    }
    onednn = re.search(r"MKL-DNN v([\d.]+)", said)
    return {**threads, "onednn_version": onednn[1] if onednn else None}


def verify_allocator(allocator: str, library: str | None, mapped: set[str] | None) -> None:
    """Raise MeasureError unless exactly that allocator is mapped; ``mapped`` None means that it cannot be known."""
    if mapped is None:
        return
    present = {file for file in mapped if ALLOCATOR_LIBRARY.search(file)}
    if library is not None and library not in present:
        raise MeasureError(
            f"the worker was started with {allocator} ({library}) but runs without it: LD_PRELOAD had no effect; "
            "is the interpreter statically linked or setuid, or a wrapper that cleans its environment?"
        )
    strangers = sorted(present - {library})
    if strangers:
        raise MeasureError(
            f"the worker was to run on the allocator {allocator} but {', '.join(strangers)} is loaded as well; "
            "find what links it (a plugin, a Python built with it) or ask for that allocator in the profile"
        )


def mapped_files() -> set[str] | None:
    """The files mapped into this process, by their real paths; None where the system does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except FileNotFoundError:
        return None
    return {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}


def pin(cpus: list[int]) -> None:
    """Pin every thread of this process to ``cpus``; those that start later inherit it."""
    for task in _tasks():
        os.sched_setaffinity(task, cpus)


def affinity() -> list[int] | None:
    """The CPUs that any thread of this process may use; None where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(set().union(*(os.sched_getaffinity(task) for task in _tasks())))


def _tasks() -> list[int]:
    """The threads of this process by number (0, the caller, where /proc is not)."""
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except FileNotFoundError:
        return [0]


def _reset_peak() -> None:
    """Forget the peak so far, if the kernel lets us."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _resident(field: str) -> int:
    """Bytes: VmRSS (now) or VmHWM (at the peak); without /proc, the peak."""
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS gives bytes
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


if __name__ == "__main__":
    serve(Worker())
