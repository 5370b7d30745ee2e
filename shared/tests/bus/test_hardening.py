"""One regression test for each fault of FastStream and nats-py that `hardening`, `connection` and `pull` close.

Each makes the fault's condition with a real server. When one passes with the upstream class in place of ours, the
patch can go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from faststream.nats.broker.broker import UNRECOVERABLE_CONNECT_ERRORS
from nats.js.api import ConsumerConfig
from nats.js.errors import NotFoundError

from incl_shared.bus import topology
from incl_shared.bus.client import BusClient
from incl_shared.bus.connection import HardenedClient, read_creds
from incl_shared.bus.deadletters import list_dead
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.runtime import Bus, BusOptions
from incl_shared.bus.topology import Durable
from incl_shared.errors import ConflictError, UnavailableError
from incl_shared.settings import BusSettings
from incl_shared.testing.nats import SMALL, NatsServer, ServerFactory, apply_topology
from incl_shared.testing.wait import until

OPTIONS = BusOptions(check_every=0.3, silence=12.0)
DURABLE = Durable("EVENTS", "probe", ("incl.event.default.experiment.*",), batch=10, ack_wait=10.0)


class Probe:
    """A service that notes what it gets."""

    def __init__(self, settings: BusSettings, options: BusOptions = OPTIONS) -> None:
        self.got: list[str] = []
        self.bus = Bus(settings, service="probe", options=options)
        self.bus.consume(DURABLE, self._handle, transactional=False)

    async def _handle(self, delivery: Delivery) -> None:
        self.got.append(delivery.payload.decode())

    @property
    def health(self) -> str:
        """What the only consumer says."""
        return self.bus.health().consumers[0].trouble


MakeProbe = Callable[..., Awaitable[Probe]]


@pytest.fixture
async def make_probe() -> AsyncIterator[MakeProbe]:
    made: list[Probe] = []

    async def make(settings: BusSettings, options: BusOptions = OPTIONS) -> Probe:
        probe = Probe(settings, options)
        await probe.bus.start()
        made.append(probe)
        await until(lambda: probe.bus.health().ready)
        return probe

    yield make
    for probe in made:
        await probe.bus.stop()


def _last_is(probe: Probe, text: str) -> bool:
    return probe.got[-1:] == [text]


async def say(settings: BusSettings, text: str) -> None:
    async with await BusClient.connect(settings, patient=True, timeout=10) as client:
        await client.publish_confirmed("incl.event.default.experiment.x", text.encode(), message_id=text, timeout=20)


async def test_fault_1_a_server_that_is_away_for_long(make_probe: MakeProbe, nats_server: NatsServer) -> None:
    """FastStream: beyond max_reconnect_attempts the client is closed and the fetch loop spins at 100 %."""
    probe = await make_probe(nats_server.settings())
    connection = probe.bus.client.connection
    assert connection.options["max_reconnect_attempts"] == -1
    connection.options["reconnect_time_wait"] = 0.01
    nats_server.kill()
    # past any limit: far more attempts than nats-py's default of 60 would take 2 minutes, so they are made to be many
    await until(lambda: not probe.bus.health().connected)
    pool = connection._server_pool
    for server in pool:
        server.reconnects = 10_000
    cpu, wall = time.process_time(), time.monotonic()
    await until(lambda: time.monotonic() - wall > 1.0)
    assert time.process_time() - cpu < 0.6, "it waits, it does not spin"
    assert not connection.is_closed
    assert not probe.bus.health().ready
    assert probe.bus.health().live, "a restart of the service would not help"
    await asyncio.to_thread(nats_server.start)
    await say(nats_server.settings(), "after")
    await until(lambda: probe.got == ["after"])
    await until(lambda: probe.bus.health().ready)


async def test_a_durable_that_is_looked_at_while_the_server_is_away(
    make_probe: MakeProbe, nats_server: NatsServer
) -> None:
    """The look is answered by the server that came back, before anybody knows that it is another connection.

    What was asked of the old connection will never come: only the next silence would tell.
    """
    probe = await make_probe(nats_server.settings(), BusOptions(check_every=60.0, silence=60.0))
    connection, looked = probe.bus.client.connection, 0
    [pull] = probe.bus._broker.pulls
    asked = connection.request

    async def request(*words: Any, **more: Any) -> Any:
        nonlocal looked
        looked += not connection.is_connected
        return await asked(*words, **more)

    connection.request = request  # type: ignore[method-assign]
    nats_server.kill()
    await until(lambda: not connection.is_connected)
    assert pull._loop is not None
    pull._loop._checked -= 100.0  # a minute is over
    pull.wake()
    await until(lambda: looked > 0)
    await asyncio.to_thread(nats_server.start)
    await say(nats_server.settings(), "after")
    await until(lambda: probe.got == ["after"], 10)


@pytest.mark.parametrize("options", [BusOptions(check_every=60, silence=60), BusOptions(check_every=0.3, silence=60)])
async def test_fault_2_a_durable_that_is_deleted(
    make_probe: MakeProbe, nats_server: NatsServer, options: BusOptions
) -> None:
    """FastStream: fetches from nothing, 5,000 requests a second, and nobody knows. Noticed by word, and by looking."""
    probe = await make_probe(nats_server.settings(), options)
    async with await BusClient.connect(nats_server.settings()) as client:
        await client.jetstream().delete_consumer("EVENTS", "probe")
    await say(nats_server.settings(), "after")
    await until(lambda: probe.got == ["after"], 5)
    assert probe.bus.health().ready


async def test_fault_2_a_stream_that_is_deleted(make_probe: MakeProbe, nats_server: NatsServer) -> None:
    """It is unhealthy with the reason, asks seldom, and goes on when the stream is there again."""
    probe = await make_probe(nats_server.settings())
    async with await BusClient.connect(nats_server.settings()) as client:
        js = client.jetstream()
        await js.delete_stream("EVENTS")
        await until(lambda: "stream not found" in probe.health, 5)
        assert not probe.bus.health().ready
        sent = probe.bus.client.connection.stats["out_msgs"]
        start = time.monotonic()
        await until(lambda: time.monotonic() - start > 1.0)
        assert probe.bus.client.connection.stats["out_msgs"] - sent < 20
        await topology.apply(js, limits=SMALL)
        await say(nats_server.settings(), "after")
        await until(lambda: probe.got == ["after"], 10)
        assert probe.bus.health().ready


async def test_fault_2_a_server_that_lost_its_data(
    make_probe: MakeProbe, nats_server: NatsServer, tmp_path: Path
) -> None:
    probe = await make_probe(nats_server.settings())
    nats_server.kill()
    (nats_server.folder / "jetstream").rename(tmp_path / "lost")
    await asyncio.to_thread(nats_server.start)
    await apply_topology(nats_server.settings())
    await say(nats_server.settings(), "after")
    await until(lambda: probe.got == ["after"], 10)


AUTH = """
authorization {{ users: [ {{ user: {user}, password: secret }}, {{ user: admin, password: admin }} ] }}
"""


async def test_fault_3_one_authorization_error_during_a_reconnect(
    make_probe: MakeProbe, nats_factory: ServerFactory
) -> None:
    """FastStream raises in nats-py's error callback: its reconnect task dies, and it never comes back."""
    assert "authorization violation" in UNRECOVERABLE_CONNECT_ERRORS, "the upstream fault that this is about"
    server = nats_factory(extra=AUTH.format(user="probe"))
    admin = BusSettings(urls=(f"nats://admin:admin@127.0.0.1:{server.port}",))
    await apply_topology(admin)
    probe = await make_probe(BusSettings(urls=(f"nats://probe:secret@127.0.0.1:{server.port}",)))
    server.reload(AUTH.format(user="another"))
    await until(lambda: not probe.bus.health().connected)
    await until(lambda: server.log.count("authentication error") >= 2, what="it tried, and was refused")
    server.reload(AUTH.format(user="probe"))
    await until(lambda: probe.bus.health().connected)
    await say(admin, "after")
    await until(lambda: probe.got == ["after"])


