"""Run cells as pytest items, with pytest-benchmark. Only the modules ``harness.pytest_*`` depend on either."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError, StoreError, Unsupported, UsageError, explain_disk_errors
from harness.files import check_writable
from harness.plugin.manager import installed
from harness.progress import log_to
from harness.pytest_options import add_options, check_options, chosen_preset, repeated_options, run_options
from harness.pytest_run_files import RunFiles
from harness.records.record import AA_SAMPLES, CHECKSUM, FIELD, SAMPLES, Record, Unmeasured, checksum, to_json
from harness.records.samples import encode
from harness.run.termination import Termination
from harness.store.shared import shared_url, without_password
from harness.suite.collect import cells_of, imported_suites, is_suite
from harness.suite.matrix import Cell, Matrix

if TYPE_CHECKING:
    from harness.measure.latency import Samples
    from harness.policy.baseline import Baseline
    from harness.run.session import Session

#: The run selected cells and measured none of them; such a run must not pass.
NOTHING_MEASURED = 13


class State:
    """The state of the harness in a pytest session: all collected cells, the current run, and its results."""

    def __init__(self, config: pytest.Config) -> None:
        self.cells_by_name: dict[str, Cell] = {}
        #: The node ids of the collected modules, with or without cells.
        self.collected: set[str] = set()
        #: Files of a named folder that are not collected although they import suites, each with the first of these.
        self.importers: dict[Path, Path] = {}
        self.session: Session | None = None
        self.selected = 0
        #: Why selected cells were not measured, by name; those in ``unsupported`` count as skipped, not failed.
        self.unmeasured: dict[str, str] = {}
        self.unsupported: set[str] = set()
        #: The text and the exit code of the gate.
        self.verdict = ""
        self.exit_code = 0
        self.run_files = RunFiles(config)
        #: Why the gate's files could not be written, such as a full disk.
        self.unwritten: list[str] = []
        self.termination = Termination()
        #: Whether the run ended before its last cell.
        self.interrupted = False
        #: The line that names the report's file.
        self.report = ""
        #: The number of problems of plugins that were printed.
        self.printed_problems = 0

    @property
    def records(self) -> list[Record]:
        """The records made so far."""
        return [] if self.session is None else self.session.recorder.records

    @property
    def suites(self) -> dict[str, list[str]]:
        """By collected suite, its cells that were not selected, as ``matrix[cell]``."""
        selected = {cell.name for cell in self.session.planner.selected} if self.session is not None else set()
        suites: dict[str, list[str]] = {suite: [] for suite in sorted(self.collected)}
        for name, cell in self.cells_by_name.items():
            if name not in selected:
                suites.setdefault(cell.suite, []).append(f"{cell.matrix}[{cell.id}]")
        return suites

    @property
    def unmeasured_cells(self) -> list[Unmeasured]:
        """The cells that were selected and not measured, each with the reason."""
        return [] if self.session is None else self.session.recorder.unmeasured(self.unmeasured, self.unsupported)


STATE = pytest.StashKey[State]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STATE] = State(config)
    check_options(config)


# ------------------------------------------------------------------------------------------------------ collection


class CellItem(pytest.Function):
    """One cell as a pytest item: a test function with pytest-benchmark's fixture."""

    cell: Cell

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, 0, self.name


