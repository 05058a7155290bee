"""Orderings: which hold, are contradicted or not shown, and by which pairs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_study import INT8, cell, comparison, prune
from scipy import stats

from harness.stats.estimates import Mean
from harness_studies.document import Relation
from harness_studies.orderings import Ordering, judged


def found(folder: Path, claim: int, *records: Any) -> Ordering:
    return comparison(folder, records).orderings[claim]


def timed(*steps: str, seed: int = 0, ratio: float = 1.0, half: float = 0.01, **changes: Any) -> Any:
    """A cell whose latency is known with that interval; the reference's own figure is noise."""
    bounds = (ratio, ratio * (1 - half), ratio * (1 + half))
    return cell(*steps, seed=seed, ratio=bounds, figures={"latency": 100 * ratio}, **changes)


@pytest.mark.parametrize(
    ("mean", "relation", "margin", "outcome"),
    [
        (Mean(0.2, 0.05), "above", 0.0, "holds"),
        (Mean(0.2, 0.05), "below", 0.0, "contradicted"),
        (Mean(0.05, 0.05), "above", 0.0, "not shown"),
        (Mean(0.2), "above", 0.0, "not shown"),
        (Mean(-0.01, 0.001), "not below", 0.02, "holds"),
        (Mean(-0.03, 0.001), "not below", 0.02, "contradicted"),
        (Mean(-0.02, 0.001), "not below", 0.02, "not shown"),
        (Mean(0.01, 0.001), "not above", 0.02, "holds"),
        (Mean(0.01, 0.001), "same", 0.02, "holds"),
        (Mean(-0.05, 0.001), "same", 0.02, "contradicted"),
        (Mean(0.019, 0.001), "same", 0.02, "not shown"),
        # 1.645 standard errors are within the margin, 1.96 are not: two one-sided tests at 5 %
        (Mean(0.0, 0.01), "same", 0.018, "holds"),
        (Mean(0.1, 0.0), "above", 0.0, "holds"),
        (Mean(0.0, 0.0), "above", 0.0, "contradicted"),
        (Mean(0.0, 0.0), "same", 0.0, "holds"),
        (Mean(0.0, 0.0), "not below", 0.0, "holds"),
    ],
)
def test_verdicts(mean: Mean, relation: Relation, margin: float, outcome: str) -> None:
    assert judged(mean, relation, margin)[0] == outcome


@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.3))
def test_what_a_is_above_b_is_below_a(value: float, error: float, margin: float) -> None:
    mean, opposite = Mean(value, error, 5), Mean(-value, error, 5)
    assert judged(mean, "above", 0) == judged(opposite, "below", 0)
    assert judged(mean, "not below", margin) == judged(opposite, "not above", margin)
    assert judged(mean, "same", margin) == judged(opposite, "same", margin)
    if judged(mean, "above", 0)[0] == "holds":
        assert judged(mean, "not below", margin)[0] == "holds"
        assert judged(mean, "below", 0)[0] == "contradicted"


def test_against_its_own_reference_a_cell_has_been_timed_in_pairs(tmp_path: Path) -> None:
    per_process = (1.2, 1.3, 1.25, 1.22)
    entry = found(tmp_path, 0, timed(ratio=1.5), timed(INT8, ratio=1.24, per_process=per_process))
    assert entry.outcome == "holds"
    assert entry.reason == "in 1, not run in 1"
    measured = entry.contrasts[0].measured
    assert measured is not None
    oracle = stats.ttest_1samp([math.log(value) for value in per_process], 0).confidence_interval(0.95)
    assert (measured.low, measured.high) == (pytest.approx(math.exp(oracle.low)), pytest.approx(math.exp(oracle.high)))
    assert (measured.over, measured.count) == ("processes", 1)


def test_two_cells_are_compared_through_the_reference_that_they_share(tmp_path: Path) -> None:
    pruned, quantized = (0.50, 0.51, 0.49, 0.50), (0.60, 0.62, 0.61, 0.60)
    records = [
        timed(prune(), ratio=0.50, per_process=pruned),
        timed(prune(), INT8, ratio=0.6075, per_process=quantized),
    ]
    contrast = found(tmp_path, 0, *records).contrasts[1]
    logs = [[math.log(value) for value in values] for values in (quantized, pruned)]
    oracle = stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.95)
    assert contrast.measured is not None
    assert contrast.measured.low == pytest.approx(math.exp(oracle.low))
    assert contrast.measured.high == pytest.approx(math.exp(oracle.high))
    assert contrast.outcome == "holds"


def test_older_records_without_processes_have_their_intervals(tmp_path: Path) -> None:
    contrast = found(tmp_path, 0, timed(ratio=1.0), timed(INT8, ratio=1.1)).contrasts[0]
    assert contrast.measured is not None
    assert contrast.measured.low == pytest.approx(1.1 * 0.99, rel=1e-3)


