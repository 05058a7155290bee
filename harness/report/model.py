"""Build the content of the report from records: networks, their variants, and estimates for each, without markup.

A *variant* stands for the cells that differ only in their seed. A *network* holds the variants that are compared with
each other: one architecture on one data set under the same conditions. It is one table in the terminal.
"""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence

from harness.records.record import Interval, MetricValue, Record, Unmeasured
from harness.records.runs import Run
from harness.report.noise import protocol
from harness.run.declarations import declaration
from harness.stats.estimates import Estimate, known_mean, pooled, pooled_ratio

OVER_SEEDS = (
    "Several seeds: the mean, with Student's 95 % interval over seeds. For quality and its differences, the mean "
    "interval over patients is added in quadrature."
)
#: Presets whose trainings are too short for their quality to mean anything.
SHORT = {"smoke": "only tests that everything runs", "quick": "trains for minutes"}
#: How many networks a warning names.
NAMED = 3


@dataclasses.dataclass(frozen=True)
class Shown:
    """The figure that represents quality or size: its name, its format, and which direction is better."""

    name: str
    unit: str
    digits: int
    better: str | None

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
        return collections.Counter(found.kind for cell in self.cells if (found := cell.record.verdict) is not None)

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
        """The number of disturbed timings, in words; empty if there is none."""
        return f" ({self.disturbed} of {len(self.cells)} timings disturbed)" if self.disturbed else ""

    def mean(self, name: str) -> float | None:
        """The mean of a figure over seeds; None where it is undefined."""
        figures = [cell.record.figures for cell in self.cells]
        return known_mean(entry[name].value for entry in figures if name in entry)


@dataclasses.dataclass(frozen=True)
class Network:
    """Variants that are compared with each other; ``columns`` is the axis of compression."""

    title: str
    heading: str
    axes: tuple[str, ...]
    columns: str
    quality: Shown | None
    size: Shown | None
    variants: tuple[Variant, ...]

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
    left: tuple[tuple[Unmeasured, int], ...]

    @property
    def records(self) -> list[Record]:
        return [record for entry in self.networks for record in entry.records]


def report(runs: Sequence[Run]) -> Report:
    """The report of runs. If a cell is in several runs, the last one counts."""
    newest = {record.identity: RunCell(record, place) for place, run in enumerate(runs) for record in run.records}
    networks = networks_of(newest.values())
    measured = {(record.suite, record.matrix, record.cell) for run in runs for record in run.records}
    left = tuple(
        (entry, place)
        for place, run in enumerate(runs)
        for entry in run.left
        if (entry.suite, entry.matrix, entry.cell) not in measured
    )
    return Report(tuple(runs), networks, tuple(warnings_of(networks)), left)


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
    """The names of the settings that distinguish the networks; a name that adds nothing to those before is left out."""
    names: list[str] = []
    distinct = 1
    for name in settings[0]:
        found = len({tuple(setting[other] for other in (*names, name)) for setting in settings})
        if found > distinct:
            names.append(name)
            distinct = found
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
    for name, what in SHORT.items():
        short = [entry.title for entry in networks if entry.records[0].preset == name]
        if short:
            more = f" and {len(short) - NAMED} more" if len(short) > NAMED else ""
            whose = "" if len(short) == len(networks) else f" ({'; '.join(short[:NAMED])}{more})"
            yield f"The preset {name} {what}: its quality means nothing{whose}."


def _network(cells: Sequence[RunCell]) -> Network:
    records = [cell.record for cell in cells]
    first = records[0]
    axes = tuple(step_axes(first))
    groups: dict[str, list[RunCell]] = {}
    for cell in cells:
        groups.setdefault(_label(cell.record, axes), []).append(cell)
    quality, size = _quality(records), _size(records)
    labels = {cell.record.cell: label for label, group in groups.items() for cell in group}
    variants = [_variant(label, group, labels, axes, quality, size) for label, group in groups.items()]
    by_label = {variant.label: variant for variant in variants}
    shared = [_shares(variant, by_label.get(variant.reference)) for variant in variants]
    named = [str(first.axes[name]) for name in ("runtime", "profile")]
    title = f"{first.axes['architecture']} on {first.axes['dataset']}"
    title += "".join(f", {name}" for name in named[1:] if name) + (f", {named[0]}" if named[0] != "torch" else "")
    return Network(title, heading(records), axes, first.columns, quality, size, tuple(shared))


def _label(record: Record, axes: Sequence[str]) -> str:
    return "-".join(str(record.axes[name]) for name in axes) or record.cell


