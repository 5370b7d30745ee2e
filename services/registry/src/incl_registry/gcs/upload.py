"""An upload into a bucket: parts go up several at a time, and become the blob in one step."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from threading import BoundedSemaphore

import google_crc32c

from incl_registry.errors import WrongOffsetError
from incl_registry.gcs.bucket import Bucket, Missing, Stat, Unmet
from incl_registry.gcs.hashing import Key, Memory, Sum
from incl_registry.gcs.parts import Parts, busy, read_in_order
from incl_shared.errors import IntegrityError, UnavailableError

_log = logging.getLogger("incl.registry.gcs")
_TRIES = 6


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all uploads of a store share.

    Attributes:
        slots: one for each part that is held in memory while it goes up.
        part_size: bytes.
        catch_up_s: how long one request may read again what an earlier process got.
        clock: seconds since the epoch.
    """

    bucket: Bucket
    pool: Executor
    slots: BoundedSemaphore
    memory: Memory
    part_size: int
    catch_up_s: float
    clock: Callable[[], float]


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
        self._sum = self._catch_up(end)

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
            raise IntegrityError(
                "the bytes that came are not those of the name",
                cause=f"their sha256 is {self._sum.hexdigest()}",
                hint="see that nothing writes the file, and upload it again",
            )
        if not self._stored and not self._going:
            data = bytes(self._buffer)
            self._become(lambda generation, now: self._shop.bucket.put(
                self._name, data, generation=generation, touched=now
            ))  # fmt: skip
        else:
            self._ship()
            self._settle(every=True)
            sources = self._parts.merged(self._stored)
            self._become(lambda generation, now: self._shop.bucket.compose(
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

    def _catch_up(self, end: int) -> Sum:
        """The checksums of what is there: from memory, else by reading it, some of it in each request."""
        mark = self._shop.memory.best(self._key, self._stored)
        done, at = Sum(mark), 0
        deadline = time.monotonic() + self._shop.catch_up_s
        left = [part for part in self._stored if (at := at + part.size) > mark.offset]
        for data in read_in_order(self._shop.bucket, self._shop.pool, left):
            done.add(data)
            done.mark()
            if done.offset < end and time.monotonic() > deadline:
                self._shop.memory.keep(self._key, done.marks(self._stored))
                raise UnavailableError(
                    "the store reads again what it had of this upload",
                    cause=f"{done.offset} of {end} bytes are read",
                    hint="try again in a moment; it goes on from there",
                )
        return done

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

    def _become(self, make: Callable[[int, float], Stat]) -> None:
        """Make the blob; when it is there already with the same bytes, it is made young.

        Raises:
            UnavailableError: parts are gone, or others are always quicker.
        """
        wanted, generation = (self._sum.offset, self._sum.crc32c), 0
        for _ in range(_TRIES):
            try:
                made = make(generation, self._shop.clock())
            except Missing as error:
                raise busy() from error
            except Unmet:
                found = self._shop.bucket.stat(self._name)
                generation = 0
                if found is None:
                    continue
                if (found.size, found.crc32c) != wanted:
                    _log.warning("%s has other bytes than its name says; it is replaced", self._name)
                    generation = found.generation
                elif self._touched(found):
                    return
            else:
                if (made.size, made.crc32c) == wanted:
                    return
                with suppress(Unmet, Missing):
                    self._shop.bucket.delete(made)
                raise UnavailableError("the bucket has other bytes than it was sent", hint="try again")
        raise busy()

    def _touched(self, found: Stat) -> bool:
        now = self._shop.clock()
        try:
            if found.touched < now:
                self._shop.bucket.touch(found, now)
        except (Unmet, Missing):
            return False
        return True

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
