"""`Bus`: the bus for services. FastStream inside, hardened; see `hardening`, `consumer`, `outbox` and `serve`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import sqlalchemy as sa

from incl_shared.bus import fullness, kept
from incl_shared.bus.client import Ack, BusClient, MessageCallback
from incl_shared.bus.consumer import AsyncHandler, BatchHandler, Consumer, Handler
from incl_shared.bus.hardening import HardenedBroker, HardenedPull
from incl_shared.bus.metrics import BusMetrics, Pause
from incl_shared.bus.outbox import Relay
from incl_shared.bus.pull import CHECK_S, SILENCE_S
from incl_shared.bus.retry import RetryPolicy
from incl_shared.bus.serve import TIME_LIMIT_S, WORKERS, QueryHandler, QueryServer
from incl_shared.bus.tables import inbox
from incl_shared.bus.topology import INBOX_KEPT_S, Durable
from incl_shared.clock import Clock, SystemClock
from incl_shared.db import Database, DatabaseUnavailable, Transaction
from incl_shared.errors import UnavailableError
from incl_shared.tasks import end_all

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription
    from prometheus_client import CollectorRegistry

    from incl_shared.bus.connection import Credentials, HardenedClient
    from incl_shared.events.base import Event
    from incl_shared.queries.base import AnswerT, Query
    from incl_shared.settings import BusSettings

_log = logging.getLogger("incl.bus")
SWEEP_S = 3600.0
OUTBOX_LATE_S = 60.0
_SWEEP_ROWS = 5000
_OLD = sa.select(inbox.c.seen).where(inbox.c.seen < sa.bindparam("before")).order_by(inbox.c.seen)
_SWEPT = sa.select(sa.func.max(_OLD.limit(sa.bindparam("most")).subquery().c.seen))
"""The newest of so many of the oldest."""


@dataclass(frozen=True)
class ConsumerHealth:
    """One durable. fetch_age: seconds since the server's last word. trouble: why it does not run, else empty.

    paused_s: seconds that it has waited for the database; lag: seconds since the oldest message at hand was stored;
    pending: messages that it has not fetched.
    """

    stream: str
    durable: str
    bound: bool
    fetch_age: float
    paused: str
    trouble: str
    paused_s: float = 0.0
    lag: float = 0.0
    pending: int = 0

    @property
    def ok(self) -> bool:
        """Whether it consumes, or would if there were messages."""
        return self.bound and not self.trouble and not self.paused and self.fetch_age < 3 * SILENCE_S

    @property
    def live(self) -> bool:
        """Whether it hears the server, or says what it waits for."""
        return bool(self.trouble or self.paused) or self.fetch_age < 3 * SILENCE_S


@dataclass(frozen=True)
class Health:
    """How a service's bus is."""

    started: bool
    connected: bool
    consumers: tuple[ConsumerHealth, ...]
    outbox_age: float
    outbox_trouble: str

    @property
    def live(self) -> bool:
        """Whether restarting the process could not help: it runs, whatever others do."""
        return self.started and (not self.connected or all(consumer.live for consumer in self.consumers))

    @property
    def ready(self) -> bool:
        """Whether it does its work now."""
        return self.started and self.connected and self.outbox_age < OUTBOX_LATE_S and all(c.ok for c in self.consumers)


@dataclass(frozen=True)
class BusOptions:
    """What is seldom chosen. Times in seconds."""

    connect_timeout: float = 15.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    query_workers: int = WORKERS
    query_limit: float = TIME_LIMIT_S
    check_every: float = CHECK_S
    silence: float = SILENCE_S


class Consuming:
    """A durable that is consumed while the bus runs."""

    def __init__(self, durable: Durable, end: Callable[[], Awaitable[None]]) -> None:
        self.durable = durable
        self._end = end

    async def end(self) -> None:
        """Fetch no more, let the batch at hand end (10 s at most), give the rest back."""
        await self._end()


