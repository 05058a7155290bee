"""Each check of architectures, data sets, metrics and runtimes finds what is wrong in just that."""

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
from harness.testing.datasets import Shelf
from harness.testing.metrics import Case, case  # noqa: F401 (a fixture)
from harness.testing.runtimes import Deployed, deployed  # noqa: F401 (a fixture)
from harness.testing.world import LABELS, MLP, ORIGIN, SHAPE, lent

ARCHITECTURES = [
    (bad.Silent(), "describes_itself", "a line in `about`"),
    (bad.Shaken(), "is_built_from_the_seed_alone", r"the values of 1\.weight"),
    (bad.Shared(), "is_built_from_the_seed_alone", "share parameters"),
    (bad.Long(), "answers", r"shape \(1, 3\)"),
    (bad.Mixing(), "examples_do_not_mix", "alone it is up to"),
    (bad.Misnamed(), "trains", "momentum"),
    (bad.Still(), "trains", "all are as they were"),
    (bad.Unkept(), "survives_saving", "differ by up to"),
]
DATASETS = [
    (bad.Unnamed(), "describes_itself", "'synthetic' in the name"),
    (bad.Everywhere(), "recognises_its_folder_alone", "empty or not there"),
    (bad.Placed(), "fingerprint_is_of_the_content", "elsewhere"),
    (bad.Short(), "fingerprint_is_of_the_content", "64 hex digits"),
    (bad.Leaking(), "keeps_patients_apart", "train and the test split"),
    (bad.Restless(), "loads_the_same_again", "other inputs"),
    (bad.Flat(), "views_have_their_shapes", r"\(8, 3, 32\)"),
    (bad.Anew(), "is_made_the_same_each_time", "other: notes"),
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
    (bad.Logits(), "answers_as_torch_does", "sigmoid"),
    (bad.Restlessly(), "answers_the_same_again", "another answer"),
]


def only(found: dict[str, str], kind: str, check: str, text: str) -> None:
    assert list(found) == [f"test_{kind}_{check}"], found
    told = found[f"test_{kind}_{check}"]
    assert re.search(text, told, re.DOTALL), told


def names(rows: list[Any]) -> list[str]:
    return [thing.name for thing, _, _ in rows]


def wrong_architecture(thing: Architecture, failures: Failures) -> dict[str, str]:
    with lent(thing):
        return failures(architectures, architecture=thing, network_tasks=[Task(SHAPE, LABELS)])


def wrong_dataset(thing: Dataset, failures: Failures, folder: Path) -> dict[str, str]:
    with lent(thing):
        return failures(datasets, dataset=thing, shelf=Shelf(folder))


def test_nothing_is_wrong_with_good_ones(
    failures: Failures,
    tmp_path_factory: pytest.TempPathFactory,
    case: Case,  # noqa: F811
    deployed: Deployed,  # noqa: F811
) -> None:
    assert wrong_architecture(bad.Network(), failures) == {}
    assert wrong_dataset(bad.Good(), failures, tmp_path_factory.mktemp("shelf")) == {}
    assert failures(metrics, metric=bad.Share(), case=case) == {}
    for runtime in (bad.Eager(), bad.Coarse()):
        assert failures(runtimes, runtime=runtime, deployed=deployed, deployed_network=MLP.name) == {}


@pytest.mark.parametrize(("thing", "check", "text"), ARCHITECTURES, ids=names(ARCHITECTURES))
def test_what_is_wrong_with_an_architecture_is_found(
    failures: Failures, thing: Architecture, check: str, text: str
) -> None:
    only(wrong_architecture(thing, failures), "architecture", check, text)


@pytest.mark.parametrize(("thing", "check", "text"), DATASETS, ids=names(DATASETS))
def test_what_is_wrong_with_a_data_set_is_found(
    failures: Failures, tmp_path_factory: pytest.TempPathFactory, thing: Dataset, check: str, text: str
) -> None:
    only(wrong_dataset(thing, failures, tmp_path_factory.mktemp("shelf")), "dataset", check, text)


def test_a_data_set_that_does_not_load_is_told(failures: Failures, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = wrong_dataset(bad.Empty(), failures, tmp_path_factory.mktemp("shelf"))
    assert "no examples" in found["test_dataset_loads"]


def test_real_data_that_are_not_there_are_skipped_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    real = installed().datasets.get("ptbxl")
    with pytest.raises(pytest.skip.Exception, match="HARNESS_DATA"):
        Shelf(tmp_path).folder(real)


@pytest.mark.parametrize(("thing", "check", "text"), METRICS, ids=names(METRICS))
def test_what_is_wrong_with_a_metric_is_found(
    failures: Failures,
    case: Case,  # noqa: F811
    thing: Metric,
    check: str,
    text: str,
) -> None:
    only(failures(metrics, metric=thing, case=case), "metric", check, text)


@pytest.mark.parametrize(("thing", "check", "text"), RUNTIMES, ids=names(RUNTIMES))
def test_what_is_wrong_with_a_runtime_is_found(
    failures: Failures,
    deployed: Deployed,  # noqa: F811
    thing: Runtime,
    check: str,
    text: str,
) -> None:
    only(failures(runtimes, runtime=thing, deployed=deployed, deployed_network=MLP.name), "runtime", check, text)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    bad.Shared.built.clear()


def test_what_is_lent_is_given_back() -> None:
    before = list(installed().architectures)
    with lent(bad.Network()) as plugins:
        assert plugins.architectures.origin("good-network") == ORIGIN
    assert list(installed().architectures) == before
