"""The chunks of a series, as charts and pages of points read them: heads first, then the blobs of the few needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from incl_tracker import store_tails
from incl_tracker import tables as t
from incl_tracker.domain.samples import Mask, Samples, Steps, decode
from incl_tracker.domain.visible import Tail, holds_any, later_steps, mask_of, without

LEAST, GREATEST = -(1 << 63), (1 << 63) - 1
"""Steps are 64-bit numbers."""
_AT_ONCE = 500
_s, _c, _b = t.series.c, t.chunks.c, t.chunk_blobs.c
_SERIES = sa.select(_s.id, _s.attempt, _s.writer).where(
    _s.experiment == sa.bindparam("experiment"), _s.metric == sa.bindparam("metric"), _s.rank == sa.bindparam("rank")
)
_HEAD = sa.select(
    _c.series, _c.number, _c.count, _c.hidden, _c.first_step, _c.last_step, _c.first_time, _c.last_time
).where(
    _c.last_step >= sa.bindparam("low", type_=sa.BigInteger),
    _c.first_step <= sa.bindparam("high", type_=sa.BigInteger),
)
_HEADS = _HEAD.where(_c.series == sa.bindparam("series"))
_HEADS_OF_MANY = _HEAD.where(_c.series.in_(sa.bindparam("keys", expanding=True)))
_MANY = 16
"""Series that are not asked for one by one any more."""


class Head(NamedTuple):
    """What is known of a chunk without its points."""

    series: int
    number: int
    size: int
    hidden: int
    first_step: int
    last_step: int
    first_time: float
    last_time: float
    attempt: int
    writer: str

    @property
    def visible(self) -> int:
        """Points that no later attempt ran again."""
        return self.size - self.hidden


class Pieces:
    """All that is stored of one metric and rank of an experiment in a range of steps: chunks and tails."""

    def __init__(self, connection: sa.Connection, heads: Sequence[Head], tails: Sequence[Tail]) -> None:
        self._connection = connection
        self.heads = heads
        self._found = tails
        self._several = len({head.attempt for head in heads} | {tail.attempt for tail in tails}) > 1
        self._later_in_tails: dict[int, Steps] = {}
        self._later = {
            attempt: later_steps(tails, attempt)
            for attempt in {head.attempt for head in heads}
            if self._several and any(tail.attempt > attempt for tail in tails)
        }

    def is_hidden_by_tails(self, head: Head) -> bool:
        """Whether a step of its range was logged again by what lies in a tail: its levels may be wrong then."""
        later = self._later.get(head.attempt)
        return later is not None and holds_any(later, head.first_step, head.last_step)

    def visible(self, head: Head, samples: Samples, mask: Mask | None = None) -> Samples:
        """The points of a chunk that count."""
        if mask is not None:
            samples = samples.take(~mask)
        return without(samples, (self._later[head.attempt],)) if head.attempt in self._later else samples

    def tails(self) -> list[Tail]:
        """The tails, without the points that a later attempt ran again."""
        if not self._several:
            return list(self._found)
        return [Tail(tail.attempt, tail.writer, self._counting(tail)) for tail in self._found]

    def _counting(self, tail: Tail) -> Samples:
        steps = tail.samples.steps
        if not len(steps):
            return tail.samples
        low, high = int(steps.min()), int(steps.max())
        over = [h for h in self.heads if h.attempt > tail.attempt and h.first_step <= high and h.last_step >= low]
        if tail.attempt not in self._later_in_tails:
            self._later_in_tails[tail.attempt] = later_steps(self._found, tail.attempt)
        samples = without(tail.samples, (self._later_in_tails[tail.attempt],))
        for _, chunk, _ in raw(self._connection, over):
            samples = without(samples, (np.unique(chunk.steps),))
        return samples


def pieces(
    connection: sa.Connection,
    experiment: str,
    metric: str,
    rank: int,
    low: int,
    high: int,
    *,
    attempt: int | None = None,
    tails: Sequence[Tail] | None = None,
) -> Pieces:
    """The chunks that touch the steps low…high (those that hide points of them too), and the tails.

    attempt: of this one alone, nothing is hidden then.
    """
    found = store_tails.read(connection, experiment, metric, rank) if tails is None else tails
    rows = connection.execute(_SERIES, {"experiment": experiment, "metric": metric, "rank": rank}).all()
    wanted = {series: (its_attempt, writer) for series, its_attempt, writer in rows if attempt in (None, its_attempt)}
    heads = _heads(connection, wanted, low, high)
    kept = []
    for tail in found:
        steps = tail.samples.steps
        if attempt in (None, tail.attempt):
            kept.append(Tail(tail.attempt, tail.writer, tail.samples.take((steps >= low) & (steps <= high))))
    return Pieces(connection, heads, [tail for tail in kept if len(tail.samples)])


def _heads(connection: sa.Connection, series: Mapping[int, tuple[int, str]], low: int, high: int) -> list[Head]:
    """Of series (id -> attempt, writer): one statement each, or for many of them together."""
    bound = {"low": low, "high": high}
    keys = list(series)
    if len(keys) < _MANY:
        rows = [row for key in keys for row in connection.execute(_HEADS, bound | {"series": key})]
    else:
        blocks = [keys[begin : begin + _AT_ONCE] for begin in range(0, len(keys), _AT_ONCE)]
        rows = [row for block in blocks for row in connection.execute(_HEADS_OF_MANY, bound | {"keys": block})]
    return [Head(*row, *series[row.series]) for row in rows]


def raw(connection: sa.Connection, heads: Iterable[Head]) -> Iterator[tuple[Head, Samples, Mask | None]]:
    """All points of chunks and which are hidden, a chunk at a time; those whose points are archived are left out."""
    for head, mask, data in _blobs(connection, heads, (_b.mask, _b.data)):
        if data is not None:
            yield head, decode(data), mask_of(mask, head.size)


def levels(connection: sa.Connection, heads: Iterable[Head], *, coarse: bool) -> list[tuple[Head, bytes]]:
    """Of each chunk the records of a level."""
    column = _c.coarse if coarse else _b.fine
    return [(head, blob) for head, blob, _ in _blobs(connection, heads, (column,))]


def _blobs(
    connection: sa.Connection, heads: Iterable[Head], columns: Sequence[sa.Column[bytes]]
) -> Iterator[tuple[Head, Any, Any]]:
    """(head, first column, last column) by series and number."""
    by_series: dict[int, dict[int, Head]] = {}
    for head in heads:
        by_series.setdefault(head.series, {})[head.number] = head
    if len(by_series) >= _MANY:
        yield from _blobs_of_many(connection, by_series, columns)
        return
    table = columns[0].table.c
    select = sa.select(table.number, *columns).where(table.series == sa.bindparam("series")).order_by(table.number)
    between = select.where(table.number.between(sa.bindparam("low"), sa.bindparam("high")))
    among = select.where(table.number.in_(sa.bindparam("numbers", expanding=True)))
    for series, wanted in by_series.items():
        numbers = sorted(wanted)
        for begin in range(0, len(numbers), _AT_ONCE):
            block = numbers[begin : begin + _AT_ONCE]
            if block[-1] - block[0] < len(block):
                rows = connection.execute(between, {"series": series, "low": block[0], "high": block[-1]})
            else:
                rows = connection.execute(among, {"series": series, "numbers": block})
            for row in rows.all() if len(columns) == 1 else rows:
                yield wanted[row[0]], row[1], row[-1]


def _blobs_of_many(
    connection: sa.Connection, by_series: Mapping[int, Mapping[int, Head]], columns: Sequence[sa.Column[bytes]]
) -> Iterator[tuple[Head, Any, Any]]:
    table = columns[0].table.c
    select = sa.select(table.series, table.number, *columns).order_by(table.series, table.number)
    query = select.where(sa.tuple_(table.series, table.number).in_(sa.bindparam("keys", expanding=True)))
    keys = [(series, number) for series in sorted(by_series) for number in sorted(by_series[series])]
    for begin in range(0, len(keys), _AT_ONCE):
        for row in connection.execute(query, {"keys": keys[begin : begin + _AT_ONCE]}):
            yield by_series[row[0]][row[1]], row[2], row[-1]
