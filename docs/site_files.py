"""Add the files of the repository that the pages link to, such as results, to the site that mkdocs builds.

The pages link relative to their place in the repository, so that they can be read there too; mkdocs knows only
``docs/``.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"(?<=\]\()\.\./(?=[\w.-])")
LINK = re.compile(r"\]\(([\w./-]+)")
#: The one page of the site that stands outside docs/, with links relative to its own folder.
RESULTS = "results/README.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add each file outside ``docs/`` that a page links to."""
    pages = [file.content_string for file in files.documentation_pages()]
    linked = {path for page in pages for link in LINK.findall(page) if (path := link.removeprefix("../")) != link}
    linked |= {f"results/{link}" for link in LINK.findall((ROOT / RESULTS).read_text()) if "//" not in link}
    for path in sorted({RESULTS, *linked}):
        if (ROOT / path).is_file():
            files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links out of ``docs/`` become links within the site, whose root is that of the repository too."""
    return markdown if page.file.src_uri == RESULTS else OUTSIDE.sub("", markdown)
