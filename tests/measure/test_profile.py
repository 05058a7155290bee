"""A profile becomes a worker's environment, or an error that says how to get there."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.api import Profile
from harness.errors import MeasureError, UsageError
from harness.keys import non_default_fields
from harness.measure import profile as module
from harness.measure.profile import choose_cpus, resolve_affinity, resolve_allocator, worker_environment

linux = pytest.mark.skipif(sys.platform != "linux", reason="allocators are preloaded on Linux only")


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files are all the libraries there are."""
    monkeypatch.setattr(module, "_libraries", lambda: iter(sorted(tmp_path.iterdir())))
    return tmp_path


def library(folder: Path, name: str, machine: bytes | None = None) -> Path:
    """A file with the ELF header of this interpreter's executable, or of another machine."""
    header = bytearray(Path(sys.executable).read_bytes()[:64])
    if machine is not None:
        header[18:20] = machine
    path = folder / name
    path.write_bytes(header)
    return path


@linux
def test_the_first_found_of_the_preference_order_wins(libraries: Path) -> None:
    jemalloc = library(libraries, "libjemalloc.so.2")
    assert resolve_allocator(["tcmalloc", "jemalloc", "system"]) == ("jemalloc", jemalloc)
    assert resolve_allocator(["system", "jemalloc"]) == ("system", None)
    assert resolve_allocator(["tcmalloc", "system"]) == ("system", None)


@linux
def test_versioned_names_are_found_and_given_by_their_real_path(libraries: Path) -> None:
    old = library(libraries, "libmimalloc.so.2.0")
    new = library(libraries, "libmimalloc.so.10.1")
    assert resolve_allocator(["mimalloc"]) == ("mimalloc", new)
    new.unlink()
    (libraries / "libmimalloc.so.2").symlink_to(old)
    assert resolve_allocator(["mimalloc"]) == ("mimalloc", old)


@linux
def test_the_python_package_s_mimalloc_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Package:
        def locate_file(self, path: str) -> Path:
            return tmp_path / path

    packages = {"cmeel-mimalloc": Package()}
    monkeypatch.setattr(module, "distribution", packages.__getitem__)
    monkeypatch.setattr(module, "FOLDERS", ())
    monkeypatch.setattr(module.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "nowhere"))
    folder = tmp_path / "cmeel.prefix" / "lib"
    folder.mkdir(parents=True)
    path = library(folder, "libmimalloc.so.3.4")
    assert resolve_allocator(["jemalloc", "mimalloc", "system"]) == ("mimalloc", path)

    def not_installed(name: str) -> Package:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(module, "distribution", not_installed)
    with pytest.raises(MeasureError, match="pip install cmeel-mimalloc; Debian, Ubuntu: apt install libmimalloc2"):
        resolve_allocator(["mimalloc"])


@linux
def test_the_minimal_tcmalloc_comes_before_the_profiling_one_and_the_debug_one_never(libraries: Path) -> None:
    library(libraries, "libtcmalloc_minimal_debug.so.4")
    with pytest.raises(MeasureError):
        resolve_allocator(["tcmalloc"])
    library(libraries, "libtcmalloc.so.4")
    minimal = library(libraries, "libtcmalloc_minimal.so.4")
    assert resolve_allocator(["tcmalloc"]) == ("tcmalloc", minimal)


@linux
def test_a_library_of_another_machine_is_passed_over(libraries: Path) -> None:
    library(libraries, "libjemalloc.so.2", machine=b"\xff\x00")
    (libraries / "libjemalloc.so.3").write_text("GROUP ( /lib/libjemalloc.so.2 )")
    assert resolve_allocator(["jemalloc", "system"]) == ("system", None)


