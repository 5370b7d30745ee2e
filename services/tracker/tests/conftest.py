"""A tracker without a bus: handlers on a real database, messages given by hand; and one on a real bus."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import sqlalchemy as sa

from incl_shared import subjects
from incl_shared.bus import envelope
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.errors import Early
from incl_shared.bus.tables import outbox
from incl_shared.db import Database, Transaction, migrate
from incl_shared.events import REGISTER, Event
from incl_shared.queries.base import Answer, Query
from incl_shared.subjects import Asker, Origin
from incl_shared.telemetry.wire import BATCH_VERSION, Line, LogBatch, MetricBatch
from incl_shared.testing.clock import FakeClock
from incl_shared.testing.db import PostgresServer
from incl_shared.testing.telemetry import batch_of
from incl_tracker.answers import Answers
from incl_tracker.handlers import Handlers
from incl_tracker.settling import settle_due

T = TypeVar("T")
PROJECT, USER = "default", "ann"
_names = itertools.count()


@dataclass
class Told:
    """What the audience was told."""

    changes: list[str] = field(default_factory=list)
    lines_told: list[tuple[int, list[tuple[int, int, Line]]]] = field(default_factory=list)
    points_told: list[tuple[dict[str, tuple[int, float]], int]] = field(default_factory=list)
    marks: dict[tuple[Origin, str], int] = field(default_factory=dict)

    def changed(self, project: str, experiment: str) -> None:
        self.changes.append(experiment)

    def lines(self, project: str, experiment: str, after: int, lines: list[tuple[int, int, Line]]) -> None:
        self.lines_told.append((after, lines))

    def points(self, project: str, experiment: str, newest: dict[str, tuple[int, float]], count: int) -> None:
        self.points_told.append((newest, count))

    def stored(self, origin: Origin, stream: str, writer: str, watermark: int) -> None:
        self.marks[(origin, f"{stream}/{writer}")] = watermark


class Bench:
    """Handlers and answers on one database."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.database = database
        self.clock = clock
        self.told = Told()
        self.handlers = Handlers(self.told, settle_after_s=60.0)
        self.answers = Answers(database, clock, list_limit_s=5.0)
        self._sequence = itertools.count(1)

    async def event(
        self, event: Event, version: int = 0, *, time: float | None = None, project: str = PROJECT, user: str = USER
    ) -> None:
        """Deliver an event or a request."""
        subject = envelope.subject_of(event, project=project, user=user)
        request = type(event).stream == "REQUESTS"
        handler = self.handlers.request if request else self.handlers.event
        payload = event.model_dump_json().encode()
        delivery = self._delivery(subject, payload, event.type_name(), version, time)
        await self.database.write(lambda tx: handler(tx, delivery))
        await asyncio.sleep(0)

    async def batch(self, origin: Origin, batch: MetricBatch | LogBatch, *, patient: bool = True) -> None:
        """Deliver a batch of telemetry; patient: again and again when it comes too early."""
        metrics = isinstance(batch, MetricBatch)
        build = subjects.metrics if metrics else subjects.logs
        handler = self.handlers.metric_batches if metrics else self.handlers.log_batches
        subject = build(origin.project, origin.experiment, origin.attempt, origin.rank)
        delivery = self._delivery(subject, msgspec.msgpack.encode(batch), "", 0, None)
        try:
            await self.database.write(lambda tx: handler(tx, [delivery]))
        except Early:
            if not patient:
                raise
            again = replace(delivery, deliveries=99)
            await self.database.write(lambda tx: handler(tx, [again]))
        await asyncio.sleep(0)

    def _delivery(self, subject: str, payload: bytes, kind: str, version: int, time: float | None) -> Delivery:
        number = next(self._sequence)
        now = self.clock.now() if time is None else time
        return Delivery(subject, payload, {}, str(number), kind, now, version, "TEST", number, 1, None)

    async def ask(self, query: Query[Any], user: str = USER, project: str = PROJECT) -> Any:
        """Ask, as the bus would."""
        handlers: dict[type[Query[Any]], Callable[..., Awaitable[Answer]]] = {}
        self.answers.register(_Table(handlers))  # type: ignore[arg-type]
        answer = await handlers[type(query)](Asker(project, user), query)
        return type(answer).model_validate_json(answer.model_dump_json())

    async def read(self, function: Callable[[sa.Connection], T]) -> T:
        return await self.database.read(function)

    async def settle_due(self) -> int:
        """What the loop does."""
        return len(await self.database.write(settle_due))

    async def relayed(self) -> None:
        """Empty the outbox, as its relay does."""
        await self.database.write(lambda tx: tx.connection.execute(sa.delete(outbox)))

    async def emitted(self, kind: type[Event] | None = None) -> list[Event]:
        """The events in the outbox."""

        def read(connection: sa.Connection) -> list[Event]:
            rows = connection.execute(sa.select(outbox).order_by(outbox.c.sequence)).mappings()
            return [REGISTER[json.loads(row["headers"])["ce-type"]].read(row["payload"]) for row in rows]

        events = await self.database.read(read)
        return [e for e in events if kind is None or isinstance(e, kind)]


