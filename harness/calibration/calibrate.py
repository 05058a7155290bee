"""How often verdicts are wrong and what they find: comparisons whose answer is known, timed and judged as in a run.

A small network is compared with itself, where every "slower" and "faster" is false, and with copies of it that a busy
loop slows down by a known share. On the same times the rules of other tools are asked too.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from harness.api import Profile
from harness.calibration import rivals
from harness.calibration.burn import burning, other_cpus
from harness.calibration.summary import summarise
from harness.doctor import probe
from harness.errors import UsageError, check_writable, explain_disk_errors
from harness.files import Scratch
from harness.keys import to_jsonable
from harness.measure.machine import facts, load
from harness.measure.noise import SIGNALS, findings
from harness.measure.pool import PairedSamples, Workers
from harness.measure.timing import Amount
from harness.stats.ratios import hierarchical_bootstrap, paired_ratio
from harness.stats.verdict import confirms_slower, judge
from harness.text import DEFAULT_MARGIN

#: So many comparisons are timed by the same processes; then the effect of the process is drawn anew.
RENEWED_AFTER = 10
#: The warm-up ends when it is steady, and after so many calls of each arm at the latest.
WARMUP = 300
PACKAGES = ("harness", "numpy", "scipy", "torch")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compared, and how.

    ``comparisons`` of the network with itself and, for each share in ``planted``, ``planted_comparisons`` with a copy
    that is slower by it; each takes ``processes`` times ``pairs`` and is judged at ``margin``. All that once for each
    condition in ``busy``: False leaves the machine as it is, True loads every CPU that the workers do not use.
    """

    comparisons: int = 200
    planted: tuple[float, ...] = (0.01, 0.02, 0.05, 0.10)
    planted_comparisons: int = 50
    processes: int = 6
    pairs: int = 100
    margin: float = DEFAULT_MARGIN
    busy: tuple[bool, ...] = (False, True)
    profile: Profile = dataclasses.field(default_factory=Profile)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("comparisons", 1), ("planted_comparisons", 0), ("processes", 2), ("pairs", 3)):
            if getattr(self, name) < least:
                raise UsageError(f"a calibration with {name}={getattr(self, name)}: it takes at least {least}")
        if not all(math.isfinite(share) and share > 0 for share in self.planted):
            raise UsageError(f"planted={self.planted}: a planted slowdown is a share above 0 (0.05 is 5 %)")
        if len(set(self.planted)) < len(self.planted) or len(set(self.busy)) < len(self.busy):
            raise UsageError(f"planted={self.planted}, busy={self.busy}: name each of them once")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise UsageError(f"margin={self.margin}: it is a share of the latency, at least 0 (0.01 is 1 %)")
        if not self.busy:
            raise UsageError("a calibration needs a condition: busy=(False,), (True,) or (False, True)")


def calibrate(plan: Plan, say: Callable[[str], None], output: Path | None = None) -> dict[str, Any]:
    """Run ``plan`` and return the document, plain JSON; ``say`` is told how far it is.

    The document is also written to ``output`` after each condition, so that a run that is stopped keeps those it had
    finished. It has what was run (date, command, versions, plan), on what (machine, load, environment of a worker),
    the limits of the signals, and of each condition a summary and all comparisons.

    Raises UsageError when a condition cannot be had, StoreError when ``output`` cannot be written, and what
    `Workers.time_pair` raises.
    """
    others = other_cpus(plan.profile) if True in plan.busy else ()
    if output is not None and output.is_dir():
        raise UsageError(f"{output} is a folder; name a file")
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"{output} cannot be written: there is no folder {output.absolute().parent}; make it first")
    if output is not None:
        check_writable(output.absolute().parent, f"{output} cannot be written", "or name another file")
    document: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": dict(facts()),
        "load": dict(load()),
        "plan": to_jsonable(plan),
        "limits": {name: signal.limit for name, signal in SIGNALS.items()},
        "environment": None,
        "conditions": [],
    }
    with Scratch(Path(tempfile.gettempdir())) as folder:
        for busy in plan.busy:
            loaded = others if busy else ()
            with burning(loaded), Workers(probe.COMMAND) as workers:
                condition = _Condition(plan, busy, workers, folder, say)
                measured = condition.run()
            document["environment"] = document["environment"] or condition.environment
            document["conditions"].append({"busy": busy, "loaded_cpus": list(loaded), **measured})
            if output is not None:
                _write(document, output)
    return dict(_rounded(document))


