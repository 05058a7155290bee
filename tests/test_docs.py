"""README and docs cannot drift: their commands, options, exit codes, tables and examples are held to the code."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from test_architecture import LEAVES, PUBLIC
from test_architecture import PACKAGES as KERNEL_PACKAGES

from harness import Architecture, Dataset, Matrix, Metric, Runtime, Step, former_names, hookimpl
from harness.api import hookspecs
from harness.cli.main import INTERRUPTED, USAGE_ERROR, _parser
from harness.data.library import VARIABLE
from harness.gate.judge import BETWEEN_RUNS, EXIT_CODES
from harness.plugin.manager import Origin, Plugins, installed
from harness.policy.rules import DEFAULTS, policy
from harness.pytest_plugin import NOTHING_MEASURED
from harness.records.record import Record, Unmeasured
from harness.records.runs import read_records
from harness.records.signals import SIGNALS
from harness.records.verdicts import CellVerdicts
from harness.report.terminal import report_text
from harness.run.declarations import default_rules
from harness.stats.verdict import Kind
from harness.suite.presets import PRESETS
from harness.text import format_margin

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {file.name: file.read_text() for file in sorted((ROOT / "docs").glob("*.md"))}
#: Blocks of these pages are run as they stand by tests/test_guide.py.
FOLLOWED = {"tutorial.md", "other-plugins.md"}


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def section(page: str, heading: str) -> str:
    """A section of a page, up to the next heading."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert match is not None, heading
    return match[1]


def pytest_options(config: pytest.Config) -> list[str]:
    (group,) = [group for group in config._parser._groups if group.name == "harness"]
    return [name for option in group.options for name in option.names()]


