"""Write the package of a new plugin from templates, atomically, after checking that its name is free."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import importlib.util
import keyword
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
from harness.files import temporary_folder
from harness.plugin.manager import GROUP, Plugins, installed

PREFIX = "harness"
SUFFIX = ".template"
#: The kinds of plugins, each with the last of the three commands to run and the README's remark on it.
KINDS: Mapping[str, tuple[str, str]] = {
    "compressor": (
        "pytest suites/compression.py --harness-preset=smoke",
        "The third compares it with the built-in compressors. It only shows that the plugin runs: without the option,\n"
        "the suite takes minutes and its figures are meaningful.",
    ),
    **dict.fromkeys(
        ("dataset", "architecture", "metric", "runtime"),
        ("harness plugin check {name}", "The third runs the checks on what is installed, without the tests."),
    ),
}


@dataclasses.dataclass(frozen=True)
class Names:
    """The names of a plugin, as in these examples for "low-rank".

    ``name`` (low_rank) is used in suites and in the entry point; it has no hyphen, which separates the parts of a
    cell's name. The others are ``distribution`` (harness-low-rank), ``module`` (harness_low_rank) and ``class_name``
    (LowRank).
    """

    name: str
    distribution: str
    module: str
    class_name: str

    @classmethod
    def of(cls, name: str) -> Names:
        """Derive the names from ``name``. Raises UsageError, with a suggestion, if it is invalid."""
        if not re.fullmatch(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*", name) or name.startswith(PREFIX):
            raise UsageError(
                f"{name!r} is not a valid plugin name: use lowercase letters and digits, with hyphens between the "
                f"words, and leave out {PREFIX!r}, with which the package's name begins{_suggestion(name)}"
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
    """A written package: its ``files`` in ``folder``, and the ``commands`` to run there, in order."""

    folder: Path
    files: tuple[PurePosixPath, ...]
    commands: tuple[str, ...]


def new(kind: str, name: str, into: Path | None = None) -> Written:
    """Write the package of a plugin called ``name`` into the folder ``into``, by default ./harness-NAME.

    Raises UsageError for an invalid kind, name or folder, and StoreError when the disk cannot be written; then no file
    is left.
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
    """Raise UsageError if one of the package's names is already in use."""
    name = names.name
    if keyword.iskeyword(name) or hasattr(builtins, name):
        raise UsageError(f"{name!r} is a keyword or a builtin of Python; choose another name, such as 'my-{name}'")
    if name in sys.stdlib_module_names:
        raise UsageError(
            f"{name!r} is a module of Python's standard library, which suites may import too; "
            f"choose another name, such as 'my-{name}'"
        )
    for registry in (plugins.datasets, plugins.architectures, plugins.steps, plugins.metrics, plugins.runtimes):
        for registered in (name, f"{name}-synthetic"):
            if registered in registry:
                raise UsageError(
                    f"{registry.kind} {registered!r} is already registered by plugin {registry.origin(registered)}; "
                    "choose another name, or uninstall that one"
                )
    if used := {names.name, names.class_name} & _own_words(kind):
        raise UsageError(
            f"{min(used)!r} is a name that the generated code uses itself; choose another name, such as 'my-{name}'"
        )
    for metric in map(plugins.metrics.get, plugins.metrics):
        if kind == "metric" and name in [figure.name for figure in metric.specs(Task((1, 1), ("label",)))]:
            raise UsageError(f"metric {metric.name!r} already has a figure called {name!r}; choose another name")
    if name in entry_points(group=GROUP).names:
        raise UsageError(f"a plugin called {name!r} is already installed; choose another name, or uninstall that one")
    for module in (names.module, name):
        if importlib.util.find_spec(module) is not None:
            raise UsageError(f"a module called {module!r} is already installed; choose another name, or uninstall it")


def render(kind: str, names: Names) -> dict[PurePosixPath, str]:
    """Return the texts of a package's files by their paths in it."""
    command, remark = KINDS[kind]
    values = {
        **dataclasses.asdict(names),
        "kind": kind,
        "a": "an" if kind[0] in "aeiou" else "a",
        "try_it": command.format(name=names.name),
        "then": remark,
    }
    root = resources.files("harness.plugin") / "templates"
    files = {}
    for path, text in (pair for folder in ("every", kind) for pair in _templates(root / folder, PurePosixPath())):
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
    """Return every name in the generated code except the plugin's own, which must not shadow any of them."""
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
    separated = re.sub(r"([a-z0-9])([A-Z])", r"\1-\2", name).lower()
    words = [word for word in re.split(r"[^a-z0-9]+", separated) if word]
    if words[:1] == [PREFIX]:
        del words[0]
    plain = "-".join(words).lstrip("0123456789-")
    return f", as in {plain!r}" if plain and not plain.startswith(PREFIX) else ", as in 'low-rank'"


def _write(folder: Path, files: Mapping[PurePosixPath, str]) -> None:
    """Write into ``folder``, which is empty or missing: all files in a temporary folder first, then rename them."""
    exists = folder.is_dir()
    home = folder if exists else folder.parent
    home.mkdir(parents=True, exist_ok=True)
    with temporary_folder(home) as temporary:
        stage = Path(temporary) / folder.name
        for path, text in files.items():
            target = stage / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        if not exists:
            stage.rename(folder)
            return
        for entry in sorted(stage.iterdir()):
            entry.rename(folder / entry.name)


def _commands(kind: str, names: Names) -> tuple[str, ...]:
    return ("python -m pip install -e '.[test]'", "pytest", KINDS[kind][0].format(name=names.name))


def typed(commands: Sequence[str]) -> list[str]:
    """Return the commands as a user types them: with full paths if this environment is not the active one."""
    home = Path(sys.executable).parent
    lines = []
    for command in commands:
        program, _, rest = command.partition(" ")
        location = shutil.which(program)
        active = location is not None and Path(location).parent == home
        lines.append(f"{program if active else home / program} {rest}".rstrip())
    return lines
