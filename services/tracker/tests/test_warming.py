"""Columns are read ahead, once, and no further than the cache has room."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from incl_shared.db import Database, Transaction
from incl_shared.queries.tracker import ListExperiments
from incl_shared.testing.clock import FakeClock
from incl_tracker.packing import pack_all
from incl_tracker.store_columns import Cache
from incl_tracker.store_search import search
from incl_tracker.testing_lists import NOW, ROWS, write
from incl_tracker.warming import SHARE, Warmer


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    """With all experiments in columns."""
    opened = Database(migrated_url, clock=FakeClock(NOW))
    await opened.start()

    def fill(tx: Transaction) -> None:
        for row in ROWS:
            write(tx.connection, row)

    await opened.write(fill)
    await pack_all(opened, "default")
    yield opened
    await opened.stop()


async def blobs_read(database: Database, cache: Cache) -> int:
    """How many times a list by a metric reads columns."""
    query, read = ListExperiments(sort="-acc", limit=10), []

    def ask(connection: sa.Connection) -> None:
        sa.event.listen(
            connection, "before_cursor_execute", lambda *args: read.append(args[2]) if "data FROM" in args[2] else None
        )
        assert len(search(connection, "default", query, NOW, 5.0, cache).rows) == 10

    await database.read(ask)
    return len(read)


async def warmed(database: Database, cache: Cache) -> int:
    """Rounds of reading ahead."""
    warmer, rounds = Warmer(database, cache), 0
    while await warmer.step():
        rounds += 1
    assert not await warmer.step()
    return rounds


async def test_after_a_start_nobody_waits_for_columns(database: Database) -> None:
    assert await blobs_read(database, Cache()) > 0
    cache = Cache()
    assert await warmed(database, cache) >= 3
    assert await blobs_read(database, cache) == 0


async def test_it_leaves_room_for_what_is_asked(database: Database) -> None:
    whole = Cache()
    await warmed(database, whole)
    small = Cache(whole.size // 2)
    assert await warmed(database, small) > 0
    assert SHARE * small.limit < small.size <= small.limit
    assert await blobs_read(database, small) > 0


async def test_an_empty_tracker_reads_nothing(migrated_url: str) -> None:
    empty = Database(migrated_url, clock=FakeClock(NOW))
    await empty.start()
    try:
        assert await warmed(empty, Cache()) == 0
    finally:
        await empty.stop()
