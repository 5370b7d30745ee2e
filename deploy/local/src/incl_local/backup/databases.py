"""The databases of all services at one and the same moment, without stopping anybody for longer than that moment.

The barrier takes the write lock of every database, so that nothing is committed anywhere, begins a read on each, and
lets go. The reads go on in their snapshots for as long as the copying takes; the services write on.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from incl_local.backup.files import created
from incl_shared.archive.frames import BadFrames, compress, decompress
from incl_shared.errors import IntegrityError, UnavailableError

LOCK_S = 8.0
"""Less than the services wait for a locked database (`incl_shared.db.BUSY_MS`)."""
_PAGES = 4096


class Moment:
    """All databases at one moment: nothing is committed between `with` and `release`; then `copy` each."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._locks: list[sqlite3.Connection] = []
        self._readers: dict[Path, sqlite3.Connection] = {}
        self._since = 0.0
        self.held_s = 0.0
        """For how long nobody could write."""

    def __enter__(self) -> Self:
        self._since = time.monotonic()
        try:
            for path in self._paths:
                lock = sqlite3.connect(path, isolation_level=None, timeout=LOCK_S, check_same_thread=False)
                self._locks.append(lock)
                lock.execute("BEGIN IMMEDIATE")
            for path in self._paths:
                reader = sqlite3.connect(path, isolation_level=None, timeout=LOCK_S, check_same_thread=False)
                self._readers[path] = reader
                reader.execute("PRAGMA query_only=ON")
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            self._close()
            raise UnavailableError(
                "the databases cannot be read at one moment", cause=str(error), hint="try again; see: incl doctor"
            ) from error
        return self

    def release(self) -> None:
        """Let the services write again."""
        for lock in self._locks:
            lock.close()
        self._locks.clear()
        self.held_s = time.monotonic() - self._since

    def copy(self, path: Path, target: Path) -> None:
        """One database as it was, into a new file.

        Raises:
            OSError: it cannot be written (full).
            UnavailableError: it cannot be read.
        """
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        copied = sqlite3.connect(target)
        try:
            self._readers[path].backup(copied, pages=_PAGES)
        except sqlite3.Error as error:
            if error.sqlite_errorname == "SQLITE_FULL":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
            raise UnavailableError(f"{path.name} cannot be copied", cause=str(error), hint="incl doctor") from error
        finally:
            copied.close()

    def _close(self) -> None:
        for connection in (*self._locks, *self._readers.values()):
            connection.close()
        self._locks.clear()
        self._readers.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()


def pack(source: Path, target: Path) -> None:
    """Compress a file."""
    with source.open("rb") as file, created(target) as out:
        compress(file, out)


def unpack(source: Path, target: Path, size: int) -> None:
    """Decompress a file of so many bytes.

    Raises:
        IntegrityError: it is damaged, or has others.
    """
    with source.open("rb") as file, created(target) as out:
        try:
            decompress(file, out, size)
        except BadFrames as error:
            raise IntegrityError(f"{source.name} is damaged", cause=str(error)) from error


def check(path: Path) -> None:
    """Whether a database is sound.

    Raises:
        IntegrityError: it is not.
    """
    connection = sqlite3.connect(path)
    try:
        found = connection.execute("PRAGMA quick_check(3)").fetchall()
    except sqlite3.DatabaseError as error:
        raise IntegrityError(f"{path.name} is no sound database", cause=str(error)) from error
    finally:
        connection.close()
    if found != [("ok",)]:
        raise IntegrityError(f"{path.name} is no sound database", cause="; ".join(str(row[0]) for row in found))
