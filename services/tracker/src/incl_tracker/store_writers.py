"""Rows of writers: which of their records are stored, and how long their tails are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import sqlalchemy as sa

from incl_tracker import tables as t
from incl_tracker.memory import Known, Writer, WriterKey
from incl_tracker.statements import Insert

_w = t.writers.c
_SAVE = Insert(
    t.writers, "experiment", "attempt", "rank", "stream", "writer", "ranges", "dropped", "points", "tail_rows",
    "tail_points", "tail_bytes", replace=True,
)  # fmt: skip
_KEY = (_w.experiment, _w.attempt, _w.rank, _w.stream, _w.writer)
_LOAD = sa.select(
    *_KEY, _w.ranges, _w.dropped, _w.points, _w.tail_rows, _w.tail_points, _w.tail_bytes
).where(sa.tuple_(*_KEY).in_(sa.bindparam("keys", expanding=True)))  # fmt: skip
_ATTEMPTS = (
    sa.select(_w.experiment, _w.attempt)
    .where(_w.experiment.in_(sa.bindparam("experiments", expanding=True)), _w.stream == "metrics")
    .distinct()
)
_decoder = msgspec.json.Decoder(list[tuple[int, int]])
_AT_ONCE = 200


def load(connection: sa.Connection, wanted: Iterable[tuple[str, Known, WriterKey]]) -> None:
    """Read the writers that are not known yet: (experiment, what is known of it, writer). New ones have nothing."""
    missing = {(e, *key): known for e, known, key in wanted if key not in known.writers}
    keys = list(missing)
    for key, known in missing.items():
        writer = WriterKey(*key[1:])
        known.writers[writer] = Writer(writer)
        known.size += 2
    for begin in range(0, len(keys), _AT_ONCE):
        for row in connection.execute(_LOAD, {"keys": keys[begin : begin + _AT_ONCE]}):
            experiment, attempt, rank, stream, name, ranges, *numbers = row
            writer = WriterKey(attempt, rank, stream, name)
            missing[(experiment, *writer)].writers[writer] = Writer(writer, _decoder.decode(ranges), *numbers)


def load_attempts(connection: sa.Connection, wanted: Sequence[tuple[str, Known]]) -> None:
    """Read which attempts of these experiments have points, where it is not known."""
    missing = {experiment: known for experiment, known in wanted if known.attempts is None}
    for known in missing.values():
        known.attempts = set()
    names = list(missing)
    for begin in range(0, len(names), _AT_ONCE):
        for experiment, attempt in connection.execute(_ATTEMPTS, {"experiments": names[begin : begin + _AT_ONCE]}):
            attempts = missing[experiment].attempts
            assert attempts is not None
            attempts.add(attempt)


def save(connection: sa.Connection, changed: Iterable[tuple[str, Writer]]) -> None:
    """Write them down."""
    _SAVE.run(
        connection,
        [
            (
                experiment, *w.key, msgspec.json.encode(w.ranges).decode(), w.dropped, w.points, w.tail_rows,
                w.tail_points, w.tail_bytes,
            )
            for experiment, w in changed
        ],
    )  # fmt: skip
