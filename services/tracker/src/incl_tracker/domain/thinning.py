"""As many points as a chart has pixels, and no spike lost."""

from __future__ import annotations

import math
from itertools import pairwise

from incl_tracker.domain.points import Points
from incl_tracker.domain.summaries import effective


def one_series(by_attempt: dict[int, Points], low: int | None = None, high: int | None = None) -> Points:
    """The points that count, in the order of steps (then of time), within low…high."""
    whole = Points()
    for points in effective(by_attempt).values():
        whole.extend(points)
    steps = whole.steps
    places = [i for i in range(len(whole)) if (low is None or steps[i] >= low) and (high is None or steps[i] <= high)]
    if all(steps[a] < steps[b] for a, b in pairwise(places)):
        return whole if len(places) == len(whole) else whole.take(places)
    places.sort(key=lambda i: (steps[i], whole.times[i]))
    return whole.take(places)


def thinned(points: Points, buckets: int) -> Points:
    """First, least, greatest and last point of each of `buckets` equal ranges of steps, and the first NaN of each.

    Points that are fewer than that are all kept.
    """
    if len(points) <= 4 * buckets:
        return points
    low, high = points.steps[0], points.steps[-1]
    width = (high - low + 1) / buckets
    chosen: list[int] = []
    begin = 0
    for bucket in range(buckets):
        limit = low + width * (bucket + 1)
        end = _until(points, begin, limit) if bucket < buckets - 1 else len(points)
        if end > begin:
            chosen.extend(_of_bucket(points, begin, end))
        begin = end
    return points.take(chosen)


def _until(points: Points, begin: int, limit: float) -> int:
    low, high = begin, len(points)
    while low < high:
        middle = (low + high) // 2
        if points.steps[middle] < limit:
            low = middle + 1
        else:
            high = middle
    return low


def _of_bucket(points: Points, begin: int, end: int) -> list[int]:
    if end - begin <= 4:
        return list(range(begin, end))
    values = points.values
    real = [i for i in range(begin, end) if not math.isnan(values[i])]
    chosen = {begin, end - 1}
    if real:
        chosen |= {min(real, key=values.__getitem__), max(real, key=values.__getitem__)}
    if len(real) < end - begin:
        chosen.add(next(i for i in range(begin, end) if math.isnan(values[i])))
    return sorted(chosen)
