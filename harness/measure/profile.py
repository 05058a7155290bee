"""Resolve a profile to the environment of a worker: variables from a list, an allocator, and CPUs to pin to."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from harness.api import Profile
from harness.errors import MeasureError
from harness.measure.machine import cpu_list

#: The variables that a worker inherits: enough to find Python, its packages and a folder for temporary files.
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
#: Folders of libraries that the loader's cache does not list; patterns below the root of the file system.
FOLDERS = ("usr/lib/*-linux-gnu", "lib/*-linux-gnu", "usr/lib64", "lib64", "usr/local/lib*", "usr/lib", "lib")
SYSFS = Path("/sys/devices/system/cpu")
#: Variables that limit torch's kernels, oneDNN and MKL to an instruction set.
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
    """An allocator that can be preloaded: the stems of its libraries, best first, and its packages.

    ``pypi`` is a Python package whose folder ``cmeel.prefix/lib`` holds the library.
    """

    stems: tuple[str, ...]
    debian: str
    fedora: str
    pypi: str | None = None


ALLOCATORS = {
    "tcmalloc": Allocator(("tcmalloc_minimal", "tcmalloc"), "libtcmalloc-minimal4", "gperftools-libs"),
    "jemalloc": Allocator(("jemalloc",), "libjemalloc2", "jemalloc"),
    "mimalloc": Allocator(("mimalloc",), "libmimalloc2.0", "mimalloc", "cmeel-mimalloc"),
}


@dataclasses.dataclass(frozen=True)
class WorkerEnvironment:
    """The environment that a worker is started in and must verify: ``variables`` is the complete list.

    ``library`` is the real path of the preloaded allocator (None: the C library's own). ``cpus`` are the CPUs that the
    worker pins itself to (None: it does not pin itself).
    """

    profile: Profile
    allocator: str
    library: Path | None
    cpus: tuple[int, ...] | None
    variables: Mapping[str, str]

    def expectation(self) -> dict[str, object]:
        """Return what the worker must set up and verify, as JSON."""
        return {
            "allocator": self.allocator,
            "library": None if self.library is None else str(self.library),
            "threads": self.profile.threads,
            "cpus": None if self.cpus is None else list(self.cpus),
            "onednn": self.profile.onednn,
            "isa": self.profile.isa,
        }


def worker_environment(
    profile: Profile, inherited: Mapping[str, str] = os.environ, python_path: Sequence[str] = ()
) -> WorkerEnvironment:
    """Resolve ``profile`` on this machine. Raises MeasureError for an allocator or CPUs that it does not have.

    ``python_path`` are folders in which the worker looks for modules before all others.
    On Windows it raises MeasureError for every profile: workers need fork, poll and signals of POSIX.
    """
    if sys.platform == "win32":
        raise MeasureError(
            "this is Windows, where models are built but neither timed nor evaluated: timing workers need a POSIX "
            "system; run the suite in the Windows Subsystem for Linux (WSL 2)"
        )
    allocator, library = resolve_allocator(profile.allocators)
    variables = {name: inherited[name] for name in INHERITED if name in inherited}
    if python_path:
        variables["PYTHONPATH"] = os.pathsep.join([*python_path, *filter(None, [variables.get("PYTHONPATH")])])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        variables[name] = str(profile.threads)
    variables |= DISPATCH.get(profile.isa, {})
    variables["PYTHONHASHSEED"] = "0"
    if library is not None:
        variables |= _preload(library, variables)
    return WorkerEnvironment(profile, allocator, library, resolve_affinity(profile), variables)


# ------------------------------------------------------------------------------------------------------ allocators


def _preload(library: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """The variables that make the loader preload ``library``.

    It splits LD_PRELOAD at spaces, which the folder of a virtual environment may have, so such a library is named alone
    and searched in LD_LIBRARY_PATH, which is split at colons and semicolons only.
    """
    if " " not in str(library):
        return {"LD_PRELOAD": str(library)}
    folders = [str(library.parent), *filter(None, [variables.get("LD_LIBRARY_PATH")])]
    return {"LD_PRELOAD": library.name, "LD_LIBRARY_PATH": ":".join(folders)}


def resolve_allocator(names: Sequence[str]) -> tuple[str, Path | None]:
    """Return the first of ``names`` that is installed, and the real path of its library (None for "system").

    Raises MeasureError if none is installed.
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
        # The cache and the folders may have libraries of another machine type (multiarch).
        candidates = [path for path in _libraries() if pattern.search(path.name) and _loads_here(path)]
        if candidates:
            newest = max(
                candidates, key=lambda path: [int(number) for number in re.findall(r"\d+", path.name.split(".so")[1])]
            )
            return newest.resolve()
    return None


def _libraries() -> Iterator[Path]:
    """Yield the shared libraries in the loader's cache, and the allocators in the usual folders and Python packages."""
    ldconfig = shutil.which("ldconfig", path=os.pathsep.join([os.environ.get("PATH", ""), "/sbin", "/usr/sbin"]))
    if ldconfig is not None:
        listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
        yield from (Path(line.rsplit(" => ", 1)[1]) for line in listing.splitlines() if " => " in line)
    for folder in FOLDERS:
        yield from Path("/").glob(f"{folder}/lib*malloc*.so*")
    yield from Path(sys.prefix).glob("lib/lib*malloc*.so*")
    for allocator in ALLOCATORS.values():
        with contextlib.suppress(PackageNotFoundError):
            if allocator.pypi is not None:
                prefix = distribution(allocator.pypi).locate_file("cmeel.prefix/lib")
                yield from Path(str(prefix)).glob("lib*malloc*.so*")


def _loads_here(library: Path) -> bool:
    """Whether the library has this interpreter's word size and machine type (bytes 4 and 18-19 of an ELF header)."""
    try:
        with library.open("rb") as stream, open(sys.executable, "rb") as interpreter:
            theirs, ours = stream.read(20), interpreter.read(20)
    except OSError:
        return False
    return theirs[:4] == b"\x7fELF" and theirs[4:5] + theirs[18:] == ours[4:5] + ours[18:]


def install_hint(names: Sequence[str]) -> str:
    """Return the commands that install allocators on common distributions."""
    debian = " ".join(ALLOCATORS[name].debian for name in names)
    fedora = " ".join(ALLOCATORS[name].fedora for name in names)
    pypi = "".join(f"pip install {package}; " for name in names if (package := ALLOCATORS[name].pypi))
    return f"{pypi}Debian, Ubuntu: apt install {debian}; Fedora: dnf install {fedora}"


def _not_found(names: Sequence[str]) -> str:
    listed = " or ".join(names)
    if sys.platform != "linux":
        return f"allocator {listed}: only Linux can replace the allocator (LD_PRELOAD); use allocator='system'"
    libraries = ", ".join(f"lib{stem}.so*" for name in names for stem in ALLOCATORS[name].stems)
    return (
        f"allocator {listed} is not on this machine: no {libraries} in the loader's cache (ldconfig -p) or in "
        f"{', '.join('/' + folder for folder in FOLDERS)}; install it ({install_hint(names)}), "
        f"or let the profile fall back: allocator={[*names, 'system']}"
    )


# -------------------------------------------------------------------------------------------------------- affinity


def resolve_affinity(profile: Profile, sysfs: Path = SYSFS) -> tuple[int, ...] | None:
    """Return the CPUs to pin a worker to, ascending; None if the profile or the system does not pin.

    "auto" prefers an isolated CPU for one thread. Several threads would all stay on one isolated CPU, because the
    kernel does not balance load between them.

    Raises MeasureError for CPUs that this process may not use, or if "auto" finds too few.
    """
    affinity = profile.affinity
    if affinity is None:
        return None
    if not hasattr(os, "sched_setaffinity"):
        if affinity == "auto":
            return None
        raise MeasureError(f"affinity={list(affinity)}: {sys.platform} cannot pin a process to CPUs; use affinity=None")
    allowed = os.sched_getaffinity(0)
    if affinity == "auto":
        isolated = _isolated(allowed, sysfs)
        if profile.threads == 1 and isolated and _can_pin(isolated_cpu := choose_cpus(1, isolated, sysfs)):
            return isolated_cpu
        return choose_cpus(profile.threads, allowed, sysfs)
    cpus = tuple(sorted({int(cpu) for cpu in affinity}))
    if not cpus or not (set(cpus) <= allowed or _can_pin(cpus)):
        raise MeasureError(
            f"affinity={list(affinity)}: this process may use the CPUs {sorted(allowed)}; name some of these"
        )
    return cpus


def choose_cpus(threads: int, allowed: Set[int], sysfs: Path = SYSFS) -> tuple[int, ...]:
    """Choose ``threads`` of the ``allowed`` CPUs: one per core while there are cores, CPU 0 last, fastest cores first.

    CPU 0 serves most interrupts, and the second hardware thread of a core shares its units. Raises MeasureError if
    there are too few CPUs.
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
        for core, core_cpus in cores.items()
        for place, cpu in enumerate(core_cpus)
    )
    return tuple(sorted(cpu for *_, cpu in ranked[:threads]))


def _isolated(allowed: Set[int], sysfs: Path) -> frozenset[int]:
    """Return the isolated CPUs (isolcpus) that this process may pin itself to.

    The kernel leaves them out of the allowed CPUs, but a process can pin itself to them. If this process is restricted
    to some of the other CPUs (taskset, a container), only allowed ones count.
    """
    isolated, online = _cpus(sysfs / "isolated"), _cpus(sysfs / "online")
    return isolated & (online if online - isolated <= allowed else allowed)


def _can_pin(cpus: Iterable[int]) -> bool:
    """Whether this process may pin itself to ``cpus``; tries it and restores the previous affinity."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cpus)
        return os.sched_getaffinity(0) == set(cpus)
    except (OSError, OverflowError):
        return False
    finally:
        os.sched_setaffinity(0, before)


def _cpus(file: Path) -> frozenset[int]:
    """Read a list of CPUs from a system file; empty if there is none."""
    try:
        return frozenset(cpu_list(file.read_text()) or ())
    except OSError:
        return frozenset()


def _max_frequency(cpu: int, sysfs: Path) -> int:
    """Read a CPU's maximal frequency in kHz, which ranks the cores of a hybrid processor; 0 if unknown."""
    try:
        return int((sysfs / f"cpu{cpu}" / "cpufreq" / "cpuinfo_max_freq").read_text())
    except (OSError, ValueError):
        return 0
