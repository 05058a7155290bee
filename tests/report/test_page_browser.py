"""The report's page in a browser: it is opened from disk, filtered, re-based, sorted and read by keyboard."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import run_files
from hostile import hostile_records
from made_study import cell, sections, study

from harness.api.sections import Section
from harness.records.runs import read
from harness.report.model import report
from harness.report.page import page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; a system's package has it")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root, as in a container, there is none
        started = play.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def trouble() -> list[str]:
    """What went wrong in a page, or was loaded by it."""
    return []


@pytest.fixture(autouse=True)
def no_trouble(trouble: list[str]) -> Iterator[None]:
    """At the end of each test nothing may have gone wrong in a page, or been loaded."""
    trouble.clear()
    yield
    assert trouble == []


@pytest.fixture(scope="module")
def new_page(browser: Any, trouble: list[str], tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Opens the page of some records."""

    def show(made: Sequence[Any], added: Sequence[Section] = (), **settings: Any) -> Any:
        folder = tmp_path_factory.mktemp("page")
        file = folder / "report.html"
        text = page(
            report([read(run_files.write(folder / "run.json", made))]), [*added, Section("Carbon", text="none")]
        )
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
        opened = browser.new_context(**settings).new_page()
        opened.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
        opened.on("pageerror", lambda error: trouble.append(str(error)))
        opened.on("dialog", lambda dialog: (trouble.append("a dialog"), dialog.dismiss()))
        opened.on("request", lambda request: trouble.append(request.url) if _outside(request.url) else None)
        opened.goto(file.as_uri())
        if settings.get("java_script_enabled", True):
            opened.wait_for_selector("#live svg.marks >> nth=0")
        return opened

    return show


@pytest.fixture
def open_page(new_page: Open, no_trouble: None) -> Iterator[Open]:
    """Opens the page of some records, for this test alone."""
    pages = []

    def show(*arguments: Any, **settings: Any) -> Any:
        pages.append(new_page(*arguments, **settings))
        return pages[-1]

    yield show
    for opened in pages:
        opened.context.close()


@pytest.fixture(scope="module")
def matrix_page(new_page: Open) -> Any:
    """The page of the matrix, loaded once; tests take it through ``opened`` or ``open_matrix``."""
    return new_page(matrix())


@pytest.fixture
def open_matrix(matrix_page: Any) -> Open:
    """Gives the page of the matrix as if just opened in such a window: controls, theme and charts are as at first."""

    def show(width: int = 1280, scheme: str = "light") -> Any:
        matrix_page.set_viewport_size({"width": width, "height": 800})
        matrix_page.emulate_media(media="screen", color_scheme=scheme)
        matrix_page.evaluate(
            "() => { delete document.documentElement.dataset.theme; document.activeElement.blur();"
            " document.querySelectorAll('#live figure').forEach(figure => (figure.dataset.earlier = true));"
            " document.getElementById('controls').reset(); }"
        )
        matrix_page.wait_for_function(
            "document.querySelectorAll('#live figure:not([data-earlier]) svg.marks').length == 5"
        )
        return matrix_page

    return show


@pytest.fixture
def opened(open_matrix: Open) -> Any:
    """The page of the matrix in a window of a usual width."""
    return open_matrix()


def _outside(url: str) -> bool:
    return not url.startswith(("data:", "blob:")) and not url.endswith("/report.html")


def matrix() -> list[Any]:
    """Two networks of three levels in two precisions each."""
    ratios = {"full": 1.0, "half": 0.8, "tenth": 0.4}
    losses = {"full": 0.0, "half": -0.002, "tenth": -0.05}
    return [
        run_files.cell(
            ratios[level] * (0.5 if precision == "int8" else 1.0),
            error=0.01,
            architecture=architecture,
            pruning=level,
            precision=precision,
            difference=(losses[level], losses[level] - 0.003, losses[level] + 0.003),
            figures={"auroc": 0.9 + losses[level], "parameters": 1000 * ratios[level]},
        )
        for architecture in ("conv", "lstm")
        for precision in ("float32", "int8")
        for level in ratios
    ]


