"""Compare a pruned network with the whole one in which nothing reads the removed units: they must answer alike.

Labels say which units a layer reads, not what happens to a unit on its way there. The comparison finds the rest: a
function of some positions of an axis alone, a write into a slice, or the width of a pruned axis used as a number.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import Unsupported
from harness.nn.structure import PrunableLayer
from harness_compress.labels import RECURRENT
from harness_compress.tracing import evaluating
from harness_compress.units import Trace, TracedLayer

#: Labels (n,) -> mask of those to keep (n,), bool.
Keep = Callable[[Tensor], Tensor]

#: The largest difference, relative to the largest answer, in double precision and in the network's own.
IN_DOUBLE, IN_OWN = 1e-6, 1e-3


def masked(whole: nn.Module, small: nn.Module, trace: Trace, keep: Keep) -> nn.Module:
    """Change ``whole``, in place, such that no layer reads a unit that ``keep`` rejects; return it.

    Weights that read a removed unit become zero. A LayerNorm normalises over the remaining units, and a PrunableLayer
    may do so, too: these run as they are in ``small``, on the positions of the remaining units.
    """
    for path in dict.fromkeys(cell.path for cell in trace.cells.values()):
        cells = [cell for cell in trace.cells.values() if cell.path == path]
        module = whole.get_submodule(path)
        if isinstance(module, PrunableLayer):
            first = next(labels for cell in cells for block, labels in cell.reads() if block.source == "")
            last = next(cell for cell in cells if cell.name == f"{path}.{next(reversed(list(module.incoming())))}")
            inner = _Embedded(small.get_submodule(path), keep(first), keep(last.outputs))
            replace_module(whole, module, inner)
        elif isinstance(module, nn.LayerNorm):
            kept = keep(cells[0].outputs)
            replace_module(whole, module, _Embedded(small.get_submodule(path), kept, kept))
        else:
            for cell in cells:
                _silence(module, cell, keep)
    return whole


def compare(small: nn.Module, whole: nn.Module, example: Tensor) -> None:
    """Raise Unsupported when two networks answer differently on ``example`` (1, *input_shape) or on random inputs."""
    difference = _difference(small, whole, example)
    if difference and not _difference(whole, whole, example):  # random numbers in forward() cannot be compared
        raise Unsupported(
            f"prune: with fewer units, {type(small).__name__} computes another function. Its forward() probably treats "
            "units by their position (a slice, chunk or index), or computes with their number: answers differ by up to "
            f"{difference:.2g} from those of the whole network in which nothing reads the removed units"
        )


def replace_module(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` at each path at which ``model`` holds ``old``."""
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, new)


class _Embedded(nn.Module):
    """Apply a smaller module to the remaining positions of the last axis; removed units of its outputs are zero."""

    def __init__(self, small: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        super().__init__()
        self.small, self.inputs, self.outputs = small, inputs, outputs

    def forward(self, values: Tensor) -> Any:
        return torch.fx.node.map_aggregate(self.small(values[..., self.inputs]), self._spread)

    def _spread(self, values: Any) -> Any:
        if not isinstance(values, Tensor):
            return values
        whole = values.new_zeros(*values.shape[:-1], len(self.outputs))
        whole[..., self.outputs] = values
        return whole


def _silence(module: Any, cell: TracedLayer, keep: Keep) -> None:
    """Set the weights to zero by which a layer reads removed units. Channel-wise layers keep theirs: nothing mixes."""
    inputs, units = ~keep(cell.inputs), ~keep(cell.outputs)
    if isinstance(module, RECURRENT):
        part = cell.name.removeprefix(f"{cell.path}.")
        getattr(module, f"weight_ih_{part}")[:, inputs] = 0.0
        getattr(module, f"weight_hh_{part}")[:, units] = 0.0
    elif cell.makes:
        module.weight[:, inputs] = 0.0


def _difference(one: nn.Module, other: nn.Module, example: Tensor) -> float:
    """The largest difference of two networks' answers; 0 when rounding explains it."""
    try:
        ours, theirs = (_answers(copy.deepcopy(network).double(), example, torch.float64) for network in (one, other))
        tolerance = IN_DOUBLE
    except (RuntimeError, TypeError):  # forward() names a type of numbers, or the device has no double precision
        ours, theirs = (_answers(network, example, example.dtype) for network in (one, other))
        tolerance = IN_OWN
    size = float(theirs.nan_to_num(0.0, 0.0, 0.0).abs().max())
    if torch.allclose(ours, theirs, rtol=0, atol=tolerance * size, equal_nan=True):
        return 0.0
    return float((ours - theirs).abs().max())


def _answers(network: nn.Module, example: Tensor, dtype: torch.dtype) -> Tensor:
    """The answers to the example and to two random inputs of its shape, one after the other."""
    generator = torch.Generator().manual_seed(0)
    if example.is_floating_point():
        made = [torch.randn(example.shape, generator=generator).to(example) for _ in range(2)]
        inputs = [values.to(dtype) for values in (example, *made)]
    else:  # other values may be no index or category of this network
        order = torch.randperm(example.numel(), generator=generator).to(example.device)
        inputs = [example, example.flatten()[order].view_as(example)]
    with evaluating(network), torch.no_grad():
        return torch.cat([network(values.clone()).flatten() for values in inputs])  # forward() may write to its input
