"""From a profile to the environment of a worker: built from a list, never inherited wholesale."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

from harness.api import Profile
from harness.errors import MeasureError
from harness.measure.machine import cpu_list

#: What a worker may inherit: enough to find Python, its packages and a place for temporary files.
INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TMPDIR",
    "TZ",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
)
#: Where libraries lie when the loader's cache does not know them; patterns below the root of the file system.
FOLDERS = ("usr/lib/*-linux-gnu", "lib/*-linux-gnu", "usr/lib64", "lib64", "usr/local/lib*", "usr/lib", "lib")
SYSFS = Path("/sys/devices/system/cpu")
#: What holds torch's own kernels, oneDNN and MKL to an instruction set.
DISPATCH = {
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
    },
}


@dataclasses.dataclass(frozen=True)
class Allocator:
    """An allocator that can be preloaded: its libraries' stems, best first, and how it is installed."""

    stems: tuple[str, ...]
    debian: str
    fedora: str


ALLOCATORS = {
    "tcmalloc": Allocator(("tcmalloc_minimal", "tcmalloc"), "libtcmalloc-minimal4", "gperftools-libs"),
    "jemalloc": Allocator(("jemalloc",), "libjemalloc2", "jemalloc"),
    "mimalloc": Allocator(("mimalloc",), "libmimalloc2.0", "mimalloc"),
}


@dataclasses.dataclass(frozen=True)
class WorkerEnvironment:
    """What a worker is started in and must find again inside: ``variables`` is its whole environment.

    ``library`` is the preloaded allocator's real path (None: the C library's own); ``cpus`` are the CPUs that the
    worker pins itself to (None: it is left as it is).
    """

    profile: Profile
    allocator: str
    library: Path | None
    cpus: tuple[int, ...] | None
    variables: Mapping[str, str]

    def expectation(self) -> dict[str, object]:
        """What the worker is told to set up and verify, as JSON."""
        return {
            "allocator": self.allocator,
            "library": None if self.library is None else str(self.library),
            "threads": self.profile.threads,
            "cpus": None if self.cpus is None else list(self.cpus),
            "onednn": self.profile.onednn,
            "isa": self.profile.isa,
        }


def worker_environment(profile: Profile, inherited: Mapping[str, str] = os.environ) -> WorkerEnvironment:
    """Resolve ``profile`` on this machine.

    Raises MeasureError for an allocator or CPUs that are not here.
    """
    allocator, library = resolve_allocator(profile.allocators)
    variables = {name: inherited[name] for name in INHERITED if name in inherited}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        variables[name] = str(profile.threads)
    variables |= DISPATCH.get(profile.isa, {})
    variables["PYTHONHASHSEED"] = "0"
    if library is not None:
        variables["LD_PRELOAD"] = str(library)
    return WorkerEnvironment(profile, allocator, library, resolve_affinity(profile), variables)


# ------------------------------------------------------------------------------------------------------ allocators


def resolve_allocator(names: Sequence[str]) -> tuple[str, Path | None]:
    """The first of ``names`` that is on this machine, and its library's real path (None for "system").

    Raises MeasureError when none is found.
    """
    for name in names:
        if name == "system":
            return name, None
        library = _find_library(ALLOCATORS[name].stems)
        if library is not None:
            return name, library
    raise MeasureError(_not_found(names))


def _find_library(stems: Sequence[str]) -> Path | None:
    if sys.platform != "linux":
        return None
    for stem in stems:
        pattern = re.compile(rf"lib{stem}\.so((?:\.\d+)*)$")
        # The cache may know a library of another machine type (multiarch), and so may the folders.
        found = [path for path in _libraries() if pattern.search(path.name) and _loads_here(path)]
        if found:
            newest = max(found, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name.split(".so")[1])])
            return newest.resolve()
    return None


def _libraries() -> Iterator[Path]:
    """Every shared library that the loader's cache or the usual folders know."""
    ldconfig = shutil.which("ldconfig", path=os.pathsep.join([os.environ.get("PATH", ""), "/sbin", "/usr/sbin"]))
    if ldconfig is not None:
        listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
        yield from (Path(line.rsplit(" => ", 1)[1]) for line in listing.splitlines() if " => " in line)
    for folder in FOLDERS:
        yield from Path("/").glob(f"{folder}/lib*malloc*.so*")
    yield from Path(sys.prefix).glob("lib/lib*malloc*.so*")


def _loads_here(library: Path) -> bool:
    """Whether the library is of this interpreter's word size and machine (bytes 4 and 18-19 of an ELF header)."""
    try:
        with library.open("rb") as stream, open(sys.executable, "rb") as own:
            theirs, ours = stream.read(20), own.read(20)
    except OSError:
        return False
    return theirs[:4] == b"\x7fELF" and theirs[4:5] + theirs[18:] == ours[4:5] + ours[18:]


