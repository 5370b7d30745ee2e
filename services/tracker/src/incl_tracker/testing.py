"""Points put into the tables by hand, for tests and measurements of what reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from incl_tracker import store_experiments
from incl_tracker import tables as t
from incl_tracker.domain import tails
from incl_tracker.domain.chunking import chunk
from incl_tracker.domain.samples import Mask, Samples


def put_experiment(connection: sa.Connection, experiment: str, metric: str, *, rank: int = 0, points: int = 1) -> None:
    """A shell with one metric, whose summary says no more than its name and rank."""
    store_experiments.find_or_make(connection, experiment, "default", 0.0)
    row: dict[str, Any] = {"last": 0.0, "last_step": 0, "last_time": 0.0, "last_attempt": 1}
    row |= {"experiment": experiment, "metric": metric, "rank": rank, "points": points}
    connection.execute(sa.insert(t.metrics).values(row))


def put_series(
    connection: sa.Connection, experiment: str, metric: str, attempt: int = 1, writer: str = "w", *, rank: int = 0
) -> int:
    """A series without points; its id."""
    row = {"experiment": experiment, "metric": metric, "rank": rank, "attempt": attempt, "writer": writer}
    made = connection.execute(sa.insert(t.series).values(row | {"points": 0, "chunks": 0, "small": 0}))
    key = made.inserted_primary_key
    assert key is not None
    return int(key[0])


def put_chunk(connection: sa.Connection, series: int, number: int, samples: Samples, mask: Mask | None = None) -> None:
    """A chunk of these points, in whatever order they are; mask: which of them are hidden."""
    order = np.lexsort((samples.times, samples.steps))
    row = chunk(samples.take(order), None if mask is None else mask[order])._asdict()
    row |= {"series": series, "number": number, "count": len(samples)}
    for table in (t.chunks, t.chunk_blobs):
        connection.execute(sa.insert(table).values({c.name: row[c.name] for c in table.columns}))


def put_tail(
    connection: sa.Connection, experiment: str, attempt: int, writer: str, columns: Sequence[tuple[int, Samples]]
) -> None:
    """A row of a tail: points of series (id, points), all of rank 0."""
    groups = [
        tails.Rows(np.array([series]), samples.steps, samples.times, samples.values.reshape(-1, 1))
        for series, samples in columns
    ]
    ids = [series for series, _ in columns]
    row = {"experiment": experiment, "attempt": attempt, "rank": 0, "writer": writer, "first": 1}
    row |= {"low": min(ids), "high": max(ids), "groups": tails.encode(groups)}
    connection.execute(sa.insert(t.tails).values(row))
