"""The gate: what has become of each cell of an earlier run, figure by figure. Records in, findings out; all is pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from harness.gate.figures import judge_figure
from harness.gate.findings import Finding
from harness.gate.latency import judge_latency
from harness.policy.rules import LATENCY, OUTCOMES, Outcome, Policy
from harness.records.record import Record

#: What a command that judged ends with, where the policy lets the outcome fail it. (13 is: nothing was measured.)
EXIT_CODES: Mapping[Outcome, int] = {"regressed": 10, "inconclusive": 11, "contaminated": 12, "lost": 14}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A cell of either run: its findings, or why it has none. ``old`` or ``new`` is None where the run lacks it."""

    name: str
    old: Record | None
    new: Record | None
    policy: Policy
    findings: tuple[Finding, ...] = ()
    #: Of a lost cell, why.
    reason: str = ""

    @property
    def outcomes(self) -> set[Outcome]:
        """What there is to say against the cell; empty when it is fine, or new."""
        if self.new is None:
            return {"lost"}
        kinds = {finding.kind for finding in self.findings}
        return {outcome for outcome in OUTCOMES if outcome in kinds}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """All cells of two runs, and what that means for a build."""

    comparisons: tuple[Comparison, ...]
    #: How many cells of the earlier run were left out on purpose.
    left_out: int = 0

    def having(self, outcome: Outcome) -> list[Comparison]:
        """The cells with this outcome."""
        return [comparison for comparison in self.comparisons if outcome in comparison.outcomes]

    @property
    def failures(self) -> list[Outcome]:
        """The outcomes that fail the build by their cells' policies, the gravest first."""
        return [
            outcome
            for outcome in OUTCOMES
            if any(outcome in comparison.policy.fail_on for comparison in self.having(outcome))
        ]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.failures[0]] if self.failures else 0


def judge(
    old: Mapping[str, Record],
    new: Mapping[str, Record],
    lost: Mapping[str, str],
    policy_of: Callable[[Record], Policy],
) -> Judgement:
    """Compare two runs' records, which are by their names (`Record.name`).

    ``lost`` has the cells of the earlier run that this one should have, each with the reason why it has not. What is
    neither there nor in ``new`` was left out on purpose, and is not judged.
    """
    found = [
        compare(name, old[name], record, policy_of(record))
        if name in old
        else Comparison(name, None, record, policy_of(record))
        for name, record in new.items()
    ]
    found += [Comparison(name, old[name], None, policy_of(old[name]), reason=reason) for name, reason in lost.items()]
    return Judgement(tuple(found), left_out=len(old.keys() - new.keys() - lost.keys()))


def compare(name: str, old: Record, new: Record, policy: Policy) -> Comparison:
    """One cell of both runs. A figure that only the new run has is not judged; one that it lost is inconclusive."""
    found = (
        judge_latency(old, new, tolerance) if figure == LATENCY else judge_figure(figure, old, new, tolerance)
        for figure, tolerance in policy.tolerances.items()
    )
    return Comparison(name, old, new, policy, tuple(finding for finding in found if finding is not None))