async def test_fault_3_an_error_line_of_the_server_does_not_close_the_client(nats_server: NatsServer) -> None:
    """nats-py closes for good on an expired credential; here it connects again (with the refreshed one)."""
    async with await BusClient.connect(nats_server.settings()) as client:
        assert isinstance(client.connection, HardenedClient)
        await client.connection._process_err("'User Authentication Expired'")
        await until(lambda: client.reconnects == 1)
        await client.publish_confirmed("incl.event.p.experiment.e", b"1", message_id="1")


async def test_closing_is_not_cancelled_by_a_wait_of_another(nats_server: NatsServer) -> None:
    """Who waits for the socket's end shares one future with nats-py's tasks: cancelling one of them cancels it."""
    client = await BusClient.connect(nats_server.settings())
    transport = client.connection._transport
    assert transport is not None
    other = asyncio.create_task(transport.wait_closed())
    await asyncio.sleep(0)
    other.cancel()
    await asyncio.wait([other])
    await client.close()
    assert not client.connected


async def test_fault_4_a_service_never_changes_a_stream(make_probe: MakeProbe, nats_server: NatsServer) -> None:
    """FastStream's declare=True overwrites the limits of a stream that is there."""
    async with await BusClient.connect(nats_server.settings()) as client:
        js = client.jetstream()
        before = (await js.stream_info("EVENTS")).config.as_dict()
        probe = await make_probe(nats_server.settings())
        await say(nats_server.settings(), "one")
        await until(lambda: probe.got == ["one"])
        assert (await js.stream_info("EVENTS")).config.as_dict() == before


