"""Ending tasks for sure, and waiting for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
_AGAIN_S = 0.2


async def end_all(tasks: Iterable[asyncio.Task[Any] | None], again_s: float = _AGAIN_S) -> None:
    """Cancel tasks and wait until they have ended. Their errors are nobody's any more.

    Once is not enough: `asyncio.wait_for` of Python 3.11 loses a cancellation that comes in the moment of its result.
    again_s: seconds between two tries; more than a task needs for its cleaning up, which the next try cuts short.
    """
    left = {task for task in tasks if task is not None}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again_s)


async def within(seconds: float, work: Awaitable[T]) -> T:
    """What is awaited, if it comes in time. As `asyncio.wait_for` of Python 3.12: no task is made around the work.

    Raises:
        TimeoutError: it did not come.
    """
    async with asyncio.timeout(seconds):
        return await work


async def gather(*work: Any) -> list[Any]:
    """All results of coroutines; the first error cancels the others, and is raised as it is."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        await end_all(tasks)
