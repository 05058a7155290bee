"""Follow figures over many runs.

`series.history` (runs to series and their changes), `text.history_text` and `text.history_document` (text and JSON),
`figure.draw` (SVG, PNG or PDF).
"""
