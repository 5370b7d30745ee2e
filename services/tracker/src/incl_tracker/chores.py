"""What the tracker does by itself: due rows, looked for again and again."""

from __future__ import annotations

from collections.abc import Callable

from incl_shared.db import Database
from incl_tracker import store_compaction, trash
from incl_tracker.archiving import Archivist, Ask
from incl_tracker.history import Historian
from incl_tracker.packing import Packer
from incl_tracker.settings import TrackerSettings
from incl_tracker.settling import settle_due
from incl_tracker.upkeep import Chore

Tell = Callable[[str, str], None]
"""Told (project, experiment) of what changed."""


def chores(database: Database, settings: TrackerSettings, tell: Tell, ask: Ask) -> list[Chore]:
    """All of them."""

    async def settle() -> bool:
        for place in await database.write(settle_due):
            tell(*place)
        return False

    async def empty_trash() -> bool:
        for place in await database.write(trash.purge_due):
            tell(*place)
        return await database.write(trash.sweep)

    compactor = _Compactor(database)
    archivist = Archivist(database, ask, settings.retention, settings.trash_kept_s, tell)
    historian = Historian(database, ask)
    return [
        Chore("settle", settle, settings.settle_check_s),
        Chore("compact", compactor.step, settings.compact_check_s),
        Chore("fetch", archivist.fetch, settings.fetch_check_s),
        Chore("retention", archivist.look, settings.retention_check_s),
        Chore("trash", empty_trash, settings.trash_check_s),
        Chore("history", historian.step, settings.history_check_s),
        Chore("history purge", historian.purge, settings.history_purge_s),
        Chore("pack", Packer(database, settings.pack_quiet_s).step, settings.pack_check_s),
    ]


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
