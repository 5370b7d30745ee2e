"""The column index of lists: what is stored of it, and reading it. `docs/mechanisms/lists.md`.

A hot experiment's columns are stale, or it has none yet: lists take it from its rows instead.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa

from incl_tracker.domain.columns import Array, Bools, Column, Numbers, Tags, Texts, decode
from incl_tracker.domain.selecting import COLUMN, Key
from incl_tracker.statements import run, spelled

CACHE_BYTES = 256 << 20
HIDDEN = (COLUMN, "hidden")
IN_TRASH, GONE = 1.0, 2.0
"""Values of the column `hidden`: none is visible."""
_AT_ONCE = 64
_TOUCH = """
    INSERT INTO hot (experiment, project, stamp) SELECT id, project, ? FROM experiments WHERE id = ?
    ON CONFLICT (experiment) DO UPDATE SET stamp = excluded.stamp, project = excluded.project
"""
_BLOCKS = "SELECT block, count FROM column_blocks WHERE project = ? ORDER BY block"
_STALE = """
    SELECT places.block, places.slot FROM hot CROSS JOIN places
    WHERE places.experiment = hot.experiment AND places.project = ?
"""
_HEADS = "SELECT block, version, low, high FROM column_data WHERE project = ? AND kind = ? AND name = ?"
_DATA = "SELECT block, data FROM column_data WHERE project = ? AND kind = ? AND name = ? AND block IN ({})"


def touch(connection: sa.Connection, experiments: Iterable[str]) -> None:
    """What lists show of these experiments has changed in this transaction; cheap, and as often as one likes."""
    run(connection, _TOUCH, [(secrets.randbits(62), experiment) for experiment in experiments])


class Head(NamedTuple):
    """What is known of a column of a block before it is read."""

    version: int
    low: float | None
    high: float | None


class Cache:
    """Decoded columns, those used last. For all reader threads."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._columns: OrderedDict[tuple[str, Key, int], tuple[int, Column]] = OrderedDict()
        self.size = 0

    def get(self, project: str, key: Key, block: int, version: int) -> Column | None:
        """A column, if it is there in this version."""
        place = (project, key, block)
        with self._lock:
            found = self._columns.get(place)
            if found is None or found[0] != version:
                return None
            self._columns.move_to_end(place)
            return found[1]

    def put(self, project: str, key: Key, block: int, version: int, column: Column) -> None:
        """Remember one; one that is older than what is there is not remembered."""
        place = (project, key, block)
        with self._lock:
            before = self._columns.get(place)
            if before is not None:
                if before[0] >= version:
                    return
                self.size -= before[1].size
            self._columns[place] = (version, column)
            self._columns.move_to_end(place)
            self.size += column.size
            while self.size > self._limit and len(self._columns) > 1:
                _, (_, old) = self._columns.popitem(last=False)
                self.size -= old.size


