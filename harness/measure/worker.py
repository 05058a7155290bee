"""Run a worker process: verify the environment of a profile, then time, run and measure deployed files on request.

``python -m harness.measure.worker`` reads one JSON object per line from its standard input and answers each with one
line. It ends when its input ends or its parent dies.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import gc
import hashlib
import json
import math
import os
import platform
import select
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from harness import errors
from harness.api import Audit
from harness.errors import CellError, HarnessError, MeasureError, describe_error
from harness.measure.counters import count_energy, count_instructions
from harness.measure.environment import environment, libraries, mapped_files, pin, verify, verify_allocator
from harness.measure.machine import read_counters
from harness.measure.memory import measure_memory
from harness.measure.process import PROTOCOL, how_it_ended
from harness.measure.timing import Amount, Turns, time_pairs, time_repeated, time_single

if TYPE_CHECKING:
    import torch

    from harness.api import Predictor, Runtime

#: Calls whose instructions are counted, after as many others. Energy is measured for longer, because its counter
#: changes once in a millisecond.
COUNTED_CALLS, ENERGY_SECONDS = 20, 1.0
#: Rounds of the comparison of repeated with new inputs, after untimed calls.
REPEATED_ROUNDS, REPEATED_WARMUP = 100, 50
#: How often a file is loaded to time that; the throughput is that of calls for so many seconds, at least so many.
LOADS, THROUGHPUT_SECONDS, LEAST_CALLS = 5, 0.5, 3
PR_SET_PDEATHSIG = 1


class Worker:
    """Answers requests: hello first, then the others in any order."""

    def __init__(self, runtime: Callable[[str], Runtime] | None = None) -> None:
        """``runtime`` maps a name to a runtime; by default to the installed plugins' runtimes."""
        self._runtime = runtime or _installed_runtime
        self._cpus: list[int] | None = None
        self._expected: dict[str, Any] = {}
        #: The model that is timed in turns with one of another process.
        self._turns: Turns | None = None
        self._actions: dict[str, Callable[..., Any]] = {
            "hello": self.hello,
            "time": self.time,
            "begin_turns": self.begin_turns,
            "take_turn": self.take_turn,
            "time_canary": self.time_canary,
            "end_turns": self.end_turns,
            "code": self.code,
            "time_single": self.time_single,
            "memory": self.memory,
            "predict": self.predict,
            "audit": self.audit,
            "count": self.count,
            "run_in_forks": self.run_in_forks,
        }

    def __call__(self, request: dict[str, Any]) -> Any:
        return self._actions[request.pop("do")](**request)

    def hello(
        self,
        protocol: int,
        allocator: str,
        library: str | None,
        threads: int,
        cpus: list[int] | None,
        onednn: bool,
        isa: str,
    ) -> dict[str, Any]:
        """Apply the settings that only the process itself can apply, verify the environment, and return it."""
        if protocol != PROTOCOL:
            raise MeasureError(f"this code's workers use version {PROTOCOL} of the protocol, not {protocol}")
        import torch

        from harness.plugin.manager import installed

        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        torch.set_flush_denormal(False)
        torch.backends.mkldnn.set_flags(onednn)  # type: ignore[no-untyped-call]
        if cpus is not None:
            pin(cpus)  # after the import: torch may start threads and was seen to change the affinity
        installed()  # import the plugins now, not in a later request
        has_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        actual = {
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
        gc.freeze()  # imported modules stay; this makes the collection before each timing fast
        verify_allocator(allocator, library, mapped_files())
        self._cpus = actual["affinity"]
        self._expected = {"threads": threads, "cpus": cpus, "onednn": onednn and has_onednn, "isa": isa}
        verify(actual, **self._expected)
        return actual

    def time(
        self,
        reference: Mapping[str, str],
        candidate: Mapping[str, str],
        inputs: str,
        amount: Mapping[str, Any],
        seed: int,
        reference_first: bool,
        pause: float,
    ) -> dict[str, Any]:
        """Load both files, each with its own ``runtime``, and time them in pairs.

        The same file twice gives two copies that share no memory. ``reference_first`` says which is loaded first,
        because that affects its place in memory. Afterwards the environment is verified again, because a plugin's
        change would affect every later timing.
        """
        import torch

        arms = {"reference": reference, "candidate": candidate}
        with torch.inference_mode():
            predictors = {
                name: _load(self._runtime(arms[name]["runtime"]), arms[name])
                for name in sorted(arms, reverse=reference_first)
            }
            timing = time_pairs(
                predictors["reference"],
                predictors["candidate"],
                _batches(inputs, 1),
                Amount(**amount),
                seed,
                consume=_check_finite,
                pause=pause,
                counters=functools.partial(read_counters, self._cpus),
            )
        del predictors
        gc.collect()
        verify(environment(), **self._expected)
        return dataclasses.asdict(timing)

    def begin_turns(
        self, runtime: str, file: Mapping[str, str], inputs: str, amount: Mapping[str, Any], pause: float
    ) -> dict[str, Any]:
        """Load one file and warm it up, to be timed in turns with the model of another worker."""
        import torch

        with torch.inference_mode():
            self._turns = Turns(
                _load(self._runtime(runtime), file),
                _batches(inputs, 1),
                Amount(**amount),
                consume=_check_finite,
                pause=pause,
                counters=functools.partial(read_counters, self._cpus),
            )
        return {"warmup": self._turns.warmup, "steady": self._turns.steady, "call_time": self._turns.call_time}

    def take_turn(self, example: int) -> int:
        """Time one call, in nanoseconds."""
        import torch

        assert self._turns is not None
        with torch.inference_mode():
            return self._turns.call(example)

    def time_canary(self) -> list[int]:
        """Time the canary, in nanoseconds."""
        assert self._turns is not None
        return self._turns.time_canary()

    def end_turns(self) -> dict[str, Any]:
        """Unload the model and verify the environment again; return garbage collections and disturbance."""
        assert self._turns is not None
        collections, disturbance = self._turns.finish()
        self._turns = None
        gc.collect()
        verify(environment(), **self._expected)
        return {"collections": collections, "disturbance": dataclasses.asdict(disturbance)}

    def code(self, names: Sequence[str]) -> dict[str, str]:
        """Digest the code of these names, such as "architecture cnn", that this process imports."""
        from harness.plugin.manager import installed
        from harness.plugin.program import present_code

        return present_code(installed(), names)

    def time_single(
        self, runtime: str, file: Mapping[str, str], inputs: str, calls: int, warmup: int, pause: float
    ) -> list[int]:
        """Load one file and time its calls, nanoseconds each."""
        import torch

        with torch.inference_mode():
            predictor = _load(self._runtime(runtime), file)
            times = time_single(predictor, _batches(inputs, 1), calls, warmup, consume=_check_finite, pause=pause)
        del predictor
        gc.collect()
        return times

    def memory(self, runtime: str, file: Mapping[str, str], inputs: str) -> dict[str, int] | None:
        """Measure what the file needs in memory (see `measure_memory`); None where the system does not report it.

        A fork of this process measures. As long as this process runs no model itself, every file finds the same
        memory, as in a fresh process, without another import of torch.
        """
        reading, writing = os.pipe()
        worker, child = os.getpid(), os.fork()
        if child == 0:
            die_with_parent()
            if os.getppid() != worker:
                os._exit(1)  # the worker died before the line above took effect
            reply = _reply(lambda: self._memory(runtime, file, inputs))
            os.write(writing, json.dumps(reply).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        if not text:
            end = how_it_ended(os.waitstatus_to_exitcode(status))
            raise CellError(f"the process that measured the memory of {file['path']} {end}")
        reply = json.loads(text)
        if "error" in reply:
            raise getattr(errors, reply["error"]["kind"], CellError)(reply["error"]["text"])
        result: dict[str, int] | None = reply["ok"]
        return result

    def _memory(self, runtime: str, file: Mapping[str, str], inputs: str) -> dict[str, int] | None:
        import torch

        engine = self._runtime(runtime)
        examples = _batches(inputs, 1)

        def run(predictor: Predictor) -> None:
            for example in examples:
                predictor(example)

        def check(predictor: Predictor) -> None:
            for example in examples:
                _check_finite(predictor(example))

        if not Path("/proc/self/smaps").exists():
            return None
        with torch.inference_mode():
            memory = measure_memory(Path(file["path"]), lambda: _load(engine, file), run, check)
        return dataclasses.asdict(memory)

    def predict(self, runtime: str, file: Mapping[str, str], inputs: str, output: str, batch: int) -> None:
        """Write the file's outputs for all inputs (n, *input_shape) to ``output``, a .npy of (n, labels)."""
        import numpy as np
        import torch

        engine = self._runtime(runtime)
        predictor = _load(engine, file)
        with torch.inference_mode(), _attributed(engine, "a deployed file"):
            outputs = [predictor(examples) for examples in _batches(inputs, batch)]
            for tensor in outputs:
                if not isinstance(tensor, torch.Tensor):
                    raise TypeError(f"it returns {type(tensor).__name__}, not a tensor")
            scores = torch.cat(outputs).numpy()
        np.save(output, scores, allow_pickle=False)

    def audit(self, runtime: str, file: Mapping[str, str], inputs: str) -> dict[str, Any]:
        """What the runtime reports of the operators that the file executes for the first input, as JSON."""
        engine = self._runtime(runtime)
        with _attributed(engine, "audit()"):
            audit = engine.audit(Path(file["path"]), _batches(inputs, 1)[0])
            if not isinstance(audit, Audit):
                raise TypeError(f"it returns {type(audit).__name__}, not a harness.Audit")
        return dataclasses.asdict(audit)

    def count(self, counter: str, runtime: str, file: Mapping[str, str], inputs: str) -> float:
        """Load one file and measure what one call costs; harness.EvalContext names the counters."""
        import torch

        examples = _batches(inputs, 1)
        with torch.inference_mode():
            engine = self._runtime(runtime)
            predictor = _load(engine, file)
            if counter == "repeated_input":
                return _repeated_ratio(predictor, examples)
            if counter in ("load_time", "first_call"):
                loading, calling = _start_times(lambda: _load(engine, file), examples[0])
                return loading if counter == "load_time" else calling
            if counter.startswith("throughput_"):
                with _attributed(engine, "a deployed file"):
                    return _throughput(predictor, examples, int(counter.removeprefix("throughput_")))
            began = time.perf_counter()
            _run(predictor, examples, COUNTED_CALLS)
            seconds = (time.perf_counter() - began) / COUNTED_CALLS
            if counter == "energy":
                calls = max(COUNTED_CALLS, math.ceil(ENERGY_SECONDS / seconds))
                return count_energy(lambda: _run(predictor, examples, calls)) / calls
            return count_instructions(lambda: _run(predictor, examples, COUNTED_CALLS)) / COUNTED_CALLS

    def run_in_forks(self, runtime: str, file: Mapping[str, str], inputs: str, calls: Sequence[int]) -> list[int]:
        """Run one file so many times, each number in a fork of this process; return the forks' process numbers."""
        return [self._run_in_fork(runtime, file, inputs, number) for number in calls]

    def _run_in_fork(self, runtime: str, file: Mapping[str, str], inputs: str, calls: int) -> int:
        import torch

        child = os.fork()
        if child == 0:
            die_with_parent()
            with torch.inference_mode():
                reply = _reply(lambda: _run(_load(self._runtime(runtime), file), _batches(inputs, 1), calls))
            if "error" in reply:
                sys.stderr.write(reply["error"]["text"])
                sys.stderr.flush()
            os._exit("error" in reply)
        _, status = os.waitpid(child, 0)
        if status:
            end = how_it_ended(os.waitstatus_to_exitcode(status))
            raise CellError(f"the process that ran {file['path']} {end}")
        return child


def _run(predictor: Predictor, examples: Sequence[torch.Tensor], calls: int) -> None:
    """Run a number of calls on the examples in turn."""
    for index in range(calls):
        predictor(examples[index % len(examples)])


def _start_times(load: Callable[[], Predictor], example: torch.Tensor) -> tuple[float, float]:
    """The milliseconds of loading a file, and of the first call after that: medians of LOADS times."""
    times: list[tuple[int, int]] = []
    for _ in range(LOADS):
        gc.collect()
        start = time.perf_counter_ns()
        predictor = load()
        loaded = time.perf_counter_ns()
        output = predictor(example)
        times.append((loaded - start, time.perf_counter_ns() - loaded))
        _check_finite(output)
        del predictor, output
    loading, calling = (statistics.median(column) / 1e6 for column in zip(*times, strict=True))
    return loading, calling


def _throughput(predictor: Predictor, examples: Sequence[torch.Tensor], size: int) -> float:
    """The examples a second that calls with ``size`` examples answer, one after the other for THROUGHPUT_SECONDS."""
    import torch

    if len(examples) < size:
        raise MeasureError(f"there are only {len(examples)} test examples, too few for a batch of {size}")
    batches = [torch.cat(list(examples[start : start + size])) for start in range(0, len(examples) - size + 1, size)]
    for index in range(LEAST_CALLS):
        _check_finite(predictor(batches[index % len(batches)]))
    calls, began = 0, time.perf_counter()
    while calls < LEAST_CALLS or time.perf_counter() - began < THROUGHPUT_SECONDS:
        predictor(batches[calls % len(batches)])
        calls += 1
    return calls * size / (time.perf_counter() - began)


def _repeated_ratio(predictor: Predictor, examples: Sequence[torch.Tensor]) -> float:
    """The time of a call on a repeated input / that on a new one: the median over rounds."""
    times = time_repeated(predictor, examples, _variant, REPEATED_ROUNDS, REPEATED_WARMUP, _check_finite)
    return statistics.median(repeated / fresh for repeated, fresh in zip(*times, strict=True))


def _variant(example: torch.Tensor, number: int) -> torch.Tensor:
    """The example with values that differ a little, by another amount for each number."""
    return example * (1 - (number + 1) * 2.0**-20) if example.is_floating_point() else example.roll(number + 1, -1)


def _installed_runtime(name: str) -> Runtime:
    from harness.plugin.manager import installed

    return installed().runtimes.get(name)


def _load(runtime: Runtime, file: Mapping[str, str]) -> Predictor:
    """Load a deployed file after checking its hash."""
    path = Path(file["path"])
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != file["sha256"]:
        raise CellError(f"{path} changed while it was measured: its SHA-256 was {file['sha256']}, now it is {actual}")
    with _attributed(runtime, "load()"):
        predictor = runtime.load(path)
        if not callable(predictor):
            raise TypeError(f"it returns {type(predictor).__name__}, which cannot be called")
        return predictor


@contextlib.contextmanager
def _attributed(runtime: Runtime, call: str) -> Iterator[None]:
    """Convert exceptions of a runtime to a CellError that names the runtime."""
    try:
        yield
    except HarnessError:
        raise
    except (Exception, SystemExit) as error:
        name = getattr(runtime, "name", type(runtime).__name__)
        description = describe_error(error, type(runtime))
        raise CellError(f"{call} of runtime {name!r} raised {description}") from error


def _batches(file: str, size: int) -> list[torch.Tensor]:
    import numpy as np
    import torch

    return list(torch.from_numpy(np.load(file, allow_pickle=False)).split(size))  # type: ignore[no-untyped-call]


def _check_finite(output: torch.Tensor) -> None:
    if not bool(output.isfinite().all()):
        raise CellError(
            "the deployed file returns NaN or infinity on real inputs, so its latency is meaningless: check the model"
        )


# -------------------------------------------------------------------------------------------------------- protocol


def serve(answer: Callable[[dict[str, Any]], Any]) -> None:
    """Answer requests until the input ends: ``{"ok": value}``, or ``{"error": {kind, text}}`` if ``answer`` raises."""
    requests, replies = _private_streams()
    die_with_parent()
    if _deserted(requests):
        return  # the parent died before the line above took effect
    for line in requests:
        replies.write(json.dumps(_reply(functools.partial(_answer_line, answer, line))) + "\n")
        replies.flush()


def _answer_line(answer: Callable[[dict[str, Any]], Any], line: str) -> Any:
    return answer(json.loads(line))


def _reply(answer: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"ok": answer()}
    except HarnessError as error:
        return {"error": {"kind": type(error).__name__, "text": str(error)}}
    except (Exception, SystemExit) as error:
        return {"error": {"kind": "CellError", "text": describe_error(error)}}


def _private_streams() -> tuple[TextIO, TextIO]:
    """Reserve standard input and output for the protocol: the output of plugins goes to standard error."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def die_with_parent() -> None:
    """Arrange to be killed when the parent dies, even during a request. Without Linux, only the input's end does it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _deserted(requests: TextIO) -> bool:
    """Whether nobody holds the other end of the pipe any more; requests may still be in it."""
    poll = select.poll()
    poll.register(requests, 0)  # a hang-up is always reported
    return any(event & select.POLLHUP for _, event in poll.poll(0))


if __name__ == "__main__":
    serve(Worker())
