"""Several trackers on one database: each partition has one owner, whatever happens to the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from incl_shared import leases, subjects
from incl_shared.bus import envelope, topology
from incl_shared.bus.client import BusClient
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.errors import NotMine
from incl_shared.bus.tables import inbox
from incl_shared.db import Database, Transaction
from incl_shared.errors import InclError
from incl_shared.events import ExperimentQueued
from incl_shared.ids import new_id
from incl_shared.leases import LeaseLost
from incl_shared.queries.tracker import GetLogs, GetPoints, GetWatermarks
from incl_shared.recovery import Recovery
from incl_shared.settings import BusSettings
from incl_shared.spec import ExperimentSpec
from incl_shared.tasks import end_all
from incl_shared.telemetry.wire import message_id
from incl_shared.testing.nats import NatsServer
from incl_shared.testing.wait import until
from incl_tracker.app import App, create_app
from incl_tracker.ownership import Ownership, _share
from incl_tracker.partitions import _guarded
from incl_tracker.settings import TrackerSettings

TTL = 3.0
ALL = list(range(topology.PARTITIONS))

Start = Callable[[], Awaitable[App]]


@pytest.fixture
async def start(bus_settings: BusSettings, migrated_url: str) -> AsyncIterator[Start]:
    """Starts trackers on one database and one bus, in this process; stops them at the end."""
    apps: list[App] = []

    async def begin() -> App:
        app = create_app(
            TrackerSettings(
                database_url=migrated_url, bus=bus_settings, lease_s=TTL, live_interval_s=0.02, ops_port=0,
            )
        )  # fmt: skip
        apps.append(app)
        await app.start()
        return app

    yield begin
    for app in apps:
        await app.stop()


_TRACKER = """
import asyncio, signal, sys
from incl_shared.settings import BusSettings
from incl_tracker.app import create_app
from incl_tracker.settings import TrackerSettings

async def main(url, bus, ttl):
    app = create_app(TrackerSettings(
        database_url=url, bus=BusSettings(urls=(bus,)), lease_s=float(ttl), live_interval_s=0.02, ops_port=0))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await app.start()
    print("started", flush=True)
    await ended.wait()
    await app.stop()

asyncio.run(main(*sys.argv[1:]))
"""


class Process:
    """A tracker in a process of its own."""

    def __init__(self, url: str, bus: str) -> None:
        arguments = [sys.executable, "-c", _TRACKER, url, bus, str(TTL)]
        self.popen = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    async def started(self) -> Process:
        """Wait until it works."""
        assert self.popen.stdout is not None
        assert await asyncio.to_thread(self.popen.stdout.readline) == b"started\n"
        return self

    def send(self, number: signal.Signals) -> None:
        """To this process alone."""
        os.kill(self.popen.pid, number)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait for it."""
        if self.popen.poll() is None:
            self.send(number)
            self.send(signal.SIGCONT)
        await asyncio.to_thread(self.popen.wait, 20)
        if self.popen.stdout is not None:
            self.popen.stdout.close()


Spawn = Callable[[], Awaitable[Process]]


@pytest.fixture
async def spawn(nats_server: NatsServer, migrated_url: str) -> AsyncIterator[Spawn]:
    """Starts trackers in processes of their own; kills them at the end."""
    processes: list[Process] = []

    async def begin() -> Process:
        process = Process(migrated_url, nats_server.url)
        processes.append(process)
        return await process.started()

    yield begin
    for process in processes:
        await process.end(signal.SIGKILL)


class Load:
    """Experiments that log points and lines all the time."""

    def __init__(self, client: BusClient, make: Any, experiments: int = 12) -> None:
        self.client = client
        self.make = make
        self.ids = [new_id() for _ in range(experiments)]
        self.records = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        """Meanwhile they log."""
        ended = asyncio.Event()
        await self._begin()
        task = asyncio.create_task(self._run(ended))
        try:
            yield self
        finally:
            ended.set()
            await task

    async def _begin(self) -> None:
        for experiment in self.ids:
            event = ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"]))
            said = envelope.Envelope(
                id=new_id(), source="test", type=event.type_name(), subject=experiment, time=1000.0, version=1
            )
            payload, headers = envelope.encode(event, said)
            subject = envelope.subject_of(event, project="default")
            await self.client.publish_confirmed(subject, payload, message_id=said.id, headers=headers)

    async def _run(self, ended: asyncio.Event) -> None:
        while True:
            await self.some()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), 0.05)
            if ended.is_set():
                return

    async def some(self) -> None:
        """Three more records and lines of each."""
        first = self.records + 1
        numbers = range(first, first + 3)
        for experiment in self.ids:
            batch = self.make.metric_batch("w", first, [(n, float(n), {"acc": n / 10}) for n in numbers])
            lines = self.make.log_batch("tail", first, [f"line {n}" for n in numbers])
            for kind, what in (("metrics", batch), ("logs", lines)):
                subject = getattr(subjects, kind)("default", experiment, 1, 0)
                identifier = message_id(f"{experiment}-1-0", kind, what.writer, first, 3)
                await self.client.publish_confirmed(subject, msgspec.msgpack.encode(what), message_id=identifier)
        self.records += 3

    async def stored_once(self, timeout: float = 30.0) -> None:
        """Wait until everything is stored; every point once, every line once and in its order."""
        numbers = list(range(1, self.records + 1))
        for experiment in self.ids:
            await until(lambda e=experiment: self._has(e, len(numbers)), timeout=timeout, what=experiment)  # type: ignore[misc]
            query = GetPoints(experiment=experiment, metric="acc", limit=4000)
            page = await self.client.ask(query, project="default", user="ann", timeout=20)
            assert list(page.steps) == numbers
            texts: list[str] = []
            cursor: int | None = 0
            while cursor is not None:
                logs = await self.client.ask(
                    GetLogs(experiment=experiment, after=cursor, limit=1000), project="default", user="ann", timeout=20
                )
                texts += [line.text for line in logs.lines]
                cursor = logs.cursor if logs.more else None
            assert texts == [f"line {n}" for n in numbers]

    async def _has(self, experiment: str, count: int) -> bool:
        query = GetWatermarks(experiment=experiment, attempt=1, rank=0)
        with contextlib.suppress(InclError):
            found = await self.client.ask(query, project="default", user="ann", timeout=5)
            return found.stored == {"metrics/w": count, "logs/tail": count}
        return False


