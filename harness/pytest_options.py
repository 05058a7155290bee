"""The options of pytest: what they are called, what is wrong with them, and what they say about a run."""

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
from harness.text import DEFAULT_MARGIN, format_margin, parse_margin

if TYPE_CHECKING:
    from harness.run.options import Options

CHECKS: Mapping[str, Callable[[str], object]] = {
    "--harness-preset": preset,
    "--harness-margin": parse_margin,
    "--harness-gate": lambda text: policy(parse_rules(text)),
    "--harness-report": lambda text: check_form(Path(text)),
}
#: The options on which a cell's figures and verdict depend.
REPEATED = tuple(
    f"--harness-{name}"
    for name in ("preset", "data", "store", "shared", "margin", "processes", "protocol", "device", "against", "gate")
)


def add_options(parser: pytest.Parser) -> None:
    """Declare the options, in a group of their own."""
    group = parser.getgroup("harness", "benchmarks of compressed networks")
    summary = "; ".join(f"{entry.name}: {entry.summary}" for entry in PRESETS.values())
    group.addoption("--harness-preset", default="quick", metavar="NAME", help=f"how much to run. {summary}")
    group.addoption(
        "--harness-plan", action="store_true", help="print the cells, what must be built and how long; run nothing"
    )
    group.addoption(
        "--harness-data", metavar="DIR", help="where data sets are (default: the variable HARNESS_DATA, then ./data)"
    )
    group.addoption(
        "--harness-store", metavar="DIR", default=".harness", help="where artefacts are kept (default: .harness)"
    )
    group.addoption(
        "--harness-shared",
        metavar="URL",
        help="a store that machines share: artefacts are had from there and put there; s3://, file:// or any URL of "
        "fsspec (default: the variable HARNESS_SHARED; an empty URL: none)",
    )
    group.addoption(
        "--harness-margin",
        default=format_margin(DEFAULT_MARGIN),
        metavar="SHARE",
        help="the difference in latency that matters; verdicts are given at it (default: %(default)s)",
    )
    group.addoption(
        "--harness-processes",
        type=int,
        metavar="N",
        help="how many processes time each cell, at least 2 (default: the preset's); more of them see smaller changes",
    )
    group.addoption(
        "--harness-protocol",
        choices=PROTOCOLS,
        help="how latency is measured, whatever the suite says: paired beside the reference in several processes, or "
        "single, as most papers do: the mean of one process",
    )
    group.addoption(
        "--harness-against",
        metavar="RUN.json",
        help="an earlier run: time each cell's model of that run again, beside the new one, and judge what changed",
    )
    group.addoption(
        "--harness-gate",
        metavar="RULES",
        help="how much worse than the earlier run is allowed, as latency=2%%,auroc=0.01; over the suite's own rules "
        "and those in pyproject.toml",
    )
    group.addoption("--harness-summary", metavar="FILE.md", help="write the gate's findings as Markdown")
    group.addoption("--harness-junit", metavar="FILE.xml", help="write the gate's findings as JUnit XML")
    group.addoption(
        "--harness-report", metavar="FILE", help="write the report of this run: a page *.html, Markdown *.md, or *.csv"
    )
    group.addoption(
        "--harness-device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where networks are trained (timing is on the CPU)",
    )


def check_options(config: pytest.Config) -> None:
    """Raise pytest.UsageError for an option that means nothing, before anything is collected."""
    for option, check in CHECKS.items():
        try:
            if config.getoption(option) is not None:
                check(config.getoption(option))
        except UsageError as error:
            raise pytest.UsageError(f"{option}: {error}") from None
    for option in ("--harness-gate", "--harness-summary", "--harness-junit"):
        if config.getoption(option) and not config.getoption("--harness-against"):
            raise pytest.UsageError(f"{option} says something of a comparison: name a run with --harness-against")
    if parse_margin(config.getoption("--harness-margin")) == 0:
        raise pytest.UsageError("--harness-margin 0: no run can show that two models are the same to the last digit")
    processes = config.getoption("--harness-processes")
    if processes is not None:
        from harness.stats.verdict import MOST_PROCESSES  # here, because it imports scipy

        if not 2 <= processes <= MOST_PROCESSES:
            raise pytest.UsageError(
                f"--harness-processes {processes}: from 2, which an interval needs, to {MOST_PROCESSES}, for each "
                "takes some 200 MB; a larger margin needs fewer"
            )


def repeated_options(config: pytest.Config) -> dict[str, str | None]:
    """The options that a second run of a cell needs to be as this one was; None for those at their defaults."""
    margin = format_margin(DEFAULT_MARGIN)
    default = {"--harness-store": ".harness", "--harness-device": "cpu", "--harness-margin": margin}
    found = {name: config.getoption(name) for name in REPEATED}
    return {name: None if value in (None, default.get(name)) else str(value) for name, value in found.items()}


def chosen_preset(config: pytest.Config) -> Preset:
    """The preset, with the number of processes that the command line asks for."""
    chosen, processes = preset(config.getoption("--harness-preset")), config.getoption("--harness-processes")
    return chosen if processes is None else dataclasses.replace(chosen, processes=processes)


def run_options(config: pytest.Config) -> Options:
    """What the command line says about the run. Raises UsageError for an earlier run that cannot be read."""
    from harness.policy.baseline import Baseline
    from harness.run.options import Options

    against, rules = config.getoption("--harness-against"), config.getoption("--harness-gate")
    size = chosen_preset(config)
    return Options(
        preset=size,
        store=Path(config.getoption("--harness-store")),
        shared=shared_url(config.getoption("--harness-shared")),
        data=config.getoption("--harness-data"),
        device=config.getoption("--harness-device"),
        margin=parse_margin(config.getoption("--harness-margin")),
        protocol=config.getoption("--harness-protocol"),
        timed=config.getoption("benchmark_enable") or not config.getoption("benchmark_disable"),
        baseline=None if against is None else Baseline.of(Path(against), size.name),
        project_rules=project_rules(config.rootpath) if against else {},
        rules=parse_rules(rules) if rules else {},
    )
