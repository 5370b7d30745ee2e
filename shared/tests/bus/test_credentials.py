"""The runtime under real credentials: operator mode, least privilege, expiry."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from incl_shared.auth.mint import Credential
from incl_shared.auth.names import Role
from incl_shared.bus.client import BusClient
from incl_shared.bus.deadletters import list_dead, replay
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.errors import Poison
from incl_shared.bus.runtime import Bus, BusOptions
from incl_shared.bus.topology import PROVISIONER_REQUESTS
from incl_shared.db import Database, Transaction
from incl_shared.errors import DeniedError
from incl_shared.events import ExperimentStopping, StopRequested
from incl_shared.ids import new_id
from incl_shared.settings import BusSettings
from incl_shared.testing.db import create_tables
from incl_shared.testing.secure_nats import SecureNats
from incl_shared.testing.wait import until


async def test_a_service_works_with_its_own_credential(secure_nats: SecureNats, sqlite_url: str) -> None:
    """Consume, emit, bury, be repaired: all with what the provisioner may."""
    create_tables(sqlite_url)
    database = Database(sqlite_url)
    await database.start()
    refuse = True

    def handler(tx: Transaction, delivery: Delivery) -> None:
        event = delivery.event()
        assert isinstance(event, StopRequested)
        if event.reason == "poison" and refuse:
            raise Poison("not now")
        stopping = ExperimentStopping(experiment=event.experiment, by="ada")
        tx.emit(stopping, project="default", version=1, cause=(delivery.id,))

    settings = secure_nats.settings_of(secure_nats.minter.service(Role.PROVISIONER))
    bus = Bus(settings, service="provisioner", database=database, options=BusOptions(check_every=0.2))
    bus.consume(PROVISIONER_REQUESTS, handler)
    await bus.start()
    person = await secure_nats.connect(secure_nats.minter.person("ada", ("default",), None))
    admin = await secure_nats.service(Role.ADMIN)
    try:
        good, bad, late = (StopRequested(experiment=new_id(), reason=r) for r in ("good", "poison", "late"))
        for event in (good, bad):
            await person.publish_event(event, project="default", user="ada")

        async def emitted(event: StopRequested) -> bool:
            return await admin.last("EVENTS", f"incl.event.default.experiment.{event.experiment}") is not None

        await until(lambda: emitted(good))

        async def buried() -> bool:
            return len(await list_dead(admin)) == 1

        await until(buried)
        refuse = False
        await replay(admin, (await list_dead(admin))[0].sequence)
        await until(lambda: emitted(bad))
        await admin.jetstream().delete_consumer("REQUESTS", "provisioner")
        await person.publish_event(late, project="default", user="ada")
        await until(lambda: emitted(late))
        assert bus.health().ready
        count = await database.read(lambda c: c.execute(sa.text("SELECT count(*) FROM inbox")).scalar_one())
        assert count == 3
    finally:
        await person.close()
        await admin.close()
        await bus.stop()
        await database.stop()


async def test_an_expired_credential_is_replaced_by_the_refreshed_one(secure_nats: SecureNats) -> None:
    """The server disconnects who has expired; nats-py would close for good."""
    minted: list[Credential] = []

    def fresh() -> tuple[str, str]:
        minted.append(secure_nats.minter.node("n1", ttl=2.0 if not minted else 60.0))
        return minted[-1].jwt, minted[-1].seed

    settings = secure_nats.settings_of(secure_nats.minter.node("n1"))
    async with await BusClient.connect(settings, credentials=fresh) as client:
        await client.publish_confirmed("incl.report.n1", b"1", message_id="n1:j:1")
        await until(lambda: client.reconnects >= 1, 10)
        await client.publish_confirmed("incl.report.n1", b"2", message_id="n1:j:2")
        assert len(minted) >= 2


@pytest.mark.parametrize(
    "text", [None, "nonsense", "-----BEGIN NATS USER JWT-----\nx\n-----BEGIN USER NKEY SEED-----\ny\n"]
)
async def test_a_credential_that_cannot_be_read_is_told_at_once(
    secure_nats: SecureNats, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "x.creds"
    if text is not None:
        path.write_text(text)
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(DeniedError, match="cannot be read"):
        await BusClient.connect(BusSettings(urls=(secure_nats.url,), creds=path))
    assert loop.time() - start < 1.5
