"""Room that is kept back on a machine's disk, so that the end of a job that filled it can be said.

For machines that nobody can tidy up: those of a cloud, which end with their attempt. On others a job waits for room.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

_log = logging.getLogger("incl.agent")


class Reserve:
    """A file of so many bytes. 0: none is kept."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self.given = False
        """Whether it was needed."""

    def keep(self) -> None:
        """Take the room, if there is any."""
        if not self._size:
            return
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._size)
        except OSError as error:
            _log.warning("no room can be kept back on the disk of %s: %s", self._path.parent, error)
            self._remove()

    def give_up(self) -> None:
        """The disk is full, and nobody is left who would fill it again."""
        if self._size and not self.given:
            self.given = True
            _log.error("the disk of %s is full: the room that was kept back is given up", self._path.parent)
            self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
