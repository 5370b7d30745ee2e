"""Migrations inside a package, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from incl_shared.bus.tables import TABLES, common_tables
from incl_shared.db import DatabaseUnavailable, make_engine, migrate
from incl_shared.errors import InternalError
from incl_shared.migrations import assert_migrations_match, current_revision, differences

TABLES_PY = """
import sqlalchemy as sa
from incl_shared.bus.tables import common_tables
metadata = sa.MetaData()
common_tables(metadata)
things = sa.Table(
    "things", metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(40), nullable=False),
    {more}
)
"""
ENV_PY = """
from incl_shared.migrations import run_env
from {package}.tables import metadata

run_env(metadata)
"""
FIRST = """
import sqlalchemy as sa
from alembic import op
from incl_shared.bus.tables import create_common_tables, create_sent_table, drop_common_tables, drop_sent_table

revision: str = "0001"
down_revision: str | None = None

def upgrade():
    create_common_tables(op)
    create_sent_table(op)
    op.create_table(
        "things", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(40), nullable=False)
    )
    {more}

def downgrade():
    op.drop_table("things")
    drop_common_tables(op)
    drop_sent_table(op)
"""
SECOND = """
import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'

def upgrade():
    {before}
    with op.batch_alter_table("things") as batch:
        batch.add_column(sa.Column("size", sa.Integer, nullable=True))
    {more}

def downgrade():
    pass
"""


class Package:
    """A package with tables and migrations, in a folder with a blank in its name."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.folder = root / name
        (self.folder / "migrations" / "versions").mkdir(parents=True)
        (self.folder / "__init__.py").write_text("")
        (self.folder / "migrations" / "env.py").write_text(ENV_PY.format(package=name))
        self.tables()
        self.first()

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that can import it."""
        path = os.pathsep.join([str(self.folder.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        return os.environ | {"PYTHONPATH": path.rstrip(os.pathsep)}

    def tables(self, more: str = "") -> sa.MetaData:
        (self.folder / "tables.py").write_text(TABLES_PY.format(more=more))
        importlib.invalidate_caches()
        sys.modules.pop(f"{self.name}.tables", None)
        found: sa.MetaData = importlib.import_module(f"{self.name}.tables").metadata
        return found

    def first(self, more: str = "pass") -> None:
        (self.folder / "migrations" / "versions" / "0001_first.py").write_text(FIRST.format(more=more))

    def second(self, more: str = "pass", before: str = "pass") -> None:
        text = SECOND.format(more=more, before=before)
        (self.folder / "migrations" / "versions" / "0002_second.py").write_text(text)


@pytest.fixture
def package(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Package]:
    root = tmp_path / "with a blank"
    root.mkdir()
    name = f"sample_{abs(hash(request.node.name)) % 10**9}"
    sys.path.insert(0, str(root))
    yield Package(root, name)
    sys.path.remove(str(root))
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]


def columns(url: str, table: str) -> list[str]:
    engine = make_engine(url, write=True, size=1)
    try:
        with engine.connect() as connection:
            return [column["name"] for column in sa.inspect(connection).get_columns(table)]
    finally:
        engine.dispose()


def test_an_empty_database_becomes_the_newest(database_url: str, package: Package) -> None:
    assert current_revision(database_url) is None
    assert_migrations_match(database_url, package.tables(), package.name)
    assert current_revision(database_url) == "0001"
    package.second()
    migrate(database_url, package.name)
    assert current_revision(database_url) == "0002"
    assert columns(database_url, "things") == ["id", "name", "size"]
    assert differences(database_url, package.tables('sa.Column("size", sa.Integer),')) == []


def test_a_difference_between_tables_and_migrations_fails(database_url: str, package: Package) -> None:
    metadata = package.tables('sa.Column("forgotten", sa.Integer),')
    with pytest.raises(AssertionError, match="forgotten"):
        assert_migrations_match(database_url, metadata, package.name)


def test_a_migration_that_fails_leaves_nothing(database_url: str, package: Package) -> None:
    migrate(database_url, package.name)
    package.second(more='raise RuntimeError("in the middle")')
    with pytest.raises(RuntimeError, match="middle"):
        migrate(database_url, package.name)
    assert current_revision(database_url) == "0001"
    assert columns(database_url, "things") == ["id", "name"]


async def test_several_processes_at_once(database_url: str, package: Package) -> None:
    migrate(database_url, package.name)
    package.second()
    code = "import sys; from incl_shared.db import migrate; migrate(sys.argv[1], sys.argv[2])"
    command = [sys.executable, "-c", code, database_url, package.name]
    running = [subprocess.Popen(command, env=package.environment, stderr=subprocess.PIPE) for _ in range(2)]
    for process in running:
        _, error = await asyncio.to_thread(process.communicate, None, 60)
        assert process.returncode == 0, error.decode()
    assert current_revision(database_url) == "0002"


async def test_several_services_of_one_process_at_once(tmp_path: Path, package: Package) -> None:
    """Alembic's context is global: without care one service's migrations run on another one's database."""
    package.second(before='__import__("time").sleep(0.1)')
    urls = [f"sqlite:///{tmp_path / f'{number}.db'}" for number in range(4)]
    await asyncio.gather(*(asyncio.to_thread(migrate, url, package.name) for url in urls for _ in range(2)))
    assert [current_revision(url) for url in urls] == ["0002"] * 4
    assert all(columns(url, "things") == ["id", "name", "size"] for url in urls)


def test_nothing_to_do_is_quick_and_needs_no_alembic(sqlite_url: str, package: Package) -> None:
    migrate(sqlite_url, package.name)
    code = (
        "import sys, incl_shared.migrations as m; m.migrate(sys.argv[1], sys.argv[2]);"
        "sys.exit('alembic' in sys.modules and 'alembic was imported')"
    )
    command = [sys.executable, "-c", code, sqlite_url, package.name]
    done = subprocess.run(command, env=package.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    best = min(_timed(sqlite_url, package.name) for _ in range(10))
    assert best < 0.02


def _timed(url: str, package: str) -> float:
    start = time.perf_counter()
    migrate(url, package)
    return time.perf_counter() - start


def test_a_database_from_the_future_is_refused(database_url: str, package: Package) -> None:
    package.second()
    migrate(database_url, package.name)
    (package.folder / "migrations" / "versions" / "0002_second.py").unlink()
    with pytest.raises(InternalError, match="0002") as caught:
        migrate(database_url, package.name)
    assert "newer" in caught.value.hint


def test_two_heads_are_refused(sqlite_url: str, package: Package) -> None:
    package.second()
    text = SECOND.format(more="pass", before="pass").replace("'0002'", "'0003'")
    (package.folder / "migrations" / "versions" / "0003_third.py").write_text(text)
    with pytest.raises(InternalError, match="2 heads"):
        migrate(sqlite_url, package.name)


def test_a_database_that_is_away(package: Package) -> None:
    with pytest.raises(DatabaseUnavailable):
        migrate("postgresql+psycopg://nobody@127.0.0.1:1/none", package.name)
    with pytest.raises(InternalError, match="no migrations"):
        migrate("sqlite:///x.db", "json")


def test_the_common_tables_are_taken_over() -> None:
    metadata = sa.MetaData()
    common_tables(metadata)
    assert set(metadata.tables) == {table.name for table in TABLES}
