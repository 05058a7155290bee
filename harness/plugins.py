"""Loading plugins one by one: a broken one is named and left out, and everything else runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any, Generic, TypeVar

import pluggy

from harness import hookspecs
from harness.contracts import Architecture, Dataset, Metric, Runtime, Step
from harness.errors import UsageError, describe_error, nearest
from harness.parameters import parameter_types
from harness.steps import Train

GROUP = "harness"
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Origin:
    """Who brought a registered thing: the plugin's entry point, its distribution and that one's version."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.plugin} ({self.distribution} {self.version})"


#: The kernel itself, which brings the step that trains.
KERNEL = Origin("kernel", "harness", version("harness"))


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why a plugin, or one thing that it brings, was left out."""

    origin: Origin
    reason: str

    def __str__(self) -> str:
        return f"plugin {self.origin}: {self.reason}"


class Registry(Generic[T]):
    """The things of one kind by name, in the order of their registration, each with its origin."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, tuple[T, Origin]] = {}

    def add(self, name: str, item: T, origin: Origin) -> None:
        """Register ``item``; raises UsageError when the name is taken, naming both sides."""
        if name in self._items:
            raise UsageError(f"{self.kind} {name!r} is already registered by plugin {self._items[name][1]}")
        self._items[name] = (item, origin)

    def get(self, name: str) -> T:
        """The thing called ``name``; raises UsageError with the nearest right names."""
        return self._entry(name)[0]

    def origin(self, name: str) -> Origin:
        return self._entry(name)[1]

    def _entry(self, name: str) -> tuple[T, Origin]:
        try:
            return self._items[name]
        except KeyError:
            raise UsageError(f"no {self.kind} is called {name!r}{nearest(name, self._items)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __len__(self) -> int:
        return len(self._items)


class Plugins:
    """Every plugin that could be loaded, what they registered, and what was left out and why."""

    def __init__(self) -> None:
        self.datasets: Registry[Dataset] = Registry("dataset")
        self.architectures: Registry[Architecture] = Registry("architecture")
        self.steps: Registry[type[Step]] = Registry("step")
        self.metrics: Registry[Metric] = Registry("metric")
        self.runtimes: Registry[Runtime] = Registry("runtime")
        self.steps.add(Train.name, Train, KERNEL)
        self.problems: list[Problem] = []
        self.origins: list[Origin] = []
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        #: hook -> registry, and what its items must be.
        self._kinds: dict[str, tuple[Registry[Any], Callable[[Any], bool], str]] = {
            "harness_datasets": (self.datasets, _instance(Dataset), "an instance of harness.Dataset"),
            "harness_architectures": (
                self.architectures,
                _instance(Architecture),
                "an instance of harness.Architecture",
            ),
            "harness_steps": (self.steps, _step_class, "a subclass of harness.Step"),
            "harness_metrics": (self.metrics, _instance(Metric), "an instance of harness.Metric"),
            "harness_runtimes": (self.runtimes, _instance(Runtime), "an instance of harness.Runtime"),
        }

    @property
    def hook(self) -> pluggy.HookRelay:
        """The life-cycle hooks; call them through ``notify``, which contains what a plugin raises."""
        return self._manager.hook

    def load(self, entry_point: EntryPoint) -> None:
        """Import one plugin and let it register; whatever it does wrong becomes a problem, never an exception."""
        origin = _origin(entry_point)
        with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints must not get into our own output
            try:
                module = entry_point.load()
            except (Exception, SystemExit) as error:
                self.problems.append(Problem(origin, f"failed to import: {describe_error(error)}"))
                return
            self.add(module, origin)

    def add(self, module: object, origin: Origin) -> None:
        """Register an imported plugin."""
        for name in _marked(module):
            if not hasattr(hookspecs, name):
                hooks = [hook for hook in vars(hookspecs) if hook.startswith("harness_")]
                self.problems.append(
                    Problem(origin, f"no hook is called {name!r}{nearest(name, hooks)}; it is left out")
                )
                return
        for other in self.origins:
            if other.plugin == origin.plugin or self._manager.get_plugin(other.plugin) is module:
                self.problems.append(Problem(origin, f"is left out: plugin {other} has the same name or module"))
                return
        try:
            self._manager.register(module, origin.plugin)
        except pluggy.PluginValidationError as error:
            if self._manager.is_registered(module):
                self._manager.unregister(module)
            self.problems.append(Problem(origin, f"is left out: {' '.join(str(error).split())}"))
            return
        self.origins.append(origin)
        for hook_name, (registry, fits, wanted) in self._kinds.items():
            implementation = getattr(module, hook_name, None)
            if implementation is None:
                continue
            try:
                implementation(register=functools.partial(self._register, origin, registry, fits, wanted))
            except (Exception, SystemExit) as error:
                self.problems.append(Problem(origin, f"{hook_name} failed: {describe_error(error)}"))

    def _register(
        self, origin: Origin, registry: Registry[Any], fits: Callable[[Any], bool], wanted: str, item: Any
    ) -> None:
        name = getattr(item, "name", None)
        if not fits(item):
            self.problems.append(Problem(origin, f"registered {item!r} as {registry.kind}, which is not {wanted}"))
        elif registry is self.steps and not _tells_its_parameters(item):
            reason = (
                f"registered step {name!r}, which is not a frozen dataclass: its parameters could not enter the key"
            )
            self.problems.append(Problem(origin, reason))
        elif not isinstance(name, str) or not name:
            self.problems.append(Problem(origin, f"registered {item!r}, whose `name` is {name!r}, not a text"))
        else:
            try:
                if registry is self.steps:
                    parameter_types(item)
                registry.add(name, item, origin)
            except UsageError as error:
                self.problems.append(Problem(origin, f"refused: {error}"))

    def notify(self, hook_name: str, wanted: str = "nothing", **arguments: Any) -> list[tuple[str, str]]:
        """Call a life-cycle hook of every plugin, and give the pairs of texts that it returned.

        A plugin that raises, or returns anything but None or what is ``wanted``, is noted as a problem, and left out.
        """
        results = []
        for implementation in getattr(self.hook, hook_name).get_hookimpls():
            origin = next(o for o in self.origins if o.plugin == implementation.plugin_name)
            try:
                result = implementation.function(**{name: arguments[name] for name in implementation.argnames})
            except (Exception, SystemExit) as error:
                self.problems.append(Problem(origin, f"{hook_name} failed: {describe_error(error)}"))
                continue
            if isinstance(result, tuple) and list(map(type, result)) == [str, str]:
                results.append(result)
            elif result is not None:
                self.problems.append(Problem(origin, f"{hook_name} returned {result!r}, not {wanted}"))
        return results


def load_plugins(extra: Iterable[EntryPoint] = ()) -> Plugins:
    """Load every plugin of the entry-point group ``harness``, in the order of their names."""
    plugins = Plugins()
    found = [*entry_points(group=GROUP), *extra]
    for entry_point in sorted(found, key=lambda point: (not _built_in(point), point.name)):
        plugins.load(entry_point)
    return plugins


@functools.cache
def installed() -> Plugins:
    """The plugins of this installation, loaded once."""
    return load_plugins()


def _origin(entry_point: EntryPoint) -> Origin:
    distribution = entry_point.dist
    if distribution is None:
        return Origin(entry_point.name, "unknown distribution", "?")
    return Origin(entry_point.name, distribution.name, distribution.version)


def _built_in(entry_point: EntryPoint) -> bool:
    """Ours come first, so that a third party cannot take a built-in name by sorting before it."""
    return entry_point.dist is not None and entry_point.dist.name == "harness"


def _marked(module: object) -> list[str]:
    """The names in a module that are marked as hook implementations."""
    mark = f"{hookspecs.PROJECT}_impl"
    return [name for name, value in vars(module).items() if inspect.isroutine(value) and hasattr(value, mark)]


def _instance(kind: type) -> Callable[[Any], bool]:
    return lambda item: isinstance(item, kind)


def _tells_its_parameters(kind: type) -> bool:
    """Whether all that an instance is made of is in the fields of a frozen dataclass, from which keys are made."""
    if kind in (Step, object):
        return True
    own = vars(kind)
    if "__dataclass_params__" in own:
        return bool(own["__dataclass_params__"].frozen)
    adds = "__init__" in own or any("ClassVar" not in str(type_) for type_ in own.get("__annotations__", {}).values())
    return not adds and all(map(_tells_its_parameters, kind.__bases__))


def _step_class(item: Any) -> bool:
    return inspect.isclass(item) and issubclass(item, Step)
