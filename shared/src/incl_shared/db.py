"""The database of a service: one writer thread, a few reader threads, SQLite or PostgreSQL behind the same port.

Every write is a function of a `Transaction` and runs in the one writer thread, so that writers never wait for each
other's locks and never meet a busy SQLite. Writes that wait for their turn together share one commit, each in a
savepoint of its own. Reads run beside it in snapshots. Rows cross threads as plain values.

SQLite: write-ahead log, synchronous=FULL (a commit is on disk), foreign keys, BEGIN IMMEDIATE for writes.
PostgreSQL: psycopg 3, read committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from incl_shared.bus import envelope as wire
from incl_shared.bus.tables import outbox
from incl_shared.clock import Clock, SystemClock
from incl_shared.errors import UnavailableError
from incl_shared.events.base import consequence_id

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

    from incl_shared.events.base import Event

T = TypeVar("T")
_log = logging.getLogger("incl.db")
_ONE = sa.text("SELECT 1")
READERS = 3
BUSY_MS = 10_000
HANGING_MS = 10_000
"""PostgreSQL ends a transaction whose process does nothing for so long: what it holds is wanted by others."""
GROUP = 64
"""The most writes of one commit."""
GROUP_S = 0.02
"""Seconds of work after which no further write joins a commit."""


class DatabaseUnavailable(UnavailableError):  # noqa: N818
    """The database cannot be used now (away, locked, disk full). What was asked is not done, and may be tried again."""


class Transaction:
    """One transaction in the writer thread. Use it only there, and only until the function returns."""

    def __init__(self, connection: sa.Connection, clock: Clock) -> None:
        self.connection = connection
        self.clock = clock
        self._callbacks: list[Callable[[], None]] = []
        self.emitted = 0

    def emit(
        self,
        event: Event,
        *,
        project: str,
        version: int,
        cause: tuple[object, ...] = (),
        user: str | None = None,
    ) -> str:
        """Put an event into the outbox: it is on the bus soon after the commit, and never without it.

        version: the aggregate's version after the event. cause: what made it, as parts of its id; the id follows from
        type, aggregate and cause (the version where there is none), so that a repeat is the same event and is sent
        once. user: for events that are requests.

        Returns:
            the event's id.
        """
        event_id = consequence_id(event, *(cause or ("version", version)))
        now = self.clock.now()
        said = wire.Envelope(
            id=event_id, source="", type=event.type_name(), subject=event.key, time=now, version=version,
            traceparent=wire.child_trace(),
        )  # fmt: skip
        payload, headers = wire.encode(event, said)
        row = {
            "event_id": event_id,
            "subject": wire.subject_of(event, project=project, user=user),
            "payload": payload,
            "headers": json.dumps(headers),
            "created": now,
        }
        self.connection.execute(insert_ignore(self.connection, outbox), row)
        self.emitted += 1
        return event_id

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call this in the event loop once all is committed; never when it is not. It must not raise."""
        self._callbacks.append(callback)

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What happens inside is undone alone when it raises: rows, events and callbacks."""
        callbacks, emitted = len(self._callbacks), self.emitted
        try:
            with nested(self.connection):
                yield
        except BaseException:
            del self._callbacks[callbacks:]
            self.emitted = emitted
            raise


@contextmanager
def nested(connection: sa.Connection) -> Iterator[None]:
    """A savepoint. What is raised inside comes out as it is, unless the whole transaction is gone: then an outage.

    (SQLite undoes the transaction by itself on a full disk; the savepoint is not there any more then.)
    """
    inside: BaseException | None = None
    try:
        with connection.begin_nested():
            try:
                yield
            except BaseException as error:
                inside = error
                raise
    except BaseException as error:
        if error is inside or (inside is not None and is_outage(inside)):
            raise inside from inside.__cause__
        raise DatabaseUnavailable("a part of a transaction could not be ended", cause=str(error)) from error


@dataclass(eq=False)
class _Write:
    """A write that waits for the writer thread, and what became of it. future: its caller's, of the caller's loop."""

    function: Callable[[Transaction], Any]
    future: asyncio.Future[Any]
    trace: str | None
    transaction: Transaction | None = None
    result: Any = None
    error: BaseException | None = None

    def run(self, connection: sa.Connection, clock: Clock) -> None:
        """Within a transaction, or a savepoint of it."""
        token = wire.current_trace.set(self.trace)
        try:
            self.transaction = Transaction(connection, clock)
            self.result = self.function(self.transaction)
        finally:
            wire.current_trace.reset(token)

    def tell(self) -> None:
        """Give the caller the answer, in his loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


