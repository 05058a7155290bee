"""A new plugin's package: written from the templates, whole or not at all, under a name that will work."""

from __future__ import annotations

import ast
import builtins
import contextlib
import dataclasses
import functools
import importlib.util
import keyword
import os
import re
import shutil
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.metadata import entry_points
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from harness.api import Task
from harness.errors import UsageError, explain_disk_errors, nearest
from harness.plugin.manager import GROUP, Plugins, installed

PREFIX = "harness"
SUFFIX = ".template"
#: What can be made, each with the last of its three commands and what its README says of that.
KINDS: Mapping[str, tuple[str, str]] = {
    "compressor": (
        "pytest suites/compression.py --harness-preset=smoke",
        "The third sets it beside the built-in compressors. It only shows that it runs: without the option the same\n"
        "suite takes minutes, and its figures mean something.",
    ),
    **dict.fromkeys(
        ("dataset", "architecture", "metric", "runtime"),
        ("harness plugin check {name}", "The third runs the checks on what is installed, without the tests."),
    ),
}


@dataclasses.dataclass(frozen=True)
class Names:
    """What a plugin called NAME is called where: for "low-rank"...

    ``name``, low_rank, is what suites and the plugin's entry point say (a hyphen parts the names in that of a cell);
    then come the ``distribution``, harness-low-rank, its ``module``, harness_low_rank, and the ``class_name``, LowRank.
    """

    name: str
    distribution: str
    module: str
    class_name: str

    @classmethod
    def of(cls, name: str) -> Names:
        """Raises UsageError for a NAME that is none, with one that is."""
        if not re.fullmatch(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*", name) or name.startswith(PREFIX):
            raise UsageError(
                f"{name!r} cannot be a plugin's name: write small letters and digits, with hyphens between the words, "
                f"and without the {PREFIX!r} that the package's name begins with{_suggestion(name)}"
            )
        words = re.split("[_-]", name)
        return cls(
            name="_".join(words),
            distribution="-".join([PREFIX, *words]),
            module="_".join([PREFIX, *words]),
            class_name="".join(map(str.capitalize, words)),
        )


@dataclasses.dataclass(frozen=True)
class Written:
    """A package that was written: its ``files`` in ``folder``, and the ``commands`` to type there, in order."""

    folder: Path
    files: tuple[PurePosixPath, ...]
    commands: tuple[str, ...]


def new(kind: str, name: str, into: Path | None = None) -> Written:
    """Write the package of a plugin called ``name`` into the folder ``into``, by default ./harness-NAME.

    Raises UsageError for a kind, a name or a folder that will not do, StoreError for a disk that will not, and then
    leaves nothing behind.
    """
    if kind not in KINDS:
        raise UsageError(f"no plugin is of kind {kind!r}{nearest(kind, KINDS)}")
    names = Names.of(name)
    check_free(kind, names, installed())
    folder = (into or Path(names.distribution)).absolute()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the package with --into")
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; name another folder for the package with --into, or empty this one")
    files = render(kind, names)
    with explain_disk_errors(f"cannot write the package into {folder}", "or name another folder with --into"):
        _write(folder, files)
    return Written(folder, tuple(files), _commands(kind, names))


def check_free(kind: str, names: Names, plugins: Plugins) -> None:
    """Raise UsageError when anything that the package would be called is something already."""
    name = names.name
    if keyword.iskeyword(name) or hasattr(builtins, name):
        raise UsageError(f"{name!r} is a word of Python; choose another name, such as 'my-{name}'")
    if name in sys.stdlib_module_names:
        raise UsageError(
            f"{name!r} is a module of Python's standard library, which the suites that name the plugin may want too; "
            f"choose another name, such as 'my-{name}'"
        )
    for registry in (plugins.datasets, plugins.architectures, plugins.steps, plugins.metrics, plugins.runtimes):
        for registered in (name, f"{name}-synthetic"):
            if registered in registry:
                raise UsageError(
                    f"{registry.kind} {registered!r} is already registered by plugin {registry.origin(registered)}; "
                    "choose another name, or uninstall that one"
                )
    if taken := {names.name, names.class_name} & _own_words(kind):
        raise UsageError(
            f"{min(taken)!r} is a word that the written code uses itself; choose another name, such as 'my-{name}'"
        )
    for metric in map(plugins.metrics.get, plugins.metrics):
        if kind == "metric" and name in [figure.name for figure in metric.specs(Task((1, 1), ("label",)))]:
            raise UsageError(f"metric {metric.name!r} already gives a figure called {name!r}; choose another name")
    if name in entry_points(group=GROUP).names:
        raise UsageError(f"a plugin called {name!r} is already installed; choose another name, or uninstall that one")
    for module in (names.module, name):
        if importlib.util.find_spec(module) is not None:
            raise UsageError(f"a module called {module!r} is already installed; choose another name, or uninstall it")


def render(kind: str, names: Names) -> dict[PurePosixPath, str]:
    """The texts of a package's files, by their paths in it."""
    command, then = KINDS[kind]
    values = {
        **dataclasses.asdict(names),
        "kind": kind,
        "a": "an" if kind[0] in "aeiou" else "a",
        "try_it": command.format(name=names.name),
        "then": then,
    }
    root = resources.files("harness.plugin") / "templates"
    files = {}
    for path, text in (pair for part in ("every", kind) for pair in _templates(root / part, PurePosixPath())):
        target = PurePosixPath(str(path).removesuffix(SUFFIX).replace("NAME", names.name))
        files[target] = string.Template(text).substitute(values)
    return files


def _templates(folder: Traversable, inside: PurePosixPath) -> Iterator[tuple[PurePosixPath, str]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _templates(entry, inside / entry.name)
        elif entry.name.endswith(SUFFIX):
            yield inside / entry.name, entry.read_text(encoding="utf-8")


@functools.cache
def _own_words(kind: str) -> frozenset[str]:
    """Every name that the written code has besides the plugin's own: that one would hide it, or be hidden by it."""
    placeholder = Names("zzz", "harness-zzz", "harness_zzz", "Zzz")
    words: set[str] = set()
    for path, text in render(kind, placeholder).items():
        for node in ast.walk(ast.parse(text)) if path.suffix == ".py" else ():
            match node:
                case ast.Name(id=word) | ast.arg(arg=word):
                    words.add(word)
                case ast.alias(name=word) | ast.FunctionDef(name=word) | ast.ClassDef(name=word):
                    words.add(word.partition(".")[0])
    return frozenset(words - {placeholder.name, placeholder.class_name})


def _suggestion(name: str) -> str:
    parted = re.sub(r"([a-z0-9])([A-Z])", r"\1-\2", name).lower()
    words = [word for word in re.split(r"[^a-z0-9]+", parted) if word]
    if words[:1] == [PREFIX]:
        del words[0]
    plain = "-".join(words).lstrip("0123456789-")
    return f", as in {plain!r}" if plain and not plain.startswith(PREFIX) else ", as in 'low-rank'"


def _write(folder: Path, files: Mapping[PurePosixPath, str]) -> None:
    """Write into ``folder``, which is empty or not there: first all beside or within it, then all in its place."""
    there = folder.is_dir()
    stage = (folder if there else folder.parent) / f".{folder.name}.{os.getpid()}"
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, stage, ignore_errors=True)
        for path, text in files.items():
            target = stage / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        if not there:
            stage.rename(folder)
            return
        for entry in sorted(stage.iterdir()):
            entry.rename(folder / entry.name)


def _commands(kind: str, names: Names) -> tuple[str, ...]:
    return ("python -m pip install -e '.[test]'", "pytest", KINDS[kind][0].format(name=names.name))


def typed(commands: Sequence[str]) -> list[str]:
    """The commands as they are to be typed here: with their full paths when this environment is not the active one."""
    home = Path(sys.executable).parent
    lines = []
    for command in commands:
        program, _, rest = command.partition(" ")
        found = shutil.which(program)
        active = found is not None and Path(found).parent == home
        lines.append(f"{program if active else home / program} {rest}".rstrip())
    return lines
