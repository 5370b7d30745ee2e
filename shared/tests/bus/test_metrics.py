"""What the bus runtime counts: each figure is made to move by the fault that it stands for."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from incl_shared import leases
from incl_shared.bus import fullness
from incl_shared.bus.client import BusClient
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.errors import Early, Poison
from incl_shared.bus.findings import of_bus
from incl_shared.bus.metrics import BusMetrics
from incl_shared.bus.retry import RetryPolicy
from incl_shared.bus.runtime import Bus, BusOptions
from incl_shared.bus.topology import TRACKER_EVENTS, Durable
from incl_shared.db import Database, Transaction
from incl_shared.events import ExperimentWaiting
from incl_shared.ids import new_id
from incl_shared.recovery import Outage, Recovery
from incl_shared.tasks import end_all
from incl_shared.testing.bus import BusFactory
from incl_shared.testing.clock import FakeClock
from incl_shared.testing.db import create_tables
from incl_shared.testing.nats import NatsServer
from incl_shared.testing.wait import until

OPTIONS = BusOptions(retry=RetryPolicy(attempts=2, early_attempts=2, base=0.01, cap=0.02, early_base=0.01))
WHERE = {"stream": "EVENTS", "durable": "tracker"}


class _Asked:
    """What a gauge asks for its value: it has metrics, as every service does."""

    def __init__(self, metrics: BusMetrics) -> None:
        self.metrics = metrics

    def age(self) -> float:
        """Of what waits."""
        return 0.0


def test_a_service_that_is_gone_leaves_no_metrics_behind() -> None:
    metrics = BusMetrics("provisioner")
    asked = _Asked(metrics)
    metrics.outbox_age.set_function(asked.age)
    left = weakref.ref(asked)
    del metrics, asked
    gc.collect()
    assert left() is None


def test_services_of_one_process_share_a_registry() -> None:
    registry = CollectorRegistry()
    for service in ("provisioner", "tracker", "tracker"):
        BusMetrics(service, registry).published.inc()
    found = {
        name: registry.get_sample_value("incl_bus_published_total", {"service": name})
        for name in ("provisioner", "tracker")
    }
    assert found == {"provisioner": 1.0, "tracker": 2.0}


def value(bus: Bus, name: str, **labels: str) -> float:
    """A figure of the bus; 0 where it is not shown yet."""
    return bus.metrics.registry.get_sample_value(f"incl_{name}", {"service": bus.service, **labels}) or 0.0


def emit(tx: Transaction) -> None:
    tx.emit(ExperimentWaiting(experiment=new_id(), reason="x"), project="default", version=1)


async def publish(client: BusClient, reason: str) -> None:
    await client.publish_event(ExperimentWaiting(experiment=new_id(), reason=reason), project="default")


def handle(_: Transaction, delivery: Delivery) -> None:
    event = delivery.event()
    assert isinstance(event, ExperimentWaiting)
    match event.reason:
        case "poison":
            raise Poison("it is bad")
        case "early":
            raise Early
        case "fault":
            raise KeyError("missing")
        case "invalid":
            ExperimentWaiting.model_validate({})


@pytest.mark.parametrize(("reason", "kind"), [("poison",) * 2, ("early",) * 2, ("fault", "failed"), ("invalid",) * 2])
async def test_dead_letters_by_kind_and_redeliveries(
    database: Database, bus_factory: BusFactory, bus_client: BusClient, reason: str, kind: str
) -> None:
    bus = await bus_factory(
        "tracker", lambda bus: bus.consume(TRACKER_EVENTS, handle), database=database, options=OPTIONS
    )
    await publish(bus_client, reason)
    await until(lambda: value(bus, "bus_dead_total", **WHERE, kind=kind) == 1)
    again = 1 if kind in ("early", "failed") else 0
    assert value(bus, "bus_redelivered_total", **WHERE) == again
    assert value(bus, "bus_retried_total", **WHERE) == again


async def test_what_came_before_is_a_duplicate(
    database: Database, bus_factory: BusFactory, bus_client: BusClient
) -> None:
    bus = await bus_factory("tracker", lambda bus: bus.consume(TRACKER_EVENTS, handle), database=database)
    event = ExperimentWaiting(experiment=new_id(), reason="x")
    await bus_client.publish_event(event, project="default", event_id="one")
    subject = f"incl.event.default.experiment.{event.experiment}"
    headers = {"ce-id": "one", "ce-type": event.type_name(), "ce-time": "2026-01-01T00:00:00Z"}
    await bus_client.publish_confirmed(subject, event.model_dump_json().encode(), message_id="two", headers=headers)
    await until(lambda: value(bus, "bus_duplicates_total", **WHERE) == 1)
    assert value(bus, "bus_handled_total", **WHERE) == 1


async def test_a_locked_database(tmp_path: Path, bus_factory: BusFactory, bus_client: BusClient) -> None:
    path = tmp_path / "lite.db"
    create_tables(f"sqlite:///{path}")
    database = Database(f"sqlite:///{path}", busy_ms=20)
    await database.start()
    durable = replace(TRACKER_EVENTS, ack_wait=0.5)
    bus = await bus_factory("tracker", lambda bus: bus.consume(durable, handle), database=database, options=OPTIONS)
    thief = sqlite3.connect(path, isolation_level=None)
    thief.execute("BEGIN EXCLUSIVE")
    for _ in range(3):
        await publish(bus_client, "x")
    await until(lambda: value(bus, "bus_paused", **WHERE, outage="database") == 1)
    assert value(bus, "bus_pauses_total", **WHERE, outage="database") == 1
    await until(lambda: value(bus, "bus_lag_seconds", **WHERE) > 0.5, what="what is at hand grows old")
    assert value(bus, "recovery_seconds_count", what="database") == 0
    thief.execute("ROLLBACK")
    thief.close()
    await until(lambda: value(bus, "bus_paused", **WHERE, outage="database") == 0)
    await until(lambda: value(bus, "bus_lag_seconds", **WHERE) == 0)
    assert value(bus, "bus_paused_seconds_total", **WHERE, outage="database") > 0.3
    await until(lambda: value(bus, "recovery_seconds_count", what="database") == 1)
    assert value(bus, "recovery_seconds_sum", what="database") > 0.3
    await bus.stop()
    await database.stop()


async def test_what_is_behind_a_handler_that_hangs(
    database: Database, bus_factory: BusFactory, bus_client: BusClient
) -> None:
    go = asyncio.Event()

    async def slow(_: Delivery) -> None:
        await go.wait()

    durable = replace(TRACKER_EVENTS, batch=1, max_ack_pending=1)
    for _ in range(6):
        await publish(bus_client, "x")
    bus = await bus_factory("tracker", lambda bus: bus.consume(durable, slow, transactional=False), database=database)
    await until(lambda: value(bus, "bus_pending", **WHERE) == 5)
    go.set()
    await until(lambda: value(bus, "bus_pending", **WHERE) == 0)


async def test_pending_is_told_though_nothing_comes(
    database: Database, bus_factory: BusFactory, bus_client: BusClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands still while a batch hangs is asked for."""
    monkeypatch.setattr("incl_shared.bus.pull.PENDING_S", 0.0)
    go = asyncio.Event()

    async def slow(_: Delivery) -> None:
        await go.wait()

    durable = replace(TRACKER_EVENTS, batch=1, max_ack_pending=1, ack_wait=0.3)
    bus = await bus_factory("tracker", lambda bus: bus.consume(durable, slow, transactional=False), database=database)
    for number in range(1, 5):
        await publish(bus_client, "x")
        await until(lambda n=number: value(bus, "bus_pending", **WHERE) == n - 1)  # type: ignore[misc]
    go.set()


