"""Series and their chunks: ids, and new chunks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from incl_tracker import tables as t
from incl_tracker.domain.chunking import TARGET, Chunk, chunk, pieces
from incl_tracker.domain.tails import Rows
from incl_tracker.memory import Known, Writer
from incl_tracker.statements import Insert, Update, run
from incl_tracker.store_hiding import Others

_s = t.series.c
_NEW_SERIES = Insert(
    t.series, "experiment", "metric", "rank", "attempt", "writer", "points", "chunks", "small", keep=True
)
_IDS = sa.select(_s.metric, _s.id, _s.chunks).where(
    _s.experiment == sa.bindparam("experiment"),
    _s.rank == sa.bindparam("rank"),
    _s.attempt == sa.bindparam("attempt"),
    _s.writer == sa.bindparam("writer"),
    _s.metric.in_(sa.bindparam("names", expanding=True)),
)
_BY_ID = sa.select(_s.metric, _s.id, _s.chunks).where(_s.id.in_(sa.bindparam("keys", expanding=True)))
_CHUNK = Insert(t.chunks, "series", "number", "count", *Chunk._fields[1:7])
_BLOBS = Insert(t.chunk_blobs, "series", "number", *Chunk._fields[7:])
_GROWN = Update(t.series, '"points" = "points" + ?, "chunks" = ?, "small" = "small" + ?', "id")
_AT_ONCE = 500


def ids(connection: sa.Connection, experiment: str, writer: Writer, names: Iterable[str]) -> None:
    """Have the series of a writer for these metrics known: those that are there are read, the others made."""
    _read_ids(connection, experiment, writer, [name for name in names if name not in writer.series])
    new = [name for name in names if name not in writer.series]
    key = writer.key
    _NEW_SERIES.run(connection, [(experiment, name, key.rank, key.attempt, key.writer, 0, 0, 0) for name in new])
    _read_ids(connection, experiment, writer, new)


def _read_ids(connection: sa.Connection, experiment: str, writer: Writer, names: Sequence[str]) -> None:
    key = writer.key
    bound = {"experiment": experiment, "rank": key.rank, "attempt": key.attempt, "writer": key.writer}
    for begin in range(0, len(names), _AT_ONCE):
        for name, series, chunks in connection.execute(_IDS, bound | {"names": names[begin : begin + _AT_ONCE]}):
            writer.series[name] = series
            writer.numbers[series] = chunks


def know_ids(connection: sa.Connection, writer: Writer, series: Iterable[int]) -> None:
    """Have series known by their ids."""
    missing = [key for key in series if key not in writer.numbers]
    for begin in range(0, len(missing), _AT_ONCE):
        for name, key, chunks in connection.execute(_BY_ID, {"keys": missing[begin : begin + _AT_ONCE]}):
            writer.series[name] = key
            writer.numbers[key] = chunks


@dataclass(slots=True)
class NewChunks:
    """Chunks of one transaction, until they are written."""

    connection: sa.Connection
    _heads: list[tuple[Any, ...]] = field(default_factory=list)
    _blobs: list[tuple[Any, ...]] = field(default_factory=list)
    _grown: list[tuple[Any, ...]] = field(default_factory=list)

    def add(self, experiment: str, known: Known, writer: Writer, rows: Rows) -> int:
        """Make chunks of records of a writer. Returns how many of them are small."""
        others = Others.none()
        if known.attempts is not None and known.attempts - {writer.key.attempt}:
            self.write()
            others = Others.of(self.connection, experiment, writer, rows.series.tolist())
        small = 0
        for piece in pieces(rows):
            is_small = len(piece) < TARGET
            for series, samples in piece.columns():
                number = writer.numbers[series]
                made = chunk(samples, others.hidden(self.connection, series, samples.steps))
                others.hide(self.connection, series, samples.steps)
                self._heads.append((series, number, *made[:7]))
                self._blobs.append((series, number, *made[7:]))
                self._grown.append((len(samples), number + 1, int(is_small), series))
                writer.numbers[series] = number + 1
                small += is_small
        return small

    def write(self) -> None:
        """Write them."""
        _CHUNK.run(self.connection, self._heads)
        _BLOBS.run(self.connection, self._blobs)
        _GROWN.run(self.connection, self._grown)
        self._heads, self._blobs, self._grown = [], [], []


def insert(connection: sa.Connection, series: int, number: int, made: Chunk) -> None:
    """Store a chunk under a number that is free."""
    _CHUNK.run(connection, [(series, number, *made[:7])])
    _BLOBS.run(connection, [(series, number, *made[7:])])


def delete_all(connection: sa.Connection, experiment: str) -> None:
    """Delete the series and chunks of an experiment."""
    for table in (t.chunks, t.chunk_blobs):
        run(
            connection,
            f'DELETE FROM "{table.name}" WHERE "series" IN (SELECT "id" FROM "series" WHERE "experiment" = ?)',  # noqa: S608
            [(experiment,)],
        )
    connection.execute(sa.delete(t.series).where(_s.experiment == experiment))