@linux
def test_a_missing_allocator_is_an_error_that_says_how_to_install_it(libraries: Path) -> None:
    with pytest.raises(MeasureError) as caught:
        resolve_allocator(["tcmalloc", "jemalloc"])
    for words in ("tcmalloc or jemalloc", "ldconfig -p", "/usr/lib/*-linux-gnu", "libtcmalloc-minimal4 libjemalloc2"):
        assert words in str(caught.value)
    assert "allocator=['tcmalloc', 'jemalloc', 'system']" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"allocator": ["system", "jemaloc"]}, "unknown allocator; did you mean 'jemalloc'"),
        ({"allocator": []}, "name at least one allocator"),
        ({"affinity": "0-1"}, "None, 'auto' or a list of CPU numbers"),
        ({"affinity": [0, -1]}, "None, 'auto' or a list of CPU numbers"),
        ({"threads": "2"}, "threads must be a whole number"),
        ({"pace": "20"}, "neither 'back-to-back' nor a pause; '20' is not a duration"),
        ({"pace": 0.02}, "neither 'back-to-back' nor a pause"),
        ({"pace": "0ms"}, "not a duration"),
        ({"pace": "2s"}, "a pause of more than 1 s takes too long"),
    ],
)
def test_a_wrong_profile_is_refused_where_it_is_written(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Profile(**wrong)


@pytest.mark.parametrize(("pace", "pause"), [("back-to-back", 0.0), ("20ms", 0.02), ("0.5 s", 0.5), ("300us", 3e-4)])
def test_a_pace_is_a_pause_before_each_timed_call(pace: str, pause: float) -> None:
    assert Profile(pace=pace).pause == pytest.approx(pause)
    assert Profile().pause == 0


def test_the_default_pace_changes_no_digest_of_a_profile() -> None:
    assert "pace" not in non_default_fields(Profile(threads=2))
    assert non_default_fields(Profile(pace="20ms")) == {"pace": "20ms"}


@linux
def test_the_environment_is_built_from_a_list(libraries: Path) -> None:
    path = library(libraries, "libjemalloc.so.2")
    inherited = {"PATH": "/bin", "LD_PRELOAD": "evil.so", "OMP_NUM_THREADS": "7", "KMP_AFFINITY": "x", "TMPDIR": "/t"}
    environment = worker_environment(Profile(threads=2, allocator="jemalloc", affinity=None), inherited)
    assert environment.variables == {
        "PATH": "/bin",
        "TMPDIR": "/t",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
        "PYTHONHASHSEED": "0",
        "LD_PRELOAD": str(path),
    }


@linux
@pytest.mark.parametrize(("inherited", "folders"), [({}, "{}"), ({"LD_LIBRARY_PATH": "/opt/lib"}, "{}:/opt/lib")])
def test_a_library_in_a_folder_with_a_space_is_searched_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inherited: dict[str, str], folders: str
) -> None:
    """The loader splits LD_PRELOAD at spaces."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    monkeypatch.setattr("harness.measure.profile.resolve_allocator", lambda _: ("mimalloc", folder / "libmimalloc.so"))
    variables = worker_environment(Profile(allocator="mimalloc", affinity=None), inherited).variables
    assert variables["LD_PRELOAD"] == "libmimalloc.so"
    assert variables["LD_LIBRARY_PATH"] == folders.format(folder)


def processor(folder: Path, siblings: list[str], frequencies: list[int] | None = None) -> Path:
    for cpu, text in enumerate(siblings):
        (folder / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (folder / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(text + "\n")
        if frequencies is not None:
            (folder / f"cpu{cpu}" / "cpufreq").mkdir()
            (folder / f"cpu{cpu}" / "cpufreq" / "cpuinfo_max_freq").write_text(f"{frequencies[cpu]}\n")
    return folder


def test_cpus_are_of_different_cores_and_cpu_0_comes_last(tmp_path: Path) -> None:
    sysfs = processor(tmp_path, ["0,4", "1,5", "2,6", "3,7"] * 2)
    assert choose_cpus(1, set(range(8)), sysfs) == (1,)
    assert choose_cpus(3, set(range(8)), sysfs) == (1, 2, 3)
    assert choose_cpus(4, set(range(8)), sysfs) == (0, 1, 2, 3)
    assert choose_cpus(5, set(range(8)), sysfs) == (0, 1, 2, 3, 5), "a second thread of a core, but not of CPU 0's"
    assert choose_cpus(1, {0, 3, 4, 7}, sysfs) == (3,)
    assert choose_cpus(1, {0}, sysfs) == (0,)


def test_a_fast_core_of_a_hybrid_processor_is_preferred(tmp_path: Path) -> None:
    sysfs = processor(tmp_path, ["0-1", "0-1", "2-3", "2-3", "4", "5"], [5000, 5000, 4900, 4900, 3800, 3800])
    assert choose_cpus(1, set(range(6)), sysfs) == (2,)
    assert choose_cpus(1, {4, 5, 2}, sysfs) == (2,)


@dataclasses.dataclass
class Machine:
    """The kernel's part of pinning: a process is ``on`` some CPUs, and may get those of ``free``."""

    on: set[int]
    free: set[int]

    def get(self, process: int) -> set[int]:
        return set(self.on)

    def set(self, process: int, cpus: Collection[int]) -> None:
        if not set(cpus) & self.free:
            raise OSError(errno.EINVAL, "Invalid argument")
        self.on = set(cpus) & self.free


