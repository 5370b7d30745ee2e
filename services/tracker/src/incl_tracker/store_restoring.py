"""Points and lines that come back from the archive.

What was stored meanwhile could neither hide points that lay there nor be hidden by them: both is made up for as each
chunk comes back, and then the extremes are computed anew. Where nothing was stored (the experiment's stamp is the one
that it went with) there is nothing to make up for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from incl_tracker import tables as t
from incl_tracker.domain.samples import decode
from incl_tracker.domain.summaries import Extreme
from incl_tracker.domain.visible import mask_of
from incl_tracker.store_columns import touch
from incl_tracker.store_hiding import Others, hide_more
from incl_tracker.store_summaries import stored_extremes

_AT_ONCE = 500
METRICS = 100
"""Metrics whose extremes are computed anew in one transaction."""
_e, _s, _b, _l, _m = t.experiments.c, t.series.c, t.chunk_blobs.c, t.log_batches.c, t.metrics.c
_METRICS = sa.select(_s.id, _s.metric).where(
    _s.experiment == sa.bindparam("experiment"), _s.id.in_(sa.bindparam("keys", expanding=True))
)
_EMPTY = sa.select(_b.series, _b.number, _b.mask).where(
    sa.tuple_(_b.series, _b.number).in_(sa.bindparam("keys", expanding=True)), _b.data.is_(None)
)
_ATTEMPTS = (
    sa.select(sa.func.count(_s.attempt.distinct()))
    .where(_s.experiment == _m.experiment, _s.metric == _m.metric, _s.rank == _m.rank)
    .scalar_subquery()
)
_FILL = (
    sa.update(t.chunk_blobs)
    .where(_b.series == sa.bindparam("of"), _b.number == sa.bindparam("at"), _b.data.is_(None))
    .values(data=sa.bindparam("blob"))
)


class _Back(NamedTuple):
    """A chunk that comes back."""

    series: int
    number: int
    data: bytes
    mask: bytes | None


def put_back(connection: sa.Connection, experiment: str, place: dict[str, Any], frames: Sequence[list[Any]]) -> bool:
    """Give rows their points and lines again; those that have theirs are left alone.

    place: where the frames are from. False: that is not where its points lie any more; nothing is done.
    """
    changed = _changed(connection, experiment, place)
    if changed is None:
        return False
    chunks = _empty(connection, experiment, [frame for frame in frames if frame[0] == "chunk"])
    if chunks:
        connection.execute(_FILL, [{"of": c.series, "at": c.number, "blob": c.data} for c in chunks])
    lines = [{"at": frame[1], "blob": frame[6]} for frame in frames if frame[0] == "lines"]
    if lines:
        here = (_l.experiment == experiment, _l.start == sa.bindparam("at"), _l.lines.is_(None))
        connection.execute(sa.update(t.log_batches).where(*here).values(lines=sa.bindparam("blob")), lines)
    if changed:
        _hide(connection, experiment, chunks)
    return True


def count_anew(
    connection: sa.Connection, experiment: str, place: dict[str, Any], after: str, limit: int = METRICS
) -> str | None:
    """Compute the extremes of its next metrics behind `after` anew. Returns where to go on; none: that was all."""
    if not _changed(connection, experiment, place):
        return None
    query = sa.select(_m.metric, _m.rank).where(_m.experiment == experiment, _m.metric > after, _ATTEMPTS > 1)
    rows = connection.execute(query.order_by(_m.metric).limit(limit)).all()
    for metric, rank in rows:
        least, greatest = stored_extremes(connection, experiment, metric, rank)
        values = _columns(least, "minimum", "min") | _columns(greatest, "maximum", "max")
        connection.execute(sa.update(t.metrics).where(_m.experiment == experiment, _m.metric == metric).values(values))
    if rows:
        connection.execute(sa.update(t.experiments).where(_e.id == experiment).values(stamp=0))
        touch(connection, [experiment])
    return rows[-1].metric if len(rows) == limit else None


def set_back(connection: sa.Connection, experiment: str, place: dict[str, Any], now: float) -> None:
    """All of it is here again. What came meanwhile is looked through for small chunks, now that there is something."""
    changed = _changed(connection, experiment, place)
    if changed is None:
        return
    values: dict[str, Any] = {"archived": None, "archive": None, "revision": _e.revision + 1}
    if changed:
        values["compact_at"] = sa.func.coalesce(_e.compact_at, now)
    connection.execute(sa.update(t.experiments).where(_e.id == experiment).values(values))


def _changed(connection: sa.Connection, experiment: str, place: dict[str, Any]) -> bool | None:
    """Whether anything was stored since it was archived there; none: it does not lie there. Its row is locked."""
    query = sa.select(_e.archive, _e.stamp).where(_e.id == experiment).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None or row.archive is None or json.loads(row.archive) != place:
        return None
    return bool(row.stamp != place.get("stamp"))


def _empty(connection: sa.Connection, experiment: str, frames: Sequence[list[Any]]) -> list[_Back]:
    """Those of some chunks that are there without their points."""
    data = {(frame[1], frame[2]): frame[3] for frame in frames}
    mine = _metrics(connection, experiment, {series for series, _ in data})
    keys = [key for key in data if key[0] in mine]
    found = []
    for begin in range(0, len(keys), _AT_ONCE):
        for series, number, mask in connection.execute(_EMPTY, {"keys": keys[begin : begin + _AT_ONCE]}):
            found.append(_Back(series, number, data[(series, number)], mask))
    return sorted(found)


def _metrics(connection: sa.Connection, experiment: str, series: Iterable[int]) -> dict[int, str]:
    """The metrics of some series, as far as they are this experiment's."""
    keys = sorted(series)
    found: dict[int, str] = {}
    for begin in range(0, len(keys), _AT_ONCE):
        bound = {"experiment": experiment, "keys": keys[begin : begin + _AT_ONCE]}
        found.update({row.id: row.metric for row in connection.execute(_METRICS, bound)})
    return found


def _hide(connection: sa.Connection, experiment: str, chunks: Sequence[_Back]) -> None:
    """Hide in these chunks what later attempts logged again, and what these logged again in those of earlier ones."""
    names = _metrics(connection, experiment, {chunk.series for chunk in chunks})
    others = Others.of_each(connection, experiment, names)
    for chunk in chunks:
        if not others[chunk.series].by_series[chunk.series]:
            continue
        samples, around = decode(chunk.data), others[chunk.series]
        more = around.hidden(connection, chunk.series, samples.steps)
        hide_more(connection, chunk.series, chunk.number, samples, mask_of(chunk.mask, len(samples)), more)
        around.hide(connection, chunk.series, samples.steps)


def _columns(extreme: Extreme | None, value: str, prefix: str) -> dict[str, float | int | None]:
    found: Sequence[float | int | None] = extreme or (None, None, None)
    return dict(zip((value, f"{prefix}_step", f"{prefix}_attempt"), found, strict=True))
