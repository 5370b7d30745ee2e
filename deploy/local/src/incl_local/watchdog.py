"""Children that live and do nothing any more are killed, so that they are started again.

Whoever is dead is known by its end. Whoever hangs (a deadlock, a stop by SIGSTOP) only by giving no answer: each is
asked now and then. It must have answered once: how long a start takes, nobody knows.
"""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from incl_local.processes import Identity

HUNG_S = 120.0
"""A pause that ends by itself within this costs no restart."""
EVERY_S = 5.0
_ANSWER_S = 5.0

_log = structlog.get_logger("incl.supervisor")


class Watched(Protocol):
    """What is needed of a `Supervisor`."""

    @property
    def identity(self) -> Identity | None:
        """The process that runs now."""

    def kill(self) -> None:
        """SIGKILL; it is started again."""


@dataclass
class Watchdog:
    """Asks one child. answers: whether it does, within a few seconds."""

    name: str
    child: Watched
    answers: Callable[[], Awaitable[bool]]
    hung_s: float = HUNG_S
    every_s: float = EVERY_S
    clock: Callable[[], float] = time.monotonic
    killed: int = 0
    _known: Identity | None = None
    """The process that has answered."""
    _silent: float = 0.0
    """Seconds since it did."""
    _looked: float | None = None

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(self.every_s)
            try:
                await self.step()
            except Exception:  # noqa: BLE001 - the edge of the loop
                _log.exception("a child could not be looked at", child=self.name)

    async def step(self) -> None:
        """Ask once. Time in which this process stood still itself counts as one look's."""
        identity = self.child.identity
        answered = identity is not None and await self.answers()
        now = self.clock()
        passed = 0.0 if self._looked is None else min(now - self._looked, self.every_s + _ANSWER_S)
        self._looked = now
        if answered:
            self._known, self._silent = identity, 0.0
            return
        if identity is None or identity != self._known or identity != self.child.identity:
            return
        self._silent += passed
        if self._silent >= self.hung_s:
            _log.error("hangs, and is killed", child=self.name, pid=identity.pid, silent_s=round(self._silent, 1))
            self.killed += 1
            self._known = None
            self.child.kill()


async def lives(url: str, service: str) -> bool:
    """Whether a service's /healthz at this address says yes."""
    return await asyncio.to_thread(_says_yes, f"{url}/{service}/healthz")


def _says_yes(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=_ANSWER_S) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


async def greets(host: str, port: int) -> bool:
    """Whether a nats-server at this address says who it is: one that hangs is connected to, and says nothing."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection(host, port)
            return (await reader.readuntil(b" ")) == b"INFO "
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return False
    finally:
        if writer is not None:
            writer.close()