def test_seeds_are_the_unit_where_there_are_several(tmp_path: Path) -> None:
    records = [timed(seed=seed) for seed in range(3)]
    records += [timed(INT8, seed=seed, ratio=ratio) for seed, ratio in enumerate((0.8, 0.9, 0.85))]
    entry = found(tmp_path, 0, *records)
    assert entry.outcome == "contradicted"
    measured = entry.contrasts[0].measured
    assert measured is not None
    assert (measured.count, measured.over) == (3, "seeds")
    assert measured.value == pytest.approx((0.8 * 0.9 * 0.85) ** (1 / 3))


def test_what_was_disturbed_is_left_out_and_alone_shows_nothing(tmp_path: Path) -> None:
    disturbed = timed(INT8, ratio=1.9, verdict="contaminated")
    alone = found(tmp_path, 0, timed(), disturbed).contrasts[0]
    assert (alone.outcome, alone.reason) == ("not shown", "the machine was disturbed in every timing")
    beside = found(tmp_path, 0, timed(), disturbed, timed(seed=1), timed(INT8, seed=1, ratio=1.1)).contrasts[0]
    assert (beside.outcome, beside.reason) == ("holds", "1 disturbed timing left out")
    assert beside.measured is not None
    assert beside.measured.value == pytest.approx(1.1)


def test_a_disturbed_timing_counts_where_its_interval_is_a_factor_of_two_away(tmp_path: Path) -> None:
    def outcome(ratio: float) -> str:
        return found(tmp_path, 0, timed(), timed(INT8, ratio=ratio, verdict="contaminated")).contrasts[0].outcome

    # The interval goes from 0.99 to 1.01 of the ratio.
    assert [outcome(ratio) for ratio in (2.05, 2.01, 0.499, 0.49)] == [
        "holds",
        "not shown",
        "not shown",
        "contradicted",
    ]


def test_a_disturbed_timing_of_the_reference_with_itself_concerns_no_other_cell(tmp_path: Path) -> None:
    contrast = found(tmp_path, 0, timed(verdict="contaminated"), timed(INT8, ratio=1.1)).contrasts[0]
    assert (contrast.outcome, contrast.reason) == ("holds", "")


def test_cells_of_other_conditions_are_not_set_against_each_other(tmp_path: Path) -> None:
    for change in ({"preset": "quick"}, {"seed": 1}, {"profile": "native"}):
        assert found(tmp_path, 0, timed(), timed(INT8, **change)).outcome == "not run"
    other = timed(INT8)
    other["machine"] = {"cpu": "another"}
    assert found(tmp_path, 0, timed(), other).outcome == "not run"


def test_a_cell_may_name_its_environment(tmp_path: Path) -> None:
    records = []
    for onednn, ratio in ((True, 5.0), (False, 0.6)):
        pair = [timed(profile=f"onednn={onednn}"), timed(INT8, profile=f"onednn={onednn}", ratio=ratio)]
        for made in pair:
            made["timing"]["profile"] = {"onednn": onednn}
        records += pair
    entry = found(tmp_path, 3, *records)
    assert entry.outcome == "holds"
    assert entry.contrasts[0].measured is not None
    assert entry.contrasts[0].measured.value == pytest.approx(0.6)
    assert found(tmp_path, 3, *records[:2]).outcome == "not run"


def test_cells_are_paired_on_what_the_study_leaves_open(tmp_path: Path) -> None:
    """L1 in one round is set against L2 in one round, never against five."""
    records = [
        cell(prune(norm, rounds), seed=seed, figures={"auroc": value + seed / 1000})
        for seed in (0, 1, 2)
        for norm, rounds, value in (("l1", 1, 0.90), ("l2", 1, 0.901), ("l1", 5, 0.95), ("l2", 5, 0.949))
    ]
    entry = found(tmp_path, 2, *records)
    assert entry.contrasts[0].measured is not None
    assert entry.contrasts[0].measured.value == pytest.approx(0)
    assert entry.outcome == "holds"


def test_of_one_seed_quality_is_by_patient(tmp_path: Path) -> None:
    pruned = cell(prune(), figures={"auroc": 0.925}, difference=(-0.005, -0.008, -0.002))
    contrast = found(tmp_path, 1, cell(), pruned).contrasts[0]
    assert contrast.measured is not None
    assert (contrast.measured.low, contrast.measured.high) == (pytest.approx(-0.008), pytest.approx(-0.002))
    assert (contrast.outcome, contrast.measured.over) == ("holds", "patients")


def test_the_published_effect_stands_beside_it(tmp_path: Path) -> None:
    entry = found(tmp_path, 1)
    assert entry.contrasts[0].published == pytest.approx(0.92 - 0.93)
    assert (entry.outcome, entry.contrasts[0].measured) == ("not run", None)


def test_medians_of_different_moments_show_nothing(tmp_path: Path) -> None:
    quantized = timed(INT8, ratio=3.0)
    quantized["reference"] = "something else"
    contrast = found(tmp_path, 0, timed(), quantized).contrasts[0]
    assert (contrast.outcome, contrast.reason) == ("not shown", "there is no interval")
