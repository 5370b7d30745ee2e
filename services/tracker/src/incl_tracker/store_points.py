"""Raw points of a metric, page by page, in the order of step, time, attempt, writer and arrival.

A cursor is the place of the last point in that order, so that points which come meanwhile move nothing. A page reads
the chunks that begin before its end, and holds no more than it gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from incl_shared.errors import InvalidInput, NotFoundError
from incl_shared.filters import unknown_metric
from incl_shared.queries.tracker import GetPoints, Points
from incl_tracker import store_pieces
from incl_tracker import tables as t
from incl_tracker.domain.numbers import named
from incl_tracker.domain.samples import EMPTY, Floats, Mask, Samples, Steps
from incl_tracker.store_pieces import GREATEST, LEAST, Head
from incl_tracker.store_views import row_in

PAGE_BYTES = 250_000
_NUMBER_BYTES = 25
"""What a time or a value takes at most, with its comma."""
_IN_TAIL = GREATEST
"""In place of a chunk's number: tails come after all chunks of their writer."""
_SMALL, _AT_ONCE = 4_096, 200
"""Chunks are read so many at a time, of so many points together."""
Source = tuple[int, str]
"""(attempt, writer)."""


def points(connection: sa.Connection, project: str, query: GetPoints) -> Points:
    """A page.

    Raises:
        NotFoundError: when the experiment is not of this project, or its points are archived.
        InvalidInput: when it has no such metric, or the cursor is none.
    """
    row_in(connection, project, query.experiment)
    rank = _rank(connection, query)
    after = _After.read(query.cursor)
    low = LEAST if query.from_step is None else max(LEAST, query.from_step)
    high = GREATEST if query.to_step is None else min(GREATEST, query.to_step)
    if after is not None:
        low = max(low, after.step)
    page = _Page(query.limit, after)
    if low <= high:
        _fill(connection, query, rank, low, high, page)
    return page.answer(query, rank)


def _fill(connection: sa.Connection, query: GetPoints, rank: int, low: int, high: int, page: _Page) -> None:
    pieces = store_pieces.pieces(connection, query.experiment, query.metric, rank, low, high, attempt=query.attempt)
    for tail in pieces.tails():
        page.add((tail.attempt, tail.writer), _IN_TAIL, _by_place(tail.samples))
    for heads in _together(pieces.heads):
        if page.ends_before(heads[0].first_step):
            return
        found = 0
        for head, whole, mask in store_pieces.raw(connection, heads):
            samples = whole if query.attempt is not None else pieces.visible(head, whole, mask)
            inside = (samples.steps >= low) & (samples.steps <= high)
            page.add((head.attempt, head.writer), head.number, samples.take(inside))
            found += 1
        if found < len(heads):
            raise _archived(query)


def _together(heads: Sequence[Head]) -> Iterator[list[Head]]:
    """Chunks in the order of their first steps; small ones some at a time."""
    some: list[Head] = []
    points = 0
    for head in sorted(heads, key=lambda head: head.first_step):
        if some and (len(some) >= _AT_ONCE or points + head.size > _SMALL):
            yield some
            some, points = [], 0
        some.append(head)
        points += head.size
    if some:
        yield some


def _archived(query: GetPoints) -> NotFoundError:
    return NotFoundError(
        f"the points of {query.metric!r} lie in the archive",
        cause=f"experiment {query.experiment} was archived; charts still show it",
        hint=f"incl restore {query.experiment} brings them back",
    )


def _rank(connection: sa.Connection, query: GetPoints) -> int:
    c = t.metrics.c
    found = connection.execute(
        sa.select(c.rank).where(c.experiment == query.experiment, c.metric == query.metric)
    ).scalar_one_or_none()
    if found is None:
        every = connection.execute(sa.select(c.metric).where(c.experiment == query.experiment)).scalars()
        raise unknown_metric(query.metric, every, f"experiment {query.experiment}")
    return int(found) if query.rank is None else query.rank


class _After(NamedTuple):
    """The last point of the page before. same: how many points of its very place have been given."""

    step: int
    time: int
    source: Source
    same: int

    @classmethod
    def read(cls, cursor: str | None) -> _After | None:
        """A cursor.

        Raises:
            InvalidInput: when it is none.
        """
        if cursor is None:
            return None
        try:
            step, time, attempt, same, writer = cursor.split(".", 4)
            after = cls(int(step), int(time), (int(attempt), writer), int(same))
        except ValueError:
            raise InvalidInput("this is no cursor of a page of points", hint="begin without one") from None
        if not (LEAST <= after.step <= GREATEST and LEAST <= after.time <= GREATEST and 0 < after.same <= GREATEST):
            raise InvalidInput("this is no cursor of a page of points", hint="begin without one")
        return after

    def text(self) -> str:
        """As a cursor."""
        return f"{self.step}.{self.time}.{self.source[0]}.{self.same}.{self.source[1]}"


