"""Rows of telemetry: which records are stored, points in chunks, summaries, log lines. Writing only."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
import zstandard

from incl_shared.subjects import Origin
from incl_shared.telemetry.wire import Line
from incl_tracker import tables as t
from incl_tracker.domain import ranges, summaries
from incl_tracker.domain.loglines import pack
from incl_tracker.domain.points import Points, from_blobs
from incl_tracker.sql import upsert

CHUNK_POINTS = 4096
OPEN_ROWS = 32
PLAIN, ZSTD = 0, 1


def stored_ranges(
    connection: sa.Connection, origin: Origin, stream: str, writer: str
) -> tuple[list[ranges.Range], int]:
    """(ranges of stored records, records that are known dropped) of one writer."""
    query = sa.select(t.writers.c.ranges, t.writers.c.dropped).where(*_writer(origin, stream, writer))
    row = connection.execute(query).one_or_none()
    return ([(a, b) for a, b in json.loads(row.ranges)], row.dropped) if row else ([], 0)


def set_ranges(
    connection: sa.Connection, origin: Origin, stream: str, writer: str, stored: Sequence[ranges.Range], dropped: int
) -> None:
    """Write down which records of a writer are stored."""
    row = {
        "experiment": origin.experiment,
        "attempt": origin.attempt,
        "rank": origin.rank,
        "stream": stream,
        "writer": writer,
        "ranges": json.dumps(stored),
        "dropped": dropped,
        "tail_rows": 0,
        "tail_bytes": 0,
    }
    upsert(connection, t.writers, [row])


def add_points(connection: sa.Connection, origin: Origin, writer: str, columns: dict[str, Points]) -> list[str]:
    """Store points by metric and keep the summaries up. Returns the metrics that are new to the experiment."""
    if not columns:
        return []
    connection.execute(
        sa.insert(t.old_chunks), [_chunk(origin, m, writer, p, sealed=False) for m, p in columns.items()]
    )
    for metric in _grow_series(connection, origin, writer, columns):
        _merge(connection, origin, metric, writer)
    return _summarise(connection, origin, columns)


def add_lines(
    connection: sa.Connection, origin: Origin, writer: str, pieces: Sequence[tuple[int, list[Line]]], start: int
) -> int:
    """Store lines after the `start` lines that the experiment has. Returns how many it has then."""
    rows = []
    for first, lines in pieces:
        rows.append(
            {
                "experiment": origin.experiment,
                "start": start,
                "count": len(lines),
                "attempt": origin.attempt,
                "rank": origin.rank,
                "writer": writer,
                "first": first,
                "first_time": min(line.time for line in lines),
                "last_time": max(line.time for line in lines),
                "lines": pack(lines),
            }
        )
        start += len(lines)
    connection.execute(sa.insert(t.log_batches), rows)
    return start


def read_chunks(connection: sa.Connection, where: Sequence[sa.ColumnElement[bool]]) -> dict[int, Points]:
    """Points of chunks by attempt, in the order of storing."""
    c = t.old_chunks.c
    query = sa.select(c.attempt, c.codec, c.steps, c.times, c.data).where(*where).order_by(c.attempt, c.writer, c.id)
    found: dict[int, Points] = {}
    unzip = zstandard.ZstdDecompressor()
    for attempt, codec, *blobs in connection.execute(query):
        plain = [unzip.decompress(blob) for blob in blobs] if codec == ZSTD else [bytes(blob) for blob in blobs]
        found.setdefault(attempt, Points()).extend(from_blobs(*plain))
    return found


def _writer(origin: Origin, stream: str, writer: str) -> tuple[sa.ColumnElement[bool], ...]:
    c = t.writers.c
    return (
        c.experiment == origin.experiment,
        c.attempt == origin.attempt,
        c.rank == origin.rank,
        c.stream == stream,
        c.writer == writer,
    )


def _chunk(origin: Origin, metric: str, writer: str, points: Points, *, sealed: bool) -> dict[str, Any]:
    least, greatest = points.extremes()
    blobs = points.blobs()
    if sealed:
        zipper = zstandard.ZstdCompressor(level=3)
        blobs = (zipper.compress(blobs[0]), zipper.compress(blobs[1]), zipper.compress(blobs[2]))
    return {
        "experiment": origin.experiment,
        "metric": metric,
        "attempt": origin.attempt,
        "rank": origin.rank,
        "writer": writer,
        "sealed": sealed,
        "codec": ZSTD if sealed else PLAIN,
        "count": len(points),
        "first_step": min(points.steps),
        "last_step": max(points.steps),
        "minimum": least,
        "maximum": greatest,
        "steps": blobs[0],
        "times": blobs[1],
        "data": blobs[2],
    }


def _series(origin: Origin, writer: str) -> tuple[sa.ColumnElement[bool], ...]:
    c = t.old_series.c
    return (
        c.experiment == origin.experiment,
        c.attempt == origin.attempt,
        c.rank == origin.rank,
        c.writer == writer,
    )


def _grow_series(connection: sa.Connection, origin: Origin, writer: str, columns: dict[str, Points]) -> list[str]:
    """Count the new chunk of each metric; the metrics that have chunks to merge."""
    query = sa.select(t.old_series).where(*_series(origin, writer), t.old_series.c.metric.in_(list(columns)))
    there = {row["metric"]: row for row in connection.execute(query).mappings()}
    rows, full = [], []
    for metric, points in columns.items():
        old = there.get(metric)
        low, high = min(points.steps), max(points.steps)
        row: dict[str, Any] = {
            "experiment": origin.experiment,
            "metric": metric,
            "attempt": origin.attempt,
            "rank": origin.rank,
            "writer": writer,
            "points": len(points) + (old["points"] if old else 0),
            "open_rows": 1 + (old["open_rows"] if old else 0),
            "open_points": len(points) + (old["open_points"] if old else 0),
            "first_step": min(low, old["first_step"]) if old else low,
            "last_step": max(high, old["last_step"]) if old else high,
        }
        rows.append(row)
        if row["open_points"] >= CHUNK_POINTS or row["open_rows"] >= OPEN_ROWS:
            full.append(metric)
    upsert(connection, t.old_series, rows)
    return full


def _merge(connection: sa.Connection, origin: Origin, metric: str, writer: str) -> None:
    """Make one chunk of the open ones; sealed when it is full."""
    c = t.old_chunks.c
    where = (
        c.experiment == origin.experiment,
        c.metric == metric,
        c.rank == origin.rank,
        c.attempt == origin.attempt,
        c.writer == writer,
        c.sealed.is_(False),
    )
    points = read_chunks(connection, where)[origin.attempt]
    sealed = len(points) >= CHUNK_POINTS
    connection.execute(sa.delete(t.old_chunks).where(*where))
    connection.execute(sa.insert(t.old_chunks), [_chunk(origin, metric, writer, points, sealed=sealed)])
    values = {"open_rows": 0, "open_points": 0} if sealed else {"open_rows": 1}
    query = sa.update(t.old_series).where(*_series(origin, writer), t.old_series.c.metric == metric)
    connection.execute(query.values(**values))


def _summarise(connection: sa.Connection, origin: Origin, columns: dict[str, Points]) -> list[str]:
    c = t.metrics.c
    query = sa.select(t.metrics).where(c.experiment == origin.experiment, c.metric.in_(list(columns)))
    there = {row["metric"]: summary_of(row) for row in connection.execute(query).mappings()}
    rows = []
    for metric, points in columns.items():
        old = there.get(metric)
        summary, stale = summaries.add(old, origin.rank, origin.attempt, points)
        if summary is old:
            continue
        if stale:
            k = t.old_chunks.c
            where = (k.experiment == origin.experiment, k.metric == metric, k.rank == summary.rank)
            summary = summaries.again(summary, read_chunks(connection, where))
        rows.append({"experiment": origin.experiment, "metric": metric, **summary_row(summary)})
    upsert(connection, t.metrics, rows)
    return [metric for metric in columns if metric not in there]


def summary_row(summary: summaries.Summary) -> dict[str, Any]:
    """A summary as columns."""
    low, high = summary.minimum, summary.maximum
    return {
        "rank": summary.rank,
        "points": summary.points,
        "last": None if math.isnan(summary.last) else summary.last,
        "last_step": summary.last_step,
        "last_time": summary.last_time,
        "last_attempt": summary.last_attempt,
        "minimum": low.value if low else None,
        "min_step": low.step if low else None,
        "min_attempt": low.attempt if low else None,
        "maximum": high.value if high else None,
        "max_step": high.step if high else None,
        "max_attempt": high.attempt if high else None,
    }


def summary_of(row: sa.RowMapping) -> summaries.Summary:
    """Columns as a summary."""
    low, high = row["minimum"], row["maximum"]
    return summaries.Summary(
        rank=row["rank"],
        points=row["points"],
        last=math.nan if row["last"] is None else row["last"],
        last_step=row["last_step"],
        last_time=row["last_time"],
        last_attempt=row["last_attempt"],
        minimum=None if low is None else summaries.Extreme(low, row["min_step"], row["min_attempt"]),
        maximum=None if high is None else summaries.Extreme(high, row["max_step"], row["max_attempt"]),
    )
