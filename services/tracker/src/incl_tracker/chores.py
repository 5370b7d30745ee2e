"""What the tracker does by itself: due rows, looked for again and again."""

from __future__ import annotations

from collections.abc import Callable

from incl_shared.db import Database
from incl_tracker import counters, store_compaction, trash
from incl_tracker.archiving import Archivist, Ask
from incl_tracker.history import Historian
from incl_tracker.packing import Packer
from incl_tracker.settings import TrackerSettings
from incl_tracker.settling import settle_due
from incl_tracker.store_settlement import count_unsettled
from incl_tracker.upkeep import Chore

_PAUSE_FACTOR = 3.0
"""A round that comes later than this many intervals after the one before it: this machine was asleep."""
Tell = Callable[[str, str], None]
"""Told (project, experiment) of what changed."""


def chores(
    database: Database, settings: TrackerSettings, tell: Tell, ask: Ask, healthy: Callable[[], bool]
) -> list[Chore]:
    """All of them. healthy: whether telemetry could come at all now."""
    settler = Settler(database, tell, healthy, patience_s=settings.settle_after_s, every_s=settings.settle_check_s)

    async def empty_trash() -> bool:
        for place in await database.write(trash.purge_due):
            tell(*place)
        return await database.write(trash.sweep)

    compactor = _Compactor(database)
    archivist = Archivist(database, ask, settings.retention, settings.trash_kept_s, tell)
    historian = Historian(database, ask)
    return [
        Chore("settle", settler.round, settings.settle_check_s),
        Chore("compact", compactor.step, settings.compact_check_s),
        Chore("fetch", archivist.fetch, settings.fetch_check_s),
        Chore("retention", archivist.look, settings.retention_check_s),
        Chore("trash", empty_trash, settings.trash_check_s),
        Chore("history", historian.step, settings.history_check_s),
        Chore("history purge", historian.purge, settings.history_purge_s),
        Chore("pack", Packer(database, settings.pack_quiet_s).step, settings.pack_check_s),
    ]


class Settler:
    """Settles what was waited for long enough. Time in which nothing could come here counts against nobody."""

    def __init__(
        self, database: Database, tell: Tell, healthy: Callable[[], bool], *, patience_s: float, every_s: float
    ) -> None:
        self._database = database
        self._tell = tell
        self._healthy = healthy
        self._patience_s = patience_s
        self._every_s = every_s
        self._deaf_until = self._last = database.clock.monotonic()

    async def round(self) -> bool:
        """Settle what is due."""
        now = self._database.clock.monotonic()
        if not self._healthy() or now - self._last > self._every_s * _PAUSE_FACTOR + 1:
            self._deaf_until = now
        self._last = now
        if now - self._deaf_until >= self._patience_s:
            for place in await self._database.write(settle_due):
                self._tell(*place)
        counters.UNSETTLED.set(await self._database.read(count_unsettled))
        return False


class _Compactor:
    """Compacts one experiment after the other, a little at a time. What a crash cuts short is due again later."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._work: store_compaction.Work | None = None

    async def step(self) -> bool:
        """Do a little; false: nothing is due."""
        work, self._work = self._work, None
        if work is None:
            work = await self._database.write(lambda tx: store_compaction.begin(tx.connection, tx.clock.now()))
        if work is None:
            return False
        self._work = await self._database.write(lambda tx: store_compaction.step(tx.connection, work))
        return True
