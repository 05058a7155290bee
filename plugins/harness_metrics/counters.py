"""Measure what a call costs beside time, where the machine can count it, and whether repeated inputs are faster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from harness import Absent, EvalContext, MeasureError, Metric, MetricSpec, Task


class Instructions(Metric):
    """Instructions of one call in user mode: of the processor, by perf, or else of an emulated one, by valgrind.

    Their number varies far less than time, but says less: instructions differ in what they cost. valgrind emulates a
    processor without AVX-512, so libraries may choose other kernels. It takes minutes, and runs only where perf cannot
    count.
    """

    name: ClassVar[str] = "instructions"
    summary: ClassVar[str] = "instructions of one inference, by perf or valgrind; optional"
    optional: ClassVar[bool] = True

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return tuple(
            MetricSpec(name, better="lower", digits=0, headline=True, per_machine=True)
            for name in ("instructions", "instructions_valgrind")
        )

    def compute(self, evidence: EvalContext) -> Mapping[str, float | Absent | None]:
        try:
            counted = evidence.count("instructions")
        except MeasureError as error:
            return {"instructions": Absent(str(error)), "instructions_valgrind": _by_valgrind(evidence)}
        return {"instructions": counted, "instructions_valgrind": Absent("perf counts instructions on this machine")}


def _by_valgrind(evidence: EvalContext) -> float | Absent:
    try:
        return evidence.count("instructions_valgrind")
    except MeasureError as error:
        return Absent(str(error))


class Energy(Metric):
    """Millijoules of one call in a loop of a second: all that the processor uses, for idling and other programs too."""

    name: ClassVar[str] = "energy"
    summary: ClassVar[str] = "energy of the processor for one inference, by RAPL; optional"
    optional: ClassVar[bool] = True

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (MetricSpec("energy", unit="mJ", better="lower", digits=3, headline=True, per_machine=True),)

    def compute(self, evidence: EvalContext) -> Mapping[str, float | Absent | None]:
        try:
            return {"energy": 1000 * evidence.count("energy")}
        except MeasureError as error:
            return {"energy": Absent(str(error))}


class RepeatedInput(Metric):
    """The time of a call on the input of the call before / the time on an input that the model never got.

    Below 0.9, MLPerf Inference (TEST04) suspects that the runtime keeps answers: then its timings are not those of a
    model at work, because this harness times each call on the input of the untimed call before it.
    """

    name: ClassVar[str] = "repeated_input"
    summary: ClassVar[str] = "time on a repeated input / on a new one, to find runtimes that keep answers; optional"
    optional: ClassVar[bool] = True

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return (MetricSpec("repeated_input", digits=3, headline=True, per_machine=True),)

    def compute(self, evidence: EvalContext) -> Mapping[str, float | Absent | None]:
        try:
            return {"repeated_input": evidence.count("repeated_input")}
        except MeasureError as error:
            return {"repeated_input": Absent(str(error))}
