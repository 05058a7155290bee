"""The three studies that this project reproduces, as data: the figures, what they are of, and the findings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness import Study, hookimpl

HERE = Path(__file__).parent
STUDIES = (
    Study("A", HERE / "a.toml", "ICU mortality: pruned and quantized LSTM, hLSTM, DNN (Liu et al. 2021)"),
    Study("B", HERE / "b.toml", "multi-label ECG: pruned, quantized, distilled RNN, CNN, ResNet (Hołda et al. 2026)"),
    Study("C", HERE / "c.toml", "medical images: Condensa's schemes on a ResNet-18 (Rowley 2021)"),
)


@hookimpl
def harness_studies(register: Callable[[Study], None]) -> None:
    for study in STUDIES:
        register(study)
