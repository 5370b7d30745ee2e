"""Points on their way into tails and chunks, and into the summaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from incl_shared.bus.errors import Poison
from incl_shared.queries.tracker import SYSTEM_PREFIX
from incl_tracker import store_chunks, store_tails
from incl_tracker.domain.batches import BadBatch, Metrics, Table, cut_metrics, stacked
from incl_tracker.domain.extras import Said, read_extras
from incl_tracker.domain.tails import Rows
from incl_tracker.ingest_work import Work, new_of
from incl_tracker.memory import Columns

if TYPE_CHECKING:
    from incl_shared.db import Transaction

_SMALL_CHUNKS = 16
_COMPACT_AFTER_S = 30.0


def take(work: Work, batch: Metrics) -> Said | None:
    """Take what is new of a batch; what its extras say, if it has any that are new."""
    wanted = new_of(work, batch.first, batch.count)
    if not wanted:
        return None
    try:
        new = cut_metrics(batch, wanted)
    except BadBatch as error:
        raise Poison(str(error)) from error
    work.first = min(work.first, wanted[0][0]) if work.tables else wanted[0][0]
    work.tables += new.tables
    if not new.extras:
        return None
    said = read_extras(new.extras)
    work.writer.dropped += said.dropped
    return said


def store(
    tx: Transaction, work: Work, tails: store_tails.NewTails, fresh: list[tuple[str, str]], most: int
) -> list[tuple[str, int]]:
    """Store the new points of a writer; (experiment, place) of summaries to be computed anew."""
    place, known, writer = work.place, work.place.known, work.writer
    assert known.attempts is not None
    known.attempts.add(writer.key.attempt)
    stale: list[tuple[str, int]] = []
    groups = []
    for whole in _joined(work.tables):
        table = _fitting(work, whole, most)
        if not table.names:
            continue
        columns = _columns(tx.connection, work, table.names, fresh)
        stale += _summarise(work, table, columns)
        groups.append(Rows(columns.series, table.steps, table.times, table.values))
        writer.points += len(table) * columns.counted
        place.new_points += len(table) * columns.counted
    known.small += tails.add(place.id, known, writer, work.first, groups)
    if known.small >= _SMALL_CHUNKS * max(1, len(writer.series)) and place.compact_at is None:
        place.compact_at, known.small = tx.clock.now() + _COMPACT_AFTER_S, 0
    return stale


def _joined(tables: Sequence[Table]) -> list[Table]:
    """Tables of the same metrics made one."""
    if len(tables) < 2:
        return list(tables)
    same: dict[tuple[str, ...], list[Table]] = {}
    for table in tables:
        same.setdefault(table.names, []).append(table)
    return [parts[0] if len(parts) == 1 else stacked(parts) for parts in same.values()]


def new_names(works: Sequence[Work]) -> int:
    """How many series have to be looked up, or made."""
    return sum(
        sum(name not in work.writer.series for name in names)
        for work in works
        for names in {table.names for table in work.tables}
        if names not in work.writer.columns
    )


def _fitting(work: Work, table: Table, most: int) -> Table:
    """Without metrics that the experiment cannot have any more; its records are counted as dropped then."""
    summaries = work.place.known.summaries
    assert summaries is not None
    if table.names in work.writer.columns:
        return table
    kept = summaries.fitting(table.names, most)
    if kept is None:
        return table
    work.refused += len(table)
    work.writer.dropped += len(table)
    return replace(table, names=tuple(table.names[place] for place in kept), values=table.values[:, kept])


def _columns(connection: sa.Connection, work: Work, names: tuple[str, ...], fresh: list[tuple[str, str]]) -> Columns:
    """What these names are to the writer; the metrics that are new to the experiment go to `fresh`."""
    known, writer = work.place.known, work.writer
    found = writer.columns.get(names)
    if found is None:
        assert known.summaries is not None
        summaries, before = known.summaries, len(known.summaries) + len(writer.series)
        metrics = len(summaries)
        store_chunks.ids(connection, work.place.id, writer, names)
        places = summaries.places(names)
        fresh += [(work.place.project, name) for name in summaries.names[metrics:]]
        known.size += len(summaries) + len(writer.series) - before + 1 + len(names) // 4
        counted = sum(not name.startswith(SYSTEM_PREFIX) for name in names)
        found = Columns(np.array([writer.series[name] for name in names], np.int64), places, counted)
        writer.remember(names, found)
    return found


def _summarise(work: Work, table: Table, columns: Columns) -> list[tuple[str, int]]:
    """Add what is new to the summaries; (experiment, place) of those whose extremes must be computed anew."""
    place, key = work.place, work.writer.key
    assert place.known.summaries is not None
    fresh = place.known.summaries.add(columns.places, key.rank, key.attempt, table.steps, table.times, table.values)
    if key.rank == 0:
        told = place.told
        for name, step, value in zip(table.names, fresh.steps.tolist(), fresh.values.tolist(), strict=True):
            if name not in told or told[name][0] <= step:
                told[name] = (step, value)
    return [(place.id, where) for where in fresh.stale.tolist()]
