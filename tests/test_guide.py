"""The guide cannot drift: its code runs, what it shows is printed, and its names and argument lists are the code's."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import environments
import guide
import pytest
from guide import Block, Terminal

import harness
from harness import api as contracts
from harness import compressor, hookimpl
from harness.api import hookspecs
from harness.cli import main as cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {file.name: file.read_text() for file in sorted(DOCS.glob("*.md"))}
BLOCKS = [(name, block) for name, page in PAGES.items() for block in guide.blocks(page)]
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("harness_")}

#: The one block that is not run as it stands: it would fetch PyTorch. An environment that sees ours takes its place.
INSTALL = "python3 -m venv .venv && . .venv/bin/activate\npip install -c ../harness/constraints.txt ../harness\n"
#: The pages that are followed in one terminal, one after the other.
FOLLOWED = ("tutorial.md", "other-plugins.md")


def test_every_block_says_what_it_is() -> None:
    assert len(BLOCKS) > 20
    for page, block in BLOCKS:
        assert block.language in ("sh", "text", "python", "toml", "yaml"), f"{page}, line {block.line}"


@pytest.mark.slow
def test_the_tutorial_works_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "harness").symlink_to(ROOT)
    printed = ""
    installed = False
    terminal = Terminal(tmp_path, typing(tmp_path))
    try:
        for page in FOLLOWED:
            for block in guide.blocks(PAGES[page]):
                if block.language == "python":
                    guide.write(terminal.folder, block)
                elif block.language == "sh" and block.text == INSTALL:
                    installed = True
                    prepare(terminal)
                elif block.language == "sh":
                    printed = terminal.type(block.text)
                elif block.language == "text":
                    found = guide.differences(block.text, printed)
                    assert not found, "\n".join([f"{page}, line {block.line}", *found])
    finally:
        terminal.close()
    assert installed


def typing(folder: Path) -> dict[str, str]:
    """The variables of a terminal without a network, in which packages are built by the backend that we have."""
    variables = environments.Environment(folder).variables
    del variables["VIRTUAL_ENV"]
    pip = {
        "CONFIG_FILE": "/dev/null",
        "NO_INDEX": "1",
        "NO_DEPS": "1",
        "NO_BUILD_ISOLATION": "0",  # pip reads this variable the wrong way round: 0 means without isolation
        "DISABLE_PIP_VERSION_CHECK": "1",
    }
    found = {f"PIP_{name}": value for name, value in pip.items()}
    return variables | found | {"COLUMNS": "120"}


def prepare(terminal: Terminal) -> None:
    """What the block INSTALL does, without a network."""
    environment = environments.make(terminal.folder / ".venv")
    pip = environment.python.parent / "pip"
    pip.write_text(environments.SCRIPT.format(python=environment.python, name="pip"))
    pip.chmod(0o755)
    terminal.type(". .venv/bin/activate")


def test_what_is_shown_and_not_printed_is_noticed() -> None:
    printed = "one 1\n\ntwo   -2.5 [+1, 3]\nmean  1,234  same\nend\n"
    right = (
        "one 7\n\ntwo 1 [2, 3]\n...",
        "...\nmean 1 slower\nend",
        "one 1\n...\nend\n",
        "...\ntwo 0 [0, 0]\n...\n",
        "...",
    )
    for shown in right:
        assert guide.differences(shown, printed) == [], shown
    wrong = (
        "one 1\ntwo 1 [2, 3]\nend",
        "two 1 [2, 3]\n...",
        "...\nthree 1\n...",
        "...\nend\n...\none 1\n...",
        "one 1\n",
        "",
    )
    for shown in wrong:
        assert guide.differences(shown, printed), shown


def test_a_terminal_stops_at_the_first_failure(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, typing(tmp_path))
    try:
        assert terminal.type("mkdir here && cd here\necho $PWD\n").strip() == str(tmp_path / "here")
        with pytest.raises(AssertionError, match="ended with 3"):
            terminal.type("(exit 3)\ntouch there\n")
        assert not (terminal.folder / "there").exists()
    finally:
        terminal.close()


# -------------------------------------------------------------------------------------------------- the reference


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "generate", module)
        spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_code_says(generator: ModuleType) -> None:
    assert PAGES["reference.md"] == generator.reference(), "run python docs/generate.py"
    assert "python docs/generate.py" in PAGES["reference.md"]


def test_the_reference_has_every_contract_and_no_other(generator: ModuleType) -> None:
    listed = {name for names in generator.CONTRACTS.values() for name in names}
    public = {
        name
        for name, value in vars(contracts).items()
        if inspect.isclass(value) and value.__module__.startswith(f"{contracts.__name__}.") and not name.startswith("_")
    }
    assert public <= listed
    assert listed - set(harness.__all__) == {"silent"}


def test_a_docstring_becomes_markdown(generator: ModuleType) -> None:
    text = "A ``word``, such as::\n\n    x = 1\n\n    y = 2\n\nAnd\n\n::\n\n    [table]\n"
    wanted = "A `word`, such as:\n\n```python\nx = 1\n\ny = 2\n```\n\nAnd\n\n```toml\n[table]\n```"
    assert generator.prose(text) == wanted


class Names(dict[str, Any]):
    """What the examples of the reference name: the harness' own things, and one of any kind for what is made up."""

    def __missing__(self, name: str) -> Any:
        if name in ("print", "len") or name.startswith("__"):
            raise KeyError(name)
        return Path() if name == "HERE" else lambda *arguments, **named: SimpleNamespace(name=name)


