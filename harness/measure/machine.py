"""Read host facts, recorded once, and noise counters, read before and after each timing.

Nothing is changed on the machine. Values that the system does not report are None. All paths lie below ``root``, the
root of the file system.
"""

from __future__ import annotations

import dataclasses
import functools
import platform
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TypedDict

ROOT = Path("/")
CPUS = Path("sys/devices/system/cpu")


class Facts(TypedDict):
    """Host facts as JSON, always in this order.

    ``cpus`` counts the online CPUs, ``allowed_cpus`` those that this process may use (read them before pinning it),
    ``cores`` the physical cores. ``cpu_quota`` is the tightest CPU limit of this process's control groups, in CPUs;
    None if there is no limit.
    """

    cpu: str | None
    microcode: str | None
    architecture: str | None
    cpus: int | None
    allowed_cpus: int | None
    cores: int | None
    smt: bool | None
    frequency_driver: str | None
    governor: str | None
    turbo: bool | None
    isolated_cpus: list[int] | None
    numa_nodes: int | None
    hypervisor: bool | None
    cpu_quota: float | None
    memory_bytes: int | None
    aslr: int | None
    transparent_hugepages: str | None
    kernel: str | None
    system: str | None


class Load(TypedDict):
    """The load average of the last minute, and the number of threads that run or wait for a CPU now."""

    load_1min: float | None
    runnable: int | None


# ----------------------------------------------------------------------------------------------------------- facts


def facts(root: Path = ROOT) -> Facts:
    """Read the host facts. Takes a few milliseconds and, on Linux, starts no process."""
    cpuinfo = _text(root / "proc/cpuinfo")
    online = cpu_list(_text(root / CPUS / "online"))
    allowed = cpu_list(_first(_fields("Cpus_allowed_list", _text(root / "proc/self/status"))))
    flags = _first(_fields("flags", cpuinfo))
    isolated = root / CPUS / "isolated"  # usually exists and is empty
    nodes = cpu_list(_text(root / "sys/devices/system/node/online"))
    memory = _number(_first(_fields("MemTotal", _text(root / "proc/meminfo"))).removesuffix("kB"))
    pages = re.search(r"\[(\w+)\]", _text(root / "sys/kernel/mm/transparent_hugepage/enabled"))
    return Facts(
        cpu=_cpu_name(cpuinfo),
        microcode=_first(_fields("microcode", cpuinfo)) or None,
        architecture=platform.machine() or None,
        cpus=len(online) if online else None,
        allowed_cpus=len(allowed) if allowed else None,
        # A core's number is unique only within its cluster; the list of its hardware threads is unique everywhere.
        cores=len(_per_cpu("topology/thread_siblings_list", online, root)) or None,
        smt=_flag(_text(root / CPUS / "smt/active")),
        frequency_driver=",".join(_per_cpu("cpufreq/scaling_driver", online, root)) or None,
        governor=",".join(_per_cpu("cpufreq/scaling_governor", online, root)) or None,
        turbo=_turbo(root),
        isolated_cpus=cpu_list(_text(isolated)) if isolated.is_file() else None,
        numa_nodes=len(nodes) if nodes else None,
        hypervisor="hypervisor" in flags.split() if flags else None,
        cpu_quota=min((limit for group in _cgroups(root) if (limit := _quota(group)) is not None), default=None),
        memory_bytes=None if memory is None else memory * 1024,
        aslr=_number(_text(root / "proc/sys/kernel/randomize_va_space")),
        transparent_hugepages=pages[1] if pages else None,
        kernel=platform.release() or None,
        system=platform.system() or None,
    )


def cpu_features(root: Path = ROOT) -> list[str]:
    """Return the features of the processor that the system lists, sorted; its name where it lists none."""
    cpuinfo = _text(root / "proc/cpuinfo")
    listed = _first(_fields("flags", cpuinfo)) or _first(_fields("Features", cpuinfo))
    return sorted(set(listed.split())) or [_cpu_name(cpuinfo) or platform.machine()]