def install_hint(names: Sequence[str]) -> str:
    """How allocators are installed where that is known."""
    debian = " ".join(ALLOCATORS[name].debian for name in names)
    fedora = " ".join(ALLOCATORS[name].fedora for name in names)
    return f"Debian, Ubuntu: apt install {debian}; Fedora: dnf install {fedora}"


def _not_found(names: Sequence[str]) -> str:
    asked = " or ".join(names)
    if sys.platform != "linux":
        return f"allocator {asked}: an allocator is swapped by LD_PRELOAD, which only Linux has; use allocator='system'"
    libraries = ", ".join(f"lib{stem}.so*" for name in names for stem in ALLOCATORS[name].stems)
    return (
        f"allocator {asked} is not on this machine: no {libraries} in the loader's cache (ldconfig -p) or in "
        f"{', '.join('/' + folder for folder in FOLDERS)}; install it ({install_hint(names)}), "
        f"or let the profile fall back: allocator={[*names, 'system']}"
    )


# -------------------------------------------------------------------------------------------------------- affinity


def resolve_affinity(profile: Profile, sysfs: Path = SYSFS) -> tuple[int, ...] | None:
    """The CPUs to pin a worker to, in ascending order; None where it is not asked for or cannot be done.

    "auto" prefers an isolated CPU for one thread. Several threads would all stay on one of them: the kernel moves
    nothing between isolated CPUs.

    Raises MeasureError for CPUs that this process may not use, or fewer of them than "auto" needs.
    """
    wanted = profile.affinity
    if wanted is None:
        return None
    if not hasattr(os, "sched_setaffinity"):
        if wanted == "auto":
            return None
        raise MeasureError(f"affinity={list(wanted)}: {sys.platform} cannot pin a process to CPUs; use affinity=None")
    allowed = os.sched_getaffinity(0)
    if wanted == "auto":
        isolated = _isolated(allowed, sysfs)
        if profile.threads == 1 and isolated and _can_pin(own := choose_cpus(1, isolated, sysfs)):
            return own
        return choose_cpus(profile.threads, allowed, sysfs)
    cpus = tuple(sorted({int(cpu) for cpu in wanted}))
    if not cpus or not (set(cpus) <= allowed or _can_pin(cpus)):
        raise MeasureError(f"affinity={list(wanted)}: this process may use the CPUs {sorted(allowed)}; choose of those")
    return cpus


def choose_cpus(threads: int, allowed: Set[int], sysfs: Path = SYSFS) -> tuple[int, ...]:
    """``threads`` of the ``allowed`` CPUs: one a core while there are cores, CPU 0 last, the fastest cores first.

    CPU 0 is avoided because it serves most interrupts; a second hardware thread of a core shares its units.
    """
    if threads > len(allowed):
        raise MeasureError(
            f"threads={threads} with affinity='auto': this process may use only the CPUs {sorted(allowed)}; "
            "ask for fewer threads, or set affinity=None to let them share"
        )
    cores: dict[frozenset[int], list[int]] = {}
    for cpu in sorted(allowed):
        siblings = _cpus(sysfs / f"cpu{cpu}" / "topology" / "thread_siblings_list")
        cores.setdefault(siblings or frozenset({cpu}), []).append(cpu)
    ranked = sorted(
        (place, 0 in core, -_max_frequency(cpu, sysfs), cpu)
        for core, own in cores.items()
        for place, cpu in enumerate(own)
    )
    return tuple(sorted(cpu for *_, cpu in ranked[:threads]))


def _isolated(allowed: Set[int], sysfs: Path) -> frozenset[int]:
    """The CPUs that are kept free of other work (isolcpus), which a process gets by asking; else they are not allowed.

    A process that may not use all of the others either (taskset, a container) is meant to keep to what is allowed.
    """
    isolated, online = _cpus(sysfs / "isolated"), _cpus(sysfs / "online")
    return isolated & (online if online - isolated <= allowed else allowed)


def _can_pin(cpus: Iterable[int]) -> bool:
    """Whether this process may pin itself to ``cpus``. Only trying tells, which is taken back at once."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cpus)
        return os.sched_getaffinity(0) == set(cpus)
    except (OSError, OverflowError):
        return False
    finally:
        os.sched_setaffinity(0, before)


def _cpus(file: Path) -> frozenset[int]:
    """The CPUs that a file of the system lists; none where it does not say."""
    try:
        return frozenset(cpu_list(file.read_text()) or ())
    except OSError:
        return frozenset()


def _max_frequency(cpu: int, sysfs: Path) -> int:
    """kHz; 0 where the system does not say. It tells the fast cores of a hybrid processor from the slow ones."""
    try:
        return int((sysfs / f"cpu{cpu}" / "cpufreq" / "cpuinfo_max_freq").read_text())
    except (OSError, ValueError):
        return 0