def rows(opened: Any) -> list[str]:
    found: list[str] = opened.locator("#table .opens").all_inner_texts()
    return found


def cells(opened: Any, variant: str) -> list[str]:
    line = opened.locator("#table tbody tr").filter(has=opened.get_by_text(variant, exact=True))
    found: list[str] = line.locator("td").all_inner_texts()
    return found


def points(opened: Any) -> int:
    count: int = opened.locator("#live figure").first.locator(".mark-symbol.role-mark path").count()
    return count


@pytest.mark.slow
def test_a_study_s_chart_stands_in_its_section(open_page: Open, tmp_path: Path) -> None:
    opened = open_page(matrix(), sections(study(tmp_path), [cell(figures={"auroc": 0.93})]))
    opened.wait_for_selector("#section1-charts svg.marks")
    assert "band is the margin" in opened.locator("#section1-charts figcaption").inner_text()
    assert opened.locator("#section1-charts .mark-symbol.role-mark path").count() == 1


def test_a_filter_acts_on_the_table_and_the_charts(opened: Any) -> None:
    assert opened.title() == "Compression report"
    assert len(rows(opened)) == 6
    assert opened.locator("#live figure").count() == 5
    opened.wait_for_function("document.querySelectorAll('#live svg.marks').length == 5")
    assert points(opened) == 6
    opened.get_by_label("int8", exact=True).uncheck()
    assert rows(opened) == ["plain-full-float32", "plain-half-float32", "plain-tenth-float32"]
    opened.wait_for_function(
        "document.querySelector('#live figure').querySelectorAll('.mark-symbol.role-mark path').length == 3"
    )
    assert "3 of 6 variants are shown" in opened.locator("#status").inner_text()
    opened.get_by_label("Search", exact=True).fill("tenth")
    assert rows(opened) == ["plain-tenth-float32"]
    opened.get_by_role("button", name="Show all again").click()
    opened.wait_for_function("document.querySelectorAll('#table tbody tr').length == 6")


def test_another_network_and_all_networks(opened: Any) -> None:
    opened.get_by_label("Network", exact=True).select_option("lstm on toy")
    assert "lstm on toy" in opened.locator("#charts-network").inner_text()
    opened.get_by_label("Network", exact=True).select_option("all networks")
    assert len(rows(opened)) == 12
    assert "lstm on toy: plain-full-int8" in rows(opened)
    assert opened.get_by_label("Reference", exact=True).is_disabled()


def test_another_reference_takes_quotients_and_adds_variances(opened: Any) -> None:
    """0.4 over 0.8 is 0.5; each has 3.182 * 0.01 as half of its log's interval, so 0.045 together."""
    assert cells(opened, "plain-tenth-float32")[2] == "0.400 [0.387, 0.413]"
    opened.get_by_label("Reference", exact=True).select_option("plain-half-float32")
    assert cells(opened, "plain-tenth-float32")[1:3] == ["-0.0480 [-0.0522, -0.0438]", "0.500 [0.478, 0.523]"]
    assert cells(opened, "plain-half-float32")[1:3] == ["+0.0000 [+0.0000, +0.0000]", "1.000 [1.000, 1.000]"]
    assert opened.locator("#rebased").is_visible()


def test_variants_of_other_references_are_refused(open_page: Open) -> None:
    made = matrix()
    for record in made:
        if record["axes"]["precision"] == "int8":
            record["reference"] = record["reference"].replace("float32", "int8")
    opened = open_page(made)
    opened.get_by_label("Reference", exact=True).select_option("plain-half-float32")
    assert cells(opened, "plain-tenth-int8")[1:3] == ["-", "-"]
    assert "3 have no common reference" in opened.locator("#status").inner_text()


