"""A number of places, given in turns: round robin between users, first come first served within one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator


class Turns:
    """`async with turns.of(user)`: one of `places`, as soon as it is this one's turn."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By user, in the order of their turns; none is empty."""

    @contextlib.asynccontextmanager
    async def of(self, user: str) -> AsyncIterator[None]:
        """Hold a place. Whoever is cancelled while he waits takes none."""
        await self._come(user)
        try:
            yield
        finally:
            self._free += 1
            self._next()

    async def _come(self, user: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(turn)
        self._next()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._free += 1
            self._next()
            raise

    def _next(self) -> None:
        while self._free and self._waiting:
            user = next(iter(self._waiting))
            line = self._waiting.pop(user)
            turn = line.popleft()
            if line:
                self._waiting[user] = line
            if not turn.cancelled():
                turn.set_result(None)
                self._free -= 1
