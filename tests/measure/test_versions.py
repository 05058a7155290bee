"""Two versions of the code in turns, with workers that time nothing; test_earlier_code.py has real ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness.api import Profile
from harness.errors import CellError, MeasureError
from harness.measure.pool import PairedSamples, Workers
from harness.measure.process import PROTOCOL
from harness.measure.timing import Amount, Turns
from harness.measure.versions import VersionedWorkers
from harness.measure.worker import Worker

FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))
PROFILE = Profile(affinity=None)
FEW = Amount(8, 4)


@pytest.fixture
def pools() -> Iterator[tuple[Workers, Workers]]:
    with (
        Workers(FAKE, python_path=[Path("earlier")]) as earlier,
        Workers(FAKE, python_path=[Path("present")]) as present,
    ):
        yield earlier, present


def time_pair(
    pools: tuple[Workers, Workers], folder: Path, candidate: str = "well", amount: Amount = FEW
) -> PairedSamples:
    np.save(folder / "inputs.npy", np.zeros((3, 2)))
    for name in ("reference", candidate):
        (folder / name).write_text(name)
    return VersionedWorkers(*pools).time_pair(
        PROFILE, "torch", folder / "reference", folder / candidate, folder / "inputs.npy", 2, amount, seed=1
    )


def test_a_pair_of_processes_is_the_unit(pools: tuple[Workers, Workers], tmp_path: Path) -> None:
    samples = time_pair(pools, tmp_path)
    assert samples.reference.tolist() == [[100] * 8] * 2
    assert samples.candidate.tolist() == [[200] * 8] * 2
    assert samples.reference_first.sum(axis=1).tolist() == [4, 4]
    assert samples.canary.shape == (2, 5, 5)
    assert samples.collections == (2, 2)
    assert [entry.waiting for entry in samples.disturbances] == [0.5, 0.5]
    assert {entry["variables"]["PYTHONPATH"].split(":")[0] for entry in samples.environment} == {"present"}
    assert len({entry["pid"] for entry in samples.environment}) == 2
    assert samples.reference_sha256 != samples.candidate_sha256


def test_the_a_a_run_is_the_earlier_code_in_two_workers(pools: tuple[Workers, Workers], tmp_path: Path) -> None:
    samples = time_pair(pools, tmp_path, "reference")
    assert (samples.reference == samples.candidate).all()
    assert samples.reference_sha256 == samples.candidate_sha256
    pids = [worker.pid for worker in pools[0].crew(PROFILE, 4)]
    assert [entry["pid"] for entry in samples.environment] == pids[1::2]


def test_slow_calls_are_timed_less_often(pools: tuple[Workers, Workers], tmp_path: Path) -> None:
    """Two models of 1 ms each take 4 ms a pair with the untimed calls."""
    samples = time_pair(pools, tmp_path, amount=Amount(100, 4, seconds=0.08))
    assert samples.reference.shape == samples.candidate.shape == (2, 20)


def test_a_model_that_crashes_leaves_no_worker_that_waits(pools: tuple[Workers, Workers], tmp_path: Path) -> None:
    time_pair(pools, tmp_path)
    before = [pool.crew(PROFILE, 1)[0].pid for pool in pools]
    with pytest.raises(CellError, match="SIGSEGV"):
        time_pair(pools, tmp_path, "crash")
    assert all(pool.crew(PROFILE, 1)[0].pid != pid for pool, pid in zip(pools, before, strict=True))


def test_the_code_of_the_workers_is_digested_there(pools: tuple[Workers, Workers]) -> None:
    digests = pools[0].code(PROFILE, ["architecture cnn"])
    assert digests["architecture cnn"].startswith("earlier")


def test_a_worker_refuses_another_version_of_the_protocol() -> None:
    request = {"do": "hello", "protocol": PROTOCOL + 1, "allocator": "system", "library": None, "threads": 1}
    with pytest.raises(MeasureError, match=rf"workers use version {PROTOCOL} of the protocol, not {PROTOCOL + 1}"):
        Worker()(request | {"cpus": None, "onednn": True, "isa": "auto"})


def test_turns_time_each_call_after_an_untimed_one() -> None:
    calls: list[int] = []
    seen: list[int | None] = []
    now = iter(range(0, 10**6, 10))
    turns = Turns(calls.append, [5, 6], Amount(1, 4), consume=seen.append, clock=lambda: next(now))
    assert (turns.warmup, len(calls)) == (4, 4)
    assert turns.call(1) == 10
    assert calls[4:] == [6, 6]
    assert len(turns.time_canary()) == 5
    collections, disturbance = turns.finish()
    assert (collections, disturbance.throttled_periods in (None, 0)) == (0, True)
    assert len(seen) == 6
