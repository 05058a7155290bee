"""Calibrate the verdicts: time comparisons whose true ratio is known, and count wrong and missed verdicts.

    python results/calibration/calibrate.py --output calibration.json

A small network is compared with itself (A/A), where every "slower" and "faster" is false, and with copies that a busy
loop slows down by a known share. The same times are also given to the rules of other tools. Takes about half an hour.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import json
import math
import platform
import random
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import rival_rules
from calibration_tables import summarize, table
from cpu_load import burning, other_cpus
from harness.api import Profile
from harness.cli.common import add_margin_option
from harness.doctor import probe
from harness.errors import HarnessError, UsageError
from harness.files import Scratch, atomic_write, check_writable
from harness.keys import to_jsonable
from harness.measure.machine import facts, load
from harness.measure.noise import noise_signals
from harness.measure.pool import PairedSamples, Workers
from harness.measure.timing import Amount
from harness.plugin.manager import KERNEL
from harness.records.signals import SIGNALS
from harness.stats.ratios import hierarchical_bootstrap, paired_ratio
from harness.stats.verdict import confirms_slower, decide_verdicts
from harness.text import DEFAULT_MARGIN, parse_margin

#: Restart the workers after this many comparisons, to resample the process effect.
COMPARISONS_PER_CREW = 10
#: The warm-up ends when both arms are steady, and after this many calls of each arm at the latest.
WARMUP = 300
PACKAGES = ("numpy", "scipy", "torch")
USAGE_ERROR, INTERRUPTED = 4, 130


@dataclasses.dataclass(frozen=True)
class CalibrationPlan:
    """The comparisons of a calibration.

    ``comparisons`` are of the network with itself. For each share in ``planted``, ``planted_comparisons`` are with a
    copy that is slower by this share. Each comparison takes ``processes`` times ``pairs`` and is judged at ``margin``.
    ``busy`` lists the conditions: False leaves the machine as it is, True loads every CPU that no worker uses.
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
                raise UsageError(f"{name}={getattr(self, name)} is too small: a calibration needs at least {least}")
        if not all(math.isfinite(share) and share > 0 for share in self.planted):
            raise UsageError(f"planted={self.planted}: a planted slowdown must be a share above 0 (0.05 is 5 %)")
        if len(set(self.planted)) < len(self.planted) or len(set(self.busy)) < len(self.busy):
            raise UsageError(f"planted={self.planted}, busy={self.busy}: a value is repeated; name each value once")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise UsageError(
                f"margin={self.margin}: the margin must be a share of the latency, 0 or more (0.01 is 1 %)"
            )
        if not self.busy:
            raise UsageError("busy=() names no condition: use (False,), (True,) or (False, True)")


