"""Loading plugins: each that is broken is named with its distribution, and everything else runs."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import toy

from harness import ReportContext, Section, Step, UsageError, hookimpl
from harness.plugin.manager import Origin, Plugins, load_plugins
from harness.progress import log_to

NUMBERS = itertools.count()
WHOLE = ReportContext(None, 120, {})
Write = Callable[[str], EntryPoint]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a plugin's source and gives its entry point."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> EntryPoint:
        name = f"plugin_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text("from harness import *\nimport harness\n" + source)
        return EntryPoint(name, name, "harness")

    return write


def module(**members: Any) -> types.ModuleType:
    made = types.ModuleType("made")
    vars(made).update(members)
    return made


def origin(name: str = "made") -> Origin:
    return Origin(name, f"{name}-dist", "3.1")


GOOD = """
class Fine(Architecture):
    name = "fine"
    def build(self, task): ...
    def training(self, phase): ...

@hookimpl
def harness_architectures(register):
    register(Fine())
"""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "failed to import: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "failed to import: SystemExit: 3"),
        ("this is no Python", "failed to import: SyntaxError"),
        ("@hookimpl\ndef harness_stepz(register): ...", "no such hook exists; did you mean 'harness_s"),
        ("@hookimpl\ndef harness_steps(registr): ...", "is left out: .*registr"),
        ("@hookimpl\ndef harness_cell_finished(record, colour): ...", "is left out: .*colour"),
        ("@hookimpl\ndef harness_steps(register): 1 / 0", "harness_steps failed: ZeroDivisionError"),
        ("@hookimpl\ndef harness_steps(register): register(train())", "registered Train.* as step, which is not a sub"),
        ("@hookimpl\ndef harness_steps(register): register(Dataset)", "as step, which is not a subclass of harness.S"),
        ("@hookimpl\ndef harness_datasets(register): register(3)", "registered 3 as dataset, which is not an instance"),
        ("@hookimpl\ndef harness_steps(register): register(harness.Step)", "whose `name` is None, not a non-"),
        (
            "class Half(Runtime):\n    name = 'half'\n    def load(self, file): ...\n"
            "@hookimpl\ndef harness_runtimes(register): register(Half())",
            "harness_runtimes failed: TypeError: .*abstract.*deploy",
        ),
    ],
)  # fmt: skip
def test_a_broken_plugin_is_named_and_everything_else_runs(written: Write, source: str, reason: str) -> None:
    loaded, bad, good = Plugins(), written(source), written(GOOD)
    loaded.load(bad)
    loaded.load(good)
    (problem,) = loaded.problems
    assert problem.origin.plugin == bad.name
    assert re.search(rf"^plugin {bad.name} \(unknown distribution \?\): .*{reason}", str(problem))
    assert "fine" in loaded.architectures
    assert list(loaded.steps) == ["train"]


def test_what_a_plugin_brought_before_it_failed_stays(written: Write) -> None:
    loaded = Plugins()
    loaded.load(written(GOOD + "\n@hookimpl\ndef harness_steps(register): 1 / 0"))
    assert "fine" in loaded.architectures
    assert len(loaded.problems) == 1


def test_an_interrupted_import_interrupts(written: Write) -> None:
    with pytest.raises(KeyboardInterrupt):
        Plugins().load(written("raise KeyboardInterrupt"))


def test_a_taken_name_is_refused_naming_both_sides(plugins: Plugins) -> None:
    second = module(harness_architectures=hookimpl(lambda register: register(toy.Conv())))
    plugins.add(second, origin("second"))
    (problem,) = plugins.problems
    assert str(problem) == (
        "plugin second (second-dist 3.1): refused: "
        "architecture 'conv' is already registered by plugin toy (toy-plugin 1.2)"
    )
    assert str(plugins.architectures.origin("conv")) == "toy (toy-plugin 1.2)"


def test_nobody_takes_the_kernels_own_step() -> None:
    class Thief(toy.Halve):
        name = "train"

    loaded = Plugins()
    loaded.add(module(harness_steps=hookimpl(lambda register: register(Thief))), origin())
    assert "already registered by plugin kernel" in str(loaded.problems[0])
    assert loaded.steps.get("train").__name__ == "Train"


def test_two_plugins_of_one_name_and_one_plugin_twice(plugins: Plugins) -> None:
    plugins.add(module(harness_report_section=hookimpl(lambda records: ("Other", ""))), origin("toy"))
    plugins.add(toy, origin("again"))
    assert [problem.origin.distribution for problem in plugins.problems] == ["toy-dist", "again-dist"]
    assert plugins.sections([], WHOLE) == [Section("Toys", text="0 toys were measured")]


def test_only_functions_are_looked_at_for_hooks() -> None:
    class Anything:
        """Has every attribute, as unittest.mock.call does."""

        def __getattr__(self, name: str) -> object:
            return self

    loaded = Plugins()
    loaded.add(module(anything=Anything(), harness_report_section=hookimpl(lambda records: None)), origin())
    assert loaded.problems == []


def test_registries_suggest(plugins: Plugins) -> None:
    with pytest.raises(
        UsageError, match=r"no architecture is called 'convv'; did you mean 'conv'\? \(known: conv, flat, lstm\)"
    ):
        plugins.architectures.get("convv")
    with pytest.raises(UsageError, match=r"no metric is called 'auroc' \(none is registered\)"):
        Plugins().metrics.get("auroc")
    assert list(plugins.datasets) == ["toy", "toy-synthetic"]
    assert len(plugins.runtimes) == 1


def test_a_life_cycle_hook_that_raises_is_contained(plugins: Plugins) -> None:
    seen: list[Any] = []

    @hookimpl
    def harness_cell_finished(record: Any) -> None:
        raise RuntimeError("no network")

    plugins.add(module(harness_cell_finished=harness_cell_finished), origin("bad"))
    plugins.add(module(harness_cell_finished=hookimpl(lambda record: seen.append(record))), origin("watcher"))
    plugins.notify("harness_cell_finished", record={"cell": "a"})
    assert seen == [{"cell": "a"}]
    (problem,) = plugins.problems
    assert str(problem).startswith(
        "plugin bad (bad-dist 3.1): harness_cell_finished failed: RuntimeError: no network ("
    )
    assert "test_manager.py, line" in str(problem)


@pytest.mark.parametrize("answer", ["just a string", ("title", 3), 5, ["title", "text"], [Section("title"), None]])
def test_a_report_section_of_another_form_is_a_problem(answer: Any) -> None:
    plugins = Plugins()
    plugins.add(module(harness_report_section=hookimpl(lambda records: answer)), origin("wrong"))
    plugins.add(module(harness_report_section=hookimpl(lambda records: ("title", "text"))), origin("right"))
    assert plugins.sections([], WHOLE) == [Section("title", text="text")]
    (problem,) = plugins.problems
    assert "harness_report_section returned" in problem.reason
    assert problem.reason.endswith("not a harness.Section, a list of these, or a title and a text")


def test_a_plugin_that_exits_while_it_registers_is_left_out(plugins: Plugins) -> None:
    def leave(register: Any) -> None:
        raise SystemExit(7)

    plugins.add(module(harness_steps=hookimpl(leave)), origin("leaver"))
    (problem,) = plugins.problems
    assert "harness_steps failed: SystemExit: 7" in problem.reason


def test_a_hook_may_take_no_argument_and_answer_nothing(plugins: Plugins) -> None:
    plugins.add(module(harness_report_section=hookimpl(lambda: None)), origin("silent"))
    assert plugins.sections([{}, {}], WHOLE) == [Section("Toys", text="2 toys were measured")]


def test_built_in_plugins_come_before_those_that_sort_before_them(
    written: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.plugin import manager as home

    ours, theirs = written(GOOD), written(GOOD)
    theirs = EntryPoint("aaa", theirs.value, "harness")
    monkeypatch.setattr(home, "_built_in", lambda point: point.name == ours.name)
    monkeypatch.setattr(home, "entry_points", lambda group: [theirs, ours])
    loaded = load_plugins()
    assert loaded.architectures.origin("fine").plugin == ours.name
    assert [problem.origin.plugin for problem in loaded.problems] == ["aaa"]


def test_an_installed_third_party_is_found_with_its_version(toy_distribution: Path) -> None:
    code = "from harness.plugin.manager import installed as i; print(i().architectures.origin('conv'), *i().problems)"
    environment = {"PYTHONPATH": str(toy_distribution), "PATH": ""}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("toy (toy-plugin 1.2)")


def test_importing_listing_and_collecting_load_no_torch(toy_distribution: Path, tmp_path: Path) -> None:
    (tmp_path / "suite.py").write_text(
        "from harness import Matrix, Profile, step, train\n"
        "m = Matrix(dataset='toy', architecture=['conv', 'lstm'], runtime='eager', seed=range(3),\n"
        "           profile=Profile(threads=1), training={'plain': [train()]},\n"
        "           pruning={'full': [], 'half': [step('halve')]})\n"
    )
    code = (
        "import sys, harness, harness.cli.main, pytest\n"
        "assert harness.cli.main.main(['list']) == 0\n"
        "assert pytest.main(['suite.py', '--collect-only', '-q', '-p', 'no:cacheprovider']) == 0\n"
        "print('loaded:', sorted({'torch', 'scipy', 'sklearn', 'pandas'} & sys.modules.keys()))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(toy_distribution), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines()[-1] == "loaded: []"
    assert "m[toy-synthetic-lstm-plain-half-seed0]" in found.stdout
    assert "a toy network  [toy (toy-plugin 1.2)]" in found.stdout


def test_a_step_whose_parameters_would_miss_the_key_is_refused() -> None:
    class Forgotten(Step):
        """Not a dataclass."""

        name = "forgotten"

        def __init__(self, rank: int) -> None:
            self.rank = rank

    class Grown(toy.Halve):
        """Adds a field that its parent's dataclass does not know."""

        name = "grown"
        extra: int = 1

    class Renamed(toy.Halve):
        """Adds nothing."""

        name = "renamed"

    @hookimpl
    def harness_steps(register: Callable[[type[Step]], None]) -> None:
        for kind in (Forgotten, Grown, Renamed):
            register(kind)

    plugins = Plugins()
    plugins.add(module(harness_steps=harness_steps), Origin("careless", "careless", "1"))
    assert list(plugins.steps) == ["train", "renamed"]
    assert ["frozen dataclass" in problem.reason for problem in plugins.problems] == [True, True]


