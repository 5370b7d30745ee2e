"""Charts: windows of curves in so many pixels, from raw points where they are few, from the levels where they are many.

Chunks that a window cuts, or whose points a tail hides, are read point by point, so that its extremes are those of the
window; of those that lie inside it whole, a level is enough.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa

from incl_shared.errors import InvalidInput
from incl_shared.filters import unknown_metric
from incl_shared.queries.tracker import Chart, Curve, GetChart
from incl_tracker import store_pieces
from incl_tracker import tables as t
from incl_tracker.domain.numbers import named, significant
from incl_tracker.domain.pyramid import COARSE, FINE, thinned
from incl_tracker.domain.samples import Floats, Samples, from_records, is_rising, joined
from incl_tracker.store_pieces import GREATEST, LEAST, Head, Pieces
from incl_tracker.store_views import row_in

PAGE_BYTES = 220_000
"""An answer is at most 256 KB: the frame and the names have the rest."""
SCAN_S = 1.0
EDGE_POINTS = 1 << 18
"""At most so many points are decoded for the edges of a window; chunks that overlap one another widely may be many."""
_VALUE_BYTES = 15
_m = t.metrics.c
_RANKS = sa.select(_m.metric, _m.rank).where(_m.experiment == sa.bindparam("experiment"))
_RANKS_OF = _RANKS.where(_m.metric.in_(sa.bindparam("names", expanding=True)))


def chart(connection: sa.Connection, project: str, query: GetChart) -> Chart:
    """The curves of several metrics of several experiments; as many as fit a message, then a cursor.

    Raises:
        NotFoundError: when an experiment is not of this project.
        InvalidInput: when none of the experiments has a metric that was asked for, or the window is none.
    """
    window = _Window.of(query)
    experiments = tuple(dict.fromkeys(query.experiments))
    _check_experiments(connection, project, experiments)
    names = query.metrics or tuple(sorted(_ranks(connection, experiments[0], ())))
    if query.metrics and not query.cursor:
        _check_names(connection, experiments, names)
    deadline = time.monotonic() + SCAN_S
    curves: list[Curve] = []
    size = 0
    for place, experiment, metric, rank in _places(connection, query, experiments, tuple(dict.fromkeys(names))):
        if curves and time.monotonic() > deadline:
            return Chart.model_construct(curves=tuple(curves), cursor=place)
        found = _points(connection, window, experiment, metric, rank)
        if found is None:
            continue
        curve, more = _curve(experiment, metric, rank, *found)
        if curves and size + more > PAGE_BYTES:
            return Chart.model_construct(curves=tuple(curves), cursor=place)
        curves.append(curve)
        size += more
    return Chart.model_construct(curves=tuple(curves), cursor=None)


class _Place(NamedTuple):
    place: int
    experiment: str
    metric: str
    rank: int


def _places(
    connection: sa.Connection, query: GetChart, experiments: Sequence[str], names: Sequence[str]
) -> Iterator[_Place]:
    """From the cursor on: every pair whose experiment has the metric. A place is one of the grid of all pairs."""
    width = max(1, len(names))
    for row in range(query.cursor // width, len(experiments)):
        ranks = _ranks(connection, experiments[row], query.metrics)
        first = query.cursor - row * width
        for column in range(max(0, first), len(names)):
            if names[column] in ranks:
                rank = ranks[names[column]] if query.rank is None else query.rank
                yield _Place(row * width + column, experiments[row], names[column], rank)


def _check_experiments(connection: sa.Connection, project: str, experiments: Sequence[str]) -> None:
    c = t.experiments.c
    query = sa.select(c.id).where(c.id.in_(experiments), c.project == project)
    there = set(connection.execute(query).scalars())
    for experiment in experiments:
        if experiment not in there:
            row_in(connection, project, experiment)


def _check_names(connection: sa.Connection, experiments: Sequence[str], names: Sequence[str]) -> None:
    there: set[str] = set()
    for experiment in experiments:
        there |= _ranks(connection, experiment, names).keys()
        if there.issuperset(names):
            return
    every = {metric for experiment in experiments for metric in _ranks(connection, experiment, ())}
    one = len(experiments) == 1
    where = f"experiment {experiments[0]}" if one else f"any of the {len(experiments)} experiments"
    raise unknown_metric(next(name for name in names if name not in there), every, where)


def _ranks(connection: sa.Connection, experiment: str, names: Sequence[str]) -> dict[str, int]:
    """The lowest rank that logged each of these metrics; of no names: of all."""
    if names:
        rows = connection.execute(_RANKS_OF, {"experiment": experiment, "names": names})
    else:
        rows = connection.execute(_RANKS, {"experiment": experiment})
    return {row[0]: row[1] for row in rows}


@dataclass(frozen=True, slots=True)
class _Window:
    """low, high: on the axis, none where the data says; first, last: the same as steps, of the axis of steps."""

    on_steps: bool
    low: float | None
    high: float | None
    first: int
    last: int
    buckets: int

    @classmethod
    def of(cls, query: GetChart) -> _Window:
        """The window of a query.

        Raises:
            InvalidInput: when its ends are no numbers, or the wrong way round.
        """
        ends = (query.low, query.high)
        if any(end is not None and math.isnan(end) for end in ends):
            raise InvalidInput("low and high must be numbers")
        low, high = (None if end is None or math.isinf(end) else end for end in ends)
        wrong = ends[0] == math.inf or ends[1] == -math.inf or (low is not None and high is not None and low > high)
        if wrong:
            raise InvalidInput("the window has no width: low is above high", hint="exchange them")
        steps = query.axis == "step"
        first = LEAST if low is None or not steps else max(LEAST, min(math.ceil(low), GREATEST))
        last = GREATEST if high is None or not steps else max(LEAST, min(math.floor(high), GREATEST))
        if steps and ((low or 0) > GREATEST or (high or 0) < LEAST):
            first, last = 1, 0
        return cls(steps, low, high, first, last, query.pixels // 2)

    def share(self, head: Head) -> float:
        """About how much of a chunk lies in the window, from 0 (it does not touch it) to 1 (all of it)."""
        begin, end = self._ends_of(head)
        low, high = self._ends
        if end < low or begin > high:
            return 0.0
        if low <= begin and end <= high:
            return 1.0
        whole = float(end) - float(begin)
        return min(1.0, max(1e-6, (min(end, high) - max(begin, low)) / whole)) if whole > 0 else 1.0

    def holds(self, head: Head) -> bool:
        """Whether all of a chunk lies in the window."""
        begin, end = self._ends_of(head)
        return self._ends[0] <= begin and end <= self._ends[1] and math.isfinite(begin) and math.isfinite(end)

    @property
    def _ends(self) -> tuple[float, float]:
        if self.on_steps:
            return self.first, self.last
        return -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high

    def _ends_of(self, head: Head) -> tuple[float, float]:
        return (head.first_step, head.last_step) if self.on_steps else (head.first_time, head.last_time)

    def clipped(self, samples: Samples) -> Samples:
        """The points in the window. On the axis of time, those that have one."""
        if self.on_steps:
            inside = (samples.steps >= self.first) & (samples.steps <= self.last)
        else:
            inside = np.isfinite(samples.times)
            if self.low is not None:
                inside &= samples.times >= self.low
            if self.high is not None:
                inside &= samples.times <= self.high
        return samples if bool(inside.all()) else samples.take(inside)

    def ordered(self, samples: Samples) -> tuple[Samples, Floats]:
        """The points in the order of the axis, and where each lies on it."""
        steps, times = samples.steps, samples.times
        if self.on_steps:
            if not is_rising(steps):
                samples = samples.take(np.lexsort((times, steps)))
            return samples, samples.steps.astype(np.float64)
        if not bool((times[1:] >= times[:-1]).all()):
            samples = samples.take(np.lexsort((steps, times)))
        return samples, samples.times


def _points(
    connection: sa.Connection, window: _Window, experiment: str, metric: str, rank: int
) -> tuple[Samples, int, int] | None:
    """(points as they are drawn, about how many there are, buckets), or none where the window has none."""
    if window.first > window.last:
        return None
    pieces = store_pieces.pieces(connection, experiment, metric, rank, window.first, window.last)
    tails = [window.clipped(tail.samples) for tail in pieces.tails()]
    shares = [(head, window.share(head)) for head in pieces.heads if head.visible]
    heads = [head for head, share in shares if share > 0]
    about = sum(head.visible * share for head, share in shares) + sum(map(len, tails))
    if about <= FINE * window.buckets:
        found = list(_exact(connection, window, pieces, heads))
        whole = 0
    else:
        coarse = about > COARSE * window.buckets
        exact, inside = _split(window, pieces, heads)
        found = [_level(connection, window, pieces, inside, coarse=coarse)]
        whole = sum(head.visible for head in inside)
        found += _exact(connection, window, pieces, exact)
        whole -= len(found[0])
    samples, axis = window.ordered(joined([one for one in (*found, *tails) if len(one)]))
    if not len(samples):
        return None
    low = float(axis[0]) if window.low is None else window.low
    high = float(axis[-1]) if window.high is None else window.high
    return thinned(samples, axis, low, high, window.buckets), len(samples) + whole, window.buckets


def _split(window: _Window, pieces: Pieces, heads: Iterable[Head]) -> tuple[list[Head], list[Head]]:
    """(chunks to read point by point, chunks of which a level is read)."""
    exact, inside = [], []
    room = max(EDGE_POINTS, FINE * window.buckets)
    for head in heads:
        if room < head.size or (window.holds(head) and not pieces.is_hidden_by_tails(head)):
            inside.append(head)
        else:
            exact.append(head)
            room -= head.size
    return exact, inside


def _exact(connection: sa.Connection, window: _Window, pieces: Pieces, heads: Sequence[Head]) -> Iterator[Samples]:
    """The points of chunks in the window; of archived ones what their finer level has."""
    missing = {(head.series, head.number): head for head in heads}
    for head, samples, mask in store_pieces.raw(connection, heads):
        del missing[(head.series, head.number)]
        yield window.clipped(pieces.visible(head, samples, mask))
    if missing:
        yield _level(connection, window, pieces, list(missing.values()), coarse=False)


def _level(
    connection: sa.Connection, window: _Window, pieces: Pieces, heads: Sequence[Head], *, coarse: bool
) -> Samples:
    found = store_pieces.levels(connection, heads, coarse=coarse)
    blobs = [blob for head, blob in found if not pieces.is_hidden_by_tails(head)]
    parts = [from_records(b"".join(blobs))]
    parts += [pieces.visible(head, from_records(blob)) for head, blob in found if pieces.is_hidden_by_tails(head)]
    return window.clipped(joined(parts))


def _curve(experiment: str, metric: str, rank: int, few: Samples, points: int, buckets: int) -> tuple[Curve, int]:
    """A curve and about how many bytes it takes: never more than a page has."""
    width = max(len(str(few.steps.min())), len(str(few.steps.max()))) + 1
    real = few.times[np.isfinite(few.times)]
    start = float(real.min()) if len(real) else 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        times = np.round(few.times - start, 3)
        longest = float(times.max()) if len(real) == len(times) else math.inf
    width += len(f"{longest:.3f}") + 1 if longest < 1e15 else 25
    size = 300 + 2 * len(metric.encode()) + len(few) * (width + _VALUE_BYTES)
    if size > PAGE_BYTES and buckets > 1:
        fewer = max(1, buckets * (PAGE_BYTES - 1000) // size - 1)
        places = np.arange(len(few), dtype=np.float64)
        return _curve(experiment, metric, rank, thinned(few, places, 0.0, len(few), fewer), points, fewer)
    curve = Curve.model_construct(
        experiment=experiment,
        metric=metric,
        rank=rank,
        steps=tuple(few.steps.tolist()),
        start=start,
        times=tuple(times.tolist()),
        values=tuple(named(significant(few.values))),
        points=points,
    )
    return curve, size
