"""The worker: what it verifies about itself, and real ones with torch that time a runtime of a third party."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.contracts import Profile
from harness.errors import CellError, HarnessError, MeasureError, UsageError
from harness.measure.pool import Workers
from harness.measure.profile import resolve_allocator
from harness.measure.statistics import paired_ratio
from harness.measure.timing import Amount
from harness.measure.worker import verify, verify_allocator

JEMALLOC = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"
FOUND = {
    "threads": 2,
    "interop_threads": 1,
    "omp_threads": 2,
    "mkl_threads": 2,
    "affinity": [1, 2],
    "onednn": True,
    "isa": "avx2",
}


def test_what_was_asked_for_and_found_is_no_error() -> None:
    verify(FOUND, threads=2, cpus=[1, 2], onednn=True)
    verify(FOUND, threads=2, cpus=None, onednn=True, isa="avx2")
    verify_allocator("jemalloc", JEMALLOC, {JEMALLOC, "/lib/libc.so.6"})
    verify_allocator("system", None, {"/lib/libc.so.6", "/x/lib/libtorch_cpu.so"})
    verify_allocator("system", None, None)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"threads": 1}, "threads=2 but has 1"),
        ({"omp_threads": 1}, "omp_threads=2 but has 1"),
        ({"mkl_threads": 4}, "mkl_threads=2 but has 4"),
        ({"isa": "default"}, "isa=avx2 but has default; this processor, or this build of torch, does not have it"),
        ({"interop_threads": 8}, "interop_threads=1 but has 8"),
        ({"affinity": [0, 1, 2]}, r"affinity=\[1, 2\] but has \[0, 1, 2\]"),
        ({"onednn": False}, "onednn=True but has False"),
    ],
)
def test_a_mismatch_is_an_error(changed: dict[str, object], text: str) -> None:
    with pytest.raises(MeasureError, match=text):
        verify({**FOUND, **changed}, threads=2, cpus=[1, 2], onednn=True, isa="avx2")


def test_another_allocator_is_an_error() -> None:
    with pytest.raises(MeasureError, match="LD_PRELOAD had no effect"):
        verify_allocator("jemalloc", JEMALLOC, {"/lib/libc.so.6"})
    for stranger in ("/opt/libmimalloc.so.2.1", "/usr/lib/libtcmalloc_minimal.so.4.5.10"):
        with pytest.raises(MeasureError, match=stranger):
            verify_allocator("system", None, {stranger})
        with pytest.raises(MeasureError, match=stranger):
            verify_allocator("jemalloc", JEMALLOC, {JEMALLOC, stranger})


# --------------------------------------------------------------------------------------------- with torch, for real

PLUGIN = """
import harness

class Busy(harness.Runtime):
    '''The deployed file says how often the input is squashed.'''
    name = "busy"

    def deploy(self, artefact, folder):
        return artefact

    def load(self, file):
        import torch
        print("loading", file)
        times = file.read_text()
        if times == "crash":
            import os, signal
            os.kill(os.getpid(), signal.SIGSEGV)

        def predict(inputs):
            assert torch.is_inference_mode_enabled()
            if times == "nan":
                return inputs * float("nan")
            for _ in range(int(times)):
                inputs = torch.tanh(inputs)
            return inputs.mean(dim=(1,)).unsqueeze(1)

        return predict

@harness.hookimpl
def harness_runtimes(register):
    register(Busy())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on the workers' path with an installed plugin, inputs, and files to deploy."""
    folder = tmp_path_factory.mktemp("busy")
    (folder / "busy_plugin.py").write_text(PLUGIN)
    metadata = folder / "busy_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: busy-plugin\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[harness]\nbusy = busy_plugin\n")
    for name in ("10", "100", "crash", "nan"):
        (folder / name).write_text(name)
    np.save(folder / "inputs.npy", np.random.default_rng(0).standard_normal((64, 20_000), dtype=np.float32))
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(folder), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        yield folder


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(timeout=120) as workers:
        yield workers


#: Whatever this machine has; a mismatch with what the worker finds would be an error.
PROFILE = Profile(threads=1, allocator=["jemalloc", "tcmalloc", "mimalloc", "system"], onednn=False)


def test_real_workers_time_a_third_party_s_runtime_in_a_verified_environment(workers: Workers, folder: Path) -> None:
    samples = workers.time_pair(
        PROFILE, "busy", folder / "10", folder / "100", folder / "inputs.npy", 2, Amount(20, 3), seed=0
    )
    assert samples.reference.shape == (2, 20)
    assert paired_ratio(samples.reference, samples.candidate).ratio > 2, "ten times the work must show"
    assert samples.collections == (0, 0)
    assert (samples.reference_first.sum(axis=1) == 10).all()
    name, library = resolve_allocator(PROFILE.allocators)
    for environment in samples.environment:
        assert (environment["allocator"], environment["threads"], environment["onednn"]) == (name, 1, False)
        assert environment["library"] == (None if library is None else str(library))
        if sys.platform == "linux":
            assert len(environment["affinity"]) == 1


def test_a_real_worker_can_be_held_to_an_instruction_set(folder: Path) -> None:
    profile = Profile(threads=1, isa="default")
    with Workers(timeout=120) as workers:
        alone = workers.time_single(profile, "busy", folder / "10", folder / "inputs.npy", calls=3, warmup=1)
    assert alone.environment["isa"] == "default"
    assert alone.environment["onednn_version"]
    assert alone.environment["omp_threads"] == 1
    assert (alone.times > 0).all()
    assert len(alone.times) == 3


def test_a_real_worker_predicts_what_it_times(workers: Workers, folder: Path) -> None:
    scores = workers.predict(PROFILE, "busy", folder / "10", folder / "inputs.npy", folder / "scores.npy")
    expected = np.load(folder / "inputs.npy")
    for _ in range(10):
        expected = np.tanh(expected)
    np.testing.assert_allclose(scores[:, 0], expected.mean(axis=1), atol=1e-5)


@pytest.mark.parametrize(
    ("file", "runtime", "error", "text"),
    [
        ("nan", "busy", CellError, "answers NaN or infinity"),
        ("10", "bussy", UsageError, "no runtime is called 'bussy'; did you mean 'busy'"),
        ("crash", "busy", CellError, "killed by SIGSEGV"),  # last, for it costs a worker
    ],
)
def test_a_real_worker_reports_what_it_cannot_time(
    workers: Workers, folder: Path, file: str, runtime: str, error: type[HarnessError], text: str
) -> None:
    path, inputs = folder / file, folder / "inputs.npy"
    with pytest.raises(error, match=text):
        workers.time_pair(PROFILE, runtime, path, path, inputs, 2, Amount(2, 0), seed=0)


def test_peak_memory_counts_what_inference_holds(workers: Workers, folder: Path) -> None:
    memory = workers.memory(PROFILE, "busy", folder / "10", folder / "inputs.npy")
    assert memory.baseline > 50e6, "torch alone takes more"
    assert 0 <= memory.peak - memory.baseline < 50e6
    again = workers.memory(PROFILE, "busy", folder / "10", folder / "inputs.npy")
    assert abs(again.peak - memory.peak) < 2e6, "the second file finds the same memory as the first"
