"""Declare a matrix of axes and expand it into cells. Needs neither torch nor data."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.api import Profile, Step
from harness.api.parameters import check_parameters
from harness.errors import UsageError, nearest
from harness.policy.rules import check_rules

#: Axes that every matrix has; all others map an option's name to a list of steps.
FIXED_AXES = ("dataset", "architecture", "runtime", "profile", "seed")
PROTOCOLS = ("paired", "single")
OPTION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+]*")

DEFAULT_PROFILE = Profile()

Names = str | Sequence[str]
Profiles = Profile | Sequence[Profile]


class Skip:
    """A rule that leaves cells out with a reason: ``Skip("too slow here", architecture="resnet", precision="int8")``.

    A condition is one option or a list of them; a cell that meets all conditions is skipped.
    """

    def __init__(self, reason: str, **where: str | int | Sequence[str | int]) -> None:
        if not reason:
            raise UsageError("Skip() needs a reason: it is shown with each cell that it leaves out")
        if not where:
            raise UsageError(f"Skip({reason!r}) has no condition, so it would leave out the whole matrix")
        self.reason = reason
        self.where: dict[str, tuple[str | int, ...]] = {
            axis: (wanted,) if isinstance(wanted, (str, int)) else tuple(wanted) for axis, wanted in where.items()
        }

    def matches(self, axes: Mapping[str, str | int]) -> bool:
        return all(axes[axis] in wanted for axis, wanted in self.where.items())


@dataclasses.dataclass(frozen=True)
class Cell:
    """One point of a matrix: ``axes`` maps each axis to the cell's option, ``steps`` is the recipe in order."""

    #: The file that declares the matrix, the matrix' name there, and the axis that tables spread over columns.
    suite: str
    matrix: str
    columns: str
    axes: Mapping[str, str | int]
    steps: tuple[Step, ...]
    profile: Profile
    #: The id of the cell that this one is compared with; a reference has its own id here.
    reference: str
    id: str
    #: Whether the data set is the synthetic fallback of one that was not found.
    is_fallback: bool = False
    skip: str | None = None
    #: Why the cell cannot run on this machine, such as a missing data set; None if it can.
    problem: str | None = None
    protocol: str = "paired"
    #: The rules that the matrix declares for the gate.
    gate: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: The optional metrics that the matrix asks for.
    metrics: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The cell's name, unique in a run; also the name of its pytest item."""
        return f"{self.suite}::{self.matrix}[{self.id}]"

    @property
    def reference_name(self) -> str:
        """The name of the cell that this one is compared with."""
        return f"{self.suite}::{self.matrix}[{self.reference}]"

    @property
    def dataset(self) -> str:
        return str(self.axes["dataset"])

    @property
    def architecture(self) -> str:
        return str(self.axes["architecture"])

    @property
    def runtime(self) -> str:
        return str(self.axes["runtime"])

    @property
    def seed(self) -> int:
        return int(self.axes["seed"])


