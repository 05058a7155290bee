"""Writes docs/reference.md from the hooks, the contracts and the kit's checks: ``python docs/generate.py``.

It reads their source and imports nothing, so that it needs only Python, and shows signatures as they were written.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
HARNESS = DOCS.parent / "harness"
KIT = HARNESS / "testing"

INTRODUCTION = """\
# Reference for plugins

Made by `python docs/generate.py` from the docstrings of the code; change it there. The [tutorial](tutorial.md) shows
how the parts go together. All that is named here but `silent` is imported from `harness`.
"""

#: The contracts: heading -> what is below it. A test holds that none is left out.
CONTRACTS = {
    "Steps": ("Step", "StepContext", "Loss"),
    "Data sets": ("Dataset", "Task", "Data", "Split", "Progress", "silent"),
    "Architectures": ("Architecture", "Training"),
    "Metrics": ("Metric", "MetricSpec", "EvalContext", "WeightedMetric"),
    "Runtimes": ("Runtime", "Predictor", "Profile"),
    "Report sections": ("Section", "Table", "Chart", "ReportContext"),
    "Kinds of things": ("Kind",),
}

#: The kit's modules that authors import.
KINDS = ("steps", "architectures", "datasets", "metrics", "runtimes")

ERRORS = """\
What a plugin raises to be understood: `UsageError` for a wrong parameter, in `__post_init__`; `Unsupported` for a
network that a method cannot handle; `DataError` for data that are not as the format promises; `CellError` when a result
is not what the recipe declares. Anything else that it raises is reported with its file and line as the failure of that
cell. In every case the other cells run.
"""


@dataclasses.dataclass(frozen=True)
class Source:
    """A module's top level by name, and the comments (``#:``) above its assignments."""

    text: str
    tree: ast.Module

    @classmethod
    def read(cls, file: Path) -> Source:
        text = file.read_text()
        return cls(text, ast.parse(text))

    def __contains__(self, name: str) -> bool:
        return any(_name(node) == name for node in self.tree.body)

    def __getitem__(self, name: str) -> ast.stmt:
        return next(node for node in self.tree.body if _name(node) == name)

    def comment(self, node: ast.stmt) -> str:
        """The lines of ``#:`` right above a statement, joined."""
        lines, found = self.text.splitlines()[: node.lineno - 1], []
        while lines and (match := re.match(r"\s*#: ?(.*)", lines.pop())):
            found.append(match[1])
        return " ".join(reversed(found))


