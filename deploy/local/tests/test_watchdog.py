"""Children that hang are killed and started again; pauses, slow starts and the dead are not its business."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from incl_local.bus import server_binary, wait_until_ready
from incl_local.processes import Identity
from incl_local.supervisor import Child, Supervisor
from incl_local.watchdog import Watchdog, greets, lives
from incl_shared.auth.server_config import prepare
from incl_shared.ops import OpsServer
from incl_shared.testing.nats import free_port
from incl_shared.testing.wait import until


class Scripted:
    """A child that answers or does not, and a clock."""

    def __init__(self) -> None:
        self.identity: Identity | None = Identity(1, 1.0)
        self.well = True
        self.kills = 0
        self.now = 0.0

    def kill(self) -> None:
        self.kills += 1
        self.identity = Identity(1 + self.kills, 1.0)

    async def answers(self) -> bool:
        return self.well


@pytest.fixture
def child() -> Scripted:
    return Scripted()


@pytest.fixture
def dog(child: Scripted) -> Watchdog:
    return Watchdog("child", child, child.answers, hung_s=60.0, every_s=5.0, clock=lambda: child.now)


async def looks(dog: Watchdog, child: Scripted, seconds: float, step: float = 5.0) -> None:
    until = child.now + seconds
    while child.now < until:
        child.now += step
        await dog.step()


async def test_who_gives_no_answer_for_long_is_killed_once(dog: Watchdog, child: Scripted) -> None:
    await looks(dog, child, 20)
    child.well = False
    await looks(dog, child, 55)
    assert child.kills == 0
    await looks(dog, child, 5)
    assert child.kills == 1
    await looks(dog, child, 600)
    assert child.kills == 1, "the next one has not answered yet: it starts"
    child.well = True
    await looks(dog, child, 5)
    child.well = False
    await looks(dog, child, 60)
    assert (child.kills, dog.killed) == (2, 2)


async def test_an_answer_in_between_begins_anew(dog: Watchdog, child: Scripted) -> None:
    for _ in range(5):
        child.well = True
        await looks(dog, child, 5)
        child.well = False
        await looks(dog, child, 50)
    assert child.kills == 0


async def test_a_pause_of_ours_is_nobody_s_silence(dog: Watchdog, child: Scripted) -> None:
    await looks(dog, child, 5)
    child.well = False
    await looks(dog, child, 3600, step=3600)
    await looks(dog, child, 30)
    assert child.kills == 0


async def test_between_two_processes_nobody_is_killed(dog: Watchdog, child: Scripted) -> None:
    await looks(dog, child, 5)
    child.well, child.identity = False, None
    await looks(dog, child, 600)
    assert child.kills == 0


async def test_a_bus_that_stands_still_is_started_again(tmp_path: Path) -> None:
    paths = prepare(tmp_path / "nats", port := free_port())
    log = tmp_path / "log"
    supervisor = Supervisor(Child("nats", [str(server_binary()), "-c", str(paths.config)], log), lambda: None)
    await supervisor.start()
    dog = Watchdog("nats", supervisor, lambda: greets("127.0.0.1", port), hung_s=0.2, every_s=0.05)
    try:
        await wait_until_ready(paths.ports_dir, lambda: supervisor.identity, log)
        assert await greets("127.0.0.1", port)
        watching = asyncio.create_task(dog.run())
        await until(lambda: dog._known is not None, what="it has answered")
        first = supervisor.identity
        assert first is not None
        os.kill(first.pid, signal.SIGSTOP)
        await until(lambda: supervisor.restarts == 1 and supervisor.identity is not None, 30, what="another one runs")
        await until(lambda: greets("127.0.0.1", port), 30, what="it answers")
        assert not first.alive()
        watching.cancel()
    finally:
        await supervisor.stop()


@pytest.fixture
async def ops() -> AsyncIterator[OpsServer]:
    server = OpsServer(0)
    await server.start()
    yield server
    await server.stop()


async def test_who_lives_says_so(ops: OpsServer) -> None:
    live = [True]
    ops.add("tracker", registry=CollectorRegistry(), live=lambda: live[0], ready=lambda: False)
    url = f"http://127.0.0.1:{ops.port}"
    assert await lives(url, "tracker"), "not being ready is no reason to be killed"
    live[0] = False
    assert not await lives(url, "tracker")
    assert not await lives(f"http://127.0.0.1:{free_port()}", "tracker")
    assert not await greets("127.0.0.1", ops.port)
