"""Which machines are the same."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from run_files import MACHINE

from harness.measure.machine import Facts
from harness.records.machine_id import ENTRIES, fingerprint, same_machine


def of(**changes: Any) -> Any:
    return fingerprint(MACHINE | changes)


def test_a_machine_is_itself_and_reads_well() -> None:
    assert same_machine(of(), of())
    assert str(of()) == "Some CPU, x86_64, 2 CPUs, 1 core, 16 GB, Linux, virtual"
    assert len(of().digest) == 8
    assert of().digest == of().digest


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": "Another CPU"},
        {"architecture": "aarch64"},
        {"cpus": 4},
        {"cores": 2},
        {"memory_bytes": 32 * 2**30},
        {"system": "Darwin"},
        {"hypervisor": False},
        {"hypervisor": None},
    ],
)
def test_another_machine_is_another(change: dict[str, Any]) -> None:
    assert not same_machine(of(), of(**change))
    assert of().digest != of(**change).digest
    assert set(change) <= set(ENTRIES)


@pytest.mark.parametrize(
    "change",
    [{"kernel": "7"}, {"microcode": "0x2"}, {"governor": "powersave"}, {"allowed_cpus": 1},
     {"memory_bytes": 16 * 2**30 - 300_000_000}],
)  # fmt: skip
def test_what_is_updated_on_a_machine_leaves_it_the_same(change: dict[str, Any]) -> None:
    assert same_machine(of(), of(**change))


@pytest.mark.parametrize(
    "facts", [{}, {"cpus": 2}, MACHINE | {"cpu": None}, MACHINE | {"cpu": " "}, MACHINE | {"cpu": ["a"]}]
)
def test_an_unknown_machine_is_not_even_itself(facts: dict[str, Any]) -> None:
    unknown = fingerprint(facts)
    assert str(unknown) == "unknown machine"
    assert unknown.digest == "unknown"
    assert not same_machine(unknown, unknown)
    assert not same_machine(unknown, of())


def test_damaged_facts_are_unknown_ones() -> None:
    found = of(cpus="two", cores=True, memory_bytes=[1], system=3, hypervisor="yes", architecture=None)
    assert str(found) == "Some CPU"
    hash(found)


def test_its_entries_are_facts_of_a_machine() -> None:
    assert set(ENTRIES) <= set(Facts.__annotations__)


def test_it_imports_nothing_but_the_standard_library() -> None:
    code = (
        "import sys, harness; before = set(sys.modules); "
        "import harness.records.machine_id; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {name.partition(".")[0] for name in done.stdout.split()}
    assert names - {"harness"} <= sys.stdlib_module_names
