"""OpenVINO: the deployed file answers as the network, in int8 too, and the audit reports what ran."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from harness import Quantization, Unsupported
from harness.nn.operations import count
from harness.plugin.manager import installed
from harness_runtimes import OpenVino
from harness_runtimes.openvino_runtime import FILE, PROGRAM, WEIGHTS, compiled, read

from .nets import ECG, NETWORKS, build, deployment, made_up

RUNTIME = OpenVino()
needs_packages = pytest.mark.skipif(RUNTIME.unavailable() is not None, reason=RUNTIME.unavailable() or "")
FEEDFORWARD = ["cnn", "pruned cnn", "resnet", "pruned resnet", "dnn"]


def deploy(name: str, folder: Path, request: Quantization | None = None) -> tuple[Path, nn.Module, tuple[int, ...]]:
    """Deploy a network by name; return the file, the network that gives probabilities, and the inputs' shape."""
    network, shape = build(name)
    wanted = deployment(network, shape, request)
    return RUNTIME.deploy(wanted, folder), wanted.network, shape


def test_it_is_registered_under_its_name() -> None:
    assert isinstance(installed().runtimes.get("openvino"), OpenVino)


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_float_file_answers_as_the_network_in_batches_of_any_size(name: str, tmp_path: Path) -> None:
    file, network, shape = deploy(name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file.name] == [FILE]
    predict = RUNTIME.load(file)
    for size in (1, 8, 64, 1, 128):
        inputs = made_up(size, shape)
        with torch.inference_mode():
            torch.testing.assert_close(predict(inputs), network(inputs), atol=1e-5, rtol=0)
    audit = RUNTIME.audit(file, made_up(1, shape))
    assert (audit.int8_weights, audit.int8_macs, audit.reason) == (0, 0, "")


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize("name", FEEDFORWARD)
def test_all_of_an_int8_file_is_int8_and_its_probabilities_are_close(name: str, tmp_path: Path) -> None:
    request = Quantization()
    file, network, shape = deploy(name, tmp_path, request)
    audit, inputs = RUNTIME.audit(file, made_up(1, shape)), made_up(64, shape, 3)
    assert (audit.int8_weights, audit.int8_macs, audit.reason) == (1, 1, ""), audit.operators
    predict = RUNTIME.load(file)
    with torch.inference_mode():
        difference = (predict(inputs) - network(inputs)).abs()
    assert 0 < difference.mean() < request.mean_difference
    assert (difference > 0.01).float().mean() < request.changed


@needs_packages
@pytest.mark.parametrize("name", ["rnn", "lstm", "mixed"])
def test_int8_of_a_recurrent_layer_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"cannot quantize \S+ \((LSTM|GRU)\): .*use onnxruntime, or float32"):
        deploy(name, tmp_path, Quantization())


@needs_packages
@pytest.mark.slow
def test_the_audit_counts_a_recurrent_layer_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness_runtimes.openvino_runtime._refuse_recurrence", lambda network: None)
    network = nn.Sequential(
        nn.Flatten(0, 1), nn.Linear(76, 16), nn.Unflatten(0, (-1, 6)), Last(nn.GRU(16, 8, batch_first=True))
    )
    wanted = deployment(network.eval(), (6, 76), Quantization())
    audit = RUNTIME.audit(RUNTIME.deploy(wanted, tmp_path), wanted.example)
    linear, gru = count(wanted.network, wanted.example).layers
    assert audit.int8_weights == pytest.approx(linear.weights / (linear.weights + gru.weights))
    assert audit.int8_macs == pytest.approx(linear.macs / (linear.macs + gru.macs))


class Last(nn.Module):
    """The last states of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.layer(inputs)[0]
        return states[:, -1]


@needs_packages
@pytest.mark.slow
def test_a_file_is_an_archive_of_both_files_without_paths_of_this_machine(tmp_path: Path) -> None:
    file, _, _ = deploy("pruned cnn", tmp_path, Quantization())
    with zipfile.ZipFile(file) as archive:
        assert [(member.filename, member.compress_type) for member in archive.infolist()] == [
            (PROGRAM, zipfile.ZIP_STORED),
            (WEIGHTS, zipfile.ZIP_STORED),
        ]
    assert b"site-packages" not in file.read_bytes()
    assert b"model.onnx" not in file.read_bytes()


@needs_packages
@pytest.mark.slow
def test_a_network_is_compiled_for_the_threads_of_the_profile(tmp_path: Path) -> None:
    file, _, _ = deploy("dnn", tmp_path)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        model = compiled(read(file), 1)
    finally:
        torch.set_num_threads(threads)
    assert model.get_property("INFERENCE_NUM_THREADS") == 1
    assert model.get_property("NUM_STREAMS") == 1
    assert model.get_property("ENABLE_CPU_PINNING") is False
    assert model.get_property("CPU_DENORMALS_OPTIMIZATION") is False
    assert model.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


@needs_packages
@pytest.mark.slow
def test_no_statistics_are_sent() -> None:
    code = (
        "from harness_runtimes.openvino_runtime import without_telemetry\n"
        "without_telemetry()\n"
        "import nncf.telemetry.wrapper as wrapper, openvino.tools.ovc.telemetry_utils as utils\n"
        "print(type(wrapper.telemetry).__name__, utils.tm.__name__)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["MagicMock", "openvino.tools.ovc.telemetry_stub"]


@needs_packages
def test_another_precision_than_int8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="cannot quantize to int4"):
        RUNTIME.deploy(deployment(nn.Identity(), ECG, Quantization(dtype="int4")), tmp_path)
