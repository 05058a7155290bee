"""Load plugins and run their code. A plugin that fails is reported and left out; everything else runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

import pluggy

from harness.api import Architecture, Dataset, Kind, Metric, ReportContext, Runtime, Section, Step, hookspecs
from harness.api.sections import sections_of
from harness.api.train import Train
from harness.errors import CellError, DataError, UsageError, describe_error, nearest
from harness.keys import KERNEL as KERNEL_ID
from harness.plugin.isolation import isolated
from harness.plugin.validation import KINDS, PUBLISHES, hooks_of, refusal, unmarked_hooks, wrong_hooks, wrong_kind

GROUP = "harness"
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The origin of a registered object: the plugin's entry point, and its distribution with the version."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.plugin} ({self.distribution} {self.version})"

    @property
    def id(self) -> str:
        """What names the distribution in cache keys: "harness" for built-in plugins, whatever ours is called."""
        return KERNEL_ID if self.distribution == KERNEL.distribution else self.distribution


def _kernel() -> Origin:
    """The harness itself as an origin; its distribution is the one that brings its pytest plugin."""
    (entry_point, *_) = entry_points(group="pytest11", value="harness.pytest_plugin")
    assert entry_point.dist is not None, "entry points of installed distributions have one"
    return Origin("kernel", entry_point.dist.name, entry_point.dist.version)


#: The harness itself, which brings the step ``train``.
KERNEL = _kernel()


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem: why a plugin or one of its objects was left out, or a fault of its code."""

    origin: Origin
    reason: str

    def __str__(self) -> str:
        return f"plugin {self.origin}: {self.reason}"


class Registry(Generic[T]):
    """Registered objects of one kind by name, in the order of registration, each with its origin."""

    def __init__(self, kind: str, heading: str = "") -> None:
        self.kind = kind
        #: The plural of the kind.
        self.heading = heading or f"{kind}s"
        self._items: dict[str, tuple[T, Origin]] = {}

    def add(self, name: str, item: T, origin: Origin) -> None:
        """Register ``item``. Raises UsageError when the name is taken, and names both plugins."""
        if name in self._items:
            raise UsageError(f"{self.kind} {name!r} is already registered by plugin {self._items[name][1]}")
        self._items[name] = (item, origin)

    def discard(self, name: str) -> None:
        """Remove ``name`` if it is registered: ``harness.testing`` registers objects for a while only."""
        self._items.pop(name, None)

    def get(self, name: str) -> T:
        """The object called ``name``. Raises UsageError with the nearest names."""
        return self._entry(name)[0]

    def origin(self, name: str) -> Origin:
        return self._entry(name)[1]

    def _entry(self, name: str) -> tuple[T, Origin]:
        try:
            return self._items[name]
        except KeyError:
            raise UsageError(f"no {self.kind} is called {name!r}{nearest(name, self._items)}") from None

    def brought_by(self, origin: Origin) -> list[str]:
        """The names that a plugin registered."""
        return [name for name, (_, owner) in self._items.items() if owner == origin]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __len__(self) -> int:
        return len(self._items)


