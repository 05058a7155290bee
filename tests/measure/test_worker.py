"""The worker: real ones, with torch, that time a runtime of a third party."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.api import Audit, Counter, ExecutedOperator, Profile
from harness.errors import CellError, HarnessError, MeasureError, UsageError
from harness.measure.memory import RESOLUTION
from harness.measure.pool import Workers
from harness.measure.profile import resolve_allocator
from harness.measure.timing import PACED_WARMUP, Amount
from harness.stats.ratios import paired_ratio

PLUGIN = """
import harness

class Busy(harness.Runtime):
    '''The deployed file says how often the input is squashed.'''
    name = "busy"

    def deploy(self, deployment, folder):
        return deployment.artefact

    def load(self, file):
        import torch
        print("loading", file)
        times = file.read_text()
        if times == "crash":
            import os, signal
            os.kill(os.getpid(), signal.SIGSEGV)

        if times == "flush":
            torch.set_flush_denormal(True)
            times = "10"

        if times == "cached":
            answers = {}

            def cached(inputs):
                key = inputs.numpy().tobytes()
                if key not in answers:
                    answers[key] = sum(torch.tanh(inputs) for _ in range(100)).mean(dim=(1,)).unsqueeze(1)
                return answers[key]

            return cached

        def predict(inputs):
            assert torch.is_inference_mode_enabled()
            if times == "nan":
                return inputs * float("nan")
            for _ in range(int(times)):
                inputs = torch.tanh(inputs)
            return inputs.mean(dim=(1,)).unsqueeze(1)

        return predict

class Twice(Busy):
    name = "twice"

    def load(self, file):
        predict = super().load(file)
        return lambda inputs: (predict(inputs), predict(inputs))[1]

    def audit(self, file, example):
        assert tuple(example.shape) == (1, 20_000)
        return harness.Audit((harness.ExecutedOperator("Tanh", "float32", int(file.read_text())),), 0.0, 0.0)

@harness.hookimpl
def harness_runtimes(register):
    register(Busy())
    register(Twice())
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
    for name in ("10", "100", "cached", "crash", "flush", "nan"):
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


@pytest.mark.slow
def test_a_real_worker_can_be_held_to_an_instruction_set(folder: Path) -> None:
    profile = Profile(threads=1, isa="default")
    with Workers(timeout=120) as workers:
        alone = workers.time_single(profile, "busy", folder / "10", folder / "inputs.npy", calls=3, warmup=1)
    assert alone.environment["isa"] == "default"
    assert alone.environment["onednn_version"]
    assert alone.environment["omp_threads"] == 1
    assert (alone.times > 0).all()
    assert len(alone.times) == 3


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"),
    reason="the package of mimalloc is a dependency on Linux for x86-64 and ARM64 alone",
)
def test_a_real_worker_runs_with_the_mimalloc_that_is_a_dependency(folder: Path) -> None:
    """The worker verifies itself that the library is mapped."""
    with Workers(timeout=120) as workers:
        single = workers.time_single(
            Profile(allocator="mimalloc"), "busy", folder / "10", folder / "inputs.npy", calls=3, warmup=1
        )
    assert single.environment["allocator"] == "mimalloc"
    assert "libmimalloc.so" in single.environment["library"]


def test_a_real_worker_sleeps_before_each_timed_call(workers: Workers, folder: Path) -> None:
    paced = dataclasses.replace(PROFILE, pace="5ms")
    samples = workers.time_pair(
        paced, "busy", folder / "10", folder / "10", folder / "inputs.npy", 2, Amount(12, 3), seed=0
    )
    assert samples.reference.shape == (2, 12)
    assert samples.wall > 2 * 2 * 0.005 * (12 + PACED_WARMUP)
    back_to_back = workers.time_single(PROFILE, "busy", folder / "10", folder / "inputs.npy", calls=3, warmup=1)
    assert back_to_back.environment["pid"] == samples.environment[0]["pid"], "both regimes use the same workers"


