"""Experiments of every kind put into the tables by hand, for tests of lists and groups."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import sqlalchemy as sa

from incl_shared.filters import FilterRow
from incl_shared.ids import derived_id
from incl_shared.states import EndReason, ExperimentState
from incl_tracker import store_experiments as store
from incl_tracker import tables as t
from incl_tracker.domain.columns import Numbers, decode
from incl_tracker.store_columns import touch

NOW = 1_769_850_000.0
NAMES = ("a run", "A Run", "résumé", "x%y_z", "naïve", "")
TAGS = ("red", "Blue", "x y")
METRICS = ("acc", "val/acc", "a b")
NUMBERS = (-1.5, 0.0, 0.25, 0.5, 1.0, 3.0, math.inf, -math.inf, math.nan)
TEXTS = ("adam", "0.1", "1e-1", "Adam", "", "inf", "nan")
TIMES = tuple(NOW - ago for ago in (0.0, 30.0, 3600.0, 86_400.0, 90_000.0, 200_000.0))


def random_row(chance: random.Random, number: int) -> FilterRow:
    """An experiment that has some of everything."""
    started = chance.choice([None, *TIMES])
    return FilterRow(
        id=derived_id("row", number),
        name=chance.choice(NAMES),
        user=chance.choice(["ann", "Bob"]),
        project="default",
        status=chance.choice(list(ExperimentState)).value,
        reason=chance.choice([None, *(r.value for r in list(EndReason)[:3])]),
        nodes=chance.choice([1, 2, 4]),
        gpus=chance.choice([0, 8]),
        attempts=chance.choice([0, 1, 2]),
        created=chance.choice(TIMES),
        started=started,
        ended=None if started is None else chance.choice([None, started + 60.0, started + 4000.0]),
        sweep=chance.choice([None, None, derived_id("sweep", 1), derived_id("sweep", 2)]),
        trial=chance.choice([None, 0, 3, 12]),
        tags=tuple(sorted(chance.sample(TAGS, chance.randint(0, 2)))),
        metrics={m: chance.choice(NUMBERS) for m in METRICS if chance.random() < 0.7},
        config={n: chance.choice(TEXTS) for n in ("lr", "opt") if chance.random() < 0.6},
        env={n: chance.choice(TEXTS) for n in ("lr", "HOST") if chance.random() < 0.6},
    )


ROWS = [random_row(random.Random(number), number) for number in range(60)]  # noqa: S311


def write(connection: sa.Connection, row: FilterRow) -> None:
    """Put it into the tables; NaN is stored as none."""
    store.find_or_make(connection, row.id, row.project, row.created)
    columns = {
        "known": True, "name": row.name, "user": row.user, "state": row.status, "reason": row.reason,
        "nodes": row.nodes, "gpus": row.gpus, "attempts": row.attempts, "created": row.created,
        "sweep": row.sweep, "trial": row.trial, "started": row.started, "ended": row.ended, "points": len(row.metrics),
    }  # fmt: skip
    store.update(connection, row.id, columns)
    store.set_tags(connection, row.id, row.tags)
    store.set_params(connection, row.id, "config", {n: (0.0, v) for n, v in row.config.items()}, 1)
    store.set_params(connection, row.id, "env", {n: (0.0, v) for n, v in row.env.items()}, 1)
    store.know_metrics(connection, row.project, list(METRICS))
    for name, value in row.metrics.items():
        last = None if math.isnan(value) else value
        summary = {"rank": 0, "points": 1, "last": last, "last_step": 1, "last_time": 0.0, "last_attempt": 1}
        connection.execute(sa.insert(t.metrics).values(experiment=row.id, metric=name, **summary))


def spoil(connection: sa.Connection, rows: Sequence[FilterRow]) -> None:
    """Make the rows other than they are packed, and right again in the columns' stead."""
    for row in rows:
        touch(connection, [row.id])
    columns = (
        connection.execute(sa.select(t.column_data).where(t.column_data.c.project == rows[0].project)).mappings().all()
    )
    slots = [
        place.slot for place in connection.execute(sa.select(t.places)) if place.experiment in {r.id for r in rows}
    ]
    for old in columns:
        column = decode(old["data"])
        if isinstance(column, Numbers) and old["name"] != "hidden":
            wrong = column.changed(slots, [0.5] * len(slots), len(column.values))
            low, high = wrong.bounds()
            where = [t.column_data.c[name] == old[name] for name in ("project", "kind", "name", "block")]
            values = {"data": wrong.encode(), "low": low, "high": high, "version": old["version"] + 1}
            connection.execute(sa.update(t.column_data).where(*where).values(values))
