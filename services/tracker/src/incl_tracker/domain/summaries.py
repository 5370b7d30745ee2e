"""The summary of one metric of one experiment, kept up with each batch.

The newest point is the one of the latest attempt with the greatest step (then time). A step that a later attempt
logs again supersedes the earlier attempt's, also in the extremes. Nothing here depends on the order of arrival.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from incl_tracker.domain.points import Points


@dataclass(frozen=True, slots=True)
class Extreme:
    """The least or greatest value, where it was first reached."""

    value: float
    step: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What lists and filters read. points: all that are stored of this rank, superseded ones included."""

    rank: int
    points: int
    last: float
    last_step: int
    last_time: float
    last_attempt: int
    minimum: Extreme | None
    maximum: Extreme | None


def add(summary: Summary | None, rank: int, attempt: int, points: Points) -> tuple[Summary, bool]:
    """(summary with these new points, whether its extremes must be computed again from all points).

    The lowest rank that logged the metric is the one that is summarised.
    """
    fresh = summarise(rank, attempt, points)
    if summary is None or rank < summary.rank:
        return fresh, False
    if rank > summary.rank:
        return summary, False
    stale = attempt < summary.last_attempt or _superseded(summary, attempt, points)
    return combine(summary, fresh), stale


def summarise(rank: int, attempt: int, points: Points) -> Summary:
    """The summary of points of one attempt, of which there is one at least."""
    order = range(len(points))
    last = max(order, key=lambda i: (points.steps[i], points.times[i], _rank(points.values[i])))
    real = [i for i in order if not math.isnan(points.values[i])]
    low = min(real, key=lambda i: (points.values[i], points.steps[i]), default=None)
    high = min(real, key=lambda i: (-points.values[i], points.steps[i]), default=None)
    return Summary(
        rank=rank,
        points=len(points),
        last=points.values[last],
        last_step=points.steps[last],
        last_time=points.times[last],
        last_attempt=attempt,
        minimum=None if low is None else Extreme(points.values[low], points.steps[low], attempt),
        maximum=None if high is None else Extreme(points.values[high], points.steps[high], attempt),
    )


def combine(one: Summary, two: Summary) -> Summary:
    """Both together, when neither supersedes a point of the other."""
    newest = max(one, two, key=_newness)
    return replace(
        newest,
        points=one.points + two.points,
        minimum=_least([one.minimum, two.minimum], 1.0),
        maximum=_least([one.maximum, two.maximum], -1.0),
    )


def effective(by_attempt: dict[int, Points]) -> dict[int, Points]:
    """The points that count: steps that a later attempt logged too are taken out of the earlier ones."""
    result: dict[int, Points] = {}
    later: set[int] = set()
    for attempt in sorted(by_attempt, reverse=True):
        points = by_attempt[attempt]
        if later and not later.isdisjoint(points.steps):
            points = points.take(i for i, step in enumerate(points.steps) if step not in later)
        result[attempt] = points
        later.update(by_attempt[attempt].steps)
    return result


def again(summary: Summary, by_attempt: dict[int, Points]) -> Summary:
    """The summary with its extremes computed from all points of its rank."""
    parts = [summarise(summary.rank, a, p) for a, p in effective(by_attempt).items() if len(p)]
    return replace(
        summary,
        minimum=_least([part.minimum for part in parts], 1.0),
        maximum=_least([part.maximum for part in parts], -1.0),
    )


def _newness(summary: Summary) -> tuple[int, int, float, tuple[bool, float]]:
    return summary.last_attempt, summary.last_step, summary.last_time, _rank(summary.last)


def _rank(value: float) -> tuple[bool, float]:
    return (False, 0.0) if math.isnan(value) else (True, value)


def _least(extremes: Iterable[Extreme | None], sign: float) -> Extreme | None:
    real = [e for e in extremes if e is not None]
    return min(real, key=lambda e: (sign * e.value, e.step, e.attempt), default=None)


def _superseded(summary: Summary, attempt: int, points: Points) -> bool:
    at_risk = {e.step for e in (summary.minimum, summary.maximum) if e is not None and e.attempt < attempt}
    return bool(at_risk) and not at_risk.isdisjoint(points.steps)