class Matrix:
    """The product of named axes; pytest collects one item per cell.

    ``dataset``, ``architecture`` and ``runtime`` are one or several names that plugins registered; ``seed`` is one or
    several integers. ``profile`` is one Profile, several (an axis, so each needs a name), or a mapping from
    architecture to either, with ``"*"`` for the rest. Every other keyword is an axis of steps. It maps the name of an
    option to the steps that the option adds to the recipe; the recipe follows the order of the keywords.

    ``reference`` maps axes of steps, ``architecture``, ``runtime`` or ``seed`` to the option that cells are compared
    with. By default, the reference has the first option of each axis of steps and the cell's own option of every other
    axis, which None stands for. With ``reference={"runtime": "torch"}`` a worker loads the cell and its reference in
    two runtimes.
    ``skip`` lists Skip rules.

    ``protocol`` decides how latency is measured: "paired" times each cell beside its reference in several processes;
    "single" takes the mean of 1,000 calls in one process after 100 untimed ones (fewer in the smaller presets), as most
    papers do. ``columns`` is the axis that tables spread over their columns, by default the axis of steps with the most
    options. ``gate`` maps a figure to how much worse than in an earlier run it may be, for example
    ``{"latency": "2%", "auroc": "0.01"}`` (see harness.policy.rules). ``metrics`` names optional metrics to compute,
    such as "instructions".

    Raises UsageError, naming the axis, for invalid values.
    """

    def __init__(
        self,
        *,
        dataset: Names,
        architecture: Names,
        seed: int | Iterable[int] = 0,
        runtime: Names = "torch",
        profile: Profiles | Mapping[str, Profiles] = DEFAULT_PROFILE,
        reference: Mapping[str, str | int | None] | None = None,
        skip: Sequence[Skip] = (),
        columns: str | None = None,
        protocol: str = "paired",
        gate: Mapping[str, str] | None = None,
        metrics: Names = (),
        **axes: Mapping[str, Sequence[Step]],
    ) -> None:
        self.datasets = _names("dataset", dataset)
        self.architectures = _names("architecture", architecture)
        self.runtimes = _names("runtime", runtime)
        self.seeds = (seed,) if isinstance(seed, int) else tuple(seed)
        if not self.seeds or not all(isinstance(value, int) for value in self.seeds):
            raise UsageError(f"axis 'seed' needs integers, not {seed!r}")
        if len(set(self.seeds)) < len(self.seeds):
            raise UsageError(f"axis 'seed' has duplicate values: {self.seeds}")
        self.profiles = {name: self._profiles(name, profile) for name in self.architectures}
        if isinstance(profile, Mapping):
            for name in profile:
                if name != "*" and name not in self.architectures:
                    raise UsageError(f"axis 'profile' names architecture {name!r}{nearest(name, self.architectures)}")
        self.axes = {name: _options(name, options) for name, options in axes.items()}
        self.columns = columns or max(self.axes, key=lambda name: len(self.axes[name]), default="architecture")
        self.skip = tuple(skip)
        if protocol not in PROTOCOLS:
            raise UsageError(f"protocol {protocol!r} is unknown{nearest(protocol, PROTOCOLS)}")
        self.protocol = protocol
        self.gate = check_rules(gate or {}, "gate")
        self.metrics = _names("metrics", metrics) if metrics else ()
        self.reference: dict[str, str | int] = {name: next(iter(options)) for name, options in self.axes.items()}
        self._check_names(reference or {})
        for axis, option in (reference or {}).items():
            self.reference.pop(axis, None)
            if option is not None:
                self.reference[axis] = option

    def _profiles(self, architecture: str, profile: Profiles | Mapping[str, Profiles]) -> tuple[Profile, ...]:
        if isinstance(profile, Mapping):
            if architecture not in profile and "*" not in profile:
                raise UsageError(f"axis 'profile' has no entry for architecture {architecture!r}; add one, or '*'")
            profile = profile.get(architecture, profile.get("*", ()))
        profiles = (profile,) if isinstance(profile, Profile) else tuple(profile)
        if not profiles or not all(isinstance(entry, Profile) for entry in profiles):
            raise UsageError(f"axis 'profile' needs Profile(...) values, not {profile!r}")
        if len(profiles) > 1 and len({entry.name for entry in profiles} - {""}) < len(profiles):
            raise UsageError("several profiles form an axis, so each needs its own name: Profile(name='...')")
        return profiles

    def _check_names(self, reference: Mapping[str, str | int | None]) -> None:
        known = [*FIXED_AXES, *self.axes]
        named: list[tuple[str, str, str | int | None]] = [("columns", self.columns, None)]
        named += [("reference", axis, option) for axis, option in reference.items()]
        named += [
            ("skip", axis, option) for rule in self.skip for axis, options in rule.where.items() for option in options
        ]
        for where, axis, option in named:
            if axis not in known:
                raise UsageError(f"{where} names axis {axis!r}{nearest(axis, known)}")
            options = self.options(axis)
            if option is not None and option not in options:
                raise UsageError(
                    f"{where} names option {option!r} of axis {axis!r}{nearest(str(option), map(str, options))}"
                )
        for axis in ("dataset", "profile"):
            if axis in reference:
                raise UsageError(
                    f"reference names axis {axis!r}, but a cell and its reference always run on the same {axis}; "
                    "leave that axis out of reference"
                )

    def options(self, axis: str) -> tuple[str | int, ...]:
        """The options of an axis, in order."""
        fixed: dict[str, tuple[str | int, ...]] = {
            "dataset": self.datasets,
            "architecture": self.architectures,
            "runtime": self.runtimes,
            "seed": self.seeds,
            "profile": tuple(dict.fromkeys(p.name for profiles in self.profiles.values() for p in profiles)),
        }
        return fixed[axis] if axis in fixed else tuple(self.axes[axis])

    def cells(
        self,
        name: str,
        suite: str = "",
        seeds: Sequence[int] | None = None,
        datasets: Mapping[str, str] | None = None,
        missing: Mapping[str, str] | None = None,
        unavailable: Mapping[str, str] | None = None,
    ) -> Iterator[Cell]:
        """Yield the cells in order.

        ``seeds`` replaces the axis ``seed``; ``datasets`` maps a data set to the fallback that replaces it; ``missing``
        maps a data set that is not available to the reason, ``unavailable`` a runtime: then the cells that need it, for
        themselves or for their reference, are skipped.

        An axis appears in the id of its cells if it has more than one option; architecture, steps and seed always
        appear. A fallback always appears too, so that every result on synthetic data is labelled.
        """
        datasets = datasets or {}
        seeds = tuple(seeds or self.seeds)
        reference = self.reference
        if reference.get("seed", seeds[0]) not in seeds:
            raise UsageError(
                f"reference names seed {reference['seed']}, but this run has only {list(seeds)}; choose a larger "
                "preset or another reference"
            )
        for dataset, architecture in itertools.product(self.datasets, self.architectures):
            used = datasets.get(dataset, dataset)
            for runtime, *choice in itertools.product(self.runtimes, *(options for options in self.axes.values())):
                steps = tuple(
                    step for axis, option in zip(self.axes, choice, strict=True) for step in self.axes[axis][option]
                )
                for profile, seed in itertools.product(self.profiles[architecture], seeds):
                    axes: dict[str, str | int] = {
                        "dataset": used,
                        "architecture": architecture,
                        **dict(zip(self.axes, choice, strict=True)),
                        "runtime": runtime,
                        "profile": profile.name,
                        "seed": seed,
                    }
                    declared = axes | {"dataset": dataset}
                    reason = next((rule.reason for rule in self.skip if rule.matches(declared)), None)
                    for needed in (runtime, str(reference.get("runtime", runtime))):
                        reason = reason or (unavailable or {}).get(needed)
                    shown = len(self.datasets) > 1 or used != dataset
                    yield Cell(
                        suite=suite,
                        matrix=name,
                        columns=self.columns,
                        axes=axes,
                        steps=steps,
                        profile=profile,
                        reference=self._id(axes | reference, shown),
                        id=self._id(axes, shown),
                        is_fallback=used != dataset,
                        skip=reason,
                        problem=(missing or {}).get(dataset),
                        protocol=self.protocol,
                        gate=self.gate,
                        metrics=self.metrics,
                    )

    def _id(self, axes: Mapping[str, str | int], show_dataset: bool) -> str:
        labels = [str(axes["dataset"])] if show_dataset else []
        labels += [str(axes["architecture"]), *(str(axes[name]) for name in self.axes)]
        labels += [str(axes["runtime"])] if len(self.runtimes) > 1 else []
        labels += [str(axes["profile"])] if axes["profile"] else []
        return "-".join([*labels, f"seed{axes['seed']}"])


