"""Waiting for a condition with a deadline, instead of sleeping."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")


@overload
async def until(
    predicate: Callable[[], Awaitable[T]],
    timeout: float = ...,  # noqa: ASYNC109
    *,
    every: float = ...,
    what: str = ...,
) -> T: ...


@overload
async def until(
    predicate: Callable[[], T],
    timeout: float = ...,  # noqa: ASYNC109
    *,
    every: float = ...,
    what: str = ...,
) -> T: ...


async def until(
    predicate: Callable[[], Any],
    timeout: float = 10.0,  # noqa: ASYNC109
    *,
    every: float = 0.01,
    what: str = "",
) -> Any:
    """Wait until a predicate (a function, or a coroutine function) gives something true; gives that.

    Raises:
        AssertionError: when `timeout` seconds are over.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.0f} s: {what or inspect.getsource(predicate).strip()[:200]}")
        await asyncio.sleep(every)


def until_sync(predicate: Callable[[], T], timeout: float = 10.0, *, every: float = 0.01, what: str = "") -> T:
    """The same without an event loop."""
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:.0f} s: {what or 'a condition'}")
        time.sleep(every)
    return value
