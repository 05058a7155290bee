"""Define scikit-learn's digits (multi-class) and diabetes (regression). Their files come with scikit-learn."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from harness import Data, Dataset, Progress, Split, Task
from harness.api import silent
from harness.data.hashes import hash_files
from harness.data.readers import divide, read_npz, write_npz
from harness.data.synthetic import make_once

if TYPE_CHECKING:
    import torch

FILE = "examples.npz"
SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


class _Bundled(Dataset):
    """A data set of scikit-learn, written into one file and divided at random, always in the same way."""

    bundled: ClassVar[bool] = True

    @abc.abstractmethod
    def read(self) -> Split:
        """Return all examples from scikit-learn."""

    def matches(self, folder: Path) -> bool:
        return (folder / FILE).is_file() and (folder / self.name).is_file()

    def fingerprint(self, folder: Path) -> str:
        return hash_files(folder, [FILE])[FILE]

    def load(self, folder: Path, cache: Path, progress: Progress = silent) -> Data:
        return Data(self.task, **divide(read_npz(folder / FILE), SHARES))

    def make(self, folder: Path) -> None:
        make_once(self, folder, folder / FILE, lambda folder: write_npz(folder / FILE, self.read()))


class Digits(_Bundled):
    """Handwritten digits of 43 people, 8 x 8 pixels with 17 levels of grey (Alpaydin and Kaynak 1998).

    scikit-learn has no writer's id, so digits of one person are in several splits, as in most of the literature.
    """

    name = "digits"
    task = Task((1, 8, 8), tuple("0123456789"), "multiclass")
    examples = 1078
    summary = "1,797 handwritten digits of 8 x 8 pixels, ten classes; part of scikit-learn, from UCI (CC BY 4.0)"

    def read(self) -> Split:
        import numpy as np
        from sklearn.datasets import load_digits

        content = load_digits()
        inputs = content.images[:, None].astype(np.uint8)
        records = np.array([f"digit {row}" for row in range(len(inputs))], np.str_)
        return Split(inputs, content.target.astype(np.int64), records=records)

    def prepare(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.float() / 16

    def augment(self, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Shift the whole batch by at most one pixel in each direction; the edge is background."""
        import torch
        from torch.nn.functional import pad

        down, right = (int(number) for number in torch.randint(0, 3, (2,), generator=generator))
        return pad(batch, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


class Diabetes(_Bundled):
    """Progression of diabetes one year after ten baseline values of a patient (Efron et al. 2004)."""

    name = "diabetes"
    task = Task((10,), ("progression",), "regression")
    examples = 265
    summary = "442 patients with diabetes: ten baseline values, progression after a year / 100; part of scikit-learn"

    def read(self) -> Split:
        import numpy as np
        from sklearn.datasets import load_diabetes

        content = load_diabetes()
        inputs = (content.data * np.sqrt(len(content.data))).astype(np.float32)  # the columns vary by 1
        patients = np.array([f"patient {row}" for row in range(len(inputs))], np.str_)
        groups = {"sex": np.where(content.data[:, 1] > 0, "2", "1")}
        return Split(inputs, (content.target[:, None] / 100).astype(np.float32), patients, patients, groups)
