"""Build the content of the report from records: networks, their variants, and estimates for each, without markup.

A *variant* stands for the cells that differ only in their seed. A *network* holds the variants that are compared with
each other: one architecture on one data set under the same conditions. It is one table in the terminal.
"""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence

from harness.api import Role
from harness.policy.rules import LATENCY
from harness.records.record import Interval, MetricValue, Record, Unmeasured
from harness.records.runs import Run
from harness.report.noise import protocol
from harness.run.declarations import declaration, figures_by_role
from harness.stats.estimates import Estimate, known_mean, pooled, pooled_ratio

OVER_SEEDS = (
    "Several seeds: the mean, with Student's 95 % interval over seeds. For quality and its differences, the mean "
    "interval over patients is added in quadrature."
)
#: Presets whose trainings are too short for their quality to mean anything.
SHORT = {"smoke": "only tests that everything runs", "quick": "trains for minutes"}
#: How many networks a warning names.
MAX_NAMED = 3


@dataclasses.dataclass(frozen=True)
class ShownFigure:
    """The figure that represents quality or size: its name, its format, and which direction is better."""

    name: str
    unit: str
    digits: int
    better: str | None
    chance: float | None = None

    def __str__(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name


@dataclasses.dataclass(frozen=True)
class RunCell:
    """A record, and the index of its run in the report."""

    record: Record
    run: int


@dataclasses.dataclass(frozen=True)
class Variant:
    """One recipe of a network. Values that were not measured are None.

    ``difference`` and ``ratio`` compare with the reference, ``size_share`` and ``parameter_share`` with its mean.
    ``loss`` is the difference in quality with the sign that makes a positive value worse than the reference.
    """

    label: str
    options: Mapping[str, str]
    cells: tuple[RunCell, ...]
    reference: str
    quality: Estimate | None
    difference: Estimate | None
    loss: Estimate | None
    ratio: Estimate | None
    latency: float | None
    size: float | None
    size_share: float | None
    parameter_share: float | None

    @property
    def is_reference(self) -> bool:
        return self.label == self.reference

    @property
    def verdicts(self) -> Mapping[str, int]:
        """The number of cells with each verdict."""
        return collections.Counter(entry.kind for cell in self.cells if (entry := cell.record.verdict) is not None)

    @property
    def verdict_text(self) -> str:
        if len(self.verdicts) == 1 and sum(self.verdicts.values()) == len(self.cells):
            return next(iter(self.verdicts))
        return ", ".join(f"{count} {kind}" for kind, count in self.verdicts.items())

    @property
    def disturbed(self) -> int:
        """The number of cells that were timed on a disturbed machine."""
        return self.verdicts.get("contaminated", 0)

    @property
    def disturbance(self) -> str:
        """The number of disturbed timings, in words; empty if no timing was disturbed."""
        return f" ({self.disturbed} of {len(self.cells)} timings disturbed)" if self.disturbed else ""

    def mean(self, name: str | None) -> float | None:
        """The mean of a figure over seeds; None where it is undefined, or no figure is meant."""
        figures = [cell.record.figures for cell in self.cells]
        return known_mean(entry[name].value for entry in figures if name in entry)


@dataclasses.dataclass(frozen=True)
class Network:
    """Variants that are compared with each other; ``columns`` is the axis of compression."""

    title: str
    heading: str
    axes: tuple[str, ...]
    columns: str
    quality: ShownFigure | None
    size: ShownFigure | None
    variants: tuple[Variant, ...]
    #: The names of the figures that have a role.
    roles: Mapping[Role, str]

    @property
    def records(self) -> list[Record]:
        return [cell.record for variant in self.variants for cell in variant.cells]

    @property
    def levels(self) -> list[str]:
        """The options of the axis of compression, in order."""
        return list(dict.fromkeys(self.level(variant) for variant in self.variants))

    def level(self, variant: Variant) -> str:
        """The variant's option on the axis of compression."""
        return variant.options.get(self.columns, "")

    def series(self, variant: Variant) -> str:
        """The variant's options on all other axes."""
        rest = [option for axis, option in variant.options.items() if axis != self.columns]
        return " ".join(rest) or "all"


@dataclasses.dataclass(frozen=True)
class Report:
    """The content of a report, without the sections of plugins."""

    runs: tuple[Run, ...]
    networks: tuple[Network, ...]
    warnings: tuple[str, ...]
    #: Cells that were selected and not measured, each with the index of its run.
    unmeasured: tuple[tuple[Unmeasured, int], ...]

    @property
    def records(self) -> list[Record]:
        return [record for entry in self.networks for record in entry.records]


def report(runs: Sequence[Run]) -> Report:
    """The report of runs. If a cell is in several runs, the last one counts."""
    newest = {record.identity: RunCell(record, place) for place, run in enumerate(runs) for record in run.records}
    networks = networks_of(newest.values())
    measured = {(record.suite, record.matrix, record.cell) for run in runs for record in run.records}
    unmeasured = tuple(
        (entry, place)
        for place, run in enumerate(runs)
        for entry in run.unmeasured
        if (entry.suite, entry.matrix, entry.cell) not in measured
    )
    return Report(tuple(runs), networks, tuple(warnings_of(networks)), unmeasured)


def networks_of(cells: Iterable[RunCell]) -> tuple[Network, ...]:
    """Group cells by network, in the order of the tables in the terminal."""
    groups: dict[tuple[str, ...], list[RunCell]] = {}
    for cell in cells:
        groups.setdefault(network_key(cell.record), []).append(cell)
    return tuple(_with_unique_titles(list(map(_network, groups.values()))))


def _with_unique_titles(networks: Sequence[Network]) -> Iterable[Network]:
    """Add to titles that occur twice the settings in which the networks differ, or else a number."""
    titles = collections.defaultdict(list)
    for entry in networks:
        titles[entry.title].append(entry)
    for entry in networks:
        alike = titles[entry.title]
        settings = [_settings(other) for other in alike]
        own = _settings(entry)
        parts = [own[name] for name in _distinguishing(settings)]
        if settings.count(own) > 1:
            parts.append(f"number {1 + alike.index(entry)}")
        yield dataclasses.replace(entry, title=", ".join([entry.title, *parts]))


def _distinguishing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The names of the settings that distinguish the networks; a name that adds nothing to earlier ones is left out."""
    names: list[str] = []
    distinct = 1
    for name in settings[0]:
        count = len({tuple(setting[other] for other in (*names, name)) for setting in settings})
        if count > distinct:
            names.append(name)
            distinct = count
    return names


def _settings(entry: Network) -> dict[str, str]:
    """The settings in which two networks of one title may differ, in words."""
    record = entry.records[0]
    return {
        "preset": f"preset {record.preset}",
        "matrix": f"matrix {record.matrix}",
        "suite": record.suite,
        "device": f"trained on {record.device}",
    }


def warnings_of(networks: Sequence[Network]) -> Iterable[str]:
    """Warn of synthetic data and of trainings that are too short."""
    records = [record for entry in networks for record in entry.records]
    synthetic = sorted({str(record.axes["dataset"]) for record in records if record.synthetic})
    if synthetic:
        yield f"SYNTHETIC DATA ({', '.join(synthetic)}): these figures say nothing about the real world."
    for name, purpose in SHORT.items():
        short = [entry.title for entry in networks if entry.records[0].preset == name]
        if short:
            more = f" and {len(short) - MAX_NAMED} more" if len(short) > MAX_NAMED else ""
            whose = "" if len(short) == len(networks) else f" ({'; '.join(short[:MAX_NAMED])}{more})"
            yield f"The preset {name} {purpose}: its quality means nothing{whose}."


def _network(cells: Sequence[RunCell]) -> Network:
    records = [cell.record for cell in cells]
    first = records[0]
    axes = tuple(step_axes(first))
    groups: dict[str, list[RunCell]] = {}
    for cell in cells:
        groups.setdefault(_label(cell.record, axes), []).append(cell)
    quality, size, roles = _quality(records), _size(records), figures_by_role(records)
    labels = {cell.record.cell: label for label, group in groups.items() for cell in group}
    variants = [_variant(label, group, labels, axes, quality, size) for label, group in groups.items()]
    by_label = {variant.label: variant for variant in variants}
    shared = [_shares(variant, by_label.get(variant.reference), roles.get("parameters")) for variant in variants]
    named = [str(first.axes[name]) for name in ("runtime", "profile")]
    title = f"{first.axes['architecture']} on {first.axes['dataset']}"
    title += "".join(f", {name}" for name in named[1:] if name) + (f", {named[0]}" if named[0] != "torch" else "")
    return Network(title, heading(records), axes, first.columns, quality, size, tuple(shared), roles)


def _label(record: Record, axes: Sequence[str]) -> str:
    return "-".join(str(record.axes[name]) for name in axes) or record.cell


def _variant(
    label: str,
    cells: Sequence[RunCell],
    labels: Mapping[str, str],
    axes: Sequence[str],
    quality: ShownFigure | None,
    size: ShownFigure | None,
) -> Variant:
    records = [cell.record for cell in cells]
    first = records[0]
    difference = _differences(records, quality)
    lower = quality is not None and quality.better == "lower"
    variant = Variant(
        label=label,
        options={name: str(first.axes[name]) for name in axes},
        cells=tuple(cells),
        reference=labels.get(first.reference, first.reference),
        quality=_qualities(records, quality),
        difference=difference,
        loss=difference if difference is None or lower else -difference,
        ratio=pooled_ratio([estimate(timing.ratio) for record in records if (timing := record.timing) is not None]),
        latency=None,
        size=None,
        size_share=None,
        parameter_share=None,
    )
    return dataclasses.replace(variant, latency=variant.mean(LATENCY), size=variant.mean(size.name) if size else None)


def _shares(variant: Variant, reference: Variant | None, parameters: str | None) -> Variant:
    """The variant with its shares of the reference's size and parameters; ``parameters`` is the figure's name."""
    if reference is None:
        return variant
    return dataclasses.replace(
        variant,
        size_share=_share(variant.size, reference.size),
        parameter_share=_share(variant.mean(parameters), reference.mean(parameters)),
    )


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _quality(records: Sequence[Record]) -> ShownFigure | None:
    """The first headline figure for which the difference from the reference is known."""
    return next((_shown(record, name) for record in records for name in record.differences
                 if name in record.figures and record.figures[name].headline), None)  # fmt: skip


def _size(records: Sequence[Record]) -> ShownFigure | None:
    """The first headline figure that is exact and should be small; without such a headline, the first such figure."""
    exact = [
        (record, name)
        for record in records
        for name, figure in record.figures.items()
        if (declared := declaration(name, figure)).exact and declared.better != "higher"
    ]
    headlines = [(record, name) for record, name in exact if record.figures[name].headline]
    return next((_shown(*entry) for entry in (*headlines, *exact)), None)


def _shown(record: Record, name: str) -> ShownFigure:
    figure = record.figures[name]
    return ShownFigure(name, figure.unit, figure.digits, figure.better, declaration(name, figure).chance)


def _qualities(records: Sequence[Record], quality: ShownFigure | None) -> Estimate | None:
    if quality is None:
        return None
    figures = [record.figures[quality.name] for record in records if quality.name in record.figures]
    return pooled(
        [
            estimate(interval) if (interval := figure.interval) else Estimate(figure.value)
            for figure in figures
            if figure.value is not None
        ]
    )


def _differences(records: Sequence[Record], quality: ShownFigure | None) -> Estimate | None:
    intervals = [record.differences.get(quality.name) for record in records] if quality else []
    return pooled([estimate(interval) for interval in intervals if interval is not None])


def estimate(interval: Interval) -> Estimate:
    """A record's interval as an estimate."""
    return Estimate(interval.value, interval.low, interval.high, method=interval.method)


def network_key(record: Record) -> tuple[str, ...]:
    """What the cells of one table share: everything except their steps, their seed and the number of processes."""
    axes = record.axes
    fixed = (str(axes[name]) for name in ("dataset", "architecture", "runtime", "profile"))
    timing = record.timing
    protocol: tuple[str, ...] = ()
    if timing is not None:
        # A reference has no verdict, and old files have the margin in the verdict alone.
        margin = timing.margin if record.verdict is None else record.verdict.margin
        protocol = (timing.protocol, timing.pace, str(margin))
    return (record.suite, record.matrix, record.preset, record.device, *fixed, *protocol)


def step_axes(record: Record) -> list[str]:
    """The axes that describe the recipe."""
    return [name for name in record.axes if name not in ("dataset", "architecture", "runtime", "profile", "seed")]


def heading(records: Sequence[Record]) -> str:
    """State what the records of one network share, with a warning if the data are synthetic."""
    first = records[0]
    axes = first.axes
    seeds = list(dict.fromkeys(str(record.axes["seed"]) for record in records))
    parts = [
        f"{axes['architecture']} on {axes['dataset']}",
        f"matrix {first.matrix}",
        f"preset {first.preset}",
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}",
        f"{first.test_examples} test examples",
    ]
    if axes["runtime"] != "torch":
        parts.append(f"runtime {axes['runtime']}")
    if axes["profile"]:
        parts.append(f"profile {axes['profile']}")
    timings = [timing for record in records if (timing := record.timing) is not None]
    if timings:
        parts.append(protocol(timings))
    note = "\nSYNTHETIC DATA: these figures say nothing about the real world" if first.synthetic else ""
    return ", ".join(parts) + note