def _variant(
    label: str,
    cells: Sequence[RunCell],
    labels: Mapping[str, str],
    axes: Sequence[str],
    quality: Shown | None,
    size: Shown | None,
) -> Variant:
    records = [cell.record for cell in cells]
    first = records[0]
    difference = _differences(records, quality)
    lower = quality is not None and quality.better == "lower"
    made = Variant(
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
    return dataclasses.replace(made, latency=made.mean("latency"), size=made.mean(size.name) if size else None)


def _shares(variant: Variant, reference: Variant | None) -> Variant:
    """The variant with its shares of the reference's size and parameters."""
    if reference is None:
        return variant
    return dataclasses.replace(
        variant,
        size_share=_share(variant.size, reference.size),
        parameter_share=_share(variant.mean("parameters"), reference.mean("parameters")),
    )


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _quality(records: Sequence[Record]) -> Shown | None:
    """The first headline figure for which the difference from the reference is known."""
    return next((_shown(record, name) for record in records for name in record.differences
                 if name in record.figures and record.figures[name].headline), None)  # fmt: skip


def _size(records: Sequence[Record]) -> Shown | None:
    """The first headline figure that is exact and should be small; without such a headline, the first such figure."""
    exact = [
        (record, name)
        for record in records
        for name, figure in record.figures.items()
        if (declared := declaration(name, figure)).exact and declared.better != "higher"
    ]
    headlines = [(record, name) for record, name in exact if record.figures[name].headline]
    return next((_shown(*entry) for entry in (*headlines, *exact)), None)


def _shown(record: Record, name: str) -> Shown:
    figure = record.figures[name]
    return Shown(name, figure.unit, figure.digits, figure.better)


def _qualities(records: Sequence[Record], quality: Shown | None) -> Estimate | None:
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


def _differences(records: Sequence[Record], quality: Shown | None) -> Estimate | None:
    found = [record.differences.get(quality.name) for record in records] if quality else []
    return pooled([estimate(entry) for entry in found if entry is not None])


def estimate(interval: Interval) -> Estimate:
    """A record's interval as an estimate."""
    return Estimate(interval.value, interval.low, interval.high, method=interval.method)


def network_key(record: Record) -> tuple[str, ...]:
    """What the cells of one table share: everything except their steps and their seed."""
    axes = record.axes
    fixed = (str(axes[name]) for name in ("dataset", "architecture", "runtime", "profile"))
    timing = record.timing
    found = record.verdict
    margin = "" if found is None else str(found.margin)
    how = () if timing is None else (timing.protocol, str(timing.processes), margin)
    return (record.suite, record.matrix, record.preset, record.device, *fixed, *how)


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

NONZERO, FILE = "nonzero", "file_size"
NONZERO_LEFT = "nonzero left"
#: The share of weights by which a variant must be sparser; rounding to 8 bits alone makes up to 3 % zero.
SPARSER = 0.05
#: How far the two shares of size must lie apart; the files' formats differ by up to a tenth of a small network.
APART = 0.1

Bases = Mapping[str, Record]


def bases(records: Sequence[Record]) -> Bases:
    """The records by the names of their cells, to look up references."""
    return {record.cell: record for record in records}


def secondary_sizes(records: Sequence[Record]) -> frozenset[str]:
    """Which of `NONZERO` and `FILE` to show, because they differ from the primary size metrics in some cell.

    Both usually follow the parameters and the ``state_size``. They do not where single weights were set to zero, and
    where the deployed file stores less or more than the ``state_dict``.
    """
    found = set()
    known = bases(records)
    for record in records:
        base = known.get(record.reference)
        if base is None:
            continue
        dense, whole = (_quotient(entry, NONZERO, entry, "parameters") for entry in (record, base))
        if dense is not None and whole is not None and whole - dense > SPARSER:
            found.add(NONZERO)
        file, state = (_quotient(record, name, base, name) for name in (FILE, "state_size"))
        if file is not None and state is not None and abs(file - state) > APART:
            found.add(FILE)
    return frozenset(found)


def file_figure(records: Sequence[Record]) -> MetricValue | None:
    """The figure of the deployed file, where it is shown."""
    if FILE not in secondary_sizes(records):
        return None
    return next(record.figures[FILE] for record in records if FILE in record.figures)


def file_title(figure: MetricValue) -> str:
    """The name of the deployed file's size with its unit, as in tables and charts."""
    return f"{FILE}, {figure.unit}" if figure.unit else FILE


def nonzero_share(cells: Sequence[Record], known: Bases) -> float | None:
    """The mean over cells of their non-zero parameters / those of their references; None where unknown."""
    pairs = [(cell, base) for cell in cells if (base := known.get(cell.reference)) is not None]
    found = [_quotient(cell, NONZERO, base, NONZERO) for cell, base in pairs]
    shares = [share for share in found if share is not None]
    return statistics.fmean(shares) if shares else None


def _quotient(above: Record, name: str, below: Record, other: str) -> float | None:
    part, whole = above.value(name), below.value(other)
    return part / whole if part is not None and whole else None
