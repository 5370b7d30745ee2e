"""Writes that wait together share a commit; each is still one of its own, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from incl_shared import db as module
from incl_shared.bus import envelope
from incl_shared.bus.tables import inbox
from incl_shared.db import Database, DatabaseUnavailable, Transaction
from incl_shared.events import ExperimentWaiting
from incl_shared.ids import new_id
from incl_shared.testing.db import create_tables
from incl_shared.testing.wait import until, until_sync


def put(tx: Transaction, name: str) -> None:
    tx.connection.execute(sa.insert(inbox).values(durable="d", message_id=name, seen=1.0))


async def stored(database: Database) -> list[str]:
    return await database.read(lambda c: sorted(c.execute(sa.select(inbox.c.message_id)).scalars()))


class Held:
    """The writer thread, held in a write until it is let go: what is written meanwhile waits together."""

    def __init__(self, database: Database) -> None:
        self._gate = threading.Event()
        self._inside = threading.Event()
        self._task = asyncio.ensure_future(database.write(self._wait))

    def _wait(self, tx: Transaction) -> None:
        self._inside.set()
        assert self._gate.wait(10)

    async def __aenter__(self) -> Held:
        await asyncio.to_thread(self._inside.wait, 10)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        for _turn in range(5):
            await asyncio.sleep(0)
        self._gate.set()
        await self._task


def counted(database: Database) -> list[str]:
    """Begins and commits of the writer, as they happen."""
    seen: list[str] = []
    engine = database._write_engine
    assert engine is not None
    sa.event.listen(engine, "commit", lambda _: seen.append("commit"))
    sa.event.listen(engine, "savepoint", lambda *_: seen.append("savepoint"))
    return seen


async def test_writes_that_wait_share_a_commit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_S", 60.0)  # a slow machine would take more than one commit
    seen = counted(database)
    async with Held(database):
        tasks = [asyncio.ensure_future(database.write(lambda tx, n=n: put(tx, f"{n:02}"))) for n in range(20)]  # type: ignore[misc]
    await asyncio.gather(*tasks)
    assert await stored(database) == [f"{n:02}" for n in range(20)]
    assert (seen.count("commit"), seen.count("savepoint")) == (2, 20)


async def test_a_single_write_has_no_savepoint(database: Database) -> None:
    seen = counted(database)
    await database.write(lambda tx: put(tx, "one"))
    assert seen == ["commit"]


async def test_one_that_raises_is_undone_alone(database: Database) -> None:
    called: list[str] = []
    traces: list[str | None] = []

    def work(tx: Transaction, name: str) -> str:
        traces.append(envelope.current_trace.get())
        put(tx, name)
        tx.emit(ExperimentWaiting(experiment=new_id(), reason="x"), project="default", version=1)
        tx.after_commit(lambda: called.append(name))
        if name == "fault":
            raise KeyError(name)
        if name == "statement":
            put(tx, "a")
        return name

    async def traced(name: str) -> str:
        envelope.current_trace.set(f"trace-{name}")
        return await database.write(lambda tx: work(tx, name))

    async with Held(database):
        tasks = [asyncio.ensure_future(traced(name)) for name in ("a", "fault", "b", "statement", "c")]
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[0::2] == ["a", "b", "c"]
    assert isinstance(answers[1], KeyError)
    assert isinstance(answers[3], sa.exc.IntegrityError)
    assert await stored(database) == ["a", "b", "c"]
    await until(lambda: called == ["a", "b", "c"])
    assert traces == [f"trace-{name}" for name in ("a", "fault", "b", "statement", "c")]


async def test_when_the_commit_fails_all_hear_it(database: Database) -> None:
    called: list[str] = []

    def work(tx: Transaction) -> None:
        put(tx, new_id())
        tx.after_commit(lambda: called.append("x"))

    commits = iter(("of the one held", "of the group"))

    def fail(_: sa.Connection) -> None:
        if next(commits, "of the group") == "of the group":
            raise DatabaseUnavailable("the disk is full")

    engine = database._write_engine
    assert engine is not None
    async with Held(database):
        tasks = [asyncio.ensure_future(database.write(work)) for _ in range(3)]
        await asyncio.sleep(0)
        sa.event.listen(engine, "commit", fail)
    for task in tasks:
        with pytest.raises(DatabaseUnavailable):
            await task
    sa.event.remove(engine, "commit", fail)
    assert await stored(database) == []
    assert called == []
    await database.write(lambda tx: put(tx, "after"))
    assert await stored(database) == ["after"]


async def test_an_outage_in_one_is_everybodys(database: Database) -> None:
    def away(tx: Transaction) -> None:
        raise DatabaseUnavailable("away")

    async with Held(database):
        first = asyncio.ensure_future(database.write(lambda tx: put(tx, "first")))
        second = asyncio.ensure_future(database.write(away))
        third = asyncio.ensure_future(database.write(lambda tx: put(tx, "third")))
    done = await asyncio.gather(first, second, third, return_exceptions=True)
    assert [type(one) for one in done] == [DatabaseUnavailable, DatabaseUnavailable, type(None)]
    assert await stored(database) == ["third"]


async def test_a_transaction_that_the_database_ended_is_an_outage(database: Database) -> None:
    """SQLite does so by itself when the disk is full: the next ones must not be written outside a transaction."""

    def gone(tx: Transaction) -> None:
        put(tx, "gone")
        tx.connection.exec_driver_sql("ROLLBACK")
        raise ValueError("and then this")

    async with Held(database):
        tasks = [
            asyncio.ensure_future(database.write(lambda tx: put(tx, "before"))),
            asyncio.ensure_future(database.write(gone)),
            asyncio.ensure_future(database.write(lambda tx: put(tx, "after"))),
        ]
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one) for one in done] == [DatabaseUnavailable, DatabaseUnavailable, type(None)]
    assert await stored(database) == ["after"]


async def test_a_caller_that_gave_up_before_its_turn_writes_nothing(database: Database) -> None:
    async with Held(database):
        tasks = [asyncio.ensure_future(database.write(lambda tx, n=n: put(tx, str(n)))) for n in range(3)]  # type: ignore[misc]
        await asyncio.sleep(0)
        tasks[1].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[1], asyncio.CancelledError)
    assert await stored(database) == ["0", "2"]


async def test_a_group_is_bounded_in_number_and_time(database: Database) -> None:
    seen = counted(database)
    async with Held(database):
        many = module.GROUP + 6
        tasks = [asyncio.ensure_future(database.write(lambda tx, n=n: put(tx, str(n)))) for n in range(many)]  # type: ignore[misc]
    await asyncio.gather(*tasks)
    assert seen.count("commit") >= 3
    seen.clear()
    async with Held(database):
        slow = [asyncio.ensure_future(database.write(lambda tx: time.sleep(module.GROUP_S * 1.1))) for _ in range(3)]
    await asyncio.gather(*slow)
    assert seen.count("commit") == 4


async def test_what_waits_is_done_when_it_stops(database_url: str) -> None:
    create_tables(database_url)
    database = Database(database_url)
    await database.start()
    async with Held(database):
        tasks = [asyncio.ensure_future(database.write(lambda tx, n=n: put(tx, str(n)))) for n in range(5)]  # type: ignore[misc]
        await asyncio.sleep(0)
        stopping = asyncio.ensure_future(database.stop())
    await asyncio.gather(*tasks, stopping)
    with pytest.raises(DatabaseUnavailable):
        await database.write(lambda tx: None)
    await database.start()
    assert await stored(database) == [str(n) for n in range(5)]
    await database.stop()


_WRITERS = """
import asyncio, sys
import sqlalchemy as sa
from incl_shared.bus.tables import inbox
from incl_shared.db import Database

async def main(url):
    database = Database(url)
    await database.start()
    async def writer(name):
        for number in range(100_000):
            def put(tx):
                for half in "ab":
                    row = {"durable": half, "message_id": f"{name}-{number}", "seen": 1.0}
                    tx.connection.execute(sa.insert(inbox), row)
            await database.write(put)
            print(f"{name}-{number}", flush=True)
    await asyncio.gather(*(writer(name) for name in range(16)))

asyncio.run(main(sys.argv[1]))
"""


async def test_killed_between_what_was_told_is_there_and_nothing_by_halves(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'killed.db'}"
    create_tables(url)
    said = tmp_path / "said"
    with said.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", _WRITERS, url], stdout=out)
    until_sync(lambda: said.stat().st_size > 4000, 20)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    told = set(said.read_text().rpartition("\n")[0].split())
    database = Database(url)
    await database.start()
    rows = await database.read(lambda c: c.execute(sa.select(inbox.c.durable, inbox.c.message_id)).all())
    await database.stop()
    first, second = ({row.message_id for row in rows if row.durable == half} for half in "ab")
    assert first == second
    assert told <= first
