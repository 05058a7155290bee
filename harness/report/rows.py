"""Flatten a network's variants into rows of plain values, for charts and for the script of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.choice import front
from harness.report.model import Network, Variant, by_cell, nonzero_share, secondary_sizes
from harness.stats.estimates import Estimate

ESTIMATES = ("quality", "difference", "ratio")
BOUNDS = ("", "_low", "_high")
FIELDS = (
    "label",
    "series",
    "level",
    *(f"{name}{bound}" for name in ESTIMATES for bound in BOUNDS),
    "latency",
    "size",
    "size_share",
    "parameter_share",
    "nonzero_share",
    "file",
    "verdict",
    "disturbed",
    "seeds",
    "front_latency",
    "front_size",
    "reference",
    "run",
)
#: Significant digits for charts; the records hold all.
DIGITS = 7

Row = dict[str, Any]


def rows(network: Network) -> list[Row]:
    """One row for each variant, with `FIELDS`. Unknown values are None; all numbers are finite, as JSON requires."""
    fronts = {
        "front_latency": _front(network.variants, lambda variant: variant.ratio),
        "front_size": _front(network.variants, lambda variant: _exact(variant.size)),
    }
    levels = _levels(network)
    values = [
        _row(network, variant, levels) | {name: states.get(variant.label) for name, states in fronts.items()}
        for variant in network.variants
    ]
    sizes, references = secondary_sizes(network.records), by_cell(network.records)
    for row, variant in zip(values, network.variants, strict=True):
        if sizes.nonzero is not None:
            share = nonzero_share([cell.record for cell in variant.cells], references, sizes.nonzero)
            row["nonzero_share"] = finite(share)
        row["file"] = finite(variant.mean(sizes.file))
    return values


def _row(network: Network, variant: Variant, levels: Mapping[str, str]) -> Row:
    row: Row = dict.fromkeys(FIELDS)
    for name in ESTIMATES:
        estimate: Estimate | None = getattr(variant, name)
        if estimate is not None:
            values = (estimate.value, estimate.low, estimate.high)
            row |= {f"{name}{bound}": finite(value) for bound, value in zip(BOUNDS, values, strict=True)}
    for name in ("latency", "size", "size_share", "parameter_share"):
        row[name] = finite(getattr(variant, name))
    runs = {cell.run for cell in variant.cells}
    return row | {
        "label": variant.label,
        "series": _key(network.series(variant)),
        "level": levels[network.level(variant)],
        "verdict": variant.verdict_text,
        "disturbed": variant.disturbed,
        "seeds": len(variant.cells),
        "reference": variant.reference,
        "run": runs.pop() if len(runs) == 1 else None,
    }


def _levels(network: Network) -> dict[str, str]:
    """Label each level with its share of the parameters, where that is known.

    Levels are sorted by falling share, so that lines do not jump between two ways of pruning. Equal shares, and all
    levels if one share is unknown, stay in the order of the suite.
    """
    shares: dict[str, float] = {}
    for variant in sorted(network.variants, key=lambda entry: not entry.is_reference):
        level = network.level(variant)
        if variant.parameter_share is not None and level not in shares:
            shares[level] = variant.parameter_share
    order = list(network.levels)
    if shares.keys() >= set(order):
        order.sort(key=lambda level: -shares[level])
    named = {level: f"{level} ({100 * shares[level]:.3g} %)" if level in shares else level for level in order}
    return {level: _key(name) for level, name in named.items()}


def _key(name: str) -> str:
    """Escape ``__proto__``, which Vega cannot use as an object key."""
    return f"{name} " if name == "__proto__" else name


def level_order(network: Network) -> list[str]:
    """The labels of the levels, in the order of a chart's axis."""
    return list(_levels(network).values())


def _front(variants: Sequence[Variant], across: Any) -> dict[str, str]:
    known = [(variant.label, x, variant.difference) for variant in variants if (x := across(variant)) is not None]
    points = [(label, x, y) for label, x, y in known if y is not None]
    states = front([(x, y) for _, x, y in points])
    return {label: state for (label, _, _), state in zip(points, states, strict=True)}


def _exact(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(value)


def finite(value: float | None) -> float | None:
    """The number rounded to a chart's precision; None if it is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")