class _Condition:
    """The comparisons in one condition, timed by ``workers`` from files in ``folder``."""

    def __init__(self, plan: Plan, busy: bool, workers: Workers, folder: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._name = "busy" if busy else "quiet"
        self._workers = workers
        self._say = say
        self._inputs = folder / "inputs.npy"
        probe.write_inputs(self._inputs)
        self._files = {share: folder / f"slower by {share}" for share in (0.0, *plan.planted)}
        for share, file in self._files.items():
            probe.write_model(file, share)
        self.environment: dict[str, Any] | None = None

    def run(self) -> dict[str, Any]:
        """Time everything, judge it, and time what seems slower once more."""
        began, before = time.perf_counter(), load()
        comparisons = self._compare()
        self._judge(comparisons)
        self._confirm([comparison for comparison in comparisons if comparison["verdict"]["alone"] == "slower"])
        return {
            "load": dict(before),
            "seconds": time.perf_counter() - began,
            "summary": summarise(comparisons),
            "comparisons": comparisons,
        }

    def _compare(self) -> list[dict[str, Any]]:
        """Every comparison once, in an order drawn from the seed."""
        plan, began = self._plan, time.perf_counter()
        shares = [0.0] * plan.comparisons + [share for share in plan.planted for _ in range(plan.planted_comparisons)]
        random.Random(f"{plan.seed} {self._name}").shuffle(shares)
        comparisons: list[dict[str, Any]] = []
        before = earlier = None
        for index, share in enumerate(shares):
            if index % RENEWED_AFTER == 0:
                self._workers.renew()
                before = None
            samples = self._time(share, f"{index}")
            if any(finding.beyond for finding in findings(samples, before)):  # as in a run, once more
                samples = self._time(share, f"{index} again")
            comparisons.append(_comparison(share, samples, before, earlier))
            if share == 0 and before is None:
                before = samples
            earlier = samples.reference
            done = index + 1
            if done % max(RENEWED_AFTER, len(shares) // 10) == 0 or done == len(shares):
                left = (time.perf_counter() - began) / done * (len(shares) - done)
                self._say(f"{self._name}: {done} of {len(shares)} comparisons, {tqdm.format_interval(left)} left")
        return comparisons

    def _judge(self, comparisons: Sequence[dict[str, Any]]) -> None:
        """Write the verdicts: each comparison as a family of one, the severest for false alarms, and all as a matrix.

        A contaminated comparison gets none, as in a run, and is no part of the matrix; "regardless" has what it would
        have got.
        """
        clean = [comparison for comparison in comparisons if not comparison["contaminated"]]
        matrix = iter(judge([comparison["per_process"] for comparison in clean], self._plan.margin))
        for comparison in comparisons:
            (regardless,) = judge([comparison["per_process"]], self._plan.margin)
            alone, whole = "contaminated", "contaminated"
            if not comparison["contaminated"]:
                alone, whole = regardless.kind, next(matrix).kind
            comparison["verdict"] = {
                "alone": alone,
                "matrix": whole,
                "confirmed": alone,
                "regardless": regardless.kind,
            }
            comparison["confirmation"] = None

    def _confirm(self, slower: Sequence[dict[str, Any]]) -> None:
        """Time them again, by fresh processes; what is not slower again becomes inconclusive, as in a run."""
        if slower:
            self._say(f"{self._name}: {len(slower)} comparisons came out slower; fresh processes time them again")
            self._workers.renew()
        for index, comparison in enumerate(slower):
            samples = self._time(comparison["planted"], f"confirm {index}")
            ratio = paired_ratio(samples.reference, samples.candidate)
            comparison["confirmation"] = {"ratio": ratio.ratio, "per_process": list(ratio.per_process)}
            if not confirms_slower(ratio.per_process, self._plan.margin):
                comparison["verdict"]["confirmed"] = "inconclusive"

    def _time(self, share: float, what: str) -> PairedSamples:
        plan = self._plan
        samples = self._workers.time_pair(
            profile=plan.profile,
            runtime="probe",
            reference=self._files[0.0],
            candidate=self._files[share],
            inputs=self._inputs,
            processes=plan.processes,
            amount=Amount(plan.pairs, WARMUP),
            seed=random.Random(f"{plan.seed} {self._name} {what}").getrandbits(32),
        )
        self.environment = self.environment or dict(samples.environment[0])
        return samples


def _comparison(
    planted: float, samples: PairedSamples, before: PairedSamples | None, earlier: NDArray[np.int64] | None
) -> dict[str, Any]:
    """What is kept of one comparison.

    ``before`` is these workers' first comparison of the network with itself. The other tools' rules are asked
    twice: "interleaved" about this comparison's two arms; "separate" about this candidate and the ``earlier``
    reference, that of the comparison before. Their users get two separate runs, a stored one and a new one; here the
    two are mostly of the same processes and seconds apart, so that it is an easier case than theirs.
    """
    ratio = paired_ratio(samples.reference, samples.candidate)
    found = findings(samples, before)
    return {
        "planted": planted,
        "per_process": list(ratio.per_process),
        "ratio": {"value": ratio.ratio, "low": ratio.low, "high": ratio.high},
        "bootstrap": list(hierarchical_bootstrap(samples.reference, samples.candidate)),
        "signals": {finding.signal: finding.value for finding in found},
        "contaminated": [finding.signal for finding in found if finding.beyond],
        "warmup": samples.warmup,
        "wall": samples.wall,
        "calls": float(samples.reference.sum() + samples.candidate.sum()) / 1e9,
        "rivals": {
            "interleaved": rivals.alarms(samples.reference, samples.candidate),
            "separate": None if earlier is None else rivals.alarms(earlier, samples.candidate),
        },
    }


def _write(document: Mapping[str, Any], output: Path) -> None:
    """Replace ``output`` at once, so that no reader finds half a document."""
    part = output.with_name(f"{output.name}.part")
    with explain_disk_errors(f"{output} cannot be written", "or name another file"):
        part.write_text(json.dumps(_rounded(document), allow_nan=False, separators=(",", ":")) + "\n")
        os.replace(part, output)


def _rounded(tree: Any) -> Any:
    """The same with seven significant digits, more than any clock gives; the file is half as long."""
    if isinstance(tree, float):
        return float(f"{tree:.7g}")
    if isinstance(tree, Mapping):
        return {name: _rounded(entry) for name, entry in tree.items()}
    return [_rounded(entry) for entry in tree] if isinstance(tree, (list, tuple)) else tree
