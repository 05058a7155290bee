"""A diagnosis of a machine, in plain words for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from tabulate import tabulate

from harness.doctor.doctor import PLANTED, Comparison, Diagnosis, Host
from harness.measure.noise import SIGNALS
from harness.measure.profile import install_hint
from harness.text import format_margin, percent

Rows = list[tuple[str, str]]
WIDTH = 100


def doctor_text(diagnosis: Diagnosis) -> str:
    """The machine, what was measured, what disturbed it, what would make it steadier, and the verdict."""
    sections = [
        ("This machine (before anything was timed)", _table(_machine(diagnosis.host))),
        (_how(diagnosis), _table(_measured(diagnosis))),
        ("What disturbed the timings beyond the limit", _prose(_noise((*diagnosis.itself, diagnosis.planted)))),
        ("What would make timings steadier (none of this was done)", _prose(_advice(diagnosis))),
        ("Verdict", _prose(_verdict(diagnosis))),
    ]
    return "\n\n".join("\n".join([title, *lines]) for title, lines in sections)


def _prose(lines: Iterable[str]) -> Iterator[str]:
    """Lines that are broken where they are long; those of a list hang."""
    for line in lines:
        hanging = "    " if line.startswith("- ") else "  "
        whole = line.replace(" %", "\N{NO-BREAK SPACE}%")
        text = textwrap.fill(whole, WIDTH, initial_indent="  ", subsequent_indent=hanging, break_on_hyphens=False)
        yield text.replace("\N{NO-BREAK SPACE}", " ")


def _table(rows: Rows) -> list[str]:
    return [f"  {line}" for line in tabulate(rows, tablefmt="plain", disable_numparse=True).splitlines()]


# --------------------------------------------------------------------------------------------------------- machine


def _machine(host: Host) -> Rows:
    """What is known of it; a line of which nothing is known is left out."""
    facts, load = host.facts, host.load
    kernel = " ".join(filter(None, (facts["system"], facts["kernel"])))
    memory = facts["memory_bytes"]
    lines = [
        ("processor", [facts["cpu"], facts["architecture"], _told("microcode {}", facts["microcode"])]),
        ("CPUs", _cpus(host)),
        ("frequency", [
            _told("governor {}", facts["governor"]),
            _switch("turbo", facts["turbo"]),
            _told("driver {}", facts["frequency_driver"]),
        ]),
        ("memory", [
            None if memory is None else f"{memory / 2**30:.1f} GiB",
            _told("transparent huge pages: {}", facts["transparent_hugepages"]),
        ]),
        ("system", [
            kernel,
            {True: "virtual machine", False: "no virtual machine", None: None}[facts["hypervisor"]],
            None if facts["aslr"] is None else f"addresses {'randomised' if facts['aslr'] else 'not randomised'}",
        ]),
        ("load", [
            _told("{} programs ran or waited for a CPU, on average over the last minute", load["load_1min"]),
        ]),
    ]  # fmt: skip
    known = [(name, ", ".join(filter(None, parts))) for name, parts in lines]
    return [(name, text) for name, text in known if text] + _allocators(host)


def _cpus(host: Host) -> list[str | None]:
    facts = host.facts
    allowed, isolated = facts["allowed_cpus"], facts["isolated_cpus"]
    return [
        _told("{}", facts["cpus"]),
        _told("on {} cores", facts["cores"]),
        _switch("hyper-threading (SMT)", facts["smt"]),
        f"of which this process may use {allowed}" if allowed and allowed != facts["cpus"] else None,
        f"isolated: {', '.join(map(str, isolated))}" if isolated else None,
        _told("limited to the time of {:g} CPUs (quota)", facts["cpu_quota"]),
        _told("{} memory nodes", facts["numa_nodes"]) if facts["numa_nodes"] != 1 else None,
    ]


def _allocators(host: Host) -> Rows:
    rows: Rows = []
    for name, library in host.allocators.items():
        if host.facts["system"] != "Linux":
            absent = "cannot be swapped in: only Linux can"
        else:
            absent = f"not found ({install_hint([name])})"
        rows.append(("" if rows else "allocators", f"{name}: {library or absent}"))
    return rows


def _told(text: str, value: object) -> str | None:
    return None if value is None else text.format(value)


def _switch(name: str, value: bool | None) -> str | None:
    return None if value is None else f"{name} {'on' if value else 'off'}"


# -------------------------------------------------------------------------------------------------------- measured


def _how(diagnosis: Diagnosis) -> str:
    ratio, environment = diagnosis.planted.ratio, diagnosis.environment
    return (
        f"A small network timed beside another ({ratio.processes} processes, {ratio.pairs} pairs of calls in each, "
        f"{environment['threads']} thread, allocator {environment['allocator']})"
    )


def _measured(diagnosis: Diagnosis) -> Rows:
    ratios = [comparison.ratio.ratio for comparison in diagnosis.itself]
    different = sum(comparison.verdict.kind in ("faster", "slower") for comparison in diagnosis.itself)
    planted = diagnosis.planted
    margin = format_margin(diagnosis.margin)
    return [
        (
            "beside itself",
            f"ratios {min(ratios):.4f} to {max(ratios):.4f} in {len(ratios)} comparisons; "
            f"called faster or slower by more than {margin}: {different or 'none'}",
        ),
        (
            f"a copy about {percent(PLANTED * diagnosis.margin)} slower",
            f"ratio {planted.ratio.ratio:.4f} [{planted.ratio.low:.4f}, {planted.ratio.high:.4f}]; "
            f"{'' if planted.verdict.kind == 'slower' else 'not '}called slower by more than {margin}",
        ),
        ("smallest change", f"{percent(diagnosis.smallest_change)}: one that large is seen in 4 of 5 comparisons"),
        (
            "a fixed piece of work",
            f"{diagnosis.canary_ns / 1000:.0f} microseconds; the middle half of its times spreads over "
            f"{percent(max(_values('spread', (*diagnosis.itself, planted))))} at most",
        ),
    ]


def _noise(comparisons: Sequence[Comparison]) -> Iterator[str]:
    beyond = [finding for comparison in comparisons for finding in comparison.findings if finding.beyond]
    for name, signal in SIGNALS.items():
        found = [finding for finding in beyond if finding.signal == name]
        if found:
            limit = percent(found[0].limit) if signal.share else f"{found[0].limit:g}"
            count = f"in {len(found)} of {len(comparisons)} comparisons"
            yield f"- {count} {signal.say(max(_values(name, comparisons)))} (at worst; the limit is {limit})"
    if not beyond:
        yield "nothing"


def _values(signal: str, comparisons: Sequence[Comparison]) -> list[float]:
    found = (finding for comparison in comparisons for finding in comparison.findings if finding.signal == signal)
    return [finding.value for finding in found if finding.value is not None]


# ------------------------------------------------------------------------------------------------ advice and verdict


def _advice(diagnosis: Diagnosis) -> Iterator[str]:
    for entry in diagnosis.advice:
        yield f"- {entry.what}: {entry.why}"
        if entry.command is not None:
            yield f"  $ {entry.command}"
    if not diagnosis.advice:
        yield "nothing that can be told from here"


def _verdict(diagnosis: Diagnosis) -> Iterator[str]:
    margin = format_margin(diagnosis.margin)
    yield (
        f"This machine tells changes of {percent(diagnosis.smallest_change)} (with {diagnosis.planted.ratio.processes} "
        f"processes); slowdowns from {percent(diagnosis.margin + diagnosis.smallest_change)} on are called slower at a "
        f"margin of {margin}."
    )
    if diagnosis.fit:
        yield f"Good enough for a margin of {margin}."
    else:
        yield f"Not good enough for a margin of {margin}:"
        yield from (f"- {trouble}" for trouble in diagnosis.troubles)
