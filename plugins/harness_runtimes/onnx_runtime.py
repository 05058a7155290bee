"""Run networks with ONNX Runtime, in float32, or in int8 with unsigned activations and signed weights."""

from __future__ import annotations

import logging
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness import Audit, Deployment, Predictor, Runtime, Unsupported

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    import torch

FILE = "model.onnx"
#: The names of a model's input and output.
INPUT, OUTPUT = "inputs", "probabilities"
#: Operators with int8 kernels. Others, such as the final sigmoid and layer normalization, run in float32.
INT8_OPERATORS = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul",
    "MaxPool", "Relu", "Reshape", "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
#: Calibration examples of one call.
BATCH = 32


class OnnxRuntime(Runtime):
    """ONNX Runtime on CPUs, one session a file.

    Int8 networks are static: QDQ form, activations unsigned per tensor, weights signed per output channel, ranges from
    the least and largest values of the calibration examples. The weights of LSTM layers are signed per tensor, and
    their activations get their range in each call (``DynamicQuantizeLSTM``), so an answer depends on its batch. GRU
    layers stay float32: ONNX Runtime has no int8 kernel.

    Processors of the x86 family without VNNI add pairs of products in 16 bits, so there the weights have seven bits.
    Denormal numbers are kept, as in PyTorch.
    """

    name = "onnxruntime"
    summary = "ONNX Runtime; deploys a .onnx file with the program and its weights, float32 or int8"
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx", "onnxscript")
    requirement = "compression-harness[onnx]"
    holds_program = True

    def options(self) -> Mapping[str, Any]:
        return {"weight_bits": weight_bits()}

    def deploy(self, deployment: Deployment, folder: Path) -> Path:
        """Export the network, and quantize it if that is requested.

        Raises Unsupported for a network that has no ONNX form, or for another request than int8.
        """
        import onnx

        from harness_runtimes.onnx_export import export

        request, file = deployment.quantization, folder / FILE
        if request is not None and request.dtype != "int8":
            raise Unsupported(f"the runtime onnxruntime cannot quantize to {request.dtype}: it quantizes to int8")
        model = export(deployment.network, deployment.example)
        if request is not None:
            model = quantize(model, deployment.calibration())
        onnx.save(model, file)
        return file

    def load(self, file: Path) -> Predictor:
        """Start a session with as many threads as torch has."""
        import torch

        run = session(file).run

        def predict(inputs: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(run([OUTPUT], {INPUT: inputs.numpy()})[0])

        return predict

    def audit(self, file: Path, example: torch.Tensor) -> Audit:
        """Read the graph that ONNX Runtime executes, after its optimizations."""
        from harness_runtimes.onnx_audit import audit

        return audit(file, example)


def session(model: Path | bytes, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """Start a session as it is timed; write the graph after optimization to ``optimized``, if that is a path."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    # Idle threads that spin would take the processor from whatever is timed next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def quantize(model: onnx.ModelProto, examples: torch.Tensor) -> onnx.ModelProto:
    """Return the int8 model, calibrated on ``examples`` (n, *input_shape)."""
    import onnx
    import torch
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[torch.Tensor] = iter(torch.split(examples, BATCH))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch.numpy()}

    log = logging.getLogger()
    level, reduced = log.level, weight_bits() < 8
    log.setLevel(logging.ERROR)  # it advises what was done already
    try:
        with tempfile.TemporaryDirectory() as folder:
            exported, prepared, static, dynamic = (Path(folder, name) for name in "abcd")
            onnx.save(model, exported)
            quant_pre_process(exported, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                static,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(INT8_OPERATORS),
                activation_type=QuantType.QUInt8,  # signed ones leave convolutions in float32, or have slow kernels
                weight_type=QuantType.QInt8,
                per_channel=True,
                reduce_range=reduced,
            )
            if any(node.op_type == "LSTM" for node in model.graph.node):
                quantize_dynamic(static, dynamic, ["LSTM"], weight_type=QuantType.QInt8, reduce_range=reduced)
                static = dynamic
            return with_float_logits(onnx.load(static))
    finally:
        log.setLevel(level)


def with_float_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the rounding of the logits to eight bits from ``model``, which it changes and returns.

    A step of logits from -8 to 8 would change a probability by up to 0.016, and makes nothing faster.
    """
    nodes = model.graph.node
    producers = {name: node for node in nodes for name in node.output}
    last = producers[OUTPUT]
    dequantize = last if last.op_type == "DequantizeLinear" else producers.get(last.input[0])
    rounding = producers.get(dequantize.input[0]) if dequantize and dequantize.op_type == "DequantizeLinear" else None
    if dequantize is None or rounding is None or rounding.op_type != "QuantizeLinear":
        return model
    logits = rounding.input[0]
    if dequantize is last:
        producer = producers[logits]
        producer.output[list(producer.output).index(logits)] = OUTPUT
    else:
        last.input[0] = logits
    nodes.remove(dequantize)
    nodes.remove(rounding)
    return model


def weight_bits() -> int:
    """How many bits of a weight the processor's kernels multiply without saturating."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        return 8
    try:
        return 8 if "vnni" in Path("/proc/cpuinfo").read_text() else 7
    except OSError:
        return 7
