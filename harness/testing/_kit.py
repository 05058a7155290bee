"""Apply all rules to one plugin, in a separate pytest process that ``_check`` starts; log outcomes as JSON lines."""

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
from harness.errors import describe_error, nearest
from harness.plugin.manager import Origin, Plugins, installed
from harness.testing._failing import fail_check
from harness.testing.architectures import *  # noqa: F403
from harness.testing.datasets import *  # noqa: F403
from harness.testing.metrics import *  # noqa: F403
from harness.testing.runtimes import *  # noqa: F403
from harness.testing.steps import *  # noqa: F403

#: Environment variables: the plugin's entry point or module, whether it is an entry point, the only object to check
#: (or nothing), and the log file.
NAME, INSTALLED, THING, LINES = (f"HARNESS_CHECK_{word}" for word in ("NAME", "INSTALLED", "THING", "LINES"))
KINDS = ("step", "architecture", "dataset", "metric", "runtime")


@functools.cache
def plugin() -> tuple[Plugins, str, list[str]]:
    """Return all plugins, the name of the checked one, and the problems of loading it."""
    plugins, name = installed(), os.environ[NAME]
    if os.environ[INSTALLED] != "1":
        try:
            plugins.add(importlib.import_module(name), Origin(name, "not installed", "?"))
        except (Exception, SystemExit) as error:
            return plugins, name, [f"failed to import: {describe_error(error)}"]
    return plugins, name, [problem.reason for problem in plugins.problems if problem.origin.plugin == name]


def names(kind: str) -> list[str]:
    """Return the names of a kind that the plugin registers."""
    plugins, name, _ = plugin()
    registry = getattr(plugins, f"{kind}s")
    return [entry for entry in registry if registry.origin(entry).plugin == name]


@functools.cache
def registered(kind: str) -> list[Any]:
    """Return the objects of a kind that the plugin registers, or the only one to check; for steps, their examples."""
    registry = getattr(plugin()[0], f"{kind}s")
    objects = [registry.get(entry) for entry in names(kind) if os.environ[THING] in ("", entry)]
    if kind != "step":
        return objects
    examples: list[Any] = []
    for step in objects:
        try:
            examples += step.examples()
        except Exception as error:
            examples.append(pytest.param(error, id=step.name))
    return examples


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for kind in KINDS:
        if kind in metafunc.fixturenames:
            objects = registered(kind)
            metafunc.parametrize(kind, objects, ids=[_name(item) for item in objects], indirect=kind == "step")


@pytest.fixture
def step(request: pytest.FixtureRequest) -> Step:
    """The step under test."""
    if isinstance(request.param, Exception):
        pytest.fail(f"examples() raised {type(request.param).__name__}: {request.param}", pytrace=False)
    return request.param  # type: ignore[no-any-return]


def test_plugin_loads() -> None:
    """It imports, its hooks exist, and nothing that it registers is rejected."""
    _, name, problems = plugin()
    if problems:
        fail_check(
            f"plugin {name!r}",
            wanted="a plugin that loads without problems",
            got="; ".join(problems),
            fix="correct what the message names; until then every run leaves the plugin out",
        )


def test_plugin_registers_something() -> None:
    """It registers a step, an architecture, a data set, a metric or a runtime."""
    _, name, problems = plugin()
    if problems:
        pytest.skip("it does not load; see test_plugin_loads")
    if not any(registered(kind) for kind in KINDS):
        pytest.skip(f"plugin {name!r} registers no step, architecture, data set, metric or runtime: nothing to check")


def _name(item: object) -> str:
    if isinstance(item, Step):
        return describe(item)
    if isinstance(item, Architecture | Dataset | Metric | Runtime):
        return item.name
    return "?"


# ----------------------------------------------------------------------------------------------------------- log


def _log(**line: Any) -> None:
    with open(os.environ[LINES], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


class Logger:
    """Write a line when a check begins and one when it ends, so that a crash is attributed to its check."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Run the checks of the plugin itself first, and deselect those of kinds that it does not register."""
        selected = [
            item
            for item in items
            if all(registered(kind) for kind in KINDS if kind in getattr(item, "fixturenames", ()))
        ]
        items[:] = sorted(selected, key=lambda item: not item.name.startswith("test_plugin_"))
        _log(total=len(items))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        _log(begins=nodeid)

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
            subject = next((_name(values.pop(kind)) for kind in KINDS if kind in values), os.environ[NAME])
            where = ", ".join(str(value) for value in values.values() if isinstance(value, str))
            check = item.name.partition("[")[0]
            _log(ends=item.nodeid, object=subject, check=check, where=where, outcome=report.outcome, reason=reason)
        return report


def main() -> int:
    """Run the checks of this module."""
    known = [name for kind in KINDS for name in names(kind)]
    if (thing := os.environ[THING]) and thing not in known and not plugin()[2]:
        _log(wrong=f"plugin {plugin()[1]} registers no {thing!r}{nearest(thing, known)}")
        return 1
    arguments = [__file__, "-q", "--no-header", "-p", "no:cacheprovider", "--rootdir", os.path.dirname(__file__)]
    return int(pytest.main([*arguments, "-c", os.devnull, "--import-mode=importlib"], plugins=[Logger()]))