class _Table:
    def __init__(self, handlers: dict[type[Query[Any]], Callable[..., Awaitable[Answer]]]) -> None:
        self._handlers = handlers

    def serve(self, kind: type[Query[Any]], handler: Callable[..., Awaitable[Answer]]) -> None:
        self._handlers[kind] = handler


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with the tables, to be copied."""
    path = tmp_path_factory.mktemp("template") / "tracker.db"
    migrate(f"sqlite:///{path}", "incl_tracker")
    return path


@pytest.fixture(scope="session")
def pg_template(postgres_server: PostgresServer) -> str:
    """The name of a PostgreSQL database with the tables, to be copied."""
    name = f"tracker_template_{os.getpid()}"
    postgres_server.administer(f"CREATE DATABASE {name}")
    migrate(postgres_server.url(name), "incl_tracker")
    return name


@pytest.fixture
def lite_url(template: Path, tmp_path: Path) -> str:
    """A fresh SQLite database with the tables."""
    shutil.copy(template, tmp_path / "tracker.db")
    return f"sqlite:///{tmp_path / 'tracker.db'}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def migrated_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh database with the tables: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        yield request.getfixturevalue("lite_url")
        return
    copied, server = request.getfixturevalue("pg_template"), request.getfixturevalue("postgres_server")
    name = f"tracker_{os.getpid()}_{next(_names)}"
    server.administer(f"CREATE DATABASE {name} TEMPLATE {copied}")
    yield server.url(name)
    server.administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def bench(migrated_url: str, fake_clock: FakeClock) -> AsyncIterator[Bench]:
    """Handlers and answers on SQLite, then on PostgreSQL."""
    database = Database(migrated_url, clock=fake_clock)
    await database.start()
    yield Bench(database, fake_clock)
    await database.stop()


@pytest.fixture
async def lite(lite_url: str, fake_clock: FakeClock) -> AsyncIterator[Bench]:
    """The same on SQLite alone, for what is not about the database."""
    database = Database(lite_url, clock=fake_clock)
    await database.start()
    yield Bench(database, fake_clock)
    await database.stop()


Record = tuple[int, float, dict[str, float]] | dict[str, Any]
"""(step, time, values) or the spool record of an extra."""


def metric_batch(writer: str, first: int, records: list[Record], *, offsets: bool = True) -> MetricBatch:
    """A batch of records, as a shipper makes it."""
    lines = [json.dumps(record).encode() if isinstance(record, dict) else record for record in records]
    return batch_of(writer, first, lines, offsets=offsets)


def log_batch(writer: str, first: int, texts: list[str | Line]) -> LogBatch:
    """A batch of lines; the time of a line is its number."""
    lines = [
        text if isinstance(text, Line) else Line(float(first + place), 0, text) for place, text in enumerate(texts)
    ]
    return LogBatch(BATCH_VERSION, writer, first, lines)


class Make:
    """What tests build messages with (a fixture, as test folders are no packages)."""

    metric_batch = staticmethod(metric_batch)
    log_batch = staticmethod(log_batch)
    bench = Bench
    transaction = Transaction


@pytest.fixture
def make() -> type[Make]:
    return Make
