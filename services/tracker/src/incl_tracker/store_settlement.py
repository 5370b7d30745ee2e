"""Rows that settlement reads and writes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa

from incl_tracker import tables as t
from incl_tracker.domain.ranges import total
from incl_tracker.domain.settlement import Stored, Wrote
from incl_tracker.sql import upsert


def expect(connection: sa.Connection, experiment: str, attempt: int, said: Sequence[Wrote]) -> None:
    """Write down what the writers of an attempt wrote."""
    rows = [
        {
            "experiment": experiment,
            "attempt": attempt,
            "rank": w.rank,
            "stream": w.stream,
            "writer": w.writer,
            "records": w.records,
            "dropped": w.dropped,
        }
        for w in said
    ]
    upsert(connection, t.expected, rows)


def unsettled(connection: sa.Connection, experiment: str, attempt: int) -> sa.RowMapping | None:
    """The row of an attempt that has ended and is not settled."""
    c = t.attempts.c
    query = sa.select(c.experiment, c.attempt, c.settle_due, c.wait_for_due, c.ended).where(
        c.experiment == experiment, c.attempt == attempt, c.settled.is_(False), c.settle_due.is_not(None)
    )
    return connection.execute(query).mappings().one_or_none()


def unsettled_of(connection: sa.Connection, experiments: Sequence[str]) -> list[tuple[str, int, float]]:
    """(experiment, attempt, when it is due) of those of these experiments that have ended and are not settled."""
    if not experiments:
        return []
    found = connection.execute(_UNSETTLED, {"experiments": experiments})
    return [(experiment, attempt, due) for experiment, attempt, due in found]


_UNSETTLED = sa.select(t.attempts.c.experiment, t.attempts.c.attempt, t.attempts.c.settle_due).where(
    t.attempts.c.experiment.in_(sa.bindparam("experiments", expanding=True)),
    t.attempts.c.settled.is_(False),
    t.attempts.c.settle_due.is_not(None),
)


def due(connection: sa.Connection, now: float, limit: int = 100) -> list[tuple[str, int]]:
    """(experiment, attempt) of those whose time to wait is over."""
    c = t.attempts.c
    query = (
        sa.select(c.experiment, c.attempt)
        .where(c.settle_due <= now, c.settled.is_(False))
        .order_by(c.settle_due)
        .limit(limit)
    )
    return [(row.experiment, row.attempt) for row in connection.execute(query)]


def count_unsettled(connection: sa.Connection) -> int:
    """How many attempts have ended and are not settled."""
    due = t.attempts.c.settle_due
    return int(connection.execute(sa.select(sa.func.count(due)).where(due.is_not(None))).scalar_one())


def expected_of(connection: sa.Connection, experiment: str) -> dict[int, list[Wrote]]:
    """What was said to be written, by attempt."""
    c = t.expected.c
    found: dict[int, list[Wrote]] = {}
    for row in connection.execute(sa.select(t.expected).where(c.experiment == experiment)):
        wrote = Wrote(row.rank, row.stream, row.writer, row.records, row.dropped)
        found.setdefault(row.attempt, []).append(wrote)
    return found


def stored_of(connection: sa.Connection, experiment: str, attempt: int | None = None) -> dict[int, list[Stored]]:
    """What is stored, by attempt."""
    query = sa.select(t.writers).where(t.writers.c.experiment == experiment)
    if attempt is not None:
        query = query.where(t.writers.c.attempt == attempt)
    found: dict[int, list[Stored]] = {}
    for row in connection.execute(query):
        ranges = tuple((a, b) for a, b in json.loads(row.ranges))
        found.setdefault(row.attempt, []).append(Stored(row.rank, row.stream, row.writer, ranges, row.dropped))
    return found


def points_of(connection: sa.Connection, experiment: str) -> dict[int, int]:
    """How many points are stored, by attempt; the node's samples are not among them."""
    c = t.writers.c
    query = sa.select(c.attempt, sa.func.sum(c.points)).where(c.experiment == experiment).group_by(c.attempt)
    return {attempt: int(points) for attempt, points in connection.execute(query)}


def lines_of(stored: Sequence[Stored]) -> int:
    """How many log lines are stored."""
    return sum(total(s.ranges) for s in stored if s.stream == "logs")
