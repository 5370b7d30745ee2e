"""The services' bus under the services' own credentials: everything that it does is allowed, and is done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.js import JetStreamContext

from incl_shared.auth.names import Role
from incl_shared.bus import topology
from incl_shared.bus.deadletters import list_dead, replay
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.errors import Poison
from incl_shared.bus.runtime import Bus
from incl_shared.db import Database, Transaction
from incl_shared.events import AlertRaised, ExperimentWaiting
from incl_shared.events.base import Event
from incl_shared.ids import derived_id
from incl_shared.queries.gateway import Me, WhoAmI
from incl_shared.subjects import Asker
from incl_shared.testing.db import create_tables
from incl_shared.testing.secure_nats import SecureNats
from incl_shared.testing.wait import until

E1 = derived_id("one")
IN_PARTITION = {topology.partition_of(name): name for name in map(str, range(100))}
"""An experiment of each partition."""


@asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    create_tables(url)
    database = Database(url)
    await database.start()
    try:
        yield database
    finally:
        await database.stop()


@pytest.mark.parametrize("durable", topology.DURABLES, ids=lambda durable: f"{durable.stream}-{durable.name}")
async def test_a_service_reads_acknowledges_and_buries(
    secure_nats: SecureNats, tmp_path: Path, durable: topology.Durable
) -> None:
    handled: list[str] = []

    def handler(tx: Transaction, delivery: Delivery) -> None:
        if delivery.payload == b"poison":
            raise Poison("as asked")
        handled.append(delivery.subject)

    subjects = [_sent(durable, one) for one in durable.filters]
    async with opened(tmp_path) as database, await secure_nats.service(Role.ADMIN) as admin:
        credential = secure_nats.minter.service(Role(durable.service))
        bus = Bus(secure_nats.settings_of(credential), service=durable.service, database=database)
        bus.consume(durable, handler)
        await bus.start()
        try:
            for number, subject in enumerate(subjects):
                await _say(secure_nats, subject, b"good", f"good-{number}")
            await _say(secure_nats, subjects[0], b"poison", "poison")
            await until(lambda: sorted(handled) == sorted(subjects), timeout=10)
            letters = await until(lambda: list_dead(admin), timeout=10)
            await until(lambda: _settled(admin.jetstream(), durable), timeout=10)
        finally:
            await bus.stop()
        assert [(one.reason, one.durable, one.subject) for one in letters] == [("as asked", durable.name, subjects[0])]
        await replay(admin, letters[0].sequence)
        assert await list_dead(admin) == []


@pytest.mark.parametrize(
    ("role", "event"),
    [
        (Role.PROVISIONER, ExperimentWaiting(experiment=E1, reason="x")),
        (Role.TRACKER, AlertRaised(experiment=E1, attempt=1, rank=0, title="x")),
    ],
)
async def test_a_service_says_its_own_events_and_answers(
    secure_nats: SecureNats, tmp_path: Path, role: Role, event: Event
) -> None:
    async with opened(tmp_path) as database, await secure_nats.service(Role.ADMIN) as admin:
        bus = Bus(secure_nats.settings_of(secure_nats.minter.service(role)), service=str(role), database=database)
        await bus.start()
        try:
            await database.write(lambda tx: tx.emit(event, project="default", version=1))
            subject = f"incl.event.default.{event.aggregate}.{E1}"
            assert await until(lambda: admin.last("EVENTS", subject), timeout=10)
        finally:
            await bus.stop()


async def test_a_large_answer_reaches_a_person_whole(secure_nats: SecureNats) -> None:
    async def answer(asker: Asker, query: WhoAmI) -> Me:
        return Me(user=asker.user, projects=("x" * 1000,) * 1000)

    bus = Bus(secure_nats.settings_of(secure_nats.minter.service(Role.GATEWAY)), service="gateway")
    bus.serve(WhoAmI, answer)
    await bus.start()
    try:
        async with await secure_nats.connect(secure_nats.minter.person("ann", ("default",), 60)) as ann:
            me = await ann.ask(WhoAmI(), project="default", user="ann")
    finally:
        await bus.stop()
    assert me == Me(user="ann", projects=("x" * 1000,) * 1000)


def _sent(durable: topology.Durable, filtered: str) -> str:
    """A subject that comes to a durable with this filter; for a partition an experiment that the hash puts there."""
    if not durable.owner or filtered.endswith(">"):
        return filtered.replace("*", "x").replace(">", "default.experiment.x")
    _, kind, partition, *_ = filtered.split(".")
    return f"incl.{kind}.x.{IN_PARTITION[int(partition)]}.1.0"


async def _say(server: SecureNats, subject: str, payload: bytes, identifier: str) -> None:
    async with await server.service(Role.ADMIN) as admin:
        await admin.publish_confirmed(subject, payload, message_id=identifier)


async def _settled(js: JetStreamContext, durable: topology.Durable) -> bool:
    info = await js.consumer_info(durable.stream, durable.name)
    return (info.num_ack_pending, info.num_pending) == (0, 0)
