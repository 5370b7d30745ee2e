"""Follows the wanted state of this node (stream CONTROL).

Three ways to the same message: pushed (a core subscription), read at once on connecting, and read again every second,
because a push can be lost. What is older than what was seen is ignored, also across restarts of the agent. That there
is no message, or none that can be read, says nothing about any job.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from pydantic import ValidationError

from incl_agent.journal import Journal
from incl_shared import subjects
from incl_shared.bus.client import BusClient
from incl_shared.control import NodeWanted
from incl_shared.errors import InclError

_log = logging.getLogger("incl.agent")
_GENERATION = "generation"


class ControlWatcher:
    """Calls `apply` with every newer wanted state, one at a time."""

    def __init__(
        self,
        client: BusClient,
        journal: Journal,
        node: str,
        poll_s: float,
        apply: Callable[[NodeWanted], Awaitable[None]],
    ) -> None:
        self._client = client
        self._journal = journal
        self._node = node
        self._poll_s = poll_s
        self._apply = apply
        self._lock = asyncio.Lock()
        self._sequence = 0
        self._last = b""
        self.generation = -1
        self.unreadable = 0
        self.failures = 0

    async def run(self) -> None:
        """Follow for ever. A state as new as the last one seen before a restart is applied again: it is the same."""
        known = await self._journal.get(_GENERATION)
        self.generation = int(known) - 1 if known is not None else -1
        subscription = await self._client.subscribe(subjects.control(self._node), self._pushed)
        try:
            while True:
                try:
                    await self._read()
                except Exception:  # noqa: BLE001 - the edge of the loop: it is read again
                    self.failures += 1
                    _log.exception("the wanted state could not be followed, and is read again")
                await asyncio.sleep(self._poll_s)
        finally:
            with contextlib.suppress(Exception):
                await subscription.unsubscribe()

    async def _read(self) -> None:
        try:
            stored = await self._client.last("CONTROL", subjects.control(self._node), timeout=max(1.0, self._poll_s))
        except InclError as error:
            _log.debug("the wanted state cannot be read now: %s", error)
            return
        if stored is not None and stored.sequence != self._sequence:
            await self.offer(stored.payload)
            self._sequence = stored.sequence

    async def _pushed(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        await self.offer(payload)

    async def offer(self, payload: bytes) -> None:
        """Apply a wanted state, should it be newer and for this node."""
        if payload == self._last:
            return
        self._last = payload
        try:
            wanted = NodeWanted.model_validate_json(payload)
        except ValidationError as error:
            self.unreadable += 1
            _log.error("a wanted state cannot be read, and changes nothing: %s", error)
            return
        async with self._lock:
            if wanted.node != self._node or wanted.generation <= self.generation:
                return
            try:
                await self._apply(wanted)
            except BaseException:
                self._last = b""
                raise
            self._journal.note(_GENERATION, str(wanted.generation))
            self.generation = wanted.generation
