"""Work in the background: small rounds, each one transaction, one after the other, and never in anybody's way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
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


@dataclass(slots=True)
class Trouble:
    """Why the rounds of a chore fail. since: the first of them (monotonic); none: the last one succeeded."""

    since: float | None = None
    text: str = ""

    def note(self, text: str) -> None:
        """A round failed."""
        self.since = time.monotonic() if self.since is None else self.since
        self.text = " ".join(text.split())[:300]

    def over(self) -> None:
        """A round succeeded."""
        self.since, self.text = None, ""


class Upkeep:
    """Runs chores, each in a task of its own. A round that fails is logged, counted, and tried again."""

    def __init__(self, chores: Sequence[Chore]) -> None:
        self._chores = chores
        self._troubles = {chore.name: Trouble() for chore in chores}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(_run(chore, self._troubles[chore.name]), name=f"tracker-{chore.name}")
            for chore in self._chores
        ]

    def failing(self) -> Iterator[tuple[str, float, str]]:
        """(name, seconds, why) of those whose last round failed."""
        for name, trouble in self._troubles.items():
            if trouble.since is not None:
                yield name, time.monotonic() - trouble.since, trouble.text

    async def stop(self) -> None:
        """End; a round under way is undone or done."""
        await end_all(self._tasks)
        self._tasks = []


async def _run(chore: Chore, trouble: Trouble) -> None:
    while True:
        more = await _round(chore, trouble)
        await asyncio.sleep(PAUSE_S if more else chore.every_s)


async def _round(chore: Chore, trouble: Trouble) -> bool:
    try:
        more = chore.mine() and await chore.work()
        trouble.over()
        return more
    except LeaseLost as error:
        _log.info("%s is another tracker's now: %s", chore.name, error.message)
    except DatabaseUnavailable as error:
        _log.warning("%s waits for the database: %s", chore.name, error.cause or error.message)
        trouble.note(error.cause or error.message)
    except (InclError, OSError, ValueError, sa.exc.SQLAlchemyError) as error:
        trouble.note(f"{type(error).__name__}: {error}")
        counters.UPKEEP_FAILED.labels(chore.name).inc()
        _log.exception("%s failed; it is tried again", chore.name)
    return False
