"""Packing: cut short, overtaken, repeated; after all that may have happened, lists say what the rows say."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from incl_shared.db import Database, Transaction
from incl_shared.filters import FilterRow, matches, ordered, parse, parse_sort
from incl_shared.ids import derived_id
from incl_shared.queries.tracker import ListExperiments
from incl_shared.states import ExperimentState
from incl_shared.testing.clock import FakeClock
from incl_tracker import store_experiments as store
from incl_tracker import store_trash
from incl_tracker import tables as t
from incl_tracker.domain.columns import BLOCK, decode
from incl_tracker.packing import Packer, pack_all
from incl_tracker.store_columns import Cache, touch
from incl_tracker.store_search import search
from incl_tracker.testing_lists import NOW, ROWS, random_row, write

QUESTIONS = (
    ("", ""),
    ("", "name"),
    ("", "-acc,created"),
    ("acc > 0.2", "-created"),
    ("param.lr = adam or tag = red", "status,-id"),
    ("not (tag ~ blue)", "'val/acc'"),
    ("env.HOST != adam", "param.lr,-name"),
)
DYING = """
import asyncio, os, signal, sys
from incl_shared.db import Database
from incl_tracker.packing import pack_all

class Dying(Database):
    left = int(sys.argv[2])

    async def write(self, function):
        self.left -= 1
        def fatal(tx):
            function(tx)
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().write(fatal if self.left < 0 else function)

async def main():
    database = Dying(sys.argv[1])
    await database.start()
    await pack_all(database, "default")

asyncio.run(main())
"""


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    """With all experiments, none of them packed."""
    opened = Database(migrated_url, clock=FakeClock(NOW))
    await opened.start()

    def fill(tx: Transaction) -> None:
        for row in ROWS:
            write(tx.connection, row)

    await opened.write(fill)
    yield opened
    await opened.stop()


async def listed(
    database: Database, text: str = "", sort: str = "", cache: Cache | None = None, **more: Any
) -> list[str]:
    query = ListExperiments(filter=text, sort=sort, limit=1000, **more)
    page = await database.read(lambda c: search(c, "default", query, NOW, 5.0, cache))
    assert page.cursor is None
    return [row.id for row in page.rows]


async def check(database: Database, rows: Sequence[FilterRow], cache: Cache | None = None) -> None:
    """Lists say what the evaluator says of these."""
    for text, sort in QUESTIONS:
        tree = parse(text)
        wanted = [row.id for row in ordered(rows, parse_sort(sort), NOW) if matches(tree, row, NOW)]
        assert await listed(database, text, sort, cache) == wanted, (text, sort)


async def hot(database: Database) -> int:
    return int(await database.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(t.hot)).scalar_one()))


async def places(database: Database) -> dict[str, tuple[int, int]]:
    rows = await database.read(lambda c: c.execute(sa.select(t.places)).all())
    found = {row.experiment: (row.block, row.slot) for row in rows}
    assert len(set(found.values())) == len(found)
    return found


async def put(database: Database, *rows: FilterRow) -> None:
    """Make these experiments' rows say this."""

    def anew(tx: Transaction) -> None:
        for row in rows:
            for table in (t.metrics, t.params, t.tags):
                tx.connection.execute(sa.delete(table).where(table.c.experiment == row.id))
            write(tx.connection, row)
            touch(tx.connection, [row.id])

    await database.write(anew)


class Meddling(Database):
    """Does something else once, right before its nth write."""

    def __init__(self, inner: Database, before: int, meddle: Callable[[Database], Any]) -> None:
        super().__init__(inner.url, clock=inner.clock)
        self._inner, self._before, self._meddle = inner, before, meddle

    async def write(self, function: Callable[[Transaction], Any]) -> Any:
        self._before -= 1
        if self._before == 0:
            await self._meddle(self._inner)
        return await self._inner.write(function)

    async def read(self, function: Callable[[sa.Connection], Any]) -> Any:
        return await self._inner.read(function)


@pytest.mark.parametrize("writes", [3, 4, 5])
async def test_whoever_is_killed_while_packing_spoils_nothing(database: Database, writes: int) -> None:
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", DYING, database.url, str(writes)], timeout=60, check=False
    )
    assert process.returncode == -signal.SIGKILL
    assert await hot(database) == len(ROWS)
    await check(database, ROWS)
    await pack_all(database, "default")
    assert await hot(database) == 0
    assert sorted(await places(database)) == sorted(row.id for row in ROWS)
    await check(database, ROWS)


@pytest.mark.parametrize("before", [1, 2, 3])
async def test_a_change_while_packing_is_not_lost(database: Database, before: int) -> None:
    other = replace(ROWS[7], name="changed", metrics={"acc": 0.75}, tags=("red",), config={}, env={"lr": "0.5"})
    packer = Packer(Meddling(database, before, lambda inner: put(inner, other)), 0.0)
    rows = [other if row.id == other.id else row for row in ROWS]
    await packer.step()
    await check(database, rows)
    while await hot(database):
        await packer.step()
    await check(database, rows)


