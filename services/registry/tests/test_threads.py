"""Where calls of a store wait."""

from __future__ import annotations

import threading

import pytest

from incl_registry.threads import Threads


async def test_calls_of_a_slow_store_wait_side_by_side() -> None:
    together = threading.Barrier(4, timeout=10)
    threads = Threads(4)
    assert sorted(await threads.each(lambda number: together.wait() * 0 + number, range(4))) == [0, 1, 2, 3]
    threads.close()


async def test_those_of_a_folder_come_one_after_the_other() -> None:
    running = threading.Lock()

    def alone(number: int) -> int:
        assert running.acquire(blocking=False)
        running.release()
        return number

    assert await Threads().each(alone, range(20)) == list(range(20))


@pytest.mark.parametrize("count", [0, 2])
async def test_an_error_comes_out(count: int) -> None:
    threads = Threads(count)
    with pytest.raises(ZeroDivisionError):
        await threads.each(lambda number: 1 // number, [1, 0])
    threads.close()
