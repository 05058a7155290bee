"""Store weights and compute in 16 bits: float16 (IEEE 754 binary16) or bfloat16.

After Micikevicius et al., "Mixed precision training" (ICLR 2018, arXiv:1710.03740), for float16, and Kalamkar et al.,
"A study of BFLOAT16 for deep learning training" (2019, arXiv:1905.12322). Here networks are converted after training.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.api import Phase, Step, StepContext
from harness.errors import CellError, Unsupported, UsageError

if TYPE_CHECKING:
    import torch

DTYPES = ("bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Half(Step):
    """Convert weights, inputs and arithmetic to ``dtype``; the answers come back as float32.

    Each weight takes two bytes instead of four, on disk and in memory. Shapes and multiply-accumulates stay. bfloat16
    has float32's range and 8 bits of precision, float16 has 11 bits and numbers up to 65,504. Whether it is faster
    depends on the processor: CPUs without such arithmetic emulate it, and are slower. The fact ``error`` is the
    conversion's error of all weights, relative to their norm.

    It is the last step of a recipe: Unsupported is raised by later steps that train or change the network, and here
    for a network that is int8, holds a value beyond float16's range, or has an operation without a 16-bit kernel.
    """

    name: ClassVar[str] = "half"
    dtype: Literal["bfloat16", "float16"] = "bfloat16"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"half(dtype={self.dtype!r}): choose 'bfloat16' or 'float16'")

    @classmethod
    def examples(cls) -> Sequence[Half]:
        return [cls("bfloat16"), cls("float16")]

    def trainings(self) -> Sequence[tuple[Phase, Mapping[str, Any]]]:
        return ()

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        from harness_compress._layers import runs

        network = self._converted(model)
        if not runs(network, context.example, "half").isfinite().all():
            raise Unsupported(f"half: the network answers one example with NaN or infinity in {self.dtype}")
        before = [value.double() for value in model.state_dict().values() if value.is_floating_point()]
        after = [value.double() for value in network.state_dict().values() if value.is_floating_point()]
        lost = sum(float((one - other).square().sum()) for one, other in zip(before, after, strict=True))
        norm = sum(float(value.square().sum()) for value in before)
        context.report(error=(lost / norm) ** 0.5 if norm else 0.0)
        return network

    def preview(self, model: torch.nn.Module, example: torch.Tensor) -> torch.nn.Module:
        return self._converted(model)

    def _converted(self, model: torch.nn.Module) -> torch.nn.Module:
        import torch

        from harness_compress._layers import HalfNetwork

        dtype = getattr(torch, self.dtype)
        floats = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
        kinds = {str(value.dtype) for value in floats.values() if value.is_quantized or value.dtype == torch.int8}
        if kinds or getattr(model, "gives_probabilities", False):
            raise Unsupported("half: the network is int8, or gives probabilities; use one of the two")
        if isinstance(model, HalfNetwork):
            raise Unsupported(f"half: the network is in {str(model.dtype).removeprefix('torch.')} already")
        for name, value in floats.items():
            if value.is_floating_point() and not value.to(dtype).isfinite().all():
                raise Unsupported(f"half: {name} has values beyond the range of {self.dtype}; use 'bfloat16'")
        return HalfNetwork(copy.deepcopy(model), dtype).eval()

    def dump(self, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        from harness_compress._layers import HalfNetwork

        if not isinstance(model, HalfNetwork):
            raise CellError("a step after half replaced the 16-bit network, so it must define dump() and restore()")
        return super().dump(model.network)

    def restore(
        self, fresh: torch.nn.Module, tensors: Mapping[str, torch.Tensor], notes: Mapping[str, Any]
    ) -> torch.nn.Module:
        import torch

        from harness_compress._layers import HalfNetwork

        return HalfNetwork(super().restore(fresh, tensors, notes), getattr(torch, self.dtype))
