"""Rows of points that are in no chunk yet: read by metric, and made one or folded into chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from incl_tracker import store_chunks, store_writers
from incl_tracker import tables as t
from incl_tracker.domain import tails
from incl_tracker.domain.chunking import TARGET
from incl_tracker.domain.samples import Samples, joined
from incl_tracker.domain.tails import Rows
from incl_tracker.domain.visible import Tail
from incl_tracker.memory import Known, Writer, WriterKey
from incl_tracker.statements import Insert, run
from incl_tracker.store_chunks import NewChunks


@dataclass(frozen=True, slots=True)
class Limits:
    """When points go on into chunks.

    big: records of the same metrics that skip the tail. points: of each series of a tail, on average, that are enough;
    or so many bytes in all, more for more metrics, so that their chunks are not tiny. tiny: points of a series that
    are too few for a chunk, and stay. rows: so many rows of less than `row` bytes on average are made one. wide:
    metrics of a group that has a row of its own.
    """

    big: int = 2_048
    points: int = TARGET
    bytes: int = 2 << 20
    bytes_a_series: int = 8 << 10
    most_bytes: int = 64 << 20
    tiny: int = 256
    rows: int = 64
    row: int = 16 << 10
    wide: int = 256

    def bytes_of(self, writer: Writer) -> int:
        """Bytes of its tail that are enough."""
        return min(self.most_bytes, max(self.bytes, self.bytes_a_series * len(writer.series)))


LIMITS = Limits()

_e, _s, _t = t.experiments.c, t.series.c, t.tails.c
_SERIES = sa.select(_s.id, _s.attempt, _s.writer).where(
    _s.experiment == sa.bindparam("experiment"), _s.metric == sa.bindparam("metric"), _s.rank == sa.bindparam("rank")
)
_OF_RANK = (_t.experiment == sa.bindparam("experiment"), _t.rank == sa.bindparam("rank"))
_ROWS = (
    sa.select(_t.attempt, _t.writer, _t.groups)
    .where(
        *_OF_RANK,
        _t.low <= sa.bindparam("high", type_=sa.BigInteger),
        _t.high >= sa.bindparam("low", type_=sa.BigInteger),
    )
    .order_by(_t.attempt, _t.writer, _t.id)
)
_ALL = (
    sa.select(_t.id, _t.first, _t.groups)
    .where(*_OF_RANK, _t.attempt == sa.bindparam("attempt"), _t.writer == sa.bindparam("writer"))
    .order_by(_t.id)
)
_YOUNG = _ALL.where(_t.rows == 1)
_OF_EXPERIMENT = (
    sa.select(_t.attempt, _t.rank, _t.writer, sa.func.count().label("rows"))
    .where(_t.experiment == sa.bindparam("experiment"))
    .group_by(_t.attempt, _t.rank, _t.writer)
    .order_by(_t.rank, _t.attempt, _t.writer)
)
_INSERT = Insert(t.tails, "experiment", "attempt", "rank", "writer", "first", "low", "high", "rows", "groups")
_FOLD_WRITERS, _FOLD_POINTS, _FOLD_BYTES = 200, 200_000, 4 << 20
_DELETE = 'DELETE FROM "tails" WHERE "id" = ?'
_DELETE_ALL = 'DELETE FROM "tails" WHERE "experiment" = ? AND "rank" = ? AND "attempt" = ? AND "writer" = ?'


def read(connection: sa.Connection, experiment: str, metric: str, rank: int) -> list[Tail]:
    """The points of a metric and rank that are in no chunk yet, by attempt and writer, in the order of arrival."""
    key = {"experiment": experiment, "rank": rank}
    ids = {(a, w): i for i, a, w in connection.execute(_SERIES, key | {"metric": metric})}
    if not ids:
        return []
    bound = key | {"low": min(ids.values()), "high": max(ids.values())}
    found: dict[tuple[int, str], list[Samples]] = {}
    for attempt, writer, blob in connection.execute(_ROWS, bound):
        place = (attempt, writer)
        samples = tails.find(blob, ids[place]) if place in ids else None
        if samples is not None:
            found.setdefault(place, []).append(samples)
    return [Tail(*place, joined(pieces)) for place, pieces in found.items()]


class NewTails:
    """What goes to tails in one transaction; what has become big enough goes on into chunks."""

    def __init__(self, connection: sa.Connection, chunks: NewChunks, limits: Limits) -> None:
        self._limits = limits
        self._connection = connection
        self._chunks = chunks
        self._rows: list[tuple[Any, ...]] = []
        self._full: list[tuple[str, Writer]] = []

    def add(self, experiment: str, known: Known, writer: Writer, first: int, groups: Sequence[Rows]) -> int:
        """Store records of a writer, of which `first` is the first. Returns how many small chunks were made."""
        small = 0
        few = [group for group in groups if len(group) < self._limits.big]
        for group in groups:
            if len(group) >= self._limits.big:
                small += self._chunks.add(experiment, known, writer, group)
        if few:
            points = writer.tail_points + sum(group.values.size for group in few)
            size = writer.tail_bytes + sum(group.size for group in few)
            if points >= self._limits.points * max(1, len(writer.series)) or size >= self._limits.bytes_of(writer):
                return small + self._fold(experiment, known, writer, first, few)
            self._put(experiment, writer, first, few)
        return small

    def write(self) -> None:
        """Write them."""
        _INSERT.run(self._connection, self._rows)
        self._rows = []
        for experiment, writer in self._full:
            self._squeeze(experiment, writer)
        self._full = []

    def _put(self, experiment: str, writer: Writer, first: int, groups: Sequence[Rows]) -> None:
        wide = self._limits.wide
        narrow = [group for group in groups if len(group.series) < wide]
        for row in ([narrow] if narrow else []) + [[group] for group in groups if len(group.series) >= wide]:
            made = _row(experiment, writer, first, row)
            self._rows.append(made)
            writer.tail_rows += 1
            writer.tail_bytes += len(made[-1])
            writer.tail_points += sum(group.values.size for group in row)
        if writer.tail_rows >= self._limits.rows and writer.tail_bytes < self._limits.rows * self._limits.row:
            self._full.append((experiment, writer))

    def _fold(self, experiment: str, known: Known, writer: Writer, first: int, new: Sequence[Rows]) -> int:
        """Make chunks of the whole tail; of what would be tiny chunks, a new tail."""
        stored = take(self._connection, experiment, writer)
        groups = tails.by_series([*stored, *new])
        store_chunks.know_ids(self._connection, writer, (s for group in groups for s in group.series.tolist()))
        left = [group for group in groups if len(group) < self._limits.tiny]
        if sum(group.size for group in left) > self._limits.bytes_of(writer) // 4:
            left = []
        small = 0
        for group in groups:
            if not left or len(group) >= self._limits.tiny:
                small += self._chunks.add(experiment, known, writer, group)
        if left:
            made = _row(experiment, writer, first, left, rows=len(stored) + 1)
            self._rows.append(made)
            writer.tail_bytes = len(made[-1])
            writer.tail_points = sum(group.values.size for group in left)
        return small

    def _squeeze(self, experiment: str, writer: Writer) -> None:
        """Make one row of those that came singly."""
        rows = self._connection.execute(_YOUNG, _bound(experiment, writer)).all()
        groups = tails.together([group for row in rows for group in tails.decode(row.groups)])
        if not groups:
            return
        made = _row(experiment, writer, min(row.first for row in rows), groups, rows=len(rows))
        run(self._connection, _DELETE, [(row.id,) for row in rows])
        _INSERT.run(self._connection, [made])
        writer.tail_rows = 0
        writer.tail_bytes += len(made[-1]) - sum(len(row.groups) for row in rows)


def take(connection: sa.Connection, experiment: str, writer: Writer) -> list[Rows]:
    """The whole tail of a writer, which is deleted."""
    bound = _bound(experiment, writer)
    found = [group for row in connection.execute(_ALL, bound) for group in tails.decode(row.groups)]
    run(connection, _DELETE_ALL, [tuple(bound.values())])
    writer.tail_rows = writer.tail_points = writer.tail_bytes = 0
    return found


def fold(connection: sa.Connection, experiment: str) -> int:
    """Make chunks of some tails of an experiment, however small: those of a few writers, so that nobody waits long.

    Returns:
        how many rows of tails they had; 0: there are no tails.
    """
    query = sa.select(_e.epoch).where(_e.id == experiment).with_for_update()
    epoch = connection.execute(query).scalar()
    if epoch is None:
        return 0
    known = Known(0, epoch)
    rows = connection.execute(_OF_EXPERIMENT.limit(_FOLD_WRITERS), {"experiment": experiment}).all()
    keys = [WriterKey(attempt, rank, "metrics", writer) for attempt, rank, writer, _ in rows]
    store_writers.load(connection, [(experiment, known, key) for key in keys])
    store_writers.load_attempts(connection, [(experiment, known)])
    chunks = NewChunks(connection)
    points = size = 0
    for place, key in enumerate(keys):
        writer = known.writers[key]
        points, size = points + writer.tail_points, size + writer.tail_bytes
        if place and (points > _FOLD_POINTS or size > _FOLD_BYTES):
            rows, keys = rows[:place], keys[:place]
            break
        groups = tails.by_series(take(connection, experiment, writer))
        store_chunks.know_ids(connection, writer, (s for group in groups for s in group.series.tolist()))
        for group in groups:
            chunks.add(experiment, known, writer, group)
    chunks.write()
    store_writers.save(connection, [(experiment, known.writers[key]) for key in keys])
    if rows:
        connection.execute(sa.update(t.experiments).where(_e.id == experiment).values(stamp=0))
    return sum(row.rows for row in rows)


def _bound(experiment: str, writer: Writer) -> dict[str, Any]:
    key = writer.key
    return {"experiment": experiment, "rank": key.rank, "attempt": key.attempt, "writer": key.writer}


def _row(experiment: str, writer: Writer, first: int, groups: Sequence[Rows], rows: int = 1) -> tuple[Any, ...]:
    low = min(int(group.series.min()) for group in groups)
    high = max(int(group.series.max()) for group in groups)
    key = writer.key
    blob = tails.encode(groups, squeeze=rows > 1)
    return (experiment, key.attempt, key.rank, key.writer, first, low, high, rows, blob)
