"""Compare each published figure with the measured one: the difference, its interval, and the outcome."""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from harness.api import Step
from harness.stats.estimates import (
    Estimate,
    Mean,
    from_deviation,
    from_interval,
    mean_of,
    one_more_value,
    welch_difference,
)
from harness_studies.document import Document, FigureSpec, Place, Published, Study, read
from harness_studies.match import Match, Matcher, Record, value_of
from harness_studies.orderings import Ordering, ordering

OUTCOMES = ("reproduced", "differs", "inconclusive", "other data", "not comparable", "not run")
RULES = (
    "Published: the mean of the study's runs ± their standard deviation. [low, high]: 95 % intervals.",
    "Reproduced: the 95 % interval of the difference, measured - published, contains 0 and lies within the margin. "
    "Differs: it does not contain 0, whether or not it lies within the margin. Inconclusive: it contains 0 and reaches "
    "beyond the margin, so the figures are compatible, but may also differ by more than the margin.",
    "The interval is Welch's t from the measured seeds and the published runs. Both are evaluated on the same test "
    "examples, so it covers other trainings, not other patients. For one seed it is Student's prediction interval: "
    "where one more run of the study would fall, if ours scatters alike. If the study gives no standard deviation, "
    "only that of our seeds counts. The intervals are not adjusted: of a hundred figures that agree, five differ by "
    "chance.",
    "Exact figures, parameters and bytes, are reproduced within the stated tolerance. Absolute times of other machines "
    "are shown and not judged; for latency, ratios and orderings are judged.",
    "A published best of several prunings is the maximum of noisy figures, so slightly too good. It is compared with "
    "the best of the prunings that were run; the maximum of fewer is lower.",
    "An ordering holds if the 95 % interval of the ratio or difference lies on the claimed side, is contradicted if it "
    "lies on the other side, and is not shown otherwise; a stated margin is allowed. 'The same' needs two one-sided "
    "tests at 5 % within the margin. A finding of several pairs holds if all pairs that were run hold; one pair can "
    "contradict it. Timings on a disturbed machine are left out; if all are disturbed, only an interval beyond a "
    "factor of two counts. Intervals cover seeds; for one seed they cover processes (latency) or patients (quality), "
    "not other trainings.",
)


@dataclasses.dataclass(frozen=True)
class FigureComparison:
    """A published figure and the measured one.

    ``margin`` is how much they may differ, in the figure's unit; ``data`` is the data set of the measurement. If the
    study published the best of ``possible`` choices, ``published.choice`` names it, ``chosen`` is the best of the
    ``choices`` that were run, and ``named`` is our result for the study's choice where that is another one. ``ways``
    lists the values of parameters that the study leaves open, where they differ from the default: "bfloat16".
    """

    table: str
    where: str
    row: str
    column: str
    cell: str
    figure: str
    unit: str
    digits: int
    published: Published
    measured: Estimate | None = None
    difference: Estimate | None = None
    margin: float | None = None
    outcome: str = "not run"
    reason: str = ""
    data: str = ""
    chosen: str = ""
    choices: tuple[str, ...] = ()
    possible: int = 1
    ways: tuple[str, ...] = ()
    named: Estimate | None = None


@dataclasses.dataclass(frozen=True)
class StudyComparison:
    """A study's published figures and findings with what was measured of them; ``dataclasses.asdict`` makes it JSON."""

    name: str
    title: str
    citation: str
    doi: str
    task: str
    notes: tuple[str, ...]
    rules: tuple[str, ...]
    comparisons: tuple[FigureComparison, ...]
    orderings: tuple[Ordering, ...]
    remarks: tuple[str, ...]

    @property
    def heading(self) -> str:
        return f"Study {self.name}: published beside measured"

    @property
    def summary(self) -> str:
        return f"{self.title}. {self.citation}, doi:{self.doi}. Task: {self.task}."

    @property
    def measured(self) -> bool:
        """Whether any cell of the study was run."""
        outcomes = [*(entry.outcome for entry in self.comparisons), *(entry.outcome for entry in self.orderings)]
        return any(outcome != "not run" for outcome in outcomes)


