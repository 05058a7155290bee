"""Set published studies, as data, beside measured figures: sections of the report, and the hook that brings a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import Kind, ReportContext, Section, hookimpl
from harness_studies.document import Study

__all__ = ["Study"]

HERE = Path(__file__).parent
STUDIES = (
    Study("A", HERE / "a.toml", "ICU mortality: pruned and quantized LSTM, hLSTM, DNN (Liu et al. 2021)"),
    Study("B", HERE / "b.toml", "multi-label ECG: pruned, quantized, distilled RNN, CNN, ResNet (Hołda et al. 2026)"),
    Study("C", HERE / "c.toml", "medical images: Condensa's schemes on a ResNet-18 (Rowley 2021)"),
)


@hookimpl
def harness_kinds(register: Callable[[Kind], None]) -> None:
    """Let plugins bring studies: ``harness_studies(register)``, with ``register(Study(...))`` in it."""
    register(Kind("study", Study, hook="harness_studies", plural="studies"))


@hookimpl
def harness_studies(register: Callable[[Study], None]) -> None:
    for study in STUDIES:
        register(study)


@hookimpl
def harness_report_section(records: Sequence[Mapping[str, Any]], context: ReportContext) -> list[Section]:
    from harness_studies.section import study_sections

    return study_sections(records, context)
