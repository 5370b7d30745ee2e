"""An upload into a bucket: parts go up several at a time, and become the blob in one step."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait

import google_crc32c

from incl_registry.errors import WrongOffsetError
from incl_registry.gcs.bucket import Missing, Stat, Unmet
from incl_registry.gcs.hashing import Key
from incl_registry.gcs.parts import Parts, busy
from incl_registry.gcs.workshop import Workshop, other_bytes
from incl_shared.errors import UnavailableError

_log = logging.getLogger("incl.registry.gcs")


class GcsUpload:
    """See Upload.

    Args:
        name: of the blob's object.
        release: called once, at the end.
    """

    def __init__(self, shop: Workshop, key: Key, name: str, offset: int, release: Callable[[], None]) -> None:
        self._shop, self._key, self._name, self._release = shop, key, name, release
        self._parts = Parts(shop.bucket, shop.pool, key)
        self._buffer = bytearray()
        self._going: deque[Future[Stat]] = deque()
        self._over = False
        self._stored, others = self._parts.found()
        end = sum(part.size for part in self._stored)
        if end != offset:
            raise WrongOffsetError(end)
        self._parts.drop(others)
        self._sum = shop.caught_up(key, self._stored)

    @property
    def offset(self) -> int:
        """See Upload."""
        return self._sum.offset

    def write(self, data: bytes) -> None:
        """See Upload.

        Raises:
            UnavailableError: the bucket does not take it; what came before the failure can be resumed.
        """
        view = memoryview(data)
        while view:
            piece = view[: self._shop.part_size - len(self._buffer)]
            self._buffer += piece
            self._sum.add(piece)
            if len(self._buffer) == self._shop.part_size:
                self._ship()
            view = view[len(piece) :]

    def finish(self) -> None:
        """See Upload."""
        if self._sum.hexdigest() != self._key[0]:
            self._give_up()
            raise other_bytes(self._sum)
        if not self._stored and not self._going:
            data = bytes(self._buffer)
            self._shop.become(self._name, self._sum, lambda generation, now: self._shop.bucket.put(
                self._name, data, generation=generation, touched=now
            ))  # fmt: skip
        else:
            self._ship()
            self._settle(every=True)
            sources = self._parts.merged(self._stored)
            self._shop.become(self._name, self._sum, lambda generation, now: self._shop.bucket.compose(
                self._name, sources, generation=generation, touched=now
            ))  # fmt: skip
            self._forget_parts()
        self._over = True
        self._shop.memory.forget(self._key)

    def close(self) -> None:
        """See Upload. What cannot be stored now is sent again by the client."""
        try:
            if not self._over:
                self._ship()
                self._settle(every=True)
        except UnavailableError as error:
            _log.warning("the end of a cut upload was not stored: %s: %s", error.message, error.cause)
        finally:
            if not self._over:
                self._wait()
                self._shop.memory.keep(self._key, self._sum.marks(self._stored))
            self._release()

    def _ship(self) -> None:
        """Send what is in the buffer, when there is room in memory for one part more."""
        if not self._buffer:
            return
        self._settle(every=False)
        data = bytes(self._buffer)
        offset = self._sum.offset - len(data)
        self._shop.slots.acquire()
        try:
            future = self._shop.pool.submit(self._parts.put, offset, data, google_crc32c.value(data))
        except BaseException:
            self._shop.slots.release()
            raise
        future.add_done_callback(lambda _: self._shop.slots.release())
        self._going.append(future)
        self._buffer.clear()
        self._sum.mark()

    def _settle(self, *, every: bool) -> None:
        """Take what has gone up, in order; every: wait for all that is under way.

        Raises:
            UnavailableError: one did not go up; it stays the first of those under way, and all later calls fail.
        """
        while self._going and (every or self._going[0].done()):
            try:
                self._stored.append(self._going[0].result())
            except (Unmet, Missing) as error:
                raise busy() from error
            except CancelledError as error:
                raise UnavailableError("the artifact store is closing", hint="go on with the upload later") from error
            self._going.popleft()

    def _wait(self) -> None:
        wait(self._going)

    def _give_up(self) -> None:
        self._over = True
        self._wait()
        self._shop.memory.forget(self._key)
        self._forget_parts()

    def _forget_parts(self) -> None:
        try:
            self._parts.drop_all()
        except UnavailableError as error:
            _log.warning("parts of a finished upload stay until the sweep: %s: %s", error.message, error.cause)
