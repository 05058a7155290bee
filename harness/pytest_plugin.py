"""The bridge to pytest and pytest-benchmark; but for the options of pytest, nothing else in the harness knows them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError, Unsupported, UsageError, explain_disk_errors
from harness.files import check_writable
from harness.plugin.manager import installed
from harness.progress import log_to
from harness.pytest_options import add_options, check_options, chosen_preset, repeated_options, run_options
from harness.records.record import Record, Unmeasured, to_json
from harness.records.runs import FIELD, SAMPLES
from harness.store.shared import shared_url, without_password
from harness.suite.collect import cells_of
from harness.suite.matrix import Cell, Matrix

if TYPE_CHECKING:
    from harness.measure.latency import Samples
    from harness.policy.baseline import Baseline
    from harness.run.session import Session

#: The run selected cells and measured none of them; such a run must not pass.
NOTHING_MEASURED = 13


class State:
    """What a pytest session knows of the harness: all collected cells, the run under way, and its records."""

    def __init__(self) -> None:
        self.known: dict[str, Cell] = {}
        #: What was collected: the node ids of suites, whether they have cells or not.
        self.collected: set[str] = set()
        self.session: Session | None = None
        self.selected = 0
        #: The selected cells that were not measured, by name, and why; those that a step cannot handle have not failed.
        self.unmeasured: dict[str, str] = {}
        self.unsupported: set[str] = set()
        #: What the gate says, and the exit code for it.
        self.verdict = ""
        self.exit_code = 0
        #: Where the report lies.
        self.report = ""
        #: How many problems of plugins were shown.
        self.told = 0

    @property
    def records(self) -> list[Record]:
        """The records made so far."""
        return [] if self.session is None else self.session.recorder.records

    @property
    def left(self) -> list[Unmeasured]:
        """The cells that were selected and not measured, each with why."""
        return [] if self.session is None else self.session.recorder.unmeasured(self.unmeasured, self.unsupported)


STATE = pytest.StashKey[State]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STATE] = State()
    check_options(config)


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
    collector.config.stash[STATE].collected.add(collector.nodeid)
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
        chosen_preset(config),
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
            state.unsupported.add(item.cell.name)
            pytest.skip(f"{item.cell.id}: {measured}")
        pytest.fail(f"{item.cell.id}: {measured}", pytrace=False)
    record, samples = measured
    benchmark.extra_info[FIELD] = to_json(record)
    benchmark.param, benchmark.params = item.cell.id, dict(item.cell.axes)  # --benchmark-group-by=param:precision
    if samples is None:
        benchmark.pedantic(lambda: None)
        return
    benchmark.extra_info[SAMPLES] = samples.kept
    clock: ReplayClock = item.get_closest_marker("benchmark").kwargs["timer"]  # type: ignore[union-attr]
    clock.load(samples.candidate.ravel().tolist())
    benchmark.pedantic(clock.play, rounds=samples.candidate.size, iterations=1)


def _measure(run: Session, cell: Cell) -> tuple[Record, Samples | None] | HarnessError:
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
    idle = not items or _left_out(config)
    # With pytest-xdist the workers have the items, and refuse them.
    silent = broken or config.option.collectonly or config.pluginmanager.has_plugin("dsession")
    if idle and not silent and config.getoption("--harness-against"):
        raise pytest.UsageError("--harness-against: no cell is selected, so nothing would be compared; select some")
    if idle or broken or config.option.collectonly:
        return (yield)
    from harness.run.session import Session as Run

    state = config.stash[STATE]
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    cells = [item.cell for item in items]
    try:
        options = run_options(config)
        for option in ("benchmark_json", "--harness-summary", "--harness-junit", "--harness-report"):
            _make_room(option, config.getoption(option))
        _check_plots(config.getoption("benchmark_histogram"))
        stream = None if reporter is None else reporter._tw._file
        with log_to(stream), Run(cells, state.known, installed(), options, stream) as run:
            state.session = run
            state.selected = len(cells)
            if config.getoption("--harness-plan"):
                from harness.run.plan_text import plan_text

                if reporter is not None:
                    reporter.ensure_newline()
                    reporter.write(plan_text(run))
                session.items.clear()
                return (yield)
            run.build()
            try:
                result = yield
            except BaseException:
                run.finalize_verdicts(confirm=False)  # the file gets what was measured, and the verdicts that allows
                raise
            if reporter is not None:
                reporter.ensure_newline()
            run.finalize_verdicts()
            if run.baseline is not None and not session.shouldstop:
                _judge(run, state, run.baseline, config)
            return result
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    except HarnessError as error:
        pytest.exit(f"harness: {error}", returncode=pytest.ExitCode.TESTS_FAILED)


def _judge(run: Session, state: State, baseline: Baseline, config: pytest.Config) -> None:
    """Say what has become of the earlier run's cells: measured, lost, or left out on purpose."""
    from harness.gate.judge import judge
    from harness.gate.output import write_findings
    from harness.gate.text import Background, format_options, gate_text
    from harness.run.declarations import default_rules

    new = {record.name: record for record in state.records}
    unmeasured = {
        # Of what pytest itself skipped, by a marker or a plugin, no more is known.
        cell.name: "selected, and not measured" if cell.skip is None else f"skipped: {cell.skip}"
        for cell in run.planner.selected
        if cell.name not in new
    }
    lost_cells = baseline.lost(state.collected, state.known, unmeasured | state.unmeasured)
    defaults = default_rules([*baseline.records.values(), *state.records])
    judgement = judge(baseline.records, new, lost_cells, lambda record: run.options.policy(record.gate, defaults))
    here = {suite: os.path.relpath(config.rootpath / suite, config.invocation_params.dir) for suite in state.collected}
    documents, options = run.recorder.documents(), format_options(repeated_options(config))
    background = Background(baseline.file, baseline.documents, documents, options, here)
    files = (config.getoption(option) for option in ("--harness-summary", "--harness-junit"))
    state.verdict, state.exit_code = gate_text(judgement, background), judgement.exit_code
    write_findings(judgement, background, *(None if file is None else Path(file) for file in files))


