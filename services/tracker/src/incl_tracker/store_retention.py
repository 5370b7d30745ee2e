"""Rows of experiments that go to the archive, and what is due or asked back; `store_restoring` puts them back."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from incl_shared.states import FINAL_STATES, ExperimentState
from incl_tracker import tables as t
from incl_tracker.domain.retention import Action, Rule, action, soonest

_PAGE = 500
_e, _s, _b, _l = t.experiments.c, t.series.c, t.chunk_blobs.c, t.log_batches.c


@dataclass(frozen=True, slots=True)
class Aged:
    """An experiment for which something is due."""

    experiment: str
    project: str
    action: Action


@dataclass(frozen=True, slots=True)
class Mark:
    """What an experiment had when its archive was begun; should anything have come since, it is made anew.

    rows: of its chunks, tails and lines. Points and lines stay as many as they are when rows are made one, but the
    archive has the rows as they were. stamp: another one whenever anything was stored.
    """

    epoch: int
    stamp: int
    points: int
    lines: int
    rows: tuple[int, int, int]


def aged(
    connection: sa.Connection, rules: Sequence[Rule], now: float, after: str, limit: int
) -> tuple[list[Aged], str]:
    """(what is due among the next `limit` experiments that ended long ago, where to go on; empty: from the start)."""
    query = (
        sa.select(_e.id, _e.project, _e.state, _e.tags, _e.ended, _e.restore_at, _e.archived, _e.compact_at)
        .where(
            _e.known,
            _e.ended <= now - soonest(rules),
            _e.trashed.is_(None),
            _e.state.in_([state.value for state in FINAL_STATES]),
            _e.id > after,
        )
        .order_by(_e.id)
        .limit(limit)
    )
    rows = connection.execute(query).all()
    found = []
    for row in rows:
        age = now - max(row.ended, row.restore_at or row.ended)
        due = action(rules, row.project, ExperimentState(row.state), json.loads(row.tags), age)
        if due == "trash" or (due == "archive" and row.archived is None and row.compact_at is None):
            found.append(Aged(row.id, row.project, due))
    return found, rows[-1].id if len(rows) == limit else ""


def mark(connection: sa.Connection, experiment: str) -> Mark | None:
    """Its mark now; none when there is nothing to archive."""
    query = sa.select(
        _e.epoch, _e.stamp, _e.points, _e.lines, _e.archived, _e.trashed, _e.purged
    ).where(_e.id == experiment)  # fmt: skip
    row = connection.execute(query).one_or_none()
    if row is None or row.archived is not None or row.trashed is not None or row.purged is not None:
        return None
    mine = sa.select(_s.id).where(_s.experiment == experiment)
    parts = (
        (t.chunks, t.chunks.c.series.in_(mine)),
        (t.tails, t.tails.c.experiment == experiment),
        (t.log_batches, _l.experiment == experiment),
    )
    chunks, tails, lines = (_count(connection, table, where) for table, where in parts)
    return Mark(row.epoch, row.stamp, row.points, row.lines, (chunks, tails, lines))


def _count(connection: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool]) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(where)).scalar_one())


def chunk_frames(connection: sa.Connection, experiment: str) -> Iterator[list[Any]]:
    """Frames of all points, a page of rows in memory at a time; for `domain.archive`."""
    query = sa.select(_s.id, _s.metric, _s.rank, _s.attempt, _s.writer).where(_s.experiment == experiment)
    for series in connection.execute(query.order_by(_s.id)).all():
        yield ["series", *series]
        after = -1
        while True:
            chunks = sa.select(_b.number, _b.data, _b.mask).where(_b.series == series.id, _b.number > after)
            rows = connection.execute(chunks.where(_b.data.is_not(None)).order_by(_b.number).limit(_PAGE)).all()
            yield from (["chunk", series.id, *row] for row in rows)
            if len(rows) < _PAGE:
                break
            after = rows[-1].number


def line_frames(connection: sa.Connection, experiment: str) -> Iterator[list[Any]]:
    """Frames of all lines."""
    after = -1
    while True:
        query = sa.select(_l.start, _l.attempt, _l.rank, _l.writer, _l.first, _l.lines)
        where = (_l.experiment == experiment, _l.start > after, _l.lines.is_not(None))
        rows = connection.execute(query.where(*where).order_by(_l.start).limit(_PAGE)).all()
        yield from (["lines", *row] for row in rows)
        if len(rows) < _PAGE:
            return
        after = rows[-1].start


def let_go(connection: sa.Connection, experiment: str, seen: Mark, place: dict[str, Any], now: float) -> bool:
    """Points and lines lie in the archive: keep their summaries and levels alone. False: more came meanwhile.

    It goes with a new stamp, noted in its place, which tells when it comes back whether anything came in between.
    """
    query = sa.select(_e.id).where(_e.id == experiment).with_for_update()
    if connection.execute(query).one_or_none() is None or mark(connection, experiment) != seen:
        return False
    mine = sa.select(_s.id).where(_s.experiment == experiment)
    connection.execute(sa.update(t.chunk_blobs).where(_b.series.in_(mine)).values(data=None))
    connection.execute(sa.update(t.log_batches).where(_l.experiment == experiment).values(lines=None))
    stamp = secrets.randbits(62)
    values = {
        "archived": now,
        "archive": json.dumps(place | {"stamp": stamp}),
        "restore_at": None,
        "stamp": stamp,
        "revision": _e.revision + 1,
    }
    connection.execute(sa.update(t.experiments).where(_e.id == experiment).values(values))
    return True


def ask_back(connection: sa.Connection, experiment: str, now: float) -> None:
    """Have it fetched, should it be archived; and from now on the rules count its age anew."""
    connection.execute(sa.update(t.experiments).where(_e.id == experiment).values(restore_at=now))


def asked_back(connection: sa.Connection, now: float) -> tuple[str, str, dict[str, Any]] | None:
    """(experiment, project, place in the artifact store) of the next one that is asked back."""
    query = sa.select(_e.id, _e.project, _e.archive).where(_e.restore_at <= now, _e.archived.is_not(None))
    row = connection.execute(query.order_by(_e.restore_at).limit(1)).one_or_none()
    return None if row is None else (row.id, row.project, json.loads(row.archive))


def put_off(connection: sa.Connection, experiment: str, until: float) -> None:
    """It could not be fetched now; try again then."""
    connection.execute(sa.update(t.experiments).where(_e.id == experiment).values(restore_at=until))
