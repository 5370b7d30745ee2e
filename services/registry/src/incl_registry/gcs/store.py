"""A BlobStore in a bucket: sha256/<two characters>/<all>, the same names as in the folder."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import BinaryIO, Final

from incl_registry.blobs import BlobInfo, Place, Upload, no_places
from incl_registry.gcs.bucket import Bucket, Missing, Stat, Unmet
from incl_registry.gcs.direct import DIRECT_PART, DirectUpload
from incl_registry.gcs.hashing import Key, Memory
from incl_registry.gcs.links import Links
from incl_registry.gcs.owner import NAME, Ownership
from incl_registry.gcs.parts import DIRECT, PARTIAL, Parts, busy, uploads
from incl_registry.gcs.reading import opened
from incl_registry.gcs.upload import GcsUpload
from incl_registry.gcs.workshop import Workshop
from incl_shared.errors import NotFoundError, UnavailableError

PART_SIZE: Final = 8 << 20
"""The most that the provider's library sends in one request."""
WORKERS: Final = 8
PARTS_AT_ONCE: Final = 4
_FINAL: Final = "sha256/"
_BLOB = re.compile(r"sha256/[0-9a-f]{2}/([0-9a-f]{64})\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_UPLOAD = re.compile(r"[0-9a-f]{32}\Z")
_TRIES = 6
_PAUSE_S = 0.2


class GcsBlobs:
    """Blobs in a bucket.

    Args:
        part_size: of uploads; each upload under way holds one part in memory, and at most parts_at_once go up.
        fresh_s: a blob touched within so many seconds is not touched again (the provider allows about one change a
            second of an object). It must be less than any age at which blobs are deleted.
        catch_up_s: how long one request may read again what an earlier process got of an upload.
        direct_part: of uploads that clients send to the bucket themselves.
        clock: seconds since the epoch.
        links: sign addresses for clients.
        owner: asked before anything is deleted.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        part_size: int = PART_SIZE,
        workers: int = WORKERS,
        parts_at_once: int = PARTS_AT_ONCE,
        fresh_s: float = 60.0,
        catch_up_s: float = 12.0,
        direct_part: int = DIRECT_PART,
        clock: Callable[[], float] = time.time,
        links: Links | None = None,
        owner: Ownership | None = None,
    ) -> None:
        self._bucket, self._links, self._owner = bucket, links, owner
        self._fresh_s, self._clock, self._direct_part = fresh_s, clock, direct_part
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="incl-gcs")
        self._shop = Workshop(
            bucket, self._pool, threading.BoundedSemaphore(parts_at_once), Memory(), part_size, catch_up_s, clock
        )
        self._look: Future[Stat | None] | None = None
        self._open: set[Key] = set()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def size(self, sha256: str) -> int | None:
        """See BlobStore."""
        stat = self._bucket.stat(_path(sha256))
        return None if stat is None else stat.size

    def missing(self, names: Collection[str]) -> set[str]:
        """See BlobStore."""
        sizes = self._pool.map(self.size, names)
        return {name for name, size in zip(names, sizes, strict=True) if size is None}

    def touch(self, sha256: str) -> bool:
        """See BlobStore. A change that somebody else makes at the same moment serves as well."""
        name = _path(sha256)
        for turn in range(_TRIES):
            stat = self._bucket.stat(name)
            if stat is None:
                return False
            now = self._clock()
            if stat.touched > now - self._fresh_s:
                return True
            with suppress(Unmet, Missing):
                self._bucket.touch(stat, now)
                return True
            time.sleep(_PAUSE_S * turn)
        raise UnavailableError("a blob changes all the time", hint="try again in a moment")

    def open(self, sha256: str) -> BinaryIO:
        """See BlobStore."""
        stat = self._bucket.stat(_path(sha256))
        if stat is None:
            raise NotFoundError(f"no blob {sha256[:12]} is stored")
        return opened(self._bucket, stat)

    def link(self, sha256: str, seconds: float, file: str | None = None) -> str | None:
        """See BlobStore."""
        return None if self._links is None else self._links.of(self._bucket.blob(_path(sha256)), seconds, file)

    def partial(self, sha256: str, upload: str) -> int:
        """See BlobStore."""
        parts, _ = Parts(self._bucket, self._pool, _key(sha256, upload)).found()
        return sum(part.size for part in parts)

    def resume(self, sha256: str, upload: str, offset: int) -> Upload:
        """See BlobStore. In this process one request writes an upload; in several, parts decide who was first."""
        name, key = _path(sha256), _key(sha256, upload)
        self._take(key)
        try:
            return GcsUpload(self._shop, key, name, offset, lambda: self._closed(key))
        except BaseException:
            self._closed(key)
            raise

    def direct(self) -> bool:
        """See BlobStore."""
        return self._links is not None and self._links.ready

    def places(self, sha256: str, upload: str, size: int, seconds: float) -> list[Place]:
        """See BlobStore."""
        if self._links is None:
            raise no_places()
        name, key = _path(sha256), _key(sha256, upload)
        self._take(key)
        try:
            return DirectUpload(self._shop, self._links, key, name, size, self._direct_part).places(seconds)
        finally:
            self._closed(key)

    def delete(self, sha256: str, touched_before: float) -> bool:
        """See BlobStore. A touch between the look and the deletion changes the metageneration, and spares it."""
        stat = self._bucket.stat(_path(sha256))
        if stat is None or stat.touched >= touched_before:
            return False
        self._check_owner()
        try:
            self._bucket.delete(stat)
        except Unmet:
            return False
        except Missing:
            return True  # by a try of ours whose answer was lost, or by somebody else with the same reason
        return True

    def blobs(self) -> Iterator[BlobInfo]:
        """See BlobStore."""
        for stat in self._bucket.list(_FINAL):
            if (found := _BLOB.fullmatch(stat.name)) is not None:
                yield BlobInfo(found[1], stat.size, stat.touched)

    def sweep_partials(self, touched_before: float) -> int:
        """See BlobStore."""
        self._check_owner()
        count = 0
        for root in (PARTIAL, DIRECT):
            for key, stats in uploads(self._bucket, root):
                if _newest(stats) < touched_before and not self._is_open(key):
                    Parts(self._bucket, self._pool, key, root).drop(stats)
                    count += 1
        return count

    def free(self) -> int | None:
        """See BlobStore."""
        return None

    def trouble(self) -> tuple[float, str] | None:
        """See BlobStore. Somebody looks again beside it: perhaps nobody has wanted anything of the bucket since."""
        found = self._bucket.failing
        if found is not None and (self._look is None or self._look.done()):
            self._look = self._pool.submit(self._bucket.stat, NAME)
        return found

    def _check_owner(self) -> None:
        if self._owner is not None:
            self._owner.check()

    def _take(self, key: Key) -> None:
        """One request at a time works at an upload.

        Raises:
            UnavailableError: another one does.
        """
        with self._lock:
            if key in self._open:
                raise busy()
            self._open.add(key)

    def _is_open(self, key: Key) -> bool:
        with self._lock:
            return key in self._open

    def _closed(self, key: Key) -> None:
        with self._lock:
            self._open.discard(key)


def _newest(stats: list[Stat]) -> float:
    return max(stat.touched for stat in stats)


def _path(sha256: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise NotFoundError("not the name of a blob")
    return f"{_FINAL}{sha256[:2]}/{sha256}"


def _key(sha256: str, upload: str) -> Key:
    if not _SHA256.fullmatch(sha256):
        raise NotFoundError("not the name of a blob")
    if not _UPLOAD.fullmatch(upload):
        raise NotFoundError("not the name of an upload")
    return sha256, upload
