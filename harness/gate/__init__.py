"""Judge a run against a baseline, and show the judgement as text, Markdown and JUnit XML."""