async def test_the_server_cuts_as_we_say(bus_client: BusClient) -> None:
    js = bus_client.jetstream()
    for number in range(40):
        experiment = new_id()
        await bus_client.publish_confirmed(f"incl.metrics.p.{experiment}.1.0", b"x", message_id=str(number))
        message = await js.get_msg("METRICS", seq=number + 1)
        stored = f"incl.metrics.{topology.partition_of(experiment)}.p.{experiment}.1.0"
        assert message.subject == stored
        assert subjects.unpartitioned(stored) == f"incl.metrics.p.{experiment}.1.0"


async def test_trackers_share_the_partitions_and_leave_nothing_behind(
    start: Start, bus_client: BusClient, make: Any
) -> None:
    load = Load(bus_client, make, 8)
    one = await start()
    await until(lambda: one.partitions.consumed == ALL, timeout=5)
    async with load.running():
        two = await start()
        await until(lambda: two.bus.health().ready, timeout=5)
        await until(lambda: len(one.partitions.consumed) == len(two.partitions.consumed) == 4, timeout=10)
        assert sorted(one.partitions.consumed + two.partitions.consumed) == ALL
        assert one.upkeep is not two.upkeep
        held = [one.partitions.consumed, two.partitions.consumed]
        await asyncio.sleep(TTL)
        assert held == [one.partitions.consumed, two.partitions.consumed], "nothing moves without a reason"
        await one.stop()
        left = time.monotonic()
        await until(lambda: two.partitions.consumed == ALL, timeout=10)
        assert time.monotonic() - left < TTL + 2
    await load.stored_once()
    rows = await two.database.read(
        lambda c: list(c.execute(sa.text("SELECT holder FROM leases WHERE name LIKE 'tracker.%'")).scalars())
    )
    assert set(rows) == {two.ownership.holder}


async def test_trackers_are_killed_and_join(start: Start, spawn: Spawn, bus_client: BusClient, make: Any) -> None:
    load = Load(bus_client, make)
    victim = await spawn()
    async with load.running():
        app = await start()
        await until(lambda: len(app.partitions.consumed) == 4, timeout=10)
        await victim.end(signal.SIGKILL)
        killed = time.monotonic()
        await until(lambda: app.partitions.consumed == ALL, timeout=10)
        took = time.monotonic() - killed
        assert took < TTL + 2
        other = await spawn()
        await until(lambda: len(app.partitions.consumed) == 4, timeout=10)
        await other.end(signal.SIGTERM)
        await until(lambda: app.partitions.consumed == ALL, timeout=10)
    await load.stored_once()


async def test_a_tracker_that_hangs_loses_its_partitions_and_comes_back(
    start: Start, spawn: Spawn, bus_client: BusClient, make: Any, migrated_url: str
) -> None:
    if migrated_url.startswith("sqlite"):
        pytest.skip("a process that hangs within a transaction holds SQLite's only lock")
    load = Load(bus_client, make)
    hanging = await spawn()
    async with load.running():
        app = await start()
        await until(lambda: len(app.partitions.consumed) == 4, timeout=10)
        hanging.send(signal.SIGSTOP)
        await until(lambda: app.partitions.consumed == ALL, timeout=45)
        hanging.send(signal.SIGCONT)
        await until(lambda: len(app.partitions.consumed) == 4, timeout=10)
    await load.stored_once()


async def test_a_durable_that_was_deleted_is_made_again(start: Start, bus_client: BusClient, make: Any) -> None:
    load = Load(bus_client, make, 8)
    app = await start()
    await until(lambda: app.partitions.consumed == ALL, timeout=5)
    async with load.running():
        for durable in topology.TRACKER_METRICS[:4]:
            await bus_client.jetstream().delete_consumer(durable.stream, durable.name)
    await load.stored_once()


