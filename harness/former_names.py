"""Keep the public names of version 0.1 working for one release: modules, exported classes, members of contracts."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar

#: Modules that plugins imported, and the modules that replace them.
MODULES: Mapping[str, str] = {
    "harness.array_cache": "harness.data.cache",
    "harness.artefact": "harness.build.artefact",
    "harness.compressor": "harness.api.compressor",
    "harness.contracts": "harness.api",
    "harness.download": "harness.data.download",
    "harness.hookspecs": "harness.api.hookspecs",
    "harness.made_data": "harness.data.synthetic",
    "harness.operations": "harness.nn.operations",
    "harness.quality": "harness.stats.quality",
    "harness.structure": "harness.nn.structure",
    "harness.studies": "harness_studies",
    "harness.studies.document": "harness_studies.document",
}
#: Classes that ``harness`` and ``harness.api`` exported, and their present module.
MOVED: Mapping[str, str] = {"Study": "harness_studies"}
CONTRACTS: Mapping[str, str] = {"Evidence": "EvalContext", "Figure": "MetricSpec", "Part": "Split"}
#: Former names of exports, and their present names, by module.
EXPORTS: Mapping[str, Mapping[str, str]] = {
    "harness": CONTRACTS,
    "harness.api": CONTRACTS,
    "harness.nn.operations": {"Operations": "OperationCounts"},
    "harness.nn.structure": {
        "Described": "PrunableLayer",
        "Incoming": "WeightBlock",
        "like": "rebuild",
        "without": "drop_parameter",
    },
}


def former_export(module: str, name: str) -> Any:
    """Return what ``module`` exported as ``name`` in 0.1, with a warning. Call it from the module's ``__getattr__``."""
    if name in MOVED and module in ("harness", "harness.api"):
        warn(f"{module}.{name}", f"{MOVED[name]}.{name}", level=4)
        return getattr(importlib.import_module(MOVED[name]), name)
    present = EXPORTS[module].get(name)
    if present is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warn(f"{module}.{name}", f"{module}.{present}", level=4)
    return getattr(sys.modules[module], present)


def warn(former: str, present: str, level: int = 3) -> None:
    """Issue a DeprecationWarning for the code that uses a former name, ``level`` frames up."""
    message = f"{former} was renamed to {present} in version 0.2; version 0.3 removes the old name"
    warnings.warn(message, DeprecationWarning, stacklevel=level)


class FormerNames:
    """Base class of contracts: gives members that a subclass defines under a former name their present name."""

    #: Former names of attributes and methods, and their present names.
    _former_names: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for former, present in cls._former_names.items():
            if former in vars(cls) and present not in vars(cls):
                warn(f"{cls.__module__}.{cls.__qualname__}.{former}", present, level=4)
                setattr(cls, present, vars(cls)[former])


class FormerModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import modules by their former names."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        warn(spec.name, MODULES[spec.name])
        return importlib.import_module(MODULES[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module was executed under its present name."""


def install() -> None:
    """Make the former modules importable; a second call does nothing."""
    if not any(isinstance(finder, FormerModules) for finder in sys.meta_path):
        sys.meta_path.append(FormerModules())
