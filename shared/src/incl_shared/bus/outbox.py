"""The relay: what is committed in the outbox goes to the bus, in its order, until it is stored there.

What was sent is kept for a while (`incl_shared.bus.kept`). After every connect the relay asks whether the bus still has
the newest of it; a bus that was lost, or is an older copy, is sent all of it again before anything new.

One relay a service. Events of one aggregate are never in flight together, so that the stream has them in the
outbox's order whatever fails between; each aggregate is a lane of its own beside the others, so that one with
thousands of events holds nobody up. A repeat (a crash between the
bus's confirmation and the note of it here) carries the same message id, and consumers have their inbox.

On PostgreSQL a session's advisory lock keeps the relays of several replicas apart: it is free the moment its holder's
connection ends. Two relays at once, should it ever come to it, send what the message ids make one again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from incl_shared.bus import kept
from incl_shared.bus.tables import outbox
from incl_shared.db import Database, DatabaseUnavailable, outage_named
from incl_shared.errors import InclError, UnavailableError
from incl_shared.tasks import within

if TYPE_CHECKING:
    from incl_shared.bus.client import Ack, BusClient
    from incl_shared.bus.metrics import BusMetrics

_log = logging.getLogger("incl.bus")
_BATCH = 256
_MOMENT_S = 0.25
"""So long events are sent before what was sent is noted: an aggregate with thousands costs few transactions."""
_SOON_S = 0.05
"""So long where others have come meanwhile, which wait until these are noted."""
_LANE = 32
"""An aggregate with more events than that in a batch leaves room for those that come behind it, and not far behind."""
_FAR = 4096
_POLL_S = 5.0
_LOCK = 0x494E434C
_STANDBY_S = 1.0
_MAX_BACKOFF_S = 5.0
_ENDS = sa.select(
    sa.select(sa.func.min(outbox.c.sequence)).scalar_subquery(),
    sa.select(sa.func.max(outbox.c.sequence)).scalar_subquery(),
)
_OLDEST = sa.select(outbox).order_by(outbox.c.sequence).limit(_BATCH)


@dataclass(frozen=True)
class _Row:
    sequence: int
    event_id: str
    subject: str
    payload: bytes
    headers: str
    created: float


class Relay:
    """Sends the outbox of one database."""

    def __init__(self, database: Database, client: BusClient, *, service: str, metrics: BusMetrics) -> None:
        self._database = database
        self._client = client
        self._source = f"/incl/{service}"
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._blocked: set[str] = set()
        self._looked: int | None = None
        self._lock = _SessionLock(database.url) if database.dialect == "postgresql" else None
        self._more = False
        """Whether there may be events behind those that were read last: of what comes later `_wake` tells."""
        self.oldest: float | None = None
        """When the oldest event that is not sent yet was committed (epoch s)."""
        self.trouble = ""
        self.first = True
        """Whether this relay sends; another replica's does otherwise."""
        database.on_emit(self._wake.set)
        client.on_reconnect(self._wake.set)
        self.depth = 0
        """How many events are not sent yet, at most: numbers that were never committed count with them."""
        metrics.outbox_age.set_function(self.age)
        metrics.outbox_depth.set_function(lambda: self.depth)

    def age(self) -> float:
        """Seconds that the oldest unsent event waits."""
        return 0.0 if self.oldest is None else max(0.0, self._database.clock.now() - self.oldest)

    async def run(self) -> None:
        """Until it is cancelled."""
        backoff = 0.05
        while True:
            try:
                sent = await self.once()
            except Exception as error:  # noqa: BLE001 - the edge of the loop: it goes on, slowly
                self._database_works(works=not isinstance(error, DatabaseUnavailable))
                self._note(f"{type(error).__name__}: {error}")
                await asyncio.sleep(backoff * random.uniform(0.7, 1.3))  # noqa: S311
                backoff = min(backoff * 2, _MAX_BACKOFF_S)
                continue
            self._database_works(works=True)
            backoff = 0.05 if sent else backoff
            if sent and self._more:
                continue
            if self._blocked:
                await asyncio.sleep(backoff)
                backoff, self._blocked = min(backoff * 2, _MAX_BACKOFF_S), set()
                continue
            with contextlib.suppress(TimeoutError):
                await within(_POLL_S if self.first else _STANDBY_S, self._wake.wait())

    async def once(self) -> int:
        """Send what waits, some of it; gives how many were stored on the bus.

        Raises:
            UnavailableError: the database or the bus cannot be used now.
        """
        self._wake.clear()
        self.first = self._lock is None or await asyncio.to_thread(self._lock.held)
        if not self.first:
            self.oldest, self.depth = None, 0
            return 0
        await self._look()
        rows, self.depth = await self._database.read(self._waiting)
        self._more = True
        self.oldest = rows[0].created if rows else (self.oldest if self._blocked else None)
        if not rows:
            return 0
        stored, failed = await self._send_some(rows)
        if stored:
            await self._database.write(lambda tx: kept.keep(tx, stored))
            self.depth -= len(stored)
            self._metrics.published.inc(len(stored))
        for row, error in failed:
            self._failed(row, error)
        if not failed and not self._blocked:
            self.trouble = ""
        if len(stored) == len(rows) < _BATCH and not self._blocked:
            self.oldest, self._more = None, False
        return len(stored)

    async def _send_some(self, rows: list[_Row]) -> tuple[list[kept.Sent], list[tuple[_Row, BaseException]]]:
        """Lane beside lane, for a moment: what the bus has is noted in one transaction then. Up to a failure."""
        stored: list[kept.Sent] = []
        failed: list[tuple[_Row, BaseException]] = []
        began = asyncio.get_running_loop().time()

        async def send(lane: list[_Row]) -> None:
            for place, row in enumerate(lane):
                if place and (failed or self._moment_over(began)):
                    return
                try:
                    ack = await self._send(row)
                except Exception as error:  # noqa: BLE001 - the edge of a lane: whoever asked for the batch tells it
                    failed.append((row, error))
                    return
                values = (row.sequence, row.event_id, row.subject, row.payload, row.headers, row.created)
                stored.append(kept.Sent(*values, ack))

        await asyncio.gather(*(send(lane) for lane in _lanes(rows)))
        return stored, failed

    def _moment_over(self, began: float) -> bool:
        passed = asyncio.get_running_loop().time() - began
        return passed >= (_SOON_S if self._wake.is_set() else _MOMENT_S)

    async def _look(self) -> None:
        """Once a connection: a bus that has lost what it had is sent all that is kept, before anything new."""
        connection = self._client.reconnects
        if self._looked == connection:
            return
        newest = await self._database.read(kept.newest)
        if newest is not None and not await kept.is_there(self._client, newest):
            count = await self._database.write(kept.send_again)
            self._metrics.resent.inc(count)
            _log.warning("the bus has lost events of this service: %d are sent again", count)
        self._looked = connection

    async def _send(self, row: _Row) -> Ack:
        headers = json.loads(row.headers)
        headers["ce-source"] = self._source
        return await self._client.publish_confirmed(row.subject, row.payload, message_id=row.event_id, headers=headers)

    def _failed(self, row: _Row, error: BaseException) -> None:
        self._metrics.publish_failed.inc()
        if not isinstance(error, InclError):
            raise error
        self._note(f"{row.subject}: {error} {error.cause}".strip())
        if not isinstance(error, UnavailableError):
            self._blocked.add(row.subject)
        else:
            raise error

    def _database_works(self, *, works: bool) -> None:
        outage = self._metrics.recovery.database
        (outage.end if works else outage.begin)("outbox")

    def _note(self, text: str) -> None:
        if text != self.trouble:
            _log.warning("the outbox waits: %s", text)
        self.trouble = text

    def _waiting(self, connection: sa.Connection) -> tuple[list[_Row], int]:
        """What is sent next, and how many there are at most: told by the first and the last number, not counted."""
        query = _OLDEST.where(outbox.c.subject.not_in(self._blocked)) if self._blocked else _OLDEST
        rows = [_Row(*row) for row in connection.execute(query)]
        if len(rows) < _BATCH and not self._blocked:
            return rows, len(rows)
        first, last = connection.execute(_ENDS).one()
        depth = 0 if first is None else int(last) - int(first) + 1
        long = [lane[0].subject for lane in _lanes(rows) if len(lane) > _LANE]
        if len(rows) == _BATCH and long:
            last = rows[-1].sequence
            behind = query.where(outbox.c.sequence.between(last + 1, last + _FAR), outbox.c.subject.not_in(long))
            rows += [_Row(*row) for row in connection.execute(behind)]
        return rows, depth

    async def stop(self) -> None:
        """Let another replica go on at once."""
        if self._lock is not None:
            await asyncio.to_thread(self._lock.release)


class _SessionLock:
    """An advisory lock of PostgreSQL, held by a connection of its own."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        self._connection: sa.Connection | None = None

    def held(self) -> bool:
        """Whether it is held, after an attempt to take it.

        Raises:
            DatabaseUnavailable: nobody knows.
        """
        with outage_named():
            try:
                if self._connection is not None:
                    self._connection.execute(sa.text("SELECT 1"))
                    return True
                self._connection = connection = self._engine.connect()
                taken = connection.execute(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}).scalar()
            except sa.exc.SQLAlchemyError:
                self.release()
                raise
        if not taken:
            self.release()
        return bool(taken)

    def release(self) -> None:
        """Give it back, or give it up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                connection.close()
        self._engine.dispose()


def _lanes(rows: list[_Row]) -> list[list[_Row]]:
    """The events of each aggregate, in their order."""
    lanes: dict[str, list[_Row]] = {}
    for row in rows:
        lanes.setdefault(row.subject, []).append(row)
    return list(lanes.values())
