"""Migrations and tables say the same; what is finished is not scanned; the Watch."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from incl_provisioner import store, store_times
from incl_provisioner.app import PACKAGE
from incl_provisioner.domain.liveness import Watch
from incl_provisioner.tables import metadata, timers
from incl_provisioner.usage import USAGE
from incl_shared.db import make_engine
from incl_shared.migrations import assert_migrations_match, migrate


def test_migrations_make_the_tables(database_url: str) -> None:
    assert_migrations_match(database_url, metadata, PACKAGE)


def test_the_loops_read_live_rows_by_index(sqlite_url: str) -> None:
    migrate(sqlite_url, PACKAGE)
    engine = make_engine(sqlite_url, write=True, size=1)
    try:
        with engine.connect() as connection:
            for query, bound in (
                (store._LOAD_LIVE, ()),
                (store._STATES, ()),
                (USAGE, ()),
                (store._ON_NODE, ("x",)),
                (store._DUE, (1.0, 500)),
            ):
                text = str(query.compile(engine))
                count = text.count("?")
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", tuple((*bound, 1, 1, 1)[:count])).all()
                steps = " ".join(str(row[3]) for row in plan)
                assert "USING" in steps, (text, steps)
                assert "INDEX" in steps, (text, steps)
    finally:
        engine.dispose()


def test_timers_are_set_anew_and_come_in_their_order(sqlite_url: str) -> None:
    migrate(sqlite_url, PACKAGE)
    engine = make_engine(sqlite_url, write=True, size=1)
    try:
        with engine.begin() as connection:
            assert store.next_due(connection) is None
            store.arm(connection, "stop", "b", 20.0)
            store.arm(connection, "stop", "a", 10.0)
            store.arm(connection, "stop", "b", 5.0)
            assert [key for _, key, _ in store.due_timers(connection, 7.0)] == ["b"]
            store.disarm(connection, "stop", "b")
            assert store.next_due(connection) == 10.0
            store.hasten(connection, "stop")
            assert store.due_timers(connection, 1.0) == [("stop", "a", 0.0)]
            assert connection.execute(sa.text("SELECT count(*) FROM timers")).scalar() == 1
    finally:
        engine.dispose()


def test_silence_counts_only_while_we_hear() -> None:
    watch = Watch(lease_s=10, longest_s=5)
    assert watch.tick(0, healthy=True)
    watch.heard({"a": 1.0, "b": 1.0})
    for second in range(1, 11):
        assert not watch.tick(second, healthy=True)
    watch.heard({"a": 1.0, "b": 2.0})
    assert not watch.tick(11, healthy=True)
    assert watch.silent() == {"a": 11.0}
    watch.heard({"b": 2.0})
    for second in range(12, 40):
        watch.tick(second, healthy=False)
    assert watch.silent() == {}
    assert watch.tick(40, healthy=True)
    for second in range(41, 51):
        watch.tick(second, healthy=True)
    assert watch.silent() == {}
    watch.tick(51, healthy=True)
    assert watch.silent() == {"b": 11.0}


def test_a_silent_machine_is_written_to_now_and_then_before_it_is_lost() -> None:
    watch, asked = Watch(lease_s=30, longest_s=5), []
    watch.tick(0, healthy=True)
    for second in range(1, 31):
        watch.heard({"a": 1.0, "b": float(second)})
        watch.tick(second, healthy=True)
        asked += [(second, node) for node in sorted(watch.doubtful())]
    assert asked == [(16, "a"), (21, "a"), (26, "a")]


def test_a_machine_that_is_spared_is_silent_again_after_a_sixth_of_its_lease() -> None:
    watch = Watch(lease_s=12, longest_s=20)
    watch.tick(0, healthy=True)
    watch.heard({"a": 1.0, "b": 1.0})
    watch.tick(13, healthy=True)
    assert watch.silent() == {"a": 13.0, "b": 13.0}
    watch.spare({"a", "unknown"})
    watch.heard({"a": 1.0, "b": 1.0})
    assert watch.silent() == {"b": 13.0}
    watch.tick(14, healthy=True)
    assert set(watch.silent()) == {"b"}
    watch.tick(15.5, healthy=True)
    assert set(watch.silent()) == {"a", "b"}


def test_a_pause_of_ours_counts_as_nothing() -> None:
    watch = Watch(lease_s=10, longest_s=5)
    watch.tick(0, healthy=True)
    watch.heard({"a": 1.0})
    assert watch.tick(1000, healthy=True)
    assert watch.silent() == {}


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_is_set_shifts_what_was_timed_before_and_nothing_else(sqlite_url: str, jump: float) -> None:
    migrate(sqlite_url, PACKAGE)
    engine = make_engine(sqlite_url, write=True, size=1)
    before = 10_000.0
    now = before + jump
    try:
        with engine.begin() as connection:
            store.arm(connection, "stop", "overdue", before - 1.0)
            store.arm(connection, "stop", "soon", before + 1.0)
            store.arm(connection, "drain", "late", before + 90.0)
            store.arm(connection, "feasible", "hastened", 0.0)
            store.arm(connection, "stop", "timed since", now + 2.0)
            store.arm(connection, "drain", "timed since, late", now + 90.0)
            store_times.shift_times(connection, jump, now, 100.0)
            left = {row.key: row.due - now for row in connection.execute(sa.select(timers)) if row.due}
        assert left == {"overdue": -1.0, "soon": 1.0, "late": 90.0, "timed since": 2.0, "timed since, late": 90.0}
    finally:
        engine.dispose()
