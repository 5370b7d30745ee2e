"""How the messages of a durable are handled: one transaction a batch, a savepoint a message, the ack after the commit.

For every message one thing happens in the end: it is acknowledged (handled, or handled before), given back for later
(it failed, or came too early), or buried as a dead letter. An outage of the database does none of these: the consumer
holds what it has and waits; meanwhile the pull loop tells the server that it is worked on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import nats.errors
import sqlalchemy as sa
from pydantic import ValidationError

from incl_shared import subjects
from incl_shared.bus import envelope as wire
from incl_shared.bus import positions
from incl_shared.bus.deadletters import bury
from incl_shared.bus.delivery import Delivery, delivery_of
from incl_shared.bus.errors import Early, NotMine, Poison
from incl_shared.bus.metrics import Pause
from incl_shared.bus.retry import Failures, RetryPolicy
from incl_shared.bus.tables import inbox
from incl_shared.bus.topology import Durable
from incl_shared.db import Database, DatabaseUnavailable, Transaction, insert_ignore, is_outage
from incl_shared.errors import InclError
from incl_shared.tasks import within

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from incl_shared.bus.client import BusClient
    from incl_shared.bus.metrics import BusMetrics

_log = logging.getLogger("incl.bus")
_INBOX_CHARACTERS = 128

Handler = Callable[[Transaction, Delivery], None]
BatchHandler = Callable[[Transaction, list[Delivery]], None]
AsyncHandler = Callable[[Delivery], Awaitable[None]]

T = TypeVar("T")
DONE, DUPLICATE = "done", "duplicate"
Outcome = str | Exception
_PAUSE_MAX_S = 2.0
_SEEN = sa.select(inbox.c.message_id).where(
    inbox.c.durable == sa.bindparam("of_durable"), inbox.c.message_id.in_(sa.bindparam("ids", expanding=True))
)
_NOT_MINE_S = 0.5
"""By then whoever may not handle it has stopped to fetch."""


@dataclass(frozen=True)
class _Item:
    message: Msg
    delivery: Delivery


class Consumer:
    """Handles one durable. Exactly one of the three handlers is given. noting: see `positions`."""

    def __init__(
        self,
        durable: Durable,
        *,
        client: BusClient,
        metrics: BusMetrics,
        retry: RetryPolicy,
        database: Database | None = None,
        handler: Handler | None = None,
        batch_handler: BatchHandler | None = None,
        async_handler: AsyncHandler | None = None,
        noting: bool = False,
    ) -> None:
        self.durable = durable
        self._noting = noting
        self.paused = ""
        self._client = client
        self._retry = retry
        self._database = database
        self._handler = handler
        self._batch_handler = batch_handler
        self._async_handler = async_handler
        self._failures = Failures()
        self._early = Failures()
        self._stopping = asyncio.Event()
        labels = (durable.stream, durable.name)
        self._metrics = metrics
        self._labels = labels
        self._handled, self._duplicates = metrics.handled.labels(*labels), metrics.duplicates.labels(*labels)
        self._redelivered = metrics.redelivered.labels(*labels)
        self._seconds = metrics.handler_seconds.labels(*labels)
        self._pause = Pause(metrics, labels, "database", metrics.recovery.database)

    @property
    def paused_s(self) -> float:
        """Seconds that it has waited for the database."""
        return self._pause.seconds

    def stop(self) -> None:
        """Give up waiting for an outage to end; what is held is given back."""
        self._stopping.set()
        self._pause.end()

    async def handle(self, messages: list[Msg]) -> None:
        """Handle a batch to its end: afterwards every message is acknowledged, given back or buried."""
        items: list[_Item] = []
        for message in messages:
            try:
                items.append(_Item(message, delivery_of(message)))
            except Poison as poison:
                items.append(_Item(message, _bare(message)))
                await self._settle(items.pop(), poison)
        if not items:
            return
        self._redelivered.inc(sum(item.delivery.deliveries > 1 for item in items))
        started = time.perf_counter()
        try:
            outcomes = await self._outcomes(items)
        except _Stopping:
            await self._give_back(items)
            return
        except NotMine:
            await self._give_back(items, _NOT_MINE_S)
            return
        self._seconds.observe(time.perf_counter() - started)
        for item, outcome in zip(items, outcomes, strict=True):
            await self._settle(item, outcome)

    async def _give_back(self, items: Sequence[_Item], delay: float | None = None) -> None:
        for item in items:
            with contextlib.suppress(nats.errors.Error, OSError):
                await item.message.nak(delay=delay)

    # --- doing the work

    async def _outcomes(self, items: Sequence[_Item]) -> list[Outcome]:
        if self._async_handler is not None:
            return [await self._handle_async(item.delivery) for item in items]
        deliveries = [item.delivery for item in items]
        if self._batch_handler is not None:
            return await self._whole(deliveries)
        return await self._transaction(deliveries)

    async def _handle_async(self, delivery: Delivery) -> Outcome:
        assert self._async_handler is not None
        try:
            with tracing(delivery):
                await self._async_handler(delivery)
        except Exception as error:  # noqa: BLE001 - the edge: the outcome says it, with a log line and a counter
            return error
        return DONE

    async def _transaction(self, deliveries: list[Delivery]) -> list[Outcome]:
        """All in one transaction; where it cannot be committed, one by one."""
        try:
            return await self._write(lambda tx: self._run(tx, deliveries))
        except (_Stopping, NotMine, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 - a commit that fails is the fault of one of them
            if len(deliveries) == 1:
                return [error]
            return [(await self._transaction([delivery]))[0] for delivery in deliveries]

    def _run(self, tx: Transaction, deliveries: list[Delivery]) -> list[Outcome]:
        if len(deliveries) == 1:
            alone = self._alone(tx, deliveries[0])
            self._note(tx, deliveries)
            return [alone]
        seen, outcomes = self._seen(tx, deliveries), []
        for delivery in deliveries:
            key = _inbox_key(delivery.id)
            outcome = DUPLICATE if key in seen else self._one(tx, delivery)
            outcomes.append(outcome)
            if outcome == DONE:
                seen.add(key)
        self._note(tx, [d for d, outcome in zip(deliveries, outcomes, strict=True) if isinstance(outcome, str)])
        return outcomes

    def _note(self, tx: Transaction, handled: Sequence[Delivery]) -> None:
        if self._noting and handled:
            positions.note(tx, self.durable, max(delivery.sequence for delivery in handled))

    def _one(self, tx: Transaction, delivery: Delivery) -> Outcome:
        try:
            with tx.savepoint():
                return self._alone(tx, delivery)
        except Exception as error:
            if isinstance(error, NotMine) or is_outage(error):
                raise
            return error

    def _alone(self, tx: Transaction, delivery: Delivery) -> Outcome:
        """What is raised undoes the whole transaction, or the savepoint that it is in."""
        assert self._handler is not None
        row = {"durable": self._inbox_name, "message_id": _inbox_key(delivery.id), "seen": tx.clock.now()}
        if not tx.connection.execute(insert_ignore(tx.connection, inbox), row).rowcount:
            return DUPLICATE
        with tracing(delivery):
            self._handler(tx, delivery)
        return DONE

    @property
    def _inbox_name(self) -> str:
        return f"{self.durable.stream}.{self.durable.name}"[:64]

    def _seen(self, tx: Transaction, deliveries: list[Delivery]) -> set[str]:
        ids = [_inbox_key(delivery.id) for delivery in deliveries]
        return set(tx.connection.execute(_SEEN, {"of_durable": self._inbox_name, "ids": ids}).scalars())

    async def _whole(self, deliveries: list[Delivery]) -> list[Outcome]:
        """A batch handler: the whole batch, or halves of it until the one at fault is found."""
        handler = self._batch_handler
        assert handler is not None

        def work(tx: Transaction) -> None:
            handler(tx, deliveries)
            self._note(tx, deliveries)

        try:
            await self._write(work)
        except (_Stopping, NotMine, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 - the edge: the outcome says it, with a log line and a counter
            if len(deliveries) == 1:
                return [error]
            half = len(deliveries) // 2
            return [*await self._whole(deliveries[:half]), *await self._whole(deliveries[half:])]
        return [DONE] * len(deliveries)

    async def _write(self, function: Callable[[Transaction], T]) -> T:
        """In a transaction; waits as long as the database is away."""
        assert self._database is not None
        delay = 0.05
        while True:
            try:
                result = await self._database.write(function)
            except DatabaseUnavailable as error:
                if not self.paused:
                    _log.warning("%s waits for the database: %s", self.durable.name, error.cause or error)
                self.paused = error.cause or str(error)
                self._pause.begin()
            else:
                if self.paused:
                    _log.info("%s goes on", self.durable.name)
                self.paused = ""
                self._pause.end()
                return result
            with contextlib.suppress(TimeoutError):
                await within(delay, self._stopping.wait())
            if self._stopping.is_set():
                raise _Stopping
            delay = min(delay * 2, _PAUSE_MAX_S)

    # --- settling

    async def _settle(self, item: _Item, outcome: Outcome) -> None:
        try:
            await self._settle_one(item, outcome)
        except (nats.errors.Error, OSError, InclError) as error:
            _log.info("%s: message %d will come again: %s", self.durable.name, item.delivery.sequence, error)

    async def _settle_one(self, item: _Item, outcome: Outcome) -> None:
        sequence, metrics = item.delivery.sequence, self._metrics
        if isinstance(outcome, str):
            self._failures.forget(sequence)
            self._early.forget(sequence)
            (self._handled if outcome == DONE else self._duplicates).inc()
            await item.message.ack()
        elif isinstance(outcome, Early):
            times = self._early.add(sequence)
            metrics.early.labels(*self._labels).inc()
            if times >= self._retry.early_attempts:
                await self._bury(item, f"it came too early {times} times: {outcome}", "early")
            else:
                await self._later(item, self._retry.early_delay(times))
        elif isinstance(outcome, Poison | ValidationError):
            await self._bury(item, str(outcome), "poison" if isinstance(outcome, Poison) else "invalid")
        else:
            await self._failed(item, outcome)

    async def _failed(self, item: _Item, error: Exception) -> None:
        failures = self._failures.add(item.delivery.sequence)
        self._metrics.failed.labels(*self._labels).inc()
        text = f"{type(error).__name__}: {error}"
        _log.warning(
            "%s could not handle %s %s (%d of %d): %s", self.durable.name, item.delivery.type or item.delivery.subject,
            item.delivery.id, failures, self._retry.attempts, text, exc_info=error if failures == 1 else None,
        )  # fmt: skip
        if failures >= self._retry.attempts:
            await self._bury(item, f"failed {failures} times, at last with {text}", "failed")
        else:
            await self._later(item, self._retry.delay(failures))

    async def _later(self, item: _Item, seconds: float) -> None:
        self._metrics.retried.labels(*self._labels).inc()
        await item.message.nak(delay=seconds)

    async def _bury(self, item: _Item, reason: str, kind: str) -> None:
        delivery = item.delivery
        try:
            await bury(self._client, delivery, self.durable.name, reason)
        except InclError as error:
            _log.error("%s: no dead letter for %s yet: %s", self.durable.name, delivery.id, error)
            await self._later(item, self._retry.cap / 2)
            return
        _log.error("%s gave up %s %s: %s", self.durable.name, delivery.type, delivery.id, reason)
        self._metrics.dead.labels(*self._labels, kind).inc()
        self._failures.forget(delivery.sequence)
        self._early.forget(delivery.sequence)
        if self._noting:
            await self._noted(delivery)
        await item.message.term()

    async def _noted(self, delivery: Delivery) -> None:
        """What was buried is not lacking in the database."""
        try:
            await self._write(lambda tx: self._note(tx, [delivery]))
        except (_Stopping, sa.exc.SQLAlchemyError) as error:
            _log.info("%s: that %s was buried is not noted: %s", self.durable.name, delivery.id, error)


class _Stopping(Exception):  # noqa: N818
    pass


@contextmanager
def tracing(delivery: Delivery) -> Iterator[None]:
    """What is emitted or published inside belongs to the delivery's trace."""
    token = wire.current_trace.set(delivery.traceparent)
    try:
        yield
    finally:
        wire.current_trace.reset(token)


def _bare(message: Msg) -> Delivery:
    """A delivery of a message whose envelope is broken: enough to bury it."""
    metadata = message.metadata
    sequence = metadata.sequence.stream
    return Delivery(
        subject=subjects.unpartitioned(message.subject), payload=message.data, headers=message.headers or {},
        id=f"{metadata.stream}-{sequence}", type="", time=metadata.timestamp.timestamp(), version=0,
        stream=metadata.stream, sequence=sequence, deliveries=metadata.num_delivered, traceparent=None,
    )  # fmt: skip


def _inbox_key(identifier: str) -> str:
    """An id as the inbox keeps it: one that is too long for the column by its hash, so that no two become one."""
    return identifier if len(identifier) <= _INBOX_CHARACTERS else hashlib.sha256(identifier.encode()).hexdigest()
