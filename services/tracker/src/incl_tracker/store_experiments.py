"""Rows of experiments and attempts: writing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa

from incl_shared.filters import as_number
from incl_shared.states import ExperimentState
from incl_shared.subjects import Origin
from incl_tracker import counters, store_chunks
from incl_tracker import tables as t
from incl_tracker.domain.extras import Alert
from incl_tracker.domain.text import clean
from incl_tracker.sql import insert_new, upsert
from incl_tracker.store_columns import touch

_log = logging.getLogger("incl.tracker")
MAX_PARAMS = 10_000
"""Of an experiment and a kind (config, env)."""
_TELEMETRY = (
    t.writers, t.tails, t.metrics, t.log_batches, t.artifacts, t.dropped_artifacts, t.alerts, t.params, t.tags,
)  # fmt: skip
_AT_ONCE = 500
_SHELL: dict[str, Any] = {
    "known": False,
    "outside": False,
    "user": "",
    "name": "",
    "state": ExperimentState.QUEUED.value,
    "waiting": "",
    "waits": "[]",
    "nodes": 1,
    "gpus": 0,
    "attempts": 0,
    "tags": "[]",
    "declared": "{}",
    "version": 0,
    "revision": 0,
    "provenance": "{}",
    "message": "",
    "hint": "",
    "points": 0,
    "lines": 0,
    "epoch": 0,
    "stamp": 0,
    "alerts": 0,
    "settlements": 0,
}
_FIND = sa.select(t.experiments).where(t.experiments.c.id == sa.bindparam("experiment")).with_for_update()


def find(connection: sa.Connection, experiment: str) -> sa.RowMapping | None:
    """The row of an experiment, locked for this transaction."""
    return connection.execute(_FIND, {"experiment": experiment}).mappings().one_or_none()


def find_or_make(connection: sa.Connection, experiment: str, project: str, time: float) -> sa.RowMapping:
    """The row of an experiment; a shell when only something of it has come so far, and not itself."""
    row = find(connection, experiment)
    if row is not None:
        return row
    shell = _SHELL | {
        "id": experiment,
        "reversed": experiment[::-1],
        "project": project,
        "created": time,
        "queued_at": time,
    }
    connection.execute(sa.insert(t.experiments).values(shell))
    query = sa.select(t.experiments).where(t.experiments.c.id == experiment)
    return connection.execute(query).mappings().one()


def evict(connection: sa.Connection, experiment: str) -> None:
    """Forget what another project wrote under an experiment's id before the experiment itself came."""
    store_chunks.delete_all(connection, experiment)
    for table in _TELEMETRY:
        connection.execute(sa.delete(table).where(table.c.experiment == experiment))
    values = {"points": 0, "lines": 0, "stamp": 0, "epoch": t.experiments.c.epoch + 1}
    connection.execute(sa.update(t.experiments).where(t.experiments.c.id == experiment).values(values))


def update(connection: sa.Connection, experiment: str, values: Mapping[str, Any]) -> None:
    """Set columns, and count the revision up."""
    bound = {f"new_{name}": value for name, value in values.items()}
    connection.execute(_update(tuple(values)), {"experiment": experiment, **bound})
    touch(connection, [experiment])


@cache
def _update(names: tuple[str, ...]) -> sa.Update:
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in names}
    query = sa.update(t.experiments).where(t.experiments.c.id == sa.bindparam("experiment"))
    return query.values(revision=t.experiments.c.revision + 1, **values)


def count(connection: sa.Connection, experiment: str, **values: int) -> None:
    """Set counters that no view's version tells of: points, lines."""
    connection.execute(sa.update(t.experiments).where(t.experiments.c.id == experiment).values(**values))


def next_version(connection: sa.Connection, experiment: str, counter: str, count: int = 1) -> int:
    """Count up `settlements` or `alerts`: the version of that aggregate; of several the last one."""
    column = t.experiments.c[counter]
    values = {counter: column + count, "revision": t.experiments.c.revision + 1}
    connection.execute(sa.update(t.experiments).where(t.experiments.c.id == experiment).values(values))
    return int(connection.execute(sa.select(column).where(t.experiments.c.id == experiment)).scalar_one())


def insert_attempt(connection: sa.Connection, experiment: str, attempt: int, values: Mapping[str, Any]) -> None:
    """Add an attempt, unless it is there."""
    insert_new(connection, t.attempts, [{"experiment": experiment, "attempt": attempt, **values}])


