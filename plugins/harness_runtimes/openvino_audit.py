"""Report which operators of an OpenVINO network run in int8, from the graph that OpenVINO executes."""

from __future__ import annotations

import collections
import math

import openvino

from harness import Audit, ExecutedOperator

#: Operators that multiply, and the inputs that may be weights. The last one of recurrent layers is their bias.
PRODUCTS = {
    "Convolution": (1,),
    "FullyConnected": (1,),
    "MatMul": (1,),
    "RNNSeq": (-3, -2),
    "RNNCell": (-3, -2),
}
#: Operators that multiply without a formula here, or that contain others; they are the reason for unknown shares.
UNKNOWN = ("Deconvolution", "DeformableConvolution", "If", "Loop", "ScaledDotProductAttention", "TensorIterator")
#: Nodes of the graph that compute nothing.
PASSIVE = ("Const", "Input", "Output")
PRECISIONS = {"f32": "float32", "i8": "int8", "u8": "int8", "i32": "int32", "i64": "int64"}


def audit(model: openvino.Model) -> Audit:
    """Return the operators and the shares of weights and multiply-accumulates in int8 of a runtime model."""
    operators: collections.Counter[tuple[str, str]] = collections.Counter()
    weights: dict[bool, dict[str, int]] = {False: {}, True: {}}
    macs: collections.Counter[bool] = collections.Counter()
    unknown = set()
    for node in model.get_ordered_ops():
        kind, precision = _fact(node, "layerType"), _precision(node)
        if kind in PASSIVE:
            continue
        operators[kind, precision] += 1
        if kind in UNKNOWN:
            unknown.add(kind)
        if kind not in PRODUCTS:
            continue
        inputs = node.input_values()
        factors = [inputs[place] for place in PRODUCTS[kind]]
        constants = [value.get_node() for value in factors if _fact(value.get_node(), "layerType") == "Const"]
        weights[precision == "int8"].update(
            (constant.get_friendly_name(), math.prod(constant.get_output_shape(0))) for constant in constants
        )
        data, output = list(inputs[0].get_shape()), list(node.get_output_shape(0))
        if kind == "MatMul":
            work = math.prod(output) * data[-1]
        else:
            calls = math.prod(output) // output[1] if kind == "Convolution" else math.prod(data[:-1])
            work = calls * sum(math.prod(value.get_shape()) for value in factors)
        macs[precision == "int8"] += work
    rows = tuple(ExecutedOperator(kind, precision, count) for (kind, precision), count in operators.items())
    if unknown:
        return Audit(rows, reason=f"there is no formula for {', '.join(sorted(unknown))}")
    sums = {int8: sum(numbers.values()) for int8, numbers in weights.items()}
    return Audit(rows, sums[True] / max(1, sum(sums.values())), macs[True] / max(1, macs.total()))


def _fact(node: openvino.Node, name: str) -> str:
    return str(node.get_rt_info()[name].astype(str))


def _precision(node: openvino.Node) -> str:
    """The precision in which a node computes: its kernel's, where that reads int8 but multiplies in float32."""
    kernel = _fact(node, "primitiveType").rpartition("_")[2].lower()
    return (
        "float32"
        if kernel == "f32"
        else PRECISIONS.get(_fact(node, "runtimePrecision"), _fact(node, "runtimePrecision"))
    )
