"""The node fences itself: what it takes for being cut off, when it acts, and what becomes of the job."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from incl_agent.app import Agent, create_app
from incl_agent.fakes import FakePlatform
from incl_agent.fencing import Fence, Reach, probe
from incl_agent.settings import AgentSettings
from incl_shared.bus.client import BusClient
from incl_shared.reports import JobStarted, NodeHello
from incl_shared.states import EndReason
from incl_shared.testing.clock import FakeClock
from incl_shared.testing.nats import NatsServer, apply_topology, free_port
from incl_shared.testing.wait import until

LEASE = 30.0


class Net:
    """What the network says, and what the fence does."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.reach = Reach.CUT
        self.done: list[tuple[str, float]] = []
        self.fence = Fence(self.clock, self._ask, stop=self._stop, kill=lambda: self._did("kill"), renew=self._renew)
        self.fence.lease_s = LEASE

    async def _ask(self) -> Reach:
        return self.reach

    def _did(self, what: str) -> None:
        self.done.append((what, self.fence.silence_s))

    def _stop(self, why: str) -> None:
        assert "cut off" in why
        self._did("stop")

    async def _renew(self) -> None:
        self._did("renew")

    async def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.clock.advance(1)
            await self.fence.step()


async def test_a_cut_off_node_stops_and_kills_before_its_lease_is_over() -> None:
    net = Net()
    await net.pass_s(18)
    assert net.done == []
    await net.pass_s(60)
    assert [what for what, _ in net.done] == ["stop", "kill"]
    assert 0.6 * LEASE < net.done[0][1] < 0.75 * LEASE and net.done[1][1] < LEASE - 1


async def test_a_word_that_was_taken_counts_from_when_it_was_sent() -> None:
    net = Net()
    sent = net.clock.monotonic()
    net.clock.advance(15)
    net.fence.heard(sent)
    await net.pass_s(6)
    assert [what for what, _ in net.done] == ["stop"]


async def test_a_look_that_fails_is_counted_and_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    net.fence.lease_s = 0.3
    net.clock.advance(1)

    async def broken() -> Reach:
        raise RuntimeError("no network at all")

    monkeypatch.setattr(net.fence, "_ask", broken)
    running = asyncio.create_task(net.fence.run())
    await until(lambda: net.fence.failures > 1, 5, what="it is counted")
    monkeypatch.undo()
    await until(lambda: "kill" in [what for what, _ in net.done], 5, what="it acts")
    running.cancel()


async def test_a_bus_that_is_away_fences_nobody() -> None:
    net = Net()
    net.reach = Reach.DUMB
    await net.pass_s(600)
    assert net.done == []
    net.reach = Reach.CUT
    await net.pass_s(25)
    assert [what for what, _ in net.done] == ["stop"]


async def test_a_bus_that_is_there_and_hears_nothing_gets_a_new_connection() -> None:
    net = Net()
    net.reach = Reach.SPEAKS
    await net.pass_s(25)
    assert {what for what, _ in net.done} == {"renew"}


async def test_without_a_lease_nothing_is_fenced() -> None:
    net = Net()
    net.fence.lease_s = None
    await net.pass_s(600)
    assert net.done == []


async def test_what_an_address_says(bare_nats_server: NatsServer) -> None:
    nobody = f"nats://127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", 0)) as dumb:
        silent = f"nats://127.0.0.1:{dumb.getsockname()[1]}"
        assert await probe([bare_nats_server.url]) is Reach.SPEAKS
        assert await probe([nobody]) is Reach.DUMB
        assert await probe([silent], 0.2) is Reach.DUMB
        assert await probe([nobody, bare_nats_server.url.removeprefix("nats://")]) is Reach.SPEAKS


async def test_an_address_that_does_not_answer_is_cut_off() -> None:
    """A full backlog of a listener that accepts nobody: packets are dropped, as by a broken network."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address, callers = full.getsockname(), []
        with pytest.raises(TimeoutError):
            while len(callers) < 10:
                callers.append(socket.create_connection(address, timeout=0.2))
        assert await probe([f"nats://127.0.0.1:{address[1]}"], 0.3) is Reach.CUT
        for caller in callers:
            caller.close()


@pytest.fixture
async def own_nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "own nats")
    await asyncio.to_thread(server.start)
    await apply_topology(server.settings("topology"))
    yield server
    server.stop()


async def test_the_job_of_a_cut_off_node_is_lost_and_over_in_time(
    own_nats: NatsServer, agent_settings: AgentSettings
) -> None:
    settings = agent_settings.model_copy(update={"bus": own_nats.settings(), "heartbeat_s": 0.2})
    async with await BusClient.connect(own_nats.settings(), patient=True, timeout=10) as client:
        platform = FakePlatform(client, settings.node)
        platform.lease_s = 3.0
        await platform.start()
        agent = create_app(settings)
        await agent.start()
        try:
            await _cut_and_come_back(own_nats, agent, platform)
            await _an_older_list_begins_nothing(agent, platform)
        finally:
            own_nats.thaw()
            await agent.stop()
            await platform.stop()


async def _an_older_list_begins_nothing(agent: Agent, platform: FakePlatform) -> None:
    """What it names may have been given up meanwhile, and run elsewhere."""

    async def hellos() -> list[NodeHello]:
        return [report.body for report in await platform.reports() if isinstance(report.body, NodeHello)]

    async def anew() -> bool:
        return len({hello.life for hello in await hellos()}) > 1

    await until(anew, 10)
    first, *_, again = await hellos()
    control = agent._control
    assert control is not None
    platform.life = first.life
    old = platform.job("true")
    await platform.want(old)
    await until(lambda: control.generation == platform.generation, 10)
    platform.forget(old)
    platform.life = again.life
    new = platform.job("true")
    await platform.want(new)
    assert (await platform.ended(new)).reason is EndReason.COMPLETED
    assert not await platform.of(old)


async def _cut_and_come_back(server: NatsServer, agent: Agent, platform: FakePlatform) -> None:
    stubborn = platform.job("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    await platform.want(stubborn)
    await platform.said(stubborn, JobStarted)

    async def cut() -> Reach:
        return Reach.CUT

    assert agent.manager is not None
    life = next(iter(agent.manager._held.values())).life
    agent.fence._ask = cut
    server.freeze()
    began = time.monotonic()
    await until(lambda: life.over.is_set(), 6)
    assert time.monotonic() - began < 3.0
    assert life.files.exit() is not None and agent.fence.fenced == 1
    await until(lambda: agent.lease.over, 3)
    server.thaw()
    end = await platform.ended(stubborn)
    assert end.reason is EndReason.LOST and "cut off" in end.message and end.signal == 9
