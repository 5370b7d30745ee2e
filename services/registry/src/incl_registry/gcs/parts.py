"""The parts of an upload under way: objects below partial/<sha256>.<upload>/, each named by its offset.

What clients send to the bucket themselves lies below direct/, so that nobody but us writes what is below partial/.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from itertools import groupby, islice
from typing import Final

from incl_registry.gcs.bucket import MOST_SOURCES, Bucket, Missing, Stat, Unmet
from incl_registry.gcs.hashing import Key
from incl_shared.errors import UnavailableError

PARTIAL: Final = "partial/"
DIRECT: Final = "direct/"
_FOLDER = re.compile(r"(?:partial|direct)/([0-9a-f]{64})\.([0-9a-f]{32})/")
_PART = re.compile(r"[0-9]{15}\Z")


class Parts:
    """Everything of one upload in the bucket."""

    def __init__(self, bucket: Bucket, pool: Executor, key: Key, root: str = PARTIAL) -> None:
        self._bucket, self._pool = bucket, pool
        self._folder = f"{root}{key[0]}.{key[1]}/"

    def name(self, offset: int) -> str:
        """Of the object that begins there."""
        return f"{self._folder}{offset:015d}"

    def found(self) -> tuple[list[Stat], list[Stat]]:
        """(those that follow each other from the first byte on, all others)."""
        parts: list[Stat] = []
        others: list[Stat] = []
        end = 0
        for stat in self._bucket.list(self._folder):
            name = stat.name.removeprefix(self._folder)
            if _PART.fullmatch(name) and int(name) == end:
                parts.append(stat)
                end += stat.size
            else:
                others.append(stat)
        return parts, others

    def put(self, offset: int, data: bytes, crc32c: int) -> Stat:
        """Store a part. One that is there already counts when it has the same bytes: it is ours, from a try whose
        answer was lost.

        Raises:
            UnavailableError: another request has put other bytes there.
        """
        name = self.name(offset)
        try:
            return self._bucket.put(name, data)
        except Unmet:
            found = self._bucket.stat(name)
        if found is None or (found.size, found.crc32c) != (len(data), crc32c):
            raise busy()
        return found

    def merged(self, parts: Sequence[Stat]) -> Sequence[Stat]:
        """At most 32 objects with the same bytes."""
        while len(parts) > MOST_SOURCES:
            groups = [parts[at : at + MOST_SOURCES] for at in range(0, len(parts), MOST_SOURCES)]
            parts = list(self._pool.map(self._merge, groups))
        return parts

    def _merge(self, group: Sequence[Stat]) -> Stat:
        """One object of a group. Its name says of what, so that a second try finds what the first one made."""
        if len(group) == 1:
            return group[0]
        text = "".join(f"{part.name} {part.generation}\n" for part in group)
        name = f"{self._folder}~{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        try:
            return self._bucket.compose(name, group)
        except Unmet:
            found = self._bucket.stat(name)
        except Missing:
            found = None
        if found is None or found.size != sum(part.size for part in group):
            raise busy()
        return found

    def drop(self, stats: Iterable[Stat]) -> None:
        """Delete objects; one that is gone or somebody else's by now is left alone."""
        for _ in self._pool.map(self._drop, stats):
            pass

    def drop_all(self) -> None:
        """Delete whatever is there."""
        self.drop(self._bucket.list(self._folder))

    def _drop(self, stat: Stat) -> None:
        with suppress(Unmet, Missing):
            self._bucket.delete(stat)


def uploads(bucket: Bucket, root: str = PARTIAL) -> Iterator[tuple[Key, list[Stat]]]:
    """Every upload under way, with its objects."""

    def key_of(stat: Stat) -> Key:
        found = _FOLDER.match(stat.name)
        return (found[1], found[2]) if found else ("", "")

    for key, stats in groupby(bucket.list(root), key_of):
        if key[0]:
            yield key, list(stats)


def busy() -> UnavailableError:
    """Somebody else writes the same upload."""
    return UnavailableError("another request writes this upload", hint="try again in a moment")


def read_in_order(
    bucket: Bucket, pool: Executor, parts: Sequence[Stat], start: int, window: int, ahead: int = 3
) -> Iterator[bytes]:
    """The bytes of these parts from an offset on, at most `window` at a time, with a few windows under way.

    Raises:
        UnavailableError: one is gone meanwhile, or cannot be read.
    """
    waiting: deque[Future[bytes]] = deque()
    left = _windows(parts, start, window)
    try:
        while True:
            for part, begin, end in islice(left, ahead + 1 - len(waiting)):
                waiting.append(pool.submit(bucket.read, part, begin, end))
            if not waiting:
                return
            try:
                yield waiting.popleft().result()
            except Missing as error:
                raise busy() from error
    finally:
        for future in waiting:
            future.cancel()


def _windows(parts: Iterable[Stat], start: int, most: int) -> Iterator[tuple[Stat, int, int]]:
    """(a part, from, to): what lies behind `start`."""
    first = 0
    for part in parts:
        at = max(0, start - first)
        while at < part.size:
            end = min(at + most, part.size)
            yield part, at, end
            at = end
        first += part.size
