"""The column index of lists: what is stored of it, and reading it. `docs/mechanisms/lists.md`.

A hot experiment's columns are stale, or it has none yet: lists take it from its rows instead.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from incl_tracker.domain.columns import BLOCK, Bools, Column, Numbers, Tags, Texts, decode
from incl_tracker.domain.selecting import COLUMN, Key
from incl_tracker.domain.spans import Many, ManyTags, ManyTexts, joined, parted
from incl_tracker.statements import run, spelled

CACHE_BYTES = 256 << 20
HIDDEN = (COLUMN, "hidden")
IN_TRASH, GONE = 1.0, 2.0
"""Values of the column `hidden`: none is visible."""
GROUP = 32
"""Blocks that are asked together."""
_HEADS_KEPT = 1000
_TOUCH = """
    INSERT INTO hot (experiment, project, stamp) SELECT id, project, ? FROM experiments WHERE id = ?
    ON CONFLICT (experiment) DO UPDATE SET stamp = excluded.stamp, project = excluded.project
"""
_BLOCKS = "SELECT block, count, version FROM column_blocks WHERE project = ? ORDER BY block"


def per_hot(fields: str, table: str, where: str, of_hot: str = " WHERE project = ?") -> dict[str, str]:
    """A question about the rows `e` of a table that belong to each of the hot experiments, by the driver's style.

    There may have been a million of them a minute ago, and PostgreSQL plans for that still: it is told the way.
    """
    ids = f"(SELECT experiment, project FROM hot{of_hot})"  # noqa: S608
    lateral = f"LATERAL (SELECT * FROM {table} e WHERE {where} OFFSET 0)"  # noqa: S608
    return {
        "qmark": f"SELECT {fields} FROM {ids} AS hot CROSS JOIN {table} AS e WHERE {where}",  # noqa: S608
        "pyformat": f"SELECT {fields} FROM {ids} AS hot CROSS JOIN {lateral} AS e",  # noqa: S608
    }


_STALE = per_hot("e.block, e.slot", "places", "e.experiment = hot.experiment AND e.project = ?", "")
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


class Heads(NamedTuple):
    """What is known of all parts of a column. versions: of the blocks when it was read."""

    versions: dict[int, int]
    by_block: dict[int, Head]


class Kept(NamedTuple):
    """A column of a group of blocks as it was read. versions: of each block's part; 0: it has none."""

    blocks: tuple[int, ...]
    versions: tuple[int, ...]
    column: Many


