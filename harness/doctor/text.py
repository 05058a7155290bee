"""Print a diagnosis of a machine for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from tabulate import tabulate

from harness.doctor.doctor import PLANTED, Diagnosis, Host, TimedComparison
from harness.measure.profile import install_hint
from harness.records.signals import SIGNALS
from harness.text import format_margin, percent

Rows = list[tuple[str, str]]
WIDTH = 100


def doctor_text(diagnosis: Diagnosis) -> str:
    """Print the machine, what was measured, what disturbed it, what would make it steadier, and the verdict."""
    sections = [
        ("This machine (before anything was timed)", _table(_machine(diagnosis.host))),
        (_protocol(diagnosis), _table(_measured(diagnosis))),
        ("What disturbed the timings beyond the limit", _prose(_noise((*diagnosis.itself, diagnosis.planted)))),
        ("What would make timings steadier (nothing was changed)", _prose(_advice(diagnosis))),
        ("Verdict", _prose(_verdict(diagnosis))),
    ]
    return "\n\n".join("\n".join([title, *lines]) for title, lines in sections)


def _prose(lines: Iterable[str]) -> Iterator[str]:
    """Wrap long lines, with a hanging indent for list items."""
    for line in lines:
        hanging = "    " if line.startswith("- ") else "  "
        unbroken = line.replace(" %", "\N{NO-BREAK SPACE}%")
        text = textwrap.fill(unbroken, WIDTH, initial_indent="  ", subsequent_indent=hanging, break_on_hyphens=False)
        yield text.replace("\N{NO-BREAK SPACE}", " ")


def _table(rows: Rows) -> list[str]:
    return [f"  {line}" for line in tabulate(rows, tablefmt="plain", disable_numparse=True).splitlines()]


# --------------------------------------------------------------------------------------------------------- machine


def _machine(host: Host) -> Rows:
    """Return the known host facts; unknown ones are left out."""
    facts, load = host.facts, host.load
    kernel = " ".join(filter(None, (facts["system"], facts["kernel"])))
    memory = facts["memory_bytes"]
    lines = [
        ("processor", [facts["cpu"], facts["architecture"], _if_known("microcode {}", facts["microcode"])]),
        ("CPUs", _cpus(host)),
        ("frequency", [
            _if_known("governor {}", facts["governor"]),
            _switch("turbo", facts["turbo"]),
            _if_known("driver {}", facts["frequency_driver"]),
        ]),
        ("memory", [
            None if memory is None else f"{memory / 2**30:.1f} GiB",
            _if_known("transparent huge pages: {}", facts["transparent_hugepages"]),
        ]),
        ("system", [
            kernel,
            {True: "virtual machine", False: "no virtual machine", None: None}[facts["hypervisor"]],
            None if facts["aslr"] is None else f"addresses {'randomised' if facts['aslr'] else 'not randomised'}",
        ]),
        ("load", [
            _if_known("{} programs ran or waited for a CPU on average over the last minute", load["load_1min"]),
        ]),
    ]  # fmt: skip
    rows = [(name, ", ".join(filter(None, texts))) for name, texts in lines]
    return [(name, text) for name, text in rows if text] + _allocators(host)


def _cpus(host: Host) -> list[str | None]:
    facts = host.facts
    allowed, isolated = facts["allowed_cpus"], facts["isolated_cpus"]
    return [
        _if_known("{}", facts["cpus"]),
        _if_known("on {} cores", facts["cores"]),
        _switch("hyper-threading (SMT)", facts["smt"]),
        f"this process may use {allowed}" if allowed and allowed != facts["cpus"] else None,
        f"isolated: {', '.join(map(str, isolated))}" if isolated else None,
        _if_known("limited to the time of {:g} CPUs (quota)", facts["cpu_quota"]),
        _if_known("{} memory nodes", facts["numa_nodes"]) if facts["numa_nodes"] != 1 else None,
    ]


def _allocators(host: Host) -> Rows:
    rows: Rows = []
    for name, library in host.allocators.items():
        if host.facts["system"] != "Linux":
            absent = "only Linux can replace the allocator"
        else:
            absent = f"not installed ({install_hint([name])})"
        rows.append(("" if rows else "allocators", f"{name}: {library or absent}"))
    return rows


def _if_known(text: str, value: object) -> str | None:
    return None if value is None else text.format(value)


def _switch(name: str, value: bool | None) -> str | None:
    return None if value is None else f"{name} {'on' if value else 'off'}"


# -------------------------------------------------------------------------------------------------------- measured


def _protocol(diagnosis: Diagnosis) -> str:
    ratio, environment = diagnosis.planted.ratio, diagnosis.environment
    return (
        f"A small network timed in pairs ({ratio.processes} processes, {ratio.pairs} pairs of calls in each, "
        f"{environment['threads']} thread, allocator {environment['allocator']})"
    )


def _measured(diagnosis: Diagnosis) -> Rows:
    ratios = [comparison.ratio.ratio for comparison in diagnosis.itself]
    different = sum(comparison.verdict.kind in ("faster", "slower") for comparison in diagnosis.itself)
    planted = diagnosis.planted
    margin = format_margin(diagnosis.margin)
    return [
        (
            "against itself (A/A)",
            f"ratios {min(ratios):.4f} to {max(ratios):.4f} in {len(ratios)} comparisons; "
            f"called faster or slower by more than {margin}: {different or 'none'}",
        ),
        (
            f"against a copy {percent(PLANTED * diagnosis.margin)} slower",
            f"ratio {planted.ratio.ratio:.4f} [{planted.ratio.low:.4f}, {planted.ratio.high:.4f}]; "
            f"{'' if planted.verdict.kind == 'slower' else 'not '}called slower by more than {margin}",
        ),
        ("minimum detectable effect", f"{percent(diagnosis.smallest_change)}, detected in 4 of 5 comparisons"),
        (
            "canary (fixed work)",
            f"{diagnosis.canary_ns / 1000:.0f} microseconds; the middle half of its times spreads over at most "
            f"{percent(max(_values('spread', (*diagnosis.itself, planted))))}",
        ),
    ]


def _noise(comparisons: Sequence[TimedComparison]) -> Iterator[str]:
    beyond = [signal for comparison in comparisons for signal in comparison.findings if signal.beyond]
    for name, spec in SIGNALS.items():
        signals = [signal for signal in beyond if signal.signal == name]
        if signals:
            limit = percent(signals[0].limit) if spec.share else f"{signals[0].limit:g}"
            count = f"in {len(signals)} of {len(comparisons)} comparisons"
            yield f"- {count} {spec.describe(max(_values(name, comparisons)))} (worst value; the limit is {limit})"
    if not beyond:
        yield "nothing"


def _values(name: str, comparisons: Sequence[TimedComparison]) -> list[float]:
    signals = (signal for comparison in comparisons for signal in comparison.findings if signal.signal == name)
    return [signal.value for signal in signals if signal.value is not None]


# ------------------------------------------------------------------------------------------------ advice and verdict


def _advice(diagnosis: Diagnosis) -> Iterator[str]:
    for entry in diagnosis.advice:
        yield f"- {entry.what}: {entry.why}"
        if entry.command is not None:
            yield f"  $ {entry.command}"
    if not diagnosis.advice:
        yield "no advice"


def _verdict(diagnosis: Diagnosis) -> Iterator[str]:
    margin = format_margin(diagnosis.margin)
    yield (
        f"This machine detects changes of {percent(diagnosis.smallest_change)} (with "
        f"{diagnosis.planted.ratio.processes} processes). At a margin of {margin}, slowdowns of "
        f"{percent(diagnosis.margin + diagnosis.smallest_change)} or more are called slower."
    )
    if diagnosis.fit:
        yield f"Good enough for a margin of {margin}."
    else:
        yield f"Not good enough for a margin of {margin}:"
        yield from (f"- {trouble}" for trouble in diagnosis.troubles)
