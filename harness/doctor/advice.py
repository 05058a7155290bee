"""Advise what would make timings steadier on this machine; pure rules on host facts that change nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from harness.measure.machine import Facts, Load


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to change, why, and the command (on Linux) if there is one.

    The harness never runs the command. Its effect lasts until the machine restarts.
    """

    what: str
    why: str
    command: str | None = None


def advice(facts: Facts, load: Load, threads: int) -> list[Advice]:
    """Return advice for timings of up to ``threads`` threads, the most important first.

    Unknown facts give no advice. Address space randomization is never advised against: averaging over processes covers
    the effect of the memory layout, and a fixed layout would hide it.
    """
    return [*_cpu_time(facts, load, threads), *_settings(facts)]


def _cpu_time(facts: Facts, load: Load, threads: int) -> Iterator[Advice]:
    """Advise on CPU time for the timed threads, the harness and the system."""
    cpus, quota, busy = facts["cpus"], facts["cpu_quota"], load["load_1min"]
    usable = facts["allowed_cpus"] or cpus
    alone = threads == 1 and bool(facts["isolated_cpus"])  # the timed thread gets an isolated CPU
    if usable == 1 and not alone:
        yield Advice("use at least two CPUs", "on a single CPU every program interrupts the timed calls")
    elif usable is not None and usable <= threads + 1 and not alone:
        yield Advice(
            "run nothing else while timing, no training either",
            f"timing uses {min(threads, usable)} of {usable} CPUs, and the harness and the system need one",
        )
    if usable is not None and cpus is not None and usable < cpus - len(facts["isolated_cpus"] or ()):
        yield Advice(
            "let this process use all CPUs (taskset, or the container's cpuset)",
            f"it may use {usable} of {cpus}, and the cores for timing are chosen among these",
        )
    if quota is not None and (quota < threads + 1 or quota != int(quota)):
        yield Advice(
            f"set the CPU quota of this container or control group to {max(threads + 1, math.ceil(quota))}, or to none",
            f"it is {quota:g} CPUs; a process that uses it up stops until the next period, even during a call",
        )
    if busy is not None and cpus is not None and busy > cpus / 2:
        yield Advice(
            "wait until other programs finish, or end them",
            f"the load average of the last minute is {busy:g} on {cpus} CPUs (a training that just ended counts)",
            "ps -eo pcpu,pid,args --sort=-pcpu | head",
        )


def _settings(facts: Facts) -> Iterator[Advice]:
    """Advise on settings that change the speed of the same work over time."""
    governor = facts["governor"]
    if facts["hypervisor"]:
        yield Advice(
            "use a dedicated host",
            "this is a virtual machine: its neighbours take CPU time (steal), caches and memory bandwidth",
        )
    if governor is not None and governor != "performance":
        yield Advice(
            "set the frequency governor to performance",
            f"it is {governor}, which varies the frequency with the load",
            "sudo cpupower frequency-set -g performance",
        )
    if facts["turbo"]:
        yield Advice(
            "switch turbo off, above all on a laptop or desktop",
            "it is on: the frequency varies with the temperature and with the load of other cores",
            _turbo_off(facts["frequency_driver"]),
        )
    if facts["smt"]:
        yield Advice(
            "leave the second hardware thread of each timed core idle, or switch SMT off",
            "it shares the core's units; timing is pinned to one thread per core while there are cores",
            "echo off | sudo tee /sys/devices/system/cpu/smt/control",
        )


def _turbo_off(driver: str | None) -> str | None:
    if driver is None:
        return None
    if driver.startswith("intel"):  # intel_pstate, or intel_cpufreq when it is passive
        return "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
    return "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
