"""The bridge to pytest and pytest-benchmark; nothing else in the harness knows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError, Unsupported, UsageError, check_writable, explain_disk_errors
from harness.margin import DEFAULT_MARGIN, format_margin, parse_margin
from harness.matrix import PROTOCOLS, Cell, Matrix
from harness.plugins import installed
from harness.policy import parse_rules, policy, project_rules
from harness.presets import MOST_PROCESSES, PRESETS, Preset, preset
from harness.record import FIELD, SAMPLES, Record
from harness.suite import cells_of

if TYPE_CHECKING:
    from harness.baseline import Baseline
    from harness.gate import Judgement
    from harness.session import Measured, Options, Session

#: The run selected cells and measured none of them; such a run must not pass.
NOTHING_MEASURED = 13


class State:
    """What a pytest session knows of the harness: all collected cells, the run under way, and its records."""

    def __init__(self) -> None:
        self.known: dict[str, Cell] = {}
        self.session: Session | None = None
        self.records: list[Record] = []
        self.selected = 0
        #: The selected cells that were not measured, by name, and why.
        self.unmeasured: dict[str, str] = {}
        self.judgement: Judgement | None = None
        #: How many problems of plugins were shown.
        self.told = 0


STATE = pytest.StashKey[State]()
CHECKS: Mapping[str, Callable[[str], object]] = {
    "--harness-preset": preset,
    "--harness-margin": parse_margin,
    "--harness-gate": lambda text: policy(parse_rules(text)),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("harness", "benchmarks of compressed networks")
    about = "; ".join(f"{entry.name}: {entry.about}" for entry in PRESETS.values())
    group.addoption("--harness-preset", default="quick", metavar="NAME", help=f"how much to run. {about}")
    group.addoption(
        "--harness-plan", action="store_true", help="print the cells, what must be built and how long; run nothing"
    )
    group.addoption(
        "--harness-data", metavar="DIR", help="where data sets are (default: the variable HARNESS_DATA, then ./data)"
    )
    group.addoption(
        "--harness-store", metavar="DIR", default=".harness", help="where artefacts are kept (default: .harness)"
    )
    group.addoption(
        "--harness-margin",
        default=format_margin(DEFAULT_MARGIN),
        metavar="SHARE",
        help="the difference in latency that matters; verdicts are given at it (default: %(default)s)",
    )
    group.addoption(
        "--harness-processes",
        type=int,
        metavar="N",
        help="how many processes time each cell, at least 2 (default: the preset's); more of them see smaller changes",
    )
    group.addoption(
        "--harness-protocol",
        choices=PROTOCOLS,
        help="how latency is measured, whatever the suite says: paired beside the reference in several processes, or "
        "single, as most papers do: the mean of one process",
    )
    group.addoption(
        "--harness-against",
        metavar="RUN.json",
        help="an earlier run: time each cell's model of that run again, beside the new one, and judge what changed",
    )
    group.addoption(
        "--harness-gate",
        metavar="RULES",
        help="how much worse than the earlier run is allowed, as latency=2%%,auroc=0.01; over the suite's own rules "
        "and those in pyproject.toml",
    )
    group.addoption("--harness-summary", metavar="FILE.md", help="write the gate's findings as Markdown")
    group.addoption("--harness-junit", metavar="FILE.xml", help="write the gate's findings as JUnit XML")
    group.addoption(
        "--harness-device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where networks are trained (timing is on the CPU)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STATE] = State()
    for option, check in CHECKS.items():
        try:
            if config.getoption(option) is not None:
                check(config.getoption(option))
        except UsageError as error:
            raise pytest.UsageError(f"{option}: {error}") from None
    for option in ("--harness-gate", "--harness-summary", "--harness-junit"):
        if config.getoption(option) and not config.getoption("--harness-against"):
            raise pytest.UsageError(f"{option} says something of a comparison: name a run with --harness-against")
    if parse_margin(config.getoption("--harness-margin")) == 0:
        raise pytest.UsageError("--harness-margin 0: no run can show that two models are the same to the last digit")
    processes = config.getoption("--harness-processes")
    if processes is not None and not 2 <= processes <= MOST_PROCESSES:
        raise pytest.UsageError(
            f"--harness-processes {processes}: from 2, which an interval needs, to {MOST_PROCESSES}, for each takes "
            "some 200 MB; a larger margin needs fewer"
        )


# ------------------------------------------------------------------------------------------------------ collection


class CellItem(pytest.Function):
    """One cell as a pytest item: a test function with pytest-benchmark's fixture."""

    cell: Cell

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, 0, self.name


