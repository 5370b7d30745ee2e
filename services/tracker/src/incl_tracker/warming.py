"""Columns of lists are read into memory before somebody asks: the first question of a metric would wait for a disk."""

from __future__ import annotations

import sqlalchemy as sa

from incl_shared.db import Database
from incl_tracker import tables as t
from incl_tracker.domain.selecting import COLUMN, Key
from incl_tracker.store_columns import HIDDEN, Cache, Index

SHARE = 0.7
"""Of the cache's limit; the rest is for what is really asked."""
_ALWAYS: tuple[Key, ...] = (HIDDEN, (COLUMN, "id"), (COLUMN, "created"), (COLUMN, "status"))
_MOST = 500
"""Columns of one project."""


class Warmer:
    """Fills a cache once after a start: the largest projects first, of each the metrics that it knows."""

    def __init__(self, database: Database, cache: Cache) -> None:
        self._database = database
        self._cache = cache
        self._left: list[tuple[str, Key]] | None = None

    async def step(self) -> bool:
        """Read one column; false: all are there, or the cache is full enough."""
        if self._left is None:
            self._left = await self._database.read(_wanted)
        if not self._left or self._cache.size > SHARE * self._cache.limit:
            self._left = []
            return False
        project, key = self._left.pop(0)
        await self._database.read(lambda connection: self._read(connection, project, key))
        return True

    def _read(self, connection: sa.Connection, project: str, key: Key) -> None:
        for span in Index(connection, project, self._cache).spans():
            span.many(key)


def _wanted(connection: sa.Connection) -> list[tuple[str, Key]]:
    """(project, column) of all that may be read, what matters most first."""
    b, m = t.column_blocks.c, t.known_metrics.c
    sizes = sa.select(b.project).group_by(b.project).order_by(sa.func.sum(b.count).desc(), b.project)
    wanted: list[tuple[str, Key]] = []
    for project in connection.execute(sizes).scalars().all():
        metrics = sa.select(m.metric).where(m.project == project).order_by(m.metric).limit(_MOST)
        wanted += [(project, key) for key in _ALWAYS]
        wanted += [(project, ("metric", name)) for name in connection.execute(metrics).scalars()]
    return wanted
