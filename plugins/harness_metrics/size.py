"""Measure the size of the network: parameters, the state file that study B measures, and the deployed file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from harness import Absent, EvalContext, Metric, MetricSpec, Task


class Size(Metric):
    """Parameters, non-zero parameters, and sizes in kB (1000 bytes).

    Parameters are those of the deployed model: int8 folds batch normalisation into convolutions, so it has fewer than
    the float model, whose count study B reports. ``state_size`` is the size of ``torch.save(model.state_dict())``, as B
    measures it (later PyTorch versions differ by some hundred bytes). The archive repeats its own name in front of each
    tensor; here that name is "archive", which PyTorch chooses when it saves to memory. Saved to a file, it is the
    file's name, so the size of the same network depends on it. ``file_size`` is that of the deployed file, and
    ``payload`` that of the tensors in it, without their table of names and the header that rebuilds the network.
    """

    name: ClassVar[str] = "size"
    summary: ClassVar[str] = "parameters, bytes of the saved state_dict, bytes of the deployed file"

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (
            MetricSpec("state_size", unit="kB", better="lower", digits=3, headline=True, exact=True),
            MetricSpec("file_size", unit="kB", better="lower", digits=3, exact=True, gate="1%", role="file"),
            MetricSpec("payload", unit="kB", better="lower", digits=3, exact=True),
            MetricSpec("parameters", better="lower", digits=0, exact=True, gate="0%", role="parameters"),
            MetricSpec("nonzero", better="lower", digits=0, exact=True, role="nonzero"),
        )

    def compute(self, evidence: EvalContext) -> Mapping[str, float | Absent | None]:
        import torch

        from harness.nn.operations import nonzero, parameters

        state_size: float | Absent
        if getattr(evidence.model, "quantization", None) is not None:
            state_size = Absent("the deployed file holds no network of PyTorch; file_size is its size")
        else:
            saved = io.BytesIO()
            torch.save(evidence.model.state_dict(), saved)
            state_size = saved.tell() / 1000
        return {
            "state_size": state_size,
            "file_size": evidence.file.stat().st_size / 1000,
            "payload": _payload(evidence.file),
            "parameters": parameters(evidence.model),
            "nonzero": nonzero(evidence.model),
        }


def _payload(file: Path) -> float | Absent:
    """The tensors of a safetensors file, which follow eight bytes of the header's length and the header, in kB."""
    with file.open("rb") as stream:
        length, first = int.from_bytes(stream.read(8), "little"), stream.read(1)
    size = file.stat().st_size - 8 - length
    if size < 0 or first != b"{":
        return Absent(f"{file.name} is no safetensors file, so its tensors cannot be told from its container")
    return size / 1000
