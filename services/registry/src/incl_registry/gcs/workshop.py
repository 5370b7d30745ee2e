"""What every upload into a bucket needs: its checksums, and the one step in which its parts become the blob."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from threading import BoundedSemaphore

from incl_registry.errors import CheckingError
from incl_registry.gcs.bucket import Bucket, Missing, Stat, Unmet
from incl_registry.gcs.hashing import Key, Memory, Sum
from incl_registry.gcs.parts import busy, read_in_order
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

    def caught_up(self, key: Key, parts: Sequence[Stat]) -> Sum:
        """The checksums of what is there: from memory, else by reading it, some of it in each request.

        Raises:
            CheckingError: the rest is for the next request.
        """
        mark = self.memory.best(key, parts)
        done, end = Sum(mark), sum(part.size for part in parts)
        deadline = time.monotonic() + self.catch_up_s
        for data in read_in_order(self.bucket, self.pool, parts, mark.offset, self.part_size):
            done.add(data)
            done.mark()
            if done.offset < end and time.monotonic() > deadline:
                self.memory.keep(key, done.marks(parts))
                raise CheckingError(done.offset, end)
        return done

    def become(self, name: str, wanted: Sum, make: Callable[[int, float], Stat]) -> None:
        """Make the blob; when it is there already with the same bytes, it is made young.

        Args:
            make: stores the object over the generation that is there (0: none), with a custom time.

        Raises:
            UnavailableError: parts are gone, or others are always quicker.
        """
        same, generation = (wanted.offset, wanted.crc32c), 0
        for _ in range(_TRIES):
            try:
                made = make(generation, self.clock())
            except Missing as error:
                raise busy() from error
            except Unmet:
                found = self.bucket.stat(name)
                generation = 0
                if found is None:
                    continue
                if (found.size, found.crc32c) != same:
                    _log.warning("%s has other bytes than its name says; it is replaced", name)
                    generation = found.generation
                elif self._touched(found):
                    return
            else:
                if (made.size, made.crc32c) == same:
                    return
                with suppress(Unmet, Missing):
                    self.bucket.delete(made)
                raise UnavailableError("the bucket has other bytes than it was sent", hint="try again")
        raise busy()

    def _touched(self, found: Stat) -> bool:
        now = self.clock()
        try:
            if found.touched < now:
                self.bucket.touch(found, now)
        except (Unmet, Missing):
            return False
        return True


def other_bytes(came: Sum) -> IntegrityError:
    """What came is not what its name says."""
    return IntegrityError(
        "the bytes that came are not those of the name",
        cause=f"their sha256 is {came.hexdigest()}",
        hint="see that nothing writes the file, and upload it again",
    )