# -------------------------------------------------------------------------------------------- secondary size metrics

NONZERO_LEFT = "nonzero left"
#: The share of weights by which a variant must be sparser; rounding to 8 bits alone makes up to 3 % zero.
SPARSER = 0.05
#: The least distance of the two shares of size; the formats of the files differ by up to a tenth of a small network.
APART = 0.1

References = Mapping[str, Record]


def by_cell(records: Sequence[Record]) -> References:
    """The records by the names of their cells, to look up references."""
    return {record.cell: record for record in records}


@dataclasses.dataclass(frozen=True)
class SecondarySizes:
    """The names of the figures of secondary size that a table shows; None for one that it does not show."""

    nonzero: str | None = None
    file: str | None = None


def secondary_sizes(records: Sequence[Record]) -> SecondarySizes:
    """Show the non-zero weights and the deployed file where they say something else than the primary size.

    The non-zero weights do where single weights were set to zero. The deployed file does where its share of the
    reference's differs from that of its metric's headline figure.
    """
    roles = figures_by_role(records)
    nonzero, parameters, file = (roles.get(role) for role in ("nonzero", "parameters", "file"))
    headline = _headline_beside(records, file)
    sparser = apart = False
    references = by_cell(records)
    for record in records:
        reference = references.get(record.reference)
        if reference is None:
            continue
        dense, whole = (_quotient(entry, nonzero, entry, parameters) for entry in (record, reference))
        sparser = sparser or (dense is not None and whole is not None and whole - dense > SPARSER)
        shares = [_quotient(record, name, reference, name) for name in (file, headline)]
        apart = apart or (shares[0] is not None and shares[1] is not None and abs(shares[0] - shares[1]) > APART)
    return SecondarySizes(nonzero if sparser else None, file if apart else None)