def compare(study: Study, records: Sequence[Record], steps: Mapping[str, type[Step]]) -> StudyComparison:
    """Compare the study with records; ``steps`` are the registered steps by name, for the defaults of parameters.

    Raises UsageError if the study's file is not valid.
    """
    document = read(study)
    matcher = Matcher(records, steps)
    return StudyComparison(
        name=document.name,
        title=document.title,
        citation=document.citation,
        doi=document.doi,
        task=document.task,
        notes=document.notes,
        rules=RULES,
        comparisons=tuple(_comparison(place, matcher) for place in document.places),
        orderings=tuple(ordering(claim, matcher, document.places) for claim in document.claims),
        remarks=tuple(_remarks(document, records)),
    )


def _comparison(place: Place, matcher: Matcher) -> FigureComparison:
    figure = place.figure
    bare = FigureComparison(
        table=place.table,
        where=place.where,
        row=place.row,
        column=place.column,
        cell=str(place.cell),
        figure=figure.label,
        unit=figure.unit,
        digits=figure.digits,
        published=place.published,
        margin=_margin(figure, place.published),
        possible=math.prod(
            len(values) for step in place.cell.steps for name, values in step.parameters if name in place.choice
        ),
    )
    groups: dict[str, dict[int, Match]] = {}
    for match in matcher.matches(place.cell, figure):
        if value_of(match.record, figure.name) is not None:
            groups.setdefault(match.choice(place.choice), {})[match.seed] = match
    if not groups:
        return bare
    chosen = _best(groups, figure.name)
    measured = _estimate(groups[chosen], figure)
    margin = bare.margin
    difference = _difference(place.published, groups[chosen], measured, figure)
    data = str(next(iter(groups[chosen].values())).record["axes"]["dataset"])
    shown: Estimate | None = None
    if figure.apart or margin is None:
        margin = None
        outcome, reason = "not comparable", figure.apart or "the study's file has no margin for it"
    elif data != place.cell.datasets[0]:
        # The interval does not cover the change of data, which is most of the difference.
        margin, shown = None, dataclasses.replace(difference, low=None, high=None, over="")
        outcome, reason = "other data", f"{data} for {place.cell.datasets[0]}"
    else:
        shown = difference
        outcome, reason = _outcome(difference, margin, place)
    named = groups.get(place.published.choice)
    return dataclasses.replace(
        bare,
        measured=measured,
        difference=shown,
        margin=margin,
        outcome=outcome,
        reason=reason,
        data=data,
        chosen=chosen,
        choices=tuple(sorted(filter(None, groups))),
        ways=_ways(place, groups[chosen].values()),
        named=None if named is None or place.published.choice == chosen else _estimate(named, figure),
    )


def _ways(place: Place, matches: Iterable[Match]) -> tuple[str, ...]:
    values = (
        value
        for match in matches
        for (_, name), value in match.open_values.items()
        if name not in place.choice and value
    )
    return tuple(dict.fromkeys(values)) if place.choice else ()


def _margin(figure: FigureSpec, published: Published) -> float | None:
    if figure.tolerance is not None:
        return figure.tolerance * abs(published.value) + figure.overhead
    return figure.margin


def _best(groups: Mapping[str, Mapping[int, Match]], figure: str) -> str:
    """The choice with the best mean, among those with the most seeds, so that no single lucky seed wins."""
    most = max(map(len, groups.values()))

    def goodness(choice: str) -> float:
        records = [match.record for match in groups[choice].values()]
        entry = records[0]["figures"].get(figure)
        mean = statistics.fmean(_values(groups[choice], figure))
        return mean if entry is not None and entry["better"] == "higher" else -mean

    return max((choice for choice in groups if len(groups[choice]) == most), key=goodness)


