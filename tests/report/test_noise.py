"""What a table says of its own error."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from records import decoded, interval, line, record

from harness.report import noise
from harness.report.terminal import network_tables


def tables(records: Sequence[Any]) -> str:
    return network_tables(list(map(decoded, records)))


def notes(records: Sequence[Any]) -> list[str]:
    return noise.notes(list(map(decoded, records)))


def timed(kind: str = "same", needed: int | None = None, reason: str = "", **changes: Any) -> Any:
    """A record with a verdict, of a reference that differs from itself by 0.2 % or so."""
    made = copy.deepcopy(record(**changes))
    timing = made["timing"]
    assert timing is not None
    ratio = interval(1.0005, 0.9985, 1.0025)
    timing["itself"] = {
        "sha256": changes.get("sha256", "a"),
        "ratio": ratio,
        "per_process": changes.get("per_process", [1.001, 0.999, 1.002, 1.0]),
        "smallest_change": 0.004,
        "disturbed": changes.get("disturbed", False),
    }
    timing["per_process"] = [1.001, 0.999, 1.002, 1.0]
    timing["signals"] = [{"signal": "steal", "value": 0.3, "limit": 0.05, "beyond": kind == "contaminated"}]
    timing["verdict"] = {
        "kind": kind,
        "margin": 0.01,
        "p": 0.01,
        "processes_needed": needed,
        "reason": reason,
        "confirmation": None,
    }
    timing["cost"] = {"wall": 2.0, "calls": 1.5}
    timing["steady"] = changes.get("steady", True)
    return made


def test_each_cell_has_its_verdict_at_the_margin() -> None:
    text = tables([timed("same"), timed("slower", pruning="half"), timed("inconclusive", 14, pruning="none")])
    assert line(text, "verdict", "at", "1", "%")[4:] == ["plain", "float32", "same", "slower", "inconclusive", "(14)"]
    assert "inconclusive (n): n processes would decide it in 4 of 5 runs" in text


def test_verdicts_of_several_seeds_are_counted() -> None:
    kinds = ("slower", "slower", "inconclusive")
    text = tables([timed(kind, 9 if kind == "inconclusive" else None, seed=n) for n, kind in enumerate(kinds)])
    assert line(text, "verdict")[6:] == ["2", "slower,", "1", "inconclusive"]
    assert line(tables([timed("faster", seed=n) for n in range(3)]), "verdict")[6:] == ["faster"]


def test_the_resolution_is_worked_out_from_the_comparison_with_itself_and_from_the_cells() -> None:
    # Logs 0.001, -0.001, 0.002, 0: about 0, s = sqrt(6e-6 / 4) = 0.001224 with 4 degrees of freedom; with one A/A run
    # the error is s sqrt(1 / 4 + 1 / 4) with 3 degrees: 4.255898 * 0.000866 = 0.37 %. The 90 % interval has the factors
    # sqrt(4 / 9.488) and sqrt(4 / 0.711). About the mean, s = 0.00129 and 0.39 %.
    wider = timed("slower", pruning="half")
    assert wider["timing"] is not None
    wider["timing"]["per_process"] = [1.101, 1.099, 1.102, 1.1]  # 1/1.1 of that spread, about another mean
    (itself, resolution, cost) = notes([timed(), wider])
    assert itself == "1 A/A run (a reference against itself): 1.0005 [0.9985, 1.0025]."
    assert "effect with 4 processes (power 80 %): 0.37 % [0.24 %, 0.88 %] by the spread of the A/A runs, " in resolution
    assert "a verdict also needs the margin of 1 %" in resolution
    assert cost == "Timing a cell took 2.0 s (median), 0.5 s of it outside the timed calls."


def test_several_references_are_pooled() -> None:
    noisy = timed(seed=1, sha256="b", per_process=[1.01, 0.99, 1.02, 1.0])
    # The squares are those of logs .001 -.001 .002 0 and of .00995 -.01005 .0198 0: s = .00868 of 8 values.
    assert "(power 80 %): 2.6 % [1.9 %, 4.6 %] by the spread of the A/A runs" in notes([timed(), noisy])[1]


def test_the_note_gives_the_range_of_all_a_a_runs() -> None:
    several = timed()
    runs = [several["timing"]["itself"] | {"per_process": [1.0, value]} for value in (1.01, 0.98, 1.03)]
    for run, value in zip(runs, (1.0012, 0.9877, 1.0151), strict=True):
        run["ratio"] = interval(value, 0.9, 1.1)
    several["timing"] |= {"aa_runs": runs}
    same = timed("slower", pruning="half")
    same["timing"] |= {"aa_runs": runs[1:]}
    assert notes([several, same])[0] == "3 A/A runs (a reference against itself): 0.9877 to 1.0151."


def test_what_was_disturbed_has_its_part_in_it() -> None:
    disturbed = timed(seed=1, sha256="b", per_process=[1.1, 0.9, 1.2, 1.0], disturbed=True)
    calm, both = notes([timed()])[1], notes([timed(), disturbed])[1]
    assert "0.37 %" in calm
    assert "0.37 %" not in both
    assert any("A/A run" in line for line in notes([disturbed]))


def test_contaminated_is_explained_where_an_old_run_has_it() -> None:
    assert noise.CONTAMINATED in tables([timed("contaminated")])
    assert noise.CONTAMINATED not in tables([timed("inconclusive")])


def test_a_few_processes_have_no_resolution() -> None:
    few = timed()
    assert few["timing"] is not None
    few["timing"]["processes"] = 2
    assert "The minimum detectable effect is unknown: 2 processes are too few to estimate it." in notes([few])
    assert not any("Minimum" in line for line in notes([few]))


def test_cells_without_an_answer_say_why() -> None:
    found = notes([timed(), timed("contaminated", reason="steal: 0.3", pruning="half")])
    assert found[-1] == "conv-plain-half-float32-0: contaminated: steal: 0.3"


def test_an_unsteady_warm_up_is_told() -> None:
    unsteady = timed(steady=False)
    assert unsteady["timing"] is not None
    unsteady["timing"]["warmup"] = 300
    assert "The warm-up of 1 of 2 cells ended before the times were steady, after 300 calls or more." in notes(
        [timed(), unsteady]
    )


@pytest.mark.parametrize("changes", [{}, {"ratio": None}])
def test_records_of_earlier_versions_have_no_notes(changes: dict[str, Any]) -> None:
    assert notes([record(**changes)]) == []
    assert "verdict" not in tables([record(**changes)])


def test_the_heading_names_the_single_protocol() -> None:
    single = record(ratio=(0.9, None, None))
    assert single["timing"] is not None
    single["timing"] |= {"protocol": "single", "processes": 1, "pairs": 1000, "warmup": 100}
    text = tables([single])
    assert (
        "protocol single: 100 untimed calls, the mean of 1000 in 1 process, ratio of the means, no interval and no"
        in text
    )
    assert "1 thread, jemalloc" in text
    single["timing"]["environment"][0]["threads"] = 2
    assert "2 threads, jemalloc" in tables([single])
    assert line(text, "latency", "/")[-1] == "0.900"


def test_the_heading_names_the_regime_and_the_legend_explains_it() -> None:
    text = tables([timed()])
    assert "pairs, back-to-back, 1 thread" in text
    assert "back-to-back: each timed call follows another call of the same network at once." in text
    paced = timed()
    assert paced["timing"] is not None
    paced["timing"]["profile"]["pace"] = "20ms"
    assert "pairs, 20ms pause before each timed call, 1 thread" in tables([paced])


def test_a_reference_and_cells_with_more_processes_are_in_one_table() -> None:
    """A reference has no verdict, and processes are added until a cell is decided."""
    reference, other = timed(), timed(pruning="half")
    for made, processes in ((reference, 4), (other, 12)):
        made["timing"] |= {"processes": processes, "margin": 0.01}
    del reference["timing"]["verdict"]
    text = tables([reference, other])
    assert text.count("conv on toy") == 1
    assert "4 to 12 processes x 50 pairs" in text


def test_what_was_timed_in_two_regimes_is_not_in_one_table() -> None:
    paced = record(ratio=(0.9, None, None), pruning="half")
    assert paced["timing"] is not None
    paced["timing"]["profile"]["pace"] = "20ms"
    assert tables([timed(), paced]).count("conv on toy") == 2


def test_what_was_timed_by_different_protocols_is_not_in_one_table() -> None:
    single = record(ratio=(0.9, None, None), pruning="half")
    assert single["timing"] is not None
    single["timing"] |= {"protocol": "single", "processes": 1, "pairs": 1000, "warmup": 100}
    text = tables([timed(), single])
    assert text.count("conv on toy") == 2
    assert "4 processes x 50 pairs" in text
    assert "Student's t" in text
    assert "Student's t" not in tables([single])