def insert_ignore(connection: sa.Connection, table: sa.Table) -> Any:
    """INSERT … ON CONFLICT DO NOTHING, in the dialect at hand. The result's rowcount says how many rows are new."""
    return _insert_ignore(connection.dialect.name, table)


@functools.cache
def _insert_ignore(dialect: str, table: sa.Table) -> Any:
    """Made once a table: a statement that is made anew costs more than the row that it inserts."""
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_pg

        return insert_pg(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    from sqlalchemy.dialects.sqlite import insert as insert_lite

    return insert_lite(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


class Database:
    """A service's own database. `start` before use, `stop` at the end."""

    def __init__(self, url: str, *, clock: Clock | None = None, readers: int = READERS, busy_ms: int = BUSY_MS) -> None:
        self.url = url
        self._busy_ms = busy_ms
        self.clock: Clock = clock or SystemClock()
        self._readers = readers
        self._writer: ThreadPoolExecutor | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._write_engine: sa.Engine | None = None
        self._read_engine: sa.Engine | None = None
        self._waiting: deque[_Write] = deque()
        self._commit_listeners: list[Callable[[], None]] = []

    @property
    def dialect(self) -> str:
        """'sqlite' or 'postgresql'."""
        return sa.make_url(self.url).get_backend_name()

    def on_emit(self, listener: Callable[[], None]) -> None:
        """Call this in the event loop after each commit that put events into the outbox (the relay's wake-up)."""
        self._commit_listeners.append(listener)

    async def start(self) -> None:
        """Open it.

        Raises:
            DatabaseUnavailable: when it cannot be reached.
        """
        if self._writer is not None:
            return
        self._write_engine = make_engine(self.url, write=True, size=1, busy_ms=self._busy_ms, binary=True)
        self._read_engine = make_engine(self.url, write=False, size=self._readers, binary=True)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="incl-db-write")
        self._pool = ThreadPoolExecutor(self._readers, thread_name_prefix="incl-db-read")
        try:
            await self.write(lambda tx: tx.connection.execute(_ONE).scalar())
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Let what runs end, and close it."""
        writer, pool = self._writer, self._pool
        self._writer = self._pool = None
        for executor in (writer, pool):
            if executor is not None:
                await asyncio.to_thread(executor.shutdown, wait=True)
        for engine in (self._read_engine, self._write_engine):
            if engine is not None:
                engine.dispose()
        self._write_engine = self._read_engine = None

    async def write(self, function: Callable[[Transaction], T]) -> T:
        """Run a function in one transaction in the writer thread: committed when it returns, undone when it raises.

        A caller that is cancelled meanwhile gives up the answer; the transaction is completed all the same.

        Raises:
            DatabaseUnavailable: nothing is done.
        """
        executor, engine = self._writer, self._write_engine
        if executor is None or engine is None:
            raise DatabaseUnavailable("the database is not open")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(function, future, wire.current_trace.get()))
        executor.submit(self._turn, engine)
        return await future

    def _turn(self, engine: sa.Engine) -> None:
        """Run what waits, in the writer thread. Each write brings a turn; one that ran with others leaves it empty."""
        writes = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
        begun: list[_Write] = []
        try:
            if writes:
                with outage_named(), engine.begin() as connection:
                    self._run(connection, writes, begun)
        except BaseException as error:  # noqa: BLE001 - the edge: the callers get it
            if not begun:
                begun = _not_cancelled(writes)
                writes.clear()
            _fail(begun, error)
        self._waiting.extendleft(reversed(writes))
        for loop in {write.future.get_loop() for write in begun}:
            self._told(loop, [write for write in begun if write.future.get_loop() is loop])

    def _told(self, loop: asyncio.AbstractEventLoop, writes: list[_Write]) -> None:
        """What follows from these, by one call into their loop: first the callbacks, then the answers."""
        done = [write.transaction for write in writes if write.transaction is not None and write.error is None]
        calls = [call for transaction in done for call in transaction._callbacks]  # noqa: SLF001
        if any(transaction.emitted for transaction in done):
            calls += self._commit_listeners
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_call_all, [*calls, *(write.tell for write in writes)])

    def _run(self, connection: sa.Connection, writes: list[_Write], begun: list[_Write]) -> None:
        """Move writes to `begun` and run them; a single one as it is, several with a savepoint each."""
        together, until = len(writes) > 1, time.monotonic() + GROUP_S
        while writes and (not begun or time.monotonic() < until):
            write = writes.pop(0)
            if write.future.cancelled():
                continue
            begun.append(write)
            if not together:
                write.run(connection, self.clock)
                continue
            try:
                with nested(connection):
                    write.run(connection, self.clock)
            except Exception as error:
                write.error = error
                if is_outage(error):
                    raise

    async def read(self, function: Callable[[sa.Connection], T]) -> T:
        """Run a function on a connection in a reader thread: one snapshot, nothing can be written.

        Raises:
            DatabaseUnavailable: when it cannot be read now.
        """
        executor, engine = self._pool, self._read_engine
        if executor is None or engine is None:
            raise DatabaseUnavailable("the database is not open")
        return await asyncio.get_running_loop().run_in_executor(executor, _read, engine, function)


def _not_cancelled(writes: list[_Write]) -> list[_Write]:
    return [write for write in writes if not write.future.cancelled()]


def _fail(writes: list[_Write], error: BaseException) -> None:
    """All of these are undone; a write that had raised by itself keeps its own error."""
    for write in writes:
        if write.error is None or is_outage(write.error):
            write.error = error


def _read(engine: sa.Engine, function: Callable[[sa.Connection], T]) -> T:
    with outage_named(reading=True), engine.connect() as connection:
        return function(connection)


def _call_all(callbacks: list[Callable[[], None]]) -> None:
    for callback in callbacks:
        try:
            callback()
        except Exception:  # noqa: BLE001 - the edge: one callback's fault is not the next one's
            _log.exception("a callback after a commit failed")


def make_engine(url: str, *, write: bool, size: int, busy_ms: int = BUSY_MS, binary: bool = False) -> sa.Engine:
    """An engine as `Database` uses it (also for migrations and tests).

    binary: PostgreSQL sends results in binary, blobs as they are; SQLAlchemy's reflection cannot read those.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        options = {} if write else {"postgresql_readonly": True, "isolation_level": "REPEATABLE READ"}
        hanging = f"-c idle_in_transaction_session_timeout={HANGING_MS}"
        return sa.create_engine(
            parsed, pool_size=size, max_overflow=0, pool_pre_ping=True, execution_options=options,
            connect_args={"connect_timeout": 5, "options": hanging, "cursor_factory": _cursor(binary)},
        )  # fmt: skip
    engine = sa.create_engine(
        parsed, poolclass=sa.QueuePool, pool_size=size, max_overflow=0,
        connect_args={"check_same_thread": False, "timeout": busy_ms / 1000},
    )  # fmt: skip

    def on_connect(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={busy_ms}"):
            cursor.execute(f"PRAGMA {pragma}")
        if not write:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    sa.event.listen(engine, "connect", on_connect)
    sa.event.listen(engine, "begin", on_begin)
    return engine


def _cursor(binary: bool) -> Any:
    from incl_shared.postgres import BinaryCursor

    return BinaryCursor if binary else None


@contextmanager
def outage_named(*, reading: bool = False) -> Iterator[None]:
    """Turn what the driver says about an outage into `DatabaseUnavailable`; faults of the code pass as they are.

    A database that has become read-only is an outage to writers; to a reader it says that he tried to write.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnavailable("no connection to the database is free", cause=str(error)) from error
    except DBAPIError as error:
        if not is_outage(error) or (reading and _is_read_only(error)):
            raise
        raise DatabaseUnavailable("the database cannot be used now", cause=str(error.orig)) from error


_LITE_OUTAGES = ("BUSY", "LOCKED", "IOERR", "FULL", "CANTOPEN", "READONLY", "NOMEM", "CORRUPT", "NOTADB", "PROTOCOL")
_PG_OUTAGES = ("08", "53", "55P03", "57P", "58", "40001", "40P01", "25006", "25P03")


def is_outage(error: BaseException) -> bool:
    """Whether the database, and not the statement, is at fault."""
    if isinstance(error, DatabaseUnavailable | PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    name = getattr(error.orig, "sqlite_errorname", None)
    if name is not None:
        return any(name.startswith(f"SQLITE_{mark}") for mark in _LITE_OUTAGES)
    if not isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.InternalError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state.startswith(_PG_OUTAGES)


def _is_read_only(error: DBAPIError) -> bool:
    name = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None)
    return name in ("SQLITE_READONLY", "25006")


def migrate(url: str, package: str) -> None:
    """Bring a database to the newest migration of `<package>.migrations`; see `incl_shared.migrations`."""
    from incl_shared.migrations import migrate as run

    run(url, package)
