"""Names that would do something, were they not taken as text, and records of cells that have them."""

from __future__ import annotations

from typing import Any

import run_files

NAMES = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script><!--",
    '" onmouseover="alert(1)',
    "two\nlines",
    "x" * 10_000,
    "\u202eright to left\u202c",
    "Ναΐ 模型 🦔",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
    "a\\u003cb",
    "__proto__",
    "half a pair \ud800",
    "| pipe | `code` | [link](http://example.org)",
    "=1+1",
]


def hostile_records() -> list[Any]:
    """Each name as every axis of a network, and all as levels of one."""
    made = [
        run_files.cell(1.0, pruning=name, architecture=name, dataset=name, profile=name, preset=name) for name in NAMES
    ]
    return [*made, *(run_files.cell(0.5, pruning=name, error=0.01) for name in NAMES)]
