"""Lists give what the evaluator of the grammar gives, page by page; unknown names and slow lists are told."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incl_shared.db import Database
from incl_shared.errors import InvalidInput, UnavailableError
from incl_shared.filters import FilterRow, matches, ordered, parse, parse_sort
from incl_shared.ids import derived_id
from incl_shared.queries.tracker import ListExperiments
from incl_shared.states import EndReason, ExperimentState
from incl_shared.testing.clock import FakeClock
from incl_tracker import store_experiments as store
from incl_tracker import tables as t
from incl_tracker.domain.columns import Numbers, decode
from incl_tracker.packing import pack_all
from incl_tracker.store_columns import touch
from incl_tracker.store_search import search, time_limit

NOW = 1_769_850_000.0
NAMES = ("a run", "A Run", "résumé", "x%y_z", "naïve", "")
TAGS = ("red", "Blue", "x y")
METRICS = ("acc", "val/acc", "a b")
NUMBERS = (-1.5, 0.0, 0.25, 0.5, 1.0, 3.0, math.inf, -math.inf, math.nan)
TEXTS = ("adam", "0.1", "1e-1", "Adam", "", "inf", "nan")
TIMES = tuple(NOW - ago for ago in (0.0, 30.0, 3600.0, 86_400.0, 90_000.0, 200_000.0))


def random_row(chance: random.Random, number: int) -> FilterRow:
    started = chance.choice([None, *TIMES])
    return FilterRow(
        id=derived_id("row", number),
        name=chance.choice(NAMES),
        user=chance.choice(["ann", "Bob"]),
        project="default",
        status=chance.choice(list(ExperimentState)).value,
        reason=chance.choice([None, *(r.value for r in list(EndReason)[:3])]),
        nodes=chance.choice([1, 2, 4]),
        gpus=chance.choice([0, 8]),
        attempts=chance.choice([0, 1, 2]),
        created=chance.choice(TIMES),
        started=started,
        ended=None if started is None else chance.choice([None, started + 60.0, started + 4000.0]),
        tags=tuple(sorted(chance.sample(TAGS, chance.randint(0, 2)))),
        metrics={m: chance.choice(NUMBERS) for m in METRICS if chance.random() < 0.7},
        config={n: chance.choice(TEXTS) for n in ("lr", "opt") if chance.random() < 0.6},
        env={n: chance.choice(TEXTS) for n in ("lr", "HOST") if chance.random() < 0.6},
    )


ROWS = [random_row(random.Random(number), number) for number in range(60)]


def write(connection: sa.Connection, row: FilterRow) -> None:
    store.find_or_make(connection, row.id, row.project, row.created)
    columns = {
        "known": True, "name": row.name, "user": row.user, "state": row.status, "reason": row.reason,
        "nodes": row.nodes, "gpus": row.gpus, "attempts": row.attempts, "created": row.created,
        "started": row.started, "ended": row.ended, "points": len(row.metrics),
    }  # fmt: skip
    store.update(connection, row.id, columns)
    store.set_tags(connection, row.id, row.tags)
    store.set_params(connection, row.id, "config", {n: (0.0, v) for n, v in row.config.items()}, 1)
    store.set_params(connection, row.id, "env", {n: (0.0, v) for n, v in row.env.items()}, 1)
    store.know_metrics(connection, row.project, list(METRICS))
    for name, value in row.metrics.items():
        last = None if math.isnan(value) else value
        summary = {"rank": 0, "points": 1, "last": last, "last_step": 1, "last_time": 0.0, "last_attempt": 1}
        connection.execute(sa.insert(t.metrics).values(experiment=row.id, metric=name, **summary))


def spoil(connection: sa.Connection, rows: list[FilterRow]) -> None:
    """Make the rows other than they are packed, and right again in the columns' stead."""
    for row in rows:
        touch(connection, [row.id])
    columns = connection.execute(sa.select(t.column_data)).mappings().all()
    slots = [
        place.slot for place in connection.execute(sa.select(t.places)) if place.experiment in {r.id for r in rows}
    ]
    for old in columns:
        column = decode(old["data"])
        if isinstance(column, Numbers) and old["name"] != "hidden":
            wrong = column.changed(slots, [0.5] * len(slots), len(rows) * 3)
            low, high = wrong.bounds()
            where = [t.column_data.c[name] == old[name] for name in ("project", "kind", "name", "block")]
            values = {"data": wrong.encode(), "low": low, "high": high, "version": old["version"] + 1}
            connection.execute(sa.update(t.column_data).where(*where).values(values))