class ReplayClock:
    """A timer for pytest-benchmark that replays the samples of the workers."""

    #: The name of the timer in pytest-benchmark's file.
    __name__ = "perf_counter_ns of the workers"

    def __init__(self) -> None:
        self.now = 0.0
        self._samples: Iterator[float] = iter(())

    def load(self, nanoseconds: Sequence[int]) -> None:
        self._samples = (value / 1e9 for value in nanoseconds)

    def play(self) -> None:
        """Advance by the next sample."""
        self.now += next(self._samples)

    def __call__(self) -> float:
        return self.now


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Collect the suites in a folder that the user names, whatever they are called.

    Plain ``pytest``, in any folder, must not start benchmarks that take hours, and neither must a folder above.
    """
    collectors = yield
    folder = file_path.parent
    if (
        file_path.suffix == ".py"
        and all(type(collector) is not pytest.Module for collector in collectors)
        and parent.session.isinitpath(folder)
        and folder != parent.config.invocation_params.dir
    ):
        if is_suite(file_path):
            return [*collectors, parent.ihook.pytest_pycollect_makemodule(module_path=file_path, parent=parent)]
        if suites := imported_suites(file_path):
            parent.config.stash[STATE].importers[file_path] = suites[0]
    return collectors


def pytest_pycollect_makeitem(collector: pytest.Module, name: str, obj: object) -> list[CellItem] | None:
    """Turn every Matrix of a suite into items, one a cell."""
    collector.config.stash[STATE].collected.add(collector.nodeid)
    if isinstance(obj, list | tuple | dict) and _has_hidden_matrix(collector.obj, obj):
        raise collector.CollectError(f"{name}: holds a Matrix, which is not collected; assign each to a variable")
    if not isinstance(obj, Matrix):
        return None
    try:
        return _items(collector, name, obj)
    except UsageError as error:
        raise collector.CollectError(f"{name}: {error}") from None


def _has_hidden_matrix(module: object, values: list[Any] | tuple[Any, ...] | dict[Any, Any]) -> bool:
    """Whether a list or a mapping of a suite holds a Matrix that no variable of the suite is."""
    known = {id(value) for value in vars(module).values()}
    inside = values.values() if isinstance(values, dict) else values
    return any(isinstance(value, Matrix) and id(value) not in known for value in inside)


def _items(collector: pytest.Module, name: str, matrix: Matrix) -> list[CellItem]:
    config = collector.config
    if not config.pluginmanager.has_plugin("benchmark"):
        raise UsageError("pytest-benchmark is switched off, but cells need it: run without -p no:benchmark")
    if hasattr(config, "workerinput") and not _skips_all(config):
        raise UsageError(
            "cells cannot run in the workers of pytest-xdist, because their timings would disturb each other: "
            "run without -n, or skip all cells with --benchmark-skip"
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
        if hasattr(item, "_id"):  # pytest 9.2 compares it with those of the last run, which it parses (--lf, --ff)
            item._id = type(item._id).parse(item.nodeid)
        item.cell = cell
        group = f"{name} {cell.dataset} {cell.architecture}"
        # cProfile would profile the replay in this process, not the workers.
        item.add_marker(pytest.mark.benchmark(timer=clock, group=group, cprofile=False))
        # A failed cell has no samples for the fixture, and its own error is enough.
        item.add_marker(pytest.mark.filterwarnings("ignore:Benchmark fixture was not used"))
        if cell.skip is not None:
            item.add_marker(pytest.mark.skip(reason=cell.skip))
        state.cells_by_name[cell.name] = cell
        items.append(item)
    return items


# ------------------------------------------------------------------------------------------------------------- run


def _run_cell(request: pytest.FixtureRequest, benchmark: Any) -> None:
    """Measure a cell, replay its samples to pytest-benchmark, and attach its record."""
    item: CellItem = request.node
    state = request.config.stash[STATE]
    assert state.session is not None  # pytest_runtestloop made it
    measured = _measure(state.session, item.cell)
    if isinstance(measured, HarnessError):
        state.unmeasured[item.cell.name] = str(measured)
        state.run_files.add_unmeasured(item.cell, measured)
        if isinstance(measured, Unsupported):
            state.unsupported.add(item.cell.name)
            pytest.skip(f"{item.cell.id}: {measured}")
        pytest.fail(f"{item.cell.id}: {measured}", pytrace=False)
    record, samples = measured
    benchmark.extra_info[FIELD] = document = to_json(record)
    benchmark.extra_info[CHECKSUM] = checksum(document)
    benchmark.param, benchmark.params = item.cell.id, dict(item.cell.axes)  # --benchmark-group-by=param:precision
    if samples is None:
        benchmark.pedantic(lambda: None)
    else:
        timings = state.session.samples.pop(item.cell.name)
        benchmark.extra_info[SAMPLES] = {versus: encode(arrays) for versus, arrays in timings.items()}
        if aa_runs := state.session.aa_samples:
            benchmark.extra_info[AA_SAMPLES] = list(map(encode, aa_runs))
            aa_runs.clear()
        clock: ReplayClock = item.get_closest_marker("benchmark").kwargs["timer"]  # type: ignore[union-attr]
        clock.load(samples.candidate.ravel().tolist())
        benchmark.pedantic(clock.play, rounds=samples.candidate.size, iterations=1)
    state.run_files.add_measured(item, benchmark, state.session.recorder.documents([record]))


def _skip_measured(items: Sequence[CellItem], state: State, run: Session, file: Path) -> None:
    """Skip the cells that an earlier session measured, with the same models and options, into this file.

    Their records stay in that file: each session's timings and verdicts belong to its own run file.
    """
    names = run.cells_measured_in(file)
    for item in items:
        if item.cell.name in names:
            item.add_marker(pytest.mark.skip(reason=f"measured in {file}"))
            state.unmeasured[item.cell.name] = f"measured in {file}"
            state.unsupported.add(item.cell.name)


def _measure(run: Session, cell: Cell) -> tuple[Record, Samples | None] | HarnessError:
    if cell.problem is not None:
        return UsageError(cell.problem)
    try:
        with explain_disk_errors("cannot read or write the files of the cell", "or choose another store"):
            return run.measure(cell)
    except HarnessError as error:
        return error


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Build all artefacts before the first cell is timed. With --harness-plan, print the plan and run nothing."""
    config = session.config
    items = [item for item in session.items if isinstance(item, CellItem)]
    broken = session.testsfailed and not config.option.continue_on_collection_errors
    idle = not items or _skips_all(config)
    # With pytest-xdist the workers collect the items, and raise the error.
    silent = broken or config.option.collectonly or config.pluginmanager.has_plugin("dsession")
    if idle and not silent and config.getoption("--harness-against"):
        raise pytest.UsageError("--harness-against: no cell is selected, so there is nothing to compare; select cells")
    if idle or broken or config.option.collectonly:
        return (yield)
    from harness.run.session import Session as Run

    state = config.stash[STATE]
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    cells = [item.cell for item in items]
    try:
        stream = None if reporter is None else reporter._tw._file
        with contextlib.ExitStack() as stack:
            stack.enter_context(log_to(stream))
            options = run_options(config)
            for option in ("benchmark_json", "--harness-summary", "--harness-junit", "--harness-report"):
                _check_output(option, config.getoption(option))
            _check_histograms(config.getoption("benchmark_histogram"))
            run = stack.enter_context(Run(cells, state.cells_by_name, installed(), options, stream))
            state.session = run
            state.selected = len(cells)
            if config.getoption("--harness-plan"):
                from harness.run.plan_text import plan_text

                if reporter is not None:
                    reporter.ensure_newline()
                    reporter.write(plan_text(run))
                session.items.clear()
                return (yield)
            if config.getoption("--harness-continue"):
                _skip_measured(items, state, run, Path(config.getoption("--harness-continue")))
            sections = {"left": to_json(state.unmeasured_cells), "suites": state.suites}
            state.run_files.open_journal(run.store.runs(), sections)
            state.run_files.write_atomically()
            state.termination.start()
            run.build()
            try:
                result = yield
            except BaseException:
                state.termination.hold()
                state.interrupted = True
                run.finalize_verdicts(confirm=False)  # the run file gets all records so far, with verdicts
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
    finally:
        state.termination.hold()


