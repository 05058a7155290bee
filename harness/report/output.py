"""Write the report to a file: a page, Markdown or CSV, by the file's suffix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api.sections import ReportContext, Section
from harness.errors import HarnessError, UsageError, describe_error, nearest
from harness.files import atomic_write

if TYPE_CHECKING:
    from harness.plugin.manager import Plugins
    from harness.records.changes import Documents
    from harness.records.record import Record, Unmeasured
    from harness.report.model import Report

    Sections = Sequence[Section]

#: Makes the file's content from a report and the sections of plugins.
Form = Callable[["Report", "Sections"], str]


def _page(report: Report, sections: Sections) -> str:
    from harness.report.page import page

    return page(report, sections)


def _markdown(report: Report, sections: Sections) -> str:
    from harness.report.markdown import markdown

    return markdown(report, sections)


def _sheet(report: Report, sections: Sections) -> str:
    from harness.report.sheet import sheet

    return sheet(report)


FORMS: dict[str, Form] = {".html": _page, ".md": _markdown, ".csv": _sheet}


def file_sections(report: Report, plugins: Plugins) -> list[Section]:
    """The sections of plugins for a report in a file, or for figures."""
    from harness.records.record import to_json

    sections = plugins.sections(list(map(to_json, report.records)), ReportContext(None, None, plugins.things))
    return [section for section in sections if not section.on_request]


def check_form(file: Path) -> None:
    """Raise UsageError for a file with another suffix."""
    if file.suffix.lower() not in FORMS:
        raise UsageError(f"a report is a file *.html, *.md or *.csv, not {file}{nearest(file.suffix, FORMS)}")


def write_report(report: Report, plugins: Plugins, file: Path) -> None:
    """Write the report. Raises UsageError for another suffix, StoreError if the file cannot be written."""
    check_form(file)
    text = FORMS[file.suffix.lower()](report, file_sections(report, plugins))
    with atomic_write(file, "or name another file") as temporary:
        # A name from a run file may hold half a surrogate pair, which UTF-8 cannot encode.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def report_run(
    records: Sequence[Record],
    left: Sequence[Unmeasured],
    documents: Documents,
    name: str | None,
    file: Path,
    plugins: Plugins,
) -> str:
    """Write the report of the run that ends now, whose run file is ``name``; return a message."""
    from datetime import UTC, datetime

    from pytest_benchmark import utils

    from harness.records.runs import Run, commit_of
    from harness.report.model import report

    path, commit = Path(name or "this run, which has no file"), commit_of(utils.get_commit_info(""))  # type: ignore[no-untyped-call]
    run = Run(path, datetime.now(UTC), commit, tuple(records), documents, tuple(left))
    try:
        write_report(report([run]), plugins, file)
    except HarnessError as error:
        return f"harness: no report: {error}"
    except Exception as error:  # the run file, with hours of work, is not written yet
        return f"harness: no report: {describe_error(error)}"
    return f"harness: the report is {file}"
