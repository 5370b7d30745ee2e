"""Series of points for charts. Reading only."""

from __future__ import annotations

import math

import numpy as np
import sqlalchemy as sa

from incl_shared.filters import unknown_metric
from incl_shared.queries.tracker import GetSeries, Series, SeriesPage
from incl_tracker import store_pieces
from incl_tracker import tables as t
from incl_tracker.domain.pyramid import thinned
from incl_tracker.domain.samples import joined
from incl_tracker.store_pieces import GREATEST, LEAST
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
    low = LEAST if query.from_step is None else query.from_step
    high = GREATEST if query.to_step is None else query.to_step
    pieces = store_pieces.pieces(connection, experiment, metric, rank, low, high)
    found = [pieces.visible(head, samples, mask) for head, samples, mask in store_pieces.raw(connection, pieces.heads)]
    points = joined([*found, *(tail.samples for tail in pieces.tails())])
    points = points.take((points.steps >= low) & (points.steps <= high)).ordered()
    few = points
    if len(points):
        axis = points.steps.astype(np.float64)
        few = thinned(points, axis, axis[0], axis[-1], 2 * buckets)
    return Series(
        experiment=experiment,
        metric=metric,
        rank=rank,
        steps=tuple(few.steps.tolist()),
        times=tuple(few.times.tolist()),
        values=tuple(number_or_name(value) for value in few.values.tolist()),
        points=len(points),
    )


def number_or_name(value: float) -> float | str:
    """A value as JSON can carry it: NaN and the infinities by their names."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