STEP = """
import dataclasses
@dataclasses.dataclass(frozen=True)
class Bad(Step):
    name = "bad"
    def apply(self, model, context): return model
{}
@hookimpl
def harness_steps(register): register(Bad)
"""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "registers nothing: mark its hooks with @harness.hookimpl"),
        ("@hookimpl\ndef harness_steps(register): ...", "registers nothing"),
        ("@hookimpl\ndef harness_steps(regsiter): ...", "no argument 'regsiter'; did you mean 'register'?"),
        ("@hookimpl\ndef harness_steps(): ...", "takes no argument; write harness_steps(register)"),
        ("@hookimpl\ndef harness_steps(register): register(train())", "register the class, register(Train)"),
        (GOOD.replace("Fine())", "Fine)"), "register a value, register(Fine())"),
        (GOOD.replace('"fine"', '"not fine"'), "registered architecture 'not fine': a name consists of letters"),
        (GOOD.replace('"fine"', '"fi[n]e"'), "a name consists of letters"),
        (GOOD.replace('"fine"', r'"fine\n"'), "a name consists of letters"),
        (GOOD.replace('"fine"', '"not"'), "is not 'and', 'or' or 'not'"),
        (GOOD.replace("(self, task)", "(self)"), "whose build(self) cannot be called as build(self, task)"),
        (GOOD.replace('"fine"', '"fine"; version = 2'), "whose `version` is 2, not a string"),
        (
            STEP.format("    def apply(self, model): ..."),
            "whose apply(self, model) cannot be called as apply(self, mod",
        ),
        (STEP.format("    apply = None"), "whose apply is None: define apply(self, model, context)"),
        (STEP.format("    apply = Step.apply"), "which does not define apply(self, model, context)"),
        (STEP.format("    is_teacher = True"), "does not define loss(self, task_loss)"),
        (
            STEP.format("    def trainings(self, more): ..."),
            "whose trainings(self, more) cannot be called as trainings(self)",
        ),
    ],
)
def test_what_could_not_be_run_is_refused_with_what_is_wanted(written: Write, source: str, reason: str) -> None:
    loaded = Plugins()
    loaded.load(written(source))
    (problem,) = loaded.problems
    assert reason in problem.reason
    assert list(loaded.steps) == ["train"]
    assert not list(loaded.architectures)


