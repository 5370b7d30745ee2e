"""What `incl admin stuck` sees by itself: a bus without services, streams that are full, durables that are gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from incl_cli.stuck import look
from incl_shared.auth.names import Role
from incl_shared.bus import topology
from incl_shared.bus.client import BusClient
from incl_shared.bus.findings import serve_stuck
from incl_shared.bus.runtime import Bus
from incl_shared.errors import InclError, UnavailableError
from incl_shared.events import ExperimentWaiting
from incl_shared.ids import new_id
from incl_shared.queries.stuck import Finding, GatewayStuck
from incl_shared.testing.secure_nats import SecureNats


def administrator(server: SecureNats):  # type: ignore[no-untyped-def]  # noqa: ANN201
    @asynccontextmanager
    async def connect() -> AsyncIterator[BusClient]:
        async with await server.service(Role.ADMIN) as client:
            yield client

    return connect


async def kinds(server: SecureNats, after_s: float | None = None) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for one in (await look(administrator(server), None, after_s)).findings:
        found.setdefault(one.kind, []).append(one)
    return found


async def test_services_that_are_down_and_what_waits_for_them(secure_nats: SecureNats) -> None:
    async with await secure_nats.service(Role.ADMIN) as client:
        await topology.ensure_all(client.jetstream(), topology.DURABLES)
        event = ExperimentWaiting(experiment=new_id(), reason="x")
        await client.publish_event(event, project="default")
        found = await kinds(secure_nats)
        silent = {one.subject for one in found["service.silent"]}
        assert silent == {"provisioner", "tracker", "registry", "gateway", "hpo"}
        assert {one.subject for one in found["durable.unread"]} == {
            "EVENTS/tracker",
            "EVENTS/tracker-history",
            "EVENTS/registry",
            "EVENTS/hpo",
        }
        await client.jetstream().delete_consumer("EVENTS", "tracker")
        found = await kinds(secure_nats)
        assert [one.subject for one in found["durable.missing"]] == ["EVENTS/tracker"]


async def test_streams_that_are_full_or_gone(secure_nats: SecureNats) -> None:
    async with await secure_nats.service(Role.ADMIN) as client:
        js = client.jetstream()
        config = (await js.stream_info("REQUESTS")).config
        await js.update_stream(config.evolve(max_bytes=10_000))
        for number in range(8):
            subject = f"incl.request.default.ann.experiment.{new_id()}"
            await client.publish_confirmed(subject, b"x" * 1000, message_id=str(number))
        (nearly,) = (await kinds(secure_nats))["stream.nearly-full"]
        assert (nearly.subject, nearly.severity) == ("stream REQUESTS", "warning")
        try:
            for number in range(8, 20):
                subject = f"incl.request.default.ann.experiment.{new_id()}"
                await client.publish_confirmed(subject, b"x" * 300, message_id=str(number))
        except InclError:
            pass
        (full,) = (await kinds(secure_nats))["stream.full"]
        assert (full.subject, full.severity) == ("stream REQUESTS", "error")
        await js.delete_stream("LIVE")
        assert [one.subject for one in (await kinds(secure_nats))["stream.missing"]] == ["stream LIVE"]


async def test_a_service_that_fails_to_answer(secure_nats: SecureNats) -> None:
    """Whatever becomes of one, the others are told of."""

    async def broken(_: GatewayStuck) -> list[Finding]:
        raise KeyError("a fault")

    bus = Bus(secure_nats.settings_of(secure_nats.minter.service(Role.GATEWAY)), service="gateway")
    bus.serve(GatewayStuck, lambda _, query: broken(query))  # type: ignore[arg-type,return-value]
    await bus.start()
    try:
        found = await kinds(secure_nats)
        assert [one.subject for one in found["service.failing"]] == ["gateway"]
        assert len(found["service.silent"]) == 4
    finally:
        await bus.stop()


async def test_a_service_without_a_database(secure_nats: SecureNats) -> None:
    bus = Bus(secure_nats.settings_of(secure_nats.minter.service(Role.GATEWAY)), service="gateway")
    serve_stuck(bus, GatewayStuck)
    await bus.start()
    try:
        assert "gateway" not in {one.subject for one in (await kinds(secure_nats))["service.silent"]}
    finally:
        await bus.stop()


async def test_no_bus_at_all(tmp_path: Path) -> None:
    @asynccontextmanager
    async def connect() -> AsyncIterator[BusClient]:
        raise UnavailableError("the platform does not answer", cause="refused", hint="incl up")
        yield

    found = await look(connect, tmp_path)
    assert [one.kind for one in found.findings] == ["platform.down"]  # which says why there is no bus
    assert found.stuck == 1
