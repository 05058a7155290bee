"""Register the metrics of every cell (quality, size, operations, latency, memory), and optional ones, without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness import Metric, Section, hookimpl
from harness_metrics.counters import Energy, Instructions, RepeatedInput
from harness_metrics.decisions import DECISIONS, YOUDEN, Decisions, decision_sections
from harness_metrics.latency import Latency
from harness_metrics.memory import Memory
from harness_metrics.operations import Operations
from harness_metrics.quality import Quality
from harness_metrics.serving import Serving
from harness_metrics.size import Size

__all__ = [
    "Decisions",
    "Energy",
    "Instructions",
    "Latency",
    "Memory",
    "Operations",
    "Quality",
    "RepeatedInput",
    "Serving",
    "Size",
]


@hookimpl
def harness_metrics(register: Callable[[Metric], None]) -> None:
    for metric in (Quality(), Size(), Operations(), Latency(), Memory(), Instructions(), Energy(), RepeatedInput()):
        register(metric)
    register(Serving())
    register(DECISIONS)
    register(YOUDEN)


@hookimpl
def harness_report_section(records: Sequence[Mapping[str, Any]]) -> list[Section]:
    return decision_sections(records)
