"""Rules for runtimes. An author's module imports everything from here and defines the fixture ``runtime``.

A runtime whose packages are not installed is skipped, with the reason.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.api import Audit, Predictor, Quantization, Runtime
from harness.errors import Unsupported
from harness.testing._failing import fail_check, imports_cleanly, listing
from harness.testing._world import LABELS, NETWORKS, World, probe, temporarily_registered

if TYPE_CHECKING:
    import torch

Deployed = Callable[..., tuple[Path, Predictor, Any]]
#: The request that a runtime carries out or refuses; its examples are the first of the kit's.
REQUEST = Quantization(rows=tuple(range(32)))


@pytest.fixture(params=NETWORKS)
def deployed_network(request: pytest.FixtureRequest) -> str:
    """The name of the network that is deployed."""
    return str(request.param)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """Deploys each of the kit's networks once, as it is or with a request.

    Returns the file, the loaded predictor, and PyTorch's float model.
    """
    world = World(tmp_path_factory.mktemp("runtimes"))
    deployments: dict[tuple[str, str, Quantization | None], tuple[Path, Predictor, Any]] = {}

    def deploy(runtime: Runtime, network: str, request: Quantization | None = None) -> tuple[Path, Predictor, Any]:
        import torch

        from harness.api.train import Train

        if (reason := runtime.unavailable()) is not None:
            pytest.skip(reason)
        if (runtime.name, network, request) not in deployments:
            artefact = world.build(network, [Train()])
            copy = world.store.root / f"{runtime.name}-{network}.safetensors"
            folder = world.store.root / ("int8" if request else "") / f"{runtime.name}-{network}"
            folder.mkdir(parents=True)
            shutil.copyfile(artefact.file, copy)
            deployment = dataclasses.replace(
                world.deployment(artefact),
                artefact=copy,
                quantization=request,
                calibration=lambda: torch.from_numpy(probe(len(REQUEST.rows))),
            )
            try:
                with temporarily_registered():
                    file = runtime.deploy(deployment, folder)
                    copy.unlink()  # the deployed file must be enough
                    predictor = runtime.load(file)
            except Unsupported as error:
                pytest.skip(f"{runtime.name} on {network}: refused: {error}")
            except Exception as error:
                fail_check(
                    f"runtime {runtime.name!r} on {network}",
                    wanted="a file that loads without the artefact, or Unsupported with a reason",
                    got=f"{type(error).__name__}: {error}",
                    fix="write everything that is needed into the one file that deploy() returns",
                )
            deployments[runtime.name, network, request] = file, predictor, world.load(artefact)
        return deployments[runtime.name, network, request]

    return deploy


def test_runtime_module_loads_no_torch(runtime: Runtime) -> None:
    """Its module imports, prints nothing and does not load torch."""
    imports_cleanly(f"runtime {runtime.name!r}", type(runtime))


def test_runtime_deploys_into_its_folder(runtime: Runtime, deployed_network: str, deployed: Deployed) -> None:
    """deploy() returns a file in the folder that it was given."""
    file, _, _ = deployed(runtime, deployed_network)
    if not file.is_file() or file.parent.name != f"{runtime.name}-{deployed_network}":
        fail_check(
            f"runtime {runtime.name!r} on {deployed_network}",
            wanted="a file in the folder that was given",
            got=str(file),
            fix="write it there and return its path; its size is measured",
        )


def test_runtime_answers_as_torch_does(runtime: Runtime, deployed_network: str, deployed: Deployed) -> None:
    """It gives PyTorch's probabilities (batch, labels), within the tolerance, for a batch of 1 and of 5."""
    import torch

    _, predictor, model = deployed(runtime, deployed_network)
    tolerance = runtime.tolerance
    for size in (1, 5):
        inputs = torch.from_numpy(probe(size))
        with torch.inference_mode():
            expected = torch.sigmoid(model(inputs))
        output = _output(predictor, inputs)
        if isinstance(output, str):
            difference = output
        elif tuple(output.shape) != (size, len(LABELS)):
            difference = f"shape {tuple(output.shape)}"
        elif torch.allclose(output.float(), expected, rtol=0, atol=tolerance):
            continue
        else:
            difference = f"they differ by up to {float((output - expected).abs().max()):.3g}"
        fail_check(
            f"runtime {runtime.name!r} on {deployed_network}, a batch of {size}",
            wanted=f"the probabilities of PyTorch (sigmoid of the logits), within {tolerance:g}",
            got=difference,
            fix="end the deployed network with a sigmoid unless it gives_probabilities; set `tolerance` on the runtime "
            "if its arithmetic is coarser",
        )


