"""Groups give what a plain count over the rows gives, page by page, over hot and packed experiments."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incl_shared.db import Database
from incl_shared.errors import InvalidInput, UnavailableError
from incl_shared.filters import Field, FilterRow, Type, matches, parse, parse_field, values_of
from incl_shared.ids import derived_id
from incl_shared.queries.tracker import Aggregate, ExperimentGroup, GroupExperiments, GroupPage
from incl_shared.testing.clock import FakeClock
from incl_tracker import tables as t
from incl_tracker.domain.columns import BLOCK, Tags, Texts
from incl_tracker.domain.grouping import Groups, Members, NumberLabels, TagLabels, TextLabels, mark_of, number_text
from incl_tracker.packing import pack_all
from incl_tracker.store_columns import Cache
from incl_tracker.store_groups import group
from incl_tracker.testing import put_experiment
from incl_tracker.testing_lists import METRICS, NOW, ROWS, spoil, write

MANY = [replace(row, id=derived_id("group", number)) for number, row in enumerate(ROWS)]
Values = tuple[str | None, ...]


def texts_of(row: FilterRow, field: Field) -> list[str | None]:
    """The values of a field as groups say them."""
    found: list[str | None] = []
    for value in values_of(row, field, NOW):
        if isinstance(value, str):
            found.append(value)
        elif field.type is Type.TIME:
            found.append(datetime.fromtimestamp(value, UTC).date().isoformat())
        else:
            found.append(str(int(value)) if math.isfinite(value) and value == int(value) else repr(value))
    return found or [None]


def model(rows: list[FilterRow], by: list[str], metrics: list[str]) -> list[ExperimentGroup]:
    """All groups, by plain Python."""
    members: dict[Values, list[FilterRow]] = {}
    for row in rows:
        combined: list[Values] = [()]
        for text in by:
            combined = [(*some, value) for some in combined for value in texts_of(row, parse_field(text))]
        for values in combined:
            members.setdefault(values, []).append(row)
    groups = []
    for values, some in members.items():
        states: dict[Any, int] = {}
        for row in some:
            states[row.status] = states.get(row.status, 0) + 1
        newest = max(some, key=lambda row: (row.created, row.id)).id
        summed = {name: summary([row.metrics[name] for row in some if name in row.metrics]) for name in metrics}
        groups.append(
            ExperimentGroup(
                values=values, experiments=len(some), states=states, newest=newest,
                metrics={name: one for name, one in summed.items() if one is not None},
            )
        )  # fmt: skip
    return sorted(groups, key=order)


def order(one: ExperimentGroup) -> Any:
    return -one.experiments, [(value is None, (value or "").encode()) for value in one.values]


def summary(values: list[float]) -> Aggregate | None:
    some = [value for value in values if not math.isnan(value)]
    if not some:
        return None
    whole = all(map(math.isfinite, some))
    mean = statistics.fmean(some) if whole or not {math.inf, -math.inf} <= set(some) else math.nan
    deviation = (statistics.stdev(some) if len(some) > 1 else 0.0) if whole else math.nan
    return Aggregate(count=len(some), mean=mean, minimum=min(some), maximum=max(some), deviation=deviation)


def same(one: float, other: float) -> bool:
    return one == pytest.approx(other, rel=1e-9, abs=1e-12, nan_ok=True)


def check(found: list[ExperimentGroup], wanted: list[ExperimentGroup]) -> None:
    assert [one.values for one in found] == [one.values for one in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.model_copy(update={"metrics": {}}) == other.model_copy(update={"metrics": {}})
        assert one.metrics.keys() == other.metrics.keys()
        for name, have in one.metrics.items():
            want = other.metrics[name]
            assert (have.count, have.minimum, have.maximum) == (want.count, want.minimum, want.maximum)
            assert same(have.mean, want.mean), (have, want)
            assert same(have.deviation, want.deviation), (have, want)


def fill(connection: sa.Connection, rows: list[FilterRow]) -> None:
    for row in rows:
        write(connection, row)


async def pages(database: Database, query: GroupExperiments, cache: Cache | None = None) -> list[ExperimentGroup]:
    """All pages, each as it crosses the bus."""
    found: list[ExperimentGroup] = []
    while True:
        asked = query
        page = await database.read(lambda c: group(c, "default", asked, NOW, 5.0, cache))  # noqa: B023
        payload = page.model_dump_json().encode()
        assert len(payload) < 256_000
        found += GroupPage.model_validate_json(payload).groups
        if page.cursor is None:
            return found
        assert page.groups
        query = query.model_copy(update={"cursor": page.cursor})


@pytest.fixture
def packing() -> str:
    """Which experiments are in columns; tests may say otherwise."""
    return "mixed"


@pytest.fixture
async def base(migrated_url: str, packing: str) -> AsyncIterator[Database]:
    """All experiments by their rows, all by their columns, and some of each with columns that are stale."""
    database = Database(migrated_url, clock=FakeClock(NOW))
    await database.start()
    await database.write(lambda tx: fill(tx.connection, MANY))
    if packing != "hot":
        await pack_all(database, "default")
    if packing == "mixed":
        await database.write(lambda tx: spoil(tx.connection, MANY[::3]))
    yield database
    await database.stop()


FIELDS = (
    "user", "state", "name", "tag", "reason", "nodes", "gpus", "project", "created", "ended", "acc", "'val/acc'",
    "param.lr", "config.opt", "env.HOST", "metric.'a b'", "param.nobody",
)  # fmt: skip
filters = st.sampled_from(
    [
        "", "nodes > 1", "acc >= 0.5", "tag = red or name ~ run", "not status in (running, failed)", "created > 1d",
        "param.lr = 0.1 and user = ann", "started < 1h and duration > 60", "name = nobody", "not 'val/acc' < 1",
    ]
)  # fmt: skip
chosen = st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True)


@pytest.mark.parametrize("packing", ["hot", "packed", "mixed"])
@given(
    chosen,
    filters,
    st.lists(st.sampled_from(METRICS), max_size=3, unique=True),
    st.integers(1, 60),
)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_groups_and_plain_counting_agree(
    base: Database, by: list[str], text: str, metrics: list[str], limit: int
) -> None:
    tree = parse(text)
    wanted = model([row for row in MANY if matches(tree, row, NOW)], by, metrics)
    query = GroupExperiments(by=tuple(by), filter=text, metrics=tuple(metrics), limit=limit)
    check(await pages(base, query), wanted)


async def test_a_page_has_as_many_groups_as_the_limit_says(base: Database) -> None:
    query = GroupExperiments(by=("name", "user"), limit=3)
    first = await base.read(lambda c: group(c, "default", query, NOW, 5.0))
    assert len(first.groups) == 3
    assert first.cursor is not None


def copies(connection: sa.Connection, rows: list[FilterRow]) -> None:
    """Many like the first one, with other ids, users and values of acc."""
    write(connection, rows[0])
    (own,) = connection.execute(sa.select(t.experiments)).mappings().all()
    (acc,) = connection.execute(sa.select(t.metrics)).mappings().all()
    others = rows[1:]
    connection.execute(sa.insert(t.experiments), [{**own, "id": row.id, "user": row.user} for row in others])
    values = [{**acc, "experiment": row.id, "last": row.metrics["acc"]} for row in others]
    connection.execute(sa.insert(t.metrics), values)


async def test_groups_are_those_of_several_blocks(lite: Any) -> None:
    first = replace(MANY[0], tags=(), config={}, env={})
    rows = [
        replace(first, id=f"{number:026d}", user=f"user {number % 7}", metrics={"acc": float(number)})
        for number in range(BLOCK + 500)
    ]
    await lite.database.write(lambda tx: copies(tx.connection, rows))
    await pack_all(lite.database, "default")
    query = GroupExperiments(by=("user",), metrics=("acc",), limit=4)
    cache = Cache()
    wanted = model(rows, ["user"], ["acc"])
    check(await pages(lite.database, query, cache), wanted)
    check(await pages(lite.database, query, cache), wanted)


async def test_long_values_make_small_pages_that_go_on_exactly(lite: Any) -> None:
    long = "\x01é" * 4900
    rows = [
        replace(MANY[0], id=f"{number:026d}", config={"text": f"{long}{number:03d}", "n": str(number % 2)})
        for number in range(20)
    ]
    await lite.database.write(lambda tx: fill(tx.connection, rows))
    await pack_all(lite.database, "default")
    query = GroupExperiments(by=("param.text", "config.n"), limit=100)
    first = await lite.database.read(lambda c: group(c, "default", query, NOW, 5.0))
    assert 0 < len(first.groups) < 20
    assert len(first.cursor) < 5000
    check(await pages(lite.database, query), model(rows, ["param.text", "config.n"], []))


async def test_the_trash_has_groups_of_its_own(base: Database) -> None:
    gone = [row.id for row in MANY[:9]]
    where = t.experiments.c.id.in_(gone)
    await base.write(lambda tx: tx.connection.execute(sa.update(t.experiments).where(where).values(trashed=NOW)))
    await base.write(lambda tx: spoil(tx.connection, MANY[:9]))
    listed, trashed = GroupExperiments(by=("user",)), GroupExperiments(by=("user",), trash=True)
    check(await pages(base, listed), model(MANY[9:], ["user"], []))
    check(await pages(base, trashed), model(MANY[:9], ["user"], []))


WRONG = (
    (GroupExperiments(by=("acx",)), "no metric 'acx'", "'acc'"),
    (GroupExperiments(by=("lr",)), "no metric 'lr'", "param.lr"),
    (GroupExperiments(by=("user",), metrics=("acx",)), "no metric 'acx'", "'acc'"),
    (GroupExperiments(by=("user",), filter="nodse > 2"), "no metric 'nodse'", "'nodes'"),
    (GroupExperiments(by=("user", "user")), "twice", "once"),
    (GroupExperiments(by=("state", "status")), "twice", "once"),
    (GroupExperiments(by=("id",)), "id of its own", "incl ls"),
    (GroupExperiments(by=("duration",)), "how long they took", "started"),
    (GroupExperiments(by=("",)), "expected a field", ""),
    (GroupExperiments(by=("a b",)), "expected one field", "quotes"),
)


async def test_what_means_nothing_is_told(base: Database) -> None:
    for query, message, hint in WRONG:
        with pytest.raises(InvalidInput, match=message) as caught:
            await base.read(lambda c: group(c, "default", query, NOW, 5.0))  # noqa: B023
        assert hint in caught.value.hint


@pytest.mark.parametrize("cursor", ["x", "e30", "bnVsbA", "a" * 500, "é"])
async def test_a_foreign_cursor_is_refused(lite: Any, cursor: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        await lite.ask(GroupExperiments(by=("user",), cursor=cursor))


async def test_a_cursor_of_other_groups_is_refused(base: Database) -> None:
    page = await base.read(lambda c: group(c, "default", GroupExperiments(by=("user",), limit=1), NOW, 5.0))
    for other in (GroupExperiments(by=("name",)), GroupExperiments(by=("user",), filter="nodes > 0")):
        query = other.model_copy(update={"cursor": page.cursor})
        with pytest.raises(InvalidInput, match="cursor"):
            await base.read(lambda c: group(c, "default", query, NOW, 5.0))  # noqa: B023


async def test_groups_that_take_too_long_are_stopped(base: Database) -> None:
    with pytest.raises(UnavailableError, match="took longer than"):
        await base.read(lambda c: group(c, "default", GroupExperiments(by=("user",)), NOW, 1e-9))


async def test_a_project_without_experiments_has_no_groups(lite: Any) -> None:
    await lite.database.write(lambda tx: put_experiment(tx.connection, derived_id("shell"), "acc"))
    assert (await lite.ask(GroupExperiments(by=("user", "tag")))).groups == ()


def test_many_groups_are_paged_by_their_values_alone() -> None:
    chance = random.Random(3)
    names = [f"name {chance.randrange(300)}".encode() for _ in range(3000)]
    tags = [[f"t{chance.randrange(4)}".encode()] if chance.random() < 0.8 else [] for _ in names]
    texts, several, numbers = TextLabels(), TagLabels(), NumberLabels()
    for begin in range(0, 3000, 1000):
        some = slice(begin, begin + 1000)
        places = np.arange(1000)
        texts.add(Texts.of(range(1000), names[some], 1000), places)
        several.add(Tags.of(tags[some]), places)
        numbers.add(np.array([chance.choice([math.nan, 1.5, 1e300, -math.inf]) for _ in places]), places)
    rows, tagged = several.done()
    named, counted = texts.done(), numbers.done()
    labels = [replace(named, codes=named.codes[rows]), tagged, replace(counted, codes=counted.codes[rows])]
    groups = Groups.by(labels)
    whole = groups.first(labels, None, 10_000).tolist()
    assert sorted(whole) == list(range(len(groups.counts)))
    for size in (1, 7, len(whole) + 1):
        found: list[int] = []
        last = None
        while len(found) < len(whole):
            page = groups.first(labels, last, size).tolist()
            assert page
            found += page
            end = page[-1]
            values = [each.value(int(codes[end])) for codes, each in zip(groups.codes, labels, strict=True)]
            last = (int(groups.counts[end]), [mark_of(value) for value in values])
        assert found == whole
        assert not len(groups.first(labels, last, size))


def test_a_mean_lies_between_the_extremes() -> None:
    labels = NumberLabels()
    labels.add(np.zeros(3), np.arange(3))
    groups = Groups.by([labels.done()])
    members = Members.of(groups, np.array([0]), None)
    (one,) = members.summed(np.array([0.1, 0.1, 0.1]))
    assert one is not None
    assert one.mean == one.minimum == one.maximum == 0.1
    assert one.deviation == 0


@pytest.mark.parametrize(
    ("value", "text"), [(8.0, "8"), (-0.0, "0"), (0.001, "0.001"), (1e20, "1e+20"), (math.inf, "inf"), (-2.5, "-2.5")]
)
def test_numbers_are_said_shortly(value: float, text: str) -> None:
    assert number_text(value) == text