async def test_fault_5_a_durable_that_drifted_is_mended(make_probe: MakeProbe, nats_server: NatsServer) -> None:
    """FastStream uses a durable that is there, whatever its configuration: a wrong filter loses messages silently."""
    async with await BusClient.connect(nats_server.settings()) as client:
        js = client.jetstream()
        wrong = ConsumerConfig(
            name="probe", durable_name="probe", filter_subjects=["incl.event.default.nothing.*"], ack_wait=1.0,
            max_deliver=2,
        )  # fmt: skip
        await js.add_consumer("EVENTS", wrong)
        probe = await make_probe(nats_server.settings())
        await say(nats_server.settings(), "one")
        await until(lambda: probe.got == ["one"])
        # and again, while it runs
        await js.add_consumer("EVENTS", wrong)
        await say(nats_server.settings(), "two")
        await until(lambda: probe.got == ["one", "two"], 5)
        info = await js.consumer_info("EVENTS", "probe")
        assert not topology.drifted(DURABLE, info.config)


async def test_a_message_larger_than_a_batch_holds_nobody_up(nats_server: NatsServer, bus_client: BusClient) -> None:
    """The server gives nothing more of a durable whose next message is larger than what was asked for."""
    got: list[int] = []

    async def handle(delivery: Delivery) -> None:
        got.append(len(delivery.payload))

    bus = Bus(nats_server.settings(), service="probe", options=OPTIONS)
    bus.consume(replace(DURABLE, batch_bytes=1000), handle, transactional=False)
    await bus.start()
    try:
        for number, size in enumerate((10, 5000, 20, 6000, 30)):
            subject = f"incl.event.default.experiment.e{number}"
            await bus_client.publish_confirmed(subject, b"x" * size, message_id=f"m{number}")
        await until(lambda: got == [10, 5000, 20, 6000, 30], 10, what="all of them")
    finally:
        await bus.stop()


async def test_part_of_a_batch_is_handled_at_once(make_probe: MakeProbe, nats_server: NatsServer) -> None:
    """FastStream 0.7.8 waits for a whole batch until its timeout."""
    probe = await make_probe(nats_server.settings())
    async with await BusClient.connect(nats_server.settings()) as client:
        start = time.monotonic()
        for number in range(5):
            text = str(number)
            await client.publish_confirmed("incl.event.default.experiment.x", text.encode(), message_id=text)
            await until(partial(_last_is, probe, text))
        assert time.monotonic() - start < 2


async def test_what_was_fetched_and_not_begun_is_given_back(nats_server: NatsServer) -> None:
    """Else another replica would wait for it until ack_wait is over (30 s)."""
    entered, go, handled = asyncio.Event(), asyncio.Event(), set[str]()

    async def stuck(delivery: Delivery) -> None:
        entered.set()
        await go.wait()
        handled.add(delivery.payload.decode())

    settings = nats_server.settings()
    async with await BusClient.connect(settings) as client:
        for number in range(20):
            text = str(number)
            await client.publish_confirmed("incl.event.default.experiment.x", text.encode(), message_id=text)
        bus = Bus(settings, service="probe", options=OPTIONS)
        bus.consume(DURABLE, stuck, transactional=False)
        await bus.start()
        await entered.wait()
        stopping = asyncio.create_task(bus.stop())
        await until(lambda: not bus.health().started)
        go.set()
        await stopping
        probe = Probe(settings)
        await probe.bus.start()
        try:
            await until(lambda: len({*handled, *probe.got}) == 20, 5)
        finally:
            await probe.bus.stop()


