"""Run networks with OpenVINO, in float32, or in int8 by NNCF."""

from __future__ import annotations

import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness import Audit, Deployment, Predictor, Runtime, Unsupported
from harness_runtimes.onnx_runtime import weight_bits

if TYPE_CHECKING:
    import openvino
    import torch

FILE = "model.zip"
#: The archive's members: the program and its weights.
PROGRAM, WEIGHTS = "model.xml", "model.bin"


class OpenVino(Runtime):
    """OpenVINO on CPUs, one stream; its own form of a network is made from the ONNX one.

    The deployed file is a zip archive, without compression, of the two files of OpenVINO's form (.xml and .bin). Int8
    networks are NNCF's: static, symmetric weights per output channel, activations per tensor, ranges from the least and
    largest values of the calibration examples, biases corrected. A request to quantize an LSTM
    or GRU is refused: NNCF rounds the state of an LSTM to eight bits, which moved probabilities by 0.03 to 0.07 on
    average on made-up data, and leaves a GRU in float32. Processors of the x86 family
    without VNNI add pairs of products in 16 bits, so there the weights have seven bits.

    Each size of a batch is compiled for itself, a batch of one when the file is loaded. Denormal numbers are kept, as
    in PyTorch. NNCF and OpenVINO's converter would send statistics of their use to their makers; here they do not.
    """

    name = "openvino"
    summary = "OpenVINO; deploys a zip archive of the .xml and .bin files, float32 or int8 by NNCF"
    packages: ClassVar[tuple[str, ...]] = ("openvino", "nncf", "onnx", "onnxscript")
    requirement = "compression-harness[openvino]"
    holds_program = True

    def options(self) -> Mapping[str, Any]:
        return {"weight_bits": weight_bits()}

    def deploy(self, deployment: Deployment, folder: Path) -> Path:
        """Convert the network from its ONNX form, and quantize it if that is requested.

        Raises Unsupported for a network that has no ONNX form or that OpenVINO cannot convert or compile, or for
        another request than int8.
        """
        import onnx

        from harness_runtimes.onnx_export import export

        request, file = deployment.quantization, folder / FILE
        if request is not None and request.dtype != "int8":
            raise Unsupported(f"the runtime openvino cannot quantize to {request.dtype}: it quantizes to int8")
        if request is not None:
            _refuse_recurrence(deployment.network)
        exported = export(deployment.network, deployment.example)
        openvino = without_telemetry()
        with tempfile.TemporaryDirectory() as temporary:
            source, program = Path(temporary, "model.onnx"), Path(temporary, PROGRAM)
            onnx.save(exported, source)
            try:
                model = openvino.convert_model(source)
                if request is not None:
                    model = quantize(model, deployment.calibration())
                compiled(model, 1)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                raise Unsupported(f"OpenVINO cannot compile the network: {reason}") from error
            openvino.save_model(model, program, compress_to_fp16=False)
            with zipfile.ZipFile(file, "w") as archive:
                for name in (PROGRAM, WEIGHTS):  # ZipInfo has a constant date
                    archive.writestr(zipfile.ZipInfo(name), Path(temporary, name).read_bytes())
        return file

    def load(self, file: Path) -> Predictor:
        """Compile the network for a batch of one; other sizes are compiled at their first call."""
        import torch

        model = read(file)
        requests = {1: compiled(model, 1).create_infer_request()}

        def predict(inputs: torch.Tensor) -> torch.Tensor:
            size = len(inputs)
            if size not in requests:
                requests[size] = compiled(model, size).create_infer_request()
            # The request's own output is overwritten by the next call, so the answer is a copy.
            return torch.from_numpy(requests[size].infer(inputs.numpy(), share_inputs=True)[0])

        return predict

    def audit(self, file: Path, example: torch.Tensor) -> Audit:
        """Read the graph that OpenVINO executes."""
        from harness_runtimes.openvino_audit import audit

        return audit(compiled(read(file), len(example)).get_runtime_model())


def read(file: Path) -> openvino.Model:
    """Read a deployed archive."""
    with zipfile.ZipFile(file) as archive:
        return without_telemetry().Core().read_model(archive.read(PROGRAM), archive.read(WEIGHTS))


def compiled(model: openvino.Model, size: int) -> openvino.CompiledModel:
    """Compile the model for batches of ``size``, with as many threads as torch has."""
    import openvino
    import torch

    fixed = model.clone()
    _, *shape = fixed.input().get_partial_shape()
    fixed.reshape([size, *shape])
    return openvino.Core().compile_model(
        fixed,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the process is pinned already
            "CPU_DENORMALS_OPTIMIZATION": False,
        },
    )


def quantize(model: openvino.Model, examples: torch.Tensor) -> openvino.Model:
    """Return the int8 model, calibrated on ``examples`` (n, *input_shape)."""
    import logging

    import nncf
    import torch
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    dataset = nncf.Dataset(list(torch.split(examples, 1)), lambda batch: batch.numpy())
    return nncf.quantize(
        model,
        dataset,
        subset_size=len(examples),
        advanced_parameters=AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.DISABLE if weight_bits() == 8 else OverflowFix.ENABLE,
            # NNCF's default, the mean of the least and largest values, clips the activations of unusual examples.
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        ),
    )


def _refuse_recurrence(network: torch.nn.Module) -> None:
    """Raise Unsupported for a network with an LSTM or GRU layer."""
    from torch import nn

    for path, module in network.named_modules():
        if isinstance(module, nn.LSTM | nn.GRU):
            raise Unsupported(
                f"the runtime openvino cannot quantize {path or 'the network'} ({type(module).__name__}): NNCF's int8 "
                "LSTM answers too differently, and it has no int8 GRU; use onnxruntime, or float32"
            )


def without_telemetry() -> Any:
    """Import openvino such that neither it nor NNCF finds the package by which both send statistics of their use."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