def _judge(run: Session, state: State, baseline: Baseline, config: pytest.Config) -> None:
    """Judge the run against the baseline: keep the gate's text and exit code, and write its files."""
    from harness.gate.judge import judge
    from harness.gate.output import write_findings
    from harness.gate.text import Background, format_options, gate_text
    from harness.run.declarations import default_rules, defaults_for

    new = {record.name: record for record in state.records}
    suites = {suite: {f"{suite}::{cell}" for cell in cells} for suite, cells in state.suites.items()}
    lost_cells = baseline.lost(new, state.unmeasured_cells, suites)
    defaults = default_rules([*baseline.records.values(), *state.records])
    judgement = judge(
        baseline.records,
        new,
        lost_cells,
        lambda record: run.options.policy(record.gate, defaults_for(record, defaults)),
    )
    here = {suite: os.path.relpath(config.rootpath / suite, config.invocation_params.dir) for suite in state.collected}
    documents, options = run.recorder.documents(state.records), format_options(repeated_options(config))
    background = Background(baseline.file, baseline.documents, documents, options, here)
    files = (config.getoption(option) for option in ("--harness-summary", "--harness-junit"))
    state.verdict, state.exit_code = gate_text(judgement, background), judgement.exit_code
    try:
        write_findings(judgement, background, *(None if file is None else Path(file) for file in files))
    except StoreError as error:
        state.unwritten.append(str(error))


