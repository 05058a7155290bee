"""In which order a process times: the arm that goes first in each pair, and the input that both arms get."""

from __future__ import annotations

import dataclasses
import random


@dataclasses.dataclass(frozen=True)
class Pair:
    """One pair: both arms get the input of this index, the reference first or second."""

    input: int
    reference_first: bool


def schedule(pairs: int, inputs: int, seed: int) -> tuple[Pair, ...]:
    """A random but balanced schedule: each arm goes first in half of the pairs, each input is used about as often.

    Random, since a fixed ABAB or ABBA can fall in step with something periodic in the machine; balanced, since
    going first costs a little (what the other arm left in the caches).
    """
    rng = random.Random(seed)
    ahead = pairs // 2 + (pairs % 2) * rng.randrange(2)
    orders = [True] * ahead + [False] * (pairs - ahead)
    rng.shuffle(orders)
    drawn: list[int] = []
    while len(drawn) < pairs:
        drawn += rng.sample(range(inputs), inputs)
    return tuple(Pair(index, first) for index, first in zip(drawn, orders, strict=False))