def calibrate(plan: CalibrationPlan, log: Callable[[str], None], output: Path | None = None) -> dict[str, Any]:
    """Run ``plan`` and return the document, plain JSON; ``log`` gets progress lines.

    The document is also written to ``output`` after each condition, so that a stopped run keeps what it finished. It
    holds the date, command, versions and plan, the machine with its load, the environment of a worker, the limits of
    the noise signals, and for each condition a summary and all comparisons.

    Raises UsageError if a condition cannot be set up, StoreError if ``output`` cannot be written, and whatever
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
        "versions": {
            "python": platform.python_version(),
            "harness": KERNEL.version,
            **{name: version(name) for name in PACKAGES},
        },
        "machine": dict(facts()),
        "load": dict(load()),
        "plan": to_jsonable(plan),
        "limits": {name: spec.limit for name, spec in SIGNALS.items()},
        "environment": None,
        "conditions": [],
    }
    with Scratch(Path(tempfile.gettempdir())) as folder:
        for busy in plan.busy:
            loaded = others if busy else ()
            with burning(loaded), Workers(probe.COMMAND) as workers:
                condition = _Condition(plan, busy, workers, folder, log)
                measured = condition.run()
            document["environment"] = document["environment"] or condition.environment
            document["conditions"].append({"busy": busy, "loaded_cpus": list(loaded), **measured})
            if output is not None:
                _write(document, output)
    return dict(_rounded(document))


class _Condition:
    """Times the comparisons in one condition with ``workers``, from files in ``folder``."""

    def __init__(
        self, plan: CalibrationPlan, busy: bool, workers: Workers, folder: Path, log: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._name = "busy" if busy else "quiet"
        self._workers = workers
        self._log = log
        self._inputs = folder / "inputs.npy"
        probe.write_inputs(self._inputs)
        self._files = {share: folder / f"slower by {share}" for share in (0.0, *plan.planted)}
        for share, file in self._files.items():
            probe.write_model(file, share)
        self.environment: dict[str, Any] | None = None

    def run(self) -> dict[str, Any]:
        """Time every comparison, decide the verdicts, and confirm every "slower" with fresh processes."""
        began, load_before = time.perf_counter(), load()
        comparisons = self._time_all()
        self._add_verdicts(comparisons)
        self._confirm([comparison for comparison in comparisons if comparison["verdict"]["alone"] == "slower"])
        return {
            "load": dict(load_before),
            "seconds": time.perf_counter() - began,
            "summary": summarize(comparisons),
            "comparisons": comparisons,
        }

    def _time_all(self) -> list[dict[str, Any]]:
        """Time every comparison once, in an order drawn from the seed."""
        plan, began = self._plan, time.perf_counter()
        shares = [0.0] * plan.comparisons + [share for share in plan.planted for _ in range(plan.planted_comparisons)]
        random.Random(f"{plan.seed} {self._name}").shuffle(shares)
        comparisons: list[dict[str, Any]] = []
        crew_baseline = previous_reference = None
        for index, share in enumerate(shares):
            if index % COMPARISONS_PER_CREW == 0:
                self._workers.renew()
                crew_baseline = None
            samples = self._time(share, f"{index}")
            if any(signal.beyond for signal in noise_signals(samples, crew_baseline)):  # as in a run, once more
                samples = self._time(share, f"{index} again")
            comparisons.append(_comparison_record(share, samples, crew_baseline, previous_reference))
            if share == 0 and crew_baseline is None:
                crew_baseline = samples
            previous_reference = samples.reference
            done = index + 1
            if done % max(COMPARISONS_PER_CREW, len(shares) // 10) == 0 or done == len(shares):
                left = (time.perf_counter() - began) / done * (len(shares) - done)
                self._log(f"{self._name}: {done} of {len(shares)} comparisons, {tqdm.format_interval(left)} left")
        return comparisons

    def _add_verdicts(self, comparisons: Sequence[dict[str, Any]]) -> None:
        """Add the verdicts: "alone" (a family of one, the strictest test for false alarms) and all as one "matrix".

        As in a run, a contaminated comparison gets no verdict and is no part of the matrix. "regardless" is the verdict
        that it would have got.
        """
        clean = [comparison for comparison in comparisons if not comparison["contaminated"]]
        matrix = iter(decide_verdicts([comparison["per_process"] for comparison in clean], self._plan.margin))
        for comparison in comparisons:
            (regardless,) = decide_verdicts([comparison["per_process"]], self._plan.margin)
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
        """Time these again in fresh processes; one that is not slower again becomes inconclusive, as in a run."""
        if slower:
            self._log(f"{self._name}: {len(slower)} comparisons are slower; timing them again in fresh processes")
            self._workers.renew()
        for index, comparison in enumerate(slower):
            samples = self._time(comparison["planted"], f"confirm {index}")
            ratio = paired_ratio(samples.reference, samples.candidate)
            comparison["confirmation"] = {"ratio": ratio.ratio, "per_process": list(ratio.per_process)}
            if not confirms_slower(ratio.per_process, self._plan.margin):
                comparison["verdict"]["confirmed"] = "inconclusive"

    def _time(self, share: float, purpose: str) -> PairedSamples:
        plan = self._plan
        samples = self._workers.time_pair(
            profile=plan.profile,
            runtime="probe",
            reference=self._files[0.0],
            candidate=self._files[share],
            inputs=self._inputs,
            processes=plan.processes,
            amount=Amount(plan.pairs, WARMUP),
            seed=random.Random(f"{plan.seed} {self._name} {purpose}").getrandbits(32),
        )
        self.environment = self.environment or dict(samples.environment[0])
        return samples


def _comparison_record(
    planted: float,
    samples: PairedSamples,
    crew_baseline: PairedSamples | None,
    previous_reference: NDArray[np.int64] | None,
) -> dict[str, Any]:
    """Make the record of one comparison, plain JSON.

    ``crew_baseline`` is the first A/A comparison of the same workers. The rules of other tools get two inputs:
    "interleaved" is this comparison's two arms; "separate" is this candidate and the ``previous_reference``, from the
    comparison before. Users of those tools compare a stored run with a new one. Here the two are mostly of the same
    processes and seconds apart, which is an easier case.
    """
    ratio = paired_ratio(samples.reference, samples.candidate)
    signals = noise_signals(samples, crew_baseline)
    return {
        "planted": planted,
        "per_process": list(ratio.per_process),
        "ratio": {"value": ratio.ratio, "low": ratio.low, "high": ratio.high},
        "bootstrap": list(hierarchical_bootstrap(samples.reference, samples.candidate)),
        "signals": {signal.signal: signal.value for signal in signals},
        "contaminated": [signal.signal for signal in signals if signal.beyond],
        "warmup": samples.warmup,
        "wall": samples.wall,
        "calls": float(samples.reference.sum() + samples.candidate.sum()) / 1e9,
        "rivals": {
            "interleaved": rival_rules.alarms(samples.reference, samples.candidate),
            "separate": None
            if previous_reference is None
            else rival_rules.alarms(previous_reference, samples.candidate),
        },
    }


def _write(document: Mapping[str, Any], output: Path) -> None:
    """Replace ``output`` atomically, so that no reader finds half a document."""
    with atomic_write(output, "or name another file") as temporary:
        temporary.write_text(json.dumps(_rounded(document), allow_nan=False, separators=(",", ":")) + "\n")


def _rounded(tree: Any) -> Any:
    """Round to seven significant digits, more than any clock gives; this halves the file."""
    if isinstance(tree, float):
        return float(f"{tree:.7g}")
    if isinstance(tree, Mapping):
        return {name: _rounded(entry) for name, entry in tree.items()}
    return [_rounded(entry) for entry in tree] if isinstance(tree, (list, tuple)) else tree


# --------------------------------------------------------------------------------------------------- command line


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help lists the options)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description="Count wrong and missed verdicts over many comparisons whose true ratio is known.")
    for option, default, summary in (
        ("--comparisons", 200, "A/A comparisons (of a network with itself)"),
        ("--planted-comparisons", 50, "comparisons with each planted slowdown"),
        ("--processes", 6, "processes of each comparison"),
        ("--pairs", 100, "pairs of calls in each process"),
    ):
        whole = functools.partial(_whole, option)
        parser.add_argument(option, type=whole, default=default, metavar="N", help=f"{summary} (default: {default})")
    parser.add_argument(
        "--planted", type=_shares, default="1%,2%,5%,10%", metavar="SHARES", help="slowdowns (default: %(default)s)"
    )
    add_margin_option(parser)
    parser.add_argument(
        "--allocator",
        nargs="+",
        default=["system"],
        metavar="NAME",
        help="use the first that is installed (default: system)",
    )
    parser.add_argument("--quiet-only", action="store_true", help="do not repeat it while the other CPUs are loaded")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write all results to this file")
    return parser


def _whole(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a whole number") from None


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(parse_margin(part) for part in text.split(","))
    except UsageError:
        raise UsageError(f"--planted {text!r} is not a list of shares such as 2%,10% or 0.02,0.1") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; returns 0, 4 for an error that the user can fix, or 130 when interrupted."""
    try:
        options = _parser().parse_args(arguments)
        plan = CalibrationPlan(
            comparisons=options.comparisons,
            planted=options.planted,
            planted_comparisons=options.planted_comparisons,
            processes=options.processes,
            pairs=options.pairs,
            margin=options.margin,
            busy=(False,) if options.quiet_only else (False, True),
            profile=Profile(allocator=options.allocator),
        )
        print(table(calibrate(plan, functools.partial(print, file=sys.stderr), options.output)))
    except HarnessError as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("calibrate: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