async def test_two_that_pack_at_once_hinder_one_another_no_more_than_that(database: Database) -> None:
    second = Database(database.url, clock=FakeClock(NOW))
    await second.start()
    packers = [Packer(database, 0.0), Packer(second, 0.0)]
    for _ in range(10):
        await asyncio.gather(*(packer.step() for packer in packers))
        await check(database, ROWS)
        if await hot(database) == 0:
            break
    await second.stop()
    assert await hot(database) == 0
    assert sorted(await places(database)) == sorted(row.id for row in ROWS)


async def test_what_was_changed_and_changed_back_is_as_before(database: Database) -> None:
    await pack_all(database, "default")
    chance = random.Random(3)
    some = [replace(random_row(chance, 1000 + n), id=row.id) for n, row in enumerate(ROWS[:20])]
    bare = [replace(row, tags=(), metrics={}, config={}, env={}, reason=None, ended=None) for row in ROWS[:20]]
    for rows in (some, bare, ROWS[:20]):
        await put(database, *rows)
        await check(database, [*rows, *ROWS[20:]])
        await pack_all(database, "default")
        assert await hot(database) == 0
        await check(database, [*rows, *ROWS[20:]])


async def test_trash_has_a_list_of_its_own(database: Database) -> None:
    ids = [row.id for row in ROWS[:5]]
    for packed in (False, True):
        await database.write(lambda tx: [store_trash.set_trash(tx.connection, one, NOW, NOW + 1) for one in ids])
        if packed:
            await pack_all(database, "default")
        await check(database, ROWS[5:])
        assert sorted(await listed(database, trash=True)) == sorted(ids)
        await database.write(lambda tx: [store_trash.set_trash(tx.connection, one, None, None) for one in ids])
        if packed:
            await pack_all(database, "default")
        await check(database, ROWS)
        assert await listed(database, trash=True) == []


async def test_of_what_is_purged_nothing_stays_and_its_place_is_used_again(database: Database) -> None:
    marked = replace(ROWS[0], name="secret words", metrics={"acc": 123456.0}, config={"lr": "secret words"})
    await put(database, marked)
    await pack_all(database, "default")
    before = await places(database)

    def purge(tx: Transaction) -> None:
        store_trash.set_purged(tx.connection, marked.id, NOW)
        while store_trash.sweep(tx.connection, marked.id, 1000):
            pass

    await database.write(purge)
    await check(database, ROWS[1:])
    await pack_all(database, "default")
    await check(database, ROWS[1:])
    stored = await database.read(lambda c: c.execute(sa.select(t.column_data)).all())
    assert not any(b"secret words" in bytes(row.data) for row in stored)
    assert not any(row.high == 123456.0 for row in stored)

    new = random_row(random.Random(5), 5000)
    await database.write(lambda tx: write(tx.connection, new))
    await pack_all(database, "default")
    after = await places(database)
    assert marked.id not in after
    assert after[new.id] == before[marked.id]
    await check(database, [*ROWS[1:], new])


async def test_an_experiment_of_ten_thousand_metrics_is_packed_in_short_transactions(database: Database) -> None:
    names = [f"layer/{number}" for number in range(10_000)]

    def fill(tx: Transaction) -> None:
        store.know_metrics(tx.connection, "default", names)
        row = {"rank": 0, "points": 1, "last_step": 1, "last_time": 0.0, "last_attempt": 1}
        values = [{**row, "experiment": ROWS[0].id, "metric": name, "last": float(n)} for n, name in enumerate(names)]
        tx.connection.execute(sa.insert(t.metrics), values)

    await database.write(fill)
    sizes: list[int] = []

    class Counting(Meddling):
        async def write(self, function: Callable[[Transaction], Any]) -> Any:
            def counted(tx: Transaction) -> Any:
                count = sa.select(sa.func.count()).select_from(t.column_data)
                before = tx.connection.execute(count).scalar_one()
                result = function(tx)
                sizes.append(tx.connection.execute(count).scalar_one() - before)
                return result

            return await self._inner.write(counted)

    await pack_all(Counting(database, 0, lambda _: None), "default")
    assert sum(sizes) > 10_000
    assert max(sizes) < 500
    assert await listed(database, "'layer/9999' = 9999") == [ROWS[0].id]
    assert await listed(database, "'layer/9999' < 9999") == []
    await check(database, ROWS)


