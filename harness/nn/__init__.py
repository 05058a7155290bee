"""Store networks as plain tensors, and count their operations: pure torch, public for authors of plugins.

``structure`` dumps and restores networks and rebuilds single layers; ``operations`` counts weights and
multiply-accumulates.
"""

from harness.nn.operations import Layer, OperationCounts, count, nonzero, parameters
from harness.nn.structure import (
    PrunableLayer,
    WeightBlock,
    arguments,
    drop_parameter,
    dump,
    rebuild,
    restore,
)

__all__ = [
    "Layer",
    "OperationCounts",
    "PrunableLayer",
    "WeightBlock",
    "arguments",
    "count",
    "drop_parameter",
    "dump",
    "nonzero",
    "parameters",
    "rebuild",
    "restore",
]
