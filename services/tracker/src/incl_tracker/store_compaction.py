"""Small chunks and small batches of lines made into bigger ones, a few in each transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from incl_shared.states import FINAL_STATES
from incl_tracker import store_chunks, store_tails
from incl_tracker import tables as t
from incl_tracker.domain import compaction
from incl_tracker.domain.chunking import chunk
from incl_tracker.domain.compaction import Batch, Piece
from incl_tracker.domain.loglines import HEAD_BYTES, pack, size_of_blob, unpack
from incl_tracker.domain.samples import decode
from incl_tracker.domain.visible import mask_of

LEASE_S = 1_800.0
"""Seconds after which a compaction that was cut short begins again."""
_ROWS = 2_000
_e, _s, _c, _b, _l = t.experiments.c, t.series.c, t.chunks.c, t.chunk_blobs.c, t.log_batches.c


@dataclass(frozen=True, slots=True)
class Work:
    """An experiment that is being compacted, and how far it is. started: the due time that its row has meanwhile."""

    experiment: str
    ended: bool
    started: float
    series: int = 0
    line: int = -1
    folded: bool = False
    points_done: bool = False


def begin(connection: sa.Connection, now: float) -> Work | None:
    """The next experiment that is due, if there is one."""
    query = sa.select(_e.id, _e.state).where(_e.compact_at <= now).order_by(_e.compact_at).limit(1)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    set_due(connection, row.id, now + LEASE_S)
    ended = row.state in {state.value for state in FINAL_STATES}
    return Work(row.id, ended, now + LEASE_S, folded=not ended)


def step(connection: sa.Connection, work: Work) -> Work | None:
    """Do a little; none: there is nothing left to do."""
    if not work.folded:
        return replace(work, folded=not store_tails.fold(connection, work.experiment))
    if not work.points_done:
        return _points(connection, work)
    line = _lines(connection, work)
    if line is not None:
        return replace(work, line=line)
    done = sa.update(t.experiments).where(_e.id == work.experiment, _e.compact_at == work.started)
    connection.execute(done.values(compact_at=None))
    return None


def set_due(connection: sa.Connection, experiment: str, due: float) -> None:
    """Have it looked through at a time (seconds since the epoch)."""
    connection.execute(sa.update(t.experiments).where(_e.id == experiment).values(compact_at=due))


def _points(connection: sa.Connection, work: Work) -> Work:
    at_least = 1 if work.ended else compaction.PATIENCE - 1
    query = sa.select(_s.id).where(_s.experiment == work.experiment, _s.id > work.series, _s.chunks > at_least)
    if not work.ended:
        query = query.where(_s.small >= compaction.PATIENCE)
    series = connection.execute(query.order_by(_s.id).limit(1)).scalar()
    if series is None:
        return replace(work, points_done=True)
    if merge_chunks(connection, series, ended=work.ended):
        return work
    return replace(work, series=series)


def merge_chunks(connection: sa.Connection, series: int, *, ended: bool) -> bool:
    """Merge some chunks of a series. False: there is nothing to merge."""
    connection.execute(sa.select(_s.id).where(_s.id == series).with_for_update())
    sizes = [(row.number, row.points) for row in connection.execute(_SIZES, {"key": series})]
    numbers = (compaction.once_ended if ended else compaction.while_running)(sizes)
    if not numbers:
        return False
    query = sa.select(_b.number, _b.mask, _b.data).where(_b.series == series, _b.number.in_(numbers))
    found = {row.number: row for row in connection.execute(query)}
    if any(row.data is None for row in found.values()):
        return False
    counts = dict(sizes)
    pieces = [Piece(decode(found[n].data), mask_of(found[n].mask, counts[n])) for n in numbers]
    whole = compaction.merged(pieces)
    for table in (t.chunks, t.chunk_blobs):
        connection.execute(sa.delete(table).where(table.c.series == series, table.c.number.in_(numbers)))
    store_chunks.insert(connection, series, numbers[0], chunk(whole.samples, whole.mask))
    small = sa.select(sa.func.count()).where(_c.series == series, _c.count < compaction.SMALL).scalar_subquery()
    connection.execute(sa.update(t.series).where(_s.id == series).values(small=small))
    return True


_SIZES = sa.select(_c.number, _c.count.label("points")).where(_c.series == sa.bindparam("key")).order_by(_c.number)


def _lines(connection: sa.Connection, work: Work) -> int | None:
    """Merge the next batches of lines; how far it is now (a start), or none at the end."""
    query = (
        sa.select(
            _l.start,
            _l.count.label("number"),
            _l.attempt,
            _l.rank,
            _l.writer,
            _l.first,
            sa.func.substr(_l.lines, 1, HEAD_BYTES).label("head"),
        )
        .where(_l.experiment == work.experiment, _l.start > work.line, _l.lines.is_not(None))
        .order_by(_l.start)
        .limit(_ROWS)
    )
    rows = connection.execute(query).all()
    if len(rows) < 2:
        return None
    batches = [Batch(r.start, r.number, (r.attempt, r.rank, r.writer), r.first, size_of_blob(r.head)) for r in rows]
    for run in compaction.runs(batches):
        _merge_lines(connection, work.experiment, run)
        return run[0].start
    return rows[-1].start if len(rows) == _ROWS else None


def _merge_lines(connection: sa.Connection, experiment: str, run: Sequence[Batch]) -> None:
    where = (_l.experiment == experiment, _l.start >= run[0].start, _l.start <= run[-1].start)
    rows = connection.execute(sa.select(t.log_batches).where(*where).order_by(_l.start)).mappings().all()
    whole = dict(rows[0]) | {
        "count": sum(row["count"] for row in rows),
        "first_time": min(row["first_time"] for row in rows),
        "last_time": max(row["last_time"] for row in rows),
        "lines": pack([line for row in rows for line in unpack(row["lines"])]),
    }
    connection.execute(sa.delete(t.log_batches).where(*where))
    connection.execute(sa.insert(t.log_batches), [whole])
