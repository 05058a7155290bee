"""scikit-learn's digits and diabetes: what is in the splits, and that a small network learns each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits

from harness import Architecture, Data, Dataset
from harness.api.tasks import kind_of
from harness.build.training import fit, predict_split
from harness.plugin.manager import installed
from harness.suite.presets import preset
from harness.testing.datasets import *  # noqa: F403
from harness_sklearn import Diabetes, Digits, SmallCNN, SmallMLP


@pytest.fixture(params=[Digits(), Diabetes()], ids=lambda dataset: dataset.name)
def dataset(request: pytest.FixtureRequest) -> Dataset:
    found = installed().datasets
    if request.param.name not in found:
        pytest.skip("the plugin is not installed: pip install -e . again")
    return found.get(request.param.name)


def loaded(dataset: Dataset, folder: Path) -> Data:
    dataset.make(folder)
    data = dataset.load(folder, folder).read_by(dataset)
    data.check(dataset.name)
    return data


def test_digits_are_scikit_learn_s_in_three_splits(tmp_path: Path) -> None:
    data, source = loaded(Digits(), tmp_path), load_digits()
    assert sum(len(split) for _, split in data.splits()) == len(source.target) == 1797
    assert data.train.inputs.dtype == np.uint8
    assert data.test.records is not None
    row = int(data.test.records[0].removeprefix("digit "))
    assert data.test.targets[0] == source.target[row]
    assert data.test.tensor([0]).numpy() == pytest.approx(source.images[row][None, None] / 16)


def test_diabetes_is_scikit_learn_s_in_three_splits(tmp_path: Path) -> None:
    data, source = loaded(Diabetes(), tmp_path), load_diabetes()
    targets = np.concatenate([split.targets[:, 0] for _, split in data.splits()])
    assert np.sort(targets) == pytest.approx(np.sort(source.target) / 100)
    assert set(data.test.groups["sex"]) == {"1", "2"}
    assert np.concatenate([split.inputs for _, split in data.splits()]).std(axis=0) == pytest.approx(
        np.ones(10), rel=1e-3
    )


def test_a_digit_is_shifted_by_at_most_a_pixel() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 4, 4] = 1
    generator = torch.Generator().manual_seed(0)
    places = {tuple(Digits().augment(image, generator)[0, 0].nonzero()[0].tolist()) for _ in range(100)}
    assert places == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dataset", "architecture", "least"),
    [(Digits(), SmallCNN(), 0.95), (Digits(), SmallMLP(), 0.85), (Diabetes(), SmallMLP(), 0.3)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_small_network_learns_it(dataset: Dataset, architecture: Architecture, least: float, tmp_path: Path) -> None:
    data, kind = loaded(dataset, tmp_path), kind_of(dataset.task)
    torch.manual_seed(0)
    model = architecture.build(data.task)
    training = preset("quick").training(architecture, "train")
    fit(model, data.train, data.validation, training, seed=0, kind=kind)
    assert kind.score(predict_split(model, data.test, 100, "cpu"), data.test.targets) > least