def load(root: Path = ROOT) -> Load:
    """Read the machine's load, which includes this process."""
    match = re.match(r"(\d+\.\d+) \S+ \S+ (\d+)/", _text(root / "proc/loadavg"), re.ASCII)
    if match is None:
        return Load(load_1min=None, runnable=None)
    return Load(load_1min=float(match[1]), runnable=int(match[2]))


def _cpu_name(cpuinfo: str) -> str | None:
    """Return the model name; for Arm, which has none, the implementer and part numbers of its cores."""
    if names := _fields("model name", cpuinfo):
        return ", ".join(names)
    if part_numbers := _fields("CPU part", cpuinfo):
        return f"implementer {', '.join(_fields('CPU implementer', cpuinfo))}, part {', '.join(part_numbers)}"
    return None if sys.platform == "linux" else platform.processor() or None  # on Linux this would start a process


def _turbo(root: Path) -> bool | None:
    disabled = _flag(_text(root / CPUS / "intel_pstate/no_turbo"))
    return _flag(_text(root / CPUS / "cpufreq/boost")) if disabled is None else not disabled


def _per_cpu(file: str, cpus: Sequence[int] | None, root: Path) -> list[str]:
    """Return the distinct contents of a per-CPU file, sorted."""
    return sorted({text for cpu in cpus or () if (text := _text(root / CPUS / f"cpu{cpu}" / file))})


# -------------------------------------------------------------------------------------------------- control groups


