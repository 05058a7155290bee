"""The text of a diagnosis."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness.doctor.advice import Advice
from harness.doctor.doctor import Diagnosis, Host, TimedComparison
from harness.doctor.text import doctor_text
from harness.measure import machine
from harness.measure.noise import NoiseSignal
from harness.records.signals import SIGNALS
from harness.stats.ratios import Ratio
from harness.stats.verdict import Verdict

NOTHING = machine.facts(Path("/nowhere"))


def comparison(ratio: float, kind: Any, spread: float = 0.03, switches: float = 0.02) -> TimedComparison:
    findings = tuple(
        NoiseSignal(name, value, SIGNALS[name].limit) for name, value in (("switches", switches), ("spread", spread))
    )
    measured = Ratio(ratio, ratio - 0.001, ratio + 0.001, 0.95, 6, 100, (ratio,) * 6)
    return TimedComparison(measured, Verdict(kind, 0.001, None, ""), findings)


GOOD = Diagnosis(
    margin=0.01,
    fit=True,
    troubles=(),
    smallest_change=0.004,
    processes_needed=4,
    itself=(comparison(0.9991, "same"), comparison(1.0004, "same", spread=0.05)),
    planted=comparison(1.0203, "slower"),
    canary_ns=212_345.0,
    host=Host(
        {
            **NOTHING,
            "cpu": "A 9",
            "cpus": 8,
            "cores": 4,
            "smt": True,
            "allowed_cpus": 6,
            "isolated_cpus": [6, 7],
            "governor": "powersave",
            "turbo": True,
            "memory_bytes": 16 * 2**30,
            "hypervisor": False,
            "cpu_quota": 2.5,
            "numa_nodes": 1,
            "aslr": 2,
            "system": "Linux",
            "kernel": "6.1",
        },
        {"load_1min": 0.5, "runnable": 1},
        {"tcmalloc": "/lib/libtcmalloc.so.4", "jemalloc": None},
    ),
    environment={"threads": 1, "allocator": "system"},
    advice=(Advice("set the governor", "it is powersave", "sudo it"), Advice("use less", "it is much")),
)


def changed(**different: Any) -> str:
    return doctor_text(dataclasses.replace(GOOD, **different))


def test_what_a_good_machine_is_told() -> None:
    architecture = NOTHING["architecture"]
    assert (
        doctor_text(GOOD)
        == f"""\
This machine (before anything was timed)
  processor   A 9, {architecture}
  CPUs        8, on 4 cores, hyper-threading (SMT) on, this process may use 6, isolated: 6, 7, \
limited to the time of 2.5 CPUs (quota)
  frequency   governor powersave, turbo on
  memory      16.0 GiB
  system      Linux 6.1, no virtual machine, addresses randomised
  load        0.5 programs ran or waited for a CPU on average over the last minute
  allocators  tcmalloc: /lib/libtcmalloc.so.4
              jemalloc: not installed (Debian, Ubuntu: apt install libjemalloc2; Fedora: dnf install jemalloc)

A small network timed in pairs (6 processes, 100 pairs of calls in each, 1 thread, allocator system)
  against itself (A/A)       ratios 0.9991 to 1.0004 in 2 comparisons; called faster or slower by more than 1 %: none
  against a copy 2 % slower  ratio 1.0203 [1.0193, 1.0213]; called slower by more than 1 %
  minimum detectable effect  0.4 %, detected in 4 of 5 comparisons
  canary (fixed work)        212 microseconds; the middle half of its times spreads over at most 5 %

What disturbed the timings beyond the limit
  nothing

What would make timings steadier (nothing was changed)
  - set the governor: it is powersave
    $ sudo it
  - use less: it is much

Verdict
  This machine detects changes of 0.4 % (with 6 processes). At a margin of 1 %, slowdowns of 1.4 %
  or more are called slower.
  Good enough for a margin of 1 %."""
    )


def test_a_machine_that_is_not_fit_is_told_each_reason() -> None:
    text = changed(fit=False, troubles=("use a margin of 3 %", "wait"), smallest_change=0.0234)
    assert text.endswith(
        "are called slower.\n  Not good enough for a margin of 1 %:\n  - use a margin of 3 %\n  - wait"
    )
    assert "slowdowns of 3.3 % or more" in " ".join(text.split())


def test_what_was_called_wrongly_is_counted() -> None:
    text = changed(itself=(comparison(1.03, "slower"), comparison(1, "same")), planted=comparison(1.01, "inconclusive"))
    assert "called faster or slower by more than 1 %: 1\n" in text
    assert "[1.0090, 1.0110]; not called slower by more than 1 %" in text


def test_noise_is_told_at_its_worst_with_the_limit_and_how_often() -> None:
    text = changed(
        itself=(comparison(1, "same", spread=0.3), comparison(1, "same", spread=0.456, switches=2.5)),
        planted=comparison(1.02, "slower", spread=0.26),
    )
    section = text.partition("beyond the limit\n")[2].partition("\n\n")[0]
    assert " ".join(section.split()) == (
        "- in 1 of 3 comparisons the system took the CPU away 2.5 times per timed call, for other programs (worst "
        "value; the limit is 1) - in 3 of 3 comparisons the middle half of the times of the canary, a fixed piece of "
        "work, spread over 46 % (worst value; the limit is 25 %)"
    )


def test_what_is_unknown_is_left_out_and_elsewhere_no_allocator_is_to_be_installed() -> None:
    facts = {**dict.fromkeys(NOTHING), "system": "Darwin"}
    text = changed(host=Host(facts, {"load_1min": None, "runnable": None}, {"jemalloc": None}), advice=())  # type: ignore[arg-type]
    assert text.startswith(
        "This machine (before anything was timed)\n  system      Darwin\n"
        "  allocators  jemalloc: only Linux can replace the allocator\n\n"
    )
    assert "no advice" in text


@pytest.mark.parametrize("trouble", ["x" * 92 + " 0.4 % of it", "word " * 60])
def test_long_lines_are_broken_but_not_between_a_figure_and_its_unit(trouble: str) -> None:
    lines = changed(fit=False, troubles=(trouble,)).splitlines()
    reason = lines[lines.index("  Not good enough for a margin of 1 %:") + 1 :]
    assert len(reason) > 1
    assert all(len(line) <= 100 for line in reason)
    assert all(line.startswith("    ") for line in reason[1:])
    assert not any(line.strip().startswith("%") for line in reason)