class Bus:
    """One service's connection: its consumers, its answers, its outbox. Register before `start`.

    noting: how far each durable was handled is noted in the database (`incl_shared.bus.positions`).
    """

    def __init__(
        self,
        settings: BusSettings,
        *,
        service: str,
        database: Database | None = None,
        clock: Clock | None = None,
        registry: CollectorRegistry | None = None,
        options: BusOptions | None = None,
        credentials: Credentials | None = None,
        noting: bool = False,
    ) -> None:
        self.service = service
        self._noting = noting
        self._first: Callable[[], Awaitable[None]] | None = None
        self.clock: Clock = clock or SystemClock()
        self.options = options or BusOptions()
        self.metrics = BusMetrics(service, registry)
        self.client = BusClient(settings)
        self.database = database
        self._broker = HardenedBroker(
            settings, self.client.callbacks(), connect_timeout=self.options.connect_timeout, credentials=credentials
        )
        self._consumers: list[tuple[Consumer, HardenedPull]] = []
        self._server = QueryServer(service, self.metrics, time_limit=self.options.query_limit)
        self._relay = Relay(database, self.client, service=service, metrics=self.metrics) if database else None
        self._tasks: list[asyncio.Task[None]] = []
        self._started = False
        self._pauses: dict[HardenedPull, Pause] = {}
        self.client.on_disconnect(self._interrupted)
        self.client.on_reconnect(self._wake)
        self.metrics.connected.set_function(lambda: self.client.connected)

    # --- before start

    def consume(self, durable: Durable, handler: Handler | AsyncHandler, *, transactional: bool = True) -> None:
        """Handle a durable's messages one by one: `handler(tx, delivery)`, synchronous, in the writer thread.

        A batch is one transaction with a savepoint for each; what the inbox has is skipped; the ack comes after the
        commit. transactional=False: `await handler(delivery)` in the event loop, without inbox, at least once.
        """
        if transactional:
            self._add(durable, handler=handler)
        else:
            self._add(durable, async_handler=handler)

    def consume_batch(self, durable: Durable, handler: BatchHandler) -> None:
        """Handle whole batches: `handler(tx, deliveries)` in the writer thread, one transaction.

        There is no inbox: the handler recognises repeats itself (within a batch too). When it raises, the batch is
        halved until the message at fault is alone, and that one is retried or buried.
        """
        self._add(durable, batch_handler=handler)

    def _add(self, durable: Durable, **handlers: Any) -> None:
        if self._started:
            raise RuntimeError("consumers are registered before start")
        self._consumers.append(self._consumer(durable, **handlers))

    def _consumer(self, durable: Durable, **handlers: Any) -> tuple[Consumer, HardenedPull]:
        if "async_handler" not in handlers and self.database is None:
            raise ValueError("a transactional consumer needs a database")
        consumer = Consumer(
            durable, client=self.client, metrics=self.metrics, retry=self.options.retry, database=self.database,
            noting=self._noting, **handlers,
        )  # fmt: skip
        pull = self._broker.pull(
            durable, consumer.handle, check_every=self.options.check_every, silence=self.options.silence
        )
        self._watch(pull)
        return consumer, pull

    def _watch(self, pull: HardenedPull) -> None:
        """Show how a durable is."""
        state, metrics = pull.state, self.metrics
        where = (state.durable.stream, state.durable.name)
        pause = self._pauses[pull] = Pause(metrics, where, "bus", metrics.recovery.bus)
        rebound, seen = metrics.rebound.labels(*where), 0

        def changed() -> None:
            nonlocal seen
            (pause.begin if state.trouble else pause.end)()
            rebound.inc(state.rebound - seen)
            seen = state.rebound

        state.changed = changed
        metrics.fetch_age.labels(*where).set_function(lambda: time.monotonic() - state.alive)
        metrics.pending.labels(*where).set_function(lambda: state.pending)
        metrics.lag.labels(*where).set_function(lambda: self._lag(pull))

    def _lag(self, pull: HardenedPull) -> float:
        oldest = pull.state.oldest
        return 0.0 if oldest is None else max(0.0, self.clock.now() - oldest)

    def serve(self, kind: type[Query[AnswerT]], handler: QueryHandler) -> None:
        """Answer a question: `await handler(asker, query)` gives its Answer, or raises an InclError."""
        if self._started:
            raise RuntimeError("answers are registered before start")
        self._server.add(kind, handler)

    def before_consuming(self, first: Callable[[], Awaitable[None]]) -> None:
        """What `start` does once it is connected, before anything is consumed."""
        self._first = first

    # --- life

    async def start(self) -> None:
        """Connect, and begin.

        Raises:
            UnavailableError: the bus cannot be reached.
            DeniedError: it refuses the credential.
        """
        if self._server.names:
            self._broker.serve(self._server.subject, self.service, self._answer, workers=self.options.query_workers)
        try:
            connection = await self._broker.connect()
            await self.client.adopt(cast("HardenedClient", connection))
            if self._first is not None:
                await self._first()
            await self._broker.start()
            await connection.flush(timeout=5)
        except BaseException:
            await self._broker.stop()
            raise
        if self._relay is not None:
            self._tasks.append(asyncio.create_task(self._relay.run(), name=f"{self.service}-outbox"))
            self._tasks.append(asyncio.create_task(self._sweep(), name=f"{self.service}-inbox-sweep"))
        if self._consumers:
            self._tasks.append(asyncio.create_task(self._look_at_streams(), name=f"{self.service}-streams"))
        self._started = True

    async def stop(self) -> None:
        """Let what is at hand end, give the rest back, and close."""
        self._started = False
        for consumer, _ in self._consumers:
            consumer.stop()
        await end_all(self._tasks)
        self._tasks.clear()
        if self._relay is not None:
            await self._relay.stop()
        await self._broker.stop()
        await self.client.close()

    async def begin_batch(self, durable: Durable, handler: BatchHandler) -> Consuming:
        """As `consume_batch`, while the bus runs; until the returned one is ended, or the bus stops."""
        if not self._started:
            raise RuntimeError("the bus does not run")
        consumer, pull = pair = self._consumer(durable, batch_handler=handler)
        self._consumers.append(pair)
        ending = Consuming(durable, lambda: self._end(consumer, pull))
        try:
            await pull.start()
        except BaseException:
            await ending.end()
            raise
        return ending

    async def _end(self, consumer: Consumer, pull: HardenedPull) -> None:
        if (consumer, pull) not in self._consumers:
            return
        self._consumers.remove((consumer, pull))
        consumer.stop()
        await self._broker.drop(pull)
        self._pauses.pop(pull).end()
        durable, metrics = consumer.durable, self.metrics
        if not any(other.durable == durable for other, _ in self._consumers):
            for metric in (metrics.fetch_age, metrics.pending, metrics.lag):
                metric.remove(durable.stream, durable.name)

    @property
    def outbox_depth(self) -> int:
        """Events that are not sent yet, at most."""
        return self._relay.depth if self._relay else 0

    def health(self) -> Health:
        """How it is now."""
        now = time.monotonic()
        consumers = tuple(
            ConsumerHealth(
                pull.state.durable.stream, pull.state.durable.name, pull.state.bound, now - pull.state.alive,
                consumer.paused, pull.state.trouble, consumer.paused_s, self._lag(pull), pull.state.pending,
            )
            for consumer, pull in self._consumers
        )  # fmt: skip
        age, trouble = (self._relay.age(), self._relay.trouble) if self._relay else (0.0, "")
        return Health(self._started, self.client.connected, consumers, age, trouble)

    # --- the client's side

    async def ask(
        self,
        query: Query[AnswerT],
        *,
        project: str,
        user: str,
        timeout: float = 5.0,  # noqa: ASYNC109
    ) -> AnswerT:
        """Ask another service; see `BusClient.ask`."""
        return await self.client.ask(query, project=project, user=user, timeout=timeout)

    async def publish_live(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Send without an acknowledgement: LIVE and watermarks only."""
        await self.client.publish_live(subject, payload, headers)

    async def publish_confirmed(
        self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None,
        timeout: float = 10.0, expected_sequence: int | None = None,  # noqa: ASYNC109
    ) -> Ack:  # fmt: skip
        """Store a message; see `BusClient.publish_confirmed`."""
        return await self.client.publish_confirmed(
            subject, payload, message_id=message_id, headers=headers, timeout=timeout,
            expected_sequence=expected_sequence,
        )  # fmt: skip

    async def publish_event(
        self, event: Event, *, project: str, user: str | None = None, event_id: str | None = None, version: int = 0
    ) -> Ack:
        """Publish an event at once, without the outbox: for services without a database."""
        return await self.client.publish_event(event, project=project, user=user, event_id=event_id, version=version)

    async def subscribe(self, subject: str, callback: MessageCallback, *, queue: str = "") -> Subscription:
        """A core subscription; see `BusClient.subscribe`. After `start`."""
        return await self.client.subscribe(subject, callback, queue=queue)

    # --- parts

    def _interrupted(self) -> None:
        """The connection broke. It is over once each durable is bound again."""
        if self._started:
            self.metrics.recovery.bus.begin("connection")
            for pause in self._pauses.values():
                pause.begin()

    def _wake(self) -> None:
        self.metrics.reconnects.inc()
        self.metrics.recovery.bus.end("connection")
        for _, pull in self._consumers:
            pull.wake()

    async def _answer(self, message: Msg) -> None:
        await self._server.answer(self.client.connection, message)

    async def _look_at_streams(self) -> None:
        used = self.metrics.stream_used
        streams = [consumer.durable.stream for consumer, _ in self._consumers]
        await fullness.watch(self.client, streams, lambda stream, share: used.labels(stream).set(share))

    async def _sweep(self) -> None:
        """Forget ids in the inbox that no stream keeps any more, and sent events that nobody needs any more."""
        assert self.database is not None
        while True:
            try:
                swept = await self.database.write(sweep_inbox)
            except (DatabaseUnavailable, sa.exc.SQLAlchemyError) as error:
                _log.warning("the inbox could not be swept: %s", error)
                swept = 0
            swept = max(swept, await self._sweep_sent())
            await asyncio.sleep(SWEEP_S if swept < _SWEEP_ROWS else 1.0)

    async def _sweep_sent(self) -> int:
        """Forget events that were sent a while ago and that everybody has handled."""
        assert self.database is not None
        try:
            if not await self.database.read(kept.any_kept):
                return 0
            floor = await kept.handled(self.client.jetstream())
            return await self.database.write(lambda tx: kept.sweep(tx, floor))
        except (UnavailableError, sa.exc.SQLAlchemyError) as error:
            _log.warning("what was sent could not be swept: %s", error)
            return 0


def sweep_inbox(tx: Transaction, kept_s: float = INBOX_KEPT_S, limit: int = _SWEEP_ROWS) -> int:
    """Delete about `limit` ids, the oldest, that were seen longer than `kept_s` seconds ago; gives how many."""
    newest = tx.connection.execute(_SWEPT, {"before": tx.clock.now() - kept_s, "most": limit}).scalar()
    if newest is None:
        return 0
    return tx.connection.execute(sa.delete(inbox).where(inbox.c.seen <= newest)).rowcount
