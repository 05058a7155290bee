"""The number of processes of each look at a cell."""

from __future__ import annotations

import dataclasses

import pytest

from harness.suite.presets import PRESETS, SAMPLING_LIMIT, Preset


def looks(preset: Preset, seconds: float) -> list[int]:
    """The numbers of processes of all looks, where each process takes so long."""
    numbers = [preset.processes]
    while (more := preset.more_processes(numbers[-1], seconds * numbers[-1])) is not None:
        numbers.append(more)
    return numbers


@pytest.mark.parametrize(
    ("name", "seconds", "expected"),
    [
        ("smoke", 0.1, [2]),
        ("quick", 0.1, [4, 6, 9, 12]),
        ("quick", 1.2, [4, 6]),
        ("quick", 3.0, [4]),
        ("study", 1.0, [6, 9, 12]),
        ("study", 8.0, [6]),
    ],
)
def test_each_look_has_half_as_many_more_until_the_budget_or_the_limit(
    name: str, seconds: float, expected: list[int]
) -> None:
    assert looks(PRESETS[name], seconds) == expected


@pytest.mark.parametrize("processes", [SAMPLING_LIMIT, SAMPLING_LIMIT + 1, 50])
def test_no_process_is_added_beyond_the_limit(processes: int) -> None:
    assert looks(dataclasses.replace(PRESETS["quick"], processes=processes), 0.001) == [processes]