def test_runtime_answers_the_same_again(runtime: Runtime, deployed_network: str, deployed: Deployed) -> None:
    """The same inputs give the same bits, from a newly loaded file too, and are left unchanged."""
    import torch

    file, predictor, _ = deployed(runtime, deployed_network)
    inputs = torch.from_numpy(probe(5))
    before, digest = inputs.clone(), hashlib.sha256(file.read_bytes()).hexdigest()
    first, second = _output(predictor, inputs), _output(predictor, inputs)
    with temporarily_registered():
        third = _output(runtime.load(file), inputs)
    if isinstance(first, str) or isinstance(second, str) or isinstance(third, str):
        pytest.skip("it gives no outputs; see test_runtime_answers_as_torch_does")
    faults = [
        fault
        for fault, passed in (
            ("other outputs the second time", torch.equal(first, second)),
            ("other outputs from the newly loaded file", torch.equal(first, third)),
            ("the inputs changed", torch.equal(inputs, before)),
            ("the file changed", hashlib.sha256(file.read_bytes()).hexdigest() == digest),
        )
        if not passed
    ]
    if faults:
        fail_check(
            f"runtime {runtime.name!r} on {deployed_network}",
            wanted="the same inputs always give the same outputs, and nothing else changes",
            got=listing(faults),
            fix="load in evaluation mode, and write only into buffers of your own",
        )


def test_runtime_audits_what_it_executes(runtime: Runtime, deployed_network: str, deployed: Deployed) -> None:
    """audit() returns an Audit: shares from 0 to 1, or None with a reason; a float network has no share in int8."""
    import torch

    file, _, _ = deployed(runtime, deployed_network)
    with temporarily_registered():
        audit: object = runtime.audit(file, torch.from_numpy(probe(1)))
    if not isinstance(audit, Audit):
        fault = f"a {type(audit).__name__}"
    elif (audit.int8_weights is None or audit.int8_macs is None) and not audit.reason:
        fault = "an unknown share without a reason"
    elif audit.int8_weights or audit.int8_macs:
        fault = (
            f"shares in int8 of {audit.int8_weights} of the weights and {audit.int8_macs} of the multiply-accumulates"
        )
    else:
        return
    fail_check(
        f"runtime {runtime.name!r} on {deployed_network}",
        wanted="a harness.Audit of a float network: shares in int8 of 0, or None with a reason",
        got=fault,
        fix="read the precision of each operator from the runtime's own graph, after its optimizations",
    )


def test_runtime_quantizes_or_refuses(runtime: Runtime, deployed_network: str, deployed: Deployed) -> None:
    """With a request for int8 the file runs in int8 and stays close to the float network, or deploy() refuses."""
    import torch

    file, predictor, model = deployed(runtime, deployed_network, REQUEST)
    inputs = torch.from_numpy(probe(16))
    with temporarily_registered(), torch.inference_mode():
        audit = runtime.audit(file, inputs[:1])
        outputs = [_output(predictor, row) for row in inputs.split(1)]  # type: ignore[no-untyped-call]
        expected = torch.sigmoid(model(inputs))
    wrong = next((output for output in outputs if isinstance(output, str)), None)
    tensors = [output for output in outputs if not isinstance(output, str)]
    difference = float((torch.cat(tensors) - expected).abs().mean()) if wrong is None else float("nan")
    if not audit.int8_weights or not audit.int8_macs:
        shares = f"{audit.int8_weights} of the weights, {audit.int8_macs} of the work"
        fault = f"no share in int8 ({shares}; {audit.reason})"
    elif not difference <= REQUEST.mean_difference:
        fault = wrong or f"probabilities that differ by {difference:.3g} on average"
    else:
        return
    fail_check(
        f"runtime {runtime.name!r} on {deployed_network}, with a request for int8",
        wanted=f"a file in int8 by its audit, within {REQUEST.mean_difference:g} of the float network on average",
        got=fault,
        fix="carry out deployment.quantization, or raise Unsupported where it is not None",
    )


def _output(predictor: Predictor, inputs: torch.Tensor) -> torch.Tensor | str:
    import torch

    try:
        output: object = predictor(inputs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return output.clone() if isinstance(output, torch.Tensor) else f"a {type(output).__name__}"


#: What an author imports: the checks and their fixtures.
__all__ = ["deployed", "deployed_network", *(name for name in dir() if name.startswith("test_"))]
