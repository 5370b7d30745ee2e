"""The node's journal of reports: numbered from 1 without holes, said once each, across restarts of the agent.

SQLite in one thread of its own. Reports that come together are committed together (one sync), and a report with a key
that was journaled before is not journaled again: a job that is picked up after a crash simply says all of its life.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from incl_shared.reports import AnyReport, Report
from incl_shared.tasks import within

T = TypeVar("T")
_Pending = tuple[str, AnyReport, float, "asyncio.Future[None]"]
_AGAIN_S = 0.5
_log = logging.getLogger("incl.agent")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS reports (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, payload BLOB, sent INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS unsent ON reports (seq) WHERE sent = 0;
"""
"""sent: 0 no, 1 yes, 2 yes, and to be sent again."""
_SAID = "SELECT 1 FROM reports WHERE key = ?"
_LEFT = "SELECT 1 FROM reports WHERE key >= ? AND key < ?"


@dataclass(frozen=True)
class Entry:
    """A journaled report as it goes onto the bus."""

    seq: int
    message_id: str
    payload: bytes


class Journal:
    """All methods are called in the event loop; the file is touched in the journal's thread only."""

    def __init__(self, path: Path, node: str, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._node = node
        self._now = now
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._pending: list[_Pending] = []
        self._closed = asyncio.Event()
        self.trouble = ""
        """Why reports cannot be written now, else empty."""
        self._forgotten: list[str] = []
        self._notes: dict[str, str] = {}
        self._committing: asyncio.Task[None] | None = None
        self._connection: sqlite3.Connection | None = None
        self.name = ""
        self.starts = 0
        """How often a journal was opened in this folder."""
        self.waiting = 0
        """Reports that are journaled and not confirmed."""
        self.fresh = asyncio.Event()
        """Set when there is something to send."""

    async def open(self) -> None:
        """Open the file, or begin a new one with a new name."""
        await self._run(self._open)
        self.fresh.set()

    async def close(self) -> None:
        """Commit what is pending and close. What cannot be written by now is said again by the next agent."""
        self._closed.set()
        while self._committing is not None and not self._committing.done():
            await asyncio.wait([self._committing])
        with contextlib.suppress(sqlite3.OperationalError):
            await self._run(lambda: self._confirm([]))
        await self._run(self._close)
        self._thread.shutdown()

    def append(self, key: str, body: AnyReport) -> asyncio.Future[None]:
        """Journal a report, in the order of the calls; the future is done once it is on disk.

        Another report with the same key is ignored.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_note)
        self._pending.append((key, body, self._now(), done))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all())
        return done

    async def unsent(self, limit: int = 100) -> list[Entry]:
        """The oldest reports that were not confirmed yet."""
        return await self._run(lambda: self._unsent(limit))

    async def has(self, key: str) -> bool:
        """Whether a report with this key was journaled and is not forgotten."""
        return await self._run(lambda: self._db.execute(_SAID, (key,)).fetchone() is not None)

    async def confirm(self, seqs: list[int]) -> None:
        """These are stored by the bus."""
        await self._run(lambda: self._confirm(seqs))

    async def say_again(self) -> None:
        """Send once more what was said of the jobs that are here: the bus may have lost it before anybody read it."""
        await self._run(self._unsend)
        self.fresh.set()

    def forget(self, job: str) -> None:
        """Drop the keys '<job>:…' of a job whose folder is gone, together with the next reports."""
        self._forgotten.append(job)

    def note(self, name: str, value: str) -> None:
        """Keep a value beside the reports, together with the next of them: a crash may forget it."""
        self._notes[name] = value

    async def get(self, name: str) -> str | None:
        """A value kept beside the reports (the last generation seen)."""
        return await self._run(lambda: self._get(name))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _commit_all(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                await self._run(partial(self._insert, [item[:3] for item in batch]))
            except sqlite3.Error as error:
                if isinstance(error, sqlite3.OperationalError) and not self._closed.is_set():
                    await self._wait(batch, error)
                    continue
                for *_, done in batch:
                    if not done.done():
                        done.set_exception(error)
                continue
            self.trouble = ""
            self.fresh.set()
            for *_, done in batch:
                if not done.done():
                    done.set_result(None)

    async def _wait(self, batch: list[_Pending], error: sqlite3.Error) -> None:
        """The disk is full, or the file cannot be written now: what was to be said is kept, in its order."""
        self._pending = batch + self._pending
        if not self.trouble:
            _log.error("reports cannot be journaled now, and wait: %s; make room on the disk of %s", error, self._path)
        self.trouble = str(error)
        with contextlib.suppress(TimeoutError):
            await within(_AGAIN_S, self._closed.wait())

    # in the journal's thread

    @property
    def _db(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the journal is closed")
        return self._connection

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        self._connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + _SCHEMA)
        name = self._get("journal")
        if name is None:
            name = uuid.uuid4().hex
            self._put("journal", name)
        self.name = name
        self.starts = int(self._get("starts") or 0) + 1
        self._put("starts", str(self.starts))
        self.waiting = self._count_unsent()

    def _count_unsent(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM reports WHERE sent = 0").fetchone()[0])

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _insert(self, items: list[tuple[str, AnyReport, float]]) -> None:
        with _Transaction(self._db):
            seq = int(self._get("seq") or 0)
            for key, body, moment in items:
                if self._db.execute(_SAID, (key,)).fetchone():
                    continue
                seq += 1
                report = Report(node=self._node, journal=self.name, seq=seq, time=moment, body=body)
                self._db.execute(
                    "INSERT INTO reports VALUES (?, ?, ?, 0)", (seq, key, report.model_dump_json().encode())
                )
            self._put("seq", str(seq))
            self._settle()
        self.waiting = self._count_unsent()

    def _unsent(self, limit: int) -> list[Entry]:
        rows = self._db.execute("SELECT seq, payload FROM reports WHERE sent != 1 ORDER BY seq LIMIT ?", (limit,))
        return [Entry(seq, f"{self._node}:{self.name}:{seq}", payload) for seq, payload in rows]

    def _confirm(self, seqs: list[int]) -> None:
        with _Transaction(self._db):
            self._db.executemany("UPDATE reports SET sent = 1 WHERE seq = ?", [(seq,) for seq in seqs])
            self._settle()
        self.waiting = self._count_unsent()

    def _unsend(self) -> None:
        with _Transaction(self._db):
            self._db.execute("UPDATE reports SET sent = 2 WHERE sent = 1 AND payload IS NOT NULL")

    def _settle(self) -> None:
        """Within a transaction: what was put off until one came."""
        forgotten, self._forgotten = dict.fromkeys(self._forgotten), []
        for name, value in list(self._notes.items()):
            self._put(name, value)
        for job in [*forgotten, "node"]:
            # ';' follows ':', so that this is every key that begins with '<job>:'
            bounds = (f"{job}:", f"{job};")
            self._db.execute("DELETE FROM reports WHERE key >= ? AND key < ? AND sent != 0", bounds)
            if job != "node" and self._db.execute(_LEFT, bounds).fetchone():
                self._forgotten.append(job)

    def _get(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _put(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))


def _note(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        _log.error("a report could not be journaled: %s", error)


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._connection.execute("COMMIT" if kind is None else "ROLLBACK")
