"""The database port, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa

from incl_shared.bus.tables import inbox, outbox
from incl_shared.db import Database, DatabaseUnavailable, Transaction
from incl_shared.events import ExperimentStopping, ExperimentWaiting
from incl_shared.ids import new_id
from incl_shared.testing.wait import until


def _waiting(reason: str = "no room", experiment: str | None = None) -> ExperimentWaiting:
    return ExperimentWaiting(experiment=experiment or new_id(), reason=reason)


async def _outbox(database: Database) -> list[str]:
    return await database.read(
        lambda c: list(c.execute(sa.select(outbox.c.event_id).order_by(outbox.c.sequence)).scalars())
    )


async def test_effects_and_events_commit_together(database: Database) -> None:
    called: list[str] = []

    def good(tx: Transaction) -> str:
        tx.after_commit(lambda: called.append("good"))
        return tx.emit(_waiting(), project="default", version=1)

    def bad(tx: Transaction) -> None:
        tx.after_commit(lambda: called.append("bad"))
        tx.emit(_waiting(), project="default", version=1)
        raise RuntimeError("no")

    first = await database.write(good)
    with pytest.raises(RuntimeError):
        await database.write(bad)
    second = await database.write(good)
    assert await _outbox(database) == [first, second]
    assert called == ["good", "good"]


async def test_a_repeated_consequence_is_one_event(database: Database) -> None:
    experiment = new_id()

    def emit(tx: Transaction) -> str:
        return tx.emit(_waiting("same", experiment), project="default", version=3, cause=("request", 7))

    assert await database.write(emit) == await database.write(emit)
    assert len(await _outbox(database)) == 1


async def test_events_of_different_versions_are_two(database: Database) -> None:
    experiment = new_id()
    for version in (1, 2):
        await database.write(
            lambda tx, version=version: tx.emit(_waiting("x", experiment), project="default", version=version)  # type: ignore[misc]
        )
    assert len(await _outbox(database)) == 2


async def test_a_savepoint_undoes_rows_events_and_callbacks(database: Database) -> None:
    called: list[str] = []

    def work(tx: Transaction) -> None:
        for number in range(3):
            try:
                with tx.savepoint():
                    tx.connection.execute(sa.insert(inbox).values(durable="d", message_id=str(number), seen=1.0))
                    tx.emit(_waiting(), project="default", version=number)
                    tx.after_commit(lambda number=number: called.append(str(number)))  # type: ignore[misc]
                    if number == 1:
                        int("no number")
            except ValueError:
                pass

    await database.write(work)
    seen = await database.read(lambda c: set(c.execute(sa.select(inbox.c.message_id)).scalars()))
    assert seen == {"0", "2"}
    assert len(await _outbox(database)) == 2
    assert called == ["0", "2"]


async def test_a_cancelled_caller_leaves_a_whole_transaction(database: Database) -> None:
    entered, go, called = asyncio.Event(), asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def work(tx: Transaction) -> None:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(10)
        tx.emit(_waiting(), project="default", version=1)
        tx.after_commit(lambda: called.append(1))

    task = asyncio.create_task(database.write(work))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await until(lambda: called == [1])
    assert len(await _outbox(database)) == 1


async def test_readers_cannot_write_and_see_one_snapshot(database: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError):
        await database.read(lambda c: c.execute(sa.insert(inbox).values(durable="d", message_id="1", seen=1.0)))
    loop, counted, go = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def count_twice(connection: sa.Connection) -> tuple[int, int]:
        query = sa.select(sa.func.count()).select_from(outbox)
        first = connection.execute(query).scalar_one()
        loop.call_soon_threadsafe(counted.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(10)
        return first, connection.execute(query).scalar_one()

    reading = asyncio.create_task(database.read(count_twice))
    await counted.wait()
    await database.write(lambda tx: tx.emit(_waiting(), project="default", version=1))
    go.set()
    assert await reading == (0, 0)


async def test_writes_are_one_at_a_time_and_in_order(database: Database) -> None:
    ids = await asyncio.gather(
        *(database.write(lambda tx: tx.emit(_waiting(), project="default", version=1)) for _ in range(40))
    )
    assert await _outbox(database) == ids


async def test_requests_need_a_user(database: Database) -> None:
    from incl_shared.events import StopRequested

    event = StopRequested(experiment=new_id())
    with pytest.raises(ValueError, match="user"):
        await database.write(lambda tx: tx.emit(event, project="default", version=1))
    await database.write(lambda tx: tx.emit(event, project="default", user="ada", version=1))
    subject = await database.read(lambda c: c.execute(sa.select(outbox.c.subject)).scalar_one())
    assert subject == f"incl.request.default.ada.stop.{event.experiment}"


async def test_a_statement_at_fault_is_no_outage(database: Database) -> None:
    with pytest.raises(sa.exc.DBAPIError):
        await database.write(lambda tx: tx.connection.execute(sa.text("SELECT * FROM no_such_table")))


async def test_an_outage_is_named(tmp_path: Path) -> None:
    away = Database(f"sqlite:///{tmp_path / 'no' / 'folder' / 'x.db'}")
    with pytest.raises(DatabaseUnavailable):
        await away.start()
    with pytest.raises(DatabaseUnavailable):
        await away.read(lambda c: None)
    refused = Database("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailable):
        await refused.start()


async def test_sqlite_is_safe_against_power_loss(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await database.start()
    try:

        def pragmas(tx: Transaction) -> list[object]:
            names = ("journal_mode", "synchronous", "foreign_keys")
            return [tx.connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

        assert await database.write(pragmas) == ["wal", 2, 1]
    finally:
        await database.stop()


async def test_emit_in_a_savepoint_that_fails_wakes_no_relay(database: Database) -> None:
    woken: list[int] = []
    database.on_emit(lambda: woken.append(1))

    def work(tx: Transaction) -> None:
        try:
            with tx.savepoint():
                tx.emit(ExperimentStopping(experiment=new_id(), by="ada"), project="default", version=1)
                int("no number")
        except ValueError:
            pass

    await database.write(work)
    await database.write(lambda tx: tx.emit(_waiting(), project="default", version=1))
    await until(lambda: woken)
    assert woken == [1]
