"""The site of the documentation builds strictly, has every page, and loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(file.stem for file in (ROOT / "docs").glob("*.md") if file.stem != "index")
#: What a browser fetches by itself: scripts, pictures, frames, style sheets.
FETCHED = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=\"?([^\"\s>]+)|<link[^>]*stylesheet[^>]*\shref=\"?([^\"\s>]+)")


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs: pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stderr
    files = [tmp_path / "index.html", *(tmp_path / page / "index.html" for page in (*PAGES, "results"))]
    for file in files:
        html = file.read_text()
        fetched = [script or style for script, style in FETCHED.findall(html)]
        assert fetched, file
        assert not [address for address in fetched if "//" in address], file
    assert (tmp_path / "results" / "report.html").exists()  # docs/studies.md links to it