class ReplayClock:
    """The worker's clock as a timer: it stands still but for the samples that are played to it."""

    #: How pytest-benchmark's file names the timer.
    __name__ = "perf_counter_ns of the workers"

    def __init__(self) -> None:
        self.now = 0.0
        self._samples: Iterator[float] = iter(())

    def load(self, nanoseconds: Sequence[int]) -> None:
        self._samples = (value / 1e9 for value in nanoseconds)

    def play(self) -> None:
        """Let the clock advance by the next sample."""
        self.now += next(self._samples)

    def __call__(self) -> float:
        return self.now


def pytest_pycollect_makeitem(collector: pytest.Module, name: str, obj: object) -> list[CellItem] | None:
    """Turn every Matrix of a suite into items, one a cell."""
    if not isinstance(obj, Matrix):
        return None
    try:
        return _items(collector, name, obj)
    except UsageError as error:
        raise collector.CollectError(f"{name}: {error}") from None


def _items(collector: pytest.Module, name: str, matrix: Matrix) -> list[CellItem]:
    config = collector.config
    if not config.pluginmanager.has_plugin("benchmark"):
        raise UsageError("the plugin pytest-benchmark is switched off; cells need it, so run without -p no:benchmark")
    if hasattr(config, "workerinput") and not _left_out(config):
        raise UsageError(
            "cells cannot run in the workers of pytest-xdist, for their timings would disturb each other; "
            "run without -n, or leave all cells out with --benchmark-skip"
        )
    cells = cells_of(
        matrix,
        name,
        collector.nodeid,
        installed(),
        preset(config.getoption("--harness-preset")),
        config.getoption("--harness-data"),
    )
    state = config.stash[STATE]
    fixtures = None
    items = []
    for cell in cells:
        clock = ReplayClock()
        item = CellItem.from_parent(collector, name=f"{name}[{cell.id}]", callobj=_run_cell, fixtureinfo=fixtures)
        fixtures = item._fixtureinfo
        item.cell = cell
        group = f"{name} {cell.dataset} {cell.architecture}"
        # cProfile sees this process alone, and would show how samples are replayed.
        item.add_marker(pytest.mark.benchmark(timer=clock, group=group, cprofile=False))
        # A cell that fails has nothing to hand to the fixture, and needs no second complaint about that.
        item.add_marker(pytest.mark.filterwarnings("ignore:Benchmark fixture was not used"))
        if cell.skip is not None:
            item.add_marker(pytest.mark.skip(reason=cell.skip))
        state.known[cell.name] = cell
        items.append(item)
    return items


# ------------------------------------------------------------------------------------------------------------- run


def _run_cell(request: pytest.FixtureRequest, benchmark: Any) -> None:
    """What a cell's item does: measure, hand the samples to pytest-benchmark, and leave the record with them."""
    item: CellItem = request.node
    state = request.config.stash[STATE]
    assert state.session is not None  # for pytest_runtestloop made it
    measured = _measure(state.session, item.cell)
    if isinstance(measured, HarnessError):
        state.unmeasured[item.cell.name] = str(measured)
        if isinstance(measured, Unsupported):
            pytest.skip(str(measured))
        pytest.fail(f"{item.cell.id}: {measured}", pytrace=False)
    state.records.append(measured.record)
    benchmark.extra_info[FIELD] = measured.record
    benchmark.param, benchmark.params = item.cell.id, dict(item.cell.axes)  # --benchmark-group-by=param:precision
    if measured.samples is None:
        benchmark.pedantic(lambda: None)
        return
    benchmark.extra_info[SAMPLES] = measured.samples.kept
    clock: ReplayClock = item.get_closest_marker("benchmark").kwargs["timer"]  # type: ignore[union-attr]
    clock.load(measured.samples.candidate.ravel().tolist())
    benchmark.pedantic(clock.play, rounds=measured.samples.candidate.size, iterations=1)