def _names(axis: str, value: Names) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UsageError(f"axis {axis!r} needs one or more names, not {value!r}")
    if len(set(names)) < len(names):
        raise UsageError(f"axis {axis!r} has duplicate names: {names}")
    return names


def _options(axis: str, options: Mapping[str, Sequence[Step]]) -> dict[str, tuple[Step, ...]]:
    if not isinstance(options, Mapping) or not options:
        raise UsageError(f"axis {axis!r} needs a mapping from an option's name to a list of steps, not {options!r}")
    checked = {}
    for name, steps in options.items():
        if not isinstance(name, str) or not OPTION_NAME.fullmatch(name):
            raise UsageError(
                f"axis {axis!r}: {name!r} is not a valid option name; use letters, digits, '.', '_' and '+'"
            )
        entries: tuple[Any, ...] = (steps,)
        if isinstance(steps, Iterable) and not isinstance(steps, Step | str):
            entries = tuple(steps)
        for entry in entries:
            if not isinstance(entry, Step):
                raise UsageError(f"axis {axis!r}, option {name!r}: {entry!r} is not a step{_hint(entry)}")
            try:
                check_parameters(entry)
            except UsageError as error:
                raise UsageError(f"axis {axis!r}, option {name!r}: {error}") from None
        checked[name] = entries
    return checked


def _hint(entry: object) -> str:
    """How to make a step of something that is not one, as the end of a message."""
    if isinstance(entry, str):
        return "; write step('name', ...) to use a step by its name"
    if isinstance(entry, type) and issubclass(entry, Step):
        return f"; write {getattr(entry, 'name', entry.__name__)}()"
    return ""
