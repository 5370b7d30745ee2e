"""Uploads that clients send to the bucket themselves: a signed address for each part, and a look at what came.

The parts of an upload lie on a fixed grid, so that any that is missing can be sent again by itself. They are written by
others: their bytes become the blob only after this process has read them, of exactly the generations that it composes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from incl_registry.blobs import Place
from incl_registry.gcs.bucket import Stat
from incl_registry.gcs.hashing import Key
from incl_registry.gcs.links import Links
from incl_registry.gcs.parts import DIRECT, Parts
from incl_registry.gcs.workshop import Workshop, other_bytes
from incl_shared.errors import UnavailableError

_log = logging.getLogger("incl.registry.gcs")
DIRECT_PART: Final = 32 << 20
"""Bytes of a part: sent again as a whole when its connection breaks."""
MOST_PLACES: Final = 16
"""Of one answer."""


class DirectUpload:
    """One upload.

    Args:
        name: of the blob's object.
        size: bytes of the whole.
        part_size: of the grid.
    """

    def __init__(self, shop: Workshop, links: Links, key: Key, name: str, size: int, part_size: int) -> None:
        self._shop, self._links, self._key, self._name = shop, links, key, name
        self._size, self._part_size = size, part_size
        self._parts = Parts(shop.bucket, shop.pool, key, DIRECT)

    def places(self, seconds: float) -> list[Place]:
        """Where parts that are missing go; when none is, they become the blob.

        Raises:
            IntegrityError: other bytes came than the name says; they are given up.
            CheckingError: they are looked at; the rest is for the next request.
            UnavailableError: the bucket is away, or nobody signs.
        """
        found, others = self._parts.found()
        there = {stat.name: stat for stat in (*found, *others)}
        grid = list(self._grid())
        have = [there[name] for offset, size in grid if self._is_part(there, name := self._parts.name(offset), size)]
        self._parts.drop(stat for stat in there.values() if stat not in have)
        if len(have) == len(grid):
            self._settle(have)
            return []
        names = {stat.name for stat in have}
        missing = [(offset, size) for offset, size in grid if self._parts.name(offset) not in names]
        return list(self._shop.pool.map(lambda part: self._place(part[0], part[1], seconds), missing[:MOST_PLACES]))

    def _grid(self) -> Iterator[tuple[int, int]]:
        """(offset, size) of each part."""
        for offset in range(0, self._size, self._part_size):
            yield offset, min(self._part_size, self._size - offset)

    @staticmethod
    def _is_part(there: dict[str, Stat], name: str, size: int) -> bool:
        return name in there and there[name].size == size

    def _place(self, offset: int, size: int, seconds: float) -> Place:
        signed = self._links.to_put(self._shop.bucket.blob(self._parts.name(offset)), seconds, size)
        if signed is None:
            raise UnavailableError("nobody signs addresses of the bucket now", hint="send the bytes to the store")
        return Place(offset, size, *signed)

    def _settle(self, parts: list[Stat]) -> None:
        came = self._shop.caught_up(self._key, parts)
        if came.hexdigest() != self._key[0]:
            self._parts.drop(parts)
            self._shop.memory.forget(self._key)
            raise other_bytes(came)
        sources = self._parts.merged(parts)
        self._shop.become(self._name, came, lambda generation, now: self._shop.bucket.compose(
            self._name, sources, generation=generation, touched=now
        ))  # fmt: skip
        self._shop.memory.forget(self._key)
        try:
            self._parts.drop_all()
        except UnavailableError as error:
            _log.warning("parts of a finished upload stay until the sweep: %s: %s", error.message, error.cause)