class Cache:
    """Columns that were read, those used last. For all reader threads."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._columns: OrderedDict[tuple[str, Key, int], Kept] = OrderedDict()
        self._heads: OrderedDict[tuple[str, Key], Heads] = OrderedDict()
        self.size = 0

    def heads(self, project: str, key: Key, versions: dict[int, int]) -> dict[int, Head] | None:
        """The heads of a column, if all blocks have these versions still."""
        with self._lock:
            found = self._heads.get((project, key))
            if found is None or found.versions != versions:
                return None
            self._heads.move_to_end((project, key))
            return found.by_block

    def put_heads(self, project: str, key: Key, heads: Heads) -> None:
        """Remember them."""
        with self._lock:
            self._heads[(project, key)] = heads
            if len(self._heads) > _HEADS_KEPT:
                self._heads.popitem(last=False)

    def get(self, project: str, key: Key, group: int) -> Kept | None:
        """A column as it was read last."""
        place = (project, key, group)
        with self._lock:
            found = self._columns.get(place)
            if found is not None:
                self._columns.move_to_end(place)
            return found

    def put(self, project: str, key: Key, group: int, kept: Kept) -> None:
        """Remember one, in the stead of an older one."""
        place = (project, key, group)
        with self._lock:
            before = self._columns.pop(place, None)
            self._columns[place] = kept
            self.size += kept.column.size - (0 if before is None else before.column.size)
            while self.size > self.limit and len(self._columns) > 1:
                _, old = self._columns.popitem(last=False)
                self.size -= old.column.size


class Index:
    """The columns of a project as a snapshot has them."""

    def __init__(self, connection: sa.Connection, project: str, cache: Cache) -> None:
        self.project = project
        self._connection = connection
        self._cache = cache
        found = self._rows(_BLOCKS, project)
        self.counts: dict[int, int] = {row[0]: row[1] for row in found}
        self._versions: dict[int, int] = {row[0]: row[2] for row in found}
        self.walk: Sequence[int] = sorted(self.counts, reverse=True)
        self._heads: dict[Key, dict[int, Head]] = {}
        self._read: dict[tuple[Key, int], Many | None] = {}
        groups: dict[int, list[int]] = {}
        for block in reversed(self.walk):
            groups.setdefault(block // GROUP, []).append(block)
        self._spans = {group: Span(self, group, tuple(blocks)) for group, blocks in groups.items()}

    def heads(self, key: Key) -> dict[int, Head]:
        """By block, where it has the column."""
        found = self._heads.get(key)
        if found is None:
            found = self._cache.heads(self.project, key, self._versions)
            if found is None:
                rows = self._rows(_HEADS, self.project, *key)
                found = {row[0]: Head(row[1], row[2], row[3]) for row in rows}
                self._cache.put_heads(self.project, key, Heads(self._versions, found))
            self._heads[key] = found
        return found

    @cached_property
    def stale(self) -> dict[int, list[int]]:
        """Slots whose columns are not true any more, by block."""
        result: dict[int, list[int]] = {}
        for block, slot in self._rows(_STALE[self._connection.dialect.paramstyle], self.project):
            result.setdefault(block, []).append(slot)
        return result

    def rows(self, block: int) -> Block:
        """A block."""
        return Block(self._spans[block // GROUP], block)

    def spans(self) -> list[Span]:
        """All blocks, several together, the newest first."""
        return list(reversed(self._spans.values()))

    def many(self, key: Key, group: int, blocks: tuple[int, ...]) -> Many | None:
        """A column of a group of blocks."""
        place = (key, group)
        if place not in self._read:
            heads = self.heads(key)
            versions = tuple([heads[block].version if block in heads else 0 for block in blocks])
            self._read[place] = self._kept(key, group, blocks, versions) if any(versions) else None
        return self._read[place]

    def _kept(self, key: Key, group: int, blocks: tuple[int, ...], versions: tuple[int, ...]) -> Many:
        """From the cache; parts of it that are others by now, or were never there, are read."""
        kept = self._cache.get(self.project, key, group)
        if kept is not None and kept[:2] == (blocks, versions):
            return kept.column
        pieces: dict[int, Column | None] = {}
        if kept is not None:
            wanted = dict(zip(blocks, versions, strict=True))
            known = zip(kept.blocks, kept.versions, parted(kept.column), strict=True)
            pieces = {block: piece for block, version, piece in known if version and wanted.get(block) == version}
        missing = [b for b, version in zip(blocks, versions, strict=True) if version and b not in pieces]
        if missing:
            query = _DATA.format(", ".join("?" * len(missing)))
            for block, data in self._rows(query, self.project, *key, *missing):
                pieces[block] = decode(bytes(data))
        column = joined([pieces.get(block) for block in blocks])
        self._cache.put(self.project, key, group, Kept(blocks, versions, column))
        return column

    def _rows(self, text: str, *values: object) -> Sequence[Any]:
        return self._connection.exec_driver_sql(spelled(text, self._connection.dialect.paramstyle), values).all()


class Span:
    """The experiments of a group of blocks, one block after the other (`selecting.Rows`)."""

    def __init__(self, index: Index, group: int, blocks: tuple[int, ...]) -> None:
        self.project = index.project
        self.index = index
        self.blocks = blocks
        self.count = (len(blocks) - 1) * BLOCK + index.counts[blocks[-1]]
        self._group = group

    def many(self, key: Key) -> Many | None:
        """A column, with room for full blocks."""
        return self.index.many(key, self._group, self.blocks)

    def numbers(self, key: Key) -> Numbers | None:
        """A column of numbers."""
        column = self.many(key)
        if column is None:
            return None
        assert isinstance(column, Numbers)
        return Numbers(column.values[: self.count])

    def texts(self, key: Key) -> ManyTexts | None:
        """A column of texts."""
        column = self.many(key)
        if column is None:
            return None
        assert isinstance(column, ManyTexts)
        return column.cut(self.count)

    def tags(self) -> ManyTags | None:
        """The tags."""
        column = self.many((COLUMN, "tag"))
        assert column is None or isinstance(column, ManyTags)
        return column

    def bounds(self, key: Key) -> tuple[float, float] | None:
        """Between which the numbers of a column lie."""
        heads = self.index.heads(key)
        some = [heads[block] for block in self.blocks if block in heads]
        lows = [head.low for head in some if head.low is not None]
        highs = [head.high for head in some if head.high is not None]
        return (min(lows), max(highs)) if lows and highs else None

    def shown(self, trash: bool) -> Bools | bool:
        """Which are in the list, or in the trash; hot ones are not, as their columns are stale."""
        stale = self.index.stale
        slots = [n * BLOCK + slot for n, block in enumerate(self.blocks) for slot in stale.get(block, ())]
        return _shown(self.numbers(HIDDEN), slots, self.count, trash)


class Block:
    """The experiments of one block (`selecting.Rows`)."""

    def __init__(self, span: Span, block: int) -> None:
        self.project = span.project
        self.count = span.index.counts[block]
        self._span = span
        self._block = block
        self._place = span.blocks.index(block)

    def numbers(self, key: Key) -> Numbers | None:
        """A column of numbers."""
        if self._block not in self._span.index.heads(key):
            return None
        column = self._span.many(key)
        assert isinstance(column, Numbers)
        begin = self._place * BLOCK
        return Numbers(column.values[begin : begin + self.count])

    def texts(self, key: Key) -> Texts | None:
        """A column of texts."""
        if self._block not in self._span.index.heads(key):
            return None
        column = self._span.many(key)
        assert isinstance(column, ManyTexts)
        piece = column.pieces[self._place]
        return Texts(piece.codes[: self.count], piece.offsets, piece.data)

    def tags(self) -> Tags | None:
        """The tags."""
        column = self._span.tags()
        piece = None if column is None else column.pieces[self._place]
        if piece is None or len(piece.starts) == self.count + 1:
            return piece
        return piece.changed((), (), self.count)

    def bounds(self, key: Key) -> tuple[float, float] | None:
        """Between which the numbers of a column lie."""
        head = self._span.index.heads(key).get(self._block)
        if head is None or head.low is None or head.high is None:
            return None
        return head.low, head.high

    def shown(self, trash: bool) -> Bools | bool:
        """Which are in the list, or in the trash; hot ones are not, as their columns are stale."""
        stale = self._span.index.stale.get(self._block, ())
        return _shown(self.numbers(HIDDEN), stale, self.count, trash)


def _shown(hidden: Numbers | None, stale: Sequence[int], count: int, trash: bool) -> Bools | bool:
    if hidden is None and not stale:
        return not trash
    if hidden is None:
        mask = np.full(count, not trash)
    else:
        mask = np.asarray(hidden.values == IN_TRASH if trash else np.isnan(hidden.values))
    if stale:
        mask[[slot for slot in stale if slot < count]] = False
    return mask