class Base:
    """A database with the rows, its connection for reading."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def list(self, text: str, sort: str, limit: int = 1000) -> list[str]:
        """All pages of a list."""
        found, cursor = [], None
        while True:
            query = ListExperiments(filter=text, sort=sort, limit=limit, cursor=cursor)
            page = await self.database.read(lambda c: search(c, "default", query, NOW, 5.0))  # noqa: B023
            found += [row.id for row in page.rows]
            cursor = page.cursor
            if cursor is None:
                return found
            assert len(page.rows) == limit


@pytest.fixture
def packing() -> str:
    """Which experiments are in columns; tests may say otherwise."""
    return "mixed"


@pytest.fixture
async def base(migrated_url: str, packing: str) -> AsyncIterator[Base]:
    """All experiments by their rows, all by their columns, and some of each with columns that are stale."""
    database = Database(migrated_url, clock=FakeClock(NOW))
    await database.start()

    def fill(tx: Any) -> None:
        for row in ROWS:
            write(tx.connection, row)
        other = random_row(random.Random(1), 999)
        store.find_or_make(tx.connection, other.id, "other", 1.0)
        store.update(tx.connection, other.id, {"known": True})
        store.find_or_make(tx.connection, derived_id("shell"), "default", 1.0)

    await database.write(fill)
    if packing != "hot":
        await pack_all(database, "default")
    if packing == "mixed":
        await database.write(lambda tx: spoil(tx.connection, ROWS[::3]))
    yield Base(database)
    await database.stop()


words = st.sampled_from([*NAMES, *TEXTS, "RUN", "ï", "%", "_", "é", "É"])
quoted = words.map(lambda text: f"'{text}'")
comparison = st.one_of(
    st.builds("{} {} {}".format, st.sampled_from(["name", "tag", "user", "id"]), st.sampled_from("=~"), quoted),
    st.builds("{} != {}".format, st.sampled_from(["name", "tag", "reason"]), st.sampled_from(["error", "completed"])),
    st.builds("name in ({}, {})".format, quoted, quoted),
    st.builds("status in ({}, {})".format, *[st.sampled_from([s.value for s in ExperimentState])] * 2),
    st.builds(
        "{} {} {}".format,
        st.sampled_from(["acc", "'val/acc'", "metric.'a b'", "nodes", "gpus", "attempts", "param.lr", "env.HOST"]),
        st.sampled_from(["<", "<=", ">", ">=", "=", "!="]),
        st.sampled_from(["-1.5", "0", "0.1", "0.25", "1", "2", "inf", "-inf"]),
    ),
    st.builds(
        "{} {} {}".format,
        st.sampled_from(["param.lr", "config.lr", "env.lr", "param.opt"]),
        st.sampled_from(["=", "!=", "~"]),
        quoted,
    ),
    st.builds(
        "{} {} {}".format,
        st.sampled_from(["created", "started", "ended"]),
        st.sampled_from(["<", "<=", ">", ">=", "=", "!="]),
        st.sampled_from(["today", "yesterday", "now", "1h", "1d", "2026-01-30", "2026-01-31T08:00"]),
    ),
    st.builds("duration {} {}".format, st.sampled_from(["<", ">=", "=", "!="]), st.sampled_from(["60", "1h", "1d"])),
)


def branches(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("not ({})".format, inner), st.builds("({}) and ({})".format, inner, inner),
        st.builds("({}) or ({})".format, inner, inner),
    )  # fmt: skip


keys = st.sampled_from(
    ["created", "name", "status", "reason", "started", "duration", "acc", "'val/acc'", "nodes", "param.lr", "env.HOST"]
)
orders = st.lists(st.builds("{}{}".format, st.sampled_from(["", "-"]), keys), max_size=3).map(",".join)


@pytest.mark.parametrize("packing", ["hot", "packed", "mixed"])
@given(st.one_of(st.just(""), st.recursive(comparison, branches, max_leaves=5)), orders, st.integers(1, 25))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_lists_and_the_evaluator_agree(base: Base, text: str, sort: str, limit: int) -> None:
    tree = parse(text)
    wanted = [row for row in ordered(ROWS, parse_sort(sort), NOW) if matches(tree, row, NOW)]
    assert await base.list(text, sort, limit) == [row.id for row in wanted]


async def test_an_unknown_metric_is_told_with_the_known_ones(base: Base) -> None:
    for text, sort in (("acx > 0.9", ""), ("", "-acx")):
        with pytest.raises(InvalidInput, match="no metric 'acx'") as caught:
            await base.list(text, sort)
        assert "known metrics, nearest first: acc" in caught.value.cause
        assert "'acc'" in caught.value.hint
    with pytest.raises(InvalidInput) as caught:
        await base.list("nodse > 2", "")
    assert "'nodes'" in caught.value.hint


@pytest.mark.parametrize("cursor", ["x", "e30", "bnVsbA", "a" * 500, "é"])
async def test_a_foreign_cursor_is_refused(lite: Any, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        await lite.ask(ListExperiments(cursor=cursor))


async def test_a_cursor_of_another_list_is_refused(base: Base) -> None:
    first = ListExperiments(limit=2)
    page = await base.database.read(lambda c: search(c, "default", first, NOW, 5.0))
    second = ListExperiments(limit=2, sort="name", cursor=page.cursor)
    with pytest.raises(InvalidInput, match="cursor"):
        await base.database.read(lambda c: search(c, "default", second, NOW, 5.0))


async def test_a_list_that_takes_too_long_is_stopped(bench: Any) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"

    def slow(connection: sa.Connection) -> None:
        with time_limit(connection, 0.2):
            connection.execute(sa.text(endless)).all()

    with pytest.raises(UnavailableError, match="took longer than"):
        await bench.read(slow)
    assert (await bench.ask(ListExperiments())).rows == ()


async def test_the_longest_filter_is_answered(base: Base) -> None:
    text = " or ".join(["acc > 1"] * 360)
    wanted = [row.id for row in ordered(ROWS, (), NOW) if row.metrics.get("acc", 0) > 1]
    assert await base.list(text, "") == wanted


async def test_a_list_shows_what_is_asked_about_and_otherwise_something(base: Base) -> None:
    async def shown(text: str) -> set[str]:
        query = ListExperiments(filter=text, limit=1000)
        page = await base.database.read(lambda c: search(c, "default", query, NOW, 5.0))
        return {name for row in page.rows for name in row.metrics}

    assert await shown("acc > 0") == {"acc"}
    assert await shown("") <= set(METRICS)
    assert await shown("")
