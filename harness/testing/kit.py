"""The kit applied to one plugin, in a pytest of its own: ``check`` starts it, and reads the lines that it writes."""

from __future__ import annotations

import functools
import importlib
import json
import os
from collections.abc import Generator
from typing import Any

import pytest

from harness.api import Architecture, Dataset, Metric, Runtime, Step
from harness.build.plan import describe
from harness.errors import HarnessError, describe_error
from harness.plugin.manager import Origin, Plugins, installed
from harness.testing.architectures import *  # noqa: F403
from harness.testing.blame import fail_check
from harness.testing.datasets import *  # noqa: F403
from harness.testing.metrics import *  # noqa: F403
from harness.testing.runtimes import *  # noqa: F403
from harness.testing.steps import *  # noqa: F403

#: What the process is told by: the plugin's entry point (or module), whether it is one, and where to write lines.
NAME, INSTALLED, LINES = "HARNESS_CHECK_NAME", "HARNESS_CHECK_INSTALLED", "HARNESS_CHECK_LINES"
KINDS = ("step", "architecture", "dataset", "metric", "runtime")


@functools.cache
def plugin() -> tuple[Plugins, list[str], list[str]]:
    """All plugins, the names of the entry points that are checked, and what is wrong with them already."""
    plugins, name = installed(), os.environ[NAME]
    if os.environ[INSTALLED] == "1":
        names = [name]
    else:
        origin = Origin(name, "not installed", "?")
        try:
            plugins.add(importlib.import_module(name), origin)
        except (Exception, SystemExit) as error:
            return plugins, [name], [f"failed to import: {describe_error(error)}"]
        names = [name]
    return plugins, names, [problem.reason for problem in plugins.problems if problem.origin.plugin in names]


@functools.cache
def things(kind: str) -> list[Any]:
    """What the plugin registers of a kind; of steps, the values that they want checked."""
    plugins, names, _ = plugin()
    registry = getattr(plugins, f"{kind}s")
    mine = [registry.get(name) for name in registry if registry.origin(name).plugin in names]
    if kind != "step":
        return mine
    values: list[Any] = []
    for step in mine:
        try:
            values += step.examples()
        except Exception as error:
            values.append(pytest.param(error, id=step.name))
    return values


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for kind in KINDS:
        if kind in metafunc.fixturenames:
            found = things(kind)
            metafunc.parametrize(kind, found, ids=[_name(thing) for thing in found], indirect=kind == "step")


@pytest.fixture
def step(request: pytest.FixtureRequest) -> Step:
    """The step under test."""
    if isinstance(request.param, Exception):
        pytest.fail(f"examples() raised {type(request.param).__name__}: {request.param}", pytrace=False)
    return request.param  # type: ignore[no-any-return]


def test_plugin_loads() -> None:
    """It imports, its hooks exist, and nothing that it registers is refused."""
    _, names, problems = plugin()
    if problems:
        fail_check(
            f"plugin {names[0]!r}",
            wanted="a plugin that loads whole",
            got="; ".join(problems),
            fix="see what the message names; until then it is left out of every run",
        )


def test_plugin_registers_something() -> None:
    """It brings a step, an architecture, a data set, a metric or a runtime."""
    _, names, problems = plugin()
    if problems:
        pytest.skip("it does not load; test_plugin_loads tells why")
    if not any(things(kind) for kind in KINDS):
        pytest.skip(
            f"plugin {names[0]!r} registers nothing of what is checked: no step, network, data, metric, runtime"
        )


def _name(thing: object) -> str:
    if isinstance(thing, Step):
        return describe(thing)
    if isinstance(thing, Architecture | Dataset | Metric | Runtime):
        return thing.name
    return "?"


# ------------------------------------------------------------------------------------------- telling the one who asked


def _tell(**line: Any) -> None:
    with open(os.environ[LINES], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


class Teller:
    """Writes a line when a check begins and one when it ends, so that a crash is told too."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """The plugin itself first, and nothing of the kinds that it does not bring."""
        wanted = [
            item for item in items if all(things(kind) for kind in KINDS if kind in getattr(item, "fixturenames", ()))
        ]
        items[:] = sorted(wanted, key=lambda item: not item.name.startswith("test_plugin_"))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        _tell(begins=nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call" or report.outcome != "passed":
            reason = ""
            if report.skipped and isinstance(report.longrepr, tuple):
                reason = report.longrepr[2].removeprefix("Skipped: ")
            elif report.failed:
                reason = str(report.longrepr)
            parameters = getattr(item, "callspec", None)
            values = dict(parameters.params) if parameters else {}
            thing = next((_name(values.pop(kind)) for kind in KINDS if kind in values), os.environ[NAME])
            where = ", ".join(str(value) for value in values.values() if isinstance(value, str))
            check = item.name.partition("[")[0]
            _tell(ends=item.nodeid, thing=thing, check=check, where=where, outcome=report.outcome, reason=reason)
        return report


def main() -> int:
    """Run the checks of this module."""
    try:
        arguments = [__file__, "-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", os.path.dirname(__file__)]
        return int(pytest.main([*arguments, "-c", os.devnull, "--import-mode=importlib"], plugins=[Teller()]))
    except HarnessError as error:
        _tell(problem=str(error))
        return 1
