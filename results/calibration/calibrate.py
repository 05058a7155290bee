"""Calibrate the verdicts: time comparisons whose true ratio is known, under six loads, and count wrong verdicts.

    python results/calibration/calibrate.py --output loads.json
    python results/calibration/calibrate.py --output loads.json --loads quiet,bursts

A small network is compared with itself (A/A), where every "slower" and "faster" is false, and with copies that a busy
loop slows down by a known share. The same samples are judged by the present rule, by that of version 0.1, and by those
of other tools. The file is written every ten comparisons; a second run with the same plan goes on from it. A load takes
about half an hour.
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
import signal
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
from harness.api import Profile
from harness.cli.common import add_margin_option
from harness.doctor import probe
from harness.errors import HarnessError, UsageError
from harness.files import Scratch, atomic_write, check_writable
from harness.keys import to_jsonable
from harness.measure.latency import LatencyTimer, Pair
from harness.measure.machine import facts, load
from harness.measure.pool import Workers
from harness.plugin.manager import KERNEL
from harness.stats.verdict import Comparison, confirms_slower, decide_alone
from harness.suite.matrix import Cell
from harness.suite.presets import PRESETS, Preset, preset
from harness.text import DEFAULT_MARGIN, parse_margin
from load_tables import summarize, table
from loads import LOADS

#: Restart the workers after this many comparisons, to resample the process effect.
COMPARISONS_PER_CREW = 10
PACKAGES = ("numpy", "scipy", "torch")
USAGE_ERROR, INTERRUPTED = 4, 130
Log = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class CalibrationPlan:
    """The comparisons under each load.

    ``comparisons`` are of the network with itself. For each share in ``planted``, ``planted_comparisons`` are with a
    copy that is slower by this share. Each is timed as a cell in a run of ``preset``, and judged at ``margin``.
    """

    comparisons: int = 300
    planted: tuple[float, ...] = (0.01, 0.02, 0.05)
    planted_comparisons: int = 50
    preset: Preset = PRESETS["quick"]
    margin: float = DEFAULT_MARGIN
    profile: Profile = dataclasses.field(default_factory=Profile)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("comparisons", 1), ("planted_comparisons", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name}={getattr(self, name)} is too small: a calibration needs at least {least}")
        if not all(math.isfinite(share) and share > 0 for share in self.planted):
            raise UsageError(f"planted={self.planted}: a planted slowdown must be a share above 0 (0.05 is 5 %)")
        if len(set(self.planted)) < len(self.planted):
            raise UsageError(f"planted={self.planted}: a value is repeated; name each value once")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise UsageError(
                f"margin={self.margin}: the margin must be a share of the latency, 0 or more (0.01 is 1 %)"
            )


def calibrate(plan: CalibrationPlan, names: Sequence[str], log: Log, output: Path | None = None) -> dict[str, Any]:
    """Run ``plan`` under the loads ``names``, and return the document, plain JSON; ``log`` gets progress lines.

    The document is also written to ``output`` as comparisons are done. What a document of the same plan already has
    there is not measured again. It holds the command, versions and plan, the machine, and for each load its comparisons
    and a summary.

    Raises UsageError if a load cannot be set up, or ``output`` holds another plan, StoreError if it cannot be written,
    and whatever the timer raises.
    """
    document = _document(plan, output)
    for name in names:
        if name in document["loads"]:
            log(f"{name}: already measured")
            continue
        with (
            Scratch(Path(tempfile.gettempdir())) as folder,
            LOADS[name](plan.profile) as description,
            Workers(probe.COMMAND) as workers,
        ):
            measured = _Measurement(plan, name, workers, folder, log).run(
                document["unfinished"].pop(name, {}), functools.partial(_save, document, name, output)
            )
        document["unfinished"].clear()
        document["loads"][name] = {"description": description, **measured}
        if output is not None:
            _write(document, output)
    return dict(_rounded(document))


def _document(plan: CalibrationPlan, output: Path | None) -> dict[str, Any]:
    """The document in ``output``, or a new one."""
    document: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {
            "python": platform.python_version(),
            "harness": KERNEL.version,
            **{name: version(name) for name in PACKAGES},
        },
        "machine": dict(facts()),
        "plan": dict(_rounded(to_jsonable(plan))),
        "loads": {},
        "unfinished": {},
    }
    if output is None:
        return document
    if output.is_dir():
        raise UsageError(f"{output} is a folder; name a file")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"{output} cannot be written: there is no folder {output.absolute().parent}; make it first")
    check_writable(output.absolute().parent, f"{output} cannot be written", "or name another file")
    if not output.exists():
        return document
    try:
        before = json.loads(output.read_text())
        same = (before["plan"], before["machine"]["cpu"]) == (document["plan"], document["machine"]["cpu"])
        complete = isinstance(before["loads"], dict) and isinstance(before["unfinished"], dict)
    except (ValueError, LookupError, TypeError):
        same = complete = False
    if not same or not complete:
        raise UsageError(f"{output} is not a calibration of this plan on this machine; name another file")
    return dict(before)


class _Measurement:
    """Times the comparisons under one load with ``workers``, from files in ``folder``."""

    def __init__(self, plan: CalibrationPlan, name: str, workers: Workers, folder: Path, log: Log) -> None:
        self._plan = plan
        self._name = name
        self._workers = workers
        self._log = log
        self._inputs = folder / "inputs.npy"
        probe.write_inputs(self._inputs)
        self._reference = folder / "reference"
        self._files = {share: folder / f"slower by {share}" for share in (0.0, *plan.planted)}
        probe.write_model(self._reference)
        for share, file in self._files.items():
            probe.write_model(file, share)
        self._timer = LatencyTimer(workers, plan.preset)
        #: The places of the A/A runs in the document, which cells of the same minutes share.
        self._aa_runs: dict[tuple[float, ...], int] = {}

    def run(self, unfinished: Mapping[str, Any], save: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
        """Time every comparison, and confirm every "slower" with fresh processes.

        The order is drawn from the seed. After each crew of processes ``save`` gets what is done; ``unfinished`` is
        what it got last in an earlier run, or empty.
        """
        plan, name = self._plan, self._name
        shares = [0.0] * plan.comparisons + [share for share in plan.planted for _ in range(plan.planted_comparisons)]
        random.Random(f"{plan.seed} {name}").shuffle(shares)
        comparisons: list[dict[str, Any]] = list(unfinished.get("comparisons", ()))
        self._aa_runs.update((tuple(run), place) for place, run in enumerate(unfinished.get("aa_runs", ())))
        earlier, began, first = unfinished.get("seconds", 0.0), time.perf_counter(), len(comparisons)
        done: dict[str, Any] = dict(unfinished) or {"machine_load": dict(load())}
        for start in range(first, len(shares), COMPARISONS_PER_CREW):
            self._workers.renew()
            crew = self._time_crew(shares[start : start + COMPARISONS_PER_CREW], start)
            self._confirm(crew)
            comparisons += crew
            spent = time.perf_counter() - began
            done |= {"seconds": earlier + spent, "aa_runs": list(self._aa_runs), "comparisons": comparisons}
            save(done)
            left = spent / (len(comparisons) - first) * (len(shares) - len(comparisons))
            self._log(f"{name}: {len(comparisons)} of {len(shares)} comparisons, {tqdm.format_interval(left)} left")
        return {"summary": summarize(comparisons, list(self._aa_runs), plan.preset, plan.margin), **done}

    def _time_crew(self, shares: Sequence[float], start: int) -> list[dict[str, Any]]:
        """Time comparisons by the present processes."""
        comparisons, reference_before = [], None
        for index, share in enumerate(shares, start):
            comparison, reference_before = self._time(share, index, reference_before)
            comparisons.append(comparison)
        return comparisons

    def _time(
        self, share: float, index: int, reference_before: NDArray[np.int64] | None
    ) -> tuple[dict[str, Any], NDArray[np.int64]]:
        """Time one comparison as a run times a cell; returns its record, plain JSON but for "timing".

        "aa_runs" are the places of its A/A runs in the load's list.

        "new" is the verdict of the present rule. "old" is that of version 0.1 on the first processes: contaminated if a
        signal is beyond its limit (0.1 timed such a cell once more first), else by Student's t alone. The rules of
        other tools get the first processes too, in two ways: "interleaved" is this comparison's two arms; "separate" is
        this candidate and the reference of the comparison before, of the same processes and seconds older. Users of
        those tools compare a stored run with a new one, a harder case.
        """
        pair = self._pair(share, index)
        timing, samples = self._timer.time(pair)
        margin, processes = self._plan.margin, self._plan.preset.processes
        old = decide_alone(Comparison(timing.per_process[:processes]), margin)
        reference, candidate = (
            np.asarray(samples.arrays[name], dtype=np.int64)[:processes] for name in ("reference", "candidate")
        )
        separate = reference_before is not None and reference_before.shape[0] == candidate.shape[0]
        comparison = {
            "planted": share,
            "per_process": timing.per_process,
            "aa_runs": [self._aa_runs.setdefault(tuple(run), len(self._aa_runs)) for run in timing.aa_ratios],
            "looks": timing.looks,
            "level": timing.level,
            "low": timing.ratio.low,
            "high": timing.ratio.high,
            "beyond": [signal.signal for signal in timing.exceeded],
            "old": "contaminated" if timing.exceeded else old,
            "new": decide_alone(Comparison(timing.per_process, timing.aa_ratios, timing.level), margin),
            "confirmation": None,
            "wall": None if timing.cost is None else timing.cost.wall,
            "rivals": {
                "interleaved": rival_rules.alarms(reference, candidate),
                "separate": rival_rules.alarms(reference_before, candidate)
                if separate and reference_before is not None
                else None,
            },
            "timing": (pair, timing),
        }
        comparison["confirmed"] = comparison["new"]
        return comparison, reference

    def _confirm(self, comparisons: Sequence[dict[str, Any]]) -> None:
        """Time what is slower again in fresh processes; if it is not slower again, it is inconclusive, as in a run."""
        slower = [comparison for comparison in comparisons if comparison["new"] == "slower"]
        if slower:
            self._log(f"{self._name}: {len(slower)} slower; timing again in fresh processes")
            self._workers.renew()
        for comparison in slower:
            pair, timing = comparison["timing"]
            confirmation, _ = self._timer.confirm(pair, timing)
            comparison["confirmation"] = confirmation.per_process
            if not confirms_slower(confirmation.per_process, self._plan.margin, timing.aa_ratios):
                comparison["confirmed"] = "inconclusive"
        for comparison in comparisons:
            del comparison["timing"]

    def _pair(self, share: float, index: int) -> Pair:
        axes: dict[str, str | int] = {"dataset": "probe", "architecture": "probe", "runtime": probe.Probe.name}
        cell = Cell(
            suite="calibrate",
            matrix=self._name,
            columns="",
            axes=axes,
            steps=(),
            profile=self._plan.profile,
            reference="reference",
            id=f"{self._plan.seed} {index}",
        )
        return Pair(cell, self._reference, self._files[share], self._inputs, self._plan.margin)


def _save(document: dict[str, Any], name: str, output: Path | None, measured: Mapping[str, Any]) -> None:
    """Write the document with what is done under the load ``name``."""
    if output is not None:
        document["unfinished"][name] = measured
        _write(document, output)


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
    parser.add_argument(
        "--loads",
        type=_loads,
        default=",".join(LOADS),
        metavar="NAMES",
        help="what disturbs the machine, one after the other (default: %(default)s)",
    )
    for option, default, summary in (
        ("--comparisons", 300, "A/A comparisons (of a network with itself) under each load"),
        ("--planted-comparisons", 50, "comparisons with each planted slowdown"),
    ):
        whole = functools.partial(_whole, option)
        parser.add_argument(option, type=whole, default=default, metavar="N", help=f"{summary} (default: {default})")
    parser.add_argument(
        "--planted", type=_shares, default="1%,2%,5%", metavar="SHARES", help="slowdowns (default: %(default)s)"
    )
    parser.add_argument(
        "--preset", type=preset, default="quick", metavar="NAME", help="time as this preset does (default: %(default)s)"
    )
    add_margin_option(parser)
    parser.add_argument(
        "--allocator",
        nargs="+",
        default=["system"],
        metavar="NAME",
        help="use the first that is installed (default: system)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE.json", help="write all results to this file, and go on from there"
    )
    return parser


def _loads(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in LOADS:
            raise UsageError(f"--loads {text!r}: {name!r} is not one of {', '.join(LOADS)}")
    return names


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
    """Run the script; returns 0, 4 for an error that the user can fix, or 130 when interrupted or terminated."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a load is taken back then too
    try:
        options = _parser().parse_args(arguments)
        plan = CalibrationPlan(
            comparisons=options.comparisons,
            planted=options.planted,
            planted_comparisons=options.planted_comparisons,
            preset=options.preset,
            margin=options.margin,
            profile=Profile(allocator=options.allocator),
        )
        print(table(calibrate(plan, options.loads, functools.partial(print, file=sys.stderr), options.output)))
    except HarnessError as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("calibrate: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