def _check_output(option: str, name: str | Path | None) -> None:
    """Create the folder of an output file, and check it before hours of measuring."""
    if name is not None:
        file, argument = Path(name), f"--{option.removeprefix('--').replace('_', '-')}={name}"
        if file.is_dir():
            raise UsageError(f"{argument} is a folder; name a file")
        with explain_disk_errors(f"{argument} cannot be written", "or choose another file"):
            file.parent.mkdir(parents=True, exist_ok=True)
        check_writable(file.parent, f"{argument} cannot be written", "or choose another file")


def _check_histograms(histogram: Sequence[str]) -> None:
    """Check that the library for histograms is installed, before hours of measuring."""
    if histogram:
        try:
            import pytest_benchmark.histogram  # noqa: F401
        except ImportError as error:
            raise UsageError(
                f"--benchmark-histogram: {error.args[-1]}; the extra compression-harness[histogram] brings them"
            ) from None


def _skips_all(config: pytest.Config) -> bool:
    """Whether pytest-benchmark skips every cell."""
    return config.getoption("benchmark_skip") and not config.getoption("benchmark_only")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    state = session.config.stash[STATE]
    if session.config.getoption("--harness-report") and state.records and state.session is not None:
        from harness.report.output import report_run

        file, source = session.config.getoption("--harness-report"), session.config.getoption("benchmark_json")
        key_documents = state.session.recorder.documents(state.records)
        name = None if source is None else source.name
        state.report = report_run(state.records, state.unmeasured_cells, key_documents, name, Path(file), installed())
    planned = session.config.getoption("--harness-plan")
    if exitstatus == pytest.ExitCode.OK and state.selected and not planned:
        if not state.records:
            session.exitstatus = NOTHING_MEASURED
        elif state.exit_code:
            session.exitstatus = state.exit_code
        elif state.unwritten or state.run_files.problems:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Write the entries for all records: the verdicts, the cells that were not measured, and the key documents."""
    state = config.stash[STATE]
    if state.session is not None and state.records:
        sections = {
            **state.session.recorder.sections(),
            "left": to_json(state.unmeasured_cells),
            "suites": state.suites,
        }
        output_json[FIELD] = sections | ({"interrupted": True} if state.interrupted else {})


# --------------------------------------------------------------------------------------------------------- reports


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Print the preset, the store, synthetic fallbacks, and files that were left out, in a session with cells."""
    state = config.stash[STATE]
    if not state.cells_by_name:
        return []
    preset_name, store = config.getoption("--harness-preset"), config.getoption("--harness-store")
    fallbacks = sorted({cell.dataset for cell in state.cells_by_name.values() if cell.is_fallback})
    shared = shared_url(config.getoption("--harness-shared"))
    stores = f"store {store}" + (f", shared store {without_password(shared)}" if shared else "")
    lines = [f"harness: preset {preset_name}, {stores}"]
    lines += [f"harness: no real data found, so {name} is used; harness data status says more" for name in fallbacks]
    for file, suite in state.importers.items():
        name = os.path.relpath(file, config.invocation_params.dir)
        lines.append(
            f"harness: {name} is not collected, because it makes no Matrix itself but imports the suite {suite.name}; "
            "name the file if its cells should run too"
        )
    if config.getoption("benchmark_cprofile"):
        lines.append("harness: --benchmark-cprofile skips cells, because it cannot profile their worker processes")
    return lines + _new_problems(config)


def _new_problems(config: pytest.Config) -> list[str]:
    """Return the problems of plugins that were not printed yet, and count them as printed."""
    state = config.stash[STATE]
    problems = [f"harness: {problem}" for problem in installed().problems[state.printed_problems :]]
    state.printed_problems += len(problems)
    return problems


@pytest.hookimpl(tryfirst=True)  # if pytest-benchmark finds a regression, later hooks of the summary do not run
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the tables of this run, the gate's judgement, and the problems of plugins."""
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
        for problem in _new_problems(config):
            terminalreporter.write_line(problem)
    problems = [*state.run_files.problems, *state.unwritten]
    if state.selected and not config.getoption("--harness-plan"):
        problems += state.run_files.missing(measured=bool(state.records))
    state.run_files.shown = True
    problems.append(state.run_files.journal_line(len(state.records)))
    for problem in filter(None, problems):
        terminalreporter.write_line(f"harness: {problem}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Restore the handlers of signals, and end the journal."""
    state = config.stash.get(STATE, None)
    if state is None:
        return
    state.termination.stop()
    state.run_files.close_journal()
