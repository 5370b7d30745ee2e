"""The bus on a disk that fills up, a real one: it refuses at once, says the next step, and goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from incl_local.diskwatch import LOOK_S, DiskWatch
from incl_shared.auth.names import Role
from incl_shared.bus.client import BusClient
from incl_shared.bus.errors import BackPressure
from incl_shared.errors import UnavailableError
from incl_shared.testing.disk import fill, small_disk
from incl_shared.testing.nats import SMALL
from incl_shared.testing.secure_nats import SecureNats

SIZE = 96 << 20


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[SecureNats]:
    with small_disk(tmp_path / "a small disk", SIZE) as disk:
        server = SecureNats(disk / "nats", reserved=SMALL.file_bytes)
        server.start()
        try:
            server.make_streams()
            yield server
        finally:
            server.stop()


def watch_of(server: SecureNats) -> DiskWatch:
    async def restart() -> None:
        await asyncio.to_thread(server.restart)

    def reload() -> None:
        assert server.process is not None
        server.process.send_signal(signal.SIGHUP)

    return DiskWatch(server.paths, server.folder / "nats.log", reload=reload, restart=restart)


async def say(client: BusClient, number: int, seconds: float = 5.0) -> float:
    """Seconds that it took to be stored, or to be refused."""
    began = time.monotonic()
    with contextlib.suppress(UnavailableError):
        await client.publish_confirmed("incl.report.n1", b"x" * 100_000, message_id=f"m{number}", timeout=seconds)
    return time.monotonic() - began


async def refused(client: BusClient, watch: DiskWatch) -> BackPressure:
    """Wait until the server has read its configuration and refuses."""
    for number in range(20):
        await watch.step()
        try:
            await client.publish_confirmed("incl.report.n1", b"", message_id=f"r{number}", timeout=5)
        except BackPressure as error:
            return error
        await asyncio.sleep(LOOK_S)
    raise AssertionError("the bus takes messages still")


async def taken(client: BusClient, watch: DiskWatch) -> None:
    """Wait until it takes messages again."""
    for _ in range(20):
        await watch.step()
        with contextlib.suppress(BackPressure):
            await client.publish_confirmed("incl.report.n1", b"second", message_id="second", timeout=10)
            return
        await asyncio.sleep(LOOK_S)
    raise AssertionError("the bus takes no messages still")


async def test_the_bus_refuses_before_its_disk_is_full_and_goes_on_when_there_is_room(bus: SecureNats) -> None:
    watch = watch_of(bus)
    async with await bus.service(Role.ADMIN) as client:
        await client.publish_confirmed("incl.report.n1", b"first", message_id="first")
        assert not await watch.step()
        ballast = fill(bus.folder.parent, leave=watch.least - (1 << 20))
        assert await watch.step()
        error = await refused(client, watch)
        assert "disk" in error.message and "make room" in error.hint
        assert await say(client, 1) < 1.0, "whoever publishes is told at once"
        assert (watch.refusing, watch.refused, watch.hit) == (True, 1, False)
        assert not await watch.step()
        ballast.unlink()
        assert await watch.step()
        await taken(client, watch)
        assert (client.reconnects, watch.refusing) == (0, False)


async def test_a_disk_that_filled_up_faster_than_that_costs_a_restart_and_nothing_else(bus: SecureNats) -> None:
    watch = watch_of(bus)
    async with await bus.service(Role.ADMIN) as client:
        ack = await client.publish_confirmed("incl.report.n1", b"first", message_id="first")
        ballast = fill(bus.folder.parent, leave=0)
        assert await say(client, 1, 2.0) > 1.9, "this is the fault that is mended: nobody is told"
        assert await watch.step() and watch.hit
        ballast.unlink()
        assert await watch.step() and not watch.hit
        await taken(client, watch)
        assert (ack.sequence, client.reconnects) == (1, 1)
        assert not await watch.step(), "an old complaint in the log is an old one"
