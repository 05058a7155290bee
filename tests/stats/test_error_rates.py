"""Simulate the procedure of a cell, and count false decisions: under heavy tails, modes, bursts and shifts."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.stats.verdict import LEVEL, Comparison, Looks, decide_alone
from harness.suite.presets import PRESETS, Preset

MARGIN = 0.01
RUNS = 2000
BOUND = math.log(1 + MARGIN)
QUICK = PRESETS["quick"]
#: How many log ratios of processes to draw.
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def normal(deviation: float) -> Draw:
    return lambda rng, count: rng.normal(0, deviation, count)


def heavy(deviation: float) -> Draw:
    """Student's t with 3 degrees of freedom."""
    return lambda rng, count: deviation * rng.standard_t(3, count) / math.sqrt(3)


def bursts(deviation: float, burst: float) -> Draw:
    """One process in ten meets a burst."""
    return lambda rng, count: rng.normal(0, deviation, count) + (rng.random(count) < 0.1) * rng.normal(0, burst, count)


def bimodal(distance: float, share: float = 0.5) -> Draw:
    """Each process falls into one of two modes; the mean of the two is 0."""

    def draw(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        return rng.normal(0, distance / 20, count) + distance * ((rng.random(count) < share) - share)

    return draw


@dataclasses.dataclass(frozen=True)
class Simulation:
    """A machine: the log ratios of processes, and the deviation of a shift that all of a comparison share."""

    draw: Draw
    shift: float = 0.0
    preset: Preset = QUICK

    def kinds(self, true_ratio: float, runs: int = RUNS, seed: int = 0) -> Counter[str]:
        """The decisions on so many cells, by kind and number of processes."""
        rng = np.random.default_rng(seed)
        return Counter(self._decide(rng, math.log(true_ratio)) for _ in range(runs))

    def _decide(self, rng: np.random.Generator, mean: float) -> str:
        """Sample one cell and its A/A runs as `LatencyTimer` does, with seconds to spare."""
        most = 50
        shifts = rng.normal(0, self.shift, self.preset.aa_runs + 1)
        centres = shifts + np.array([mean] + [0.0] * self.preset.aa_runs)
        ratios = np.exp(np.stack([self.draw(rng, most) for _ in centres]) + centres[:, None])
        looks, processes = Looks(), self.preset.processes
        while True:
            more = self.preset.more_processes(processes, 0.1 * processes)
            cell, *aa_runs = ratios[:, :processes].tolist()
            kind = decide_alone(Comparison(cell, aa_runs, looks.next(last=more is None)), MARGIN)
            if kind != "inconclusive" or more is None:
                return kind
            processes = more


MACHINES = {
    "normal": Simulation(normal(0.002)),
    "noisy": Simulation(normal(0.02)),
    "heavy tails": Simulation(heavy(0.005)),
    "bursts": Simulation(bursts(0.002, 0.1)),
    "two modes": Simulation(bimodal(0.04)),
    "two uneven modes": Simulation(bimodal(0.04, share=0.2)),
    "small shifts": Simulation(normal(0.002), shift=0.001),
    "shifts": Simulation(normal(0.002), shift=0.002),
    "large shifts": Simulation(normal(0.001), shift=0.01),
    "study, shifts": Simulation(normal(0.002), shift=0.002, preset=PRESETS["study"]),
    "study, noisy": Simulation(normal(0.02), preset=PRESETS["study"]),
}
#: The others take as long, and are slow.
QUICK_MACHINES = ("heavy tails", "shifts", "study, shifts")
NAMES = [name if name in QUICK_MACHINES else pytest.param(name, marks=pytest.mark.slow) for name in MACHINES]
#: Three binomial standard errors above the level, for RUNS.
MOST = LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / RUNS)


@pytest.mark.parametrize("name", NAMES)
def test_a_cell_on_the_margin_is_decided_falsely_at_most_at_the_level(name: str) -> None:
    """On the margin "slower" and "same" are both false, and each kind of test has the whole level."""
    found = MACHINES[name].kinds(1 + MARGIN)
    assert found["slower"] <= MOST / 2 * RUNS, found
    assert found["same"] <= MOST * RUNS, found
    assert found["faster"] <= MOST / 2 * RUNS, found


@pytest.mark.parametrize("name", NAMES)
def test_a_model_beside_itself_is_hardly_ever_slower_or_faster(name: str) -> None:
    found = MACHINES[name].kinds(1.0, seed=1)
    assert found["slower"] + found["faster"] <= MOST * RUNS, found
    if name in ("normal", "heavy tails", "small shifts", "shifts", "bursts", "study, shifts"):
        assert found["slower"] + found["faster"] <= 3, found


@pytest.mark.parametrize(("preset", "ratio"), [("quick", 1.02), ("study", 1.02), ("quick", 0.5)])
def test_on_a_quiet_machine_two_percent_are_found(preset: str, ratio: float) -> None:
    found = Simulation(normal(0.002), preset=PRESETS[preset]).kinds(ratio, runs=400)
    assert found["slower" if ratio > 1 else "faster"] >= 0.99 * 400
    same = Simulation(normal(0.002), preset=PRESETS[preset]).kinds(1.0, runs=400)
    assert same["same"] >= 0.99 * 400


def test_more_processes_decide_what_the_first_ones_do_not() -> None:
    noisy = Simulation(normal(0.01))
    fixed = dataclasses.replace(noisy, preset=dataclasses.replace(QUICK, budget=0.0))
    assert noisy.kinds(1.03, runs=300)["slower"] > fixed.kinds(1.03, runs=300)["slower"] + 60


@pytest.mark.parametrize("looks", [1, 2, 5])
def test_the_levels_of_all_looks_add_up_to_the_level(looks: int) -> None:
    planned = Looks()
    levels = [planned.next(last=number == looks) for number in range(1, looks + 1)]
    assert math.fsum(levels) == LEVEL
    assert planned.count == looks
    assert levels == sorted(levels, reverse=True)