@pytest.mark.parametrize("count", [BLOCK - 1, BLOCK, BLOCK + 1])
async def test_blocks_are_filled_to_their_last_place(lite_url: str, count: int) -> None:
    database = Database(lite_url, clock=FakeClock(NOW))
    await database.start()
    ids = [derived_id("many", number) for number in range(count)]

    def fill(tx: Transaction) -> None:
        made = dict(store.find_or_make(tx.connection, ids[0], "default", 0.0)) | {"known": True, "state": "finished"}
        store.know_metrics(tx.connection, "default", ["acc"])
        rows = [{**made, "id": one, "reversed": one[::-1], "created": float(n)} for n, one in enumerate(ids)]
        tx.connection.execute(sa.delete(t.experiments))
        tx.connection.execute(sa.insert(t.experiments), rows)
        summary = {"rank": 0, "points": 1, "last_step": 1, "last_time": 0.0, "last_attempt": 1, "metric": "acc"}
        values = [{**summary, "experiment": one, "last": float(n % 1000)} for n, one in enumerate(ids)]
        tx.connection.execute(sa.insert(t.metrics), values)

    await database.write(fill)
    await pack_all(database, "default")
    assert await hot(database) == 0
    counts = sa.select(t.column_blocks.c["count"]).order_by(t.column_blocks.c.block)
    blocks = list(await database.read(lambda c: c.execute(counts).scalars().all()))
    assert blocks == ([count] if count <= BLOCK else [BLOCK, 1])
    cache, cursor = Cache(), None
    found: list[str] = []
    while True:
        query = ListExperiments(filter="acc >= 500", sort="-acc,created", limit=900, cursor=cursor)
        page = await database.read(lambda c: search(c, "default", query, NOW, 5.0, cache))  # noqa: B023
        found += [row.id for row in page.rows]
        cursor = page.cursor
        if cursor is None:
            break
    wanted = sorted((n for n in range(count) if n % 1000 >= 500), key=lambda n: (-(n % 1000), n))
    assert found == [ids[n] for n in wanted]
    assert await listed(database, "acc = 94", "-created", cache) == [ids[n] for n in (4094, 3094, 2094, 1094, 94)]
    await database.stop()


async def test_columns_kept_in_memory_are_those_that_another_process_wrote_last(database: Database) -> None:
    other = Database(database.url, clock=FakeClock(NOW))
    await other.start()
    await pack_all(other, "default")
    cache, rows = Cache(), list(ROWS)
    await check(database, rows, cache)
    assert cache.size > 0
    chance = random.Random(9)
    for number in range(5):
        rows[number] = replace(random_row(chance, 2000 + number), id=rows[number].id)
        rows.append(random_row(chance, 3000 + number))
        await put(other, rows[number], rows[-1])
        await check(database, rows, cache)
        await pack_all(other, "default")
        assert await hot(database) == 0
        await check(database, rows, cache)
    await other.stop()


async def test_pages_go_on_while_experiments_change(database: Database) -> None:
    """No row twice and none missing, but for those whose key was changed."""
    await pack_all(database, "default")
    chance, cache = random.Random(4), Cache()
    found: list[str] = []
    touched: set[str] = set()
    cursor = None
    while True:
        query = ListExperiments(sort="-acc", limit=7, cursor=cursor)
        page = await database.read(lambda c: search(c, "default", query, NOW, 5.0, cache))  # noqa: B023
        found += [row.id for row in page.rows]
        cursor = page.cursor
        if cursor is None:
            break
        moved, renamed = chance.sample(ROWS, 2)
        touched.add(moved.id)
        await put(database, replace(moved, metrics={"acc": chance.random()}))
        await database.write(lambda tx: store.update(tx.connection, renamed.id, {"name": "renamed"}))  # noqa: B023
        if chance.random() < 0.5:
            await pack_all(database, "default")
    left = [identifier for identifier in found if identifier not in touched]
    assert sorted(left) == sorted(row.id for row in ROWS if row.id not in touched)


async def test_the_living_are_packed_when_they_have_been_quiet(database: Database) -> None:
    clock = database.clock
    assert isinstance(clock, FakeClock)
    alive = {ExperimentState.RUNNING.value, ExperimentState.QUEUED.value}
    running = [row.id for row in ROWS if row.status in alive]
    packer = Packer(database, 30.0)
    await packer.step()
    assert not set(running) & set(await places(database))
    clock.advance(20.0)
    await database.write(lambda tx: touch(tx.connection, running[:1]))
    await packer.step()
    clock.advance(15.0)
    await packer.step()
    packed = set(await places(database))
    assert running[0] not in packed
    assert set(running[1:]) <= packed
    await check(database, ROWS)


async def test_a_column_is_what_was_put_into_it(database: Database) -> None:
    await pack_all(database, "default")
    where = [t.column_data.c.kind == "column", t.column_data.c.name == "name"]
    stored = await database.read(lambda c: c.execute(sa.select(t.column_data.c.data).where(*where)).scalar_one())
    column: Any = decode(bytes(stored))
    found = {one: column.at(slot).decode() for one, (_, slot) in (await places(database)).items()}
    assert found == {row.id: row.name for row in ROWS}
