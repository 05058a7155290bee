"""Judge a run against an earlier one, and show the judgement.

`judge.judge` (records of two runs to a `Judgement` with its exit code), `text.gate_text` (for a terminal),
`output.write_findings` (Markdown and JUnit XML).
"""
