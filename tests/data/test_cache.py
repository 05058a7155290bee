"""The cache of arrays: damage of any kind is noticed, and the arrays are computed again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness import DataError
from harness.data import cache
from harness.data.cache import Blocks, cached

KEY = "0123456789abcdef"
ARRAYS = {"inputs": np.arange(6, dtype=np.float32).reshape(2, 3), "names": np.array(["a", "b"])}


@pytest.mark.parametrize("name", [f"{KEY}.json", f"{KEY}-inputs.npy", f"{KEY}-names.npy"])
@pytest.mark.filterwarnings("ignore")  # numpy warns of headers that it repairs
def test_every_flipped_bit_is_noticed_or_harmless(tmp_path: Path, name: str) -> None:
    cached(tmp_path, KEY, lambda: ARRAYS)
    file = tmp_path / name
    sound = file.read_bytes()
    noticed = 0
    for bit in range(8 * len(sound)):
        flipped = bytearray(sound)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        arrays = cache._read(tmp_path, KEY)  # ``cached`` computes them again where this is None
        noticed += arrays is None
        assert arrays is None or arrays.keys() == ARRAYS.keys()
        assert arrays is None or all(np.array_equal(arrays[part], ARRAYS[part]) for part in ARRAYS)
    assert noticed > 0.98 * 8 * len(sound)


def test_a_header_that_is_no_python_is_damage(tmp_path: Path) -> None:
    cached(tmp_path, KEY, lambda: ARRAYS)
    file = tmp_path / f"{KEY}-inputs.npy"
    file.write_bytes(file.read_bytes().replace(b"}", b"{"))
    with pytest.warns(UserWarning, match="the cached arrays 0123456789abcdef are damaged .*; computing them again"):
        arrays = cached(tmp_path, KEY, lambda: ARRAYS)
    assert np.array_equal(arrays["inputs"], ARRAYS["inputs"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached(tmp_path, KEY, lambda: pytest.fail("computed again"))


def blocks(count: int, dtype: type = np.uint8) -> Iterator[NDArray[Any]]:
    return (np.full((2, 3), index, dtype) for index in range(count))


def test_blocks_are_written_as_they_come_and_mapped(tmp_path: Path) -> None:
    arrays = cached(tmp_path, KEY, lambda: {"inputs": Blocks((6, 3), "uint8", blocks(3))})
    assert arrays["inputs"].tolist() == [[row // 2] * 3 for row in range(6)]
    assert isinstance(arrays["inputs"].base, np.memmap)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached(tmp_path, KEY, lambda: pytest.fail("computed again"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(blocks(2), "4 rows together, not 6"), (blocks(3, np.int16), "a block is int16"), (iter([]), "0 rows")],
)
def test_blocks_that_are_not_what_they_declare_leave_nothing(
    tmp_path: Path, content: Iterator[NDArray[Any]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        cached(tmp_path, KEY, lambda: {"inputs": Blocks((6, 3), "uint8", content)})
    assert [file.name for file in tmp_path.iterdir() if file.name != ".lock"] == []
