"""Each check of architectures, data sets, metrics and runtimes finds the plugin with its fault, and no other does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bad_others as bad
import pytest
from failures import Failures

from harness import Architecture, Dataset, Metric, Runtime, Task
from harness.plugin.manager import installed
from harness.testing import architectures, datasets, metrics, runtimes
from harness.testing._world import LABELS, MLP, ORIGIN, SHAPE, temporarily_registered
from harness.testing.datasets import Shelf
from harness.testing.metrics import Case, case  # noqa: F401 (a fixture)
from harness.testing.runtimes import Deployed, deployed  # noqa: F401 (a fixture)

ARCHITECTURES = [
    (bad.Silent(), "describes_itself", "a `summary`"),
    (bad.Shaken(), "is_built_from_the_seed_alone", r"the values of 1\.weight"),
    (bad.Shared(), "is_built_from_the_seed_alone", "share parameters"),
    (bad.Long(), "answers", r"shape \(1, 3\)"),
    (bad.Mixing(), "examples_do_not_mix", "alone they differ by up to"),
    (bad.Misnamed(), "trains", "momentum"),
    (bad.Still(), "trains", "all weights are unchanged"),
    (bad.Unkept(), "survives_saving", "differ by up to"),
]
DATASETS = [
    (bad.Unnamed(), "describes_itself", "'synthetic' in the name"),
    (bad.Everywhere(), "matches_its_folder_alone", "empty or missing"),
    (bad.Placed(), "fingerprint_is_of_the_content", "elsewhere"),
    (bad.Short(), "fingerprint_is_of_the_content", "64 hex digits"),
    (bad.Leaking(), "keeps_patients_apart", "train and the test split"),
    (bad.Restless(), "loads_the_same_again", "other inputs"),
    (bad.Flat(), "layouts_have_their_shapes", r"\(8, 3, 32\)"),
    (bad.Anew(), "is_made_the_same_each_time", "different: notes"),
    (bad.Falling(), "notices_what_is_missing", r"test\.npz.*FileNotFoundError"),
]
METRICS = [
    (bad.OtherNames(), "describes_itself", "wrong"),
    (bad.NotANumber(), "gives_numbers_or_none", "not timed"),
    (bad.Unweighted(), "weighs_as_it_computes", "counts as two"),
    (bad.Ordered(), "does_not_mind_the_order", "right: "),
    (bad.Sorting(), "leaves_the_evidence", "samples"),
]
RUNTIMES = [
    (bad.Beside(), "deploys_into_its_folder", "beside"),
    (bad.StillFloat(), "quantizes_or_refuses", "no share in int8"),
    (bad.Logits(), "answers_as_torch_does", "sigmoid"),
    (bad.Restlessly(), "answers_the_same_again", "other outputs"),
]


def assert_only(messages: dict[str, str], kind: str, check: str, text: str) -> None:
    assert list(messages) == [f"test_{kind}_{check}"], messages
    message = messages[f"test_{kind}_{check}"]
    assert re.search(text, message, re.DOTALL), message


def names(rows: list[Any]) -> list[str]:
    return [thing.name for thing, _, _ in rows]


def failures_of_architecture(thing: Architecture, failures: Failures) -> dict[str, str]:
    with temporarily_registered(thing):
        return failures(architectures, architecture=thing, network_tasks=[Task(SHAPE, LABELS)])


def failures_of_dataset(thing: Dataset, failures: Failures, folder: Path) -> dict[str, str]:
    with temporarily_registered(thing):
        return failures(datasets, dataset=thing, shelf=Shelf(folder))


def test_plugins_without_faults_pass(
    failures: Failures,
    tmp_path_factory: pytest.TempPathFactory,
    case: Case,  # noqa: F811
    deployed: Deployed,  # noqa: F811
) -> None:
    assert failures_of_architecture(bad.Network(), failures) == {}
    assert failures_of_dataset(bad.Good(), failures, tmp_path_factory.mktemp("shelf")) == {}
    assert failures(metrics, metric=bad.Share(), case=case) == {}
    for runtime in (bad.Eager(), bad.Coarse()):
        assert failures(runtimes, runtime=runtime, deployed=deployed, deployed_network=MLP.name) == {}


@pytest.mark.parametrize(("thing", "check", "text"), ARCHITECTURES, ids=names(ARCHITECTURES))
def test_the_fault_of_an_architecture_is_found(failures: Failures, thing: Architecture, check: str, text: str) -> None:
    assert_only(failures_of_architecture(thing, failures), "architecture", check, text)


@pytest.mark.parametrize(("thing", "check", "text"), DATASETS, ids=names(DATASETS))
def test_the_fault_of_a_data_set_is_found(
    failures: Failures, tmp_path_factory: pytest.TempPathFactory, thing: Dataset, check: str, text: str
) -> None:
    assert_only(failures_of_dataset(thing, failures, tmp_path_factory.mktemp("shelf")), "dataset", check, text)


def test_a_data_set_that_does_not_load_is_reported(
    failures: Failures, tmp_path_factory: pytest.TempPathFactory
) -> None:
    messages = failures_of_dataset(bad.Empty(), failures, tmp_path_factory.mktemp("shelf"))
    assert "no examples" in messages["test_dataset_loads"]


def test_missing_real_data_is_skipped_with_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    real = installed().datasets.get("ptbxl")
    with pytest.raises(pytest.skip.Exception, match="HARNESS_DATA"):
        Shelf(tmp_path).folder(real)


@pytest.mark.parametrize(("thing", "check", "text"), METRICS, ids=names(METRICS))
def test_the_fault_of_a_metric_is_found(
    failures: Failures,
    case: Case,  # noqa: F811
    thing: Metric,
    check: str,
    text: str,
) -> None:
    assert_only(failures(metrics, metric=thing, case=case), "metric", check, text)


@pytest.mark.parametrize(("thing", "check", "text"), RUNTIMES, ids=names(RUNTIMES))
def test_the_fault_of_a_runtime_is_found(
    failures: Failures,
    deployed: Deployed,  # noqa: F811
    thing: Runtime,
    check: str,
    text: str,
) -> None:
    assert_only(failures(runtimes, runtime=thing, deployed=deployed, deployed_network=MLP.name), "runtime", check, text)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    bad.Shared.built.clear()


def test_temporary_registrations_are_removed() -> None:
    before = list(installed().architectures)
    with temporarily_registered(bad.Network()) as plugins:
        assert plugins.architectures.origin("good-network") == ORIGIN
    assert list(installed().architectures) == before
