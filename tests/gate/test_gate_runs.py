"""The gate in whole runs, as for a pull request: its output and its exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import toy
from fakes import TOYS, Suite, Workers, benchmarks
from records import decoded, record

from harness import Metric, MetricSpec, Step, hookimpl
from harness.build.artefact import header
from harness.cli.main import main
from harness.errors import CellError, UsageError
from harness.measure import pool, profile, versions
from harness.measure.machine import Disturbance
from harness.measure.pool import PairedSamples
from harness.plugin import program
from harness.policy.baseline import Baseline
from harness.records.runs import Commit
from harness.records.samples import read_samples
from harness.run import earlier
from harness.stats.quality import macro_auroc
from harness.stats.ratios import paired_ratio
from harness_metrics.decisions import DECISIONS

if TYPE_CHECKING:
    import torch

    from harness import StepContext

#: A compression whose parameters a pull request changes.
SUITE = """
toys = Matrix(
    dataset="toy", architecture="conv", runtime="eager", {extra}
    pruning={{"full": [train(epochs=1)], "small": [train(epochs=1), step("compress"{parameters})]{more}}},
)
"""


def source(parameters: str = "", more: str = "", extra: str = "") -> str:
    return SUITE.format(parameters=f", {parameters}" if parameters else "", more=more, extra=extra)


@dataclasses.dataclass(frozen=True)
class Compress(Step):
    """Make a network slower with ``layers`` idle layers, and worse with ``noise`` in its last layer."""

    name: ClassVar[str] = "compress"
    layers: int = 0
    noise: float = 0.0

    def apply(self, model: torch.nn.Module, context: StepContext) -> torch.nn.Module:
        import torch

        with torch.no_grad():
            last = model[-1].weight  # type: ignore[index]
            last.add_(self.noise * torch.randn(last.shape, generator=torch.Generator().manual_seed(0)))
        return torch.nn.Sequential(*model, *(torch.nn.Identity() for _ in range(self.layers)))  # type: ignore[arg-type]


def header_size(file: Path) -> int:
    """Return the number of bytes of a safetensors file before its tensors."""
    return 8 + int.from_bytes(file.read_bytes()[:8], "little")


class Auroc(Metric):
    """AUROC and the size of the deployed file but for its header, which holds the names of layers."""

    name = "auroc"

    def specs(self, task: Any) -> tuple[MetricSpec, ...]:
        return (
            MetricSpec("auroc", better="higher", gate="0.005"),
            MetricSpec("file_size", unit="kB", better="lower", digits=3, exact=True, gate="1%"),
        )

    def compute(self, evidence: Any) -> dict[str, float]:
        return {
            "auroc": macro_auroc(evidence.scores, evidence.targets),
            "file_size": (evidence.file.stat().st_size - header_size(evidence.file)) / 1000,
        }

    def weighted(self, task: Any) -> Any:
        return {"auroc": macro_auroc}


class Machine(Workers):
    """Fake workers that take 10 % longer for each idle layer, with 0.1 % noise."""

    disturbed: ClassVar[bool] = False

    def time_pair(self, reference: Path, candidate: Path, processes: int, amount: Any, **rest: Any) -> PairedSamples:
        samples = super().time_pair(reference, candidate, processes, amount, **rest)
        ratio = self.takes(candidate) / self.takes(reference)
        random = np.random.default_rng(round(1000 * ratio))
        factors = ratio * np.exp(0.001 * random.standard_normal((processes, 1)))
        if self.disturbed and self.takes(candidate) != self.takes(reference):
            disturbance = Disturbance(10**6, 1.0, 0)
            samples = dataclasses.replace(samples, disturbances=(disturbance,) * processes)
        return dataclasses.replace(samples, candidate=np.rint(samples.reference * factors).astype(int))

    def takes(self, file: Path) -> float:
        return 1 + 0.1 * json.dumps(header(file)).count("Identity")


@pytest.fixture(scope="module")
def base_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders that base runs left, each with base.json and a store, by the source of their suite."""
    return {}


