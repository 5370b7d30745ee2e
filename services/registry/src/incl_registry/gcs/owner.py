"""Whose bucket it is. A platform deletes what its own database does not list; two below one prefix would delete each
other's files, and so would one that was restored on another machine beside the first. So an object says whose it is.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from incl_registry.gcs.bucket import Bucket, Missing, Unmet
from incl_shared.errors import ConflictError, UnavailableError

NAME: Final = "owner"
_OWNER = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_SURE_S: Final = 60.0
_TRIES: Final = 3


def own_name(folder: Path) -> str:
    """The name of this platform's store: made at the first start, and in no backup."""
    path = folder / "store.id"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path.read_text(encoding="utf-8").strip()
    try:
        name = os.urandom(16).hex()
        os.write(handle, name.encode())
        os.fsync(handle)
    finally:
        os.close(handle)
    return name


class Ownership:
    """Asked before anything is deleted.

    Args:
        owner: the name of this platform's store.
        clock: monotonic seconds.
    """

    def __init__(self, bucket: Bucket, owner: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._bucket, self._owner, self._clock = bucket, owner, clock
        self._sure_until = float("-inf")

    def check(self) -> None:
        """Nobody else owns it; what nobody owns is ours from now on. What was found holds for a minute.

        Raises:
            ConflictError: it belongs to another platform.
            UnavailableError: the bucket cannot be asked.
        """
        if self._clock() < self._sure_until:
            return
        for _ in range(_TRIES):
            found = self._found()
            if found == self._owner or (found is None and self._put(0)):
                self._sure_until = self._clock() + _SURE_S
                return
            if found is not None:
                raise ConflictError(
                    f"the artifacts in {self._bucket.url} belong to another platform",
                    cause=f"its owner is {found}, we are {self._owner}",
                    hint="take another prefix; if that platform is gone for good, start once with "
                    "INCL_REGISTRY_TAKE_STORE=true",
                )
        raise UnavailableError(f"who owns {self._bucket.url} changes all the time", hint="try again")

    def take(self) -> None:
        """It is ours from now on, whoever had it; the other one deletes nothing any more within a minute."""
        stat = self._bucket.stat(NAME)
        self._put(0 if stat is None else stat.generation)
        self.check()

    def _found(self) -> str | None:
        stat = self._bucket.stat(NAME)
        if stat is None:
            return None
        try:
            text = self._bucket.read(stat, 0, min(stat.size, 100)).decode("utf-8", "replace")
        except Missing:
            return None
        return text if _OWNER.fullmatch(text) else "somebody who writes no name"

    def _put(self, generation: int) -> bool:
        try:
            self._bucket.put(NAME, self._owner.encode(), generation=generation)
        except Unmet:
            return False
        return True
