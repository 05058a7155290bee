"""Study A's results, published beside measured: Liu et al., JMIR Form Res 2021;5(12):e20767 (10.2196/20767)."""

from __future__ import annotations

import dataclasses
import re
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

TITLE = "Study A (Liu et al. 2021): published beside measured"
MISSING = "-"
DATASETS = ("mimic3", "physionet2012")
#: The other two are in the units of the table: kilobytes, microseconds.
COLUMNS = ("parameters", "file kB", "us/sample", "training s", "AUROC", "AUPRC", "Brier", "calibration error")
#: What another data set and another machine leave comparable: each network against the LSTM beside it.
RELATIVE = ("parameters", "file", "latency", "training", "AUROC")

Records = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of the study's results; the file is Keras's HDF5 with the optimizer's state, the latency a sample's."""

    parameters: int
    file: float
    latency: float
    training: float | None
    auroc: float


@dataclasses.dataclass(frozen=True, order=True)
class Model:
    """A network and what was done to it: the ``quantile`` below which it was pruned, the ``scheme`` of its integers."""

    architecture: str
    quantile: float = 0.0
    scheme: str = ""

    def __str__(self) -> str:
        pruned = f" pruned {100 * self.quantile:g} %" if self.quantile else ""
        return f"{self.architecture}{pruned} {self.scheme}".rstrip()


LSTM = Model("lstm")
#: The study's text gives 0.85 for the LSTM's AUROC, its table 0.836. The parameters of the pruned DNN follow from no
#: halving of its layers (128, 64 and 32 units make 20,225).
PUBLISHED: Mapping[Model, Published] = {
    LSTM: Published(8_081, 129, 523, 4_890, 0.836),
    Model("lstm", 0.5): Published(3_273, 73, 318, 4_990, 0.853),
    Model("hlstm"): Published(6_993, 111, 254, 3_000, 0.860),
    Model("dnn"): Published(60_929, 767, 20, 3_300, 0.82),
    Model("dnn", 0.5): Published(27_312, 315, 10, 3_310, 0.81),
    Model("dnn", 0.0, "uniform8"): Published(60_929, 64, 15, None, 0.82),
}
NOTE = (
    "Published: MIMIC-III, Keras, another machine, files with the optimizer's state. What is left to compare is each "
    "network against the LSTM of its own study, in the second table. Measured: means over seeds, ± their deviation; "
    "us/sample: the median of calls with one sample each; training: the seconds that all steps took, on a machine that "
    "may have had other work; no interval is over patients here."
)


def report(records: Records) -> tuple[str, str] | None:
    """The section for the report: study A's networks on real data of its task; None where there are none."""
    matrices: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for record in records:
        axes = record["axes"]
        if axes["dataset"] in DATASETS and not record["synthetic"] and model_of(record) is not None:
            fixed = (record["suite"], record["matrix"], axes["dataset"], record["preset"], axes["runtime"])
            matrices.setdefault((*fixed, str(axes["profile"])), []).append(record)
    if not matrices:
        return None
    return TITLE, "\n\n".join([*map(_tables, matrices.values()), textwrap.fill(NOTE, 118)])


def model_of(record: Mapping[str, Any]) -> Model | None:
    """Which of the study's models, or of the combinations that it proposes, a record is of; None for another."""
    found = Model(record["axes"]["architecture"])
    if found.architecture not in {model.architecture for model in PUBLISHED}:
        return None
    for entry in record["steps"]:
        name, _, arguments = entry["step"].partition("(")
        if name == "prune_quantile" and (quantile := re.search(r"quantile=([\d.]+)", arguments)):
            found = dataclasses.replace(found, quantile=float(quantile[1]))
        elif name == "quantize" and (scheme := re.search(r"scheme=([\w-]+)", arguments)):
            found = dataclasses.replace(found, scheme=scheme[1])
        elif name != "train":
            return None
    return found


