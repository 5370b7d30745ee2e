"""Blobs in memory: the fake beside the folder."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Collection, Iterator
from typing import BinaryIO

from incl_registry.blobs import BlobInfo, Place, Upload, no_places
from incl_registry.errors import StorageFullError, WrongOffsetError
from incl_shared.errors import IntegrityError, NotFoundError, UnavailableError


class MemoryBlobs:
    """A BlobStore that forgets. `room`: bytes that all uploads may take together."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.room = room
        self.stored: dict[str, tuple[bytes, float]] = {}
        self.partials: dict[tuple[str, str], bytearray] = {}
        self.open_uploads: set[tuple[str, str]] = set()

    def size(self, sha256: str) -> int | None:
        """See BlobStore."""
        found = self.stored.get(sha256)
        return None if found is None else len(found[0])

    def missing(self, names: Collection[str]) -> set[str]:
        """See BlobStore."""
        return {name for name in names if name not in self.stored}

    def touch(self, sha256: str) -> bool:
        """See BlobStore."""
        if sha256 not in self.stored:
            return False
        self.stored[sha256] = (self.stored[sha256][0], time.time())
        return True

    def open(self, sha256: str) -> BinaryIO:
        """See BlobStore."""
        if sha256 not in self.stored:
            raise NotFoundError(f"no blob {sha256[:12]} is stored")
        return io.BytesIO(self.stored[sha256][0])

    def link(self, sha256: str, seconds: float, file: str | None = None) -> str | None:
        """See BlobStore."""
        return None

    def partial(self, sha256: str, upload: str) -> int:
        """See BlobStore."""
        return len(self.partials.get((sha256, upload), b""))

    def resume(self, sha256: str, upload: str, offset: int) -> Upload:
        """See BlobStore."""
        key = (sha256, upload)
        if key in self.open_uploads:
            raise UnavailableError("another request writes this upload")
        if self.partial(sha256, upload) != offset:
            raise WrongOffsetError(self.partial(sha256, upload))
        self.partials.setdefault(key, bytearray())
        self.open_uploads.add(key)
        return _MemoryUpload(self, key)

    def direct(self) -> bool:
        """See BlobStore."""
        return False

    def places(self, sha256: str, upload: str, size: int, seconds: float) -> list[Place]:
        """See BlobStore."""
        raise no_places()

    def delete(self, sha256: str, touched_before: float) -> bool:
        """See BlobStore."""
        found = self.stored.get(sha256)
        if found is None or found[1] >= touched_before:
            return False
        del self.stored[sha256]
        return True

    def blobs(self) -> Iterator[BlobInfo]:
        """See BlobStore."""
        for sha256, (data, touched) in sorted(self.stored.items()):
            yield BlobInfo(sha256, len(data), touched)

    def sweep_partials(self, touched_before: float) -> int:
        """See BlobStore."""
        if touched_before < time.time():
            return 0
        count = len(self.partials)
        self.partials.clear()
        return count

    def free(self) -> int | None:
        """See BlobStore."""
        used = sum(len(data) for data, _ in self.stored.values()) + sum(map(len, self.partials.values()))
        return self.room - used

    def trouble(self) -> tuple[float, str] | None:
        """See BlobStore."""
        return None

    def close(self) -> None:
        """See BlobStore."""


class _MemoryUpload:
    def __init__(self, store: MemoryBlobs, key: tuple[str, str]) -> None:
        self._store, self._key = store, key

    @property
    def offset(self) -> int:
        return self._store.partial(*self._key)

    def write(self, data: bytes) -> None:
        if (self._store.free() or 0) < len(data):
            del self._store.partials[self._key]
            raise StorageFullError("the memory of the artifact store is full")
        self._store.partials[self._key] += data

    def finish(self) -> None:
        data = bytes(self._store.partials.pop(self._key))
        if hashlib.sha256(data).hexdigest() != self._key[0]:
            raise IntegrityError("the bytes that came are not those of the name")
        self._store.stored[self._key[0]] = (data, time.time())

    def close(self) -> None:
        self._store.open_uploads.discard(self._key)
