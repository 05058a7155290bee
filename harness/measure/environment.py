"""Read the environment of this process, and verify that it is the one that a profile requires."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import MeasureError

ALLOCATOR_LIBRARY = re.compile(r"/lib(tcmalloc|jemalloc|mimalloc)[^/]*\.so[^/]*$")


def verify(actual: Mapping[str, Any], threads: int, cpus: list[int] | None, onednn: bool, isa: str = "auto") -> None:
    """Raise MeasureError unless ``actual``, the worker's environment, matches its profile."""
    expected: dict[str, Any] = {"threads": threads, "interop_threads": 1, "onednn": onednn, "denormals": "kept"}
    expected |= {name: threads for name in ("omp_threads", "mkl_threads") if name in actual}
    if cpus is not None:
        expected["affinity"] = cpus
    if isa != "auto":
        expected["isa"] = isa
    for name, value in expected.items():
        if actual[name] != value:
            hint = "an imported module overrides the profile: search the plugins and sitecustomize for it"
            if name == "isa":
                hint = "this processor, or this build of torch, does not support it: choose another in the profile"
            if name == "denormals":
                hint = "a runtime or plugin sets denormal numbers to zero, which makes it incomparable: switch that off"
            raise MeasureError(f"the worker should have {name}={value} but has {actual[name]}; {hint}")


def environment() -> dict[str, Any]:
    """Return the part of the worker's environment that plugins could change."""
    import torch

    has_onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "affinity": affinity(),
        "onednn": has_onednn and bool(torch.backends.mkldnn.enabled),
        "isa": torch.backends.cpu.get_cpu_capability().lower(),
        # Of this thread. The smallest normal float32 is 1.2e-38; flushed, such numbers are zero, and faster.
        "denormals": "kept" if (torch.tensor([1e-39]) * 0.5).item() else "flushed",
    }


def libraries() -> dict[str, Any]:
    """Return what torch reports of its libraries: the threads of OpenMP and MKL, and the version of oneDNN."""
    import torch

    report = torch.__config__.parallel_info() + torch.__config__.show()
    threads = {
        f"{name}_threads": int(match[1])
        for name in ("omp", "mkl")
        if (match := re.search(rf"{name}_get_max_threads\(\)\s*:\s*(\d+)", report))
    }
    onednn = re.search(r"MKL-DNN v([\d.]+)", report)
    return {**threads, "onednn_version": onednn[1] if onednn else None}


def verify_allocator(allocator: str, library: str | None, mapped: set[str] | None) -> None:
    """Raise MeasureError unless exactly this allocator is among the ``mapped`` files (None: unknown, so no check)."""
    if mapped is None:
        return
    present = {file for file in mapped if ALLOCATOR_LIBRARY.search(file)}
    if library is not None and library not in present:
        raise MeasureError(
            f"the worker was started with {allocator} ({library}) but runs without it: LD_PRELOAD had no effect; check "
            "whether the interpreter is statically linked, setuid, or a wrapper that clears its environment"
        )
    unexpected = sorted(present - {library})
    if unexpected:
        raise MeasureError(
            f"the worker should use the allocator {allocator}, but {', '.join(unexpected)} is loaded as well; "
            "find what links it (a plugin, a Python built with it) or name that allocator in the profile"
        )


def mapped_files() -> set[str] | None:
    """Return the real paths of the files mapped into this process; None where the system does not report them."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except FileNotFoundError:
        return None
    return {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}


def pin(cpus: list[int]) -> None:
    """Pin every thread of this process to ``cpus``; later threads inherit it."""
    for task in _tasks():
        os.sched_setaffinity(task, cpus)


def affinity() -> list[int] | None:
    """Return the CPUs that any thread of this process may use; None where the system does not report them."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return sorted(set().union(*(os.sched_getaffinity(task) for task in _tasks())))


def _tasks() -> list[int]:
    """Return the thread numbers of this process (0, the caller, where there is no /proc)."""
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except FileNotFoundError:
        return [0]
