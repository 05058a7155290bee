"""Verdicts at a margin, against scipy's t test, examples worked by hand, laws, and simulated matrices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from harness.errors import MeasureError, UsageError
from harness.stats.ratios import noncentrality
from harness.stats.verdict import Comparison, Verdict, confirms_slower, decide_alone, decide_verdicts, two_modes

Cells = list[list[float]]

cell = st.lists(st.floats(0.8, 1.25), min_size=1, max_size=8)
# Ratios near the margin, close together: without them nearly every cell drawn would be inconclusive.
tight = st.builds(
    lambda centre, steps: [centre * (1 + step / 10_000) for step in steps],
    st.floats(0.95, 1.05),
    st.lists(st.integers(-20, 20), min_size=1, max_size=8),
)
matrices = st.lists(cell | tight, max_size=6)
margins = st.sampled_from([0.0, 0.003, 0.01, 0.025, 0.1])


def kinds(verdicts: list[Verdict]) -> list[str]:
    return [verdict.kind for verdict in verdicts]


def about(centre: float, deviation: float, processes: int = 6) -> list[float]:
    """Ratios whose logs have exactly this mean and standard deviation."""
    logs = np.linspace(-1, 1, processes)
    return list(np.exp(centre + deviation * logs / logs.std(ddof=1)))


def scipy_p_values(ratios: list[float], margin: float) -> tuple[float, float]:
    logs, bound = np.log(ratios), math.log(1 + margin)
    slower = stats.ttest_1samp(logs, bound, alternative="greater").pvalue
    faster = stats.ttest_1samp(logs, -bound, alternative="less").pvalue
    below = stats.ttest_1samp(logs, bound, alternative="less").pvalue
    above = stats.ttest_1samp(logs, -bound, alternative="greater").pvalue
    return min(1.0, 2 * float(min(slower, faster))), float(max(below, above))


@pytest.mark.parametrize("centre", [-0.3, -0.02, -0.011, -0.004, 0.0, 0.003, 0.009, 0.012, 0.02, 0.4])
@pytest.mark.parametrize("deviation", [0.0005, 0.002, 0.03])
def test_one_cell_has_the_p_values_of_scipy_s_t_tests(centre: float, deviation: float) -> None:
    ratios = list(np.exp(np.random.default_rng(0).normal(centre, deviation, 5)))
    difference, equivalence = scipy_p_values(ratios, 0.01)
    (verdict,) = decide_verdicts([ratios], 0.01)
    if difference <= 0.05:
        assert verdict.kind == ("slower" if np.log(ratios).mean() > 0 else "faster")
        assert verdict.p == pytest.approx(difference, rel=1e-6)
    elif equivalence <= 0.05:
        assert verdict.kind == "same"
        assert verdict.p == pytest.approx(equivalence, rel=1e-6)
    else:
        assert verdict.kind == "inconclusive"
        assert verdict.p == pytest.approx(difference, rel=1e-6)


def test_each_kind_says_why() -> None:
    slower, faster, same, inconclusive = decide_verdicts(
        [about(0.05, 0.002), about(-0.05, 0.002), about(0.001, 0.002), about(0.02, 0.01)], 0.01
    )
    assert (slower.kind, slower.reason) == ("slower", "slower by more than 1 %")
    assert (faster.kind, faster.reason) == ("faster", "faster by more than 1 %")
    assert (same.kind, same.reason) == ("same", "within 1 % either way")
    assert inconclusive.kind == "inconclusive"
    assert inconclusive.reason == f"{inconclusive.processes_needed} processes would decide it in 4 of 5 runs"
    assert [verdict.processes_needed for verdict in (slower, faster, same)] == [None] * 3


def with_t_of(p: float) -> list[float]:
    """Six ratios whose difference test at margin 0 has exactly this p-value."""
    return about(float(stats.t.isf(p / 2, 5)) * 0.01 / math.sqrt(6), 0.01)


def test_differences_are_adjusted_as_in_a_hand_worked_benjamini_hochberg() -> None:
    # Sorted .001 .012 .02 .04 .042 .9, times 6 / rank .006 .036 .04 .06 .0504 .9; .04 takes its successor's.
    verdicts = decide_verdicts([with_t_of(p) for p in (0.04, 0.001, 0.9, 0.02, 0.042, 0.012)], 0.0)
    assert [verdict.p for verdict in verdicts] == pytest.approx([0.0504, 0.006, 0.9, 0.04, 0.0504, 0.036], rel=1e-6)
    assert [verdict.kind == "slower" for verdict in verdicts] == [False, True, False, True, False, True]


def test_a_cell_held_back_by_its_fellows_says_so() -> None:
    lone, *_ = decide_verdicts([with_t_of(0.03)], 0.0)
    assert lone.kind == "slower"
    verdict, *others = decide_verdicts([with_t_of(p) for p in (0.03, 0.5, 0.6, 0.7)], 0.0)
    assert verdict.kind == "inconclusive"
    assert verdict.p == pytest.approx(0.12, rel=1e-6)
    assert verdict.reason.startswith("p = 0.03 for this cell alone is too weak among 4 cells; ")
    assert all("alone" not in other.reason for other in others)
    # At the level q / 4 no fellow can hold it back, and that takes more processes than at q.
    assert verdict.processes_needed is not None
    mean = float(np.log(with_t_of(0.03)).mean())

    def distance(processes: int) -> float:
        return noncentrality(0.05 / 2 / 4, 0.8, processes - 1) * 0.01 / math.sqrt(processes)

    assert distance(verdict.processes_needed) < mean <= distance(verdict.processes_needed - 1)


def test_equivalence_is_a_family_of_its_own() -> None:
    # One p of equivalence near .03 among four clear equivalences is adjusted to itself, by the rank 5 of 5.
    near = about(math.log(1.01) - float(stats.t.isf(0.03, 5)) * 0.002 / math.sqrt(6), 0.002)
    verdicts = decide_verdicts([near, *[about(0.0, 0.001)] * 4], 0.01)
    assert kinds(verdicts) == ["same"] * 5
    assert verdicts[0].p == pytest.approx(0.03, rel=1e-6)
    # Among four clear differences, whose p of equivalence is about 1, it is not enough.
    held, *others = decide_verdicts([near, *[about(0.1, 0.001)] * 4], 0.01)
    assert (held.kind, kinds(others)) == ("inconclusive", ["slower"] * 4)
    assert held.reason.startswith("p = 0.03 for this cell alone is too weak among 5 cells")
    assert held.p == 1  # of the test of a difference


@pytest.mark.parametrize(
    ("mean", "deviation", "processes", "needed"),
    [
        # Outside: d(P - 1) * .03 / sqrt(P) < .02, where noncentral t by d exceeds t(.975) in 4 of 5 cases: P = 19 has
        # 2.962676 * .006882 = .02039, 20 has 2.953588 * .006708 = .01981.
        (math.log(1.01) + 0.02, 0.03, 6, 20),
        (-math.log(1.01) - 0.02, 0.03, 6, 20),
        # Inside, beyond t(.95): d * .01 / sqrt(P) < .005: P = 26 has 2.556643 * .001961 = .00501, 27 has 2.553834 *
        # .001925 = .00491.
        (math.log(1.01) - 0.005, 0.01, 6, 27),
        (0.005 - math.log(1.01), 0.01, 6, 27),
        # At P = 3, 5.653489 * .0004 / sqrt(3) = .00131; at 4, 4.255898 * .0002 = .00085.
        (math.log(1.01) + 0.001, 0.0004, 2, 4),
        # 2.858009 * .01 / sqrt(50) = .0040418.
        (math.log(1.01) + 0.004043, 0.01, 6, 50),
        (math.log(1.01) + 0.004041, 0.01, 6, None),
        (math.log(1.01), 0.01, 6, None),
    ],
)
def test_processes_needed_by_hand(mean: float, deviation: float, processes: int, needed: int | None) -> None:
    (verdict,) = decide_verdicts([about(mean, deviation, processes)], 0.01)
    assert (verdict.kind, verdict.processes_needed) == ("inconclusive", needed)
    if needed is None:
        assert "more than 50 processes needed" in verdict.reason
        assert "cannot be told from the margin" in verdict.reason
    else:
        assert verdict.reason == f"{needed} processes would decide it in 4 of 5 runs"


@pytest.mark.parametrize("mean", [math.log(1.01) + 0.02, -math.log(1.01) - 0.015, 0.0])
def test_the_processes_needed_settle_it_in_four_of_five_runs(mean: float) -> None:
    (verdict,) = decide_verdicts([about(mean, 0.02)], 0.01)
    assert verdict.processes_needed is not None
    rng = np.random.default_rng(5)
    runs = np.exp(rng.normal(mean, 0.02, (1000, verdict.processes_needed)))
    settled = [decide_verdicts([list(run)], 0.01)[0].kind != "inconclusive" for run in runs]
    # Of equivalence both bounds must be met, which at their middle takes a little more.
    assert np.mean(settled) == pytest.approx(0.8, abs=0.05) if mean else 0.55 < np.mean(settled) < 0.85


def test_fifty_processes_are_not_sent_for_more() -> None:
    (verdict,) = decide_verdicts([about(math.log(1.01) + 0.0001, 0.01, 50)], 0.01)
    assert (verdict.kind, verdict.processes_needed) == ("inconclusive", None)


@pytest.mark.parametrize(
    ("ratio", "kind", "p"),
    [
        (1.02, "slower", 0.0),
        (0.98, "faster", 0.0),
        (1.005, "same", 0.0),
        (1.0, "same", 0.0),
        (1.01, "inconclusive", 1.0),
        (1 / 1.01, "inconclusive", 1.0),
    ],
)
def test_without_any_spread_the_side_of_the_margin_decides(ratio: float, kind: str, p: float) -> None:
    for processes in (2, 3, 7):
        (verdict,) = decide_verdicts([[ratio] * processes], 0.01)
        assert (verdict.kind, verdict.p, verdict.processes_needed) == (kind, p, None)


def test_at_no_margin_nothing_is_the_same() -> None:
    assert kinds(decide_verdicts([[1.0] * 6, about(0.0, 0.001), about(0.01, 0.001)], 0.0)) == ["inconclusive"] * 2 + [
        "slower"
    ]


def test_cells_with_too_few_processes_are_told_so_and_do_not_count() -> None:
    fewer = decide_verdicts([[1.5], with_t_of(0.03), []], 0.0)
    assert kinds(fewer) == ["inconclusive", "slower", "inconclusive"]
    assert fewer[1].p == pytest.approx(0.03, rel=1e-6)
    assert fewer[0].reason == "a verdict needs at least two processes, and there is 1"
    assert fewer[2].reason == "a verdict needs at least two processes, and there is none"
    assert (fewer[0].p, fewer[0].processes_needed) == (1.0, None)
    assert decide_verdicts([], 0.01) == []


@pytest.mark.parametrize("margin", [-0.01, math.nan, math.inf])
def test_a_wrong_margin_is_an_error(margin: float) -> None:
    with pytest.raises(UsageError, match=r"margin=.*: it must be a share"):
        decide_verdicts([[1.0, 1.0]], margin)
    with pytest.raises(UsageError, match=r"margin=.*: it must be a share"):
        confirms_slower([1.0, 1.0], margin)


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.nan, math.inf])
def test_a_wrong_ratio_is_an_error(ratio: float) -> None:
    with pytest.raises(MeasureError, match="must be positive and finite"):
        decide_verdicts([[1.0, 1.0], [ratio]], 0.01)
    with pytest.raises(MeasureError, match="must be positive and finite"):
        confirms_slower([ratio, 1.0], 0.01)


@pytest.mark.parametrize("level", [0.0, 0.5, 5.0])
def test_a_wrong_level_is_an_error(level: float) -> None:
    with pytest.raises(UsageError, match=r"must lie between 0 and 0\.5"):
        decide_verdicts([[1.0, 1.0]], 0.01, level)
    with pytest.raises(UsageError, match=r"must lie between 0 and 0\.5"):
        confirms_slower([1.0, 1.0], 0.01, level=level)
    with pytest.raises(UsageError, match=r"must lie above 0, and be at most 0\.05"):
        decide_verdicts([Comparison([1.0, 1.0], level=level)], 0.01)


@given(matrices, margins)
def test_swapping_the_models_swaps_faster_and_slower(cells: Cells, margin: float) -> None:
    there = decide_verdicts(cells, margin)
    back = decide_verdicts([[1 / ratio for ratio in ratios] for ratios in cells], margin)
    swapped = {"faster": "slower", "slower": "faster"}
    for one, other, ratios in zip(there, back, cells, strict=True):
        # Of ratios that differ only by rounding, p is anything.
        if len(ratios) > 1 and 0 < np.ptp(np.log(ratios)) < 1e-9:
            continue
        assert one.kind == swapped.get(other.kind, other.kind)
        assert one.p == pytest.approx(other.p, rel=1e-3, abs=1e-9)


@given(matrices, margins, st.floats(0.25, 4))
def test_stretching_the_scale_of_logs_and_the_margin_alike_changes_nothing(
    cells: Cells, margin: float, power: float
) -> None:
    assume(all(len(ratios) < 2 or np.ptp(ratios) == 0 or np.ptp(ratios) > 1e-6 for ratios in cells))
    # On the margin itself, with no spread, the last bit of the power decides.
    assume(all(np.abs(np.abs(np.log(ratios)) - math.log(1 + margin)).min() > 1e-9 for ratios in cells))
    plain = decide_verdicts(cells, margin)
    stretched = decide_verdicts([[ratio**power for ratio in ratios] for ratios in cells], (1 + margin) ** power - 1)
    assert kinds(plain) == kinds(stretched)
    assert [one.p for one in plain] == pytest.approx([other.p for other in stretched], rel=1e-3, abs=1e-9)


@given(st.data(), matrices, margins)
def test_the_order_of_cells_and_of_processes_does_not_matter(data: st.DataObject, cells: Cells, margin: float) -> None:
    order = data.draw(st.permutations(range(len(cells))))
    verdicts = decide_verdicts(cells, margin)
    shuffled = decide_verdicts([cells[index][::-1] for index in order], margin)
    for index, verdict in zip(order, shuffled, strict=True):
        assert verdict.kind == verdicts[index].kind
        assert verdict.p == pytest.approx(verdicts[index].p, rel=1e-6, abs=1e-12)


@given(matrices, margins, margins)
def test_a_larger_margin_makes_sameness_easier_and_differences_harder(cells: Cells, one: float, other: float) -> None:
    for small, large in zip(
        decide_verdicts(cells, min(one, other)), decide_verdicts(cells, max(one, other)), strict=True
    ):
        if small.kind == "same":
            assert large.kind == "same"
        if large.kind in ("slower", "faster"):
            assert small.kind == large.kind


@given(matrices, margins)
def test_a_verdict_is_consistent_with_itself(cells: Cells, margin: float) -> None:
    for verdict, ratios in zip(decide_verdicts(cells, margin), cells, strict=True):
        assert 0 <= verdict.p <= 1
        assert verdict.reason
        assert (verdict.kind == "inconclusive") or verdict.p <= 0.05
        if verdict.processes_needed is not None:
            assert verdict.kind == "inconclusive"
            assert len(ratios) < verdict.processes_needed <= 50


def simulated(rng: np.random.Generator, means: float | NDArray[np.float64], cells: int) -> Cells:
    return [list(row) for row in np.exp(rng.normal(np.broadcast_to(means, cells)[:, None], 0.002, (cells, 6)))]


def test_models_against_themselves_are_never_slower_or_faster() -> None:
    found = Counter(kinds(decide_verdicts(simulated(np.random.default_rng(1), 0.0, 2000), 0.01)))
    assert found["slower"] + found["faster"] == 0
    assert found["same"] > 1900


def false_share(found: list[bool], nulls: int) -> float:
    return sum(found[:nulls]) / max(1, sum(found))


def test_few_of_the_differences_found_are_false_even_where_the_truth_is_the_margin() -> None:
    rng = np.random.default_rng(2)
    bound = math.log(1.01)
    means = np.array([bound] * 48 + [-bound] * 47 + [bound + 0.02] * 5)
    together, alone = [], []
    for _ in range(30):
        matrix = simulated(rng, means, 100)
        together.append(
            false_share([verdict.kind in ("slower", "faster") for verdict in decide_verdicts(matrix, 0.01)], 95)
        )
        alone.append(
            false_share([decide_alone(Comparison(ratios), 0.01) in ("slower", "faster") for ratios in matrix], 95)
        )
    assert 0 < np.mean(together) <= 0.05
    assert np.mean(alone) > 0.2  # what the adjustment is for


def test_of_the_equivalences_found_the_share_given_is_false_where_the_truth_is_the_margin() -> None:
    rng = np.random.default_rng(3)
    means = np.array([math.log(1.01)] * 80 + [0.0] * 20)
    shares = [
        false_share([verdict.kind == "same" for verdict in decide_verdicts(simulated(rng, means, 100), 0.01)], 80)
        for _ in range(100)
    ]
    assert np.mean(shares) == pytest.approx(0.05 * 80 / 100, abs=0.01)  # exact for independent tests on the margin


def test_a_slowdown_is_confirmed_as_scipy_s_one_sided_test_says() -> None:
    rng = np.random.default_rng(4)
    outcomes = set()
    for centre in (0.0, 0.01, 0.0115, 0.0125, 0.02):
        ratios = list(np.exp(rng.normal(centre, 0.002, 6)))
        p = stats.ttest_1samp(np.log(ratios), math.log(1.01), alternative="greater").pvalue
        for level in (0.001, 0.05, 0.2):
            assert confirms_slower(ratios, 0.01, level=level) == (p <= level)
            outcomes.add(bool(p <= level))
    assert outcomes == {True, False}
    assert not confirms_slower(about(-0.05, 0.001), 0.01)
    assert confirms_slower([1.02, 1.02], 0.01)
    assert not confirms_slower([1.01, 1.01], 0.01)


def test_fewer_than_two_processes_confirm_nothing() -> None:
    with pytest.raises(MeasureError, match="at least two fresh processes, not 1"):
        confirms_slower([1.5], 0.01)


# --------------------------------------------------------------------------------------- A/A runs, looks and two modes


def test_a_a_runs_enlarge_the_error_of_the_tests() -> None:
    # Variances .002² / 6 of the cell and .003² of the A/A means: p by Student's t with Satterthwaite's degrees.
    ratios, runs = about(math.log(1.03), 0.002), [[math.exp(0.003)] * 6, [math.exp(-0.003)] * 6]
    own, noise = 0.002**2 / 6, 0.003**2
    freedom = (own + noise) ** 2 / (own**2 / 5 + noise**2 / 2)
    expected = 2 * stats.t.sf((math.log(1.03) - math.log(1.01)) / math.sqrt(own + noise), freedom)
    (verdict,) = decide_verdicts([Comparison(ratios, runs)], 0.01)
    assert verdict.p == pytest.approx(expected, rel=1e-6)
    assert verdict.kind == "slower"
    shifted = Comparison(ratios, [[1.01] * 6, [0.99] * 6])
    assert kinds(decide_verdicts([shifted, ratios], 0.01)) == ["inconclusive", "slower"]


def test_what_is_far_beyond_the_margin_stands_beside_shifted_a_a_runs() -> None:
    noisy = [[1.01] * 4, [0.985] * 4, [1.02] * 4]
    assert kinds(decide_verdicts([Comparison(about(math.log(0.63), 0.004), noisy)], 0.01)) == ["faster"]


def test_the_p_value_counts_the_level_of_the_look() -> None:
    ratios = with_t_of(0.012)
    whole, half = (decide_verdicts([Comparison(ratios, level=level)], 0.0)[0] for level in (0.05, 0.0125))
    assert whole.p == pytest.approx(0.012, rel=1e-6)
    assert half.p == pytest.approx(0.048, rel=1e-6)
    assert kinds([whole, half]) == ["slower", "slower"]
    assert decide_verdicts([Comparison(ratios, level=0.01)], 0.0)[0].kind == "inconclusive"


def test_the_advice_on_processes_counts_the_a_a_runs() -> None:
    ratios = about(math.log(1.01) + 0.01, 0.012)
    (alone,) = decide_verdicts([ratios], 0.01)
    (beside,) = decide_verdicts([Comparison(ratios, [[1.004] * 6, [0.996] * 6, [1.003] * 6])], 0.01)
    assert alone.processes_needed is not None
    assert beside.processes_needed is not None
    assert beside.processes_needed > alone.processes_needed


def test_fresh_processes_confirm_beside_the_a_a_runs() -> None:
    ratios = about(math.log(1.03), 0.002)
    assert confirms_slower(ratios, 0.01)
    assert confirms_slower(ratios, 0.01, [[1.002] * 6, [0.999] * 6, [1.001] * 6])
    assert not confirms_slower(ratios, 0.01, [[1.02] * 6, [0.99] * 6, [1.01] * 6])


@given(cell | tight, st.lists(st.lists(st.floats(0.9, 1.1), min_size=1, max_size=6), max_size=3), margins)
def test_a_cell_alone_is_decided_as_in_a_matrix_of_its_own(
    ratios: list[float], runs: list[list[float]], margin: float
) -> None:
    comparison = Comparison(ratios, runs, level=0.025)
    (verdict,) = decide_verdicts([comparison], margin)
    assert decide_alone(comparison, margin) == verdict.kind


def test_a_bimodal_cell_is_recognised() -> None:
    # The largest gap of the logs is .889 of the range: p = 3 (1 - .889)² = .037.
    modes = two_modes([2.29, 2.62, 0.78, 2.34], 0.01)
    assert modes is not None
    assert modes.processes == (1, 3)
    assert modes.ratios == pytest.approx((0.78, (2.29 * 2.62 * 2.34) ** (1 / 3)))
    assert str(modes) == "the processes have two modes: 1 near 0.78 and 3 near 2.41"


@pytest.mark.parametrize(
    "ratios",
    [
        [1.0, 1.001, 1.002, 1.003, 1.004],
        [0.9, 1.0, 1.0, 1.0, 1.0, 1.0],  # one of six processes is an outlier, not a mode
        [1.0, 1.0, 1.0],
        [1.2] * 6,
        [1.0, 1.0005, 1.006, 1.0065],  # a gap within the margin
        [],
    ],
)
def test_a_cell_with_one_mode_is_left_alone(ratios: list[float]) -> None:
    assert two_modes(ratios, 0.01) is None


def false_modes(draw: Callable[[tuple[int, int]], NDArray[np.float64]], processes: int, runs: int = 3000) -> float:
    return float(np.mean([two_modes(list(row), 0.0) is not None for row in np.exp(draw((runs, processes)))]))


@pytest.mark.parametrize("processes", [4, 6, 9, 12])
def test_unimodal_cells_have_two_modes_at_most_at_the_stated_rate(processes: int) -> None:
    rng = np.random.default_rng(11)
    # For uniform ratios the rate is exact; 0.012 is three binomial standard errors.
    assert false_modes(rng.random, processes) == pytest.approx(0.05, abs=0.012)
    assert false_modes(rng.standard_normal, processes) <= 0.05
    assert false_modes(lambda shape: rng.laplace(size=shape), processes) <= 0.06
    assert false_modes(lambda shape: rng.standard_t(3, shape), processes) <= 0.06
    assert false_modes(lambda shape: rng.exponential(size=shape), processes) <= 0.1


def test_two_modes_are_found_by_enough_processes() -> None:
    rng = np.random.default_rng(12)

    def draw(shape: tuple[int, int]) -> NDArray[np.float64]:
        return rng.normal(0, 0.02, shape) + (rng.random(shape) < 0.4) * 0.4

    assert false_modes(draw, 12) > 0.9
