"""Time two versions of the code in pairs: a worker process of each, which take turns call by call. Imports no torch."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.api import Profile
from harness.measure.machine import load
from harness.measure.pool import PairedSamples, Workers, with_hash
from harness.measure.process import WorkerProcess
from harness.measure.timing import LEAST_PAIRS, PARTS, Amount, schedule


class VersionedWorkers:
    """Time a file under the earlier code beside one under the present code; `LatencyTimer` uses it as its pool.

    Both workers of a pair have the profile's environment and the same CPUs, and one waits while the other calls. The
    pair of processes is the unit of the statistics. The A/A run, a file beside itself, is the earlier code in two
    workers.
    """

    def __init__(self, earlier: Workers, present: Workers) -> None:
        self._earlier = earlier
        self._present = present

    def renew(self) -> None:
        """End all timing workers, so that the next timing uses fresh processes."""
        self._earlier.renew()
        self._present.renew()

    def time_pair(
        self,
        profile: Profile,
        runtime: str,
        reference: Path,
        candidate: Path,
        inputs: Path,
        processes: int,
        amount: Amount,
        seed: int,
        first: int = 0,
        reference_runtime: str | None = None,
    ) -> PairedSamples:
        """As `Workers.time_pair`: ``reference`` under the earlier code, ``candidate`` under the present code."""
        began = time.perf_counter()
        files = {"reference": with_hash(reference), "candidate": with_hash(candidate)}
        runtimes = {"reference": reference_runtime or runtime, "candidate": runtime}
        pairs = self._pairs(profile, first + processes, reference == candidate)[first:]
        load_before = load()
        replies: list[Mapping[str, Any]] = []
        for index, workers in enumerate(pairs, first):
            if replies:
                amount = Amount(pairs=len(replies[0]["reference"]), warmup=replies[0]["warmup"], until_steady=False)
            request = {"inputs": str(inputs), "pause": profile.pause}
            examples = len(np.load(inputs, mmap_mode="r"))
            draw = random.Random(f"{seed}/{index}").getrandbits(32)
            try:
                replies.append(
                    self._time(dict(zip(files, workers, strict=True)), files, runtimes, request, amount, examples, draw)
                )
            except BaseException:
                for worker in workers:  # one may wait for its next turn, with garbage collection switched off
                    worker.end()
                raise
        environments = [workers[1].environment for workers in pairs]
        return PairedSamples.of(replies, environments, load_before, time.perf_counter() - began, files)

    def _pairs(self, profile: Profile, count: int, is_aa_run: bool) -> list[tuple[WorkerProcess, WorkerProcess]]:
        if is_aa_run:
            crew = self._earlier.crew(profile, 2 * count)
            return list(zip(crew[::2], crew[1::2], strict=True))
        return list(zip(self._earlier.crew(profile, count), self._present.crew(profile, count), strict=True))

    def _time(
        self,
        workers: Mapping[str, WorkerProcess],
        files: Mapping[str, Mapping[str, str]],
        runtimes: Mapping[str, str],
        request: Mapping[str, Any],
        amount: Amount,
        examples: int,
        seed: int,
    ) -> dict[str, Any]:
        """Time one pair of processes; the answer is that of one worker to the request ``time``."""
        begun = {
            arm: worker.ask(
                "begin_turns", runtime=runtimes[arm], file=files[arm], amount=dataclasses.asdict(amount), **request
            )
            for arm, worker in workers.items()
        }
        pairs = amount.pairs
        if amount.seconds is not None and (call_time := sum(entry["call_time"] for entry in begun.values())):
            # Each timed call follows an untimed one and a pause.
            pair_time = 2 * (call_time + 1e9 * request["pause"])
            pairs = min(pairs, max(LEAST_PAIRS, int(amount.seconds * 1e9 / pair_time)))
        plan = schedule(pairs, examples, seed)
        part_starts = {pairs * part // PARTS for part in range(PARTS)}
        times: dict[str, list[int]] = {arm: [] for arm in workers}
        canary = []
        for index, pair in enumerate(plan):
            if index in part_starts:
                canary.append(workers["candidate"].ask("time_canary"))
            for arm in sorted(workers, reverse=pair.reference_first):
                times[arm].append(workers[arm].ask("take_turn", example=pair.input))
        canary.append(workers["candidate"].ask("time_canary"))
        ended = [worker.ask("end_turns") for worker in workers.values()]
        return {
            **times,
            "reference_first": [pair.reference_first for pair in plan],
            "inputs": [pair.input for pair in plan],
            "warmup": min(entry["warmup"] for entry in begun.values()),
            "steady": _all_steady([entry["steady"] for entry in begun.values()]),
            "canary": canary,
            "collections": sum(entry["collections"] for entry in ended),
            "disturbance": dict(_worst([entry["disturbance"] for entry in ended])),
        }


def _all_steady(steady: Sequence[bool | None]) -> bool | None:
    return None if None in steady else all(steady)


def _worst(disturbances: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The larger value of each entry, as the workers share their CPUs and the time; None if neither is known."""
    for name in disturbances[0]:
        yield name, max((entry[name] for entry in disturbances if entry[name] is not None), default=None)
