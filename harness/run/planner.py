"""Plan a run: which of the selected cells can be built and timed here, and the steps that build them."""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable, Mapping, Sequence

from harness.api import Profile
from harness.api.runtimes import PROFILE_FIELDS
from harness.build import plan as planning
from harness.errors import MeasureError, UsageError
from harness.measure.profile import worker_environment
from harness.plugin.manager import Plugins
from harness.run.options import Options
from harness.suite.matrix import Cell
from harness.text import pluralize

logger = logging.getLogger(__name__)


class Planner:
    """Plans the cells of a run, their references and their steps; warns of cells that cannot run.

    ``cells_by_name`` has all cells, because references need not be selected. ``fingerprint`` takes a data set.
    """

    def __init__(
        self,
        selected: Sequence[Cell],
        cells_by_name: Mapping[str, Cell],
        plugins: Plugins,
        fingerprint: Callable[[str], str],
        options: Options,
    ) -> None:
        #: Every selected cell, and those that are neither skipped nor refused.
        self.selected = list(selected)
        self.runnable = [cell for cell in selected if cell.skip is None and cell.problem is None]
        self._references = {cell.name: cells_by_name[cell.reference_name] for cell in self.runnable}
        self._warn_of(cell.problem for cell in selected if cell.skip is None and cell.problem)
        self._unmeasurable = self._profiles_not_available() if options.timed else {}
        self._refused = self._profiles_not_honoured(plugins) if options.timed else {}
        measurable = [
            cell for cell in self.runnable if cell.profile not in self._unmeasurable and cell.name not in self._refused
        ]
        cells = {cell.name: cell for measured in measurable for cell in (measured, self._references[measured.name])}
        self.plan = planning.make(cells.values(), plugins, fingerprint, options.preset, options.device)
        self._warn_of(str(error) for error in self.plan.problems.values())
        names = {cell.name for cell in self.runnable}
        if untrained := [name for name in self.plan.untrained() if name in names]:
            named = f"{untrained[0]} and {len(untrained) - 1} more" if len(untrained) > 1 else untrained[0]
            logger.warning(f"no step of its recipe trains the network of {named}")

    def reference_of(self, cell: Cell) -> Cell:
        return self._references[cell.name]

    def key_of(self, cell: Cell) -> str:
        """The key of the cell's artefact. Raises the HarnessError that prevents building it."""
        if cell.name in self.plan.problems:
            raise self.plan.problems[cell.name]
        return self.plan.artefacts[cell.name]

    def check_profile(self, cell: Cell) -> None:
        """Raise MeasureError if this machine cannot provide the cell's profile, UsageError if a runtime ignores it."""
        if cell.profile in self._unmeasurable:
            raise self._unmeasurable[cell.profile]
        if cell.name in self._refused:
            raise self._refused[cell.name]

    def _profiles_not_honoured(self, plugins: Plugins) -> dict[str, UsageError]:
        """The cells, by name, whose profile sets a field that their runtime, or their reference's, does not honour."""
        refused: dict[str, UsageError] = {}
        default = Profile()
        for cell in self.runnable:
            changed = [field for field in PROFILE_FIELDS if getattr(cell.profile, field) != getattr(default, field)]
            for name in dict.fromkeys((cell.runtime, self.reference_of(cell).runtime)):
                ignored = [field for field in changed if field not in plugins.runtimes.get(name).profile_fields]
                if ignored:
                    fields = ", ".join(f"{field}={getattr(cell.profile, field)!r}" for field in ignored)
                    refused[cell.name] = UsageError(
                        f"the profile sets {fields}, which runtime {name!r} does not honour: use it with runtimes that "
                        "do, such as torch, or leave it out"
                    )
        self._warn_of(str(error) for error in refused.values())
        return refused

    def _profiles_not_available(self) -> dict[Profile, MeasureError]:
        """The profiles that this machine cannot provide: known before hours are spent on building."""
        problems: dict[Profile, MeasureError] = {}
        for profile in dict.fromkeys(cell.profile for cell in self.runnable):
            try:
                worker_environment(profile)
            except MeasureError as error:
                problems[profile] = error
                count = sum(cell.profile == profile for cell in self.runnable)
                logger.warning(f"{pluralize(count, 'cell')} cannot be timed: {error}")
        return problems

    @staticmethod
    def _warn_of(problems: collections.abc.Iterable[str]) -> None:
        for problem, count in collections.Counter(problems).items():
            logger.warning(f"{pluralize(count, 'cell')} cannot run: {problem}")
