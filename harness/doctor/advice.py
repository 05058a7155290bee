"""What would make timings steadier on this machine; nothing is ever changed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from harness.measure.machine import Facts, Load


@dataclasses.dataclass(frozen=True)
class Advice:
    """What a user could do so that the machine measures better, why, and the command (Linux) where there is one.

    The harness runs none of the commands. What they change lasts until the machine is started again.
    """

    what: str
    why: str
    command: str | None = None


def advice(facts: Facts, load: Load, threads: int) -> list[Advice]:
    """What would make timings of up to ``threads`` threads steadier here, the weightiest first.

    What is unknown gives none. Never to switch off the randomisation of addresses: the layout of memory is averaged
    over processes, and freezing it would hide its effect.
    """
    return [*_room(facts, load, threads), *_settings(facts)]


def _room(facts: Facts, load: Load, threads: int) -> Iterator[Advice]:
    """Whether there is CPU time for the timed threads, for the harness and the system beside them."""
    cpus, quota, busy = facts["cpus"], facts["cpu_quota"], load["load_1min"]
    usable = facts["allowed_cpus"] or cpus
    alone = threads == 1 and bool(facts["isolated_cpus"])  # the timed thread gets one of these for itself
    if usable == 1 and not alone:
        yield Advice("use at least two CPUs", "on one CPU all that runs takes turns with the timed calls")
    elif usable is not None and usable <= threads + 1 and not alone:
        yield Advice(
            "run nothing else meanwhile, no training either",
            f"of {usable} CPUs timing takes {min(threads, usable)}, and the harness and the system need one",
        )
    if usable is not None and cpus is not None and usable < cpus - len(facts["isolated_cpus"] or ()):
        yield Advice(
            "let this process use all CPUs (taskset, or the container's cpuset)",
            f"it may use {usable} of {cpus}, and the cores to time on are chosen among these only",
        )
    if quota is not None and (quota < threads + 1 or quota != int(quota)):
        yield Advice(
            f"set the CPU quota of this container or control group to {max(threads + 1, math.ceil(quota))}, or to none",
            f"it is {quota:g} CPUs; who uses it up is stopped until the next period, be it in the middle of a call",
        )
    if busy is not None and cpus is not None and busy > cpus / 2:
        yield Advice(
            "wait until other programs are done, or end them",
            f"the load average of the last minute is {busy:g} on {cpus} CPUs (a training that just ended counts)",
            "ps -eo pcpu,pid,args --sort=-pcpu | head",
        )


def _settings(facts: Facts) -> Iterator[Advice]:
    """What makes the same work take longer at one time than at another."""
    governor = facts["governor"]
    if facts["hypervisor"]:
        yield Advice(
            "use a dedicated host",
            "this is a virtual machine: its neighbours take CPU time (steal), caches and memory bandwidth",
        )
    if governor is not None and governor != "performance":
        yield Advice(
            "set the frequency governor to performance",
            f"it is {governor}, under which the frequency follows the load of the moment",
            "sudo cpupower frequency-set -g performance",
        )
    if facts["turbo"]:
        yield Advice(
            "switch turbo off, above all on a laptop or desktop",
            "it is on: the frequency varies with the temperature and with what the other cores do",
            _turbo_off(facts["frequency_driver"]),
        )
    if facts["smt"]:
        yield Advice(
            "leave the second hardware thread of each timed core idle, or switch SMT off",
            "it shares the core's units; timing is pinned to one thread a core while there are cores",
            "echo off | sudo tee /sys/devices/system/cpu/smt/control",
        )


def _turbo_off(driver: str | None) -> str | None:
    if driver is None:
        return None
    if driver.startswith("intel"):  # intel_pstate, or intel_cpufreq when it is passive
        return "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
    return "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
