"""BusClient on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import pytest

from incl_shared.bus import topology
from incl_shared.bus.client import BusClient
from incl_shared.bus.envelope import decode
from incl_shared.bus.errors import BackPressure, WrongSequence
from incl_shared.errors import ConflictError, DeniedError, InvalidInput, UnavailableError
from incl_shared.events import StopRequested
from incl_shared.ids import new_id
from incl_shared.queries import Answer, Query
from incl_shared.settings import BusSettings
from incl_shared.testing.nats import SMALL, NatsServer, ServerFactory, apply_topology, free_port
from incl_shared.testing.wait import until


class Echo(Answer):
    text: str


class Ask(Query[Echo]):
    service: ClassVar[str] = "echo"
    name: ClassVar[str] = "ask"
    answer: ClassVar[type[Answer]] = Echo


async def test_a_message_is_stored_once(bus_client: BusClient) -> None:
    subject = "incl.event.default.experiment.x"
    first = await bus_client.publish_confirmed(subject, b"one", message_id="m1")
    again = await bus_client.publish_confirmed(subject, b"one", message_id="m1")
    assert (first.stream, first.sequence, first.duplicate) == ("EVENTS", 1, False)
    assert (again.sequence, again.duplicate) == (1, True)
    stored = await bus_client.last("EVENTS", subject)
    assert stored is not None
    assert (stored.sequence, stored.payload) == (1, b"one")
    assert await bus_client.last("EVENTS", "incl.event.default.experiment.y") is None


async def test_a_request_carries_its_envelope(bus_client: BusClient) -> None:
    event = StopRequested(experiment=new_id(), reason="enough")
    ack = await bus_client.publish_event(event, project="default", user="ada", event_id="e1")
    assert ack.stream == "REQUESTS"
    stored = await bus_client.last("REQUESTS", f"incl.request.default.ada.stop.{event.experiment}")
    assert stored is not None
    said = decode(stored.headers)
    assert said is not None
    assert (said.id, said.type, said.subject) == ("e1", "StopRequested.v1", event.experiment)
    assert StopRequested.read(stored.payload) == event


async def test_a_write_that_expects_another_last_message_is_refused(bus_client: BusClient) -> None:
    subject = "incl.control.n1"
    first = await bus_client.publish_confirmed(subject, b"1", message_id="1", expected_sequence=0)
    await bus_client.publish_confirmed(subject, b"2", message_id="2", expected_sequence=first.sequence)
    with pytest.raises(WrongSequence):
        await bus_client.publish_confirmed(subject, b"3", message_id="3", expected_sequence=first.sequence)
    stored = await bus_client.last("CONTROL", subject)
    assert stored is not None
    assert stored.payload == b"2"


async def test_a_full_stream_says_so(bare_nats_server: NatsServer) -> None:
    async with await BusClient.connect(bare_nats_server.settings()) as client:
        await topology.apply(client.jetstream(), limits=replace(SMALL, metrics_bytes=200_000))
        with pytest.raises(BackPressure):
            for number in range(20):
                await client.publish_confirmed("incl.metrics.p.e.1.0", b"x" * 30_000, message_id=str(number))


async def test_a_message_that_is_too_large_is_refused_here(bus_client: BusClient) -> None:
    with pytest.raises(InvalidInput, match="larger"):
        await bus_client.publish_confirmed("incl.event.a.b.c", b"x" * 2_000_000, message_id="1")
    await bus_client.publish_confirmed("incl.event.a.b.c", b"x", message_id="2")


async def test_a_server_that_is_down_is_told_quickly() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(UnavailableError) as caught:
        await BusClient.connect(BusSettings(urls=(f"nats://127.0.0.1:{free_port()}",)))
    assert loop.time() - start < 2.5
    assert "incl up" in caught.value.hint


async def test_a_server_that_hangs_is_told_within_two_seconds(bare_nats_server: NatsServer) -> None:
    bare_nats_server.freeze()
    loop = asyncio.get_running_loop()
    start = loop.time()
    try:
        with pytest.raises(UnavailableError):
            await BusClient.connect(bare_nats_server.settings())
        assert loop.time() - start < 3
    finally:
        bare_nats_server.thaw()


async def test_a_question_is_answered_in_parts(bus_client: BusClient, bus_settings: BusSettings) -> None:
    async with await BusClient.connect(bus_settings) as service:

        async def serve(message: object) -> None:
            body = Echo(text="x" * 10_000).model_dump_json().encode()
            third = len(body) // 3
            parts = [body[:third], body[third : 2 * third], body[2 * third :]]
            for index, part in enumerate(parts):
                headers = {"Incl-Part": str(index)} | ({"Incl-More": "1"} if index < 2 else {})
                await service.connection.publish(message.reply, part, headers=headers)  # type: ignore[attr-defined]

        await service.connection.subscribe("incl.query.default.ada.echo.ask", cb=serve)
        await service.connection.flush()
        answer = await bus_client.ask(Ask(), project="default", user="ada")
        assert answer.text == "x" * 10_000


async def test_a_lost_part_is_no_answer(bus_client: BusClient, bus_settings: BusSettings) -> None:
    async with await BusClient.connect(bus_settings) as service:

        async def serve(message: object) -> None:
            for index in (0, 2):
                headers = {"Incl-Part": str(index)} | ({"Incl-More": "1"} if index < 2 else {})
                await service.connection.publish(message.reply, b"{}", headers=headers)  # type: ignore[attr-defined]

        await service.connection.subscribe("incl.query.default.ada.echo.ask", cb=serve)
        await service.connection.flush()
        with pytest.raises(UnavailableError):
            await bus_client.ask(Ask(), project="default", user="ada", timeout=0.5)


async def test_an_error_comes_back_as_itself(bus_client: BusClient, bus_settings: BusSettings) -> None:
    async with await BusClient.connect(bus_settings) as service:

        async def serve(message: object) -> None:
            envelope = ConflictError("busy", hint="wait").envelope()
            await service.connection.publish(
                message.reply,  # type: ignore[attr-defined]
                envelope.model_dump_json().encode(),
                headers={"Incl-Error": "1"},
            )

        await service.connection.subscribe("incl.query.default.ada.echo.ask", cb=serve)
        await service.connection.flush()
        with pytest.raises(ConflictError, match="busy") as caught:
            await bus_client.ask(Ask(), project="default", user="ada")
        assert caught.value.hint == "wait"


async def test_a_service_that_does_not_run_is_told_at_once(bus_client: BusClient) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(UnavailableError, match="echo"):
        await bus_client.ask(Ask(), project="default", user="ada", timeout=10)
    assert loop.time() - start < 2


async def serve_echo(settings: BusSettings) -> BusClient:
    service = await BusClient.connect(settings)

    async def serve(message: object) -> None:
        await service.connection.publish(message.reply, Echo(text="here").model_dump_json().encode())  # type: ignore[attr-defined]

    await service.connection.subscribe("incl.query.default.ada.echo.ask", cb=serve)
    await service.connection.flush()
    return service


async def test_a_service_that_is_started_again_is_waited_for_by_the_patient(
    bus_client: BusClient, bus_settings: BusSettings
) -> None:
    asked = asyncio.create_task(bus_client.ask(Ask(), project="default", user="ada", timeout=10, patience=10))
    async with await serve_echo(bus_settings):
        assert (await asked).text == "here"


async def test_after_a_restart_of_the_server_services_may_come_back_later_than_who_asks(
    nats_server: NatsServer,
) -> None:
    async with await BusClient.connect(nats_server.settings()) as client:
        nats_server.kill()
        await until(lambda: not client.connected)
        nats_server.start()
        await until(lambda: client.connected)
        asked = asyncio.create_task(client.ask(Ask(), project="default", user="ada", timeout=10))
        async with await serve_echo(nats_server.settings()):
            assert (await asked).text == "here"


async def test_a_restart_of_the_server_loses_and_doubles_nothing(nats_server: NatsServer) -> None:
    received: list[bytes] = []

    async def listen(subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        received.append(payload)

    async with await BusClient.connect(nats_server.settings()) as client:
        await client.subscribe("incl.event.p.experiment.*", listen)

        async def publish(number: int) -> None:
            await client.publish_confirmed(
                f"incl.event.p.experiment.{number % 7}", str(number).encode(), message_id=str(number), timeout=30
            )

        for number in range(20):
            await publish(number)
        sending = [asyncio.create_task(publish(number)) for number in range(20, 60)]
        nats_server.kill()
        await until(lambda: not client.connected)
        nats_server.start()
        await asyncio.gather(*sending)
        await publish(60)
        info = await client.jetstream().stream_info("EVENTS")
        assert info.state.messages == 61
        await until(lambda: b"60" in received, what="the subscription came back")
        assert client.reconnects >= 1


PERMISSIONS = """
authorization { users: [
  { user: a, password: a, permissions: { publish: ["$JS.API.>", "incl.event.>"], subscribe: ["_INBOX.>"] } }
  { user: b, password: b, permissions: { publish: ["incl.event.>"], subscribe: ["other.>"] } }
] }
"""


async def test_a_missing_permission_fails_at_once(nats_factory: ServerFactory) -> None:
    server = nats_factory(extra=PERMISSIONS)
    settings = BusSettings(urls=(f"nats://a:a@127.0.0.1:{server.port}",))
    await apply_topology(settings)
    loop = asyncio.get_running_loop()
    async with await BusClient.connect(settings) as client:
        await client.publish_confirmed("incl.event.p.experiment.e", b"1", message_id="1")
        start = loop.time()
        with pytest.raises(DeniedError, match=r"incl\.control\.n1"):
            await client.publish_confirmed("incl.control.n1", b"1", message_id="2")
        with pytest.raises(DeniedError):
            await client.ask(Ask(), project="default", user="ada")
        assert loop.time() - start < 2
    # who may not even listen on his inbox is told so too
    async with await BusClient.connect(BusSettings(urls=(f"nats://b:b@127.0.0.1:{server.port}",))) as client:
        start = loop.time()
        with pytest.raises(DeniedError):
            await client.publish_confirmed("incl.event.p.experiment.e", b"1", message_id="3")
        assert loop.time() - start < 2


async def test_a_wrong_password_is_denied_at_once(nats_factory: ServerFactory) -> None:
    server = nats_factory(extra=PERMISSIONS)
    with pytest.raises(DeniedError) as caught:
        await BusClient.connect(BusSettings(urls=(f"nats://a:wrong@127.0.0.1:{server.port}",)))
    assert "wrong" not in caught.value.message
