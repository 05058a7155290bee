"""Plan a run: which of the selected cells can be built and timed here, and the steps that build them."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable, Mapping, Sequence

from harness.api import Profile
from harness.build import plan as planning
from harness.errors import MeasureError
from harness.measure.profile import worker_environment
from harness.plugin.manager import Plugins
from harness.run.options import Options
from harness.suite.matrix import Cell
from harness.text import pluralize

logger = logging.getLogger(__name__)


class Planner:
    """The cells of a run with their references, and the plan of their steps; warns of what cannot run.

    ``known`` has all cells by name, because references need not be selected. ``fingerprint`` names the content of a
    data set.
    """

    def __init__(
        self,
        chosen: Sequence[Cell],
        known: Mapping[str, Cell],
        plugins: Plugins,
        fingerprint: Callable[[str], str],
        options: Options,
    ) -> None:
        #: Every selected cell, and those of them that can be tried.
        self.chosen = list(chosen)
        self.selected = [cell for cell in chosen if cell.skip is None and cell.problem is None]
        self._references = {cell.name: known[cell.reference_name] for cell in self.selected}
        self._warn_of(cell.problem for cell in chosen if cell.skip is None and cell.problem)
        self._unmeasurable = self._profiles_not_available() if options.timed else {}
        measurable = [cell for cell in self.selected if cell.profile not in self._unmeasurable]
        cells = {cell.name: cell for own in measurable for cell in (own, self._references[own.name])}
        self.plan = planning.make(cells.values(), plugins, fingerprint, options.preset, options.device)
        self._warn_of(str(error) for error in self.plan.problems.values())
        selected = {cell.name for cell in self.selected}
        if untrained := [cell for cell in self.plan.untrained() if cell in selected]:
            named = f"{untrained[0]} and {len(untrained) - 1} more" if len(untrained) > 1 else untrained[0]
            logger.warning(f"no step of its recipe trains the network of {named}")

    def reference_of(self, cell: Cell) -> Cell:
        return self._references[cell.name]

    def key_of(self, cell: Cell) -> str:
        """The key of the cell's artefact. Raises the HarnessError for which the cell cannot be built."""
        if cell.name in self.plan.problems:
            raise self.plan.problems[cell.name]
        return self.plan.artefacts[cell.name]

    def check_profile(self, cell: Cell) -> None:
        """Raise MeasureError when this machine cannot give the cell's profile."""
        if cell.profile in self._unmeasurable:
            raise self._unmeasurable[cell.profile]

    def _profiles_not_available(self) -> dict[Profile, MeasureError]:
        """The profiles that this machine cannot give, found before hours are spent on building."""
        problems: dict[Profile, MeasureError] = {}
        for profile in dict.fromkeys(cell.profile for cell in self.selected):
            try:
                worker_environment(profile)
            except MeasureError as error:
                problems[profile] = error
                count = sum(cell.profile == profile for cell in self.selected)
                logger.warning(f"{pluralize(count, 'cell')} cannot be timed: {error}")
        return problems

    @staticmethod
    def _warn_of(problems: collections.abc.Iterable[str]) -> None:
        for problem, count in collections.Counter(problems).items():
            logger.warning(f"{pluralize(count, 'cell')} cannot run: {problem}")