async def test_the_bus_goes_and_comes_back(
    database: Database, bus_factory: BusFactory, nats_server: NatsServer
) -> None:
    bus = await bus_factory("tracker", lambda bus: bus.consume(TRACKER_EVENTS, handle), database=database)
    assert value(bus, "bus_connected") == 1
    nats_server.kill()
    for _ in range(300):
        await database.write(emit)
    await until(lambda: value(bus, "bus_connected") == 0)
    await until(lambda: value(bus, "bus_paused", **WHERE, outage="bus") == 1)
    await until(lambda: value(bus, "bus_outbox_depth") == 300, what="more than one window of the relay")
    assert value(bus, "bus_outbox_age_seconds") > 0
    nats_server.start()
    await until(lambda: value(bus, "bus_reconnects_total") == 1, 20)
    await until(lambda: value(bus, "recovery_seconds_count", what="bus") == 1, 20)
    assert value(bus, "bus_paused", **WHERE, outage="bus") == 0
    assert value(bus, "bus_paused_seconds_total", **WHERE, outage="bus") > 0
    await until(lambda: value(bus, "bus_outbox_depth") == 0, 20)
    await until(lambda: value(bus, "bus_outbox_age_seconds") == 0)
    assert value(bus, "bus_published_total") == 300
    assert value(bus, "bus_publish_failed_total") > 0