@pytest.fixture
async def owners(
    migrated_url: str, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Database, Ownership, Ownership]]:
    """Two on one database, that renew only when the test says so. Its parameter: seconds that a lease lasts."""
    database, ttl = Database(migrated_url), getattr(request, "param", 1.0)
    await database.start()
    yield database, Ownership(database, ttl=ttl, holder="a"), Ownership(database, ttl=ttl, holder="b")
    await database.stop()


def deliveries() -> list[Delivery]:
    return []


async def test_what_a_zombie_writes_is_refused(owners: tuple[Database, Ownership, Ownership]) -> None:
    database, old, new = owners
    (lost,), (won,) = old.shared(["partition.0"]), new.shared(["partition.0"])
    noticed: list[str] = []

    def store(tx: Transaction, _: list[Delivery]) -> None:
        tx.connection.execute(sa.insert(inbox).values(durable="d", message_id=str(len(noticed)), seen=1.0))

    await old._round()
    assert lost.held
    assert lost.lease is not None
    handler = _guarded(lost, lost.lease.fence, store, lambda: noticed.append("lost"))
    await database.write(lambda tx: handler(tx, deliveries()))
    await until(lambda: not lost.held, timeout=5)
    new._steady_since = float("-inf")

    async def taken() -> bool:
        await new._round()
        return won.held

    await until(taken, timeout=5)
    assert won.inherited
    assert lost.lease is not None, "it has not noticed"
    with pytest.raises(NotMine):
        await database.write(lambda tx: handler(tx, deliveries()))
    assert noticed == ["lost"]
    count = sa.select(sa.func.count()).select_from(inbox)
    assert await database.read(lambda c: c.execute(count).scalar()) == 1
    await old._round()
    assert lost.lease is None


@pytest.mark.parametrize("owners", [60.0], indirect=True, ids=["long leases"])
async def test_work_of_one_is_done_by_one(owners: tuple[Database, Ownership, Ownership]) -> None:
    _, old, new = owners
    one, two = old.sole("sweep"), new.sole("sweep")
    await old._round()
    await new._round()
    assert (one.held, two.held) == (True, False)
    await one.database.write(lambda tx: None)
    with pytest.raises(LeaseLost):
        await two.database.write(lambda tx: None)
    await old.stop()
    await new._round()
    assert (one.held, two.held) == (False, True)


async def test_after_an_outage_whoever_had_it_keeps_it(owners: tuple[Database, Ownership, Ownership]) -> None:
    """All has expired while nobody could renew: the first one that is back does not take what the others hold."""
    _, old, new = owners
    (had,), (other,) = old.shared(["partition.0"]), new.shared(["partition.0"])
    await old._round()
    await new._round()
    assert had.lease is not None
    fence = had.lease.fence
    await until(lambda: not had.held, timeout=5)
    await new._round()
    assert not other.held
    await old._round()
    assert had.held
    assert had.lease.fence == fence


async def test_a_transaction_that_hangs_blocks_nobody(owners: tuple[Database, Ownership, Ownership]) -> None:
    database, old, _ = owners
    if database.dialect == "sqlite":
        pytest.skip("SQLite has one lock")
    (claim,) = old.shared(["partition.0"])
    await old._round()
    engine = sa.create_engine(database.url)
    try:
        with engine.begin() as connection:
            claim.guard(Transaction(connection, database.clock))
            await until(lambda: not claim.held, timeout=5)
            assert await database.write(lambda tx: leases.acquire(tx, claim.name, "c", 1.0)) is None
        await until(lambda: database.write(lambda tx: leases.acquire(tx, claim.name, "c", 1.0)), timeout=5)
    finally:
        engine.dispose()


def shares(things: int, members: int) -> Iterator[int]:
    return (_share(things, place, members) for place in range(members))


@pytest.mark.parametrize("members", [1, 2, 3, 5, 8, 9, 20])
def test_the_shares_are_even_and_make_up_all(members: int) -> None:
    found = list(shares(8, members))
    assert sum(found) == 8
    assert max(found) - min(found) <= 1


async def test_a_partition_that_is_taken_over(lite_url: str) -> None:
    database = Database(lite_url)
    await database.start()
    registries = {name: CollectorRegistry() for name in ("a", "b")}

    def value(owner: str, name: str, **labels: str) -> float:
        return registries[owner].get_sample_value(f"incl_{name}", {"service": "tracker", **labels}) or 0.0

    first, second = (
        Ownership(database, ttl=0.6, holder=name, recovery=Recovery("tracker", registries[name])) for name in "ab"
    )
    for owner in (first, second):
        owner.shared(["partition.0"])
    await first.start()
    assert value("a", "lease_held", lease="partition.0") == 1
    await end_all([first._task])  # it hangs
    await second.start()
    try:
        await until(lambda: value("b", "lease_takeovers_total", lease="partition.0") == 1)
        assert value("b", "recovery_seconds_sum", what="lease") >= 0.6
        await first._round()
        assert value("a", "lease_losses_total", lease="partition.0") == 1
        assert value("a", "lease_held", lease="partition.0") == 0
        assert value("b", "lease_held", lease="partition.0") == 1
    finally:
        await second.stop()
        await database.stop()
