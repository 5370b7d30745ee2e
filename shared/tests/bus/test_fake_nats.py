"""What this project needs of JetStream: one suite, passed by the real server and by the one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nats.js.errors import NotFoundError

from incl_shared.bus import client as client_module
from incl_shared.bus.client import BusClient
from incl_shared.bus.errors import WrongSequence
from incl_shared.bus.pull import PullLoop, PullState
from incl_shared.bus.topology import CONTROL, PROVISIONER_EVENTS, PROVISIONER_REPORTS, Durable, recreate
from incl_shared.errors import UnavailableError
from incl_shared.queries.provisioner import GetCluster
from incl_shared.settings import BusSettings
from incl_shared.testing import virtual
from incl_shared.testing.fake_nats import FakeServer
from incl_shared.testing.nats import NatsServer, apply_topology
from incl_shared.testing.wait import until

Body = Callable[[BusClient], Awaitable[None]]
Run = Callable[[Body], None]
REPORTS = replace(PROVISIONER_REPORTS, ack_wait=0.5)
EVENTS = replace(PROVISIONER_EVENTS, ack_wait=0.5)


@pytest.fixture(params=["real", "fake"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the body of a test with a client of the one or the other."""
    if request.param == "real":
        return lambda body: asyncio.run(_real(body, tmp_path))

    async def fake(body: Body) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtual.VirtualLoop)
        server = FakeServer(loop)

        async def open_connection(_: BusSettings, callbacks: Any, **__: Any) -> Any:
            return await server.open(callbacks, "here", 2.0)

        monkeypatch.setattr(client_module, "open_connection", open_connection)
        async with await BusClient.connect(BusSettings()) as client:
            await body(client)

    return lambda body: virtual.run(fake(body))


async def _real(body: Body, folder: Path) -> None:
    server = NatsServer(folder)
    await asyncio.to_thread(server.start)
    try:
        await apply_topology(server.settings("topology"))
        async with await BusClient.connect(server.settings()) as client:
            await body(client)
    finally:
        await asyncio.to_thread(server.stop)


class Reader:
    """A durable, read by the real pull loop. `answer` says what becomes of each delivery."""

    def __init__(self, client: BusClient, durable: Durable, answer: Callable[[Any], Awaitable[None]]) -> None:
        self.seen: list[tuple[bytes, int]] = []
        self._answer = answer
        self._loop = PullLoop(client.connection, durable, self._take, state=PullState(durable))
        self._task = asyncio.create_task(self._loop.run())

    async def _take(self, messages: list[Any]) -> None:
        for message in messages:
            self.seen.append((message.data, message.metadata.num_delivered))
            await self._answer(message)

    async def stop(self) -> None:
        await self._loop.finish()
        await self._task


def test_a_message_id_is_taken_once(run: Run) -> None:
    async def body(client: BusClient) -> None:
        first = await client.publish_confirmed("incl.report.a", b"1", message_id="x")
        again = await client.publish_confirmed("incl.report.a", b"2", message_id="x")
        other = await client.publish_confirmed("incl.report.a", b"3", message_id="y")
        assert (first.sequence, first.duplicate) == (1, False)
        assert (again.sequence, again.duplicate) == (1, True)
        assert (other.sequence, other.duplicate) == (2, False)

    run(body)


def test_a_write_that_expects_another_last_message_fails(run: Run) -> None:
    async def body(client: BusClient) -> None:
        async def write(payload: bytes, expected: int) -> int:
            name = f"{payload!r}{expected}"
            ack = await client.publish_confirmed("incl.control.a", payload, message_id=name, expected_sequence=expected)
            return ack.sequence

        assert await write(b"1", 0) == 1
        with pytest.raises(WrongSequence):
            await write(b"1", 0)  # a repeat too: what is expected is looked at before the message id
        with pytest.raises(WrongSequence):
            await write(b"2", 0)
        assert await write(b"2", 1) == 2
        assert await client.publish_confirmed("incl.control.b", b"", message_id="b", expected_sequence=0)

    run(body)


def test_the_last_message_of_a_subject_is_read_directly(run: Run) -> None:
    async def body(client: BusClient) -> None:
        assert await client.last(CONTROL, "incl.control.a") is None
        for number in range(3):
            await client.publish_confirmed("incl.control.a", b"%d" % number, message_id=f"{number}")
        await client.publish_confirmed("incl.control.b", b"other", message_id="b")
        found = await client.last(CONTROL, "incl.control.a")
        assert found is not None
        assert (found.sequence, found.payload) == (3, b"2")

    run(body)


def test_what_is_not_acknowledged_comes_again_and_what_is_given_back_comes_later(run: Run) -> None:
    async def body(client: BusClient) -> None:
        async def answer(message: Any) -> None:
            if message.data == b"late" and message.metadata.num_delivered == 1:
                await message.nak(delay=0.3)
            elif message.data == b"poison":
                await message.term()
            elif message.data != b"silent" or message.metadata.num_delivered == 2:
                await message.ack()

        for payload in (b"silent", b"late", b"poison", b"good"):
            await client.publish_confirmed("incl.report.a", payload, message_id=payload.decode())
        reader = Reader(client, REPORTS, answer)
        wanted = {(b"silent", 1), (b"silent", 2), (b"late", 1), (b"late", 2), (b"poison", 1), (b"good", 1)}
        # the loop keeps what is in its hands alive; only what it has handed over comes again
        await until(lambda: set(reader.seen) == wanted, 10)
        await reader.stop()
        assert len(reader.seen) == len(wanted)

    run(body)


def test_a_durable_that_is_made_anew_reads_all_of_a_log_and_of_a_queue_what_is_left(run: Run) -> None:
    async def body(client: BusClient) -> None:
        async def answer(message: Any) -> None:
            await message.ack()

        subjects = ("incl.report.a", "incl.event.p.artifact.x")
        for subject in subjects:
            await client.publish_confirmed(subject, subject.encode(), message_id=subject)
        for durable, subject, times in ((REPORTS, subjects[0], 1), (EVENTS, subjects[1], 2)):
            reader = Reader(client, durable, answer)
            await until(lambda r=reader: r.seen, 10)
            await asyncio.sleep(0.1)
            await recreate(client.jetstream(), durable)
            await client.publish_confirmed(subject, b"new", message_id=f"{subject}-new")
            await until(lambda r=reader: (b"new", 1) in r.seen, 20)
            await reader.stop()
            assert reader.seen.count((subject.encode(), 1)) == times

    run(body)


def test_a_durable_that_is_not_there_is_not_found(run: Run) -> None:
    async def body(client: BusClient) -> None:
        with pytest.raises(NotFoundError):
            await client.jetstream().consumer_info("REPORTS", "nobody")

    run(body)


def test_core_messages_reach_all_subscribers_and_one_of_a_group(run: Run) -> None:
    async def body(client: BusClient) -> None:
        heard: list[str] = []

        def hear(name: str) -> Any:
            async def callback(_: str, __: bytes, ___: Any) -> None:
                heard.append(name)

            return callback

        await client.subscribe("incl.control.*", hear("all"))
        await client.subscribe("incl.control.a", hear("one"))
        for name in ("group", "group"):
            await client.subscribe("incl.control.>", hear(name), queue="q")
        await client.publish_confirmed("incl.control.a", b"", message_id="1")
        await until(lambda: sorted(heard) == ["all", "group", "one"], 5)

    run(body)


def test_a_question_that_nobody_hears_fails_at_once(run: Run) -> None:
    async def body(client: BusClient) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(UnavailableError):
            await client.ask(GetCluster(), project="p", user="u", timeout=30)
        assert loop.time() - began < 5

    run(body)
