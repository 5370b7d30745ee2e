"""Series of points for charts. Reading only."""

from __future__ import annotations

import math

import sqlalchemy as sa

from incl_shared.filters import unknown_metric
from incl_shared.queries.tracker import GetSeries, Series, SeriesPage
from incl_tracker import tables as t
from incl_tracker.domain.thinning import one_series, thinned
from incl_tracker.store_telemetry import read_chunks
from incl_tracker.store_views import row_in

PAGE_BYTES = 200_000
POINT_BYTES = 48


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
