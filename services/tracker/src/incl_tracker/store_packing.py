"""Putting experiments into columns: three steps, each safe to be cut short after any transaction.

First they get places, while they are hot, which hides their places. Then column after column is written; a column that
somebody else wrote meanwhile is refused. At last those that have not changed since they were read are hot no more. An
interrupted packing is begun again by whoever packs next: the experiments are still hot, and have their places.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa

from incl_shared.states import FINAL_STATES, ExperimentState
from incl_tracker.domain.columns import BLOCK, Column, Numbers, Tags, Texts, decode
from incl_tracker.domain.selecting import Key
from incl_tracker.statements import run, spelled
from incl_tracker.store_rows import Found, Values, column_of, gathered

_ENDED = {state.value for state in (*FINAL_STATES, ExperimentState.LOST)}
_SOME = 500
_PLACES = 1024
"""Places that are given in one transaction."""
_BYTES = 1 << 20
"""Columns that are written in one transaction; a few milliseconds."""
_ROW = 4000
"""What writing a row costs besides its bytes, in bytes."""
_HOT = """
    SELECT hot.experiment, hot.project, hot.stamp, e.project, e.known, e.state, e.created,
        places.project, places.block, places.slot
    FROM hot LEFT JOIN experiments e ON e.id = hot.experiment LEFT JOIN places ON places.experiment = hot.experiment
    WHERE hot.experiment > ? ORDER BY hot.experiment LIMIT ?
"""
_COOL = "DELETE FROM hot WHERE experiment = ? AND stamp = ?"
_PLACE = "INSERT INTO places (experiment, project, block, slot) VALUES (?, ?, ?, ?)"
_FREE = "SELECT block, slot FROM free_places WHERE project = ? ORDER BY block, slot LIMIT ?"
_TAKE = "DELETE FROM free_places WHERE project = ? AND block = ? AND slot = ?"
_FREED = """
    INSERT INTO free_places (project, block, slot) SELECT project, block, slot FROM places
    WHERE experiment = ? AND project = ? AND block = ? AND slot = ?
    AND EXISTS (SELECT 1 FROM hot WHERE hot.experiment = places.experiment AND hot.stamp = ?) ON CONFLICT DO NOTHING
"""
_LEAVE = """
    DELETE FROM places WHERE experiment = ? AND project = ? AND block = ? AND slot = ?
    AND EXISTS (SELECT 1 FROM hot WHERE hot.experiment = places.experiment AND hot.stamp = ?)
"""
_BEGUN = "INSERT INTO column_blocks (count, project, block) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
_ALONE = "UPDATE column_blocks SET count = count WHERE project = ? AND block = 0"
"""On PostgreSQL whoever else gives places in the project waits here, and sees what was given."""
_FILLED = "UPDATE column_blocks SET count = ? WHERE project = ? AND block = ? AND count = ?"
_LAST = "SELECT block, count FROM column_blocks WHERE project = ? ORDER BY block DESC LIMIT 1"
_CHANGED = "UPDATE column_blocks SET version = ? WHERE project = ? AND block = ?"
_STORED = "SELECT kind, name, version, data FROM column_data WHERE project = ? AND block = ?"
_NEW = """
    INSERT INTO column_data (version, low, high, data, project, kind, name, block) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING
"""
_CHANGE = """
    UPDATE column_data SET version = ?, low = ?, high = ?, data = ?
    WHERE project = ? AND kind = ? AND name = ? AND block = ? AND version = ?
"""
_ADOPT = """
    INSERT INTO hot (experiment, project, stamp) SELECT e.id, e.project, 1 FROM experiments e
    WHERE e.project = ? AND e.known AND e.id > ? AND e.id <= ?
    AND NOT EXISTS (SELECT 1 FROM places WHERE places.experiment = e.id) ON CONFLICT DO NOTHING