def test_a_hook_that_is_not_marked_is_told_and_not_called(written: Write) -> None:
    loaded = Plugins()
    loaded.load(written(GOOD.replace("@hookimpl\n", "") + "def harness_report_section(records): ..."))
    reasons = [problem.reason for problem in loaded.problems]
    for name in ("harness_architectures", "harness_report_section"):
        assert f"has a function {name}() that is not marked with @harness.hookimpl, so it is never called" in reasons
    assert not list(loaded.architectures)


def test_what_a_plugin_prints_while_it_is_loaded_is_named(written: Write, capsys: pytest.CaptureFixture[str]) -> None:
    loaded, point = Plugins(), written("print('hello')\n" + GOOD + "    print('registered')\n")
    with log_to(sys.stderr):
        loaded.load(point)
    captured = capsys.readouterr()
    assert captured.out == ""
    who = f"plugin {point.name} (unknown distribution ?)"
    assert captured.err.splitlines() == [f"{who}: its import: hello", f"{who}: harness_architectures: registered"]
    assert [problem.reason for problem in loaded.problems] == [
        "its import prints to the standard output (1 line)",
        "harness_architectures prints to the standard output (1 line)",
    ]


PUBLISHER = """
class Animal:
    name = "animal"
    def __init__(self, name): self.name = name

@hookimpl
def harness_kinds(register): register(Kind("animal", Animal, hook="harness_animals"))

@hookimpl
def harness_animals(register): register(Animal("dog"))
"""