async def test_a_durable_that_was_deleted_is_bound_anew(
    database: Database, bus_factory: BusFactory, bus_client: BusClient
) -> None:
    options = BusOptions(check_every=0.1)
    bus = await bus_factory(
        "tracker", lambda bus: bus.consume(TRACKER_EVENTS, handle), database=database, options=options
    )
    await until(lambda: bus.health().consumers[0].bound)
    await bus_client.jetstream().delete_consumer("EVENTS", "tracker")
    await until(lambda: value(bus, "bus_rebound_total", **WHERE) >= 1)


async def test_services_that_share_a_registry(bus_factory: BusFactory) -> None:
    """The gateway and its signer."""
    one = await bus_factory("gateway")
    other = await bus_factory("signer", registry=one.metrics.registry)
    assert value(one, "bus_connected") == value(other, "bus_connected") == 1


async def test_leases_that_are_taken_over(database: Database) -> None:
    registry, clock = CollectorRegistry(), FakeClock(1_000.0)
    database.clock = clock
    recovery = Recovery("tracker", registry)

    def figure(name: str, **labels: str) -> Any:
        return registry.get_sample_value(f"incl_{name}", {"service": "tracker", **labels})

    async def take(holder: str) -> leases.Lease:
        lease = await database.write(lambda tx: leases.acquire(tx, "work", holder, 10.0))
        assert lease is not None
        recovery.held(lease)
        return lease

    first = await take("a")
    assert figure("lease_held", lease="work") == 1
    assert figure("lease_takeovers_total", lease="work") is None, "it was free"
    clock.advance(12.0)
    await take("b")
    assert figure("lease_takeovers_total", lease="work") == 1
    assert figure("recovery_seconds_sum", what="lease") == 12.0
    recovery.free("work", lost=True)
    assert (figure("lease_held", lease="work"), figure("lease_losses_total", lease="work")) == (0, 1)
    with pytest.raises(leases.LeaseLost):
        await database.write(lambda tx: leases.renew(tx, first, 10.0))
    mine = await take("b")
    await database.write(lambda tx: leases.release(tx, mine))
    await take("c")
    assert figure("lease_takeovers_total", lease="work") == 1, "what was given up is not taken over"


def test_an_outage_lasts_until_the_last_part_is_back() -> None:
    seen: list[float] = []
    now = 0.0
    outage = Outage(seen.append, lambda: now)
    outage.end("a")
    outage.begin("a")
    now = 1.0
    outage.begin("b")
    outage.begin("a")
    outage.end("a")
    assert outage.parts == {"b"}
    assert seen == []
    now = 4.0
    outage.end("b")
    assert seen == [4.0]


async def test_the_depth_of_an_outbox_costs_no_scan(database: Database) -> None:
    """However much waits, it is told by the two ends of an index."""
    if database.dialect != "sqlite":
        pytest.skip("SQLite's plan")
    from incl_shared.bus.outbox import _ENDS

    def plan(connection: sa.Connection) -> list[str]:
        text = str(_ENDS.compile(connection))
        return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]

    steps = await database.read(plan)
    assert steps
    assert not any(step.startswith("SCAN outbox") for step in steps), steps


