"""Report on runs: tables and charts in the terminal, as a page, Markdown or CSV.

What a plugin needs that draws charts for its sections is exported here.
"""

from harness.report.charts import COLOURS, SHAPES, Spec, framed, tips, valid

__all__ = ["COLOURS", "SHAPES", "Spec", "framed", "tips", "valid"]
