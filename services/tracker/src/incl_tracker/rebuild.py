"""Rebuilding the projection from the history: what events say of experiments is made anew, in the database as it is.

An experiment is one transaction (`rebuilding`), so that a rebuild that is killed leaves each as it was or as it is to
be, and can be run again. The tracker must not run meanwhile.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from incl_shared.ids import is_id
from incl_tracker import tables as t
from incl_tracker.history import PLACE, Said
from incl_tracker.rebuilding import NotWhole, Replay, rebuild_one

if TYPE_CHECKING:
    from incl_shared.db import Database, Transaction

_SCHEMA = """
CREATE TABLE said (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL, subject TEXT NOT NULL,
                   headers TEXT NOT NULL, payload BLOB NOT NULL);
"""


class Spool:
    """Events in a file of their own, each once, by aggregate: more than memory holds, in any order of coming."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.executescript(f"PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF; {_SCHEMA}")

    def add(self, events: Iterable[Said]) -> None:
        """Add what is not there yet."""
        rows = (
            (said.id, said.subject.rpartition(".")[2], said.subject, json.dumps(said.headers), said.payload)
            for said in events
        )
        statement = "INSERT OR IGNORE INTO said (id, key, subject, headers, payload) VALUES (?, ?, ?, ?, ?)"
        self._connection.execute("BEGIN")
        self._connection.executemany(statement, rows)
        self._connection.execute("COMMIT")

    def index(self) -> int:
        """All are there. Returns how many."""
        self._connection.execute("CREATE INDEX IF NOT EXISTS keys ON said (key, n)")
        return int(self._connection.execute("SELECT count(*) FROM said").fetchone()[0])

    def each(self) -> Iterator[str]:
        """Everything that something was said of."""
        last = ""
        while True:
            rows = self._connection.execute(
                "SELECT DISTINCT key FROM said WHERE key > ? ORDER BY key LIMIT 1000", (last,)
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield from (row[0] for row in rows)

    def of(self, key: str) -> list[Said]:
        """What was said of one, in its order."""
        rows = self._connection.execute(
            "SELECT id, subject, headers, payload FROM said WHERE key = ? ORDER BY n", (key,)
        )
        return [Said(row[0], row[1], json.loads(row[2]), row[3]) for row in rows]

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


@dataclass
class Rebuilt:
    """What became of the experiments. changed: those whose rows are others now. kept: left as they were, and why."""

    events: int = 0
    same: int = 0
    changed: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    """Those that were not there."""
    kept: dict[str, str] = field(default_factory=dict)


async def rebuild(
    database: Database, spool: Spool, *, dry: bool = False, say: Callable[[int], None] = lambda _: None
) -> Rebuilt:
    """Make the projection anew. dry: only see what would change. say: told how many are done, now and then.

    Raises:
        DatabaseUnavailable: it cannot be written now; what was done is done.
    """
    done = Rebuilt(events=spool.index())
    replay = Replay()
    count = 0
    for key in spool.each():
        if key == PLACE or not is_id(key):
            continue
        said = spool.of(key)

        def one(tx: Transaction, key: str = key, said: list[Said] = said) -> str:
            return rebuild_one(tx, replay, key, said, dry=dry)

        try:
            outcome = await database.write(one)
        except NotWhole as reason:
            done.kept[key] = str(reason)
        else:
            {"changed": done.changed, "made": done.made}.get(outcome, []).append(key)
            done.same += outcome == "same"
        count += 1
        if count % 500 == 0:
            say(count)
    for key in await database.read(_known):
        if key not in done.kept and not spool.of(key):
            done.kept[key] = "the history has nothing of it"
    return done


def _known(connection: sa.Connection) -> list[str]:
    e = t.experiments.c
    return list(connection.execute(sa.select(e.id).where(e.known, e.purged.is_(None)).order_by(e.id)).scalars())