def _values(seeds: Mapping[int, Match], figure: str) -> list[float]:
    values = (value_of(match.record, figure) for match in seeds.values())
    return [value for value in values if value is not None]


def _estimate(seeds: Mapping[int, Match], figure: FigureSpec) -> Estimate:
    """The mean over seeds with Student's interval; for one seed, the figure with its own interval over patients."""
    values = _values(seeds, figure.name)
    mean = mean_of(values)
    if len(values) > 1:
        low, high = mean.bounds()
        spread = statistics.stdev(values)
        return Estimate(mean.value, low, high, len(values), "seeds", spread, f"Student's t over {len(values)} seeds")
    (match,) = seeds.values()
    entry = match.record["figures"].get(figure.name)
    interval = None if entry is None else entry.get("interval")
    if interval is None:
        return Estimate(mean.value, method="one seed")
    method = f"one seed, {interval['method']}"
    return Estimate(mean.value, interval["low"], interval["high"], 1, "patients", None, method)


def _difference(published: Published, seeds: Mapping[int, Match], measured: Estimate, figure: FigureSpec) -> Estimate:
    """Measured - published, with the interval that `RULES` describes."""
    ours, several = mean_of(_values(seeds, figure.name)), measured.count > 1
    if figure.tolerance is not None:
        value = ours.value - published.value
        return Estimate(value, value, value, measured.count, method="exact")
    if published.spread is not None and published.runs > 1:
        over = "seeds"
        theirs = from_deviation(published.value, published.spread, published.runs)
        if several:
            mean = welch_difference(ours, theirs)
            method = f"Welch's t, {measured.count} seeds and {published.runs} runs"
        else:
            alone = one_more_value(ours.value, published.spread, published.runs)
            error = math.hypot(alone.error or 0.0, theirs.error or 0.0)
            mean = Mean(ours.value - theirs.value, error, published.runs - 1)
            method = f"one seed, as if it scattered as the study's {published.runs} runs"
    else:
        if not several:
            ours = from_interval(ours.value, measured.low, measured.high)
        mean = dataclasses.replace(ours, value=ours.value - published.value)
        method = f"{measured.method}; the study gives no deviation"
        over = measured.over
    low, high = mean.bounds()
    return Estimate(mean.value, low, high, measured.count, over, None, method)


def _outcome(difference: Estimate, margin: float, place: Place) -> tuple[str, str]:
    """The outcome for figures on the same data, and the reason."""
    value = place.published.value
    if place.figure.tolerance is not None:
        slack = 1e-9 * max(1.0, abs(value))  # rounding of floats
        away = f"{difference.value / value:+.1%}" if difference.value and value else ""
        return ("reproduced" if abs(difference.value) <= margin + slack else "differs"), away
    low, high = difference.low, difference.high
    if low is None or high is None:
        return "inconclusive", "there is no interval"
    within = -margin <= low and high <= margin
    if low <= 0 <= high:
        return ("reproduced", "") if within else ("inconclusive", "the interval reaches beyond the margin")
    return "differs", "by less than the margin" if within else ""


def _remarks(document: Document, records: Sequence[Record]) -> list[str]:
    remarks = []
    synthetic = collections.Counter(str(record["axes"]["dataset"]) for record in records if record["synthetic"])
    for dataset, count in synthetic.items():
        remarks.append(f"{count} records of {dataset} are left out: synthetic data cannot reproduce a figure")
    datasets = {dataset for place in document.places for dataset in place.cell.datasets}
    presets = {preset for place in document.places for preset in place.figure.presets}
    real = [record for record in records if not record["synthetic"] and record["axes"]["dataset"] in datasets]
    short = collections.Counter(record["preset"] for record in real if record["preset"] != "study")
    for preset, count in short.items():
        missing = sorted({place.figure.label for place in document.places if preset not in place.figure.presets})
        effect = "nothing" if preset not in presets else f"no {', '.join(missing)}" if missing else ""
        if effect:
            remarks.append(f"{count} records of preset {preset} give {effect}: they were not trained as published")
    return remarks