async def test_a_stop_under_load_leaves_nothing_behind(nats_server: NatsServer) -> None:
    """FastStream drops silently what it is given while it stops: it would come again only after ack_wait."""
    settings, total = nats_server.settings(), 300
    first, second = Probe(settings), Probe(settings)

    async def publish(client: BusClient) -> None:
        for number in range(total):
            text = str(number)
            await client.publish_confirmed("incl.event.default.experiment.x", text.encode(), message_id=text)

    async with await BusClient.connect(settings) as client:
        publishing = asyncio.create_task(publish(client))
        await first.bus.start()
        await until(lambda: len(first.got) > 50)
        await first.bus.stop()
        await second.bus.start()
        started = time.monotonic()
        try:
            await publishing
            await until(lambda: len({*first.got, *second.got}) == total, 20)
        finally:
            await second.bus.stop()
        assert time.monotonic() - started < DURABLE.ack_wait - 2


async def test_a_flush_does_not_overtake_what_was_sent_before() -> None:
    """nats-py writes PING at once and a subscription later: who trusts its flush misses what is said next."""
    said: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"headers":true}\r\n')
        while line := await reader.readline():
            said.append(line.split()[0])
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = await BusClient.connect(BusSettings(urls=(f"nats://127.0.0.1:{port}",)))
    try:
        await client.connection.flush()
        said.clear()
        await client.connection.subscribe("x")
        await client.connection.flush()
        assert said == [b"SUB", b"PING"]
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


async def test_a_service_that_cannot_connect_says_so(nats_server: NatsServer) -> None:
    nats_server.kill()
    bus = Bus(nats_server.settings(), service="probe", options=BusOptions(connect_timeout=0.3))
    with pytest.raises(UnavailableError):
        await bus.start()


async def test_a_service_waits_for_its_server(nats_server: NatsServer) -> None:
    nats_server.kill()
    probe = Probe(nats_server.settings())
    starting = asyncio.create_task(probe.bus.start())
    await asyncio.to_thread(nats_server.start)
    await starting
    await probe.bus.stop()


async def test_topology_is_idempotent_and_refuses_to_lose(bare_nats_server: NatsServer) -> None:
    async with await BusClient.connect(bare_nats_server.settings()) as client:
        js = client.jetstream()
        done = await topology.apply(js, limits=SMALL)
        assert len(done.created) == 8
        again = await topology.apply(js, limits=SMALL)
        assert (again.created, again.updated) == ([], [])
        grown = await topology.apply(js, limits=replace(SMALL, metrics_bytes=64 << 20))
        assert grown.updated == ["METRICS"]
        for number in range(10):
            await client.publish_confirmed("incl.logs.p.e.1.0", b"x" * 100_000, message_id=str(number))
            await client.publish_confirmed("incl.event.p.experiment.e", b"x", message_id=str(number))
        with pytest.raises(ConflictError, match="LOGS"):
            await topology.apply(js, limits=replace(SMALL, logs_bytes=200_000))
        with pytest.raises(ConflictError, match="EVENTS"):
            await topology.apply(js, limits=replace(SMALL, events_age_s=60.0))
        with pytest.raises(UnavailableError, match="EVENTS"):
            await topology.apply(js, limits=replace(SMALL, events_bytes=1 << 40))


async def test_dead_letters_capture_the_servers_advisories(nats_server: NatsServer) -> None:
    async with await BusClient.connect(nats_server.settings()) as client:
        js = client.jetstream()
        config = ConsumerConfig(durable_name="once", max_deliver=1, ack_wait=0.1, filter_subject="incl.event.>")
        await js.add_consumer("EVENTS", config)
        await client.publish_confirmed("incl.event.p.experiment.e", b"lost", message_id="1")
        subscription = await js.pull_subscribe_bind("once", stream="EVENTS")
        await subscription.fetch(1)

        async def advised() -> bool:
            return (await js.stream_info("DEAD")).state.messages > 0

        await until(advised, 10)
        (letter,) = await list_dead(client)
        assert (letter.type, letter.stream, letter.durable) == ("advisory", "EVENTS", "once")


def test_a_credentials_file_is_read() -> None:
    text = (
        "-----BEGIN NATS USER JWT-----\neyJhbGciOi\n------END NATS USER JWT------\n\n"
        "-----BEGIN USER NKEY SEED-----\nSUAA\n------END USER NKEY SEED------\n"
    )
    assert read_creds(text) == ("eyJhbGciOi", "SUAA")
    with pytest.raises(ValueError, match="credentials"):
        read_creds("nothing")


async def test_a_durable_of_a_missing_stream_is_not_found(bare_nats_server: NatsServer) -> None:
    async with await BusClient.connect(bare_nats_server.settings()) as client:
        with pytest.raises(NotFoundError):
            await topology.ensure_durable(client.jetstream(), DURABLE)
