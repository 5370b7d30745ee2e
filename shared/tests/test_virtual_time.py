"""Virtual time: order and length of sleeps as in real time, in no time."""

from __future__ import annotations

import asyncio
import time

import pytest

from incl_shared.testing.virtual_time import LoopClock, run_virtual


def test_hours_pass_in_order_and_at_once() -> None:
    seen: list[tuple[float, str]] = []
    clock = LoopClock(1000.0)

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        seen.append((clock.now(), name))

    async def main() -> float:
        async with asyncio.timeout(86_400):
            await asyncio.gather(sleeper("b", 7200), sleeper("a", 3600), sleeper("c", 7200.5))
        return clock.monotonic()

    begin = time.monotonic()
    assert run_virtual(main()) == pytest.approx(7200.5)
    assert time.monotonic() - begin < 2
    assert [name for _, name in seen] == ["a", "b", "c"]
    assert seen[0][0] == pytest.approx(4600.0)


def test_a_timeout_comes_when_it_is_due() -> None:
    async def main() -> None:
        async with asyncio.timeout(5):
            await asyncio.sleep(6)

    with pytest.raises(TimeoutError):
        run_virtual(main())


def test_waiting_for_what_never_comes_is_told() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        run_virtual(main())
