"""Compute cache keys: canonical JSON and its hash, the differences of two key documents, and digests of plugin code."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import itertools
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import distributions
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from harness.errors import UsageError

#: Raise it when the format of key documents changes, or when the kernel trains another model from the same document.
#: Artefacts with keys of an earlier schema are not found and are built again.
SCHEMA = 2
#: The package of the kernel. It is also the id of the kernel and of the built-in plugins in key documents.
KERNEL = "harness"
#: Folders of installed modules: neighbours there that no distribution lists have nothing to do with each other.
SITE_FOLDERS = ("site-packages", "dist-packages")


def canonical(document: Any) -> str:
    """Write ``document`` as JSON with one spelling for each value: sorted names, no spaces, no NaN."""
    return json.dumps(to_jsonable(document), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def key_of(document: Any) -> str:
    """The SHA-256 of the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical(document).encode()).hexdigest()


def to_jsonable(value: Any) -> Any:
    """Convert ``value`` to JSON types: dataclasses and mappings become objects, tuples and sets become lists.

    A whole float becomes an integer, so that ``keep=1`` and ``keep=1.0`` have the same key. Raises UsageError for a
    value that has no JSON form.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"{value} has no JSON form: keys and records hold finite numbers")
        return int(value) if value.is_integer() else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise UsageError(f"a mapping in a key needs strings as names, not {list(value)!r}")
        return {name: to_jsonable(entry) for name, entry in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((to_jsonable(entry) for entry in value), key=canonical)
    if isinstance(value, (list, tuple, range)):
        return [to_jsonable(entry) for entry in value]
    if isinstance(value, PurePath):
        return value.as_posix()
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return to_jsonable(value.item())
    raise UsageError(f"{value!r} ({type(value).__name__}) has no JSON form, so no key or record can hold it")


def non_default_fields(instance: Any) -> dict[str, Any]:
    """Convert a dataclass instance to JSON types, without the fields that are at their default value.

    So a new field with a default changes no key. Whoever changes an existing default must raise the ``version`` of
    the step, architecture or data set (``SCHEMA`` for the kernel's classes), because the key does not hold it. A
    default counts when it is a constant or an empty container; the values of other factories are always written.
    Dataclasses inside a field are written in full: two classes may differ in nothing but their defaults.
    """
    fields = {field: to_jsonable(getattr(instance, field.name)) for field in dataclasses.fields(instance)}
    return {field.name: value for field, value in fields.items() if not _is_default(field, value)}


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    default: Any = field.default
    if field.default_factory in (dict, list, set, frozenset, tuple):
        default = field.default_factory()
    try:
        return default is not dataclasses.MISSING and canonical(default) == canonical(value)
    except UsageError:  # a default without a JSON form, which no written value equals
        return False


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Explain why two documents have different keys, with a line for each value that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            name_path = f"{path}.{name}" if path else str(name)
            if name not in old:
                yield f"{name_path}: not given -> {canonical(new[name])}"
            elif name not in new:
                yield f"{name_path}: {canonical(old[name])} -> not given"
            else:
                yield from differences(old[name], new[name], name_path)
    elif isinstance(old, list) and isinstance(new, list) and any(isinstance(entry, Mapping) for entry in (*old, *new)):
        yield from differences(dict(enumerate(old)), dict(enumerate(new)), path)
    elif canonical(old) != canonical(new):
        yield f"{path}: {canonical(old)} -> {canonical(new)}"


def schema_change(old: Iterable[Mapping[str, Any]], new: Iterable[Mapping[str, Any]]) -> str | None:
    """A sentence for two artefacts whose key documents have different schemas; None when the schemas are the same.

    Across schemas the documents differ although the models may not, so their differences explain nothing.
    """
    schemas = [sorted({document.get("schema", 1) for document in documents}) for documents in (old, new)]
    if schemas[0] == schemas[1]:
        return None
    first, second = (", ".join(map(str, schema)) for schema in schemas)
    return f"the keys have different schemas ({first} -> {second}), so the cause of a difference cannot be named"


# ---------------------------------------------------------------------------------------------------- code digests


@functools.cache
def code_digest(kind: type) -> str | None:
    """Digest the code that defines ``kind``, as 16 hex digits.

    It covers the module of ``kind``, the modules of its bases that derive from a class of the kernel, and all modules
    of the same project that these import, at any depth, in functions and conditional branches too. The same project
    is the top-level package of the importing module, and top-level modules that the same distribution installs
    (or that lie in the same source folder). A package's ``__init__`` counts when a module imports a name that it
    binds, or when it does more than import and define. ``importlib.import_module`` counts with a literal name.

    The digest does not depend on comments, docstrings, layout, the order of neighbouring imports, strings in
    ``raise`` statements and in logging calls, imports under ``if TYPE_CHECKING``, the file names of modules, and the
    paths below ``harness`` from which names are imported. Other distributions, and names that are looked up at
    run time, are not covered.

    Returns None for classes of the kernel, which raise their version instead, and when there is no source to read.
    """
    if _top(kind.__module__) == KERNEL or _code(kind.__module__) is None:
        return None
    bases = [base for base in kind.__mro__[1:] if any(_top(parent.__module__) == KERNEL for parent in base.__mro__)]
    waiting = [kind.__module__, *(base.__module__ for base in bases if _top(base.__module__) != KERNEL)]
    texts: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        code = None if name in texts else _code(name)
        if code is not None:
            texts[name] = code.text
            waiting += code.imported
    first = texts.pop(kind.__module__)
    return hashlib.sha256(repr([first, *sorted(texts.values())]).encode()).hexdigest()[:16]


class _Import(NamedTuple):
    """One name that an import statement binds: ``name`` of ``module``, or the module itself when ``name`` is empty.

    Parsed from a file, ``module`` may begin with dots.
    """

    module: str
    name: str
    bound: str


class _Source(NamedTuple):
    """A parsed module: its cleaned text, in which runs of imports are numbered, and more data for the digest."""

    text: str
    runs: tuple[tuple[_Import, ...], ...]
    #: The modules that calls import by a literal name.
    literal_imports: tuple[str, ...]
    #: The names of its functions, classes and variables, and its string constants.
    names: frozenset[str]
    strings: frozenset[str]
    #: Whether importing it does no more than import, define and assign names.
    is_passive: bool

    @property
    def imports(self) -> list[_Import]:
        return [entry for run in self.runs for entry in run]


class _Code(NamedTuple):
    """The contribution of a module to a digest, and the modules of its project that it imports."""

    text: str
    imported: list[str]


def _code(name: str) -> _Code | None:
    """The code of a module of a plugin; None when it has no Python source."""
    source = _source(name)
    if source is None:
        return None
    runs = [[_resolve(entry, name) for entry in run] for run in source.runs]
    imports = [sorted({(_source_id(entry.module, name), entry.name, entry.bound) for entry in run}) for run in runs]
    imported = {module for run in runs for entry in run for module in _reached(entry, name)}
    imported |= {_absolute(literal, name) for literal in source.literal_imports}
    imported |= {parent for parent in _parents(name) if (code := _source(parent)) is not None and not code.is_passive}
    followed = sorted(module for module in imported if _same_project(_top(name), _top(module)))
    compiled = [digest for digest in map(_compiled_digest, followed) if digest]
    return _Code(repr([source.text, imports, compiled]), followed)


def _compiled_digest(module: str) -> str:
    """The hash of the file of a module that is not Python source; empty for all others."""
    file = _file(module)
    if file is None or _source(module) is not None:
        return ""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _source_id(module: str, importer: str) -> str:
    """Represent ``module`` in an import: by its content if it is of the importer's project, else by its name.

    Of its own imports the content has the bound names alone, because modules may import each other.
    """
    if _top(module) == KERNEL:
        return KERNEL
    source = _source(module) if _same_project(_top(importer), _top(module)) else None
    if source is None:
        return module
    bound = sorted(entry.bound for entry in source.imports)
    return hashlib.sha256(repr([source.text, bound]).encode()).hexdigest()[:16]


def _resolve(entry: _Import, importer: str) -> _Import:
    """The import with an absolute module, which is the submodule when ``name`` is one."""
    module = _absolute(entry.module, importer)
    if entry.name and _same_project(_top(importer), _top(module)):
        submodule = f"{module}.{entry.name}"
        if _file(submodule) is not None and not _binds(module, entry.name):
            return _Import(submodule, "", entry.bound)
    return _Import(module, entry.name, entry.bound)


def _reached(entry: _Import, importer: str) -> Iterator[str]:
    """The modules whose code a resolved import reaches."""
    yield entry.module
    if entry.name == "*" and _same_project(_top(importer), _top(entry.module)):
        # __all__ may name submodules, which a star imports too.
        source = _source(entry.module)
        yield from () if source is None else (f"{entry.module}.{text}" for text in source.strings)
    elif entry.name:
        yield f"{entry.module}.{entry.name}"
    elif entry.bound == entry.module:  # "import a.b" binds a
        yield from _parents(entry.module)


def _binds(package: str, name: str) -> bool:
    """Whether the code of ``package`` binds ``name`` itself, other than to its submodule of that name."""
    source = _source(package)
    if source is None:
        return False
    bindings = [entry for entry in source.imports if (_absolute(entry.module, package), entry.name) != (package, name)]
    return name in source.names or any(entry.bound in (name, "*") for entry in bindings)


def _absolute(module: str, importer: str) -> str:
    """The absolute name of a module that ``importer`` may name relatively."""
    level = len(module) - len(module.lstrip("."))
    if not level:
        return module
    file = _file(importer)
    package = importer.split(".") if file is not None and file.name == "__init__.py" else importer.split(".")[:-1]
    return ".".join([*package[: len(package) - level + 1], *filter(None, [module[level:]])])


def _parents(module: str) -> list[str]:
    names = module.split(".")
    return [".".join(names[:length]) for length in range(1, len(names))]


def _top(module: str) -> str:
    return module.partition(".")[0]


@functools.cache
def _same_project(importer: str, imported: str) -> bool:
    """Whether two top-level modules are of one project: the same, or neighbours that one distribution installs."""
    if importer == imported:
        return True
    if imported == KERNEL or imported in sys.stdlib_module_names:
        return False
    folder = _folder(importer)
    if folder is None or folder != _folder(imported):
        return False
    owner = _owner(folder, importer)
    return owner == _owner(folder, imported) and (owner is not None or folder.name not in SITE_FOLDERS)


def _folder(top: str) -> Path | None:
    """The folder that holds a top-level module."""
    file = _file(top)
    if file is not None:
        return file.parent.parent if file.name == "__init__.py" else file.parent
    spec = _spec(top)
    locations = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(locations[0]).parent if locations else None


@functools.cache
def _owner(folder: Path, top: str) -> str | None:
    """The distribution installed in ``folder`` that lists the top-level module; None when none does."""
    for name, listed in _installed(folder):
        if f"\n{top}/" in listed or f"\n{top}." in listed:
            return name
    return None


@functools.cache
def _installed(folder: Path) -> list[tuple[str, str]]:
    """The names of the distributions in ``folder``, each with the lines of its list of files."""
    installed = distributions(path=[str(folder)])
    return [(distribution.name, "\n" + (distribution.read_text("RECORD") or "")) for distribution in installed]


def _file(module: str) -> Path | None:
    """The file of a module, whether it was imported or not."""
    origin = getattr(sys.modules.get(module), "__file__", None)
    if origin is None and (spec := _spec(module)) is not None and spec.has_location:
        origin = spec.origin
    return Path(origin) if isinstance(origin, str) else None


@functools.cache
def _spec(module: str) -> ModuleSpec | None:
    """The specification of a module, found without importing its parents."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if isinstance(spec, ModuleSpec):
        return spec
    parent, _, _ = module.rpartition(".")
    try:
        if not parent:
            return importlib.util.find_spec(module)
        above = _spec(parent)
    except (ImportError, ValueError):
        return None
    locations = None if above is None else above.submodule_search_locations
    return None if locations is None else PathFinder.find_spec(module, list(locations))


def _source(module: str) -> _Source | None:
    """The parsed source of a module; None when it has none or is not Python."""
    file = _file(module)
    try:
        return _parse(file.read_bytes()) if file is not None and file.suffix == ".py" else None
    except OSError:
        return None


@functools.cache
def _parse(content: bytes) -> _Source | None:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return None
    nodes = list(ast.walk(tree))
    names = {getattr(node, "name", None) or getattr(node, "id", None) for node in nodes}
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    is_passive = all(map(_is_passive, tree.body))
    cleaner = _Cleaner(nodes)
    text = ast.unparse(cleaner.visit(tree))
    return _Source(
        text,
        tuple(cleaner.runs),
        tuple(cleaner.literal_imports),
        frozenset(filter(None, names)),
        frozenset(filter(str.isidentifier, strings)),
        is_passive,
    )


def _is_passive(statement: ast.stmt) -> bool:
    """Whether a statement of a module does no more than import, define and assign names."""
    match statement:
        case ast.If() | ast.Try():
            handlers = statement.handlers if isinstance(statement, ast.Try) else []
            inner = [*statement.body, *statement.orelse, *getattr(statement, "finalbody", [])]
            inner += [child for handler in handlers for child in handler.body]
            return all(map(_is_passive, inner))
        case ast.Assign():
            return all(isinstance(target, ast.Name) for target in statement.targets)
        case ast.AnnAssign() | ast.AugAssign():
            return isinstance(statement.target, ast.Name)
        case ast.Expr():
            return isinstance(statement.value, ast.Constant)
    kinds = ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Pass
    return isinstance(statement, kinds)


def _imports(statement: ast.Import | ast.ImportFrom) -> list[_Import]:
    if isinstance(statement, ast.ImportFrom):
        module = "." * statement.level + (statement.module or "")
        return [_Import(module, alias.name, alias.asname or alias.name) for alias in statement.names]
    modules = {alias: KERNEL if _top(alias.name) == KERNEL else alias.name for alias in statement.names}
    return [_Import(module, "", alias.asname or module) for alias, module in modules.items()]


class _Cleaner(ast.NodeTransformer):
    """Remove from a tree the code that a digest omits, and replace each run of neighbouring imports by its number."""

    #: The last part of the names on which logging methods are called, in lower case and without underscores.
    LOGGERS = ("log", "logger", "logging", "warnings")
    METHODS = ("debug", "info", "warning", "warn", "error", "exception", "critical", "log")

    def __init__(self, nodes: Iterable[ast.AST]) -> None:
        """``nodes`` are all nodes of the tree."""
        self.runs: list[tuple[_Import, ...]] = []
        self.literal_imports: list[str] = []
        self._kernel_paths = {
            alias.name
            for node in nodes
            if isinstance(node, ast.Import)
            for alias in node.names
            if alias.asname is None and alias.name.startswith(f"{KERNEL}.")
        }

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                setattr(node, block, list(self._number_imports(statements)))
        if getattr(node, "body", None) == []:
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def _number_imports(self, statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
        for is_import, run in itertools.groupby(statements, lambda node: isinstance(node, ast.Import | ast.ImportFrom)):
            if is_import:
                yield ast.Expr(ast.Constant(f"imports {len(self.runs)}"))
                self.runs.append(tuple(entry for node in run for entry in _imports(node)))  # type: ignore[arg-type]
            else:
                yield from run

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING":
            block = ast.Module(node.orelse, [])
            super().generic_visit(block)
            return block.body
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if self._kernel_paths and ast.unparse(node) in self._kernel_paths:
            return ast.Name(KERNEL, node.ctx)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        self.generic_visit(node)
        return _MessageRemover().visit(node)  # type: ignore[no-any-return]

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
        if name in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            self.literal_imports += [node.args[0].value] if isinstance(node.args[0].value, str) else []
        if name in self.METHODS and isinstance(node.func, ast.Attribute):
            logger = ast.unparse(node.func.value)
            if "getLogger(" in logger or logger.rpartition(".")[2].strip("_").lower() in self.LOGGERS:
                return _MessageRemover().visit(node)  # type: ignore[no-any-return]
        return node


class _MessageRemover(ast.NodeTransformer):
    """Replace strings by the empty string; expressions inside f-strings stay."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        values = [self.visit(value.value) for value in node.values if isinstance(value, ast.FormattedValue)]
        return ast.JoinedStr([ast.FormattedValue(value, -1) for value in values]) if values else ast.Constant("")