async def test_findings_of_a_locked_database_are_one(
    tmp_path: Path, bus_factory: BusFactory, bus_client: BusClient
) -> None:
    path = tmp_path / "lite.db"
    create_tables(f"sqlite:///{path}")
    database = Database(f"sqlite:///{path}", busy_ms=20)
    await database.start()

    def setup(bus: Bus) -> None:
        for durable in (TRACKER_EVENTS, replace(TRACKER_EVENTS, name="other")):
            bus.consume(durable, handle)

    bus = await bus_factory("tracker", setup, database=database, options=OPTIONS)
    assert list(of_bus(bus, lambda _: 0.0)) == []
    thief = sqlite3.connect(path, isolation_level=None)
    thief.execute("BEGIN EXCLUSIVE")
    await publish(bus_client, "x")
    await until(lambda: len([1 for one in bus.health().consumers if one.paused]) == 2)
    (one,) = [one for one in of_bus(bus, lambda _: 0.0) if one.kind == "consumer.paused"]
    assert one.subject in ("tracker EVENTS/tracker and 1 more", "tracker EVENTS/other and 1 more")
    assert "locked" in one.reason
    assert not [one for one in of_bus(bus, lambda usual: usual + 60) if one.kind == "consumer.paused"], "not yet"
    thief.execute("ROLLBACK")
    thief.close()
    await until(lambda: not [one for one in of_bus(bus, lambda _: 0.0) if one.kind == "consumer.paused"])
    await bus.stop()
    await database.stop()


async def test_findings_of_a_bus_that_is_away_and_of_a_handler_that_hangs(
    database: Database, bus_factory: BusFactory, bus_client: BusClient, nats_server: NatsServer
) -> None:
    go = asyncio.Event()

    async def slow(_: Delivery) -> None:
        await go.wait()

    bus = await bus_factory(
        "tracker", lambda bus: bus.consume(TRACKER_EVENTS, slow, transactional=False), database=database
    )
    await publish(bus_client, "x")
    (behind,) = await until(lambda: list(of_bus(bus, lambda _: 0.0)))
    assert (behind.kind, behind.severity) == ("consumer.behind", "warning")
    go.set()
    await until(lambda: not list(of_bus(bus, lambda _: 0.0)))
    nats_server.kill()
    await database.write(emit)
    kinds = {"bus.away", "outbox.waiting"}
    await until(lambda: {one.kind for one in of_bus(bus, lambda _: 0.0)} == kinds, what="no consequence beside them")
    nats_server.start()
    await until(lambda: not list(of_bus(bus, lambda _: 0.0)), 20)


async def test_how_full_a_stream_is(bus_factory: BusFactory, bus_client: BusClient) -> None:
    """Only of those that refuse when they are full, and as it is now."""
    js = bus_client.jetstream()
    await js.update_stream((await js.stream_info("REQUESTS")).config.evolve(max_bytes=10_000))
    for number in range(8):
        subject = f"incl.request.default.ann.experiment.{new_id()}"
        await bus_client.publish_confirmed(subject, b"x" * 1000, message_id=str(number))
    await publish(bus_client, "kept")

    async def handler(_: Delivery) -> None:
        raise AssertionError("nothing is for it")

    def reads(bus: Bus) -> None:
        for stream, subject in (("REQUESTS", "incl.request.*.*.nothing.*"), ("EVENTS", "incl.event.*.nothing.*")):
            bus.consume(Durable(stream, "probe", (subject,)), handler, transactional=False)

    bus = await bus_factory("probe", reads)
    await until(lambda: value(bus, "bus_stream_used_ratio", stream="REQUESTS") > 0.8)
    assert (
        bus.metrics.registry.get_sample_value("incl_bus_stream_used_ratio", {"service": "probe", "stream": "EVENTS"})
        is None
    )
    told: list[float] = []
    watching = asyncio.create_task(
        fullness.watch(bus_client, ["REQUESTS", "NONE"], lambda _, used: told.append(used), 0.02)
    )
    try:
        await until(lambda: told and told[-1] > 0.8)
        await js.purge_stream("REQUESTS")
        await until(lambda: told[-1] == 0.0)
    finally:
        await end_all([watching])
