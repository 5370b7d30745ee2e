"""Rows of points that are in no chunk yet: read by metric, and made one or folded into chunks."""

from __future__ import annotations

import sqlalchemy as sa

from incl_tracker import tables as t
from incl_tracker.domain import tails
from incl_tracker.domain.samples import joined
from incl_tracker.domain.visible import Tail

_s, _t = t.series.c, t.tails.c
_SERIES = sa.select(_s.id, _s.attempt, _s.writer).where(
    _s.experiment == sa.bindparam("experiment"), _s.metric == sa.bindparam("metric"), _s.rank == sa.bindparam("rank")
)
_ROWS = (
    sa.select(_t.attempt, _t.writer, _t.groups)
    .where(
        _t.experiment == sa.bindparam("experiment"),
        _t.rank == sa.bindparam("rank"),
        _t.low <= sa.bindparam("high", type_=sa.BigInteger),
        _t.high >= sa.bindparam("low", type_=sa.BigInteger),
    )
    .order_by(_t.attempt, _t.writer, _t.id)
)


def read(connection: sa.Connection, experiment: str, metric: str, rank: int) -> list[Tail]:
    """The points of a metric and rank that are in no chunk yet, by attempt and writer, in the order of arrival."""
    key = {"experiment": experiment, "rank": rank}
    ids = {(a, w): i for i, a, w in connection.execute(_SERIES, key | {"metric": metric})}
    if not ids:
        return []
    bound = key | {"low": min(ids.values()), "high": max(ids.values())}
    found: dict[tuple[int, str], list[tails.Samples]] = {}
    for attempt, writer, blob in connection.execute(_ROWS, bound):
        place = (attempt, writer)
        samples = tails.find(blob, ids[place]) if place in ids else None
        if samples is not None:
            found.setdefault(place, []).append(samples)
    return [Tail(*place, joined(pieces)) for place, pieces in found.items()]
