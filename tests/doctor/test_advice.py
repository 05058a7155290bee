"""Advice on made-up machines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.doctor.advice import Advice, advice
from harness.measure.machine import Facts, Load

IDLE = Load(load_1min=0.1, runnable=1)
#: A machine that needs no advice.
QUIET = Facts(
    cpu="A",
    microcode=None,
    architecture="x86_64",
    cpus=8,
    allowed_cpus=8,
    cores=8,
    smt=False,
    frequency_driver="intel_pstate",
    governor="performance",
    turbo=False,
    isolated_cpus=[],
    numa_nodes=1,
    hypervisor=False,
    cpu_quota=None,
    memory_bytes=2**34,
    aslr=2,
    transparent_hugepages="always",
    kernel="6.1",
    system="Linux",
)
UNKNOWN = dict.fromkeys(Facts.__annotations__)


def of(load: Load = IDLE, threads: int = 1, **different: object) -> list[Advice]:
    """Return the advice on a quiet machine with some different facts."""
    return advice({**QUIET, **different}, load, threads)  # type: ignore[typeddict-item]


def test_a_quiet_machine_needs_no_advice() -> None:
    assert of() == []


@pytest.mark.parametrize("threads", [1, 4])
def test_what_is_unknown_gives_no_advice(threads: int) -> None:
    assert of(Load(load_1min=None, runnable=None), threads, **UNKNOWN) == []
    assert of(Load(load_1min=99.0, runnable=99), threads, **UNKNOWN) == []


@pytest.mark.parametrize(
    ("different", "words", "command"),
    [
        ({"governor": "powersave"}, "governor", "sudo cpupower frequency-set -g performance"),
        ({"governor": "performance,powersave"}, "governor", "sudo cpupower frequency-set -g performance"),
        ({"turbo": True}, "turbo", "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"),
        (
            {"turbo": True, "frequency_driver": "intel_cpufreq"},
            "turbo",
            "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo",
        ),
        (
            {"turbo": True, "frequency_driver": "acpi-cpufreq"},
            "turbo",
            "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost",
        ),
        ({"turbo": True, "frequency_driver": None}, "turbo", None),
        ({"smt": True}, "SMT", "echo off | sudo tee /sys/devices/system/cpu/smt/control"),
        ({"hypervisor": True}, "dedicated host", None),
        ({"allowed_cpus": 7}, "7 of 8", None),
        ({"cpus": 1, "allowed_cpus": 1}, "at least two CPUs", None),
        ({"cpus": 1, "allowed_cpus": None}, "at least two CPUs", None),
        ({"cpus": 2, "allowed_cpus": 2}, "no training", None),
        ({"cpu_quota": 1.0}, "to 2, or to none", None),
        ({"cpu_quota": 2.5}, "to 3, or to none", None),
        ({"load": Load(load_1min=4.1, runnable=9)}, "4.1 on 8 CPUs", "ps -eo pcpu,pid,args --sort=-pcpu | head"),
    ],
)
def test_each_trouble_gets_its_one_piece_of_advice(
    different: dict[str, object], words: str, command: str | None
) -> None:
    (only,) = of(**different)  # type: ignore[arg-type]
    assert words in f"{only.what}: {only.why}"
    assert only.command == command


@pytest.mark.parametrize(
    "different",
    [
        {"cpu_quota": 2.0},
        {"allowed_cpus": 6, "isolated_cpus": [6, 7]},  # what was isolated is meant to be left out
        {"load": Load(load_1min=4.0, runnable=1)},
        {"cpus": 3, "allowed_cpus": 3},
        {"cpus": 2, "allowed_cpus": 1, "isolated_cpus": [1]},  # it is for the timing
    ],
)
def test_what_just_suffices_gets_none(different: dict[str, object]) -> None:
    assert of(**different) == []  # type: ignore[arg-type]


def test_more_threads_need_more_cpus_and_more_quota() -> None:
    assert of(threads=4, cpu_quota=5.0) == []
    assert "to 5" in of(threads=4, cpu_quota=4.0)[0].what
    assert of(threads=6) == []
    assert "timing uses 7 of 8 CPUs" in of(threads=7)[0].why
    assert "timing uses 2 of 3 CPUs" in of(threads=2, cpus=4, allowed_cpus=3, isolated_cpus=[3])[0].why


@given(
    st.fixed_dictionaries(
        {
            "cpus": st.none() | st.integers(1, 64),
            "allowed_cpus": st.none() | st.integers(1, 64),
            "smt": st.none() | st.booleans(),
            "governor": st.none() | st.sampled_from(["performance", "powersave", "ondemand,performance"]),
            "frequency_driver": st.none() | st.sampled_from(["intel_pstate", "acpi-cpufreq", "amd-pstate-epp"]),
            "turbo": st.none() | st.booleans(),
            "hypervisor": st.none() | st.booleans(),
            "isolated_cpus": st.none() | st.lists(st.integers(0, 63)),
            "cpu_quota": st.none() | st.floats(0.01, 64),
            "aslr": st.none() | st.integers(0, 2),
        }
    ),
    st.none() | st.floats(0, 200),
    st.integers(1, 64),
)
def test_randomised_addresses_are_never_advised_against(
    different: dict[str, object], load_1min: float | None, threads: int
) -> None:
    found = of(Load(load_1min=load_1min, runnable=None), threads, **different)
    text = " ".join(f"{one.what} {one.why} {one.command}" for one in found).lower()
    assert not any(word in text for word in ("aslr", "randomi", "setarch", "personality"))
    assert found == of(Load(load_1min=load_1min, runnable=None), threads, **{**different, "aslr": 0})
    assert len({one.what for one in found}) == len(found)
