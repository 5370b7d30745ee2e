"""What is left over is seen: in databases, in folders, and in the process table."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from incl_shared import leases
from incl_shared.bus import topology
from incl_shared.bus.client import BusClient
from incl_shared.bus.tables import outbox
from incl_shared.db import Database, Transaction, insert_ignore
from incl_shared.holders import own_holder
from incl_shared.settings import BusSettings
from incl_shared.testing.invariants import Leftover, collect


def _unsent(tx: Transaction) -> None:
    row = {"event_id": "e1", "subject": "incl.event.p.experiment.x", "payload": b"{}", "headers": "{}", "created": 1.0}
    tx.connection.execute(insert_ignore(tx.connection, outbox), row)


def a_dead_holder() -> str:
    machine, _, _, rest = own_holder().split(":")
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return f"{machine}:{child.pid}:12345:{rest}"


async def test_a_message_that_waits_and_who_has_it(bus_settings: BusSettings) -> None:
    async with await BusClient.connect(bus_settings) as client:
        assert await collect.waiting_messages(client) == []
        await client.publish_confirmed("incl.report.n1", b"{}", message_id="m")
        (unknown,) = await collect.waiting_messages(client)
        assert unknown.what == "1 in REPORTS (no durable waits for them)"
        await topology.ensure_all(client.jetstream(), [topology.PROVISIONER_REPORTS])
        (waiting,) = await collect.waiting_messages(client)
        assert waiting.what == "1 in REPORTS (provisioner has 0 and waits for 1, redelivered 0)"


async def test_what_a_database_still_holds(database: Database) -> None:
    assert collect.database_leftovers("tracker", database.url) == []
    await database.write(_unsent)
    dead, living = a_dead_holder(), own_holder()
    for name, holder in (("one", dead), ("two", living), ("three", "local")):
        await database.write(lambda tx, name=name, holder=holder: leases.acquire(tx, name, holder, 60.0))  # type: ignore[misc]
    await database.write(lambda tx: leases.acquire(tx, "expired", dead, -1.0))
    unsent = Leftover("outbox", "1 events of tracker")
    assert collect.database_leftovers("tracker", database.url) == [
        unsent,
        Leftover("lease", f"one of tracker, by {dead}"),
    ]
    found = collect.database_leftovers("tracker", database.url, stopped=True)
    assert {left.what.split(" ")[0] for left in found if left.kind == "lease"} == {"one", "two", "three"}


def test_folders_and_credentials_that_should_be_gone(tmp_path: Path) -> None:
    assert collect.folder_leftovers(tmp_path / "jobs") == []
    (tmp_path / "jobs" / "x-1-0").mkdir(parents=True)
    (tmp_path / "creds").mkdir()
    (tmp_path / "nats" / "keys").mkdir(parents=True)
    for name in ("creds/tracker.creds", "nats/keys/a.seed", "jobs/x-1-0/job.creds"):
        (tmp_path / name).touch()
    assert collect.folder_leftovers(tmp_path / "jobs") == [Leftover("folder", "x-1-0")]
    found = collect.credential_leftovers(tmp_path, tmp_path / "creds")
    assert found == [Leftover("credential", "jobs/x-1-0/job.creds")]


def test_a_process_of_a_job_is_known_by_its_folder(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    assert collect.process_leftovers(jobs) == []
    words = [sys.executable, "-c", "print('up', flush=True); input()"]
    environment = {**os.environ, "INCL_OUTPUT_DIR": f"{jobs}/x-1-0/outputs"}
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        child.stdout.readline()
        (left,) = collect.process_leftovers(jobs)
        assert left.what.startswith(f"{child.pid}: ")
        child.kill()
    assert collect.process_leftovers(jobs) == []


async def test_waiting_ends_when_nothing_is_left_or_the_time_is_over() -> None:
    looks = [[Leftover("folder", "x")], []]

    async def look() -> list[Leftover]:
        return looks.pop(0)

    async def stuck() -> list[Leftover]:
        return [Leftover("folder", "y")]

    began = time.monotonic()
    assert await collect.when_quiet(look, 10.0) == ()
    assert await collect.when_quiet(stuck, 0.3) == (Leftover("folder", "y"),)
    assert time.monotonic() - began < 5