def test_a_row_opens_to_its_records_by_keyboard(opened: Any) -> None:
    opened.locator("#table .opens").nth(1).focus()
    opened.keyboard.press("Enter")
    trace = opened.locator("#table .trace")
    trace.wait_for()
    assert '"artefact sha256": "' + "a" * 64 in trace.inner_text()
    assert "run.json" in trace.inner_text()


def test_zeroed_weights_have_a_column_where_there_are_any(opened: Any, open_page: Open) -> None:
    heads = "#table thead th"
    assert "nonzero left" not in opened.locator(heads).all_inner_texts()
    made = matrix()
    for record in made:
        kept = 250.0 if record["axes"]["pruning"] == "half" else record["figures"]["parameters"]["value"]
        record["figures"]["nonzero"] = {**record["figures"]["parameters"], "value": kept}
    shown = open_page(made)
    place = shown.locator(heads).all_inner_texts().index("nonzero left")
    assert shown.locator("#table tbody tr").nth(1).locator("th, td").nth(place).inner_text() == "25.0 %"


def test_columns_sort_both_ways(opened: Any) -> None:
    opened.get_by_role("button", name="latency / reference").click()
    assert rows(opened)[0] == "plain-tenth-int8"
    opened.keyboard.press("Enter")  # the button has kept the focus
    assert rows(opened)[0] == "plain-full-float32"
    assert opened.locator("th[aria-sort=descending]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_its_window_in_both_themes(open_matrix: Open, width: int, scheme: str) -> None:
    opened = open_matrix(width, scheme)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    lightness = sum(
        map(int, re.findall(r"\d+", opened.evaluate("getComputedStyle(document.body).backgroundColor"))[:3])
    )
    assert (lightness > 600) == (scheme == "light")
    opened.get_by_role("button", name="Theme").click()
    assert opened.locator("html").get_attribute("data-theme") == "light"


def test_paper_shows_what_is_folded_away(open_matrix: Open) -> None:
    opened = open_matrix(scheme="dark")
    assert not opened.get_by_text("lstm on toy: the best within a loss").is_visible()
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    opened.emulate_media(media="print")
    assert opened.get_by_text("lstm on toy: the best within a loss").is_visible()
    assert not opened.locator("#controls").is_visible()
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    opened.emulate_media(media="screen")
    assert not opened.get_by_text("lstm on toy: the best within a loss").is_visible()


def test_without_a_script_the_figures_are_there(open_page: Open) -> None:
    opened = open_page(matrix(), java_script_enabled=False)
    assert opened.get_by_role("table").count() >= 3
    assert opened.locator("noscript img").count() >= 1
    assert not opened.locator("#explore").is_visible()
    assert opened.get_by_text("0.800 [0.775, 0.826]").count() >= 1


def test_hostile_names_do_nothing(open_page: Open) -> None:
    opened = open_page(hostile_records())
    for value in opened.locator("#network option").evaluate_all("options => options.map(option => option.value)"):
        opened.get_by_label("Network", exact=True).select_option(value)
    assert opened.evaluate("document.documentElement.scrollWidth") <= 1280
    assert opened.locator("script").count() == 3


@pytest.mark.slow
@pytest.mark.parametrize("networks", [1, 100])
def test_ten_thousand_cells_stay_usable(open_page: Open, networks: int) -> None:
    levels = 10_000 // networks
    made = [
        run_files.cell(1 / (level + 1), architecture=f"net{number}", pruning=f"level{level}" if level else "full")
        for number in range(networks)
        for level in range(levels)
    ]
    opened = open_page(made)
    shown = opened.locator("#status").inner_text()
    assert f"{levels} of {levels} variants are shown." in shown
    assert ("Charts show 2000 of them" in shown) == (networks == 1)
    opened.get_by_label("Network", exact=True).select_option("all networks")
    assert len(rows(opened)) == 100
    opened.get_by_label("Search", exact=True).fill(f"net{networks - 1} level99")
    assert rows(opened)[0] == f"net{networks - 1} on toy: plain-level99-float32"
