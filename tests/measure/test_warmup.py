"""The two-window test: what is steady, and what has a trend."""

from __future__ import annotations

import numpy as np
import pytest

from harness.measure.warmup import WINDOW, steady, steady_at_the_end


def noise(scale: float, seed: int, count: int = WINDOW) -> np.ndarray:
    return 1e6 * (1 + scale * np.abs(np.random.default_rng(seed).standard_normal(count)))


def test_two_windows_of_the_same_are_steady() -> None:
    passed = [steady(noise(0.02, seed).tolist(), noise(0.02, 1000 + seed).tolist()) for seed in range(100)]
    assert sum(passed) > 90


def test_a_trend_of_ten_percent_is_not_steady() -> None:
    for seed in range(50):
        assert not steady((1.1 * noise(0.01, seed)).tolist(), noise(0.01, 1000 + seed).tolist())
        assert not steady(noise(0.01, seed).tolist(), (1.1 * noise(0.01, 1000 + seed)).tolist())


def test_a_slow_first_call_is_not_steady() -> None:
    earlier, later = noise(0.01, 0).tolist(), noise(0.01, 1).tolist()
    assert steady(earlier, later)
    assert not steady([2e6, *earlier[1:]], later)


@pytest.mark.parametrize("count", [0, WINDOW, 2 * WINDOW - 1])
def test_less_than_two_windows_are_never_steady(count: int) -> None:
    assert not steady_at_the_end([100] * count)
    assert steady_at_the_end([100] * 2 * WINDOW)


def test_only_the_last_two_windows_count() -> None:
    assert steady_at_the_end([9000, 500, 300, *[100] * 2 * WINDOW])
    assert not steady_at_the_end([*[100] * 2 * WINDOW, 300, 300, 300, 300, 300, 300])
