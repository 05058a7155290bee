"""Make pytest-benchmark write whole run files, and keep the finished cells in a journal until it has written one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError, StoreError, Unsupported
from harness.files import atomic_write
from harness.records.journal import Journal, announce_interrupted, recovery
from harness.records.record import FIELD, Unmeasured, to_json
from harness.suite.matrix import Cell
from harness.text import pluralize


class RunFiles:
    """The run files of a pytest session, and its journal."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        #: The finished cells on the disk, until they are in a run file or in the printed tables.
        self._journal: Journal | None = None
        #: Whether the tables with all cells were printed.
        self.shown = False
        self._written = False
        #: Why run files could not be written, such as a full disk.
        self.problems: list[str] = []

    def open_journal(self, folder: Path, sections: Mapping[str, Any]) -> None:
        """Announce the cells of interrupted runs with the same run file, and start the journal of this run.

        It is beside the run file; in ``folder`` where no option names one. ``sections`` are what a run file has of a
        run without measured cells.
        """
        run_file = self._config.getoption("benchmark_json")
        if run_file is None or (run_file.exists() and not run_file.is_file()):  # a device such as /dev/stdout
            run_file = folder / "run.json"
        announce_interrupted(run_file)
        self._journal = Journal(run_file, {**self._document([]), FIELD: dict(sections)})

    def add_measured(self, item: pytest.Item, benchmark: Any, documents: Mapping[str, Any]) -> None:
        """Write a measured cell to the journal, as the run file will have it, with its key documents."""
        assert self._journal is not None
        # A disabled benchmark has no statistics, and pytest-benchmark no entry for it.
        entry = {"name": item.name, "fullname": item.nodeid, "extra_info": benchmark.extra_info}
        if benchmark.stats is not None:
            (entry,) = self._document([benchmark.stats])["benchmarks"]
        self._journal.add({"benchmark": entry, "documents": documents})

    def add_unmeasured(self, cell: Cell, error: HarnessError) -> None:
        """Write a cell that failed or was skipped to the journal."""
        assert self._journal is not None
        outcome = "skipped" if isinstance(error, Unsupported) else "failed"
        entry = Unmeasured(suite=cell.suite, matrix=cell.matrix, cell=cell.id, outcome=outcome, reason=str(error))
        self._journal.add({"left": to_json(entry)})

    def write_atomically(self) -> None:
        """Make pytest-benchmark write whole files. A file that cannot be written does not keep the tables away."""
        from pytest_benchmark import utils

        benchmarks: Any = self._config._benchmarksession  # type: ignore[attr-defined]

        def write(file: Path, document: dict[str, Any]) -> None:
            try:
                with atomic_write(file, "or choose another file") as temporary:
                    text: str = utils.safe_dumps(document, ensure_ascii=True, indent=4)  # type: ignore[no-untyped-call]
                    temporary.write_bytes(text.encode())
            except StoreError as error:
                self.problems.append(str(error))
            else:
                self._written = True
                self.close_journal()  # now, because the next lines fail where the terminal is gone
                benchmarks.logger.info(f"Wrote benchmark data in: {file}", purple=True)

        def save(document: dict[str, Any], name: str) -> None:
            write(storage.get(f"{storage._next_num}_{name}.json"), document)

        benchmarks.save_json = lambda document: write(benchmarks.json, document)
        storage: Any = benchmarks.storage
        if hasattr(storage, "_next_num"):  # a folder, not Elasticsearch
            storage.save = save

    def close_journal(self) -> None:
        """End the journal; it stays on the disk if its cells are nowhere else."""
        if self._journal is not None:
            if self._needs_journal:
                self._journal.close()
            else:
                self._journal.remove()

    @property
    def _needs_journal(self) -> bool:
        """Whether the measured cells are nowhere but in the journal."""
        return not self._written and (bool(self.problems) or not self.shown)

    def missing(self, measured: bool) -> Iterator[str]:
        """Yield why a run file that the options ask for was not written, where pytest-benchmark is silent about it.

        ``measured``: any cell was.
        """
        if self._written or self.problems:
            return
        file, name = self._config.getoption("benchmark_json"), self._config.getoption("benchmark_save")
        reason = "no cell was measured"
        if measured:
            reason = "--benchmark-disable keeps pytest-benchmark from timing and from writing; run without it"
        if file is not None:
            earlier = "; the file there is of an earlier run" if file.exists() else ""
            yield f"{file} was not written: {reason}{earlier}"
        if name or self._config.getoption("benchmark_autosave"):
            yield f"the run was not saved: {reason}"

    def journal_line(self, measured: int) -> str:
        """The line that names the journal if it stays; ``measured`` is the number of measured cells. Else empty."""
        if self._journal is None or not self._needs_journal:
            return ""
        cells, file = f"{self._journal.cells} of {pluralize(measured, 'measured cell')}", self._journal.file
        advice = f"with room on the disk: {recovery(file)}" if self._journal.cells else "copy the tables above"
        return f"{file} keeps {cells}; {advice}"

    def _document(self, benchmarks: Sequence[Any]) -> dict[str, Any]:
        """The document that pytest-benchmark would write, without facts of the machine, which take a while."""
        config, hook = self._config, self._config.hook
        commit: dict[str, Any] = {} if benchmarks else hook.pytest_benchmark_generate_commit_info(config=config)
        document: dict[str, Any] = hook.pytest_benchmark_generate_json(
            config=config, benchmarks=benchmarks, include_data=True, machine_info={}, commit_info=commit
        )
        return document
