"""What every runtime must hold to. An author's module imports all of it and defines the fixture ``runtime``.

A runtime that computes otherwise than PyTorch says by how much its probabilities may differ: ``tolerance = 1e-3``.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.api import Predictor, Runtime
from harness.errors import Unsupported
from harness.testing.blame import fail_check, some
from harness.testing.imports import imports_cleanly
from harness.testing.world import LABELS, NETWORKS, World, lent, probe

if TYPE_CHECKING:
    import torch

#: How far probabilities may lie from those of PyTorch where the runtime states nothing.
TOLERANCE = 1e-4

Deployed = Callable[[Runtime, str], tuple[Path, Predictor, Any]]


@pytest.fixture(params=NETWORKS)
def deployed_network(request: pytest.FixtureRequest) -> str:
    """The name of the network that is deployed."""
    return str(request.param)


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """Deploys one of the kit's networks, each once: the file, what loads it, and PyTorch's model."""
    world = World(tmp_path_factory.mktemp("runtimes"))
    made: dict[tuple[str, str], tuple[Path, Predictor, Any]] = {}

    def deploy(runtime: Runtime, network: str) -> tuple[Path, Predictor, Any]:
        from harness.api.train import Train

        if (runtime.name, network) not in made:
            built = world.build(network, [Train()])
            copy = world.store.root / f"{runtime.name}-{network}.safetensors"
            folder = world.store.root / f"{runtime.name}-{network}"
            folder.mkdir()
            shutil.copyfile(built.file, copy)
            try:
                with lent():
                    file = runtime.deploy(copy, folder)
                    copy.unlink()  # what is shipped has nothing else
                    predictor = runtime.load(file)
            except Unsupported as error:
                pytest.skip(f"{runtime.name} on {network}: refused: {error}")
            except Exception as error:
                fail_check(
                    f"runtime {runtime.name!r} on {network}",
                    wanted="a file that loads without the artefact, or Unsupported with a reason",
                    got=f"{type(error).__name__}: {error}",
                    fix="write all that is needed into the one file that deploy() returns",
                )
            made[runtime.name, network] = file, predictor, world.load(built)
        return made[runtime.name, network]

    return deploy


def test_runtime_module_loads_no_torch(runtime: Runtime) -> None:
    """Its module can be imported, prints nothing and loads no torch."""
    imports_cleanly(f"runtime {runtime.name!r}", type(runtime))


def test_runtime_deploys_into_its_folder(runtime: Runtime, deployed_network: str, deployed: Deployed) -> None:
    """deploy() returns a file in the folder that it is given."""
    file, _, _ = deployed(runtime, deployed_network)
    if not file.is_file() or file.parent.name != f"{runtime.name}-{deployed_network}":
        fail_check(
            f"runtime {runtime.name!r} on {deployed_network}",
            wanted="a file in the folder that was given",
            got=str(file),
            fix="write it there and return its path; its size is a figure",
        )


def test_runtime_answers_as_torch_does(runtime: Runtime, deployed_network: str, deployed: Deployed) -> None:
    """Probabilities (batch, labels) for a batch of 1 and of 5, those of PyTorch within the stated tolerance."""
    import torch

    _, predictor, model = deployed(runtime, deployed_network)
    tolerance = float(getattr(runtime, "tolerance", TOLERANCE))
    for size in (1, 5):
        inputs = torch.from_numpy(probe(size))
        with torch.inference_mode():
            wanted = torch.sigmoid(model(inputs))
        got = _answer(predictor, inputs)
        if isinstance(got, str):
            difference = got
        elif tuple(got.shape) != (size, len(LABELS)):
            difference = f"shape {tuple(got.shape)}"
        elif torch.allclose(got.float(), wanted, rtol=0, atol=tolerance):
            continue
        else:
            difference = f"up to {float((got - wanted).abs().max()):.3g} away"
        fail_check(
            f"runtime {runtime.name!r} on {deployed_network}, a batch of {size}",
            wanted=f"the probabilities of PyTorch (sigmoid of the logits), within {tolerance:g}",
            got=difference,
            fix="end the deployed network by a sigmoid unless it gives_probabilities; state `tolerance` on the "
            "runtime if its arithmetic is coarser",
        )


def test_runtime_answers_the_same_again(runtime: Runtime, deployed_network: str, deployed: Deployed) -> None:
    """The same inputs get the same bits again, also from the file loaded anew, and are left as they were."""
    import torch

    file, predictor, _ = deployed(runtime, deployed_network)
    inputs = torch.from_numpy(probe(5))
    before, digest = inputs.clone(), hashlib.sha256(file.read_bytes()).hexdigest()
    first, second = _answer(predictor, inputs), _answer(predictor, inputs)
    with lent():
        third = _answer(runtime.load(file), inputs)
    if isinstance(first, str) or isinstance(second, str) or isinstance(third, str):
        pytest.skip("it does not answer; test_runtime_answers_as_torch_does tells how")
    wrong = [
        what
        for what, fine in (
            ("another answer the second time", torch.equal(first, second)),
            ("another answer from the file loaded anew", torch.equal(first, third)),
            ("other inputs than before", torch.equal(inputs, before)),
            ("another file than before", hashlib.sha256(file.read_bytes()).hexdigest() == digest),
        )
        if not fine
    ]
    if wrong:
        fail_check(
            f"runtime {runtime.name!r} on {deployed_network}",
            wanted="the same inputs always get the same answer",
            got=some(wrong),
            fix="load in evaluation mode, and write into buffers of your own",
        )


def _answer(predictor: Predictor, inputs: torch.Tensor) -> torch.Tensor | str:
    import torch

    try:
        answer: object = predictor(inputs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return answer.clone() if isinstance(answer, torch.Tensor) else f"a {type(answer).__name__}"


#: What an author imports: the checks and their fixtures.
__all__ = ["deployed", "deployed_network", *(name for name in dir() if name.startswith("test_"))]
