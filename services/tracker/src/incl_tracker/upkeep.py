"""Work in the background: small rounds, each one transaction, one after the other, and never in anybody's way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from incl_shared.db import DatabaseUnavailable
from incl_shared.errors import InclError
from incl_shared.leases import LeaseLost
from incl_shared.tasks import end_all
from incl_tracker import counters
from incl_tracker.ownership import Sole

_log = logging.getLogger("incl.tracker")
PAUSE_S = 0.02
"""Between two rounds of work that has more to do: others come first."""


@dataclass(frozen=True, slots=True)
class Chore:
    """One kind of work. work: does one round; true when there is more to do at once. every_s: seconds between looks.

    mine: whether it is this process's to do now.
    """

    name: str
    work: Callable[[], Awaitable[bool]]
    every_s: float
    mine: Callable[[], bool] = lambda: True

    def by(self, sole: Sole) -> Chore:
        """The same, done only while this process is the one. (Its writes have to go through `sole.database`.)"""
        return replace(self, mine=lambda: sole.held)


class Upkeep:
    """Runs chores, each in a task of its own. A round that fails is logged, counted, and tried again."""

    def __init__(self, chores: Sequence[Chore]) -> None:
        self._chores = chores
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(_run(chore), name=f"tracker-{chore.name}") for chore in self._chores]

    async def stop(self) -> None:
        """End; a round under way is undone or done."""
        await end_all(self._tasks)
        self._tasks = []


async def _run(chore: Chore) -> None:
    while True:
        more = await _round(chore)
        await asyncio.sleep(PAUSE_S if more else chore.every_s)


async def _round(chore: Chore) -> bool:
    try:
        return chore.mine() and await chore.work()
    except LeaseLost as error:
        _log.info("%s is another tracker's now: %s", chore.name, error.message)
    except DatabaseUnavailable as error:
        _log.warning("%s waits for the database: %s", chore.name, error.cause or error.message)
    except (InclError, OSError, ValueError, sa.exc.SQLAlchemyError):
        counters.UPKEEP_FAILED.labels(chore.name).inc()
        _log.exception("%s failed; it is tried again", chore.name)
    return False
