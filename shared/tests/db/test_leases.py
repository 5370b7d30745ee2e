"""Leases with fences, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incl_shared import leases
from incl_shared.bus.tables import inbox
from incl_shared.bus.tables import leases as lease_table
from incl_shared.db import Database, Transaction
from incl_shared.leases import Lease, LeaseLost
from incl_shared.testing.clock import FakeClock
from incl_shared.testing.db import create_tables


@pytest.fixture
async def timed(database_url: str) -> AsyncIterator[tuple[Database, FakeClock]]:
    create_tables(database_url)
    clock = FakeClock()
    database = Database(database_url, clock=clock)
    await database.start()
    yield database, clock
    await database.stop()


async def take(database: Database, holder: str, ttl: float = 10.0) -> Lease | None:
    return await database.write(lambda tx: leases.acquire(tx, "scheduler", holder, ttl))


async def test_one_holder_at_a_time(timed: tuple[Database, FakeClock]) -> None:
    database, clock = timed
    first = await take(database, "a")
    assert first is not None
    assert await take(database, "b") is None
    again = await take(database, "a")
    assert again is not None
    assert again.fence == first.fence
    clock.advance(11)
    second = await take(database, "b")
    assert second is not None
    assert second.fence > first.fence


async def test_a_lease_of_a_clock_that_was_an_hour_ahead_is_not_kept_for_an_hour(
    timed: tuple[Database, FakeClock],
) -> None:
    database, clock = timed
    first = await take(database, "a")
    clock.jump(3600)
    assert first is not None
    first = await database.write(lambda tx: leases.renew(tx, first, 10.0))
    clock.jump(-3600)
    assert await take(database, "b") is None
    await database.write(lambda tx: leases.renew(tx, first, 10.0))
    clock.advance(9)
    assert await take(database, "b") is None, "who lives and renews keeps it"
    clock.advance(2)
    second = await take(database, "b")
    assert second is not None and second.fence > first.fence


async def test_who_lost_it_cannot_write(timed: tuple[Database, FakeClock]) -> None:
    database, clock = timed
    old = await take(database, "a")
    assert old is not None

    def work(tx: Transaction, lease: Lease, text: str) -> None:
        tx.connection.execute(sa.insert(inbox).values(durable="d", message_id=text, seen=1.0))
        leases.check(tx, lease)

    await database.write(lambda tx: work(tx, old, "while held"))
    clock.advance(11)
    new = await take(database, "b")
    assert new is not None
    with pytest.raises(LeaseLost):
        await database.write(lambda tx: work(tx, old, "after"))
    with pytest.raises(LeaseLost):
        await database.write(lambda tx: leases.renew(tx, old, 10))
    await database.write(lambda tx: work(tx, new, "the new one"))
    rows = await database.read(lambda c: sorted(c.execute(sa.select(inbox.c.message_id)).scalars()))
    assert rows == ["the new one", "while held"]


async def test_released_it_is_free_at_once_but_not_by_a_former_holder(timed: tuple[Database, FakeClock]) -> None:
    database, clock = timed
    first = await take(database, "a")
    assert first is not None
    await database.write(lambda tx: leases.release(tx, first))
    second = await take(database, "b")
    assert second is not None
    await database.write(lambda tx: leases.release(tx, first))
    assert await take(database, "c") is None
    renewed = await database.write(lambda tx: leases.renew(tx, second, 60))
    clock.advance(30)
    assert await take(database, "c") is None
    assert renewed.expires > second.expires


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 15), st.booleans()), max_size=20))
async def test_a_fence_belongs_to_one_holder_for_ever(
    timed: tuple[Database, FakeClock], steps: list[tuple[str, float, bool]]
) -> None:
    database, clock = timed
    await database.write(lambda tx: tx.connection.execute(sa.delete(lease_table)))
    owners: dict[int, str] = {}
    highest = 0
    for holder, pause, give_back in steps:
        clock.advance(pause)
        lease = await take(database, holder)
        if lease is None:
            continue
        assert owners.setdefault(lease.fence, holder) == holder
        assert lease.fence >= highest
        highest = lease.fence
        if give_back:
            await database.write(lambda tx, lease=lease: leases.release(tx, lease))  # type: ignore[misc]
