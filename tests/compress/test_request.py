"""quantize("int8") is a request: the artefact holds the float network, and the runtime torch carries it out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors import safe_open

from harness import CellError, Deployment, Quantization, UsageError, train
from harness.build import artefact as artefacts
from harness.testing._world import Conv, World, probe, temporarily_registered
from harness_compress import quantize
from harness_compress.quantize import Quantize
from harness_compress.request import QuantizeInt8
from harness_runtimes import TorchEager


class Requested(NamedTuple):
    """What was built and deployed of one recipe that ends with quantize("int8")."""

    world: World
    artefact: Path
    deployment: Deployment
    file: Path


@pytest.fixture(scope="module")
def requested(tmp_path_factory: pytest.TempPathFactory) -> Requested:
    folder = tmp_path_factory.mktemp("requested")
    world = World(folder / "store")
    artefact = world.build(Conv.name, [train(), quantize("int8", calibration=16)])
    deployment = world.deployment(artefact)
    with temporarily_registered():
        file = TorchEager().deploy(deployment, folder)
    return Requested(world, artefact.file, deployment, file)


def test_the_artefact_holds_the_float_network_and_the_request(requested: Requested) -> None:
    with safe_open(requested.artefact, framework="pt") as stream:
        assert {stream.get_tensor(name).dtype for name in stream.keys()} <= {torch.float32, torch.int64}  # noqa: SIM118
    request = artefacts.header(requested.artefact)["quantization"]
    assert request["dtype"] == "int8"
    assert request["split"] == "validation"
    assert len(set(request["rows"])) == 16
    assert requested.deployment.quantization == Quantization(**request | {"rows": tuple(request["rows"])})


def test_the_calibration_examples_are_read_by_their_row_numbers(requested: Requested) -> None:
    request = requested.deployment.quantization
    assert request is not None
    folder = requested.world.test_file.parent
    with np.load(folder / "validation.npz") as arrays:
        expected = arrays["inputs"][list(request.rows)]
    np.testing.assert_array_equal(requested.deployment.calibration().numpy(), expected)


def test_the_runtime_torch_deploys_an_int8_network(requested: Requested) -> None:
    runtime = TorchEager()
    with temporarily_registered():
        audit = runtime.audit(requested.file, requested.deployment.example)
        answers = runtime.load(requested.file)(torch.from_numpy(probe(40)))
        assert getattr(runtime.network(requested.file), "quantization", None) is None
    assert (audit.int8_weights, audit.int8_macs) == (1, 1)
    assert {operator.precision for operator in audit.operators} == {"int8"}
    with torch.inference_mode():
        expected = requested.deployment.network(torch.from_numpy(probe(40)))
    difference = float((answers - expected).abs().max())
    assert 0 < difference < 0.1
    assert requested.file.stat().st_size != requested.artefact.stat().st_size


def test_deploying_leaves_the_request_and_its_network_as_they_are(requested: Requested) -> None:
    with temporarily_registered():
        again = artefacts.load(requested.artefact)
    inputs = torch.from_numpy(probe(3))
    with torch.inference_mode():
        assert torch.equal(again(inputs), requested.deployment.model(inputs))
    assert artefacts.requested(requested.deployment.model) == requested.deployment.quantization


def test_an_example_of_the_data_is_in_no_file(requested: Requested) -> None:
    example = requested.deployment.calibration()[0].numpy()
    for file in (requested.artefact, requested.file):
        assert example[0].tobytes() not in file.read_bytes()


def test_a_damaged_request_is_no_artefact() -> None:
    sound = dataclasses.asdict(Quantization(rows=(1, 2))) | {"rows": [1, 2]}
    assert artefacts._is_request(sound)
    for change in ({"rows": ["1"]}, {"rows": [-1]}, {"seed": "x"}, {"more": 1}):
        assert not artefacts._is_request(sound | change)


def test_an_attribute_that_is_no_request_is_refused() -> None:
    model = torch.nn.Linear(1, 1)
    model.quantization = "int8"  # type: ignore[assignment]
    with pytest.raises(CellError, match=r"'int8', which is not a harness\.Quantization"):
        artefacts.requested(model)


def test_no_step_follows_a_request(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'train' follows quantize_int8\(.*\), which must be the last"):
        World(tmp_path).build(Conv.name, [quantize("int8"), train()])


def test_the_scheme_chooses_the_step() -> None:
    assert quantize("int8", calibration=7, changed=0.2) == QuantizeInt8(7, changed=0.2)
    assert quantize() == Quantize()
    assert quantize("uniform8", coverage=0.0) == Quantize("uniform8", coverage=0.0)
    with pytest.raises(UsageError, match="unknown scheme; did you mean 'int8'"):
        quantize("int9")
    with pytest.raises(UsageError, match="has no parameter 'changed'"):
        quantize("ptq-int8", changed=0.2)
    with pytest.raises(UsageError, match=r"quantize\('int8', mean_difference=2\): give a number from 0 to 1"):
        quantize("int8", mean_difference=2)
