"""Series of points for charts, and pages of log lines. Reading only."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import sqlalchemy as sa

from incl_shared.errors import InvalidInput
from incl_shared.filters import unknown_metric
from incl_shared.queries.tracker import GetLogs, GetSeries, LogLine, LogPage, Series, SeriesPage
from incl_tracker import tables as t
from incl_tracker.domain.loglines import joined, shown, size_of, unpack
from incl_tracker.domain.thinning import one_series, thinned
from incl_tracker.store_telemetry import read_chunks
from incl_tracker.store_views import row_in

PAGE_BYTES = 200_000
POINT_BYTES = 48
_SCAN_S = 1.0
_BATCHES = 50


def series(connection: sa.Connection, project: str, query: GetSeries) -> SeriesPage:
    """The series of several metrics of several experiments, thinned to what fits a chart and a message.

    Raises:
        NotFoundError: when an experiment is not of this project.
        InvalidInput: when none of the experiments has a metric that was asked for.
    """
    known = {experiment: _ranks(connection, project, experiment) for experiment in dict.fromkeys(query.experiments)}
    names = query.metrics or tuple(known[query.experiments[0]])[:100]
    for name in names:
        if not any(name in ranks for ranks in known.values()):
            everything = {metric for ranks in known.values() for metric in ranks}
            raise unknown_metric(name, everything, _where(query))
    wanted = [(experiment, name) for experiment, ranks in known.items() for name in names if name in ranks]
    room = max(8, PAGE_BYTES // POINT_BYTES // max(1, len(wanted)))
    buckets = max(1, min(query.pixels, room // 4))
    found = [_one(connection, query, experiment, name, known[experiment][name], buckets) for experiment, name in wanted]
    return SeriesPage(series=tuple(s for s in found if s.points))


def _where(query: GetSeries) -> str:
    if len(query.experiments) == 1:
        return f"experiment {query.experiments[0]}"
    return f"any of the {len(query.experiments)} experiments"


def _ranks(connection: sa.Connection, project: str, experiment: str) -> dict[str, int]:
    row_in(connection, project, experiment)
    c = t.metrics.c
    query = sa.select(c.metric, c.rank).where(c.experiment == experiment).order_by(c.metric)
    return {row.metric: row.rank for row in connection.execute(query)}


def _one(
    connection: sa.Connection, query: GetSeries, experiment: str, metric: str, lowest: int, buckets: int
) -> Series:
    rank = lowest if query.rank is None else query.rank
    c = t.old_chunks.c
    where = [c.experiment == experiment, c.metric == metric, c.rank == rank]
    if query.from_step is not None:
        where.append(c.last_step >= query.from_step)
    if query.to_step is not None:
        where.append(c.first_step <= query.to_step)
    points = one_series(read_chunks(connection, where), query.from_step, query.to_step)
    few = thinned(points, buckets) if len(points) else points
    return Series(
        experiment=experiment,
        metric=metric,
        rank=rank,
        steps=tuple(few.steps),
        times=tuple(few.times),
        values=tuple(number_or_name(value) for value in few.values),
        points=len(points),
    )


def number_or_name(value: float) -> float | str:
    """A value as JSON can carry it: NaN and the infinities by their names."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def logs(connection: sa.Connection, project: str, query: GetLogs) -> LogPage:
    """A page of lines.

    Raises:
        NotFoundError: when the experiment is not of this project.
        InvalidInput: when both `after` and `tail` are asked for.
    """
    if query.tail is not None and query.after:
        raise InvalidInput("after and tail exclude each other", hint="leave one of them out")
    total = row_in(connection, project, query.experiment)["lines"]
    if query.tail is not None:
        return _tail(connection, query, total)
    return _page(connection, query, total)


def _page(connection: sa.Connection, query: GetLogs, total: int) -> LogPage:
    lines: list[LogLine] = []
    cursor, size, deadline = query.after, 0, time.monotonic() + _SCAN_S
    for position, line in _forward(connection, query):
        if line is not None and _fits(query, line):
            size += size_of(line)
            if lines and (size > PAGE_BYTES or len(lines) >= query.limit):
                return LogPage(lines=tuple(joined(lines)), cursor=cursor, more=True)
            lines.append(line)
        cursor = position + 1
        if time.monotonic() > deadline:
            break
    else:
        cursor = max(cursor, total)
    return LogPage(lines=tuple(joined(lines)), cursor=cursor, more=cursor < total)


def _forward(connection: sa.Connection, query: GetLogs) -> Iterator[tuple[int, LogLine | None]]:
    """(position, line) after the cursor; a batch of another rank or attempt is passed over with one step."""
    c = t.log_batches.c
    at = query.after
    before = sa.select(sa.func.max(c.start)).where(c.experiment == query.experiment, c.start <= at)
    start = connection.execute(before).scalar() or 0
    while True:
        select = sa.select(t.log_batches).where(c.experiment == query.experiment, c.start >= start)
        rows = connection.execute(select.order_by(c.start).limit(_BATCHES)).mappings().all()
        for row in rows:
            start = row["start"] + row["count"]
            if start <= at:
                continue
            if not _batch_fits(query, row):
                yield start - 1, None
                continue
            for place, line in enumerate(unpack(row["lines"])):
                if row["start"] + place >= at:
                    yield row["start"] + place, shown(line, row["attempt"], row["rank"])
        if len(rows) < _BATCHES:
            return


def _tail(connection: sa.Connection, query: GetLogs, total: int) -> LogPage:
    """The last lines, sought from the end."""
    c = t.log_batches.c
    wanted, size, below = query.tail or 0, 0, total
    found: list[LogLine] = []
    deadline = time.monotonic() + _SCAN_S
    while len(found) < wanted and below > 0 and time.monotonic() < deadline:
        select = sa.select(t.log_batches).where(c.experiment == query.experiment, c.start < below)
        row = connection.execute(select.order_by(c.start.desc()).limit(1)).mappings().one_or_none()
        if row is None:
            break
        below = row["start"]
        if not _batch_fits(query, row):
            continue
        for line in reversed(unpack(row["lines"])):
            answer = shown(line, row["attempt"], row["rank"])
            if not _fits(query, answer):
                continue
            size += size_of(answer)
            if len(found) >= wanted or (found and size > PAGE_BYTES):
                return LogPage(lines=tuple(joined(reversed(found))), cursor=total, more=False)
            found.append(answer)
    return LogPage(lines=tuple(joined(reversed(found))), cursor=total, more=False)


def _batch_fits(query: GetLogs, row: sa.RowMapping) -> bool:
    return query.rank in (None, row["rank"]) and query.attempt in (None, row["attempt"])


def _fits(query: GetLogs, line: LogLine) -> bool:
    return not query.search or query.search.casefold() in line.text.casefold()
