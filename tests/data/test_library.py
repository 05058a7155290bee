"""Data sets: where they are looked for, what stands in, and each loaded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toy
from toy import Toy, ToySynthetic

from harness import Data, DataError, Split, UsageError
from harness.api.tasks import kind_of
from harness.data.library import Library, locate, resolve, roots, status
from harness.errors import NoData
from harness.plugin.manager import Plugins
from harness.progress import Display
from harness.store.local import Store


@pytest.fixture(autouse=True)
def _fresh_count() -> None:
    Toy.loads.clear()


# -------------------------------------------------------------------------------------------------- where it is


def test_the_option_comes_before_the_variable_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nowhere: None
) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    assert roots(None) == [Path("data")]
    monkeypatch.setenv("HARNESS_DATA", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    assert roots(None) == [tmp_path / "a", tmp_path / "b"]
    assert roots(str(tmp_path / "c")) == [tmp_path / "c"]


def test_a_root_that_does_not_exist_is_an_error_that_names_its_source(
    nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="the option for data names nosuch, which is not a folder"):
        roots("nosuch")
    monkeypatch.setenv("HARNESS_DATA", "nosuch")
    with pytest.raises(UsageError, match="HARNESS_DATA names nosuch"):
        roots(None)


def test_a_root_is_the_data_set_or_holds_it_by_name(tmp_path: Path, plugins: Plugins) -> None:
    assert locate(Toy(), [tmp_path], plugins) is None
    inside = toy.write(tmp_path / "toy")
    assert locate(Toy(), [tmp_path / "other", tmp_path], plugins) == inside
    toy.write(tmp_path)
    assert locate(Toy(), [tmp_path], plugins) == tmp_path


def test_the_default_folder_is_used_when_it_has_the_data(plugins: Plugins) -> None:
    toy.write(Path("data/toy"))
    assert resolve("toy", plugins, None).folder == Path("data/toy")


def test_a_stand_in_takes_the_place_of_what_is_nowhere(plugins: Plugins) -> None:
    found = resolve("toy", plugins, None)
    assert (found.dataset.name, found.folder) == ("toy-synthetic", None)


@pytest.mark.parametrize("source", ["option", "variable"])
def test_a_named_root_without_the_data_is_an_error(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    if source == "variable":
        monkeypatch.setenv("HARNESS_DATA", "elsewhere")
    with pytest.raises(
        UsageError, match=r"data set 'toy' is not in elsewhere; point .* toy=FOLDER or .* put its files into data/toy"
    ):
        resolve("toy", plugins, "elsewhere" if source == "option" else None)


def test_an_incomplete_data_set_is_not_taken_for_an_absent_one(plugins: Plugins) -> None:
    Path("data/toy").mkdir(parents=True)
    assert resolve("toy", plugins, None).dataset.name == "toy-synthetic", "an empty folder holds nothing"
    Path("data/toy/half.part").write_text("")
    with pytest.raises(UsageError, match=r"data/toy exists but holds no complete toy; complete it, or remove"):
        resolve("toy", plugins, None)


def test_without_a_stand_in_it_is_an_error(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "fallback", None)
    with pytest.raises(UsageError, match="has no fallback"):
        resolve("toy", plugins, None)


def test_a_wrong_name_is_answered_with_the_nearest(plugins: Plugins) -> None:
    with pytest.raises(UsageError, match="no dataset is called 'toi'; did you mean 'toy'"):
        resolve("toi", plugins, None)


def test_synthetic_data_can_be_asked_for_although_the_real_is_there(plugins: Plugins) -> None:
    toy.write(Path("data/toy"))
    assert resolve("toy-synthetic", plugins, None).dataset.synthetic


def test_a_data_set_of_one_s_own_is_found_where_its_name_points(plugins: Plugins, tmp_path: Path) -> None:
    toy.write(Path("data/toy"))
    mine = toy.write(tmp_path / "mine" / "deep")
    assert resolve("toy", plugins, f"toy={mine}").folder == mine
    assert resolve("toy", plugins, f"{tmp_path}:toy={mine}").folder == mine
    assert str(next(status(plugins, f"toy={mine}"))) == f"toy: found in {mine}\n    a toy"


def test_the_variable_names_a_data_set_s_folder_too(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = toy.write(tmp_path / "mine")
    monkeypatch.setenv("HARNESS_DATA", f"toy={mine}")
    assert resolve("toy", plugins, None).folder == mine
    assert roots(None) == [Path("data")]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("toy=empty", "empty is not a complete toy: a toy. Point toy=FOLDER"),
        ("toy=nowhere", "the option for data names nowhere, which is not a folder"),
        ("toi=empty", "no dataset is called 'toi'; did you mean 'toy'"),
    ],
)
def test_a_named_folder_that_does_not_hold_its_data_set_ends_the_run(
    plugins: Plugins, option: str, message: str
) -> None:
    Path("empty").mkdir()
    with pytest.raises(UsageError, match=message) as raised:
        resolve("toy", plugins, option)
    assert not isinstance(raised.value, NoData)  # which fails only the cells of one data set


def test_naming_one_data_set_s_folder_leaves_the_others_as_they_are(plugins: Plugins) -> None:
    toy.write(Path("mine"))
    assert resolve("toy-synthetic", plugins, "toy=mine").dataset.synthetic
    assert resolve("toy", plugins, "toy-synthetic=mine").dataset.name == "toy-synthetic"


def test_bundled_data_are_made_in_the_store(plugins: Plugins, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toy, "bundled", True)
    monkeypatch.setattr(Toy, "make", lambda self, folder: toy.write(folder), raising=False)
    assert resolve("toy", plugins, None).dataset.name == "toy"
    library = Library(plugins, store, None, Display(None))
    assert len(library.load("toy").train) == toy.SIZES["train"]
    assert str(next(status(plugins, None))) == "toy: comes with an installed package\n    a toy"


def test_the_data_set_s_methods_come_with_the_splits(
    plugins: Plugins, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library(plugins, store, None, Display(None))
    splits = dict(library.load("toy-synthetic").splits())
    assert {split.prepare for split in splits.values()} == {split.augment for split in splits.values()} == {None}

    monkeypatch.setattr(ToySynthetic, "prepare", lambda self, inputs: inputs + 1, raising=False)
    monkeypatch.setattr(ToySynthetic, "augment", lambda self, batch, generator: batch, raising=False)
    changed = dict(Library(plugins, store, None, Display(None)).load("toy-synthetic", 8).splits())
    assert changed["test"].tensor([2, 5]).numpy() == pytest.approx(splits["test"].inputs[[2, 5]] + 1)
    assert [name for name, split in changed.items() if split.augment is not None] == ["train"]


def test_a_data_set_may_bring_its_own_loss_in_every_layout(
    plugins: Plugins, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Library(plugins, store, None, Display(None)).load("toy-synthetic").train.loss is None
    monkeypatch.setattr(ToySynthetic, "loss", lambda self, task_loss: "another", raising=False)
    library = Library(plugins, store, None, Display(None))
    for data in (library.load("toy-synthetic"), library.load("toy-synthetic", 8, "mean")):
        assert data.train.loss is not None
        assert data.train.loss(kind_of(Toy.task).loss) == "another"


def test_a_prepare_that_gives_another_shape_is_named(
    plugins: Plugins, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToySynthetic, "prepare", lambda self, inputs: inputs[:, :1], raising=False)
    with pytest.raises(DataError, match=r"examples have shape \(1, 16\), not \(2, 16\)"):
        Library(plugins, store, None, Display(None)).load("toy-synthetic")
    monkeypatch.setattr(ToySynthetic, "prepare", lambda self, inputs: inputs.double(), raising=False)
    with pytest.raises(DataError, match=r"prepare\(\) gives torch.float64"):
        Library(plugins, store, None, Display(None)).load("toy-synthetic")


def test_ids_and_groups_follow_the_examples() -> None:
    split = Split(
        np.zeros((4, 2), np.uint8), np.arange(4), None, np.array(list("abcd")), {"sex": np.array(list("fmfm"))}
    )
    part = split.take([3, 0])
    assert {name: array.tolist() for name, array in part.arrays().items() if name != "inputs"} == {
        "targets": [3, 0],
        "records": ["d", "a"],
        "group sex": ["m", "f"],
    }
    assert part.units()[0].tolist() == [0, 1]
    with pytest.raises(DataError, match="4 targets, 4 records, 3 group sex"):
        Split(split.inputs, split.targets, None, split.records, {"sex": np.array(list("fmf"))})


def test_status_says_what_is_found_where(plugins: Plugins) -> None:
    assert list(map(str, status(plugins, None))) == [
        "toy: not found in data; put its files into data/toy\n    a toy",
        "toy-synthetic: made when it is needed\n    a made-up toy",
    ]
    toy.write(Path("data"))
    assert str(next(status(plugins, None))) == "toy: found in data\n    a toy"


# ------------------------------------------------------------------------------------------------------ loading


def test_each_is_loaded_once_and_synthetic_data_is_made_in_the_store(plugins: Plugins, store: Store) -> None:
    library = Library(plugins, store, None, Display(None))
    data = library.load("toy-synthetic")
    assert library.load("toy-synthetic") is data
    assert Toy.loads == ["toy-synthetic"]
    assert len(library.fingerprint("toy-synthetic")) == 64
    assert len(list((store.root / "data").rglob(toy.MARKER))) == 1
    assert not Path("data").exists()


def test_the_fingerprint_follows_the_content(plugins: Plugins, store: Store) -> None:
    toy.write(Path("data"), seed=1)
    before = Library(plugins, store, None, Display(None)).fingerprint("toy")
    toy.write(Path("data"), seed=2)
    assert Library(plugins, store, None, Display(None)).fingerprint("toy") != before


def test_evaluation_bounds_validation_and_test_alone(plugins: Plugins, store: Store) -> None:
    library = Library(plugins, store, None, Display(None))
    whole, small = library.load("toy-synthetic"), library.load("toy-synthetic", 8)
    assert [len(part) for _, part in small.splits()] == [60, 8, 8]
    assert np.array_equal(small.test.inputs, whole.test.inputs[:8])
    assert np.array_equal(small.validation.patients, whole.validation.patients[:8])
    assert library.load("toy-synthetic", 8) is small
    assert Toy.loads == ["toy-synthetic"]


def test_too_few_examples_for_both_classes_are_an_error(plugins: Plugins, store: Store) -> None:
    with pytest.raises(DataError, match="toy-synthetic, validation split: label shaky has no positive example"):
        Library(plugins, store, None, Display(None)).load("toy-synthetic", 2)


def test_data_that_vanishes_after_collection_is_an_error(plugins: Plugins, store: Store) -> None:
    toy.write(Path("data"))
    library = Library(plugins, store, None, Display(None))
    (Path("data") / toy.MARKER).unlink()
    with pytest.raises(DataError, match="'toy' was present when the suite was collected, but is missing now"):
        library.load("toy")


def test_a_data_set_that_breaks_is_named(plugins: Plugins, store: Store) -> None:
    (toy.write(Path("data")) / toy.MARKER).write_text("{}")
    with pytest.raises(DataError, match=r"dataset 'toy'.* KeyError: 'seed'"):
        Library(plugins, store, None, Display(None)).load("toy")


def test_what_cannot_be_loaded_is_not_tried_again(plugins: Plugins, store: Store) -> None:
    (toy.write(Path("data")) / toy.MARKER).write_text("{}")
    library = Library(plugins, store, None, Display(None))
    errors = []
    for _ in range(3):
        with pytest.raises(DataError) as raised:
            library.load("toy")
        errors.append(raised.value)
    assert errors[0] is errors[1] is errors[2]


def test_a_data_set_that_cannot_say_its_fingerprint_is_named(
    plugins: Plugins, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Toy, "fingerprint", lambda self, folder: 1 / 0)
    toy.write(Path("data"))
    with pytest.raises(DataError, match=r"dataset 'toy'.* ZeroDivisionError"):
        Library(plugins, store, None, Display(None)).fingerprint("toy")


# ------------------------------------------------------------------------------------------------------ checking


def _change(**changes: Split) -> Data:
    data = ToySynthetic().load(toy.write(Path("made")), Path("cache"))
    return Data(**({"task": data.task} | dict(data.splits()) | changes))


def _part(**changes: np.ndarray) -> Split:
    made = toy.part(8, 0)
    return Split(**({"inputs": made.inputs, "targets": made.targets, "patients": made.patients} | changes))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (_part(inputs=np.full((8, 2, 16), np.nan, np.float32)), "train split: example 0 holds NaN or infinity"),
        (_part(inputs=np.zeros((8, 2, 15), np.float32)), r"train split: examples have shape \(2, 15\), not \(2, 16\)"),
        (_part(targets=np.zeros((8, 3), np.float32)), r"train split: targets have shape \(8, 3\)"),
        (_part(targets=np.zeros((8, 2), np.float32)), "train split: label high has no positive example"),
        (_part(targets=np.ones((8, 2), np.float32)), "train split: label high has no negative example"),
        (toy.part(0, 0), "train split: no examples"),
    ],
)
def test_bad_data_is_named(nowhere: None, part: Split, message: str) -> None:
    with pytest.raises(DataError, match=f"toy, {message}"):
        _change(train=part).check("toy")


def test_arrays_of_different_lengths_are_no_part() -> None:
    with pytest.raises(DataError, match="7 patients"):
        _part(patients=np.arange(7))
