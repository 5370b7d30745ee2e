"""What is known of one machine's platform once its experiments are over: evidence for the invariants."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from incl_local.layout import DATABASE_OWNERS, Layout
from incl_local.place import PROJECT, Place, local_user
from incl_local.running import find
from incl_shared.bus.client import BusClient
from incl_shared.events.experiments import ExperimentFinished, ExperimentQueued
from incl_shared.testing.invariants import Evidence, Fact, Leftover, Submitted, assert_holds, collect

QUIET_S = 30.0


async def gather(place: Place, experiments: Collection[str] | None = None, *, quiet_s: float = QUIET_S) -> Evidence:
    """Events, answers, leftovers and dead letters of a platform that runs.

    experiments: those that it is about; none: every one that was ever queued here, any final state being right.
    quiet_s: how long to wait for what is on its way.
    """
    async with await BusClient.connect(place.bus("admin")) as admin:

        async def look() -> list[Leftover]:
            return await _leftovers(admin, place)

        left = await collect.when_quiet(look, quiet_s)
        facts = await collect.facts(admin)
        dead = await collect.dead_letters(admin)
    about = queued(facts) if experiments is None else experiments
    async with await BusClient.connect(place.bus("user")) as client:
        person = collect.Person(client, PROJECT, local_user())
        told = [await collect.told(person, experiment) for experiment in sorted(about)]
    return Evidence(
        submitted=tuple(Submitted(experiment) for experiment in sorted(about)),
        facts=tuple(fact for fact in facts if getattr(fact.event, "experiment", "") in about),
        told=tuple(each for each in told if each is not None),
        leftovers=(*left, *collect.credential_leftovers(place.layout.root, place.layout.creds)),
        dead=dead,
    )


def queued(facts: Collection[Fact]) -> set[str]:
    """Every experiment that the platform took."""
    return {fact.event.experiment for fact in facts if isinstance(fact.event, ExperimentQueued)}


def unfinished(facts: Collection[Fact]) -> set[str]:
    """Those that have no end yet."""
    return queued(facts) - {fact.event.experiment for fact in facts if isinstance(fact.event, ExperimentFinished)}


async def _leftovers(admin: BusClient, place: Place) -> list[Leftover]:
    layout = place.layout
    jobs = layout.agent / "jobs"
    left = await collect.waiting_messages(admin)
    for name in DATABASE_OWNERS:
        left += await asyncio.to_thread(collect.database_leftovers, name, layout.database(name))
    return [*left, *collect.folder_leftovers(jobs), *await asyncio.to_thread(collect.process_leftovers, jobs)]


def assert_right(layout: Layout) -> None:
    """Every experiment of the platform that runs on this folder came to a right end, and nothing is left of any.

    Raises:
        AssertionError: naming what does not hold.
    """
    assert_holds(asyncio.run(gather(find(layout).place)))
