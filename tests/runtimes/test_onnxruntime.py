"""ONNX Runtime: the deployed file answers as the network, in int8 too, and the audit reports what ran."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
import torch
from torch import nn

from harness import Quantization, Unsupported
from harness.nn.operations import count
from harness.plugin.manager import installed
from harness_runtimes import OnnxRuntime
from harness_runtimes.onnx_runtime import FILE, INPUT, OUTPUT

from .nets import ECG, NETWORKS, build, deployment, made_up

RUNTIME = OnnxRuntime()
needs_packages = pytest.mark.skipif(RUNTIME.unavailable() is not None, reason=RUNTIME.unavailable() or "")


def deploy(name: str, folder: Path, request: Quantization | None = None) -> tuple[Path, nn.Module, tuple[int, ...]]:
    """Deploy a network by name; return the file, the network that gives probabilities, and the inputs' shape."""
    network, shape = build(name)
    wanted = deployment(network, shape, request)
    return RUNTIME.deploy(wanted, folder), wanted.network, shape


def test_it_is_registered_under_its_name() -> None:
    assert isinstance(installed().runtimes.get("onnxruntime"), OnnxRuntime)


def test_without_its_packages_the_reason_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr("harness.api.runtimes.version", missing)
    assert "pip install 'compression-harness[onnx]'" in str(RUNTIME.unavailable())


@pytest.mark.parametrize(
    ("machine", "processor", "bits"),
    [("x86_64", "flags : avx512f avx512_vnni", 8), ("x86_64", "flags : avx2", 7), ("arm64", "", 8), ("AMD64", None, 7)],
)
def test_weights_have_seven_bits_where_sums_would_saturate(
    machine: str, processor: str | None, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> str:
        if processor is None:
            raise FileNotFoundError(path)
        return processor

    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(Path, "read_text", read)
    assert RUNTIME.options() == {"weight_bits": bits}


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_float_file_answers_as_the_network_in_batches_of_any_size(name: str, tmp_path: Path) -> None:
    file, network, shape = deploy(name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [file.name] == [FILE]
    predict = RUNTIME.load(file)
    for size in (1, 8, 64, 128):
        inputs = made_up(size, shape)
        with torch.inference_mode():
            expected = network(inputs)
            torch.testing.assert_close(predict(inputs), expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.05, "the network's answers hardly vary"
    audit = RUNTIME.audit(file, made_up(1, shape))
    assert (audit.int8_weights, audit.int8_macs, audit.reason) == (0, 0, "")


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "mixed"])
def test_all_of_an_int8_file_is_int8_and_its_probabilities_are_close(name: str, tmp_path: Path) -> None:
    request = Quantization()
    file, network, shape = deploy(name, tmp_path, request)
    audit, inputs = RUNTIME.audit(file, made_up(1, shape)), made_up(64, shape, 3)
    assert (audit.int8_weights, audit.int8_macs, audit.reason) == (1, 1, ""), audit.operators
    with torch.inference_mode():
        difference = (RUNTIME.load(file)(inputs) - network(inputs)).abs()
    assert 0 < difference.mean() < request.mean_difference
    assert (difference > 0.01).float().mean() < request.changed
    assert difference.max() < 0.1


@needs_packages
@pytest.mark.slow
def test_a_gru_stays_float_and_the_audit_counts_it(tmp_path: Path) -> None:
    file, network, shape = deploy("mixed", tmp_path, Quantization())
    audit = RUNTIME.audit(file, made_up(1, shape))
    layers = count(network, made_up(1, shape)).layers
    weights, macs = ([getattr(layer, field) for layer in layers] for field in ("weights", "macs"))
    int8 = [layer.kind != "GRU" for layer in layers]
    assert audit.int8_weights == pytest.approx(sum(w for w, i in zip(weights, int8, strict=True) if i) / sum(weights))
    assert audit.int8_macs == pytest.approx(sum(m for m, i in zip(macs, int8, strict=True) if i) / sum(macs))
    assert ("GRU", "float32") in {(operator.kind, operator.precision) for operator in audit.operators}


@needs_packages
@pytest.mark.slow
def test_the_audit_notices_an_export_that_fell_back_to_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness_runtimes.onnx_runtime.INT8_OPERATORS", ("Gemm",))
    file, network, shape = deploy("cnn", tmp_path, Quantization())
    layers = count(network, made_up(1, shape)).layers
    audit = RUNTIME.audit(file, made_up(1, shape))
    assert audit.int8_macs == pytest.approx(layers[-1].macs / sum(layer.macs for layer in layers))
    assert audit.int8_weights == pytest.approx(layers[-1].weights / sum(layer.weights for layer in layers))


@needs_packages
@pytest.mark.slow
def test_an_operator_without_a_formula_leaves_the_shares_unknown(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    kind, shape = onnx.TensorProto.FLOAT, ["batch", 3, 3]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Einsum", [INPUT, INPUT], [OUTPUT], equation="bij,bjk->bik")],
        "square",
        [onnx.helper.make_tensor_value_info(INPUT, kind, shape)],
        [onnx.helper.make_tensor_value_info(OUTPUT, kind, shape)],
    )
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), tmp_path / FILE
    )
    audit = RUNTIME.audit(tmp_path / FILE, torch.ones(1, 3, 3))
    assert (audit.int8_weights, audit.int8_macs) == (None, None)
    assert audit.reason == "there is no formula for Einsum"


@needs_packages
@pytest.mark.slow
def test_logits_are_not_rounded_to_eight_bits(tmp_path: Path) -> None:
    file, _, shape = deploy("cnn", tmp_path, Quantization())
    with torch.inference_mode():
        answers = RUNTIME.load(file)(made_up(1000, shape))
    assert len(answers[:, 0].unique()) > 300


@needs_packages
@pytest.mark.slow
def test_a_file_holds_no_path_of_this_machine(tmp_path: Path) -> None:
    file, _, _ = deploy("pruned cnn", tmp_path)
    assert b".py" not in file.read_bytes()
    assert b"site-packages" not in file.read_bytes()


@needs_packages
@pytest.mark.slow
def test_a_session_has_the_threads_of_the_profile_and_keeps_denormals(tmp_path: Path) -> None:
    from harness_runtimes.onnx_runtime import session

    file, _, _ = deploy("dnn", tmp_path)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            options = session(file).get_session_options()
            assert options.intra_op_num_threads == number
            assert options.inter_op_num_threads == 1
            assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    finally:
        torch.set_num_threads(threads)
    assert torch.tensor(1e-40) * 0.5 > 0, "the session made torch flush denormal numbers"


class Branching(nn.Module):
    """Answers by a branch that depends on values, which no export can follow."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs if inputs.sum() > 0 else -inputs


class Exotic(nn.Module):
    """Has an operator that ONNX lacks."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(inputs)


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Branching(), "cannot be exported to ONNX: .*data-dependent"),
        (Exotic(), r"the operator prims\.bessel_j0\.default has no ONNX form"),
        (nn.LSTM(76, 8, proj_size=4), "LSTM with proj_size"),
        (torch.ao.nn.quantized.dynamic.Linear(76, 1), "int8 layer of PyTorch.*deploy the float network"),
    ],
)
def test_a_network_without_an_onnx_form_is_refused_by_name(network: nn.Module, reason: str, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=reason):
        RUNTIME.deploy(deployment(network.eval(), (6, 76)), tmp_path)


@needs_packages
def test_another_precision_than_int8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="cannot quantize to int4"):
        RUNTIME.deploy(deployment(nn.Identity(), ECG, Quantization(dtype="int4")), tmp_path)
