"""Register the built-in runtimes: PyTorch eager, ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Callable

from harness import Runtime, hookimpl
from harness_runtimes.eager import TorchEager
from harness_runtimes.onnx_runtime import OnnxRuntime
from harness_runtimes.openvino_runtime import OpenVino

__all__ = ["OnnxRuntime", "OpenVino", "TorchEager"]


@hookimpl
def harness_runtimes(register: Callable[[Runtime], None]) -> None:
    register(TorchEager())
    register(OnnxRuntime())
    register(OpenVino())