def update_attempt(connection: sa.Connection, experiment: str, attempt: int, values: Mapping[str, Any]) -> None:
    """Set columns of an attempt."""
    where = (t.attempts.c.experiment == experiment, t.attempts.c.attempt == attempt)
    connection.execute(sa.update(t.attempts).where(*where).values(**values))


def set_tags(connection: sa.Connection, experiment: str, tags: tuple[str, ...]) -> None:
    """Make its tags findable."""
    rows = [{"experiment": experiment, "tag": clean(tag, 128)} for tag in dict.fromkeys(tags)]
    insert_new(connection, t.tags, rows)
    touch(connection, [experiment])


def set_params(
    connection: sa.Connection, experiment: str, kind: str, values: Mapping[str, tuple[float, str]], attempt: int
) -> bool:
    """Set parameters (name -> (time, text)) unless a later word is there. True when any was given.

    An experiment keeps the first MAX_PARAMS of a kind; further names are counted, and left out.
    """
    there = _later_words(connection, experiment, kind, list(values))
    room = _room(connection, experiment, kind, len(values.keys() - there.keys()))
    kept = [name for name in values if name in there]
    kept += [name for name in values if name not in there][:room]
    rows: list[dict[str, Any]] = [
        {
            "experiment": experiment,
            "kind": kind,
            "name": name,
            "text": values[name][1],
            "number": as_number(values[name][1]),
            "attempt": attempt,
            "time": values[name][0],
        }
        for name in kept
        if name not in there or (attempt, values[name][0]) >= there[name]
    ]
    for begin in range(0, len(rows), _AT_ONCE):
        upsert(connection, t.params, rows[begin : begin + _AT_ONCE])
    if values:
        touch(connection, [experiment])
    return bool(values)


def _room(connection: sa.Connection, experiment: str, kind: str, wanted: int) -> int:
    """How many of so many new parameters an experiment may still have."""
    if not wanted:
        return 0
    c = t.params.c
    mine = sa.select(sa.func.count()).where(c.experiment == experiment, c.kind == kind)
    room = max(0, MAX_PARAMS - int(connection.execute(mine).scalar_one()))
    if room < wanted:
        counters.REFUSED_PARAMS.inc(wanted - room)
        _log.warning("experiment %s has %d parameters already: %d are left out", experiment, MAX_PARAMS, wanted - room)
    return room


def _later_words(
    connection: sa.Connection, experiment: str, kind: str, names: Sequence[str]
) -> dict[str, tuple[int, float]]:
    """(attempt, time) of the parameters that are there."""
    c = t.params.c
    found: dict[str, tuple[int, float]] = {}
    for begin in range(0, len(names), _AT_ONCE):
        mine = (c.experiment == experiment, c.kind == kind, c.name.in_(names[begin : begin + _AT_ONCE]))
        rows = connection.execute(sa.select(c.name, c.attempt, c.time).where(*mine))
        found |= {name: (attempt, time) for name, attempt, time in rows}
    return found


def know_metrics(connection: sa.Connection, project: str, names: list[str]) -> None:
    """Remember that the project has these metrics."""
    insert_new(connection, t.known_metrics, [{"project": project, "metric": name} for name in names])


def alerts_of(connection: sa.Connection, experiment: str) -> int:
    """How many alerts were raised of an experiment."""
    query = sa.select(t.experiments.c.alerts).where(t.experiments.c.id == experiment)
    return int(connection.execute(query).scalar_one())


def has_alerts(connection: sa.Connection, origin: Origin, writer: str) -> bool:
    """Whether there are alerts of a writer."""
    c = t.alerts.c
    place = (c.experiment == origin.experiment, c.attempt == origin.attempt, c.rank == origin.rank, c.writer == writer)
    return connection.execute(sa.select(c.sequence).where(*place).limit(1)).one_or_none() is not None


def add_alerts(
    connection: sa.Connection, origin: Origin, writer: str, alerts: Sequence[Alert], received: float
) -> None:
    """List alerts, each once. received: the time (seconds since the epoch) of those that say none."""
    rows = [
        {
            "experiment": origin.experiment,
            "attempt": origin.attempt,
            "rank": origin.rank,
            "writer": writer,
            "sequence": alert.sequence,
            "time": received if alert.time is None else alert.time,
            "title": alert.title,
            "text": alert.text,
            "level": alert.level,
        }
        for alert in alerts
    ]
    insert_new(connection, t.alerts, rows)
