"""kill -9, again and again: every effect and every consequence exactly once.

A worker process consumes requests, counts them and emits a consequence of each; it and the server are killed at
arbitrary moments. In the end each request has one effect row and one event on the bus.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from incl_shared.bus.client import BusClient
from incl_shared.bus.tables import outbox
from incl_shared.bus.topology import DURABLES, LOGS, METRICS
from incl_shared.db import make_engine
from incl_shared.events import StopRequested
from incl_shared.ids import new_id
from incl_shared.settings import BusSettings
from incl_shared.testing.db import create_tables
from incl_shared.testing.nats import NatsServer
from incl_shared.testing.wait import until

REQUESTS = 200
KILLS = 4

WORKER = """
import asyncio, sys
from dataclasses import replace
import sqlalchemy as sa
from incl_shared.bus.runtime import Bus
from incl_shared.bus.topology import PROVISIONER_REQUESTS
from incl_shared.db import Database
from incl_shared.events import ExperimentStopping
from incl_shared.settings import BusSettings

url, nats = sys.argv[1:]
effects = sa.Table("effects", sa.MetaData(), sa.Column("experiment", sa.String(26)))

def handle(tx, delivery):
    event = delivery.event()
    tx.connection.execute(sa.insert(effects).values(experiment=event.experiment))
    consequence = ExperimentStopping(experiment=event.experiment, by="ada")
    tx.emit(consequence, project="default", version=1, cause=(delivery.id,))

async def main():
    database = Database(url)
    await database.start()
    bus = Bus(BusSettings(urls=(nats,)), service="provisioner", database=database)
    bus.consume(replace(PROVISIONER_REQUESTS, ack_wait=0.5), handle)
    await bus.start()
    print("up", flush=True)
    await asyncio.Event().wait()

sys.stdin.readline()
asyncio.run(main())
"""
effects_metadata = sa.MetaData()
effects = sa.Table("effects", effects_metadata, sa.Column("experiment", sa.String(26)))


class Workers:
    """One worker that runs, and the next one, imported and waiting: a kill costs no import."""

    def __init__(self, url: str, nats: str, log: Path) -> None:
        self._arguments = [sys.executable, "-c", WORKER, url, nats]
        self._log = log
        self._next = self._spawn()
        self._running: subprocess.Popen[bytes] | None = None

    def _spawn(self) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        with self._log.open("ab") as log:
            return subprocess.Popen(self._arguments, stdin=pipe, stdout=pipe, stderr=log, start_new_session=True)

    async def start(self) -> None:
        """Let the next one run; gives back once it consumes."""
        process, self._next = self._next, self._spawn()
        self._running = process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
        line = await asyncio.to_thread(process.stdout.readline)
        assert line == b"up\n", self._log.read_text()

    def kill(self) -> None:
        """kill -9 the one that runs."""
        process, self._running = self._running, None
        if process is not None:
            _kill(process)

    def close(self) -> None:
        """End both."""
        self.kill()
        _kill(self._next)


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


@pytest.fixture
def workers(database_url: str, nats_server: NatsServer, tmp_path: Path) -> Iterator[Workers]:
    create_tables(database_url, effects_metadata)
    made = Workers(database_url, nats_server.url, tmp_path / "worker.log")
    yield made
    made.close()


def counts(url: str) -> tuple[int, int, int]:
    """(effects, different effects, events in the outbox)."""
    engine = make_engine(url, write=False, size=1)
    try:
        with engine.connect() as connection:
            total = connection.execute(sa.select(sa.func.count()).select_from(effects)).scalar_one()
            query = sa.select(sa.func.count(sa.distinct(effects.c.experiment)))
            waiting = sa.select(sa.func.count()).select_from(outbox)
            return total, connection.execute(query).scalar_one(), connection.execute(waiting).scalar_one()
    finally:
        engine.dispose()


def _reached(url: str, goal: int) -> bool:
    return counts(url)[0] >= goal


async def test_effects_are_exactly_once_under_kill_9(
    workers: Workers, database_url: str, nats_server: NatsServer, bus_settings: BusSettings
) -> None:
    chance = random.Random(7)
    experiments = [new_id() for _ in range(REQUESTS)]

    async def publish(client: BusClient) -> None:
        for experiment in experiments:
            event = StopRequested(experiment=experiment)
            await client.publish_event(event, project="default", user="ada", event_id=experiment, timeout=60)

    async with await BusClient.connect(bus_settings, patient=True, timeout=20) as client:
        publishing = asyncio.create_task(publish(client))
        await workers.start()
        for kill in range(KILLS):
            goal = min(REQUESTS, counts(database_url)[0] + chance.randrange(1, REQUESTS // KILLS))
            await until(partial(_reached, database_url, goal), 30)
            if kill % 3 == 1:
                nats_server.kill()
                await asyncio.to_thread(nats_server.start)
            workers.kill()
            await workers.start()
        await publishing
        await until(lambda: counts(database_url) == (REQUESTS, REQUESTS, 0), 60, what="all handled, outbox empty")
        info = await client.jetstream().stream_info("EVENTS", subjects_filter="incl.event.>")
        assert info.state.messages == REQUESTS
        assert set(info.state.subjects or {}) == {f"incl.event.default.experiment.{x}" for x in experiments}


def test_what_a_killed_service_had_in_hand_comes_again_soon() -> None:
    """Telemetry's durables are made anew instead: what was in hand comes at once."""
    assert [d.name for d in DURABLES if d.stream not in (METRICS, LOGS) and d.ack_wait > 5] == []