def reference() -> str:
    """The whole page."""
    hooks = Source.read(HARNESS / "api" / "hookspecs.py")
    contracts = [Source.read(file) for file in sorted((HARNESS / "api").glob("[!_]*.py"))]
    parts = [INTRODUCTION, "## Hooks", prose(_doc(hooks.tree).partition("\n\n")[2])]
    parts += [hook(node) for node in hooks.tree.body if isinstance(node, ast.FunctionDef)]
    decorator = Source.read(HARNESS / "api" / "compressor.py")["compressor"]
    assert isinstance(decorator, ast.FunctionDef)
    for heading, names in CONTRACTS.items():
        parts.append(f"## {heading}")
        parts += [thing(source, source[name]) for name in names for source in contracts if name in source]
        if heading == "Steps":
            parts.append(f"### `@compressor`\n\n{prose(_doc(decorator))}")
    parts += ["## Errors", ERRORS, "\n".join(errors()), "## Checks", *checks()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def hook(node: ast.FunctionDef) -> str:
    """A hook: its name, argument list, reason and example."""
    return f"### `{node.name}`\n\n`{_signature(node)}`\n\n{prose(_doc(node))}"


def thing(source: Source, node: ast.stmt) -> str:
    """A class, a function or an alias of the contracts."""
    if isinstance(node, ast.ClassDef):
        members = "\n".join(_members(source, node))
        return f"### `{node.name}`\n\n{prose(_doc(node))}\n\n{members}".rstrip()
    if isinstance(node, ast.FunctionDef):
        return f"### `{_signature(node)}`\n\n{prose(_doc(node))}"
    assert isinstance(node, ast.Assign)
    return f"### `{_name(node)}`\n\n{prose(source.comment(node))}\n\n`{_unquoted(ast.unparse(node.value))}`"


def errors() -> Iterator[str]:
    """The errors for users, each with what it means."""
    for node in Source.read(HARNESS / "errors.py").tree.body:
        if isinstance(node, ast.ClassDef):
            bases = ", ".join(map(ast.unparse, node.bases))
            yield f"- **`{node.name}({bases})`** {_line(_doc(node))}"


def checks() -> Iterator[str]:
    """The conformance kit: a module a kind, and its checks."""
    yield prose(_doc(Source.read(KIT / "__init__.py").tree))
    for kind in KINDS:
        rows = "\n".join(f"- **`{node.name}`** {_line(_doc(node))}".rstrip() for node in _checks(KIT / f"{kind}.py"))
        yield f"### `harness.testing.{kind}`\n\n{prose(_doc(Source.read(KIT / f'{kind}.py').tree))}\n\n{rows}"


def _checks(file: Path) -> Iterator[ast.FunctionDef]:
    """The tests that somebody gets who imports all of a module of the kit."""
    for node in Source.read(file).tree.body:
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            yield from _checks(KIT / f"{(node.module or '').rpartition('.')[2]}.py")
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node


def prose(docstring: str) -> str:
    """A docstring as Markdown: literals, and the blocks after ``::`` as code."""
    done: list[str] = []
    lines = docstring.strip().splitlines()
    while lines:
        line = lines.pop(0)
        text = re.sub(r"``(.+?)``", r"`\1`", line)
        if not line.endswith("::"):
            done.append(text)
            continue
        if line != "::":
            done += [text[:-1], ""]
        code: list[str] = []
        while lines and (not lines[0] or lines[0].startswith("    ")):
            code.append(lines.pop(0)[4:])
        block = "\n".join(code).strip("\n")
        done += [f"```{'toml' if block.startswith('[') else 'python'}", block, "```", ""]
    return "\n".join(done).strip()


def _members(source: Source, owner: ast.ClassDef) -> Iterator[str]:
    """The attributes and methods that plugins see, each a point of a list."""
    for node in owner.body:
        name = _name(node)
        if name is None or (name.startswith("_") and name != "__call__"):
            continue
        if isinstance(node, ast.AnnAssign):
            value = "" if node.value is None else f" = {_unquoted(ast.unparse(node.value))}"
            kind = re.sub(r"^ClassVar\[(.*)\]$", r"\1", _unquoted(ast.unparse(node.annotation)))
            yield f"- **`{name}: {kind}{value}`** {_line(source.comment(node))}".rstrip()
        elif isinstance(node, ast.FunctionDef):
            marks = [ast.unparse(decorator) for decorator in node.decorator_list]
            shown = f"{name}: {ast.unparse(node.returns)}" if "property" in marks and node.returns else _signature(node)
            needed = " (to be defined)" if "abc.abstractmethod" in marks else ""
            yield f"- **`{shown}`**{needed} {_line(_doc(node))}".rstrip()


def _signature(node: ast.FunctionDef) -> str:
    """As it was written, without ``self``."""
    arguments = re.sub(r"^(self|cls)(, /)?(, )?", "", ast.unparse(node.args))
    arguments = re.sub(r"(?<=[\w\]])=", " = ", arguments)
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    return _unquoted(f"{node.name}({arguments}){returns}")


def _name(node: ast.stmt) -> str | None:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return node.name
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
    return target.id if isinstance(target, ast.Name) else None


def _doc(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    return ast.get_docstring(node) or ""


def _line(text: str) -> str:
    """Prose in one line, for a point of a list."""
    return " ".join(prose(text).split())


def _unquoted(text: str) -> str:
    """Forward references without their quotes; a text that is a value keeps its own."""
    return re.sub(r"'(torch\.[\w.]+(?: \| None)?)'", r"\1", text)


if __name__ == "__main__":
    (DOCS / "reference.md").write_text(reference())