@functools.cache
def _cgroups(root: Path) -> tuple[Path, ...]:
    """Return the folders of this process's CPU control groups: its own and all that contain it.

    Cached, because a process stays in its groups. In a container the mount may begin below the root of the hierarchy;
    the groups above it are invisible.
    """
    group_paths: dict[str, PurePosixPath] = {}
    for number, controllers, path in re.findall(r"^(\d+):(.*?):(/.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE):
        if number == "0":
            group_paths["cgroup2"] = PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            group_paths["cgroup"] = PurePosixPath(path)
    mounts = r"^\S+ \S+ \S+ (\S+) /(\S+) .* - (cgroup2?) \S+ (\S+)$"
    folders: dict[str, list[Path]] = {}
    for top, point, kind, options in re.findall(mounts, _text(root / "proc/self/mountinfo"), re.MULTILINE):
        if kind not in group_paths or kind in folders or (kind == "cgroup" and "cpu" not in options.split(",")):
            continue
        if group_paths[kind].is_relative_to(top) and ".." not in group_paths[kind].parts:
            inner = group_paths[kind].relative_to(top).parts
            folders[kind] = [root.joinpath(point, *inner[:depth]) for depth in range(len(inner) + 1)]
    return tuple(folder for chain in folders.values() for folder in chain)


def _quota(group: Path) -> float | None:
    """Read the CPU limit of a control group (version 2 or 1), in CPUs; None if unlimited ("max" or -1)."""
    words = " ".join(_text(group / name) for name in ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")).split()
    numbers = [number for word in words if (number := _number(word)) is not None and number > 0]
    return numbers[0] / numbers[1] if len(words) == len(numbers) == 2 else None


# -------------------------------------------------------------------------------------------------------- counters


@dataclasses.dataclass(frozen=True)
class Disturbance:
    """The noise between two readings of the counters.

    ``involuntary_switches`` counts how often the kernel took the CPU away. ``steal`` is the share of the CPUs' time
    that the hypervisor gave to others (None also if less than a tick, mostly 10 ms, has passed). ``throttled_periods``
    counts stops for a used-up quota and for heat. ``waiting`` is the share of the time in which the main thread was
    ready to run and waited for a CPU.
    """

    involuntary_switches: int
    steal: float | None
    throttled_periods: int | None
    waiting: float | None = None


@dataclasses.dataclass(frozen=True)
class Counters:
    """One reading of the noise counters of this process, its control groups and some CPUs."""

    involuntary_switches: int
    steal_ticks: int | None
    total_ticks: int | None
    throttled_periods: int | None
    waited_ns: int | None = None
    clock_ns: int = 0

    def since(self, before: Counters) -> Disturbance:
        """Return the noise between ``before``, a reading of the same CPUs, and this reading."""
        waited, elapsed = _growth(self.waited_ns, before.waited_ns), self.clock_ns - before.clock_ns
        steal, total = _growth(self.steal_ticks, before.steal_ticks), _growth(self.total_ticks, before.total_ticks)
        return Disturbance(
            involuntary_switches=self.involuntary_switches - before.involuntary_switches,
            steal=steal / total if steal is not None and total else None,
            throttled_periods=_growth(self.throttled_periods, before.throttled_periods),
            waiting=waited / elapsed if waited is not None and elapsed > 0 else None,
        )


def read_counters(cpus: Sequence[int] | None, root: Path = ROOT) -> Counters:
    """Read the counters of this process and of ``cpus`` (None: all); few CPUs take less than a millisecond."""
    import resource  # not on Windows, where nothing is timed

    steal, total = _ticks(cpus, root)
    throttled = _throttled(cpus, root)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    # The main thread's nanoseconds on a CPU, then those that it was ready and waited for a CPU.
    schedule = _text(root / "proc/self/schedstat").split()
    waited = _number(schedule[1]) if len(schedule) == 3 else None
    return Counters(usage.ru_nivcsw, steal, total, throttled, waited, time.monotonic_ns())


def _ticks(cpus: Sequence[int] | None, root: Path) -> tuple[int | None, int | None]:
    """Return stolen ticks and all ticks, summed over the CPUs; None unless all CPUs are listed."""
    names = {"cpu"} if cpus is None else {f"cpu{cpu}" for cpu in cpus}
    # User, nice, system, idle, iowait, irq, softirq, steal. Guest ticks follow; user and nice include them already.
    lines, _, _ = _text(root / "proc/stat").partition("intr ")  # the rest is long
    rows = re.findall(r"^(cpu\d*)" + r" +(\d+)" * 8, lines, re.ASCII | re.MULTILINE)
    ticks = [[int(field) for field in fields] for name, *fields in rows if name in names]
    if not names or len(ticks) != len(names):
        return None, None
    return sum(row[7] for row in ticks), sum(map(sum, ticks))


def _throttled(cpus: Sequence[int] | None, root: Path) -> int | None:
    """Count how often a quota of this process's control groups was used up, or a CPU was throttled for heat."""
    quotas = [
        _first(re.findall(r"^nr_throttled (\d+)", _text(group / "cpu.stat"), re.MULTILINE)) for group in _cgroups(root)
    ]
    checked = cpu_list(_text(root / CPUS / "online")) if cpus is None else cpus
    heat = [_text(root / CPUS / f"cpu{cpu}/thermal_throttle/core_throttle_count") for cpu in checked or ()]
    counts = [count for text in quotas + heat if (count := _number(text)) is not None]
    return sum(counts) if counts else None


def _growth(after: int | None, before: int | None) -> int | None:
    """Return the growth of a counter. A migrated virtual machine may find it reset; that counts as 0."""
    return None if after is None or before is None else max(0, after - before)


# ------------------------------------------------------------------------------------------------- reading of files


def _text(file: Path) -> str:
    """Return a file's stripped text; empty if it cannot be read."""
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""


def _fields(name: str, text: str) -> list[str]:
    """Return the distinct values of the lines "name: value", in their order."""
    return list(dict.fromkeys(re.findall(rf"^{name}[ \t]*:[ \t]*(\S.*)$", text, re.MULTILINE)))


def _first(values: Sequence[str]) -> str:
    return values[0] if values else ""


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _flag(text: str) -> bool | None:
    return {"0": False, "1": True}.get(text)


def cpu_list(text: str) -> list[int] | None:
    """Parse a list of CPUs in the kernel's notation, "0-3,8"; None if the text is not in it."""
    cpus: list[int] = []
    for cpu_range in filter(None, text.strip().split(",")):
        bounds = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", cpu_range, re.ASCII)
        if bounds is None:
            return None
        cpus.extend(range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1))
    return cpus