class Index:
    """The columns of a project as a snapshot has them. walk: the blocks in the order in which they will be asked."""

    def __init__(self, connection: sa.Connection, project: str, cache: Cache) -> None:
        self.project = project
        self._connection = connection
        self._cache = cache
        found = connection.exec_driver_sql(self._spelled(_BLOCKS), (project,))
        self.counts: dict[int, int] = {row[0]: row[1] for row in found}
        self.walk: Sequence[int] = sorted(self.counts, reverse=True)
        self._heads: dict[Key, dict[int, Head]] = {}
        self._fetched: dict[Key, int] = {}
        self._ahead: dict[tuple[Key, int], Column] = {}

    def heads(self, key: Key) -> dict[int, Head]:
        """By block, where it has the column."""
        found = self._heads.get(key)
        if found is None:
            rows = self._connection.exec_driver_sql(self._spelled(_HEADS), (self.project, *key))
            found = self._heads[key] = {row[0]: Head(row[1], row[2], row[3]) for row in rows}
        return found

    @cached_property
    def stale(self) -> dict[int, list[int]]:
        """Slots whose columns are not true any more, by block."""
        result: dict[int, list[int]] = {}
        for block, slot in self._connection.exec_driver_sql(self._spelled(_STALE), (self.project,)):
            result.setdefault(block, []).append(slot)
        return result

    def rows(self, block: int) -> Block:
        """A block."""
        return Block(self, block)

    def column(self, key: Key, block: int) -> Column | None:
        """A column of a block."""
        head = self.heads(key).get(block)
        if head is None:
            return None
        found = self._ahead.pop((key, block), None) or self._cache.get(self.project, key, block, head.version)
        if found is None:
            self._fetch(key, block)
            found = self._ahead.pop((key, block))
        return found

    def _fetch(self, key: Key, block: int) -> None:
        """Read a column of a block; the more of them were needed, the more of the next ones are read with it."""
        ahead = min(_AT_ONCE, 2 * self._fetched.get(key, 0) + 1)
        self._fetched[key] = ahead
        heads, wanted = self.heads(key), [block]
        walk = list(self.walk)
        place = walk.index(block) + 1 if block in walk else len(walk)
        for other in walk[place:]:
            if len(wanted) >= ahead:
                break
            head = heads.get(other)
            if head is not None and self._cache.get(self.project, key, other, head.version) is None:
                wanted.append(other)
        query = _DATA.format(", ".join("?" * len(wanted)))
        for number, data in self._connection.exec_driver_sql(self._spelled(query), (self.project, *key, *wanted)):
            column = decode(bytes(data))
            self._cache.put(self.project, key, number, heads[number].version, column)
            self._ahead[(key, number)] = column

    def _spelled(self, text: str) -> str:
        return spelled(text, self._connection.dialect.paramstyle)


class Block:
    """The experiments of a block (`selecting.Rows`)."""

    def __init__(self, index: Index, block: int) -> None:
        self.project = index.project
        self.count = index.counts[block]
        self._index = index
        self._block = block
        self._read: dict[Key, Column | None] = {}

    def _column(self, key: Key) -> Column | None:
        if key not in self._read:
            self._read[key] = self._index.column(key, self._block)
        return self._read[key]

    def numbers(self, key: Key) -> Numbers | None:
        """A column of numbers."""
        column = self._column(key)
        if column is None:
            return None
        assert isinstance(column, Numbers)
        if len(column.values) == self.count:
            return column
        return Numbers(_fit(column.values.astype(np.float64), self.count, np.nan))

    def texts(self, key: Key) -> Texts | None:
        """A column of texts."""
        column = self._column(key)
        if column is None:
            return None
        assert isinstance(column, Texts)
        if len(column.codes) == self.count:
            return column
        return Texts(_fit(column.codes, self.count, -1), column.offsets, column.data)

    def tags(self) -> Tags | None:
        """The tags."""
        column = self._column((COLUMN, "tag"))
        if column is None:
            return None
        assert isinstance(column, Tags)
        return column.changed((), (), self.count) if len(column.starts) != self.count + 1 else column

    def bounds(self, key: Key) -> tuple[float, float] | None:
        """Between which the numbers of a column lie."""
        head = self._index.heads(key).get(self._block)
        if head is None or head.low is None or head.high is None:
            return None
        return head.low, head.high

    def shown(self, trash: bool) -> Bools | bool:
        """Which are in the list, or in the trash; hot ones are not, as their columns are stale."""
        hidden, stale = self.numbers(HIDDEN), self._index.stale.get(self._block)
        if hidden is None and not stale:
            return not trash
        if hidden is None:
            mask = np.full(self.count, not trash)
        else:
            mask = np.asarray(hidden.values == IN_TRASH if trash else np.isnan(hidden.values))
        if stale:
            mask[[slot for slot in stale if slot < self.count]] = False
        return mask


def _fit(values: Array, count: int, none: float) -> Array:
    result = np.full(count, none, values.dtype)
    size = min(count, len(values))
    result[:size] = values[:size]
    return result
