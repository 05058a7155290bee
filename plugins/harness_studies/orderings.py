"""Judge findings that are orderings, by the interval of each pair's measured difference or ratio."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from harness.stats.estimates import SAME_LEVEL, Estimate, Mean, average, from_interval, mean_of, welch_difference
from harness.text import pluralize
from harness_studies.document import CellSpec, Claim, Place, Relation
from harness_studies.match import Match, Matcher, Record, value_of

#: From the most to the least informative.
VERDICTS = ("holds", "contradicted", "not shown", "not run")
#: Beyond this ratio a disturbed timing counts too: calls are paired, so a slow machine slows both, and on the disturbed
#: machines that we measured the canary never took twice its time.
CLEAR = 2.0


@dataclasses.dataclass(frozen=True)
class Contrast:
    """One pair of a finding: the ``measured`` ratio a / b or difference a - b, and the ``published`` one if known.

    ``data`` is the data set of the measurement.
    """

    label: str
    a: str
    b: str
    published: float | None
    measured: Estimate | None
    outcome: str
    reason: str = ""
    data: str = ""


@dataclasses.dataclass(frozen=True)
class Ordering:
    """A finding with its pairs; ``outcome`` covers all pairs, and ``reason`` counts theirs.

    ``scale`` says whether pairs are ratios or differences; ``margin`` is a share of a ratio, or in the figure's unit.
    """

    claim: str
    where: str
    figure: str
    scale: str
    digits: int
    relation: str
    margin: float
    outcome: str
    reason: str
    contrasts: tuple[Contrast, ...]


def ordering(claim: Claim, matcher: Matcher, places: Sequence[Place]) -> Ordering:
    """Judge a finding. It holds if all pairs that were run hold; one pair can contradict it."""
    contrasts = tuple(_contrast(claim, *pair, matcher, places) for pair in claim.pairs)
    counts = {verdict: sum(entry.outcome == verdict for entry in contrasts) for verdict in VERDICTS}
    run = len(contrasts) - counts["not run"]
    if not run:
        outcome = "not run"
    elif counts["contradicted"]:
        outcome = "contradicted"
    else:
        outcome = "holds" if counts["holds"] == run else "not shown"
    others = [f"{verdict} in {count}" for verdict, count in counts.items() if count and verdict != outcome]
    if len(contrasts) == 1:
        reason = contrasts[0].reason
    elif not others:
        reason = f"all {len(contrasts)}" if run else ""
    else:
        reason = ", ".join([f"in {counts[outcome]}", *others])
    return Ordering(
        claim=claim.claim,
        where=claim.where,
        figure=claim.figure.label,
        scale=claim.figure.scale,
        digits=claim.figure.digits,
        relation=claim.relation,
        margin=claim.margin,
        outcome=outcome,
        reason=reason,
        contrasts=contrasts,
    )


def _contrast(
    claim: Claim, label: str, a: CellSpec, b: CellSpec, matcher: Matcher, places: Sequence[Place]
) -> Contrast:
    pairs = _pairs(matcher.matches(a, claim.figure), matcher.matches(b, claim.figure))
    figure, ratio = claim.figure, claim.figure.scale == "ratio"
    published = _published(claim, a, b, places)
    known = [(one, other) for one, other in pairs if _has(one, figure.name) and _has(other, figure.name)]
    if not known:
        return Contrast(label, str(a), str(b), published, None, "not run")
    undisturbed = [pair for pair in known if figure.name != "latency" or not any(map(_contaminated, _timed(*pair)))]
    mean, estimate = _measured(undisturbed or known, claim)
    outcome, reason = judged(mean, claim.relation, math.log1p(claim.margin) if ratio else claim.margin)
    if not undisturbed:
        outcome, reason = _judged_disturbed(mean, claim.relation)
    elif len(undisturbed) < len(known):
        reason = f"{reason}; {pluralize(len(known) - len(undisturbed), 'disturbed timing')} left out".removeprefix("; ")
    data = str(known[0][0].record["axes"]["dataset"])
    return Contrast(label, str(a), str(b), published, estimate, outcome, reason, data)


def _judged_disturbed(mean: Mean, relation: Relation) -> tuple[str, str]:
    low, high = mean.bounds()
    clear = low is not None and high is not None and (low > math.log(CLEAR) or high < -math.log(CLEAR))
    if clear and relation in ("above", "below"):
        outcome, _ = judged(mean, relation, 0.0)
        return outcome, f"the machine was disturbed in every timing, but not by a factor of {CLEAR:g}"
    return "not shown", "the machine was disturbed in every timing"


def judged(mean: Mean, relation: Relation, margin: float) -> tuple[str, str]:
    """Judge a difference by its 95 % interval, or for "same" by two one-sided tests at 5 % within the margin."""
    low, high = mean.bounds()
    if low is None or high is None:
        return "not shown", "there is no interval"
    if relation in ("below", "not above"):
        low, high = -high, -low
    if relation == "same":
        inner = mean.bounds(SAME_LEVEL)
        if all(bound is not None and abs(bound) <= margin for bound in inner):
            return "holds", ""
        return ("contradicted" if low > margin or high < -margin else "not shown"), ""
    bar = 0.0 if relation in ("above", "below") else -margin
    if low > bar or (low >= bar and relation.startswith("not")):
        return "holds", ""
    # An exact zero is neither above nor below.
    return ("contradicted" if high < bar or (mean.error == 0 and high <= bar) else "not shown"), ""


def _pairs(ones: Sequence[Match], others: Sequence[Match]) -> list[tuple[Match, Match]]:
    """Pair records of the same conditions and seed that agree in the parameters that both leave open.

    Of several such pairs, the last one counts.
    """
    beside: dict[tuple[Any, ...], list[Match]] = {}
    for other in others:
        beside.setdefault((*other.context, other.seed), []).append(other)
    pairs = {}
    for one in ones:
        for other in beside.get((*one.context, one.seed), ()):
            if all(
                one.open_values[key] == other.open_values[key]
                for key in one.open_values.keys() & other.open_values.keys()
            ):
                pairs[one.seed, str(sorted(one.open_values.items())), str(sorted(other.open_values.items()))] = (
                    one,
                    other,
                )
    return list(pairs.values())


def _measured(pairs: Sequence[tuple[Match, Match]], claim: Claim) -> tuple[Mean, Estimate]:
    """The mean over seeds, on the scale of the judgement (logarithms of ratios) and as it is shown."""
    ratio = claim.figure.scale == "ratio"
    by_seed: dict[int, list[tuple[Mean, str]]] = {}
    for one, other in pairs:
        if claim.figure.name == "latency":
            single = _log_ratio(one.record, other.record)
        else:
            single = _difference(one.record, other.record, claim)
        by_seed.setdefault(one.seed, []).append(single)
    seeds = [average([mean for mean, _ in entries]) for entries in by_seed.values()]
    how = "; ".join(dict.fromkeys(how for entries in by_seed.values() for _, how in entries))
    if len(seeds) > 1:
        mean, over, method = mean_of([seed.value for seed in seeds]), "seeds", f"Student's t over {len(seeds)} seeds"
    else:
        (mean,), method = seeds, "one seed"
        over = "" if mean.error is None or claim.figure.exact else "processes" if ratio else "patients"
    if len(seeds) == 1 or claim.figure.name == "latency":
        method = f"{method}, each {how}"
    low, high = mean.bounds()
    shown = [None if entry is None else math.exp(entry) if ratio else entry for entry in (mean.value, low, high)]
    return mean, Estimate(shown[0] or 0.0, shown[1], shown[2], len(seeds), over, None, method)


def _log_ratio(one: Record, other: Record) -> tuple[Mean, str]:
    """The logarithm of a's latency / b's, and how it was measured: in pairs, through a shared reference, or apart."""
    mine, its = one["timing"], other["timing"]
    if mine is not None and _is_reference_of(other, one):
        return _log_mean(mine), f"in pairs, {mine['ratio'].get('method', 'no interval')}"
    if its is not None and _is_reference_of(one, other):
        inverse = _log_mean(its)
        return dataclasses.replace(inverse, value=-inverse.value), f"in pairs, {its['ratio'].get('method', '')}"
    if mine is not None and its is not None and _share_reference(one, other):
        source = "processes" if mine.get("per_process") and its.get("per_process") else "the ratios' intervals"
        how = f"through the reference that both were timed with in pairs, Welch's t from {source}"
        return welch_difference(_log_mean(mine), _log_mean(its)), how
    quotient = _value(one, "latency") / _value(other, "latency")
    return Mean(math.log(quotient)), "by medians taken at different moments, without an interval of its own"


def _log_mean(timing: Record) -> Mean:
    """The mean log ratio to the reference: from the processes, or in older records without these from the interval."""
    ratio, per_process = timing["ratio"], timing.get("per_process", [])
    if len(per_process) > 1:
        return mean_of([math.log(value) for value in per_process])
    low, high = ratio["low"], ratio["high"]
    if low is None or high is None:
        return Mean(math.log(ratio["value"]))
    freedom = max(1, timing["processes"] - 1)
    return from_interval(math.log(ratio["value"]), math.log(low), math.log(high), freedom)


def _difference(one: Record, other: Record, claim: Claim) -> tuple[Mean, str]:
    """a's figure - b's, or the logarithm of their ratio, and how it was measured."""
    name = claim.figure.name
    a, b = _value(one, name), _value(other, name)
    if claim.figure.scale == "ratio":
        exact = claim.figure.exact
        return Mean(math.log(a / b), 0.0 if exact else None), "exact" if exact else "without an interval of its own"
    mine, its = one["differences"].get(name), other["differences"].get(name)
    if mine is not None and _is_reference_of(other, one):
        return _of_patients(a - b, mine), f"of these two networks, {mine.get('method', 'no interval')}"
    if its is not None and _is_reference_of(one, other):
        return _of_patients(a - b, its), f"of these two networks, {its.get('method', 'no interval')}"
    if mine is not None and its is not None and _share_reference(one, other):
        error = welch_difference(_of_patients(a, mine), _of_patients(b, its))
        return error, "of these two networks, two bootstraps over patients taken as independent, so too wide"
    return Mean(a - b), "without an interval of its own"


def _value(record: Record, figure: str) -> float:
    value = value_of(record, figure)
    assert value is not None  # pairs without a value were left out
    return value


def _of_patients(value: float, interval: Record) -> Mean:
    return dataclasses.replace(from_interval(interval["value"], interval["low"], interval["high"]), value=value)


def _timed(one: Match, other: Match) -> tuple[Match, ...]:
    """The records whose timings compare the two; for a cell and its reference, only the cell's."""
    if _is_reference_of(other.record, one.record):
        return (one,)
    return (other,) if _is_reference_of(one.record, other.record) else (one, other)


def _is_reference_of(reference: Record, record: Record) -> bool:
    return bool(record["reference"] == reference["cell"] != record["cell"])


def _share_reference(one: Record, other: Record) -> bool:
    return bool(one["reference"] == other["reference"])


def _contaminated(match: Match) -> bool:
    timing = match.record["timing"]
    verdict = None if timing is None else timing.get("verdict")
    return verdict is not None and verdict["kind"] == "contaminated"


def _has(match: Match, figure: str) -> bool:
    return value_of(match.record, figure) is not None


def _published(claim: Claim, a: CellSpec, b: CellSpec, places: Sequence[Place]) -> float | None:
    """The published ratio or difference of two cells of the study's tables."""
    figures = {place.cell: place.published.value for place in places if place.figure.name == claim.figure.name}
    if a not in figures or b not in figures:
        return None
    return figures[a] / figures[b] if claim.figure.scale == "ratio" else figures[a] - figures[b]
