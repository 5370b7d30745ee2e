"""A database that is older than the bus is noticed, and made up for: a real bus, both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from incl_shared import subjects
from incl_shared.bus import topology
from incl_shared.bus.client import BusClient
from incl_shared.errors import InclError
from incl_shared.events import Event, ExperimentFinished, ExperimentQueued
from incl_shared.ids import new_id
from incl_shared.queries.stuck import Finding, TrackerStuck
from incl_shared.queries.tracker import GetExperiment, GetPoints
from incl_shared.settings import BusSettings
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason, ExperimentState
from incl_shared.subjects import SYSTEM_PROJECT
from incl_shared.testing.wait import until
from incl_tracker import tables as t
from incl_tracker.app import App, create_app
from incl_tracker.settings import TrackerSettings

Start = Callable[[], Awaitable[App]]
Copy = dict[str, list[dict[str, Any]]]


@pytest.fixture
async def start(bus_settings: BusSettings, migrated_url: str) -> AsyncIterator[Start]:
    """Starts trackers, one after the other; stops them at the end."""
    apps: list[App] = []

    async def begin() -> App:
        settings = TrackerSettings(database_url=migrated_url, bus=bus_settings, ops_port=0, lease_s=1.0)
        app = create_app(settings)
        await app.start()
        apps.append(app)
        return app

    yield begin
    for app in apps:
        await app.stop()


@pytest.fixture
def engine(migrated_url: str) -> Any:
    made = sa.create_engine(migrated_url)
    yield made
    made.dispose()


def copy(engine: sa.Engine) -> Copy:
    with engine.connect() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
            for table in t.metadata.sorted_tables
        }


def put_back(engine: sa.Engine, rows: Copy) -> None:
    with engine.begin() as connection:
        for table in t.metadata.sorted_tables:
            connection.execute(sa.delete(table))
            if rows.get(table.name):
                connection.execute(sa.insert(table), rows[table.name])


class World:
    """One experiment: what is said of it, and what the tracker knows."""

    def __init__(self, client: BusClient, make: Any) -> None:
        self.client = client
        self.make = make
        self.experiment = new_id()
        self.version = 0

    async def tell(self, event: Event) -> None:
        self.version += 1
        await self.client.publish_event(event, project="default", version=self.version)

    async def queue(self) -> None:
        await self.tell(ExperimentQueued(experiment=self.experiment, user="ann", spec=ExperimentSpec(command=["x"])))

    async def finish(self) -> None:
        state, reason = ExperimentState.FINISHED, EndReason.COMPLETED
        await self.tell(ExperimentFinished(experiment=self.experiment, state=state, reason=reason, attempts=0))

    async def ship(self, first: int, last: int) -> None:
        """Points, record by record, under ids that are never used again."""
        for number in range(first, last + 1):
            batch = self.make.metric_batch("w", number, [(number, 1.0, {"acc": float(number)})])
            place = subjects.metrics("default", self.experiment, 1, 0)
            await self.client.publish_confirmed(place, msgspec.msgpack.encode(batch), message_id=new_id())

    async def known(self, state: ExperimentState, points: int) -> None:
        async def so() -> bool:
            try:
                view = await self.client.ask(GetExperiment(ref=self.experiment), project="default", user="ann")
            except InclError:
                return False
            return (view.row.state, view.points) == (state, points)

        await until(so, timeout=20)

    async def handled(self) -> None:
        """Until the bus has every acknowledgement."""
        js = self.client.jetstream()
        durables = (topology.TRACKER_EVENTS, topology.TRACKER_HISTORY, *topology.TRACKER_METRICS)

        async def so() -> bool:
            infos = [await js.consumer_info(durable.stream, durable.name) for durable in durables]
            return not any(info.num_ack_pending or info.num_pending for info in infos)

        await until(so, timeout=20)

    async def findings(self) -> list[Finding]:
        answer = await self.client.ask(TrackerStuck(), project=SYSTEM_PROJECT, user="admin")
        return [one for one in answer.findings if one.kind == "database.older"]


@pytest.fixture
def world(bus_client: BusClient, make: Any) -> World:
    return World(bus_client, make)


async def test_what_the_bus_has_is_applied_again_and_the_rest_is_told(
    start: Start, engine: sa.Engine, world: World
) -> None:
    app = await start()
    await world.queue()
    await world.ship(1, 5)
    await world.known(ExperimentState.QUEUED, 5)
    await world.handled()
    await app.stop()
    earlier = copy(engine)
    app = await start()
    assert await world.findings() == []
    await world.ship(6, 9)
    await world.finish()
    await world.known(ExperimentState.FINISHED, 9)
    await world.handled()
    await app.stop()
    put_back(engine, earlier)
    app = await start()
    await world.known(ExperimentState.FINISHED, 5)
    told = {(one.subject, one.severity) for one in await world.findings()}
    assert told == {("tracker EVENTS", "warning"), ("tracker METRICS", "error")}
    assert all("incl admin rebuild tracker" in one.hint for one in await world.findings())
    await world.ship(4, 9)  # as a shipper does that sees the watermark
    await world.known(ExperimentState.FINISHED, 9)
    query = GetPoints(experiment=world.experiment, metric="acc")
    page = await world.client.ask(query, project="default", user="ann")
    assert page.steps == tuple(range(1, 10))
    await world.handled()
    await app.stop()
    await start()
    assert await world.findings() == [], "told once"


async def test_an_empty_database_beside_an_old_bus(start: Start, engine: sa.Engine, world: World) -> None:
    empty = copy(engine)
    app = await start()
    await world.queue()
    await world.ship(1, 3)
    await world.known(ExperimentState.QUEUED, 3)
    await world.handled()
    await app.stop()
    put_back(engine, empty)
    await start()
    await world.known(ExperimentState.QUEUED, 0)
    assert {one.subject for one in await world.findings()} == {"tracker EVENTS", "tracker METRICS"}


async def test_nothing_is_told_of_what_is_as_it_should_be(start: Start, world: World) -> None:
    """Messages that nobody wants, that were buried, that were not handled yet, and a bus whose durables are new."""
    app = await start()
    await world.queue()
    await world.ship(1, 2)
    await world.known(ExperimentState.QUEUED, 2)
    client = world.client
    for subject in (subjects.event("default", "experiment", new_id()), subjects.metrics("default", new_id(), 1, 0)):
        await client.publish_confirmed(subject, b"poison", message_id=new_id())
    await until(lambda: client.last("DEAD", "incl.dead.EVENTS.tracker"), timeout=20)
    await client.publish_confirmed(subjects.event("default", "node", new_id()), b"{}", message_id=new_id())
    await world.handled()
    await app.stop()
    app = await start()
    assert await world.findings() == []
    await app.stop()
    await world.ship(3, 4)
    await world.finish()
    for durable in (topology.TRACKER_EVENTS, *topology.TRACKER_METRICS):
        await topology.recreate(client.jetstream(), durable)
    app = await start()
    assert await world.findings() == []
    await world.known(ExperimentState.FINISHED, 4)


async def test_a_database_from_before_positions_were_noted_is_taken_as_it_is(
    start: Start, engine: sa.Engine, world: World
) -> None:
    app = await start()
    await world.queue()
    await world.ship(1, 2)
    await world.known(ExperimentState.QUEUED, 2)
    await world.handled()
    await app.stop()
    with engine.begin() as connection:
        connection.execute(sa.delete(t.metadata.tables["positions"]))
    app = await start()
    assert await world.findings() == []
    await app.stop()
    await start()
    assert await world.findings() == []


async def test_a_message_that_came_alone_counts_as_much(start: Start, world: World) -> None:
    app = await start()
    await app.stop()
    for _ in range(2):  # two at a time: what is noted for them is what a message alone must go beyond
        await world.queue()
    await world.ship(1, 3)
    app = await start()
    await world.known(ExperimentState.QUEUED, 3)
    await world.handled()
    await world.finish()
    await world.known(ExperimentState.FINISHED, 3)
    await world.handled()
    await app.stop()
    await start()
    assert await world.findings() == []