def _measure(run: Session, cell: Cell) -> Measured | HarnessError:
    if cell.problem is not None:
        return UsageError(cell.problem)
    try:
        return run.measure(cell)
    except HarnessError as error:
        return error


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Build everything before the first cell is timed; with --harness-plan say what would be done, and do nothing."""
    config = session.config
    items = [item for item in session.items if isinstance(item, CellItem)]
    broken = session.testsfailed and not config.option.continue_on_collection_errors
    if not items or broken or config.option.collectonly or _left_out(config):
        return (yield)
    from harness.session import Session as Run

    state = config.stash[STATE]
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    cells = [item.cell for item in items]
    try:
        options = _options(config)
        for option in ("benchmark_json", "--harness-summary", "--harness-junit"):
            _make_room(option, config.getoption(option))
        _check_plots(config.getoption("benchmark_histogram"))
        state.session = Run(cells, state.known, installed(), options, None if reporter is None else reporter._tw._file)
        with state.session as run:
            state.selected = len(cells)
            if config.getoption("--harness-plan"):
                from harness.report.plan import plan_text

                if reporter is not None:
                    reporter.ensure_newline()
                    reporter.write(plan_text(run))
                session.items.clear()
                return (yield)
            run.build()
            try:
                result = yield
            except BaseException:
                run.settle(confirm=False)  # what was measured goes into the file, with the verdicts that it allows
                raise
            run.settle()
            if options.baseline is not None and not session.shouldstop:
                state.judgement = _judge(run, state, options.baseline)
            return result
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    except HarnessError as error:
        pytest.exit(f"harness: {error}", returncode=pytest.ExitCode.TESTS_FAILED)


def _options(config: pytest.Config) -> Options:
    from harness.baseline import Baseline
    from harness.session import Options

    against, rules = config.getoption("--harness-against"), config.getoption("--harness-gate")
    size = _preset(config)
    return Options(
        preset=size,
        store=Path(config.getoption("--harness-store")),
        data=config.getoption("--harness-data"),
        device=config.getoption("--harness-device"),
        margin=parse_margin(config.getoption("--harness-margin")),
        protocol=config.getoption("--harness-protocol"),
        timed=config.getoption("benchmark_enable") or not config.getoption("benchmark_disable"),
        baseline=None if against is None else Baseline.of(Path(against), size.name),
        project_rules=project_rules(config.rootpath) if against else {},
        rules=parse_rules(rules) if rules else {},
    )


def _judge(run: Session, state: State, baseline: Baseline) -> Judgement:
    """What has become of the earlier run's cells: measured, lost, or left out on purpose."""
    from harness.gate import judge, name_of

    skipped = {cell.name: f"skipped: {cell.skip}" for cell in run.chosen if cell.skip is not None}
    suites = {cell.suite for cell in state.known.values()}
    lost = baseline.lost(suites, state.known, skipped | state.unmeasured)
    new = {name_of(record): record for record in state.records}
    return judge(baseline.records, new, lost, lambda record: run.options.policy(record.get("gate", {})))


def _preset(config: pytest.Config) -> Preset:
    chosen, processes = preset(config.getoption("--harness-preset")), config.getoption("--harness-processes")
    return chosen if processes is None else dataclasses.replace(chosen, processes=processes)


