"""What the tracker does by itself: due rows, looked for again and again."""

from __future__ import annotations

from collections.abc import Callable

from incl_shared.db import Database
from incl_tracker import trash
from incl_tracker.settings import TrackerSettings
from incl_tracker.settling import settle_due
from incl_tracker.upkeep import Chore

Tell = Callable[[str, str], None]
"""Told (project, experiment) of what changed."""


def chores(database: Database, settings: TrackerSettings, tell: Tell) -> list[Chore]:
    """All of them."""

    async def settle() -> bool:
        for place in await database.write(settle_due):
            tell(*place)
        return False

    async def empty_trash() -> bool:
        for place in await database.write(trash.purge_due):
            tell(*place)
        return await database.write(trash.sweep)

    return [
        Chore("settle", settle, settings.settle_check_s),
        Chore("trash", empty_trash, settings.trash_check_s),
    ]