def subcommands(parser: argparse.ArgumentParser, path: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands below a parser that take no further subcommand, as "store gc"."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from subcommands(child, f"{path} {name}".strip())
            return
    yield path, parser


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_option_is_documented(pytestconfig: pytest.Config) -> None:
    names = pytest_options(pytestconfig)
    assert len(names) >= 5
    for name in names:
        assert f"`{name}" in section(PAGES["options.md"], "Of pytest"), name


def test_every_option_of_every_command_is_documented() -> None:
    commands = dict(subcommands(_parser()))
    assert len(commands) > 10
    for option in {name for action in _parser()._actions for name in action.option_strings if name.startswith("--")}:
        assert f"{option}`" in section(PAGES["options.md"], "Of the command harness")
    for command, parser in commands.items():
        text = section(PAGES["options.md"], f"harness {command.split()[0]}")
        if " " in command:
            assert f"`harness {command}" in text
        names = {name for action in parser._actions for name in action.option_strings} - {"-h", "--help"}
        for name in names:
            assert re.search(rf"`{name}[ `]", text), f"{command} {name}"


def test_only_options_that_exist_are_documented(pytestconfig: pytest.Config) -> None:
    known = {*pytest_options(pytestconfig), "--help", "--version", "--benchmark-json"}
    known |= {
        name for _, parser in subcommands(_parser()) for action in parser._actions for name in action.option_strings
    }
    assert set(re.findall(r"(?<=[` ])--[\w-]+", PAGES["options.md"])) <= known


def test_the_variables_are_documented() -> None:
    for name in (VARIABLE, "HARNESS_SHARED"):
        assert f"`{name}`" in section(PAGES["options.md"], "Environment variables")


def test_every_preset_is_documented() -> None:
    (row,) = [line for line in PAGES["options.md"].splitlines() if line.startswith("| `--harness-preset")]
    assert re.findall(r"`(\w+)`", row) == list(PRESETS)
    for name in PRESETS:
        assert f"| `{name}` |" in section(PAGES["suites.md"], "How much is run")


@pytest.mark.parametrize("code", [USAGE_ERROR, NOTHING_MEASURED, INTERRUPTED])
def test_every_exit_code_is_documented(code: int) -> None:
    assert re.search(rf"^\| {code} \|", PAGES["exit-codes.md"], re.MULTILINE)


def test_the_gate_s_outcomes_and_exit_codes_are_documented() -> None:
    for outcome, code in EXIT_CODES.items():
        assert re.search(rf"^\| {outcome} \| .+ \| {code} \|$", PAGES["ci.md"], re.MULTILINE), outcome
    listed = re.search(
        r"^\| ([\d, ]+) \| of a comparison with an earlier run: (.+); see", PAGES["exit-codes.md"], re.MULTILINE
    )
    assert listed is not None
    words = listed[2].removesuffix(" cells").split(", ")
    assert dict(zip(words, map(int, listed[1].split(", ")), strict=True)) == EXIT_CODES


def test_the_default_policy_is_documented() -> None:
    (block,) = blocks("toml", PAGES["ci.md"])
    table = tomllib.loads(block)["tool"]["harness"]["gate"]
    assert set(table.pop("fail_on")) == policy().fail_on
    assert table == {**DEFAULTS, **default_rules([])}


def test_the_margin_between_runs_is_documented() -> None:
    assert f"each run's ratio to its reference, at {format_margin(BETWEEN_RUNS)} at least" in PAGES["ci.md"]


def test_every_command_is_documented() -> None:
    headings = re.findall(r"^### harness (\w+)$", PAGES["options.md"], re.MULTILINE)
    assert headings == list(dict.fromkeys(command.split()[0] for command, _ in subcommands(_parser())))


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """The commands of the harness and of pytest in the blocks of README and docs, each with its page."""
    for name, page in {"README.md": README, **PAGES}.items():
        for line in "".join(blocks("sh", page)).splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words and Path(words[0]).name in ("harness", "pytest") and name not in FOLLOWED:
                    yield name, [Path(words[0]).name, *words[1:]]


def test_the_commands_shown_are_right(pytestconfig: pytest.Config) -> None:
    lines = list(command_lines())
    assert len(lines) > 20
    known = pytest_options(pytestconfig)
    for page, (program, *arguments) in lines:
        where = f"{page}: {shlex.join([program, *arguments])}"
        if program == "harness":
            _parser().parse_args(arguments)
        options = [word.partition("=")[0] for word in arguments if word.startswith("--harness-")]
        assert set(options) <= set(known), where
        for word in arguments:
            if word.startswith(("suites/", "results/")) and not word.startswith("results/r"):
                assert (ROOT / word).exists(), where


def test_the_commands_of_ci_are_in_the_readme() -> None:
    pattern = re.search(r"grep -m1 -E '([^']*)'", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    assert len(re.findall(pattern[1], README, re.MULTILINE)) == 1


def test_the_examples_run(monkeypatch: pytest.MonkeyPatch) -> None:
    suite, plugin = blocks("python")
    names: dict[str, object] = {}
    exec(compile(suite, "README suite", "exec"), names)
    assert any(isinstance(value, Matrix) for value in names.values())
    (suite,) = blocks("python", PAGES["suites.md"])
    exec(compile(suite, "suites.md", "exec"), names)

    module = type(sys)("readme_plugin")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look up their module
    exec(compile(plugin, "README plugin", "exec"), vars(module))
    plugins = Plugins()
    plugins.add(module, Origin("readme_plugin", "readme", "1"))
    assert plugins.problems == []
    assert "halve" in plugins.steps


def test_every_hook_has_a_reason_and_an_example() -> None:
    hooks = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("harness_")}
    assert len(hooks) >= 7
    for name, hook in hooks.items():
        text = hook.__doc__ or ""
        assert "@hookimpl" in text, name
        assert f"def {name}(" in text, name


def test_the_signals_and_their_limits_are_documented() -> None:
    rows = dict(re.findall(r"^\| (\w+) \| (.+) \|$", PAGES["verdicts.md"], re.MULTILINE))
    shown = {
        "switches": "1 involuntary",
        "waiting": "10 %",
        "steal": "5 %",
        "throttled": "any period",
        "collections": "any garbage",
        "spread": "25 %",
        "drift": "10 %",
        "moved": "25 %",
        "itself": "the margin",
    }
    assert list(SIGNALS) == list(shown)
    for name, limit in shown.items():
        assert rows[name].startswith(limit)
        value = SIGNALS[name].limit
        if name not in ("throttled", "collections", "itself"):
            assert limit.split()[0] in (f"{value:g}", f"{100 * value:g}"), name
    assert SIGNALS["throttled"].limit == SIGNALS["collections"].limit == 0


def test_every_verdict_is_documented() -> None:
    for kind in (*get_args(Kind), "contaminated"):
        assert re.search(rf"^\| (\w+, )?{kind}\b.* \| .+ \|$", PAGES["verdicts.md"], re.MULTILINE), kind


def test_the_readme_s_table_is_the_record_s() -> None:
    """Columns and rows may be left out; what is shown stands in the report, in the same columns and order."""
    pattern = r"^```sh\n\S*harness report (\S+)\n```\n\n```text\n(.*?)^```"
    ((command, table),) = re.findall(pattern, README, re.MULTILINE | re.DOTALL)
    title, _, head, *shown = table.splitlines()
    printed_title, _, printed_head, *printed = report_text(read_records(ROOT / command), installed(), 200).splitlines()
    assert title == printed_title
    rows = iter([row for row in columns(printed_head, printed) if row["training"] in ("", "plain")])
    assert len(shown) > 10
    for row in columns(head, shown):
        assert any(row.items() <= other.items() for other in rows), row  # consumes the rows up to the equal one


def columns(head: str, lines: list[str]) -> list[dict[str, str]]:
    """The cells of each line by the names of their columns; the first column has no name."""
    starts = [0, *(match.start() for match in re.finditer(r"\S+", head))]
    ends = [*starts[1:], None]
    names = [head[start:end].strip() for start, end in zip(starts, ends, strict=True)]
    cells = [[line[start:end].strip() for start, end in zip(starts, ends, strict=True)] for line in lines]
    return [dict(zip(names, row, strict=True)) for row in cells]


def test_the_readme_s_suite_has_eight_lines() -> None:
    suite, _ = blocks("python")
    assert len([line for line in suite.splitlines() if line]) == 8


def structs(kind: Any, seen: set[type]) -> set[type]:
    """A class of the records, and those of its fields."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in seen:
        seen.add(kind)
        for field in msgspec.structs.fields(kind):
            structs(field.type, seen)
    for argument in get_args(kind):
        structs(argument, seen)
    return seen


def test_every_field_of_a_record_is_documented() -> None:
    found = structs(CellVerdicts, structs(Record, structs(Unmeasured, set())))
    assert len(found) > 8
    for kind in found:
        for field in msgspec.structs.fields(kind):
            assert f"`{field.encode_name}`" in PAGES["records.md"], f"{kind.__name__}.{field.encode_name}"


def test_every_former_name_is_on_the_page_about_upgrading() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)[^`]*`.* \| `([\w.]+)[^`]*`", PAGES["upgrading.md"], re.MULTILINE))
    assert dict(former_names.MODULES).items() <= rows.items()
    for name, module in former_names.MOVED.items():
        assert rows[f"harness.{name}"] == f"{module}.{name}"
    for module, names in former_names.EXPORTS.items():
        for former, present in names.items():
            prefix = "harness." if module in ("harness", "harness.api") else ""
            assert rows[prefix + former] == prefix + present
    for contract in (Architecture, Dataset, Metric, Runtime, Step):
        for former, present in contract._former_names.items():
            prefix = "" if former == "about" else f"{contract.__name__}."
            assert rows[prefix + former] == prefix + present


def test_the_metric_of_the_page_about_upgrading_uses_no_former_name() -> None:
    (block,) = blocks("python", PAGES["upgrading.md"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names: dict[str, Any] = {}
        exec(compile(block, "upgrading", "exec"), names)
        module = type(sys)("upgraded")
        module.harness_metrics = hookimpl(lambda register: register(names["Largest"]()))  # type: ignore[attr-defined]
        plugins = Plugins()
        plugins.add(module, Origin("upgraded", "upgraded", "1"))
    assert not plugins.problems
    assert "largest" in plugins.metrics


def test_the_architecture_describes_what_is_there() -> None:
    """Every package has its line, in the order that tests/test_architecture.py holds, and every file named is there."""
    page = PAGES["architecture.md"]
    packages = re.findall(r"^\| `(\w+)` \|", section(page, "Packages"), re.MULTILINE)
    assert packages == [*LEAVES, *KERNEL_PACKAGES]
    public = re.findall(r"^\| `(\w+)` \| .*\(public\) \|$", page, re.MULTILINE)
    assert set(public) == set(PUBLIC)
    plugins = re.findall(r"^\| `plugins/(\w+)/` \|", page, re.MULTILINE)
    assert set(plugins) == {path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists()}
    files = re.findall(r"`((?:harness|plugins|suites|tests)/[\w/]+\.py)`", page)
    assert len(files) > 30
    for file in files:
        assert (ROOT / file).exists(), file


def nav(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for child in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from nav(child)


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert site["strict"]
    assert site["theme"]["font"] is False
    assert set(nav(site["nav"])) == {*PAGES, "results/README.md"}