"""
_UPTO = "SELECT max(id) FROM (SELECT id FROM experiments WHERE id > ? ORDER BY id LIMIT ?) AS next_ones"


class Hot(NamedTuple):
    """A hot experiment. The place is that of its columns, in the project that it had then; none: it has no place."""

    experiment: str
    project: str
    stamp: int
    known: bool
    ended: bool
    created: float
    packed_in: str | None
    block: int | None
    slot: int | None


class Overtaken(Exception):  # noqa: N818
    """Somebody else packs the same block; what was begun is undone, and tried again later."""


def hot(connection: sa.Connection, begin: str, limit: int) -> list[Hot]:
    """The hot experiments by their ids, from `begin` on (which is left out)."""
    rows = connection.exec_driver_sql(spelled(_HOT, connection.dialect.paramstyle), (begin, limit))
    return [
        Hot(row[0], row[3] or row[1], row[2], bool(row[4]), row[5] in _ENDED, row[6] or 0.0, row[7], row[8], row[9])
        for row in rows
    ]


def cool(connection: sa.Connection, done: Iterable[Hot]) -> None:
    """They are hot no more, unless they have changed since they were read."""
    run(connection, _COOL, [(one.experiment, one.stamp) for one in done])


def place(connection: sa.Connection, project: str, new: Sequence[Hot]) -> list[Hot]:
    """Give experiments of a project the next places in the order of their creation, as far as one block has room.

    Returns:
        those that got a place, with it.

    Raises:
        Overtaken: somebody else gives places.
    """
    style = connection.dialect.paramstyle
    connection.exec_driver_sql(spelled(_BEGUN, style), (0, project, 0))
    connection.exec_driver_sql(spelled(_ALONE, style), (project,))
    placed = _placed(connection, [one.experiment for one in new])
    ordered = sorted(new, key=lambda one: (one.created, one.experiment))
    chosen = [one for one in ordered if one.experiment not in placed][:_PLACES]
    free = connection.exec_driver_sql(spelled(_FREE, style), (project, len(chosen))).all() if chosen else []
    if free:
        return _reused(connection, project, chosen, free)
    block, count = connection.exec_driver_sql(spelled(_LAST, style), (project,)).one()
    fresh = count >= BLOCK
    if fresh:
        block, count = block + 1, 0
    chosen = chosen[: BLOCK - count]
    if not chosen:
        return []
    total = count + len(chosen)
    said = (total, project, block) if fresh else (total, project, block, count)
    if connection.exec_driver_sql(spelled(_BEGUN if fresh else _FILLED, style), said).rowcount != 1:
        raise Overtaken
    result = [one._replace(packed_in=project, block=block, slot=count + n) for n, one in enumerate(chosen)]
    run(connection, _PLACE, [(one.experiment, project, block, one.slot) for one in result])
    return result


def _reused(connection: sa.Connection, project: str, chosen: Sequence[Hot], free: Sequence[Any]) -> list[Hot]:
    """Give places that others had."""
    text = spelled(_TAKE, connection.dialect.paramstyle)
    result = []
    for one, row in zip(chosen, free, strict=False):
        block, slot = row[0], row[1]
        if connection.exec_driver_sql(text, (project, block, slot)).rowcount != 1:
            raise Overtaken
        result.append(one._replace(packed_in=project, block=block, slot=slot))
    run(connection, _PLACE, [(one.experiment, project, one.block, one.slot) for one in result])
    return result


def _placed(connection: sa.Connection, experiments: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for begin in range(0, len(experiments), _SOME):
        ids = tuple(experiments[begin : begin + _SOME])
        query = f"SELECT experiment FROM places WHERE experiment IN ({', '.join('?' * len(ids))})"  # noqa: S608
        found.update(connection.exec_driver_sql(spelled(query, connection.dialect.paramstyle), ids).scalars())
    return found


class Change(NamedTuple):
    """A column to be written. version: of the one that it is made from; 0: there was none."""

    key: Key
    version: int
    low: float | None
    high: float | None
    data: bytes


@dataclass(slots=True)
class Work:
    """What is to be written of a block; then these experiments are hot no more, and some have no place any more."""

    project: str
    block: int
    changes: list[Change]
    done: list[Hot]
    gone: set[str]


def prepare(connection: sa.Connection, project: str, block: int, chosen: Sequence[Hot]) -> Work:
    """Read what experiments of a block are now, and make its columns anew. `chosen` were read before, or just now."""
    query = "SELECT count FROM column_blocks WHERE project = ? AND block = ?"
    count = connection.exec_driver_sql(spelled(query, connection.dialect.paramstyle), (project, block)).scalar_one()
    slots = [one.slot for one in chosen if one.slot is not None]
    all_of = gathered(connection, project, [one.experiment for one in chosen])
    found = _at(all_of.found, slots)
    text = spelled(_STORED, connection.dialect.paramstyle)
    stored = {
        (kind, name): (version, bytes(data))
        for kind, name, version, data in connection.exec_driver_sql(text, (project, block))
    }
    changes = []
    for key in sorted(found.keys() | stored.keys()):
        change = _changed(key, found.get(key, Values()), slots, stored.get(key), count)
        if change is not None:
            changes.append(change)
    return Work(project, block, changes, list(chosen), all_of.gone)


def _at(found: Found, slots: Sequence[int]) -> Found:
    return {key: Values([slots[n] for n in values.places], values.values) for key, values in found.items()}


def _changed(
    key: Key, values: Values, slots: Sequence[int], stored: tuple[int, bytes] | None, count: int
) -> Change | None:
    """A column with other values at these slots: what is not among them has none any more. None: it stays as it is."""
    if stored is None:
        if all(value is None for value in values.values):
            return None
        column, version = column_of(key, values, count), 0
    else:
        version, data = stored
        before = decode(data)
        left = sorted(set(slots).difference(values.places))
        gone = [slot for slot, there in zip(left, before.given(left), strict=True) if there]
        if not gone and not values.places:
            return None
        none: Any = () if isinstance(before, Tags) else None
        column = _with(before, [*values.places, *gone], [*values.values, *[none] * len(gone)], count)
    low, high = column.bounds() if isinstance(column, Numbers) else (None, None)
    blob = column.encode()
    return None if stored is not None and blob == stored[1] else Change(key, version, low, high, blob)


def _with(column: Column, places: Sequence[int], values: Sequence[Any], count: int) -> Column:
    match column:
        case Numbers() | Texts() | Tags():
            return column.changed(places, values, count)


def write(connection: sa.Connection, work: Work, begin: int, at_once: int = _BYTES) -> int:
    """Write the next columns, about at_once bytes of them. Returns how many are written then.

    Raises:
        Overtaken: somebody else wrote one of them since they were read.
    """
    new, change = spelled(_NEW, connection.dialect.paramstyle), spelled(_CHANGE, connection.dialect.paramstyle)
    size = 0
    while begin < len(work.changes) and size < at_once:
        one = work.changes[begin]
        said = (_drawn(), one.low, one.high, one.data, work.project, *one.key, work.block)
        done = connection.exec_driver_sql(*((change, (*said, one.version)) if one.version else (new, said)))
        if done.rowcount != 1:
            raise Overtaken
        begin, size = begin + 1, size + len(one.data) + _ROW
    run(connection, _CHANGED, [(_drawn(), work.project, work.block)])
    return begin


def _drawn() -> int:
    """A version: drawn, so that nothing that was read before a backup was put back is taken for what is there now."""
    return secrets.randbelow((1 << 31) - 1) + 1


def finish(connection: sa.Connection, work: Work, begin: int) -> int:
    """The next of those that were written are hot no more; those that are gone lose their places.

    One that is another project's now stays hot, as it has to be packed there.

    Returns:
        how many are done then.
    """
    end = begin + _SOME
    some = work.done[begin:end]
    left = [one for one in some if one.experiment in work.gone]
    places = [(one.experiment, work.project, work.block, one.slot, one.stamp) for one in left]
    run(connection, _FREED, places)
    run(connection, _LEAVE, places)
    cool(connection, [one for one in some if not (one.experiment in work.gone and one.known)])
    return end


def adopt(connection: sa.Connection, project: str, begin: str, rows: int) -> str | None:
    """Make experiments hot that have no place, by their ids from `begin`. Returns where to go on; none: that is all."""
    style = connection.dialect.paramstyle
    end = connection.exec_driver_sql(spelled(_UPTO, style), (begin, rows)).scalar()
    if end is None:
        return None
    connection.exec_driver_sql(spelled(_ADOPT, style), (project, begin, end))
    return str(end)
