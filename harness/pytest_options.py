"""Declare and check pytest's options, and make a run's options of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.errors import UsageError
from harness.policy.rules import parse_rules, policy, project_rules
from harness.report.output import check_form
from harness.store.shared import shared_url
from harness.suite.matrix import PROTOCOLS
from harness.suite.presets import PRESETS, Preset, preset
from harness.text import DEFAULT_MARGIN, format_margin, parse_duration, parse_margin

if TYPE_CHECKING:
    from harness.run.options import Options


def parse_budget(text: str) -> float:
    """The seconds of a budget that a user wrote as a duration, or as 0."""
    return 0.0 if text.strip() == "0" else parse_duration(text)


CHECKS: Mapping[str, Callable[[str], object]] = {
    "--harness-preset": preset,
    "--harness-margin": parse_margin,
    "--harness-budget": parse_budget,
    "--harness-gate": lambda text: policy(parse_rules(text)),
    "--harness-report": lambda text: check_form(Path(text)),
}
#: The options that a cell's figures and verdict depend on.
REPEATED = tuple(
    f"--harness-{name}"
    for name in (
        "preset",
        "seeds",
        "data",
        "store",
        "shared",
        "trusted",
        "margin",
        "processes",
        "budget",
        "protocol",
        "metrics",
        "device",
        "against",
        "gate",
    )
)


def add_options(parser: pytest.Parser) -> None:
    """Declare the options in a group ``harness``."""
    group = parser.getgroup("harness", "benchmarks of compressed networks")
    summary = "; ".join(f"{entry.name}: {entry.summary}" for entry in PRESETS.values())
    group.addoption("--harness-preset", default="quick", metavar="NAME", help=f"the size of the run. {summary}")
    group.addoption(
        "--harness-plan",
        action="store_true",
        help="print the cells, the models to build and the estimated time; run nothing",
    )
    group.addoption(
        "--harness-seeds",
        type=int,
        metavar="N",
        help="how many seeds of each matrix to run, in any preset; one that declares fewer gets the next integers too",
    )
    group.addoption(
        "--harness-data",
        metavar="DIR",
        help="the folder of data sets, or NAME=DIR for the folder of one; several with : between them (default: "
        "$HARNESS_DATA, else ./data)",
    )
    group.addoption(
        "--harness-store", metavar="DIR", default=".harness", help="the folder of artefacts (default: .harness)"
    )
    group.addoption(
        "--harness-shared",
        metavar="URL",
        help="a store that machines share, to read artefacts from and write them to: s3://, file:// or any URL of "
        "fsspec (default: $HARNESS_SHARED; an empty URL: none)",
    )
    group.addoption(
        "--harness-trusted",
        metavar="RUN.json",
        help="use of the shared store only the models that this run file names, by key and SHA-256",
    )
    group.addoption(
        "--harness-margin",
        default=format_margin(DEFAULT_MARGIN),
        metavar="SHARE",
        help="the smallest difference in latency that matters, the margin of the verdicts (default: %(default)s)",
    )
    group.addoption(
        "--harness-processes",
        type=int,
        metavar="N",
        help="processes that time each cell at first, at least 2 (default: the preset's); --harness-budget adds "
        "more to undecided cells",
    )
    group.addoption(
        "--harness-budget",
        metavar="TIME",
        help="how long a cell may be timed, as 10s or 2min: processes are added until its verdict is decided or "
        "this is spent (default: the preset's); 0 adds none",
    )
    group.addoption(
        "--harness-protocol",
        choices=PROTOCOLS,
        help="how latency is measured, instead of the suite's protocol: paired with the reference in several "
        "processes, or single, the mean of one process, as in most papers",
    )
    group.addoption(
        "--harness-metrics",
        metavar="NAMES",
        help="optional metrics to compute too, such as instructions,energy; harness list names them",
    )
    group.addoption(
        "--harness-against",
        metavar="RUN.json",
        help="an earlier run: time each of its models again, beside the new one, and judge the change",
    )
    group.addoption(
        "--harness-gate",
        metavar="RULES",
        help="how much worse than the earlier run a figure may be, such as latency=2%%,auroc=0.01; overrides the rules "
        "of the suite and of pyproject.toml",
    )
    group.addoption("--harness-summary", metavar="FILE.md", help="write the gate's findings as Markdown")
    group.addoption("--harness-junit", metavar="FILE.xml", help="write the gate's findings as JUnit XML")
    group.addoption("--harness-report", metavar="FILE", help="write the report of this run, as *.html, *.md or *.csv")
    group.addoption(
        "--harness-continue",
        metavar="RUN.json",
        help="skip the cells that this run file, or this journal of an interrupted run, has of the same models",
    )
    group.addoption(
        "--harness-device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="the device that trains networks (timing is on the CPU)",
    )


def check_options(config: pytest.Config) -> None:
    """Raise pytest.UsageError for an invalid option, before anything is collected."""
    for option, check in CHECKS.items():
        try:
            if config.getoption(option) is not None:
                check(config.getoption(option))
        except UsageError as error:
            raise pytest.UsageError(f"{option}: {error}") from None
    for option in ("--harness-gate", "--harness-summary", "--harness-junit"):
        if config.getoption(option) and not config.getoption("--harness-against"):
            raise pytest.UsageError(f"{option} needs a comparison: name an earlier run with --harness-against")
    if config.getoption("--harness-continue") and config.getoption("--harness-against"):
        raise pytest.UsageError(
            "--harness-continue leaves out cells, which --harness-against would call lost: measure all cells, or judge "
            "run files with harness compare"
        )
    if config.getoption("--harness-trusted") and not shared_url(config.getoption("--harness-shared")):
        raise pytest.UsageError(
            "--harness-trusted restricts a shared store, and there is none: name it with --harness-shared"
        )
    if parse_margin(config.getoption("--harness-margin")) == 0:
        raise pytest.UsageError(
            "--harness-margin 0: no measurement can show that two latencies are equal; use a margin above 0"
        )
    seeds = config.getoption("--harness-seeds")
    if seeds is not None and seeds < 1:
        raise pytest.UsageError(f"--harness-seeds {seeds}: use 1 or more")
    processes = config.getoption("--harness-processes")
    if processes is not None:
        from harness.stats.verdict import MOST_PROCESSES  # here, because it imports scipy

        if not 2 <= processes <= MOST_PROCESSES:
            raise pytest.UsageError(
                f"--harness-processes {processes}: use 2 (an interval needs two) to {MOST_PROCESSES} (each takes some "
                "200 MB); a larger margin needs fewer processes"
            )


def repeated_options(config: pytest.Config) -> dict[str, str | None]:
    """Return the options to repeat for a second run of a cell; None for those at their defaults."""
    margin = format_margin(DEFAULT_MARGIN)
    default = {"--harness-store": ".harness", "--harness-device": "cpu", "--harness-margin": margin}
    values = {name: config.getoption(name) for name in REPEATED}
    return {name: None if value in (None, default.get(name)) else str(value) for name, value in values.items()}


def chosen_preset(config: pytest.Config) -> Preset:
    """Return the preset, with the number of processes and the budget of the command line."""
    chosen, processes = preset(config.getoption("--harness-preset")), config.getoption("--harness-processes")
    if processes is not None:
        chosen = dataclasses.replace(chosen, processes=processes)
    seeds = config.getoption("--harness-seeds")
    if seeds is not None:
        chosen = dataclasses.replace(chosen, seeds=seeds, exact_seeds=True)
    budget = config.getoption("--harness-budget")
    return chosen if budget is None else dataclasses.replace(chosen, budget=parse_budget(budget))


def run_options(config: pytest.Config) -> Options:
    """Return the options of the run. Raises UsageError for an earlier run that cannot be read."""
    from harness.policy.baseline import Baseline
    from harness.run.options import Options

    trusted = config.getoption("--harness-trusted")
    against, rules = config.getoption("--harness-against"), config.getoption("--harness-gate")
    size = chosen_preset(config)
    return Options(
        preset=size,
        store=Path(config.getoption("--harness-store")),
        shared=shared_url(config.getoption("--harness-shared")),
        trusted=None if trusted is None else Path(trusted),
        data=config.getoption("--harness-data"),
        device=config.getoption("--harness-device"),
        margin=parse_margin(config.getoption("--harness-margin")),
        protocol=config.getoption("--harness-protocol"),
        timed=config.getoption("benchmark_enable") or not config.getoption("benchmark_disable"),
        baseline=None if against is None else Baseline.of(Path(against), size.name),
        project_rules=project_rules(config.rootpath) if against else {},
        rules=parse_rules(rules) if rules else {},
        metrics=tuple(filter(None, map(str.strip, (config.getoption("--harness-metrics") or "").split(",")))),
    )