def test_a_real_worker_predicts_what_it_times(workers: Workers, folder: Path) -> None:
    scores = workers.predict(PROFILE, "busy", folder / "10", folder / "inputs.npy", folder / "scores.npy", 16)
    expected = np.load(folder / "inputs.npy")
    for _ in range(10):
        expected = np.tanh(expected)
    np.testing.assert_allclose(scores[:, 0], expected.mean(axis=1), atol=1e-5)


def test_a_real_worker_times_a_pair_of_two_runtimes(workers: Workers, folder: Path) -> None:
    file, amount = folder / "100", Amount(20, 3)
    samples = workers.time_pair(
        PROFILE, "twice", file, file, folder / "inputs.npy", 2, amount, seed=0, reference_runtime="busy"
    )
    assert 1.5 < paired_ratio(samples.reference, samples.candidate).ratio < 2.5, "each call runs the file twice"


def test_a_real_worker_audits(workers: Workers, folder: Path) -> None:
    audit = workers.audit(PROFILE, "twice", folder / "10", folder / "inputs.npy")
    assert audit == Audit((ExecutedOperator("Tanh", "float32", 10),), 0.0, 0.0)
    assert "'busy' does not report" in workers.audit(PROFILE, "busy", folder / "10", folder / "inputs.npy").reason


def test_a_real_worker_times_loads_first_calls_and_batches(workers: Workers, folder: Path) -> None:
    def counted(file: str, counter: Counter) -> float:
        return workers.count(PROFILE, "busy", folder / file, folder / "inputs.npy", counter)

    assert 0 < counted("10", "load_time") < 1000
    assert counted("100", "first_call") > counted("10", "first_call") > 0
    assert counted("10", "throughput_8") > counted("100", "throughput_8") > 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="torch flushes denormal numbers on x86-64")
def test_a_runtime_that_flushes_denormal_numbers_is_an_error(folder: Path) -> None:
    with Workers(timeout=120) as workers, pytest.raises(MeasureError, match="denormals=kept but has flushed"):
        workers.time_pair(
            PROFILE, "busy", folder / "10", folder / "flush", folder / "inputs.npy", 1, Amount(5, 3), seed=0
        )


@pytest.mark.slow
def test_a_runtime_that_keeps_answers_is_found(workers: Workers, folder: Path) -> None:
    def ratio(file: str) -> float:
        return workers.count(PROFILE, "busy", folder / file, folder / "inputs.npy", "repeated_input")

    assert ratio("cached") < 0.5
    assert 0.8 < ratio("100") < 1.25


def test_a_real_worker_counts_or_says_why_not(workers: Workers, folder: Path) -> None:
    for counter in ("instructions", "energy"):
        reason = ""
        try:
            counted = workers.count(PROFILE, "busy", folder / "10", folder / "inputs.npy", counter)
        except MeasureError as error:
            counted, reason = 0.0, str(error)
        assert counted > 0 or re.search("perf|RAPL", reason)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_valgrind_counts_a_real_worker_s_instructions(folder: Path) -> None:
    profile = Profile(threads=1, onednn=False)
    with Workers() as workers:
        few, many = (
            workers.count(profile, "busy", folder / file, folder / "inputs.npy", "instructions_valgrind")
            for file in ("10", "100")
        )
    assert few > 10 * 20_000, "ten times the tangent of 20,000 numbers"
    assert 7 < many / few < 10.5


@pytest.mark.parametrize(
    ("file", "runtime", "error", "text"),
    [
        ("nan", "busy", CellError, "returns NaN or infinity"),
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


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux reports the pages of memory")
def test_memory_counts_what_inference_holds(workers: Workers, folder: Path) -> None:
    memory = workers.memory(PROFILE, "busy", folder / "10", folder / "inputs.npy")
    assert memory is not None
    assert memory.baseline > 50e6, "torch alone takes more"
    assert 0 <= memory.loaded - memory.baseline <= RESOLUTION, "this runtime holds no weights"
    held = 2 * 20_000 * 4  # an input of 20,000 numbers and its tanh, or two of them
    assert abs(memory.peak - memory.loaded - held) <= RESOLUTION
    again = workers.memory(PROFILE, "busy", folder / "10", folder / "inputs.npy")
    assert again is not None
    assert abs((again.peak - again.baseline) - (memory.peak - memory.baseline)) <= RESOLUTION