def _make_room(option: str, name: str | Path | None) -> None:
    """Make the folder of an output now, for it is written only after everything was measured."""
    if name is not None:
        file, argument = Path(name), f"--{option.removeprefix('--').replace('_', '-')}={name}"
        if file.is_dir():
            raise UsageError(f"{argument} is a folder; name a file")
        with explain_disk_errors(f"{argument} cannot be written", "or choose another file"):
            file.parent.mkdir(parents=True, exist_ok=True)
        check_writable(file.parent, f"{argument} cannot be written", "or choose another file")


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
    if session.config.getoption("--harness-report") and state.records and state.session is not None:
        from harness.report.output import report_run

        file, source = session.config.getoption("--harness-report"), session.config.getoption("benchmark_json")
        key_documents = state.session.recorder.documents()
        name = None if source is None else source.name
        state.report = report_run(state.records, state.left, key_documents, name, Path(file), installed())
    planned = session.config.getoption("--harness-plan")
    if exitstatus == pytest.ExitCode.OK and state.selected and not planned:
        if not state.records:
            session.exitstatus = NOTHING_MEASURED
        elif state.exit_code:
            session.exitstatus = state.exit_code


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Write what the records share: the verdicts, the cells that were not measured, and the key documents."""
    state = config.stash[STATE]
    if state.session is not None and state.records:
        output_json[FIELD] = {**state.session.recorder.sections(), "left": to_json(state.left)}


# --------------------------------------------------------------------------------------------------------- reports


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """What the run is about to use; nothing in a session that has no cells."""
    if not config.stash[STATE].known:
        return []
    preset_name, store = config.getoption("--harness-preset"), config.getoption("--harness-store")
    stand_ins = sorted({cell.dataset for cell in config.stash[STATE].known.values() if cell.is_fallback})
    shared = shared_url(config.getoption("--harness-shared"))
    places = f"store {store}" + (f", shared store {without_password(shared)}" if shared else "")
    lines = [f"harness: preset {preset_name}, {places}"]
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
    if state.verdict:
        terminalreporter.section("harness gate")
        terminalreporter.write_line(state.verdict)
    if state.report:
        terminalreporter.write_line(state.report)
    if state.session is not None:
        if state.selected and not state.records and not config.getoption("--harness-plan"):
            terminalreporter.write_line("harness: no cell was measured")
        for problem in _untold(config):
            terminalreporter.write_line(problem)
