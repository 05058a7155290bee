"""The contract of runtimes: the form of 0.1 is adapted, missing packages are a reason, and a request is not lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness import Audit, Deployment, Quantization, Runtime, Task, Unsupported

TASK = Task((4,), ("label",))


def former() -> type[Runtime]:
    """A runtime as version 0.1 declared it."""

    class Former(Runtime):
        name = "former"

        def deploy(self, artefact: Path, folder: Path) -> Path:  # type: ignore[override]
            return artefact / folder

        def load(self, file: Path) -> Any:
            return file

    return Former


def deployment(**fields: Any) -> Deployment:
    return Deployment(nn.Linear(4, 1).eval(), torch.zeros(1, 4), TASK, Path("artefact"), **fields)


def test_a_runtime_of_version_0_1_gets_the_artefact_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match=r"Former\.deploy\(artefact, folder\): since version 0\.2"):
        runtime = former()()
    assert runtime.deploy(deployment(), Path("folder")) == Path("artefact/folder")
    assert runtime.profile_fields == {"isa", "onednn"}, "all runtimes of version 0.1 could be timed under these"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_subclass_of_a_runtime_of_version_0_1_may_call_it() -> None:
    class Later(former()):  # type: ignore[misc]
        name = "later"

        def deploy(self, artefact, folder):  # type: ignore[no-untyped-def]
            return super().deploy(artefact, folder).with_suffix(".later")

    assert Later().deploy(deployment(), Path("folder")) == Path("artefact/folder.later")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_runtime_of_version_0_1_does_not_ignore_a_request() -> None:
    with pytest.raises(Unsupported, match="'former' was written for version 0"):
        former()().deploy(deployment(quantization=Quantization()), Path("folder"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_missing_package_is_a_reason() -> None:
    class Needy(former()):  # type: ignore[misc]
        name = "needy"
        packages = ("torch", "no-such-package")
        requirement = "needy[all]"

    assert Needy().unavailable() == "runtime 'needy' needs the package no-such-package: pip install 'needy[all]'"
    Needy.packages = ("torch",)
    assert Needy().unavailable() is None


def test_a_network_of_logits_is_deployed_with_its_activation() -> None:
    content = deployment()
    example = torch.ones(1, 4)
    torch.testing.assert_close(content.network(example), torch.sigmoid(content.model(example)))
    content.model.gives_probabilities = True  # type: ignore[assignment]
    assert content.network is content.model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_runtime_does_not_report_has_a_reason() -> None:
    audit = former()().audit(Path("file"), torch.zeros(1, 4))
    assert audit == Audit(reason="runtime 'former' does not report what it executes")


def test_an_artefact_without_a_request_has_no_calibration_examples() -> None:
    with pytest.raises(Unsupported, match="requests no quantization"):
        deployment().calibration()
