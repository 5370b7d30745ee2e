"""Alembic inside the packages: `<package>/migrations/{env.py,versions/*.py}`.

A service's env.py is

    from incl_shared.migrations import run_env
    from incl_tracker.tables import metadata

    run_env(metadata)

`migrate` looks first, in a few milliseconds and without Alembic, whether there is anything to do.
"""

from __future__ import annotations

import importlib.util
import re
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from incl_shared.db import make_engine, outage_named
from incl_shared.errors import InternalError

if TYPE_CHECKING:
    from alembic.config import Config

_REVISION = re.compile(r"""^revision(?:\s*:[^=]+)?\s*=\s*["']([^"']+)["']""", re.MULTILINE)
_DOWN = re.compile(r"""^down_revision(?:\s*:[^=]+)?\s*=\s*(.+)$""", re.MULTILINE)
_QUOTED = re.compile(r"""["']([^"']+)["']""")
_LOCK = 0x494E434C
_ALEMBIC = threading.Lock()
"""Alembic keeps its context in module globals: one migration at a time in a process."""


def migrate(url: str, package: str) -> None:
    """Bring a database to the newest migration of a package. Blocking; safe in a thread, and in several processes.

    Raises:
        DatabaseUnavailable: when the database cannot be reached.
        InternalError: when the package has no migrations, or the database is newer than the package.
    """
    folder = migrations_folder(package)
    head = head_revision(folder)
    with outage_named():
        found = current_revision(url)
        if found == head:
            return
        if found is not None and found not in _revisions(folder):
            raise InternalError(
                f"the database of {package} is at {found}, which this version does not know",
                hint="run the newer version that made it, or restore a backup",
            )
        with _ALEMBIC:
            _upgrade(url, folder)


def migrations_folder(package: str) -> Path:
    """Where a package keeps its migrations."""
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        folder = Path(place) / "migrations"
        if (folder / "env.py").is_file():
            return folder
    raise InternalError(f"{package} has no migrations")


def _revisions(folder: Path) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted((folder / "versions").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        revision, down = _REVISION.search(text), _DOWN.search(text)
        if revision is not None:
            if revision[1] in found:
                raise InternalError(f"{folder.parent.name}: two migrations are {revision[1]}")
            found[revision[1]] = tuple(_QUOTED.findall(down[1])) if down is not None else ()
    return found


def head_revision(folder: Path) -> str:
    """The newest revision, read from the files alone.

    Raises:
        InternalError: when there is none, or several, or two have one name.
    """
    revisions = _revisions(folder)
    heads = set(revisions) - {down for parents in revisions.values() for down in parents}
    if len(heads) != 1:
        raise InternalError(f"{folder.parent.name}: migrations have {len(heads)} heads: {sorted(heads)}")
    return heads.pop()


def current_revision(url: str) -> str | None:
    """The revision of a database, or none for an empty one."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_revision(parsed.database or "")
    engine = make_engine(url, write=True, size=1)
    try:
        with engine.connect() as connection:
            if connection.execute(sa.text("SELECT to_regclass('alembic_version')")).scalar() is None:
                return None
            value = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
            return None if value is None else str(value)
    finally:
        engine.dispose()


def _sqlite_revision(path: str) -> str | None:
    if not Path(path).is_file():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return None
    connection = sqlite3.connect(path, timeout=10)
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise sa.exc.OperationalError(None, None, error) from error
    finally:
        connection.close()
    return None if row is None else str(row[0])


def _config(folder: Path) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    return config


def _upgrade(url: str, folder: Path) -> None:
    from alembic import command

    config, engine = _config(folder), make_engine(url, write=True, size=1)
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def run_env(metadata: sa.MetaData) -> None:
    """What a package's env.py does: all migrations in the one transaction of the connection that is given."""
    from alembic import context

    connection: sa.Connection | None = context.config.attributes.get("connection")
    if connection is None:
        raise InternalError("migrations are run by incl_shared.migrations.migrate")
    context.configure(
        connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True,
        compare_type=True,
    )  # fmt: skip
    context.run_migrations()


def differences(url: str, metadata: sa.MetaData) -> list[Any]:
    """What autogenerate would still change in a database: empty when migrations and tables say the same."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    engine = make_engine(url, write=True, size=1)
    try:
        with engine.begin() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": metadata})
            return list(compare_metadata(context, metadata))
    finally:
        engine.dispose()


def assert_migrations_match(url: str, metadata: sa.MetaData, package: str) -> None:
    """For tests: migrate an empty database, and fail when the tables in the code are not what came out."""
    migrate(url, package)
    found = differences(url, metadata)
    if found:
        raise AssertionError(f"the migrations of {package} and its tables differ: {found}")
