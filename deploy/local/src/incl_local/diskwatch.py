"""The bus and a full disk: it refuses before the disk is full, and goes on by itself when there is room.

A nats-server whose disk is really full does not refuse: publications to the stream that could not be written time out,
and go on doing so until a restart, whatever room there is by then. So the bus is told to store nothing more while some
room is left (a limit of its account, by a reload: connections and questions go on, whoever publishes is told at once),
and told otherwise when there is room again. Should the disk have been filled faster than that, it is started anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from incl_shared.auth.server_config import BusPaths

_log = structlog.get_logger("incl.platform")
LOOK_S = 0.5
LEAST_FREE = 48 << 20
"""Bytes of free disk below which the bus takes nothing new; on a small disk a part of it."""
LEAST_SHARE = 0.08
ROOM = 1.5
"""So many times the least must be free for it to take new messages again."""
_FULL = b"no space left on device"


class DiskWatch:
    """Looks at the free disk of the bus. reload: have it read its configuration; restart: end it, and start it."""

    def __init__(
        self, bus: BusPaths, log: Path, *, reload: Callable[[], None], restart: Callable[[], Awaitable[None]]
    ) -> None:
        total = shutil.disk_usage(bus.store).total
        self.least = min(LEAST_FREE, int(total * LEAST_SHARE))
        self.refusing = False
        self.refused = 0
        """How often the bus had to refuse since the start."""
        self.hit = False
        """Whether a write failed, so that the bus must be started anew."""
        self._bus = bus
        self._log = log
        self._read = log.stat().st_size if log.exists() else 0
        self._reload = reload
        self._restart = restart

    async def run(self, changed: Callable[[], None]) -> None:
        """For ever. changed: called after the bus was told something."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                if await self.step():
                    changed()
            except Exception:  # noqa: BLE001 - the edge of the loop
                _log.exception("the disk of the bus could not be looked at")

    async def step(self) -> bool:
        """Look once. True: the bus was told something."""
        free = shutil.disk_usage(self._bus.store).free
        self.hit = self._hit() or self.hit
        if not self.refusing and free < self.least:
            self._tell(refuse=True)
            self.refused += 1
            _log.error("the disk is nearly full: the bus takes nothing new", free=free, needed=int(self.least * ROOM))
            return True
        if (self.refusing or self.hit) and free > self.least * ROOM:
            self._tell(refuse=False)
            if self.hit:
                self.hit = False
                await self._restart()
            _log.warning("there is room on the disk again: the bus goes on", free=free)
            return True
        return False

    def _tell(self, *, refuse: bool) -> None:
        """Put the one configuration or the other in place. Both are written already: a full disk takes no new file."""
        config = self._bus.config
        link = config.with_name(f".{config.name}.next")
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        os.link(self._bus.refusing if refuse else self._bus.taking, link)
        link.replace(config)
        self.refusing = refuse
        self._reload()

    def _hit(self) -> bool:
        """Whether the server complained of a full disk since the last look."""
        if not self._log.exists():
            return False
        size = self._log.stat().st_size
        if size < self._read:
            self._read = 0
        with self._log.open("rb") as file:
            file.seek(self._read)
            new = file.read(1 << 20)
        self._read += len(new)
        return _FULL in new
