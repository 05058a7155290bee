"""Choose variants: the smallest and the fastest within a loss of quality, and the Pareto front."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Sequence

from harness.report.model import Network, Variant
from harness.stats.estimates import Estimate

#: Losses of the headline figure of quality, in its unit.
MARGINS = (0.001, 0.005, 0.01, 0.02)
#: On the front; dominated by an estimate, but not surely; surely dominated.
ON, OPEN, OFF = "on the front", "perhaps on the front", "off the front"


@dataclasses.dataclass(frozen=True)
class Choice:
    """The best variants within a loss of quality.

    ``sure``: the upper bound of the loss is within the margin; otherwise only the estimate is.
    """

    margin: float
    sure: bool
    smallest: Variant | None
    fastest: Variant | None
    #: Other variants within the margin whose latency interval overlaps that of the fastest.
    as_fast: tuple[Variant, ...] = ()


def choices(network: Network) -> list[Choice]:
    """The best variants at each margin, the sure choice first."""
    return [choice(network, margin, sure) for margin in MARGINS for sure in (True, False)]


def choice(network: Network, margin: float, sure: bool) -> Choice:
    """The best variants within a margin."""
    within = [variant for variant in network.variants if _loses(variant, sure) <= margin]
    sized = [variant for variant in within if variant.size is not None]
    timed = [variant for variant in within if variant.ratio is not None and variant.disturbed < len(variant.cells)]
    smallest = min(sized, key=lambda variant: variant.size or 0.0, default=None)
    fastest = min(timed, key=lambda variant: _value(variant.ratio), default=None)
    rivals: list[Variant] = []
    if fastest is not None:
        rivals = [other for other in timed if other is not fastest and _overlap(other.ratio, fastest.ratio)]
    return Choice(margin, sure, smallest, fastest, tuple(rivals))


def _loses(variant: Variant, sure: bool) -> float:
    """The loss of a variant: its estimate, or its upper bound if ``sure``."""
    if variant.loss is None:
        return float("inf")
    if not sure or variant.is_reference:
        return variant.loss.value
    return float("inf") if variant.loss.high is None else variant.loss.high


def no_better_than_chance(network: Network) -> str | None:
    """Say which reference is not shown to be better than chance; None where each is, or chance is not known.

    Beside such a reference every network that guesses is "within the loss".
    """
    quality = network.quality
    if quality is None or quality.chance is None:
        return None
    for variant in network.variants:
        if variant.is_reference and variant.quality is not None:
            worst = variant.quality.high if quality.better == "lower" else variant.quality.low
            bound = _or(worst, variant.quality.value)
            if bound >= quality.chance if quality.better == "lower" else bound <= quality.chance:
                return (
                    f"The reference is not shown to be better than chance ({quality.name} "
                    f"{variant.quality.text(quality.digits)}, chance {quality.chance:g}), so nothing is chosen: "
                    "a network that guesses loses nothing beside it."
                )
    return None


def lead(network: Network, margin: float = 0.005) -> str:
    """Summarize the network: its smallest and its fastest variant within the margin."""
    quality = network.quality
    if quality is None or len(network.variants) < 2:
        return "Nothing to choose: the quality of no two variants was compared."
    if (guessing := no_better_than_chance(network)) is not None:
        return guessing
    sure, likely = choice(network, margin, True), choice(network, margin, False)
    best = sure if sure.smallest is not None or sure.fastest is not None else likely
    variants = []
    if best.smallest is not None:
        variants.append(f"the smallest is {_name(best.smallest)}{_size_text(best.smallest)}")
    if best.fastest is not None:
        variants.append(f"the fastest is {_name(best.fastest)}{_latency_text(best.fastest)}")
        if best.fastest.is_reference and (faster := _faster(network)) is not None:
            variants.append(
                f"faster, with a loss that is not shown to be within it: {faster.label}{_latency_text(faster)}"
            )
    within = f"within {margin:g} {quality.name} of the reference"
    if not variants:
        return f"No variant is {within}."
    if best is sure:
        text = f"Surely {within}: {'; '.join(variants)}."
    else:
        text = f"Probably {within} (no interval lies within it): {'; '.join(variants)}."
    if best is sure and likely.smallest is not sure.smallest and likely.smallest is not None:
        text += f" Probably within it too, and smaller: {likely.smallest.label}{_size_text(likely.smallest)}."
    return text


def _faster(network: Network) -> Variant | None:
    """The fastest of the variants that are surely faster than the reference, whatever their loss."""
    timed = [variant for variant in network.variants if variant.disturbed < len(variant.cells)]
    faster = [variant for variant in timed if variant.ratio is not None and _or(variant.ratio.high, 1.0) < 1.0]
    return min(faster, key=lambda variant: _value(variant.ratio), default=None)


def _name(variant: Variant) -> str:
    return "the reference itself" if variant.is_reference else variant.label


def _size_text(variant: Variant) -> str:
    if variant.size_share is None or variant.is_reference:
        return ""
    return f" ({100 * variant.size_share:.0f} % of the reference's size)"


def _latency_text(variant: Variant) -> str:
    ratio = variant.ratio
    if ratio is None or variant.is_reference:
        return ""
    gain = ", no gain shown" if ratio.high is not None and ratio.high >= 1 else ""
    return f" ({ratio.text(3)} of the reference's latency{gain}){variant.disturbance}"


def front(points: Sequence[tuple[Estimate, Estimate]]) -> list[str]:
    """Classify points by the Pareto front; small first coordinates and large second ones are better.

    A point is on the front if no other estimate is at least as good in both and better in one. It is surely off the
    front if the whole interval of another point is better in both.
    """
    best = _sweep(points, lambda x: x.value, lambda y: y.value)
    sure = _sweep(
        points, lambda x: x.value if x.high is None else x.high, lambda y: y.value if y.low is None else y.low
    )
    states = []
    for x, y in points:
        beaten = _beaten(best, x.value, y.value)
        low, high = _or(x.low, x.value), _or(y.high, y.value)
        states.append(ON if not beaten else OFF if _beaten(sure, low, high) else OPEN)
    return states


#: The steps of a staircase: the best y at this x or less.
Stairs = list[tuple[float, float]]


def _sweep(
    points: Sequence[tuple[Estimate, Estimate]], x: Callable[[Estimate], float], y: Callable[[Estimate], float]
) -> Stairs:
    stairs: Stairs = []
    for across, up in sorted(((x(a), y(b)) for a, b in points), key=lambda point: (point[0], -point[1])):
        if not stairs or up > stairs[-1][1]:
            stairs.append((across, up))
    return stairs


def _beaten(stairs: Stairs, x: float, y: float) -> bool:
    """Whether some step is at least as good in both and better in one."""
    place = bisect.bisect_right(stairs, (x, float("inf"))) - 1
    if place < 0:
        return False
    across, up = stairs[place]
    return up > y or (up == y and across < x)


def _or(bound: float | None, value: float) -> float:
    """The bound of an interval, or the value if it has no bound."""
    return value if bound is None else bound


def _value(estimate: Estimate | None) -> float:
    return float("inf") if estimate is None else estimate.value


def _overlap(one: Estimate | None, other: Estimate | None) -> bool:
    if one is None or other is None:
        return False
    lows = [_or(entry.low, entry.value) for entry in (one, other)]
    highs = [_or(entry.high, entry.value) for entry in (one, other)]
    return max(lows) <= min(highs)
