"""Decide the verdicts on a run's latencies from its records, and read them from their section of a run file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from harness.records.record import (
    Confirmation,
    Record,
    Timing,
    VerdictRecord,
    checksum,
    decode,
    to_json,
    verify,
)

#: The model that a cell is timed beside: its reference, or its own model of an earlier run.
Versus = Literal["reference", "earlier"]
#: A timing of a run: the cell's name, and the model beside it.
TimingId = tuple[str, Versus]


class CellVerdicts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The verdicts on one cell; None for a model that was not timed in pairs."""

    reference: VerdictRecord | None = None
    earlier: VerdictRecord | None = None


#: By cell name.
Verdicts = Mapping[str, CellVerdicts]


def decide(
    records: Iterable[Record], confirmations: Mapping[TimingId, Confirmation | str] = MappingProxyType({})
) -> Verdicts:
    """Decide the verdict on each timing in pairs that states its margin; a reference has none about itself.

    The cells of a matrix are judged together, because among many cells some look slower by chance. A cell is
    called slower only with its entry in ``confirmations``: the measurement of fresh processes, or the reason against.
    """
    by_cell: dict[str, dict[str, VerdictRecord]] = defaultdict(dict)
    for versus, family in _families(records):
        for name, timing, verdict in _decide_family(family):
            if verdict.kind == "slower":
                verdict = _confirmed(verdict, timing, confirmations.get((name, versus)))
            by_cell[name][versus] = verdict
    return {name: CellVerdicts(**verdicts) for name, verdicts in by_cell.items()}


def suspects(records: Iterable[Record]) -> dict[TimingId, Timing]:
    """The timings that look slower and need confirmation by fresh processes, in the order of the records."""
    return {
        (name, versus): timing
        for versus, family in _families(records)
        for name, timing, verdict in _decide_family(family)
        if verdict.kind == "slower"
    }


def attach(records: Iterable[Record], verdicts: Verdicts) -> list[Record]:
    """Attach the verdicts to their records."""
    return [_with_verdicts(record, verdicts.get(record.name, CellVerdicts())) for record in records]


def verdict_sections(verdicts: Verdicts) -> dict[str, Any]:
    """The sections of a run file for the verdicts and for their checksums."""
    section = to_json(verdicts)
    return {"verdicts": section, "verdicts_sha256": {name: checksum(entry) for name, entry in section.items()}}


def verdicts_in(sections: Mapping[str, Any]) -> Verdicts:
    """Decode the verdicts of a run file. Raises ValueError naming cell and field if they are damaged or were edited."""
    section, checksums = sections["verdicts"], sections.get("verdicts_sha256")
    for name, value in ("verdicts", section), ("verdicts_sha256", {} if checksums is None else checksums):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name}: expected an object, got {type(value).__name__}")
    verdicts = {}
    for name in section if checksums is None else {**section, **checksums}:
        try:
            entry = section.get(name)
            verdicts[name] = decode(entry, CellVerdicts)
            if checksums is not None:  # earlier versions wrote none
                verify(entry, checksums.get(name))
        except ValueError as error:
            raise ValueError(f"verdicts of {name}: {error}") from error
    return verdicts


def _families(records: Iterable[Record]) -> Iterator[tuple[Versus, list[tuple[str, Timing]]]]:
    """Group the timings that are judged together: of one matrix, beside one kind of model, at one margin."""
    families: dict[tuple[Versus, float, str, str], list[tuple[str, Timing]]] = defaultdict(list)
    for record in records:
        timings: tuple[tuple[Versus, Timing | None], ...] = (
            ("reference", None if record.is_reference else record.timing),
            ("earlier", None if record.against is None else record.against.timing),
        )
        for versus, timing in timings:
            if timing is not None and timing.protocol == "paired" and timing.margin is not None:
                families[versus, timing.margin, record.suite, record.matrix].append((record.name, timing))
    for (versus, *_), family in families.items():
        yield versus, family


def _decide_family(family: Sequence[tuple[str, Timing]]) -> Iterator[tuple[str, Timing, VerdictRecord]]:
    from harness.stats.verdict import Comparison, decide_verdicts, two_modes

    margin = family[0][1].margin
    assert margin is not None  # _families omits timings without a margin
    cells = [Comparison(timing.per_process, timing.aa_ratios, timing.level) for _, timing in family]
    for (name, timing), verdict in zip(family, decide_verdicts(cells, margin), strict=True):
        reasons = [verdict.reason]
        if verdict.kind == "inconclusive":
            modes = two_modes(timing.per_process, margin)
            reasons += ([] if modes is None else [str(modes)]) + [signal.sentence for signal in timing.exceeded]
        yield name, timing, _verdict(margin, verdict.kind, "; ".join(reasons), verdict.p, verdict.processes_needed)


def _confirmed(suspicion: VerdictRecord, timing: Timing, confirmation: Confirmation | str | None) -> VerdictRecord:
    """The verdict on a cell that looks slower: slower if fresh processes confirm it, else inconclusive."""
    from harness.stats.verdict import confirms_slower

    margin = suspicion.margin
    if confirmation is None:
        reason = "slower, but the run ended before fresh processes could confirm it"
        return _verdict(margin, "inconclusive", reason)
    if isinstance(confirmation, str):
        return _verdict(margin, "inconclusive", f"slower, but could not be timed again: {confirmation}")
    verdict = suspicion
    if not confirms_slower(confirmation.per_process, margin, timing.aa_ratios):
        reason = f"slower at first, but fresh processes gave {confirmation.ratio.value:.4f}"
        reasons = [reason, *(signal.sentence for signal in confirmation.exceeded)]
        verdict = _verdict(margin, "inconclusive", "; ".join(reasons))
    return msgspec.structs.replace(verdict, confirmation=confirmation)


def _verdict(
    margin: float, kind: str, reason: str, p: float | None = None, processes_needed: int | None = None
) -> VerdictRecord:
    return VerdictRecord(
        kind=kind, margin=margin, p=p, processes_needed=processes_needed, reason=reason, confirmation=None
    )


def _with_verdicts(record: Record, verdicts: CellVerdicts) -> Record:
    replace = msgspec.structs.replace
    if record.timing is not None and verdicts.reference is not None:
        record = replace(record, timing=replace(record.timing, verdict=verdicts.reference))
    if record.against is not None and record.against.timing is not None and verdicts.earlier is not None:
        timing = replace(record.against.timing, verdict=verdicts.earlier)
        record = replace(record, against=replace(record.against, timing=timing))
    return record