@pytest.mark.parametrize(
    ("isolated", "on", "free", "affinity", "threads", "chosen"),
    [
        ("2-3", {0, 1}, {0, 1, 2, 3}, "auto", 1, (2,)),
        ("0,3", {1, 2}, {0, 1, 2, 3}, "auto", 1, (3,)),
        ("2-3", {0, 1}, {0, 1, 2, 3}, "auto", 2, (0, 1)),  # both threads would stay on one isolated CPU
        ("", {0, 1, 2, 3}, {0, 1, 2, 3}, "auto", 1, (1,)),
        ("3", {1, 3}, {0, 1, 2, 3}, "auto", 1, (3,)),
        ("3", {0, 1}, {0, 1, 2, 3}, "auto", 1, (1,)),  # taskset: not all of the others are allowed either
        ("3", {0, 1, 2}, {0, 1, 2}, "auto", 1, (1,)),  # somebody else's
        ("5", {0, 1, 2, 3}, {0, 1, 2, 3, 5}, "auto", 1, (1,)),  # off
        ("2-3", {0, 1}, {0, 1, 2, 3}, [2], 1, (2,)),
        ("2-3", {0, 1}, {0, 1, 2, 3}, [0], 1, (0,)),
    ],
)
def test_an_isolated_cpu_is_preferred_where_it_can_be_had(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    isolated: str,
    on: set[int],
    free: set[int],
    affinity: Any,
    threads: int,
    chosen: tuple[int, ...],
) -> None:
    machine = Machine(set(on), free)
    monkeypatch.setattr(os, "sched_getaffinity", machine.get, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", machine.set, raising=False)
    sysfs = processor(tmp_path, ["0", "1", "2", "3"])
    (sysfs / "online").write_text("0-3\n")
    (sysfs / "isolated").write_text(f"{isolated}\n")
    assert resolve_affinity(Profile(threads=threads, affinity=affinity), sysfs) == chosen
    assert machine.on == on, "the trial was not taken back"


def test_isolated_cpus_of_somebody_else_are_an_error_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine({0, 1}, {0, 1, 2})
    monkeypatch.setattr(os, "sched_getaffinity", machine.get, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", machine.set, raising=False)
    with pytest.raises(MeasureError, match=r"affinity=\[2, 3\]: this process may use the CPUs \[0, 1\]"):
        resolve_affinity(Profile(affinity=[2, 3]), tmp_path)
    assert machine.on == {0, 1}


def test_files_of_the_system_that_hold_something_else_are_as_good_as_none(tmp_path: Path) -> None:
    sysfs = processor(tmp_path, ["junk", "", "2-3", "2-3"])
    assert choose_cpus(3, {0, 1, 2, 3}, sysfs) == (0, 1, 2)


@given(allowed=st.sets(st.integers(0, 127), min_size=1, max_size=40), data=st.data())
def test_chosen_cpus_are_as_many_as_asked_distinct_and_allowed(allowed: set[int], data: st.DataObject) -> None:
    threads = data.draw(st.integers(1, len(allowed)))
    chosen = choose_cpus(threads, allowed, Path("/nowhere"))
    assert len(set(chosen)) == threads
    assert set(chosen) <= allowed
    assert 0 not in chosen or threads == len(allowed)


def test_more_threads_than_cpus_is_an_error() -> None:
    with pytest.raises(MeasureError, match=r"threads=3 .* only the CPUs \[0, 1\].*affinity=None"):
        choose_cpus(3, {0, 1})


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot pin a process")
def test_cpus_that_are_not_ours_are_an_error() -> None:
    with pytest.raises(MeasureError, match=r"affinity=\[100000\]: this process may use the CPUs"):
        resolve_affinity(Profile(affinity=[100000]))


def test_where_processes_cannot_be_pinned_only_an_explicit_wish_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert resolve_affinity(Profile(affinity="auto")) is None
    with pytest.raises(MeasureError, match="cannot pin a process"):
        resolve_affinity(Profile(affinity=[0]))


def test_an_instruction_set_is_asked_of_torch_of_onednn_and_of_mkl() -> None:
    variables = worker_environment(Profile(affinity=None, isa="avx2")).variables
    assert variables["ATEN_CPU_CAPABILITY"] == "avx2"
    assert variables["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert variables["MKL_ENABLE_INSTRUCTIONS"] == "AVX2"
    assert not any("ISA" in name or "CAPABILITY" in name for name in worker_environment(Profile()).variables)
    with pytest.raises(UsageError, match="unknown instruction set; did you mean 'avx2'"):
        Profile(isa="avx22")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"affinity": 1}, r"Profile\(affinity=1\): affinity must be None, 'auto' or a list"),
        ({"affinity": ()}, r"Profile\(affinity=\(\)\)"),
        ({"affinity": (1,), "threads": 2}, r"threads=2, affinity=\[1\]\): several threads would share a CPU"),
        ({"onednn": "no"}, r"Profile\(onednn='no'\): onednn must be True or False"),
    ],
)
def test_a_profile_that_cannot_be_meant_is_refused_where_it_is_written(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Profile(**wrong)
