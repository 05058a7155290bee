"""Two regimes: how much is timed where calls have pauses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes
import pytest

from harness import Matrix, Profile, train
from harness.measure.latency import LatencyTimer, Pair
from harness.measure.pool import PairedSamples, SingleSamples
from harness.suite.presets import preset


@pytest.mark.parametrize(("pace", "pairs", "calls"), [("back-to-back", 150, 300), ("20ms", 16, 64)])
def test_fewer_calls_are_timed_where_they_have_pauses(tmp_path: Path, pace: str, pairs: int, calls: int) -> None:
    amounts: list[int] = []

    class Workers(fakes.Workers):
        def time_pair(self, **arguments: Any) -> PairedSamples:
            amounts.append(arguments["amount"].pairs)
            return super().time_pair(**arguments)

        def time_single(self, *identity: Any, **arguments: Any) -> SingleSamples:
            amounts.append(arguments["calls"])
            return super().time_single(*identity, **arguments)

    declared = Matrix(dataset="toy", architecture="conv", pruning={"full": [train()]}, profile=Profile(pace=pace))
    reference, candidate = tmp_path / "reference", tmp_path / "candidate"
    for file in (reference, candidate):
        file.write_text(file.name)
    timer = LatencyTimer(Workers(), preset("quick"))  # type: ignore[arg-type]
    pair = Pair(next(declared.cells("m")), reference, candidate, tmp_path / "inputs.npy", margin=0.01)
    timer.time(pair)
    assert set(amounts) == {pairs}
    timer.time_single(pair)
    assert amounts[-2:] == [calls, calls]
