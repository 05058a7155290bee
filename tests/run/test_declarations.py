"""What metrics declare about their figures is used by name nowhere: from the record, or from the installed metric."""

from __future__ import annotations

from typing import Any

import pytest
from records import decoded, record

from harness import Absent, Metric, MetricSpec, Task, UsageError
from harness.api.metrics import headlines
from harness.errors import CellError
from harness.plugin.manager import Origin, Plugins
from harness.records.record import MetricValue
from harness.run.declarations import declaration, default_rules, figures_by_role, specs_of

TASK = Task((1,), ("a", "b"))


class Energy(Metric):
    """Declares whatever the test gives it."""

    name = "energy"

    def __init__(self, *specs: Any) -> None:
        self.given = specs

    def specs(self, task: Task) -> tuple[MetricSpec, ...]:
        return self.given

    def compute(self, evidence: Any) -> dict[str, float]:
        return {}


def installed_with(metric: Metric) -> Plugins:
    plugins = Plugins()
    plugins.metrics.add(metric.name, metric, Origin("toy", "toy", "1"))
    return plugins


def figure(metric: str, **declared: Any) -> Any:
    return MetricValue(metric=metric, value=1.0, unit="J", better="lower", digits=2, headline=False, **declared)


def test_headlines_are_those_declared_or_else_the_first() -> None:
    first, second = MetricSpec("first"), MetricSpec("second")
    assert headlines([first, second]) == {"first"}
    assert headlines([first, MetricSpec("second", headline=True)]) == {"second"}
    assert headlines([]) == set()


def test_a_gate_rule_needs_a_better_direction() -> None:
    with pytest.raises(UsageError, match="figure 'energy' has the gate rule '1%', but no direction that is better"):
        MetricSpec("energy", gate="1%")


def test_an_unknown_role_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="figure 'joules' has the unknown role 'parameter'; did you mean 'parameters'"):
        MetricSpec("joules", role="parameter")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "declared",
    [
        {"unit": None},
        {"digits": "4"},
        {"digits": -1},
        {"digits": 10**6},
        {"better": "Lower"},
        {"chance": float("nan")},
        {"headline": "no"},
        {"exact": 3},
        {"better": "lower", "gate": 5},
    ],
)
def test_a_declaration_that_no_record_could_hold_is_refused(declared: dict[str, Any]) -> None:
    """Else a run of hours would end in a file that cannot be read."""
    with pytest.raises(UsageError, match=f"figure 'energy' has {list(declared)[-1]}=.*, which is no valid"):
        MetricSpec("energy", **declared)


@pytest.mark.parametrize("name", ["", " ", 7, "two\nlines"])
def test_the_name_of_a_figure_is_a_line(name: Any) -> None:
    with pytest.raises(UsageError, match="a name is a line of printable text"):
        MetricSpec(name)


def test_the_reason_of_an_absent_figure_is_a_text() -> None:
    with pytest.raises(UsageError, match="the reason must be a text"):
        Absent(reason=5)  # type: ignore[arg-type]


def test_a_gate_rule_that_cannot_be_read_is_attributed_to_the_metric() -> None:
    plugins = installed_with(Energy(MetricSpec("joules", better="lower", gate="few")))
    with pytest.raises(CellError, match=r"specs\(\) of metric 'energy': gate: joules = 'few' is no"):
        specs_of("energy", TASK, plugins)


def test_a_record_says_what_its_figures_declare() -> None:
    told = declaration("joules", figure("energy", exact=True, gate="5%"))
    assert told == MetricSpec("joules", unit="J", better="lower", digits=2, exact=True, gate="5%")
    # Even if the installed metric declares something else.
    assert declaration("parameters", figure("size", gate="3%")).exact is False


def test_a_record_of_version_0_1_has_the_installed_metric_s_declarations() -> None:
    assert declaration("parameters", figure("size")).exact
    assert declaration("needed_memory", figure("memory")).per_machine
    assert declaration("int8_macs", figure("operations")).role == "int8 macs"
    # A figure of the same name that another metric gives is another figure.
    assert not declaration("parameters", figure("another")).exact


def test_a_figure_has_the_role_that_its_record_says_or_that_its_metric_declares() -> None:
    new, old = record(figures={"joules": 3.0}), record(figures={"file_size": 9.0})
    new["figures"]["joules"]["role"] = "nonzero"
    for name in ("parameters", "file_size"):
        old["figures"][name]["metric"] = "size"
        del old["figures"][name]["role"]
    assert figures_by_role([decoded(new)]) == {"parameters": "parameters", "nonzero": "joules"}
    assert figures_by_role([decoded(old)]) == {"parameters": "parameters", "file": "file_size"}


def test_default_rules_are_the_installed_metrics_and_then_the_records() -> None:
    quality = {"auroc": "0.005", "accuracy": "0.005", "balanced_accuracy": "0.005", "r2": "0.01", "mae": "1%"}
    assert default_rules([]) == quality | {"file_size": "1%", "parameters": "0%", "needed_memory": "0.25"}
    old, new = record(figures={"joules": 3.0}), record(figures={"joules": 3.0})
    old["figures"]["joules"]["gate"], new["figures"]["joules"]["gate"] = "1%", "2%"
    old["figures"]["auroc"]["gate"] = "0.01"
    assert default_rules([decoded(old), decoded(new)]) == {**default_rules([]), "joules": "2%", "auroc": "0.01"}