def _make_room(option: str, name: str | Path | None) -> None:
    """Make the folder of an output now, for it is written only after everything was measured."""
    if name is not None:
        file, what = Path(name), f"--{option.removeprefix('--').replace('_', '-')}={name}"
        if file.is_dir():
            raise UsageError(f"{what} is a folder; name a file")
        with explain_disk_errors(f"{what} cannot be written", "or choose another file"):
            file.parent.mkdir(parents=True, exist_ok=True)
        check_writable(file.parent, f"{what} cannot be written", "or choose another file")


def _check_plots(histogram: Sequence[str]) -> None:
    """Ask for what draws histograms now, for pytest-benchmark does so only after everything was measured."""
    if histogram:
        try:
            import pytest_benchmark.histogram  # noqa: F401
        except ImportError as error:
            raise UsageError(f"--benchmark-histogram: {error.args[-1]}") from None


def _left_out(config: pytest.Config) -> bool:
    """Whether pytest-benchmark skips every cell."""
    return config.getoption("benchmark_skip") and not config.getoption("benchmark_only")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    state = session.config.stash[STATE]
    planned = session.config.getoption("--harness-plan")
    if exitstatus == pytest.ExitCode.OK and state.selected and not planned:
        if not state.records:
            session.exitstatus = NOTHING_MEASURED
        elif state.judgement is not None:
            session.exitstatus = state.judgement.exit_code


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add what the cells' artefacts depend on, so that a later run can say what changed."""
    state = config.stash[STATE]
    if state.session is not None and state.records:
        output_json[FIELD] = {"documents": state.session.documents(state.records)}


# --------------------------------------------------------------------------------------------------------- reports


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """What the run is about to use; nothing in a session that has no cells."""
    if not config.stash[STATE].known:
        return []
    preset_name, store = config.getoption("--harness-preset"), config.getoption("--harness-store")
    stand_ins = sorted({cell.dataset for cell in config.stash[STATE].known.values() if cell.stands_in})
    lines = [f"harness: preset {preset_name}, store {store}"]
    lines += [f"harness: no real data found, so {name} is used; harness data status says more" for name in stand_ins]
    if config.getoption("benchmark_cprofile"):
        lines.append("harness: --benchmark-cprofile leaves cells out, for it cannot look into their worker processes")
    return lines + _untold(config)


def _untold(config: pytest.Config) -> list[str]:
    """The problems of plugins that were not shown yet."""
    state = config.stash[STATE]
    problems = [f"harness: {problem}" for problem in installed().problems[state.told :]]
    state.told += len(problems)
    return problems


@pytest.hookimpl(tryfirst=True)  # a regression that pytest-benchmark finds ends the summary
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The tables of this run, and what plugins did wrong."""
    state = config.stash[STATE]
    if state.records:
        from harness.report.terminal import report_text

        terminalreporter.section("harness")
        terminalreporter.write_line(report_text(state.records, installed(), terminalreporter._tw.fullwidth))
    if state.judgement is not None:
        terminalreporter.section("harness gate")
        terminalreporter.write_line(_gate_report(state, state.judgement, config))
    if state.session is not None:
        if state.selected and not state.records and not config.getoption("--harness-plan"):
            terminalreporter.write_line("harness: no cell was measured")
        for problem in _untold(config):
            terminalreporter.write_line(problem)


def _gate_report(state: State, judgement: Judgement, config: pytest.Config) -> str:
    """The gate's findings as text; those that are asked for as files are written."""
    from harness.record import read_documents
    from harness.report.gate import changes_by, gate_text
    from harness.report.junit import junit_xml
    from harness.report.markdown import gate_markdown

    assert state.session is not None  # for it was judged
    against = Path(config.getoption("--harness-against"))
    changed = changes_by(read_documents(against), state.session.documents(state.records))
    for option, text in (("--harness-summary", gate_markdown), ("--harness-junit", junit_xml)):
        if config.getoption(option):
            Path(config.getoption(option)).write_text(text(judgement, against, changed), encoding="utf-8")
    return gate_text(judgement, against, changed)
