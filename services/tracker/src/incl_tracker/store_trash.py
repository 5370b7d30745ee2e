"""Rows of the trash and of what is purged: writing, and what is due."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from incl_shared.states import FINAL_STATES, ExperimentState
from incl_tracker import tables as t
from incl_tracker.store_columns import touch

_e = t.experiments.c
_EMPTIED: dict[str, Any] = {
    "known": False,
    "name": "",
    "tags": "[]",
    "declared": "{}",
    "spec": None,
    "code": None,
    "provenance": "{}",
    "times": None,
    "message": "",
    "hint": "",
    "waiting": "",
    "waits": "[]",
    "points": 0,
    "lines": 0,
    "trashed": None,
    "archive": None,
    "restore_at": None,
    "archived": None,
    "compact_at": None,
}
_OF_SERIES = (t.chunks, t.chunk_blobs)
_OF_EXPERIMENT = (
    t.tails, t.log_batches, t.metrics, t.params, t.tags, t.artifacts, t.alerts, t.writers, t.expected, t.attempts,
    t.run_leases, t.dropped_artifacts,
)  # fmt: skip


def set_trash(connection: sa.Connection, experiment: str, trashed: float | None, purge_at: float | None) -> int:
    """Put it in or take it out. Returns the version of the trash aggregate (which is the epoch)."""
    values = {"trashed": trashed, "purge_at": purge_at}
    return _count_up(connection, experiment, values)


def set_purged(connection: sa.Connection, experiment: str, now: float) -> int:
    """Empty its row, which stays to refuse what comes late; the rest of its rows goes by `sweep`. The same version."""
    return _count_up(connection, experiment, _EMPTIED | {"purged": now, "purge_at": now})


def _count_up(connection: sa.Connection, experiment: str, values: dict[str, Any]) -> int:
    counted = values | {"epoch": _e.epoch + 1, "revision": _e.revision + 1}
    connection.execute(sa.update(t.experiments).where(_e.id == experiment).values(counted))
    touch(connection, [experiment])
    return int(connection.execute(sa.select(_e.epoch).where(_e.id == experiment)).scalar_one())


def due(connection: sa.Connection, now: float, limit: int = 100) -> list[tuple[str, str]]:
    """(project, experiment) of what has lain in the trash for its time."""
    waiting = (_e.purge_at <= now, _e.purged.is_(None))
    query = sa.select(_e.project, _e.id).where(*waiting).order_by(_e.purge_at).limit(limit)
    return [(row.project, row.id) for row in connection.execute(query)]


def unswept(connection: sa.Connection) -> str | None:
    """A purged experiment of which rows may be left: its purge_at stays until they are gone."""
    query = sa.select(_e.id).where(_e.purge_at.is_not(None), _e.purged.is_not(None))
    return connection.execute(query.order_by(_e.purge_at).limit(1)).scalar()


def set_swept(connection: sa.Connection, experiment: str) -> None:
    """Nothing of it is left but its row."""
    connection.execute(sa.update(t.experiments).where(_e.id == experiment).values(purge_at=None))


def sweep(connection: sa.Connection, experiment: str, rows: int) -> int:
    """Delete at most about so many rows of a purged experiment. Returns how many; 0: nothing is left."""
    series = t.series.c
    some = sa.select(series.id).where(series.experiment == experiment).order_by(series.id).limit(max(1, rows // 8))
    ids = list(connection.execute(some).scalars())
    done = 0
    for table in _OF_SERIES if ids else ():
        done += _delete_some(connection, table, table.c.series.in_(ids), rows)
    if ids and not done:
        done += connection.execute(sa.delete(t.series).where(series.id.in_(ids))).rowcount
    for table in _OF_EXPERIMENT:
        if done >= rows:
            break
        done += _delete_some(connection, table, table.c.experiment == experiment, rows - done)
    return done


def _delete_some(connection: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool], rows: int) -> int:
    keys = tuple(table.primary_key)
    chosen = connection.execute(sa.select(*keys).where(where).limit(rows)).all()
    if not chosen:
        return 0
    match = sa.and_(*(key == sa.bindparam(f"key_{place}") for place, key in enumerate(keys)))
    values = [{f"key_{place}": value for place, value in enumerate(row)} for row in chosen]
    connection.execute(sa.delete(table).where(match), values)
    return len(chosen)


def forget(connection: sa.Connection, before: float, limit: int = 1000) -> int:
    """Drop the rows of experiments that were purged so long ago that nothing of them can come any more."""
    old = sa.select(_e.id).where(_e.purged < before, _e.purge_at.is_(None)).limit(limit)
    ids = list(connection.execute(old).scalars())
    if ids:
        connection.execute(sa.delete(t.experiments).where(_e.id.in_(ids)))
    return len(ids)


def may_go(row: sa.RowMapping) -> bool:
    """Whether it has ended, or is a run that nobody hears of any more."""
    return row["state"] in {state.value for state in (*FINAL_STATES, ExperimentState.LOST)}
