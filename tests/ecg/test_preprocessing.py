"""Study B's filters against scipy's, and against what their definitions promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from harness_ecg.preprocessing import clean


def test_is_sosfiltfilt_then_filtfilt() -> None:
    recordings = np.random.default_rng(0).normal(size=(3, 12, 1000)).cumsum(axis=-1)
    high = signal.sosfiltfilt(signal.butter(5, 0.5, "highpass", output="sos", fs=100), recordings)
    np.testing.assert_allclose(clean(recordings), signal.filtfilt([1, 1], [2], high), atol=1e-9)


@pytest.mark.parametrize("frequency", [1.0, 5.0, 20.0, 40.0])
def test_gain_is_that_of_the_definitions_and_phase_is_zero(frequency: float) -> None:
    time = np.arange(4000) / 100
    wave = np.sin(2 * np.pi * frequency * time)
    # The digital Butterworth filter's power gain (bilinear transform), applied twice, and the average's, likewise.
    warped = np.tan(np.pi * 0.5 / 100) / np.tan(np.pi * frequency / 100)
    gain = 1 / (1 + warped**10) * np.cos(np.pi * frequency / 100) ** 2
    np.testing.assert_allclose(clean(wave)[1500:2500], gain * wave[1500:2500], atol=1e-4)


def test_hum_and_drift_go() -> None:
    time = np.arange(8000) / 100
    disturbance = 3 + 0.5 * np.sin(2 * np.pi * 0.05 * time) + 0.2 * np.cos(2 * np.pi * 50 * time)
    assert np.abs(clean(disturbance)[3000:5000]).max() < 1e-5
