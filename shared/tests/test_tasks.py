"""Ending tasks for sure."""

from __future__ import annotations

import asyncio
import contextlib

from incl_shared.tasks import end_all


async def test_a_task_that_loses_a_cancellation_ends_all_the_same() -> None:
    """As `asyncio.wait_for` of Python 3.11 loses one that comes in the moment of its result."""
    lost = 0

    async def careless() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
                if lost > 1:
                    raise

    task = asyncio.create_task(careless())
    await asyncio.sleep(0)
    await asyncio.wait_for(end_all([task, None], again_s=0.01), 5)
    assert task.cancelled()
    assert lost == 2


async def test_errors_of_ended_tasks_are_nobody_s() -> None:
    async def fails() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        raise ValueError("late")

    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await end_all([task])
    assert isinstance(task.exception(), ValueError)
