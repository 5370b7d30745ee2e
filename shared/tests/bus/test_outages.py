"""What happens while the database, or the bus, is away: nothing is lost, nothing is killed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from incl_shared.bus.client import BusClient
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.retry import RetryPolicy
from incl_shared.bus.runtime import Bus, BusOptions, sweep_inbox
from incl_shared.bus.tables import inbox, outbox
from incl_shared.bus.topology import TRACKER_EVENTS
from incl_shared.db import Database, Transaction
from incl_shared.events import ExperimentWaiting
from incl_shared.ids import new_id
from incl_shared.settings import BusSettings
from incl_shared.testing.bus import BusFactory
from incl_shared.testing.clock import FakeClock
from incl_shared.testing.db import PostgresServer, create_tables
from incl_shared.testing.nats import NatsServer
from incl_shared.testing.wait import until

FAST = BusOptions(retry=RetryPolicy(attempts=2, base=0.01, cap=0.02))
DURABLE = replace(TRACKER_EVENTS, ack_wait=0.5)


def note(got: list[str], tx: Transaction, delivery: Delivery) -> None:
    """A handler that needs the database."""
    tx.connection.execute(sa.select(sa.func.count()).select_from(inbox)).scalar()
    tx.after_commit(lambda: got.append(delivery.id))


async def publish(client: BusClient, event_id: str) -> None:
    event = ExperimentWaiting(experiment=new_id(), reason="x")
    await client.publish_event(event, project="default", event_id=event_id)


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[tuple[Database, Path]]:
    """A SQLite database that waits for a lock only for a moment."""
    path = tmp_path / "lite.db"
    create_tables(f"sqlite:///{path}")
    database = Database(f"sqlite:///{path}", busy_ms=20)
    await database.start()
    yield database, path
    await database.stop()


async def test_a_locked_database_pauses_the_consumer(
    impatient: tuple[Database, Path], bus_factory: BusFactory, bus_client: BusClient
) -> None:
    database, path = impatient
    got: list[str] = []
    bus = await bus_factory(
        "tracker", lambda bus: bus.consume(DURABLE, lambda tx, d: note(got, tx, d)), database=database, options=FAST
    )
    thief = sqlite3.connect(path, isolation_level=None)
    thief.execute("BEGIN EXCLUSIVE")
    for number in range(5):
        await publish(bus_client, f"e{number}")
    await until(lambda: bus.health().consumers[0].paused)
    assert not bus.health().ready
    assert bus.health().live
    paused_at = time.monotonic()
    await until(lambda: time.monotonic() - paused_at > 2 * DURABLE.ack_wait, what="longer than ack_wait")
    info = await bus_client.jetstream().consumer_info("EVENTS", "tracker")
    assert info.num_redelivered == 0, "the server was told that they are worked on"
    thief.execute("ROLLBACK")
    thief.close()
    await until(lambda: got == [f"e{number}" for number in range(5)], 10)
    await until(lambda: bus.health().ready)
    assert bus.metrics.failed.labels("EVENTS", "tracker")._value.get() == 0
    assert (await bus_client.jetstream().stream_info("DEAD")).state.messages == 0


@pytest.mark.postgres
async def test_a_postgres_that_goes_and_comes_back(
    postgres_server: PostgresServer, bus_factory: BusFactory, bus_client: BusClient
) -> None:
    postgres_server.administer("CREATE DATABASE outage")
    url = postgres_server.url("outage")
    create_tables(url)
    database = Database(url)
    await database.start()
    got: list[str] = []
    bus = await bus_factory(
        "tracker", lambda bus: bus.consume(DURABLE, lambda tx, d: note(got, tx, d)), database=database, options=FAST
    )
    try:
        await publish(bus_client, "before")
        await until(lambda: got == ["before"])
        postgres_server.administer("ALTER DATABASE outage ALLOW_CONNECTIONS false")
        postgres_server.administer("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'outage'")
        await publish(bus_client, "during")
        await until(lambda: bus.health().consumers[0].paused)
        postgres_server.administer("ALTER DATABASE outage ALLOW_CONNECTIONS true")
        await until(lambda: got == ["before", "during"], 15)
        await until(lambda: bus.health().ready, 15)
    finally:
        await bus.stop()
        await database.stop()
        postgres_server.administer("DROP DATABASE outage WITH (FORCE)")


async def test_stopping_in_an_outage_gives_the_messages_back(
    impatient: tuple[Database, Path], bus_factory: BusFactory, bus_client: BusClient
) -> None:
    database, path = impatient
    got: list[str] = []

    def setup(bus: Bus) -> None:
        bus.consume(TRACKER_EVENTS, lambda tx, d: note(got, tx, d))

    bus = await bus_factory("tracker", setup, database=database, options=FAST)
    thief = sqlite3.connect(path, isolation_level=None)
    thief.execute("BEGIN EXCLUSIVE")
    await publish(bus_client, "e1")
    await until(lambda: bus.health().consumers[0].paused)
    await bus.stop()
    thief.execute("ROLLBACK")
    thief.close()
    await bus_factory("tracker", setup, database=database, options=FAST)
    await until(lambda: got == ["e1"], 5, what="at once, not after ack_wait")


async def test_the_outbox_waits_for_the_bus(
    database: Database, bus_factory: BusFactory, nats_server: NatsServer, bus_settings: BusSettings
) -> None:
    bus = await bus_factory("tracker", database=database)
    nats_server.kill()
    experiments = [new_id() for _ in range(20)]

    def work(tx: Transaction) -> None:
        for experiment in experiments:
            tx.emit(ExperimentWaiting(experiment=experiment, reason="x"), project="default", version=1)

    await database.write(work)
    await until(lambda: bus.health().outbox_age > 0)
    await until(lambda: not bus.health().ready)
    nats_server.start()

    async def empty() -> bool:
        query = sa.select(sa.func.count()).select_from(outbox)
        return await database.read(lambda c: c.execute(query).scalar_one()) == 0

    await until(empty, 20)
    async with await BusClient.connect(bus_settings) as client:
        assert (await client.jetstream().stream_info("EVENTS")).state.messages == 20


async def test_an_event_that_cannot_be_sent_blocks_only_its_own_kind(
    database: Database, bus_factory: BusFactory, bus_client: BusClient
) -> None:
    large, small = new_id(), new_id()

    def work(tx: Transaction) -> None:
        tx.emit(ExperimentWaiting(experiment=large, reason="x" * 2_000_000), project="default", version=1)
        tx.emit(ExperimentWaiting(experiment=small, reason="x"), project="default", version=1)
        tx.emit(ExperimentWaiting(experiment=large, reason="after"), project="default", version=2)

    await database.write(work)
    bus = await bus_factory("tracker", database=database)

    async def sent() -> bool:
        return await bus_client.last("EVENTS", f"incl.event.default.experiment.{small}") is not None

    await until(sent)
    await until(lambda: "larger" in bus.health().outbox_trouble)
    assert await bus_client.last("EVENTS", f"incl.event.default.experiment.{large}") is None, "order is kept"


async def test_the_inbox_forgets_what_no_stream_keeps(database_url: str) -> None:
    create_tables(database_url)
    clock = FakeClock()
    database = Database(database_url, clock=clock)
    await database.start()
    try:

        def fill(tx: Transaction) -> None:
            rows = [{"durable": "d", "message_id": str(n), "seen": clock.now() - 100 * n} for n in range(10)]
            tx.connection.execute(sa.insert(inbox), rows)

        await database.write(fill)
        assert await database.write(lambda tx: sweep_inbox(tx, kept_s=450, limit=3)) == 3
        assert await database.write(lambda tx: sweep_inbox(tx, kept_s=450, limit=3)) == 2
        assert await database.write(lambda tx: sweep_inbox(tx, kept_s=450, limit=3)) == 0
        left = await database.read(lambda c: sorted(c.execute(sa.select(inbox.c.message_id)).scalars()))
        assert left == ["0", "1", "2", "3", "4"]
    finally:
        await database.stop()


async def test_two_relays_of_one_database_send_each_event_once(
    database: Database, bus_factory: BusFactory, bus_client: BusClient
) -> None:
    for _ in range(2):
        await bus_factory("tracker", database=database)
    for _ in range(10):
        event = ExperimentWaiting(experiment=new_id(), reason="x")
        await database.write(lambda tx, event=event: tx.emit(event, project="default", version=1))  # type: ignore[misc]

    async def all_sent() -> bool:
        return (await bus_client.jetstream().stream_info("EVENTS")).state.messages == 10

    await until(all_sent)