def test_a_plugin_publishes_a_kind_that_others_bring_whatever_their_names(written: Write) -> None:
    publisher = written(PUBLISHER)
    bringer = written(
        f"import {publisher.value} as zoo\n@hookimpl\ndef harness_animals(register):\n"
        "    register(zoo.Animal('cat'))\n    register('a cow')\n    register(zoo.Animal('dog'))"
    )
    bringer = EntryPoint("aaa", bringer.value, "harness")
    loaded = Plugins()
    loaded.load(bringer, publisher)
    assert list(loaded.things["animal"]) == ["dog", "cat"]
    reasons = [problem.reason for problem in loaded.problems]
    assert reasons == [
        f"registered 'a cow' as animal, which is not an instance of {publisher.value}.Animal",
        f"refused: animal 'dog' is already registered by plugin {publisher.name} (unknown distribution ?)",
    ]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("'animal'", "which is not a harness.Kind with a class as its contract"),
        ("Kind('animal', 3, hook='harness_animals')", "which is not a harness.Kind with a class as its contract"),
        ("Kind('animal', int, hook='animals')", "whose hook 'animals' is in use or does not begin with harness_"),
        ("Kind('animal', int, hook='harness_steps')", "whose hook 'harness_steps' is in use"),
        ("Kind('step', int, hook='harness_animals')", "published the kind 'step', which already exists"),
    ],
)
def test_a_kind_that_cannot_be_published_is_a_problem(written: Write, kind: str, reason: str) -> None:
    loaded = Plugins()
    loaded.load(written(f"@hookimpl\ndef harness_kinds(register): register({kind})"))
    (problem,) = loaded.problems
    assert reason in problem.reason
    assert len(loaded.registries) == 5


def test_a_hook_of_a_kind_that_nobody_publishes_may_be_optional(written: Write) -> None:
    loaded = Plugins()
    loaded.load(written(GOOD + "@hookimpl(optionalhook=True)\ndef harness_animals(register): 1 / 0"))
    assert (loaded.problems, list(loaded.architectures)) == ([], ["fine"])


def test_a_study_is_registered_as_in_version_0_1(written: Write) -> None:
    source = (
        "from harness import Study\nfrom pathlib import Path\n"
        "@hookimpl\ndef harness_studies(register): register(Study('old', Path('old.toml'), summary='an old one'))"
    )
    loaded = Plugins()
    with pytest.warns(DeprecationWarning, match="harness.Study was renamed to harness_studies.Study in version 0.2"):
        loaded.load(EntryPoint("studies", "harness_studies", "harness"), written(source))
    assert loaded.problems == []
    assert list(loaded.things["study"]) == ["A", "B", "C", "old"]


def test_all_built_in_names_can_be_registered() -> None:
    assert load_plugins().problems == []
