"""A bus that is lost, or comes back as an older copy, has again what the services' outboxes told it before."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from incl_shared.bus import kept
from incl_shared.bus import tables as t
from incl_shared.bus.client import BusClient
from incl_shared.bus.topology import DURABLES, EVENTS, ensure_all
from incl_shared.db import Database, Transaction
from incl_shared.events import ExperimentWaiting
from incl_shared.ids import new_id
from incl_shared.settings import BusSettings
from incl_shared.testing.bus import BusFactory
from incl_shared.testing.nats import NatsServer, apply_topology
from incl_shared.testing.wait import until

EXPERIMENT = new_id()


def emit(*versions: int) -> Callable[[Transaction], None]:
    def write(tx: Transaction) -> None:
        for version in versions:
            event = ExperimentWaiting(experiment=EXPERIMENT, reason=str(version))
            tx.emit(event, project="default", version=version)

    return write


async def on_the_bus(settings: BusSettings) -> list[str]:
    """The reasons of the events in EVENTS, in their order."""
    found = []
    async with await BusClient.connect(settings, timeout=10, patient=True) as client:
        last = (await client.jetstream().stream_info(EVENTS)).state.last_seq
        for sequence in range(1, last + 1):
            stored = await client.at(EVENTS, sequence)
            assert stored is not None
            found.append(ExperimentWaiting.model_validate_json(stored.payload).reason)
    return found


async def rows(database: Database) -> tuple[int, int]:
    """How many events wait, and how many are kept."""
    return await database.read(
        lambda c: (
            c.execute(sa.select(sa.func.count()).select_from(t.outbox)).scalar_one(),
            c.execute(sa.select(sa.func.count()).select_from(t.sent)).scalar_one(),
        )
    )


async def settled(database: Database, wanted: tuple[int, int]) -> None:
    async def there() -> bool:
        return await rows(database) == wanted

    await until(there, what=f"{wanted} events wait and are kept")


async def has(settings: BusSettings, reason: str) -> bool:
    return reason in await on_the_bus(settings)


async def restarted(server: NatsServer, change: Callable[[], object]) -> None:
    await asyncio.to_thread(server.stop)
    change()
    await asyncio.to_thread(server.start)
    await apply_topology(server.settings("topology"))


async def test_a_lost_bus_is_filled_again_in_order(
    database: Database, bus_factory: BusFactory, nats_server: NatsServer, bus_settings: BusSettings
) -> None:
    bus = await bus_factory("provisioner", database=database)
    await database.write(emit(1, 2, 3))
    await settled(database, (0, 3))
    assert await on_the_bus(bus_settings) == ["1", "2", "3"]
    await restarted(nats_server, lambda: shutil.rmtree(nats_server.folder / "jetstream"))
    await database.write(emit(4))
    for reason in ("3", "4"):
        await until(lambda reason=reason: has(bus_settings, reason))
    await settled(database, (0, 4))
    said = await on_the_bus(bus_settings)
    assert sorted(said) == ["1", "2", "3", "4"]
    assert [reason for reason in said if reason != "4"] == ["1", "2", "3"], "what was under way may be before them"
    assert bus.metrics.resent._value.get() in (3, 4)


async def test_an_older_copy_of_the_bus_gets_what_it_lacks(
    database: Database, bus_factory: BusFactory, nats_server: NatsServer, bus_settings: BusSettings
) -> None:
    store, copy = nats_server.folder / "jetstream", nats_server.folder / "copy"
    await bus_factory("provisioner", database=database)
    await database.write(emit(1, 2))
    await settled(database, (0, 2))
    await restarted(nats_server, lambda: shutil.copytree(store, copy))
    await database.write(emit(3))
    await settled(database, (0, 3))

    def back() -> None:
        shutil.rmtree(store)
        copy.rename(store)

    await restarted(nats_server, back)
    await until(lambda: has(bus_settings, "3"))
    await settled(database, (0, 3))
    said = await on_the_bus(bus_settings)
    assert said[:2] == ["1", "2"]
    assert said[-1] == "3"


async def test_a_bus_that_kept_all_is_sent_nothing_again(
    database: Database, bus_factory: BusFactory, nats_server: NatsServer, bus_settings: BusSettings
) -> None:
    bus = await bus_factory("provisioner", database=database)
    await database.write(emit(1, 2))
    await settled(database, (0, 2))
    await restarted(nats_server, lambda: None)
    await database.write(emit(3))
    await settled(database, (0, 3))
    assert await on_the_bus(bus_settings) == ["1", "2", "3"]
    assert bus.metrics.resent._value.get() == 0


async def test_what_is_old_goes_once_every_consumer_has_handled_it(
    database: Database, bus_factory: BusFactory, bus_client: BusClient
) -> None:
    await bus_factory("provisioner", database=database)
    await database.write(emit(1, 2))
    await settled(database, (0, 2))
    js = bus_client.jetstream()
    assert await kept.handled(js) == 0
    await ensure_all(js, [durable for durable in DURABLES if durable.stream == EVENTS])
    assert await kept.handled(js) == 0, "the tracker has handled nothing"
    assert await database.write(lambda tx: kept.sweep(tx, 0, kept_s=0.0)) == 0
    pull = await js.pull_subscribe_bind("tracker", EVENTS)
    first, second = await pull.fetch(2)
    await first.ack_sync()
    assert await kept.handled(js) == 0, "the registry has handled nothing"
    for name in ("registry", "tracker-history", "hpo"):
        for message in await (await js.pull_subscribe_bind(name, EVENTS)).fetch(2):
            await message.ack_sync()
    floor = await kept.handled(js)
    assert floor == first.metadata.sequence.stream
    assert await database.write(lambda tx: kept.sweep(tx, floor, kept_s=0.0)) == 1
    await second.ack_sync()
    assert await kept.handled(js) == kept.NOBODY
    assert await database.write(lambda tx: kept.sweep(tx, kept.NOBODY)) == 0, "a day is not over"
    assert await database.write(lambda tx: kept.sweep(tx, kept.NOBODY, kept_s=0.0)) == 1


@pytest.mark.parametrize("waiting", [True, False])
async def test_what_waits_in_the_outbox_is_not_doubled(database: Database, waiting: bool) -> None:
    await database.write(emit(1))

    def move(tx: Transaction) -> int:
        row = tx.connection.execute(sa.select(t.outbox)).mappings().one()
        values = dict(row) | {"stream": EVENTS, "at": 7, "sent": 1.0}
        tx.connection.execute(sa.insert(t.sent).values(values))
        if not waiting:
            tx.connection.execute(sa.delete(t.outbox))
        return kept.send_again(tx)

    assert await database.write(move) == 1
    assert await rows(database) == (1, 0)
