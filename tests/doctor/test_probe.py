"""The probe: real workers measure the planted slowdown of its network, which changes no answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.api import Profile
from harness.doctor import probe
from harness.measure.pool import Workers
from harness.measure.timing import Amount
from harness.stats.ratios import paired_ratio


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Inputs, the probe's network, and the network with a planted slowdown."""
    inputs, plain, slow = tmp_path / "inputs.npy", tmp_path / "plain", tmp_path / "slow"
    probe.write_inputs(inputs)
    probe.write_model(plain)
    probe.write_model(slow, slowdown=0.5)
    return inputs, plain, slow


@pytest.mark.slow
def test_a_planted_slowdown_changes_no_answer(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    inputs, plain, slow = files
    with Workers(probe.COMMAND, timeout=120) as workers:
        workers.time_pair(Profile(), "probe", plain, slow, inputs, 1, Amount(5, 5), seed=0)
        answers = [
            workers.predict(Profile(), "probe", file, inputs, tmp_path / "out.npy", 64) for file in (plain, slow)
        ]
    np.testing.assert_array_equal(*answers)


@pytest.mark.timing
def test_a_planted_slowdown_is_as_large_as_it_says(files: tuple[Path, Path, Path]) -> None:
    inputs, plain, slow = files
    with Workers(probe.COMMAND, timeout=120) as workers:
        profile = Profile()
        itself = workers.time_pair(profile, "probe", plain, plain, inputs, 2, Amount(60, 60), seed=0)
        slowed = workers.time_pair(profile, "probe", plain, slow, inputs, 2, Amount(60, 60), seed=0)
    assert paired_ratio(itself.reference, itself.candidate).ratio == pytest.approx(1, abs=0.1)
    assert paired_ratio(slowed.reference, slowed.candidate).ratio == pytest.approx(1.5, abs=0.2)
