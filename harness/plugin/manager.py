"""Loading plugins one by one: a broken one is named and left out, and everything else runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any, Generic, TypeVar

import pluggy

from harness.api import Architecture, Dataset, Metric, Runtime, Step, Study, hookspecs
from harness.api.train import Train
from harness.errors import CellError, HarnessError, UsageError, describe_error, nearest
from harness.plugin.containment import FOREIGN, Tell, contained, watched
from harness.plugin.validation import KINDS, hooks_of, refusal, unmarked_hooks, wrong_hooks

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

    def discard(self, name: str) -> None:
        """Forget what is called ``name``, if there is anything: for what was only lent (``harness.testing``)."""
        self._items.pop(name, None)

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

    def brought_by(self, origin: Origin) -> list[str]:
        """The names of what a plugin registered."""
        return [name for name, (_, owner) in self._items.items() if owner == origin]

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
        self.studies: Registry[Study] = Registry("study")
        self.steps.add(Train.name, Train, KERNEL)
        self.problems: list[Problem] = []
        self.origins: list[Origin] = []
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        #: What the hooks that bring things fill.
        self._registries: dict[str, Registry[Any]] = {
            "harness_datasets": self.datasets,
            "harness_architectures": self.architectures,
            "harness_steps": self.steps,
            "harness_metrics": self.metrics,
            "harness_runtimes": self.runtimes,
            "harness_studies": self.studies,
        }

    @property
    def hook(self) -> pluggy.HookRelay:
        """The life-cycle hooks; call them through ``notify``, which contains what a plugin raises."""
        return self._manager.hook

    def note(self, origin: Origin, reason: str) -> None:
        """Keep a problem for the end of the run, once."""
        problem = Problem(origin, reason)
        if problem not in self.problems:
            self.problems.append(problem)

    def load(self, entry_point: EntryPoint) -> None:
        """Import one plugin and let it register; whatever it does wrong becomes a problem, never an exception."""
        origin = _origin(entry_point)
        with self._held(origin, "its import"):
            try:
                module = entry_point.load()
            except FOREIGN as error:
                self.note(origin, f"failed to import: {describe_error(error)}")
                return
        self.add(module, origin)

    def add(self, module: object, origin: Origin) -> None:
        """Register an imported plugin."""
        for remark in unmarked_hooks(module):
            self.note(origin, remark)
        if (wrong := wrong_hooks(module)) is not None:
            self.note(origin, wrong)
            return
        for other in self.origins:
            if other.plugin == origin.plugin or self._manager.get_plugin(other.plugin) is module:
                self.note(origin, f"is left out: plugin {other} has the same name or module")
                return
        try:
            self._manager.register(module, origin.plugin)
        except pluggy.PluginValidationError as error:
            if self._manager.is_registered(module):
                self._manager.unregister(module)
            self.note(origin, f"is left out: {' '.join(str(error).split())}")
            return
        self.origins.append(origin)
        hooks, problems = hooks_of(module, marked_only=True), len(self.problems)
        for name in (name for name in self._registries if name in hooks):
            with self._held(origin, name):
                try:
                    hooks[name](register=functools.partial(self._register, origin, name))
                except FOREIGN as error:
                    self.note(origin, f"{name} failed: {describe_error(error)}; what it brings after that is missing")
        brought = any(registry.brought_by(origin) for registry in self._registries.values())
        if not brought and not hooks.keys() - self._registries.keys() and len(self.problems) == problems:
            self.note(origin, "brings nothing: no hook of it is marked with @harness.hookimpl and registers anything")

    def _register(self, origin: Origin, hook_name: str, item: Any) -> None:
        reason = refusal(KINDS[hook_name], item)
        if reason is not None:
            self.note(origin, reason)
            return
        try:
            self._registries[hook_name].add(item.name, item, origin)
        except UsageError as error:
            self.note(origin, f"refused: {error}")

    def _held(self, origin: Origin, what: str) -> contextlib.AbstractContextManager[None]:
        return self.contain(origin, what, _to_stderr, files=False)

    @contextlib.contextmanager
    def contain(
        self,
        origin: Origin,
        what: str,
        say: Tell | None = None,
        *,
        error: type[HarnessError] = CellError,
        thing: type | None = None,
        passing: type[Exception] | None = None,
        files: bool = True,
    ) -> Iterator[None]:
        """Run code of the plugin ``origin``: see harness.plugin.containment. What it does wrong is said, and a problem.

        ``say`` shows lines now, on the standard error unless it is given.
        """

        def note(remark: str) -> None:
            self.note(origin, f"{what} {remark}")

        who, say = f"plugin {origin}: {what}", say or _to_stderr
        held = contained(who, say, note, error=error, thing=thing, passing=passing)
        with watched(who, say, note, files=files), held:
            yield

    def notify(
        self, hook_name: str, wanted: str = "nothing", say: Tell | None = None, **arguments: Any
    ) -> list[tuple[str, str]]:
        """Call a life-cycle hook of every plugin, and give the pairs of texts that it returned.

        A plugin that raises, or returns anything but None or what is ``wanted``, is noted as a problem, and left out.
        What it prints is said.
        """
        results = []
        for implementation in getattr(self.hook, hook_name).get_hookimpls():
            origin = next(o for o in self.origins if o.plugin == implementation.plugin_name)
            given = {name: arguments[name] for name in implementation.argnames}
            who = f"plugin {origin}"
            # To print is what some of these hooks are for.
            with contained(who, say or _to_stderr, lambda remark: None):
                try:
                    result = implementation.function(**given)
                except FOREIGN as error:
                    self.note(origin, f"{hook_name} failed: {describe_error(error)}")
                    continue
            if isinstance(result, tuple) and list(map(type, result)) == [str, str]:
                results.append(result)
            elif result is not None:
                self.note(origin, f"{hook_name} returned {result!r}, not {wanted}")
        return results


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


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