def _tables(records: Records) -> str:
    """The study's table, and that of what can be compared, for the records of one matrix."""
    models: dict[Model, list[Mapping[str, Any]]] = {}
    for record in records:
        if (model := model_of(record)) is not None:
            models.setdefault(model, []).append(record)
    first = records[0]
    heading = f"{first['axes']['dataset']}, matrix {first['matrix']}, preset {first['preset']}"
    texts = [f"{heading}\n\n{_absolute(models)}"]
    if LSTM in models:
        texts.append(f"{heading}: against the LSTM\n\n{_relative(models)}")
    return "\n\n".join(texts)


def _absolute(models: Mapping[Model, Records]) -> str:
    body: list[list[str]] = []
    for model, cells in models.items():
        figures = [
            _mean(cells, _figure("parameters"), 0),
            _mean(cells, _figure("state_size"), 1),
            _mean(cells, _figure("latency"), 1),
            _mean(cells, _seconds, 0),
            *(_mean(cells, _figure(name), 4) for name in ("auroc", "auprc", "brier", "calibration_error")),
        ]
        body.append([str(model), *figures])
        if (row := PUBLISHED.get(model)) is not None:
            training = MISSING if row.training is None else f"{row.training:,g}"
            published = [f"{row.parameters:,}", f"{row.file:g}", f"{row.latency:g}", training, f"{row.auroc:g}"]
            body.append(["  published", *published, *[MISSING] * (len(COLUMNS) - len(published))])
    return _laid_out(["", *COLUMNS], body)


def _relative(models: Mapping[Model, Records]) -> str:
    """Quotients of each figure by the LSTM's, and the difference in AUROC, of those models that the study has too."""
    body: list[list[str]] = []
    base, published_base = {cell["axes"]["seed"]: cell for cell in models[LSTM]}, PUBLISHED[LSTM]
    for model, row in PUBLISHED.items():
        if model == LSTM or model not in models:
            continue
        cells = [cell for cell in models[model] if cell["axes"]["seed"] in base]
        quotients = [
            _mean(cells, _over(base, show), 3)
            for show in (_figure("parameters"), _figure("state_size"), _figure("latency"), _seconds)
        ]
        body.append([str(model), *quotients, _mean(cells, _less(base, _figure("auroc")), 4, "+")])
        training = MISSING
        if row.training is not None and published_base.training is not None:
            training = f"{row.training / published_base.training:.3f}"
        published = (
            f"{row.parameters / published_base.parameters:.3f}",
            f"{row.file / published_base.file:.3f}",
            f"{row.latency / published_base.latency:.3f}",
            training,
            f"{row.auroc - published_base.auroc:+.3f}",
        )
        body.append(["  published", *published])
    return _laid_out(["", *(f"{name} / LSTM's" for name in RELATIVE[:-1]), "AUROC - LSTM's"], body)


def _laid_out(headers: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return tabulate(body, headers=headers, tablefmt="plain", disable_numparse=True, preserve_whitespace=True)


Show = Callable[[Mapping[str, Any]], float | None]


def _figure(name: str) -> Show:
    return lambda record: record["figures"].get(name, {}).get("value")


def _seconds(record: Mapping[str, Any]) -> float | None:
    """What all steps took to build; None when the store does not know it of every one any more."""
    seconds = [entry["seconds"] for entry in record["steps"]]
    return None if None in seconds else sum(seconds)


def _over(base: Mapping[int, Mapping[str, Any]], show: Show) -> Show:
    def quotient(record: Mapping[str, Any]) -> float | None:
        mine, other = show(record), show(base[record["axes"]["seed"]])
        return mine / other if mine is not None and other else None

    return quotient


def _less(base: Mapping[int, Mapping[str, Any]], show: Show) -> Show:
    def difference(record: Mapping[str, Any]) -> float | None:
        mine, other = show(record), show(base[record["axes"]["seed"]])
        return None if mine is None or other is None else mine - other

    return difference


def _mean(cells: Records, show: Show, digits: int, sign: str = "") -> str:
    known = [value for value in map(show, cells) if value is not None]
    if not known:
        return MISSING
    mean = f"{statistics.fmean(known):{sign},.{digits}f}"
    if len(set(known)) == 1:
        return mean
    return f"{mean} ±{statistics.stdev(known):,.{digits}f}"
