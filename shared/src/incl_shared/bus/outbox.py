"""The relay: what is committed in the outbox goes to the bus, in its order, until it is stored there.

One relay a service. Events of one aggregate are never in flight together, so that the stream has them in the
outbox's order whatever fails between; events of different aggregates are sent at once. A repeat (a crash between the
bus's confirmation and the deletion here) carries the same message id, and consumers have their inbox.

On PostgreSQL a fenced lease keeps the relays of several replicas apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from incl_shared import leases
from incl_shared.bus.tables import outbox
from incl_shared.db import Database, DatabaseUnavailable, Transaction
from incl_shared.errors import InclError, UnavailableError

if TYPE_CHECKING:
    from incl_shared.bus.client import BusClient
    from incl_shared.bus.metrics import BusMetrics

_log = logging.getLogger("incl.bus")
_BATCH = 256
_POLL_S = 5.0
_LEASE_S = 15.0
_MAX_BACKOFF_S = 5.0


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
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{id(self):x}"[:128]
        self._lease: leases.Lease | None = None
        self.oldest: float | None = None
        """When the oldest event that is not sent yet was committed (epoch s)."""
        self.trouble = ""
        database.on_emit(self._wake.set)
        metrics.outbox_age.set_function(self.age)

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
                self._note(f"{type(error).__name__}: {error}")
                await asyncio.sleep(backoff * random.uniform(0.7, 1.3))  # noqa: S311
                backoff = min(backoff * 2, _MAX_BACKOFF_S)
                continue
            if sent:
                backoff = 0.05
                continue
            if self._blocked:
                await asyncio.sleep(backoff)
                backoff, self._blocked = min(backoff * 2, _MAX_BACKOFF_S), set()
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _POLL_S)

    async def once(self) -> int:
        """Send what waits, one window of it; gives how many were stored on the bus.

        Raises:
            UnavailableError: the database or the bus cannot be used now.
        """
        self._wake.clear()
        if not await self._alone():
            return 0
        rows = await self._database.read(self._waiting)
        self.oldest = rows[0].created if rows else (self.oldest if self._blocked else None)
        if not rows:
            return 0
        window = _window(rows)
        results = await asyncio.gather(*(self._send(row) for row in window), return_exceptions=True)
        stored = [row.sequence for row, error in zip(window, results, strict=True) if error is None]
        if stored:
            await self._database.write(lambda tx: self._delete(tx, stored))
            self._metrics.published.inc(len(stored))
        for row, error in zip(window, results, strict=True):
            if error is not None:
                self._failed(row, error)
        if len(stored) == len(window) and not self._blocked:
            self.trouble = ""
        return len(stored)

    async def _send(self, row: _Row) -> None:
        headers = json.loads(row.headers)
        headers["ce-source"] = self._source
        await self._client.publish_confirmed(row.subject, row.payload, message_id=row.event_id, headers=headers)

    def _failed(self, row: _Row, error: BaseException) -> None:
        self._metrics.publish_failed.inc()
        if not isinstance(error, InclError):
            raise error
        self._note(f"{row.subject}: {error} {error.cause}".strip())
        if not isinstance(error, UnavailableError):
            self._blocked.add(row.subject)
        else:
            raise error

    def _note(self, text: str) -> None:
        if text != self.trouble:
            _log.warning("the outbox waits: %s", text)
        self.trouble = text

    def _waiting(self, connection: sa.Connection) -> list[_Row]:
        query = sa.select(outbox).order_by(outbox.c.sequence).limit(_BATCH)
        if self._blocked:
            query = query.where(outbox.c.subject.not_in(self._blocked))
        return [_Row(*row) for row in connection.execute(query)]

    def _delete(self, tx: Transaction, sequences: Sequence[int]) -> None:
        if self._lease is not None:
            leases.check(tx, self._lease)
        tx.connection.execute(sa.delete(outbox).where(outbox.c.sequence.in_(sequences)))

    async def _alone(self) -> bool:
        if self._database.dialect != "postgresql":
            return True
        now = self._database.clock.now()
        if self._lease is None or self._lease.expires - now < _LEASE_S / 2:
            self._lease = await self._database.write(lambda tx: leases.acquire(tx, "outbox", self._holder, _LEASE_S))
        return self._lease is not None

    async def stop(self) -> None:
        """Let another replica go on at once."""
        lease, self._lease = self._lease, None
        if lease is not None:
            with contextlib.suppress(DatabaseUnavailable):
                await self._database.write(lambda tx: leases.release(tx, lease))


def _window(rows: list[_Row]) -> list[_Row]:
    """The longest beginning in which no subject comes twice."""
    subjects: set[str] = set()
    for index, row in enumerate(rows):
        if row.subject in subjects:
            return rows[:index]
        subjects.add(row.subject)
    return rows
