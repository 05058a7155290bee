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

#: Modules that plugins imported, and where their content is now.
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
#: Classes that ``harness`` and ``harness.api`` exported, and the module that has them now.
MOVED: Mapping[str, str] = {"Study": "harness_studies"}
CONTRACTS: Mapping[str, str] = {"Evidence": "EvalContext", "Figure": "MetricSpec", "Part": "Split"}
#: Names that modules export under another name now.
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
    """Return what ``module`` exported as ``name`` in 0.1; the body of that module's ``__getattr__``."""
    if name in MOVED and module in ("harness", "harness.api"):
        warn(f"{module}.{name}", f"{MOVED[name]}.{name}", level=4)
        return getattr(importlib.import_module(MOVED[name]), name)
    present = EXPORTS[module].get(name)
    if present is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warn(f"{module}.{name}", f"{module}.{present}", level=4)
    return getattr(sys.modules[module], present)


def warn(former: str, present: str, level: int = 3) -> None:
    """Warn the code that uses a former name, ``level`` frames up."""
    message = f"{former} is called {present} since version 0.2; the former name goes with version 0.3"
    warnings.warn(message, DeprecationWarning, stacklevel=level)


class FormerNames:
    """Base of contracts: what a subclass defines under a former name is found under the present one."""

    #: Former names of attributes and methods, and their present names.
    _former_names: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for former, present in cls._former_names.items():
            if former in vars(cls) and present not in vars(cls):
                warn(f"{cls.__module__}.{cls.__qualname__}.{former}", present, level=4)
                setattr(cls, present, vars(cls)[former])


class FormerModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import the module that a former name stands for."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        warn(spec.name, MODULES[spec.name])
        return importlib.import_module(MODULES[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module was executed under its present name."""


def install() -> None:
    """Make the former modules importable; a second call does nothing."""
    if not any(isinstance(finder, FormerModules) for finder in sys.meta_path):
        sys.meta_path.append(FormerModules())
