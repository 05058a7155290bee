"""Describe the noise signals that a record can hold: what each measures, its limit, and the sentence for users."""

from __future__ import annotations

import dataclasses

from harness.text import percent


@dataclasses.dataclass(frozen=True)
class SignalSpec:
    """A noise signal: the largest value that is harmless, and the sentence that reports a larger one.

    PyTorch's benchmarks call a spread of 25 % gross; the other limits are ours, several times the values of an idle
    machine. A switch to a short task of the system hardly affects a long call, so only one switch per call is too many;
    the waiting shows whether other programs really had the CPU. The run's margin replaces the limit of the A/A signal.
    A signal beyond its limit explains an inconclusive verdict and decides none: the A/A runs widen the intervals.
    """

    name: str
    limit: float
    #: A sentence for users with a place for the value; a share is shown in percent.
    sentence: str
    share: bool = True

    def describe(self, value: float) -> str:
        return self.sentence.format(percent(value) if self.share else f"{value:.2g}" if value < 100 else f"{value:.0f}")


SIGNALS = {
    spec.name: spec
    for spec in (
        SignalSpec(
            "switches", 1, "the system took the CPU away {} times per timed call, for other programs", share=False
        ),
        SignalSpec("waiting", 0.1, "the timing waited for its CPU, which other programs had, {} of the time"),
        SignalSpec("steal", 0.05, "the hypervisor gave {} of the CPU's time to other machines"),
        SignalSpec("throttled", 0, "a CPU quota or the heat stopped the timing {} times", False),
        SignalSpec("collections", 0, "Python collected garbage {} times while timing", False),
        SignalSpec("spread", 0.25, "the middle half of the times of the canary, a fixed piece of work, spread over {}"),
        SignalSpec("drift", 0.1, "the canary took {} longer or shorter at the end of a process's pairs than before"),
        SignalSpec("moved", 0.25, "the canary took {} longer or shorter than during the A/A run"),
        SignalSpec("itself", 0.01, "the A/A run of the reference shows a difference of at least {}"),
    )
}
