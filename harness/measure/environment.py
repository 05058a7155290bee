"""What this process runs in, and whether that is what a profile asks for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import MeasureError

ALLOCATOR_LIBRARY = re.compile(r"/lib(tcmalloc|jemalloc|mimalloc)[^/]*\.so[^/]*$")


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
