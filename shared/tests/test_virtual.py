"""Virtual time: nothing waits, hosts die between two steps, and a seed gives the same run."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from incl_shared.ids import new_id
from incl_shared.testing import virtual
from incl_shared.testing.virtual import Host, Stalled


def loop_now() -> virtual.VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, virtual.VirtualLoop)
    return loop


def test_an_hour_takes_no_time() -> None:
    async def main() -> tuple[float, float]:
        wall, monotonic = time.time(), time.monotonic()
        await asyncio.sleep(3600)
        return time.time() - wall, time.monotonic() - monotonic

    began = time.perf_counter()
    assert virtual.run(main()) == (3600, 3600)
    assert time.perf_counter() - began < 5


def test_a_seed_gives_the_same_run() -> None:
    async def main() -> list[object]:
        async def one(name: str) -> str:
            await asyncio.sleep(random.random())
            return name

        done: list[object] = [new_id()]
        tasks = {asyncio.create_task(one(name)) for name in "abcdef"}
        while tasks:
            ended, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            done += [task.result() for task in ended]
        return done

    assert virtual.run(main(), seed=1) == virtual.run(main(), seed=1)
    assert virtual.run(main(), seed=1) != virtual.run(main(), seed=2)


def test_a_killed_host_does_not_clean_up_and_a_paused_one_goes_on() -> None:
    async def main() -> list[str]:
        said: list[str] = []

        async def live(name: str) -> None:
            try:
                for turn in range(3):
                    await asyncio.sleep(1)
                    said.append(f"{name}{turn}")
            finally:
                said.append(f"{name} cleaned up")

        killed, paused = Host("killed"), Host("paused")
        killed.run(live("k"), loop_now())
        paused.run(live("p"), loop_now())
        await asyncio.sleep(1.5)
        killed.kill()
        paused.pause()
        await asyncio.sleep(100)
        said.append("later")
        loop_now().go_on(paused)
        await asyncio.sleep(10)
        return list(said)

    assert virtual.run(main()) == ["k0", "p0", "later", "p1", "p2", "p cleaned up"]


def test_a_wall_clock_jumps_for_its_host_alone() -> None:
    async def main() -> float:
        host = Host("jumpy")
        host.wall = 3600.0

        async def now() -> tuple[float, float]:
            return time.time(), time.monotonic()

        there, here = await host.run(now(), loop_now()), await now()
        assert there[1] == here[1]
        return there[0] - here[0]

    assert virtual.run(main()) == 3600.0


def test_a_deadlock_is_told() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises((Stalled, TimeoutError)):
        virtual.run(main(), most_s=10)
