"""The checksum of an upload that comes in pieces, over several requests.

A sha256 cannot be put together from those of parts, and its state cannot be stored. So its last states are kept in
memory: a client that comes back after a cut goes on at once. After a restart the parts are read again.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_left
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import google_crc32c

from incl_registry.gcs.bucket import Stat

KEPT_UPLOADS: Final = 1024
KEPT_MARKS: Final = 32

Key = tuple[str, str]
"""sha256 and the uploader's id."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The checksums of the first `offset` bytes, which lie in the parts that `chain` stands for."""

    offset: int = 0
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)
    crc32c: int = 0
    chain: int = 0


class Sum:
    """The checksums of what has come, and where they stood at the last ends of parts."""

    def __init__(self, start: Mark) -> None:
        self.offset, self.crc32c = start.offset, start.crc32c
        self._sha256 = start.sha256.copy()
        self._marks = deque([start], maxlen=KEPT_MARKS)

    def add(self, data: bytes | memoryview) -> None:
        """More bytes."""
        self._sha256.update(data)
        self.crc32c = google_crc32c.extend(self.crc32c, bytes(data))
        self.offset += len(data)

    def mark(self) -> None:
        """A part ends here."""
        self._marks.append(Mark(self.offset, self._sha256.copy(), self.crc32c))

    def hexdigest(self) -> str:
        """The sha256 so far."""
        return self._sha256.hexdigest()

    def marks(self, parts: Sequence[Stat]) -> list[Mark]:
        """The marks that lie within these parts, which follow each other from the first byte on."""
        chains = _Chains(parts)
        return [
            Mark(mark.offset, mark.sha256, mark.crc32c, chain)
            for mark in self._marks
            if (chain := chains.at(mark.offset)) is not None
        ]


class Memory:
    """The marks of uploads that were cut; those not heard of for longest are forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, list[Mark]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, key: Key, marks: list[Mark]) -> None:
        """For the next request."""
        with self._lock:
            self._kept[key] = marks
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_UPLOADS:
                self._kept.popitem(last=False)

    def forget(self, key: Key) -> None:
        """It is over."""
        with self._lock:
            self._kept.pop(key, None)

    def best(self, key: Key, parts: Sequence[Stat]) -> Mark:
        """The furthest mark that still fits the parts that are there."""
        chains = _Chains(parts)
        with self._lock:
            kept = self._kept.get(key, [])
        fitting = [mark for mark in kept if chains.at(mark.offset) == mark.chain]
        return max(fitting, key=lambda mark: mark.offset, default=Mark())


class _Chains:
    """What identifies the bytes up to an offset: the generations of the objects that they lie in."""

    def __init__(self, parts: Iterable[Stat]) -> None:
        self._ends, self._chains = [0], [0]
        for part in parts:
            self._ends.append(self._ends[-1] + part.size)
            self._chains.append(hash((self._chains[-1], part.name, part.size, part.generation)))

    def at(self, offset: int) -> int | None:
        """None: not so many are there."""
        index = bisect_left(self._ends, offset)
        return self._chains[index] if index < len(self._chains) else None