@pytest.fixture
def run_base(
    machine: None, suite: Suite, base_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., None]:
    """Return a function that makes base.json and its store: each source runs once a module, or ``anew``."""

    def run(text: str, *, anew: bool = False) -> None:
        if text in base_runs and not anew:
            shutil.copytree(base_runs[text], ".", dirs_exist_ok=True)
            return
        result = suite(text, "--benchmark-json=base.json")
        assert result.ret == 0
        if not anew:
            base_runs[text] = tmp_path_factory.mktemp("base")
            shutil.copytree(".harness", base_runs[text] / ".harness")
            shutil.copy("base.json", base_runs[text])

    return run


@pytest.fixture
def pull(run_base: Callable[..., None], suite: Suite) -> Any:
    """Return a function that runs the suite with a change against an earlier run, base.json."""

    def run(changed: str, *options: str, base: str | None = None, anew: bool = False) -> tuple[int, str]:
        run_base(base or source(), anew=anew)
        result = suite(changed, "--benchmark-json=new.json", "--harness-against=base.json", *options)
        return int(result.ret), "\n".join([*result.outlines, *result.errlines])

    return run


@pytest.fixture
def machine(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the workers, step and metrics of these tests."""
    monkeypatch.setattr(pool, "Workers", Machine)
    monkeypatch.setattr(Machine, "disturbed", False)
    monkeypatch.setattr(toy, "SIZES", toy.SIZES | {"test": 400})

    @hookimpl
    def harness_steps(register: Any) -> None:
        register(Compress)

    @hookimpl
    def harness_metrics(register: Any) -> None:
        register(Auroc())
        register(DECISIONS)

    monkeypatch.setattr(toy, "harness_steps", harness_steps)
    monkeypatch.setattr(toy, "harness_metrics", harness_metrics)


SMALL = "toys[toy-synthetic-conv-small-seed0]"


def test_unchanged_code_passes(pull: Any) -> None:
    code, text = pull(source())
    assert code == 0
    assert re.search(r"(\d+) of \1 figures of 2 cells judged, 2 fine", text)
    assert "The gate is open." in text
    against = benchmarks("new.json")[SMALL]["extra_info"]["harness"]["against"]
    assert (against["same"], against["timing"], against["reason"]) == (True, None, "the same file")


def test_a_required_figure_that_no_suite_computes_closes_the_gate(pull: Any) -> None:
    """Nobody named the optional metric: the run did not show what the policy requires."""
    code, text = pull(source(), "--harness-gate=sensitivity=0.02 critical,fail_on=none", "--harness-summary=gate.md")
    assert code == 14
    reason = "this run has no sensitivity, which the policy requires (critical)"
    assert reason in text
    assert "The gate is closed: lost" in text
    assert reason in Path("gate.md").read_text().replace("\\", "")
    code, text = pull(source(), "--harness-gate=sensitivity=0.02 critical,fail_on=none", "--harness-metrics=decisions")
    assert code == 0
    assert "The gate is open." in text


def test_a_compressor_that_became_slower_fails(pull: Any) -> None:
    code, text = pull(source("layers=1"), "--harness-summary=out/gate.md", "--harness-junit=out/gate.xml")
    assert code == 10
    assert "harness: 1 cell is slower than its model of the earlier run" in text
    against = benchmarks("new.json")[SMALL]["extra_info"]["harness"]["against"]
    for confirmations in (False, True):
        samples = read_samples(Path("new.json"), confirmations)[f"suite.py::{SMALL}", "earlier"]
        again = paired_ratio(samples["reference"], samples["candidate"])
        assert confirmations or again.ratio == against["timing"]["ratio"]["value"]
        assert len(again.per_process) == 2
    for part in (
        f"REGRESSED suite.py::{SMALL}",
        "allowed 1 %: timed in pairs with the earlier model, 2 processes, confirmed by fresh processes",
        "changed: compress: parameters.layers: not given -> 1",
        f"again: pytest 'suite.py::{SMALL}' --harness-preset=smoke --harness-against=base.json\n",
        "The gate is closed: regressed (exit code 10).",
    ):
        assert part in text
    assert "x 1.10" in text
    verdicts = json.loads(Path("new.json").read_text())["harness"]["verdicts"][f"suite.py::{SMALL}"]
    assert verdicts["earlier"]["kind"] == "slower"
    markdown = Path("out/gate.md").read_text()
    assert markdown.startswith("### Compression gate: closed")
    assert f"<code>suite.py::{SMALL}</code> | latency" in markdown
    root = ElementTree.parse("out/gate.xml").getroot()
    assert [(case.get("name"), [child.tag for child in case]) for case in root.iter("testcase")] == [
        ("suite.py::toys[toy-synthetic-conv-full-seed0]", []),
        (f"suite.py::{SMALL}", ["failure"]),
    ]
    assert root.find("testsuite").attrib["failures"] == "1"  # type: ignore[union-attr]


def test_a_faster_cell_passes_and_is_listed(pull: Any) -> None:
    code, text = pull(source("layers=0"), "--harness-summary=gate.md", base=source("layers=1"))
    assert (code, "2 fine" in text) == (0, True)
    assert "Better (1)" in Path("gate.md").read_text()


def test_a_wider_margin_lets_it_pass(pull: Any) -> None:
    assert pull(source("layers=1"), "--harness-gate=latency=20%")[0] == 0


@pytest.mark.parametrize(
    ("extra", "project", "option", "code"),
    [
        ('gate={"latency": "20%"},', "", "", 0),
        ('gate={"latency": "20%"},', "", "latency=2%", 10),
        ("", 'latency = "20%"', "", 0),
        ('gate={"latency": "2%"},', 'latency = "20%"', "", 10),
        ("", 'latency = "off"', "", 0),
        ("", 'fail_on = ["lost"]', "", 0),
        ("", 'fail_on = ["lost"]', "fail_on=regressed", 10),
    ],
)
def test_a_later_layer_of_rules_counts(
    pull: Any, pytester: pytest.Pytester, extra: str, project: str, option: str, code: int
) -> None:
    (pytester.path / "pyproject.toml").write_text(f"[tool.harness.gate]\n{project}\n")
    options = [f"--harness-gate={option}"] if option else []
    assert pull(source("layers=1", extra=extra), *options, base=source(extra=extra))[0] == code


def test_a_project_s_rule_for_an_unknown_figure_is_a_warning(pull: Any, pytester: pytest.Pytester) -> None:
    (pytester.path / "pyproject.toml").write_text("[tool.harness.gate]\naurocc = 0.1\nlatency = '2%'\n")
    code, text = pull(source())
    assert code == 0
    assert "[tool.harness.gate] has a rule for 'aurocc', but no cell of this run has that figure" in text
    assert "'latency', which" not in text


@pytest.fixture
def _padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there is an earlier run, the toy runtime deploys files with a twentieth more of zeros at their end."""
    deploy, load = toy.Eager.deploy, toy.Eager.load

    def padded(self: Any, artefact: Path, folder: Path) -> Path:
        file = deploy(self, artefact, folder)
        if Path("base.json").exists():
            tensors = file.stat().st_size - header_size(file)
            file.write_bytes(file.read_bytes() + b"\0" * (tensors // 20))
        return file

    def without_padding(self: Any, file: Path) -> Any:
        content, begin = file.read_bytes(), header_size(file)
        entries = json.loads(content[8:begin])
        end = max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
        plain = file.with_name("plain")
        plain.write_bytes(content[: begin + end])
        return load(self, plain)

    monkeypatch.setattr(toy.Eager, "deploy", padded)
    monkeypatch.setattr(toy.Eager, "options", lambda self: {"padded": Path("base.json").exists()})
    monkeypatch.setattr(toy.Eager, "load", without_padding)


@pytest.mark.usefixtures("_padded")
def test_the_file_that_the_earlier_run_deployed_is_measured_again(pull: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.Eager, "holds_program", True)
    monkeypatch.setattr(Machine, "takes", lambda self, file: 1.0)
    pull(source())
    record, earlier = (benchmarks(name)[SMALL]["extra_info"]["harness"] for name in ("new.json", "base.json"))
    against = record["against"]
    assert against["sha256"] == earlier["artefact"]["sha256"] != record["artefact"]["sha256"]
    assert against["timing"] is not None
    assert against["figures"]["file_size"]["value"] < record["figures"]["file_size"]["value"]


@pytest.mark.usefixtures("_padded")
def test_a_bigger_file_fails(pull: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "takes", lambda self, file: 1.0)
    code, text = pull(source())
    assert code == 10
    assert "file_size" in text
    assert "x 1.05" in text
    assert "allowed 1 %: exact" in text
    assert "changed: the bytes of the deployed file differ, although its key is the same" in text


def test_lost_quality_fails(pull: Any) -> None:
    code, text = pull(source("noise=2.0"), "--harness-gate=auroc=0.005")
    assert code == 10
    (line,) = [line for line in text.splitlines() if line.startswith("  auroc")]
    assert "on the same test examples, bootstrap over 200 patients" in line
    assert "allowed 0.005" in line


def test_generated_data_closes_the_gate_only_by_a_rule_of_the_user(pull: Any) -> None:
    code, text = pull(source("noise=2.0"), "--harness-summary=gate.md")
    assert code == 0
    remark = "generated data says nothing about quality: auroc is judged only by a rule of yours"
    assert remark in text
    markdown = Path("gate.md").read_text()
    assert remark in markdown
    assert f"| <code>suite.py::{SMALL}</code> | file\\_size |" in markdown, "it shows figures when all is well"
    assert main(["compare", "base.json", "new.json"]) == 0
    assert main(["compare", "base.json", "new.json", "--gate=auroc=0.005"]) == 10


def test_a_lost_cell_fails_always(pull: Any) -> None:
    more = ', "half": [train(epochs=1), step("compress", noise=0.1)]'
    code, text = pull(source(), "--harness-junit=gate.xml", base=source(more=more))
    assert code == 14
    assert "LOST suite.py::toys[toy-synthetic-conv-half-seed0]" in text
    assert "the suite no longer declares it" in text
    failures = ElementTree.parse("gate.xml").getroot().findall(".//failure")
    assert [failure.get("message") for failure in failures] == ["lost"]


def test_a_cell_that_is_skipped_now_is_lost(pull: Any) -> None:
    code, text = pull(source(extra='skip=[Skip("too dear", pruning="small")],'))
    assert code == 14
    assert "skipped: too dear" in text


@pytest.mark.parametrize("mark", ["skip", "xfail"])
def test_a_cell_that_pytest_itself_left_out_is_lost(pull: Any, pytester: pytest.Pytester, mark: str) -> None:
    """A marker or a plugin of the suite's project skips the cell without telling the harness."""
    change = """
        import pytest
        from pathlib import Path

        def pytest_collection_modifyitems(items):
            for item in items:
                if "small" in item.name and Path("base.json").exists():
                    item.add_marker(pytest.mark.MARK)
    """
    pytester.makeconftest(change.replace("MARK", "skip" if mark == "skip" else "xfail(run=False)"))
    code, text = pull(source())
    assert code == 14
    assert f"LOST suite.py::{SMALL}" in text
    assert "selected, and not measured" in text


@pytest.mark.parametrize("change", ["del toys", "renamed = toys; del toys"])
def test_the_cells_of_a_suite_that_declares_no_cells_are_lost(
    run_base: Callable[..., None], suite: Suite, change: str
) -> None:
    Path("other.py").write_text("from harness import *\n" + source())
    more = "\ndef test_something(): pass\n"
    assert suite(source() + more, "other.py", "--benchmark-json=base.json").ret == 0
    result = suite(source() + change + more, "other.py", "--harness-against=base.json")
    assert result.ret == 14
    assert f"LOST suite.py::{SMALL}" in "\n".join(result.outlines)


@pytest.mark.parametrize("options", [["-k", "something"], ["--benchmark-skip"]])
def test_a_comparison_without_cells_is_a_usage_error(
    run_base: Callable[..., None], suite: Suite, options: list[str]
) -> None:
    text = source() + "\ndef test_something(): pass\n"
    run_base(text)
    result = suite(text, "--harness-against=base.json", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "no cell is selected, so there is nothing to compare" in "\n".join(result.errlines)


def test_the_judgement_is_printed_if_its_file_cannot_be_written(pull: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "gate.md":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    code, text = pull(source("layers=1"), "--harness-summary=gate.md")
    assert code == 10  # what failed the gate says more than what failed to be written
    assert "cannot write gate.md: the disk is full" in text
    assert f"REGRESSED suite.py::{SMALL}" in text


def test_a_new_cell_passes(pull: Any) -> None:
    code, text = pull(source(more=', "half": [train(epochs=1), step("compress", layers=9)]'))
    assert code == 0
    assert re.search(r"2 fine, 1 new$", text, re.MULTILINE)


def test_cells_that_are_not_selected_are_not_lost(pull: Any) -> None:
    code, text = pull(source(), "-k", "full")
    assert code == 0
    assert "figures of 1 cell judged, 1 fine, 1 not selected" in text


@pytest.mark.parametrize("selection", [[], ["-k", "full"]])
@pytest.mark.parametrize("extra", ["", 'skip=[Skip("dear", pruning="small")],'])
def test_compare_agrees_with_the_run_on_lost_cells(
    pull: Any, capsys: pytest.CaptureFixture[str], extra: str, selection: list[str]
) -> None:
    base = source(more=', "quarter": [train(epochs=1), step("compress", noise=0.1)]')
    code, text = pull(source(extra=extra), *selection, base=base)
    (summary,) = re.findall("judged, .*", text)
    capsys.readouterr()
    assert main(["compare", "base.json", "new.json"]) == code == 14
    printed = capsys.readouterr().out
    assert re.findall("judged, .*", printed) == [summary]
    assert re.findall("LOST .*\n.*", printed) == re.findall("LOST .*\n.*", text)


def test_a_cell_that_passes_on_its_rerun_is_not_lost(pull: Any, pytester: pytest.Pytester) -> None:
    """As with pytest-rerunfailures."""
    pytester.makeconftest(
        """
        from pathlib import Path
        from _pytest.runner import runtestprotocol
        from harness.errors import CellError
        from harness.run.session import Session

        def pytest_runtest_protocol(item, nextitem):
            if "small" not in item.name or not Path("base.json").exists():
                return None
            measure = Session.measure
            def fail(*_):
                raise CellError("out of luck")
            Session.measure = fail
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            Session.measure = measure
            assert any(report.failed for report in reports)
            runtestprotocol(item, nextitem=nextitem)
            return True
        """
    )
    code, text = pull(source())
    assert code == 0, text
    assert "2 fine" in text
    assert json.loads(Path("new.json").read_text())["harness"]["left"] == []


# ------------------------------------------------------------------------------------------------------- changed code


class Versions(Machine):
    """Fake workers of both versions of the code, of which the present one takes ``slowdown`` times as long."""

    slowdown: ClassVar[float] = 1.0

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def takes(self, file: Path) -> float:
        return super().takes(file) * (1 if "earlier" in file.parts else self.slowdown)


class EarlierCode:
    """Stands in for the code of an earlier commit."""

    def __init__(self, commit: Commit, folder: Path, here: Path) -> None:
        self.commit = "c0ffee" * 6
        self.workers = self

    def code(self, profile: Any, names: Any) -> dict[str, str]:
        code: dict[str, str] = benchmarks("base.json")[SMALL]["extra_info"]["harness"]["code"]
        assert set(names) == set(code) == {"architecture conv", "runtime eager"}
        return code

    def predict(self, *arguments: Any) -> Any:
        return Machine().predict(*arguments)

    def memory(self, *arguments: Any) -> Any:
        return Machine().memory(*arguments)

    def close(self) -> None:
        pass


@pytest.fixture
def changed_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all code another digest after the base run."""
    digest = program.code_digest
    monkeypatch.setattr(program, "code_digest", lambda kind: "new" if Path("base.json").exists() else digest(kind))


@pytest.fixture
def earlier_code(changed_code: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the code, of which the earlier version can be had."""
    monkeypatch.setattr(earlier, "EarlierCode", EarlierCode)
    monkeypatch.setattr(versions, "VersionedWorkers", Versions)
    monkeypatch.setattr(Versions, "slowdown", 1.0)


@pytest.mark.parametrize(("rules", "code"), [("", 15), ("fail_on=regressed+lost", 0)])
def test_changed_code_without_its_earlier_version_is_not_judged(
    pull: Any, changed_code: None, capsys: pytest.CaptureFixture[str], rules: str, code: int
) -> None:
    options = [f"--harness-gate={rules}"] if rules else []
    returned, text = pull(source(), *options, "--harness-summary=gate.md")
    assert returned == code
    assert "2 of 4 figures of 2 cells judged, 0 fine, 2 not judged" in text
    assert f"NOT JUDGED suite.py::{SMALL}" in text
    assert "changed, and its model could not be measured again: the earlier run names no commit" in text
    markdown = Path("gate.md").read_text()
    assert f"- not judged: <code>suite.py::{SMALL}</code>: latency: the code of" in markdown
    capsys.readouterr()
    assert main(["compare", "base.json", "new.json", *(f"--gate={rule}" for rule in filter(None, [rules]))]) == code


@pytest.mark.parametrize(("slowdown", "code", "busy"), [(1.0, 0, False), (1.1, 10, False), (1.1, 10, True)])
def test_slower_code_is_seen_beside_its_earlier_version(
    pull: Any, earlier_code: None, monkeypatch: pytest.MonkeyPatch, slowdown: float, code: int, busy: bool
) -> None:
    """Every cell became slower by as much, so the ratios to the reference are as before."""
    monkeypatch.setattr(Versions, "slowdown", slowdown)
    monkeypatch.setattr(Versions, "disturbed", busy)
    returned, text = pull(source())
    assert returned == code, text
    assert text.count("REGRESSED") == (2 if code else 0)
    assert "0 of" not in text
    against = benchmarks("new.json")[SMALL]["extra_info"]["harness"]["against"]
    assert (against["same"], against["code_changed"], against["commit"]) == (False, True, "c0ffee" * 6)
    assert against["timing"]["ratio"]["value"] == pytest.approx(slowdown, rel=0.01)
    assert set(against["code"]) == {"architecture conv", "runtime eager"}
    assert main(["compare", "base.json", "new.json"]) == code


def test_a_commit_with_other_code_than_the_run_file_names_is_not_used(
    pull: Any, earlier_code: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EarlierCode, "code", lambda *_: {})
    code, text = pull(source())
    assert code == 15
    assert (
        "commit c0ffeec does not have the code of architecture conv and runtime eager that the earlier run used" in text
    )


@pytest.mark.parametrize("is_stored", [True, False])
def test_the_file_that_the_earlier_run_deployed_is_timed(
    run_base: Callable[..., None], suite: Suite, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    """As where a later version of a runtime exports a slower file of the same artefact."""
    monkeypatch.setattr(toy.Eager, "holds_program", True)
    deploy = toy.Eager.deploy

    def padded(self: Any, deployment: Any, folder: Path) -> Path:
        file = deploy(self, deployment, folder)
        file.write_bytes(file.read_bytes() + b"slow")
        return file

    def takes(self: Any, file: Path) -> float:
        return 1.1 if file.read_bytes().endswith(b"slow") else 1.0

    def load(self: Any, file: Path) -> Any:
        return lambda inputs: inputs[:, :, 0].sigmoid()

    monkeypatch.setattr(Machine, "takes", takes)
    monkeypatch.setattr(toy.Eager, "load", load)
    monkeypatch.setattr(toy.Eager, "tolerance", 1.0)
    run_base(source(), anew=True)
    if not is_stored:
        for file in Path(".harness").glob("artefacts/*/*/deployable"):
            shutil.rmtree(file.parent)
    monkeypatch.setattr(toy.Eager, "deploy", padded)
    monkeypatch.setattr(toy.Eager, "version", "of an upgrade")
    options = ("--benchmark-json=new.json", "--harness-against=base.json", "--harness-gate=file_size=off")
    result = suite(source(), *options)
    text = "\n".join(result.outlines)
    against = benchmarks("new.json")[SMALL]["extra_info"]["harness"]["against"]
    if is_stored:
        assert result.ret == 10, text
        assert text.count("REGRESSED") == 2
        assert against["sha256"] == against["artefact"]["sha256"]
    else:
        assert against["timing"] is None
        assert against["reason"] == "the file that the earlier run deployed is not in the store"


def test_the_earlier_model_need_not_run_under_the_present_code(
    pull: Any, earlier_code: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an added layer: the network of today cannot be restored from the earlier file."""
    predict = Workers.predict

    def refuse(self: Any, profile: Any, runtime: str, file: Path, *rest: Any) -> Any:
        if Path("base.json").exists():
            records = [entry["extra_info"]["harness"] for entry in benchmarks("base.json").values()]
            if file.parent.name in {
                entry["artefact"]["key"] for entry in records if not entry["axes"]["pruning"] == "full"
            }:
                raise CellError("it lacks the added layer")
        return predict(self, profile, runtime, file, *rest)

    monkeypatch.setattr(Machine, "predict", refuse)
    monkeypatch.setattr(EarlierCode, "predict", lambda self, *arguments: predict(Workers(), *arguments))
    code, text = pull(source("layers=1"))
    assert code == 10, text
    assert f"REGRESSED suite.py::{SMALL}" in text


@pytest.mark.parametrize(("rules", "code"), [("", 10), ("fail_on=contaminated", 0)])
def test_a_busy_machine_hides_no_regression(pull: Any, monkeypatch: pytest.MonkeyPatch, rules: str, code: int) -> None:
    monkeypatch.setattr(Machine, "disturbed", True)
    options = [f"--harness-gate={rules}"] if rules else []
    found, text = pull(source("layers=1"), *options)
    assert found == code, "no new run is contaminated"
    assert f"REGRESSED suite.py::{SMALL}" in text


def test_without_the_earlier_model_the_ratios_of_both_runs_are_compared(pull: Any) -> None:
    code, text = pull(source("layers=1"), "--harness-store=other")
    assert code == 10
    assert "at 3 % (its artefact" in text
    assert "is not in the store" in text


def test_another_file_under_the_earlier_key_is_not_the_earlier_model(
    run_base: Callable[..., None], suite: Suite
) -> None:
    """For example a model that was lost and trained again: its quality may differ by chance."""
    run_base(source())
    document = json.loads(Path("base.json").read_text())
    for entry in document["benchmarks"]:
        found = entry["extra_info"]["harness"]
        found["artefact"]["sha256"] = found["reference_artefact"]["sha256"] = "0" * 64
        found["figures"]["auroc"]["value"] += 0.008
        del entry["extra_info"]["harness_sha256"]
    Path("base.json").write_text(json.dumps(document))
    result = suite(source(), "--benchmark-json=new.json", "--harness-against=base.json", "--harness-gate=auroc=0.005")
    text = "\n".join(result.outlines)
    assert result.ret == 0, text
    assert "inconclusive: auroc" in text
    against = benchmarks("new.json")[SMALL]["extra_info"]["harness"]["against"]
    assert (against["same"], against["differences"]) == (False, {})
    assert against["reason"] == "the file under its key differs from that of the earlier run"


def test_clock_times_of_another_machine_are_not_compared(pull: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.measure import machine

    facts = machine.facts

    def other() -> Any:
        return facts() | {"cpu": "another CPU" if Path("base.json").exists() else "a CPU"}

    monkeypatch.setattr(machine, "facts", other)
    code, text = pull(
        source("layers=1"), "--harness-store=other", "--harness-gate=fail_on=regressed+lost+inconclusive", anew=True
    )
    assert code == 11
    assert "the earlier run comes from another machine, and this run did not time the earlier model again" in text
    assert "changed around the models: machine a CPU" in text


def test_stored_models_of_another_machine_s_run_are_timed_again(pull: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.measure import machine

    facts = machine.facts
    other = lambda: facts() | {"cpu": "another CPU" if Path("base.json").exists() else "a CPU"}  # noqa: E731
    monkeypatch.setattr(machine, "facts", other)
    assert pull(source("layers=1"), anew=True)[0] == 10


def test_a_missing_allocator_fails_the_cell(pull: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(stems: Any) -> Path | None:
        return None if Path("base.json").exists() else Path("libjemalloc.so.2")

    monkeypatch.setattr(profile, "_find_library", find)
    suite = source(extra='profile=Profile(allocator="jemalloc"),')
    code, text = pull(suite, base=suite, anew=True)
    assert code == 1
    assert "allocator jemalloc is not on this machine" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--harness-against=absent.json"], "there is no file absent.json"),
        (["--harness-against=suite.py"], "suite.py cannot be read as a benchmark JSON"),
        (["--harness-gate=latency=1%"], "--harness-gate needs a comparison: name an earlier run"),
        (["--harness-summary=x.md"], "--harness-summary needs a comparison"),
        (["--harness-against=a.json", "--harness-gate=latency=fast"], "gate: latency = 'fast' is not a tolerance"),
        (["--harness-against=a.json", "--harness-gate=latency"], "'latency' is not a rule; write FIGURE=TOLERANCE"),
        (["--harness-against=a.json", "--harness-gate=fail_on=slow"], "'slow' is not an outcome"),
    ],
)
def test_usage_errors(suite: Suite, options: list[str], message: str) -> None:
    result = suite(TOYS, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in "\n".join([*result.outlines, *result.errlines])


def test_a_rule_for_a_figure_that_no_metric_gives_is_a_usage_error(pull: Any) -> None:
    code, text = pull(source(), "--harness-gate=aurocc=0.01")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "gate: no cell has a figure 'aurocc'; did you mean 'auroc'" in text


def rename_suite(name: str) -> None:
    """Edit the suite of the earlier run's records, which then have no checksum."""
    document = json.loads(Path("base.json").read_text())
    for entry in document["benchmarks"]:
        entry["extra_info"]["harness"]["suite"] = name
        del entry["extra_info"]["harness_sha256"]
    Path("base.json").write_text(json.dumps(document))


@pytest.mark.parametrize("where", ["elsewhere/suite.py", "suite.py"])
def test_suites_match_across_pytest_roots(run_base: Callable[..., None], suite: Suite, where: str) -> None:
    run_base(source())
    rename_suite(where)
    result = suite(source("layers=1"), "--harness-against=base.json")
    assert result.ret == 10
    assert main(["compare", "base.json", "base.json"]) == 0


def test_two_suites_with_one_file_name_do_not_match() -> None:
    def of(*suites: str) -> Baseline:
        records = [decoded(record() | {"suite": suite}) for suite in suites]
        return Baseline(Path("base.json"), {entry.name: entry for entry in records}, {})

    def aligned(baseline: Baseline, *suites: str) -> list[str]:
        return sorted(entry.suite for entry in baseline.aligned(suites).records.values())

    assert aligned(of("a.py", "x/a.py"), "a.py") == ["a.py", "x/a.py"]
    assert aligned(of("x/a.py"), "a.py", "x/a.py") == ["x/a.py"]
    assert aligned(of("x/a.py"), "a.py") == ["a.py"]
    assert aligned(of("a.py", "b.py"), "root/a.py", "root/b.py") == ["root/a.py", "root/b.py"]
    with pytest.raises(UsageError, match="holds other suites"):
        of("x/a.py", "y/a.py").aligned(["a.py"])


def test_a_run_of_another_suite_is_a_usage_error(run_base: Callable[..., None], suite: Suite) -> None:
    run_base(source())
    rename_suite("mysuite.py")
    result = suite(source(), "--harness-against=base.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "nothing to compare: base.json holds other suites (mysuite.py) than this run (suite.py)" in "\n".join(
        result.errlines
    )


def test_a_run_of_another_preset_is_a_usage_error(run_base: Callable[..., None], suite: Suite) -> None:
    run_base(source())
    result = suite(source(), "--harness-against=base.json", "--harness-preset=quick")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "base.json was run at preset smoke, which cannot be compared with quick" in "\n".join(result.errlines)


@pytest.mark.parametrize(("changed", "code"), [("layers=0", 0), ("layers=1", 10)])
def test_compare_gives_the_same_verdict_from_the_records_alone(
    pull: Any, capsys: pytest.CaptureFixture[str], changed: str, code: int
) -> None:
    assert pull(source(changed))[0] == code
    capsys.readouterr()
    assert main(["compare", "base.json", "new.json", "--summary=gate.md", "--junit=gate.xml"]) == code
    text = capsys.readouterr().out
    assert ("REGRESSED" in text) == bool(code)
    assert Path("gate.md").read_text().startswith("### Compression gate")
    assert ElementTree.parse("gate.xml").getroot().tag == "testsuites"


def test_compare_refuses_a_rule_for_an_unknown_figure(pull: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert pull(source())[0] == 0
    assert main(["compare", "base.json", "new.json", "--gate=aurocc=0.01"]) == 4
    assert "no cell has a figure 'aurocc'; did you mean 'auroc'" in capsys.readouterr().err
