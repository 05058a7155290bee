"""The process that times: started in a profile's environment, it verifies what it got, then answers requests.

``python -m harness.measure.worker`` reads one JSON object a line from its standard input and answers each with one.
It lives until its input ends, or its parent does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import hashlib
import json
import os
import platform
import resource
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import errors
from harness.errors import CellError, HarnessError
from harness.measure.environment import environment, libraries, mapped_files, pin, verify, verify_allocator
from harness.measure.machine import read_counters
from harness.measure.process import how_it_ended
from harness.measure.protocol import die_with_parent, reply_of, serve
from harness.measure.timing import Amount, time_pairs, time_single

if TYPE_CHECKING:
    import torch

    from harness.api import Predictor, Runtime

BATCH = 128


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

        from harness.plugin.manager import installed

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
            die_with_parent()
            if os.getppid() != worker:
                os._exit(1)  # it died before it could take this process with it
            answer = reply_of(lambda: self._memory(runtime, file, inputs))
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
    from harness.plugin.manager import installed

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