class Plugins:
    """The loaded plugins, the objects that they registered, and the problems: what was left out, and why."""

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
        #: By hook: the kind of object that it registers, and the registry that it fills.
        self.kinds: dict[str, Kind] = dict(KINDS)
        self.registries: dict[str, Registry[Any]] = {
            "harness_datasets": self.datasets,
            "harness_architectures": self.architectures,
            "harness_steps": self.steps,
            "harness_metrics": self.metrics,
            "harness_runtimes": self.runtimes,
        }

    @property
    def hook(self) -> pluggy.HookRelay:
        """The life-cycle hooks. Call them through ``notify``, which isolates them."""
        return self._manager.hook

    def note(self, origin: Origin, reason: str) -> None:
        """Record a problem, once; all are shown at the end of the run."""
        problem = Problem(origin, reason)
        if problem not in self.problems:
            self.problems.append(problem)

    def load(self, *entry_points: EntryPoint) -> None:
        """Import plugins and let them register their objects. Each failure becomes a problem, never an exception.

        Built-in plugins register first, so that no third party takes a built-in name by sorting before it. Among the
        others, those that publish kinds register first, because the rest may register objects of these.
        """
        modules = [(point, self._imported(point)) for point in sorted(entry_points, key=lambda point: point.name)]
        loaded = [(point, module) for point, module in modules if module is not None]
        loaded.sort(key=lambda entry: (not _built_in(entry[0]), PUBLISHES not in hooks_of(entry[1], marked_only=True)))
        for point, module in loaded:
            self.add(module, _origin(point))

    def _imported(self, entry_point: EntryPoint) -> object | None:
        origin = _origin(entry_point)
        with self.isolated(origin, "its import"):
            try:
                module: object = entry_point.load()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                self.note(origin, f"failed to import: {describe_error(error)}")
                return None
        return module

    def add(self, module: object, origin: Origin) -> None:
        """Register an imported plugin."""
        hooks, problems = hooks_of(module, marked_only=True), len(self.problems)
        published = self._published(hooks, origin)
        kinds = self.kinds | published
        for remark in unmarked_hooks(module, kinds):
            self.note(origin, remark)
        if (wrong := wrong_hooks(module, kinds)) is not None:
            self.note(origin, wrong)
            return
        for registered in self.origins:
            if registered.plugin == origin.plugin or self._manager.get_plugin(registered.plugin) is module:
                self.note(origin, f"is left out: plugin {registered} has the same name or module")
                return
        try:
            self._manager.register(module, origin.plugin)
        except pluggy.PluginValidationError as error:
            if self._manager.is_registered(module):
                self._manager.unregister(module)
            self.note(origin, f"is left out: {' '.join(str(error).split())}")
            return
        self.origins.append(origin)
        self.kinds = kinds
        self.registries |= {name: Registry(kind.name, kind.heading) for name, kind in published.items()}
        for name in (name for name in self.registries if name in hooks):
            with self.isolated(origin, name):
                try:
                    hooks[name](register=functools.partial(self._register, origin, name))
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    self.note(origin, f"{name} failed: {describe_error(error)}; its later objects are missing")
        brought = any(registry.brought_by(origin) for registry in self.registries.values())
        if not brought and not hooks.keys() - self.registries.keys() and len(self.problems) == problems:
            self.note(origin, "registers nothing: mark its hooks with @harness.hookimpl, and let them register objects")

    def _published(self, hooks: Mapping[str, Callable[..., Any]], origin: Origin) -> dict[str, Kind]:
        """The kinds that a plugin publishes, by the hooks that register objects of them."""
        published: dict[str, Kind] = {}

        def register(kind: Any) -> None:
            if (reason := wrong_kind(kind, self.kinds | published)) is not None:
                self.note(origin, reason)
            else:
                published[kind.hook] = kind

        if PUBLISHES in hooks:
            with self.isolated(origin, PUBLISHES):
                try:
                    hooks[PUBLISHES](register=register)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    self.note(origin, f"{PUBLISHES} failed: {describe_error(error)}")
        return published

    def _register(self, origin: Origin, hook_name: str, item: Any) -> None:
        reason = refusal(self.kinds[hook_name], item)
        if reason is not None:
            self.note(origin, reason)
            return
        try:
            self.registries[hook_name].add(item.name, item, origin)
        except UsageError as error:
            self.note(origin, f"refused: {error}")

    def call(self, thing: Any, method: str | Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``method`` of a registered object in isolation and return its result. The one way to run plugin code.

        ``thing`` is a data set, architecture, metric or runtime, or a step (an instance or its class). ``method`` is
        the method's name, or a function of the harness that runs code of ``thing``, such as the bootstrap of a metric.
        Such a function must also exhaust what is evaluated lazily, such as a generator. Never call timed code by this.

        Raises DataError for a data set and CellError for others, with plugin, method, object and line. A HarnessError
        that the code itself raises passes unchanged.
        """
        with self.isolated(self.origin(thing), self.name_of(thing, method), thing):
            function = getattr(thing, method) if isinstance(method, str) else method
            return function(*args, **kwargs)

    def origin(self, thing: Any) -> Origin:
        """The origin of a registered object. Raises UsageError when its name is not registered."""
        return self._kind(thing)[1].origin(thing.name)

    def name_of(self, thing: Any, method: str | Callable[..., Any]) -> str:
        """A method in messages, such as "apply() of step 'prune'"."""
        name = method if isinstance(method, str) else method.__name__
        return f"{name}() of {self._kind(thing)[0].name} {thing.name!r}"

    def _kind(self, thing: Any) -> tuple[Kind, Registry[Any]]:
        kind = thing if isinstance(thing, type) else type(thing)
        hook_name = next(hook_name for hook_name in self.kinds if issubclass(kind, self.kinds[hook_name].contract))
        return self.kinds[hook_name], self.registries[hook_name]

    def isolated(
        self, origin: Origin, label: str, thing: Any = None, remember: bool = True
    ) -> contextlib.AbstractContextManager[None]:
        """Isolate code of a plugin that belongs to no registered object; ``call`` is for those that do.

        ``label`` is the code's name in messages. Remarks on its conduct become problems, if ``remember``.
        """

        def note(remark: str) -> None:
            if remember:
                self.note(origin, f"{label} {remark}")

        return isolated(
            f"plugin {origin}: {label}",
            note,
            error=DataError if isinstance(thing, Dataset) else CellError,
            thing=thing if thing is None or isinstance(thing, type) else type(thing),
        )

    @property
    def things(self) -> dict[str, dict[str, Any]]:
        """The registered objects: by kind, then by name."""
        return {registry.kind: {name: registry.get(name) for name in registry} for registry in self.registries.values()}

    def sections(self, records: Sequence[Mapping[str, Any]], context: ReportContext) -> list[Section]:
        """The sections that plugins add to the report."""
        expected = "a harness.Section, a list of these, or a title and a text"
        answers = self._ask("harness_report_section", expected, sections_of, records=records, context=context)
        return [section for sections in answers for section in sections]

    def notify(self, hook_name: str, **arguments: Any) -> None:
        """Call a life-cycle hook of every plugin. A plugin that raises or returns something gets a problem."""
        self._ask(hook_name, "nothing", lambda answer: () if answer is None else None, **arguments)

    def _ask(self, hook_name: str, expected: str, parse: Callable[[object], T | None], **arguments: Any) -> list[T]:
        """Call a hook of every plugin, and return what ``parse`` makes of each answer.

        A plugin that raises, or whose answer ``parse`` rejects (None), gets a problem that states what is ``expected``.
        """
        results: list[T] = []
        for implementation in getattr(self.hook, hook_name).get_hookimpls():
            origin = next(o for o in self.origins if o.plugin == implementation.plugin_name)
            accepted = {name: arguments[name] for name in implementation.argnames}
            with self.isolated(origin, hook_name, remember=False):  # some of these hooks exist to print
                try:
                    result = implementation.function(**accepted)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    self.note(origin, f"{hook_name} failed: {describe_error(error)}")
                    continue
            if (answer := parse(result)) is None:
                self.note(origin, f"{hook_name} returned {result!r}, not {expected}")
            else:
                results.append(answer)
        return results


def load_plugins(extra: Iterable[EntryPoint] = ()) -> Plugins:
    """Load every plugin of the entry-point group ``harness``."""
    plugins = Plugins()
    plugins.load(*entry_points(group=GROUP), *extra)
    return plugins


@functools.cache
def installed() -> Plugins:
    """The plugins of this installation, loaded once."""
    return load_plugins()


def step(name: str, **parameters: Any) -> Step:
    """The step called ``name`` with these parameters, from whichever plugin registers it.

    Raises UsageError for an unknown name or parameter, with the nearest known ones.
    """
    try:
        return installed().steps.get(name)(**parameters)
    except TypeError as error:  # the step rejects a value
        raise UsageError(f"step {name!r}: {error}") from error


def _origin(entry_point: EntryPoint) -> Origin:
    distribution = entry_point.dist
    if distribution is None:
        return Origin(entry_point.name, "unknown distribution", "?")
    return Origin(entry_point.name, distribution.name, distribution.version)


def _built_in(entry_point: EntryPoint) -> bool:
    return entry_point.dist is not None and entry_point.dist.name == KERNEL.distribution
