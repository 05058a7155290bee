"""What differs between two runs of a cell."""

from __future__ import annotations

from typing import Any

import pytest
from run_files import MACHINE, cell

from harness.provenance import cell_differences, environment_differences


def test_equal_records_do_not_differ() -> None:
    assert environment_differences(cell(), cell(1.2)) == []
    assert cell_differences(cell(), cell(1.2)) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"versions": {"torch": "2.14.0"}}, ["torch 2.13.0 -> 2.14.0"]),
        ({"versions": {}}, ["torch 2.13.0 -> -"]),
        ({"machine": MACHINE | {"kernel": "7", "turbo": False}}, ["kernel 6.1 -> 7", "turbo - -> off"]),
        ({"machine": MACHINE | {"microcode": None}}, ["microcode 0x1 -> unknown"]),
        ({"machine": MACHINE | {"memory_bytes": 16 * 2**30 + 1}}, []),
        ({"timing": {"processes": 6}}, ["processes 4 -> 6"]),
        (
            {"timing": {"environment": [{"threads": 1, "allocator": name, "pid": n} for n, name in enumerate("xyx")]}},
            ["allocator jemalloc -> x, y"],
        ),
        (
            {
                "timing": {
                    "environment": [{"threads": 1, "allocator": "jemalloc", "pid": 3, "affinity": [1], "torch": "9"}]
                }
            },
            [],
        ),
        ({"timing": {"environment": []}}, ["threads 1 -> -", "allocator jemalloc -> -"]),
    ],
)
def test_what_surrounds_the_cell(change: dict[str, Any], expected: list[str]) -> None:
    assert environment_differences(cell(), cell(**change)) == expected


def test_without_timing_or_machine_there_is_less_to_tell() -> None:
    assert environment_differences(cell(None, machine=None), cell(None, machine=None)) == []
    assert "kernel - -> 6.1" in environment_differences(cell(machine=None), cell())


def test_what_the_cell_is() -> None:
    other = {"key": "c" * 64, "sha256": "c" * 64}
    half = {"pruning": "half"}
    assert cell_differences(cell(**half), cell(**half, artefact=other)) == ["artefact aaaaaaaaaaaa -> cccccccccccc"]
    assert cell_differences(cell(**half), cell(**half, reference_artefact=other)) == [
        "reference's artefact bbbbbbbbbbbb -> cccccccccccc"
    ]
    assert cell_differences(cell(), cell(reference_artefact=other)) == []
    assert cell_differences(cell(), cell(test_examples=30)) == ["test examples 20 -> 30"]


def test_another_file_of_the_same_artefact_is_told() -> None:
    other = {"key": "a" * 64, "sha256": "c" * 64}
    assert cell_differences(cell(), cell(artefact=other)) == [
        "artefact has the same key and another file, aaaaaaaaaaaa -> cccccccccccc"
    ]
