"""Whose turn it is."""

from __future__ import annotations

import asyncio

from incl_hpo.turns import Turns


async def served(turns: Turns, coming: list[str], order: list[str]) -> list[asyncio.Task[None]]:
    """Tasks that each wait for a place, in the order of their coming, and note who had it."""

    async def come(name: str) -> None:
        async with turns.of(name.rstrip("0123456789")):
            order.append(name)
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(come(name)) for name in coming]
    await asyncio.sleep(0)
    return tasks


async def test_users_take_turns() -> None:
    """A user with many questions is passed by one who has few, and each user's own keep their order."""
    turns, order = Turns(1), []
    tasks = await served(turns, ["bob1", "bob2", "bob3", "bob4", "ann1", "ann2", "cid1"], order)
    await asyncio.gather(*tasks)
    assert order == ["bob1", "bob2", "ann1", "cid1", "bob3", "ann2", "bob4"]


async def test_no_more_than_places() -> None:
    """At most so many at once, and all of them are used."""
    turns, now, most = Turns(3), 0, 0

    async def come(user: str) -> None:
        nonlocal now, most
        async with turns.of(user):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    await asyncio.gather(*(come(f"user{n % 4}") for n in range(40)))
    assert most == 3


async def test_cancelled() -> None:
    """Whoever gives up takes no place, neither while he waits nor just as it is his turn."""
    turns, order = Turns(1), []
    async with turns.of("ann"):
        waiting, given = await served(turns, ["bob1", "cid1"], order)
        waiting.cancel()
        await asyncio.sleep(0)
    given.cancel()
    await asyncio.gather(waiting, given, return_exceptions=True)
    async with asyncio.timeout(1), turns.of("dan"):
        order.append("dan")
    assert order == ["dan"]


async def test_a_failure_gives_the_place_back() -> None:
    """What is raised while a place is held does not keep it."""
    turns = Turns(1)

    async def fail() -> None:
        async with turns.of("ann"):
            raise ValueError

    await asyncio.gather(fail(), return_exceptions=True)
    async with asyncio.timeout(1), turns.of("bob"):
        pass
