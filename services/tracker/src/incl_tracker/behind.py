"""A database that is older than the bus: noticed at the start, made up for as far as the bus can, and told."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import nats.errors

from incl_shared.bus import positions, topology
from incl_shared.bus.positions import Behind
from incl_shared.errors import InclError
from incl_shared.queries.stuck import Finding
from incl_tracker import counters

if TYPE_CHECKING:
    from incl_shared.bus.runtime import Bus
    from incl_shared.db import Database

_log = logging.getLogger("incl.tracker")
TOLD_S = 86_400.0
"""For so long it is told by `incl admin stuck`, while this process runs."""
_KEPT = (topology.TRACKER_EVENTS, topology.TRACKER_HISTORY)
_QUEUES = (topology.TRACKER_METRICS, topology.TRACKER_LOGS)
_HINT = (
    "requests of that time are gone, too; incl admin rebuild tracker makes anew what the history has; see "
    "docs/runbooks/backup.md"
)


class Older:
    """Compares the database with the bus, before the tracker consumes anything."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus
        self._found: list[Behind] = []
        self._since = 0.0
        bus.before_consuming(self._look)

    async def _look(self) -> None:
        try:
            self._found = await positions.compare(self._bus.client, self._database, _KEPT, _QUEUES)
        except (InclError, nats.errors.Error, TimeoutError, OSError) as error:
            _log.warning("whether the database is older than the bus cannot be seen: %s", error)
            return
        self._since = time.monotonic()
        for one in self._found:
            counters.OLDER.labels(one.stream).inc()
            _log.error("the database is older than the bus: %s; %s", _reason(one), _HINT)

    def findings(self) -> Iterator[Finding]:
        """What was found at the start."""
        since = time.monotonic() - self._since
        for one in self._found if since < TOLD_S else ():
            yield Finding(
                kind="database.older", severity="warning" if one.again else "error", subject=f"tracker {one.stream}",
                since_s=since, reason=_reason(one), hint=_HINT,
            )  # fmt: skip


def _reason(one: Behind) -> str:
    where = f"messages {one.first} to {one.last} of {one.stream} had been handled, and some are not in it"
    if one.again:
        return f"{where}: what the bus has is handled again"
    return f"{where}: the bus has them no more; jobs that run send theirs again, what others wrote is lost"