def _headline_beside(records: Sequence[Record], name: str | None) -> str | None:
    """The headline figure of the metric that gives the figure ``name``."""
    figures = next((record.figures for record in records if name in record.figures), {})
    if name is None or name not in figures:
        return None
    metric = figures[name].metric
    return next((other for other, figure in figures.items() if figure.metric == metric and figure.headline), None)


def figure_of(records: Sequence[Record], name: str) -> MetricValue:
    """A figure, from the first record that has it."""
    return next(record.figures[name] for record in records if name in record.figures)


def figure_title(name: str, figure: MetricValue) -> str:
    """The name of a figure with its unit, as in tables and charts."""
    return f"{name}, {figure.unit}" if figure.unit else name


def nonzero_share(cells: Sequence[Record], references: References, nonzero: str) -> float | None:
    """The mean over cells of their non-zero parameters / those of their references; None where unknown."""
    pairs = [(cell, reference) for cell in cells if (reference := references.get(cell.reference)) is not None]
    quotients = [_quotient(cell, nonzero, reference, nonzero) for cell, reference in pairs]
    shares = [share for share in quotients if share is not None]
    return statistics.fmean(shares) if shares else None


def _quotient(above: Record, name: str | None, below: Record, other: str | None) -> float | None:
    if name is None or other is None:
        return None
    part, whole = above.value(name), below.value(other)
    return part / whole if part is not None and whole else None
