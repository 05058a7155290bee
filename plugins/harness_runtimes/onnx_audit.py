"""Report which operators of an ONNX file run in int8, from the graph that ONNX Runtime executes."""

from __future__ import annotations

import collections
import math
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import onnx
import onnxruntime
import torch

from harness import Audit, ExecutedOperator
from harness_runtimes.onnx_runtime import INPUT, session


class Product(NamedTuple):
    """How an operator multiplies: its kind, and the places of its operands among its inputs."""

    form: str
    data: int
    weights: tuple[int, ...]
    int8: bool = False


PRODUCTS: Mapping[str, Product] = {
    **dict.fromkeys(("Conv", "FusedConv"), Product("convolution", 0, (1,))),
    "ConvTranspose": Product("transposed", 0, (1,)),
    "ConvInteger": Product("convolution", 0, (1,), True),
    "QLinearConv": Product("convolution", 0, (3,), True),
    **dict.fromkeys(("Gemm", "FusedGemm", "MatMul", "FusedMatMul"), Product("matrices", 0, (1,))),
    **dict.fromkeys(
        ("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"), Product("matrices", 0, (1,), True)
    ),
    **dict.fromkeys(("QGemm", "QLinearMatMul"), Product("matrices", 0, (3,), True)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), Product("recurrent", 0, (1, 2))),
    "DynamicQuantizeLSTM": Product("recurrent", 0, (1, 2), True),
}
#: Operators that multiply; those that ``PRODUCTS`` lacks are named as the reason why the shares are unknown.
MULTIPLIES = re.compile("Conv|MatMul|Gemm|Attention|LSTM|GRU|RNN|Einsum")


class Tensor(NamedTuple):
    """What is known of a tensor: its shape, its type, and whether it is the same for all inputs."""

    shape: tuple[int, ...]
    dtype: str
    constant: bool


def audit(file: Path, example: torch.Tensor) -> Audit:
    """Return the operators and the shares of weights and multiply-accumulates in int8 for ``example``."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        session(file, optimized)
        model = onnx.load(optimized)
    tensors = _tensors(model, example)
    operators: collections.Counter[tuple[str, str]] = collections.Counter()
    macs: collections.Counter[bool] = collections.Counter()
    weights: dict[bool, dict[str, int]] = {False: {}, True: {}}
    unknown = set()
    for node in model.graph.node:
        product = PRODUCTS.get(node.op_type)
        if any(attribute.HasField("g") for attribute in node.attribute) or (
            product is None and MULTIPLIES.search(node.op_type)
        ):
            unknown.add(node.op_type)
        data = [tensors[name] for name in node.input if name in tensors and not tensors[name].constant]
        int8 = product.int8 if product else bool(data) and data[0].dtype in ("int8", "uint8")
        precision = "int8" if int8 else data[0].dtype if data else "constant"
        operators[node.op_type, precision] += 1
        if product is None:
            continue
        matrices = {node.input[place]: tensors[node.input[place]] for place in product.weights}
        constant = {name: math.prod(matrix.shape) for name, matrix in matrices.items() if matrix.constant}
        weights[int8].update(constant)
        output = next(tensors[name] for name in node.output if name)
        numbers = sum(math.prod(matrix.shape) for matrix in matrices.values())
        macs[int8] += _macs(node, product.form, tensors[node.input[product.data]].shape, numbers, output.shape)
    rows = tuple(ExecutedOperator(kind, precision, count) for (kind, precision), count in operators.items())
    if unknown:
        return Audit(rows, reason=f"there is no formula for {', '.join(sorted(unknown))}")
    sums = {int8: sum(numbers.values()) for int8, numbers in weights.items()}
    return Audit(rows, sums[True] / max(1, sum(sums.values())), macs[True] / max(1, macs.total()))


def _macs(node: onnx.NodeProto, form: str, data: tuple[int, ...], weights: int, output: tuple[int, ...]) -> int:
    """The multiply-accumulates of one call."""
    match form:
        case "convolution":
            return weights * math.prod(output) // output[1]
        case "transposed":
            return weights * math.prod(data) // data[1]
        case "recurrent":
            return weights * data[0] * data[1]
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(output) * data[-2 if transposed else -1]


def _tensors(model: onnx.ModelProto, example: torch.Tensor) -> dict[str, Tensor]:
    """Run the optimized graph, and return every tensor's shape and type."""
    constants = {tensor.name for tensor in model.graph.initializer}
    tensors = {
        tensor.name: Tensor(tuple(tensor.dims), onnx.TensorProto.DataType.Name(tensor.data_type).lower(), True)
        for tensor in model.graph.initializer
    }
    names = []
    for node in model.graph.node:
        names += [name for name in node.output if name]
        if constants.issuperset(name for name in node.input if name):
            constants.update(node.output)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    run = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"]).run
    inputs = example.numpy()
    for name, value in [(INPUT, inputs), *zip(names, run(names, {INPUT: inputs}), strict=True)]:
        tensors[name] = Tensor(value.shape, value.dtype.name, name in constants)
    return tensors