@pytest.mark.parametrize(
    "block", guide.blocks(PAGES["reference.md"]), ids=lambda block: f"{block.section}-{block.line}"
)
def test_the_examples_of_the_reference_run(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    if block.language == "toml":
        (group,) = tomllib.loads(block.text)["project"]["entry-points"]
        assert group == harness.plugin.manager.GROUP
        return
    if "harness.testing" in block.text:
        compile(block.text, block.section, "exec")  # tests of the kit run it
        return
    names = Names(hookimpl=hookimpl, compressor=compressor)
    exec(compile(block.text, block.section, "exec"), names)
    for name in HOOKS.keys() & names.keys():
        given: list[Any] = []
        record = {"cell": "a cell", "figures": {"auroc": {"value": 0.5}}}
        values = {"register": given.append, "record": record, "records": [record]}
        wanted = list(inspect.signature(names[name]).parameters)
        answer = names[name](**{argument: values[argument] for argument in wanted})
        assert given or answer or capsys.readouterr().out


# --------------------------------------------------------------------------------------------- names and commands


def implementations() -> Iterator[tuple[str, ast.FunctionDef]]:
    for page, block in BLOCKS:
        for node in ast.walk(ast.parse(block.text)) if block.language == "python" else ():
            if isinstance(node, ast.FunctionDef) and "hookimpl" in map(ast.unparse, node.decorator_list):
                yield f"{page}, line {block.line}", node


def test_hooks_in_the_guide_are_those_of_the_code() -> None:
    found = list(implementations())
    assert {node.name for _, node in found} == set(HOOKS)
    for where, node in found:
        arguments = [argument.arg for argument in node.args.args]
        parameters = list(inspect.signature(HOOKS[node.name]).parameters)
        assert arguments in (parameters, parameters[:1]), where  # pluggy passes only what an implementation takes


def test_commands_in_the_text_are_known() -> None:
    commands = {
        command for page in PAGES.values() for command in re.findall(r"`(harness [^`]+)`", guide.BLOCK.sub("", page))
    }
    assert len(commands) > 6
    for command in commands:
        arguments = shlex.split(command)[1:]
        if arguments[0] in cli.MOVED_COMMANDS:  # how an old result was made
            assert (ROOT / cli.MOVED_COMMANDS[arguments[0]]).exists()
        elif len(arguments) == 1:  # the command's name alone
            with pytest.raises(SystemExit, match="0"):
                cli._parser().parse_args([*arguments, "--help"])
        else:
            cli._parser().parse_args(arguments)


def test_context_in_the_guide_is_the_contract_s() -> None:
    used = set(re.findall(r"\bcontext\.(\w+)", PAGES["tutorial.md"]))
    known = {name for name in vars(contracts.StepContext) if not name.startswith("_")}
    assert used <= known | set(contracts.StepContext.__annotations__)
    assert used >= {name for name in known if not name.startswith("_")} - {"teach"}


@pytest.mark.parametrize("name", [*PAGES, "README.md"])
def test_links_lead_somewhere(name: str) -> None:
    folder = ROOT if name == "README.md" else DOCS
    for target in re.findall(r"\]\(([^)#\s]*)#?[^)\s]*\)", (folder / name).read_text()):
        assert "://" in target or (folder / target).exists(), target
    for page, anchor in re.findall(r"\]\(([\w-]+\.md)#([^)\s]+)\)", (folder / name).read_text()):
        headings = re.findall(r"^#+ (.*)$", (folder / page).read_text(), re.MULTILINE)
        slugs = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
        assert anchor in slugs, anchor


def test_files_in_the_text_are_there() -> None:
    for page, text in PAGES.items():
        for path in re.findall(r"`((?:plugins|tests|docs|suites/ptbxl)[\w/-]*/[\w./-]+)`", guide.BLOCK.sub("", text)):
            assert (ROOT / path).exists() or path.startswith("tests/test_thin"), f"{page}: {path}"
