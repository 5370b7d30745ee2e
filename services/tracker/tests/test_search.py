"""Lists give what the evaluator of the grammar gives, page by page; unknown names and slow lists are told."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incl_shared.db import Database
from incl_shared.errors import InvalidInput, UnavailableError
from incl_shared.filters import matches, ordered, parse, parse_sort
from incl_shared.ids import derived_id
from incl_shared.queries.tracker import ListExperiments
from incl_shared.states import ExperimentState
from incl_shared.testing.clock import FakeClock
from incl_tracker import store_experiments as store
from incl_tracker.packing import pack_all
from incl_tracker.store_search import search, time_limit
from incl_tracker.testing_lists import METRICS, NAMES, NOW, ROWS, TEXTS, random_row, spoil, write


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


@pytest.mark.parametrize("packing", ["hot", "mixed", "packed"])
async def test_values_are_those_of_the_rows_wherever_they_are_read(base: Base) -> None:
    """Columns give most of them; what they cannot tell (a NaN from nothing) the rows say."""
    query = ListExperiments(sort="-acc,'a b'", limit=1000)
    page = await base.database.read(lambda c: search(c, "default", query, NOW, 5.0))
    named = {row.id: {n: v for n, v in row.metrics.items() if n in ("acc", "a b")} for row in ROWS}
    assert {row.id: repr(sorted(row.metrics.items())) for row in page.rows} == {
        identifier: repr(sorted(metrics.items())) for identifier, metrics in named.items()
    }