def time_order(times: Floats) -> Steps:
    """Whole numbers in the order of times: NaN is the last, and both zeros are one."""
    bits = (times + 0.0).view(np.int64)
    order = bits ^ ((bits >> 63) & GREATEST)
    order[np.isnan(times)] = GREATEST
    return order


def _by_place(samples: Samples) -> Samples:
    return samples.take(np.lexsort((time_order(samples.times), samples.steps)))


@dataclass(slots=True)
class _Held:
    """Points that may be of the page (n each). number: of the chunk; source: its index."""

    samples: Samples
    order: Steps
    source: Steps
    number: Steps


class _Page:
    """The first points after a cursor, of those that were added."""

    def __init__(self, limit: int, after: _After | None) -> None:
        self._limit = limit
        self._after = after
        self._need = limit + 1 + (after.same if after else 0)
        self._sources: dict[Source, int] = {}
        self._held: list[_Held] = []
        self._count = 0

    def add(self, source: Source, number: int, samples: Samples) -> None:
        """Points of one chunk or tail, in the order of step, time and arrival."""
        samples = samples.take(self._later(source, samples))
        samples = samples.take(slice(self._need))
        count = len(samples)
        if not count:
            return
        index = np.full(count, self._sources.setdefault(source, len(self._sources)), np.int64)
        self._held.append(_Held(samples, time_order(samples.times), index, np.full(count, number, np.int64)))
        self._count += count
        if self._count > 4 * self._need:
            self._merge()

    def ends_before(self, step: int) -> bool:
        """Whether the page is full of points whose step is less."""
        if self._count < self._need:
            return False
        self._merge()
        return int(self._held[0].samples.steps[-1]) < step

    def _later(self, source: Source, samples: Samples) -> Mask:
        """Which points are not before the last of the page before; those of its very place are counted later."""
        after = self._after
        if after is None:
            return np.ones(len(samples), np.bool_)
        order = time_order(samples.times)
        here = samples.steps == after.step
        kept: Mask = (samples.steps > after.step) | (here & (order > after.time))
        if source >= after.source:
            kept |= here & (order == after.time)
        return kept

    def _merge(self) -> None:
        held = self._held
        places = {source: place for place, source in enumerate(sorted(self._sources))}
        ranks = np.array([places[source] for source in self._sources], np.int64)
        steps, order = _of(held, lambda h: h.samples.steps), _of(held, lambda h: h.order)
        source, number = _of(held, lambda h: h.source), _of(held, lambda h: h.number)
        chosen = np.lexsort((number, ranks[source], order, steps))[: self._need]
        times, values = _of(held, lambda h: h.samples.times), _of(held, lambda h: h.samples.values)
        samples = Samples(steps[chosen], times[chosen], values[chosen])
        self._held = [_Held(samples, order[chosen], source[chosen], number[chosen])]
        self._count = len(chosen)

    def answer(self, query: GetPoints, rank: int) -> Points:
        """The page, with a cursor when there is more."""
        if not self._held:
            return _answer(query, rank, EMPTY)
        self._merge()
        held = self._held[0]
        begin = self._given(held)
        steps = held.samples.steps
        width = 2 + max(len(str(steps.min())), len(str(steps.max())))
        room = max(1, PAGE_BYTES // (width + 2 * _NUMBER_BYTES))
        end = min(len(steps), begin + min(self._limit, room))
        cursor = self._cursor(held, begin, end) if end < len(steps) else None
        return _answer(query, rank, held.samples.take(slice(begin, end)), cursor)

    def _given(self, held: _Held) -> int:
        """How many points at the beginning are of the very place of the last one, and were given."""
        after = self._after
        if after is None or after.source not in self._sources:
            return 0
        same = (held.samples.steps == after.step) & (held.order == after.time)
        same &= held.source == self._sources[after.source]
        return min(after.same, int(same.sum()))

    def _cursor(self, held: _Held, begin: int, end: int) -> str:
        last = end - 1
        same = held.samples.steps[:end] == held.samples.steps[last]
        same &= (held.order[:end] == held.order[last]) & (held.source[:end] == held.source[last])
        step, time = int(held.samples.steps[last]), int(held.order[last])
        return _After(step, time, list(self._sources)[int(held.source[last])], int(same.sum())).text()


def _of(held: list[_Held], part: Any) -> npt.NDArray[Any]:
    return np.concatenate([part(one) for one in held])


def _answer(query: GetPoints, rank: int, samples: Samples, cursor: str | None = None) -> Points:
    return Points.model_construct(
        experiment=query.experiment,
        metric=query.metric,
        rank=rank,
        steps=tuple(samples.steps.tolist()),
        times=tuple(samples.times.tolist()),
        values=tuple(named(samples.values)),
        cursor=cursor,
    )
