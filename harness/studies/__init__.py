"""Published studies beside what was measured: ``compare`` gives plain data, which reports render.

A study is data, a TOML file that a plugin registers (`harness.api.Study`); its form is told in
`harness.studies.document`. ``compare(study, records)`` returns a `StudyComparison`, whose fields are texts, numbers,
None, tuples and dataclasses of these, so that ``dataclasses.asdict`` makes plain JSON of it:

- ``name``, ``title``, ``citation``, ``doi``, ``task``: the study's; ``notes`` are the study's own caveats.
- ``rules``: how outcomes are found, sentences that a report shows with the tables.
- ``comparisons``: one `Comparison` for each published figure, in the study's order: ``table``, ``row``, ``column`` say
  where it stands, ``published`` and ``measured`` are the figures, ``difference`` is measured less published with its
  interval (None where the two cannot be compared), ``outcome`` one of `OUTCOMES`, ``reason`` why.
- ``orderings``: one `Ordering` for each finding that is an ordering, with ``contrasts``: the single pairs. An
  ordering's and a contrast's ``outcome`` is one of `VERDICTS`.
- ``remarks``: what of the records was left out, and why. Records of synthetic data always are.
"""

from harness.studies.comparison import OUTCOMES, RULES, Comparison, StudyComparison, compare
from harness.studies.document import Claim, Document, Place, Published, read
from harness.studies.estimates import Estimate
from harness.studies.orderings import VERDICTS, Contrast, Ordering

__all__ = [
    "OUTCOMES",
    "RULES",
    "VERDICTS",
    "Claim",
    "Comparison",
    "Contrast",
    "Document",
    "Estimate",
    "Ordering",
    "Place",
    "Published",
    "StudyComparison",
    "compare",
    "read",
]
