"""What the tracker waits for, and why: settlements, partitions, work in the background. Reads by index only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from incl_shared.ids import short
from incl_shared.queries.stuck import Finding, TrackerStuck
from incl_tracker import store_settlement as store
from incl_tracker import tables as t
from incl_tracker.domain.ranges import missing

if TYPE_CHECKING:
    from incl_shared.clock import Clock
    from incl_shared.db import Database
    from incl_tracker.behind import Older
    from incl_tracker.domain.settlement import Stored, Wrote
    from incl_tracker.partitions import Partitions
    from incl_tracker.upkeep import Upkeep

SETTLE_S = 15.0
OVERDUE_S = 10.0
PARTITION_S = 15.0
UPKEEP_S = 60.0
BACKLOG_S = 900.0
_LOOKED_AT = 20
"""Attempts whose writers are looked at one by one."""
_WRITERS = 3
_a, _e = t.attempts.c, t.experiments.c
_UNSETTLED = (
    sa.select(_a.experiment, _a.attempt, _a.ended, _a.settle_due, _a.wait_for_due)
    .where(_a.settle_due.is_not(None), _a.settled.is_(False))
    .order_by(_a.settle_due)
    .limit(500)
)
_OLDEST_DUE = sa.select(sa.func.min(_e.compact_at)).where(_e.compact_at <= sa.bindparam("now"))


class Stuck:
    """Looks at all of it when it is asked."""

    def __init__(self, database: Database, clock: Clock, partitions: Partitions, upkeep: Upkeep, older: Older) -> None:
        self._database = database
        self._clock = clock
        self._partitions = partitions
        self._upkeep = upkeep
        self._older = older

    async def find(self, query: TrackerStuck) -> Sequence[Finding]:
        """Everything that has not moved for longer than is usual."""
        now = self._clock.now()
        stored = await self._database.read(
            lambda connection: [*_settlements(connection, query, now), *_backlog(connection, query, now)]
        )
        return [*stored, *self._memory(query)]

    def _memory(self, query: TrackerStuck) -> Iterator[Finding]:
        yield from self._older.findings()
        for name, seconds, trouble in self._partitions.waiting():
            if seconds > query.patience(PARTITION_S):
                yield Finding(
                    kind="partition.not-consumed", severity="error", subject=name, since_s=seconds,
                    reason=f"this tracker owns it and does not consume it: {trouble or 'it is not bound yet'}",
                    hint="see the log of the tracker",
                )  # fmt: skip
        for name, seconds, trouble in self._upkeep.failing():
            if seconds > query.patience(UPKEEP_S):
                yield Finding(
                    kind="upkeep.failing", severity="warning", subject=f"tracker {name}", since_s=seconds,
                    reason=trouble, hint="it is tried again and again; see the log of the tracker",
                )  # fmt: skip


def _settlements(connection: sa.Connection, query: TrackerStuck, now: float) -> Iterator[Finding]:
    looked_at = 0
    for row in connection.execute(_UNSETTLED).all():
        since = now - (row.ended or row.settle_due)
        late = now - row.settle_due
        if since <= query.patience(SETTLE_S):
            continue
        looked_at += 1
        reason = _why(connection, row.experiment, row.attempt) if looked_at <= _LOOKED_AT else "records are missing"
        if not reason:
            silent = "a rank never said what it wrote" if row.wait_for_due else "all is there"
            reason = f"{silent}; it is told when the time to wait is over"
        overdue = late > OVERDUE_S
        yield Finding(
            kind="settlement.overdue" if overdue else "settlement.waiting", severity="error" if overdue else "note",
            subject=f"{short(row.experiment)} attempt {row.attempt}", since_s=since, reason=reason,
            hint="see the log of the tracker" if overdue else f"it is settled as it is in {-late:.0f} s at most",
        )  # fmt: skip


def _why(connection: sa.Connection, experiment: str, attempt: int) -> str:
    """Which records of which writers are not there."""
    expected = store.expected_of(connection, experiment).get(attempt, [])
    stored = store.stored_of(connection, experiment, attempt).get(attempt, [])
    holes = [text for text in (_holes(one, stored) for one in expected) if text]
    more = f" and {len(holes) - _WRITERS} more writers" if len(holes) > _WRITERS else ""
    return "; ".join(holes[:_WRITERS]) + more


def _holes(wrote: Wrote, stored: Sequence[Stored]) -> str:
    ranges = next((s.ranges for s in stored if (s.rank, s.writer) == (wrote.rank, wrote.writer)), ())
    holes = missing(ranges, 1, wrote.records) if wrote.records else []
    if not holes:
        return ""
    count = sum(last - first + 1 for first, last in holes)
    first, last = holes[0][0], holes[-1][1]
    stream = wrote.stream or "telemetry"
    return f"{count} of {wrote.records} records of {stream} writer {wrote.writer} of rank {wrote.rank} ({first}…{last})"


def _backlog(connection: sa.Connection, query: TrackerStuck, now: float) -> Iterator[Finding]:
    oldest = connection.execute(_OLDEST_DUE, {"now": now}).scalar()
    if oldest is not None and now - oldest > query.patience(BACKLOG_S):
        yield Finding(
            kind="upkeep.backlog", severity="warning", subject="tracker compact", since_s=now - oldest,
            reason="experiments that are due for compaction wait", hint="see the log of the tracker",
        )  # fmt: skip
