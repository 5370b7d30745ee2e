"""Where calls of a blob store wait.

A folder answers at once: the loop's own threads do. A provider may take seconds, and half a minute when it is away; the
loop's threads are few and belong to every service of the process, so such a store brings its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Threads:
    """count: of its own; 0: those of the loop."""

    def __init__(self, count: int = 0) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="incl-blobs") if count else None

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The result of a call that blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **kwargs))

    async def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """The result for each: several at a time in threads of our own, one after the other in those of the loop."""
        if self._pool is None:
            return [await self.run(work, item) for item in items]
        return list(await asyncio.gather(*(self.run(work, item) for item in items)))

    def close(self) -> None:
        """Let them go; what runs ends by itself."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
